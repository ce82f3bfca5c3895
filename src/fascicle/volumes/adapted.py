"""A volume seen with other axes, another place, type or names of its labels than its source has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fascicle.errors import BadRequest
from fascicle.volumes.base import Array, VolumeError, VolumeSource, Zyx

TYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "float32")


@dataclass(frozen=True, slots=True)
class Axes:
    """What the axes of a source's array mean, as it is read: `order` has z, y, x once each, `flipped` those that run
    the other way. `Axes.named("zyx")` changes nothing.
    """

    order: tuple[int, int, int]
    """For each axis of the source, which of z, y, x (0, 1, 2) it is."""
    flipped: tuple[bool, bool, bool]
    """For each axis of the source, whether it runs the other way."""

    @classmethod
    def named(cls, text: str) -> Axes:
        """From three letters, slowest axis first, each with a minus before it if it is flipped, as `xyz` or `z-yx`."""
        letters = text.lower().replace("-", "")
        if sorted(letters) != ["x", "y", "z"] or "--" in text or text.endswith("-"):
            raise BadRequest(f"the axes {text!r} must name z, y and x, slowest first, as zyx, xyz or z-yx")
        first, second, third = ("zyx".index(letter) for letter in letters)
        flips = [f"-{letter}" in text.lower() for letter in letters]
        return cls((first, second, third), (flips[0], flips[1], flips[2]))

    @property
    def plain(self) -> bool:
        """Whether they change nothing."""
        return self.order == (0, 1, 2) and not any(self.flipped)


@dataclass(frozen=True, slots=True, kw_only=True)
class Adaptation:
    """How a source is to be seen; what is empty or None is as the source has it."""

    axes: str = ""
    resolution_nm: tuple[float, float, float] | None = None
    offset_xyz: tuple[int, int, int] | None = None
    dtype: str = ""
    """Values that do not fit are errors; floating point numbers are rounded to integers."""
    remap: NDArray[np.uint64] | None = None
    """Rows of label and other label, sorted by label; labels that it does not have stay."""


class AdaptedVolume(VolumeSource):
    """A source as an adaptation lets it be seen."""

    def __init__(self, source: VolumeSource, adaptation: Adaptation) -> None:
        axes = Axes.named(adaptation.axes or "zyx")
        self.source = source
        self._axes = axes
        self._remap = adaptation.remap
        seen = [f"axes {adaptation.axes}" if not axes.plain else "", adaptation.dtype and f"as {adaptation.dtype}"]
        seen.append("" if adaptation.remap is None else f"{len(adaptation.remap)} labels with other names")
        said = ", ".join(filter(None, seen))
        self.name = f"{source.name} ({said})" if said else source.name
        self.concurrent = source.concurrent
        self.shape_zyx = self._turned(source.shape_zyx)
        self.chunk_zyx = self._turned(source.chunk_zyx)
        self.dtype = source.dtype
        if adaptation.remap is not None:
            if source.dtype.kind not in "iu":
                raise VolumeError(f"{source.name} has voxels of {source.dtype.name}, which cannot be mapped as labels")
            largest = int(adaptation.remap.max()) if len(adaptation.remap) else 0
            if source.dtype.kind == "i" or largest > np.iinfo(source.dtype).max:
                self.dtype = np.dtype(np.uint64)
        if adaptation.dtype:
            if adaptation.dtype not in TYPES:
                raise BadRequest(f"the type {adaptation.dtype!r} is none of {', '.join(TYPES)}")
            self.dtype = np.dtype(adaptation.dtype)
        resolution, offset = source.resolution_nm, source.offset_xyz
        if resolution is not None:
            z, y, x = self._turned(resolution[::-1])
            resolution = (x, y, z)
        oz, oy, ox = self._turned(offset[::-1])
        self.resolution_nm = adaptation.resolution_nm or resolution
        self.offset_xyz = (ox, oy, oz) if adaptation.offset_xyz is None else adaptation.offset_xyz

    def read(self, start_zyx: Zyx, stop_zyx: Zyx) -> Array:
        axes, shape = self._axes, self.source.shape_zyx
        low, high = [0, 0, 0], [0, 0, 0]
        for axis, (meaning, flipped) in enumerate(zip(axes.order, axes.flipped, strict=True)):
            a, b = start_zyx[meaning], stop_zyx[meaning]
            low[axis], high[axis] = (shape[axis] - b, shape[axis] - a) if flipped else (a, b)
        voxels = self.source.read((low[0], low[1], low[2]), (high[0], high[1], high[2]))
        if not axes.plain:
            flip = tuple(slice(None, None, -1) if flipped else slice(None) for flipped in axes.flipped)
            voxels = voxels[flip].transpose([axes.order.index(meaning) for meaning in range(3)])
        if self._remap is not None:
            voxels = self._mapped(voxels)
        return np.ascontiguousarray(converted(voxels, self.dtype, self.name))

    def read_into(self, start_zyx: Zyx, out: Array) -> None:
        if self._axes.plain and self._remap is None and self.dtype == self.source.dtype:
            self.source.read_into(start_zyx, out)
        else:
            super().read_into(start_zyx, out)

    def check(self) -> None:
        self.source.check()

    def close(self) -> None:
        self.source.close()

    def _turned(self, values: Any) -> Any:
        """Numbers of the source's axes as those of z, y, x."""
        return tuple(values[self._axes.order.index(meaning)] for meaning in range(3))

    def _mapped(self, voxels: Array) -> Array:
        assert self._remap is not None
        if voxels.dtype.kind == "i" and voxels.size and voxels.min() < 0:
            raise VolumeError(f"{self.name} has the negative label {voxels.min()}")
        labels, places = np.unique(voxels, return_inverse=True)
        labels = labels.astype(np.uint64)
        if len(self._remap):
            at = np.minimum(np.searchsorted(self._remap[:, 0], labels), len(self._remap) - 1)
            labels = np.where(self._remap[at, 0] == labels, self._remap[at, 1], labels)
        return labels[places].reshape(voxels.shape)


def converted(voxels: Array, dtype: np.dtype[Any], name: str) -> Array:
    """Voxels as another type; VolumeError if one does not fit. Real numbers are rounded to integers."""
    if voxels.dtype == dtype:
        return voxels
    if dtype.kind in "iu" and voxels.size and not np.can_cast(voxels.dtype, dtype, "safe"):
        limits = np.iinfo(dtype)
        low, high = voxels.min(), voxels.max()
        if not (low >= limits.min and high <= limits.max):
            raise VolumeError(f"{name} has values from {low} to {high}, which do not fit into {dtype.name}")
        if voxels.dtype.kind == "f":
            voxels = np.rint(voxels)
    return voxels.astype(dtype)
