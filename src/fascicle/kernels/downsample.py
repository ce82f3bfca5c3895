"""Label blocks at half the resolution, straight from their encoded form.

A voxel of the lower resolution stands for 2x2x2 voxels: of their labels other than 0 the most frequent wins, of equally
frequent ones the smallest; eight times 0 gives 0. Arguments as in `fascicle.kernels.label_codec`.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from fascicle.kernels.label_codec import bits_for, row_word, unpack
from fascicle.kernels.memory import load_u16, load_u32, store_at


@njit(cache=True, nogil=True)
def _most_frequent(group, palette):  # type: ignore[no-untyped-def]
    """The label that stands for eight voxels i64[8], positions in `palette`."""
    best = np.uint64(0)
    best_count = 0
    for i in range(8):
        label = palette[group[i]]
        if label == np.uint64(0) or label == best:
            continue
        count = 0
        for j in range(8):
            if palette[group[j]] == label:
                count += 1
        if count > best_count or (count == best_count and label < best):
            best = label
            best_count = count
    return best


@njit(cache=True, nogil=True)
def _winner(group, palette):  # type: ignore[no-untyped-def]
    """As `_most_frequent`, quick for two labels."""
    a = group[0]
    other = a
    for i in range(1, 8):
        if group[i] != a:
            other = group[i]
    first = 0
    second = 0
    for i in range(8):
        first += group[i] == a
        second += group[i] == other
    one = palette[a]
    two = palette[other]
    if first + second != 8 or one == two:
        return _most_frequent(group, palette)
    if one == np.uint64(0):
        return two
    if two == np.uint64(0) or first > second:
        return one
    if second > first:
        return two
    return min(one, two)


@njit(cache=True, nogil=True)
def _halve_mixed(data, packed, bits, palette, group, corner, stride_z, stride_y):  # type: ignore[no-untyped-def]
    """One sub-block with 3 to 256 labels: works on whole rows of packed values, most of whose groups are uniform."""
    step = np.uint64(bits)
    field = np.uint64((1 << bits) - 1)
    pair = np.uint64((1 << (2 * bits)) - 1)
    lower = np.uint64(0)
    for x in range(4):
        lower |= field << np.uint64(2 * bits * x)
    align = np.uint64(64 - 8 * bits)
    for z in range(4):
        for y in range(4):
            at = corner + z * stride_z + y * stride_y
            row = packed + (16 * z + 2 * y) * bits
            a = row_word(data, row, bits) >> align
            b = row_word(data, row + bits, bits) >> align
            c = row_word(data, row + 8 * bits, bits) >> align
            d = row_word(data, row + 9 * bits, bits) >> align
            different = (a ^ b) | (a ^ c) | (a ^ d) | ((a ^ (a >> step)) & lower)
            for x in range(4):
                shift = np.uint64(2 * bits * (3 - x))
                if (different >> shift) & pair == np.uint64(0):
                    store_at(at + 8 * x, palette[np.int64((a >> shift) & field)])
                    continue
                upper = shift + step
                group[0] = np.int64((a >> upper) & field)
                group[1] = np.int64((a >> shift) & field)
                group[2] = np.int64((b >> upper) & field)
                group[3] = np.int64((b >> shift) & field)
                group[4] = np.int64((c >> upper) & field)
                group[5] = np.int64((c >> shift) & field)
                group[6] = np.int64((d >> upper) & field)
                group[7] = np.int64((d >> shift) & field)
                store_at(at + 8 * x, _winner(group, palette))


@njit(cache=True, nogil=True)
def halve_sub_block(  # type: ignore[no-untyped-def]
    data, here, position, packed, table, palette, voxels, group, corner, stride_z, stride_y
):
    """Write a sub-block of `here` labels at half resolution (4x4x4 voxels) to memory, from address `corner` on.

    Its list begins at byte `position`, its packed values at `packed`; palette u64[512], voxels u16[512] and group
    i64[8] are scratch.
    """
    bits = bits_for(here)
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
                    ones += (pairs >> 6) | ((pairs & 0x30) << 4) | ((pairs & 0x0C) << 14) | ((pairs & 3) << 24)
                for x in range(4):
                    store_at(at + 8 * x, one if ((ones >> (8 * x)) & 15) >= threshold else zero)
    else:
        for k in range(here):
            palette[k] = table[np.int64(load_u32(data, position + 4 * k))]
        if bits <= 8:
            _halve_mixed(data, packed, bits, palette, group, corner, stride_z, stride_y)
        else:
            unpack(data, packed, bits, voxels)
            for z in range(4):
                for y in range(4):
                    at = corner + z * stride_z + y * stride_y
                    for x in range(4):
                        v = 128 * z + 16 * y + 2 * x
                        for k in range(8):
                            group[k] = voxels[v + (k & 1) + 8 * ((k >> 1) & 1) + 64 * (k >> 2)]
                        store_at(at + 8 * x, _most_frequent(group, palette))


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
    voxels = np.empty(512, np.uint16)
    group = np.empty(8, np.int64)
    i = 0
    for sz in range(gz):
        for sy in range(gy):
            for sx in range(gx):
                here = np.int64(load_u16(data, start + 2 * i))
                corner = address + 4 * sz * stride_z + 4 * sy * stride_y + 32 * sx
                halve_sub_block(
                    data, here, position, packed, table, palette, voxels, group, corner, stride_z, stride_y
                )
                position += 4 * here
                packed += 64 * bits_for(here)
                i += 1
