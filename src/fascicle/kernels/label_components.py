"""Connected pieces of labels: voxels of one label that touch by faces, edges or corners.

Each row of voxels is cut into runs, and runs of neighbouring rows are united (union-find, K. Wu et al., "Optimizing
two-pass connected-component labeling algorithms", 2009).
"""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def _is_in(value, sorted_values):  # type: ignore[no-untyped-def]
    low, high = 0, len(sorted_values)
    while low < high:
        middle = (low + high) // 2
        if sorted_values[middle] < value:
            low = middle + 1
        else:
            high = middle
    return low < len(sorted_values) and sorted_values[low] == value


@njit(cache=True, nogil=True)
def _root(parents, i):  # type: ignore[no-untyped-def]
    while parents[i] != i:
        parents[i] = parents[parents[i]]
        i = parents[i]
    return i


@njit(cache=True, nogil=True)
def _unite(parents, values, a, b):  # type: ignore[no-untyped-def]
    """Put two runs together if they have the same label; the first run of a piece stands for it."""
    if values[a] == values[b]:
        one, two = _root(parents, a), _root(parents, b)
        if one != two:
            parents[max(one, two)] = min(one, two)


@njit(cache=True, nogil=True)
def label_components(labels, wanted, fewest, open_faces, pieces):  # type: ignore[no-untyped-def]
    """Number the connected pieces of labels in `pieces` i32[z,y,x], from 1 in the order of their first voxels.

    `labels` is unsigned [z,y,x]; 0 is no label. `wanted` are the labels that count, ascending, or nothing for all.
    Pieces of fewer than `fewest` voxels are left out (0), unless they touch a face of the volume behind which it goes
    on: `open_faces` u8[6] says it of the faces at low z, high z, low y, high y, low x, high x.

    Returns for every piece its label (u64[n + 1]) and its voxels (i64[n + 1]), both from index 1 on.
    """
    depth, height, width = labels.shape
    every = len(wanted) == 0
    total = 0
    for z in range(depth):
        for y in range(height):
            before = labels[z, y, 0]
            total += 1
            for x in range(1, width):
                if labels[z, y, x] != before:
                    before = labels[z, y, x]
                    total += 1
    starts, stops = np.empty(total, np.int32), np.empty(total, np.int32)
    values = np.empty(total, np.uint64)
    parents = np.empty(total, np.int32)
    first = np.empty(depth * height + 1, np.int32)
    count = 0
    known, is_known = np.uint64(0), False
    for z in range(depth):
        for y in range(height):
            row = z * height + y
            first[row] = count
            x = 0
            while x < width:
                value = np.uint64(labels[z, y, x])
                start = x
                x += 1
                while x < width and np.uint64(labels[z, y, x]) == value:
                    x += 1
                if value == np.uint64(0):
                    continue
                if not every:
                    if value != known:
                        known, is_known = value, _is_in(value, wanted)
                    if not is_known:
                        continue
                starts[count], stops[count], values[count], parents[count] = start, x, value, count
                count += 1
            for neighbour in range(4):
                other_z = z if neighbour == 0 else z - 1
                other_y = y - 1 if neighbour == 0 else y + neighbour - 2
                if other_z < 0 or other_y < 0 or other_y >= height:
                    continue
                other = other_z * height + other_y
                a, a_end = first[row], count
                b, b_end = first[other], first[other + 1]
                while a < a_end and b < b_end:
                    if stops[b] < starts[a]:
                        b += 1
                    elif stops[a] < starts[b]:
                        a += 1
                    else:
                        _unite(parents, values, a, b)
                        # runs that end together: the next one of each still touches this one of the other
                        if stops[a] == stops[b] and a + 1 < a_end and starts[a + 1] == stops[b]:
                            _unite(parents, values, a + 1, b)
                        if stops[a] < stops[b]:
                            a += 1
                        else:
                            b += 1
            first[row + 1] = count
    sizes = np.zeros(count, np.int64)
    lasting = np.zeros(count, np.bool_)
    for row in range(depth * height):
        z, y = row // height, row % height
        at_face = (
            (open_faces[0] and z == 0)
            or (open_faces[1] and z == depth - 1)
            or (open_faces[2] and y == 0)
            or (open_faces[3] and y == height - 1)
        )
        for i in range(first[row], first[row + 1]):
            root = _root(parents, i)
            parents[i] = root
            sizes[root] += stops[i] - starts[i]
            if at_face or (open_faces[4] and starts[i] == 0) or (open_faces[5] and stops[i] == width):
                lasting[root] = True
    numbers = np.zeros(count, np.int32)
    found = 0
    for i in range(count):
        if parents[i] == i and (lasting[i] or sizes[i] >= fewest):
            found += 1
            numbers[i] = found
    piece_labels, piece_sizes = np.zeros(found + 1, np.uint64), np.zeros(found + 1, np.int64)
    for i in range(count):
        if numbers[i] and parents[i] == i:
            piece_labels[numbers[i]], piece_sizes[numbers[i]] = values[i], sizes[i]
    for row in range(depth * height):
        z, y = row // height, row % height
        x = 0
        for i in range(first[row], first[row + 1]):
            pieces[z, y, x : starts[i]] = 0
            pieces[z, y, starts[i] : stops[i]] = numbers[parents[i]]
            x = stops[i]
        pieces[z, y, x:] = 0
    return piece_labels, piece_sizes
