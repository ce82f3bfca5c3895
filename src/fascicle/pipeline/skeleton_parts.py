"""The two kinds of tasks of `fascicle skeletonize`: the centrelines of a block, and the skeletons of a range of bodies.

What a block gives is kept in a file until all bodies that it touches are joined: a line of JSON that says how long its
columns are, then these, by body. A range of bodies reads its part of every such file, and leaves the skeletons in a
spool (`volumes.shard_writing`) as precomputed values.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from fascicle.formats import skeleton as skeletons
from fascicle.pipeline.sources import SourceSpec
from fascicle.precomputed.centrelines import Centrelines, Teasar, in_block, joined
from fascicle.volumes.base import Pyramid, VolumeError
from fascicle.volumes.shard_writing import SpoolWriter

_COLUMNS = (
    ("bodies", "<u8"), ("voxels", "<i8"), ("starts", "<i8"), ("positions", "<i8"), ("radii", "<f4"),
    ("parents", "<i8"), ("contacts", "|b1"),
)  # fmt: skip
_PADDED = 8
_JOIN_VERTICES = 1 << 20
"""A range of bodies has about so many vertices, unless one body has more."""
BYTES_PER_VERTEX = 400
"""Memory that joining takes for each."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What every worker knows."""

    source: SourceSpec
    scale: int
    parameters: Teasar
    resolution_nm: tuple[float, float, float]
    folder: Path
    bodies: tuple[int, ...]
    """The only ones that count, ascending; none for all."""


class Workplace:
    """One worker: the volume is opened when a block of it is read."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self._pyramid: Pyramid | None = None
        self.wanted = np.array(setting.bodies, np.uint64) if setting.bodies else None

    def read(self, start: Sequence[int], stop: Sequence[int]) -> tuple[NDArray[Any], tuple[int, int, int]]:
        """The labels [z, y, x] of a box of the volume, unsigned, and its first voxel x, y, z counted from voxel 0."""
        if self._pyramid is None:
            self._pyramid = self.setting.source.open()
        volume = self._pyramid.scales[self.setting.scale]
        labels = volume.read((start[0], start[1], start[2]), (stop[0], stop[1], stop[2]))
        if labels.dtype not in (np.uint32, np.uint64):
            labels = labels.astype(np.uint64)
        x, y, z = (a + b for a, b in zip(volume.offset_xyz, start[::-1], strict=True))
        return labels, (x, y, z)

    def close(self) -> None:
        if self._pyramid is not None:
            self._pyramid.close()


def block_file(folder: Path, number: int) -> Path:
    """Where the centrelines of a block lie."""
    return folder / f"block-{number}"


def spool_file(folder: Path, first: int) -> Path:
    """Where the skeletons of a range of bodies lie."""
    return folder / f"bodies-{first}"


def do_block(place: Workplace, argument: Any) -> int:
    """[number, start z y x, stop z y x, open faces] -> vertices; a file for the block, if there are any."""
    number, start, stop, faces = argument
    setting = place.setting
    labels, corner = place.read(start, stop)
    found = in_block(labels, corner, setting.resolution_nm, setting.parameters, faces, place.wanted)
    if len(found.positions):
        write_columns(block_file(setting.folder, number), found)
    return len(found.positions)


def do_bodies(place: Workplace, argument: Any) -> list[int]:
    """[first body, last body, numbers of the blocks] -> [skeletons, vertices]; a spool of the skeletons."""
    first, last, blocks = argument
    setting = place.setting
    parts = [read_columns(block_file(setting.folder, number)).of(first, last) for number in blocks]
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


def ranges(folder: Path, blocks: Sequence[int], most_vertices: int) -> list[tuple[int, int, list[int], int]]:
    """Ranges of bodies to be joined: (first, last, blocks that have some of them, vertices)."""
    found: list[tuple[NDArray[np.uint64], NDArray[np.int64]]] = []
    for number in blocks:
        part = read_columns(block_file(folder, number))
        bodies, first = np.unique(part.bodies, return_index=True)
        ends = part.starts[np.r_[first[1:], len(part.bodies)]]
        found.append((bodies, ends - part.starts[first]))
    if not found:
        return []
    bodies, place = np.unique(np.concatenate([bodies for bodies, _ in found]), return_inverse=True)
    sizes = np.bincount(place.reshape(-1), np.concatenate([sizes for _, sizes in found])).astype(np.int64)
    result: list[tuple[int, int, list[int], int]] = []
    begin = total = 0
    for i, size in enumerate(sizes.tolist()):
        if total and total + size > min(most_vertices, _JOIN_VERTICES):
            result.append((int(bodies[begin]), int(bodies[i - 1]), [], total))
            begin, total = i, 0
        total += size
    result.append((int(bodies[begin]), int(bodies[-1]), [], total))
    for number, (own, _) in zip(blocks, found, strict=True):
        for first_body, last_body, members, _ in result:
            if np.searchsorted(own, np.uint64(first_body)) < np.searchsorted(own, np.uint64(last_body), side="right"):
                members.append(number)
    return result


def write_columns(path: Path, found: Centrelines) -> None:
    """Keep centrelines in a file, which is on disk when this returns."""
    parts: list[bytes] = []
    for name, kind in _COLUMNS:
        data = np.ascontiguousarray(getattr(found, name), kind).tobytes()
        parts.append(data + bytes(-len(data) % _PADDED))
    head = msgspec.json.encode([len(found.bodies), len(found.positions)])
    head += b" " * (-(len(head) + 1) % _PADDED) + b"\n"
    temporary = path.with_name(path.name + ".part")
    with temporary.open("wb") as file:
        file.write(head)
        file.writelines(parts)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def read_columns(path: Path) -> Centrelines:
    """The centrelines in a file; only what is used of them is read. Raises VolumeError if the file is gone."""
    try:
        with path.open("rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        raise VolumeError(f"{path}, which an earlier step wrote, cannot be read: {error}") from None
    at = data.find(b"\n") + 1
    pieces, vertices = msgspec.json.decode(data[:at])
    lengths = {"bodies": pieces, "voxels": pieces, "starts": pieces + 1, "positions": 3 * vertices}
    columns: list[NDArray[Any]] = []
    for name, kind in _COLUMNS:
        count = lengths.get(name, vertices)
        column = np.frombuffer(data, kind, count, at)
        columns.append(column.reshape(-1, 3) if name == "positions" else column)
        at += column.nbytes + -column.nbytes % _PADDED
    return Centrelines(*columns)
