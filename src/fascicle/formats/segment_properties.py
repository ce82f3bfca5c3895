"""Neuroglancer's segment properties: what is known of segments, one JSON document for all of them.

Source: https://github.com/google/neuroglancer/blob/master/src/datasource/precomputed/segment_properties.md
There is no way to say that a value is missing: texts are empty then, and numbers are what the writer says they are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal

import msgspec

from fascicle.errors import BadRequest
from fascicle.formats.info_documents import read_object

SEGMENT_PROPERTIES = "neuroglancer_segment_properties"
NUMBERS = {
    "uint8": (0, 255), "int8": (-128, 127), "uint16": (0, 65535), "int16": (-32768, 32767),
    "uint32": (0, (1 << 32) - 1), "int32": (-(1 << 31), (1 << 31) - 1), "float32": (-3.4028235e38, 3.4028235e38),
}  # fmt: skip
MOST_TAGS = 65535
Kind = Literal["label", "description", "string", "number", "tags"]
_ONCE = ("label", "description", "tags")
_U64 = 1 << 64


class SegmentProperty(msgspec.Struct, frozen=True, kw_only=True):
    """One property of all segments: `values` has one for each."""

    id: str
    type: Kind
    values: Sequence[Any]
    """Texts, numbers, or of tags ascending indexes into `tags`."""
    description: str | None = None
    data_type: str | None = None
    """Of numbers."""
    tags: Sequence[str] | None = None
    tag_descriptions: Sequence[str] | None = None
    others: dict[str, Any] = {}


class SegmentProperties(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of segments."""

    ids: Sequence[int] = ()
    properties: Sequence[SegmentProperty] = ()
    others: dict[str, Any] = {}
    """Members of the info that are not known here."""


class _Document(msgspec.Struct, omit_defaults=True):
    """A property as it is written."""

    id: str
    type: str
    description: str | None = None
    data_type: str | None = None
    tags: Sequence[str] | None = None
    tag_descriptions: Sequence[str] | None = None
    values: Sequence[Any] = ()


# -- reading


def decode(data: bytes) -> SegmentProperties:
    """Read an info. BadRequest says what is wrong with it."""
    document = read_object(data)
    kind = document.pop("@type", None)
    if kind != SEGMENT_PROPERTIES:
        raise BadRequest(f"the info is that of a {kind}, not of segment properties ({SEGMENT_PROPERTIES})")
    inline = document.pop("inline", None)
    if inline is None:
        return SegmentProperties(others=document)
    if not isinstance(inline, dict):
        raise BadRequest("the info of segment properties: inline is not a JSON object")
    found = SegmentProperties(ids=_ids(inline.get("ids")), properties=_properties(inline), others=document)
    if wrong := _wrong(found):
        raise BadRequest(f"the info of segment properties: {wrong}")
    return found


def _ids(given: Any) -> list[int]:
    if not isinstance(given, list) or not all(isinstance(one, str) for one in given):
        raise BadRequest("the info of segment properties: ids is not a list of texts")
    for one in given:
        if not (one.isascii() and one.isdecimal() and int(one) < _U64):
            raise BadRequest(f"the info of segment properties: {one!r} is not the number of a segment")
    return [int(one) for one in given]


def _properties(inline: dict[str, Any]) -> list[SegmentProperty]:
    given = inline.get("properties")
    if not isinstance(given, list):
        raise BadRequest("the info of segment properties: properties is not a list")
    names = set(SegmentProperty.__struct_fields__) - {"others"}
    found = []
    for i, one in enumerate(given):
        if not isinstance(one, dict):
            raise BadRequest(f"the info of segment properties: property {i} is not a JSON object")
        known = {name: value for name, value in one.items() if name in names and value is not None}
        others = {name: value for name, value in one.items() if name not in names}
        try:
            found.append(msgspec.convert(known | {"others": others}, SegmentProperty))
        except msgspec.ValidationError as error:
            raise BadRequest(f"the info of segment properties: property {i}: {error}") from None
    return found


# -- writing


def encode(properties: SegmentProperties) -> bytes:
    """Write an info that every reader takes: BadRequest if some would not."""
    if wrong := _wrong(properties) or _unsafe(properties):
        raise BadRequest(f"the info of segment properties: {wrong}")
    inline = {
        "ids": [str(one) for one in properties.ids],
        "properties": [_document(one) for one in properties.properties],
    }
    return msgspec.json.encode({"@type": SEGMENT_PROPERTIES, **properties.others, "inline": inline})


def _document(one: SegmentProperty) -> Any:
    known = {name: getattr(one, name) for name in _Document.__struct_fields__}
    return msgspec.to_builtins(_Document(**known)) | one.others if one.others else _Document(**known)


# -- checking


def _wrong(found: SegmentProperties) -> str:
    """What makes the document meaningless."""
    if len(set(found.ids)) != len(found.ids):
        return "a segment is named twice"
    seen: set[str] = set()
    for one in found.properties:
        if one.id in seen:
            return f"there are two properties {one.id!r}"
        seen.add(one.id)
        if len(one.values) != len(found.ids):
            return f"property {one.id!r} has {len(one.values)} values for {len(found.ids)} segments"
        check = _wrong_number if one.type == "number" else _wrong_tags if one.type == "tags" else _wrong_text
        if wrong := check(one):
            return f"property {one.id!r}: {wrong}"
    return ""


def _wrong_text(one: SegmentProperty) -> str:
    for value in one.values:
        if not isinstance(value, str):
            return f"{value!r} is not a text"
    return ""


def _wrong_number(one: SegmentProperty) -> str:
    limits = NUMBERS.get(one.data_type or "")
    if limits is None:
        return f"data_type is {one.data_type!r}, none of {', '.join(NUMBERS)}"
    low, high = limits
    whole = one.data_type != "float32"
    for value in one.values:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return f"{value!r} is not a number"
        if not math.isfinite(value) or not low <= value <= high:
            return f"{value!r} is out of range of {one.data_type}"
        if whole and value != int(value):
            return f"{value!r} is not of the type {one.data_type}"
    return ""


def _wrong_tags(one: SegmentProperty) -> str:
    tags = one.tags
    if tags is None:
        return "it has no list of tags"
    if one.tag_descriptions is not None and len(one.tag_descriptions) != len(tags):
        return f"there are {len(one.tag_descriptions)} tag_descriptions of {len(tags)} tags"
    if len({tag.lower() for tag in tags}) != len(tags):
        return "a tag is named twice"
    for value in one.values:
        if not isinstance(value, (list, tuple)) or not all(type(i) is int and 0 <= i < len(tags) for i in value):
            return f"{value!r} is not a list of indexes of tags"
        if any(a >= b for a, b in pairwise(value)):
            return f"the indexes {value!r} do not ascend"
    return ""


def _unsafe(found: SegmentProperties) -> str:
    """What some readers refuse, or read wrongly."""
    for kind in _ONCE:
        if sum(one.type == kind for one in found.properties) > 1:
            return f"there may be one property of type {kind}"
    for one in found.properties:
        if not one.id:
            return "a property has no id"
        for tag in one.tags or ():
            if not tag or any(c.isspace() for c in tag) or tag.startswith("#"):
                return f"the tag {tag!r} is empty, has a space in it or begins with #"
        if len(one.tags or ()) > MOST_TAGS:
            return f"{len(one.tags or ())} tags are more than {MOST_TAGS}"
        if one.type != "number" and one.data_type is not None:
            return f"property {one.id!r} is no number and has a data_type"
    for identifier in found.ids:
        if not 0 <= identifier < _U64:
            return f"{identifier} is not the number of a segment"
    return ""
