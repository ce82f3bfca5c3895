"""Dense volumes of labels, made slab by slab so that memory does not grow with the request."""

from __future__ import annotations

from collections.abc import Iterator

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
"""A slab is made thinner than a block where it would be larger than this."""


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


def slabs(
    view: VersionedView,
    scale: int,
    box: VolumeRequest,
    block_size_xyz: Triple,
    mapping: Mapping | None,
    cache: BlockCache | None = None,
) -> Iterator[U64]:
    """The labels u64[z,y,x] of a box in slabs along z; voxels of blocks that are not stored are 0.

    Slabs end where blocks end, or are thinner. With `mapping` labels are bodies, else supervoxels.
    """
    bx, by, bz = block_size_xyz
    x0, y0, z0 = box.offset_xyz
    sx, sy, sz = box.size_xyz
    (first_x, first_y, first_z), (last_x, last_y, last_z) = box.blocks(block_size_xyz)
    thickness = max(1, SLAB_BYTES // (8 * sx * sy))
    thickness = min(bz, thickness - thickness % 8 if thickness >= 8 else thickness)
    full = (last_x - first_x + 1) * (last_y - first_y + 1)
    for layer in range(first_z, last_z + 1):
        corners: list[NDArray[np.int64]] = []
        found: list[LabelBlock] = []
        for codes, handles in blocks.scan_box(view, scale, (first_x, first_y, layer), (last_x, last_y, layer)):
            found += mapped(blocks.open_blocks(view, handles, cache), mapping)
            corners.append(block_xyz(codes) * block_size_xyz)
        places = np.concatenate(corners).tolist() if corners else []
        z, end = max(z0, layer * bz), min(z0 + sz, (layer + 1) * bz)
        while z < end:
            depth = min(thickness - (z - layer * bz) % thickness, end - z)
            slab = (np.empty if len(found) == full else np.zeros)((depth, sy, sx), np.uint64)
            for (cx, cy, cz), block in zip(places, found, strict=True):
                ax, ay = max(cx, x0), max(cy, y0)
                ex, ey = min(cx + bx, x0 + sx), min(cy + by, y0 + sy)
                part = slab[:, ay - y0 : ey - y0, ax - x0 : ex - x0]
                label_block.decode_into(block, part, (z - cz, ay - cy, ax - cx))
            yield slab
            z += depth


def volume(
    view: VersionedView, scale: int, box: VolumeRequest, block_size_xyz: Triple, mapping: Mapping | None
) -> U64:
    """The labels u64[z,y,x] of a box, all at once: for small ones."""
    out = np.empty(box.shape_zyx, np.uint64)
    z = 0
    for slab in slabs(view, scale, box, block_size_xyz, mapping):
        out[z : z + len(slab)] = slab
        z += len(slab)
    return out
