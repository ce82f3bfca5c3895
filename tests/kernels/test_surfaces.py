"""Surfaces of labels: closed, turned outwards, and where the voxels are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fascicle.kernels.surfaces import label_boxes, smooth, surface


def _volume(vertices: np.ndarray, triangles: np.ndarray) -> float:
    """The signed volume inside of a closed surface, positive if it is turned outwards."""
    a, b, c = (vertices[triangles[:, i]].astype(float) for i in range(3))
    return float(np.einsum("ij,ij->", a, np.cross(b, c)) / 6)


def _directed_edges(triangles: np.ndarray) -> np.ndarray:
    return np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]])


@settings(max_examples=60, deadline=None)
@given(arrays(np.int32, st.tuples(*[st.integers(1, 7)] * 3), elements=st.integers(0, 2)))
def test_every_edge_is_used_as_often_in_both_directions(labels: np.ndarray) -> None:
    boxes = label_boxes(labels, 2)
    for label in (1, 2):
        where = np.argwhere(labels == label)
        if where.size == 0:
            assert boxes[label, 0] == -1
            continue
        np.testing.assert_array_equal(boxes[label], [*where.min(0), *where.max(0)])
        vertices, triangles = surface(labels, label, boxes[label])
        edges, counts = np.unique(_directed_edges(triangles), axis=0, return_counts=True)
        found = {tuple(edge): count for edge, count in zip(edges.tolist(), counts.tolist(), strict=True)}
        assert all(found.get((b, a)) == count for (a, b), count in found.items())
        assert vertices.min() >= 0
        assert np.all(vertices.max(0) <= np.array(labels.shape[::-1]))


def test_a_ball_has_its_volume_and_place() -> None:
    z, y, x = np.ogrid[:40, :44, :48]
    labels = (((z - 18) ** 2 + (y - 20) ** 2 + (x - 24) ** 2) <= 14**2).astype(np.int32)
    vertices, triangles = surface(labels, 1, label_boxes(labels, 1)[1])
    assert _volume(vertices, triangles) == pytest.approx(labels.sum(), rel=0.03)
    np.testing.assert_allclose(vertices.mean(0), [24.5, 20.5, 18.5], atol=0.05)
    smooth(vertices, triangles, 3)
    assert _volume(vertices, triangles) == pytest.approx(labels.sum(), rel=0.06)
    radius = np.linalg.norm(vertices - [24.5, 20.5, 18.5], axis=1)
    assert radius.std() < 0.3


def test_volume_border_closes_the_surface() -> None:
    labels = np.ones((5, 6, 7), np.int32)
    vertices, triangles = surface(labels, 1, label_boxes(labels, 1)[1])
    assert _volume(vertices, triangles) == pytest.approx(5 * 6 * 7, rel=0.15)
    assert vertices.min() == pytest.approx(0, abs=0.51)
