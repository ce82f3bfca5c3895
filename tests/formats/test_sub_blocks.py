"""Partial changes of label blocks against the same changes of dense arrays."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fascicle.formats import downres, label_block, sub_blocks


def dense_block(seed: int, labels: int, shape: tuple[int, int, int]) -> np.ndarray:
    """Labels that vary slowly along x, some sub-blocks having many and some one."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(1, 2**40, labels).astype(np.uint64)
    block = ids[rng.integers(0, labels, shape)]
    z, y, x = (n // 2 for n in shape)
    block[:z, :y] = ids[0]
    block[z:, :, :x] = ids[rng.integers(0, min(labels, 3), (shape[0] - z, shape[1], x))]
    return block


def opened(dense: np.ndarray) -> label_block.LabelBlock:
    return label_block.opened_stored(label_block.split(label_block.encode(dense)))


def check_normal(block: label_block.LabelBlock, dense: np.ndarray) -> None:
    """The block is what it should be, also as its stored and wire forms, and has no needless table entries."""
    assert np.array_equal(label_block.decode(block), dense)
    assert sorted(block.table.tolist()) == np.unique(dense).tolist()
    stored = label_block.split(block)
    assert np.array_equal(label_block.decode(label_block.join(stored)), dense)
    label_block.validate(label_block.join(stored))
    assert label_block.stored_counts(stored).sum() == dense.size


shapes = st.sampled_from(((16, 16, 16), (32, 16, 48), (64, 64, 64)))


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 1000), st.sampled_from((1, 2, 3, 9, 300, 700)), shapes, st.sampled_from(("some", "all", "none")))
def test_split_label(seed: int, labels: int, shape: tuple[int, int, int], how: str) -> None:
    dense = dense_block(seed, labels, shape)
    label = int(dense[0, 0, 0])
    mask = np.random.default_rng(seed + 1).random(shape) < {"some": 0.3, "all": 2, "none": -1}[how]
    before = label_block.split(label_block.encode(dense))
    entry = label_block.stored_table(before).tolist().index(label)
    block, voxels, moved, kept, changed = sub_blocks.split_label(
        label_block.opened_stored(before), entry, 2**50, 2**51, mask, label_block.stored_counts(before)
    )
    own = dense == label
    expected = dense.copy()
    expected[own & mask] = 2**50
    expected[own & ~mask] = 2**51
    check_normal(block, expected)
    assert (moved, kept) == (int((own & mask).sum()), int((own & ~mask).sum()))
    assert changed.tolist() == places_of(own) == sub_blocks.having(opened(dense), entry).tolist()
    assert dict(zip(block.table.tolist(), voxels.tolist(), strict=True)) == counts_of(expected)


def halved(dense: np.ndarray) -> np.ndarray:
    """At half resolution, by `downres`, which has its own tests."""
    half = np.empty([n // 2 for n in dense.shape], np.uint64)
    downres.halve_into(label_block.encode(np.ascontiguousarray(dense)), half)
    return half


def places_of(mask: np.ndarray) -> list[int]:
    """Numbers of the sub-blocks that have voxels of a mask."""
    z, y, x = (n // 8 for n in mask.shape)
    return np.flatnonzero(mask.reshape(z, 8, y, 8, x, 8).any(axis=(1, 3, 5))).tolist()


def counts_of(dense: np.ndarray) -> dict[int, int]:
    return dict(zip(*(a.tolist() for a in np.unique(dense, return_counts=True)), strict=True))


@settings(deadline=None, max_examples=40)
@given(
    st.integers(0, 1000),
    st.sampled_from((1, 2, 5, 400)),
    st.sampled_from(((16, 16, 16), (32, 16, 48), (64, 64, 64))),
    st.sets(st.integers(0, 7), min_size=1),
)
def test_follow(seed: int, labels: int, shape: tuple[int, int, int], octants: set[int]) -> None:
    rng = np.random.default_rng(seed + 2)
    half = tuple(n // 2 for n in shape)
    finer = {octant: dense_block(seed + octant, labels, shape) for octant in range(8)}
    corners = {o: tuple((o >> k & 1) * n for k, n in zip((2, 1, 0), half, strict=True)) for o in range(8)}
    before = np.empty(shape, np.uint64)

    def place(octant: int, out: np.ndarray) -> None:
        z, y, x = corners[octant]
        out[z : z + half[0], y : y + half[1], x : x + half[2]] = halved(finer[octant])

    for octant in range(8):
        place(octant, before)
    expected, children = before.copy(), {}
    for octant in octants:
        moved = rng.random([n // 8 for n in shape]) < rng.choice([0.0, 0.1, 1.0])
        voxels = moved.repeat(8, 0).repeat(8, 1).repeat(8, 2)
        pool = rng.integers(0, 2**40, 4).astype(np.uint64) * np.array([0, 1, 1, 1], np.uint64)
        finer[octant] = np.where(voxels, pool[rng.integers(0, 4, shape)], finer[octant])
        children[octant] = opened(finer[octant])
        place(octant, expected)
    counted = label_block.stored_counts(label_block.split(opened(before)))
    block, voxels, _ = sub_blocks.follow(opened(before), counted, children)
    check_normal(block, expected)
    assert dict(zip(block.table.tolist(), voxels.tolist(), strict=True)) == counts_of(expected)


@settings(deadline=None, max_examples=30)
@given(
    st.integers(0, 1000),
    st.sampled_from((1, 2, 5, 400)),
    st.sampled_from(((16, 16, 16), (32, 16, 48), (64, 64, 64))),
    st.dictionaries(st.integers(0, 7), st.booleans(), min_size=1),
)
def test_following_some_sub_blocks_is_following_all(
    seed: int, labels: int, shape: tuple[int, int, int], octants: dict[int, bool]
) -> None:
    """`octants` tells of which changed ones it is known where they changed; the others may lag behind."""
    rng = np.random.default_rng(seed + 3)
    half = tuple(n // 2 for n in shape)
    before = dense_block(seed + 9, labels, shape)
    children, changed_in = {}, {}
    for octant, known in octants.items():
        starts = [(octant >> k & 1) * n for k, n in zip((2, 1, 0), half, strict=True)]
        corner = tuple(slice(start, start + n) for start, n in zip(starts, half, strict=True))
        finer = dense_block(seed + octant, labels, shape)
        if known:
            before[corner] = halved(finer)
        moved = rng.random([n // 8 for n in shape]) < rng.choice([0.0, 0.1, 1.0])
        voxels = moved.repeat(8, 0).repeat(8, 1).repeat(8, 2) & (rng.random(shape) < rng.choice([0.02, 0.5, 1.0]))
        pool = np.append(rng.integers(0, 2**40, 3).astype(np.uint64) * np.array([0, 1, 1], np.uint64), finer[0, 0, 0])
        finer = np.where(voxels, pool[rng.integers(0, 4, shape)], finer)
        children[octant] = opened(finer)
        if known:
            changed_in[octant] = np.flatnonzero(moved)
    counted = label_block.stored_counts(label_block.split(opened(before)))
    expected, voxels_of_expected, _ = sub_blocks.follow(opened(before), counted, children)
    block, voxels, places = sub_blocks.follow(opened(before), counted, children, changed_in)
    dense = label_block.decode(expected)
    check_normal(block, dense)
    assert dict(zip(block.table.tolist(), voxels.tolist(), strict=True)) == counts_of(dense)
    assert counts_of(dense) == dict(zip(expected.table.tolist(), voxels_of_expected.tolist(), strict=True))
    differing = places_of(before != dense)
    assert set(differing) <= set(places.tolist())
    if all(octants.values()):
        assert differing == sorted(places.tolist())


@pytest.mark.parametrize("label", [0, 5])
def test_following_of_a_solid_block(label: int) -> None:
    child = np.arange(4096, dtype=np.uint64).reshape(16, 16, 16)
    expected = np.full((16, 16, 16), label, np.uint64)
    expected[8:, :8, 8:] = halved(child)
    voxels = np.array([4096], np.uint32)
    block, _, _ = sub_blocks.follow(sub_blocks.solid(2, 2, 2, label), voxels, {5: opened(child)})
    check_normal(block, expected)
    same = np.full((16, 16, 16), label, np.uint64)
    block, counts, _ = sub_blocks.follow(sub_blocks.solid(2, 2, 2, label), voxels, {5: opened(same)})
    check_normal(block, same)
    assert counts.tolist() == [4096]
