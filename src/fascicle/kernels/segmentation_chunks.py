"""Loops for compressed segmentation of any shape, block size and width of labels (u32 or u64), one channel at a time.

`words` are the u32 words of the channel, in which all offsets count; `wide` says that labels have 64 bits. Volumes are
[z, y, x], C order. `fascicle.kernels.segmentation_codec` has the faster encoders for u64 labels in blocks of 8 x 8 x 8.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from fascicle.kernels.memory import load_u32, load_u64, store_u32, store_u64

MOST_OFFSET = (1 << 24) - 1


@njit(cache=True, nogil=True, inline="always")
def _label(words, at, wide):  # type: ignore[no-untyped-def]
    """The label whose first word is `at`."""
    if wide:
        return load_u64(words, 4 * at)
    return np.uint64(load_u32(words, 4 * at))


@njit(cache=True, nogil=True, inline="always")
def _put(out, voxel, label, wide):  # type: ignore[no-untyped-def]
    if wide:
        store_u64(out, 8 * voxel, label)
    else:
        store_u32(out, 4 * voxel, np.uint32(label))


@njit(cache=True, nogil=True)
def _fill(out, first, row, plane, nz, ny, nx, label, wide):  # type: ignore[no-untyped-def]
    """One label in the voxels of a block that begins at voxel `first`."""
    for z in range(nz):
        for y in range(ny):
            at = first + z * plane + y * row
            for x in range(nx):
                _put(out, at + x, label, wide)


@njit(cache=True, nogil=True)
def _spread(words, table, values, width, out, first, row, plane, nz, ny, nx, wide):  # type: ignore[no-untyped-def]
    """An inner block of rows of 8 voxels of at most 8 bits; its table has an entry for every value."""
    step = np.uint64(width)
    mask = np.uint64((1 << width) - 1)
    per_label = 2 if wide else 1
    source = 4 * values
    for z in range(nz):
        for y in range(ny):
            at = first + z * plane + y * row
            bits = load_u64(words, source) if width == 8 else np.uint64(load_u32(words, source))
            source += width
            for x in range(nx):
                number = np.int64(bits & mask)
                bits >>= step
                _put(out, at + x, _label(words, table + per_label * number, wide), wide)


@njit(cache=True, nogil=True)
def decode(words, bz, by, bx, out, wide):  # type: ignore[no-untyped-def]
    """Decode a channel into `out` u32 or u64 [z,y,x], of which only x needs to be contiguous.

    False if an offset leads outside of the channel.
    """
    depth, height, width_x = out.shape
    gz = (depth + bz - 1) // bz
    gy = (height + by - 1) // by
    gx = (width_x + bx - 1) // bx
    size = np.int64(words.size)
    if 2 * gx * gy * gz > size:
        return False
    per_label = 2 if wide else 1
    row = np.int64(out.strides[1] // out.itemsize)
    plane = np.int64(out.strides[0] // out.itemsize)
    voxels = np.int64(bx) * by * bz
    i = 0
    for cz in range(gz):
        for cy in range(gy):
            for cx in range(gx):
                head = np.int64(words[2 * i])
                values = np.int64(words[2 * i + 1])
                i += 1
                table = head & 0xFFFFFF
                width = head >> 24
                if width not in (0, 1, 2, 4, 8, 16, 32) or (width and values + (voxels * width + 31) // 32 > size):
                    return False
                z0, y0, x0 = cz * bz, cy * by, cx * bx
                nz, ny, nx = min(bz, depth - z0), min(by, height - y0), min(bx, width_x - x0)
                first = z0 * plane + y0 * row + x0
                if width == 0:
                    if table + per_label > size:
                        return False
                    _fill(out, first, row, plane, nz, ny, nx, _label(words, table, wide), wide)
                    continue
                mask = (np.int64(1) << width) - 1
                inside = table + per_label * (mask + 1) <= size
                ahead = 4 * values + width * nz * ny + 8 <= 4 * size
                if bx == 8 and by == ny and width <= 8 and inside and ahead:
                    _spread(words, table, values, width, out, first, row, plane, nz, ny, nx, wide)
                    continue
                for z in range(nz):
                    for y in range(ny):
                        at = first + z * plane + y * row
                        bit = np.int64(width) * bx * (y + by * z)
                        for x in range(nx):
                            number = (np.int64(words[values + (bit >> 5)]) >> (bit & 31)) & mask
                            bit += width
                            entry = table + per_label * number
                            if entry + per_label > size:
                                return False
                            _put(out, at + x, _label(words, entry, wide), wide)
    return True


@njit(cache=True, nogil=True)
def _sorted(found, n):  # type: ignore[no-untyped-def]
    """Sort the first n labels."""
    gap = 1
    while gap < n // 3:
        gap = 3 * gap + 1
    while gap > 0:
        for i in range(gap, n):
            label = found[i]
            j = i
            while j >= gap and found[j - gap] > label:
                found[j] = found[j - gap]
                j -= gap
            found[j] = label
        gap //= 3


@njit(cache=True, nogil=True, inline="always")
def _slot(label, mask):  # type: ignore[no-untyped-def]
    mixed = (label ^ (label >> np.uint64(32))) * np.uint64(0x9E3779B97F4A7C15)
    return np.int64(mixed >> np.uint64(32)) & mask


@njit(cache=True, nogil=True)
def _collect(volume, z0, y0, x0, nz, ny, nx, found, slots, stamps, stamp):  # type: ignore[no-untyped-def]
    """The distinct labels of a block, in order of appearance, in `found`; `slots` gives each its place there."""
    mask = slots.size - 1
    n = 0
    last = np.uint64(volume[z0, y0, x0]) + np.uint64(1)
    for z in range(z0, z0 + nz):
        for y in range(y0, y0 + ny):
            for x in range(x0, x0 + nx):
                label = np.uint64(volume[z, y, x])
                if label == last:
                    continue
                last = label
                slot = _slot(label, mask)
                while stamps[slot] == stamp and slots[slot] != label:
                    slot = (slot + 1) & mask
                if stamps[slot] != stamp:
                    stamps[slot] = stamp
                    slots[slot] = label
                    found[n] = label
                    n += 1
    return n


@njit(cache=True, nogil=True)
def _shared(out, found, n, tables, lengths, chain, heads, mask, wide):  # type: ignore[no-untyped-def]
    """The number of a table that was written before with these labels, or -1; and the bucket of such tables."""
    per_label = 2 if wide else 1
    mixed = np.uint64(n)
    for k in range(n):
        mixed = (mixed ^ found[k]) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(29)
    bucket = np.int64(mixed & np.uint64(mask))
    t = heads[bucket]
    while t >= 0:
        if lengths[t] == n:
            same = True
            for k in range(n):
                if _label(out, tables[t] + per_label * k, wide) != found[k]:
                    same = False
                    break
            if same:
                return t, bucket
        t = chain[t]
    return np.int64(-1), bucket


@njit(cache=True, nogil=True)
def put_table(out, at, found, n, tables, lengths, chain, heads, mask, written, wide):  # type: ignore[no-untyped-def]
    """Write the n labels `found`, in order, as a table at word `at`, unless an equal one was written before.

    `tables`, `lengths` and `chain` describe those that were `written`, `heads` their buckets. Returns where the table
    is, where the next word goes, and how many tables there are.
    """
    shared, bucket = _shared(out, found, n, tables, lengths, chain, heads, mask, wide)
    if shared >= 0:
        return tables[shared], at, written
    table = at
    for k in range(n):
        if wide:
            store_u64(out, 4 * at, found[k])
            at += 2
        else:
            store_u32(out, 4 * at, np.uint32(found[k]))
            at += 1
    tables[written] = table
    lengths[written] = n
    chain[written] = heads[bucket]
    heads[bucket] = written
    return table, at, written + 1


@njit(cache=True, nogil=True)
def encode(volume, bz, by, bx, out, wide):  # type: ignore[no-untyped-def]
    """Encode dense labels u32 or u64 [z,y,x] into `out` u32, headers first.

    Tables are sorted, equal tables are written once, and voxels outside of the volume have value 0, as the first
    encoders of the format do. Returns the words written; -1 if an offset does not fit its 24 bits; less: `out` is too
    small by then.
    """
    depth, height, width_x = volume.shape
    gz = (depth + bz - 1) // bz
    gy = (height + by - 1) // by
    gx = (width_x + bx - 1) // bx
    blocks = gx * gy * gz
    voxels = np.int64(bx) * by * bz
    per_label = 2 if wide else 1
    size = 4
    while size < 2 * voxels:
        size *= 2
    slots = np.empty(size, np.uint64)
    numbers = np.empty(size, np.int32)
    stamps = np.zeros(size, np.int32)
    found = np.empty(voxels, np.uint64)
    heads_size = 4
    while heads_size < blocks:
        heads_size *= 2
    heads = np.full(heads_size, -1, np.int64)
    tables = np.empty(blocks, np.int64)
    lengths = np.empty(blocks, np.int64)
    chain = np.empty(blocks, np.int64)
    written = 0
    mask = size - 1
    at = 2 * blocks
    i = 0
    for cz in range(gz):
        for cy in range(gy):
            for cx in range(gx):
                z0, y0, x0 = cz * bz, cy * by, cx * bx
                nz, ny, nx = min(bz, depth - z0), min(by, height - y0), min(bx, width_x - x0)
                n = _collect(volume, z0, y0, x0, nz, ny, nx, found, slots, stamps, i + 1)
                width = 0
                if n > 1:
                    width = 1
                    while (np.int64(1) << width) < n:
                        width *= 2
                values = at
                words = (voxels * width + 31) // 32
                if at + words + per_label * n > out.size:
                    return -2
                if width > 0:
                    _sorted(found, n)
                    for k in range(n):
                        slot = _slot(found[k], mask)
                        while slots[slot] != found[k] or stamps[slot] != i + 1:
                            slot = (slot + 1) & mask
                        numbers[slot] = k
                    for k in range(words):
                        out[at + k] = 0
                    last = found[0]
                    number = np.uint32(0)
                    for z in range(nz):
                        for y in range(ny):
                            bit = np.int64(width) * bx * (y + by * z)
                            for x in range(nx):
                                label = np.uint64(volume[z0 + z, y0 + y, x0 + x])
                                if label != last:
                                    last = label
                                    slot = _slot(label, mask)
                                    while slots[slot] != label or stamps[slot] != i + 1:
                                        slot = (slot + 1) & mask
                                    number = np.uint32(numbers[slot])
                                out[at + (bit >> 5)] |= number << np.uint32(bit & 31)
                                bit += width
                    at += words
                table, at, written = put_table(
                    out, at, found, n, tables, lengths, chain, heads, heads_size - 1, written, wide
                )
                if table > MOST_OFFSET or values > MOST_OFFSET:
                    return -1
                out[2 * i] = np.uint32(table | (width << 24))
                out[2 * i + 1] = np.uint32(values)
                i += 1
    return at
