"""Segment properties: golden bytes, both directions, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fascicle.errors import BadRequest
from fascicle.formats import segment_properties as sp
from fascicle.formats.segment_properties import SegmentProperties, SegmentProperty

GOLDEN = (
    b'{"@type":"neuroglancer_segment_properties","inline":{"ids":["1000","9007199254740993"],"properties":['
    b'{"id":"name","type":"label","values":["A","B"]},'
    b'{"id":"note","type":"description","values":["x",""]},'
    b'{"id":"class","type":"string","description":"cell class","values":["k1","k2"]},'
    b'{"id":"tags","type":"tags","tags":["big","small"],"tag_descriptions":["r>30",""],"values":[[0],[0,1]]},'
    b'{"id":"voxels","type":"number","description":"size","data_type":"float32","values":[113081,65267]}]}}'
)


def test_golden_bytes() -> None:
    found = sp.decode(GOLDEN)
    assert list(found.ids) == [1000, 9007199254740993]
    assert sp.encode(found) == GOLDEN


def test_nothing_inline() -> None:
    assert sp.decode(b'{"@type":"neuroglancer_segment_properties"}') == SegmentProperties()
    assert sp.decode(sp.encode(SegmentProperties())) == SegmentProperties(ids=[], properties=[])


def test_unknown_members_are_kept() -> None:
    document = json.loads(GOLDEN)
    document["by"] = "somebody"
    document["inline"]["properties"][0]["color"] = 1
    found = sp.decode(json.dumps(document).encode())
    assert json.loads(sp.encode(found)) == document


texts = st.text(max_size=8)
words = st.text("abcdefgh0123_:/", min_size=1, max_size=6)


@st.composite
def documents(draw: st.DrawFn) -> SegmentProperties:
    ids = draw(st.lists(st.integers(0, (1 << 64) - 1), unique=True, max_size=5))
    n = len(ids)

    def column(values: st.SearchStrategy[Any]) -> list[Any]:
        return draw(st.lists(values, min_size=n, max_size=n))

    made = [
        SegmentProperty(id="l", type="label", values=column(texts)),
        SegmentProperty(id="d", type="description", values=column(texts)),
        SegmentProperty(id="s", type="string", values=column(texts), description=draw(st.none() | texts)),
    ]
    kind = draw(st.sampled_from([*sp.NUMBERS]))
    low, high = sp.NUMBERS[kind]
    numbers: Any = st.floats(width=32, allow_nan=False, allow_infinity=False)
    if kind != "float32":
        numbers = st.integers(int(low), int(high))
    made.append(SegmentProperty(id="n", type="number", values=column(numbers), data_type=kind))
    tags = draw(st.lists(words, unique=True, max_size=4))
    places = st.lists(st.sampled_from(range(len(tags))), unique=True).map(sorted) if tags else st.just([])
    made.append(SegmentProperty(id="t", type="tags", values=column(places), tags=tags))
    kept = draw(st.lists(st.sampled_from(made), unique_by=lambda one: one.id))
    return SegmentProperties(ids=ids, properties=kept)


@given(documents())
def test_both_directions(document: SegmentProperties) -> None:
    assert sp.decode(sp.encode(document)) == document


def changed(property: dict[str, Any] | None = None, **inline: Any) -> bytes:
    document = json.loads(GOLDEN)
    document["inline"] |= inline
    if property is not None:
        document["inline"]["properties"] = [{"id": "a", "type": "string", "values": ["", ""]} | property]
    return json.dumps(document).encode()


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"", "JSON"),
        (b"[]", "object"),
        (b'{"@type":"neuroglancer_skeletons"}', "neuroglancer_skeletons"),
        (b'{"@type":"neuroglancer_segment_properties","inline":[]}', "inline"),
        (changed(ids=[1, 2]), "texts"),
        (changed(ids=["1", "x"]), "'x'"),
        (changed(ids=["1", "-2"]), "'-2'"),
        (changed(ids=["1", str(1 << 64)]), "number of a segment"),
        (changed(ids=["1", "1"]), "twice"),
        (changed(ids=["1"]), "2 values for 1"),
        (changed(properties=None), "properties"),
        (changed({"type": "list"}), "type"),
        (changed({"values": [1, ""]}), "not a text"),
        (changed({"type": "number", "data_type": "uint64", "values": [1, 2]}), "uint64"),
        (changed({"type": "number", "data_type": "uint8", "values": [1, 256]}), "out of range"),
        (changed({"type": "number", "data_type": "uint8", "values": [1, 2.5]}), "2.5"),
        (changed({"type": "number", "data_type": "int8", "values": [1, None]}), "None"),
        (changed({"type": "tags", "values": [[], []]}), "no list of tags"),
        (changed({"type": "tags", "tags": ["a"], "values": [[], [1]]}), "indexes"),
        (changed({"type": "tags", "tags": ["a", "b"], "values": [[1, 0], []]}), "ascend"),
        (changed({"type": "tags", "tags": ["a", "A"], "values": [[], []]}), "twice"),
    ],
)
def test_refused(data: bytes, word: str) -> None:
    with pytest.raises(BadRequest, match=word):
        sp.decode(data)


def test_unsafe_to_write() -> None:
    label = SegmentProperty(id="a", type="label", values=["x"])
    for properties, word in (
        ([label, msgspec.structs.replace(label, id="b")], "one property of type label"),
        ([SegmentProperty(id="t", type="tags", tags=["a b"], values=[[0]])], "space"),
        ([SegmentProperty(id="t", type="tags", tags=["#a"], values=[[0]])], "#"),
        ([SegmentProperty(id="", type="string", values=["x"])], "no id"),
        ([SegmentProperty(id="t", type="number", data_type="float32", values=[float("nan")])], "out of range"),
    ):
        with pytest.raises(BadRequest, match=word):
            sp.encode(SegmentProperties(ids=[1], properties=properties))
