"""Loops over index rows: (supervoxel u64, block u64, count u32) columns sorted by supervoxel, then block."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

U64 = NDArray[np.uint64]
U32 = NDArray[np.uint32]

ALL_BLOCKS = np.uint64(0xFFFF_FFFF_FFFF_FFFF)
"""In an exclusion list: the whole supervoxel. Sorts after every block code."""


@njit(cache=True, nogil=True)
def merge_rows(
    sv_a: U64, block_a: U64, count_a: U32, sv_b: U64, block_b: U64, count_b: U32
) -> tuple[U64, U64, U32]:
    """Rows of both inputs in order; where both have a (supervoxel, block), the row of `b`."""
    n, m = len(sv_a), len(sv_b)
    sv = np.empty(n + m, np.uint64)
    block = np.empty(n + m, np.uint64)
    count = np.empty(n + m, np.uint32)
    i, j, k = 0, 0, 0
    while i < n and j < m:
        if sv_a[i] < sv_b[j] or (sv_a[i] == sv_b[j] and block_a[i] < block_b[j]):
            sv[k], block[k], count[k] = sv_a[i], block_a[i], count_a[i]
            i += 1
        else:
            if sv_a[i] == sv_b[j] and block_a[i] == block_b[j]:
                i += 1
            sv[k], block[k], count[k] = sv_b[j], block_b[j], count_b[j]
            j += 1
        k += 1
    while i < n:
        sv[k], block[k], count[k] = sv_a[i], block_a[i], count_a[i]
        i += 1
        k += 1
    while j < m:
        sv[k], block[k], count[k] = sv_b[j], block_b[j], count_b[j]
        j += 1
        k += 1
    return sv[:k], block[:k], count[:k]


@njit(cache=True, nogil=True)
def kept_rows(sv: U64, block: U64, excluded_sv: U64, excluded_block: U64) -> NDArray[np.bool_]:
    """Which rows no exclusion names; `ALL_BLOCKS` names every row of a supervoxel. Both are sorted."""
    n, m = len(sv), len(excluded_sv)
    kept = np.ones(n, np.bool_)
    first, last = 0, 0
    for i in range(n):
        if i == 0 or sv[i] != sv[i - 1]:
            first = last
            while first < m and excluded_sv[first] < sv[i]:
                first += 1
            last = first
            while last < m and excluded_sv[last] == sv[i]:
                last += 1
        if first < last:
            if excluded_block[last - 1] == ALL_BLOCKS:
                kept[i] = False
            else:
                while first < last and excluded_block[first] < block[i]:
                    first += 1
                if first < last and excluded_block[first] == block[i]:
                    kept[i] = False
    return kept


@njit(cache=True, nogil=True)
def find_rows(sv: U64, block: U64, wanted_sv: U64, wanted_block: U64) -> NDArray[np.int64]:
    """Where each wanted (supervoxel, block) lies in sorted rows; -1 where it does not."""
    n, m = len(sv), len(wanted_sv)
    places = np.full(m, -1, np.int64)
    for j in range(m):
        low, high = 0, n
        while low < high:
            middle = (low + high) // 2
            if sv[middle] < wanted_sv[j] or (sv[middle] == wanted_sv[j] and block[middle] < wanted_block[j]):
                low = middle + 1
            else:
                high = middle
        if low < n and sv[low] == wanted_sv[j] and block[low] == wanted_block[j]:
            places[j] = low
    return places


@njit(cache=True, nogil=True)
def ranges_of(sv: U64, wanted: U64) -> NDArray[np.int64]:
    """Places of all rows whose supervoxel is wanted, ascending. `wanted` ascending and unique."""
    n = len(sv)
    starts = np.searchsorted(sv, wanted)
    total = 0
    for j in range(len(wanted)):
        at = starts[j]
        while at < n and sv[at] == wanted[j]:
            at += 1
            total += 1
    places = np.empty(total, np.int64)
    k = 0
    for j in range(len(wanted)):
        at = starts[j]
        while at < n and sv[at] == wanted[j]:
            places[k] = at
            at += 1
            k += 1
    return places
