"""Label blocks at half the resolution, straight from their encoded form.

A voxel of the lower resolution stands for 2x2x2 voxels: of their labels other than 0 the most frequent wins, of equally
frequent ones the smallest; eight times 0 gives 0. Arguments as in `fascicle.kernels.label_codec`.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from fascicle.kernels.label_codec import bits_for, unpack_row
from fascicle.kernels.memory import load_u16, load_u32, store_at


@njit(cache=True, nogil=True)
def _winner(group):  # type: ignore[no-untyped-def]
    """The label that stands for the eight labels u64[8]."""
    first = group[0]
    difference = np.uint64(0)
    for i in range(1, 8):
        difference |= group[i] ^ first
    if difference == np.uint64(0):
        return first
    best = np.uint64(0)
    best_count = 0
    for i in range(8):
        label = group[i]
        if label == np.uint64(0) or label == best:
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
def halve(data, start, table, gx, gy, gz, address, stride_z, stride_y):  # type: ignore[no-untyped-def]
    """Write the block at half resolution (4 gz, 4 gy, 4 gx voxels) to memory; strides in bytes, rows contiguous."""
    if table.size == 1:
        label = table[0]
        for z in range(4 * gz):
            for y in range(4 * gy):
                at = address + z * stride_z + y * stride_y
                for x in range(4 * gx):
                    store_at(at + 8 * x, label)
        return
    nsb = gx * gy * gz
    position = start + 2 * nsb
    packed = position
    for i in range(nsb):
        packed += 4 * np.int64(load_u16(data, start + 2 * i))
    palette = np.zeros(512, np.uint64)
    voxels = np.empty(512, np.int64)
    group = np.empty(8, np.uint64)
    i = 0
    for sz in range(gz):
        for sy in range(gy):
            for sx in range(gx):
                here = np.int64(load_u16(data, start + 2 * i))
                bits = bits_for(here)
                corner = address + 4 * sz * stride_z + 4 * sy * stride_y + 32 * sx
                if here <= 1:
                    label = np.uint64(0)
                    if here == 1:
                        label = table[np.int64(load_u32(data, position))]
                    for z in range(4):
                        for y in range(4):
                            at = corner + z * stride_z + y * stride_y
                            for x in range(4):
                                store_at(at + 8 * x, label)
                elif bits == 1:
                    zero = table[np.int64(load_u32(data, position))]
                    one = table[np.int64(load_u32(data, position + 4))]
                    # the number of ones from which on label one wins
                    threshold = 5 if zero < one else 4
                    if zero == np.uint64(0):
                        threshold = 1
                    elif one == np.uint64(0):
                        threshold = 8
                    for z in range(4):
                        for y in range(4):
                            row = packed + 16 * z + 2 * y
                            at = corner + z * stride_z + y * stride_y
                            ones = np.int64(0)
                            for near in range(4):
                                byte = np.int64(data[row + (near >> 1) * 8 + (near & 1)])
                                pairs = (byte & 0x55) + ((byte >> 1) & 0x55)
                                # two-bit sums of four x pairs, spread to one byte each
                                ones += (
                                    (pairs >> 6) | ((pairs & 0x30) << 4) | ((pairs & 0x0C) << 14) | ((pairs & 3) << 24)
                                )
                            for x in range(4):
                                store_at(at + 8 * x, one if ((ones >> (8 * x)) & 15) >= threshold else zero)
                else:
                    for k in range(here):
                        palette[k] = table[np.int64(load_u32(data, position + 4 * k))]
                    for r in range(64):
                        unpack_row(data, packed + r * bits, bits, voxels[8 * r : 8 * r + 8])
                    for z in range(4):
                        for y in range(4):
                            at = corner + z * stride_z + y * stride_y
                            for x in range(4):
                                v = 128 * z + 16 * y + 2 * x
                                a = voxels[v]
                                b = voxels[v + 1]
                                c = voxels[v + 8]
                                d = voxels[v + 9]
                                e = voxels[v + 64]
                                f = voxels[v + 65]
                                g = voxels[v + 72]
                                h = voxels[v + 73]
                                if (a ^ b) | (a ^ c) | (a ^ d) | (a ^ e) | (a ^ f) | (a ^ g) | (a ^ h) == 0:
                                    store_at(at + 8 * x, palette[a])
                                    continue
                                group[0] = palette[a]
                                group[1] = palette[b]
                                group[2] = palette[c]
                                group[3] = palette[d]
                                group[4] = palette[e]
                                group[5] = palette[f]
                                group[6] = palette[g]
                                group[7] = palette[h]
                                store_at(at + 8 * x, _winner(group))
                position += 4 * here
                packed += 64 * bits
                i += 1
