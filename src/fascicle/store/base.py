"""The store seam: ordered keys, snapshot reads and atomic write transactions.

Everything that is durable lies behind these classes. They know bytes only: no versions, no datatypes, no HTTP.

Keys are byte strings of 1 to `MAX_KEY_BYTES`, ordered bytewise. Values are byte strings of any length. An engine may
keep values apart from keys; therefore reads of many values go through *handles*: short byte strings that name a stored
value (or contain it, when it is small). A handle that does not contain its value names immutable bytes at a place that
is never used for anything else while it can be read, so it may serve as a cache key, also across transactions. Load
only handles that the transaction itself has yielded: space of values that nothing refers to any more may be given back.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray

MAX_KEY_BYTES = 500

T = TypeVar("T")

INLINE = 0
"""First byte of a handle that contains its value; any other first byte belongs to the engine."""


def inline_value(handle: bytes) -> bytes | None:
    """The value inside of a handle, or None if the handle only names it."""
    return handle[1:] if handle[0] == INLINE else None


class LateValue(ABC):
    """A value that is not at hand, but can be read when it is needed: what is put takes no memory until it is stored.

    It reads the same bytes for as long as somebody holds it, in whatever thread.
    """

    __slots__ = ()

    @abstractmethod
    def __len__(self) -> int:
        """Its length in bytes."""

    @abstractmethod
    def read(self) -> bytes:
        """The value. Raises StoreError."""

    @abstractmethod
    def behind(self, head: bytes) -> LateValue:
        """The same value with some bytes in front of it."""

    @property
    @abstractmethod
    def name(self) -> bytes:
        """The handle that it has inside of a transaction which has put it; no other value of this process has it."""

    def __radd__(self, before: bytes) -> bytes:
        return before + self.read()


@dataclass(frozen=True, slots=True)
class ValueBatch:
    """Values side by side in one buffer, for kernels.

    Value i is `buffer[offsets[i] : offsets[i] + lengths[i]]` (uint8); one that is missing (an empty handle) has length
    -1. Values may lie in any order and with gaps between them.
    """

    buffer: NDArray[np.uint8]
    offsets: NDArray[np.int64]
    lengths: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offsets)

    def value(self, i: int) -> memoryview:
        start = int(self.offsets[i])
        return self.buffer.data[start : start + int(self.lengths[i])]


class ReadTransaction(ABC):
    """A snapshot of the store. Used by one thread at a time."""

    writes: ClassVar[bool] = False
    """Whether this is a `WriteTransaction`."""

    @property
    @abstractmethod
    def number(self) -> int:
        """The number of the last transaction this snapshot contains; grows by every committed transaction."""

    @abstractmethod
    def get(self, key: bytes) -> bytes | None:
        """The value of a key, or None."""

    @abstractmethod
    def handle(self, key: bytes) -> bytes | None:
        """The handle of a key's value, or None."""

    @abstractmethod
    def load(self, handle: bytes) -> bytes:
        """The value that a handle of this store names. Raises CorruptionError if it is damaged."""

    def load_part(self, handle: bytes, start: int, stop: int) -> bytes:
        """Bytes [start, stop) of the value that a handle names.

        An engine may read only those; then the value's checksum is not verified, so keep this for what can be shown
        without it, such as pixels.
        """
        return self.load(handle)[start:stop]

    @abstractmethod
    def load_many(self, handles: Sequence[bytes]) -> ValueBatch:
        """The values of many handles in one buffer; neighbours on disk are read together."""

    @abstractmethod
    def scan_handles(self, start: bytes, stop: bytes, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        """(key, handle) for start <= key < stop, ascending, or descending if `reverse`.

        In a write transaction, what a scan yields after a change of the keys it runs over is undefined.
        """

    @abstractmethod
    def scan_keys(self, start: bytes, stop: bytes, reverse: bool = False) -> Iterator[bytes]:
        """Keys for start <= key < stop."""

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Values of many keys, None where there is none."""
        return [self.get(key) for key in keys]

    def scan(self, start: bytes, stop: bytes, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        """(key, value) for start <= key < stop."""
        for key, handle in self.scan_handles(start, stop, reverse):
            yield key, self.load(handle)

    def last(self, start: bytes, stop: bytes) -> tuple[bytes, bytes] | None:
        """(key, handle) of the greatest key with start <= key < stop, or None."""
        return next(self.scan_handles(start, stop, reverse=True), None)

    def last_of(self, starts: Sequence[bytes], beyond: bytes) -> list[tuple[bytes, bytes] | None]:
        """For each start, (key, handle) of the greatest key with start <= key < start + beyond, or None."""
        return [self.last(start, start + beyond) for start in starts]


class WriteTransaction(ReadTransaction):
    """A snapshot with changes that become visible to others together, or not at all. Reads see the changes."""

    writes: ClassVar[bool] = True

    @abstractmethod
    def put(self, key: bytes, value: bytes | bytearray | memoryview | LateValue) -> None:
        """Store a value, replacing the key's old one. A `LateValue` is not read before the change has succeeded."""

    @abstractmethod
    def delete(self, key: bytes) -> bool:
        """Remove a key; whether it was there."""

    def put_many(self, rows: Iterable[tuple[bytes, bytes]]) -> None:
        """Store many values by key; of a key that comes twice the last one counts."""
        for key, value in rows:
            self.put(key, value)

    def delete_range(self, start: bytes, stop: bytes) -> int:
        """Remove all keys with start <= key < stop; how many there were."""
        keys = list(self.scan_keys(start, stop))
        for key in keys:
            self.delete(key)
        return len(keys)


@dataclass(slots=True)
class Outcome:
    """What became of one submitted write: a result or an error."""

    result: Any = None
    error: BaseException | None = None


@dataclass(frozen=True, slots=True)
class StoreStatistics:
    """Size and health figures. Sizes in bytes; `live_bytes` counts values that can still be reached."""

    engine: str
    path: str
    keys: int
    file_bytes: int
    live_bytes: int
    transaction: int
    details: dict[str, Any]


class Store(ABC):
    """An ordered key-value store with one writer at a time and any number of readers, in any number of processes."""

    description: str
    """Text for `Base.KVStore` and the server's information."""

    @property
    @abstractmethod
    def path(self) -> Path | None:
        """The folder the store lies in, if it has one; lock files of other parts may be put under it."""

    @abstractmethod
    def read(self) -> AbstractContextManager[ReadTransaction]:
        """A snapshot: `with store.read() as txn`. Keep it short; long ones keep old pages alive."""

    @abstractmethod
    def submit(self, change: Callable[[WriteTransaction], Any], done: Callable[[Outcome], None]) -> None:
        """Run `change` in a write transaction, in the order of submission, and call `done` once it is durable.

        Several changes may share one durable commit. A change that raises leaves nothing behind and does not hurt the
        others; its error is the outcome. `change` and `done` run in the store's writer thread. Rarely a change has to
        run again before it is committed, so it must depend on nothing but its transaction.
        """

    def write(self, change: Callable[[WriteTransaction], T]) -> T:
        """Run `change` in a write transaction and return its result once it is durable; raises what it raised."""
        future: Future[T] = Future()

        def done(outcome: Outcome) -> None:
            if outcome.error is not None:
                future.set_exception(outcome.error)
            else:
                future.set_result(outcome.result)

        self.submit(change, done)
        return future.result()

    @abstractmethod
    def backup(self, target: Path) -> None:
        """Write a consistent copy, which opens as a store of its own, into a new folder while the store is in use."""

    @abstractmethod
    def check(self) -> list[str]:
        """Read everything and verify every checksum; one line for each thing that is wrong."""

    def compact(self) -> int:
        """Give back the space of values that nothing refers to any more; how many bytes that were."""
        return 0

    @abstractmethod
    def statistics(self) -> StoreStatistics:
        """Size and health figures."""

    @abstractmethod
    def close(self) -> None:
        """Finish submitted writes and let go of all files."""
