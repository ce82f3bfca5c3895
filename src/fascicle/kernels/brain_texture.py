"""Compiled loops that paint the generated sample brain as an electron microscope would show it.

Arrays are C-ordered `[z, y, x]`; points are z, y, x in voxels.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray


@njit(cache=True, nogil=True)
def paint_mitochondria(
    overlay: NDArray[np.int8],
    bodies: NDArray[np.int32],
    path_zyx: NDArray[np.float32],
    starts: NDArray[np.int64],
    radii: NDArray[np.float32],
    body_of: NDArray[np.int32],
) -> None:
    """Darken a capsule along each path: a dark double wall, grey inside, paler cristae across.

    Path i is `path_zyx[starts[i]:starts[i + 1]]`, of radius `radii[i]` voxels, inside of body `body_of[i]`.
    """
    depth, height, width = overlay.shape
    for organelle in range(radii.size):
        first, last = starts[organelle], starts[organelle + 1]
        radius = radii[organelle]
        reach = int(radius) + 2
        zs, ys, xs = path_zyx[first:last, 0], path_zyx[first:last, 1], path_zyx[first:last, 2]
        for z in range(max(0, int(zs.min()) - reach), min(depth, int(zs.max()) + reach + 1)):
            for y in range(max(0, int(ys.min()) - reach), min(height, int(ys.max()) + reach + 1)):
                for x in range(max(0, int(xs.min()) - reach), min(width, int(xs.max()) + reach + 1)):
                    if bodies[z, y, x] != body_of[organelle]:
                        continue
                    nearest = 1e9
                    along = 0.0
                    for i in range(last - first - 1):
                        az, ay, ax = zs[i + 1] - zs[i], ys[i + 1] - ys[i], xs[i + 1] - xs[i]
                        bz, by, bx = z + 0.5 - zs[i], y + 0.5 - ys[i], x + 0.5 - xs[i]
                        square = az * az + ay * ay + ax * ax + 1e-6
                        t = min(1.0, max(0.0, (az * bz + ay * by + ax * bx) / square))
                        d = (bz - t * az) ** 2 + (by - t * ay) ** 2 + (bx - t * ax) ** 2
                        if d < nearest:
                            nearest = d
                            along = (i + t) * math.sqrt(square)
                    d = math.sqrt(nearest)
                    if d > radius + 0.7:
                        continue
                    if d > radius - 1.3:
                        value = -72.0
                    else:
                        tilt = 0.5 * (x + 2 * y + z) * 0.12
                        value = -44.0 + 20.0 * math.sin(along * 0.9 + math.sin(tilt) * 1.5) * min(1.0, (radius - d) / 3)
                    overlay[z, y, x] = int(value)


@njit(cache=True, nogil=True)
def paint_vesicles(
    overlay: NDArray[np.int8],
    bodies: NDArray[np.int32],
    membrane: NDArray[np.uint8],
    centres_zyx: NDArray[np.float32],
    radii: NDArray[np.float32],
    body_of: NDArray[np.int32],
) -> None:
    """Draw a vesicle, a dark ring round a pale core, at each centre; radii in voxels.

    Voxels of other bodies, close to the membrane or already darkened are left alone.
    """
    depth, height, width = overlay.shape
    for vesicle in range(radii.size):
        cz, cy, cx = centres_zyx[vesicle, 0], centres_zyx[vesicle, 1], centres_zyx[vesicle, 2]
        z, y, x = int(cz), int(cy), int(cx)
        if z < 0 or y < 0 or x < 0 or z >= depth or y >= height or x >= width:
            continue
        if bodies[z, y, x] != body_of[vesicle] or membrane[z, y, x] < 52 or overlay[z, y, x] < -40:
            continue
        radius = radii[vesicle]
        reach = int(radius) + 2
        for k in range(max(0, z - reach), min(depth, z + reach + 1)):
            for j in range(max(0, y - reach), min(height, y + reach + 1)):
                for i in range(max(0, x - reach), min(width, x + reach + 1)):
                    d = math.sqrt((k + 0.5 - cz) ** 2 + (j + 0.5 - cy) ** 2 + (i + 0.5 - cx) ** 2)
                    if d < radius + 0.8 and bodies[k, j, i] == body_of[vesicle] and overlay[k, j, i] > -40:
                        ring = max(0.0, 1.0 - abs(d - radius + 0.5) / 1.2)
                        overlay[k, j, i] = int(min(float(overlay[k, j, i]), 8.0 - 60.0 * ring))


@njit(cache=True, nogil=True)
def shade_slab(
    owner: NDArray[np.int32],
    membrane: NDArray[np.uint8],
    overlay: NDArray[np.int8],
    tone: NDArray[np.float32],
    fine: NDArray[np.float32],
    soft: NDArray[np.float32],
    first: int,
    last: int,
    grayscale: NDArray[np.uint8],
) -> None:
    """Fill the planes first <= z < last of `grayscale` (u8).

    `tone` is the gray of each node's cytoplasm; `fine` and `soft` are periodic cubes of noise (mean 0, deviation 1,
    edges powers of two) for grain and for slow changes, which also thicken the membrane in places.
    """
    _, height, width = owner.shape
    fine_mask, soft_mask = fine.shape[0] - 1, soft.shape[0] - 1
    for z in range(first, last):
        for y in range(height):
            for x in range(width):
                grain = fine[z & fine_mask, y & fine_mask, x & fine_mask]
                slow = soft[(z + (x >> 5)) & soft_mask, (y + (z >> 5)) & soft_mask, (x + (y >> 5)) & soft_mask]
                node = owner[z, y, x]
                if node < 0:
                    value = 188.0 + 3.0 * slow
                else:
                    value = tone[node] + 7.0 * slow + overlay[z, y, x]
                away = membrane[z, y, x] / 16.0
                half = 1.0 + 0.35 * max(0.0, slow)
                dark = 1.0 / (1.0 + math.exp((away - half) * 3.0))
                value = value * (1.0 - dark) + (62.0 - 14.0 * slow) * dark
                value += 8.5 * grain
                grayscale[z, y, x] = int(min(255.0, max(0.0, value)))
