"""Reading boxes of image voxels from blocks.

Whole blocks are loaded many at a time. Where only part of a block is asked for, planes of blocks that are stored raw
are read alone, and blocks that had to be decoded stay in the cache, because a person who scrolls asks for the next
plane.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from fascicle.datatypes.image.block_cache import BlockCache
from fascicle.datatypes.image.blocks import (
    RAW,
    BlockLayout,
    Voxels,
    after_block_key,
    block_key,
    block_of_key,
    decode_block,
)
from fascicle.datatypes.voxel_requests import Triple, VolumeRequest
from fascicle.store.base import inline_value
from fascicle.versions.resolution import ENVELOPE_BYTES, VersionedView

BLOCKS = 20
"""The key class of image blocks."""
BATCH_BYTES = 16 << 20
"""About so much is loaded at once."""
SLAB_BYTES = 32 << 20
"""A streamed box comes in slabs of about this size."""

Located = tuple[Triple, bytes]
"""A block coordinate and the handle of the block's value."""


class BlockReader:
    """The blocks of one instance as seen at one version. Used by one thread."""

    def __init__(self, view: VersionedView, layout: BlockLayout, cache: BlockCache) -> None:
        self.view = view
        self.layout = layout
        self.cache = cache

    # -- blocks

    def row(self, start_xyz: Triple, last_x: int) -> Iterator[Located]:
        """The stored blocks from a coordinate along x, up to and including `last_x`."""
        _, y, z = start_xyz
        stop = after_block_key((last_x, y, z))
        for key, _, handle in self.view.scan(BLOCKS, block_key(start_xyz), stop):
            yield block_of_key(key), handle

    def located(self, first_xyz: Triple, last_xyz: Triple) -> Iterator[Located]:
        """The stored blocks of a box of blocks (inclusive), in the order z, y, x."""
        for z in range(first_xyz[2], last_xyz[2] + 1):
            for y in range(first_xyz[1], last_xyz[1] + 1):
                yield from self.row((first_xyz[0], y, z), last_xyz[0])

    def handle(self, block_xyz: Triple) -> bytes | None:
        return self.view.handle(BLOCKS, block_key(block_xyz))

    def stored(self, blocks: Sequence[Located]) -> Iterator[tuple[Triple, bytes, memoryview]]:
        """(coordinate, handle, stored form) of blocks, in their order; loads them many at a time."""
        per_batch = max(1, BATCH_BYTES // max(1, self.layout.block_bytes))
        for start in range(0, len(blocks), per_batch):
            part = blocks[start : start + per_batch]
            batch = self.view.txn.load_many([handle for _, handle in part])
            for i, (block, handle) in enumerate(part):
                yield block, handle, batch.value(i)[ENVELOPE_BYTES:]

    def decoded_row(self, start_xyz: Triple, last_x: int) -> Iterator[tuple[Triple, Voxels]]:
        """(coordinate, voxels) of the stored blocks of a row, in its order."""
        blocks = list(self.row(start_xyz, last_x))
        for block, _, stored in self.stored(blocks):
            yield block, decode_block(stored, self.layout)

    def voxels(self, handle: bytes) -> Voxels:
        """A whole block, from the cache if it is there; it is kept there."""
        found: Voxels | None = self.cache.get(handle)
        if found is None:
            found = decode_block(self.view.load(handle), self.layout)
            if inline_value(handle) is None:
                self.cache.put(handle, found, found.nbytes)
        return found

    # -- boxes

    def box(self, request: VolumeRequest) -> Voxels:
        """All voxels of a box: [z, y, x] or [z, y, x, channel]; the background where nothing is stored."""
        out = self.layout.background_array(request.shape_zyx)
        whole: list[Located] = []
        for block, handle in self.located(*request.blocks(self.layout.size_xyz)):
            inner, outer = self._overlap(block, request)
            asked = np.prod([part.stop - part.start for part in inner])
            if 2 * asked >= np.prod(self.layout.size_xyz):
                whole.append((block, handle))
            else:
                out[outer] = self._part(handle, inner)
        for block, voxels in self._decoded(whole):
            inner, outer = self._overlap(block, request)
            out[outer] = voxels[inner]
        return out

    def slabs(self, request: VolumeRequest) -> Iterator[Voxels]:
        """A box in pieces [z, y, x(, channel)] that follow each other along z.

        They end where blocks end, except where a layer of blocks would be larger than eight usual slabs.
        """
        (sx, sy, sz), (x, y, z) = request.size_xyz, request.offset_xyz
        depth = self.layout.size_xyz[2]
        plane_bytes = sx * sy * self.layout.bytes_per_voxel
        layers = max(1, SLAB_BYTES // (plane_bytes * depth))
        planes = layers * depth if plane_bytes * depth <= 8 * SLAB_BYTES else max(1, 8 * SLAB_BYTES // plane_bytes)
        start, end = z, z + sz
        while start < end:
            stop = (start // depth * depth) + planes if planes >= depth else min(start + planes, _next(start, depth))
            stop = min(stop, end)
            yield self.box(VolumeRequest((sx, sy, stop - start), (x, y, start)))
            start = stop

    def _decoded(self, blocks: Sequence[Located]) -> Iterator[tuple[Triple, Voxels]]:
        missing: list[Located] = []
        for block, handle in blocks:
            found: Voxels | None = self.cache.get(handle)
            if found is None:
                missing.append((block, handle))
            else:
                yield block, found
        for block, handle, stored in self.stored(missing):
            voxels = decode_block(stored, self.layout)
            if stored[0] != RAW and inline_value(handle) is None:
                self.cache.put(handle, voxels, voxels.nbytes)
            yield block, voxels

    def _part(self, handle: bytes, inner: tuple[slice, slice, slice]) -> Voxels:
        """Some of a block's voxels; `inner` are slices of [z, y, x]."""
        found: Voxels | None = self.cache.get(handle)
        if found is None and inline_value(handle) is None:
            planes, layout = inner[0], self.layout
            few = 8 * (planes.stop - planes.start) <= layout.size_xyz[2]
            if few and self._is_raw(handle):
                start = ENVELOPE_BYTES + 1 + planes.start * layout.plane_bytes
                stop = ENVELOPE_BYTES + 1 + planes.stop * layout.plane_bytes
                data = self.view.txn.load_part(handle, start, stop)
                return np.frombuffer(data, layout.dtype).reshape(-1, *layout.shape[1:])[(slice(None), *inner[1:])]
        return (self.voxels(handle) if found is None else found)[inner]

    def _is_raw(self, handle: bytes) -> bool:
        key = (handle, "raw")
        known: bool | None = self.cache.get(key)
        if known is None:
            known = self.view.txn.load_part(handle, 0, ENVELOPE_BYTES + 1)[-1] == RAW
            self.cache.put(key, known, 200)
        return known

    def _overlap(
        self, block: Triple, request: VolumeRequest
    ) -> tuple[tuple[slice, slice, slice], tuple[slice, slice, slice]]:
        """Slices [z, y, x] of what a block and a box share: within the block, and within the box."""
        inner, outer = [], []
        for axis in (2, 1, 0):
            size, offset = self.layout.size_xyz[axis], request.offset_xyz[axis]
            block_start = block[axis] * size
            start = max(block_start, offset)
            stop = min(block_start + size, offset + request.size_xyz[axis])
            inner.append(slice(start - block_start, stop - block_start))
            outer.append(slice(start - offset, stop - offset))
        return (inner[0], inner[1], inner[2]), (outer[0], outer[1], outer[2])


def _next(plane: int, depth: int) -> int:
    """The first plane of the next layer of blocks."""
    return (plane // depth + 1) * depth
