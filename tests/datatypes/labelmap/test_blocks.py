"""Finding stored blocks at versions, extents, and the lock of writers."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from labelmap_instances import Labels

from fascicle.datatypes.base import Change
from fascicle.datatypes.labelmap import blocks
from fascicle.formats.block_code import LIMIT, block_codes, block_xyz
from fascicle.store.lmdb_engine import LmdbStore
from fascicle.store.memory import MemoryStore

Point = tuple[int, int, int]

near = st.tuples(*[st.integers(-3, 3)] * 3)
far = st.tuples(*[st.sampled_from([-LIMIT, -1, 0, 1, 9, LIMIT])] * 3)


def put(labels: Labels, version: int, scale: int, points: list[Point]) -> None:
    def change(inside: Change) -> None:
        for point in points:
            inside.view.put(blocks.BLOCKS, blocks.block_key(scale, *point), f"{version} {point}".encode())

    labels.write(change, version)


def shown(labels: Labels, found: list[tuple[np.ndarray, list[bytes]]], view: object) -> dict[Point, bytes]:
    codes = np.concatenate([codes for codes, _ in found]) if found else np.empty(0, np.uint64)
    assert (np.diff(codes.astype(np.int64)) > 0).all(), "not ascending, or twice"
    values = [view.load(handle) for _, handles in found for handle in handles]  # type: ignore[attr-defined]
    return dict(zip(map(tuple, block_xyz(codes).tolist()), values, strict=True))


@settings(max_examples=60, deadline=None)
@given(
    writes=st.lists(st.tuples(st.integers(0, 3), st.lists(st.one_of(near, far), max_size=12)), max_size=6),
    low=st.one_of(near, far),
    size=st.tuples(*[st.sampled_from([0, 1, 2, 5, 1 << 30])] * 3),
    wanted=st.lists(st.one_of(near, far), max_size=20),
    batch=st.sampled_from([1, 3, 100]),
)
def test_boxes_and_lists_at_every_version(
    writes: list[tuple[int, list[Point]]], low: Point, size: Point, wanted: list[Point], batch: int
) -> None:
    labels = Labels()
    chain = [labels.root]
    chain.append(labels.child(chain[0]))
    chain.append(labels.child(chain[1]))
    chain.append(labels.child(chain[0], "side"))
    ancestors = {0: [0], 1: [0, 1], 2: [0, 1, 2], 3: [0, 3]}
    for number, points in writes:
        put(labels, chain[number], 1, points)
        put(labels, chain[number], 2, points[:1])
    high = tuple(a + b for a, b in zip(low, size, strict=True))
    for number, version in enumerate(chain):
        state: dict[Point, bytes] = {}
        for ancestor in ancestors[number]:
            for written, points in writes:
                if written == ancestor:
                    state |= {point: f"{chain[ancestor]} {point}".encode() for point in points}
        with labels.store.read() as txn:
            view = labels.view(txn, version)
            found = list(blocks.scan_box(view, 1, low, high, batch))  # type: ignore[arg-type]
            inside = {p: v for p, v in state.items() if all(a <= c <= b for a, c, b in zip(low, p, high, strict=True))}
            assert shown(labels, found, view) == inside
            codes = np.unique(block_codes(wanted))
            places, handles = blocks.find_blocks(view, 1, codes)
            expected = {point: state[point] for point in set(wanted) if point in state}
            assert shown(labels, [(codes[places], handles)], view) == expected
            assert not list(blocks.scan_box(view, 3, low, high))  # type: ignore[arg-type]


def test_extents_grow_and_belong_to_a_version() -> None:
    labels = Labels()
    labels.write(lambda change: blocks.grow_extents(change.view, (0, -5, 10), (9, 9, 19)))
    child = labels.child(labels.root)
    labels.write(lambda change: blocks.grow_extents(change.view, (3, 3, 3), (4, 40, 4)), child)
    with labels.store.read() as txn:
        assert blocks.read_extents(labels.view(txn)) == ((0, -5, 10), (9, 9, 19))
        assert blocks.read_extents(labels.view(txn, child)) == ((0, -5, 3), (9, 40, 19))


def test_coarser_blocks() -> None:
    codes = block_codes([(-3, -1, 0), (-4, -2, 1), (5, 0, 0), (4, 1, 1), (0, 0, 0)])
    assert sorted(map(tuple, block_xyz(blocks.coarser(codes, 1)).tolist())) == [(-2, -1, 0), (0, 0, 0), (2, 0, 0)]
    assert np.array_equal(blocks.coarser(codes, 0), np.sort(codes))


@pytest.mark.parametrize("on_disk", [False, True])
def test_one_writer_at_a_time(on_disk: bool, tmp_path: Path) -> None:
    store = LmdbStore(tmp_path / "store") if on_disk else MemoryStore()
    first, other = blocks.voxel_lock(store, 1), blocks.voxel_lock(store, 2)
    waiting_locks = [blocks.voxel_lock(store, 1)]
    first.acquire()
    other.acquire()
    entered = threading.Event()

    def wait() -> None:
        waiting_locks[0].acquire()
        entered.set()

    waiting = threading.Thread(target=wait)
    waiting.start()
    assert not entered.wait(0.1)
    first.release()
    first.release()
    assert entered.wait(5)
    waiting.join()
    third = blocks.voxel_lock(store, 1)
    assert not third._lock.acquire(blocking=False)
    waiting_locks.clear()
    third.acquire()  # a lock that is forgotten is released
    third.release()
    other.release()
    store.close()
