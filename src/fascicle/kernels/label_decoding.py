"""Dense voxels of label blocks, written row by row.

For each row of sub-blocks along x their lists are looked up in the table once; then whole rows of voxels are written,
so that memory is filled in the order in which it lies there: a volume is written twice as fast as sub-block by
sub-block.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from fascicle.kernels.label_codec import bits_for, row_word
from fascicle.kernels.memory import load_u16, load_u32, store_at


@njit(cache=True, nogil=True)
def _fill(address, stride_z, stride_y, depth, height, width, label):  # type: ignore[no-untyped-def]
    for z in range(depth):
        for y in range(height):
            at = address + z * stride_z + y * stride_y
            for x in range(width):
                store_at(at + 8 * x, label)


@njit(cache=True, nogil=True)
def _write_part(data, values_at, bits, row, labels, first, x0, x1, to):  # type: ignore[no-untyped-def]
    """Write voxels x0 to x1 (within 0 to 8) of a row of a sub-block; voxel 0 would go to address `to`."""
    for k in range(x0, x1):
        value = np.int64(0)
        bit = (row * 8 + k) * bits
        for _ in range(bits):
            value = value << 1 | ((np.int64(data[values_at + (bit >> 3)]) >> (7 - (bit & 7))) & 1)
            bit += 1
        store_at(to + 8 * k, labels[first + value])


@njit(cache=True, nogil=True)
def decode_box(data, start, table, gx, gy, gz, box, address, stride_z, stride_y):  # type: ignore[no-untyped-def]
    """Write the voxels of a box of a label block to memory.

    `box` is i64[6]: first z, y, x and end z, y, x inside of the block; its first voxel goes to `address`, rows along
    x are contiguous, strides are in bytes. A block whose table has one entry is solid.
    """
    z_first, y_first, x_first = box[0], box[1], box[2]
    z_end, y_end, x_end = box[3], box[4], box[5]
    if table.size == 1:
        _fill(address, stride_z, stride_y, z_end - z_first, y_end - y_first, x_end - x_first, table[0])
        return
    total = np.int64(0)
    for i in range(gx * gy * gz):
        total += np.int64(load_u16(data, start + 2 * i))
    position = start + 2 * gx * gy * gz
    packed = position + 4 * total
    # Of the sub-blocks of a row: their labels one after the other, where each one's begin, bits per value, values.
    labels = np.empty(512 * gx, np.uint64)
    labels_at = np.empty(gx, np.int64)
    bits_at = np.empty(gx, np.int64)
    values_at = np.empty(gx, np.int64)
    begin, end = x_first >> 3, (x_end + 7) >> 3
    i = -1
    for sz in range(gz):
        z0, z1 = max(sz * 8, z_first), min(sz * 8 + 8, z_end)
        if z0 >= z_end:
            return
        for sy in range(gy):
            y0, y1 = max(sy * 8, y_first), min(sy * 8 + 8, y_end)
            wanted = z0 < z1 and y0 < y1
            used = np.int64(0)
            for sx in range(gx):
                i += 1
                here = np.int64(load_u16(data, start + 2 * i))
                bits = bits_for(here)
                if wanted and begin <= sx and sx < end:
                    labels_at[sx] = used
                    bits_at[sx] = bits
                    values_at[sx] = packed
                    labels[used] = np.uint64(0)
                    for k in range(here):
                        labels[used + k] = table[np.int64(load_u32(data, position + 4 * k))]
                    used += np.int64(1) if here == 0 else here
                position += 4 * here
                packed += 64 * bits
            if not wanted:
                continue
            for z in range(z0, z1):
                for y in range(y0, y1):
                    row = (z - sz * 8) * 8 + y - sy * 8
                    line = address + (z - z_first) * stride_z + (y - y_first) * stride_y - 8 * x_first
                    for sx in range(begin, end):
                        bits, first, values, to = bits_at[sx], labels_at[sx], values_at[sx], line + 64 * sx
                        if 8 * sx < x_first or 8 * sx + 8 > x_end:
                            x0, x1 = max(x_first - 8 * sx, 0), min(x_end - 8 * sx, 8)
                            _write_part(data, values, bits, row, labels, first, x0, x1, to)
                        elif bits == 0:
                            for k in range(8):
                                store_at(to + 8 * k, labels[first])
                        elif bits == 1:
                            zero, one = labels[first], labels[first + 1]
                            byte = np.int64(data[values + row])
                            if byte == 0 or byte == 255:
                                label = one if byte else zero
                                for k in range(8):
                                    store_at(to + 8 * k, label)
                            else:
                                flip = zero ^ one
                                for k in range(8):
                                    store_at(to + 8 * k, zero ^ (flip & np.uint64(-((byte >> (7 - k)) & 1))))
                        elif bits <= 8:
                            mask = np.uint64((1 << bits) - 1)
                            word = row_word(data, values + row * bits, bits)
                            for k in range(8):
                                value = np.int64((word >> np.uint64(64 - bits * (k + 1))) & mask)
                                store_at(to + 8 * k, labels[first + value])
                        else:
                            _write_part(data, values, bits, row, labels, first, 0, 8, to)
