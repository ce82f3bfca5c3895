"""Changing parts of a label block without decoding the rest: splitting a label, replacing whole octants."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fascicle.formats.label_block import LabelBlock, encode, opened
from fascicle.kernels import sub_blocks
from fascicle.kernels.arrays import frozen, frozen_bytes

U64 = NDArray[np.uint64]

_NO_BYTES = frozen_bytes(b"")


def mask_of_runs(runs: NDArray[np.int32], block: LabelBlock, corner_xyz: tuple[int, int, int]) -> NDArray[np.bool_]:
    """A mask bool[z,y,x] of the runs i32[k,4], which must lie in the block whose first voxel is `corner_xyz`."""
    inside = np.zeros(block.shape_zyx, np.uint8)
    sub_blocks.fill_runs(inside, frozen(runs), *corner_xyz)
    return inside.view(np.bool_)


def split_label(
    block: LabelBlock, label: int, split: int, remain: int, inside_zyx: NDArray[np.bool_], voxels: NDArray[np.uint32]
) -> tuple[LabelBlock, NDArray[np.uint32], int, int]:
    """A block in which a label of its table has become `split` under a mask bool[z,y,x] and `remain` elsewhere.

    Neither of the new labels may be in the table; `voxels` u32[N] are those of its entries. Returns (block, voxels of
    its entries, voxels that are `split` now, voxels that are `remain` now).
    """
    position = int(np.flatnonzero(block.table == np.uint64(label))[0])
    changed, positions, moved, kept = sub_blocks.split_label(
        block.data,
        block.start,
        len(block.table),
        block.gx,
        block.gy,
        block.gz,
        position,
        frozen(inside_zyx.view(np.uint8)),
    )
    table = np.append(block.table, np.uint64(split))
    table[position] = remain
    counts = np.append(voxels, np.uint32(moved))
    counts[position] = kept
    nsb = block.gx * block.gy * block.gz
    data, used = sub_blocks.rebuild(
        block.data, block.start, len(block.table), nsb, frozen(changed), frozen(positions), frozen(table)
    )
    rebuilt = LabelBlock(block.gx, block.gy, block.gz, frozen(table[used]), frozen(data), 0)
    return rebuilt, counts[used], int(moved), int(kept)


def replace_octants(block: LabelBlock, octants: dict[int, U64]) -> LabelBlock:
    """A block with some of its octants replaced, given dense as u64[z,y,x] of half its sides.

    Octant (z & 1) * 4 + (y & 1) * 2 + (x & 1) is that of a block with such coordinates in the next finer scale.
    """
    half = block.gx // 2, block.gy // 2, block.gz // 2
    for octant, dense in octants.items():
        corner = (octant & 1) * half[0], (octant >> 1 & 1) * half[1], (octant >> 2) * half[2]
        block = _grafted(block, opened(encode(dense)), corner)
    return block


def _grafted(block: LabelBlock, part: LabelBlock, corner_xyz: tuple[int, int, int]) -> LabelBlock:
    """A block into which a smaller one was put; the corner counts sub-blocks."""
    order = np.argsort(block.table)
    places = np.minimum(np.searchsorted(block.table, part.table, sorter=order), len(order) - 1)
    positions = order[places]
    new = block.table[positions] != part.table
    positions[new] = len(block.table) + np.arange(np.count_nonzero(new))
    table = np.concatenate((block.table, part.table[new]))
    data, used = sub_blocks.graft(
        block.data,
        block.start,
        len(block.table),
        np.array((block.gx, block.gy, block.gz)),
        part.data,
        part.start,
        len(part.table),
        np.array((part.gx, part.gy, part.gz)),
        np.array(corner_xyz),
        positions,
        len(table),
    )
    return LabelBlock(block.gx, block.gy, block.gz, frozen(table[used]), frozen(data), 0)


def solid(gx: int, gy: int, gz: int, label: int = 0) -> LabelBlock:
    """A block of one label; sizes in sub-blocks."""
    return LabelBlock(gx, gy, gz, frozen(np.array([label], np.uint64)), _NO_BYTES, 0)
