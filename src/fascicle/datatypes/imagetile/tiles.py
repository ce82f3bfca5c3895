"""Tiles as they are stored: their keys, their encodings, and the picture shown where there is none.

    class 1: plane u8 | scale u8 | slice | row | column -> encoded tile        (versioned)

Slice, row and column are int32 that sort as numbers: the voxel along the axis that is normal to the plane, then the
tile indices down and across. A tile is kept as it was posted. One of the format lz4 is the size of its gray levels as
uint32 little-endian and an LZ4 block of them, rows below each other.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import lz4.block
import numpy as np
from numpy.typing import NDArray

from fascicle.datatypes.slice_images import DEFAULT_QUALITY, ImageFormat, encode_image, encode_jpeg, encode_png
from fascicle.datatypes.voxel_requests import INT32_MAX, INT32_MIN, Triple, parse_dims, parse_triple
from fascicle.errors import BadRequest
from fascicle.versions import keys
from fascicle.versions.resolution import VersionedView

TILES = 1
FORMATS = ("lz4", "png", "jpg")
"""The number of a format in an instance's info is its place here."""
PLANES = ("xy", "xz", "yz")
AXES = {"xy": (0, 1, 2), "xz": (0, 2, 1), "yz": (1, 2, 0)}
"""The axes across, down and normal to a plane: 0 is x, 1 is y, 2 is z."""

_KEY = struct.Struct(">BBIII")
_SIZE = struct.Struct("<I")
_BIAS = 1 << 31

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class TileName:
    """Which tile: its plane, its scale, and a coordinate of tile indices with a voxel along the normal axis."""

    plane: str
    scale: int
    coordinate: Triple
    """x, y, z."""

    @property
    def key(self) -> bytes:
        across, down, normal = AXES[self.plane]
        at = self.coordinate
        return tile_key(self.plane, self.scale, at[normal], at[down], at[across])

    def __str__(self) -> str:
        return f"{self.plane}/{self.scale}/{'_'.join(map(str, self.coordinate))}"


def parse_name(args: Sequence[str]) -> TileName:
    """The tile that `<plane>/<scale>/<coordinate>` names. Raises BadRequest."""
    if len(args) < 3 or not all(args[:3]):
        raise BadRequest("a tile must be named by plane/scale/coordinate, e.g. xy/0/10_20_300")
    plane = parse_dims(args[0])
    if plane not in PLANES:
        raise BadRequest(f"a tile lies in the plane xy, xz or yz, not in {args[0]!r}")
    if not (args[1].isascii() and args[1].isdigit() and int(args[1][:9]) <= 255):
        raise BadRequest(f"the scale of a tile must be a number from 0 to 255, not {args[1]!r}")
    return TileName(plane, int(args[1]), parse_triple(args[2], what="tile coordinate"))


def tile_key(plane: str, scale: int, position: int, row: int, column: int) -> bytes:
    return _KEY.pack(PLANES.index(plane), scale, position + _BIAS, row + _BIAS, column + _BIAS)


def stored_row(
    view: VersionedView, plane: str, scale: int, position: int, row: int, columns: tuple[int, int]
) -> Iterator[tuple[int, bytes]]:
    """(column, encoded tile) of the stored tiles of a row, from a first to a last column."""
    first, last = (min(max(column, INT32_MIN), INT32_MAX) for column in columns)
    start = tile_key(plane, scale, position, row, first)
    stop = keys.after(tile_key(plane, scale, position, row, last))
    for key, _, handle in view.scan(TILES, start, stop):
        yield _KEY.unpack(key)[4] - _BIAS, view.load(handle)


# -- encodings


def encode_tile(pixels: Pixels, format_name: str, quality: int) -> bytes:
    """Gray levels [row, column] as a stored tile."""
    if format_name == "png":
        return encode_png(pixels)
    if format_name == "jpg":
        return encode_jpeg(pixels, quality or DEFAULT_QUALITY, accurate=True)
    raw = np.ascontiguousarray(pixels).data
    packed: bytes = lz4.block.compress(raw, store_size=False)
    return _SIZE.pack(raw.nbytes) + packed


def unpacked(stored: bytes, width: int, height: int) -> Pixels:
    """The gray levels [row, column] of a tile of the format lz4. Raises BadRequest if it is not one of this size."""
    size = width * height
    try:
        if len(stored) < _SIZE.size or _SIZE.unpack_from(stored)[0] != size:
            raise ValueError("another size")
        data = lz4.block.decompress(stored[_SIZE.size :], uncompressed_size=size)
        return np.frombuffer(data, np.uint8).reshape(height, width)
    except (lz4.block.LZ4BlockError, ValueError):
        raise BadRequest(f"the tile is not the size and an LZ4 block of {width} x {height} gray levels") from None


def opened(stored: bytes, format_name: str, width: int, height: int) -> NDArray[Any]:
    """A stored tile as uint8 [row, column], or [row, column, 3] if it has colours.

    BadRequest if it is no picture, or larger than a tile.
    """
    if format_name == "lz4":
        return unpacked(stored, width, height)
    from PIL import Image

    try:
        with Image.open(io.BytesIO(stored), formats=("PNG", "JPEG")) as picture:
            if picture.width > width or picture.height > height:
                raise ValueError(f"{picture.width} x {picture.height} pixels, more than {width} x {height}")
            gray = picture.mode in ("1", "L", "LA", "I", "I;16", "F")
            return np.asarray(picture.convert("L" if gray else "RGB"))
    except (OSError, ValueError, SyntaxError, struct.error, Image.DecompressionBombError) as error:
        raise BadRequest(f"what is stored as a tile is not a picture: {error}") from None


# -- where there is no tile


@lru_cache(16)
def blank(width: int, height: int, image_format: ImageFormat) -> bytes:
    """A black picture."""
    return encode_image(np.zeros((height, width), np.uint8), image_format)


def placeholder(width: int, height: int, text: str) -> Pixels:
    """A dark picture [row, column] with a frame and a text in its middle."""
    from PIL import Image, ImageDraw

    picture = Image.new("L", (width, height), 32)
    draw = ImageDraw.Draw(picture)
    draw.rectangle((0, 0, width - 1, height - 1), outline=96)
    draw.text((width // 2, height // 2), text, fill=160, anchor="mm")
    return np.asarray(picture)
