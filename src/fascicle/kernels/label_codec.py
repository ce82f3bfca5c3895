"""Encoding, decoding, checking and counting of label blocks.

A label block is a table of labels and, per 8x8x8 sub-block, a list of table positions and bit-packed values; the byte
layout is described in `fascicle.formats.label_block`. Here `data` is a u8 array whose part F begins at byte `start`
(G and H follow), `n` the number of table entries and gx, gy, gz the number of sub-blocks per axis.

Only `check` may be given bytes that nobody has looked at; all others rely on it.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from fascicle.kernels.memory import (
    copy_bytes,
    count_ones,
    leading_zeros,
    load_u16,
    load_u32,
    load_u64,
    store_u32,
    store_u64,
    swap_bytes,
)

TRUNCATED = 1
TOO_MANY = 2
BAD_POSITION = 3
BAD_VALUE = 4


@njit(cache=True, nogil=True, forceinline=True)
def bits_for(count):  # type: ignore[no-untyped-def]
    """Bits per value of a sub-block with `count` labels: 0 for 0 and 1, else the bit length of count - 1."""
    return 64 - np.int64(leading_zeros(np.uint64(max(count, 1) - 1)))


@njit(cache=True, nogil=True)
def row_word(data, at, bits):  # type: ignore[no-untyped-def]
    """The first 64 bits (most significant first) of the row of 8 values that begins at byte `at`."""
    if at + 8 <= data.size:
        return swap_bytes(load_u64(data, at))
    word = np.uint64(0)
    for i in range(min(bits, 8)):
        word |= np.uint64(data[at + i]) << np.uint64(56 - 8 * i)
    return word


@njit(cache=True, nogil=True)
def unpack(data, at, bits, values):  # type: ignore[no-untyped-def]
    """The 512 values of the sub-block whose packed values begin at byte `at`, into values u16[512]."""
    mask = np.uint64((1 << bits) - 1)
    if bits <= 8:
        s = np.uint64(bits)
        for v in range(0, 512, 8):
            word = row_word(data, at, bits) >> np.uint64(64 - 8 * bits)
            values[v + 7] = np.uint16(word & mask)
            values[v + 6] = np.uint16((word >> s) & mask)
            values[v + 5] = np.uint16((word >> (s * np.uint64(2))) & mask)
            values[v + 4] = np.uint16((word >> (s * np.uint64(3))) & mask)
            values[v + 3] = np.uint16((word >> (s * np.uint64(4))) & mask)
            values[v + 2] = np.uint16((word >> (s * np.uint64(5))) & mask)
            values[v + 1] = np.uint16((word >> (s * np.uint64(6))) & mask)
            values[v] = np.uint16((word >> (s * np.uint64(7))) & mask)
            at += bits
    else:
        for v in range(0, 512, 8):
            word = row_word(data, at, bits)
            for k in range(7):
                values[v + k] = np.uint16((word >> np.uint64(64 - 9 * (k + 1))) & mask)
            values[v + 7] = np.uint16(((word << np.uint64(8)) | np.uint64(data[at + 8])) & mask)
            at += bits


@njit(cache=True, nogil=True)
def _sort_with(keys, order, n):  # type: ignore[no-untyped-def]
    """Shell sort of keys[0:n], carrying `order` along."""
    gap = 1
    while gap < n // 3:
        gap = 3 * gap + 1
    while gap > 0:
        for i in range(gap, n):
            key = keys[i]
            item = order[i]
            j = i
            while j >= gap and keys[j - gap] > key:
                keys[j] = keys[j - gap]
                order[j] = order[j - gap]
                j -= gap
            keys[j] = key
            order[j] = item
        gap //= 3


@njit(cache=True, nogil=True, inline="always")
def slot_of(label, mask):  # type: ignore[no-untyped-def]
    """Where the search for a label begins in a table of mask + 1 slots."""
    mixed = (label ^ (label >> np.uint64(32))) * np.uint64(0x9E3779B97F4A7C15)
    return np.int64(mixed >> np.uint64(40)) & mask


@njit(cache=True, nogil=True)
def _grown(slots, table, n):  # type: ignore[no-untyped-def]
    """A hash table of twice the size with the first n entries of `table`."""
    size = slots.size * 2
    grown = np.full(size, -1, np.int32)
    mask = size - 1
    for i in range(n):
        at = slot_of(table[i], mask)
        while grown[at] >= 0:
            at = (at + 1) & mask
        grown[at] = i
    return grown


@njit(cache=True, nogil=True)
def distinct(block, z0, y0, x0, local, found, slots, stamps, stamp):  # type: ignore[no-untyped-def]
    """Distinct labels of a sub-block of a dense, contiguous block, in order of appearance.

    They go to found u64[512], the number of each voxel's label to local i16[512]; `slots` i16[1024] and `stamps`
    i32[1024] are scratch, `stamp` a number that was not used with them before. Returns how many labels there are.
    """
    row_bytes = 8 * block.shape[2]
    plane_bytes = row_bytes * block.shape[1]
    corner = z0 * plane_bytes + y0 * row_bytes + 8 * x0
    n = 1
    last = load_u64(block, corner)
    found[0] = last
    number = np.int64(0)
    v = 0
    for z in range(8):
        for y in range(8):
            at = corner + z * plane_bytes + y * row_bytes
            difference = np.uint64(0)
            for x in range(8):
                difference |= load_u64(block, at + 8 * x) ^ last
            if difference == np.uint64(0):
                four = np.uint64(number) * np.uint64(0x0001000100010001)
                store_u64(local, 2 * v, four)
                store_u64(local, 2 * v + 8, four)
                v += 8
                continue
            for x in range(8):
                label = load_u64(block, at + 8 * x)
                if label != last:
                    last = label
                    number = np.int64(-1)
                    if n <= 12:
                        for i in range(n):
                            if found[i] == label:
                                number = np.int64(i)
                                break
                        if number < 0:
                            number = np.int64(n)
                            found[n] = label
                            n += 1
                            if n == 13:
                                for i in range(n):
                                    slot = slot_of(found[i], 1023)
                                    while stamps[slot] == stamp:
                                        slot = (slot + 1) & 1023
                                    stamps[slot] = stamp
                                    slots[slot] = i
                    else:
                        slot = slot_of(label, 1023)
                        while stamps[slot] == stamp:
                            if found[slots[slot]] == label:
                                number = np.int64(slots[slot])
                                break
                            slot = (slot + 1) & 1023
                        if number < 0:
                            number = np.int64(n)
                            found[n] = label
                            stamps[slot] = stamp
                            slots[slot] = n
                            n += 1
                local[v] = number
                v += 1
    return n


@njit(cache=True, nogil=True)
def is_solid(block, z0, y0, x0):  # type: ignore[no-untyped-def]
    """Whether a sub-block of a dense, contiguous block has one label only."""
    row_bytes = 8 * block.shape[2]
    plane_bytes = row_bytes * block.shape[1]
    corner = z0 * plane_bytes + y0 * row_bytes + 8 * x0
    first = load_u64(block, corner)
    for z in range(8):
        for y in range(8):
            at = corner + z * plane_bytes + y * row_bytes
            difference = np.uint64(0)
            for x in range(8):
                difference |= load_u64(block, at + 8 * x) ^ first
            if difference != np.uint64(0):
                return False
    return True


@njit(cache=True, nogil=True)
def _pack(local, rank, bits, packed, at):  # type: ignore[no-untyped-def]
    """Write the 512 values rank[local[v]]; `packed` has at least 8 spare bytes at its end."""
    for row in range(64):
        v = row * 8
        word = np.uint64(0)
        if bits <= 8:
            for k in range(8):
                word = (word << np.uint64(bits)) | np.uint64(rank[local[v + k]])
            store_u64(packed, at, swap_bytes(word << np.uint64(64 - 8 * bits)))
        else:
            for k in range(7):
                word = (word << np.uint64(9)) | np.uint64(rank[local[v + k]])
            last = np.uint64(rank[local[v + 7]])
            store_u64(packed, at, swap_bytes((word << np.uint64(1)) | (last >> np.uint64(8))))
            packed[at + 8] = np.uint8(last & np.uint64(255))
        at += bits
    return at


@njit(cache=True, nogil=True)
def encode(block):  # type: ignore[no-untyped-def]
    """The label block (u8) of a dense block u64[z,y,x]; sides are multiples of 8."""
    gz = block.shape[0] // 8
    gy = block.shape[1] // 8
    gx = block.shape[2] // 8
    nsb = gx * gy * gz
    counts = np.empty(nsb, np.uint16)
    positions = np.empty(nsb * 8 + 4096, np.uint32)
    packed = np.empty(nsb * 576 + 16, np.uint8)
    table = np.empty(1024, np.uint64)
    slots = np.full(2048, -1, np.int32)
    local = np.empty(512, np.int16)
    rank = np.empty(512, np.int16)
    order = np.empty(512, np.int16)
    found = np.empty(512, np.uint64)
    small_slots = np.empty(1024, np.int16)
    stamps = np.zeros(1024, np.int32)
    n = 0
    total = np.int64(0)
    packed_size = 0
    i = 0
    for sz in range(gz):
        for sy in range(gy):
            for sx in range(gx):
                z0 = sz * 8
                y0 = sy * 8
                x0 = sx * 8
                if is_solid(block, z0, y0, x0):
                    here = 1
                    found[0] = block[z0, y0, x0]
                else:
                    here = distinct(block, z0, y0, x0, local, found, small_slots, stamps, i + 1)
                    for k in range(here):
                        order[k] = k
                    _sort_with(found, order, here)
                    for k in range(here):
                        rank[order[k]] = k
                counts[i] = here
                if total + here > positions.size:
                    larger = np.empty(2 * positions.size, np.uint32)
                    larger[:total] = positions[:total]
                    positions = larger
                for k in range(here):
                    label = found[k]
                    mask = slots.size - 1
                    at = slot_of(label, mask)
                    while slots[at] >= 0 and table[slots[at]] != label:
                        at = (at + 1) & mask
                    position = slots[at]
                    if position < 0:
                        position = n
                        if n == table.size:
                            wider = np.empty(2 * n, np.uint64)
                            wider[:n] = table
                            table = wider
                        table[n] = label
                        slots[at] = n
                        n += 1
                        if 2 * n > slots.size:
                            slots = _grown(slots, table, n)
                    positions[total] = position
                    total += 1
                if here > 1:
                    packed_size = _pack(local, rank, bits_for(here), packed, packed_size)
                i += 1
    if n == 1:
        solid = np.empty(24, np.uint8)
        store_u32(solid, 0, gx)
        store_u32(solid, 4, gy)
        store_u32(solid, 8, gz)
        store_u32(solid, 12, 1)
        store_u64(solid, 16, table[0])
        return solid
    size = 16 + 8 * n + 2 * nsb + 4 * total + packed_size
    out = np.empty(size, np.uint8)
    store_u32(out, 0, gx)
    store_u32(out, 4, gy)
    store_u32(out, 8, gz)
    store_u32(out, 12, n)
    at = 16
    copy_bytes(out, at, table, 0, 8 * n)
    at += 8 * n
    copy_bytes(out, at, counts, 0, 2 * nsb)
    at += 2 * nsb
    copy_bytes(out, at, positions, 0, 4 * total)
    at += 4 * total
    copy_bytes(out, at, packed, 0, packed_size)
    return out


@njit(cache=True, nogil=True)
def check(data, start, n, gx, gy, gz, counts):  # type: ignore[no-untyped-def]
    """Check parts F, G, H of a block that has n > 1 table entries and count voxels per entry into counts u32[n].

    Returns (problem, sub-block, end, uninitialised): problem 0 if all is well; `end` is the offset after part H;
    `uninitialised` the number of sub-blocks with an empty list. Reads nothing outside of `data`.
    """
    size = data.size
    nsb = gx * gy * gz
    for i in range(n):
        counts[i] = 0
    if start + 2 * nsb > size:
        return TRUNCATED, 0, 0, 0
    total = np.int64(0)
    packed_size = 0
    uninitialised = 0
    for i in range(nsb):
        here = np.int64(load_u16(data, start + 2 * i))
        if here > 512:
            return TOO_MANY, i, 0, 0
        if here == 0:
            uninitialised += 1
        total += here
        packed_size += 64 * bits_for(here)
    position = start + 2 * nsb
    packed = position + 4 * total
    end = packed + packed_size
    if end > size:
        return TRUNCATED, nsb, 0, 0
    histogram = np.zeros((2, 512), np.int64)
    low = np.uint64(0x5555555555555555)
    for i in range(nsb):
        here = np.int64(load_u16(data, start + 2 * i))
        for k in range(here):
            if np.int64(load_u32(data, position + 4 * k)) >= n:
                return BAD_POSITION, i, 0, 0
        bits = bits_for(here)
        if here == 1:
            counts[np.int64(load_u32(data, position))] += np.uint32(512)
        elif bits == 1:
            ones = np.int64(0)
            for k in range(8):
                ones += np.int64(count_ones(load_u64(data, packed + 8 * k)))
            counts[np.int64(load_u32(data, position))] += np.uint32(512 - ones)
            counts[np.int64(load_u32(data, position + 4))] += np.uint32(ones)
        elif bits == 2:
            one = np.int64(0)
            two = np.int64(0)
            three = np.int64(0)
            for k in range(16):
                word = load_u64(data, packed + 8 * k)
                lower = word & low
                upper = (word >> np.uint64(1)) & low
                three += np.int64(count_ones(lower & upper))
                one += np.int64(count_ones(lower & ~upper))
                two += np.int64(count_ones(upper & ~lower))
            if here == 3 and three > 0:
                return BAD_VALUE, i, 0, 0
            counts[np.int64(load_u32(data, position))] += np.uint32(512 - one - two - three)
            counts[np.int64(load_u32(data, position + 4))] += np.uint32(one)
            counts[np.int64(load_u32(data, position + 8))] += np.uint32(two)
            if here == 4:
                counts[np.int64(load_u32(data, position + 12))] += np.uint32(three)
        elif bits > 2:
            mask = np.uint64((1 << bits) - 1)
            limit = 1 << bits
            for k in range(limit):
                histogram[0, k] = 0
                histogram[1, k] = 0
            for r in range(64):
                at = packed + r * bits
                word = row_word(data, at, bits)
                for k in range(7):
                    histogram[k & 1, np.int64((word >> np.uint64(64 - bits * (k + 1))) & mask)] += 1
                if bits <= 8:
                    last = (word >> np.uint64(64 - bits * 8)) & mask
                else:
                    last = ((word << np.uint64(8)) | np.uint64(data[at + 8])) & mask
                histogram[1, np.int64(last)] += 1
            for k in range(here):
                many = histogram[0, k] + histogram[1, k]
                counts[np.int64(load_u32(data, position + 4 * k))] += np.uint32(many)
            for k in range(here, limit):
                if histogram[0, k] + histogram[1, k] > 0:
                    return BAD_VALUE, i, 0, 0
        position += 4 * here
        packed += 64 * bits
    return 0, 0, end, uninitialised


@njit(cache=True, nogil=True)
def positions_at(data, start, n, gx, gy, gz, xyz, out):  # type: ignore[no-untyped-def]
    """Table positions i32[k] of voxels i64[k,3] (x, y, z inside of the block); -1 in uninitialised sub-blocks.

    False if a voxel lies outside of the block.
    """
    for p in range(xyz.shape[0]):
        out[p] = 0
        for axis, size in enumerate((8 * gx, 8 * gy, 8 * gz)):
            if xyz[p, axis] < 0 or xyz[p, axis] >= size:
                return False
    if n == 1:
        return True
    nsb = gx * gy * gz
    lists = np.empty(nsb, np.int32)
    values = np.empty(nsb, np.int32)
    position = start + 2 * nsb
    packed = 0
    for i in range(nsb):
        here = np.int64(load_u16(data, start + 2 * i))
        lists[i] = position
        values[i] = packed
        position += 4 * here
        packed += 64 * bits_for(here)
    for p in range(xyz.shape[0]):
        x = xyz[p, 0]
        y = xyz[p, 1]
        z = xyz[p, 2]
        i = ((z >> 3) * gy + (y >> 3)) * gx + (x >> 3)
        here = np.int64(load_u16(data, start + 2 * i))
        if here == 0:
            out[p] = -1
            continue
        value = 0
        bits = bits_for(here)
        if bits > 0:
            bit = (((z & 7) * 8 + (y & 7)) * 8 + (x & 7)) * bits
            byte = position + values[i] + (bit >> 3)
            pair = np.int64(data[byte]) << 8
            if byte + 1 < data.size:
                pair |= np.int64(data[byte + 1])
            value = (pair >> (16 - (bit & 7) - bits)) & ((1 << bits) - 1)
        out[p] = np.int32(load_u32(data, lists[i] + 4 * value))
    return True


@njit(cache=True, nogil=True)
def replace_in_runs(block, supervoxel, split, remain, runs, x0, y0, z0):  # type: ignore[no-untyped-def]
    """In a dense block at voxel (x0, y0, z0), turn the supervoxel into `split` inside the runs and `remain` outside.

    Runs are i32[k,4] in volume coordinates; parts outside of the block are ignored. Returns the voxels of either.
    """
    depth, height, width = block.shape
    moved = 0
    for r in range(runs.shape[0]):
        z = np.int64(runs[r, 2]) - z0
        y = np.int64(runs[r, 1]) - y0
        if z < 0 or z >= depth or y < 0 or y >= height:
            continue
        first = max(np.int64(runs[r, 0]) - x0, 0)
        end = min(np.int64(runs[r, 0]) + np.int64(runs[r, 3]) - x0, width)
        for x in range(first, end):
            if block[z, y, x] == supervoxel:
                block[z, y, x] = split
                moved += 1
    kept = 0
    for z in range(depth):
        for y in range(height):
            for x in range(width):
                if block[z, y, x] == supervoxel:
                    block[z, y, x] = remain
                    kept += 1
    return moved, kept
