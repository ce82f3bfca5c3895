"""Encoding dense labels as compressed segmentation, blocks of 8 x 8 x 8, right where they lie in a larger array.

`memory` is a flat u32 or u64 array; a box begins at its element `first`, with rows of consecutive labels that are `row`
elements apart and planes that are `plane` elements apart. Bytes are those of `segmentation_chunks.encode`.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from fascicle.kernels.memory import store_u64
from fascicle.kernels.segmentation_chunks import MOST_OFFSET, _sorted, put_table

ROOM = 1282
"""Words of `out` that a block may take, with some that are written and overwritten."""
_SEARCHED = 24
"""So many labels are looked through one by one; for more there is a hash table."""


@njit(cache=True, nogil=True, inline="always")
def _slot(label):  # type: ignore[no-untyped-def]
    mixed = (label ^ (label >> np.uint64(32))) * np.uint64(0x9E3779B97F4A7C15)
    return np.int64(mixed >> np.uint64(32)) & 1023


@njit(cache=True, nogil=True)
def _number(label, found, n, slots):  # type: ignore[no-untyped-def]
    """The place of a label among the first n of `found`, where it is put (at n) if it is new; `slots` i16[1024]."""
    if n <= _SEARCHED:
        for k in range(n):
            if found[k] == label:
                return k
        found[n] = label
        if n == _SEARCHED:
            slots[:] = -1
            for k in range(n + 1):
                slot = _slot(found[k])
                while slots[slot] >= 0:
                    slot = (slot + 1) & 1023
                slots[slot] = k
        return n
    slot = _slot(label)
    while slots[slot] >= 0:
        if found[slots[slot]] == label:
            return np.int64(slots[slot])
        slot = (slot + 1) & 1023
    slots[slot] = n
    found[n] = label
    return n


@njit(cache=True, nogil=True)
def _block(memory, first, row, plane, found, slots, numbers, rows):  # type: ignore[no-untyped-def]
    """Number the labels of a block by first appearance: how many there are.

    `numbers` u16[512] gets the number of each voxel and `rows` u64[64] those of each row as bytes, which are right if
    there are at most 256 labels. Solid blocks leave both as they are.
    """
    label = memory[first]
    found[0] = label
    n = 1
    solid = True
    for z in range(8):
        for y in range(8):
            at = first + z * plane + y * row
            different = label ^ memory[at]
            for x in range(1, 8):
                different |= label ^ memory[at + x]
            if different != 0:
                solid = False
                break
        if not solid:
            break
    if solid:
        return 1
    last = np.uint64(label)
    number = np.int64(0)
    before = first
    for z in range(8):
        for y in range(8):
            at = first + z * plane + y * row
            i = 8 * z + y
            if i > 0:
                different = memory[before] ^ memory[at]
                for x in range(1, 8):
                    different |= memory[before + x] ^ memory[at + x]
                before = at
                if different == 0:
                    rows[i] = rows[i - 1]
                    for x in range(8):
                        numbers[8 * i + x] = numbers[8 * i - 8 + x]
                    continue
            packed = np.uint64(0)
            for x in range(8):
                here = np.uint64(memory[at + x])
                if here != last:
                    last = here
                    number = _number(here, found, n, slots)
                    if number == n:
                        n += 1
                numbers[8 * i + x] = number
                packed |= np.uint64(number & 255) << np.uint64(8 * x)
            rows[i] = packed
    return n


@njit(cache=True, nogil=True, inline="always")
def _narrowed(packed, width):  # type: ignore[no-untyped-def]
    """Eight numbers, one in each byte, as `width` bits each."""
    if width == 1:
        return (packed * np.uint64(0x0102040810204080)) >> np.uint64(56)
    if width == 8:
        return packed
    mask = np.uint64(0x000F000F000F000F if width == 2 else 0x00FF00FF00FF00FF)
    packed = (packed | (packed >> np.uint64(8 - width))) & mask
    if width == 2:
        packed = (packed | (packed >> np.uint64(12))) & np.uint64(0x000000FF000000FF)
        return (packed | (packed >> np.uint64(24))) & np.uint64(0xFFFF)
    packed = (packed | (packed >> np.uint64(8))) & np.uint64(0x0000FFFF0000FFFF)
    return (packed | (packed >> np.uint64(16))) & np.uint64(0xFFFFFFFF)


@njit(cache=True, nogil=True)
def _write_rows(rows, ranks, width, ordered, out, at):  # type: ignore[no-untyped-def]
    """The values of a block of up to 256 labels; each row writes past its end, where the next one follows."""
    target = 4 * at
    before = np.uint64(0)
    done = np.uint64(0)
    known = False
    for i in range(64):
        packed = rows[i]
        if not known or packed != before:
            before = packed
            known = True
            if not ordered:
                ranked = np.uint64(0)
                for x in range(8):
                    shift = np.uint64(8 * x)
                    ranked |= np.uint64(ranks[np.int64((packed >> shift) & np.uint64(255))]) << shift
                packed = ranked
            done = _narrowed(packed, width)
        store_u64(out, target, done)
        target += width


@njit(cache=True, nogil=True)
def encode(memory, first, row, plane, gz, gy, gx, out, wide):  # type: ignore[no-untyped-def]
    """Encode a box of gz x gy x gx blocks into `out` u32, headers first: the words written.

    -1 if an offset does not fit its 24 bits; `out` has room for `ROOM` words per block.
    """
    blocks = gx * gy * gz
    found = np.empty(513, np.uint64)
    order = np.empty(513, np.uint64)
    ranks = np.empty(512, np.uint16)
    numbers = np.empty(512, np.uint16)
    rows = np.empty(64, np.uint64)
    slots = np.empty(1024, np.int16)
    heads_size = 4
    while heads_size < blocks:
        heads_size *= 2
    heads = np.full(heads_size, -1, np.int64)
    tables = np.empty(blocks, np.int64)
    lengths = np.empty(blocks, np.int64)
    chain = np.empty(blocks, np.int64)
    written = 0
    at = 2 * blocks
    i = 0
    solid = np.uint64(0)
    solid_table = np.int64(-1)
    for cz in range(gz):
        for cy in range(gy):
            for cx in range(gx):
                corner = first + 8 * (cz * plane + cy * row + cx)
                n = _block(memory, corner, row, plane, found, slots, numbers, rows)
                values = at
                width = 0
                if n == 1:
                    order[0] = found[0]
                    if solid_table >= 0 and found[0] == solid:
                        out[2 * i] = np.uint32(solid_table)
                        out[2 * i + 1] = np.uint32(values)
                        if values > MOST_OFFSET:
                            return -1
                        i += 1
                        continue
                else:
                    width = 1
                    while (1 << width) < n:
                        width *= 2
                    ordered = True
                    for k in range(1, n):
                        if found[k] < found[k - 1]:
                            ordered = False
                    for k in range(n):
                        order[k] = found[k]
                    if not ordered:
                        _sorted(order, n)
                        for k in range(n):
                            low, high = 0, n - 1
                            while low < high:
                                middle = (low + high) >> 1
                                if order[middle] < found[k]:
                                    low = middle + 1
                                else:
                                    high = middle
                            ranks[k] = low
                    if n <= 256:
                        _write_rows(rows, ranks, width, ordered, out, at)
                    else:
                        for v in range(256):
                            low, high = numbers[2 * v], numbers[2 * v + 1]
                            if not ordered:
                                low, high = ranks[low], ranks[high]
                            out[at + v] = np.uint32(low) | (np.uint32(high) << np.uint32(16))
                    at += 16 * width
                table, at, written = put_table(
                    out, at, order, n, tables, lengths, chain, heads, heads_size - 1, written, wide
                )
                if table > MOST_OFFSET or values > MOST_OFFSET:
                    return -1
                if n == 1:
                    solid, solid_table = found[0], table
                out[2 * i] = np.uint32(table | (width << 24))
                out[2 * i + 1] = np.uint32(values)
                i += 1
    return at


@njit(cache=True, nogil=True)
def is_blank(memory, first, row, plane, nz, ny, nx):  # type: ignore[no-untyped-def]
    """Whether all voxels of a box are 0."""
    for z in range(nz):
        for y in range(ny):
            at = first + z * plane + y * row
            for x in range(nx):
                if memory[at + x] != 0:
                    return False
    return True
