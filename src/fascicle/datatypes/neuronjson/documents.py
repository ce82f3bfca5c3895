"""Annotations as JSON text in one normal form, and parts of them.

An annotation is stored as a compact JSON object, members sorted by name, each value in normal form. So two values are
equal if their texts are:

* At the top level, and in arrays of nothing but numbers, an integer that fits 64 bits (unsigned, or signed when
  negative) is written exactly, any other number as a float, which shows that it is one (`5.0` differs from `5`).
* Inside of objects and of mixed arrays `5.0` and `5` are the same number, written `5`.
* Members of inner objects are sorted.

A member whose value is null is not stored.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from fascicle.errors import NOT_JSON, BadRequest

BODY_ID = "bodyid"
USER = "_user"
TIME = "_time"

Members = dict[str, bytes]
"""The values of a document in normal form, by name."""

_LEAST, _BEYOND = -(1 << 63), 1 << 64
_EXACT = 1 << 53
_DEEPEST = 200

_encode = msgspec.json.Encoder(order="sorted").encode
_decode = msgspec.json.Decoder(dict[str, Any]).decode
_decode_raw = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def is_bookkeeping(name: str) -> bool:
    """Whether a member says who set another one, or when."""
    return name.endswith((USER, TIME))


# -- normal form


def parsed(body: bytes) -> dict[str, Any]:
    """A document as a client sent it. Raises BadRequest."""
    try:
        return _decode(body)
    except NOT_JSON as error:
        raise BadRequest(f"an annotation must be a JSON object: {error}") from None


def members(document: dict[str, Any]) -> dict[str, bytes | None]:
    """The values of a parsed document in normal form; None stands for null. Raises BadRequest."""
    try:
        return {name: None if value is None else normal(value) for name, value in document.items()}
    except NOT_JSON as error:
        raise BadRequest(f"an annotation cannot be written as JSON: {error}") from None


def normal(value: Any) -> bytes:
    """The text of a member's value in normal form."""
    kind = type(value)
    if kind is str or kind is bool:
        return _encode(value)
    if kind is int:
        return _encode(value if _LEAST <= value < _BEYOND else float(value))
    if kind is list:
        if all(type(item) in (int, float) for item in value):
            return _numbers(value)
        return _encode([_inner(item) for item in value])
    if kind is dict:
        return _encode(_inner(value))
    return _encode(value)


def _numbers(values: list[int | float]) -> bytes:
    fitting = [value if type(value) is float or _LEAST <= value < _BEYOND else float(value) for value in values]
    if all(type(value) is int for value in fitting):
        return _encode(fitting)
    return _encode([float(value) for value in fitting])


def _inner(value: Any, depth: int = 0) -> Any:
    kind = type(value)
    if depth > _DEEPEST:
        raise BadRequest(f"a value has more than {_DEEPEST} objects or lists inside of each other")
    if kind is float:
        return int(value) if value.is_integer() and -_EXACT <= value <= _EXACT else value
    if kind is int:
        return value if _LEAST <= value < _BEYOND else float(value)
    if kind is list:
        return [_inner(item, depth + 1) for item in value]
    if kind is dict:
        return {name: _inner(item, depth + 1) for name, item in value.items()}
    return value


def stored_members(document: bytes) -> Members:
    """The values of a stored document by name."""
    return {name: bytes(value) for name, value in _decode_raw(document).items()}


def joined(parts: Iterable[tuple[str, bytes]]) -> bytes:
    """A document of members that are in order already."""
    return b"{" + b",".join([_encode(name) + b":" + value for name, value in parts]) + b"}"


def document_of(values: Members) -> bytes:
    """A document in normal form."""
    return joined(sorted(values.items()))


def name_text(name: str) -> bytes:
    """What stands before a member's value."""
    return _encode(name) + b":"


# -- parts


class Selection:
    """Which members of documents a request wants to see."""

    def __init__(self, show: str = "", fields: str = "") -> None:
        self.users = show in ("user", "all")
        self.times = show in ("time", "all")
        self.fields = frozenset(fields.split(",")) if fields else None
        self.everything = self.users and self.times and self.fields is None
        self.body_ids_only = fields == BODY_ID
        self._kept: dict[str, bool] = {}

    def keeps(self, name: str) -> bool:
        found = self._kept.get(name)
        if found is None:
            found = self._kept[name] = self._wants(name)
        return found

    def _wants(self, name: str) -> bool:
        if self.fields is None:
            return (self.users or not name.endswith(USER)) and (self.times or not name.endswith(TIME))
        return (
            name in self.fields
            or name == BODY_ID
            or (self.users and name.endswith(USER) and name[: -len(USER)] in self.fields)
            or (self.times and name.endswith(TIME) and name[: -len(TIME)] in self.fields)
        )

    def of(self, document: bytes) -> bytes:
        """The wanted part of a stored document."""
        if self.everything:
            return document
        keeps = self.keeps
        return joined([(name, bytes(value)) for name, value in _decode_raw(document).items() if keeps(name)])
