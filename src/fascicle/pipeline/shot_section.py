"""Pictures of sections, drawn from voxels: gray levels, labels in the viewer's colours, one over the other.

Positions are in nm of the common frame of all sources, x, y, z; pictures are u8 `[row, column, rgb]`. A pixel shows the
voxel that its middle is in, of the coarsest scale whose voxels are no larger than a pixel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fascicle.formats import pseudocolor
from fascicle.volumes.base import Array, Pyramid, VolumeSource

PLANES = {"xy": (0, 1, 2), "xz": (0, 2, 1), "yz": (1, 2, 0)}
"""Axis of the columns, of the rows, and across, as indices in x, y, z."""
Picture = NDArray[np.uint8]
Triple = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Frame:
    """Where the pixels of a picture are."""

    plane: str
    middle_nm: Triple
    pixel_nm: float
    width: int
    height: int

    def coordinates_nm(self) -> tuple[NDArray[Any], NDArray[Any], float]:
        """Of the columns, of the rows, and of the section."""
        across, down, depth = PLANES[self.plane]
        columns = self.middle_nm[across] + (np.arange(self.width) + 0.5 - self.width / 2) * self.pixel_nm
        rows = self.middle_nm[down] + (np.arange(self.height) + 0.5 - self.height / 2) * self.pixel_nm
        return columns, rows, self.middle_nm[depth]


def resolution_of(pyramid: Pyramid) -> Triple:
    """The size of the finest voxels in nm; 1 where the source does not say it."""
    return pyramid.scales[0].resolution_nm or (1.0, 1.0, 1.0)


def bounds_nm(pyramid: Pyramid) -> tuple[Triple, Triple]:
    """Where the volume begins and ends."""
    finest, unit = pyramid.scales[0], resolution_of(pyramid)
    low = [a * nm for a, nm in zip(finest.offset_xyz, unit, strict=True)]
    high = [a + n * nm for a, n, nm in zip(low, finest.shape_zyx[::-1], unit, strict=True)]
    return (low[0], low[1], low[2]), (high[0], high[1], high[2])


def suited_level(pyramid: Pyramid, pixel_nm: float) -> int:
    """The coarsest scale whose voxels are no larger than a pixel on any axis; else the finest."""
    best = 0
    for level, scale in enumerate(pyramid.scales):
        unit = scale.resolution_nm
        if unit is not None and max(unit) <= pixel_nm * 1.001:
            best = level
    return best


def section(pyramid: Pyramid, frame: Frame) -> tuple[Array, NDArray[np.bool_]]:
    """The voxel at each pixel, and whether there is one: both `[row, column]`.

    Raises VolumeError if voxels cannot be read.
    """
    scale = pyramid.scales[suited_level(pyramid, frame.pixel_nm)]
    unit = scale.resolution_nm or resolution_of(pyramid)
    across, down, depth = PLANES[frame.plane]
    columns_nm, rows_nm, at_nm = frame.coordinates_nm()
    shape_xyz = scale.shape_zyx[::-1]

    def indices(axis: int, nm: NDArray[Any]) -> NDArray[np.int64]:
        found: NDArray[np.int64] = np.floor(nm / unit[axis]).astype(np.int64) - scale.offset_xyz[axis]
        return found

    columns, rows = indices(across, columns_nm), indices(down, rows_nm)
    at = int(indices(depth, np.array([at_nm]))[0])
    picture = np.zeros((len(rows), len(columns)), scale.dtype)
    inside_x = (columns >= 0) & (columns < shape_xyz[across])
    inside_y = (rows >= 0) & (rows < shape_xyz[down])
    there = inside_y[:, None] & inside_x[None, :]
    if there.any() and 0 <= at < shape_xyz[depth]:
        voxels, first = _read_plane(scale, (across, down, depth), columns[inside_x], rows[inside_y], at)
        part = voxels[np.ix_(rows[inside_y] - first[1], columns[inside_x] - first[0])]
        picture[np.ix_(inside_y, inside_x)] = part
    else:
        there[:] = False
    return picture, there


def _read_plane(
    scale: VolumeSource, axes: tuple[int, int, int], columns: NDArray[np.int64], rows: NDArray[np.int64], at: int
) -> tuple[Array, tuple[int, int]]:
    """Voxels `[row, column]` of a rectangle of one plane, and its first column and row."""
    across, down, depth = axes
    start, stop = [0, 0, 0], [0, 0, 0]
    start[across], stop[across] = int(columns[0]), int(columns[-1]) + 1
    start[down], stop[down] = int(rows[0]), int(rows[-1]) + 1
    start[depth], stop[depth] = at, at + 1
    box = scale.read((start[2], start[1], start[0]), (stop[2], stop[1], stop[0]))
    xyz = box.transpose(2, 1, 0)
    return xyz.transpose(down, across, depth)[:, :, 0], (start[across], start[down])


def gray(values: Array, there: NDArray[np.bool_], shown: tuple[float, float]) -> Picture:
    """Gray levels; what is not there is black."""
    low, high = shown
    level = np.clip((values.astype(np.float32) - low) * (255.0 / max(high - low, 1e-30)), 0, 255)
    level = np.where(there, np.rint(np.nan_to_num(level)), 0).astype(np.uint8)
    return np.repeat(level[..., None], 3, axis=-1)


def painted(below: Picture, labels: Array, alpha: float, segments: Sequence[int] = ()) -> Picture:
    """Labels over a picture, in the viewer's colours; 0, and labels that are not chosen, are left out."""
    labels = labels.astype(np.uint64)
    chosen = np.isin(labels, np.array(segments, np.uint64)) if segments else labels != 0
    colours = pseudocolor.viewer_colours(labels).astype(np.float32)
    mixed = below * (1 - alpha) + colours * alpha
    return np.where(chosen[..., None], np.rint(mixed), below).astype(np.uint8)
