"""The info of annotations: read, written, refused."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from fascicle.errors import BadRequest
from fascicle.formats import annotation_info as ai

SHARDING = {"@type": "neuroglancer_uint64_sharded_v1", "preshift_bits": 0, "hash": "murmurhash3_x86_128",
            "minishard_bits": 1, "shard_bits": 1,
            "minishard_index_encoding": "gzip", "data_encoding": "gzip"}  # fmt: skip
DOCUMENT: dict[str, Any] = {
    "@type": "neuroglancer_annotations_v1",
    "dimensions": {"x": [8e-9, "m"], "y": [8e-9, "m"], "z": [40e-9, "m"]},
    "lower_bound": [0, 0, 0], "upper_bound": [1000, 900, 700],
    "annotation_type": "LINE",
    "properties": [
        {"id": "conf", "type": "float32", "description": "confidence"},
        {"id": "kind", "type": "uint8", "enum_values": [0, 1], "enum_labels": ["pre", "post"]},
    ],
    "relationships": [{"key": "rel_pre", "id": "pre"}, {"key": "rel_post", "id": "post", "sharding": SHARDING}],
    "by_id": {"key": "by_id"},
    "spatial": [
        {"key": "spatial0", "grid_shape": [1, 1, 1], "chunk_size": [1000, 900, 700], "limit": 1000},
        {"key": "spatial1", "grid_shape": [2, 2, 1], "chunk_size": [500, 450, 700], "limit": 9, "sharding": SHARDING},
    ],
}  # fmt: skip


def changed(**members: Any) -> dict[str, Any]:
    return json.loads(json.dumps(DOCUMENT | members))  # type: ignore[no-any-return]


def test_both_directions() -> None:
    info = ai.from_document(changed())
    assert json.loads(ai.encode(info)) == DOCUMENT
    assert ai.decode(ai.encode(info)) == info
    assert info.rank == 3
    assert info.spatial[1].sharding is not None


def test_what_readers_forgive() -> None:
    """Capitals, nulls, floats that are whole, members that nobody knows, other ranks."""
    given = changed(annotation_type="polyline", note={"a": 1})
    given["by_id"]["sharding"] = None
    given["spatial"][0]["limit"] = 1000.0
    given["properties"].append({"id": "seen", "type": "bool"})
    info = ai.from_document(given)
    assert info.annotation_type == "POLYLINE"
    assert info.others == {"note": {"a": 1}}
    with pytest.raises(BadRequest, match="bool"):
        ai.encode(info)
    flat = changed(dimensions={"t": [1, ""]}, lower_bound=[0], upper_bound=[1], spatial=[])
    assert ai.from_document(flat).rank == 1


@pytest.mark.parametrize(
    ("members", "word"),
    [
        ({"@type": "neuroglancer_skeletons"}, "neuroglancer_skeletons"),
        ({"annotation_type": "SPHERE"}, "SPHERE"),
        ({"dimensions": {}}, "no dimensions"),
        ({"dimensions": {"x": [0, "m"], "y": [1, "m"], "z": [1, "m"]}}, "'x'"),
        ({"dimensions": 5}, "dimensions"),
        ({"upper_bound": [1, 2]}, "upper_bound"),
        ({"relationships": None}, "relationships"),
        ({"by_id": None}, "by_id"),
        ({"properties": [{"id": "Conf", "type": "uint8"}]}, "Conf"),
        ({"properties": [{"id": "a", "type": "uint64"}]}, "uint64"),
        ({"properties": [{"id": "a", "type": "uint8"}, {"id": "a", "type": "int8"}]}, "two properties"),
        ({"properties": [{"id": "a", "type": "uint8", "enum_values": [1]}]}, "together"),
        ({"properties": [{"id": "a", "type": "rgb", "enum_values": [1], "enum_labels": ["x"]}]}, "colors"),
        ({"spatial": [DOCUMENT["spatial"][0] | {"limit": 0}]}, "limit"),
        ({"spatial": [DOCUMENT["spatial"][0] | {"grid_shape": [1, 1]}]}, "grid_shape"),
        ({"spatial": [DOCUMENT["spatial"][0] | {"chunk_size": [1, 1, 0]}]}, "chunk_size"),
        ({"spatial": [DOCUMENT["spatial"][0] | {"sharding": {"@type": "x"}}]}, "shard"),
        ({"relationships": [{"key": "a"}]}, "has no id"),
        ({"relationships": [{"key": "a", "id": "r"}, {"key": "b", "id": "r"}]}, "two relationships"),
    ],
)
def test_refused(members: dict[str, Any], word: str) -> None:
    with pytest.raises(BadRequest, match=word):
        ai.from_document(changed(**members))


def test_no_json() -> None:
    for data in (b"", b"[]", b"\xff", b"[" * 100_000):
        with pytest.raises(BadRequest):
            ai.decode(data)


def test_unsafe_to_write() -> None:
    info = ai.from_document(changed())
    for wrong, word in (
        (msgspec.structs.replace(info, properties=info.properties[::-1]), "conf, kind"),
        (msgspec.structs.replace(info, spatial=()), "spatial"),
        (msgspec.structs.replace(info, by_id=ai.Index(key="../x")), "relative"),
        (msgspec.structs.replace(info, by_id=ai.Index(key="spatial0")), "several"),
        (msgspec.structs.replace(info, upper_bound=(2000.0, 900.0, 700.0)), "upper bound"),
    ):
        with pytest.raises(BadRequest, match=word):
            ai.encode(wrong)


def test_order_of_records() -> None:
    kinds = ["uint8", "float32", "rgb", "uint16", "uint32", "rgba", "int8", "int16"]
    ordered = ai.in_record_order(ai.Property(id=f"p{i}", type=kind) for i, kind in enumerate(kinds))
    assert [one.id for one in ordered] == ["p1", "p4", "p3", "p7", "p0", "p2", "p5", "p6"]
