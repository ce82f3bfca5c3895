"""Fast ways to read the commonest slices: TIFF of one page in strips, stored or deflated, and gray PNG.

Sources: TIFF revision 6.0; the deflate tag as Adobe's TIFF technical notes have it; PNG specification (W3C), second
edition. Everything else about these formats is left to the packages that know them: `read_into` says then that it has
not read anything.
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from isal import isal_zlib

from fascicle.volumes.base import Array, VolumeError

_INTEGERS = {1: "B", 3: "H", 4: "I", 16: "Q"}
_KINDS = {1: "u", 2: "i", 3: "f"}
_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _OFFSETS, _SAMPLES, _ROWS, _COUNTS, _PREDICTOR, _FORMAT = (
    256, 257, 258, 259, 273, 277, 278, 279, 317, 339
)  # fmt: skip
_PHOTOMETRIC, _TILES, _FILL_ORDER, _ORIENTATION = 262, 322, 266, 274
_PNG = b"\x89PNG\r\n\x1a\n"
_INFLATE_ERROR: Any = isal_zlib.error


def read_into(path: Path, out: Array) -> bool:
    """Fill `out` [y, x], with contiguous rows, from a slice of just this size and type.

    False, and `out` may hold anything, if the file is of a kind that is not known here, has another size or type, or is
    damaged. Raises VolumeError if it cannot be read at all.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise VolumeError(f"{path} cannot be read: {error}") from None
    try:
        if data[:4] in (b"II*\0", b"MM\0*"):
            return _read_tiff(data, out)
        if data[:8] == _PNG:
            return _read_png(data, out)
    except (struct.error, _INFLATE_ERROR, zlib.error, ValueError, IndexError, KeyError):
        return False
    return False


def described(path: Path) -> tuple[tuple[int, int], np.dtype[Any]] | None:
    """Height, width and type of a slice that `read_into` can read; None if it is of another kind."""
    try:
        data = path.read_bytes()
        if data[:4] in (b"II*\0", b"MM\0*"):
            order = "<" if data[:2] == b"II" else ">"
            tags, _ = _directory(data, struct.unpack_from(f"{order}I", data, 4)[0], order)
            bits, kind = tags[_BITS][0], _KINDS[tags.get(_FORMAT, (1,))[0]]
            shape, dtype = (tags[_HEIGHT][0], tags[_WIDTH][0]), np.dtype(f"{kind}{bits // 8}")
        elif data[:8] == _PNG:
            shape, dtype = struct.unpack_from(">II", data, 16)[::-1], np.dtype(f"u{data[24] // 8}")
        else:
            return None
        return (shape, dtype) if read_into(path, np.empty(shape, dtype)) else None
    except (OSError, struct.error, ValueError, IndexError, KeyError, TypeError, MemoryError):
        return None


# -- TIFF


def _read_tiff(data: bytes, out: Array) -> bool:
    order = "<" if data[:2] == b"II" else ">"
    at = struct.unpack_from(f"{order}I", data, 4)[0]
    tags, following = _directory(data, at, order)
    bits, kind = tags.get(_BITS, (1,)), _KINDS.get(tags.get(_FORMAT, (1,))[0], "")
    shape = tags[_HEIGHT][0], tags[_WIDTH][0]
    compression = tags.get(_COMPRESSION, (1,))[0]
    plain = (
        not following
        and _TILES not in tags
        and tags.get(_SAMPLES, (1,))[0] == 1
        and tags.get(_PREDICTOR, (1,))[0] == 1
        and tags.get(_PHOTOMETRIC, (1,))[0] == 1
        and tags.get(_FILL_ORDER, (1,))[0] == 1
        and tags.get(_ORIENTATION, (1,))[0] == 1
        and compression in (1, 8, 32946)
        and len(bits) == 1
    )
    if not plain or shape != out.shape or f"{kind}{bits[0] // 8}" != out.dtype.str[1:] or bits[0] % 8:
        return False
    dtype = np.dtype(f"{order}{out.dtype.str[1:]}")
    rows = min(tags.get(_ROWS, (shape[0],))[0], shape[0])
    offsets, counts = tags[_OFFSETS], tags[_COUNTS]
    if rows < 1 or len(offsets) != -(-shape[0] // rows) or len(counts) != len(offsets):
        return False
    view = memoryview(data)
    for i, (start, count) in enumerate(zip(offsets, counts, strict=True)):
        strip: Any = view[start : start + count]
        high = min(shape[0], (i + 1) * rows)
        size = (high - i * rows) * shape[1] * dtype.itemsize
        if compression != 1:
            strip = isal_zlib.decompress(strip, 15, size)
        if len(strip) < size:
            return False
        out[i * rows : high] = np.frombuffer(strip, dtype, size // dtype.itemsize).reshape(-1, shape[1])
    return True


def _directory(data: bytes, at: int, order: str) -> tuple[dict[int, tuple[int, ...]], int]:
    """The tags of a page that are integers, and where the next page is noted."""
    count = struct.unpack_from(f"{order}H", data, at)[0]
    tags: dict[int, tuple[int, ...]] = {}
    for i in range(count):
        entry = at + 2 + 12 * i
        tag, kind, number = struct.unpack_from(f"{order}HHI", data, entry)
        if kind not in _INTEGERS or number > 1 << 20:
            continue
        form = f"{order}{number}{_INTEGERS[kind]}"
        place = entry + 8
        if struct.calcsize(form) > 4:
            place = struct.unpack_from(f"{order}I", data, place)[0]
        tags[tag] = struct.unpack_from(form, data, place)
    return tags, struct.unpack_from(f"{order}I", data, at + 2 + 12 * count)[0]


# -- PNG


def _read_png(data: bytes, out: Array) -> bool:
    from fascicle.kernels import png_rows

    width, height, depth, colour, packing, filters, interlaced = struct.unpack_from(">IIBBBBB", data, 16)
    itemsize = out.dtype.itemsize
    if data[12:16] != b"IHDR" or (colour, packing, filters, interlaced) != (0, 0, 0, 0) or depth not in (8, 16):
        return False
    if (height, width) != out.shape or out.dtype.kind != "u" or depth != 8 * itemsize:
        return False
    parts = []
    at = 8
    while at + 12 <= len(data):
        size, name = struct.unpack_from(">I4s", data, at)
        if name == b"IDAT":
            parts.append(data[at + 8 : at + 8 + size])
        elif name in (b"tRNS", b"IEND"):
            if name == b"tRNS":
                return False
            break
        at += 12 + size
    row = width * itemsize
    packed = parts[0] if len(parts) == 1 else b"".join(parts)
    plain = isal_zlib.decompress(packed, 15, height * (row + 1))
    if len(plain) != height * (row + 1):
        return False
    pixels = out if itemsize == 1 and out.flags.c_contiguous else np.empty((height, width), out.dtype)
    flat = pixels.reshape(-1).view(np.uint8)
    if not png_rows.unfilter(np.frombuffer(plain, np.uint8), row, itemsize, flat):
        return False
    if pixels is not out:
        out[...] = pixels.byteswap() if itemsize == 2 else pixels
    return True
