"""Receiving voxels: dense volumes and streams of label blocks become stored blocks while they arrive.

A body is read and checked to its end before anything is written, so a malformed one changes nothing. What is kept of it
until then is the stored form, of which but a part lies in memory (`store.spool`).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray

from fascicle.datatypes.base import Call, Reply
from fascicle.datatypes.labelmap.block_writes import commit_blocks, side_by_side, stored_of
from fascicle.datatypes.labelmap.new_blocks import NewBlocks
from fascicle.datatypes.roi.option import region_of
from fascicle.datatypes.voxel_requests import (
    SliceRequest,
    Triple,
    VolumeRequest,
    check_alignment,
    check_payload,
    parse_request,
)
from fascicle.errors import BadRequest
from fascicle.formats import label_block, lz4_block
from fascicle.formats.block_code import block_code
from fascicle.formats.label_block import LabelBlock
from fascicle.kernels.arrays import Buffer, frozen_bytes
from fascicle.store.spool import Spool, fits_in_memory, gathered, mapped_array

U64 = NDArray[np.uint64]

_RECORD = struct.Struct("<iiiI")
_PIECE_BYTES = 1 << 20
UNPACKED_BYTES = 16 << 20
"""A slab that is no larger is unpacked in one piece and need not be copied together."""
_GZIP_ERROR: Any = isal_zlib.error


# -- dense volumes


def refuse_isotropic(call: Call) -> Reply:
    raise BadRequest("can only POST 'raw' not 'isotropic' images")


def post_raw(call: Call) -> Reply:
    """Store the supervoxels of a dense, block-aligned volume."""
    request = parse_request(call.keyword, call.args)
    if isinstance(request, SliceRequest):
        raise BadRequest("only 3-D volumes can be stored, not slices")
    x, y, z = call.instance.properties["BlockSize"]
    size = (x, y, z)
    check_alignment(request, size)
    check_payload(request, 8)
    region = region_of(call)
    inside = None if region is None else region.block_mask(request.offset_xyz, request.size_xyz, size)
    low, high = request.blocks(size)
    block_code(*low)
    block_code(*high)
    new = NewBlocks(Spool(call.store.path))
    pieces = _dense_pieces(call, request, 8 * request.size_xyz[0] * request.size_xyz[1] * size[2])
    for code, (stored, opened) in side_by_side(_encoded, _dense_blocks(request, size, pieces, inside, call.store.path)):
        new.add(code, stored, opened)
    return commit_blocks(call, new, size, downres=True)


def _encoded(item: tuple[int, U64]) -> tuple[int, tuple[bytes, LabelBlock]]:
    return item[0], stored_of(item[1])


def _dense_pieces(call: Call, request: VolumeRequest, slab_bytes: int) -> Iterable[Buffer]:
    """The bytes of the dense volume, whatever they came packed in; if possible in pieces of the size of a slab."""
    compression = call.query.get("compression", "")
    if compression in ("", "none"):
        return call.pieces()
    if compression == "gzip":
        return _inflated(call.pieces())
    if compression == "lz4":
        packed = gathered(call.pieces(), call.store.path)
        return lz4_block.decompress_stream(packed, 8 * request.voxels, min(slab_bytes, UNPACKED_BYTES))
    raise BadRequest(f'unknown compression type "{compression}": it can be none, lz4 or gzip')


def _inflated(pieces: Iterable[bytes]) -> Iterator[bytes]:
    inflater = isal_zlib.decompressobj(31)
    try:
        for piece in pieces:
            part = inflater.decompress(piece, _PIECE_BYTES)
            while part:
                yield part
                part = inflater.decompress(inflater.unconsumed_tail, _PIECE_BYTES)
    except _GZIP_ERROR as error:
        raise BadRequest(f"the body is not a gzip stream: {error}") from None
    if not inflater.eof:
        raise BadRequest("the body ends before its gzip stream does")


def _dense_blocks(
    request: VolumeRequest,
    size: Triple,
    pieces: Iterable[Buffer],
    inside: NDArray[np.bool_] | None,
    folder: Path | None,
) -> Iterator[tuple[int, U64]]:
    """(code, dense block u64[z,y,x]) of a volume whose bytes arrive in pieces; of those `inside` [z,y,x], if given."""
    bx, by, bz = size
    sx, sy, _ = request.size_xyz
    (x0, y0, z0), (x1, y1, z1) = request.blocks(size)
    filling = _Slabs(pieces, 8 * sx * sy * bz, folder)
    for z in range(z0, z1 + 1):
        slab = filling.next(request).view("<u8").reshape(bz, sy, sx)
        for y in range(y0, y1 + 1):
            for x in range(x0, x1 + 1):
                if inside is not None and not inside[z - z0, y - y0, x - x0]:
                    continue
                part = slab[:, (y - y0) * by : (y - y0 + 1) * by, (x - x0) * bx : (x - x0 + 1) * bx]
                yield block_code(x, y, z), part
    filling.finish(request)


class _Slabs:
    """Cuts a stream of bytes into arrays of one size; large ones are mapped from unnamed files."""

    def __init__(self, pieces: Iterable[Buffer], slab_bytes: int, folder: Path | None) -> None:
        self._folder = folder
        self._pieces = iter(pieces)
        self._slab_bytes = slab_bytes
        self._left = memoryview(b"")
        self._received = 0

    def _piece(self) -> memoryview | None:
        piece = next(self._pieces, None)
        if piece is None:
            return None
        self._received += len(piece)
        return memoryview(frozen_bytes(piece).data)

    def _wrong(self, request: VolumeRequest) -> BadRequest:
        return BadRequest(f"voxels data was {self._received} bytes, expected {8 * request.voxels} bytes for {request}")

    def next(self, request: VolumeRequest) -> NDArray[np.uint8]:
        if not self._left:
            self._left = self._piece() or self._left
        if len(self._left) >= self._slab_bytes:
            slab = np.frombuffer(self._left[: self._slab_bytes], np.uint8)
            self._left = self._left[self._slab_bytes :]
            return slab
        slab = self._empty()
        filled = 0
        while filled < self._slab_bytes:
            if not self._left:
                piece = self._piece()
                if piece is None:
                    raise self._wrong(request)
                self._left = piece
            part = self._left[: self._slab_bytes - filled]
            slab[filled : filled + len(part)] = part
            filled += len(part)
            self._left = self._left[len(part) :]
        return slab

    def _empty(self) -> NDArray[np.uint8]:
        if fits_in_memory(self._slab_bytes):
            return np.empty(self._slab_bytes, np.uint8)
        return mapped_array(self._slab_bytes, self._folder)

    def finish(self, request: VolumeRequest) -> None:
        """Raise BadRequest if more came than expected."""
        over = len(self._left)
        while (piece := self._piece()) is not None:
            over += len(piece)
        if over:
            raise self._wrong(request)


# -- streams of label blocks


def post_blocks(call: Call) -> Reply:
    """Store label blocks of one scale; at scale 0 the index follows, and on request the scales above."""
    scale = _scale(call)
    downres, indexing = call.flag("downres"), not call.flag("noindexing")
    if downres and scale != 0:
        raise BadRequest(f"downres=true is only for blocks of scale 0, not of scale {scale}")
    compression = call.query.get("compression", "")
    if compression not in ("", "blocks"):
        raise BadRequest(f'compression must be "blocks" in a POST of blocks, not "{compression}"')
    new, size = _received(call)
    return commit_blocks(call, new, size, scale=scale, downres=downres, indexing=indexing)


def post_ingest(call: Call) -> Reply:
    """Store label blocks of one scale, and nothing else."""
    scale = _scale(call)
    new, size = _received(call)
    return commit_blocks(call, new, size, scale=scale, plain=True)


def _scale(call: Call) -> int:
    scale = call.integer("scale", 0)
    top = int(call.instance.properties.get("MaxDownresLevel", 0))
    if not 0 <= scale <= 255:
        raise BadRequest(f"scale must be a number from 0 to 255 (the instance's highest is {top}), not {scale}")
    return scale


def _received(call: Call) -> tuple[NewBlocks, Triple]:
    """The blocks of a body, checked and in stored form."""
    x, y, z = call.instance.properties["BlockSize"]
    size = (x, y, z)
    voxels = x * y * z
    # no label block of this size needs more: every voxel with a label of its own
    limit = 16 + 8 * voxels + 2 * (voxels // 512) + 4 * voxels + 576 * (voxels // 512) + 1024

    def admitted(record: tuple[int, bytes]) -> tuple[int, bytes, LabelBlock]:
        code, payload = record
        normal, counts = label_block.admit(_gunzipped(payload, limit), size)
        opened = label_block.opened(normal)
        return code, label_block.split(opened, counts), opened

    new = NewBlocks(Spool(call.store.path))
    for code, stored, opened in side_by_side(admitted, _records(call.pieces(), limit)):
        new.add(code, stored, opened)
    return new, size


def _gunzipped(payload: bytes, limit: int) -> bytes:
    inflater = isal_zlib.decompressobj(31)
    try:
        data: bytes = inflater.decompress(payload, limit)
    except _GZIP_ERROR as error:
        raise BadRequest(f"a block's payload is not a gzip stream: {error}") from None
    if not inflater.eof:
        raise BadRequest(f"a block's gzip stream is cut off, or larger than the {limit} bytes that a block can have")
    return data


def _records(pieces: Iterable[bytes], limit: int) -> Iterator[tuple[int, bytes]]:
    """(code, payload) of the records of a block stream. Raises BadRequest where it is malformed."""
    pending = bytearray()
    at = 0
    number = 0
    for piece in pieces:
        if at:
            del pending[:at]
            at = 0
        pending += piece
        while len(pending) - at >= _RECORD.size:
            x, y, z, size = _RECORD.unpack_from(pending, at)
            if size == 0 or size > limit:
                raise BadRequest(
                    f"record {number} of the block stream, for block ({x},{y},{z}), has {size} bytes: "
                    f"it must have 1 to {limit}"
                )
            if len(pending) - at < _RECORD.size + size:
                break
            yield block_code(x, y, z), bytes(memoryview(pending)[at + _RECORD.size : at + _RECORD.size + size])
            at += _RECORD.size + size
            number += 1
    if at < len(pending):
        raise BadRequest(f"record {number} of the block stream is cut off after {len(pending) - at} bytes")


