"""The seam of volume sources: a 3-D array [z, y, x] that can be read in boxes."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
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

    Sources may hold files open: use them as context managers. One thread at a time, unless `concurrent` says more.
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
    encoding: str = ""
    """How stored chunks are encoded (raw, jpeg, png, compressed_segmentation), or nothing: `chunk_bytes` has none."""
    concurrent: bool = False
    """Whether several threads may read at once."""

    @abstractmethod
    def read(self, start_zyx: Zyx, stop_zyx: Zyx) -> Array:
        """The voxels [z, y, x] of a box, `stop` exclusive, which lies within the volume. What is not stored is 0."""

    def read_into(self, start_zyx: Zyx, out: Array) -> None:
        """As `read`, of a box as large as `out` [z, y, x] into it; some sources save a copy. `out` has any type."""
        z, y, x = (a + n for a, n in zip(start_zyx, out.shape, strict=True))
        out[...] = self.read(start_zyx, (z, y, x))

    def check(self) -> None:  # noqa: B027 - most sources are opened only if they can be read
        """Raise VolumeError if nothing of this source can be read, though it could be opened."""

    def chunk_bytes(self, cell_zyx: Zyx) -> bytes | None:
        """The chunk of a cell (index divided by `chunk_zyx`) as it is stored, in `encoding`; None if there is none.

        At the end of the volume a chunk holds only the voxels that exist. Raises VolumeError for sources without
        `encoding`.
        """
        raise VolumeError(f"{self.name} has no encoded chunks")

    def decode_chunk(self, data: bytes, cell_zyx: Zyx) -> Array:
        """The voxels [z, y, x] in what `chunk_bytes` gave for a cell. Raises VolumeError for damaged ones."""
        raise VolumeError(f"{self.name} has no encoded chunks")

    def chunk(self, cell_zyx: Zyx) -> Array | None:
        """The voxels [z, y, x] of a cell, as many as exist; None if its chunk is known not to be stored."""
        if not self.encoding:
            return self.read(*self.chunk_box(cell_zyx))
        data = self.chunk_bytes(cell_zyx)
        return None if data is None else self.decode_chunk(data, cell_zyx)

    def chunk_box(self, cell_zyx: Zyx) -> tuple[Zyx, Zyx]:
        """Start and stop of a cell's voxels; VolumeError if the cell lies outside of the volume."""
        start = tuple(c * n for c, n in zip(cell_zyx, self.chunk_zyx, strict=True))
        stop = tuple(min(a + n, s) for a, n, s in zip(start, self.chunk_zyx, self.shape_zyx, strict=True))
        if any(a < 0 or a >= b for a, b in zip(start, stop, strict=True)):
            z, y, x = cell_zyx
            raise VolumeError(f"{self.name} has no chunk {x}, {y}, {z} (x, y, z)")
        return (start[0], start[1], start[2]), (stop[0], stop[1], stop[2])

    def close(self) -> None:  # noqa: B027 - most sources have nothing to close
        """Let go of files."""

    def __enter__(self) -> VolumeSource:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def __str__(self) -> str:
        z, y, x = self.shape_zyx
        return f"{self.name}: {x} x {y} x {z} voxels of {self.dtype.name}"


@dataclass(frozen=True, slots=True)
class Pyramid:
    """The scales of one volume, finest first. Scale k of most volumes has voxels 2^k times as large, but not of all:
    `resolution_nm` says it.
    """

    name: str
    kind: str
    """`image` or `segmentation`."""
    scales: tuple[VolumeSource, ...]

    def close(self) -> None:
        """Let go of files."""
        for scale in self.scales:
            scale.close()

    def __enter__(self) -> Pyramid:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def need(module: str, package: str, what: str) -> ModuleType:
    """An optional module, or a VolumeError that says what to install."""
    try:
        return importlib.import_module(module)
    except ImportError:
        raise VolumeError(f"{what} need the package {package}: pip install 'fascicle[ingest]'") from None
