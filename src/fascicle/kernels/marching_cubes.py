"""Surfaces of all labels of a block at once: marching cubes on labels.

W. E. Lorensen and H. E. Cline, "Marching cubes" (1987), for voxels that are inside of a label or not. The tables are
derived here: on every face of a cell the corners that are inside are cut off from those that are not, and corners that
are inside but touch along a diagonal only are kept apart. This depends on the face alone, so neighbouring cells
always agree and every label has a closed surface. The loops that these cuts make are filled with triangles none of
whose inner edges lies in a face, so every edge belongs to two triangles and the surface is a manifold.

Vertices are in the middle between two voxel centres: integers, if counted in half voxels. Voxel i reaches from 2 i to
2 i + 2, its centre is at 2 i + 1.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise

import numpy as np
from numba import njit
from numpy.typing import NDArray

I32 = NDArray[np.int32]
I64 = NDArray[np.int64]

# Corner c of a cell is at x = c & 1, y = c >> 1 & 1, z = c >> 2. Edges 0 to 3 go along x, 4 to 7 along y, 8 to 11
# along z; within each group the lower bit of the number is the first of the other two coordinates.
_EDGES = tuple(
    [(2 * a + 4 * b, 2 * a + 4 * b + 1) for b in (0, 1) for a in (0, 1)]
    + [(a + 4 * b, a + 4 * b + 2) for b in (0, 1) for a in (0, 1)]
    + [(a + 2 * b, a + 2 * b + 4) for b in (0, 1) for a in (0, 1)]
)
_FACES = ((0, 2, 6, 4), (1, 5, 7, 3), (0, 4, 5, 1), (2, 3, 7, 6), (0, 1, 3, 2), (4, 6, 7, 5))
"""Corners of each face, counter-clockwise seen from inside of the cell."""
_NUMBER = {frozenset(edge): number for number, edge in enumerate(_EDGES)}
MOST_TRIANGLES = 5


def _loops(mask: int) -> list[list[int]]:
    """The loops of edges along which the surface around the corners of a mask passes through the faces of a cell."""
    following: dict[int, int] = {}
    for face in _FACES:
        inside = [bool(mask >> corner & 1) for corner in face]
        for at in range(4):
            if inside[at] and not inside[at - 1]:  # a run of corners inside begins: cut it off up to its end
                end = at
                while inside[(end + 1) % 4] and (end + 1) % 4 != at:
                    end = (end + 1) % 4
                first = _NUMBER[frozenset((face[at - 1], face[at]))]
                last = _NUMBER[frozenset((face[end], face[(end + 1) % 4]))]
                following[first] = last
    loops = []
    while following:
        start, at = following.popitem()
        loop = [start]
        while at != start:
            loop.append(at)
            at = following.pop(at)
        loops.append(loop)
    return loops


def _share_face(a: int, b: int) -> bool:
    corners = {*_EDGES[a], *_EDGES[b]}
    return any(corners <= set(face) for face in _FACES)


def _middle(edge: int) -> tuple[float, ...]:
    a, b = _EDGES[edge]
    return tuple(((a >> axis & 1) + (b >> axis & 1)) / 2 for axis in range(3))


def _filled(loop: tuple[int, ...]) -> tuple[tuple[int, float], list[tuple[int, int, int]]]:
    """The best way to fill a loop: ((inner edges that lie in a face, their length), triangles)."""

    @lru_cache(None)
    def best(first: int, last: int) -> tuple[tuple[int, float], tuple[tuple[int, int, int], ...]]:
        if last - first < 2:
            return (0, 0.0), ()
        found = []
        for apex in range(first + 1, last):
            bad, length = 0, 0.0
            triangles: tuple[tuple[int, int, int], ...] = ((loop[first], loop[last], loop[apex]),)
            for a, b in pairwise((first, apex, last)):
                if b - a > 1:
                    bad += _share_face(loop[a], loop[b])
                    length += float(np.linalg.norm(np.subtract(_middle(loop[a]), _middle(loop[b]))))
                (more_bad, more_length), more = best(a, b)
                bad, length, triangles = bad + more_bad, length + more_length, triangles + more
            found.append(((bad, length), triangles))
        return min(found)

    cost, triangles = best(0, len(loop) - 1)
    return cost, list(triangles)


def tables() -> tuple[NDArray[np.int8], I64]:
    """For each mask of corners inside: edges i8[256, 3 * MOST_TRIANGLES] of its triangles, and their number i64[256].

    Triangles are counter-clockwise seen from outside of the label.
    """
    edges = np.zeros((256, 3 * MOST_TRIANGLES), np.int8)
    counts = np.zeros(256, np.int64)
    for mask in range(1, 255):
        triangles: list[tuple[int, int, int]] = []
        for loop in _loops(mask):
            (bad, _), found = _filled(tuple(loop))
            if bad:
                raise AssertionError(f"no manifold way to fill the loop {loop} of mask {mask}")
            triangles += found
        counts[mask] = len(triangles)
        edges[mask, : 3 * len(triangles)] = np.array(triangles, np.int8).ravel()
    return edges, counts


_TABLES: list[tuple[NDArray[np.int8], I64]] = []


def _tables() -> tuple[NDArray[np.int8], I64]:
    if not _TABLES:
        _TABLES.append(tables())
    return _TABLES[0]


@njit(cache=True, nogil=True)
def _number_labels(labels, numbers, ids, counts, table_keys, table_values):  # type: ignore[no-untyped-def]
    """Fill `numbers` [z, y, x]; how many labels there are, or -1 if the tables are too small."""
    size = np.uint64(table_keys.size - 1)
    found = 0
    depth, height, width = labels.shape
    for z in range(depth):
        for y in range(height):
            last_label = np.uint64(0)
            last = np.int32(0)
            for x in range(width):
                label = np.uint64(labels[z, y, x])
                if label != last_label:
                    last_label = label
                    if label == np.uint64(0):
                        last = np.int32(0)
                    else:
                        at = (label * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(40) & size
                        while table_keys[at] != label and table_keys[at] != np.uint64(0):
                            at = (at + np.uint64(1)) & size
                        if table_keys[at] == np.uint64(0):
                            if 2 * (found + 1) > table_keys.size:
                                return -1
                            table_keys[at] = label
                            ids[found] = label
                            counts[found] = 0
                            found += 1
                            table_values[at] = found
                        last = table_values[at]
                numbers[z, y, x] = last
                if last:
                    counts[last - 1] += 1
    return found


def number_labels(labels: NDArray[np.unsignedinteger]) -> tuple[I32, NDArray[np.uint64], I64]:
    """Labels u[z, y, x] as numbers i32[z, y, x] (0 for label 0, else a place in the list plus 1), the ascending list
    u64[n] of labels, and how many voxels i64[n] each has.
    """
    numbers = np.empty(labels.shape, np.int32)
    size = 1 << 12
    while True:
        ids, counts = np.empty(size, np.uint64), np.empty(size, np.int64)
        found = _number_labels(
            labels, numbers, ids, counts, np.zeros(size, np.uint64), np.zeros(size, np.int32)
        )
        if found >= 0:
            break
        size *= 8
    order = np.argsort(ids[:found])
    ranks = np.zeros(found + 1, np.int32)
    ranks[order + 1] = np.arange(1, found + 1, dtype=np.int32)
    renumber(numbers.reshape(-1), ranks)
    return numbers, ids[:found][order], counts[:found][order]


@njit(cache=True, nogil=True)
def renumber(numbers: I32, ranks: I32) -> None:
    """Replace each of `numbers` i32[n] by what stands at its place in `ranks`."""
    for i in range(numbers.size):
        numbers[i] = ranks[numbers[i]]


@njit(cache=True, nogil=True)
def _count(numbers, count, triangle_counts):  # type: ignore[no-untyped-def]
    """How many vertices and triangles each label has: i64[count + 1] each, [0] unused."""
    vertices = np.zeros(count + 1, np.int64)
    triangles = np.zeros(count + 1, np.int64)
    depth, height, width = numbers.shape
    corner = np.empty(8, np.int32)
    for z in range(depth):
        for y in range(height):
            for x in range(width):
                here = numbers[z, y, x]
                if x + 1 < width and numbers[z, y, x + 1] != here:
                    vertices[here] += 1
                    vertices[numbers[z, y, x + 1]] += 1
                if y + 1 < height and numbers[z, y + 1, x] != here:
                    vertices[here] += 1
                    vertices[numbers[z, y + 1, x]] += 1
                if z + 1 < depth and numbers[z + 1, y, x] != here:
                    vertices[here] += 1
                    vertices[numbers[z + 1, y, x]] += 1
                if x + 1 == width or y + 1 == height or z + 1 == depth:
                    continue
                corner[0] = here
                corner[1] = numbers[z, y, x + 1]
                corner[2] = numbers[z, y + 1, x]
                corner[3] = numbers[z, y + 1, x + 1]
                corner[4] = numbers[z + 1, y, x]
                corner[5] = numbers[z + 1, y, x + 1]
                corner[6] = numbers[z + 1, y + 1, x]
                corner[7] = numbers[z + 1, y + 1, x + 1]
                if _all_equal(corner):
                    continue
                done = 0
                for first in range(8):
                    label = corner[first]
                    if done >> first & 1 or label == 0:
                        continue
                    mask = 0
                    for c in range(first, 8):
                        if corner[c] == label:
                            mask |= 1 << c
                    done |= mask
                    triangles[label] += triangle_counts[mask]
    return vertices, triangles


@njit(cache=True, nogil=True, inline="always")
def _all_equal(corner):  # type: ignore[no-untyped-def]
    a = corner[0]
    return (
        corner[1] == a and corner[2] == a and corner[3] == a and corner[4] == a
        and corner[5] == a and corner[6] == a and corner[7] == a
    )  # fmt: skip


@njit(cache=True, nogil=True, inline="always")
def _add_vertex(slots, plane, y, x, low, high, position, at, first, px, py, pz):  # type: ignore[no-untyped-def]
    """Vertices on an edge between two voxels, one for each of their labels; numbered within the label."""
    if low:
        i = at[low]
        position[i, 0], position[i, 1], position[i, 2] = px, py, pz
        slots[plane, y, x, 0] = i - first[low]
        at[low] = i + 1
    if high:
        i = at[high]
        position[i, 0], position[i, 1], position[i, 2] = px, py, pz
        slots[plane, y, x, 1] = i - first[high]
        at[high] = i + 1


@njit(cache=True, nogil=True)
def _emit(numbers, first_vertex, first_triangle, vertices, triangles, table, counts):  # type: ignore[no-untyped-def]
    depth, height, width = numbers.shape
    vertex_at, triangle_at = first_vertex.copy(), first_triangle.copy()
    along_x = np.empty((2, height, width, 2), np.int32)
    along_y = np.empty((2, height, width, 2), np.int32)
    along_z = np.empty((1, height, width, 2), np.int32)
    corner = np.empty(8, np.int32)
    for z in range(depth):
        plane = z & 1
        for y in range(height):
            for x in range(width):
                here = numbers[z, y, x]
                if x + 1 < width and numbers[z, y, x + 1] != here:
                    _add_vertex(along_x, plane, y, x, here, numbers[z, y, x + 1], vertices, vertex_at, first_vertex,
                                2 * x + 2, 2 * y + 1, 2 * z + 1)  # fmt: skip
                if y + 1 < height and numbers[z, y + 1, x] != here:
                    _add_vertex(along_y, plane, y, x, here, numbers[z, y + 1, x], vertices, vertex_at, first_vertex,
                                2 * x + 1, 2 * y + 2, 2 * z + 1)  # fmt: skip
        if z == 0:
            continue
        for y in range(height):
            for x in range(width):
                below = numbers[z - 1, y, x]
                if numbers[z, y, x] != below:
                    _add_vertex(along_z, 0, y, x, below, numbers[z, y, x], vertices, vertex_at, first_vertex,
                                2 * x + 1, 2 * y + 1, 2 * z)  # fmt: skip
        for y in range(height - 1):
            for x in range(width - 1):
                corner[0] = numbers[z - 1, y, x]
                corner[1] = numbers[z - 1, y, x + 1]
                corner[2] = numbers[z - 1, y + 1, x]
                corner[3] = numbers[z - 1, y + 1, x + 1]
                corner[4] = numbers[z, y, x]
                corner[5] = numbers[z, y, x + 1]
                corner[6] = numbers[z, y + 1, x]
                corner[7] = numbers[z, y + 1, x + 1]
                if _all_equal(corner):
                    continue
                done = 0
                for first in range(8):
                    label = corner[first]
                    if done >> first & 1 or label == 0:
                        continue
                    mask = 0
                    for c in range(first, 8):
                        if corner[c] == label:
                            mask |= 1 << c
                    done |= mask
                    out = triangle_at[label]
                    for i in range(counts[mask]):
                        for j in range(3):
                            edge = table[mask, 3 * i + j]
                            a, b = edge & 1, edge >> 1 & 1
                            if edge < 4:
                                side = 1 - (mask >> (2 * a + 4 * b) & 1)
                                found = along_x[(plane + 1 + b) & 1, y + a, x, side]
                            elif edge < 8:
                                side = 1 - (mask >> (a + 4 * b) & 1)
                                found = along_y[(plane + 1 + b) & 1, y, x + a, side]
                            else:
                                side = 1 - (mask >> (a + 2 * b) & 1)
                                found = along_z[0, y + b, x + a, side]
                            triangles[out + i, j] = found
                    triangle_at[label] = out + counts[mask]


def surfaces(numbers: I32, count: int) -> tuple[I64, I32, I64, I32]:
    """The surfaces of the labels 1 to `count` in a block i32[z, y, x] of labels' numbers.

    Gives (first_vertex i64[count + 2], vertices i32[n, 3], first_triangle i64[count + 2], triangles i32[m, 3]): label
    k has the vertices `first_vertex[k]:first_vertex[k + 1]` (x, y, z in half voxels from the block's corner) and
    triangles likewise, whose vertices are counted from the label's first. Triangles are counter-clockwise seen from
    outside of the label. Surfaces end at the centres of the block's outermost voxels: there they are open, and join
    those of a block that begins with the same voxels.
    """
    table, counts = _tables()
    vertex_counts, triangle_counts = _count(numbers, count, counts)
    vertex_counts[0] = triangle_counts[0] = 0
    first_vertex = np.concatenate([[0], np.cumsum(vertex_counts)])
    first_triangle = np.concatenate([[0], np.cumsum(triangle_counts)])
    vertices = np.empty((first_vertex[-1], 3), np.int32)
    triangles = np.empty((first_triangle[-1], 3), np.int32)
    _emit(numbers, first_vertex, first_triangle, vertices, triangles, table, counts)
    return first_vertex, vertices, first_triangle, triangles
