"""Where chosen labels are in a label block: bit masks, runs and binary blocks, without expanding the voxels.

Arguments as in `fascicle.kernels.label_codec`. A mask holds one byte per 8 voxels along x, voxel x of a row in bit x
% 8 of byte x // 8, rows in [z, y] order: u8[8 gz * 8 gy * gx].
"""

from __future__ import annotations

import numpy as np
from numba import njit

from fascicle.kernels.label_codec import bits_for, row_word
from fascicle.kernels.memory import (
    count_ones,
    load_u16,
    load_u32,
    load_u64,
    lowest_one,
    reverse_bits,
    store_u64,
    swap_bytes,
)

_ALL = np.uint64(0xFFFFFFFFFFFFFFFF)


@njit(cache=True, nogil=True)
def sub_block_mask(data, position, packed, here, wanted, chosen, mask):  # type: ignore[no-untyped-def]
    """The mask (u8[64], one byte per row of 8 voxels) of one sub-block; returns 0 none, 1 all, 2 mixed.

    `wanted` is u8 per table entry, `chosen` scratch u8[512]. The mask is written only for mixed sub-blocks.
    """
    some = np.int64(0)
    for k in range(here):
        w = wanted[np.int64(load_u32(data, position + 4 * k))]
        chosen[k] = w
        some += np.int64(w)
    if some == 0:
        return 0
    if some == here:
        return 1
    bits = bits_for(here)
    if bits == 1:
        flip = np.uint64(0)
        if chosen[0]:
            flip = _ALL
        for k in range(8):
            store_u64(mask, 8 * k, swap_bytes(reverse_bits(load_u64(data, packed + 8 * k))) ^ flip)
        return 2
    if bits <= 8:
        _mixed_mask(data, packed, bits, here, chosen, 2 * some > here, mask)
        return 2
    field = np.uint64((1 << bits) - 1)
    for r in range(64):
        at = packed + r * bits
        word = row_word(data, at, bits)
        byte = np.uint64(0)
        for k in range(7):
            value = (word >> np.uint64(64 - bits * (k + 1))) & field
            byte |= np.uint64(chosen[np.int64(value)]) << np.uint64(k)
        value = ((word << np.uint64(8)) | np.uint64(data[at + 8])) & field
        byte |= np.uint64(chosen[np.int64(value)]) << np.uint64(7)
        mask[r] = np.uint8(byte)
    return 2


@njit(cache=True, nogil=True)
def _mixed_mask(data, packed, bits, here, chosen, most, mask):  # type: ignore[no-untyped-def]
    """The mask of a sub-block of 2 to 8 bits per value: all 8 values of a row are compared at once.

    Each chosen value is looked for, or, if `most` are chosen, each of the others.
    """
    one = np.uint64(1)
    ones = np.uint64(0)  # the lowest bit of every value of a row
    for k in range(8):
        ones |= one << np.uint64(bits * k)
    high = ones << np.uint64(bits - 1)
    low = high - ones
    # masks for gathering bits that are `bits` apart: in pairs, in fours, all eight
    step = np.uint64(bits - 1)
    pairs = np.uint64(3) * (one | one << np.uint64(2 * bits) | one << np.uint64(4 * bits) | one << np.uint64(6 * bits))
    fours = np.uint64(15) * (one | one << np.uint64(4 * bits))
    align = np.uint64(64 - 8 * bits)
    wanted = 0 if most else 1
    flip = _ALL if most else np.uint64(0)
    first = np.int64(0)
    while (chosen[first] != 0) != wanted:
        first += 1
    last = here - 1
    while (chosen[last] != 0) != wanted:
        last -= 1
    pattern = np.uint64(first) * ones
    for q in range(8):
        rows = np.uint64(0)
        for r in range(8):
            word = row_word(data, packed + (8 * q + r) * bits, bits) >> align
            rest = word ^ pattern
            equal = ~(((rest & low) + low) | rest)
            for value in range(first + 1, last + 1):
                if (chosen[value] != 0) == wanted:
                    rest = word ^ np.uint64(value) * ones
                    equal |= ~(((rest & low) + low) | rest)
            found = (equal & high) >> step
            found = (found | found >> step) & pairs
            found = (found | found >> (step << one)) & fours
            found = (found | found >> (step << np.uint64(2))) & np.uint64(255)
            rows |= found << np.uint64(8 * r)
        store_u64(mask, 8 * q, swap_bytes(reverse_bits(rows)) ^ flip)


@njit(cache=True, nogil=True)
def block_mask(data, start, n, gx, gy, gz, wanted, masks, touched):  # type: ignore[no-untyped-def]
    """The mask of a whole block into `masks`, which must be zeros; returns whether any voxel is in it.

    `touched` u8[gz * gy], zeros too, gets 1 for every row of sub-blocks that has such voxels: often they are few.
    """
    if n == 1:
        if wanted[0] != 0:
            masks[:] = 255
            touched[:] = 1
        return wanted[0] != 0
    nsb = gx * gy * gz
    position = start + 2 * nsb
    packed = position
    for i in range(nsb):
        packed += 4 * np.int64(load_u16(data, start + 2 * i))
    chosen = np.empty(512, np.uint8)
    mask = np.empty(64, np.uint8)
    plane = 8 * gy * gx
    any_voxel = False
    i = 0
    for sz in range(gz):
        for sy in range(gy):
            for sx in range(gx):
                here = np.int64(load_u16(data, start + 2 * i))
                some = False  # most sub-blocks have none: look here, a call costs more than the look
                for k in range(here):
                    some |= wanted[np.int64(load_u32(data, position + 4 * k))] != 0
                kind = 0
                if some:
                    kind = sub_block_mask(data, position, packed, here, wanted, chosen, mask)
                corner = sz * 8 * plane + sy * 8 * gx + sx
                if kind:
                    any_voxel = True
                    touched[sz * gy + sy] = 1
                    for z in range(8):
                        for y in range(8):
                            masks[corner + z * plane + y * gx] = mask[z * 8 + y] if kind == 2 else np.uint8(255)
                position += 4 * here
                packed += 64 * bits_for(here)
                i += 1
    return any_voxel


@njit(cache=True, nogil=True)
def clip_word(word, x_first, first, end):  # type: ignore[no-untyped-def]
    """Of 64 mask bits that begin at x_first, keep those with first <= x < end."""
    low = first - x_first
    high = end - x_first
    if low >= 64 or high <= 0:
        return np.uint64(0)
    if low > 0:
        word &= _ALL << np.uint64(low)
    if high < 64:
        word &= ~(_ALL << np.uint64(high))
    return word


@njit(cache=True, nogil=True)
def mask_word(masks, at, left):  # type: ignore[no-untyped-def]
    """Up to 8 mask bytes as a word."""
    if left >= 8:
        return load_u64(masks, at)
    word = np.uint64(0)
    for i in range(left):
        word |= np.uint64(masks[at + i]) << np.uint64(8 * i)
    return word


@njit(cache=True, nogil=True)
def count_runs(masks, touched, gx, gy, gz, box):  # type: ignore[no-untyped-def]
    """How many runs `write_runs` writes."""
    count = np.int64(0)
    z_first, y_first, x_first = max(box[0], 0), max(box[1], 0), max(box[2], 0)
    z_end, y_end, x_end = min(box[3], 8 * gz), min(box[4], 8 * gy), min(box[5], 8 * gx)
    for z in range(z_first, z_end):
        for y in range(y_first, y_end):
            if touched[(z >> 3) * gy + (y >> 3)] == 0:
                continue
            row = (z * 8 * gy + y) * gx
            carry = np.uint64(0)
            for b in range(0, gx, 8):
                word = mask_word(masks, row + b, gx - b)
                if word != np.uint64(0):
                    word = clip_word(word, 8 * b, x_first, x_end)
                    count += np.int64(count_ones(word & ~((word << np.uint64(1)) | carry)))
                carry = word >> np.uint64(63)
    return count


@njit(cache=True, nogil=True)
def write_runs(masks, touched, gx, gy, gz, box, x0, y0, z0, runs, n):  # type: ignore[no-untyped-def]
    """Write maximal runs (x, y, z, length) of a mask, sorted by z, y, x, shifted by (x0, y0, z0), to runs i32[.,4].

    They go to row n and those after it. `touched` is that of `block_mask`; `box` is i64[6]: first z, y, x and end z,
    y, x inside of the block; voxels outside of it are left out.
    """
    z_first, y_first, x_first = max(box[0], 0), max(box[1], 0), max(box[2], 0)
    z_end, y_end, x_end = min(box[3], 8 * gz), min(box[4], 8 * gy), min(box[5], 8 * gx)
    for z in range(z_first, z_end):
        for y in range(y_first, y_end):
            if touched[(z >> 3) * gy + (y >> 3)] == 0:
                continue
            row = (z * 8 * gy + y) * gx
            open_at = np.int64(-1)
            for b in range(0, gx, 8):
                word = clip_word(mask_word(masks, row + b, gx - b), 8 * b, x_first, x_end)
                while True:
                    if open_at < 0:
                        if word == np.uint64(0):
                            break
                        at = np.int64(lowest_one(word))
                        open_at = np.int64(8 * b + at)
                        # from here on, zeros end the run
                        word |= (np.uint64(1) << np.uint64(at)) - np.uint64(1)
                    if word == _ALL:
                        break
                    at = np.int64(lowest_one(~word))
                    runs[n, 0] = open_at + x0
                    runs[n, 1] = y + y0
                    runs[n, 2] = z + z0
                    runs[n, 3] = 8 * b + at - open_at
                    n += 1
                    open_at = np.int64(-1)
                    word &= _ALL << np.uint64(at)
            if open_at >= 0:
                runs[n, 0] = open_at + x0
                runs[n, 1] = y + y0
                runs[n, 2] = z + z0
                runs[n, 3] = 8 * gx - open_at
                n += 1


@njit(cache=True, nogil=True)
def label_runs(data, start, n, gx, gy, gz, wanted, box, x0, y0, z0):  # type: ignore[no-untyped-def]
    """Runs i32[k,4] of the chosen table entries of a block; see `write_runs`."""
    masks = np.zeros(64 * gx * gy * gz, np.uint8)
    touched = np.zeros(gy * gz, np.uint8)
    if not block_mask(data, start, n, gx, gy, gz, wanted, masks, touched):
        return np.empty((0, 4), np.int32)
    runs = np.empty((count_runs(masks, touched, gx, gy, gz, box), 4), np.int32)
    write_runs(masks, touched, gx, gy, gz, box, x0, y0, z0, runs, np.int64(0))
    return runs


@njit(cache=True, nogil=True)
def binary_block(data, start, n, gx, gy, gz, wanted):  # type: ignore[no-untyped-def]
    """Flag byte and sub-blocks (u8) of the binary block format; empty if no voxel is chosen."""
    everything = True
    for i in range(n):
        if not wanted[i]:
            everything = False
    if everything:
        return np.ones(1, np.uint8)
    if n == 1:
        return np.empty(0, np.uint8)
    nsb = gx * gy * gz
    position = start + 2 * nsb
    packed = position
    for i in range(nsb):
        packed += 4 * np.int64(load_u16(data, start + 2 * i))
    out = np.empty(1 + 65 * nsb, np.uint8)
    out[0] = 2
    at = 1
    chosen = np.empty(512, np.uint8)
    mask = np.empty(64, np.uint8)
    any_voxel = False
    for i in range(nsb):
        here = np.int64(load_u16(data, start + 2 * i))
        some = False
        for k in range(here):
            some |= wanted[np.int64(load_u32(data, position + 4 * k))] != 0
        kind = 0
        if some:
            kind = sub_block_mask(data, position, packed, here, wanted, chosen, mask)
        if kind == 2:
            # a palette may name labels that no voxel has: look at the mask itself
            ones = np.uint64(0)
            for k in range(8):
                ones += count_ones(load_u64(mask, 8 * k))
            if ones == np.uint64(0):
                kind = 0
            elif ones == np.uint64(512):
                kind = 1
        out[at] = kind
        at += 1
        if kind != 0:
            any_voxel = True
        if kind == 2:
            for k in range(64):
                out[at + k] = mask[k]
            at += 64
        position += 4 * here
        packed += 64 * bits_for(here)
    if not any_voxel:
        return np.empty(0, np.uint8)
    return out[:at].copy()


@njit(cache=True, nogil=True)
def join_runs(runs):  # type: ignore[no-untyped-def]
    """Order runs i32[k,4] by z, y, x and unite neighbours along x; runs of one row must come with x ascending.

    Returns (True, runs). Rows are ordered by counting; (False, nothing) if their box is too large for that and they are
    not in order.
    """
    k = runs.shape[0]
    if k == 0:
        return True, np.empty((0, 4), np.int32)
    y_low = np.int64(runs[0, 1])
    y_high = y_low
    z_low = np.int64(runs[0, 2])
    z_high = z_low
    in_order = True
    for i in range(1, k):
        y = np.int64(runs[i, 1])
        z = np.int64(runs[i, 2])
        y_low = min(y_low, y)
        y_high = max(y_high, y)
        z_low = min(z_low, z)
        z_high = max(z_high, z)
        before_y = np.int64(runs[i - 1, 1])
        before_z = np.int64(runs[i - 1, 2])
        if z < before_z or (z == before_z and y < before_y):
            in_order = False
    height = y_high - y_low + 1
    rows = height * (z_high - z_low + 1)
    order = np.empty(k, np.int64)
    if in_order:
        for i in range(k):
            order[i] = i
    elif rows <= 4 * k + 65536:
        starts = np.zeros(rows + 1, np.int64)
        for i in range(k):
            starts[(np.int64(runs[i, 2]) - z_low) * height + np.int64(runs[i, 1]) - y_low + 1] += 1
        for i in range(rows):
            starts[i + 1] += starts[i]
        for i in range(k):
            row = (np.int64(runs[i, 2]) - z_low) * height + np.int64(runs[i, 1]) - y_low
            order[starts[row]] = i
            starts[row] += 1
    else:
        return False, np.empty((0, 4), np.int32)
    out = np.empty((k, 4), np.int32)
    n = 0
    for i in range(k):
        r = order[i]
        if (
            n > 0
            and out[n - 1, 2] == runs[r, 2]
            and out[n - 1, 1] == runs[r, 1]
            and np.int64(out[n - 1, 0]) + np.int64(out[n - 1, 3]) == np.int64(runs[r, 0])
        ):
            out[n - 1, 3] += runs[r, 3]
        else:
            out[n] = runs[r]
            n += 1
    return True, out[:n].copy()
