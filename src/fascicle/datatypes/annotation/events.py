"""What an annotation instance tells the instances that follow it, inside of the transaction that changes it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

KINDS = ("Unknown", "PostSyn", "PreSyn", "Gap", "Note")
"""Kinds of elements; their places here are their numbers."""


@dataclass(frozen=True, slots=True, eq=False)
class Points:
    """Elements as they are counted: one row each."""

    labels: NDArray[np.uint64]
    """Bodies u64[n], never 0."""
    kinds: NDArray[np.uint8]
    """Places in `KINDS`, u8[n]."""
    positions: NDArray[np.int32]
    """Voxels i32[n, 3]: x, y, z."""

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, slots=True, eq=False)
class RowsChanged:
    """Points came to supervoxels of a labelmap and left them, whatever bodies these belong to: one row each."""

    labelmap_id: int
    supervoxels: NDArray[np.uint64]
    """u64[n], never 0."""
    kinds: NDArray[np.uint8]
    """u8[n]"""
    positions: NDArray[np.int64]
    """Voxels i64[n, 3]: x, y, z."""
    signs: NDArray[np.int64]
    """i64[n]: 1 for a point that came, -1 for one that left."""


@dataclass(frozen=True, slots=True, eq=False)
class PointsChanged:
    """Elements came to bodies and left them: posted, deleted, moved, of another kind, or by writing voxels."""

    removed: Points
    """As they were before."""
    added: Points
    """As they are now."""
    rows: tuple[RowsChanged, ...] = ()
    """The same by supervoxel, also where bodies have what they had. The label index has been changed already."""


@dataclass(frozen=True, slots=True, eq=False)
class BodiesJoined:
    """All elements of the bodies `merged` belong to `target` now: a merge, or a renumbering (`target` had none)."""

    target: int
    merged: tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class PointsReassigned:
    """Supervoxels are of other bodies now, with all points in them: a cleave, or mappings that were posted."""

    before: NDArray[np.uint64]
    """Bodies u64[n], 0 for none. One row for each supervoxel that has points."""
    after: NDArray[np.uint64]
    """Bodies u64[n], 0 for none."""
    labelmap_id: int
    supervoxels: NDArray[np.uint64]
    """u64[n], ascending."""
    counts: NDArray[np.int64]
    """Points of each kind i64[n, 5]."""
    points: Callable[[], PointsChanged]
    """The points themselves, for those who must know where they are: the cost grows with their number."""


@dataclass(frozen=True, slots=True, eq=False)
class Emptied:
    """Nothing is left of what was counted at this version: every element went at once."""
