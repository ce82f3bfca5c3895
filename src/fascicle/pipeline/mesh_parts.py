"""The two kinds of tasks of `fascicle mesh`: the surfaces in a block, and the meshes of a range of bodies.

What a block gives is kept in a file of columns, by body (`body_parts`). A range of bodies reads its part of every such
file, and leaves the meshes in spools (`volumes.shard_writing`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fascicle.pipeline.body_parts import (
    BodySetting,
    Ranges,
    Workplace,
    block_file,
    body_ranges,
    read_columns,
    write_columns,
)
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
from fascicle.volumes.shard_writing import SpoolWriter

MOST_EDGE = 250
"""Voxels of a block along an axis: positions in blocks are kept as u16."""
_COLUMNS = (
    ("labels", "<u8"), ("voxels", "<i8"), ("vertex_starts", "<i8"), ("triangle_starts", "<i8"), ("origin", "<i8"),
    ("vertices", "<u2"), ("triangles", "<i4"),
)  # fmt: skip
MULTIRES, LEGACY, NGMESH = "multires", "legacy", "ngmesh"
DRACO = "drc"


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting(BodySetting):
    """What every worker knows."""

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


def spool_file(folder: Path, kind: str, first: int) -> Path:
    """Where the meshes of a range of bodies lie, as one of the forms."""
    return folder / f"{kind}-{first}"


def do_block(place: Workplace[Setting], argument: Any) -> int:
    """[number, start z y x, stop z y x, open faces] -> labels; a file for the block, if there are any."""
    number, start, stop, faces = argument
    setting = place.setting
    labels = place.read(start, stop)
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
        block = BlockFile(
            found.labels, found.voxels, starts[:, 0], starts[:, 1], origin,
            np.concatenate(vertices) if vertices else np.zeros((0, 3), np.int64),
            np.concatenate(triangles) if triangles else np.zeros((0, 3), np.int32),
        )  # fmt: skip
        lengths = [len(block.labels), len(block.vertices), len(block.triangles)]
        write_columns(block_file(setting.folder, number), lengths, _COLUMNS, block)
    return len(found.labels)


def do_bodies(place: Workplace[Setting], argument: Any) -> list[int]:
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


def ranges(folder: Path, blocks: Sequence[int], most_triangles: int) -> Ranges:
    """Ranges of bodies to be joined; their sizes are triangles, and one for each body of a block."""

    def sizes_in(number: int) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
        file = read_block(block_file(folder, number))
        return np.array(file.labels), np.diff(file.triangle_starts) + 1

    return body_ranges(blocks, sizes_in, most_triangles)


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


def read_block(path: Path) -> BlockFile:
    """What a block has; only what is used of it is read. Raises VolumeError if the file is gone."""

    def lengths(labels: int, vertices: int, triangles: int) -> list[int]:
        return [labels, labels, labels + 1, labels + 1, 3, 3 * vertices, 3 * triangles]

    *others, vertices, triangles = read_columns(path, _COLUMNS, lengths)
    labels, voxels, vertex_starts, triangle_starts, origin = others
    return BlockFile(
        labels, voxels, vertex_starts, triangle_starts, origin, vertices.reshape(-1, 3), triangles.reshape(-1, 3)
    )
