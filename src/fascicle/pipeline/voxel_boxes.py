"""Boxes of voxels in flat arrays, as the kernels of a conversion take them: parts of them, and coarser ones.

Triples are z, y, x.
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Triple = tuple[int, int, int]
Array = NDArray[Any]

MEAN, LABELS, MAJORITY, THIN = "mean", "labels", "majority", "thin"
SCALINGS = (MEAN, LABELS, MAJORITY, THIN)


@dataclass(frozen=True, slots=True)
class Box:
    """A box of voxels in a flat, read-only array, as kernels take it."""

    flat: Array
    first: int
    row: int
    plane: int
    shape_zyx: Triple

    @classmethod
    def whole(cls, voxels: Array) -> Box:
        """All of a contiguous array [z, y, x]."""
        nz, ny, nx = voxels.shape
        flat = voxels.reshape(-1).view()
        flat.flags.writeable = False
        return cls(flat, 0, nx, ny * nx, (nz, ny, nx))

    @property
    def arguments(self) -> tuple[Array, int, int, int, int, int, int]:
        """Array, first element, distance of rows, distance of planes, shape."""
        return (self.flat, self.first, self.row, self.plane, *self.shape_zyx)

    def part(self, start: Triple, shape: Triple) -> Box:
        """A box within, from `start` (z, y, x) on."""
        z, y, x = start
        return replace(self, first=self.first + z * self.plane + y * self.row + x, shape_zyx=shape)

    def array(self) -> Array:
        """The voxels [z, y, x], a view."""
        size = self.flat.itemsize
        strides = (self.plane * size, self.row * size, size)
        return np.lib.stride_tricks.as_strided(self.flat[self.first :], self.shape_zyx, strides, writeable=False)


def coarsen(box: Box, halved: Triple, scaling: str, flat: Array, first: int, row: int, plane: int) -> None:
    """Write a box at half the resolution along the axes z, y, x that `halved` gives 2, to a place in a flat array."""
    from fascicle.kernels import coarser_voxels as kernels

    place = (*box.arguments, *halved, flat, first, row, plane)
    if scaling == THIN:
        kernels.thin_labels(*place)
    elif scaling in (LABELS, MAJORITY):
        kernels.halve_labels(*place, kernels.FOREGROUND if scaling == LABELS else kernels.MAJORITY)
    elif box.flat.dtype.kind == "f":
        kernels.average_real(*place)
    elif box.flat.dtype.itemsize == 8:
        kernels.average_wide(*place)
    else:
        kernels.average(*place)


class Room(threading.local):
    """Room that each thread keeps for what it encodes and reads."""

    def __init__(self) -> None:
        self._words = np.empty(0, np.uint32)
        self._voxels = np.empty(0, np.uint8)
        self._coarser = np.empty(0, np.uint8)

    def words_for(self, count: int) -> NDArray[np.uint32]:
        if self._words.size < count:
            self._words = np.empty(count, np.uint32)
        return self._words

    def voxels_for(self, shape: Triple, dtype: np.dtype[Any]) -> Array:
        self._voxels = _grown(self._voxels, shape, dtype)
        return _shaped(self._voxels, shape, dtype)

    def coarser_for(self, shape: Triple, dtype: np.dtype[Any]) -> Array:
        self._coarser = _grown(self._coarser, shape, dtype)
        return _shaped(self._coarser, shape, dtype)


def _grown(room: NDArray[np.uint8], shape: Triple, dtype: np.dtype[Any]) -> NDArray[np.uint8]:
    size = math.prod(shape) * dtype.itemsize
    return room if room.size >= size else np.empty(size, np.uint8)


def _shaped(room: NDArray[np.uint8], shape: Triple, dtype: np.dtype[Any]) -> Array:
    return room[: math.prod(shape) * dtype.itemsize].view(dtype).reshape(shape)
