"""A volume in one TIFF file: one gray page per z-plane, in strips or tiles, or all planes one after the other.

Source: TIFF revision 6.0; BigTIFF, OME-TIFF and ImageJ's way to write stacks as tifffile reads them.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np

from fascicle.volumes.array_folders import NM_PER_UNIT
from fascicle.volumes.base import Array, VolumeError, VolumeSource, Zyx, need


class TiffVolume(VolumeSource):
    """The gray pages of one TIFF file, the first one at z = 0. Of tiled pages only tiles that are needed are read."""

    def __init__(self, path: Path) -> None:
        tifffile = need("tifffile", "tifffile", "TIFF files")
        self.name = str(path)
        try:
            self._file = tifffile.TiffFile(path)
            pages = self._file.pages
            first = pages[0]
            self._mapped = self._contiguous(path)
            self.resolution_nm = self._resolution()
        except (OSError, ValueError, IndexError, KeyError, tifffile.TiffFileError) as error:
            raise VolumeError(f"{path} cannot be read: {error}") from None
        if len(first.shape) != 2:
            self._file.close()
            raise VolumeError(f"the pages of {path} are not gray images")
        self.shape_zyx = (len(pages), *first.shape) if self._mapped is None else self._mapped.shape
        self.dtype = np.dtype(first.dtype).newbyteorder("=")
        tile = (first.tilelength, first.tilewidth) if first.is_tiled else first.shape
        self.chunk_zyx = (1, *(min(a, b) for a, b in zip(tile, self.shape_zyx[1:], strict=True)))

    def read(self, start_zyx: Zyx, stop_zyx: Zyx) -> Array:
        (z0, y0, x0), (z1, y1, x1) = start_zyx, stop_zyx
        if self._mapped is not None:
            return np.array(self._mapped[z0:z1, y0:y1, x0:x1], self.dtype, order="C")
        out = np.zeros((z1 - z0, y1 - y0, x1 - x0), self.dtype)
        tiled = self._file.pages[0].is_tiled
        for z in range(z0, z1):
            page = self._file.pages[z]
            if page.shape != self.shape_zyx[1:] or np.dtype(page.dtype).newbyteorder("=") != self.dtype:
                raise VolumeError(f"page {z} of {self.name} has another size or depth than the first one")
            try:
                if tiled:
                    self._read_tiles(page.aspage(), (y0, x0), (y1, x1), out[z - z0])
                else:
                    out[z - z0] = page.asarray()[y0:y1, x0:x1]
            except (OSError, ValueError, RuntimeError) as error:
                raise VolumeError(f"page {z} of {self.name} cannot be read: {error}") from None
        return out

    def close(self) -> None:
        self._file.close()

    def _read_tiles(self, page: Any, start: tuple[int, int], stop: tuple[int, int], out: Array) -> None:
        """The tiles of a page that a box (y, x) touches."""
        height, width = page.tilelength, page.tilewidth
        columns = -(-page.imagewidth // width)
        for row in range(start[0] // height, -(-stop[0] // height)):
            for column in range(start[1] // width, -(-stop[1] // width)):
                index = row * columns + column
                if page.databytecounts[index] == 0:
                    continue
                handle = self._file.filehandle
                handle.seek(page.dataoffsets[index])
                tables = {} if page.jpegtables is None else {"jpegtables": page.jpegtables}
                tile = page.decode(handle.read(page.databytecounts[index]), index, **tables)[0]
                if tile is None:
                    continue
                tile = np.asarray(tile).reshape(tile.shape[-3:-1])
                y, x = row * height, column * width
                low = max(y, start[0]), max(x, start[1])
                high = min(y + tile.shape[0], stop[0]), min(x + tile.shape[1], stop[1])
                out[low[0] - start[0] : high[0] - start[0], low[1] - start[1] : high[1] - start[1]] = tile[
                    low[0] - y : high[0] - y, low[1] - x : high[1] - x
                ]

    def _contiguous(self, path: Path) -> Array | None:
        """All planes mapped into memory, if they lie in the file one after the other as they are."""
        series = self._file.series[0]
        shape = [side for side, axis in zip(series.shape, series.axes, strict=True) if axis in "YX" or side != 1]
        if series.dataoffset is None or len(shape) != 3 or not series.axes.replace("S", "").endswith("YX"):
            return None
        dtype = np.dtype(self._file.byteorder + series.dtype.char)
        mapped: Array = np.memmap(path, dtype, "r", series.dataoffset, tuple(shape))
        return mapped

    def _resolution(self) -> tuple[float, float, float] | None:
        """The size of a voxel in nm, as OME or ImageJ note it."""
        if self._file.ome_metadata:
            return _ome_resolution(self._file.ome_metadata)
        notes = self._file.imagej_metadata or {}
        nm = NM_PER_UNIT.get(str(notes.get("unit", "")).replace("\\u00B5", "µ").lower())
        tags = self._file.pages[0].tags
        if nm is None or "XResolution" not in tags or "YResolution" not in tags:
            return None
        (x_pixels, x_units), (y_pixels, y_units) = tags["XResolution"].value, tags["YResolution"].value
        z = float(notes.get("spacing", 0))
        if not (x_pixels and y_pixels and z > 0):
            return None
        return nm * x_units / x_pixels, nm * y_units / y_pixels, nm * z


def _ome_resolution(text: str) -> tuple[float, float, float] | None:
    try:
        pixels = next(item for item in ET.fromstring(text).iter() if item.tag.rpartition("}")[2] == "Pixels")
        edges = []
        for axis in "XYZ":
            unit = pixels.get(f"PhysicalSize{axis}Unit", "µm").replace("Å", "angstrom").lower()
            edges.append(float(pixels.attrib[f"PhysicalSize{axis}"]) * NM_PER_UNIT[unit])
    except (ET.ParseError, StopIteration, KeyError, ValueError):
        return None
    x, y, z = edges
    return (x, y, z) if min(edges) > 0 else None
