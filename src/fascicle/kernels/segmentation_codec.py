"""Loops for Neuroglancer's compressed segmentation (one channel of u64, blocks of 8x8x8 voxels).

Offsets are in 32-bit words. `out` is a u32 array that is large enough for `MOST_WORDS` per block.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from fascicle.kernels.label_codec import bits_for, distinct, is_solid, slot_of, unpack
from fascicle.kernels.memory import load_u16, load_u32, load_u64, reverse_bits, store_u64, swap_bytes

MOST_WORDS = 1280
"""Of values and table of one block: 512 values of 16 bits and 512 labels."""
MOST_OFFSET = (1 << 24) - 1


@njit(cache=True, nogil=True)
def _width(n):  # type: ignore[no-untyped-def]
    """Bits per value for n labels."""
    if n <= 1:
        return 0
    if n <= 2:
        return 1
    if n <= 4:
        return 2
    if n <= 16:
        return 4
    if n <= 256:
        return 8
    return 16


@njit(cache=True, nogil=True)
def _pack(numbers, width, out, at):  # type: ignore[no-untyped-def]
    """Write 512 numbers (u16) of `width` bits, least significant first; returns the position after them."""
    step = np.uint64(width)
    bits = np.uint64(0)
    word = np.uint64(0)
    for v in range(0, 512, 4):
        quad = np.uint64(numbers[v + 3])
        quad = (quad << step) | np.uint64(numbers[v + 2])
        quad = (quad << step) | np.uint64(numbers[v + 1])
        quad = (quad << step) | np.uint64(numbers[v])
        word |= quad << bits
        bits += step * np.uint64(4)
        if bits == np.uint64(64):
            store_u64(out, 4 * at, word)
            at += 2
            bits = np.uint64(0)
            word = np.uint64(0)
    return at


@njit(cache=True, nogil=True)
def encode_slab(slab, base, headers, first, out):  # type: ignore[no-untyped-def]
    """Encode dense labels u64[z,y,x], sides multiples of 8, each block with its own table.

    Headers u32 pairs go to headers[2 first:], values and tables to `out`, whose start is word `base` of the channel.
    Returns the words written, or -1 if an offset does not fit its 24 bits.
    """
    gz = slab.shape[0] // 8
    gy = slab.shape[1] // 8
    gx = slab.shape[2] // 8
    local = np.empty(512, np.int16)
    found = np.empty(512, np.uint64)
    slots = np.empty(1024, np.int16)
    stamps = np.zeros(1024, np.int32)
    at = 0
    i = 0
    for sz in range(gz):
        for sy in range(gy):
            for sx in range(gx):
                values = base + at
                n = 1
                if is_solid(slab, 8 * sz, 8 * sy, 8 * sx):
                    found[0] = slab[8 * sz, 8 * sy, 8 * sx]
                else:
                    n = distinct(slab, 8 * sz, 8 * sy, 8 * sx, local, found, slots, stamps, i + 1)
                width = _width(n)
                if width > 0:
                    at = _pack(local, width, out, at)
                table = base + at
                if table > MOST_OFFSET:
                    return -1
                headers[2 * (first + i)] = np.uint32(table | (width << 24))
                headers[2 * (first + i) + 1] = np.uint32(values)
                for k in range(n):
                    store_u64(out, 4 * at, found[k])
                    at += 2
                i += 1
    return at


@njit(cache=True, nogil=True)
def transcode(data, start, table, gx, gy, gz, base, headers, out):  # type: ignore[no-untyped-def]
    """Encode a label block (arguments as in `fascicle.kernels.label_codec`) without expanding it.

    Equal labels of a list become one; neighbouring solid blocks of one label share a table. Returns as `encode_slab`.
    """
    nsb = gx * gy * gz
    solid_label = np.uint64(0)
    solid_at = -1
    at = 0
    if table.size == 1:
        store_u64(out, 0, table[0])
        for i in range(nsb):
            headers[2 * i] = np.uint32(base)
            headers[2 * i + 1] = np.uint32(base)
        return 2
    position = start + 2 * nsb
    packed = position
    for i in range(nsb):
        packed += 4 * np.int64(load_u16(data, start + 2 * i))
    labels = np.empty(512, np.uint64)
    remap = np.zeros(512, np.uint16)
    values = np.empty(512, np.uint16)
    slots = np.empty(1024, np.int64)
    stamps = np.full(1024, -1, np.int64)
    for i in range(nsb):
        here = np.int64(load_u16(data, start + 2 * i))
        bits = bits_for(here)
        n = 0
        changed = False
        for k in range(here):
            label = table[np.int64(load_u32(data, position + 4 * k))]
            number = -1
            if here <= 8:
                for j in range(n):
                    if labels[j] == label:
                        number = j
            else:
                slot = slot_of(label, 1023)
                while stamps[slot] == i:
                    if labels[slots[slot]] == label:
                        number = slots[slot]
                        break
                    slot = (slot + 1) & 1023
                if number < 0:
                    stamps[slot] = i
                    slots[slot] = n
            if number < 0:
                number = n
                labels[n] = label
                n += 1
            remap[k] = number
            changed |= number != k
        if n == 0:
            labels[0] = np.uint64(0)
            n = 1
        values_at = base + at
        width = _width(n)
        if n == 1 and solid_at >= 0 and solid_label == labels[0]:
            headers[2 * i] = np.uint32(solid_at)
            headers[2 * i + 1] = np.uint32(solid_at)
        else:
            if width == 1 and bits == 1:
                for k in range(8):
                    store_u64(out, 4 * at, swap_bytes(reverse_bits(load_u64(data, packed + 8 * k))))
                    at += 2
            elif width > 0:
                unpack(data, packed, bits, values)
                if changed:
                    for v in range(512):
                        values[v] = remap[values[v]]
                at = _pack(values, width, out, at)
            if base + at > MOST_OFFSET:
                return -1
            headers[2 * i] = np.uint32((base + at) | (width << 24))
            headers[2 * i + 1] = np.uint32(values_at)
            if n == 1:
                solid_label = labels[0]
                solid_at = base + at
            for k in range(n):
                store_u64(out, 4 * at, labels[k])
                at += 2
        position += 4 * here
        packed += 64 * bits
    return at


@njit(cache=True, nogil=True)
def decode(words, out):  # type: ignore[no-untyped-def]
    """Decode a channel u32 into `out` u64[z,y,x], sides multiples of 8; False if an offset leads outside of it."""
    gz = out.shape[0] // 8
    gy = out.shape[1] // 8
    gx = out.shape[2] // 8
    size = np.int64(words.size)
    if 2 * gx * gy * gz > size:
        return False
    i = 0
    for sz in range(gz):
        for sy in range(gy):
            for sx in range(gx):
                head = np.int64(words[2 * i])
                table = head & 0xFFFFFF
                width = head >> 24
                values = np.int64(words[2 * i + 1])
                i += 1
                if width not in (0, 1, 2, 4, 8, 16, 32) or values + 16 * width > size:
                    return False
                mask = (1 << width) - 1
                for v in range(512):
                    number = np.int64(0)
                    if width > 0:
                        bit = v * width
                        number = (np.int64(words[values + (bit >> 5)]) >> (bit & 31)) & mask
                    at = table + 2 * number
                    if at + 2 > size:
                        return False
                    label = np.uint64(words[at]) | (np.uint64(words[at + 1]) << np.uint64(32))
                    out[8 * sz + (v >> 6), 8 * sy + ((v >> 3) & 7), 8 * sx + (v & 7)] = label
    return True
