"""Voxels of many label blocks at once: dense ones, row by row over neighbours, and single ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fascicle.formats.label_block import LabelBlock
from fascicle.kernels import label_points, label_rows, label_runs
from fascicle.kernels.arrays import address_of, frozen


@dataclass(frozen=True, slots=True)
class VoxelsByBlock:
    """Voxels sorted by the blocks that they lie in; those of blocks that have no code are left out."""

    codes: NDArray[np.uint64]
    """Of the blocks u64[b], ascending (`formats.block_code`)."""
    ends: NDArray[np.int64]
    """i64[b]: where the voxels of each block end."""
    places: NDArray[np.int64]
    """i64[k]: the place that each voxel had."""
    xyz: NDArray[np.int64]
    """i64[k,3]: x, y, z inside of the block."""

    @classmethod
    def of(cls, xyz: NDArray[np.int64], block_size_xyz: tuple[int, int, int]) -> VoxelsByBlock:
        """Of voxels i64[n,3] (x, y, z)."""
        return cls(*label_points.by_block(frozen(np.asarray(xyz, np.int64)), *block_size_xyz))

    def part(self, first: int, last: int) -> VoxelsByBlock:
        """Those of blocks `first` to `last`, without that one."""
        begin, end = int(self.ends[first - 1]) if first else 0, int(self.ends[last - 1])
        return VoxelsByBlock(
            self.codes[first:last], self.ends[first:last] - begin, self.places[begin:end], self.xyz[begin:end]
        )


_NOTHING = np.zeros(1, np.uint64)
_NO_BLOCK = (0, address_of(_NOTHING))
"""The addresses of a solid block of background."""


def labels_at(blocks: Sequence[LabelBlock | None], voxels: VoxelsByBlock, out: NDArray[np.uint64]) -> None:
    """Write the labels at voxels to their places in `out` u64; 0 where there is no block.

    All blocks have the same size. ValueError if they have not, or if a voxel lies outside of its block.
    """
    sizes = {(block.gx, block.gy, block.gz) for block in blocks if block is not None} or {(1, 1, 1)}
    if len(sizes) != 1 or len(voxels.codes) != len(blocks):
        raise ValueError(f"voxels of {len(voxels.codes)} blocks are not those of {len(blocks)} blocks of one size")
    (size,) = sizes
    addresses = np.array([_NO_BLOCK if block is None else block.addresses for block in blocks], np.int64)
    if len(blocks) and not label_points.labels_at(
        addresses, frozen(voxels.ends), *size, frozen(voxels.xyz), frozen(voxels.places), out
    ):
        raise ValueError("voxels are not inside of their block")


_FAR = 1 << 40
"""Beyond every voxel."""


def runs_of_layers(
    blocks: Sequence[LabelBlock],
    wanted: Sequence[NDArray[np.bool_]],
    corners_xyz: NDArray[np.int64],
    bounds: tuple[tuple[int, int, int], tuple[int, int, int]] | None = None,
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Maximal runs i32[k,4] (x, y, z, length) of chosen labels, and i64[l] where those of each layer of blocks end.

    `wanted` are the masks of the blocks' tables, `corners_xyz` i64[n,3] their first voxels, sorted by z, y, x. Blocks
    of one z are a layer, whose runs are sorted by z, y, x; they reach over blocks. `bounds` (x, y, z, inclusive) clip
    them. ValueError if blocks are not of one size, or masks or corners not theirs.
    """
    if not blocks:
        return np.empty((0, 4), np.int32), np.empty(0, np.int64)
    size = blocks[0].gx, blocks[0].gy, blocks[0].gz
    if any((block.gx, block.gy, block.gz) != size for block in blocks):
        raise ValueError("blocks are not all of one size")
    entries = [len(block.table) for block in blocks]
    if [len(mask) for mask in wanted] != entries or len(corners_xyz) != len(blocks):
        raise ValueError(f"masks and corners are not those of {len(blocks)} blocks")
    table = np.empty((len(blocks), 4), np.int64)
    table[:, 0] = [block.addresses[0] for block in blocks]
    table[:, 1] = [len(block.data) - block.start for block in blocks]
    table[:, 2] = entries
    table[:, 3] = np.cumsum(table[:, 2]) - table[:, 2]
    box = np.array([-_FAR] * 3 + [_FAR] * 3, np.int64)
    if bounds is not None:
        low, high = bounds
        box[:] = low[2], low[1], low[0], high[2] + 1, high[1] + 1, high[0] + 1
    chosen = frozen(np.concatenate(wanted).view(np.uint8))
    found, ends = label_runs.runs_of_layers(frozen(table), frozen(corners_xyz), *size, chosen, frozen(box))
    return found, ends


class LabelLayer:
    """Label blocks of one size that are neighbours in x and y.

    `columns_rows` are the x and y of each block, counted in blocks from the corner of a grid of
    `size_xy` blocks; where no block is given voxels are 0. Planes must be asked for in ascending order.

    >>> layer = LabelLayer([block], [(0, 0)], (1, 1), (8, 8, 8))
    >>> planes = np.empty((2, 64, 64), np.uint64)
    >>> layer.write(0, (0, 0), planes)
    """

    def __init__(
        self,
        blocks: Sequence[LabelBlock],
        columns_rows: Sequence[tuple[int, int]],
        size_xy: tuple[int, int],
        sub_blocks_xyz: tuple[int, int, int],
    ) -> None:
        gx, gy, gz = sub_blocks_xyz
        table = np.zeros((len(blocks), label_rows.COLUMNS), np.int64)
        for i, (block, (column, row)) in enumerate(zip(blocks, columns_rows, strict=True)):
            if (block.gx, block.gy, block.gz) != sub_blocks_xyz or not (
                0 <= column < size_xy[0] and 0 <= row < size_xy[1]
            ):
                raise ValueError(f"a block of {block.shape_zyx} at {column}, {row} is not of the grid")
            table[i, :4] = (*block.addresses, column * gx, row * gy)
        self._kept = list(blocks)  # whose memory the addresses are of
        self._blocks = table
        self._sub_blocks = sub_blocks_xyz
        self._cells = np.zeros((size_xy[1] * gy, size_xy[0] * gx, 3), np.int64)
        self._labels = np.empty(0, np.uint64)
        self._packed = np.empty(0, np.uint8)
        self._next = 0
        label_rows.begin(table, gx, gy, gz)

    def write(self, z: int, first_yx: tuple[int, int], out_zyx: NDArray[np.uint64]) -> None:
        """Write the box from plane `z` and voxel `first_yx` of the grid to `out_zyx` (u64[z,y,x], contiguous).

        Raises ValueError if the box is not inside of the grid, or begins in front of sub-blocks asked for before.
        """
        (y, x), (depth, height, width) = first_yx, out_zyx.shape
        rows, columns, _ = self._cells.shape
        if z < 0 or z + depth > 8 * self._sub_blocks[2] or y < 0 or x < 0:
            raise ValueError(f"planes {z} to {z + depth} from {first_yx} are not inside of the blocks")
        if y + height > 8 * rows or x + width > 8 * columns:
            raise ValueError(
                f"{height} rows of {width} from {first_yx} are not inside of {8 * rows} rows of {8 * columns}"
            )
        if out_zyx.dtype != np.uint64 or not out_zyx.flags.carray:
            raise ValueError("out_zyx must be writable, contiguous u64")
        address, plane_bytes = address_of(out_zyx), 8 * height * width
        for plane in range(z, z + depth):
            self._go_to(plane // 8)
            label_rows.write(self._cells, self._labels, self._packed, plane % 8, y, y + height, x, x + width, address)
            address += plane_bytes

    def _go_to(self, layer: int) -> None:
        """Take a layer of sub-blocks, if it is not the one that was taken last."""
        if layer == self._next - 1:
            return
        if layer < self._next:
            raise ValueError(f"layer {layer} of sub-blocks was passed by: {self._next} is the next")
        gx, gy, _ = self._sub_blocks
        for passed in range(self._next, layer):
            label_rows.skip(self._blocks, gx * gy, passed)
        labels, size = label_rows.measure(self._blocks, gx * gy, layer)
        if len(self._labels) < labels + 1:
            self._labels = np.empty(labels + labels // 4 + 1, np.uint64)
        if len(self._packed) < size + label_rows.ROOM_BYTES:
            self._packed = np.empty(size + size // 4 + label_rows.ROOM_BYTES, np.uint8)
        label_rows.take(self._blocks, gx, gy, layer, self._cells, self._labels, self._packed)
        self._next = layer + 1
