"""Image blocks: their keys, their stored form, and the framed form in which clients get them.

A block's type key is z, y, x in block units, each as a big-endian u32 biased by 2^31, so keys sort like [z, y, x]. A
stored value is one byte that names its coding and the coded voxels, which are [z, y, x(, channel)], little-endian:

* `RAW`: the voxels. Chosen also where LZ4 would save less than 15 %, because then one plane can be read alone;
* `LZ4`: one LZ4 block without a size;
* `GZIP`: a gzip stream (RFC 1952);
* `JPEG`: a gray JPEG, the block's planes below each other.

What clients get in block streams depends on the instance's compression, not on the stored coding. An LZ4 or snappy
stream of incompressible voxels is made without compressing: both formats can say "so many bytes follow as they are".
LZ4 after lz4_Block_format.md, snappy after format_description.txt of their projects.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import lz4.block
import numpy as np
from isal import igzip, igzip_lib, isal_zlib
from numpy.typing import NDArray

from fascicle.datatypes.slice_images import DEFAULT_QUALITY, decode_jpeg, encode_jpeg
from fascicle.datatypes.voxel_requests import Triple
from fascicle.errors import BadRequest, CorruptionError
from fascicle.versions import keys

Voxels = NDArray[Any]

RAW, LZ4, GZIP, JPEG = range(4)
WORTH_COMPRESSING = 0.85
"""An LZ4 block is kept if it has less than this part of the voxels' size."""

SAMPLES, SAMPLE_BYTES = 8, 4096
NOISE = 0.93
"""If samples of a block do not get smaller than this, the block would not get smaller than `WORTH_COMPRESSING`."""

_KEY = struct.Struct(">III")
_BIAS = 1 << 31
_HEADER = struct.Struct("<iiii")


def block_key(block_xyz: Sequence[int]) -> bytes:
    """The type key of a block coordinate."""
    x, y, z = block_xyz
    return _KEY.pack(z + _BIAS, y + _BIAS, x + _BIAS)


def block_of_key(key: bytes) -> Triple:
    """The block coordinate x, y, z of a type key."""
    z, y, x = _KEY.unpack(key)
    return x - _BIAS, y - _BIAS, z - _BIAS


def after_block_key(block_xyz: Sequence[int]) -> bytes:
    """The end (exclusive) of a range of keys whose last block is this one, at whatever version."""
    return keys.after(block_key(block_xyz))


@dataclass(frozen=True)
class BlockLayout:
    """The voxels of one instance's blocks.

    `dtype` is little-endian; `channels` is 1, or 4 for colours. Arrays of one channel have no channel axis.
    """

    size_xyz: Triple
    dtype: np.dtype[Any]
    channels: int = 1
    background: int = 0
    compression: str = "lz4"

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Of a block's array: [z, y, x] or [z, y, x, channel]."""
        x, y, z = self.size_xyz
        return self.array_shape((z, y, x))

    def array_shape(self, shape_zyx: Sequence[int]) -> tuple[int, ...]:
        """The shape of an array of so many voxels."""
        return (*shape_zyx,) if self.channels == 1 else (*shape_zyx, self.channels)

    @cached_property
    def bytes_per_voxel(self) -> int:
        return self.dtype.itemsize * self.channels

    @cached_property
    def block_bytes(self) -> int:
        x, y, z = self.size_xyz
        return x * y * z * self.bytes_per_voxel

    @cached_property
    def plane_bytes(self) -> int:
        """Of one z-plane of a block."""
        return self.block_bytes // self.size_xyz[2]

    @property
    def can_be_jpeg(self) -> bool:
        return self.bytes_per_voxel == 1

    def background_array(self, shape_zyx: Sequence[int]) -> Voxels:
        """Voxels as they are where nothing is stored."""
        shape = self.array_shape(shape_zyx)
        return np.full(shape, self.background, self.dtype) if self.background else np.zeros(shape, self.dtype)

    def array(self, data: bytes | memoryview | NDArray[np.uint8]) -> Voxels:
        """A block's voxels as an array, which shares memory with them."""
        return np.frombuffer(data, self.dtype).reshape(self.shape)


# -- stored form


def encode_block(voxels: Voxels, layout: BlockLayout) -> bytes:
    """The stored form of a block's contiguous array."""
    method, _, level = layout.compression.partition(":")
    data = voxels.data.cast("B") if voxels.flags.c_contiguous else voxels.tobytes()
    if method == "jpeg":
        return bytes((JPEG,)) + block_jpeg(voxels, int(level or DEFAULT_QUALITY), accurate=True)
    if method == "gzip":
        return bytes((GZIP,)) + igzip.compress(data, 1 if level == "1" else 2, mtime=0)
    if method != "none" and not _is_noise(data):
        packed: bytes = lz4.block.compress(data, store_size=False)
        if len(packed) < WORTH_COMPRESSING * len(data):
            return bytes((LZ4,)) + packed
    return b"".join((bytes((RAW,)), data))


def _is_noise(data: bytes | memoryview) -> bool:
    """Whether samples from all over a large block hardly compress, so that it is not worth trying the whole."""
    if len(data) < 4 * SAMPLES * SAMPLE_BYTES:
        return False
    step = (len(data) - SAMPLE_BYTES) // (SAMPLES - 1)
    packed = sum(
        len(lz4.block.compress(data[at : at + SAMPLE_BYTES], store_size=False))
        for at in range(0, SAMPLES * step, step)
    )
    return packed > NOISE * SAMPLES * SAMPLE_BYTES


def decode_block(stored: bytes | memoryview, layout: BlockLayout) -> Voxels:
    """The array of a stored block; may share memory with `stored`. Raises CorruptionError if it is damaged."""
    coding = stored[0]
    payload = memoryview(stored)[1:]
    try:
        if coding == RAW:
            return layout.array(payload)
        if coding == LZ4:
            return layout.array(lz4.block.decompress(payload, uncompressed_size=layout.block_bytes))
        if coding == GZIP:
            return layout.array(isal_zlib.decompress(payload, wbits=31))
        if coding == JPEG:
            return decode_jpeg(payload).reshape(layout.shape)
    except (ValueError, OSError, EOFError, lz4.block.LZ4BlockError, igzip_lib.error) as error:  # type: ignore[misc]
        raise CorruptionError(f"a stored image block cannot be decoded: {error}") from None
    raise CorruptionError(f"a stored image block has the unknown coding {coding}")


def block_jpeg(voxels: Voxels, quality: int = DEFAULT_QUALITY, accurate: bool = False) -> bytes:
    """A volume [z, y, x(, channel)] as one JPEG: as wide as x, the planes below each other."""
    return encode_jpeg(voxels.reshape(-1, *voxels.shape[2:]), quality, accurate)


# -- framed form

AS_STORED, UNCOMPRESSED, AS_JPEG = "", "uncompressed", "jpeg"


def check_framing(framing: str) -> str:
    """The `compression` option of a block stream; BadRequest for unknown ones."""
    if framing not in (AS_STORED, UNCOMPRESSED, AS_JPEG):
        raise BadRequest(f"don't understand 'compression' query string value: {framing}")
    return framing


def record_header(block_xyz: Triple, payload_bytes: int) -> bytes:
    """The 16 bytes before a block's payload in a stream: x, y, z and the payload's size, int32 little-endian."""
    return _HEADER.pack(*block_xyz, payload_bytes)


def framed_payload(stored: memoryview, framing: str, layout: BlockLayout) -> list[bytes | memoryview]:
    """The payload of a block in a stream, as parts to be sent one after another."""
    coding, payload = stored[0], stored[1:]
    if framing == AS_JPEG:
        return [payload if coding == JPEG else block_jpeg(decode_block(stored, layout))]
    method = layout.compression.partition(":")[0]
    if framing == AS_STORED:
        if method == "jpeg":
            return [payload if coding == JPEG else block_jpeg(decode_block(stored, layout))]
        if method == "gzip" and coding == GZIP:
            return [payload]
        if method == "lz4" and coding == LZ4:
            return [struct.pack("<I", layout.block_bytes), payload]
    voxels = payload if coding == RAW else decode_block(stored, layout).data.cast("B")
    if framing == AS_STORED:
        if method == "lz4":
            return [struct.pack("<I", layout.block_bytes), lz4_literals(layout.block_bytes), voxels]
        if method == "gzip":
            return [igzip.compress(voxels, 1, mtime=0)]
        if method == "snappy":
            return [snappy_literal(layout.block_bytes), voxels]
    return [voxels]


def holds_gray_jpeg(data: bytes, layout: BlockLayout) -> bool:
    """Whether a JPEG has one component and as many pixels as a block has voxels (ITU T.81, annex B)."""
    at = 2
    while at + 9 < len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width, components = struct.unpack_from(">HHB", data, at + 5)
            return bool(components == 1 and height * width == layout.block_bytes)
        at += 1 if marker == 0xFF else 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return False


def lz4_literals(size: int) -> bytes:
    """What precedes `size` literal bytes to make one whole LZ4 block of them."""
    if size < 15:
        return bytes((size << 4,))
    more, rest = divmod(size - 15, 255)
    return b"".join((b"\xf0", b"\xff" * more, bytes((rest,))))


def snappy_literal(size: int) -> bytes:
    """What precedes `size` literal bytes to make one whole snappy block of them."""
    preamble, left = bytearray(), size
    while left >= 0x80:
        preamble.append(left & 0x7F | 0x80)
        left >>= 7
    preamble.append(left)
    if size:
        preamble += b"\xfc" + struct.pack("<I", size - 1)
    return bytes(preamble)
