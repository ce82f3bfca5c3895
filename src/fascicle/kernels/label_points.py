"""Labels at single voxels of many label blocks, in one call."""

from __future__ import annotations

import numpy as np
from numba import njit

from fascicle.kernels.label_codec import bits_for
from fascicle.kernels.memory import u8_at, u16_at, u32_at, u64_at


@njit(cache=True, nogil=True)
def labels_at(blocks, ends, gx, gy, gz, xyz, out):  # type: ignore[no-untyped-def]
    """Write the labels at voxels xyz i64[k,3] (x, y, z inside of their block) to out u64[k].

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
                out[p] = u64_at(table)
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
            out[p] = np.uint64(0)
            if here:
                out[p] = u64_at(table + 8 * np.int64(u32_at(first_list + 4 * (lists[i] + value))))
            p += 1
