"""Loops for labels at points: points in groups by chunk, and labels of compressed segmentation without decoding it.

Points are i64[n, 3], x, y, z in voxels; `out` is u64[n].
"""

from __future__ import annotations

import numpy as np
from numba import njit

from fascicle.kernels.memory import load_u32, load_u64

PLACE_MASK = (1 << 21) - 1
MOST_EDGE = 1 << 21
"""Voxels along an edge of a chunk."""


@njit(cache=True, nogil=True)
def cells_of(points, offset, size, chunk, grid, cells):  # type: ignore[no-untyped-def]
    """The number of each point's chunk, x fastest, in `cells` i64[n]; -1 outside of the volume. Triples are x, y, z."""
    for i in range(points.shape[0]):
        x = points[i, 0] - offset[0]
        y = points[i, 1] - offset[1]
        z = points[i, 2] - offset[2]
        if x < 0 or y < 0 or z < 0 or x >= size[0] or y >= size[1] or z >= size[2]:
            cells[i] = -1
        else:
            cells[i] = x // chunk[0] + grid[0] * (y // chunk[1] + grid[1] * (z // chunk[2]))


@njit(cache=True, nogil=True, inline="always")
def _packed(points, i, offset, chunk):  # type: ignore[no-untyped-def]
    """A point's place in its chunk."""
    x = (points[i, 0] - offset[0]) % chunk[0]
    y = (points[i, 1] - offset[1]) % chunk[1]
    z = (points[i, 2] - offset[2]) % chunk[2]
    return x | y << 21 | z << 42


@njit(cache=True, nogil=True)
def places_of(points, offset, chunk, order, places):  # type: ignore[no-untyped-def]
    """Where the points of `order` are in their chunks, in `places` i64: x, y, z in 21 bits each, x lowest."""
    for k in range(order.size):
        places[k] = _packed(points, order[k], offset, chunk)


@njit(cache=True, nogil=True)
def grouped(cells, points, offset, chunk, starts, order, places):  # type: ignore[no-untyped-def]
    """Sort points by chunk: `order` i64[n] gets their numbers, those of chunk c from starts[c] to starts[c + 1], and
    `places` i64[n] what `places_of` tells.

    `starts` i64[chunks + 1] is zeros. Points outside of the volume are left out; returns how many there are inside.
    """
    for i in range(cells.size):
        if cells[i] >= 0:
            starts[cells[i] + 1] += 1
    for c in range(1, starts.size):
        starts[c] += starts[c - 1]
    inside = starts[starts.size - 1]
    # the starts are moved on to the ends, and back
    for i in range(cells.size):
        c = cells[i]
        if c >= 0:
            order[starts[c]] = i
            places[starts[c]] = _packed(points, i, offset, chunk)
            starts[c] += 1
    for c in range(starts.size - 1, 0, -1):
        starts[c] = starts[c - 1]
    starts[0] = 0
    return inside


@njit(cache=True, nogil=True)
def segmentation_at(words, block, shape, places, order, out, wide):  # type: ignore[no-untyped-def]
    """Labels of compressed segmentation, one header, one word and one table entry each.

    `words` u32 of one channel; `block` and `shape` (the chunk's) x, y, z; the label at places[k] goes to out[order[k]].
    False if an offset leads outside of the channel.
    """
    bx, by, bz = block[0], block[1], block[2]
    gx = (shape[0] + bx - 1) // bx
    gy = (shape[1] + by - 1) // by
    gz = (shape[2] + bz - 1) // bz
    size = np.int64(words.size)
    if 2 * gx * gy * gz > size:
        return False
    per_label = 2 if wide else 1
    for k in range(order.size):
        x = places[k] & PLACE_MASK
        y = places[k] >> 21 & PLACE_MASK
        z = places[k] >> 42
        cx, cy, cz = x // bx, y // by, z // bz
        at = 2 * (cx + gx * (cy + gy * cz))
        head = np.int64(words[at])
        table = head & 0xFFFFFF
        width = head >> 24
        if width > 0:
            if width not in (1, 2, 4, 8, 16, 32):
                return False
            bit = width * ((x - cx * bx) + bx * ((y - cy * by) + by * (z - cz * bz)))
            place = np.int64(words[at + 1]) + (bit >> 5)
            if place >= size:
                return False
            number = (np.int64(words[place]) >> (bit & 31)) & ((np.int64(1) << width) - 1)
            table += per_label * number
        if table + per_label > size:
            return False
        out[order[k]] = load_u64(words, 4 * table) if wide else np.uint64(load_u32(words, 4 * table))
    return True


@njit(cache=True, nogil=True)
def raw_at(voxels, places, order, out):  # type: ignore[no-untyped-def]
    """Voxels [z, y, x] of a chunk at its places: voxels[places[k]] goes to out[order[k]]."""
    for k in range(order.size):
        out[order[k]] = voxels[places[k] >> 42, places[k] >> 21 & PLACE_MASK, places[k] & PLACE_MASK]
