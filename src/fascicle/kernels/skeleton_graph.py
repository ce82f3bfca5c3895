"""Graphs of centrelines: where they cross a face, and making one tree of pieces that meet."""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def face_points(pieces, depths, steps, count):  # type: ignore[no-untyped-def]
    """The middle of each piece 1 to `count` of i32[a,b]: its deepest place, and of several the one nearest to the mean.

    `depths` f32[a,b] are distances to the border, `steps` f64[2] the size of a voxel. Returns i64[count + 1, 2].
    """
    rows, columns = pieces.shape
    totals = np.zeros((count + 1, 3), np.float64)
    deepest = np.zeros(count + 1, np.float32)
    for a in range(rows):
        for b in range(columns):
            piece = pieces[a, b]
            if piece:
                totals[piece, 0] += a
                totals[piece, 1] += b
                totals[piece, 2] += 1
                deepest[piece] = max(deepest[piece], depths[a, b])
    found = np.zeros((count + 1, 2), np.int64)
    least = np.full(count + 1, np.inf, np.float64)
    for a in range(rows):
        for b in range(columns):
            piece = pieces[a, b]
            if piece and depths[a, b] == deepest[piece]:
                da = (a - totals[piece, 0] / totals[piece, 2]) * steps[0]
                db = (b - totals[piece, 1] / totals[piece, 2]) * steps[1]
                apart = da * da + db * db
                if apart < least[piece]:
                    least[piece] = apart
                    found[piece, 0], found[piece, 1] = a, b
    return found


@njit(cache=True, nogil=True)
def nodes_of(first, owner, cells, pieces):  # type: ignore[no-untyped-def]
    """The nodes of pieces in cells, i64[n]."""
    found = np.empty(len(cells), np.int64)
    for i in range(len(cells)):
        node = first[cells[i]]
        while owner[node] != pieces[i]:
            node += 1
        found[i] = node
    return found


@njit(cache=True, nogil=True)
def _root(parents, i):  # type: ignore[no-untyped-def]
    while parents[i] != i:
        parents[i] = parents[parents[i]]
        i = parents[i]
    return i


@njit(cache=True, nogil=True)
def spanning_forest(edges, count):  # type: ignore[no-untyped-def]
    """Which edges of i64[m, 2], best first, form trees (J. Kruskal, 1956): b[m], and the tree of each vertex: i64[n].

    A tree is named by its first vertex.
    """
    parents = np.arange(count)
    kept = np.zeros(len(edges), np.bool_)
    for i in range(len(edges)):
        a, b = _root(parents, edges[i, 0]), _root(parents, edges[i, 1])
        if a != b:
            kept[i] = True
            parents[max(a, b)] = min(a, b)
    for i in range(count):
        parents[i] = _root(parents, i)
    return kept, parents


@njit(cache=True, nogil=True)
def _beside(starts, others, gone, vertex):  # type: ignore[no-untyped-def]
    """How many neighbours of a vertex are left."""
    left = 0
    for i in range(starts[vertex], starts[vertex + 1]):
        left += not gone[others[i]]
    return left


@njit(cache=True, nogil=True)
def _branch(starts, others, gone, positions, tip):  # type: ignore[no-untyped-def]
    """(where the branch that ends at a tip begins, or -1 if it is a whole tree; its length)."""
    length, before, at = 0.0, -1, tip
    while True:
        after = -1
        for i in range(starts[at], starts[at + 1]):
            if not gone[others[i]] and others[i] != before:
                after = others[i]
        if after < 0:
            return -1, length
        length += np.sqrt(np.sum((positions[at] - positions[after]) ** 2))
        before, at = at, after
        if _beside(starts, others, gone, at) > 2:
            return at, length


@njit(cache=True, nogil=True)
def _path(starts, others, gone, tip, begin):  # type: ignore[no-untyped-def]
    """The vertices from a tip up to where its branch begins, without that, and how many they are."""
    path, size = np.empty(16, np.int64), 0
    before, at = -1, tip
    while at != begin:
        if size == len(path):
            longer = np.empty(2 * size, np.int64)
            longer[:size] = path
            path = longer
        path[size] = at
        size += 1
        for i in range(starts[at], starts[at + 1]):
            if others[i] != before and not gone[others[i]]:
                before, at = at, others[i]
                break
    return path, size


@njit(cache=True, nogil=True)
def _are_near(  # type: ignore[no-untyped-def]
    starts, others, gone, positions, reach, path, begin, length, stack, before, far
):
    """Whether each vertex of a branch, which is gone, lies within `reach` of one that is left.

    Only those are looked at that are not much farther from where the branch begins than it is long. `stack`, `before`
    and `far` are room for as many vertices as there are.
    """
    for at in path:
        is_near = False
        stack[0], before[0], far[0], size = begin, -1, 0.0, 1
        while size and not is_near:
            size -= 1
            vertex, came, distance = stack[size], before[size], far[size]
            is_near = np.sqrt(np.sum((positions[vertex] - positions[at]) ** 2)) <= reach[vertex]
            if distance > 2 * length + reach[begin]:
                continue
            for i in range(starts[vertex], starts[vertex + 1]):
                other = others[i]
                if other != came and not gone[other]:
                    stack[size], before[size] = other, vertex
                    far[size] = distance + np.sqrt(np.sum((positions[vertex] - positions[other]) ** 2))
                    size += 1
        if not is_near:
            return False
    return True


@njit(cache=True, nogil=True)
def prune(starts, others, positions, reach, loose):  # type: ignore[no-untyped-def]
    """Which vertices of trees belong to needless branches that end at a loose one: b[n].

    The neighbours of vertex i are `others[starts[i] : starts[i + 1]]`. A branch is needless if all of it lies within
    `reach` f64[n] of the rest of the tree: had it not been for the cut, nobody would have gone there. Shorter ones go
    first; what that leaves is looked at anew.
    """
    count = len(reach)
    gone = np.zeros(count, np.bool_)
    tips = np.flatnonzero(loose)
    lengths = np.empty(len(tips), np.float64)
    stack, before, far = np.empty(count, np.int64), np.empty(count, np.int64), np.empty(count, np.float64)
    removed = True
    while removed:
        removed = False
        for i in range(len(tips)):
            lengths[i] = np.inf
            if not gone[tips[i]] and _beside(starts, others, gone, tips[i]) == 1:
                begin, length = _branch(starts, others, gone, positions, tips[i])
                if begin >= 0:
                    lengths[i] = length
        for i in np.argsort(lengths, kind="mergesort"):
            if lengths[i] == np.inf:
                break
            begin, length = _branch(starts, others, gone, positions, tips[i])
            if begin < 0 or length > lengths[i]:
                continue  # a branch beside it is gone, so that it reaches farther now
            path, size = _path(starts, others, gone, tips[i], begin)
            for k in range(size):
                gone[path[k]] = True
            if _are_near(starts, others, gone, positions, reach, path[:size], begin, length, stack, before, far):
                removed = True
            else:
                for k in range(size):
                    gone[path[k]] = False
    return gone


@njit(cache=True, nogil=True)
def depth_first(starts, others, roots):  # type: ignore[no-untyped-def]
    """The vertices of trees from their roots on, i64[n], and the place of each one's parent in that order, or -1."""
    count = len(starts) - 1
    order, parents = np.empty(count, np.int64), np.empty(count, np.int64)
    seen = np.zeros(count, np.bool_)
    stack, above = np.empty(count, np.int64), np.empty(count, np.int64)
    found = 0
    for root in roots:
        if seen[root]:
            continue
        stack[0], above[0], size = root, -1, 1
        seen[root] = True
        while size:
            size -= 1
            vertex = stack[size]
            order[found], parents[found] = vertex, above[size]
            for i in range(starts[vertex + 1] - 1, starts[vertex] - 1, -1):
                other = others[i]
                if not seen[other]:
                    seen[other] = True
                    stack[size], above[size] = other, found
                    size += 1
            found += 1
    return order[:found], parents[:found]
