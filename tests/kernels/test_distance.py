"""Exact distances against all pairs."""

from __future__ import annotations

import numpy as np
import pytest

from fascicle.kernels.arrays import frozen
from fascicle.kernels.distance import FAR, label_distances, squared_distances


@pytest.mark.parametrize("shape", [(8, 8, 8), (5, 9, 16), (1, 1, 7)])
@pytest.mark.parametrize("share", [0.01, 0.3])
def test_nearest_of_all_pairs(shape: tuple[int, int, int], share: float) -> None:
    inside = np.random.default_rng(4).random(shape) < share
    inside[0, 0, 0] = True
    points = np.argwhere(inside)
    everywhere = np.indices(shape).reshape(3, -1).T
    expected = ((everywhere[:, None] - points[None]) ** 2).sum(2).min(1).reshape(shape)
    assert np.array_equal(squared_distances(frozen(inside.view(np.uint8))), expected)


def test_nothing_is_far() -> None:
    assert (squared_distances(frozen(np.zeros((4, 4, 4), np.uint8))) == FAR).all()


@pytest.mark.parametrize("shape", [(7, 8, 9), (1, 9, 20), (5, 1, 4)])
@pytest.mark.parametrize("labels", [2, 3])
@pytest.mark.parametrize("steps", [(1.0, 1.0, 1.0), (40.0, 4.0, 5.5)])
def test_nearest_other_label_of_all_pairs(
    shape: tuple[int, int, int], labels: int, steps: tuple[float, float, float]
) -> None:
    rough = np.random.default_rng(labels).integers(0, labels, tuple(-(-n // 3) for n in shape))
    pieces = np.kron(rough, np.ones((3, 3, 3), int))[tuple(slice(n) for n in shape)].astype(np.int32)
    found = np.empty(shape, np.float32)
    label_distances(pieces, np.array(steps), found)
    places = np.indices(shape).reshape(3, -1).T * np.array(steps)
    apart = np.sqrt(((places[:, None] - places[None]) ** 2).sum(2))
    apart[pieces.reshape(-1, 1) == pieces.reshape(1, -1)] = np.inf
    expected = np.minimum(apart.min(1), max(n * step for n, step in zip(shape, steps, strict=True)) / 2)
    expected[pieces.ravel() == 0] = 0
    assert np.allclose(found.ravel(), expected, rtol=1e-6)


def test_a_label_without_end() -> None:
    found = np.empty((2, 3, 4), np.float32)
    label_distances(np.ones((2, 3, 4), np.int32), np.array([10.0, 1.0, 1.0]), found)
    assert (found == 10).all()
