"""Dense rows of voxels out of many label blocks that lie beside each other.

One layer of sub-blocks (8 planes) is taken at a time: its lists are looked up in the tables and put beside each other
with its packed values, in the order of a grid of sub-blocks [y, x] that reaches over all blocks. What is left is small
enough for the processor's nearest cache, and rows of the whole width are written from it in the order in which they are
wanted, by any number of planes or rows.

Blocks are rows of i64[n, 6], see `COLUMNS`; addresses are the machine's. Blocks are known to be sound.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from fascicle.kernels.label_codec import bits_for
from fascicle.kernels.memory import load_u64, store_at, swap_bytes, u8_at, u16_at, u32_at, u64_at

COLUMNS = 6
"""Of a block: address of its part F (0: solid), address of its table, its first sub-block x and y in the grid; and,
kept by the kernels, addresses of the lists and of the values of the next layer."""
ROOM_BYTES = 8
"""Packed values are read eight bytes at a time: so much must follow them."""


@njit(cache=True, nogil=True)
def begin(blocks, gx, gy, gz):  # type: ignore[no-untyped-def]
    """Set blocks to their first layer; of all of them gx, gy, gz are the sub-blocks per axis."""
    for b in range(blocks.shape[0]):
        counts = blocks[b, 0]
        if counts == 0:
            continue
        total = np.int64(0)
        for i in range(gx * gy * gz):
            total += np.int64(u16_at(counts + 2 * i))
        blocks[b, 4] = counts + 2 * gx * gy * gz
        blocks[b, 5] = blocks[b, 4] + 4 * total


@njit(cache=True, nogil=True)
def measure(blocks, per_layer, layer):  # type: ignore[no-untyped-def]
    """How many labels and how many bytes of packed values a layer has; `per_layer` are gx * gy."""
    labels = np.int64(0)
    size = np.int64(0)
    for b in range(blocks.shape[0]):
        counts = blocks[b, 0]
        if counts == 0:
            labels += 1
            continue
        for i in range(layer * per_layer, (layer + 1) * per_layer):
            here = np.int64(u16_at(counts + 2 * i))
            labels += here if here > 1 else 1
            size += 64 * bits_for(here)
    return labels, size


@njit(cache=True, nogil=True)
def skip(blocks, per_layer, layer):  # type: ignore[no-untyped-def]
    """Pass by a layer, which must be the next one."""
    for b in range(blocks.shape[0]):
        counts = blocks[b, 0]
        if counts == 0:
            continue
        for i in range(layer * per_layer, (layer + 1) * per_layer):
            here = np.int64(u16_at(counts + 2 * i))
            blocks[b, 4] += 4 * here
            blocks[b, 5] += 64 * bits_for(here)


@njit(cache=True, nogil=True)
def take(blocks, gx, gy, layer, cells, labels, packed):  # type: ignore[no-untyped-def]
    """Take a layer, which must be the next one, from the blocks.

    cells i64[y, x, 3] of the grid get: where a sub-block's labels begin, its bits per value, where its values begin;
    cells of no block are left as they are. labels u64 and packed u8 have the room that `measure` said, and one entry
    in front and ROOM_BYTES behind: labels[0] is for cells of no block.
    """
    used = np.int64(1)
    filled = np.int64(0)
    labels[0] = np.uint64(0)
    for b in range(blocks.shape[0]):
        counts, table, x0, y0 = blocks[b, 0], blocks[b, 1], blocks[b, 2], blocks[b, 3]
        if counts == 0:
            labels[used] = u64_at(table)
            for y in range(gy):
                for x in range(gx):
                    cells[y0 + y, x0 + x, 0] = used
                    cells[y0 + y, x0 + x, 1] = 0
            used += 1
            continue
        lists, values = blocks[b, 4], blocks[b, 5]
        i = layer * gx * gy
        for y in range(gy):
            for x in range(gx):
                here = np.int64(u16_at(counts + 2 * i))
                i += 1
                bits = bits_for(here)
                cells[y0 + y, x0 + x, 0] = used
                cells[y0 + y, x0 + x, 1] = bits
                cells[y0 + y, x0 + x, 2] = filled
                labels[used] = np.uint64(0)
                for k in range(here):
                    labels[used + k] = u64_at(table + 8 * np.int64(u32_at(lists + 4 * k)))
                used += here if here > 1 else 1
                lists += 4 * here
                for k in range(64 * bits):
                    packed[filled + k] = u8_at(values + k)
                filled += 64 * bits
                values += 64 * bits
        blocks[b, 4], blocks[b, 5] = lists, values


@njit(cache=True, nogil=True)
def _write_part(packed, at, bits, labels, first, x0, x1, to):  # type: ignore[no-untyped-def]
    """Write voxels x0 to x1 (within 0 to 8) of the row of a sub-block whose values begin at byte `at`."""
    for k in range(x0, x1):
        value = np.int64(0)
        bit = k * bits
        for _ in range(bits):
            value = value << 1 | ((np.int64(packed[at + (bit >> 3)]) >> (7 - (bit & 7))) & 1)
            bit += 1
        store_at(to + 8 * k, labels[first + value])


@njit(cache=True, nogil=True)
def write(cells, labels, packed, z, y_first, y_end, x_first, x_end, address):  # type: ignore[no-untyped-def]
    """Write rows y_first to y_end of plane z (0 to 7) of the layer that was taken, voxels x_first to x_end of each.

    Coordinates count from the corner of the grid. Rows follow each other without gaps from `address`.
    """
    begin_x, end_x = x_first >> 3, (x_end + 7) >> 3
    whole_begin, whole_end = (x_first + 7) >> 3, x_end >> 3
    stride = 8 * (x_end - x_first)
    for sy in range(y_first >> 3, (y_end + 7) >> 3):
        # The rows of a strip of sub-blocks together: what is known of a sub-block is looked at once for all of them,
        # and the strip is small enough for the first cache.
        y0, y1 = max(sy * 8, y_first), min(sy * 8 + 8, y_end)
        line = address + (y0 - y_first) * stride - 8 * x_first
        rows = y1 - y0
        for sx in range(begin_x, end_x):
            first, bits, to = cells[sy, sx, 0], cells[sy, sx, 1], line + 64 * sx
            at = cells[sy, sx, 2] + (z * 8 + (y0 & 7)) * bits
            if sx < whole_begin or sx >= whole_end:
                x0, x1 = max(x_first - 8 * sx, 0), min(x_end - 8 * sx, 8)
                for y in range(rows):
                    _write_part(packed, at + y * bits, bits, labels, first, x0, x1, to + y * stride)
            elif bits == 0:
                label = labels[first]
                for y in range(rows):
                    for k in range(8):
                        store_at(to + y * stride + 8 * k, label)
            elif bits == 1:
                zero, one = labels[first], labels[first + 1]
                flip = zero ^ one
                for y in range(rows):
                    byte = np.uint64(packed[at + y])
                    for k in range(8):
                        chosen = np.uint64(0) - ((byte >> np.uint64(7 - k)) & np.uint64(1))
                        store_at(to + y * stride + 8 * k, zero ^ (flip & chosen))
            elif bits <= 8:
                mask = np.uint64((1 << bits) - 1)
                for y in range(rows):
                    word = swap_bytes(load_u64(packed, at + y * bits))
                    for k in range(8):
                        value = np.int64((word >> np.uint64(64 - bits * (k + 1))) & mask)
                        store_at(to + y * stride + 8 * k, labels[first + value])
            else:
                for y in range(rows):
                    _write_part(packed, at + y * bits, bits, labels, first, 0, 8, to + y * stride)
