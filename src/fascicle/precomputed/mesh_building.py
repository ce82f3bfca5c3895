"""Meshes of labels from blocks of voxels: pieces per block, pieces put together, levels of detail, bytes.

A block shares its last layer of voxels with the first one of the next block, so the surfaces of both end in the same
vertices, which are integers when counted in half voxels. Pieces are simplified apart, with these vertices as they are,
and put together later. Positions of pieces are integers, `STEPS` to a half voxel.

Nothing here reads or writes anything. Arrays of voxels are [z, y, x], positions x, y, z.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fascicle.formats import legacy_mesh, multires_mesh
from fascicle.kernels import decimation, marching_cubes

I32 = NDArray[np.int32]
I64 = NDArray[np.int64]
F64 = NDArray[np.float64]
Mesh = tuple[F64, I32]
"""Vertices x, y, z f64[n, 3] in nanometres, and triangles i32[m, 3]."""

STEPS = 128
"""Positions of pieces are counted in this part of a half voxel."""
BLOCK_SHARE = 0.6
"""The part of the error that pieces may have; the rest is for what they are put together to."""
LOD_TRIANGLES = 1024
"""There is a level of detail more while the one before has more than four times as many triangles."""
FRAGMENT_TRIANGLES = 16384
MOST_LODS = 8
BYTES_PER_TRIANGLE = 160
"""Memory that simplifying takes for each triangle."""
_MARGIN = 0.03
"""Vertices inside of a block stay so many half voxels away from its sides."""


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """The surface of one label in one block."""

    label: int
    vertices: I64
    """i64[n, 3], `STEPS` to a half voxel, from the corner of the volume."""
    triangles: I32
    """i32[m, 3]"""


@dataclass(frozen=True, slots=True, eq=False)
class BlockPieces:
    """What there is in one block."""

    labels: NDArray[np.uint64]
    """Ascending."""
    voxels: I64
    """How many voxels each label has in the block, without the layers that belong to the next ones."""
    pieces: list[Piece] = field(default_factory=list)
    """Those labels that have a surface here."""


def block_pieces(
    labels: NDArray[Any],
    start_xyz: Sequence[int],
    open_sides: tuple[Sequence[bool], Sequence[bool]],
    resolution_nm: Sequence[float],
    error_nm: float,
    wanted: NDArray[np.uint64] | None = None,
) -> BlockPieces:
    """The surfaces of the labels in a block, simplified.

    `labels` u[z, y, x] start at the voxel `start_xyz` of the volume. `open_sides` says for the low and for the high
    ends of x, y, z whether the volume goes on there; then the last layer is that with which the next block begins.
    Elsewhere surfaces are closed. `wanted` labels (ascending) only, if given.
    """
    low_open, high_open = open_sides
    numbers, ids, _ = marching_cubes.number_labels(labels)
    if wanted is not None:
        keep = np.isin(ids, wanted)
        ranks = np.zeros(len(ids) + 1, np.int32)
        ranks[1:][keep] = np.arange(1, int(keep.sum()) + 1)
        marching_cubes.renumber(numbers.reshape(-1), ranks)
        ids = ids[keep]
    own = numbers[tuple(slice(0, size - int(high)) for size, high in zip(numbers.shape, high_open[::-1], strict=True))]
    voxels = np.bincount(own.reshape(-1), minlength=len(ids) + 1)[1:].astype(np.int64)
    margins = [(int(not low), int(not high)) for low, high in zip(low_open[::-1], high_open[::-1], strict=True)]
    padded = np.pad(numbers, margins) if any(map(any, margins)) else numbers
    start = [at - before for at, (before, _) in zip(start_xyz, margins[::-1], strict=True)]
    return BlockPieces(ids, voxels, pieces_of(padded, ids, start, resolution_nm, error_nm))


def pieces_of(
    numbers: I32, ids: NDArray[np.uint64], start_xyz: Sequence[int], resolution_nm: Sequence[float], error_nm: float
) -> list[Piece]:
    """The surfaces of labels in a block that is open on all sides, simplified.

    `numbers` i32[z, y, x] are places in `ids` plus 1, or 0; they start at the voxel `start_xyz` of the volume.
    """
    first_vertex, vertices, first_triangle, triangles = marching_cubes.surfaces(numbers, len(ids))
    origin = 2 * np.asarray(start_xyz, np.int64)
    half = np.asarray(resolution_nm, np.float64) / 2
    # the centres of the first and of the last voxels are at 1 and here
    sides = 2 * np.array(numbers.shape[::-1], np.float64) - 1
    low, high = (1 + _MARGIN) * half, (sides - _MARGIN) * half
    pieces = []
    for number, label in enumerate(ids.tolist(), start=1):
        part = vertices[first_vertex[number] : first_vertex[number + 1]]
        faces = triangles[first_triangle[number] : first_triangle[number + 1]]
        if not len(faces):
            continue
        simple, faces = decimation.decimate(
            part * half, faces, np.zeros(len(part), np.bool_), error_nm * BLOCK_SHARE, low, high
        )
        places = np.rint(simple / half * STEPS).astype(np.int64) + origin * STEPS
        pieces.append(Piece(label, places, faces))
    return pieces


def joined(pieces: Sequence[Piece]) -> Piece:
    """Pieces of one label as one: vertices at the open borders of pieces that are at one place become one."""
    if len(pieces) == 1:
        return pieces[0]
    starts = np.cumsum([0, *(len(piece.vertices) for piece in pieces)])
    vertices = np.concatenate([piece.vertices for piece in pieces])
    triangles = np.concatenate(
        [piece.triangles + np.int32(start) for piece, start in zip(pieces, starts.tolist(), strict=False)]
    )
    on_border = np.zeros(len(vertices), np.bool_)
    vertex, opposite, _ = decimation.corner_table(triangles, len(vertices))
    decimation.lock_borders(vertex, opposite, on_border)
    border = np.flatnonzero(on_border)
    number = np.arange(len(vertices), dtype=np.int32)
    if len(border):
        order = border[np.lexsort(vertices[border].T)]
        placed = vertices[order]
        is_new = np.concatenate([[True], (placed[1:] != placed[:-1]).any(axis=1)])
        number[order] = order[is_new][np.cumsum(is_new) - 1]
    return Piece(pieces[0].label, vertices, number[triangles])


def body_mesh(
    pieces: Sequence[Piece],
    offset_xyz: Sequence[int],
    resolution_nm: Sequence[float],
    error_nm: float,
    most_triangles: int = 1 << 62,
) -> tuple[Mesh, float]:
    """One mesh from the pieces of a label, in nanometres, and its error.

    `offset_xyz` is the voxel at which the volume begins. Of a body with more than `most_triangles`, which would not fit
    into memory, neighbouring pieces are put together and simplified first, each time with twice the error.
    """
    half = np.asarray(resolution_nm, np.float64) / 2
    origin = np.asarray(offset_xyz, np.float64) * resolution_nm
    error = error_nm
    current = list(pieces)
    while len(current) > 1 and sum(len(piece.triangles) for piece in current) > most_triangles:
        error *= 2
        before = sum(len(piece.triangles) for piece in current)
        current = [_simpler(joined(group), half, error / 2) for group in _groups(current, most_triangles // 2)]
        if sum(len(piece.triangles) for piece in current) > 0.9 * before:
            break
    whole = joined(current)
    center = np.rint(whole.vertices.mean(axis=0)).astype(np.int64)
    places = (whole.vertices - center) * (half / STEPS)
    mesh = _decimated((places, whole.triangles), max(error_nm * (1 - BLOCK_SHARE), error - error_nm))
    return (mesh[0] + (origin + center * (half / STEPS)), mesh[1]), error


def _groups(pieces: Sequence[Piece], most_triangles: int) -> Iterator[list[Piece]]:
    """Pieces in their order, together while they have no more than so many triangles."""
    group: list[Piece] = []
    total = 0
    for piece in pieces:
        if group and total + len(piece.triangles) > most_triangles:
            yield group
            group, total = [], 0
        group.append(piece)
        total += len(piece.triangles)
    if group:
        yield group


def _simpler(piece: Piece, half: F64, error: float) -> Piece:
    vertices, triangles = _decimated((piece.vertices * (half / STEPS), piece.triangles), error)
    return Piece(piece.label, np.rint(vertices / half * STEPS).astype(np.int64), triangles)


def _decimated(mesh: Mesh, error: float) -> Mesh:
    vertices, triangles = mesh
    far = np.full(3, np.inf)
    simple: Mesh = decimation.decimate(
        vertices.copy(), triangles, np.zeros(len(vertices), np.bool_), float(error), -far, far
    )
    return simple


def levels(mesh: Mesh, error_nm: float, most: int = MOST_LODS) -> list[Mesh]:
    """A mesh and ever simpler ones, each with twice the error of the one before, until there are few triangles."""
    found = [mesh]
    while len(found) < most and len(found[-1][1]) > 4 * LOD_TRIANGLES:
        error_nm *= 2
        center = found[-1][0].mean(axis=0)
        vertices, triangles = _decimated((found[-1][0] - center, found[-1][1]), error_nm)
        if len(triangles) > 0.8 * len(found[-1][1]):
            if error_nm > 1e6:
                break
            continue
        found.append((vertices + center, triangles))
    return found


def encode_multires(mesh: Mesh, error_nm: float, most_lods: int = MOST_LODS, bits: int = 16) -> tuple[bytes, bytes]:
    """(manifest, fragments) of a mesh with all its levels of detail."""
    found = levels(mesh, error_nm, most_lods)
    scales = np.maximum.accumulate([max(error_nm, _edge(level)) for level in found])
    nodes = len(mesh[1]) / FRAGMENT_TRIANGLES
    depth = min(max(1, math.ceil(math.log(max(nodes, 1), 4)) + 1), 16)
    return multires_mesh.encode(found, scales.tolist(), depth, bits)


def _edge(mesh: Mesh) -> float:
    """The edge of a triangle of mean size."""
    vertices, triangles = mesh
    if not len(triangles):
        return 0.0
    a, b, c = (vertices[triangles[:, corner]] for corner in range(3))
    areas = np.linalg.norm(np.cross(b - a, c - a), axis=1) / 2
    return float(math.sqrt(4 / math.sqrt(3) * float(areas.mean())))


def encode_legacy(mesh: Mesh) -> bytes:
    """A mesh of one resolution, in one fragment: also the value of an `.ngmesh` key."""
    return legacy_mesh.encode(*mesh)


def usual_error(resolution_nm: Sequence[float]) -> float:
    """An error in nm that suits voxels: what is less than two of them cannot be seen as a shape."""
    x, y, z = resolution_nm
    return max(2 * math.cbrt(x * y * z), x, y, z)
