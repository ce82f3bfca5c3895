"""Neuroglancer's compressed segmentation: one channel of u64 labels, blocks of 8x8x8 voxels.

Source: Neuroglancer `src/sliceview/compressed_segmentation/README.md`; DVID's `compression=google` is the same with
one channel.
In 32-bit words: 0: the offset of the channel, 1. Then, counted from the start of the channel, per block (x fastest)
two words: offset of its table in the low 24 bits, bits per value (0, 1, 2, 4, 8, 16) above; offset of its values.
Values are packed least significant bit first, x fastest; tables hold u64 labels.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from fascicle.errors import BadRequest
from fascicle.formats.label_block import Block, opened
from fascicle.kernels import segmentation_codec
from fascicle.kernels.arrays import Buffer, frozen, frozen_bytes

_CHANNEL = b"\1\0\0\0"


class _Scratch(threading.local):
    """Room for words, kept by each thread: memory that is new costs more to touch than to fill."""

    def __init__(self) -> None:
        self._words = np.empty(0, np.uint32)

    def words(self, count: int) -> NDArray[np.uint32]:
        if count > KEPT_WORDS:
            return np.empty(count, np.uint32)
        if self._words.size < count:
            self._words = np.empty(count, np.uint32)
        return self._words


KEPT_WORDS = 1 << 20
_scratch = _Scratch()


def encode(volume_zyx: NDArray[np.uint64]) -> bytes:
    """Dense labels u64[z,y,x], sides multiples of 8; each block has its own table, labels by first appearance."""
    return encode_slabs([volume_zyx], volume_zyx.shape)


def encode_slabs(slabs: Iterable[NDArray[np.uint64]], shape_zyx: tuple[int, ...]) -> bytes:
    """As `encode`, of a volume that comes in slabs u64[z,y,x] along z, of any thickness."""
    if len(shape_zyx) != 3 or any(side % 8 or side < 8 for side in shape_zyx):
        raise BadRequest(f"compressed segmentation needs multiples of 8, not {tuple(shape_zyx)} (z, y, x) voxels")
    per_layer = shape_zyx[1] * shape_zyx[2] // 64
    blocks = per_layer * (shape_zyx[0] // 8)
    headers = np.empty(2 * blocks, np.uint32)
    parts = []
    base, first = 2 * blocks, 0
    pending: list[NDArray[np.uint64]] = []
    scratch = np.empty(0, np.uint32)
    for slab in slabs:
        pending.append(slab)
        thickness = sum(len(part) for part in pending)
        if thickness < 8:
            continue
        layers = pending[0] if len(pending) == 1 else np.concatenate(pending)
        whole = thickness - thickness % 8
        pending = [layers[whole:]] if whole < thickness else []
        for z in range(0, whole, 8):
            if scratch.size == 0:
                scratch = np.empty(per_layer * segmentation_codec.MOST_WORDS, np.uint32)
            words = segmentation_codec.encode_slab(frozen(layers[z : z + 8]), base, headers, first, scratch)
            if words < 0:
                raise BadRequest(f"{tuple(shape_zyx)} voxels have too many labels for compressed segmentation")
            parts.append(scratch[:words].tobytes())
            base += words
            first += per_layer
    if first != blocks or pending:
        raise ValueError(f"the slabs do not make up a volume of {tuple(shape_zyx)}")
    return b"".join((_CHANNEL, headers.tobytes(), *parts))


def from_label_block(block: Block, table: NDArray[np.uint64] | None = None) -> bytes:
    """A label block, seen through `table` (u64[N]) if given, made from its own tables without expanding it."""
    parts = opened(block)
    labels = parts.table if table is None else frozen(table)
    if len(labels) != len(parts.table):
        raise ValueError(f"table has {len(labels)} entries, the block {len(parts.table)}")
    blocks = parts.gx * parts.gy * parts.gz
    headers = np.empty(2 * blocks, np.uint32)
    out = _scratch.words(blocks * segmentation_codec.MOST_WORDS)
    words = segmentation_codec.transcode(
        parts.data, parts.start, labels, parts.gx, parts.gy, parts.gz, 2 * blocks, headers, out
    )
    if words < 0:
        raise BadRequest("the block has too many labels for compressed segmentation")
    return b"".join((_CHANNEL, headers.tobytes(), out[:words].tobytes()))


def decode(data: Buffer, shape_zyx: tuple[int, int, int]) -> NDArray[np.uint64]:
    """The dense labels u64[z,y,x] of a volume of known shape, sides multiples of 8; BadRequest if it is malformed."""
    view = frozen_bytes(data)
    out = np.empty(shape_zyx, np.uint64)
    if view.size < 4 or view.size % 4 or int(view[:4].view("<u4")[0]) != 1:
        raise BadRequest(f"{view.size} bytes are not a compressed segmentation of one channel")
    if any(side % 8 for side in shape_zyx) or not segmentation_codec.decode(frozen(view[4:].view("<u4")), out):
        raise BadRequest(f"{view.size} bytes are not a compressed segmentation of {shape_zyx} (z, y, x) voxels")
    return out
