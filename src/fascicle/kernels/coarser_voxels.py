"""Voxels at a coarser scale, from dense ones: each stands for a cell of 1 or 2 voxels per axis.

Boxes lie in flat arrays: they begin at an element `first`, rows are `row` and planes `plane` elements apart. Sizes nz,
ny, nx are those of the finer box; the coarser one has half as many along axes that are halved (`fz`, `fy`, `fx` are 1
or 2), rounded up. Where a cell reaches past the end of the box, only voxels that exist count.
"""

from __future__ import annotations

import numpy as np
from numba import njit

FOREGROUND = 0
"""Of the labels other than 0 the most frequent, of equally frequent ones the smallest; 0 if there is no other."""
MAJORITY = 1
"""The most frequent label, 0 like any other; of equally frequent ones the smallest."""
THIN = 2
"""Of the labels other than 0 in the cell, the one with the fewest voxels in the block of 8 x 8 x 8 around it."""


@njit(cache=True, nogil=True)
def _winner(group, rule):  # type: ignore[no-untyped-def]
    """The label that stands for eight voxels u64[8]."""
    best = np.uint64(0)
    best_count = 0
    for i in range(8):
        label = group[i]
        if (label == np.uint64(0) and rule == FOREGROUND) or (best_count and label == best):
            continue
        count = 0
        for j in range(8):
            if group[j] == label:
                count += 1
        if count > best_count or (count == best_count and label < best):
            best = label
            best_count = count
    return best


@njit(cache=True, nogil=True)
def halve_labels(  # type: ignore[no-untyped-def]
    source, first, row, plane, nz, ny, nx, fz, fy, fx, target, at, to_row, to_plane, rule
):
    """The coarser labels of a box by the rule FOREGROUND or MAJORITY."""
    group = np.empty(8, np.uint64)
    for z in range((nz + fz - 1) // fz):
        z0 = first + z * fz * plane
        z1 = z0 + plane if fz == 2 and 2 * z + 1 < nz else z0
        for y in range((ny + fy - 1) // fy):
            y0 = y * fy * row
            y1 = y0 + row if fy == 2 and 2 * y + 1 < ny else y0
            a, b, c, d = z0 + y0, z0 + y1, z1 + y0, z1 + y1
            out = at + z * to_plane + y * to_row
            if fx == 1:
                for x in range(nx):
                    p, q, r, s = source[a + x], source[b + x], source[c + x], source[d + x]
                    if (p ^ q) | (p ^ r) | (p ^ s) == 0:
                        target[out + x] = p
                        continue
                    group[0] = group[1] = p
                    group[2] = group[3] = q
                    group[4] = group[5] = r
                    group[6] = group[7] = s
                    target[out + x] = _winner(group, rule)
                continue
            for x in range(nx // 2):
                p, q, r, s = source[a], source[b], source[c], source[d]
                different = (p ^ q) | (p ^ r) | (p ^ s) | (p ^ source[a + 1])
                different |= (q ^ source[b + 1]) | (r ^ source[c + 1]) | (s ^ source[d + 1])
                if different == 0:
                    target[out + x] = p
                else:
                    group[0], group[1] = p, source[a + 1]
                    group[2], group[3] = q, source[b + 1]
                    group[4], group[5] = r, source[c + 1]
                    group[6], group[7] = s, source[d + 1]
                    target[out + x] = _winner(group, rule)
                a += 2
                b += 2
                c += 2
                d += 2
            if nx & 1:
                group[0] = group[1] = source[a]
                group[2] = group[3] = source[b]
                group[4] = group[5] = source[c]
                group[6] = group[7] = source[d]
                target[out + nx // 2] = _winner(group, rule)


@njit(cache=True, nogil=True)
def _count(source, first, row, plane, nz, ny, nx, found, counts):  # type: ignore[no-untyped-def]
    """The distinct labels of a block and how many voxels each has; how many labels there are."""
    n = 0
    k = 0
    for z in range(nz):
        for y in range(ny):
            at = first + z * plane + y * row
            for x in range(nx):
                label = np.uint64(source[at + x])
                if n == 0 or found[k] != label:
                    k = 0
                    while k < n and found[k] != label:
                        k += 1
                    if k == n:
                        found[k] = label
                        counts[k] = 0
                        n += 1
                counts[k] += 1
    return n


@njit(cache=True, nogil=True)
def _rarest(group, found, counts, n):  # type: ignore[no-untyped-def]
    best = np.uint64(0)
    fewest = 1 << 30
    for i in range(8):
        label = group[i]
        if label == np.uint64(0) or label == best:
            continue
        k = 0
        while found[k] != label:
            k += 1
        if counts[k] < fewest or (counts[k] == fewest and label < best):
            best, fewest = label, counts[k]
    return best


@njit(cache=True, nogil=True)
def thin_labels(  # type: ignore[no-untyped-def]
    source, first, row, plane, nz, ny, nx, fz, fy, fx, target, at, to_row, to_plane
):
    """The coarser labels of a box by the rule THIN. Blocks are counted from the corner of the box."""
    group = np.empty(8, np.uint64)
    found = np.empty(512, np.uint64)
    counts = np.empty(512, np.int64)
    for bz in range(0, nz, 8):
        for by in range(0, ny, 8):
            for bx in range(0, nx, 8):
                ez, ey, ex = min(bz + 8, nz), min(by + 8, ny), min(bx + 8, nx)
                corner = first + bz * plane + by * row + bx
                n = _count(source, corner, row, plane, ez - bz, ey - by, ex - bx, found, counts)
                for z in range(bz, ez, fz):
                    for y in range(by, ey, fy):
                        out = at + (z // fz) * to_plane + (y // fy) * to_row
                        for x in range(bx, ex, fx):
                            if n == 1:
                                target[out + x // fx] = found[0]
                                continue
                            for i in range(8):
                                vz = min(z + (i >> 2), ez - 1) if fz == 2 else z
                                vy = min(y + ((i >> 1) & 1), ey - 1) if fy == 2 else y
                                vx = min(x + (i & 1), ex - 1) if fx == 2 else x
                                group[i] = source[first + vz * plane + vy * row + vx]
                            target[out + x // fx] = _rarest(group, found, counts, n)


@njit(cache=True, nogil=True, inline="always")
def _near(source, i, a, b, c, d):  # type: ignore[no-untyped-def]
    return np.int64(source[a + i]) + np.int64(source[b + i]) + np.int64(source[c + i]) + np.int64(source[d + i])


@njit(cache=True, nogil=True)
def average(  # type: ignore[no-untyped-def]
    source, first, row, plane, nz, ny, nx, fz, fy, fx, target, at, to_row, to_plane
):
    """Means of integers of at most 32 bits, halves rounded up."""
    four = np.int64(4)
    step = fx - 1
    for z in range((nz + fz - 1) // fz):
        z0 = first + z * fz * plane
        z1 = z0 + plane if fz == 2 and 2 * z + 1 < nz else z0
        for y in range((ny + fy - 1) // fy):
            y0 = y * fy * row
            y1 = y0 + row if fy == 2 and 2 * y + 1 < ny else y0
            a, b, c, d = z0 + y0, z0 + y1, z1 + y0, z1 + y1
            out = at + z * to_plane + y * to_row
            for x in range(nx // fx):
                i = x * fx
                target[out + x] = (four + _near(source, i, a, b, c, d) + _near(source, i + step, a, b, c, d)) >> 3
            if fx == 2 and nx & 1:
                target[out + nx // 2] = (four + 2 * _near(source, nx - 1, a, b, c, d)) >> 3


@njit(cache=True, nogil=True)
def average_wide(  # type: ignore[no-untyped-def]
    source, first, row, plane, nz, ny, nx, fz, fy, fx, target, at, to_row, to_plane
):
    """As `average`, of u64: eighths and rests are summed apart, so that no sum overflows."""
    for z in range((nz + fz - 1) // fz):
        for y in range((ny + fy - 1) // fy):
            for x in range((nx + fx - 1) // fx):
                eighths, rests = np.uint64(0), np.uint64(4)
                for i in range(8):
                    vz = min(z * fz + (i >> 2) * (fz - 1), nz - 1)
                    vy = min(y * fy + ((i >> 1) & 1) * (fy - 1), ny - 1)
                    vx = min(x * fx + (i & 1) * (fx - 1), nx - 1)
                    value = np.uint64(source[first + vz * plane + vy * row + vx])
                    eighths += value >> np.uint64(3)
                    rests += value & np.uint64(7)
                target[at + z * to_plane + y * to_row + x] = eighths + (rests >> np.uint64(3))


@njit(cache=True, nogil=True)
def average_real(  # type: ignore[no-untyped-def]
    source, first, row, plane, nz, ny, nx, fz, fy, fx, target, at, to_row, to_plane
):
    """As `average`, of floating point numbers, which are not rounded."""
    for z in range((nz + fz - 1) // fz):
        for y in range((ny + fy - 1) // fy):
            for x in range((nx + fx - 1) // fx):
                total = 0.0
                for i in range(8):
                    vz = min(z * fz + (i >> 2) * (fz - 1), nz - 1)
                    vy = min(y * fy + ((i >> 1) & 1) * (fy - 1), ny - 1)
                    vx = min(x * fx + (i & 1) * (fx - 1), nx - 1)
                    total += source[first + vz * plane + vy * row + vx]
                target[at + z * to_plane + y * to_row + x] = total / 8.0
