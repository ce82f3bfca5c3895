"""Changing parts of a label block without decoding the rest: splitting a label, following blocks of the finer scale."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fascicle.formats import downres
from fascicle.formats.label_block import LabelBlock
from fascicle.kernels import sub_blocks
from fascicle.kernels.arrays import frozen, frozen_bytes

Mask = NDArray[np.bool_]
Chosen = NDArray[np.int64]
"""Numbers of sub-blocks, x fastest."""

NOTHING_KNOWN: Mapping[int, Chosen] = MappingProxyType({})

_NO_BYTES = frozen_bytes(b"")
_KEPT_BYTES = 4 << 20
_kept = threading.local()


def _scratch(name: str, shape: tuple[int, ...], dtype: type[np.generic]) -> NDArray[Any]:
    """An array of the thread's own for a purpose, with anything in it: the first touch of new memory costs more."""
    array: NDArray[Any] | None = getattr(_kept, name, None)
    if array is None or array.shape != shape:
        array = np.empty(shape, dtype)
        setattr(_kept, name, array if array.nbytes <= _KEPT_BYTES else None)
    return array


def mask_of_runs(runs: NDArray[np.int32], block: LabelBlock, corner_xyz: tuple[int, int, int]) -> NDArray[np.bool_]:
    """A mask bool[z,y,x] of the runs i32[k,4], which must lie in the block whose first voxel is `corner_xyz`.

    It is good until the thread asks for the next one.
    """
    inside = _scratch("inside", block.shape_zyx, np.uint8)
    inside.fill(0)
    sub_blocks.fill_runs(inside, frozen(runs), *corner_xyz)
    return inside.view(np.bool_)


def having(block: LabelBlock, entry: int) -> Chosen:
    """The sub-blocks i64[k] that have a label of the table, ascending."""
    found: Chosen = sub_blocks.having(
        block.data, block.start, len(block.table), block.gx * block.gy * block.gz, entry
    )
    return found


def split_label(
    block: LabelBlock, entry: int, split: int, remain: int, inside_zyx: Mask, voxels: NDArray[np.uint32]
) -> tuple[LabelBlock, NDArray[np.uint32], int, int, Chosen]:
    """A block in which the label of a table's entry has become `split` under a mask bool[z,y,x] and `remain` elsewhere.

    Neither of the new labels may be in the table; `voxels` u32[N] are those of its entries. Returns (block, voxels of
    its entries, voxels that are `split` now, voxels that are `remain` now, the sub-blocks i64[k] that had the label).
    """
    nsb = block.gx * block.gy * block.gz
    positions = _scratch("positions", (nsb, 512), np.uint32)
    changed, moved, kept = sub_blocks.split_label(
        block.data,
        block.start,
        len(block.table),
        block.gx,
        block.gy,
        block.gz,
        entry,
        frozen(inside_zyx.view(np.uint8)),
        positions,
    )
    n = len(block.table)
    table, counts = np.empty(n + 1, np.uint64), np.empty(n + 1, np.uint32)
    table[:n], counts[:n] = block.table, voxels
    table[n], table[entry] = split, remain
    counts[n], counts[entry] = moved, kept
    data, used = sub_blocks.rebuild(
        block.data, block.start, n, nsb, frozen(changed), frozen(positions), frozen(table)
    )
    rebuilt = LabelBlock(block.gx, block.gy, block.gz, frozen(table[used]), frozen(data), 0)
    return rebuilt, counts[used], int(moved), int(kept), changed


def follow(
    block: LabelBlock,
    voxels: NDArray[np.uint32],
    children: Mapping[int, LabelBlock],
    changed_in: Mapping[int, Chosen] = NOTHING_KNOWN,
) -> tuple[LabelBlock, NDArray[np.uint32], Chosen]:
    """A block after blocks of the finer scale have changed; `voxels` u32[N] are those of its table's entries.

    `children` has some of its octants. Octant (z & 1) * 4 + (y & 1) * 2 + (x & 1) is that of a child with such block
    coordinates. All blocks have the same size, an even number of sub-blocks per axis. Those octants that were equal to
    the half of a child before only some of its sub-blocks i64[k] changed may be in `changed_in`: then only these are
    halved. Returns (block, voxels of its entries, sub-blocks i64[k] that may have changed).
    """
    gx, gy, gz = block.gx, block.gy, block.gz
    # Halves are made by the labels' ranks, not by positions: the rule for equal numbers of voxels needs their order.
    tables = [child.table for child in children.values()]
    table, entries, ranks = sub_blocks.join_tables(block.table, frozen(np.concatenate(tables)))
    table, entries, ranks = frozen(table), frozen(entries), frozen(ranks)
    ends = np.cumsum([len(finer) for finer in tables]).tolist()
    ranks_of = {o: ranks[end - len(f) : end] for o, f, end in zip(children, tables, ends, strict=True)}
    nsb = gx * gy * gz
    whole = [octant for octant in children if octant not in changed_in]
    changed = np.empty(nsb, np.int64)
    positions = _scratch("positions", (nsb, 512), np.uint32)
    counts = np.zeros(len(table), np.int64)
    n = len(block.table)
    counts[:n] = voxels
    used = 0
    if whole:
        dense = _scratch("half", (4 * gz, 4 * gy, 4 * gx), np.uint64)
        for octant in whole:
            downres.halve_into(children[octant].with_table(ranks_of[octant]), dense)
            used = sub_blocks.gather(frozen(dense), entries, gx, gy, _corner(octant, block), changed, positions, used)
        counts[:n] -= sub_blocks.count_in(block.data, block.start, n, nsb, frozen(changed[:used]))
        counts += np.bincount(positions[:used].reshape(-1), minlength=len(table))
    for octant, chosen in changed_in.items():
        child = children[octant]
        used = sub_blocks.follow_chosen(
            block.data,
            block.start,
            n,
            gx,
            gy,
            gz,
            child.data,
            child.start,
            ranks_of[octant],
            frozen(chosen),
            _corner(octant, block),
            entries,
            changed,
            positions,
            used,
            counts,
        )
    changed = changed[:used]
    if not used:
        return block, voxels, changed
    data, kept = sub_blocks.rebuild(
        block.data, block.start, n, nsb, frozen(changed), frozen(positions), table
    )
    after = LabelBlock(gx, gy, gz, frozen(table[kept]), frozen(data), 0)
    return after, counts[kept].astype(np.uint32), changed


def _corner(octant: int, block: LabelBlock) -> NDArray[np.int64]:
    """Where an octant begins, x, y, z in sub-blocks."""
    sides = block.gx // 2, block.gy // 2, block.gz // 2
    return np.array([(octant >> axis & 1) * side for axis, side in enumerate(sides)], np.int64)


def solid(gx: int, gy: int, gz: int, label: int = 0) -> LabelBlock:
    """A block of one label; sizes in sub-blocks."""
    return LabelBlock(gx, gy, gz, frozen(np.array([label], np.uint64)), _NO_BYTES, 0)
