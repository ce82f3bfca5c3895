"""The mesh of one body (or supervoxel) of a label map as it is at a version, in bounded time.

The index says which blocks the body is in; only these are read, at the finest scale at which they are few enough, or
every second, fourth, ... voxel of them if there is no scale as coarse as that.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fascicle.datatypes.image.block_cache import cache_of
from fascicle.datatypes.labelmap import blocks
from fascicle.datatypes.labelmap.bodies import Rows
from fascicle.datatypes.labelmap.sparse import Volume
from fascicle.formats import label_block
from fascicle.precomputed.builders import Snapshot, resolution_nm
from fascicle.precomputed.mesh_building import Mesh, Piece, body_mesh, pieces_of, usual_error
from fascicle.versions.model import Instance

MOST_VOXELS = 1 << 26
"""Voxels that are looked at for one body; more of them, and a coarser scale is taken."""
_GROUP_EDGE = 128
Cell = tuple[int, int, int]


def mesh_of(snapshot: Snapshot, instance: Instance, rows: Rows) -> tuple[Mesh, float] | None:
    """(the mesh in nm, its error in nm) of the voxels in these rows of the index; None if there are none.

    A body that is so thin that nothing of it is left at a coarse scale is read at a finer one.
    """
    codes = rows.blocks()
    size = np.array(instance.properties["BlockSize"], np.int64)
    scale, step = _scale(codes, int(instance.properties["MaxDownresLevel"]), size)
    while True:
        found = _at_scale(snapshot, instance, rows, scale, step)
        if found is not None or (scale, step) == (0, 1):
            return found
        scale, step = (scale, step // 2) if step > 1 else (scale - 1, 1)


def _scale(codes: NDArray[np.uint64], last: int, size: NDArray[np.int64]) -> tuple[int, int]:
    """(scale, every how many voxels are read) so that not too many voxels have to be looked at."""
    voxels = int(size.prod())
    for scale in range(last + 1):
        count = len(np.unique(blocks.coarser(codes, scale)))
        if count * voxels <= MOST_VOXELS:
            return scale, 1
    step = 2
    while count * voxels > MOST_VOXELS * step**3 and step < int(size.min()):
        step *= 2
    return last, step


def _at_scale(snapshot: Snapshot, instance: Instance, rows: Rows, scale: int, step: int) -> tuple[Mesh, float] | None:
    nm = np.array(resolution_nm(instance.properties)) * 2**scale * step
    error = usual_error(nm.tolist())
    pieces: list[Piece] = []
    for numbers, start in _groups(_masks(snapshot, instance, rows, scale, step)):
        pieces += pieces_of(numbers, np.ones(1, np.uint64), start, nm.tolist(), error)
    if not pieces:
        return None
    return body_mesh(pieces, (0, 0, 0), nm.tolist(), error)


def _masks(
    snapshot: Snapshot, instance: Instance, rows: Rows, scale: int, step: int
) -> Iterator[tuple[Cell, NDArray[np.bool_]]]:
    """(first voxel x, y, z counted in steps, voxels bool[z, y, x]) of the blocks that have some."""
    size = instance.properties["BlockSize"]
    codes = np.unique(blocks.coarser(rows.blocks(), scale))
    cache = cache_of(snapshot.store)
    view = snapshot.view(instance)
    volume = Volume(view, scale, codes, rows.supervoxels()[0], (size[0], size[1], size[2]), cache)
    for (x, y, z), block, wanted in volume.parts():
        if wanted.all():
            mask = np.ones([edge // step for edge in size[::-1]], np.bool_)
        else:
            mask = label_block.decode(block.with_table(wanted.astype(np.uint64)))[::step, ::step, ::step] != 0
        if mask.any():
            yield (x // step, y // step, z // step), mask


def _groups(masks: Iterator[tuple[Cell, NDArray[np.bool_]]]) -> Iterator[tuple[NDArray[np.int32], Cell]]:
    """(i32[z, y, x] 0 or 1, first voxel x, y, z) of boxes, each with the first layers of the next ones."""
    by_group: dict[Any, list[tuple[Cell, NDArray[np.bool_]]]] = {}
    for corner, mask in masks:
        groups = [
            range((at - 1) // _GROUP_EDGE, (at + length - 1) // _GROUP_EDGE + 1)
            for at, length in zip(corner, mask.shape[::-1], strict=True)
        ]
        for group in itertools.product(*groups):
            by_group.setdefault(group, []).append((corner, mask))
    edge = _GROUP_EDGE + 1
    for group in sorted(by_group, key=lambda cell: cell[::-1]):
        start = [at * _GROUP_EDGE for at in group]
        members = by_group[group]
        # only as far as its blocks reach, and one layer more, so that the surface closes
        ends = [[at + length for at, length in zip(corner, mask.shape[::-1], strict=True)] for corner, mask in members]
        stop = [min(at + edge, max(end) + 1) for at, end in zip(start, zip(*ends, strict=True), strict=True)]
        starts = zip(*(corner for corner, _ in members), strict=True)
        start = [max(at, min(found) - 1) for at, found in zip(start, starts, strict=True)]
        numbers = np.zeros([b - a for a, b in zip(start[::-1], stop[::-1], strict=True)], np.int32)
        for corner, mask in members:
            into, out = [], []
            for at, first, last, length in zip(corner[::-1], start[::-1], stop[::-1], mask.shape, strict=True):
                low, high = max(at, first), min(at + length, last)
                into.append(slice(low - first, high - first))
                out.append(slice(low - at, high - at))
            numbers[tuple(into)] |= mask[tuple(out)]
        if numbers.any():
            yield numbers, (start[0], start[1], start[2])
