"""What a datatype is, and what passes between it and the server.

A datatype declares its settings, its routes and what it does when an instance that it follows changes. The server
turns a request into a `Call`, finds the `Route`, and sends what the handler returns. A handler is a plain function of
one `Call`:

* a read returns an `Answer`;
* a change returns a `Commit`: a function that runs inside of the store's write transaction with a `Change`, and one
  that makes the `Answer` from its result after the transaction is durable.

Nothing here knows of HTTP libraries; the same handlers run under tests with a hand-made `Call`.
"""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import msgspec

from fascicle.errors import BadRequest
from fascicle.store.base import ReadTransaction, Store, WriteTransaction
from fascicle.versions.resolution import Ancestry, VersionedView

if TYPE_CHECKING:
    from fascicle.versions.catalog import Catalog
    from fascicle.versions.model import Instance, Node

ANY_METHOD = "*"

T = TypeVar("T")


class Work(enum.Enum):
    """Where a handler runs."""

    SMALL = "small"
    """In the event loop: some keys are read, nothing large is decoded. Must return within about 0.2 ms."""
    HEAVY = "heavy"
    """In a thread of the bounded pool."""


@dataclass(frozen=True, slots=True)
class Option:
    """A query option of a route, for the help text."""

    name: str
    meaning: str


@dataclass(frozen=True, slots=True)
class Route:
    """One keyword of a datatype: `/api/node/<uuid>/<instance>/<keyword>/...`.

    `handlers` maps upper-case methods to handlers; HEAD falls back to GET, and `ANY_METHOD` answers all others that
    have no entry. A method without handler is a 400.
    """

    keyword: str
    handlers: Mapping[str, Callable[[Call], Reply]]
    summary: str
    path: str = ""
    """The arguments after the keyword as shown in the help, e.g. `<size>/<offset>`."""
    options: tuple[Option, ...] = ()
    work: Work = Work.SMALL
    streams_body: bool = False
    """The handler reads the body in pieces with `Call.pieces`; otherwise it is read whole before the handler runs."""
    throttled: bool = False
    """Honours `throttle=on|true`."""
    at_once: Callable[[Call], Answer | None] | None = None
    """Of heavy work: answers a GET in the event loop if what it takes is in memory and it is done within about 0.2 ms;
    else None, and the handler is asked in a thread. Raises what the handler raises."""
    reads_by_post: bool = False
    """POST only asks: it is allowed on committed versions and read-only servers."""


@dataclass(slots=True)
class Answer:
    """What is sent back. `body` may be an iterable of pieces; it is then streamed and runs in the pool."""

    body: bytes | memoryview | Iterable[bytes | memoryview] = b""
    content_type: str | None = None
    status: int = 200
    headers: list[tuple[str, str]] = field(default_factory=list)

    @classmethod
    def json(cls, value: Any) -> Answer:
        return cls(msgspec.json.encode(value), "application/json")

    @classmethod
    def text(cls, text: str, status: int = 200) -> Answer:
        return cls(text.encode(), "text/plain; charset=utf-8", status)

    @classmethod
    def binary(cls, body: bytes | memoryview | Iterable[bytes | memoryview]) -> Answer:
        return cls(body, "application/octet-stream")


@dataclass(slots=True)
class Commit:
    """A change to make: `apply` runs in the write transaction, `answer` after it is durable."""

    apply: Callable[[Change], Any]
    answer: Callable[[Any], Answer] = field(default=lambda _: Answer())


Reply = Answer | Commit


@dataclass(slots=True)
class Call:
    """One request on one instance at one version, with a snapshot of the store to answer it from."""

    method: str
    keyword: str
    args: list[str]
    """Path segments after the keyword, percent-decoded."""
    query: dict[str, str]
    headers: Mapping[str, str]
    """Request headers, names in lower case."""
    path: str
    """The decoded path, for error texts."""
    store: Store
    txn: ReadTransaction
    catalog: Catalog
    instance: Instance
    node: Node
    ancestry: Ancestry
    """That of `node`, or of the repo's root for an unversioned instance."""
    body: bytes = b""
    user: str = ""
    app: str = ""
    admin: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Server settings that datatypes look at, e.g. `allow_labelmap_split`."""
    _pieces: Iterator[bytes] | None = None
    _commit: Callable[[Callable[[Change], Any]], Any] | None = None

    @property
    def view(self) -> VersionedView:
        """The instance's keys as seen at this version."""
        return view_of(self.txn, self.instance, self.ancestry, self.settings)

    def view_in(self, txn: ReadTransaction) -> VersionedView:
        """The same in another transaction."""
        return view_of(txn, self.instance, self.ancestry, self.settings)

    def pieces(self) -> Iterator[bytes]:
        """The request's body in pieces, for routes that stream it."""
        if self._pieces is not None:
            return self._pieces
        return iter((self.body,) if self.body else ())

    def commit(self, apply: Callable[[Change], T]) -> T:
        """Make a change now and return its result once it is durable; raises what `apply` raised.

        For uploads whose parts stay although a later part is refused; all others return a `Commit`. Only in handlers
        of heavy routes, which run in a thread.
        """
        assert self._commit is not None, "this call has nothing to commit with"
        result: T = self._commit(apply)
        return result

    def flag(self, name: str) -> bool:
        """Whether a boolean option is on: only the literal `true` counts."""
        return self.query.get(name) == "true"

    def integer(self, name: str, default: int) -> int:
        """An integer option; 400 if it is not one."""
        text = self.query.get(name)
        if text is None or text == "":
            return default
        try:
            return int(text)
        except ValueError:
            raise BadRequest(f"option {name!r} must be an integer, not {text!r}") from None

    def argument(self, position: int, what: str) -> str:
        """A path segment after the keyword; 400 naming `what` if it is missing."""
        if position >= len(self.args) or not self.args[position]:
            raise BadRequest(f"{self.keyword!r} must be followed by {what}")
        return self.args[position]


class Change(ABC):
    """The inside of a write transaction, for one instance at one version.

    All that is done through it becomes durable and visible together. The server re-checks inside the transaction that
    the version is still open (or that the request may write to committed ones).
    """

    txn: WriteTransaction
    catalog: Catalog
    instance: Instance
    node: Node
    ancestry: Ancestry
    user: str
    app: str
    time_ns: int
    settings: Mapping[str, Any] = {}
    """As in `Call`."""

    @property
    def view(self) -> VersionedView:
        return view_of(self.txn, self.instance, self.ancestry, self.settings)

    @abstractmethod
    def mutation_id(self) -> int:
        """The next mutation id of the repo: strictly increasing, never reused."""

    @abstractmethod
    def record(self, message: dict[str, Any]) -> None:
        """Append a record of a completed operation to the instance's log at this version (`GET .../mutations`).

        `message` has `Action` and what belongs to it; `UUID`, `Timestamp`, and where known `User` and `App` are added.
        """

    def record_all(self, messages: Iterable[dict[str, Any]]) -> None:
        """Append many records."""
        for message in messages:
            self.record(message)

    @abstractmethod
    def emit(self, event: Any) -> None:
        """Tell the instances that follow this one, in this transaction (`Datatype.follow`)."""

    @abstractmethod
    def update_instance(self, **properties: Any) -> Instance:
        """Change unversioned properties of the instance (`Instance.properties`), e.g. its voxel size or tags."""

    @abstractmethod
    def put_blob(self, data: bytes) -> str:
        """Store bytes in the content-addressed blob store; the reference to get them by."""

    @abstractmethod
    def sibling(self, name: str) -> Change:
        """The same transaction seen from another instance of the repo. Raises BadRequest if there is none."""


class Datatype(ABC):
    """One kind of data. Holds no data itself; one object serves all instances of a process."""

    typename: ClassVar[str]
    type_url: ClassVar[str]
    type_version: ClassVar[str] = "0.1"
    summary: ClassVar[str] = ""
    routes: ClassVar[tuple[Route, ...]] = ()
    default_compression: ClassVar[str] = "lz4"
    versioned_classes: ClassVar[tuple[int, ...]] = ()
    """Classes of keys that stand alone, so that `POST .../resolve` may take one parent's value for each key."""
    lacks: ClassVar[frozenset[str]] = frozenset()
    """Keywords that instances of other types have and those of this type do not."""

    shows_volumes: ClassVar[bool] = False
    """Whether instances may show a volume that lives elsewhere."""

    def view(
        self, txn: ReadTransaction, instance: Instance, ancestry: Ancestry, server: Mapping[str, Any]
    ) -> VersionedView:
        """The keys of an instance that shows a volume which lives elsewhere, as seen at a version."""
        return VersionedView(txn, instance.id, ancestry)

    @abstractmethod
    def create(self, settings: Mapping[str, str]) -> dict[str, Any]:
        """Properties of a new instance from its settings (keys in lower case, values as text).

        Raises BadRequest for settings that make no sense; unknown keys are ignored.
        """

    def completed(self, settings: Mapping[str, str], server: Mapping[str, Any]) -> Mapping[str, str]:
        """The settings of a new instance with what they refer to looked up; called before `create`, in a thread.

        `server` are the settings that a `Call` carries.
        """
        return settings

    def created(self, change: Change) -> None:  # noqa: B027 (most types have nothing to do)
        """Called in the transaction that creates an instance."""

    def resolved(self, view: VersionedView) -> None:  # noqa: B027
        """`POST .../resolve` has written keys of `versioned_classes` at the view's version, in this transaction."""

    def merged(self, change: Change, apart: Set[int]) -> None:  # noqa: B027
        """The change's version was made of several parents, in this transaction: settle what is only derived.

        `apart` are the versions that some of the parents descend from, or are, and others do not. What the instance
        follows has been settled.
        """

    def extended(self, instance: Instance, view: VersionedView) -> dict[str, Any]:
        """The member `Extended` of the instance's info at a version."""
        return {}

    def extents(self, instance: Instance, view: VersionedView) -> dict[str, Any] | None:
        """The member `Extents` of the instance's info, for voxel types."""
        return None

    def syncable(self) -> bool:
        """Whether instances may follow others (`POST .../sync`)."""
        return False

    def followable(self) -> tuple[str, ...] | None:
        """Typenames of what instances may follow; None: of any type."""
        return None

    def follow(self, change: Change, publisher: Instance, event: Any) -> None:  # noqa: B027
        """An instance that this one (`change.instance`) follows has changed, in the same transaction."""


def view_of(
    txn: ReadTransaction, instance: Instance, ancestry: Ancestry, server: Mapping[str, Any]
) -> VersionedView:
    """The keys of an instance as seen at a version; `server` are the settings of a `Call`."""
    if "Described" not in instance.properties:
        return VersionedView(txn, instance.id, ancestry)
    from fascicle.datatypes import registry

    return registry.datatype(instance.typename).view(txn, instance, ancestry, server)
