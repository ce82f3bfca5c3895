"""Down-sampling of label blocks against the rule spelt out."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fascicle.formats import downres, label_block


def slow_half(block: np.ndarray) -> np.ndarray:
    out = np.zeros([n // 2 for n in block.shape], np.uint64)
    for z, y, x in np.ndindex(out.shape):
        counts = Counter(block[2 * z : 2 * z + 2, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2].reshape(-1).tolist())
        counts.pop(0, None)
        if counts:
            out[z, y, x] = min(counts, key=lambda label: (-counts[label], label))
    return out


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from([(8, 8, 8), (16, 16, 32), (24, 8, 16)]),
    st.lists(st.sampled_from([0, 1, 2, 3, 9, 2**63, 2**64 - 1]), min_size=1, max_size=6, unique=True),
    st.sampled_from([1, 2, 3, 5]),
    st.integers(0, 10**6),
)
def test_halves_follow_the_rule(shape: tuple[int, int, int], pool: list[int], patch: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    block = np.array(pool, np.uint64)[rng.integers(0, len(pool), shape)]
    for axis in range(3):
        block = np.repeat(block, patch, axis)
    block = np.ascontiguousarray(block[: shape[0], : shape[1], : shape[2]])
    volume = np.full([n // 2 + 4 for n in shape], 77, np.uint64)
    corner = volume[2:-2, 1:-3, 3:-1]
    downres.halve_into(label_block.encode(block), corner)
    assert np.array_equal(corner, slow_half(block))
    assert (volume == 77).sum() == volume.size - corner.size


def test_many_labels_in_a_sub_block() -> None:
    block = np.random.default_rng(0).integers(0, 400, (16, 16, 16)).astype(np.uint64)
    out = np.empty((8, 8, 8), np.uint64)
    downres.halve_into(label_block.encode(block), out)
    assert np.array_equal(out, slow_half(block))


def test_octants_without_a_change_stay() -> None:
    rng = np.random.default_rng(1)
    volume = rng.integers(0, 4, (32, 32, 32)).astype(np.uint64)
    children: list[bytes | None] = [None] * 8
    for octant in (0, 3, 6):
        z, y, x = (octant >> 2) * 16, (octant >> 1 & 1) * 16, (octant & 1) * 16
        children[octant] = label_block.encode(volume[z : z + 16, y : y + 16, x : x + 16])
    before = np.full((16, 16, 16), 5, np.uint64)
    after = downres.parent_of(children, before.copy())
    half = slow_half(volume)
    for octant in range(8):
        corner = tuple(slice(8 * (octant >> s & 1), 8 * (octant >> s & 1) + 8) for s in (2, 1, 0))
        assert np.array_equal(after[corner], (half if children[octant] else before)[corner])


def test_wrong_target_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="fit"):
        downres.halve_into(label_block.wire_of_solid((16, 16, 16), 3), np.empty((8, 8, 4), np.uint64))
