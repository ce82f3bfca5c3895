"""The seam of volume sources: a 3-D array [z, y, x] that can be read in boxes."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from types import ModuleType, TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fascicle.errors import BadRequest

Zyx = tuple[int, int, int]
Array = NDArray[Any]


class VolumeError(BadRequest):
    """A source cannot be opened or read; the message names the file and what is wrong with it."""


class VolumeSource(ABC):
    """One channel of voxels. Indices are those of the source's own array and start at 0.

    Sources may hold files open: use them as context managers. One thread at a time.
    """

    name: str
    """What was opened, for messages."""
    shape_zyx: Zyx
    dtype: np.dtype[Any]
    resolution_nm: tuple[float, float, float] | None = None
    """The size of a voxel x, y, z in nanometres, if the source says it."""
    offset_xyz: tuple[int, int, int] = (0, 0, 0)
    """The voxel coordinate of index [0, 0, 0], if the source says it."""
    chunk_zyx: Zyx
    """Boxes of this shape at multiples of it are read without reading anything twice."""

    @abstractmethod
    def read(self, start_zyx: Zyx, stop_zyx: Zyx) -> Array:
        """The voxels [z, y, x] of a box, `stop` exclusive, which lies within the volume."""

    def close(self) -> None:  # noqa: B027 - most sources have nothing to close
        """Let go of files."""

    def __enter__(self) -> VolumeSource:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def __str__(self) -> str:
        z, y, x = self.shape_zyx
        return f"{self.name}: {x} x {y} x {z} voxels of {self.dtype.name}"


def need(module: str, package: str, what: str) -> ModuleType:
    """An optional module, or a VolumeError that says what to install."""
    try:
        return importlib.import_module(module)
    except ImportError:
        raise VolumeError(f"{what} need the package {package}: pip install 'fascicle[ingest]'") from None
