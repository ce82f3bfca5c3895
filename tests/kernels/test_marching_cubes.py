"""Marching cubes: the surfaces enclose exactly the labels, are manifolds, and meet at the borders of blocks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fascicle.kernels import marching_cubes
from surface_checks import euler, volume


def surface(labels: np.ndarray, label: int) -> tuple[np.ndarray, np.ndarray]:
    numbers, ids, _ = marching_cubes.number_labels(np.pad(labels, 1))
    first_vertex, vertices, first_triangle, triangles = marching_cubes.surfaces(numbers, len(ids))
    k = int(np.searchsorted(ids, label)) + 1
    return vertices[first_vertex[k] : first_vertex[k + 1]], triangles[first_triangle[k] : first_triangle[k + 1]]


def slow_volume(inside: np.ndarray) -> float:
    """What the surface encloses, in half voxels cubed: the volumes cut from each cell of 2 x 2 x 2 voxel centres."""
    padded = np.pad(inside, 1)
    total = 0.0
    table, counts = marching_cubes.tables()
    cells = [padded[dz : padded.shape[0] - 1 + dz, dy : padded.shape[1] - 1 + dy, dx : padded.shape[2] - 1 + dx]
             for dz in (0, 1) for dy in (0, 1) for dx in (0, 1)]  # fmt: skip
    masks = sum(cell.astype(int) << corner for corner, cell in enumerate(cells))
    edges = np.array([marching_cubes._middle(edge) for edge in range(12)]) * 2
    for (z, y, x), mask in np.ndenumerate(masks):
        for i in range(counts[mask]):
            a, b, c = edges[table[mask, 3 * i : 3 * i + 3]] + 2 * np.array([x, y, z])
            total += float(a @ np.cross(b, c)) / 6
    return total


def test_every_case_is_closed() -> None:
    """All 256 cells: what is cut off at the faces is the same seen from both sides, so any neighbours fit."""
    table, counts = marching_cubes.tables()
    assert counts[0] == counts[255] == 0
    for mask in range(256):
        triangles = table[mask, : 3 * counts[mask]].reshape(-1, 3)
        crossed = {e for e, (a, b) in enumerate(marching_cubes._EDGES) if (mask >> a & 1) != (mask >> b & 1)}
        assert set(triangles.ravel().tolist()) == crossed
        ways = [(t[i], t[(i + 1) % 3]) for t in triangles.tolist() for i in range(3)]
        assert len(set(ways)) == len(ways)
        for a, b in ways:  # an edge without a partner lies in a face
            if (b, a) not in ways:
                assert marching_cubes._share_face(a, b)
            else:
                assert not marching_cubes._share_face(a, b)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.floats(0.1, 0.9))
def test_random_labels(seed: int, count: int, filled: float) -> None:
    """The hardest case: noise. Surfaces of all labels are manifolds and enclose what the cells say."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(1, count + 1, (4, 5, 6), dtype=np.uint32) * (rng.random((4, 5, 6)) < filled)
    for label in np.unique(labels[labels > 0]).tolist():
        vertices, triangles = surface(labels.astype(np.uint32), label)
        euler(vertices, triangles)
        assert volume(vertices, triangles) == pytest.approx(slow_volume(labels == label))


def test_known_shapes() -> None:
    block = np.zeros((8, 9, 10), np.uint64)
    block[2:6, 2:7, 2:8] = 1 << 40
    vertices, triangles = surface(block, 1 << 40)
    assert euler(vertices, triangles) == 2
    assert vertices.min(axis=0).tolist() == [6, 6, 6]  # padded by one voxel: 2 * 3
    assert vertices.max(axis=0).tolist() == [18, 16, 14]
    # a cuboid less its bevelled edges and corners
    assert 0.9 * 8 * 120 < volume(vertices, triangles) < 8 * 120
    block[2:6, 4, 4] = 0  # a hole right through
    assert euler(*surface(block, 1 << 40)) == 0
    block[2:6, 4, 4] = 7
    assert euler(*surface(block, 7)) == 2
    assert euler(*surface(block, 1 << 40)) == 0
    block[3:5, 3, 6] = 0
    assert euler(*surface(block, 1 << 40)) == 2  # and a hollow


def test_blocks_meet() -> None:
    """Cut into blocks that share a layer of voxels, the surface has the same triangles, each exactly once."""
    rng = np.random.default_rng(3)
    labels = np.pad(rng.integers(0, 3, (9, 8, 11), dtype=np.uint32), 1)

    def triangles_of(low: list[int], high: list[int]) -> list[tuple[object, ...]]:
        part = np.ascontiguousarray(labels[tuple(slice(a, b) for a, b in zip(low, high, strict=True))])
        numbers, ids, _ = marching_cubes.number_labels(part)
        first_vertex, vertices, first_triangle, triangles = marching_cubes.surfaces(numbers, len(ids))
        found = []
        for k, label in enumerate(ids.tolist(), start=1):
            places = vertices[first_vertex[k] : first_vertex[k + 1]] + 2 * np.array(low[::-1])
            for corners in places[triangles[first_triangle[k] : first_triangle[k + 1]]].tolist():
                found.append((label, *map(tuple, corners)))
        return found

    whole = triangles_of([0, 0, 0], list(labels.shape))
    parts = []
    for z in (0, 5):
        for y in (0, 4):
            for x in (0, 6):
                stops = [min(a + n + 1, s) for a, n, s in zip((z, y, x), (5, 4, 6), labels.shape, strict=True)]
                stops = [s if stop + 1 >= s else stop for stop, s in zip(stops, labels.shape, strict=True)]
                if z:
                    stops[0] = labels.shape[0]
                if y:
                    stops[1] = labels.shape[1]
                if x:
                    stops[2] = labels.shape[2]
                parts += triangles_of([z, y, x], stops)
    assert sorted(parts) == sorted(whole)


@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=60))
def test_numbers(values: list[int]) -> None:
    labels = np.array(values, np.uint64).reshape(1, 1, -1)
    numbers, ids, counts = marching_cubes.number_labels(labels)
    present, expected = np.unique(labels[labels > 0], return_counts=True)
    assert np.array_equal(ids, present)
    assert np.array_equal(counts, expected)
    assert np.array_equal(np.concatenate([[np.uint64(0)], ids])[numbers], labels)


def test_many_labels() -> None:
    labels = np.arange(20**3, dtype=np.uint32).reshape(20, 20, 20)
    numbers, ids, _ = marching_cubes.number_labels(labels)
    assert len(ids) == 7999
    assert np.array_equal(numbers, labels.astype(np.int32))
