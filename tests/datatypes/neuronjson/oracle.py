"""The query language, member by member, as slowly and plainly as it can be said: what the tables are compared with."""

from __future__ import annotations

import json
from typing import Any

import re2

LEAST, BEYOND = -(1 << 63), 1 << 64


def is_integer(value: Any) -> bool:
    return type(value) is int and LEAST <= value < BEYOND


def texts_fit(wanted: list[str], have: Any) -> bool:
    if isinstance(have, str):
        have = [have]
    if not isinstance(have, list) or not all(isinstance(item, str) or item is None for item in have):
        return False
    for text in wanted:
        pattern = None
        if text.startswith("re/"):
            options = re2.Options()
            options.log_errors = False
            try:
                pattern = re2.compile(text[3:], options)
            except re2.error:
                pattern = None
        for item in have:
            if item is not None and (item == text if pattern is None else pattern.search(item) is not None):
                return True
    return False


def integers_fit(wanted: list[int], have: Any) -> bool:
    if isinstance(have, bool):
        return False
    if isinstance(have, int | float):
        return have in wanted
    if isinstance(have, list) and all(item is None or is_integer(item) for item in have):
        return any(item in wanted for item in have if item is not None)
    return False


def fits(condition: Any, document: dict[str, Any], name: str) -> bool:
    if isinstance(condition, str) and condition.startswith("exists/") and len(condition) > 7:
        return (name in document) == (condition[7] != "0")
    if name not in document:
        return False
    have = document[name]
    if isinstance(condition, str):
        return texts_fit([condition], have)
    if is_integer(condition):
        return integers_fit([condition], have)
    if isinstance(condition, list) and condition:
        if all(isinstance(item, str) for item in condition):
            return texts_fit(condition, have)
        if all(is_integer(item) for item in condition):
            return integers_fit(condition, have)
        if all(type(item) in (int, float) for item in condition):
            fractional = [item for item in condition if type(item) is float and item != int(item)]
            return type(have) is float and have in fractional
    return False


def asked(query: Any, documents: dict[int, dict[str, Any]]) -> list[int]:
    """The bodies that a query finds, ascending; for queries that use more than `bodyid`."""
    alternatives = query if isinstance(query, list) else [query]
    if not any(alternatives):
        return []
    return [
        body
        for body, document in sorted(documents.items())
        if any(all(fits(condition, document, name) for name, condition in one.items()) for one in alternatives)
    ]


def text(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()
