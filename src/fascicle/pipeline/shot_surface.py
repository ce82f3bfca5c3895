"""Pictures of bodies in three dimensions, drawn without a browser: their surface voxels, lit by the surface's slope.

The view is parallel, from a fixed tilted direction. Pictures are u8 `[row, column, rgb]`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fascicle.errors import NotFound
from fascicle.formats import pseudocolor
from fascicle.pipeline.shot_section import Picture
from fascicle.volumes.base import Array, Pyramid

MOST_VOXELS = 8 << 20
"""The finest scale with at most so many voxels is drawn."""
_SHOWN = 24
_SUPERSAMPLING = 2
_MOST_PIXELS_APART = 2.0
_REACH = 2
_TURN, _TILT = math.radians(35.0), math.radians(25.0)
_LIGHT = np.array([-0.35, -0.5, -0.8])


def largest(labels: Array, count: int = _SHOWN) -> tuple[int, ...]:
    """The labels with most voxels, without 0."""
    ids, sizes = np.unique(labels, return_counts=True)
    sizes[ids == 0] = 0
    order = np.argsort(-sizes, kind="stable")[:count]
    return tuple(int(ids[i]) for i in order if sizes[i])


def drawn_scale(pyramid: Pyramid) -> int:
    """The finest scale that is small enough, or the coarsest."""
    for level, scale in enumerate(pyramid.scales):
        if math.prod(scale.shape_zyx) <= MOST_VOXELS:
            return level
    return len(pyramid.scales) - 1


def surface_picture(pyramid: Pyramid, segments: Sequence[int], width: int, height: int) -> Picture:
    """Bodies of a segmentation, or its largest ones. Raises NotFound if none of them has a voxel."""
    scale = pyramid.scales[drawn_scale(pyramid)]
    labels = scale.read((0, 0, 0), scale.shape_zyx).astype(np.uint64)
    chosen = tuple(segments) or largest(labels)
    labels = np.where(np.isin(labels, np.array(chosen, np.uint64)), labels, np.uint64(0))
    points, normals, ids = surface(labels)
    if not len(ids):
        raise NotFound(f"none of the bodies {', '.join(map(str, chosen[:10])) or '(there are none)'} has voxels")
    unit = np.array((scale.resolution_nm or (1.0, 1.0, 1.0))[::-1])
    return draw(points * unit, normals / unit, pseudocolor.viewer_colours(ids), float(unit.min()), width, height)


def surface(labels: NDArray[np.uint64]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Voxels [n, zyx] that touch another label, the direction out of their body [n, zyx], and their labels."""
    padded = np.pad(labels, _REACH)
    inner = padded[_REACH:-_REACH, _REACH:-_REACH, _REACH:-_REACH]
    edge = np.zeros(labels.shape, bool)
    for axis in range(3):
        for step in (-1, 1):
            edge |= np.roll(padded, step, axis)[_REACH:-_REACH, _REACH:-_REACH, _REACH:-_REACH] != inner
    edge &= inner != 0
    at = np.argwhere(edge)
    ids = inner[edge]
    flat = padded.ravel()
    _, height, width = padded.shape
    places = ((at[:, 0] + _REACH) * height + at[:, 1] + _REACH) * width + at[:, 2] + _REACH
    normals = np.zeros((3, len(at)), np.int16)
    steps = range(-_REACH, _REACH + 1)
    for dz in steps:
        for dy in steps:
            for dx in steps:
                same = flat[places + ((dz * height + dy) * width + dx)] == ids
                for axis, step in enumerate((dz, dy, dx)):
                    if step:
                        normals[axis] -= same * np.int16(step)
    return at + 0.5, normals.T.astype(np.float64), ids


def draw(
    points: NDArray[Any],
    normals: NDArray[Any],
    colours: NDArray[np.uint8],
    spacing: float,
    width: int,
    height: int,
) -> Picture:
    """Points [n, zyx] with normals [n, zyx] and colours [n, rgb] that are `spacing` apart; all are in the picture."""
    turn = _rotation()
    seen = (points - (points.min(0) + points.max(0)) / 2)[:, ::-1] @ turn.T  # x right, y down, z away
    facing = normals[:, ::-1] @ turn.T
    facing /= np.maximum(np.linalg.norm(facing, axis=1, keepdims=True), 1e-9)
    light = _LIGHT / np.linalg.norm(_LIGHT)
    shade = 0.35 + 0.65 * np.clip(facing @ light, 0, 1)
    extent = np.maximum(np.abs(seen[:, :2]).max(0) * 2 + spacing * 2, 1e-9)
    fitting = 0.94 * min(width / extent[0], height / extent[1])
    # points that are far apart are drawn smaller and enlarged afterwards: there is no more to see in them
    factor = min(_SUPERSAMPLING, _MOST_PIXELS_APART / (spacing * fitting))
    columns, rows = math.ceil(width * factor), math.ceil(height * factor)
    scale = fitting * factor
    size = max(1, math.ceil(spacing * scale * 1.5))
    x = np.floor(seen[:, 0] * scale + columns / 2 - size / 2).astype(np.int64)
    y = np.floor(seen[:, 1] * scale + rows / 2 - size / 2).astype(np.int64)
    lit = np.rint(colours * shade[:, None]).astype(np.uint8)
    canvas = np.zeros((rows, columns, 3), np.uint8)
    nearest = np.full((rows, columns), np.inf)
    order = np.argsort(-seen[:, 2], kind="stable")  # far ones first, so that the last one written is the nearest
    x, y, depth, lit = x[order], y[order], seen[order, 2], lit[order]
    for dy in range(size):
        for dx in range(size):
            at_y, at_x = np.clip(y + dy, 0, rows - 1), np.clip(x + dx, 0, columns - 1)
            layer = np.full((rows, columns), -1, np.int64)
            layer[at_y, at_x] = np.arange(len(x))
            found = layer >= 0
            index = layer[found]
            closer = depth[index] < nearest[found]
            where = np.flatnonzero(found)[closer]
            nearest.flat[where] = depth[index[closer]]
            canvas.reshape(-1, 3)[where] = lit[index[closer]]
    how = Image.Resampling.BOX if factor >= 1 else Image.Resampling.BICUBIC
    return np.asarray(Image.fromarray(canvas).resize((width, height), how))


def _rotation() -> NDArray[np.float64]:
    about_y = np.array([[math.cos(_TURN), 0, math.sin(_TURN)], [0, 1, 0], [-math.sin(_TURN), 0, math.cos(_TURN)]])
    about_x = np.array([[1, 0, 0], [0, math.cos(_TILT), -math.sin(_TILT)], [0, math.sin(_TILT), math.cos(_TILT)]])
    turned: NDArray[np.float64] = about_x @ about_y
    return turned
