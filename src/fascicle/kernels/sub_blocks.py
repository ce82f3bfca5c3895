"""Label blocks in which some sub-blocks change: the others are copied as they are, nothing is decoded as a whole.

Arguments as in `label_codec`. Changed sub-blocks are given as positions in a table that begins with the block's own.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from fascicle.kernels.downsample import halve_sub_block
from fascicle.kernels.label_codec import bits_for, unpack
from fascicle.kernels.memory import (
    copy_bytes,
    load_u16,
    load_u32,
    store_u16,
    store_u32,
    store_u64,
    swap_bytes,
)


@njit(cache=True, nogil=True)
def _places(data, start, n, nsb):  # type: ignore[no-untyped-def]
    """For each sub-block its number of labels and where its list and its packed values begin."""
    counts = np.ones(nsb, np.int64)
    lists = np.zeros(nsb, np.int64)
    values = np.zeros(nsb, np.int64)
    if n == 1:
        return counts, lists, values
    at = start + 2 * nsb
    for i in range(nsb):
        counts[i] = np.int64(load_u16(data, start + 2 * i))
        lists[i] = at
        at += 4 * counts[i]
    for i in range(nsb):
        values[i] = at
        at += 64 * bits_for(counts[i])
    return counts, lists, values


@njit(cache=True, nogil=True)
def fill_runs(inside, runs, x0, y0, z0):  # type: ignore[no-untyped-def]
    """Set the voxels of runs i32[k,4] (x, y, z, length) in a mask u8[z,y,x] whose first voxel is (x0, y0, z0)."""
    for r in range(runs.shape[0]):
        z = np.int64(runs[r, 2]) - z0
        y = np.int64(runs[r, 1]) - y0
        first = np.int64(runs[r, 0]) - x0
        inside[z, y, first : first + np.int64(runs[r, 3])] = 1


@njit(cache=True, nogil=True)
def having(data, start, n, nsb, position):  # type: ignore[no-untyped-def]
    """The sub-blocks i64[k] that have the label at a position of the table, ascending."""
    if n == 1:
        return np.arange(nsb)
    found = np.empty(nsb, np.int64)
    k = 0
    at = start + 2 * nsb
    for i in range(nsb):
        end = at + 4 * np.int64(load_u16(data, start + 2 * i))
        while at < end:
            if np.int64(load_u32(data, at)) == position:
                found[k] = i
                k += 1
                break
            at += 4
        at = end
    return found[:k]


@njit(cache=True, nogil=True)
def split_label(data, start, n, gx, gy, gz, position, inside, out):  # type: ignore[no-untyped-def]
    """Sub-blocks that have a label, as table positions in which voxels under the mask have position n instead.

    `inside` is u8[z,y,x]; the positions go to `out` u32[.,512], in which there is room for every sub-block. Returns
    (indices i64[k], voxels under the mask, other voxels).
    """
    nsb = gx * gy * gz
    counts, lists, values = _places(data, start, n, nsb)
    found = np.empty(nsb, np.int64)
    own = np.zeros(nsb, np.int64)
    k = 0
    for i in range(nsb):
        if n == 1:
            found[k] = i
            k += 1
            continue
        for q in range(counts[i]):
            if np.int64(load_u32(data, lists[i] + 4 * q)) == position:
                own[i] = q
                found[k] = i
                k += 1
                break
    local = np.zeros(512, np.uint16)
    moved = 0
    kept = 0
    for j in range(k):
        i = found[j]
        bits = bits_for(counts[i])
        if bits:
            unpack(data, values[i], bits, local)
        else:
            local[:] = 0
        z0 = i // (gx * gy) * 8
        y0 = i // gx % gy * 8
        x0 = i % gx * 8
        v = 0
        for z in range(z0, z0 + 8):
            for y in range(y0, y0 + 8):
                for x in range(x0, x0 + 8):
                    value = np.int64(local[v])
                    if value != own[i]:
                        out[j, v] = load_u32(data, lists[i] + 4 * value)
                    elif inside[z, y, x]:
                        out[j, v] = np.uint32(n)
                        moved += 1
                    else:
                        out[j, v] = np.uint32(position)
                        kept += 1
                    v += 1
    return found[:k], moved, kept


@njit(cache=True, nogil=True)
def _pack(positions, j, rank, bits, out, at):  # type: ignore[no-untyped-def]
    """Write the 512 values rank[positions[j]], most significant bit first, from byte `at` of `out` on.

    Up to 8 bytes behind them are overwritten.
    """
    for v in range(0, 512, 8):
        word = np.uint64(0)
        if bits <= 8:
            for k in range(v, v + 8):
                word = (word << np.uint64(bits)) | np.uint64(rank[np.int64(positions[j, k])])
            store_u64(out, at, swap_bytes(word << np.uint64(64 - 8 * bits)))
        else:
            for k in range(v, v + 7):
                word = (word << np.uint64(9)) | np.uint64(rank[np.int64(positions[j, k])])
            last = np.uint64(rank[np.int64(positions[j, v + 7])])
            store_u64(out, at, swap_bytes((word << np.uint64(1)) | (last >> np.uint64(8))))
            out[at + 8] = np.uint8(last & np.uint64(255))
        at += bits


@njit(cache=True, nogil=True)
def rebuild(data, start, n, nsb, changed, positions, table):  # type: ignore[no-untyped-def]
    """Parts F, G and H of a block after sub-blocks changed, and which entries of `table` are in use.

    `changed` i64[k] are sub-blocks, `positions` u32[k,512] their voxels. Entries that are not in use are left out, so
    the block's table is `table[used]`. Nothing is returned for a block that has become solid.
    """
    counts, lists, values = _places(data, start, n, nsb)
    k = changed.size
    which = np.full(nsb, -1, np.int64)
    used = np.zeros(table.size, np.bool_)
    stamps = np.full(table.size, -1, np.int64)
    most = min(512, table.size)
    local = np.empty(k * most, np.int64)
    ends = np.zeros(k + 1, np.int64)
    for j in range(k):
        which[changed[j]] = j
        begin = ends[j]
        end = begin
        last = np.int64(-1)
        for v in range(512):
            p = np.int64(positions[j, v])
            if p != last:
                last = p
                if stamps[p] != j:
                    stamps[p] = j
                    used[p] = True
                    to = end
                    while to > begin and table[local[to - 1]] > table[p]:
                        local[to] = local[to - 1]
                        to -= 1
                    local[to] = p
                    end += 1
        ends[j + 1] = end
    total = np.int64(0)
    packed_size = np.int64(0)
    for i in range(nsb):
        j = which[i]
        if j >= 0:
            here = ends[j + 1] - ends[j]
        else:
            here = counts[i]
            if n == 1:
                used[0] = True
            else:
                for q in range(here):
                    used[np.int64(load_u32(data, lists[i] + 4 * q))] = True
        total += here
        packed_size += 64 * bits_for(here)
    renamed = np.empty(table.size, np.uint32)
    m = 0
    for entry in range(table.size):
        renamed[entry] = np.uint32(m)
        m += used[entry]
    if m == 1:
        return np.empty(0, np.uint8), used
    size = 2 * nsb + 4 * total + packed_size
    out = np.empty(size + 8, np.uint8)
    list_at = 2 * nsb
    packed_at = list_at + 4 * total
    rank = np.zeros(table.size, np.uint16)
    for i in range(nsb):
        j = which[i]
        here = ends[j + 1] - ends[j] if j >= 0 else counts[i]
        bits = bits_for(here)
        store_u16(out, 2 * i, here)
        for q in range(here):
            if j >= 0:
                p = local[ends[j] + q]
                rank[p] = q
            elif n == 1:
                p = np.int64(0)
            else:
                p = np.int64(load_u32(data, lists[i] + 4 * q))
            store_u32(out, list_at, renamed[p])
            list_at += 4
        if bits:
            if j >= 0:
                _pack(positions, j, rank, bits, out, packed_at)
            else:
                copy_bytes(out, packed_at, data, values[i], 64 * bits)
            packed_at += 64 * bits
    return out[:size], used


@njit(cache=True, nogil=True)
def count_in(data, start, n, nsb, chosen):  # type: ignore[no-untyped-def]
    """Voxels per table entry in the sub-blocks `chosen` i64[k]: i64[n]."""
    counts, lists, values = _places(data, start, n, nsb)
    found = np.zeros(n, np.int64)
    if n == 1:
        found[0] = 512 * chosen.size
        return found
    local = np.zeros(512, np.uint16)
    for j in range(chosen.size):
        i = chosen[j]
        bits = bits_for(counts[i])
        if bits == 0:
            found[np.int64(load_u32(data, lists[i]))] += 512
            continue
        unpack(data, values[i], bits, local)
        for v in range(512):
            found[np.int64(load_u32(data, lists[i] + 4 * np.int64(local[v])))] += 1
    return found


@njit(cache=True, nogil=True)
def gather(dense, entries, size_x, size_y, corner, changed, positions, k):  # type: ignore[no-untyped-def]
    """Sub-blocks of a dense part of a block as table positions.

    `dense` u64[z,y,x] has numbers whose position in the table `entries` u32 tells. `size_x`, `size_y` are the
    sub-blocks of the block, `corner` i64[3] (x, y, z) is where the part lies, in sub-blocks. Sub-blocks' numbers go to
    changed i64, their voxels to positions u32[.,512], from place k on; returns where they end.
    """
    for z in range(dense.shape[0] // 8):
        for y in range(dense.shape[1] // 8):
            for x in range(dense.shape[2] // 8):
                changed[k] = ((z + corner[2]) * size_y + y + corner[1]) * size_x + x + corner[0]
                v = 0
                for dz in range(8 * z, 8 * z + 8):
                    for dy in range(8 * y, 8 * y + 8):
                        for dx in range(8 * x, 8 * x + 8):
                            positions[k, v] = entries[dense[dz, dy, dx]]
                            v += 1
                k += 1
    return k


@njit(cache=True, nogil=True)
def join_tables(table, finer):  # type: ignore[no-untyped-def]
    """A block's table u64[n] with the labels of finer blocks u64[m] behind it that it lacks, and 0 if it lacks that.

    The labels are also numbered in ascending order, 0 first. Returns (the joined table, the position in it of each
    number u32, the numbers of the finer blocks' labels u64[m]).
    """
    n = table.size
    labels = np.zeros(1 + n + finer.size, np.uint64)
    labels[1 : n + 1] = table
    labels[n + 1 :] = finer
    labels.sort()
    k = 1
    for i in range(1, labels.size):
        if labels[i] != labels[k - 1]:
            labels[k] = labels[i]
            k += 1
    labels = labels[:k]
    lacking = np.uint32(0xFFFFFFFF)
    entries = np.full(k, lacking, np.uint32)
    for i, number in enumerate(np.searchsorted(labels, table)):
        entries[number] = i
    joined = np.empty(n + k, np.uint64)
    joined[:n] = table
    for number in range(k):
        if entries[number] == lacking:
            entries[number] = n
            joined[n] = labels[number]
            n += 1
    return joined[:n], entries, np.searchsorted(labels, finer).astype(np.uint64)


@njit(cache=True, nogil=True)
def follow_chosen(  # type: ignore[no-untyped-def]
    data, start, n, gx, gy, gz, finer, finer_start, finer_table, chosen, corner, entries, changed, positions, k, delta
):
    """Sub-blocks of a block as table positions, after the sub-blocks `chosen` i64[m] of a finer block have changed.

    `finer` and `finer_start` are of the finer block, its table `finer_table` has numbers whose position in the table
    of the block `entries` u32 tells. Their halves belong into the octant that begins at `corner` i64[3] (x, y, z, in
    sub-blocks). What differs from before goes to `changed` and `positions` from place k on, as `gather` does it, and
    how many more voxels each entry has is added to delta i64; returns where they end.
    """
    nsb = gx * gy * gz
    counts, lists, values = _places(data, start, n, nsb)
    finer_n = finer_table.size
    finer_counts, finer_lists, finer_values = _places(finer, finer_start, finer_n, nsb)
    place = np.full(nsb, -1, np.int64)
    local = np.zeros(512, np.uint16)
    palette = np.zeros(512, np.uint64)
    group = np.empty(8, np.int64)
    half = np.empty(64, np.uint64)
    differs = np.zeros(chosen.size, np.bool_)
    begin = k
    for i in chosen:
        x = i % gx
        y = i // gx % gy
        z = i // (gx * gy)
        above = ((z // 2 + corner[2]) * gy + y // 2 + corner[1]) * gx + x // 2 + corner[0]
        j = place[above]
        if j < 0:
            j = k
            place[above] = j
            changed[j] = above
            k += 1
            bits = bits_for(counts[above])
            if bits:
                unpack(data, values[above], bits, local)
                for v in range(512):
                    positions[j, v] = load_u32(data, lists[above] + 4 * np.int64(local[v]))
            else:
                positions[j, :] = np.uint32(0) if n == 1 else load_u32(data, lists[above])
        if finer_n == 1:
            half[:] = finer_table[0]
        else:
            here, listed, packed = finer_counts[i], finer_lists[i], finer_values[i]
            halve_sub_block(finer, here, listed, packed, finer_table, palette, local, group, half.ctypes.data, 128, 32)
        v = 0
        for dz in range(4 * (z & 1), 4 * (z & 1) + 4):
            for dy in range(4 * (y & 1), 4 * (y & 1) + 4):
                at = 64 * dz + 8 * dy + 4 * (x & 1)
                for to in range(at, at + 4):
                    before = positions[j, to]
                    after = entries[np.int64(half[v])]
                    if before != after:
                        positions[j, to] = after
                        delta[np.int64(before)] -= 1
                        delta[np.int64(after)] += 1
                        differs[j - begin] = True
                    v += 1
    end = begin
    for j in range(begin, k):
        if differs[j - begin]:
            if j != end:
                changed[end] = changed[j]
                positions[end] = positions[j]
            end += 1
    return end
