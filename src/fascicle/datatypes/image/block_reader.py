"""Reading boxes of image voxels from blocks.

Whole blocks are loaded many at a time. Where only part of a block is asked for, planes of blocks that are stored raw
are read alone, and blocks that had to be decoded stay in the cache, because a person who scrolls asks for the next
plane.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from fascicle.datatypes.image.block_cache import BlockCache
from fascicle.datatypes.image.block_source import BlockSource, Located
from fascicle.datatypes.image.blocks import RAW, BlockLayout, Voxels, decode_block
from fascicle.datatypes.voxel_requests import Triple, VolumeRequest

SLAB_BYTES = 4 << 20
"""A streamed box comes in slabs of about this size, or in layers of blocks if these are larger ..."""
LAYER_BYTES = 32 << 20
"""... but in slabs of this size at most."""

class BlockReader:
    """The blocks of one instance as seen at one version. Used by one thread."""

    def __init__(self, source: BlockSource, layout: BlockLayout, cache: BlockCache) -> None:
        self.source = source
        self.layout = layout
        self.cache = cache

    # -- blocks

    def decoded_row(self, start_xyz: Triple, last_x: int) -> Iterator[tuple[Triple, Voxels]]:
        """(coordinate, voxels) of the blocks of a row that there are, in its order."""
        _, y, z = start_xyz
        blocks = list(self.source.located(start_xyz, (last_x, y, z)))
        for block, _, stored in self.source.stored(blocks):
            yield block, decode_block(stored, self.layout)

    def voxels(self, name: bytes) -> Voxels:
        """A whole block, from the cache if it is there; it is kept there."""
        found: Voxels | None = self.cache.get(name)
        if found is None:
            found = decode_block(self.source.load(name), self.layout)
            if self.source.is_kept(name):
                self.cache.put(name, found, found.nbytes)
        return found

    # -- boxes

    def within(self, request: VolumeRequest) -> list[Located]:
        """The blocks that there are and that a box touches, in the order z, y, x."""
        return list(self.source.located(*request.blocks(self.layout.size_xyz)))

    def box(self, request: VolumeRequest, blocks: Sequence[Located] | None = None) -> Voxels:
        """All voxels of a box: [z, y, x] or [z, y, x, channel]; the background where nothing is stored.

        `blocks` are those `within` the box, if they are known.
        """
        layout = self.layout
        first, last = request.blocks(layout.size_xyz)
        if blocks is None:
            blocks = self.within(request)
        if len(blocks) == math.prod(b - a + 1 for a, b in zip(first, last, strict=True)):
            out = np.empty(layout.array_shape(request.shape_zyx), layout.dtype)
        else:
            out = layout.background_array(request.shape_zyx)
        columns, rows, planes = (self._spans(request, axis, first[axis], last[axis]) for axis in range(3))
        whole: list[Located] = []
        for block, handle in blocks:
            inner_z, outer_z = planes[block[2]]
            inner_y, outer_y = rows[block[1]]
            inner_x, outer_x = columns[block[0]]
            if inner_z.stop - inner_z.start == layout.size_xyz[2] and self._is_most(inner_y, inner_x):
                whole.append((block, handle))
            else:
                out[outer_z, outer_y, outer_x] = self._part(handle, inner_z, inner_y, inner_x)
        for block, voxels in self._decoded(whole):
            inner_z, outer_z = planes[block[2]]
            inner_y, outer_y = rows[block[1]]
            inner_x, outer_x = columns[block[0]]
            out[outer_z, outer_y, outer_x] = voxels[inner_z, inner_y, inner_x]
        return out

    def slabs(self, request: VolumeRequest) -> Iterator[Voxels]:
        """A box in pieces [z, y, x(, channel)] that follow each other along z.

        They end where blocks end, except where a layer of blocks is too large to be held.
        """
        (sx, sy, sz), (x, y, z) = request.size_xyz, request.offset_xyz
        depth = self.layout.size_xyz[2]
        plane_bytes = sx * sy * self.layout.bytes_per_voxel
        planes = max(1, SLAB_BYTES // (plane_bytes * depth)) * depth
        if plane_bytes * depth > LAYER_BYTES:
            planes = max(1, LAYER_BYTES // plane_bytes)
        start, end = z, z + sz
        while start < end:
            stop = (start // depth * depth) + planes if planes >= depth else min(start + planes, _next(start, depth))
            stop = min(stop, end)
            yield self.box(VolumeRequest((sx, sy, stop - start), (x, y, start)))
            start = stop

    def _spans(self, request: VolumeRequest, axis: int, first: int, last: int) -> dict[int, tuple[slice, slice]]:
        """For the blocks of one axis, what they share with a box: slices within the block, and within the box."""
        size, offset = self.layout.size_xyz[axis], request.offset_xyz[axis]
        end = offset + request.size_xyz[axis]
        spans = {}
        for block in range(first, last + 1):
            start, stop = max(block * size, offset), min((block + 1) * size, end)
            spans[block] = slice(start - block * size, stop - block * size), slice(start - offset, stop - offset)
        return spans

    def _is_most(self, rows: slice, columns: slice) -> bool:
        """Whether slices of y and x are at least half of a block's plane."""
        x, y, _ = self.layout.size_xyz
        asked: int = (rows.stop - rows.start) * (columns.stop - columns.start)
        return 2 * asked >= x * y

    def _decoded(self, blocks: Sequence[Located]) -> Iterator[tuple[Triple, Voxels]]:
        missing: list[Located] = []
        for block, handle in blocks:
            found: Voxels | None = self.cache.get(handle)
            if found is None:
                missing.append((block, handle))
            else:
                yield block, found
        for block, handle, stored in self.source.stored(missing):
            voxels = decode_block(stored, self.layout)
            if stored[0] != RAW and self.source.is_kept(handle):
                self.cache.put(handle, voxels, voxels.nbytes)
            yield block, voxels

    def _part(self, name: bytes, planes: slice, rows: slice, columns: slice) -> Voxels:
        """Some of a block's voxels, by slices of z, y and x."""
        layout = self.layout
        thin = planes.stop - planes.start < layout.size_xyz[2] and self._is_most(rows, columns)
        if thin and self._is_raw(name):
            data = self.source.part(name, 1 + planes.start * layout.plane_bytes, 1 + planes.stop * layout.plane_bytes)
            return np.frombuffer(data, layout.dtype).reshape(-1, *layout.shape[1:])[:, rows, columns]
        return self.voxels(name)[planes, rows, columns]

    def _is_raw(self, name: bytes) -> bool:
        """Whether planes of a block can be read alone."""
        known = self.cache.raw.get(name)
        if known is not None:
            return known
        is_raw = self.source.first_byte(name) == RAW
        self.cache.remember_raw(name, is_raw)
        return is_raw


def _next(plane: int, depth: int) -> int:
    """The first plane of the next layer of blocks."""
    return (plane // depth + 1) * depth
