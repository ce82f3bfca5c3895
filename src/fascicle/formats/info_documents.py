"""What the infos of all precomputed directories have in common: they are JSON objects, and may have unknown members.

Source: https://github.com/google/neuroglancer/tree/master/src/datasource/precomputed
A struct for such a document has a field `others` for the members that it does not know.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec

from fascicle.errors import NOT_JSON, BadRequest

IDENTITY = (1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0)
"""The transform of positions that are in nanometres: 3 x 4 numbers, row by row."""
_NOT_MEMBERS = {"others", "problem"}
"""Fields that say something about a document, and do not stand in it."""
_Kind = TypeVar("_Kind", bound=msgspec.Struct)


def read_object(data: bytes, name: str = "the info") -> dict[str, Any]:
    """The members of a JSON object. BadRequest if it is none."""
    try:
        document = msgspec.json.decode(data)
    except NOT_JSON as error:
        raise BadRequest(f"{name} is not JSON: {error}") from None
    if not isinstance(document, dict):
        raise BadRequest(f"{name} is not a JSON object")
    return document


def write_object(members: dict[str, Any]) -> bytes:
    """A JSON object, indented, as all infos are written."""
    return msgspec.json.format(msgspec.json.encode(members), indent=2) + b"\n"


def split(document: dict[str, Any], kind: type[msgspec.Struct]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Members that a struct has, and the others. Nulls count as absent."""
    names = set(kind.__struct_fields__) - _NOT_MEMBERS
    known = {name: value for name, value in document.items() if name in names and value is not None}
    return known, {name: value for name, value in document.items() if name not in names}


def convert(members: dict[str, Any], kind: type[_Kind], name: str) -> _Kind:
    """A struct from its members. BadRequest if one has a wrong type or is missing."""
    try:
        return msgspec.convert(members, kind)
    except msgspec.ValidationError as error:
        raise BadRequest(f"{name}: {error}") from None


def whole(value: Any) -> Any:
    """Numbers as 8.0, which JSON does not tell from 8, as integers, also in lists."""
    if isinstance(value, (list, tuple)):
        return [whole(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def transform_problem(transform: Sequence[float]) -> str:
    """What is wrong with a transform of positions; empty if nothing is."""
    if len(transform) != len(IDENTITY) or not all(map(math.isfinite, transform)):
        return f"the transform is {list(transform)}, not {len(IDENTITY)} numbers"
    return ""
