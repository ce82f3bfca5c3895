"""Exact distances against all pairs."""

from __future__ import annotations

import numpy as np
import pytest

from fascicle.kernels.arrays import frozen
from fascicle.kernels.distance import FAR, squared_distances


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
