"""Bodies and the mapping against a model of plain dictionaries, over a tree of versions."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fascicle.datatypes.labelmap import bodies, index_rows, mapping
from fascicle.datatypes.labelmap.bodies import Rows, Stamp, existing_body
from fascicle.errors import NotFound
from fascicle.store import Store, open_store
from fascicle.versions.ancestry import Lineage
from fascicle.versions.resolution import VersionedView

INSTANCE = 7


def u64(values: Any) -> np.ndarray:
    return np.array(list(values), np.uint64)


class World:
    """A store, a version graph, and for each version what ought to be there."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.lineage = Lineage()
        self.lineage.add(1, ())
        self.versions = [1]
        self.index: dict[int, dict[int, dict[tuple[int, int], int]]] = {1: {}}
        self.mapping: dict[int, dict[int, int]] = {1: {}}
        self.surface: dict[int, dict[int, dict[int, int]]] = {1: defaultdict(dict)}
        self.mutation = 100

    def branch(self, parent: int) -> int:
        version = self.versions[-1] + 1
        self.versions.append(version)
        self.lineage.add(version, (parent,))
        self.index[version] = {body: dict(rows) for body, rows in self.index[parent].items()}
        self.mapping[version] = dict(self.mapping[parent])
        copied = {body: dict(blocks) for body, blocks in self.surface[parent].items()}
        self.surface[version] = defaultdict(dict, copied)
        return version

    def write(self, version: int, change: Callable[[VersionedView], Any]) -> Any:
        ancestry = self.lineage.ancestry(version)
        return self.store.write(lambda txn: change(VersionedView(txn, INSTANCE, ancestry)))

    def stamp(self) -> Stamp:
        self.mutation += 1
        return Stamp(self.mutation, "2026-01-02T03:04:05Z", "ann", "test")

    def check(self, version: int) -> None:
        with self.store.read() as txn:
            view = VersionedView(txn, INSTANCE, self.lineage.ancestry(version))
            expected = self.index[version]
            listed = list(bodies.list_bodies(view))
            assert listed == sorted((body, sum(rows.values())) for body, rows in expected.items())
            for body, rows in expected.items():
                record = bodies.read_body(view, body)
                assert record is not None
                assert record.voxels == sum(rows.values())
                assert len(record.runs) <= index_rows.MOST_RUNS
                found = bodies.read_rows(view, record)
                triples = zip(found.sv.tolist(), found.block.tolist(), found.count.tolist(), strict=True)
                assert list(triples) == [(*pair, rows[pair]) for pair in sorted(rows)]
                surface = dict(zip(found.surface_block.tolist(), found.surface_mutid.tolist(), strict=True))
                assert surface == {b: self.surface[version][body].get(b, 0) for b in {b for _, b in rows}}
            table = mapping.mapping_at(view)
            wanted = self.mapping[version]
            ids = sorted({*wanted, *range(1, 60)})
            assert table.bodies(u64(ids)).tolist() == [wanted.get(i, i) for i in ids]
            supervoxels, changed = table.non_identity()
            shown = dict(zip(supervoxels.tolist(), changed.tolist(), strict=True))
            assert shown == {s: b for s, b in wanted.items() if s != b}
            assert supervoxels.tolist() == sorted(shown)


def merge(world: World, version: int, rng: random.Random) -> None:
    index = world.index[version]
    if len(index) < 2:
        return
    target, *merged = rng.sample(sorted(index), rng.randint(2, min(5, len(index))))
    stamp = world.stamp()

    def change(view: VersionedView) -> None:
        bodies.merge(view, existing_body(view, target), [existing_body(view, body) for body in merged], stamp)
        moved = u64(sorted({sv for body in merged for sv, _ in index[body]}))
        mapping.add_mappings(view, moved, np.full(len(moved), target, np.uint64))

    world.write(version, change)
    for body in merged:
        for (sv, block), count in index.pop(body).items():
            index[target][sv, block] = count
            world.mapping[version][sv] = target
            world.surface[version][target][block] = stamp.mutation_id
        world.surface[version].pop(body, None)


def cleave(world: World, version: int, rng: random.Random) -> None:
    index = world.index[version]
    several = [body for body, rows in index.items() if len({sv for sv, _ in rows}) > 1]
    if not several:
        return
    body = rng.choice(sorted(several))
    supervoxels = sorted({sv for sv, _ in index[body]})
    chosen = rng.sample(supervoxels, rng.randint(1, len(supervoxels) - 1))
    new = max([*index, *world.mapping[version], 1000]) + 1
    stamp = world.stamp()

    def change(view: VersionedView) -> tuple[int, int]:
        mapping.add_mappings(view, u64([*chosen, new]), u64([*[new] * len(chosen), 0]))
        return bodies.cleave(view, existing_body(view, body), new, u64(chosen), stamp)

    moved, left = world.write(version, change)
    rows = {pair: count for pair, count in index[body].items() if pair[0] in chosen}
    index[body] = {pair: count for pair, count in index[body].items() if pair[0] not in chosen}
    index[new] = rows
    assert (moved, left) == (sum(rows.values()), sum(index[body].values()))
    for sv in chosen:
        world.mapping[version][sv] = new
    world.mapping[version][new] = 0
    for _, block in rows:
        world.surface[version][body][block] = stamp.mutation_id
        world.surface[version][new][block] = stamp.mutation_id


def renumber(world: World, version: int, rng: random.Random) -> None:
    index = world.index[version]
    if not index:
        return
    old = rng.choice(sorted(index))
    new = max([*index, *world.mapping[version], 1000]) + 1
    moved = u64(sorted({sv for sv, _ in index[old]}))
    stamp = world.stamp()

    def change(view: VersionedView) -> None:
        mapping.add_mappings(view, moved, np.full(len(moved), new, np.uint64))
        bodies.rename(view, existing_body(view, old), new, stamp)

    world.write(version, change)
    index[new] = index.pop(old)
    world.surface[version][new] = world.surface[version].pop(old, {})
    for sv in moved.tolist():
        world.mapping[version][sv] = new


def paint(world: World, version: int, rng: random.Random) -> None:
    pairs = {(rng.randint(1, 40), rng.randint(1, 12)): rng.choice([0, 1, 5, 100]) for _ in range(rng.randint(1, 30))}
    ordered = list(pairs)
    world.write(
        version,
        lambda view: bodies.apply_counts(
            view,
            u64(sv for sv, _ in ordered),
            u64(block for _, block in ordered),
            np.array([pairs[pair] for pair in ordered], np.uint32),
        ),
    )
    index = world.index[version]
    for (sv, block), count in pairs.items():
        body = world.mapping[version].get(sv, sv)
        rows = index.setdefault(body or sv, {})
        # What was touched in a block is remembered even if the body leaves it for a while.
        if count and body:
            rows[sv, block] = count
        else:
            rows.pop((sv, block), None)
    for body in [body for body, rows in index.items() if not rows]:
        del index[body]
        world.surface[version].pop(body, None)


@pytest.mark.parametrize("seed", range(12))
def test_random_edits_equal_a_model_at_every_version(seed: int, tmp_path: Any) -> None:
    rng = random.Random(seed)
    world = World(open_store(tmp_path / "store" if seed % 3 == 0 else None))
    paint(world, 1, rng)
    leaves = [1]
    for step in range(120):
        version = rng.choice(leaves)
        rng.choice([merge, cleave, cleave, renumber, paint])(world, version, rng)
        if rng.random() < 0.1:
            child = world.branch(version)
            if rng.random() < 0.7:
                leaves.remove(version)
            leaves.append(child)
            if version in leaves:
                leaves.remove(version)
                leaves.append(world.branch(version))
        world.check(version)
        if step % 20 == 0:
            bodies.forget_all()
            mapping.forget_all()
    for version in world.versions:
        world.check(version)
    world.store.close()


def test_many_cleaves_of_a_large_body_keep_its_record_small() -> None:
    world = World(open_store(None))
    count = 20_000
    sv = np.arange(1, count + 1, dtype=np.uint64)
    rows = Rows.of(sv, sv % np.uint64(500), np.full(count, 3, np.uint32))
    world.write(1, lambda view: bodies.write_rows(view, 1, rows, world.stamp()))
    rng = np.random.default_rng(1)
    for _ in range(60):
        chosen = rng.choice(sv[1:], 400, replace=False)
        stamp = world.stamp()
        moved, left = world.write(
            1, lambda view, c=chosen, s=stamp: bodies.cleave(view, existing_body(view, 1), 99_999, c, s)
        )
        assert (moved, left) == (1200, 3 * count - 1200)
        stamp = world.stamp()
        world.write(
            1, lambda view, s=stamp: bodies.merge(view, existing_body(view, 1), [existing_body(view, 99_999)], s)
        )
    with world.store.read() as txn:
        view = VersionedView(txn, INSTANCE, world.lineage.ancestry(1))
        body = existing_body(view, 1)
        assert body.voxels == 3 * count
        assert np.array_equal(bodies.read_rows(view, body).sv, sv)
        assert len(body.runs) <= index_rows.MOST_RUNS


def test_a_body_that_is_not_there_is_not_found() -> None:
    world = World(open_store(None))
    with pytest.raises(NotFound, match="body 5"):
        world.write(1, lambda view: bodies.rename(view, existing_body(view, 5), 6, world.stamp()))


def test_a_failed_write_leaves_no_mapping_behind() -> None:
    world = World(open_store(None))
    seen = []

    def failing(view: VersionedView) -> None:
        mapping.add_mappings(view, u64([1]), u64([9]))
        seen.append(mapping.mapping_at(view).body(1))
        raise RuntimeError

    with pytest.raises(RuntimeError):
        world.write(1, failing)
    world.write(1, lambda view: mapping.add_mappings(view, u64([2]), u64([8])))
    with world.store.read() as txn:
        table = mapping.mapping_at(VersionedView(txn, INSTANCE, world.lineage.ancestry(1)))
    assert seen == [(9, True)]
    assert table.body(1) == (1, False)
    assert table.body(2) == (8, True)


def test_through_a_merge_of_versions_both_lines_are_seen() -> None:
    world = World(open_store(None))
    left, right = world.branch(1), world.branch(1)
    world.write(1, lambda view: mapping.add_mappings(view, u64([1, 2, 3, 4]), u64([10, 10, 10, 10])))
    world.write(left, lambda view: mapping.add_mappings(view, u64([1, 3]), u64([20, 20])))
    world.write(right, lambda view: mapping.add_mappings(view, u64([2, 3]), u64([30, 30])))
    world.lineage.add(9, (left, right))
    world.lineage.add(10, (9,))
    world.write(10, lambda view: mapping.add_mappings(view, u64([4]), u64([40])))
    for version, expected in ((9, [20, 30, 20, 10]), (10, [20, 30, 20, 40])):
        with world.store.read() as txn:
            table = mapping.mapping_at(VersionedView(txn, INSTANCE, world.lineage.ancestry(version)))
        assert table.bodies(u64([1, 2, 3, 4])).tolist() == expected
