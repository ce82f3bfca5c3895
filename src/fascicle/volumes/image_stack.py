"""A volume as one image file per z-plane: PNG, TIFF, JPEG, BMP; gray, 8 to 32 bits."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fascicle.volumes import plain_images
from fascicle.volumes.base import Array, VolumeError, VolumeSource, Zyx, need

SUFFIXES = (".png", ".tif", ".tiff", ".jpg", ".jpeg", ".bmp")


def natural_order(path: Path) -> list[tuple[int, int | str]]:
    """A sort key under which `slice10` comes after `slice9`."""
    return [(0, int(part)) if part.isdigit() else (1, part) for part in re.split(r"(\d+)", path.name) if part]


class ImageStack(VolumeSource):
    """Image files in natural order of their names, the first one at z = 0. All must have one size and one depth."""

    concurrent = True

    def __init__(self, paths: Sequence[Path], name: str = "") -> None:
        if not paths:
            raise VolumeError("an image stack needs at least one file")
        self.paths = sorted(paths, key=natural_order)
        self.name = name or f"{self.paths[0]} and {len(self.paths) - 1} more"
        plain = plain_images.described(self.paths[0])
        if plain is None:
            first = _read_image(self.paths[0])
            plain = (first.shape[0], first.shape[1]), first.dtype
        (height, width), self.dtype = plain
        self.shape_zyx = (len(self.paths), height, width)
        self.chunk_zyx = (1, height, width)

    def read(self, start_zyx: Zyx, stop_zyx: Zyx) -> Array:
        z, y, x = (b - a for a, b in zip(start_zyx, stop_zyx, strict=True))
        out = np.empty((z, y, x), self.dtype)
        self.read_into(start_zyx, out)
        return out

    def read_into(self, start_zyx: Zyx, out: Array) -> None:
        z0, y0, x0 = start_zyx
        depth, height, width = out.shape
        whole = (height, width) == self.shape_zyx[1:] and out.dtype == self.dtype and out.strides[2] == out.itemsize
        for z in range(depth):
            path = self.paths[z0 + z]
            if not whole:
                out[z] = self._plane(path)[y0 : y0 + height, x0 : x0 + width]
            elif not plain_images.read_into(path, out[z]):
                out[z] = self._checked(path, _read_image(path))

    def _plane(self, path: Path) -> Array:
        plane: Array = np.empty(self.shape_zyx[1:], self.dtype)
        return plane if plain_images.read_into(path, plane) else self._checked(path, _read_image(path))

    def _checked(self, path: Path, plane: Array) -> Array:
        if plane.shape != self.shape_zyx[1:] or plane.dtype != self.dtype:
            (h, w), (_, height, width) = plane.shape, self.shape_zyx
            raise VolumeError(
                f"{path} is {w} x {h} {plane.dtype.name}, "
                f"but {self.paths[0].name} is {width} x {height} {self.dtype.name}"
            )
        return plane


def _read_image(path: Path) -> Array:
    """The gray levels [y, x] of an image file."""
    if path.suffix.lower() in (".tif", ".tiff"):
        tifffile = need("tifffile", "tifffile", "TIFF files")
        try:
            image: Array = tifffile.imread(path)
        except (OSError, ValueError) as error:
            raise VolumeError(f"{path} cannot be read: {error}") from None
    else:
        from PIL import Image, UnidentifiedImageError

        try:
            with Image.open(path) as picture:
                if picture.mode not in ("L", "I", "I;16", "I;16B", "F", "1", "P"):
                    raise VolumeError(f"{path} is in colour ({picture.mode}); only gray images can be ingested")
                image = np.asarray(picture.convert("L") if picture.mode in ("1", "P") else picture)
        except (OSError, UnidentifiedImageError) as error:
            raise VolumeError(f"{path} cannot be read: {error}") from None
    if image.ndim != 2:
        raise VolumeError(f"{path} has {image.ndim} dimensions; one gray image per file is needed")
    return np.ascontiguousarray(image, image.dtype.newbyteorder("="))
