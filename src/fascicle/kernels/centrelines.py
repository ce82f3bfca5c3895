"""Centrelines of connected pieces: shortest paths that keep to the middle, as TEASAR has them.

M. Sato et al., "TEASAR: tree-structure extraction algorithm for accurate and robust skeletons" (2000): from a root, the
shortest paths to the farthest voxels are followed one after the other, where being close to the surface is
expensive; what lies around a path counts as seen, and the farthest of the rest is next. Ours differs from the paper in
three ways. Paths run through *nodes*, each the voxel of one piece in one cell of a grid that is deepest inside, so
several voxels may share a node, and a node is always a voxel of the piece. The price of a step is its length over the
depth to a power, which centres thin branches as well as thick ones. What counts as seen spreads from a path within the
piece, not through the air to a branch that passes close by.
"""

from __future__ import annotations

import numpy as np
from numba import njit

_POWER = 3
_AGAIN = np.float32(0.1)
"""A node is seen anew if that reaches farther than before by this part of the radius."""


@njit(cache=True, nogil=True)
def _longer(array, size):  # type: ignore[no-untyped-def]
    longer = np.empty(size, array.dtype)
    longer[: len(array)] = array
    return longer


@njit(cache=True, nogil=True)
def make_nodes(pieces, depths, cell_zyx):  # type: ignore[no-untyped-def]
    """The nodes of all pieces: i32[z,y,x] numbers, f32[z,y,x] distances to the surface, i64[3] voxels of a cell.

    Returns the first node of each cell, i64[cells + 1], and of each node its piece i32[n], voxel i64[n] (flat index)
    and depth f32[n].
    """
    depth, height, width = pieces.shape
    fz, fy, fx = cell_zyx
    nz, ny, nx = -(-depth // fz), -(-height // fy), -(-width // fx)
    first = np.empty(nz * ny * nx + 1, np.int64)
    room = max(1024, nz * ny * nx)
    owner, voxel, deep = np.empty(room, np.int32), np.empty(room, np.int64), np.empty(room, np.float32)
    count, cell = 0, 0
    for cz in range(nz):
        for cy in range(ny):
            for cx in range(nx):
                first[cell] = count
                cell += 1
                if count + fz * fy * fx > room:
                    room = room + room // 2 + fz * fy * fx
                    owner, voxel, deep = _longer(owner, room), _longer(voxel, room), _longer(deep, room)
                begin = count
                for z in range(cz * fz, min(cz * fz + fz, depth)):
                    for y in range(cy * fy, min(cy * fy + fy, height)):
                        for x in range(cx * fx, min(cx * fx + fx, width)):
                            piece = pieces[z, y, x]
                            if piece == 0:
                                continue
                            here = depths[z, y, x]
                            place = count - 1
                            while place >= begin and owner[place] != piece:
                                place -= 1
                            if place < begin:
                                place = count
                                count += 1
                            elif deep[place] >= here:
                                continue
                            owner[place] = piece
                            voxel[place] = (z * height + y) * width + x
                            deep[place] = here
    first[cell] = count
    return first, owner[:count].copy(), voxel[:count].copy(), deep[:count].copy()


@njit(cache=True, nogil=True)
def _push(keys, items, size, key, item):  # type: ignore[no-untyped-def]
    """Into a heap with four children each; there is room."""
    at = size
    while at > 0:
        up = (at - 1) >> 2
        if keys[up] <= key:
            break
        keys[at], items[at] = keys[up], items[up]
        at = up
    keys[at], items[at] = key, item


@njit(cache=True, nogil=True)
def _sink(keys, items, size):  # type: ignore[no-untyped-def]
    """Take the first one off a heap, whose new size is `size`."""
    key, item = keys[size], items[size]
    at = 0
    while True:
        child = 4 * at + 1
        if child >= size:
            break
        least = child
        for other in range(child + 1, min(child + 4, size)):
            if keys[other] < keys[least]:
                least = other
        if keys[least] >= key:
            break
        keys[at], items[at] = keys[least], items[least]
        at = least
    keys[at], items[at] = key, item


@njit(cache=True, nogil=True)
def trace(  # type: ignore[no-untyped-def]
    shape_zyx, cell_zyx, steps_zyx, first, owner, voxel, deep, pieces, targets, target_starts, scale, constant, soma
):
    """Follow the centrelines of the pieces 1 to `pieces`.

    `targets` i64 are nodes that must be reached, those of piece p from `target_starts[p]` to `target_starts[p + 1]`.
    Whatever lies within `scale` times the depth plus `constant` of a path is seen. A piece with a node deeper than
    `soma` begins there; another one at its deepest target, or at its end that is farthest from its first node.

    A piece with one target goes on from there, so the farthest node from it is reached even if it is seen already.

    Returns the vertices: their nodes i64[n], and the vertex that each is joined to, i64[n], -1 for the root of each
    piece; the number of the vertex of each node, i32, -1 for most; and the vertices that are such farthest nodes, i64.
    """
    height, width = shape_zyx[1], shape_zyx[2]
    nz, ny, nx = -(-shape_zyx[0] // cell_zyx[0]), -(-height // cell_zyx[1]), -(-width // cell_zyx[2])
    count = len(owner)
    starts = np.zeros(pieces + 2, np.int64)
    for i in range(count):
        starts[owner[i] + 1] += 1
    for piece in range(pieces + 1):
        starts[piece + 1] += starts[piece]
    members = np.empty(count, np.int32)
    cells = np.empty(count, np.int32)
    positions = np.empty((count, 3), np.float32)
    price = np.empty(count, np.float32)
    filled = starts.copy()
    cell = 0
    for i in range(count):
        while first[cell + 1] <= i:
            cell += 1
        cells[i] = cell
        members[filled[owner[i]]] = i
        filled[owner[i]] += 1
        z, rest = voxel[i] // (height * width), voxel[i] % (height * width)
        positions[i, 0] = z * steps_zyx[0]
        positions[i, 1] = rest // width * steps_zyx[1]
        positions[i, 2] = rest % width * steps_zyx[2]
        ratio = constant / deep[i] if constant > 0 else 1 / deep[i]
        price[i] = np.float32(max(ratio**_POWER, 1e-12))
    shift = np.empty((27, 4), np.int64)
    for k in range(27):
        dz, dy, dx = k // 9 - 1, k // 3 % 3 - 1, k % 3 - 1
        shift[k, 0], shift[k, 1], shift[k, 2], shift[k, 3] = dz, dy, dx, (dz * ny + dy) * nx + dx

    cost = np.full(count, np.inf, np.float64)
    parents = np.full(count, -1, np.int32)
    length = np.zeros(count, np.float32)
    numbers = np.full(count, -1, np.int32)
    margin = np.full(count, -1, np.float32)
    source = np.full(count, -1, np.int32)
    waits = np.zeros(count, np.bool_)
    keys, items = np.empty(4096, np.float64), np.empty(4096, np.int32)
    queue = np.empty(4096, np.int32)
    made, joined = np.empty(4096, np.int64), np.empty(4096, np.int64)
    vertices = 0
    tips, tip_count = np.empty(pieces, np.int64), 0

    for piece in range(1, pieces + 1):
        own = members[starts[piece] : starts[piece + 1]]
        if len(own) == 0:
            continue
        forced = targets[target_starts[piece] : target_starts[piece + 1]]
        root = own[0]
        for node in own:
            if deep[node] > deep[root]:
                root = node
        if deep[root] < soma:
            if len(forced):
                root = forced[0]
                for node in forced:
                    if deep[node] > deep[root]:
                        root = node
            else:
                begin, farthest = own[0], np.float32(-1)
                for node in own:
                    dz, dy = positions[node, 0] - positions[begin, 0], positions[node, 1] - positions[begin, 1]
                    dx = positions[node, 2] - positions[begin, 2]
                    apart = dz * dz + dy * dy + dx * dx
                    if apart > farthest:
                        root, farthest = node, apart

        # the tree of cheapest paths
        cost[root] = 0.0
        keys[0], items[0], size = 0.0, root, 1
        while size:
            key, node = keys[0], items[0]
            size -= 1
            _sink(keys, items, size)
            if key > cost[node]:
                continue
            at = cells[node]
            cz, cy, cx = at // (ny * nx), at // nx % ny, at % nx
            if size + 27 * 64 > len(keys):
                keys, items = _longer(keys, 2 * len(keys)), _longer(items, 2 * len(items))
            for k in range(27):
                if not (0 <= cz + shift[k, 0] < nz and 0 <= cy + shift[k, 1] < ny and 0 <= cx + shift[k, 2] < nx):
                    continue
                near = at + shift[k, 3]
                for other in range(first[near], first[near + 1]):
                    if owner[other] != piece or cost[other] <= key:
                        continue
                    dz, dy = positions[node, 0] - positions[other, 0], positions[node, 1] - positions[other, 1]
                    dx = positions[node, 2] - positions[other, 2]
                    step = np.sqrt(dz * dz + dy * dy + dx * dx)
                    total = key + step * (price[node] + price[other])
                    if total < cost[other]:
                        cost[other], parents[other] = total, node
                        length[other] = length[node] + step
                        _push(keys, items, size, total, other)
                        size += 1

        # paths: those that must be, then to what is farthest of the rest
        if len(queue) < len(own) + 1:
            queue = np.empty(2 * len(own) + 1, np.int32)
        order = own[np.argsort(-length[own], kind="mergesort")]
        for k in range(-1, len(forced) + len(order)):
            if k < 0:
                node = root
            elif k < len(forced):
                node = forced[k]
            else:
                node = order[k - len(forced)]
                if margin[node] >= 0:
                    if k > len(forced) or len(forced) != 1 or numbers[node] >= 0:
                        continue
                    tips[tip_count] = vertices
                    tip_count += 1
            head, tail = 0, 0
            joins = vertices
            while node >= 0 and numbers[node] < 0:
                if vertices == len(made):
                    made, joined = _longer(made, 2 * vertices), _longer(joined, 2 * vertices)
                made[vertices], joined[vertices] = node, vertices + 1
                numbers[node] = vertices
                vertices += 1
                margin[node], source[node] = np.float32(scale * deep[node] + constant), node
                queue[tail], waits[node] = node, True
                tail += 1
                node = parents[node]
            if vertices > joins:
                joined[vertices - 1] = numbers[node] if node >= 0 else -1
            room = len(queue)
            while head != tail:
                node = queue[head]
                head = head + 1 if head + 1 < room else 0
                waits[node] = False
                begin = source[node]
                reach = np.float32(scale * deep[begin] + constant)
                at = cells[node]
                cz, cy, cx = at // (ny * nx), at // nx % ny, at % nx
                for m in range(27):
                    if not (0 <= cz + shift[m, 0] < nz and 0 <= cy + shift[m, 1] < ny and 0 <= cx + shift[m, 2] < nx):
                        continue
                    near = at + shift[m, 3]
                    for other in range(first[near], first[near + 1]):
                        if owner[other] != piece or margin[other] >= reach:
                            continue
                        dz, dy = positions[begin, 0] - positions[other, 0], positions[begin, 1] - positions[other, 1]
                        dx = positions[begin, 2] - positions[other, 2]
                        left = reach - np.sqrt(dz * dz + dy * dy + dx * dx)
                        if left >= 0 and (margin[other] < 0 or left > margin[other] + _AGAIN * reach):
                            margin[other], source[other] = left, begin
                            if not waits[other]:
                                waits[other] = True
                                queue[tail] = other
                                tail = tail + 1 if tail + 1 < room else 0
    return made[:vertices].copy(), joined[:vertices].copy(), numbers, tips[:tip_count].copy()
