"""Volumes that are one array in one file: HDF5 datasets, NumPy files, crackle streams.

Which axis is z is taken from the memory layout, because in this field x runs fastest: a C-ordered array is [z, y, x], a
Fortran-ordered one is [x, y, z].
"""

from __future__ import annotations

import gzip
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from fascicle.volumes.base import Array, VolumeError, VolumeSource, Zyx, need


class NpyVolume(VolumeSource):
    """A 3-D array in a NumPy file, mapped into memory."""

    def __init__(self, path: Path) -> None:
        try:
            array: Array = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise VolumeError(f"{path} cannot be read: {error}") from None
        if array.ndim != 3:
            raise VolumeError(f"{path} has {array.ndim} dimensions instead of 3")
        self.name = str(path)
        self._array = array.T if array.flags.f_contiguous and not array.flags.c_contiguous else array
        self.shape_zyx = self._array.shape
        self.dtype = self._array.dtype.newbyteorder("=")
        self.chunk_zyx = (1, *self.shape_zyx[1:])

    def read(self, start_zyx: Zyx, stop_zyx: Zyx) -> Array:
        (z0, y0, x0), (z1, y1, x1) = start_zyx, stop_zyx
        return np.array(self._array[z0:z1, y0:y1, x0:x1], self.dtype, order="C")


class ArrayVolume(VolumeSource):
    """An array [z, y, x] in memory."""

    def __init__(self, array_zyx: Array, name: str = "array") -> None:
        self.name = name
        self._array = array_zyx
        self.shape_zyx = array_zyx.shape
        self.dtype = array_zyx.dtype
        self.chunk_zyx = (1, *self.shape_zyx[1:])

    def read(self, start_zyx: Zyx, stop_zyx: Zyx) -> Array:
        (z0, y0, x0), (z1, y1, x1) = start_zyx, stop_zyx
        return self._array[z0:z1, y0:y1, x0:x1]


class CrackleVolume(VolumeSource):
    """Labels [x, y, z] in a crackle stream, which may be gzipped. Planes are decoded when they are read."""

    def __init__(self, path: Path) -> None:
        crackle = need("crackle", "crackle-codec", "crackle files")
        data = path.read_bytes()
        try:
            if data[:2] == b"\x1f\x8b":
                data = gzip.decompress(data)
            self._labels: Any = crackle.CrackleArray(data)
            width, height, depth = self._labels.shape
        except Exception as error:
            raise VolumeError(f"{path} is not a crackle stream: {error}") from None
        self.name = str(path)
        self.shape_zyx = (depth, height, width)
        self.dtype = np.dtype(self._labels.dtype)
        self.chunk_zyx = (1, height, width)

    def read(self, start_zyx: Zyx, stop_zyx: Zyx) -> Array:
        (z0, y0, x0), (z1, y1, x1) = start_zyx, stop_zyx
        planes = np.asarray(self._labels[:, :, z0:z1]).reshape(self.shape_zyx[2], self.shape_zyx[1], z1 - z0)
        return np.ascontiguousarray(planes.transpose(2, 1, 0)[:, y0:y1, x0:x1])


class Hdf5Volume(VolumeSource):
    """A 3-D dataset [z, y, x] of an HDF5 file; a gzipped file is unpacked to a temporary one first."""

    def __init__(self, path: Path, dataset: str | None = None) -> None:
        h5py = need("h5py", "h5py", "HDF5 files")
        self.name = str(path)
        self._unpacked: tempfile.TemporaryDirectory[str] | None = None
        try:
            self._file = h5py.File(self._plain(path), "r")
        except OSError as error:
            self._remove_unpacked()
            raise VolumeError(f"{path} cannot be read as HDF5: {error}") from None
        try:
            self._data = self._dataset(h5py, dataset)
        except VolumeError:
            self.close()
            raise
        self.shape_zyx = tuple(self._data.shape)
        self.dtype = self._data.dtype.newbyteorder("=")
        self.chunk_zyx = self._data.chunks or (1, *self.shape_zyx[1:])

    def read(self, start_zyx: Zyx, stop_zyx: Zyx) -> Array:
        (z0, y0, x0), (z1, y1, x1) = start_zyx, stop_zyx
        return np.ascontiguousarray(self._data[z0:z1, y0:y1, x0:x1], self.dtype)

    def names(self) -> list[str]:
        """The names at the top of the file."""
        return sorted(self._file)

    def table(self, dataset: str) -> Array:
        """Another dataset of the file, whole."""
        if dataset not in self._file:
            raise VolumeError(f"{self.name} has no dataset {dataset!r}; it has {_listed(self._file)}")
        return np.asarray(self._file[dataset])

    def close(self) -> None:
        self._file.close()
        self._remove_unpacked()

    def _plain(self, path: Path) -> Path:
        if path.suffix != ".gz":
            return path
        self._unpacked = tempfile.TemporaryDirectory(prefix="fascicle-")
        plain = Path(self._unpacked.name) / path.stem
        with gzip.open(path) as packed, plain.open("wb") as target:
            shutil.copyfileobj(packed, target, 1 << 20)
        return plain

    def _dataset(self, h5py: Any, name: str | None) -> Any:
        if name is None:
            volumes: list[str] = []
            self._file.visititems(
                lambda key, item: volumes.append(key) if isinstance(item, h5py.Dataset) and item.ndim == 3 else None
            )
            if len(volumes) != 1:
                raise VolumeError(f"name one of the 3-D datasets of {self.name}: {', '.join(volumes) or 'none'}")
            name = volumes[0]
        if name not in self._file:
            raise VolumeError(f"{self.name} has no dataset {name!r}; it has {_listed(self._file)}")
        data = self._file[name]
        if getattr(data, "ndim", 0) != 3:
            raise VolumeError(f"{name!r} of {self.name} is not a 3-D dataset")
        return data

    def _remove_unpacked(self) -> None:
        if self._unpacked is not None:
            self._unpacked.cleanup()
            self._unpacked = None


def _listed(group: Any) -> str:
    return ", ".join(sorted(group)) or "none"
