"""Settings that instances of every datatype have: versioned or not, compression, checksum, tags."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from fascicle.errors import BadRequest

_CHECKSUMS = frozenset({"none", "crc32"})


def as_texts(document: Mapping[str, Any]) -> dict[str, str]:
    """Settings of a JSON object as texts, without those that are null."""
    return {name: as_text(name, value) for name, value in document.items() if value is not None}


def as_text(name: str, value: Any) -> str:
    """A setting as text: numbers, booleans and lists of numbers are taken, too."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return f"{value:g}" if isinstance(value, float) else str(value)
    if isinstance(value, list) and all(isinstance(part, int | float | str) for part in value):
        return ",".join(as_text(name, part) for part in value)
    raise BadRequest(f"Setting for '{name}' was not a string: {msgspec.json.encode(value).decode()}")


def versioned(text: str) -> bool:
    """Whether each version has data of its own; so it is if nothing is said."""
    if text.lower() in ("true", "1", "t", ""):
        return True
    if text.lower() in ("false", "0", "f"):
        return False
    raise BadRequest(f"'versioned' must be true or false, not {text!r}")


def compression(text: str) -> str:
    """none, snappy, lz4, gzip, gzip:N, jpeg or jpeg:N; nothing if nothing is said."""
    if not text:
        return ""
    name, _, level = text.lower().partition(":")
    levels = {"gzip": range(1, 10), "jpeg": range(1, 101)}.get(name, range(0))
    if name not in ("none", "snappy", "lz4", "gzip", "jpeg") or (
        level and not (level.isdecimal() and int(level) in levels)
    ):
        raise BadRequest(f"Illegal compression specified: {text}")
    return text.lower()


def checksum(text: str) -> str:
    """none or crc32; nothing if nothing is said."""
    if text and text.lower() not in _CHECKSUMS:
        raise BadRequest(f"Illegal checksum specified: {text}")
    return text.lower()


def tags(text: str) -> dict[str, str] | None:
    """The tags that `name1=value1,name2=value2` says, or None."""
    found = {}
    for part in text.split(","):
        if part.strip():
            name, equals, value = part.partition("=")
            if not equals or not name.strip():
                raise BadRequest(f"'Tags' must be written as 'name1=value1,name2=value2', not {text!r}")
            found[name.strip()] = value.strip()
    return found or None
