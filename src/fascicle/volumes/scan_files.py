"""Volumes as scanners and their software write them: NIfTI and NRRD, through nibabel and pynrrd.

Both run x fastest. Voxels are taken in the order in which they lie in the file, and the affine of a file gives their
size but turns nothing. What is packed with gzip is unpacked to a temporary file first: so parts can be read alone.
"""

from __future__ import annotations

import gzip
import shutil
import tempfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from fascicle.volumes.array_folders import NM_PER_UNIT
from fascicle.volumes.base import Array, VolumeError, VolumeSource, Zyx, need

NIFTI_SUFFIXES = (".nii", ".nii.gz", ".hdr", ".img")
NRRD_SUFFIXES = (".nrrd", ".nhdr")
_NIFTI_UNITS = {"meter": 1e9, "mm": 1e6, "micron": 1e3}
_NRRD_TYPES = {
    "signed char": "i1", "int8": "i1", "int8_t": "i1", "uchar": "u1", "unsigned char": "u1", "uint8": "u1",
    "uint8_t": "u1", "short": "i2", "short int": "i2", "signed short": "i2", "signed short int": "i2", "int16": "i2",
    "int16_t": "i2", "ushort": "u2", "unsigned short": "u2", "unsigned short int": "u2", "uint16": "u2",
    "uint16_t": "u2", "int": "i4", "signed int": "i4", "int32": "i4", "int32_t": "i4", "uint": "u4",
    "unsigned int": "u4", "uint32": "u4", "uint32_t": "u4", "longlong": "i8", "long long": "i8",
    "long long int": "i8", "signed long long": "i8", "signed long long int": "i8", "int64": "i8", "int64_t": "i8",
    "ulonglong": "u8", "unsigned long long": "u8", "unsigned long long int": "u8", "uint64": "u8", "uint64_t": "u8",
    "float": "f4", "double": "f8",
}  # fmt: skip
_GZIP = ("gz", "gzip")
_SPACE_KINDS = ("domain", "space", "???", "none")


class NiftiVolume(VolumeSource):
    """A NIfTI file of three dimensions; a fourth and more must have one item."""

    def __init__(self, path: Path) -> None:
        nibabel = need("nibabel", "nibabel", "NIfTI files")
        self.name = str(path)
        self._folder = tempfile.TemporaryDirectory(prefix="fascicle-") if path.suffix == ".gz" else None
        try:
            image = nibabel.load(path if self._folder is None else _unpacked(path, Path(self._folder.name) / path.stem))
            header = image.header
            zooms, units = header.get_zooms(), header.get_xyzt_units()[0]
            scaled = (image.dataobj.slope, image.dataobj.inter) != (1, 0)
        except (OSError, ValueError, EOFError, zlib.error, nibabel.filebasedimages.ImageFileError) as error:
            self.close()
            raise VolumeError(f"{path} cannot be read as NIfTI: {error}") from None
        shape = image.shape
        if len(shape) < 3 or any(side != 1 for side in shape[3:]):
            self.close()
            raise VolumeError(f"{path} has the shape {shape}; three dimensions are needed")
        self._voxels = image.dataobj
        self._rest = (0,) * (len(shape) - 3)
        self.shape_zyx = (int(shape[2]), int(shape[1]), int(shape[0]))
        # scaled values are real numbers, whatever the file holds
        self.dtype = np.dtype("f4") if scaled else np.dtype(header.get_data_dtype()).newbyteorder("=")
        self.chunk_zyx = (1, *self.shape_zyx[1:])
        if all(edge > 0 for edge in zooms[:3]):
            x, y, z = (float(f"{edge * _NIFTI_UNITS.get(units, 1e6):.6g}") for edge in zooms[:3])
            self.resolution_nm = (x, y, z)

    def read(self, start_zyx: Zyx, stop_zyx: Zyx) -> Array:
        (z0, y0, x0), (z1, y1, x1) = start_zyx, stop_zyx
        try:
            part = np.asarray(self._voxels[(slice(x0, x1), slice(y0, y1), slice(z0, z1), *self._rest)])
        except (OSError, ValueError, EOFError) as error:
            raise VolumeError(f"{self.name} cannot be read: {error}") from None
        return np.ascontiguousarray(part.T, self.dtype)

    def close(self) -> None:
        if self._folder is not None:
            self._voxels = None
            self._folder.cleanup()


class NrrdVolume(VolumeSource):
    """A NRRD file with one value per voxel, or its header beside a data file."""

    def __init__(self, path: Path) -> None:
        nrrd = need("nrrd", "pynrrd", "NRRD files")
        self.name = str(path)
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        try:
            with path.open("rb") as file:
                header = nrrd.read_header(file)
                voxels = self._mapped(path, header, file.tell())
            if voxels is None:
                voxels = nrrd.read(str(path), index_order="F")[0]
            sizes = [int(size) for size in header["sizes"]]
        except (OSError, ValueError, EOFError, KeyError, StopIteration, zlib.error, nrrd.NRRDError) as error:
            self.close()
            raise VolumeError(f"{path} cannot be read as NRRD: {error}") from None
        axes = _space_axes(header, sizes)
        if len(axes) != 3:
            self.close()
            raise VolumeError(f"{path} has the sizes {sizes}; three dimensions with one value per voxel are needed")
        self._voxels: Array = voxels.reshape([sizes[axis] for axis in axes], order="F").T
        self.shape_zyx = self._voxels.shape
        self.dtype = voxels.dtype.newbyteorder("=")
        self.chunk_zyx = (1, *self.shape_zyx[1:])
        self.resolution_nm = _nrrd_resolution(header, axes)

    def read(self, start_zyx: Zyx, stop_zyx: Zyx) -> Array:
        (z0, y0, x0), (z1, y1, x1) = start_zyx, stop_zyx
        return np.array(self._voxels[z0:z1, y0:y1, x0:x1], self.dtype, order="C")

    def close(self) -> None:
        self._voxels = np.zeros((0, 0, 0), np.uint8)
        if self._folder is not None:
            self._folder.cleanup()

    def _mapped(self, path: Path, header: Any, at: int) -> Array | None:
        """The voxels of a file that can be mapped into memory, flat; None if it must be read whole."""
        encoding = str(header.get("encoding", "")).lower()
        dtype = _NRRD_TYPES.get(str(header.get("type", "")).lower())
        skips = any(header.get(name, 0) for name in ("line skip", "lineskip", "byte skip", "byteskip"))
        detached = header.get("datafile") or header.get("data file")
        if dtype is None or encoding not in ("raw", *_GZIP) or skips or (detached and not isinstance(detached, str)):
            return None
        if detached:
            if str(detached).lower().startswith("list") or "%" in str(detached):
                return None
            path, at = path.parent / str(detached), 0
        if encoding in _GZIP:
            self._folder = tempfile.TemporaryDirectory(prefix="fascicle-")
            path, at = _unpacked(path, Path(self._folder.name) / "voxels", at), 0
        endian = ">" if str(header.get("endian", "little")).lower() == "big" else "<"
        count = int(np.prod([int(size) for size in header["sizes"]], dtype=np.int64))
        voxels: Array = np.memmap(path, np.dtype(endian + dtype), "r", at, (count,))
        return voxels


def _unpacked(path: Path, target: Path, at: int = 0) -> Path:
    """What gzip has packed in a file from byte `at` on, in a file of its own."""
    with path.open("rb") as packed, target.open("wb") as out:
        packed.seek(at)
        with gzip.GzipFile(fileobj=packed) as plain:
            shutil.copyfileobj(plain, out, 1 << 20)
    return target


def _space_axes(header: Any, sizes: list[int]) -> list[int]:
    """The axes of space, x first. Others must have one item."""
    kinds = [str(kind).lower() for kind in header.get("kinds", ["???"] * len(sizes))]
    axes = [i for i, kind in enumerate(kinds) if kind in _SPACE_KINDS]
    if len(axes) > 3:
        axes = [axis for axis in axes if sizes[axis] != 1]
    return axes if all(sizes[i] == 1 for i in range(len(sizes)) if i not in axes) else []


def _nrrd_resolution(header: Any, axes: list[int]) -> tuple[float, float, float] | None:
    """The size of a voxel in nm, if the header has it with its unit."""
    units = [str(unit).strip('"').lower() for unit in header.get("space units", header.get("units", []))]
    factors = [NM_PER_UNIT.get(unit) for unit in units]
    directions, spacings = header.get("space directions"), header.get("spacings")
    if not factors or factors[0] is None or len(set(factors)) != 1:
        return None
    if directions is not None:
        edges = [float(np.linalg.norm(np.asarray(directions[axis], float))) for axis in axes]
    elif spacings is not None:
        edges = [float(spacings[axis]) for axis in axes]
    else:
        return None
    if not all(np.isfinite(edge) and edge > 0 for edge in edges):
        return None
    x, y, z = (edge * factors[0] for edge in edges)
    return x, y, z
