"""Surfaces that touch themselves, as stored meshes may: simplified without losing a triangle's vertices."""

from __future__ import annotations

import numpy as np
import pytest

from fascicle.kernels import decimation
from fascicle.kernels.surfaces import label_boxes, surface


def grid_sphere(steps: int = 14) -> tuple[np.ndarray, np.ndarray]:
    """The surface of a cube of squares, blown up to a ball: vertices f64[n, 3], triangles i32[m, 3], closed."""
    places: dict[tuple[int, ...], int] = {}
    triangles: list[tuple[int, ...]] = []
    for axis in range(3):
        for side in (0, steps):
            for i in range(steps):
                for j in range(steps):
                    square = []
                    for a, b in ((i, j), (i + 1, j), (i + 1, j + 1), (i, j + 1)):
                        place = [0, 0, 0]
                        place[axis], place[(axis + 1) % 3], place[(axis + 2) % 3] = side, a, b
                        square.append(places.setdefault(tuple(place), len(places)))
                    square = square if side else square[::-1]
                    triangles += [(square[0], square[1], square[2]), (square[0], square[2], square[3])]
    vertices = np.array(list(places), np.float64) / steps * 2 - 1
    vertices /= np.linalg.norm(vertices, axis=1)[:, None]
    return vertices * 100, np.array(triangles, np.int32)


@pytest.mark.parametrize("shared", [1, 2, 40])
def test_balls_that_touch(shared: int) -> None:
    """Two balls that have vertices in common, so that several fans meet there."""
    vertices, triangles = grid_sphere()
    count = len(vertices)
    second = np.arange(count, 2 * count, dtype=np.int32)
    second[:shared] = np.arange(shared)
    both = np.concatenate((triangles, second[triangles]))
    places = np.concatenate((vertices, vertices + np.array([200.0, 0, 0])))
    far = np.full(3, np.inf)
    for _ in range(3):
        made, faces = decimation.decimate(places.copy(), both, np.zeros(len(places), np.bool_), 10.0, -far, far)
        assert len(made) < count
        assert faces.min() >= 0
        assert faces.max() < len(made)
        assert np.isfinite(made).all()
        edges = np.sort(np.concatenate((faces[:, :2], faces[:, 1:], faces[:, ::2])), axis=1)
        assert (np.unique(edges, axis=0, return_counts=True)[1] % 2 == 0).all()  # still closed


@pytest.mark.parametrize("seed", range(3))
def test_stored_surfaces(seed: int) -> None:
    """What the demo stores has edges of four triangles."""
    noise = np.random.default_rng(seed)
    blocks = np.kron(noise.integers(0, 2, (5, 5, 5)), np.ones((3, 3, 3), np.int64)).astype(np.int32)
    vertices, triangles = surface(blocks, 1, label_boxes(blocks, 1)[1])
    edges = np.sort(np.concatenate((triangles[:, :2], triangles[:, 1:], triangles[:, ::2])), axis=1)
    assert np.unique(edges, axis=0, return_counts=True)[1].max() > 2
    far = np.full(3, np.inf)
    places = np.array(vertices, np.float64)
    locked = np.zeros(len(places), np.bool_)
    made, faces = decimation.decimate(places, np.array(triangles, np.int32), locked, 2.0, -far, far)
    assert len(made) < len(vertices)
    assert faces.max() < len(made)


@pytest.mark.parametrize("seed", range(6))
def test_any_triangles(seed: int) -> None:
    """Whatever the triangles are, those that are given back have vertices."""
    noise = np.random.default_rng(seed)
    places = noise.random((60, 3))
    triangles = noise.integers(0, 60, (400, 3)).astype(np.int32)
    far = np.full(3, np.inf)
    made, faces = decimation.decimate(places.copy(), triangles, np.zeros(60, np.bool_), 0.5, -far, far)
    assert not len(faces) or (faces.min() >= 0 and faces.max() < len(made))
