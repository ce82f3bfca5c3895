"""Simplification: fewer triangles, the same topology, within the error, borders as they were."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fascicle.kernels import decimation, marching_cubes, mesh_cells
from surface_checks import euler, is_closed, volume


def surface(inside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The surface around what is inside, in half voxels; open where it reaches the border."""
    _, vertices, _, triangles = marching_cubes.surfaces(inside.astype(np.int32), 1)
    return vertices.astype(np.float64), triangles


def simpler(vertices: np.ndarray, triangles: np.ndarray, error: float) -> tuple[np.ndarray, np.ndarray]:
    far = np.full(3, np.inf)
    return decimation.decimate(vertices.copy(), triangles, np.zeros(len(vertices), np.bool_), error, -far, far)


def ball(edge: int, radius: float) -> np.ndarray:
    grid = np.indices((edge, edge, edge)) - (edge - 1) / 2
    inside: np.ndarray = (grid**2).sum(axis=0) < radius**2
    return inside


def distances(points: np.ndarray, vertices: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """The distance of each point from the nearest of many points of the surface: never less than the true one."""
    shares = np.array([(i, j, 6 - i - j) for i in range(7) for j in range(7 - i)]) / 6
    samples = np.einsum("sk,tkx->tsx", shares, vertices[triangles]).reshape(-1, 3)
    return np.array([np.sqrt(((samples - point) ** 2).sum(axis=1).min()) for point in points])


def test_corner_table_is_what_neighbours_are() -> None:
    vertices, triangles = surface(ball(12, 4.3))
    vertex, opposite, corner = decimation.corner_table(triangles, len(vertices))
    edges = {}
    for t, triangle in enumerate(triangles.tolist()):
        for k in range(3):
            edges[triangle[(k + 1) % 3], triangle[(k + 2) % 3]] = 4 * t + k
    for (a, b), c in edges.items():
        assert opposite[c] == edges[b, a]
    assert all(vertex[corner[v]] == v for v in range(len(vertices)))


@pytest.mark.parametrize("error", [0.5, 1.0, 3.0])
def test_a_ball_stays_within_the_error(error: float) -> None:
    vertices, triangles = surface(ball(40, 16.4))
    few, faces = simpler(vertices, triangles, error)
    assert euler(few, faces) == 2
    assert len(faces) < len(triangles) / (2 if error < 3 else 6)
    assert volume(few, faces) == pytest.approx(volume(vertices, triangles), rel=0.03 * error)
    rng = np.random.default_rng(0)
    sample = vertices[rng.permutation(len(vertices))[:50]]
    slack = 0.2 * np.sqrt(volume(few, faces) ** (2 / 3) * 8 / len(faces))
    assert distances(sample, few, faces).max() < error + slack


def test_flat_sides_become_few_triangles() -> None:
    inside = np.zeros((30, 30, 30), np.bool_)
    inside[3:27, 3:27, 3:27] = True
    vertices, triangles = surface(inside)
    few, faces = simpler(vertices, triangles, 0.4)
    assert euler(few, faces) == 2
    assert len(faces) < len(triangles) / 5
    assert np.abs(few.min(axis=0) - vertices.min(axis=0)).max() <= 0.4
    assert np.abs(few.max(axis=0) - vertices.max(axis=0)).max() <= 0.4
    assert volume(few, faces) == pytest.approx(volume(vertices, triangles), rel=0.01)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.2, 0.8), st.floats(0.3, 20.0))
def test_topology_of_noise_is_kept(seed: int, filled: float, error: float) -> None:
    inside = np.pad(np.random.default_rng(seed).random((7, 7, 7)) < filled, 1)
    vertices, triangles = surface(inside)
    few, faces = simpler(vertices, triangles, error)
    assert euler(few, faces) == euler(vertices, triangles)


def test_borders_stay() -> None:
    inside = ball(24, 14.2)  # reaches over all sides
    vertices, triangles = surface(inside)
    side = ((vertices == 1) | (vertices == 2 * 24 - 1)).any(axis=1)
    assert side.any()
    few, faces = simpler(vertices, triangles, 4.0)
    assert len(faces) < len(triangles)
    before = {tuple(place) for place in vertices[side].tolist()}
    after = {tuple(place) for place in few[((few == 1) | (few == 2 * 24 - 1)).any(axis=1)].tolist()}
    assert before == after


def test_nothing_and_little() -> None:
    few, faces = simpler(np.zeros((0, 3)), np.zeros((0, 3), np.int32), 1.0)
    assert len(few) == len(faces) == 0
    tetrahedron = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], np.float64)
    faces = np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]], np.int32)
    assert len(simpler(tetrahedron, faces, 100.0)[1]) == 4


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("spacing", [1.0, 2.5, 40.0])
def test_cutting(axis: int, spacing: float) -> None:
    """Cut triangles cover the same surface, meet along the same edges, and cross no plane."""
    vertices, triangles = simpler(*surface(ball(20, 8.3)), 1.0)
    vertices = vertices + np.array([0.25, 0.5, 0.1])
    places, faces = mesh_cells.cut(vertices, triangles, axis, spacing)
    corners = places[faces][:, :, axis] / spacing
    assert (np.ceil(corners.max(axis=1)) - np.floor(corners.min(axis=1)) <= 1).all()
    assert euler(places, faces) == 2
    assert volume(places, faces) == pytest.approx(volume(vertices, triangles))
    assert len(faces) >= len(triangles)


def test_fragments_share_their_sides() -> None:
    vertices, triangles = simpler(*surface(ball(20, 8.3)), 1.0)
    scaled = vertices / 20.0
    for axis in range(3):
        scaled, triangles = mesh_cells.cut(scaled, triangles, axis, 1.0)
    cells = mesh_cells.cells(scaled, triangles, np.full(3, 2, np.int64))
    number = np.full(len(scaled), -1, np.int32)
    places, faces, count = [], [], 0
    for cell in np.unique(cells, axis=0):
        rows = np.flatnonzero((cells == cell).all(axis=1))
        part, corners = mesh_cells.fragment(scaled, triangles, rows, number, cell, 1023)
        assert (number == -1).all()
        places.append(part.astype(np.int64) + cell.astype(np.int64) * 1023)
        faces.append(corners.astype(np.int64) + count)
        count += len(part)
    whole, same = np.unique(np.concatenate(places), axis=0, return_inverse=True)
    assert is_closed(same.reshape(-1)[np.concatenate(faces)], len(whole))
