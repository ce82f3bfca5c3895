"""Single-resolution meshes: golden bytes, round trips, damaged input."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from fascicle.errors import BadRequest
from fascicle.formats import legacy_mesh

GOLDEN = bytes.fromhex(
    "03000000"
    "000000000000000000000000"  # 0 0 0
    "0000803f0000000000000000"  # 1 0 0
    "0000000000000040000040c0"  # 0 2 -3
    "000000000100000002000000"
)


def test_golden_bytes() -> None:
    vertices = np.array([[0, 0, 0], [1, 0, 0], [0, 2, -3]], np.float64)
    assert legacy_mesh.encode(vertices, np.array([[0, 1, 2]])) == GOLDEN
    found, triangles = legacy_mesh.decode(GOLDEN)
    assert np.array_equal(found, vertices)
    assert triangles.tolist() == [[0, 1, 2]]
    assert legacy_mesh.write_manifest(["7:0:0"]) == b'{"fragments":["7:0:0"]}'
    assert legacy_mesh.manifest_name(7) == "7:0"
    assert legacy_mesh.fragment_name(7) == "7:0:0"


@given(
    arrays.arrays(np.float32, st.tuples(st.integers(1, 20), st.just(3)), elements=st.floats(-1e6, 1e6, width=32)),
    st.lists(st.tuples(*[st.integers(0, 10**6)] * 3), max_size=20),
)
def test_round_trip(vertices: np.ndarray, corners: list[tuple[int, ...]]) -> None:
    triangles = np.array(corners, np.uint32).reshape(-1, 3) % len(vertices)
    found, faces = legacy_mesh.decode(legacy_mesh.encode(vertices, triangles))
    assert np.array_equal(found, vertices)
    assert np.array_equal(faces, triangles)


@given(st.lists(st.text(st.characters(blacklist_characters="/", blacklist_categories=["Cs"]), min_size=1)))
def test_manifests(names: list[str]) -> None:
    assert legacy_mesh.read_manifest(legacy_mesh.write_manifest(names)) == names


@pytest.mark.parametrize(
    "data", [b"", b"\1\0\0", GOLDEN[:-1], GOLDEN[:-12] + b"\3" + bytes(11), b"\xff" * 40], ids=len
)
def test_damaged_fragments(data: bytes) -> None:
    with pytest.raises(BadRequest):
        legacy_mesh.decode(data)


@pytest.mark.parametrize("data", [b"", b"[]", b'{"fragments":3}', b'{"fragments":[3]}', b"{}", b"\xff"])
def test_damaged_manifests(data: bytes) -> None:
    with pytest.raises(BadRequest):
        legacy_mesh.read_manifest(data)


def test_info() -> None:
    assert legacy_mesh.read_info(legacy_mesh.write_info()) == {}
    assert legacy_mesh.read_info(legacy_mesh.write_info("names")) == {"segment_properties": "names"}
    for data in (b"[]", b"x", b"{}", b'{"@type":"neuroglancer_skeletons"}'):
        with pytest.raises(BadRequest):
            legacy_mesh.read_info(data)


def test_what_is_not_written() -> None:
    with pytest.raises(BadRequest, match="vertex 3"):
        legacy_mesh.encode(np.zeros((3, 3)), np.array([[0, 1, 3]]))
    with pytest.raises(BadRequest):
        legacy_mesh.write_manifest(["a/b"])


def test_fragments_put_together() -> None:
    vertices, triangles = legacy_mesh.joined([legacy_mesh.decode(GOLDEN)] * 2)
    assert len(vertices) == 6
    assert triangles.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert not len(legacy_mesh.joined([])[0])
