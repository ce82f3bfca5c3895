"""Chunks of precomputed volumes: raw, JPEG, PNG and compressed segmentation, in both directions.

Source: https://github.com/google/neuroglancer/blob/master/src/datasource/precomputed/volume.md and, beside it,
`src/sliceview/compressed_segmentation/README.md`.
Arrays are [channel, z, y, x] in C order, which is the order of raw chunks. An image holds the voxels of a chunk row by
row, whatever its width; its components are the channels. Compressed segmentation holds one channel after the other.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from fascicle.errors import BadRequest
from fascicle.kernels.arrays import Buffer, frozen, frozen_bytes

Array = NDArray[Any]
Shape = tuple[int, ...]
"""Channels, then voxels along z, y, x."""
Triple = tuple[int, int, int]
SEGMENTATION = "compressed_segmentation"
JPEG_QUALITY = 75
PNG_LEVEL = 6
LABELS = (np.dtype("u4"), np.dtype("u8"))
_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_PNG_END = b"IEND\xaeB`\x82"
_PNG_COMPONENTS = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}
_JPEG_COMPONENTS = {"Gray": 1, "YCbCr": 3, "RGB": 3}


def decode(data: Buffer, encoding: str, shape: Shape, dtype: np.dtype[Any], block_xyz: Triple = (8, 8, 8)) -> Array:
    """The voxels [channel, z, y, x] of a chunk, maybe read-only; BadRequest if it is not a chunk of this shape."""
    if encoding not in _DECODERS:
        raise BadRequest(f"the encoding {encoding!r} is none of {', '.join(_DECODERS)}")
    return _DECODERS[encoding](data, shape, dtype, block_xyz)


def decode_into(
    data: Buffer, encoding: str, out: Array, channel: int, channels: int, block_xyz: Triple = (8, 8, 8)
) -> None:
    """As `decode`, of one channel into `out` [z, y, x], a part of a larger array maybe, whose rows are contiguous."""
    if encoding == SEGMENTATION and out.dtype in LABELS:
        _decode_channel(data, channel, channels, out, block_xyz)
    else:
        out[...] = decode(data, encoding, (channels, *out.shape), out.dtype, block_xyz)[channel]


def encode(voxels: Array, encoding: str, block_xyz: Triple = (8, 8, 8), level: int | None = None) -> bytes:
    """A chunk from voxels [channel, z, y, x]; `level` is the quality of a JPEG or the effort (0 to 9) for a PNG.

    BadRequest if the encoding cannot hold them.
    """
    if encoding == "raw":
        return np.ascontiguousarray(voxels, voxels.dtype.newbyteorder("<")).tobytes()
    if encoding == "compressed_segmentation":
        return encode_segmentation(voxels, block_xyz)
    if encoding == "jpeg":
        return _encode_jpeg(voxels, JPEG_QUALITY if level is None else level)
    if encoding == "png":
        return _encode_png(voxels, PNG_LEVEL if level is None else level)
    raise BadRequest(f"the encoding {encoding!r} is none of {', '.join(_DECODERS)}")


def check_ends(data: Buffer, encoding: str, shape: Shape, dtype: np.dtype[Any]) -> None:
    """BadRequest if bytes are no whole chunk, as far as their length and their ends tell; pixels are not decoded."""
    if not len(data):
        raise BadRequest("a chunk has no bytes")
    if encoding == "raw":
        _check_raw(data, shape, dtype)
    elif encoding == "jpeg":
        _jpeg_components(data, shape)
        if b"\xff\xd9" not in bytes(data[-256:]):
            raise BadRequest(f"a JPEG of {len(data)} bytes has no end")
    elif encoding == "png" and (bytes(data[:8]) != _PNG_MAGIC or _PNG_END not in bytes(data[-256:])):
        raise BadRequest(f"{len(data)} bytes are not a whole PNG")
    elif encoding == SEGMENTATION:
        _segmentation_words(data, shape[0])


# -- raw


def _decode_raw(data: Buffer, shape: Shape, dtype: np.dtype[Any], block_xyz: Triple) -> Array:
    _check_raw(data, shape, dtype)
    return np.frombuffer(data, dtype.newbyteorder("<")).astype(dtype, copy=False).reshape(shape)


def _check_raw(data: Buffer, shape: Shape, dtype: np.dtype[Any]) -> None:
    expected = math.prod(shape) * dtype.itemsize
    if len(data) != expected:
        raise BadRequest(f"a raw chunk has {len(data)} bytes instead of {expected}")


# -- images


def _decode_jpeg(data: Buffer, shape: Shape, dtype: np.dtype[Any], block_xyz: Triple) -> Array:
    if dtype != np.uint8:
        raise BadRequest(f"a JPEG chunk cannot hold {dtype.name}")
    components = _jpeg_components(data, shape)
    try:
        pixels = simplejpeg.decode_jpeg(data, colorspace="GRAY" if components == 1 else "RGB", strict=True)
    except ValueError as error:
        raise BadRequest(f"a JPEG chunk is damaged: {error}") from None
    return _planar(pixels, shape)


def _jpeg_components(data: Buffer, shape: Shape) -> int:
    """How many components a JPEG has; BadRequest unless its header fits a chunk."""
    try:
        height, width, space, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError as error:
        raise BadRequest(f"a chunk is not a JPEG: {error}") from None
    components = _JPEG_COMPONENTS.get(space, 0)
    _check_image("JPEG", width, height, components, shape)
    return components


def _encode_jpeg(voxels: Array, quality: int) -> bytes:
    if voxels.dtype != np.uint8 or voxels.shape[0] not in (1, 3):
        raise BadRequest(f"a JPEG cannot hold {voxels.shape[0]} channels of {voxels.dtype.name}")
    pixels = _interleaved(voxels)
    if max(pixels.shape[:2]) > 65535:
        raise BadRequest(f"{pixels.shape[1]} x {pixels.shape[0]} pixels are too many for a JPEG")
    space, subsampling = ("GRAY", "Gray") if voxels.shape[0] == 1 else ("RGB", "444")
    return bytes(simplejpeg.encode_jpeg(pixels, quality=quality, colorspace=space, colorsubsampling=subsampling))


def _decode_png(data: Buffer, shape: Shape, dtype: np.dtype[Any], block_xyz: Triple) -> Array:
    head = bytes(data[:33])
    if len(head) < 33 or head[:8] != _PNG_MAGIC or head[12:16] != b"IHDR":
        raise BadRequest("a chunk is not a PNG")
    width, height = int.from_bytes(head[16:20], "big"), int.from_bytes(head[20:24], "big")
    depth, components = head[24], _PNG_COMPONENTS.get(head[25], 0)
    _check_image("PNG", width, height, components, shape)
    if max(depth, 8) != 8 * dtype.itemsize or dtype.kind != "u":
        raise BadRequest(f"a PNG chunk of {depth} bits is not one of {dtype.name}")
    pixels = _wide_png(data) if depth == 16 and components > 1 else _pillow_png(data, components, depth)
    return _planar(pixels.astype(dtype, copy=False), shape)


def _pillow_png(data: Buffer, components: int, depth: int) -> Array:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(bytes(data)), formats=("PNG",)) as picture:
            mode = "I;16" if depth == 16 else ("L", "LA", "RGB", "RGBA")[components - 1]
            return np.asarray(picture if picture.mode == mode else picture.convert(mode))
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise BadRequest(f"a PNG chunk is damaged: {error}") from None


def _wide_png(data: Buffer) -> Array:
    """Several components of 16 bits, which Pillow would cut to 8."""
    try:
        from imagecodecs import png_decode
    except ImportError:
        raise BadRequest(
            "PNG chunks of several channels of uint16 need the package imagecodecs: pip install 'fascicle[ingest]'"
        ) from None
    try:
        return np.asarray(png_decode(bytes(data)))
    except Exception as error:
        raise BadRequest(f"a PNG chunk is damaged: {error}") from None


def _encode_png(voxels: Array, level: int) -> bytes:
    channels = voxels.shape[0]
    pixels = _interleaved(voxels)
    if voxels.dtype == np.uint8 and 1 <= channels <= 4:
        from PIL import Image

        out = io.BytesIO()
        Image.fromarray(pixels[:, :, 0] if channels == 1 else pixels).save(out, "PNG", compress_level=level)
        return out.getvalue()
    if voxels.dtype == np.uint16 and 1 <= channels <= 4:
        return _png16(pixels, level)
    raise BadRequest(f"a PNG cannot hold {channels} channels of {voxels.dtype.name}")


def _png16(pixels: Array, level: int) -> bytes:
    """A PNG of 16 bits per component from u16[height, width, components], each row less the one above it."""
    import struct
    import zlib

    height, width, components = pixels.shape
    rows = np.ascontiguousarray(pixels, ">u2").view(np.uint8).reshape(height, -1)
    filtered = np.empty((height, rows.shape[1] + 1), np.uint8)
    filtered[:, 0] = 2
    filtered[:, 1:] = rows
    filtered[1:, 1:] -= rows[:-1]
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[components]
    header = struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0)
    parts = [_PNG_MAGIC]
    for kind, body in ((b"IHDR", header), (b"IDAT", zlib.compress(filtered.tobytes(), level)), (b"IEND", b"")):
        parts += [struct.pack(">I", len(body)), kind, body, struct.pack(">I", zlib.crc32(kind + body))]
    return b"".join(parts)


def _check_image(kind: str, width: int, height: int, components: int, shape: Shape) -> None:
    if components != shape[0]:
        raise BadRequest(f"a {kind} chunk has {components} components instead of {shape[0]}")
    if width * height != math.prod(shape[1:]):
        raise BadRequest(f"a {kind} chunk of {width} x {height} pixels does not hold {math.prod(shape[1:])} voxels")


def _planar(pixels: Array, shape: Shape) -> Array:
    """Pixels [height, width] or [height, width, components] as [channel, z, y, x]."""
    if shape[0] == 1:
        return pixels.reshape(shape)
    return np.ascontiguousarray(pixels.reshape(-1, shape[0]).T).reshape(shape)


def _interleaved(voxels: Array) -> Array:
    """Voxels [channel, z, y, x] as pixels [z * y, x, channel]."""
    channels, depth, height, width = voxels.shape
    return np.ascontiguousarray(voxels.transpose(1, 2, 3, 0)).reshape(depth * height, width, channels)


# -- compressed segmentation


def _decode_segmentation(data: Buffer, shape: Shape, dtype: np.dtype[Any], block_xyz: Triple) -> Array:
    if dtype not in LABELS:
        raise BadRequest(f"compressed segmentation cannot hold {dtype.name}")
    out = np.empty(shape, dtype)
    for channel in range(shape[0]):
        _decode_channel(data, channel, shape[0], out[channel], block_xyz)
    return out


def _segmentation_words(data: Buffer, channels: int) -> NDArray[np.uint32]:
    view = frozen_bytes(data)
    if view.size % 4 or view.size < 4 * channels:
        raise BadRequest(f"{view.size} bytes are not a compressed segmentation of {channels} channels")
    return frozen(view.view("<u4"))


def segmentation_channel(data: Buffer, channel: int, channels: int) -> NDArray[np.uint32]:
    """The words u32 of one channel of a compressed segmentation, in which its offsets count; BadRequest."""
    words = _segmentation_words(data, channels)
    start = int(words[channel])
    if start < channels or start >= words.size:
        raise BadRequest(f"channel {channel} of a compressed segmentation is said to begin at word {start}")
    return words[start:]


def _decode_channel(data: Buffer, channel: int, channels: int, out: Array, block_xyz: Triple) -> None:
    from fascicle.kernels import segmentation_chunks

    words = segmentation_channel(data, channel, channels)
    x, y, z = block_xyz
    if not segmentation_chunks.decode(words, z, y, x, out, out.dtype.itemsize == 8):
        raise BadRequest(f"{words.nbytes} bytes are not a compressed segmentation of {out.shape} (z, y, x) voxels")


def encode_segmentation(voxels: Array, block_xyz: Triple = (8, 8, 8)) -> bytes:
    """Labels u32 or u64 [channel, z, y, x]; sorted tables, equal ones written once per channel.

    BadRequest if they need a table beyond the reach of the format's 24 bits.
    """
    from fascicle.kernels import segmentation_chunks

    if voxels.dtype not in LABELS:
        raise BadRequest(f"compressed segmentation cannot hold {voxels.dtype.name}")
    wide = voxels.dtype.itemsize == 8
    x, y, z = block_xyz
    parts: list[bytes] = []
    starts = np.empty(voxels.shape[0], "<u4")
    at = voxels.shape[0]
    blocks = math.prod(-(-size // edge) for size, edge in zip(voxels.shape[1:], (z, y, x), strict=True))
    for channel, labels in enumerate(voxels):
        room = 2 * blocks + max(1 << 12, labels.size // 4)
        while True:
            out = np.empty(room, np.uint32)
            words = segmentation_chunks.encode(frozen(labels), z, y, x, out, wide)
            if words != -2:
                break
            room *= 2
        if words < 0:
            raise BadRequest(f"{voxels.shape[1:]} voxels (z, y, x) have too many labels for compressed segmentation")
        starts[channel] = at
        at += words
        parts.append(out[:words].astype("<u4", copy=False).tobytes())
    return b"".join((starts.tobytes(), *parts))


_DECODERS: dict[str, Callable[[Buffer, Shape, np.dtype[Any], Triple], Array]] = {
    "raw": _decode_raw,
    "jpeg": _decode_jpeg,
    "png": _decode_png,
    "compressed_segmentation": _decode_segmentation,
}
