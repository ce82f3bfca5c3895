"""The two kinds of tasks of `fascicle skeletonize`: the centrelines of a block, and the skeletons of a range of bodies.

What a block gives is kept in a file of columns, by body (`body_parts`). A range of bodies reads its part of every such
file, and leaves the skeletons in a spool (`volumes.shard_writing`) as precomputed values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fascicle.formats import skeleton as skeletons
from fascicle.pipeline.body_parts import (
    BodySetting,
    Ranges,
    Workplace,
    block_file,
    body_ranges,
    read_columns,
    write_columns,
)
from fascicle.precomputed.centrelines import Centrelines, Teasar, in_block, joined
from fascicle.volumes.shard_writing import SpoolWriter

_COLUMNS = (
    ("bodies", "<u8"), ("voxels", "<i8"), ("starts", "<i8"), ("positions", "<i8"), ("radii", "<f4"),
    ("parents", "<i8"), ("contacts", "|b1"),
)  # fmt: skip
BYTES_PER_VERTEX = 400
"""Memory that joining takes for each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting(BodySetting):
    """What every worker knows."""

    parameters: Teasar


def spool_file(folder: Path, first: int) -> Path:
    """Where the skeletons of a range of bodies lie."""
    return folder / f"bodies-{first}"


def do_block(place: Workplace[Setting], argument: Any) -> int:
    """[number, start z y x, stop z y x, open faces] -> vertices; a file for the block, if there are any."""
    number, start, stop, faces = argument
    setting = place.setting
    x, y, z = (a + b for a, b in zip(place.volume.offset_xyz, start[::-1], strict=True))
    found = in_block(place.read(start, stop), (x, y, z), setting.resolution_nm, setting.parameters, faces, place.wanted)
    if len(found.positions):
        counts = [len(found.bodies), len(found.positions)]
        write_columns(block_file(setting.folder, number), counts, _COLUMNS, found)
    return len(found.positions)


def do_bodies(place: Workplace[Setting], argument: Any) -> list[int]:
    """[first body, last body, numbers of the blocks] -> [skeletons, vertices]; a spool of the skeletons."""
    first, last, blocks = argument
    setting = place.setting
    parts = [read_block(block_file(setting.folder, number)).of(first, last) for number in blocks]
    bodies = np.unique(np.concatenate([part.bodies for part in parts]))
    spool = SpoolWriter(spool_file(setting.folder, first))
    count = vertices = 0
    try:
        for body in bodies.tolist():
            own = [own for part in parts if len((own := part.of(body, body)).positions)]
            skeleton = joined(own, setting.resolution_nm, setting.parameters)
            if skeleton is not None:
                spool.add(body, skeletons.encode(skeleton, [skeletons.RADIUS]))
                count, vertices = count + 1, vertices + len(skeleton.vertices)
    except BaseException:
        spool.abandon()
        raise
    spool.close()
    return [count, vertices]


def ranges(folder: Path, blocks: Sequence[int], most_vertices: int) -> Ranges:
    """Ranges of bodies to be joined; their sizes are vertices."""

    def sizes_in(number: int) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
        part = read_block(block_file(folder, number))
        bodies, first = np.unique(part.bodies, return_index=True)
        ends = part.starts[np.r_[first[1:], len(part.bodies)]]
        return bodies, ends - part.starts[first]

    return body_ranges(blocks, sizes_in, most_vertices)


def read_block(path: Path) -> Centrelines:
    """The centrelines of a block; only what is used of them is read. Raises VolumeError if the file is gone."""

    def lengths(pieces: int, vertices: int) -> list[int]:
        return [pieces, pieces, pieces + 1, 3 * vertices, vertices, vertices, vertices]

    bodies, voxels, starts, positions, *others = read_columns(path, _COLUMNS, lengths)
    return Centrelines(bodies, voxels, starts, positions.reshape(-1, 3), *others)
