"""Precomputed skeletons: golden bytes, both directions, and what is refused."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fascicle.errors import BadRequest
from fascicle.formats import skeleton as skeletons
from fascicle.formats.sharding import sharding_for_keys
from fascicle.formats.skeleton import RADIUS, Attribute, Skeleton, SkeletonInfo

ATTRIBUTES = (RADIUS, Attribute(id="direction", num_components=3))


def _three() -> Skeleton:
    vertices = np.array([[1, 2, 3], [4, 5, 6], [7, 8, 9]], np.float32)
    edges = np.array([[0, 1], [1, 2]], np.uint32)
    return Skeleton(vertices, edges, {"radius": np.array([1, 2, 3], np.float32)})


def test_golden_bytes() -> None:
    data = skeletons.encode(_three(), [RADIUS])
    assert len(data) == 72
    assert data == struct.pack("<II9f4I3f", 3, 2, *range(1, 10), 0, 1, 1, 2, 1, 2, 3)
    back = skeletons.decode(data, [RADIUS])
    assert np.array_equal(back.edges, [[0, 1], [1, 2]])
    assert np.array_equal(back.radii, [1, 2, 3])
    assert back.length == pytest.approx(2 * 27**0.5)


@st.composite
def any_skeleton(draw: st.DrawFn) -> Skeleton:
    count = draw(st.integers(1, 12))
    number = st.floats(-1e6, 1e6, width=32)
    vertices = draw(st.lists(st.tuples(number, number, number), min_size=count, max_size=count))
    edges = draw(st.lists(st.tuples(st.integers(0, count - 1), st.integers(0, count - 1)), max_size=12))
    values = draw(st.lists(number, min_size=4 * count, max_size=4 * count))
    attributes = {
        "radius": np.array(values[:count], np.float32),
        "direction": np.array(values[count:], np.float32).reshape(count, 3),
    }
    return Skeleton(np.array(vertices, np.float32), np.array(edges, np.uint32).reshape(-1, 2), attributes)


@given(any_skeleton())
def test_there_and_back(skeleton: Skeleton) -> None:
    data = skeletons.encode(skeleton, ATTRIBUTES)
    back = skeletons.decode(data, ATTRIBUTES)
    assert np.array_equal(back.vertices, skeleton.vertices)
    assert np.array_equal(back.edges, skeleton.edges)
    assert all(np.array_equal(back.attributes[name], values) for name, values in skeleton.attributes.items())
    assert skeletons.encode(back, ATTRIBUTES) == data
    with pytest.raises(BadRequest):
        skeletons.decode(data[:-1], ATTRIBUTES)
    with pytest.raises(BadRequest):
        skeletons.decode(data + b"\0", ATTRIBUTES)


def test_attributes_of_others_are_read() -> None:
    kinds = (RADIUS, Attribute(id="vertex_types", data_type="uint8"))
    skeleton = _three()
    skeleton.attributes["vertex_types"] = np.array([1, 2, 255], np.uint8)
    back = skeletons.decode(skeletons.encode(skeleton, kinds), kinds)
    assert back.attributes["vertex_types"].tolist() == [1, 2, 255]


def test_points_without_edges_are_legal() -> None:
    lone = Skeleton(np.zeros((1, 3), np.float32), np.zeros((0, 2), np.uint32))
    assert len(skeletons.decode(skeletons.encode(lone, []), []).vertices) == 1


@pytest.mark.parametrize("edges", [[[0, 3]], [[7, 1]]])
def test_edges_to_nowhere_are_refused(edges: list[list[int]]) -> None:
    broken = Skeleton(_three().vertices, np.array(edges, np.uint32))
    with pytest.raises(BadRequest, match="vertex"):
        skeletons.encode(broken, [])
    data = bytearray(skeletons.encode(Skeleton(broken.vertices, np.array([[0, 1]], np.uint32)), []))
    data[-4:] = struct.pack("<I", 3)
    with pytest.raises(BadRequest, match="vertex 3 of a skeleton of 3"):
        skeletons.decode(bytes(data), [])


def test_missing_attributes_are_refused() -> None:
    with pytest.raises(BadRequest, match="needs 9 values of 'direction'; it has none"):
        skeletons.encode(_three(), ATTRIBUTES)


def test_info_there_and_back() -> None:
    info = SkeletonInfo(
        transform=(8.0, 0.0, 0.0, 1.5, 0.0, 8.0, 0.0, 0.0, 0.0, 0.0, 8.0, 0.0),
        vertex_attributes=ATTRIBUTES,
        sharding=sharding_for_keys(10**6),
        segment_properties="../properties",
        others={"note": 1},
    )
    data = skeletons.write_info(info)
    assert skeletons.read_info(data) == info
    assert json.loads(data)["@type"] == "neuroglancer_skeletons"


def test_info_without_sharding_does_not_mention_it() -> None:
    document = json.loads(skeletons.write_info(SkeletonInfo(vertex_attributes=(RADIUS,))))
    assert document == {
        "@type": "neuroglancer_skeletons",
        "transform": [1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0],
        "vertex_attributes": [{"id": "radius", "data_type": "float32", "num_components": 1}],
    }
    document["sharding"] = None
    assert skeletons.read_info(json.dumps(document).encode()).sharding is None


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"transform": [1, 2]}, "not 12 numbers"),
        ({"vertex_attributes": [{"id": ""}]}, "no id"),
        ({"vertex_attributes": [{"id": "a"}, {"id": "a"}]}, "two attributes"),
        ({"vertex_attributes": [{"id": "a", "data_type": "float64"}]}, "float64"),
        ({"vertex_attributes": [{"id": "a", "num_components": 0}]}, "0 components"),
        ({"vertex_attributes": 3}, "Expected `array`"),
        ({"sharding": {"hash": "md5"}}, "sharding"),
        ({"@type": "neuroglancer_legacy_mesh"}, "neuroglancer_legacy_mesh"),
    ],
)
def test_infos_that_make_no_sense_are_refused(members: dict[str, object], message: str) -> None:
    document = {"@type": "neuroglancer_skeletons"} | members
    with pytest.raises(BadRequest, match=message):
        skeletons.read_info(json.dumps(document).encode())


def test_attributes_that_viewers_refuse_are_not_written() -> None:
    info = SkeletonInfo(vertex_attributes=(Attribute(id="vertex_types", data_type="uint8"),))
    with pytest.raises(BadRequest, match="float32 only"):
        skeletons.write_info(info)
    for data in (b"", b"[]", b"\xff", b'{"@type": 1}'):
        with pytest.raises(BadRequest):
            skeletons.read_info(data)


def test_transform() -> None:
    moved = skeletons.transformed(_three(), (2, 0, 0, 1, 0, 3, 0, 0, 0, 0, 4, 0))
    assert moved.vertices[0].tolist() == [3, 6, 12]
    same = _three()
    assert skeletons.transformed(same, skeletons.IDENTITY) is same
