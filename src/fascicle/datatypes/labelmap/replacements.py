"""Supervoxels replaced by two in stored blocks: voxels under some runs become the one, the others the other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from fascicle.datatypes.labelmap import block_writes, blocks
from fascicle.datatypes.labelmap.bodies import Rows
from fascicle.datatypes.labelmap.new_blocks import Edited, NewBlocks
from fascicle.datatypes.labelmap.split_runs import Runs, RunsByBlock
from fascicle.formats import label_block, sub_blocks
from fascicle.formats.block_code import xyz_of_code
from fascicle.formats.label_block import LabelBlock
from fascicle.versions.resolution import VersionedView

GROUP_BLOCKS = 8
"""Blocks that a thread works on before it looks for more."""

U64 = NDArray[np.uint64]
Triple = tuple[int, int, int]


def corner_of(code: int, size_xyz: Triple) -> Triple:
    """The first voxel of a block."""
    x, y, z = xyz_of_code(code)
    return x * size_xyz[0], y * size_xyz[1], z * size_xyz[2]


def stored_blocks(view: VersionedView, codes: U64) -> Iterator[tuple[int, bytes]]:
    """(code, stored block) of those blocks of scale 0 that are stored, ascending."""
    places, handles = blocks.find_blocks(view, 0, codes)
    for begin in range(0, len(handles), blocks.BATCH_BLOCKS):
        batch = blocks.load_blocks(view, handles[begin : begin + blocks.BATCH_BLOCKS])
        for i, place in enumerate(places[begin : begin + blocks.BATCH_BLOCKS].tolist()):
            yield int(codes[place]), bytes(batch.value(i))


@dataclass(frozen=True, slots=True)
class Replacement:
    """A supervoxel and the two that take its place: `split` under the runs, `remain` elsewhere."""

    supervoxel: int
    split: int
    remain: int


@dataclass(slots=True, eq=False)
class BlockChanges:
    """New blocks, and the index rows of the new supervoxels."""

    new: NewBlocks
    rows: dict[int, Rows]
    """By replaced supervoxel."""
    split_voxels: dict[int, int]
    """By replaced supervoxel."""
    levels: block_writes.Plan


@dataclass(slots=True)
class _Opened:
    """A stored block on its way to another, taken apart."""

    stored: bytes
    block: LabelBlock
    voxels: NDArray[np.uint32]
    """Of the entries of its table."""
    mark: int
    """Of the block as it was."""
    changed: list[sub_blocks.Chosen] = field(default_factory=list)

    @classmethod
    def of(cls, stored: bytes) -> _Opened:
        return cls(stored, *label_block.opened_to_edit(stored))

    @property
    def edited(self) -> Edited:
        return Edited(self.changed[0] if len(self.changed) == 1 else np.unique(np.concatenate(self.changed)), self.mark)

    def rename(self, replacement: Replacement, at: int) -> int:
        """Let `remain` stand for the supervoxel, entry `at` of the table; its voxels. Only the table changes."""
        self.changed.append(sub_blocks.having(self.block, at))
        table = self.block.table.copy()
        table[at] = replacement.remain
        self.block = self.block.with_table(table)
        renamed = bytearray(self.stored)
        place = label_block.STORED_TABLE_AT + 8 * at
        renamed[place : place + 8] = replacement.remain.to_bytes(8, "little")
        self.stored = bytes(renamed)
        return int(self.voxels[at])

    def split(self, replacement: Replacement, at: int, inside: Runs, corner: Triple) -> tuple[int, int]:
        """Replace a supervoxel, entry `at` of the table, by two; the voxels of either."""
        self.block, self.voxels, split, remain, changed = sub_blocks.split_label(
            self.block,
            at,
            replacement.split,
            replacement.remain,
            sub_blocks.mask_of_runs(inside, self.block, corner),
            self.voxels,
        )
        self.stored = label_block.split(self.block, self.voxels)
        self.changed.append(changed)
        return split, remain


Counted = list[tuple[Replacement, int, int]]
"""Replacements in a block, and the voxels that have become `split` and `remain`."""


def _replace_in_block(
    stored: bytes, replacements: list[Replacement], inside: Runs, corner: Triple
) -> tuple[_Opened, Counted] | None:
    """The block with those of the supervoxels replaced that it has; None if it has none of them."""
    opened = _Opened.of(stored)
    counted: Counted = []
    for replacement in replacements:
        entries = (opened.block.table == np.uint64(replacement.supervoxel)).nonzero()[0]
        if not len(entries):
            continue
        if len(inside):
            counted.append((replacement, *opened.split(replacement, int(entries[0]), inside, corner)))
        else:
            counted.append((replacement, 0, opened.rename(replacement, int(entries[0]))))
    return (opened, counted) if counted else None


def replace_in_blocks(
    view: VersionedView,
    size_xyz: Triple,
    replacements: list[Replacement],
    codes: U64,
    runs: RunsByBlock,
    top_scale: int,
) -> BlockChanges:
    """Replace supervoxels in the blocks `codes` (ascending) and in those of the scales above up to `top_scale`."""
    new = NewBlocks()
    found: dict[int, list[tuple[int, int, int]]] = {r.supervoxel: [] for r in replacements}
    split_voxels = dict.fromkeys(found, 0)

    def replaced(some: list[tuple[int, bytes]]) -> list[tuple[int, tuple[_Opened, Counted] | None]]:
        return [
            (code, _replace_in_block(stored, replacements, runs.of(code), corner_of(code, size_xyz)))
            for code, stored in some
        ]

    for results in block_writes.side_by_side(replaced, _in_groups(stored_blocks(view, codes))):
        for code, result in results:
            if result is None:
                continue
            opened, counted = result
            for replacement, split, remain in counted:
                split_voxels[replacement.supervoxel] += split
                found[replacement.supervoxel] += [(replacement.split, code, split), (replacement.remain, code, remain)]
            new.add(code, opened.stored, opened.block)
            new.edited[code] = opened.edited
    rows = {supervoxel: _as_rows(entries) for supervoxel, entries in found.items()}
    levels = block_writes.make_plan(view, new, size_xyz, top_scale=top_scale, indexing=False)
    return BlockChanges(new, rows, split_voxels, levels)


def _in_groups(items: Iterator[tuple[int, bytes]]) -> Iterator[list[tuple[int, bytes]]]:
    """Groups that are worth a thread's while."""
    while group := list(islice(items, GROUP_BLOCKS)):
        yield group


def _as_rows(entries: list[tuple[int, int, int]]) -> Rows:
    table = np.array(entries, np.uint64).reshape(-1, 3)
    return Rows.of(table[:, 0], table[:, 1], table[:, 2].astype(np.uint32))
