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

_KEEPS = getattr(mmap, "MADV_DONTNEED", None)


class Layer:
    """An array [z, y, x]. With a path it lies in that file, which keeps it, and `release` gives its memory back."""

    def __init__(self, shape_zyx: tuple[int, int, int], dtype: np.dtype[Any], path: Path | None = None) -> None:
        self._map: mmap.mmap | None = None
        if path is None:
            self.voxels: NDArray[Any] = np.empty(shape_zyx, dtype)
        else:
            size = max(1, int(np.prod(shape_zyx, dtype=np.int64))) * dtype.itemsize
            self._map = _mapped(path, size)
            self.voxels = np.frombuffer(self._map, dtype, int(np.prod(shape_zyx))).reshape(shape_zyx)
        flat = self.voxels.reshape(-1).view()
        flat.flags.writeable = False
        self.flat = flat
        """The voxels one after the other, read-only, as kernels take them."""

    def release(self) -> None:
        """What is in memory of a layer in a file may go; the file keeps it."""
        if self._map is not None and _KEEPS is not None:
            self._map.madvise(_KEEPS)


def _mapped(path: Path, size: int) -> mmap.mmap:
    """A file of this size in memory; one of the right size stays as it is."""
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            if os.fstat(handle).st_size != size:
                os.ftruncate(handle, 0)
                os.ftruncate(handle, size)
                with suppress(AttributeError):  # not everywhere; where it is, a full disk is an error and no crash
                    os.posix_fallocate(handle, 0, size)
            return mmap.mmap(handle, size)
        finally:
            os.close(handle)
    except OSError as error:
        raise VolumeError(f"{path} cannot hold {size >> 20} MB of voxels: {error}") from None


def resident_bytes() -> int:
    """Memory that this process has now; 0 where the system does not tell."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")
    except OSError:
        return 100 << 20
