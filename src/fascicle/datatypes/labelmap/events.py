"""What a labelmap tells the instances that follow it, inside of the transaction that changes it.

Supervoxels and bodies are u64, blocks are codes of `formats.block_code` (scale 0). A renumbering is an event of its
own, although a follower may treat it as a merge of the old body into a new one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

U64 = NDArray[np.uint64]
Lookup = Callable[[U64], U64]
"""Bodies u64[n] of supervoxels u64[n]."""


@dataclass(frozen=True, slots=True, eq=False)
class Merge:
    """The bodies `merged` were joined into `target`."""

    mutation_id: int
    target: int
    merged: tuple[int, ...]
    supervoxels: U64
    """Supervoxels of the merged bodies, ascending."""
    target_voxels: int
    """Size of the target before."""
    merged_voxels: int
    """Size of all merged bodies together."""
    bodies_before: Lookup
    """By the mapping before: it may know otherwise than the index of bodies, by which bodies are merged."""


@dataclass(frozen=True, slots=True, eq=False)
class Cleave:
    """Supervoxels left `target` and became the body `cleaved`."""

    mutation_id: int
    target: int
    cleaved: int
    supervoxels: U64
    """The supervoxels that left, ascending."""
    bodies_before: Lookup
    """By the mapping before."""


@dataclass(frozen=True, slots=True, eq=False)
class Renumber:
    """The body `old` is called `new` now."""

    mutation_id: int
    old: int
    new: int
    supervoxels: U64
    """All supervoxels of the body, ascending."""
    bodies_before: Lookup
    """By the mapping before."""


@dataclass(frozen=True, slots=True, eq=False)
class Remapped:
    """Mappings were posted by themselves: supervoxels changed their bodies, the index of bodies did not change."""

    supervoxels: U64
    """u64[n], ascending."""
    before: U64
    """Their bodies before, u64[n], 0 for retired ones."""
    after: U64
    """Their bodies now, u64[n], each another one than before."""


@dataclass(frozen=True, slots=True, eq=False)
class SupervoxelSplit:
    """A supervoxel was replaced by two; bodies did not change."""

    mutation_id: int
    body: int
    supervoxel: int
    split: int
    remain: int
    blocks: U64
    """Blocks of the retired supervoxel, ascending."""


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """Voxels left the body `target` and became the body `new`; every supervoxel touched was replaced by two."""

    mutation_id: int
    target: int
    new: int
    supervoxels: U64
    """Retired supervoxels u64[n]."""
    split: U64
    """What became of each in `new`, u64[n]."""
    remain: U64
    """What became of each in `target`, u64[n]."""
    blocks: U64
    """Blocks in which voxels left, ascending."""


@dataclass(frozen=True, slots=True, eq=False)
class BlockChange:
    """Blocks of scale 0 were written."""

    mutation_id: int
    blocks: U64
    """Their codes, ascending."""
    previous: Sequence[bytes | None]
    """Handles of what was seen there before (for `VersionedView.load`), None where nothing was stored."""
    stored: Sequence[bytes]
    """The stored label blocks (`formats.label_block`) that are there now, supervoxels; read when asked for."""
