"""The two kinds of tasks of `fascicle mesh`: the surfaces in a block, and the meshes of a range of bodies.

What a block gives is kept in a file until all bodies that it touches are joined: a line of JSON that says how long its
columns are, then these, by body. A range of bodies reads its part of every such file, and leaves the meshes in spools
(`volumes.shard_writing`).
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

from fascicle.pipeline.sources import SourceSpec
from fascicle.precomputed.mesh_building import (
    BYTES_PER_TRIANGLE,
    STEPS,
    Mesh,
    Piece,
    block_pieces,
    body_mesh,
    encode_legacy,
    encode_multires,
)
from fascicle.volumes.base import Pyramid, VolumeError
from fascicle.volumes.shard_writing import SpoolWriter

MOST_EDGE = 250
"""Voxels of a block along an axis: positions in blocks are kept as u16."""
_COLUMNS = (
    ("labels", "<u8"), ("voxels", "<i8"), ("vertex_starts", "<i8"), ("triangle_starts", "<i8"), ("origin", "<i8"),
    ("vertices", "<u2"), ("triangles", "<i4"),
)  # fmt: skip
_PADDED = 8
_RANGE_TRIANGLES = 1 << 20
"""A range of bodies has about so many triangles, unless one body has more."""
MULTIRES, LEGACY, NGMESH = "multires", "legacy", "ngmesh"
DRACO = "drc"


@dataclass(frozen=True, slots=True)
class Setting:
    """What every worker knows."""

    source: SourceSpec
    scale: int
    resolution_nm: tuple[float, float, float]
    folder: Path
    bodies: tuple[int, ...]
    """The only ones that count, ascending; none for all."""
    error_nm: float
    dust: int
    """Bodies of fewer voxels have no mesh."""
    most_lods: int
    form: str
    """What is made for a destination: multires, legacy or ngmesh; empty for nothing."""
    blobs: str
    """What is made for instances: ngmesh or drc; empty for nothing."""
    memory_bytes: int
    """That a worker may use for one body."""


class Workplace:
    """One worker: the volume is opened when a block of it is read."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self._pyramid: Pyramid | None = None
        self.wanted = np.array(setting.bodies, np.uint64) if setting.bodies else None

    @property
    def volume(self) -> Any:
        if self._pyramid is None:
            self._pyramid = self.setting.source.open()
        return self._pyramid.scales[self.setting.scale]

    def close(self) -> None:
        if self._pyramid is not None:
            self._pyramid.close()


def block_file(folder: Path, number: int) -> Path:
    """Where the surfaces of a block lie."""
    return folder / f"block-{number}"


def spool_file(folder: Path, kind: str, first: int) -> Path:
    """Where the meshes of a range of bodies lie, as one of the forms."""
    return folder / f"{kind}-{first}"


def do_block(place: Workplace, argument: Any) -> int:
    """[number, start z y x, stop z y x, open faces] -> labels; a file for the block, if there are any."""
    number, start, stop, faces = argument
    setting = place.setting
    labels = place.volume.read((start[0], start[1], start[2]), (stop[0], stop[1], stop[2]))
    if labels.dtype not in (np.uint32, np.uint64):
        labels = labels.astype(np.uint64)
    low, high = faces[::2][::-1], faces[1::2][::-1]
    found = block_pieces(
        labels, start[::-1], (low, high), setting.resolution_nm, setting.error_nm, place.wanted
    )
    if len(found.labels):
        origin = np.array([2 * STEPS * (at - 1) for at in start[::-1]], np.int64)
        pieces = {piece.label: piece for piece in found.pieces}
        vertices = [pieces[label].vertices - origin for label in found.labels.tolist() if label in pieces]
        triangles = [pieces[label].triangles for label in found.labels.tolist() if label in pieces]
        counts = [
            (len(pieces[label].vertices), len(pieces[label].triangles)) if label in pieces else (0, 0)
            for label in found.labels.tolist()
        ]
        starts = np.concatenate([np.zeros((1, 2), np.int64), np.cumsum(np.array(counts, np.int64), axis=0)])
        _write(
            block_file(setting.folder, number),
            BlockFile(
                found.labels, found.voxels, starts[:, 0], starts[:, 1], origin,
                np.concatenate(vertices) if vertices else np.zeros((0, 3), np.int64),
                np.concatenate(triangles) if triangles else np.zeros((0, 3), np.int32),
            ),
        )  # fmt: skip
    return len(found.labels)


def do_bodies(place: Workplace, argument: Any) -> list[int]:
    """[first body, last body, numbers of the blocks] -> [meshes, vertices, triangles]; spools of the meshes."""
    first, last, blocks = argument
    setting = place.setting
    places: dict[int, list[tuple[BlockFile, int]]] = {}
    for number in blocks:
        file = read_block(block_file(setting.folder, number))
        low, high = file.between(first, last)
        for row, body in enumerate(file.labels[low:high].tolist(), start=low):
            places.setdefault(body, []).append((file, row))
    spools = [
        (kind, SpoolWriter(spool_file(setting.folder, kind, first)))
        for kind in dict.fromkeys((setting.form, setting.blobs))
        if kind
    ]
    made = [0, 0, 0]
    offset = place.volume.offset_xyz
    try:
        for body, rows in sorted(places.items()):
            if sum(int(file.voxels[row]) for file, row in rows) < setting.dust:
                continue
            pieces = [piece for file, row in rows if len((piece := file.piece(row)).triangles)]
            if not pieces:
                continue
            mesh, error = body_mesh(
                pieces, offset, setting.resolution_nm, setting.error_nm, setting.memory_bytes // BYTES_PER_TRIANGLE
            )
            for kind, spool in spools:
                value, leading = encoded(mesh, kind, error, setting.most_lods)
                spool.add(body, value, leading)
            made = [made[0] + 1, made[1] + len(mesh[0]), made[2] + len(mesh[1])]
    except BaseException:
        for _, spool in spools:
            spool.abandon()
        raise
    for _, spool in spools:
        spool.close()
    return made


def encoded(mesh: Mesh, kind: str, error_nm: float, most_lods: int) -> tuple[bytes, bytes]:
    """(value, what leads it) of a mesh in a form."""
    if kind == MULTIRES:
        return encode_multires(mesh, error_nm, most_lods)
    if kind == DRACO:
        import DracoPy

        vertices, triangles = mesh[0].astype(np.float32), mesh[1].astype(np.uint32)
        return DracoPy.encode(vertices, triangles, quantization_bits=16, compression_level=3), b""
    return encode_legacy(mesh), b""


def ranges(folder: Path, blocks: Sequence[int], most_triangles: int) -> list[tuple[int, int, list[int], int]]:
    """Ranges of bodies to be joined: (first, last, blocks that have some of them, triangles)."""
    found: list[tuple[NDArray[np.uint64], NDArray[np.int64]]] = []
    for number in blocks:
        file = read_block(block_file(folder, number))
        found.append((np.array(file.labels), np.diff(file.triangle_starts) + 1))
    if not found:
        return []
    bodies, place = np.unique(np.concatenate([labels for labels, _ in found]), return_inverse=True)
    sizes = np.bincount(place.reshape(-1), np.concatenate([sizes for _, sizes in found])).astype(np.int64)
    result: list[tuple[int, int, list[int], int]] = []
    begin = total = 0
    for i, size in enumerate(sizes.tolist()):
        if total and total + size > min(most_triangles, _RANGE_TRIANGLES):
            result.append((int(bodies[begin]), int(bodies[i - 1]), [], total))
            begin, total = i, 0
        total += size
    result.append((int(bodies[begin]), int(bodies[-1]), [], total))
    for number, (own, _) in zip(blocks, found, strict=True):
        for first, last, members, _ in result:
            if np.searchsorted(own, np.uint64(first)) < np.searchsorted(own, np.uint64(last), side="right"):
                members.append(number)
    return result


@dataclass(frozen=True, slots=True, eq=False)
class BlockFile:
    """What there is in one block, by label."""

    labels: NDArray[np.uint64]
    """Ascending."""
    voxels: NDArray[np.int64]
    vertex_starts: NDArray[np.int64]
    triangle_starts: NDArray[np.int64]
    origin: NDArray[np.int64]
    """Where positions are counted from, i64[3]."""
    vertices: NDArray[Any]
    triangles: NDArray[np.int32]

    def between(self, first: int, last: int) -> tuple[int, int]:
        """Where labels from one to another, both included, begin and end."""
        low = int(np.searchsorted(self.labels, np.uint64(first)))
        return low, int(np.searchsorted(self.labels, np.uint64(last), side="right"))

    def piece(self, row: int) -> Piece:
        """The surface of a label."""
        vertices = self.vertices[self.vertex_starts[row] : self.vertex_starts[row + 1]]
        triangles = self.triangles[self.triangle_starts[row] : self.triangle_starts[row + 1]]
        return Piece(int(self.labels[row]), vertices.astype(np.int64) + self.origin, triangles.astype(np.int32))


def _write(path: Path, found: BlockFile) -> None:
    """Keep what a block has in a file, which is on disk when this returns."""
    temporary = path.with_name(path.name + ".part")
    head = msgspec.json.encode([len(found.labels), len(found.vertices), len(found.triangles)])
    with temporary.open("wb") as file:
        file.write(head + b" " * (-(len(head) + 1) % _PADDED) + b"\n")
        for name, kind in _COLUMNS:
            data = np.ascontiguousarray(getattr(found, name), kind).tobytes()
            file.write(data + bytes(-len(data) % _PADDED))
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def read_block(path: Path) -> BlockFile:
    """What a block has; only what is used of it is read. Raises VolumeError if the file is gone."""
    try:
        with path.open("rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        raise VolumeError(f"{path}, which an earlier step wrote, cannot be read: {error}") from None
    at = data.find(b"\n") + 1
    labels, vertices, triangles = msgspec.json.decode(data[:at])
    lengths = {
        "labels": labels, "voxels": labels, "vertex_starts": labels + 1, "triangle_starts": labels + 1, "origin": 3,
        "vertices": 3 * vertices, "triangles": 3 * triangles,
    }  # fmt: skip
    columns: list[NDArray[Any]] = []
    for name, kind in _COLUMNS:
        column = np.frombuffer(data, kind, lengths[name], at)
        columns.append(column.reshape(-1, 3) if name in ("vertices", "triangles") else column)
        at += column.nbytes + -column.nbytes % _PADDED
    return BlockFile(*columns)


