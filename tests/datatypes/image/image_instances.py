"""Image instances on a store in memory, without a server or a catalog."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np

from fascicle.datatypes import registry
from fascicle.datatypes.base import Answer, Call, Change, Commit
from fascicle.datatypes.elsewhere import is_elsewhere
from fascicle.store.base import WriteTransaction
from fascicle.store.memory import MemoryStore
from fascicle.versions.catalog import Catalog
from fascicle.versions.model import Instance, Node
from fascicle.versions.resolution import Ancestry, VersionedView


class Line(Ancestry):
    """Versions in one line, each the child of the one before."""

    linear = True

    def __init__(self, version: int) -> None:
        self.version = version

    def contains(self, version: int) -> bool:
        return 0 < version <= self.version

    def descends(self, version: int, ancestor: int) -> bool:
        return ancestor < version

    def first_parents(self) -> Iterator[int]:
        return iter(range(self.version, 0, -1))


class InstanceChange(Change):
    """A write transaction on one instance."""

    def __init__(self, images: Images, txn: WriteTransaction, version: int) -> None:
        self.images = images
        self.txn = txn
        self.instance = images.instance
        self.ancestry = Line(version)
        self.user = self.app = ""
        self.time_ns = time.time_ns()

    def mutation_id(self) -> int:
        raise AssertionError("images have no mutation ids")

    def record(self, message: dict[str, Any]) -> None:
        raise AssertionError("images keep no records")

    def emit(self, event: Any) -> None:
        raise AssertionError("nothing follows images")

    def put_blob(self, data: bytes) -> str:
        raise AssertionError("images keep no blobs")

    def sibling(self, name: str) -> Change:
        raise AssertionError("images change no siblings")

    def update_instance(self, **properties: Any) -> Instance:
        changed = msgspec.structs.replace(self.instance, properties={**self.instance.properties, **properties})
        self.instance = self.images.instance = changed
        return changed


class Images:
    """One instance and requests to it."""

    def __init__(self, typename: str = "uint8blk", server: dict[str, Any] | None = None, **settings: str) -> None:
        self.store = MemoryStore()
        self.at_once = 0
        """How many answers were in memory."""
        self.datatype = registry.datatype(typename)
        self.server = server or {}
        given = {name.lower(): value for name, value in settings.items()}
        completed = self.datatype.completed(given, self.server)
        properties = self.datatype.create(completed)
        self.instance = Instance(
            id=7,
            name="em",
            typename=typename,
            data_uuid="d" * 32,
            repo_id=1,
            created_at_version=1,
            properties=properties,
            compression=completed.get("compression", "lz4"),
        )

    def call(self, path: str, method: str = "GET", body: bytes = b"", version: int = 1) -> Answer:
        """The answer to a request; the path is what follows the instance's name."""
        path, _, query = path.partition("?")
        keyword, *args = path.split("/")
        route = next(route for route in self.datatype.routes if route.keyword == keyword)
        pieces = iter([body[i : i + 1000] for i in range(0, len(body), 1000)]) if route.streams_body else None
        with self.store.read() as txn:
            call = Call(
                method=method,
                keyword=keyword,
                args=args,
                query=dict(option.split("=", 1) for option in query.split("&") if option),
                headers={},
                path=path,
                store=self.store,
                txn=txn,
                catalog=Catalog(),
                instance=self.instance,
                node=Node(id=version, uuid="a" * 32, repo_id=1),
                ancestry=Line(version),
                body=body,
                settings=self.server,
                _pieces=pieces,
            )
            asked_first = method == "GET" and not is_elsewhere(self.instance.properties)
            kept = route.at_once(call) if route.at_once and asked_first else None
            reply = route.handlers.get(method, route.handlers.get("*"))(call)  # type: ignore[misc]
            if isinstance(reply, Answer):
                whole = reply.body
                if not isinstance(whole, bytes | memoryview):
                    whole = b"".join(bytes(piece) for piece in whole)
                if kept is not None:  # what the event loop answers is what a thread would have answered
                    self.at_once += 1
                    assert bytes(kept.body) == bytes(whole)  # type: ignore[arg-type]
                    assert kept.content_type == reply.content_type
                return Answer(bytes(whole), reply.content_type)
        assert isinstance(reply, Commit)
        commit = reply
        result = self.store.write(lambda txn: commit.apply(InstanceChange(self, txn, version)))
        return commit.answer(result)

    def get(self, path: str, version: int = 1) -> bytes:
        body = self.call(path, version=version).body
        assert isinstance(body, bytes)
        return body

    def post(self, path: str, body: bytes, version: int = 1) -> None:
        self.call(path, "POST", body, version)

    def extended(self, version: int = 1) -> dict[str, Any]:
        with self.store.read() as txn:
            return self.datatype.extended(self.instance, VersionedView(txn, self.instance.id, Line(version)))

    def put_volume(self, volume_zyx: np.ndarray[Any, Any], offset_xyz: tuple[int, int, int], version: int = 1) -> None:
        sz, sy, sx = volume_zyx.shape[:3]
        x, y, z = offset_xyz
        self.post(f"raw/0_1_2/{sx}_{sy}_{sz}/{x}_{y}_{z}", volume_zyx.tobytes(), version)
