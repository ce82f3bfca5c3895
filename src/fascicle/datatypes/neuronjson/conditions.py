"""The query language: what a query asks of annotations, as values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from fascicle.datatypes.neuronjson import patterns
from fascicle.datatypes.neuronjson.documents import BODY_ID, normal
from fascicle.errors import NOT_JSON, BadRequest

_LEAST, _BEYOND = -(1 << 63), 1 << 64
_PATTERN = "re/"
_EXISTS = "exists/"


@dataclass(frozen=True, slots=True)
class Exists:
    """A member is there, or is not."""

    wanted: bool


@dataclass(frozen=True, slots=True)
class Among:
    """A member is one of some values, or an array that contains one of them; or a text in which a pattern is found."""

    values: frozenset[bytes] = frozenset()
    """Texts of values in normal form: integers with the floats that equal them, strings, floats."""
    elements: frozenset[bytes] = frozenset()
    """Texts of what arrays of integers or strings may contain."""
    patterns: tuple[str, ...] = ()
    """Regular expressions; one that is none has become a value."""


Condition = Exists | Among


@dataclass(frozen=True, slots=True)
class Query:
    """Alternatives, each of which is conditions by the name of a member; all of them must hold."""

    alternatives: tuple[dict[str, Condition], ...]
    body_ids: tuple[int, ...] | None = None
    """If nothing but bodies is asked for: these, in this order."""


def parsed(body: bytes) -> Query:
    """The query in a request's body. Raises BadRequest."""
    try:
        given = msgspec.json.decode(body)
    except NOT_JSON:
        raise BadRequest(f"unable to parse JSON query: {body[:200].decode('utf-8', 'replace')}") from None
    if given is None or given == []:
        raise BadRequest("no query provided")
    objects = given if isinstance(given, list) else [given]
    if not all(isinstance(one, dict) for one in objects):
        raise BadRequest(f"unable to parse JSON query: {body[:200].decode('utf-8', 'replace')}")
    if not any(objects):
        return Query(())
    body_ids = _body_ids(objects)
    if body_ids is not None:
        return Query((), body_ids)
    return Query(tuple({name: _condition(value) for name, value in one.items()} for one in objects))


def _is_integer(value: Any) -> bool:
    return type(value) is int and _LEAST <= value < _BEYOND


def _body_ids(objects: list[dict[str, Any]]) -> tuple[int, ...] | None:
    found: list[int] = []
    for one in objects:
        if set(one) != {BODY_ID}:
            return None
        wanted = one[BODY_ID] if isinstance(one[BODY_ID], list) else [one[BODY_ID]]
        if not all(_is_integer(value) for value in wanted):
            return None
        found += wanted
    return tuple(body for body in found if body >= 0)


def _condition(value: Any) -> Condition:
    if type(value) is str:
        if value.startswith(_EXISTS) and len(value) > len(_EXISTS):
            return Exists(value[len(_EXISTS)] != "0")
        return _of_texts([value])
    if _is_integer(value):
        return _of_integers([value])
    if type(value) is list and value:
        if all(type(item) is str for item in value):
            return _of_texts(value)
        if all(_is_integer(item) for item in value):
            return _of_integers(value)
        if all(type(item) in (int, float) for item in value):
            fractional = [item for item in value if type(item) is float and not item.is_integer()]
            return Among(frozenset(map(normal, fractional)))
    return Among()


def _of_texts(texts: list[str]) -> Among:
    plain, found = [], []
    for text in texts:
        pattern = text.removeprefix(_PATTERN)
        if pattern != text and patterns.finder(pattern) is not None:
            found.append(pattern)
        else:
            plain.append(text)
    encoded = frozenset(map(normal, plain))
    return Among(encoded, encoded, tuple(found))


def _of_integers(values: list[int]) -> Among:
    exact = frozenset(map(normal, values))
    floats = frozenset(normal(float(value)) for value in values if float(value) == value)
    return Among(exact | floats, exact)
