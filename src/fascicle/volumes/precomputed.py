"""Unsharded Neuroglancer precomputed volumes in a folder or behind HTTP, one channel, one scale.

Format: https://github.com/google/neuroglancer/tree/master/src/datasource/precomputed (volume.md and
compressed_segmentation). Chunks are found under their name, under the name with `.gz`, and in the nested layout that
some writers use. A chunk that is not there is zeros; a chunk that cannot be read is an error.
"""

from __future__ import annotations

import gzip
import time
import urllib.error
import urllib.request
from itertools import product
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from fascicle.volumes.base import Array, Pyramid, VolumeError, VolumeSource, Zyx

TIMEOUT_S = 60.0
ATTEMPTS = 4
_GZIP_MAGIC = b"\x1f\x8b"


class PrecomputedVolume(VolumeSource):
    """One scale of a precomputed volume; `address` is a folder, `file://...`, `http://...` or `https://...`."""

    concurrent = True

    def __init__(self, address: str, scale: int = 0, info: dict[str, Any] | None = None) -> None:
        self.name = address
        self._root = address.removeprefix("file://").rstrip("/")
        info = _read_info(address) if info is None else info
        try:
            scales = info["scales"]
            if not 0 <= scale < len(scales):
                raise VolumeError(f"{address} has {len(scales)} scales, so there is no scale {scale}")
            self._take(info, scales[scale])
        except (KeyError, TypeError) as error:
            raise VolumeError(f"the info of {address} is not that of a precomputed volume: {error!r}") from None

    def _take(self, info: dict[str, Any], scale: dict[str, Any]) -> None:
        if info.get("num_channels", 1) != 1:
            raise VolumeError(f"{self.name} has {info['num_channels']} channels; one is needed")
        if scale.get("sharding"):
            raise VolumeError(f"{self.name} is sharded; only unsharded volumes can be read")
        self.encoding = scale["encoding"]
        if self.encoding not in ("raw", "jpeg", "compressed_segmentation"):
            raise VolumeError(f"{self.name} has the encoding {self.encoding!r}, which cannot be read")
        self.dtype = np.dtype(info["data_type"])
        if self.encoding == "jpeg" and self.dtype != np.uint8:
            raise VolumeError(f"{self.name} claims JPEG chunks of {self.dtype.name}")
        self._key = scale["key"]
        self._size = _triple(scale["size"])
        self._chunk = _triple(scale["chunk_sizes"][0])
        self._block = _triple(scale.get("compressed_segmentation_block_size", (8, 8, 8)))
        self.offset_xyz = _triple(scale.get("voxel_offset", (0, 0, 0)))
        x, y, z = scale["resolution"]
        self.resolution_nm = (float(x), float(y), float(z))
        self.shape_zyx = (self._size[2], self._size[1], self._size[0])
        self.chunk_zyx = (self._chunk[2], self._chunk[1], self._chunk[0])

    def read(self, start_zyx: Zyx, stop_zyx: Zyx) -> Array:
        start, stop = start_zyx[::-1], stop_zyx[::-1]
        out = np.zeros([b - a for a, b in zip(start_zyx, stop_zyx, strict=True)], self.dtype)
        grid = [range(a // c, -(-b // c)) for a, b, c in zip(start, stop, self._chunk, strict=True)]
        for cell in product(*grid):
            begin = [g * c for g, c in zip(cell, self._chunk, strict=True)]
            end = [min(b + c, s) for b, c, s in zip(begin, self._chunk, self._size, strict=True)]
            chunk = self._chunk_voxels(begin, end)
            if chunk is not None:
                low = [max(a, b) for a, b in zip(begin, start, strict=True)]
                high = [min(a, b) for a, b in zip(end, stop, strict=True)]
                inner = [slice(a - b, c - b) for a, b, c in zip(low, begin, high, strict=True)]
                outer = [slice(a - b, c - b) for a, b, c in zip(low, start, high, strict=True)]
                out[tuple(outer[::-1])] = chunk[tuple(inner[::-1])]
        return out

    def chunk_bytes(self, cell_zyx: Zyx) -> bytes | None:
        start, stop = self.chunk_box(cell_zyx)
        return self._stored(list(start[::-1]), list(stop[::-1]))

    def decode_chunk(self, data: bytes, cell_zyx: Zyx) -> Array:
        start, stop = self.chunk_box(cell_zyx)
        z, y, x = (b - a for a, b in zip(start, stop, strict=True))
        try:
            return self._decode(data, (z, y, x))
        except Exception as error:
            named = "_".join(self._spans(list(start[::-1]), list(stop[::-1])))
            raise VolumeError(f"chunk {named} of {self.name} cannot be decoded: {error}") from None

    def _stored(self, begin: list[int], end: list[int]) -> bytes | None:
        spans = self._spans(begin, end)
        folder = f"{self._root}/{self._key}"
        data = _fetch(f"{folder}/{'_'.join(spans)}")
        if data is None and not _is_remote(self._root):
            data = _fetch(f"{folder}/{'/'.join(spans)}")
        return data

    def _spans(self, begin: list[int], end: list[int]) -> list[str]:
        return [f"{b + o}-{e + o}" for b, e, o in zip(begin, end, self.offset_xyz, strict=True)]

    def _chunk_voxels(self, begin: list[int], end: list[int]) -> Array | None:
        """A chunk [z, y, x], or None if it is not stored."""
        data = self._stored(begin, end)
        if data is None:
            return None
        shape = (end[2] - begin[2], end[1] - begin[1], end[0] - begin[0])
        try:
            return self._decode(data, shape)
        except Exception as error:
            name = "_".join(self._spans(begin, end))
            raise VolumeError(f"chunk {name} of {self.name} cannot be decoded: {error}") from None

    def _decode(self, data: bytes, shape: Zyx) -> Array:
        if self.encoding == "raw":
            return np.frombuffer(data, self.dtype.newbyteorder("<")).reshape(shape)
        if self.encoding == "jpeg":
            import simplejpeg

            return np.asarray(simplejpeg.decode_jpeg(data, colorspace="GRAY")).reshape(shape)
        return decode_compressed_segmentation(data, shape, self.dtype, self._block)


def open_precomputed(address: str) -> Pyramid:
    """All scales of a precomputed volume."""
    info = _read_info(address)
    scales = tuple(PrecomputedVolume(address, scale, info) for scale in range(len(info.get("scales", ()))))
    if not scales:
        raise VolumeError(f"{address} has 0 scales")
    return Pyramid(address, str(info.get("type", "image")).lower(), scales)


def _read_info(address: str) -> dict[str, Any]:
    text = _fetch(f"{address.removeprefix('file://').rstrip('/')}/info")
    if text is None:
        raise VolumeError(f"{address} has no precomputed volume: there is no file named info")
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except msgspec.MsgspecError as error:
        raise VolumeError(f"the info of {address} is not that of a precomputed volume: {error!r}") from None


def decode_compressed_segmentation(data: bytes, shape: Zyx, dtype: np.dtype[Any], block_xyz: Zyx) -> Array:
    """The labels [z, y, x] of the first channel of a compressed segmentation; `dtype` is uint32 or uint64."""
    words = np.frombuffer(data, "<u4")
    words = words[int(words[0]) :]
    bx, by, bz = block_xyz
    depth, height, width = shape
    gx, gy, gz = -(-width // bx), -(-height // by), -(-depth // bz)
    voxels = bx * by * bz
    out = np.empty((gz * bz, gy * by, gx * bx), dtype)
    for index in range(gx * gy * gz):
        table_at, bits = int(words[2 * index]) & 0xFFFFFF, int(words[2 * index]) >> 24
        values_at = int(words[2 * index + 1])
        if bits not in (0, 1, 2, 4, 8, 16, 32):
            raise ValueError(f"a block has {bits} bits per value")
        if bits == 0:
            picks = np.zeros(voxels, np.int64)
        else:
            packed = words[values_at : values_at + -(-voxels * bits // 32)]
            shifts = np.arange(0, 32, bits, dtype=np.uint32)
            mask = np.uint32((1 << bits) - 1)
            picks = ((packed[:, None] >> shifts) & mask).reshape(-1)[:voxels].astype(np.int64)
        if dtype.itemsize == 8:
            table = words[table_at : table_at + 2 * (int(picks.max()) + 1)]
            labels = table[0::2].astype(np.uint64) | table[1::2].astype(np.uint64) << np.uint64(32)
        else:
            labels = words[table_at : table_at + int(picks.max()) + 1]
        x, y, z = index % gx, index // gx % gy, index // (gx * gy)
        box = (slice(z * bz, (z + 1) * bz), slice(y * by, (y + 1) * by), slice(x * bx, (x + 1) * bx))
        out[box] = labels[picks].reshape(bz, by, bx)
    return out[:depth, :height, :width]


def _is_remote(address: str) -> bool:
    return address.startswith(("http://", "https://"))


def _fetch(address: str) -> bytes | None:
    """The bytes of a file or URL, unpacked if they are gzipped; None if there is none."""
    if _is_remote(address):
        data = _download(address)
    else:
        path = Path(address)
        packed = path.with_name(path.name + ".gz")
        try:
            data = path.read_bytes() if path.is_file() else packed.read_bytes() if packed.is_file() else None
        except OSError as error:
            raise VolumeError(f"{path} cannot be read: {error}") from None
        if data is None:
            for suffix in (".br", ".zstd", ".xz", ".bz2"):
                if path.with_name(path.name + suffix).exists():
                    raise VolumeError(f"{path}{suffix} has a compression that cannot be read; gzip can")
    return gzip.decompress(data) if data is not None and data[:2] == _GZIP_MAGIC else data


def _download(address: str) -> bytes | None:
    for attempt in range(ATTEMPTS):
        try:
            with urllib.request.urlopen(address, timeout=TIMEOUT_S) as answer:
                return bytes(answer.read())
        except urllib.error.HTTPError as error:
            if error.code in (403, 404):
                return None
            problem: Exception = error
            if error.code < 500 and error.code != 429:
                break
        except OSError as error:
            problem = error
        time.sleep(0.5 * 2**attempt if attempt < ATTEMPTS - 1 else 0)
    raise VolumeError(f"{address} cannot be read: {problem}")


def _triple(values: Any) -> Zyx:
    a, b, c = values
    return int(a), int(b), int(c)
