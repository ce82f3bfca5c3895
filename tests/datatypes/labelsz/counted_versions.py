"""A labelsz instance on a store in memory: versions, events told by hand, and what is stored of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import numpy as np

from fascicle.datatypes.annotation.events import KINDS, BodiesJoined, Emptied, Points, PointsChanged
from fascicle.datatypes.change import StoreChange
from fascicle.datatypes.labelsz import counting, tallies
from fascicle.datatypes.labelsz.tallies import INDEX_TYPES, label_and_count
from fascicle.store.base import WriteTransaction
from fascicle.store.memory import MemoryStore
from fascicle.versions import graph, keys
from fascicle.versions.catalog import CatalogCache, CatalogEditor
from fascicle.versions.resolution import VersionedView

Point = tuple[int, int]
"""Label, kind."""
COUNTED = {"PostSyn": (1,), "PreSyn": (2,), "Gap": (3,), "Note": (4,), "AllSyn": (1, 2, 3), "Voxels": ()}
"""Kinds that each index type counts."""


def points(given: Iterable[Point]) -> Points:
    rows = list(given)
    labels, kinds = [label for label, _ in rows], [kind for _, kind in rows]
    return Points(np.array(labels, np.uint64), np.array(kinds, np.uint8), np.zeros((len(rows), 3), np.int32))


class Counted:
    """One instance that nothing but the test tells of points."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.cache = CatalogCache(self.store)

        def create(txn: WriteTransaction) -> tuple[int, int]:
            editor = CatalogEditor(txn, self.cache)
            node = editor.catalog.node(graph.create_repo(editor).root_version)
            made = graph.create_instance(
                editor, node, name="sizes", typename="labelsz", properties={counting.STATIC_ROI: ""}
            )
            return node.id, made.id

        self.root, self.instance_id = self.store.write(create)

    # -- versions

    def child(self, parent: int, branch: str = "") -> int:
        def add(txn: WriteTransaction) -> int:
            editor = CatalogEditor(txn, self.cache)
            node = editor.catalog.node(parent)
            if not node.locked:
                node = graph.commit(editor, node)
            return (graph.new_branch(editor, node, branch) if branch else graph.new_version(editor, node)).id

        return self.store.write(add)

    def merged(self, *parents: int) -> int:
        def merge(txn: WriteTransaction) -> int:
            editor = CatalogEditor(txn, self.cache)
            for parent in parents:
                if not editor.catalog.node(parent).locked:
                    graph.commit(editor, editor.catalog.node(parent))
            return graph.merge(editor, [editor.catalog.node(parent) for parent in parents]).id

        return self.store.write(merge)

    # -- events

    def tell(self, version: int, *events: object) -> None:
        """Events of one transaction."""

        def follow(txn: WriteTransaction) -> None:
            editor = CatalogEditor(txn, self.cache)
            instance = editor.catalog.instance_by_id(self.instance_id)
            change = StoreChange(editor, instance, editor.catalog.node(version))
            for event in events:
                counting.follow(change, instance, event)

        self.store.write(follow)

    def change(self, version: int, removed: Iterable[Point] = (), added: Iterable[Point] = ()) -> None:
        self.tell(version, PointsChanged(points(removed), points(added)))

    def join(self, version: int, target: int, *merged: int) -> None:
        self.tell(version, BodiesJoined(target, merged))

    def empty(self, version: int) -> None:
        self.tell(version, Emptied())

    # -- looking

    def view(self, txn: object, version: int) -> VersionedView:
        with self.store.read() as snapshot:
            catalog = self.cache.at(snapshot)
        return VersionedView(txn, self.instance_id, catalog.ancestry(version))  # type: ignore[arg-type]

    def count(self, version: int, label: int, index: str) -> int:
        with self.store.read() as txn:
            return tallies.count_of(self.view(txn, version), label, INDEX_TYPES[index])

    def ranking(self, version: int, index: str, least: int = 0) -> list[tuple[int, int]]:
        with self.store.read() as txn:
            batches = tallies.ranked(self.view(txn, version), INDEX_TYPES[index], least)
            return [label_and_count(key) for batch in batches for key in batch]

    def rows(self, version: int) -> Counter[str]:
        """Rows of ranks stored at a version: how many are tombstones, how many are not."""
        prefix = keys.prefix(self.instance_id, tallies.RANKS)
        with self.store.read() as txn:
            stored = list(txn.scan(prefix, keys.after(prefix)))
        return Counter(
            "dead" if value == b"\x01" else "live" for key, value in stored if keys.version_of(key) == version
        )


def true_counts(held: Counter[Point], index: str) -> dict[int, int]:
    """Counts of an index type by label, counted one by one; labels without any are left out."""
    found: Counter[int] = Counter()
    for (label, kind), count in held.items():
        if kind in COUNTED[index]:
            found[label] += count
    return {label: count for label, count in found.items() if count}


def true_ranking(held: Counter[Point], index: str) -> list[tuple[int, int]]:
    return sorted(true_counts(held, index).items(), key=lambda pair: (-pair[1], pair[0]))


def check(counted: Counted, version: int, held: Counter[Point], labels: Iterable[int]) -> None:
    """Everything that can be asked at a version is what counting the points says."""
    for index in INDEX_TYPES:
        truth = true_counts(held, index)
        assert {label: counted.count(version, label, index) for label in labels} == {
            label: truth.get(label, 0) for label in labels
        }
        ranking = true_ranking(held, index)
        assert counted.ranking(version, index) == ranking
        for least in (1, 2, 3, tallies.MAX_COUNT):
            assert counted.ranking(version, index, least) == [pair for pair in ranking if pair[1] >= least]


assert len(KINDS) == 5
