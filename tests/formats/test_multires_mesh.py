"""Multi-resolution meshes: golden bytes, round trips, octrees that viewers can show part by part, damaged input."""

from __future__ import annotations

from itertools import pairwise

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fascicle.errors import BadRequest
from fascicle.formats import multires_mesh
from fascicle.formats.multires_mesh import Manifest, MeshInfo
from fascicle.formats.sharding import sharding_for_keys
from surface_checks import is_closed, volume, welded

TETRAHEDRON = (
    np.array([[0, 0, 0], [100, 0, 0], [0, 100, 0], [0, 0, 100]], np.float64),
    np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]], np.int32),
)


def test_golden_manifest() -> None:
    """Two levels, three nodes of which the coarse one is empty."""
    positions = (np.array([[1, 0, 0], [0, 1, 0]], np.uint32), np.array([[0, 0, 0]], np.uint32))
    manifest = Manifest(
        np.array([1, 2, 3], np.float32),
        np.array([-1, 0, 0.5], np.float32),
        np.array([4, 8], np.float32),
        np.zeros((2, 3), np.float32),
        positions,
        (np.array([5, 6], np.uint32), np.array([0], np.uint32)),
    )
    expected = bytes.fromhex(
        "0000803f0000004000004040" "000080bf000000000000003f" "02000000" "0000804000000041"
        + "00" * 24
        + "0200000001000000"
        "0100000000000000" "0000000001000000" "0000000000000000" "0500000006000000"
        "00000000" "00000000" "00000000" "00000000"
    )  # fmt: skip
    assert multires_mesh.write_manifest(manifest) == expected
    found = multires_mesh.read_manifest(expected)
    assert found.data_size == 11
    assert multires_mesh.write_manifest(found) == expected
    for size in (0, 27, len(expected) - 1):
        with pytest.raises(BadRequest):
            multires_mesh.read_manifest(expected[:size])
    with pytest.raises(BadRequest):
        multires_mesh.read_manifest(expected + bytes(1))
    with pytest.raises(BadRequest, match="Z order"):
        multires_mesh.write_manifest(
            Manifest(
                found.chunk_shape, found.grid_origin, found.lod_scales, found.vertex_offsets,
                (positions[0][::-1], positions[1]), found.sizes,
            )
        )  # fmt: skip
    with pytest.raises(BadRequest, match="no parent"):
        multires_mesh.write_manifest(
            Manifest(
                found.chunk_shape, found.grid_origin, found.lod_scales, found.vertex_offsets,
                (np.array([[4, 0, 0], [0, 4, 0]], np.uint32), positions[1]), found.sizes,
            )
        )  # fmt: skip


@given(st.lists(st.tuples(*[st.integers(0, (1 << 21) - 1)] * 3), min_size=1, max_size=20, unique=True))
def test_z_order(nodes: list[tuple[int, int, int]]) -> None:
    codes = multires_mesh.z_order(np.array(nodes))
    slow = [sum((value >> bit & 1) << (3 * bit + axis) for axis, value in enumerate(node) for bit in range(21))
            for node in nodes]  # fmt: skip
    assert codes.tolist() == slow
    assert multires_mesh._node_of(codes).tolist() == [list(node) for node in nodes]


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from((10, 16)))
def test_fragments_keep_integers(seed: int, bits: int) -> None:
    """Triangles come back with the same positions, whatever their order."""
    rng = np.random.default_rng(seed)
    vertices = rng.integers(0, 1 << bits, (12, 3), dtype=np.uint32)
    triangles = np.array([rng.permutation(12)[:3] for _ in range(9)], np.uint32)
    found, faces = multires_mesh.decode_fragment(multires_mesh.encode_fragment(vertices, triangles))
    assert _corners(found, faces) == _corners(vertices, triangles)


def _corners(vertices: np.ndarray, triangles: np.ndarray) -> list[tuple[tuple[int, ...], ...]]:
    found = []
    for corners in vertices[triangles].tolist():
        turned = [tuple(map(tuple, corners[k:] + corners[:k])) for k in range(3)]
        found.append(min(turned))
    return sorted(found)


def sphere(radius: float, center: float, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """A closed surface of about 4 * steps^2 triangles."""
    rows = [[center, center, center - radius]]
    for i in range(1, steps):
        a = np.pi * i / steps
        turn = 2 * np.pi * np.arange(2 * steps) / (2 * steps)
        ring = np.stack([np.sin(a) * np.cos(turn), np.sin(a) * np.sin(turn), np.full(2 * steps, -np.cos(a))], axis=1)
        rows += (center + radius * ring).tolist()
    rows.append([center, center, center + radius])
    n, last = 2 * steps, len(rows) - 1
    faces = [[0, 1 + (k + 1) % n, 1 + k] for k in range(n)]
    for i in range(steps - 2):
        for k in range(n):
            a, b = 1 + i * n + k, 1 + i * n + (k + 1) % n
            faces += [[a, b, b + n], [a, b + n, a + n]]
    faces += [[last, last - n + k, last - n + (k + 1) % n] for k in range(n)]
    return np.array(rows), np.array(faces, np.int32)


@pytest.mark.parametrize("bits", [10, 16])
@pytest.mark.parametrize("depth", [1, 2, 4])
def test_octree(depth: int, bits: int) -> None:
    levels = [sphere(900.5, 5000.25, steps) for steps in (40, 20, 10)]
    manifest_bytes, data = multires_mesh.encode(levels, [1, 2, 4], depth, bits)
    manifest = multires_mesh.read_manifest(manifest_bytes)
    info = MeshInfo(vertex_quantization_bits=bits)
    assert manifest.data_size == len(data)
    for lod, (positions, sizes) in enumerate(zip(manifest.positions, manifest.sizes, strict=True)):
        codes = multires_mesh.z_order(positions)
        assert all(a < b for a, b in pairwise(codes.tolist()))
        if lod + 1 < len(manifest.positions):
            parents = set(map(tuple, manifest.positions[lod + 1].tolist()))
            assert all(tuple(at // 2 for at in node) in parents for node in positions.tolist())
        parts = multires_mesh.decode(manifest, data, info, lod)
        assert len(parts) == int((sizes > 0).sum())
        step = float(manifest.chunk_shape[0]) * 2**lod / ((1 << bits) - 1)
        moved = [(vertices - manifest.grid_origin.astype(np.float64), faces) for vertices, faces in parts]
        vertices, triangles = welded(moved, step)
        assert is_closed(triangles, len(vertices))
        assert volume(vertices, triangles) == pytest.approx(volume(*levels[lod]), rel=0.02)
        if lod:
            _check_octants(manifest, data, lod, bits)


def _check_octants(manifest: Manifest, data: bytes, lod: int, bits: int) -> None:
    """No triangle has corners in two octants of its node, as the viewer tells octants apart."""
    at = sum(int(sizes.sum()) for sizes in manifest.sizes[:lod])
    middle = 1 << (bits - 1)
    for size in manifest.sizes[lod].tolist():
        if size:
            places, triangles = multires_mesh.decode_fragment(data[at : at + size])
            corners = places[triangles]
            assert ((corners <= middle).all(axis=1) | (corners >= middle).all(axis=1)).all()
            at += size


def test_parents_without_triangles_are_listed() -> None:
    far = (TETRAHEDRON[0] + 800, TETRAHEDRON[1])
    both = (np.concatenate([TETRAHEDRON[0], far[0]]), np.concatenate([TETRAHEDRON[1], far[1] + 4]))
    manifest_bytes, data = multires_mesh.encode([both, TETRAHEDRON], [1, 2], 3)
    manifest = multires_mesh.read_manifest(manifest_bytes)
    assert 0 in manifest.sizes[1].tolist()
    assert len(data) == manifest.data_size


def test_info() -> None:
    info = MeshInfo(sharding=sharding_for_keys(1000), others={"mip": 2})
    data = multires_mesh.write_info(info)
    assert multires_mesh.read_info(data) == info
    assert b"null" not in multires_mesh.write_info(MeshInfo())
    for change in (
        {"@type": "neuroglancer_legacy_mesh"},
        {"vertex_quantization_bits": 12},
        {"vertex_quantization_bits": None},
        {"transform": [1, 2]},
        {"lod_scale_multiplier": 0},
        {"sharding": {"@type": "x"}},
    ):
        with pytest.raises(BadRequest):
            multires_mesh.read_info(msgspec.json.encode(msgspec.json.decode(data) | change))
    with pytest.raises(BadRequest):
        multires_mesh.write_info(MeshInfo(vertex_quantization_bits=8))
    shifted = MeshInfo(transform=(2, 0, 0, 5, 0, 3, 0, 6, 0, 0, 4, 7))
    assert shifted.to_nm(np.array([[1, 1, 1]])).tolist() == [[7, 9, 11]]


def test_damaged_meshes() -> None:
    manifest_bytes, data = multires_mesh.encode([TETRAHEDRON], [1])
    manifest = multires_mesh.read_manifest(manifest_bytes)
    for wrong in (data[:-1], b"DRACO" + bytes(len(data) - 5)):
        with pytest.raises(BadRequest):
            multires_mesh.decode(manifest, wrong, MeshInfo())
    with pytest.raises(BadRequest, match="no lod 3"):
        multires_mesh.decode(manifest, data, MeshInfo(), 3)
    with pytest.raises(BadRequest):
        multires_mesh.encode([], [])
