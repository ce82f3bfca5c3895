"""Checking posted annotations against a JSON Schema (https://json-schema.org, drafts 4 to 2020-12).

Patterns are matched in linear time, so that no schema can keep the server busy; a schema whose patterns need more than
that cannot be used, as one that is no schema at all. References are not fetched from anywhere.
"""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from typing import Any

import jsonschema_rs

from fascicle.errors import BadRequest

_KEPT = 16
_LEAST, _BEYOND = -(1 << 63), 1 << 63
_DECIMAL = re.compile(r"[+-]?[0-9]+")
_lock = threading.Lock()
_compiled: OrderedDict[bytes, Any] = OrderedDict()


def _refused(uri: str) -> Any:
    raise ValueError(f"{uri} is not fetched")


def validator(schema: bytes) -> Any | None:
    """What checks documents against a schema; None if the schema cannot be used."""
    with _lock:
        if schema in _compiled:
            _compiled.move_to_end(schema)
            return _compiled[schema]
    found = _compile(schema)
    with _lock:
        _compiled[schema] = found
        while len(_compiled) > _KEPT:
            _compiled.popitem(last=False)
    return found


def _compile(schema: bytes) -> Any | None:
    try:
        return jsonschema_rs.validator_for(
            schema.decode(), retriever=_refused, pattern_options=jsonschema_rs.RegexOptions()
        )
    except (ValueError, jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError, RecursionError):
        return None


def check(schema: bytes, document: dict[str, Any]) -> dict[str, Any]:
    """The document, with numbers for texts at the top level where the schema wants integers. Raises BadRequest."""
    found = validator(schema)
    if found is None:
        return document
    try:
        return _checked(found, document)
    except ValueError as error:  # what the validator cannot look at, such as lists without end
        raise BadRequest(f"jsonschema: the annotation cannot be checked: {error}") from None


def _checked(found: Any, document: dict[str, Any]) -> dict[str, Any]:
    if found.is_valid(document):
        return document
    errors = list(found.iter_errors(document))
    repaired = dict(document)
    for error in errors:
        path = error.instance_path
        if len(path) == 1 and type(error.instance) is str and "integer" in _wanted_types(error):
            repaired[path[0]] = _integer(path[0], error.instance)
    if errors and all(len(error.instance_path) == 1 and error.instance_path[0] in repaired for error in errors):
        errors = list(found.iter_errors(repaired))
    if errors:
        raise _refusal(errors[0])
    return repaired


def _wanted_types(error: Any) -> list[str]:
    return list(getattr(error.kind, "types", None) or ())


def _integer(name: str, text: str) -> int:
    if len(text) <= 40 and _DECIMAL.fullmatch(text) and _LEAST <= int(text) < _BEYOND:
        return int(text)
    raise BadRequest(f"'/{name}' must be an integer according to the json_schema, not {text[:100]!r}")


def _refusal(error: Any) -> BadRequest:
    place = "".join(f"/{part}" for part in error.instance_path)
    rule = "".join(f"/{part}" for part in error.schema_path)
    return BadRequest(f"jsonschema: '{place}' does not validate with #{rule}: {error.message[:500]}")
