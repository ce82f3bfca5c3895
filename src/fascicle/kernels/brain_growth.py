"""Compiled loops that grow the generated sample brain: winding, branching tubes, and the space that each one fills.

Arrays are C-ordered `[z, y, x]`; points are z, y, x in voxels. Randomness comes from a splitmix64 state that the caller
passes in (`uint64[1]`), so one seed gives one brain on every machine.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_COST_LEVELS = 1024
_NO_NODE = -1


@njit(cache=True, nogil=True)
def _random(state: NDArray[np.uint64]) -> float:
    """A number in [0, 1)."""
    state[0] = state[0] + _GAMMA
    z = state[0]
    z = (z ^ (z >> np.uint64(30))) * _MIX_1
    z = (z ^ (z >> np.uint64(27))) * _MIX_2
    z = z ^ (z >> np.uint64(31))
    return float(z >> np.uint64(11)) / 9007199254740992.0


@njit(cache=True, nogil=True)
def _random_direction(state: NDArray[np.uint64]) -> tuple[float, float, float]:
    """A unit vector, evenly distributed."""
    z = 2.0 * _random(state) - 1.0
    angle = 2.0 * math.pi * _random(state)
    flat = math.sqrt(max(0.0, 1.0 - z * z))
    return z, flat * math.sin(angle), flat * math.cos(angle)


@njit(cache=True, nogil=True)
def _is_free(occupied: NDArray[np.int32], z: float, y: float, x: float, radius: float, own: int) -> bool:
    """Whether a ball touches no other neurite: its centre and 26 points of its surface are looked at."""
    depth, height, width = occupied.shape
    for dz in range(-1, 2):
        for dy in range(-1, 2):
            for dx in range(-1, 2):
                scale = radius / max(1.0, math.sqrt(float(dz * dz + dy * dy + dx * dx)))
                cz = int((z + dz * scale) * 0.5)
                cy = int((y + dy * scale) * 0.5)
                cx = int((x + dx * scale) * 0.5)
                if 0 <= cz < depth and 0 <= cy < height and 0 <= cx < width:
                    found = occupied[cz, cy, cx]
                    if found != 0 and found != own:
                        return False
    return True


@njit(cache=True, nogil=True)
def _mark(occupied: NDArray[np.int32], z: float, y: float, x: float, radius: float, old: int, new: int) -> None:
    """Set the half-resolution cells of a ball that hold `old` to `new`."""
    depth, height, width = occupied.shape
    r = radius * 0.5
    cz, cy, cx = z * 0.5, y * 0.5, x * 0.5
    for i in range(max(0, int(cz - r)), min(depth, int(cz + r) + 2)):
        for j in range(max(0, int(cy - r)), min(height, int(cy + r) + 2)):
            for k in range(max(0, int(cx - r)), min(width, int(cx + r) + 2)):
                d = (i + 0.5 - cz) ** 2 + (j + 0.5 - cy) ** 2 + (k + 0.5 - cx) ** 2
                if d <= r * r and occupied[i, j, k] == old:
                    occupied[i, j, k] = new


@njit(cache=True, nogil=True)
def grow_neurites(
    state: NDArray[np.uint64],
    shape: tuple[int, int, int],
    attempts: int,
    largest_radius: float,
    smallest_radius: float,
    nodes_zyx: NDArray[np.float32],
    radii: NDArray[np.float32],
    neurite: NDArray[np.int32],
    parent: NDArray[np.int32],
    branch: NDArray[np.int32],
) -> tuple[int, int]:
    """Pack neurites into a box, thick ones first; fills the node arrays and returns (nodes, neurites).

    Each neurite starts somewhere free and winds on in two directions, keeping away from the tubes that are there
    already, branching on its way, until it leaves the box, finds no way on or is long enough. Nodes: centre, radius
    (voxels), number of the neurite from 1, index of the parent node (-1 for the first), running number of the branch.
    """
    depth, height, width = shape
    occupied = np.zeros(((depth + 1) // 2, (height + 1) // 2, (width + 1) // 2), np.int32)
    capacity = nodes_zyx.shape[0]
    pending_node = np.empty(256, np.int32)
    pending_way = np.empty((256, 3), np.float64)
    pending_radius = np.empty(256, np.float64)
    count = 0
    found = 0
    branches = 0
    edge = (depth + height + width) / 3.0
    for attempt in range(attempts):
        share = attempt / attempts
        base = largest_radius * (smallest_radius / largest_radius) ** (share**0.6)
        base *= 0.85 + 0.3 * _random(state)
        z, y, x = _random(state) * depth, _random(state) * height, _random(state) * width
        if not _is_free(occupied, z, y, x, base, 0) or count + 64 > capacity:
            continue
        own = found + 1
        first = count
        branches += 1
        nodes_zyx[count, 0], nodes_zyx[count, 1], nodes_zyx[count, 2] = z, y, x
        radii[count], neurite[count], parent[count], branch[count] = base, own, -1, branches
        _mark(occupied, z, y, x, base * 0.95, 0, own)
        count += 1
        wz, wy, wx = _random_direction(state)
        for side in range(2):
            sign = 1.0 - 2.0 * side
            pending_node[side] = first
            pending_way[side, 0], pending_way[side, 1], pending_way[side, 2] = sign * wz, sign * wy, sign * wx
            pending_radius[side] = base
        waiting = 2
        budget = edge * (1.2 + 1.6 * _random(state))
        while waiting > 0:
            waiting -= 1
            at = int(pending_node[waiting])
            wz, wy, wx = pending_way[waiting, 0], pending_way[waiting, 1], pending_way[waiting, 2]
            thick = pending_radius[waiting]
            branches += 1
            bend_z, bend_y, bend_x = 0.0, 0.0, 0.0
            phase = 6.28 * _random(state)
            since_branch = 0.0
            while count + 8 < capacity and budget > 0.0:
                z, y, x = nodes_zyx[at, 0], nodes_zyx[at, 1], nodes_zyx[at, 2]
                radius = thick * (1.0 + 0.22 * math.sin(phase))
                step = max(1.5, 0.3 * radius)
                phase += step / (2.2 * thick)
                rz, ry, rx = _random_direction(state)
                bend_z, bend_y, bend_x = 0.9 * bend_z + 0.05 * rz, 0.9 * bend_y + 0.05 * ry, 0.9 * bend_x + 0.05 * rx
                moved = False
                for trial in range(14):
                    spread = 0.16 * trial
                    rz, ry, rx = _random_direction(state)
                    nz, ny, nx = wz + bend_z + spread * rz, wy + bend_y + spread * ry, wx + bend_x + spread * rx
                    norm = math.sqrt(nz * nz + ny * ny + nx * nx)
                    if norm < 0.3:
                        continue
                    nz, ny, nx = nz / norm, ny / norm, nx / norm
                    r = max(smallest_radius, radius * (1.0 - 0.035 * trial))
                    if _is_free(occupied, z + nz * step, y + ny * step, x + nx * step, r, own):
                        moved = True
                        wz, wy, wx = nz, ny, nx
                        radius = r
                        break
                if not moved:
                    break
                z, y, x = z + wz * step, y + wy * step, x + wx * step
                if not (0.0 <= z < depth and 0.0 <= y < height and 0.0 <= x < width):
                    break
                nodes_zyx[count, 0], nodes_zyx[count, 1], nodes_zyx[count, 2] = z, y, x
                radii[count], neurite[count], parent[count], branch[count] = radius, own, at, branches
                _mark(occupied, z, y, x, radius * 0.95, 0, own)
                at = count
                count += 1
                since_branch += step
                budget -= step
                if since_branch > 4.0 * thick and waiting < 250 and _random(state) < 0.012 * step:
                    rz, ry, rx = _random_direction(state)
                    pending_node[waiting] = at
                    pending_way[waiting, 0] = 0.5 * wz + rz
                    pending_way[waiting, 1] = 0.5 * wy + ry
                    pending_way[waiting, 2] = 0.5 * wx + rx
                    pending_radius[waiting] = max(smallest_radius, thick * (0.55 + 0.3 * _random(state)))
                    waiting += 1
                    since_branch = 0.0
        if count - first < 8 or (found >= 8 and count - first < 24):
            for i in range(first, count):
                _mark(occupied, nodes_zyx[i, 0], nodes_zyx[i, 1], nodes_zyx[i, 2], radii[i] * 0.95, own, 0)
            count = first
        else:
            found += 1
    return count, found


@njit(cache=True, nogil=True)
def fill_space(
    nodes_zyx: NDArray[np.float32], radii: NDArray[np.float32], shape: tuple[int, int, int], limit: float
) -> NDArray[np.int32]:
    """The node that owns each cell of a grid with half the resolution, -1 where none comes near.

    Grows all nodes at once, cheapest cell first, where the cost of a cell is its distance from the node divided by the
    node's radius, up to `limit`. A cell is given to the node of a neighbour that has been given to it before, so what
    belongs to a chain of nodes hangs together. `shape` is that of the grid.
    """
    depth, height, width = shape
    cells = depth * height * width
    owner = np.full(cells, _NO_NODE, np.int32)
    cost = np.full(cells, _COST_LEVELS, np.int32)
    done = np.zeros(cells, np.bool_)
    after = np.full(cells, -1, np.int32)
    before = np.full(cells, -1, np.int32)
    heads = np.full(_COST_LEVELS + 1, -1, np.int32)
    scale = _COST_LEVELS / limit
    for node in range(nodes_zyx.shape[0]):
        cz, cy, cx = int(nodes_zyx[node, 0] * 0.5), int(nodes_zyx[node, 1] * 0.5), int(nodes_zyx[node, 2] * 0.5)
        cell = (cz * height + cy) * width + cx
        if owner[cell] == _NO_NODE:
            owner[cell] = node
            cost[cell] = 0
            after[cell] = heads[0]
            if heads[0] >= 0:
                before[heads[0]] = cell
            heads[0] = cell
    for level in range(_COST_LEVELS):
        while heads[level] >= 0:
            cell = heads[level]
            heads[level] = after[cell]
            if heads[level] >= 0:
                before[heads[level]] = -1
            done[cell] = True
            node = owner[cell]
            nz, ny, nx, radius = nodes_zyx[node, 0], nodes_zyx[node, 1], nodes_zyx[node, 2], radii[node]
            z, y, x = cell // (height * width), cell // width % height, cell % width
            for way in range(6):
                oz, oy, ox = z, y, x
                if way < 2:
                    oz += 2 * way - 1
                elif way < 4:
                    oy += 2 * way - 5
                else:
                    ox += 2 * way - 9
                if oz < 0 or oy < 0 or ox < 0 or oz >= depth or oy >= height or ox >= width:
                    continue
                other = (oz * height + oy) * width + ox
                if done[other]:
                    continue
                dz, dy, dx = 2 * oz + 1 - nz, 2 * oy + 1 - ny, 2 * ox + 1 - nx
                price = max(level, int(math.sqrt(dz * dz + dy * dy + dx * dx) / radius * scale))
                if price >= cost[other]:
                    continue
                if owner[other] != _NO_NODE:
                    if before[other] >= 0:
                        after[before[other]] = after[other]
                    else:
                        heads[cost[other]] = after[other]
                    if after[other] >= 0:
                        before[after[other]] = before[other]
                owner[other] = node
                cost[other] = price
                before[other] = -1
                after[other] = heads[price]
                if heads[price] >= 0:
                    before[heads[price]] = other
                heads[price] = other
    return owner.reshape((depth, height, width))


@njit(cache=True, nogil=True)
def refine_slab(
    coarse: NDArray[np.int32],
    nodes_zyx: NDArray[np.float32],
    radii: NDArray[np.float32],
    neurite: NDArray[np.int32],
    warp: NDArray[np.float32],
    first: int,
    last: int,
    owner: NDArray[np.int32],
    membrane: NDArray[np.uint8],
) -> None:
    """Fill the planes first <= z < last of `owner` (node of each voxel, -1 for none) and `membrane` at full resolution.

    A voxel goes to the cheapest node among those of the 27 coarse cells around it. `membrane` is the distance from the
    border to another neurite in sixteenths of a voxel, at most 255; `warp` (a periodic cube of small lengths in
    voxels, its edge a power of two) roughens it.
    """
    _, height, width = owner.shape
    coarse_depth, coarse_height, coarse_width = coarse.shape
    mask = warp.shape[0] - 1
    for z in range(first, last):
        for y in range(height):
            for x in range(width):
                cz, cy, cx = z >> 1, y >> 1, x >> 1
                here = coarse[cz, cy, cx]
                alone = here >= 0
                z0, z1 = max(0, cz - 1), min(coarse_depth, cz + 2)
                y0, y1 = max(0, cy - 1), min(coarse_height, cy + 2)
                x0, x1 = max(0, cx - 1), min(coarse_width, cx + 2)
                if alone:
                    own = neurite[here]
                    for k in range(z0, z1):
                        for j in range(y0, y1):
                            for i in range(x0, x1):
                                other = coarse[k, j, i]
                                if other != here and (other < 0 or neurite[other] != own):
                                    alone = False
                if alone:
                    owner[z, y, x] = here
                    membrane[z, y, x] = 255
                    continue
                best = -1
                best_cost = 1e9
                rival = -1
                rival_cost = 1e9
                empty = False
                last_seen = -1
                for k in range(z0, z1):
                    for j in range(y0, y1):
                        for i in range(x0, x1):
                            node = coarse[k, j, i]
                            if node < 0:
                                empty = True
                                continue
                            if node == last_seen:
                                continue
                            last_seen = node
                            dz = z + 0.5 - nodes_zyx[node, 0]
                            dy = y + 0.5 - nodes_zyx[node, 1]
                            dx = x + 0.5 - nodes_zyx[node, 2]
                            price = math.sqrt(dz * dz + dy * dy + dx * dx) / radii[node]
                            if best < 0 or price < best_cost:
                                if best >= 0 and neurite[best] != neurite[node]:
                                    rival = best
                                    rival_cost = best_cost
                                best = node
                                best_cost = price
                            elif neurite[node] != neurite[best] and price < rival_cost:
                                rival = node
                                rival_cost = price
                if best < 0 or (empty and here < 0):
                    owner[z, y, x] = -1
                    membrane[z, y, x] = 0
                    continue
                owner[z, y, x] = best
                away = 4.0
                if rival >= 0:
                    away = (rival_cost - best_cost) / (1.0 / radii[best] + 1.0 / radii[rival])
                elif empty:
                    away = 1.0
                away += warp[z & mask, y & mask, x & mask]
                membrane[z, y, x] = min(255, max(0, int(16.0 * away)))


@njit(cache=True, nogil=True)
def _root(tree: NDArray[np.int32], i: int) -> int:
    while tree[i] != i:
        tree[i] = tree[tree[i]]
        i = tree[i]
    return i


@njit(cache=True, nogil=True)
def strays(labels: NDArray[np.int32]) -> NDArray[np.int32]:
    """Flat indexes of the voxels that lie outside of the largest 6-connected part of their label.

    `labels` is i32 `[z, y, x]`; 0 and below is nothing.
    """
    _, height, width = labels.shape
    flat = labels.ravel()
    plane = height * width
    tree = np.empty(flat.size, np.int32)
    top = 0
    for cell in range(flat.size):
        label = flat[cell]
        tree[cell] = cell
        if label <= 0:
            continue
        top = max(top, label)
        x = cell % width
        root = cell
        if x > 0 and flat[cell - 1] == label:
            root = _root(tree, cell - 1)
            tree[cell] = root
        if cell % plane >= width and flat[cell - width] == label:
            other = _root(tree, cell - width)
            low, high = min(root, other), max(root, other)
            tree[high] = low
            root = low
        if cell >= plane and flat[cell - plane] == label:
            other = _root(tree, cell - plane)
            low, high = min(root, other), max(root, other)
            tree[high] = low
    sizes = np.zeros(flat.size, np.int32)
    for cell in range(flat.size):
        if flat[cell] > 0:
            tree[cell] = tree[tree[cell]]
            sizes[tree[cell]] += 1
    largest = np.full(top + 1, -1, np.int32)
    for cell in range(flat.size):
        if sizes[cell] > 0 and (largest[flat[cell]] < 0 or sizes[cell] > sizes[largest[flat[cell]]]):
            largest[flat[cell]] = cell
    found = 0
    for cell in range(flat.size):
        if flat[cell] > 0 and tree[cell] != largest[flat[cell]]:
            found += 1
    out = np.empty(found, np.int32)
    found = 0
    for cell in range(flat.size):
        if flat[cell] > 0 and tree[cell] != largest[flat[cell]]:
            out[found] = cell
            found += 1
    return out
