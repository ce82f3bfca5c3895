"""A labelmap instance in a store in memory: a catalog with versions, and requests to its endpoints without a server."""

from __future__ import annotations

import time
from typing import Any

import msgspec
import numpy as np

from fascicle.datatypes import registry
from fascicle.datatypes.base import Answer, Call, Change, Commit
from fascicle.datatypes.elsewhere import is_elsewhere
from fascicle.datatypes.labelmap import blocks, bodies, counters
from fascicle.formats.block_code import block_codes
from fascicle.mutations import blobs, records
from fascicle.store.base import WriteTransaction
from fascicle.store.memory import MemoryStore
from fascicle.versions import graph, keys
from fascicle.versions.catalog import CatalogCache, CatalogEditor
from fascicle.versions.model import Instance, Node
from fascicle.versions.resolution import VersionedView

Index = dict[tuple[int, tuple[int, int, int]], int]
"""(supervoxel, block x, y, z) -> voxels."""


class InstanceChange(Change):
    """The inside of a write transaction on one instance."""

    def __init__(self, labels: Labels, txn: WriteTransaction, node: Node) -> None:
        self.labels, self.txn, self.node = labels, txn, node
        self.editor = CatalogEditor(txn, labels.cache)
        self.instance = self.editor.catalog.instance_by_id(labels.instance_id)
        self.ancestry = self.catalog.ancestry(node.id)
        self.user, self.app, self.time_ns = "ann", "test", time.time_ns()
        self.events: list[Any] = []
        self.settings = labels.settings

    @property
    def catalog(self) -> Any:  # type: ignore[override]
        return self.editor.catalog

    def mutation_id(self) -> int:
        return records.take_mutation_id(self.txn, self.instance.repo_id)

    def record(self, message: dict[str, Any]) -> None:
        stamped = {**message, "UUID": self.node.uuid, "Timestamp": "2026-01-02 03:04:05.123456 +0000 UTC"}
        records.append(self.txn, self.instance.id, self.node.id, stamped)

    def emit(self, event: Any) -> None:
        self.events.append(event)

    def update_instance(self, **properties: Any) -> Instance:
        self.instance = graph.change_instance(
            self.editor, self.instance, properties={**self.instance.properties, **properties}
        )
        return self.instance

    def put_blob(self, data: bytes) -> str:
        return blobs.put(self.txn, data)

    def sibling(self, name: str) -> Change:
        raise AssertionError("labelmaps change no siblings")


class Labels:
    """One instance, its versions by number, and requests to them."""

    def __init__(self, server: dict[str, Any] | None = None, **settings: str) -> None:
        self.store = MemoryStore()
        self.cache = CatalogCache(self.store)
        self.datatype = registry.datatype("labelmap")
        self.settings: dict[str, Any] = {"allow_labelmap_split": True, **(server or {})}
        self.admin = False
        self.events: list[Any] = []
        self.at_once = 0
        """How many answers were in memory."""
        given = {name.lower(): value for name, value in settings.items()}
        properties = self.datatype.create(self.datatype.completed(given, self.settings))

        def create(txn: WriteTransaction) -> tuple[int, int]:
            editor = CatalogEditor(txn, self.cache)
            repo = graph.create_repo(editor)
            node = editor.catalog.node(repo.root_version)
            instance = graph.create_instance(
                editor, node, name="segmentation", typename="labelmap", properties=properties, compression="gzip"
            )
            return node.id, instance.id

        self.root, self.instance_id = self.store.write(create)
        self.write(self.datatype.created)

    def write(self, change: Any, version: int | None = None) -> Any:
        """Run a function of a Change in a write transaction; what it emitted is added to `events`."""

        def inside(txn: WriteTransaction) -> Any:
            editor = CatalogEditor(txn, self.cache)
            wrapped = InstanceChange(self, txn, editor.catalog.node(version or self.root))
            result = change(wrapped)
            self.events += wrapped.events
            return result

        return self.store.write(inside)

    def child(self, parent: int, branch: str | None = None) -> int:
        """A new version below another one, which is committed."""

        def add(txn: WriteTransaction) -> int:
            editor = CatalogEditor(txn, self.cache)
            node = editor.catalog.node(parent)
            if not node.locked:
                node = graph.commit(editor, node)
            if branch is not None:
                return graph.new_branch(editor, node, branch).id
            return graph.new_version(editor, node).id

        return self.store.write(add)

    def merged(self, *parents: int) -> int:
        """A new version with several parents, which are committed."""

        def merge(txn: WriteTransaction) -> int:
            editor = CatalogEditor(txn, self.cache)
            for parent in parents:
                graph.commit(editor, editor.catalog.node(parent))
            return graph.merge(editor, [editor.catalog.node(parent) for parent in parents]).id

        return self.store.write(merge)

    def uuid(self, version: int) -> str:
        with self.store.read() as txn:
            return self.cache.at(txn).node(version).uuid

    def call(self, path: str, method: str = "GET", body: Any = b"", version: int | None = None) -> Answer:
        """The answer to a request; the path is what follows the instance's name. A body that is not bytes is JSON."""
        path, _, query = path.partition("?")
        keyword, *args = path.split("/")
        body = body if isinstance(body, bytes) else msgspec.json.encode(body)
        route = next(route for route in self.datatype.routes if route.keyword == keyword and method in route.handlers)
        pieces = iter([body[i : i + 1000] for i in range(0, len(body), 1000)]) if route.streams_body else None
        with self.store.read() as txn:
            catalog = self.cache.at(txn)
            node = catalog.node(version or self.root)
            call = Call(
                method=method,
                keyword=keyword,
                args=args,
                query=dict(option.split("=", 1) for option in query.split("&") if option),
                headers={},
                path=path,
                store=self.store,
                txn=txn,
                catalog=catalog,
                instance=catalog.instance_by_id(self.instance_id),
                node=node,
                ancestry=catalog.ancestry(node.id),
                body=body,
                user="ann",
                app="test",
                admin=self.admin,
                settings=self.settings,
                _pieces=pieces,
            )
            asked_first = method == "GET" and not is_elsewhere(call.instance.properties)
            kept = route.at_once(call) if route.at_once and asked_first else None
            reply = route.handlers[method](call)
            if isinstance(reply, Answer):
                whole = reply.body
                if not isinstance(whole, bytes | memoryview):
                    whole = b"".join(bytes(piece) for piece in whole)
                if kept is not None:  # what the event loop answers is what a thread would have answered
                    self.at_once += 1
                    assert bytes(kept.body) == bytes(whole)  # type: ignore[arg-type]
                    assert (kept.content_type, kept.status) == (reply.content_type, reply.status)
                    assert kept.headers == reply.headers
                return Answer(bytes(whole), reply.content_type, reply.status)
        assert isinstance(reply, Commit)
        result = self.write(reply.apply, version)
        return reply.answer(result)

    def get(self, path: str, body: Any = b"", version: int | None = None) -> bytes:
        """The body of a successful GET."""
        answer = self.call(path, body=body, version=version)
        assert answer.status == 200, f"{path}: {answer.status}"
        assert isinstance(answer.body, bytes)
        return answer.body

    def json(self, path: str, body: Any = b"", version: int | None = None) -> Any:
        return msgspec.json.decode(self.get(path, body, version))

    def post(self, path: str, body: Any = b"", version: int | None = None) -> Any:
        """The JSON of a successful POST, or None if it answers nothing."""
        answer = self.call(path, "POST", body, version)
        assert answer.status == 200
        is_json = answer.content_type == "application/json"
        return msgspec.json.decode(bytes(answer.body)) if is_json else None  # type: ignore[arg-type]

    def status(self, path: str, version: int | None = None) -> int:
        return self.call(path, version=version).status

    def ingest(self, index: Index, version: int | None = None) -> None:
        """Enter voxel counts of supervoxels, as writing voxels would."""
        supervoxels = np.array([sv for sv, _ in index], np.uint64)
        codes = block_codes([block for _, block in index])
        counts = np.array(list(index.values()), np.uint32)

        def change(inside: Change) -> None:
            bodies.apply_counts(inside.view, supervoxels, codes, counts)
            counters.raise_max_label(inside, int(supervoxels.max()))

        self.write(change, version)

    def everything(self, version: int | None = None) -> list[tuple[bytes, bytes]]:
        """All rows of the store; two that are equal hold the same state."""
        with self.store.read() as txn:
            return list(txn.scan(b"", b"\xff" * 20))

    def records(self, version: int | None = None) -> list[dict[str, Any]]:
        with self.store.read() as txn:
            stored = records.stored(txn, self.instance_id, version or self.root)
            return [msgspec.json.decode(text) for text in stored]

    def view(self, txn: Any, version: int | None = None) -> VersionedView:
        return VersionedView(txn, self.instance_id, self.cache.at(txn).ancestry(version or self.root))

    def instance(self) -> Instance:
        with self.store.read() as txn:
            return self.cache.at(txn).instance_by_id(self.instance_id)

    def extended(self, version: int | None = None) -> dict[str, Any]:
        with self.store.read() as txn:
            return self.datatype.extended(self.instance(), self.view(txn, version))

    def stored_blocks(self) -> int:
        """Blocks that lie in the store, at all scales and versions."""
        first = keys.prefix(self.instance_id, blocks.BLOCKS)
        with self.store.read() as txn:
            return sum(1 for _ in txn.scan_keys(first, keys.after(first)))
