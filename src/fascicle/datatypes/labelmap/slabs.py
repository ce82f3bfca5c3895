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
from fascicle.formats import label_block
from fascicle.formats.block_code import block_xyz
from fascicle.formats.label_block import LabelBlock
from fascicle.versions.resolution import VersionedView

U64 = NDArray[np.uint64]

SLAB_BYTES = 16 << 20
"""A slab is made thinner than a row of sub-blocks where it would be larger than this."""
CACHED_BYTES = 4 << 20
"""Slabs of whole rows of sub-blocks have about this size at most, so that they are still cached when they are sent."""
KEPT_BLOCKS = 4096
"""A layer of more blocks is inflated again for each of its slabs rather than kept."""


def mapped(opened: list[LabelBlock], mapping: Mapping | None) -> list[LabelBlock]:
    """Blocks with bodies in their tables; as they are without a mapping."""
    if mapping is None or not opened:
        return opened
    sizes = [len(block.table) for block in opened]
    bodies = mapping.bodies(np.concatenate([block.table for block in opened]))
    ends = np.cumsum(sizes).tolist()
    return [
        block.with_table(bodies[end - size : end]) for block, size, end in zip(opened, sizes, ends, strict=True)
    ]


@dataclass(slots=True)
class _Row:
    """Stored blocks that lie beside each other along x."""

    y: int
    """In blocks."""
    corners_x: list[int]
    handles: list[bytes]
    opened: list[LabelBlock] | None = None


def _rows(view: VersionedView, scale: int, low_xyz: Triple, high_xyz: Triple, width: int) -> list[_Row]:
    """The rows of one layer of blocks of `width` voxels, ascending; those without blocks are left out."""
    rows: list[_Row] = []
    for codes, handles in blocks.scan_box(view, scale, low_xyz, high_xyz):
        for (x, y, _), handle in zip(block_xyz(codes).tolist(), handles, strict=True):
            if not rows or rows[-1].y != y:
                rows.append(_Row(y, [], []))
            rows[-1].corners_x.append(x * width)
            rows[-1].handles.append(handle)
    return rows


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
    thickness = max(1, SLAB_BYTES // (8 * sx * sy))
    if thickness >= 8:
        thickness = min(bz, max(8, CACHED_BYTES // (8 * sx * sy) // 8 * 8))
    ranges = [(y0, y0 + sy)]
    if 8 * sx * sy > SLAB_BYTES and not whole_planes:
        ranges = [(max(y0, y * by), min(y0 + sy, (y + 1) * by)) for y in range(first_y, last_y + 1)]
    for layer in range(first_z, last_z + 1):
        rows = _rows(view, scale, (first_x, first_y, layer), (last_x, last_y, layer), bx)
        kept = sum(len(row.handles) for row in rows) <= KEPT_BLOCKS
        z, end = max(z0, layer * bz), min(z0 + sz, (layer + 1) * bz)
        while z < end:
            depth = min(thickness - (z - layer * bz) % thickness, end - z)
            for low, high in ranges:
                covering = [row for row in rows if row.y * by < high and (row.y + 1) * by > low]
                some = sum(len(row.handles) for row in covering)
                full = (last_x - first_x + 1) * ((high - 1) // by - low // by + 1)
                slab = (np.empty if some == full else np.zeros)((depth, high - low, sx), np.uint64)
                for row in covering:
                    opened = row.opened
                    if opened is None:
                        opened = mapped(blocks.open_blocks(view, row.handles, cache), mapping)
                        row.opened = opened if kept else None
                    ay, ey = max(row.y * by, low), min((row.y + 1) * by, high)
                    for cx, block in zip(row.corners_x, opened, strict=True):
                        ax, ex = max(cx, x0), min(cx + bx, x0 + sx)
                        part = slab[:, ay - low : ey - low, ax - x0 : ex - x0]
                        label_block.decode_into(block, part, (z - layer * bz, ay - row.y * by, ax - cx))
                yield slab
            z += depth


def volume(
    view: VersionedView, scale: int, box: VolumeRequest, block_size_xyz: Triple, mapping: Mapping | None
) -> U64:
    """The labels u64[z,y,x] of a box, all at once: for small ones."""
    out = np.empty(box.shape_zyx, np.uint64)
    z = 0
    for slab in slabs(view, scale, box, block_size_xyz, mapping, whole_planes=True):
        out[z : z + len(slab)] = slab
        z += len(slab)
    return out
