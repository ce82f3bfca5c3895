"""Exact Euclidean distances on small grids."""

from __future__ import annotations

import numpy as np
from numba import njit

FAR = 1 << 40
"""The squared distance where there is nothing to be near to."""


@njit(cache=True, nogil=True)
def squared_distances(inside):  # type: ignore[no-untyped-def]
    """For each voxel the squared distance (in voxels) to the nearest one that is inside: u8[z,y,x] -> i64[z,y,x].

    One axis after the other: the least of what the axes before found along each line plus the squared offset.
    """
    depth, height, width = inside.shape
    found = np.where(inside > 0, 0, FAR)
    line = np.empty(max(depth, height, width), np.int64)
    for axis in range(3):
        n = (width, height, depth)[axis]
        rows = (height, width, width)[axis]
        columns = (depth, depth, height)[axis]
        for a in range(columns):
            for b in range(rows):
                for i in range(n):
                    line[i] = found[a, b, i] if axis == 0 else found[a, i, b] if axis == 1 else found[i, a, b]
                for i in range(n):
                    least = line[i]
                    reach = 1
                    while reach < n and reach * reach < least:
                        if i >= reach:
                            least = min(least, line[i - reach] + reach * reach)
                        if i + reach < n:
                            least = min(least, line[i + reach] + reach * reach)
                        reach += 1
                    if axis == 0:
                        found[a, b, i] = least
                    elif axis == 1:
                        found[a, i, b] = least
                    else:
                        found[i, a, b] = least
    return found


_TILE = 16
_ENDLESS = np.float32(1e15)
"""The squared distance, in nm, where no other label is seen along the axes so far."""


@njit(cache=True, nogil=True)
def _envelope(labels, values, n, step, places, borders, heights):  # type: ignore[no-untyped-def]
    """Lower the values f32[n] of one line: the least of value plus squared offset within each run of one label.

    Beyond either end of a run lies another label, at distance 0; beyond the ends of the line lies nothing.
    """
    square = step * step
    a = 0
    while a < n:
        label = labels[a]
        b = a + 1
        while b < n and labels[b] == label:
            b += 1
        if label == 0:
            a = b
            continue
        last = -1
        for i in range(a - 1 if a > 0 else a, b + 1 if b < n else b):
            value = np.float64(0.0)
            if a <= i < b:
                value = np.float64(values[i])
            while last >= 0:
                apart = i - places[last]
                # where the parabola of i begins to be below that of the last one
                meeting = (value - heights[last]) / (2.0 * square * apart) + 0.5 * (i + places[last])
                if meeting > borders[last]:
                    last += 1
                    places[last], heights[last], borders[last] = i, value, meeting
                    break
                last -= 1
            if last < 0:
                last = 0
                places[0], heights[0], borders[0] = i, value, -1e30
        k = 0
        for i in range(a, b):
            while k < last and borders[k + 1] < i:
                k += 1
            apart = i - places[k]
            values[i] = heights[k] + square * apart * apart
        a = b


@njit(cache=True, nogil=True)
def label_distances(pieces, steps_zyx, distances):  # type: ignore[no-untyped-def]
    """For each voxel of i32[z,y,x] the distance to the nearest one of another number: f32[z,y,x], 0 where it is 0.

    Distances are exact, between the centres of voxels, `steps_zyx` f64[3] apart. What lies beyond the volume is not
    known and counts for nothing; where that leaves a voxel without any distance it gets half of the longest side.

    One axis after the other, by lower envelopes of parabolas (P. Felzenszwalb and D. Huttenlocher, "Distance
    transforms of sampled functions", 2012), within the runs of each label.
    """
    depth, height, width = pieces.shape
    longest = max(depth, height, width)
    step_x = steps_zyx[2]
    for z in range(depth):
        for y in range(height):
            a = 0
            while a < width:
                label = pieces[z, y, a]
                b = a + 1
                while b < width and pieces[z, y, b] == label:
                    b += 1
                if label == 0:
                    distances[z, y, a:b] = 0
                elif a == 0 and b == width:
                    distances[z, y, a:b] = _ENDLESS
                else:
                    for x in range(a, b):
                        reach = b - x
                        if b == width or (a > 0 and x - a + 1 < reach):
                            reach = x - a + 1
                        distances[z, y, x] = np.float32((reach * step_x) * (reach * step_x))
                a = b
    tile = np.empty((_TILE, longest), np.float32)
    names = np.empty((_TILE, longest), np.int32)
    places, borders = np.empty(longest + 2, np.int64), np.empty(longest + 2, np.float64)
    heights = np.empty(longest + 2, np.float64)
    for axis in range(2):
        n = height if axis == 0 else depth
        if n == 1:
            continue
        for outer in range(depth if axis == 0 else height):
            for x0 in range(0, width, _TILE):
                wide = min(_TILE, width - x0)
                for i in range(n):
                    z, y = (outer, i) if axis == 0 else (i, outer)
                    for k in range(wide):
                        tile[k, i] = distances[z, y, x0 + k]
                        names[k, i] = pieces[z, y, x0 + k]
                for k in range(wide):
                    _envelope(names[k], tile[k], n, steps_zyx[1 - axis], places, borders, heights)
                for i in range(n):
                    z, y = (outer, i) if axis == 0 else (i, outer)
                    for k in range(wide):
                        distances[z, y, x0 + k] = tile[k, i]
    most = 0.5 * max(depth * steps_zyx[0], height * steps_zyx[1], width * steps_zyx[2])
    for z in range(depth):
        for y in range(height):
            for x in range(width):
                distances[z, y, x] = min(np.sqrt(np.float64(distances[z, y, x])), most)
