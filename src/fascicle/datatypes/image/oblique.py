"""Oblique slices: a parallelogram in space, sampled at regular steps with trilinear interpolation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fascicle.datatypes.image.block_reader import BlockReader
from fascicle.datatypes.image.blocks import Voxels
from fascicle.datatypes.voxel_requests import INT32_MAX, INT32_MIN, PICTURE_LIMIT_BYTES
from fascicle.errors import BadRequest

Vector = tuple[float, float, float]
Points = NDArray[np.float64]

_SAMPLES_AT_ONCE = 1 << 18


@dataclass(frozen=True, slots=True)
class ObliqueSlice:
    """Corners x, y, z in physical units (voxels times voxel size) and the distance of neighbouring samples."""

    top_left: Vector
    top_right: Vector
    bottom_left: Vector
    resolution: float

    @property
    def steps(self) -> tuple[int, int]:
        """The number of steps across and down; the image has one pixel more in each direction."""
        return (
            math.floor(math.dist(self.top_right, self.top_left) / self.resolution),
            math.floor(math.dist(self.bottom_left, self.top_left) / self.resolution),
        )


def parse_oblique(args: Sequence[str]) -> ObliqueSlice:
    """A slice from `<top left>/<top right>/<bottom left>/<res>`; BadRequest if it makes no sense."""
    if len(args) < 4 or not all(args[:4]):
        raise BadRequest('"arb" must be followed by top-left/top-right/bottom-left/res')
    resolution = _number(args[3])
    if resolution <= 0:
        raise BadRequest(f'the resolution of an oblique slice must be positive, not "{args[3]}"')
    request = ObliqueSlice(_vector(args[0]), _vector(args[1]), _vector(args[2]), resolution)
    across, down = request.steps
    pixels = (across + 1) * (down + 1)
    if pixels > PICTURE_LIMIT_BYTES:
        raise BadRequest(
            f"Requested payload ({pixels} pixels) exceeds this DVID server's set limit ({PICTURE_LIMIT_BYTES})"
        )
    return request


def oblique_image(reader: BlockReader, request: ObliqueSlice, voxel_size_xyz: Sequence[float]) -> Voxels:
    """The slice as an image [row, column(, channel)] of 8-bit samples."""
    across, down = request.steps
    start = np.array(request.top_left)
    right = (np.array(request.top_right) - start) / max(across, 1)
    below = (np.array(request.bottom_left) - start) / max(down, 1)
    size = np.array(voxel_size_xyz, np.float64)
    corners = (np.array(request.top_left), np.array(request.top_right), np.array(request.bottom_left))
    far = [*corners, corners[1] + corners[2] - corners[0]]
    if any(not np.all((corner / size > INT32_MIN + 1) & (corner / size < INT32_MAX - 1)) for corner in far):
        raise BadRequest("the oblique slice reaches beyond 32-bit voxel coordinates")
    layout = reader.layout
    image = np.empty(layout.array_shape((down + 1, across + 1)), layout.dtype)
    rows_at_once = max(1, _SAMPLES_AT_ONCE // (across + 1))
    columns = np.arange(across + 1)
    for row in range(0, down + 1, rows_at_once):
        rows = np.arange(row, min(row + rows_at_once, down + 1))
        physical = start + rows[:, None, None] * below + columns[None, :, None] * right
        samples = _interpolated(reader, (physical / size).reshape(-1, 3))
        image[row : row + len(rows)] = samples.reshape(len(rows), across + 1, *image.shape[2:])
    return image


def _interpolated(reader: BlockReader, points_xyz: Points) -> Voxels:
    """Samples at voxel coordinates [point, 3]: uint8 [point] or [point, channel]."""
    low = np.floor(points_xyz).astype(np.int64)
    high = np.ceil(points_xyz).astype(np.int64)
    weight = points_xyz - low
    if reader.layout.channels > 1:
        weight = weight[:, :, None]
    corners = np.empty((8, len(points_xyz), 3), np.int64)
    for corner in range(8):
        for axis in range(3):
            corners[corner, :, axis] = (high if corner >> axis & 1 else low)[:, axis]
    values = _gathered(reader, corners.reshape(-1, 3)).astype(np.float64)
    values = values.reshape(8, len(points_xyz), *values.shape[1:])
    for axis in range(3):
        values = values[0::2] * (1 - weight[:, axis]) + values[1::2] * weight[:, axis]
    samples: Voxels = np.clip(np.floor(values[0] + 0.5), 0, 255).astype(np.uint8)
    return samples


def _gathered(reader: BlockReader, voxels_xyz: NDArray[np.int64]) -> Voxels:
    """The voxels at coordinates [point, 3], block by block."""
    layout = reader.layout
    size = np.array(layout.size_xyz)
    blocks = voxels_xyz // size
    inner = voxels_xyz - blocks * size
    out = np.full((len(voxels_xyz), *layout.shape[3:]), layout.background, layout.dtype)
    distinct, which = np.unique(blocks, axis=0, return_inverse=True)
    order = np.argsort(which.reshape(-1), kind="stable")
    ends = np.cumsum(np.bincount(which.reshape(-1), minlength=len(distinct)))
    begins = np.append(0, ends[:-1])
    pieces = {(x, y, z): (a, b) for (x, y, z), a, b in zip(distinct.tolist(), begins, ends, strict=True)}
    for block_xyz, name in reader.source.listed(pieces):
        begin, end = pieces[block_xyz]
        chosen = order[begin:end]
        block = reader.voxels(name)
        out[chosen] = block[inner[chosen, 2], inner[chosen, 1], inner[chosen, 0]]
    return out


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise BadRequest(f'cannot read "{text}" as a number') from None
    if not math.isfinite(value):
        raise BadRequest(f'cannot use "{text}" as a coordinate')
    return value


def _vector(text: str) -> Vector:
    parts = text.split("_")
    if len(parts) != 3:
        raise BadRequest(f'"{text}" must be three numbers separated by underscores, not {len(parts)}')
    return _number(parts[0]), _number(parts[1]), _number(parts[2])
