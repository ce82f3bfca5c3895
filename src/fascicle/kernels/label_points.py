"""Single voxels: which blocks they lie in, and labels at them, in one call for many blocks."""

from __future__ import annotations

import numpy as np
from numba import njit

from fascicle.kernels.label_codec import bits_for
from fascicle.kernels.memory import u8_at, u16_at, u32_at, u64_at

_BIAS = 1 << 20


@njit(cache=True, nogil=True)
def by_block(xyz, bx, by, bz):  # type: ignore[no-untyped-def]
    """Voxels i64[n,3] (x, y, z) sorted by the blocks of bx, by, bz voxels that they lie in.

    Returns codes (`formats.block_code`) of the blocks u64[b], ascending, where the voxels of each end i64[b], where
    each voxel was i64[k], and its x, y, z inside of its block i64[k,3]. Inside of a block they keep their order; voxels
    of blocks that have no code are left out.
    """
    n = xyz.shape[0]
    size = 16
    while size < 2 * n:
        size *= 2
    slots = np.full(size, -1, np.int32)
    block_of = np.empty(n, np.int32)
    found = np.empty(n, np.int64)
    counts = np.zeros(n, np.int64)
    b = 0
    for p in range(n):
        x, y, z = xyz[p, 0] // bx + _BIAS, xyz[p, 1] // by + _BIAS, xyz[p, 2] // bz + _BIAS
        if min(x, y, z) < 1 or max(x, y, z) >= 2 * _BIAS:
            block_of[p] = -1
            continue
        code = (z << 42) | (y << 21) | x
        slot = (x * 73856093 ^ y * 19349663 ^ z * 83492791) & (size - 1)
        while slots[slot] >= 0 and found[slots[slot]] != code:
            slot = (slot + 1) & (size - 1)
        if slots[slot] < 0:
            slots[slot] = b
            found[b] = code
            b += 1
        block_of[p] = slots[slot]
        counts[slots[slot]] += 1
    order = np.argsort(found[:b])
    codes = np.empty(b, np.uint64)
    ends = np.empty(b, np.int64)
    starts = np.empty(b, np.int64)
    k = np.int64(0)
    for rank in range(b):
        block = order[rank]
        codes[rank] = np.uint64(found[block])
        starts[block] = k
        k += counts[block]
        ends[rank] = k
    places = np.empty(k, np.int64)
    local = np.empty((k, 3), np.int64)
    for p in range(n):
        block = block_of[p]
        if block >= 0:
            at = starts[block]
            starts[block] = at + 1
            places[at] = p
            local[at, 0] = xyz[p, 0] % bx
            local[at, 1] = xyz[p, 1] % by
            local[at, 2] = xyz[p, 2] % bz
    return codes, ends, places, local


@njit(cache=True, nogil=True)
def labels_at(blocks, ends, gx, gy, gz, xyz, places, out):  # type: ignore[no-untyped-def]
    """Write the labels at voxels xyz i64[k,3] (x, y, z inside of their block) to `places` i64[k] of out u64.

    False if a voxel lies outside of its block.

    blocks i64[n,2] are the addresses of parts F of blocks of gx, gy, gz sub-blocks (0: solid) and of their tables;
    voxels up to ends i64[n] are those of each. Blocks are known to be sound.
    """
    nsb = gx * gy * gz
    lists = np.empty(nsb, np.int64)
    values = np.empty(nsb, np.int64)
    p = np.int64(0)
    for b in range(blocks.shape[0]):
        counts, table = blocks[b, 0], blocks[b, 1]
        if counts == 0:
            while p < ends[b]:
                out[places[p]] = u64_at(table)
                p += 1
            continue
        labels = np.int64(0)
        packed = np.int64(0)
        for i in range(nsb):
            here = np.int64(u16_at(counts + 2 * i))
            lists[i] = labels
            values[i] = packed
            labels += here
            packed += bits_for(here)
        first_list = counts + 2 * nsb
        first_value = first_list + 4 * labels
        while p < ends[b]:
            x, y, z = xyz[p, 0], xyz[p, 1], xyz[p, 2]
            if min(x, y, z) < 0 or x >= 8 * gx or y >= 8 * gy or z >= 8 * gz:
                return False
            i = ((z >> 3) * gy + (y >> 3)) * gx + (x >> 3)
            here = np.int64(u16_at(counts + 2 * i))
            bits = bits_for(here)
            value = np.int64(0)
            if bits:
                bit = (((z & 7) * 8 + (y & 7)) * 8 + (x & 7)) * bits
                at = first_value + 64 * values[i] + (bit >> 3)
                pair = np.int64(u8_at(at)) << 8
                if (bit & 7) + bits > 8:
                    pair |= np.int64(u8_at(at + 1))
                value = (pair >> (16 - (bit & 7) - bits)) & ((1 << bits) - 1)
            label = np.uint64(0)
            if here:
                label = u64_at(table + 8 * np.int64(u32_at(first_list + 4 * (lists[i] + value))))
            out[places[p]] = label
            p += 1
    return True
