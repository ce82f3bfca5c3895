"""Partial changes of label blocks against the same changes of dense arrays."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fascicle.formats import label_block, sub_blocks


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
    block, voxels, moved, kept = sub_blocks.split_label(
        label_block.opened_stored(before), label, 2**50, 2**51, mask, label_block.stored_counts(before)
    )
    own = dense == label
    expected = dense.copy()
    expected[own & mask] = 2**50
    expected[own & ~mask] = 2**51
    check_normal(block, expected)
    assert (moved, kept) == (int((own & mask).sum()), int((own & ~mask).sum()))
    counted = dict(zip(*(a.tolist() for a in np.unique(expected, return_counts=True)), strict=True))
    assert dict(zip(block.table.tolist(), voxels.tolist(), strict=True)) == counted


@settings(deadline=None, max_examples=30)
@given(
    st.integers(0, 1000),
    st.sampled_from((1, 2, 5, 400)),
    shapes,
    st.sets(st.integers(0, 7), min_size=1),
    st.sampled_from((0, 1, 300)),
)
def test_replace_octants(
    seed: int, labels: int, shape: tuple[int, int, int], octants: set[int], new_labels: int
) -> None:
    dense = dense_block(seed, labels, shape)
    z, y, x = (n // 2 for n in shape)
    rng = np.random.default_rng(seed + 2)
    expected, halves = dense.copy(), {}
    for octant in octants:
        pool = rng.integers(0, 2**40, new_labels + 1).astype(np.uint64) if new_labels else np.zeros(1, np.uint64)
        half = pool[rng.integers(0, len(pool), (z, y, x))]
        halves[octant] = half
        oz, oy, ox = (octant >> 2) * z, (octant >> 1 & 1) * y, (octant & 1) * x
        expected[oz : oz + z, oy : oy + y, ox : ox + x] = half
    check_normal(sub_blocks.replace_octants(opened(dense), halves), expected)


@pytest.mark.parametrize("label", [0, 5])
def test_octants_of_a_solid_block(label: int) -> None:
    half = np.arange(512, dtype=np.uint64).reshape(8, 8, 8)
    expected = np.full((16, 16, 16), label, np.uint64)
    expected[8:, :8, 8:] = half
    check_normal(sub_blocks.replace_octants(sub_blocks.solid(2, 2, 2, label), {5: half}), expected)
    same = np.full((8, 8, 8), label, np.uint64)
    check_normal(sub_blocks.replace_octants(sub_blocks.solid(2, 2, 2, label), {5: same}), np.full_like(expected, label))
