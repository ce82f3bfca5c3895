"""Layers of planes that are filled and then taken apart: in memory, or in scratch files if memory is too small."""

from __future__ import annotations

import mmap
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fascicle.volumes.base import VolumeError

_FORGET = getattr(mmap, "MADV_DONTNEED", None)
Triple = tuple[int, int, int]


class Layer:
    """An array [z, y, x]: in memory without a path; else in that file, which keeps it, mapped into memory or not.

    Boxes may be got and put by many threads.
    """

    def __init__(self, shape_zyx: Triple, dtype: np.dtype[Any], path: Path | None = None, mapped: bool = True) -> None:
        self.shape_zyx = shape_zyx
        self.dtype = dtype
        self._map: mmap.mmap | None = None
        self._handle = -1
        self.voxels: NDArray[Any] | None = None
        """The array, if it is in memory or mapped."""
        count = int(np.prod(shape_zyx, dtype=np.int64))
        if path is None:
            self.voxels = np.empty(shape_zyx, dtype)
        elif count:
            self._handle = _file(path, count * dtype.itemsize)
            if mapped:
                self._map = mmap.mmap(self._handle, count * dtype.itemsize)
                self.voxels = np.frombuffer(self._map, dtype, count).reshape(shape_zyx)
        if self.voxels is not None:
            self.flat = self.voxels.reshape(-1).view()
            """The voxels one after the other, read-only, as kernels take them."""
            self.flat.flags.writeable = False

    def get(self, start_zyx: Triple, out: NDArray[Any]) -> None:
        """The voxels from `start` on into `out` [z, y, x], contiguous."""
        if self.voxels is not None:
            out[...] = self.voxels[_slices(start_zyx, out.shape)]
            return
        for place, part in self._parts(start_zyx, out):
            view = memoryview(part).cast("B")
            while len(view):
                count = os.preadv(self._handle, [view], place)
                if not count:
                    raise VolumeError("a scratch file has lost its end")
                view, place = view[count:], place + count

    def put(self, start_zyx: Triple, voxels: NDArray[Any]) -> None:
        """Voxels [z, y, x], contiguous, to `start`."""
        if self.voxels is not None:
            self.voxels[_slices(start_zyx, voxels.shape)] = voxels
            return
        for place, part in self._parts(start_zyx, voxels):
            view = memoryview(part).cast("B")
            while len(view):
                count = os.pwrite(self._handle, view, place)
                view, place = view[count:], place + count

    def _parts(self, start_zyx: Triple, box: NDArray[Any]) -> Any:
        """Where pieces of a box that are contiguous in the file lie there, and the pieces."""
        (z0, y0, x0), (_, height, width) = start_zyx, self.shape_zyx
        size = self.dtype.itemsize
        for z in range(box.shape[0]):
            at = ((z0 + z) * height + y0) * width + x0
            if box.shape[2] == width:
                yield at * size, box[z]
            else:
                for y in range(box.shape[1]):
                    yield (at + y * width) * size, box[z, y]

    def release(self) -> None:
        """What is in memory of a layer that a file keeps may go."""
        if self._map is not None and _FORGET is not None:
            self._map.madvise(_FORGET)

    def close(self) -> None:
        """Let go of the file. The arrays stay as long as somebody has them."""
        self.voxels = None
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1


def _slices(start: Triple, shape: tuple[int, ...]) -> tuple[slice, ...]:
    return tuple(slice(a, a + n) for a, n in zip(start, shape, strict=True))


def _file(path: Path, size: int) -> int:
    """A file of this size; one of the right size stays as it is."""
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            if os.fstat(handle).st_size != size:
                os.ftruncate(handle, 0)
                os.ftruncate(handle, size)
                with suppress(AttributeError):  # not everywhere; where it is, a full disk is an error and no crash
                    os.posix_fallocate(handle, 0, size)
        except BaseException:
            os.close(handle)
            raise
        return handle
    except OSError as error:
        raise VolumeError(f"{path} cannot hold {size >> 20} MB of voxels: {error}") from None


def resident_bytes() -> int:
    """Memory that this process has now; a guess where the system does not tell."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")
    except OSError:
        return 150 << 20
