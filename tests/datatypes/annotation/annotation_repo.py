"""A repo in a store in memory with a labelmap, annotations and counts, and requests to them without a server."""

from __future__ import annotations

import time
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from fascicle.datatypes import derived, registry
from fascicle.datatypes.annotation import reloading
from fascicle.datatypes.annotation.layout import KIND_COUNTS, LABELS
from fascicle.datatypes.base import Answer, Call, Commit
from fascicle.datatypes.change import StoreChange
from fascicle.store.base import WriteTransaction
from fascicle.store.memory import MemoryStore
from fascicle.versions import conflicts, graph
from fascicle.versions.catalog import CatalogCache, CatalogEditor
from fascicle.versions.resolution import VersionedView

U64 = NDArray[np.uint64]
EDGE = 16
"""Edge of the labelmap's blocks, and so of the annotations'."""


class Repo:
    """Instances `segmentation`, `synapses` (follows it) and `counts` (follows those), versions by number."""

    def __init__(self, edge: int = EDGE, synced: bool = True, counted: bool = True) -> None:
        self.store = MemoryStore()
        self.cache = CatalogCache(self.store)

        def create(txn: WriteTransaction) -> int:
            editor = CatalogEditor(txn, self.cache)
            node = editor.catalog.node(graph.create_repo(editor).root_version)
            settings = {"blocksize": f"{edge},{edge},{edge}", "maxdownreslevel": "1"}
            for name, typename, given in (
                ("segmentation", "labelmap", settings),
                ("synapses", "annotation", {}),
                ("counts", "labelsz", {}),
            ):
                properties = registry.datatype(typename).create(given)
                instance = graph.create_instance(editor, node, name=name, typename=typename, properties=properties)
                if name == "synapses" and synced:
                    graph.follow(editor, instance, ["segmentation"], False)
                if name == "counts" and counted:
                    graph.follow(editor, instance, ["synapses"], False)
            return node.id

        self.root = self.store.write(create)

        def created(txn: WriteTransaction) -> None:
            registry.datatype("labelmap").created(self._change(txn, "segmentation", self.root))

        self.store.write(created)

    def _change(self, txn: WriteTransaction, name: str, version: int) -> StoreChange:
        editor = CatalogEditor(txn, self.cache)
        node = editor.catalog.node(version)
        return StoreChange(editor, editor.catalog.instance(node.repo_id, name), node, user="ann", app="test")

    def follow(self, name: str, *names: str) -> None:
        """Let an instance follow others."""

        def follow(txn: WriteTransaction) -> None:
            change = self._change(txn, name, self.root)
            graph.follow(change.editor, change.instance, names, False)

        self.store.write(follow)

    def sync(self, *names: str, replaced: bool = False) -> None:
        """Let the annotations follow labelmaps."""

        def follow(txn: WriteTransaction) -> None:
            change = self._change(txn, "synapses", self.root)
            graph.follow(change.editor, change.instance, names, replaced)

        self.store.write(follow)

    def add_labelmap(self, name: str) -> None:
        def create(txn: WriteTransaction) -> None:
            editor = CatalogEditor(txn, self.cache)
            properties = registry.datatype("labelmap").create({"blocksize": f"{EDGE},{EDGE},{EDGE}"})
            node = editor.catalog.node(self.root)
            graph.create_instance(editor, node, name=name, typename="labelmap", properties=properties)

        self.store.write(create)

    def add_region(self, spans: list[list[int]], edge: int = EDGE) -> None:
        """An instance `region`, or other spans for it, and one `inside` that counts what lies in it."""

        def create(txn: WriteTransaction) -> None:
            editor = CatalogEditor(txn, self.cache)
            node = editor.catalog.node(self.root)
            settings = {"region": {"blocksize": f"{edge},{edge},{edge}"}, "inside": {"roi": f"region,{node.uuid}"}}
            for name, typename in (("region", "roi"), ("inside", "labelsz")):
                properties = registry.datatype(typename).create(settings[name])
                graph.create_instance(editor, node, name=name, typename=typename, properties=properties)
            graph.follow(editor, editor.catalog.instance(node.repo_id, "inside"), ["synapses"], False)

        self.store.write(create)
        self.post("roi", spans, name="region")

    def child(self, parent: int, branch: str | None = None) -> int:
        """A new version below another one, which is committed."""

        def add(txn: WriteTransaction) -> int:
            editor = CatalogEditor(txn, self.cache)
            node = editor.catalog.node(parent)
            if not node.locked:
                node = graph.commit(editor, node)
            made = graph.new_branch(editor, node, branch) if branch else graph.new_version(editor, node)
            return made.id

        return self.store.write(add)

    def merged(self, *parents: int, resolved: bool = False, settled: bool = True) -> int:
        """A new version with several parents, which are committed; of elements in conflict the first one's may win."""

        def merge(txn: WriteTransaction) -> int:
            editor = CatalogEditor(txn, self.cache)
            for parent in parents:
                if not editor.catalog.node(parent).locked:
                    graph.commit(editor, editor.catalog.node(parent))
            nodes = [editor.catalog.node(parent) for parent in parents]
            if resolved:
                synapses = editor.catalog.instance(nodes[0].repo_id, "synapses")
                classes = registry.datatype("annotation").versioned_classes
                merged = conflicts.resolve(editor, [(synapses, classes)], nodes)
            else:
                merged = graph.merge(editor, nodes)
            if settled:
                derived.settle(editor, merged)
            return merged.id

        return self.store.write(merge)

    def call(
        self, path: str, method: str = "GET", body: Any = b"", version: int = 0, name: str = "synapses"
    ) -> bytes:
        """The body of the answer to a request; the path is what follows the instance's name."""

        def commit(apply: Any) -> Any:
            return self.store.write(lambda txn: apply(self._change(txn, name, version)))

        path, _, query = path.partition("?")
        keyword, *args = path.split("/")
        body = body if isinstance(body, bytes) else msgspec.json.encode(body)
        version = version or self.root
        with self.store.read() as txn:
            catalog = self.cache.at(txn)
            node = catalog.node(version)
            instance = catalog.instance(node.repo_id, name)
            routes = registry.datatype(instance.typename).routes
            route = next(route for route in routes if route.keyword == keyword)
            handler = route.handlers.get(method) or route.handlers["*"]
            pieces = iter([body]) if route.streams_body else None
            call = Call(method, keyword, args, dict(o.split("=", 1) for o in query.split("&") if o), {}, path,
                        self.store, txn, catalog, instance, node, catalog.ancestry(node.id), body, "ann", "test",
                        settings={"allow_labelmap_split": True}, _pieces=pieces, _commit=commit)  # fmt: skip
            reply = handler(call)
            if isinstance(reply, Answer):
                return reply.body if isinstance(reply.body, bytes) else b"".join(map(bytes, reply.body))
        assert isinstance(reply, Commit)
        result = self.store.write(lambda txn: reply.apply(self._change(txn, name, version)))
        answered = reply.answer(result).body
        return answered if isinstance(answered, bytes) else b"".join(map(bytes, answered))

    def get(self, path: str, version: int = 0, name: str = "synapses") -> Any:
        return msgspec.json.decode(self.call(path, version=version, name=name))

    def post(self, path: str, body: Any = b"", version: int = 0, name: str = "synapses") -> Any:
        answered = self.call(path, "POST", body, version, name)
        while path.startswith("reload") and reloading._running:  # kernels may be compiled first
            time.sleep(0.01)
        return msgspec.json.decode(answered) if answered else None

    def edit(self, path: str, body: Any = b"", version: int = 0) -> Any:
        """POST to the labelmap."""
        return self.post(path, body, version, "segmentation")

    def write_voxels(
        self, dense_zyx: U64, offset_xyz: tuple[int, int, int] = (0, 0, 0), version: int = 0, name: str = "segmentation"
    ) -> None:
        z, y, x = dense_zyx.shape
        corner = "_".join(map(str, offset_xyz))
        self.post(f"raw/0_1_2/{x}_{y}_{z}/{corner}", np.ascontiguousarray(dense_zyx).tobytes(), version, name)

    def voxels(
        self, shape_zyx: tuple[int, int, int], offset_xyz: tuple[int, int, int], version: int = 0, options: str = ""
    ) -> U64:
        """Bodies, or with `supervoxels=true` supervoxels."""
        z, y, x = shape_zyx
        corner = "_".join(map(str, offset_xyz))
        data = self.call(f"raw/0_1_2/{x}_{y}_{z}/{corner}?{options}", version=version, name="segmentation")
        return np.frombuffer(data, "<u8").reshape(shape_zyx)

    def kinds_by_supervoxel(self, version: int) -> tuple[dict[bytes, list[int]], dict[bytes, list[int]]]:
        """What is kept of the kinds of points in each supervoxel, and what its rows say."""
        with self.store.read() as txn:
            catalog = self.cache.at(txn)
            node = catalog.node(version)
            instance = catalog.instance(node.repo_id, "synapses")
            view = VersionedView(txn, instance.id, catalog.ancestry(node.id))
            kept = {key: np.frombuffer(view.load(handle), "<u4").tolist() for key, _, handle in view.scan(KIND_COUNTS)}
            counted: dict[bytes, list[int]] = {}
            for key, _, handle in view.scan(LABELS):
                counted.setdefault(key[:12], [0] * 5)[view.load(handle)[0]] += 1
        return {key: counts for key, counts in kept.items() if any(counts)}, counted

    def rows(self) -> list[tuple[bytes, bytes]]:
        """Everything in the store."""
        with self.store.read() as txn:
            return list(txn.scan(b"", b"\xff" * 20))


def element(position: tuple[int, int, int], kind: str = "Note", **more: Any) -> dict[str, Any]:
    """An element with all its members."""
    return {"Pos": list(position), "Kind": kind, "Tags": [], "Prop": {}, "Rels": [], **more}


def without_relations(element: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in element.items() if name != "Rels"}


def row_of_bodies(count: int) -> Repo:
    """Supervoxels 1 to `count`, one in each block along x; a region of blocks 1 to 3, counted in by `inside`."""
    made = Repo()
    made.add_region([[0, 0, 1, 3]])
    row = np.arange(count * EDGE, dtype=np.uint64) // EDGE + 1
    made.write_voxels(row[None, None].repeat(EDGE, 0).repeat(EDGE, 1))
    return made
