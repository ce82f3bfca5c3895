"""Meshes put together from blocks: closed, in shape and in place, however the volume is cut; on real data too."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fascicle.formats import multires_mesh
from fascicle.kernels import marching_cubes
from fascicle.precomputed.mesh_building import Mesh, Piece, block_pieces, body_mesh, encode_multires, levels
from surface_checks import euler, is_closed, volume, welded

U32 = NDArray[np.uint32]


def pieces_by_label(labels: U32, size: int, nm: Sequence[float], error: float) -> dict[int, list[Piece]]:
    """The pieces of all labels of a volume that is cut into blocks of a size."""
    found: dict[int, list[Piece]] = {}
    for z, y, x in np.ndindex(*(max(1, -(-(edge - 1) // size)) for edge in labels.shape)):
        start = [z * size, y * size, x * size]
        box = labels[tuple(slice(at, at + size + 1) for at in start)]
        low = [at > 0 for at in start[::-1]]
        high = [at + size + 1 < edge for at, edge in zip(start[::-1], labels.shape[::-1], strict=True)]
        for piece in block_pieces(box, start[::-1], (low, high), nm, error).pieces:
            found.setdefault(piece.label, []).append(piece)
    return found


def meshes(labels: U32, size: int, nm: Sequence[float], error: float, **more: Any) -> dict[int, Mesh]:
    pieces = pieces_by_label(labels, size, nm, error)
    return {label: body_mesh(own, (0, 0, 0), nm, error, **more)[0] for label, own in pieces.items()}


def euler_of_voxels(labels: U32, label: int) -> int:
    """That of the surface of marching cubes, not cut and not simplified."""
    numbers, ids, _ = marching_cubes.number_labels(np.pad(labels, 1))
    first_vertex, vertices, first_triangle, triangles = marching_cubes.surfaces(numbers, len(ids))
    k = int(np.searchsorted(ids, label)) + 1
    part = triangles[first_triangle[k] : first_triangle[k + 1]]
    return euler(vertices[first_vertex[k] : first_vertex[k + 1]], part)


@pytest.mark.parametrize("size", [7, 16, 64])
def test_known_shapes(size: int) -> None:
    z, y, x = np.indices((40, 44, 48))
    labels = np.zeros(z.shape, np.uint32)
    labels[(z - 15) ** 2 + (y - 15) ** 2 + (x - 16) ** 2 < 120] = 5
    ring = (np.sqrt((y - 28) ** 2 + (x - 30) ** 2) - 11) ** 2 + (z - 30) ** 2 < 14
    labels[ring] = 9
    labels[36:, 40:, 44:] = 2  # at the border of the volume
    found = meshes(labels, size, (8, 8, 8), 8.0)
    assert sorted(found) == [2, 5, 9]
    for label, expected in ((2, 2), (5, 2), (9, 0)):
        vertices, triangles = found[label]
        assert euler(vertices, triangles) == expected
        voxels = int((labels == label).sum())
        assert volume(vertices, triangles) == pytest.approx(voxels * 512, rel=0.12)
        where = np.argwhere(labels == label)[:, ::-1]
        assert (vertices.min(axis=0) > where.min(axis=0) * 8 - 9).all()
        assert (vertices.max(axis=0) < (where.max(axis=0) + 1) * 8 + 9).all()


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 9), st.floats(0.5, 6.0))
def test_noise_however_it_is_cut(seed: int, size: int, error: float) -> None:
    labels = np.random.default_rng(seed).integers(0, 3, (8, 9, 10), dtype=np.uint32)
    found = meshes(labels, size, (1, 1, 2), error)
    for label in (1, 2):
        assert euler(*found[label]) == euler_of_voxels(labels, label)


def test_bodies_that_do_not_fit() -> None:
    """Of a body of more triangles than may be in memory, parts are put together first."""
    z, y, x = np.indices((60, 60, 60))
    labels = ((np.sin(x / 5) + np.sin(y / 6) + np.sin(z / 7)) > 0.4).astype(np.uint32)
    whole = meshes(labels, 15, (4, 4, 4), 4.0)[1]
    pieces = pieces_by_label(labels, 15, (4, 4, 4), 4.0)[1]
    total = sum(len(piece.triangles) for piece in pieces)
    small, error = body_mesh(pieces, (0, 0, 0), (4, 4, 4), 4.0, total // 3)
    assert error > 4.0
    assert euler(*small) == euler(*whole)
    assert len(small[1]) <= len(whole[1])
    assert volume(*small) == pytest.approx(volume(*whole), rel=0.1)


def test_dust_is_counted_without_shared_layers() -> None:
    labels = np.zeros((9, 9, 9), np.uint32)
    labels[2:8, 2:8, 2:8] = 3
    total = 0
    for z, y, x in np.ndindex(2, 2, 2):
        box = labels[z * 4 : z * 4 + 5, y * 4 : y * 4 + 5, x * 4 : x * 4 + 5]
        start = (x * 4, y * 4, z * 4)
        found = block_pieces(box, start, ([x > 0, y > 0, z > 0], [x < 1, y < 1, z < 1]), (1, 1, 1), 1.0)
        total += int(found.voxels.sum())
    assert total == 6**3


def test_only_those_that_are_wanted() -> None:
    labels = np.random.default_rng(1).integers(0, 9, (8, 8, 8), dtype=np.uint32)
    closed = ([False] * 3, [False] * 3)
    every = block_pieces(labels, (0, 0, 0), closed, (1, 1, 1), 1.0)
    some = block_pieces(labels, (0, 0, 0), closed, (1, 1, 1), 1.0, np.array([2, 5, 77], np.uint64))
    assert some.labels.tolist() == [2, 5]
    assert [piece.label for piece in some.pieces] == [2, 5]
    chosen = [piece for piece in every.pieces if piece.label in (2, 5)]
    assert all(np.array_equal(a.vertices, b.vertices) for a, b in zip(some.pieces, chosen, strict=True))


def test_levels_of_detail() -> None:
    z, y, x = np.indices((50, 50, 50))
    labels = ((np.sin(x / 4) + np.sin(y / 5) + np.sin(z / 6)) > 0.6).astype(np.uint32)
    mesh = meshes(labels, 64, (8, 8, 8), 2.0)[1]
    found = levels(mesh, 2.0)
    assert len(found) > 2
    for finer, coarser in pairwise(found):
        assert len(coarser[1]) < 0.85 * len(finer[1])
        assert euler(*coarser) == euler(*mesh)
    manifest_bytes, data = encode_multires(mesh, 2.0)
    manifest = multires_mesh.read_manifest(manifest_bytes)
    assert len(manifest.sizes) == len(found)
    assert len(manifest.sizes[0]) > 1
    assert manifest.lod_scales.tolist() == sorted(manifest.lod_scales.tolist())
    assert len(levels(mesh, 2.0, 2)) == 2
    for lod in range(len(manifest.sizes)):
        parts = multires_mesh.decode(manifest, data, multires_mesh.MeshInfo(), lod)
        step = float(manifest.chunk_shape[0]) * 2**lod / 65535
        origin = manifest.grid_origin.astype(np.float64)
        vertices, triangles = welded([(places - origin, faces) for places, faces in parts], step)
        assert is_closed(triangles, len(vertices))


def _check_real(labels: U32, size: int, nm: Sequence[float], error: float) -> None:
    found = meshes(labels, size, nm, error)
    assert sorted(found) == np.unique(labels[labels > 0]).tolist()
    triangles = 0
    for label, (vertices, faces) in found.items():
        assert euler(vertices, faces) == euler_of_voxels(labels[_box(labels, label)], label)
        triangles += len(faces)
    counts = np.bincount(labels.ravel())
    largest = int(np.argmax(counts[1:])) + 1
    assert volume(*found[largest]) == pytest.approx(counts[largest] * np.prod(nm), rel=0.05)
    assert triangles < 12 * (np.count_nonzero(np.diff(labels.astype(np.int64), axis=0)))


def _box(labels: U32, label: int) -> tuple[slice, ...]:
    where = np.argwhere(labels == label)
    return tuple(slice(int(a), int(b) + 1) for a, b in zip(where.min(axis=0), where.max(axis=0), strict=True))


def test_fib25(shared) -> None:  # type: ignore[no-untyped-def]
    import gzip
    import io

    h5py = pytest.importorskip("h5py")
    data = gzip.decompress((shared / "data/fib25-medulla-250/groundtruth.h5.gz").read_bytes())
    with h5py.File(io.BytesIO(data)) as file:
        stack, table = file["stack"][100:160, 100:160, 100:160], file["transforms"][()]
    _, supervoxels = np.unique(stack, return_inverse=True)
    order = np.argsort(table[:, 0])
    bodies = table[order, 1][np.searchsorted(table[order, 0], np.unique(stack))]
    labels = np.unique(bodies, return_inverse=True)[1][supervoxels].reshape(stack.shape).astype(np.uint32)
    _check_real(labels, 40, (10, 10, 10), 20.0)


def test_pinky(shared) -> None:  # type: ignore[no-untyped-def]
    import gzip

    crackle = pytest.importorskip("crackle")
    data = (shared / "data/pinky-512/connectomics.npy.ckl.gz").read_bytes()
    whole = crackle.decompress(gzip.decompress(data))
    part = np.ascontiguousarray(whole[256:320, 256:320, 256:304].T)
    labels = np.unique(part, return_inverse=True)[1].reshape(part.shape).astype(np.uint32)
    _check_real(labels if (part == 0).any() else labels + 1, 24, (4, 4, 40), 40.0)
