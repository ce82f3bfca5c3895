"""Connected pieces against a flood fill."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from fascicle.kernels.arrays import frozen
from fascicle.kernels.label_components import label_components

NONE = np.zeros(0, np.uint64)
STEPS = [step for step in itertools.product((-1, 0, 1), repeat=3) if any(step)]


def flooded(labels: np.ndarray) -> np.ndarray:
    """The same numbers, by flooding from each voxel in order."""
    pieces = np.zeros(labels.shape, np.int32)
    count = 0
    for seed in np.ndindex(labels.shape):
        if labels[seed] == 0 or pieces[seed]:
            continue
        count += 1
        pieces[seed] = count
        stack = [seed]
        while stack:
            at = stack.pop()
            for step in STEPS:
                near = tuple(a + b for a, b in zip(at, step, strict=True))
                inside = all(0 <= a < n for a, n in zip(near, labels.shape, strict=True))
                if inside and labels[near] == labels[seed] and not pieces[near]:
                    pieces[near] = count
                    stack.append(near)
    return pieces


def found(labels: np.ndarray, wanted: np.ndarray = NONE, fewest: int = 1, faces: int = 0) -> tuple[np.ndarray, ...]:
    pieces = np.full(labels.shape, 99, np.int32)
    open_faces = np.array([faces >> i & 1 for i in range(6)], np.uint8)
    names, sizes = label_components(frozen(labels), frozen(wanted), fewest, open_faces, pieces)
    return pieces, names, sizes


@pytest.mark.parametrize("dtype", [np.uint32, np.uint64])
@pytest.mark.parametrize("shape", [(6, 7, 9), (1, 12, 5), (4, 1, 1)])
@pytest.mark.parametrize("seed", range(4))
def test_as_flooding_does(shape: tuple[int, int, int], seed: int, dtype: type) -> None:
    labels = (np.random.default_rng(seed).integers(0, 5, shape) * ((1 << 33) if dtype is np.uint64 else 3)).astype(
        dtype
    )
    pieces, names, sizes = found(labels)
    expected = flooded(labels)
    assert np.array_equal(pieces, expected)
    assert np.array_equal(sizes[1:], np.bincount(expected.ravel(), minlength=len(sizes))[1:])
    assert all((labels[pieces == i] == names[i]).all() for i in range(1, len(names)))


def test_dust_goes_unless_it_may_go_on_behind_a_face() -> None:
    labels = np.zeros((5, 6, 7), np.uint64)
    labels[2, 2, 2:4] = 1  # two voxels inside
    corners = [(0, 2, 2), (4, 2, 2), (2, 0, 2), (2, 5, 2), (2, 4, 0), (2, 4, 6)]
    for at in corners:
        labels[at] = 7
    for face, at in enumerate(corners):
        pieces, names, sizes = found(labels, fewest=2, faces=1 << face)
        assert names.tolist()[1:] == ([7, 1] if face in (0, 2) else [1, 7])
        assert sorted(sizes[1:]) == [1, 2]
        assert pieces[at] > 0
        assert (pieces > 0).sum() == 3


def test_only_what_is_wanted() -> None:
    labels = np.random.default_rng(1).integers(0, 6, (6, 6, 6)).astype(np.uint64)
    pieces, names, _ = found(labels, np.array([2, 5], np.uint64))
    assert set(names[1:].tolist()) == {2, 5}
    assert np.array_equal(pieces > 0, np.isin(labels, [2, 5]))
