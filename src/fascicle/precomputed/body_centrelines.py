"""The skeleton of one body (or supervoxel) of a label map as it is at a version, in bounded time.

The index says which blocks the body is in; only these are read, at the finest scale at which they are few enough. A
body that fits into one box is done at once; of a larger one, boxes of several blocks are done one after the other and
joined.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fascicle.datatypes.labelmap import blocks
from fascicle.datatypes.labelmap.bodies import Rows
from fascicle.datatypes.voxel_requests import VolumeRequest
from fascicle.formats.block_code import block_xyz
from fascicle.formats.skeleton import Skeleton
from fascicle.precomputed import label_chunks
from fascicle.precomputed.builders import Snapshot, resolution_nm
from fascicle.precomputed.centrelines import CLOSED, Centrelines, Teasar, in_block, joined
from fascicle.versions.model import Instance

LIVE = Teasar(dust=0)
"""Every body has a skeleton, however small: a viewer takes a missing one for a failure."""
MOST_VOXELS = 1 << 26
"""Voxels that are read for one body; more of them, and a coarser scale is taken."""
MOST_BOX = 1 << 24
"""Voxels of one box."""
_GROUP = 2
"""Blocks along an axis of the boxes of a larger body."""
Cell = tuple[int, int, int]
_CORNERS = [corner for corner in itertools.product((0, 1), repeat=3) if any(corner)]


def skeleton_of(
    snapshot: Snapshot, instance: Instance, label: int, rows: Rows, supervoxels: bool, parameters: Teasar = LIVE
) -> Skeleton | None:
    """The skeleton in nm of a label with these rows of the index; None if no voxels of it are found.

    At a coarse scale a body may be in more pieces than it is, and a small one may be nowhere: then a finer one is read.
    """
    found = rows.blocks()
    chosen = _scale(found, instance)
    for scale in range(chosen, -1, -1):
        skeleton = _at_scale(snapshot, instance, label, found, scale, supervoxels, parameters)
        if skeleton is not None:
            return skeleton
    return None


def _scale(codes: NDArray[np.uint64], instance: Instance) -> int:
    """The finest scale at which not too many voxels have to be read."""
    last: int = instance.properties["MaxDownresLevel"]
    size = np.array(instance.properties["BlockSize"], np.int64)
    for scale in range(last):
        cells = block_xyz(blocks.coarser(codes, scale)).astype(np.int64)
        if _fits_one(cells, size) or len(_groups(cells)) * int((size * _GROUP).prod()) <= MOST_VOXELS:
            return scale
    return last


def _fits_one(cells: NDArray[np.int64], size: NDArray[np.int64]) -> bool:
    spans = (cells.max(axis=0) - cells.min(axis=0) + 1) * size
    return bool(spans.prod() <= MOST_BOX)


def _groups(cells: NDArray[np.int64]) -> set[Cell]:
    """Groups of blocks, x, y, z, that have to be read: those with blocks of the body, and those that lie between
    several of these at a corner or an edge only, where the body may pass diagonally.
    """
    own = set(map(tuple, np.unique(cells // _GROUP, axis=0).tolist()))
    beside: dict[Any, int] = {}
    for x, y, z in own:
        for dx, dy, dz in _CORNERS:
            cell = (x - dx, y - dy, z - dz)
            if cell not in own:
                beside[cell] = beside.get(cell, 0) + 1
    return own | {cell for cell, count in beside.items() if count > 1}


def _at_scale(
    snapshot: Snapshot,
    instance: Instance,
    label: int,
    codes: NDArray[np.uint64],
    scale: int,
    supervoxels: bool,
    parameters: Teasar,
) -> Skeleton | None:
    x, y, z = resolution_nm(instance.properties)
    resolution = (x * 2**scale, y * 2**scale, z * 2**scale)
    size = np.array(instance.properties["BlockSize"], np.int64)
    cells = block_xyz(blocks.coarser(codes, scale)).astype(np.int64)
    wanted = np.array([label], np.uint64)
    parts: list[Centrelines] = []
    for start, stop, faces in _boxes(cells, size):
        box = VolumeRequest(_triple(b - a for a, b in zip(start, stop, strict=True)), start)
        voxels = label_chunks.voxels(snapshot, instance, scale, box, supervoxels)
        parts.append(in_block(voxels, start, resolution, parameters, faces, wanted))
    return joined(parts, resolution, parameters) if parts else None


def _boxes(cells: NDArray[np.int64], size: NDArray[np.int64]) -> Iterable[tuple[Cell, Cell, Sequence[bool]]]:
    """(start x y z, stop, open faces) of what is read."""
    if _fits_one(cells, size):
        low, high = cells.min(axis=0) * size, (cells.max(axis=0) + 1) * size
        yield _triple(low.tolist()), _triple(high.tolist()), CLOSED
        return
    groups = _groups(cells)
    edge = (size * _GROUP).tolist()
    for cell in sorted(groups):
        start = _triple(at * length for at, length in zip(cell, edge, strict=True))
        stop = _triple(a + length + 1 for a, length in zip(start, edge, strict=True))
        faces = []
        for axis in (2, 1, 0):
            for step in (-1, 1):
                beside = list(cell)
                beside[axis] += step
                faces.append(tuple(beside) in groups)
        yield start, stop, faces


def _triple(values: Iterable[int]) -> Cell:
    x, y, z = values
    return x, y, z
