"""Look-ups, merging and sorting of maps from u64 to u64 kept as two arrays, keys ascending and distinct.

A sorted map can lie in a memory-mapped file and be shared by processes. Look-ups take the high bits of a key as the
number of a bucket, whose start is in a small table, and search inside the bucket; with keys that are spread evenly
that is one or two steps, with clustered ones a binary search.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from fascicle.kernels.arrays import frozen


@njit(cache=True, nogil=True)
def _fill_starts(keys, shift, starts):  # type: ignore[no-untyped-def]
    base = keys[0]
    bucket = np.int64(0)
    for i in range(keys.size):
        b = np.int64((keys[i] - base) >> shift)
        while bucket <= b:
            starts[bucket] = np.uint32(i)
            bucket += 1
    while bucket < starts.size:
        starts[bucket] = np.uint32(keys.size)
        bucket += 1


@njit(cache=True, nogil=True)
def _lookup(queries, keys, values, shift, starts, out, found):  # type: ignore[no-untyped-def]
    if keys.size == 0:
        return
    base = keys[0]
    last = keys[keys.size - 1]
    for i in range(queries.size):
        q = queries[i]
        if q < base or q > last:
            continue
        bucket = np.int64((q - base) >> shift)
        low = np.int64(starts[bucket])
        high = np.int64(starts[bucket + 1])
        while high - low > 4:
            middle = (low + high) >> 1
            if keys[middle] <= q:
                low = middle
            else:
                high = middle
        while low < high:
            if keys[low] == q:
                out[i] = values[low]
                found[i] = True
                break
            low += 1


@njit(cache=True, nogil=True)
def _merge(keys_a, values_a, keys_b, values_b, keys, values):  # type: ignore[no-untyped-def]
    i = 0
    j = 0
    n = 0
    while i < keys_a.size and j < keys_b.size:
        a = keys_a[i]
        b = keys_b[j]
        if a < b:
            keys[n] = a
            values[n] = values_a[i]
            i += 1
        else:
            keys[n] = b
            values[n] = values_b[j]
            j += 1
            if a == b:
                i += 1
        n += 1
    while i < keys_a.size:
        keys[n] = keys_a[i]
        values[n] = values_a[i]
        i += 1
        n += 1
    while j < keys_b.size:
        keys[n] = keys_b[j]
        values[n] = values_b[j]
        j += 1
        n += 1
    return n


@njit(cache=True, nogil=True)
def _group(values, shift, starts, order):  # type: ignore[no-untyped-def]
    for i in range(values.size):
        starts[np.int64((values[i] * np.uint64(0x9E3779B97F4A7C15)) >> shift) + 1] += np.uint32(1)
    for b in range(1, starts.size):
        starts[b] += starts[b - 1]
    for i in range(values.size - 1, -1, -1):
        bucket = np.int64((values[i] * np.uint64(0x9E3779B97F4A7C15)) >> shift) + 1
        starts[bucket] -= np.uint32(1)  # the end of its bucket so far, at last the start
        order[starts[bucket]] = np.uint32(i)
    for b in range(1, starts.size - 1):
        starts[b] = starts[b + 1]
    starts[starts.size - 1] = np.uint32(values.size)


@njit(cache=True, nogil=True)
def _radix_sort(keys, values):  # type: ignore[no-untyped-def]
    """Stable sort of both arrays by key, 11 bits a pass; passes in which all digits are equal are left out.

    Returns the sorted arrays (new ones, or the inputs' copies).
    """
    n = keys.size
    k0 = keys.copy()
    v0 = values.copy()
    sorted_already = True
    for i in range(1, n):
        if k0[i] < k0[i - 1]:
            sorted_already = False
            break
    if sorted_already:
        return k0, v0
    k1 = np.empty(n, np.uint64)
    v1 = np.empty(n, np.uint64)
    histogram = np.zeros((6, 2048), np.int64)
    for i in range(n):
        k = k0[i]
        for d in range(6):
            histogram[d, np.int64((k >> np.uint64(11 * d)) & np.uint64(2047))] += 1
    for d in range(6):
        shift = np.uint64(11 * d)
        if histogram[d, np.int64((k0[0] >> shift) & np.uint64(2047))] == n:
            continue
        at = 0
        for b in range(2048):
            count = histogram[d, b]
            histogram[d, b] = at
            at += count
        for i in range(n):
            digit = np.int64((k0[i] >> shift) & np.uint64(2047))
            to = histogram[d, digit]
            histogram[d, digit] = to + 1
            k1[to] = k0[i]
            v1[to] = v0[i]
        k0, k1 = k1, k0
        v0, v1 = v1, v0
    return k0, v0


@njit(cache=True, nogil=True)
def _keep_last(keys, values):  # type: ignore[no-untyped-def]
    """Of equal neighbouring keys keep the last, in place; returns how many are left."""
    n = 0
    for i in range(keys.size):
        if i + 1 < keys.size and keys[i + 1] == keys[i]:
            continue
        keys[n] = keys[i]
        values[n] = values[i]
        n += 1
    return n


def bucket_index(sorted_keys: NDArray[np.uint64]) -> tuple[int, NDArray[np.uint32]]:
    """The bucket table of ascending keys u64[n] (n < 2^32): (shift, starts u32[buckets + 1]).

    Bucket b holds the keys with `(key - keys[0]) >> shift == b`; there are about n / 2 buckets.
    """
    n = len(sorted_keys)
    if n == 0:
        return 0, np.zeros(1, np.uint32)
    keys = frozen(sorted_keys)
    span = int(keys[-1]) - int(keys[0])
    shift = max(0, span.bit_length() - max(n.bit_length() - 1, 1))
    starts = np.empty((span >> shift) + 2, np.uint32)
    _fill_starts(keys, np.uint64(shift), starts)
    return shift, starts


def lookup(
    queries: NDArray[np.uint64],
    sorted_keys: NDArray[np.uint64],
    values: NDArray[np.uint64],
    shift: int,
    starts: NDArray[np.uint32],
    out: NDArray[np.uint64],
    found: NDArray[np.bool_],
) -> None:
    """Set `out[i]` to the value of `queries[i]` and `found[i]` to True where the key exists; leave the others
    untouched.

    So a caller presets `out` (with the queries, say) and may look up in several maps one after the other, the newest
    last.
    `shift` and `starts` are of `bucket_index(sorted_keys)`. `out` and `found` must be contiguous and writable.
    """
    _lookup(frozen(queries), frozen(sorted_keys), frozen(values), np.uint64(shift), frozen(starts), out, found)


def merge_sorted(
    keys_a: NDArray[np.uint64],
    values_a: NDArray[np.uint64],
    keys_b: NDArray[np.uint64],
    values_b: NDArray[np.uint64],
) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """The union of two sorted maps as (keys, values); on equal keys B wins."""
    keys = np.empty(len(keys_a) + len(keys_b), np.uint64)
    values = np.empty(len(keys), np.uint64)
    n = _merge(frozen(keys_a), frozen(values_a), frozen(keys_b), frozen(values_b), keys, values)
    return keys[:n], values[:n]


def sort_pairs(
    keys: NDArray[np.uint64], values: NDArray[np.uint64]
) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Keys and values ordered by key, equal keys in their given order; new arrays."""
    if len(keys) == 0:
        return np.empty(0, np.uint64), np.empty(0, np.uint64)
    sorted_keys, sorted_values = _radix_sort(frozen(keys), frozen(values))
    return sorted_keys, sorted_values


def sort_unique_last(
    keys: NDArray[np.uint64], values: NDArray[np.uint64]
) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """A sorted map of pairs in any order; of several pairs with one key the last wins."""
    sorted_keys, sorted_values = sort_pairs(keys, values)
    n = _keep_last(sorted_keys, sorted_values)
    return sorted_keys[:n], sorted_values[:n]


def value_index(values: NDArray[np.uint64]) -> tuple[int, NDArray[np.uint32], NDArray[np.uint32]]:
    """(shift, starts, order u32[n]): places of values u64[n] by a hash of the value, for `places_of`.

    Two passes over the values, which need not be sorted: about a second for 10^7 of them, and 5 bytes each.
    """
    bits = max(1, len(values).bit_length() - 3)
    starts = np.zeros((1 << bits) + 1, np.uint32)
    order = np.empty(len(values), np.uint32)
    _group(frozen(values), np.uint64(64 - bits), starts, order)
    return 64 - bits, starts, order


def places_of(
    value: int, values: NDArray[np.uint64], shift: int, starts: NDArray[np.uint32], order: NDArray[np.uint32]
) -> NDArray[np.uint32]:
    """Places u32[m], ascending, at which `values` have a value."""
    bucket = (value * 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF) >> shift
    found = order[int(starts[bucket]) : int(starts[bucket + 1])]
    return np.asarray(found[values[found] == np.uint64(value)])
