"""What tests ask of triangle meshes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def euler(vertices: NDArray[Any], triangles: NDArray[Any]) -> int:
    """The Euler characteristic of a closed manifold; fails if the mesh is none: every edge has one triangle on each
    side, and these go around it in opposite ways.
    """
    edges = np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]]).astype(np.int64)
    forward, backward = edges[:, 0] * len(vertices) + edges[:, 1], edges[:, 1] * len(vertices) + edges[:, 0]
    assert len(np.unique(forward)) == len(forward), "an edge has several triangles on one side"
    assert np.array_equal(np.sort(forward), np.sort(backward)), "an edge has a triangle on one side only"
    return len(np.unique(triangles)) - len(forward) // 2 + len(triangles)


def volume(vertices: NDArray[Any], triangles: NDArray[Any]) -> float:
    """What a closed mesh encloses; negative if its triangles are clockwise seen from outside."""
    a, b, c = (np.asarray(vertices, np.float64)[triangles[:, corner]] for corner in range(3))
    return float(np.einsum("ij,ij->i", a, np.cross(b, c)).sum() / 6)


def welded(parts: Sequence[tuple[NDArray[Any], NDArray[Any]]], step: float) -> tuple[NDArray[Any], NDArray[Any]]:
    """Several meshes as one: vertices at the same multiple of `step` become one."""
    starts = np.cumsum([0, *(len(vertices) for vertices, _ in parts)]).tolist()
    keys = np.rint(np.concatenate([vertices for vertices, _ in parts]) / step).astype(np.int64)
    places, number = np.unique(keys, axis=0, return_inverse=True)
    triangles = [part.astype(np.int64) + start for (_, part), start in zip(parts, starts, strict=False)]
    return places * step, number.reshape(-1)[np.concatenate(triangles)]


def is_closed(triangles: NDArray[Any], count: int) -> bool:
    """Whether every edge is passed as often in one way as in the other: what clipping keeps of a closed surface."""
    edges = np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]]).astype(np.int64)
    forward, ahead = np.unique(edges[:, 0] * count + edges[:, 1], return_counts=True)
    backward, behind = np.unique(edges[:, 1] * count + edges[:, 0], return_counts=True)
    return np.array_equal(forward, backward) and np.array_equal(ahead, behind)
