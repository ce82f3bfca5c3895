"""Runs of chosen labels through many label blocks, in the order in which they are told: by z, y, x.

Masks are those of `fascicle.kernels.label_masks`. All blocks of a layer are masked, then one row of voxels after the
other is walked through all of them: runs come out sorted and reach over blocks, and nothing has to be counted first.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from fascicle.kernels.label_masks import block_mask, clip_word, mask_word
from fascicle.kernels.memory import bytes_at, lowest_one

_ALL = np.uint64(0xFFFFFFFFFFFFFFFF)
_ONE = np.uint64(1)
_ROOM = 1 << 16


@njit(cache=True, nogil=True)
def _write_rows(  # type: ignore[no-untyped-def]
    masks, size, touched, kept, corners, first, last, gx, gy, z, low, high, out, n
):
    """Write the runs of one plane of a row of blocks (`kept` from first to last) to out[n:]; how many there are then.

    The mask of each block has `size` bytes. `z` counts inside of the blocks; low and high i64[2] are the first y, x and
    the end of what is wanted.
    """
    corner_y, corner_z = corners[kept[first], 1], corners[kept[first], 2]
    y_first, y_end = max(low[0] - corner_y, 0), min(high[0] - corner_y, 8 * gy)
    for y in range(y_first, y_end):
        group = (z >> 3) * gy + (y >> 3)
        row = (z * 8 * gy + y) * gx
        start = np.int64(0)
        end = np.int64(0)
        for k in range(first, last):
            if touched[k, group] == 0:
                continue
            x = corners[kept[k], 0]
            inside = low[1] <= x and x + 8 * gx <= high[1]
            for b in range(0, gx, 8):
                word = mask_word(masks, k * size + row + b, gx - b)
                if word == np.uint64(0):
                    continue
                at = x + 8 * b
                if not inside:
                    word = clip_word(word, at, low[1], high[1])
                begins = word & ~(word << _ONE)
                ends = word & ~(word >> _ONE)
                while begins != np.uint64(0):
                    begin = at + np.int64(lowest_one(begins))
                    if begin != end or start == end:
                        if start != end:
                            out[n, 0] = start
                            out[n, 1] = y + corner_y
                            out[n, 2] = z + corner_z
                            out[n, 3] = end - start
                            n += 1
                        start = begin
                    end = at + np.int64(lowest_one(ends)) + 1
                    begins &= begins - _ONE
                    ends &= ends - _ONE
        if start != end:
            out[n, 0] = start
            out[n, 1] = y + corner_y
            out[n, 2] = z + corner_z
            out[n, 3] = end - start
            n += 1
    return n


@njit(cache=True, nogil=True)
def runs_of_layers(blocks, corners, gx, gy, gz, wanted, box):  # type: ignore[no-untyped-def]
    """Maximal runs i32[k,4] (x, y, z, length) of the chosen table entries of many blocks, and i64[l] where layers end.

    blocks i64[n,4] are the address and size of a block's parts F, G and H, how many entries its table has, and where
    those begin in `wanted` u8. corners i64[n,3] are the blocks' first voxels x, y, z, sorted by z, y, x; blocks of one
    z are a layer, whose runs are sorted by z, y, x. `box` i64[6] is the first z, y, x and the end of what is wanted.
    """
    n = blocks.shape[0]
    ends = np.empty(n, np.int64)
    layers = 0
    out = np.empty((_ROOM, 4), np.int32)
    used = np.int64(0)
    most = 1
    since = 0
    for b in range(1, n):
        if corners[b, 2] != corners[since, 2]:
            since = b
        most = max(most, b - since + 1)
    size = 64 * gx * gy * gz
    masks = np.empty(most * size, np.uint8)
    touched = np.empty((most, gy * gz), np.uint8)
    kept = np.empty(most, np.int64)
    rows = np.empty(most + 1, np.int64)
    low, high = box[1:3], box[4:6]
    begin = 0
    while begin < n:
        stop = begin
        count = 0
        while stop < n and corners[stop, 2] == corners[begin, 2]:
            entries, first = blocks[stop, 2], blocks[stop, 3]
            chosen = wanted[first : first + entries]
            some = False
            for entry in chosen:
                some |= entry != 0
            if some:
                mask = masks[count * size : (count + 1) * size]
                mask[:] = 0
                touched[count] = 0
                data = bytes_at(blocks[stop, 0], blocks[stop, 1])
                if block_mask(data, 0, entries, gx, gy, gz, chosen, mask, touched[count]):
                    kept[count] = stop
                    count += 1
            stop += 1
        groups = 0
        for k in range(count):
            if k == 0 or corners[kept[k], 1] != corners[kept[k - 1], 1]:
                rows[groups] = k
                groups += 1
        rows[groups] = count
        corner_z = corners[begin, 2]
        for z in range(max(box[0] - corner_z, 0), min(box[3] - corner_z, 8 * gz)):
            for group in range(groups):
                first, last = rows[group], rows[group + 1]
                room = used + (last - first) * 32 * gx * gy  # no two runs of a row touch
                if room > out.shape[0]:
                    larger = np.empty((2 * room, 4), np.int32)
                    larger[:used] = out[:used]
                    out = larger
                used = _write_rows(
                    masks, size, touched, kept, corners, first, last, gx, gy, z, low, high, out, used
                )
        ends[layers] = used
        layers += 1
        begin = stop
    return out[:used], ends[:layers]
