"""2-D arrays as PNG, JPEG, TIFF and BMP files, and their rescaling.

How voxels become pixels (the same for every lossless format):

* uint8: 8-bit gray; uint16: 16-bit gray;
* uint32, float32: 8-bit RGBA, the voxel's four little-endian bytes in order; uint8 with four channels: the same;
* uint64: 16-bit RGBA, the voxel's eight little-endian bytes in order are the sample bytes of a PNG, which are
  big-endian.

JPEG and BMP have 8 bits: of deeper samples they keep the high byte. PNG after the W3C recommendation, TIFF after
Adobe's revision 6.0 with deflate (compression 8).
"""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray

from fascicle.errors import BadRequest

Pixels = NDArray[Any]

DEFAULT_QUALITY = 80
_JPEG_EDGE_LIMIT = 65535
_CONTENT_TYPES = {"png": "image/png", "jpg": "image/jpeg", "tiff": "image/tiff", "bmp": "image/bmp"}
_KINDS = {"": "png", "png": "png", "jpg": "jpg", "jpeg": "jpg", "tif": "tiff", "tiff": "tiff", "bmp": "bmp"}


@dataclass(frozen=True, slots=True)
class ImageFormat:
    """A file format: `png`, `jpg`, `tiff` or `bmp`; `quality` (1 to 100) is that of JPEG."""

    kind: str = "png"
    quality: int = DEFAULT_QUALITY

    @property
    def content_type(self) -> str:
        return _CONTENT_TYPES[self.kind]


def parse_format(text: str) -> ImageFormat:
    """The format of the last element of a URL: nothing, `png`, `jpg:90`, ...; BadRequest for others."""
    name, colon, number = text.lower().partition(":")
    if name not in _KINDS:
        raise BadRequest(f"Illegal image format requested: {text}")
    quality = DEFAULT_QUALITY
    if colon:
        if not (number.isascii() and number.isdigit()):
            raise BadRequest(f'the quality in the image format "{text}" must be an integer')
        quality = int(number)
    kind = _KINDS[name]
    if kind == "jpg" and not 1 <= quality <= 100:
        raise BadRequest(f'the quality in the image format "{text}" must be between 1 and 100')
    return ImageFormat(kind, quality)


def encode_image(voxels: Pixels, image_format: ImageFormat) -> bytes:
    """A slice [row, column], or [row, column, channel] for three or four channels, as an image file."""
    if image_format.kind == "jpg":
        return encode_jpeg(voxels, image_format.quality)
    pixels = as_pixels(voxels)
    if image_format.kind == "png":
        return encode_png(pixels)
    if image_format.kind == "tiff":
        return encode_tiff(pixels)
    return _encode_with_pillow(_eight_bits(pixels), "BMP")


def as_pixels(voxels: Pixels) -> Pixels:
    """Voxels as samples: uint8 or uint16, [row, column] for gray, [row, column, channel] for RGB and RGBA."""
    if voxels.ndim == 3 or voxels.dtype in (np.uint8, np.uint16):
        return voxels
    voxels = np.ascontiguousarray(voxels)
    height, width = voxels.shape
    if voxels.dtype.itemsize == 8:
        return voxels.astype("<u8", copy=False).view(">u2").reshape(height, width, 4).astype(np.uint16)
    return voxels.astype(voxels.dtype.newbyteorder("<"), copy=False).view(np.uint8).reshape(height, width, 4)


def encode_png(pixels: Pixels) -> bytes:
    """Samples (uint8 or uint16, gray, RGB or RGBA) as a PNG with the channels that are given."""
    height, width = pixels.shape[:2]
    colour_type = 0 if pixels.ndim == 2 else {3: 2, 4: 6}[pixels.shape[2]]
    depth = pixels.dtype.itemsize
    rows = np.ascontiguousarray(pixels.astype(">u2") if depth == 2 else pixels).view(np.uint8).reshape(height, -1)
    lines = np.empty((height, rows.shape[1] + 1), np.uint8)
    lines[:, 0] = 2  # filter "up": cheap, and neighbours in slices are alike
    if height:
        lines[0, 1:] = rows[0]
        np.subtract(rows[1:], rows[:-1], out=lines[1:, 1:])
    colour_type = 0 if pixels.ndim == 2 else {3: 2, 4: 6}[pixels.shape[2]]
    header = struct.pack(">IIBBBBB", width, height, 8 * depth, colour_type, 0, 0, 0)
    data = isal_zlib.compress(lines.data, 1)
    return b"".join(
        (b"\x89PNG\r\n\x1a\n", _png_chunk(b"IHDR", header), _png_chunk(b"IDAT", data), _png_chunk(b"IEND", b""))
    )


def _png_chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(data, zlib.crc32(name)))


def encode_tiff(pixels: Pixels) -> bytes:
    """Samples (uint8 or uint16; gray, RGB, or RGBA with unassociated alpha) as a TIFF of one deflated strip."""
    height, width = pixels.shape[:2]
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    bits = 8 * pixels.dtype.itemsize
    strip = isal_zlib.compress(np.ascontiguousarray(pixels.astype(pixels.dtype.newbyteorder("<"), copy=False)).data, 1)
    strip_at = 8
    bits_at = strip_at + len(strip) + len(strip) % 2
    directory_at = bits_at + (8 if channels > 1 else 0)
    short, long = 3, 4
    entries = [
        (256, long, 1, width),
        (257, long, 1, height),
        (258, short, channels, bits_at if channels > 1 else bits),
        (259, short, 1, 8),  # deflate
        (262, short, 1, 2 if channels > 1 else 1),  # RGB, or black is zero
        (273, long, 1, strip_at),
        (277, short, 1, channels),
        (278, long, 1, height),
        (279, long, 1, len(strip)),
    ]
    if channels == 4:
        entries.append((338, short, 1, 2))  # the extra sample is unassociated alpha
    parts = [b"II*\x00", struct.pack("<I", directory_at), strip, b"\x00" * (len(strip) % 2)]
    if channels > 1:
        parts.append(struct.pack("<4H", bits, bits, bits, bits))
    parts.append(struct.pack("<H", len(entries)))
    parts += [struct.pack("<HHII", *entry) for entry in entries]
    parts.append(struct.pack("<I", 0))
    return b"".join(parts)


def encode_jpeg(voxels: Pixels, quality: int = DEFAULT_QUALITY, accurate: bool = False) -> bytes:
    """A slice as a JPEG: gray with one component for uint8, otherwise colour, blended onto black by its alpha.

    `accurate` takes a sixth longer and loses less: for what is stored and may be encoded again.
    """
    import simplejpeg

    pixels = as_pixels(voxels)
    height, width = pixels.shape[:2]
    if max(height, width) > _JPEG_EDGE_LIMIT:
        raise BadRequest(f"a JPEG can have at most {_JPEG_EDGE_LIMIT} rows and columns, not {width} x {height}")
    deep = pixels.dtype != np.uint8
    pixels = _eight_bits(pixels)
    if pixels.ndim == 2 and not deep and accurate:
        return _encode_with_pillow(pixels, "JPEG", quality=quality)
    if pixels.ndim == 2 and not deep:
        gray = np.ascontiguousarray(pixels)[:, :, None]
        return bytes(simplejpeg.encode_jpeg(gray, quality=quality, colorspace="GRAY"))
    if pixels.ndim == 2:
        colour = np.repeat(pixels[:, :, None], 3, axis=2)
    elif pixels.shape[2] == 3:
        colour = pixels
    else:
        alpha = pixels[:, :, 3:].astype(np.uint16)
        colour = (pixels[:, :, :3] * alpha // 255).astype(np.uint8)
    return bytes(
        simplejpeg.encode_jpeg(np.ascontiguousarray(colour), quality=quality, colorspace="RGB", colorsubsampling="420")
    )


def decode_jpeg(data: bytes | memoryview) -> NDArray[np.uint8]:
    """The gray levels [row, column] of a JPEG."""
    import simplejpeg

    decoded: NDArray[np.uint8] = simplejpeg.decode_jpeg(data, colorspace="GRAY")
    return decoded[:, :, 0]


def _eight_bits(pixels: Pixels) -> Pixels:
    return pixels if pixels.dtype == np.uint8 else (pixels >> 8).astype(np.uint8)


def _encode_with_pillow(pixels: Pixels, kind: str, **options: Any) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, format=kind, **options)
    return buffer.getvalue()


# -- rescaling


def rescale_average(image: Pixels, width: int, height: int) -> Pixels:
    """An image [row, column(, channel)] at another size: each new pixel is the mean of what it covers.

    Integers are averaged exactly and rounded down; floating point numbers are averaged as they are.
    """
    old_height, old_width = image.shape[:2]
    if (old_height, old_width) == (height, width):
        return image
    if image.dtype == np.uint64:
        # 64 bits times an area need more than 64: average the halves and carry the remainder of the upper one
        area = np.uint64(old_width * old_height)
        upper = _area_sums(image >> np.uint64(32), width, height)
        lower = _area_sums(image & np.uint64(0xFFFFFFFF), width, height)
        carried = (((upper % area) << np.uint64(32)) + lower) // area
        mean: Pixels = ((upper // area) << np.uint64(32)) + carried
        return mean
    if np.issubdtype(image.dtype, np.floating):
        averages: Pixels = _area_sums(image.astype(np.float64), width, height) / (old_width * old_height)
        return averages.astype(image.dtype)
    sums = _area_sums(image.astype(np.uint64), width, height)
    return (sums // np.uint64(old_width * old_height)).astype(image.dtype)


def rescale_nearest(image: Pixels, width: int, height: int) -> Pixels:
    """An image [row, column(, channel)] at another size, each new pixel being a copy of an old one: for labels."""
    old_height, old_width = image.shape[:2]
    rows = np.arange(height) * old_height // height
    columns = np.arange(width) * old_width // width
    scaled: Pixels = image[rows[:, None], columns[None, :]]
    return scaled


def _area_sums(image: Pixels, width: int, height: int) -> Pixels:
    """For each new pixel the sum of old pixels times overlap, where every new pixel has the area old width x height."""
    sums: Pixels = _overlap_sums(_overlap_sums(image, height).swapaxes(0, 1), width).swapaxes(0, 1)
    return sums


def _overlap_sums(rows: Pixels, count: int) -> Pixels:
    """`count` sums over the rows of an array [row, ...].

    On a ruler of length rows x count, old row i covers [i count, (i + 1) count) and new row j covers
    [j rows, (j + 1) rows); a sum has the overlaps as weights.
    """
    old = rows.shape[0]
    start = np.arange(count) * old
    first = start // count
    sums = np.zeros((count, *rows.shape[1:]), rows.dtype)
    for step in range(old // count + 2):
        source = np.minimum(first + step, old - 1)
        overlap = np.minimum((first + step + 1) * count, start + old) - np.maximum((first + step) * count, start)
        hit = (overlap > 0) & (first + step < old)
        weights = overlap[hit].astype(rows.dtype).reshape(-1, *(1,) * (rows.ndim - 1))
        sums[hit] += rows[source[hit]] * weights
    return sums
