"""Surfaces with fewer triangles: edges are contracted where that moves the surface little.

M. Garland and P. Heckbert, "Surface simplification using quadric error metrics" (1997): every vertex knows a quadratic
form that gives the squared distances of a point from the planes of the triangles that it stands for. Here the form is
a mean, weighted by area, so its root is a length. Since a mean does not see a thin tip that goes, every vertex also
carries a bound of how far the surface has moved there. Instead of a queue there are rounds with growing tolerances, in
which vertices are taken one after the other and moved into the best of their neighbours.

Triangles are held as a corner table (J. Rossignac, "3D compression made simple: Edgebreaker on a corner table", 2001):
corner 4 t + k is that of triangle t at its k-th vertex; `vertex[corner]`, and `opposite[corner]`, the corner across
the edge that faces it (-1 at a border). A contraction is only done where the common neighbours of both ends are those
two that it makes meet (the link condition), so a closed manifold stays one, with the same number of handles. Vertices
that are locked, all at borders and those at which surfaces touch stay as they are, and no contraction makes an edge
between two of them.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

F64 = NDArray[np.float64]
I32 = NDArray[np.int32]

MOST_NEIGHBOURS = 24
"""A contraction that would give a vertex more is not done: such fans look bad and take long."""
UNKNOWN = -1.0
AREA = 1.5
"""An area of so many squared errors may be off by the whole tolerance; more of it must be off by less in the mean."""
_TILT = 0.2
"""Cosine of the angle by which a triangle may turn in a contraction."""
_THIN = 0.03
"""Height of a triangle over its longest edge; below, a contraction must not make it less."""


@njit(cache=True, nogil=True)
def corner_table(triangles, count):  # type: ignore[no-untyped-def]
    """(vertex i32[4 m], opposite i32[4 m], corner i32[count]): `corner` is one at each vertex, -1 at unused ones.

    `triangles` are i32[m, 3]. Of an edge of more than two triangles pairs are joined in the order in which they come.
    """
    total = triangles.shape[0]
    vertex = np.full(4 * total, -1, np.int32)
    opposite = np.full(4 * total, -1, np.int32)
    corner = np.full(count, -1, np.int32)
    waiting = np.full(count, -1, np.int32)  # corners whose edge has no partner yet, listed at the lower end
    following = np.empty(4 * total, np.int32)
    for t in range(total):
        for k in range(3):
            vertex[4 * t + k] = triangles[t, k]
            corner[triangles[t, k]] = 4 * t + k
    for t in range(total):
        for k in range(3):
            c = 4 * t + k
            a = vertex[4 * t + (k + 1) % 3]
            b = vertex[4 * t + (k + 2) % 3]
            low = min(a, b)
            before = -1
            other = waiting[low]
            while other >= 0:
                first = vertex[other + 1 if other & 3 != 2 else other - 2]
                second = vertex[other - 1 if other & 3 != 0 else other + 2]
                if first == b and second == a:
                    break
                before = other
                other = following[other]
            if other >= 0:
                opposite[c] = other
                opposite[other] = c
                if before >= 0:
                    following[before] = following[other]
                else:
                    waiting[low] = following[other]
            else:
                following[c] = waiting[low]
                waiting[low] = c
    return vertex, opposite, corner


@njit(cache=True, nogil=True)
def lock_borders(vertex, opposite, locked):  # type: ignore[no-untyped-def]
    """Set `locked` of vertices at borders."""
    for c in range(vertex.size):
        if vertex[c] >= 0 and opposite[c] < 0:
            locked[vertex[_next(c)]] = True
            locked[vertex[_previous(c)]] = True


@njit(cache=True, nogil=True)
def lock_pinched(vertex, opposite, corner, locked):  # type: ignore[no-untyped-def]
    """Set `locked` of vertices at which surfaces touch: there are several fans, or one that has a neighbour twice."""
    triangles = np.zeros(corner.size, np.int32)
    seen = np.full(corner.size, -1, np.int32)
    for c in range(vertex.size):
        if vertex[c] >= 0:
            triangles[vertex[c]] += 1
    for v in range(corner.size):
        c = corner[v]
        if c < 0 or locked[v]:
            continue
        found = 0
        while True:
            neighbour = vertex[_next(c)]
            if seen[neighbour] == v:
                break
            seen[neighbour] = v
            found += 1
            across = opposite[_next(c)]
            if across < 0:
                break
            c = _next(across)
        if found != triangles[v] or c != corner[v]:
            locked[v] = True


@njit(cache=True, nogil=True, inline="always")
def _next(c):  # type: ignore[no-untyped-def]
    return c + 1 if c & 3 != 2 else c - 2


@njit(cache=True, nogil=True, inline="always")
def _previous(c):  # type: ignore[no-untyped-def]
    return c - 1 if c & 3 != 0 else c + 2


@njit(cache=True, nogil=True)
def _forms(vertex, place):  # type: ignore[no-untyped-def]
    """The quadratic form of each vertex f64[n, 11]: xx xy xz yy yz zz x y z 1, and the area that it stands for."""
    forms = np.zeros((place.shape[0], 11))
    plane = np.empty(11)
    for t in range(vertex.size // 4):
        a, b, c = vertex[4 * t], vertex[4 * t + 1], vertex[4 * t + 2]
        ux, uy, uz = place[b, 0] - place[a, 0], place[b, 1] - place[a, 1], place[b, 2] - place[a, 2]
        vx, vy, vz = place[c, 0] - place[a, 0], place[c, 1] - place[a, 1], place[c, 2] - place[a, 2]
        nx, ny, nz = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
        area = np.sqrt(nx * nx + ny * ny + nz * nz)
        if area == 0.0:
            continue
        nx, ny, nz = nx / area, ny / area, nz / area
        d = -(nx * place[a, 0] + ny * place[a, 1] + nz * place[a, 2])
        plane[0], plane[1], plane[2] = nx * nx * area, nx * ny * area, nx * nz * area
        plane[3], plane[4], plane[5] = ny * ny * area, ny * nz * area, nz * nz * area
        plane[6], plane[7], plane[8] = nx * d * area, ny * d * area, nz * d * area
        plane[9], plane[10] = d * d * area, area
        for i in range(11):
            forms[a, i] += plane[i]
            forms[b, i] += plane[i]
            forms[c, i] += plane[i]
    return forms


@njit(cache=True, nogil=True, inline="always")
def _value(forms, v, x, y, z):  # type: ignore[no-untyped-def]
    return (
        x * (forms[v, 0] * x + 2.0 * (forms[v, 1] * y + forms[v, 2] * z + forms[v, 6]))
        + y * (forms[v, 3] * y + 2.0 * (forms[v, 4] * z + forms[v, 7]))
        + z * (forms[v, 5] * z + 2.0 * forms[v, 8])
        + forms[v, 9]
    )


@njit(cache=True, nogil=True)
def _best_place(form, mx, my, mz, point):  # type: ignore[no-untyped-def]
    """Set `point` to where the form is least, drawn a little to the given point, which decides where all are equal."""
    pull = 1e-3 * form[0, 10] + 1e-300
    a, b, c = form[0, 0] + pull, form[0, 1], form[0, 2]
    d, e, f = form[0, 3] + pull, form[0, 4], form[0, 5] + pull
    # about (mx, my, mz): the right side is minus the gradient there
    gx = -(form[0, 0] * mx + form[0, 1] * my + form[0, 2] * mz + form[0, 6])
    gy = -(form[0, 1] * mx + form[0, 3] * my + form[0, 4] * mz + form[0, 7])
    gz = -(form[0, 2] * mx + form[0, 4] * my + form[0, 5] * mz + form[0, 8])
    c00, c01, c02 = d * f - e * e, c * e - b * f, b * e - c * d
    determinant = a * c00 + b * c01 + c * c02
    if not determinant > 0.0:
        point[0], point[1], point[2] = mx, my, mz
        return
    point[0] = mx + (c00 * gx + c01 * gy + c02 * gz) / determinant
    point[1] = my + (c01 * gx + (a * f - c * c) * gy + (b * c - a * e) * gz) / determinant
    point[2] = mz + (c02 * gx + (b * c - a * e) * gy + (a * d - b * b) * gz) / determinant


@njit(cache=True, nogil=True)
def _fan(vertex, opposite, start, corners):  # type: ignore[no-untyped-def]
    """The corners around a vertex in turn, from one of them; 0 if they do not close or are too many."""
    found = 0
    c = start
    while True:
        if found == corners.size:
            return 0
        corners[found] = c
        found += 1
        across = opposite[_next(c)]
        if across < 0:
            return 0
        c = _next(across)
        if c == start:
            return found


@njit(cache=True, nogil=True)
def _may_move(vertex, place, corners, count, leaving, point):  # type: ignore[no-untyped-def]
    """Whether the triangles at the corners of a fan stay good if its vertex moves, except those with `leaving`."""
    px, py, pz = point[0], point[1], point[2]
    v = vertex[corners[0]]
    for i in range(count):
        c = corners[i]
        a, b = vertex[_next(c)], vertex[_previous(c)]
        if leaving in (a, b):
            continue
        ex, ey, ez = place[b, 0] - place[a, 0], place[b, 1] - place[a, 1], place[b, 2] - place[a, 2]
        ux, uy, uz = place[v, 0] - place[a, 0], place[v, 1] - place[a, 1], place[v, 2] - place[a, 2]
        wx, wy, wz = px - place[a, 0], py - place[a, 1], pz - place[a, 2]
        ox, oy, oz = ey * uz - ez * uy, ez * ux - ex * uz, ex * uy - ey * ux
        nx, ny, nz = ey * wz - ez * wy, ez * wx - ex * wz, ex * wy - ey * wx
        dot = ox * nx + oy * ny + oz * nz
        if dot <= 0.0:
            return False
        old = ox * ox + oy * oy + oz * oz
        new = nx * nx + ny * ny + nz * nz
        if dot * dot < _TILT * _TILT * old * new:
            return False
        fx, fy, fz = px - place[b, 0], py - place[b, 1], pz - place[b, 2]
        longest = max(ex * ex + ey * ey + ez * ez, wx * wx + wy * wy + wz * wz, fx * fx + fy * fy + fz * fz)
        if new < _THIN * _THIN * longest * longest:
            gx, gy, gz = place[v, 0] - place[b, 0], place[v, 1] - place[b, 1], place[v, 2] - place[b, 2]
            was = max(ex * ex + ey * ey + ez * ez, ux * ux + uy * uy + uz * uz, gx * gx + gy * gy + gz * gz)
            if new * was * was < old * longest * longest:
                return False
    return True


@njit(cache=True, nogil=True, inline="always")
def _to_segment(px, py, pz, ex, ey, ez):  # type: ignore[no-untyped-def]
    """Squared distance of a point from the segment from 0 to e."""
    along = px * ex + py * ey + pz * ez
    length = ex * ex + ey * ey + ez * ez
    if along <= 0.0 or length <= 0.0:
        return px * px + py * py + pz * pz
    share = min(1.0, along / length)
    dx, dy, dz = px - share * ex, py - share * ey, pz - share * ez
    return dx * dx + dy * dy + dz * dz


@njit(cache=True, nogil=True)
def _distance(vertex, place, corners, count, leaving, point, x, y, z, least):  # type: ignore[no-untyped-def]
    """Squared distance of (x, y, z) from the triangles of a fan without `leaving` whose vertex is at `point`, or
    `least` if that is less."""
    px, py, pz = x - point[0], y - point[1], z - point[2]
    for i in range(count):
        c = corners[i]
        a, b = vertex[_next(c)], vertex[_previous(c)]
        if leaving in (a, b):
            continue
        ax, ay, az = place[a, 0] - point[0], place[a, 1] - point[1], place[a, 2] - point[2]
        bx, by, bz = place[b, 0] - point[0], place[b, 1] - point[1], place[b, 2] - point[2]
        aa, ab, bb = ax * ax + ay * ay + az * az, ax * bx + ay * by + az * bz, bx * bx + by * by + bz * bz
        pa, pb = px * ax + py * ay + pz * az, px * bx + py * by + pz * bz
        s, t, area = pa * bb - pb * ab, pb * aa - pa * ab, aa * bb - ab * ab
        if s > 0.0 and t > 0.0 and s + t < area:
            nx, ny, nz = ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx
            height = px * nx + py * ny + pz * nz
            found = height * height / area
        else:
            found = _to_segment(px, py, pz, ax, ay, az)
            if s <= 0.0 or t <= 0.0 or s + t >= area:
                found = min(
                    found,
                    _to_segment(px, py, pz, bx, by, bz),
                    _to_segment(px - ax, py - ay, pz - az, bx - ax, by - ay, bz - az),
                )
        least = min(least, found)
    return least


@njit(cache=True, nogil=True)
def _contract(vertex, opposite, corner, corners, count, v, u):  # type: ignore[no-untyped-def]
    """Move v, whose fan is given, into its neighbour u: two triangles go."""
    for i in range(count):
        vertex[corners[i]] = u
    for i in range(count):
        c = corners[i]
        n, p = _next(c), _previous(c)
        if vertex[n] == u:  # v u a: the triangle across v a takes the place of this one at u a
            a = vertex[p]
            x, y = opposite[n], opposite[c]
            opposite[x] = y
            if y >= 0:
                opposite[y] = x
            corner[u] = _next(x)
            corner[a] = _previous(x)
            vertex[c] = vertex[n] = vertex[p] = -1
        elif vertex[p] == u:  # v b u
            b = vertex[n]
            x, y = opposite[p], opposite[c]
            opposite[x] = y
            if y >= 0:
                opposite[y] = x
            corner[b] = _next(x)
            vertex[c] = vertex[n] = vertex[p] = -1
    corner[v] = -1


@njit(cache=True, nogil=True)
def _round(  # type: ignore[no-untyped-def]
    vertex, opposite, corner, place, forms, own, cost, locked, fresh, mark, stamp, tolerance, most_area, far, most_far,
    low, high,
):
    """One round: how many vertices went. Vertices are placed between `low` and `high` f64[3]."""
    gone = 0
    fan = np.empty(MOST_NEIGHBOURS, np.int32)
    other = np.empty(MOST_NEIGHBOURS, np.int32)
    costs = np.empty(MOST_NEIGHBOURS)
    form = np.empty((1, 11))
    point = np.empty(3)
    for v in range(corner.size):
        start = corner[v]
        if start < 0 or locked[v] or fresh[v] or cost[v] > tolerance:
            continue
        count = _fan(vertex, opposite, start, fan)
        if count < 3:
            cost[v] = np.inf
            continue
        area = forms[v, 10]
        for i in range(count):
            u = vertex[_next(fan[i])]
            if locked[u]:
                costs[i] = np.inf
                continue
            # where u is, the forms of both are worth this; the best place for both is worth less
            worth = _value(forms, v, place[u, 0], place[u, 1], place[u, 2]) + own[u]
            costs[i] = max(0.0, worth) / min(most_area, area + forms[u, 10] + 1e-300)
        least = np.inf
        for _ in range(3):
            at = 0
            for i in range(1, count):
                if costs[i] < costs[at]:
                    at = i
            if costs[at] > 16.0 * tolerance:
                least = min(least, costs[at] / 16.0)
                break
            costs[at] = np.inf
            u = np.int64(vertex[_next(fan[at])])  # as `v` is: what is called is compiled once
            for i in range(11):
                form[0, i] = forms[v, i] + forms[u, i]
            ux, uy, uz = place[u, 0], place[u, 1], place[u, 2]
            _best_place(form, 0.5 * (ux + place[v, 0]), 0.5 * (uy + place[v, 1]), 0.5 * (uz + place[v, 2]), point)
            for i in range(3):
                if not low[i] <= point[i] <= high[i]:
                    point[0], point[1], point[2] = ux, uy, uz
            worth = max(0.0, _value(form, 0, point[0], point[1], point[2]))
            change = worth / min(most_area, form[0, 10] + 1e-300)
            if change > tolerance:
                least = min(least, change)
                break
            around = _fan(vertex, opposite, corner[u], other)
            if around < 3 or count + around - 4 > MOST_NEIGHBOURS or (count == 3 and around == 3):
                continue
            stamp += 1
            for i in range(count):
                mark[vertex[_next(fan[i])]] = stamp
            common = 0
            for i in range(around):
                common += mark[vertex[_next(other[i])]] == stamp
            if common != 2:
                continue
            if not _may_move(vertex, place, fan, count, u, point) or not _may_move(
                vertex, place, other, around, v, point
            ):
                continue
            vx, vy, vz = place[v, 0], place[v, 1], place[v, 2]
            away = _distance(vertex, place, fan, count, u, point, vx, vy, vz, np.inf)
            away = _distance(vertex, place, other, around, v, point, vx, vy, vz, away)
            farther = far[v] + np.sqrt(away)
            if farther > most_far:
                continue
            away = _distance(vertex, place, fan, count, u, point, ux, uy, uz, np.inf)
            away = _distance(vertex, place, other, around, v, point, ux, uy, uz, away)
            farther = max(farther, far[u] + np.sqrt(away))
            if farther > most_far:
                continue
            far[u] = farther
            for i in range(count):
                cost[vertex[_next(fan[i])]] = UNKNOWN
            for i in range(around):
                cost[vertex[_next(other[i])]] = UNKNOWN
            _contract(vertex, opposite, corner, fan, count, v, u)
            place[u, 0], place[u, 1], place[u, 2] = point[0], point[1], point[2]
            for i in range(11):
                forms[u, i] = form[0, i]
            own[u] = worth
            cost[u] = UNKNOWN
            fresh[u] = True  # not again in this round
            gone += 1
            least = UNKNOWN
            break
        if least != UNKNOWN:
            cost[v] = least
    return gone, stamp


@njit(cache=True, nogil=True)
def _compact(vertex, corner, place):  # type: ignore[no-untyped-def]
    number = np.empty(corner.size, np.int32)
    kept = 0
    for v in range(corner.size):
        if corner[v] >= 0:
            number[v] = kept
            place[kept] = place[v]
            kept += 1
    left = 0
    for t in range(vertex.size // 4):
        left += vertex[4 * t] >= 0
    triangles = np.empty((left, 3), np.int32)
    left = 0
    for t in range(vertex.size // 4):
        if vertex[4 * t] >= 0:
            for k in range(3):
                triangles[left, k] = number[vertex[4 * t + k]]
            left += 1
    return place[:kept].copy(), triangles


@njit(cache=True, nogil=True)
def decimate(  # type: ignore[no-untyped-def]
    place: F64, triangles: I32, locked: NDArray[np.bool_], error: float, low: F64, high: F64
):
    """(vertices f64[k, 3], triangles i32[l, 3]) of a surface with fewer triangles.

    `place` f64[n, 3], which is overwritten, and `error` are in the same unit. For every vertex a bound of its distance
    from where the surface was grows with each contraction by what that moved the surface there; it stays below `error`.
    The root mean square distance from the planes of the triangles that a vertex stands for stays below half of it
    (where it stands for much, below less). `locked` vertices stay, as do those at borders and
    where surfaces touch; others are not placed beyond `low` and `high` f64[3]. Vertices that no triangle has are left
    out.
    """
    most_area = AREA * error * error
    vertex, opposite, corner = corner_table(triangles, place.shape[0])
    lock_borders(vertex, opposite, locked)
    lock_pinched(vertex, opposite, corner, locked)
    forms = _forms(vertex, place)
    own = np.zeros(place.shape[0])
    for v in range(place.shape[0]):
        own[v] = max(0.0, _value(forms, v, place[v, 0], place[v, 1], place[v, 2]))
    cost = np.full(place.shape[0], UNKNOWN)
    mark = np.zeros(place.shape[0], np.int32)
    far = np.zeros(place.shape[0])
    fresh = np.zeros(place.shape[0], np.bool_)
    stamp = np.int64(0)
    left = place.shape[0]
    for step in range(4):
        tolerance = 0.25 * error * error / 4.0 ** (3 - step)
        for _ in range(12):
            gone, stamp = _round(
                vertex, opposite, corner, place, forms, own, cost, locked, fresh, mark, stamp, tolerance, most_area,
                far, error, low, high,
            )  # fmt: skip
            left -= gone
            fresh[:] = False
            if gone * 20 < left:
                break
    return _compact(vertex, corner, place)
