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
