"""Triangles cut along the planes of a grid."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

F64 = NDArray[np.float64]
I32 = NDArray[np.int32]


@njit(cache=True, nogil=True)
def _grown(array, rows):  # type: ignore[no-untyped-def]
    more = np.empty((rows, array.shape[1]), array.dtype)
    more[: array.shape[0]] = array
    return more


@njit(cache=True, nogil=True)
def _middle(a, b, axis, plane, vertices, found, keys, values):  # type: ignore[no-untyped-def]
    """The vertex where the edge a b passes a plane, made if there is none yet: (its number, how many there are)."""
    low, high = min(a, b), max(a, b)
    key = np.int64(low) << 32 | np.int64(high)
    size = keys.size - 1
    at = (key * np.int64(0x5851F42D4C957F2D) >> 20) & size
    while keys[at] >= 0:
        if keys[at] == key:
            return values[at], found
        at = (at + 1) & size
    share = (plane - vertices[low, axis]) / (vertices[high, axis] - vertices[low, axis])
    for i in range(3):
        vertices[found, i] = vertices[low, i] + share * (vertices[high, i] - vertices[low, i])
    vertices[found, axis] = plane
    keys[at] = key
    values[at] = found
    return found, found + 1


@njit(cache=True, nogil=True)
def cut(vertices: F64, triangles: I32, axis: int, spacing: float):  # type: ignore[no-untyped-def]
    """The same surface (vertices f64[n, 3], triangles i32[m, 3]) without triangles that cross a plane.

    Planes are at the multiples of `spacing` along `axis`. Where an edge is cut, both its triangles get the same vertex,
    which lies exactly on the plane.
    """
    total = vertices.shape[0]
    size = 16
    # an edge of the surface is in two triangles, but triangles that are cut have inner edges which are cut again
    crossing_triangles = np.int64(0)
    for t in range(triangles.shape[0]):
        a, b, c = vertices[triangles[t, 0], axis], vertices[triangles[t, 1], axis], vertices[triangles[t, 2], axis]
        steps = np.ceil(max(a, b, c) / spacing) - np.floor(min(a, b, c) / spacing) - 1.0
        if steps > 0:
            crossing_triangles += np.int64(steps * (steps + 3.0))
    while size < 4 * crossing_triangles:
        size *= 2
    keys = np.full(size, -1, np.int64)
    values = np.empty(size, np.int32)
    places = _grown(vertices, total + 2 * crossing_triangles)
    out = np.empty((triangles.shape[0] + 3 * crossing_triangles, 3), np.int32)
    made = 0
    waiting = np.empty((64, 3), np.int32)
    for t in range(triangles.shape[0]):
        waiting[0] = triangles[t]
        left = 1
        while left:
            left -= 1
            a, b, c = waiting[left, 0], waiting[left, 1], waiting[left, 2]
            low = min(places[a, axis], places[b, axis], places[c, axis])
            high = max(places[a, axis], places[b, axis], places[c, axis])
            plane = (np.floor(low / spacing) + 1.0) * spacing
            if plane >= high:
                out[made, 0], out[made, 1], out[made, 2] = a, b, c
                made += 1
                continue
            # turn it so that a is alone on its side, or on the plane
            below = (places[a, axis] < plane, places[b, axis] < plane, places[c, axis] < plane)
            if places[a, axis] == plane:
                pass
            elif places[b, axis] == plane:
                a, b, c = b, c, a
            elif places[c, axis] == plane or (below[2] != below[0] and below[2] != below[1]):
                a, b, c = c, a, b
            elif below[1] != below[0] and below[1] != below[2]:
                a, b, c = b, c, a
            if waiting.shape[0] < left + 4:
                waiting = _grown(waiting, 2 * waiting.shape[0])
            if places[a, axis] == plane:
                m, total = _middle(b, c, axis, plane, places, total, keys, values)
                waiting[left, 0], waiting[left, 1], waiting[left, 2] = a, b, m
                waiting[left + 1, 0], waiting[left + 1, 1], waiting[left + 1, 2] = a, m, c
                left += 2
                continue
            m, total = _middle(a, b, axis, plane, places, total, keys, values)
            n, total = _middle(a, c, axis, plane, places, total, keys, values)
            waiting[left, 0], waiting[left, 1], waiting[left, 2] = a, m, n
            waiting[left + 1, 0], waiting[left + 1, 1], waiting[left + 1, 2] = m, b, c
            waiting[left + 2, 0], waiting[left + 2, 1], waiting[left + 2, 2] = m, c, n
            left += 3
    return places[:total].copy(), out[:made].copy()


@njit(cache=True, nogil=True)
def cells(vertices: F64, triangles: I32, counts: NDArray[np.int64]):  # type: ignore[no-untyped-def]
    """The cell i32[m, 3] of the unit grid of `counts` cells in which each triangle lies, if none crosses a plane."""
    out = np.empty(triangles.shape, np.int32)
    for t in range(triangles.shape[0]):
        for axis in range(3):
            low = min(
                vertices[triangles[t, 0], axis], vertices[triangles[t, 1], axis], vertices[triangles[t, 2], axis]
            )
            out[t, axis] = min(max(np.int64(np.floor(low)), 0), counts[axis] - 1)
    return out


@njit(cache=True, nogil=True)
def fragment(  # type: ignore[no-untyped-def]
    vertices: F64, triangles: I32, rows: NDArray[np.int64], number: I32, cell: I32, top: int
):
    """Some triangles, those of `rows`, as a mesh of its own: (vertices u32[k, 3], triangles u32[l, 3]).

    Vertices are rounded to the integers from 0 to `top` that divide the cell. `number` i32[n] is scratch, -1 everywhere
    before and after. Triangles of which two vertices fall together are left out, since they have no area.
    """
    used = np.empty(3 * rows.size, np.int32)
    places = np.empty((3 * rows.size, 3), np.uint32)
    out = np.empty((rows.size, 3), np.uint32)
    found = 0
    made = 0
    for row in rows:
        for k in range(3):
            v = triangles[row, k]
            if number[v] < 0:
                number[v] = found
                used[found] = v
                for axis in range(3):
                    q = np.floor((vertices[v, axis] - cell[axis]) * top + 0.5)
                    places[found, axis] = np.uint32(min(max(q, 0.0), np.float64(top)))
                found += 1
        a, b, c = number[triangles[row, 0]], number[triangles[row, 1]], number[triangles[row, 2]]
        if _same(places, a, b) or _same(places, b, c) or _same(places, c, a):
            continue
        out[made, 0], out[made, 1], out[made, 2] = a, b, c
        made += 1
    for i in range(found):
        number[used[i]] = -1
    return places[:found].copy(), out[:made].copy()


@njit(cache=True, nogil=True, inline="always")
def _same(places, a, b):  # type: ignore[no-untyped-def]
    return places[a, 0] == places[b, 0] and places[a, 1] == places[b, 1] and places[a, 2] == places[b, 2]
