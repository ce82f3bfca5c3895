"""Dense volumes of labels, made slab by slab so that memory does not grow with the request."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fascicle.datatypes.image.block_cache import BlockCache
from fascicle.datatypes.labelmap import blocks
from fascicle.datatypes.labelmap.mapping import Mapping
from fascicle.datatypes.voxel_requests import Triple, VolumeRequest
from fascicle.formats.block_code import block_xyz
from fascicle.formats.label_block import LabelBlock
from fascicle.formats.label_layer import LabelLayer
from fascicle.versions.resolution import VersionedView

U64 = NDArray[np.uint64]

SLAB_BYTES = 16 << 20
"""Slabs of whole planes have about this size at most, or are one plane."""
CACHED_BYTES = 1 << 20
"""Other pieces have about this size at most, so that they are still in a core's own cache when they are compressed or
sent."""
KEPT_BLOCKS = 4096
"""A layer of more blocks is inflated again for each of its slabs rather than kept."""


def mapped(opened: list[LabelBlock], mapping: Mapping | None) -> list[LabelBlock]:
    """Blocks with bodies in their tables; as they are without a mapping."""
    if mapping is None or not opened:
        return opened
    sizes = [len(block.table) for block in opened]
    bodies = mapping.bodies(np.concatenate([block.table for block in opened]))
    ends = np.cumsum(sizes).tolist()
    return [block.with_table(bodies[end - size : end]) for block, size, end in zip(opened, sizes, ends, strict=True)]


@dataclass(slots=True)
class _Stored:
    """The stored blocks of one layer of a box."""

    view: VersionedView
    mapping: Mapping | None
    cache: BlockCache | None
    size_xyz: Triple
    columns: int
    """How many blocks the box reaches over along x, stored or not."""
    places: list[tuple[int, int]]
    """Column and row of each stored block, counted from the first of the box; by row, then column."""
    handles: list[bytes]

    def rows(self, first: int, last: int) -> LabelLayer:
        """Rows of blocks `first` to `last`, inflated."""
        chosen = [i for i, (_, row) in enumerate(self.places) if first <= row <= last]
        opened = blocks.open_blocks(self.view, [self.handles[i] for i in chosen], self.cache)
        bx, by, bz = self.size_xyz
        return LabelLayer(
            mapped(opened, self.mapping),
            [(self.places[i][0], self.places[i][1] - first) for i in chosen],
            (self.columns, last - first + 1),
            (bx // 8, by // 8, bz // 8),
        )


def _stored(
    view: VersionedView,
    scale: int,
    low_xyz: Triple,
    high_xyz: Triple,
    size_xyz: Triple,
    mapping: Mapping | None,
    cache: BlockCache | None,
) -> _Stored:
    places: list[tuple[int, int]] = []
    handles: list[bytes] = []
    for codes, some in blocks.scan_box(view, scale, low_xyz, high_xyz):
        places += [(x - low_xyz[0], y - low_xyz[1]) for x, y, _ in block_xyz(codes).tolist()]
        handles += some
    return _Stored(view, mapping, cache, size_xyz, high_xyz[0] - low_xyz[0] + 1, places, handles)


def slabs(
    view: VersionedView,
    scale: int,
    box: VolumeRequest,
    block_size_xyz: Triple,
    mapping: Mapping | None,
    cache: BlockCache | None = None,
    whole_planes: bool = False,
) -> Iterator[U64]:
    """The labels u64[z,y,x] of a box, one piece after the other; voxels of blocks that are not stored are 0.

    A piece is a slab along z, which ends where blocks end or is thinner, or a part of a plane where planes are large,
    unless `whole_planes`. With `mapping` labels are bodies, else supervoxels.
    """
    bx, by, bz = block_size_xyz
    x0, y0, z0 = box.offset_xyz
    sx, sy, sz = box.size_xyz
    (first_x, first_y, first_z), (last_x, last_y, last_z) = box.blocks(block_size_xyz)
    shift_x, shift_y = x0 - first_x * bx, y0 - first_y * by
    thickness = max(1, (SLAB_BYTES if whole_planes else CACHED_BYTES) // (8 * sx * sy))
    height = sy if whole_planes else min(sy, max(8, CACHED_BYTES // (8 * sx) // 8 * 8))
    for layer in range(first_z, last_z + 1):
        stored = _stored(
            view, scale, (first_x, first_y, layer), (last_x, last_y, layer), block_size_xyz, mapping, cache
        )
        kept = stored.rows(0, last_y - first_y) if len(stored.handles) <= KEPT_BLOCKS else None
        z, end = max(z0, layer * bz), min(z0 + sz, (layer + 1) * bz)
        while z < end:
            depth = min(thickness if kept is not None or whole_planes else 1, end - z)
            if kept is not None:
                for y in range(0, sy, height):
                    slab = np.empty((depth, min(height, sy - y), sx), np.uint64)
                    kept.write(z - layer * bz, (shift_y + y, shift_x), slab)
                    yield slab
            else:
                yield from _by_rows(stored, z - layer * bz, depth, (shift_y, shift_x), (sy, sx), whole_planes)
            z += depth


def _by_rows(
    stored: _Stored, z: int, depth: int, first_yx: tuple[int, int], size_yx: tuple[int, int], whole_planes: bool
) -> Iterator[U64]:
    """Planes of a layer of too many blocks to keep: one row of blocks after the other is inflated."""
    by = stored.size_xyz[1]
    (first_y, first_x), (sy, sx) = first_yx, size_yx
    plane = np.empty((depth, sy, sx), np.uint64) if whole_planes else None
    for row in range(first_y // by, (first_y + sy - 1) // by + 1):
        low, high = max(row * by, first_y), min((row + 1) * by, first_y + sy)
        part = np.empty((depth, high - low, sx), np.uint64)
        stored.rows(row, row).write(z, (low - row * by, first_x), part)
        if plane is None:
            yield part
        else:
            plane[:, low - first_y : high - first_y] = part
    if plane is not None:
        yield plane


def volume(view: VersionedView, scale: int, box: VolumeRequest, block_size_xyz: Triple, mapping: Mapping | None) -> U64:
    """The labels u64[z,y,x] of a box, all at once: for small ones."""
    out = np.empty(box.shape_zyx, np.uint64)
    z = 0
    for slab in slabs(view, scale, box, block_size_xyz, mapping, whole_planes=True):
        out[z : z + len(slab)] = slab
        z += len(slab)
    return out
