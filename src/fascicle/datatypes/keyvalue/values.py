"""Reading and writing single values and ranges of them at a version."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from fascicle.datatypes.keyvalue import text_keys
from fascicle.datatypes.keyvalue.text_keys import VALUES
from fascicle.versions import keys
from fascicle.versions.resolution import VersionedView


def get(view: VersionedView, key: bytes) -> bytes | None:
    """The value of a key, or None."""
    type_key = text_keys.type_key(key)
    stored = view.get(VALUES, type_key)
    if stored is None or not text_keys.is_long(type_key):
        return stored
    return text_keys.unwrapped(type_key, stored)[1]


def exists(view: VersionedView, key: bytes) -> bool:
    return view.handle(VALUES, text_keys.type_key(key)) is not None


def put(view: VersionedView, key: bytes, value: bytes) -> None:
    type_key = text_keys.type_key(key)
    view.put(VALUES, type_key, text_keys.wrapped(key, type_key, value))


def delete(view: VersionedView, key: bytes) -> None:
    view.delete(VALUES, text_keys.type_key(key))


def _bounds(first: bytes | None, last: bytes | None) -> tuple[bytes, bytes | None]:
    start = b"" if first is None else text_keys.first_from(first)
    stop = None if last is None else text_keys.first_after(last)
    return start, stop


def listed(view: VersionedView, first: bytes | None = None, last: bytes | None = None) -> Iterator[bytes]:
    """Keys from `first` to `last`, both included, in order; None leaves an end open."""
    start, stop = _bounds(first, last)
    group: list[bytes] = []
    group_key = b""
    for type_key, _, handle in view.scan(VALUES, start, stop):
        if text_keys.is_long(type_key):
            if text_keys.group(type_key) != group_key:
                yield from sorted(group)
                group, group_key = [], text_keys.group(type_key)
            key = text_keys.unwrapped(type_key, view.load(handle))[0]
            if (first is None or key >= first) and (last is None or key <= last):
                group.append(key)
            continue
        if group:
            yield from sorted(group)
            group, group_key = [], b""
        yield keys.text_of_key(type_key)
    yield from sorted(group)


def ranged(view: VersionedView, first: bytes | None = None, last: bytes | None = None) -> Iterator[tuple[bytes, bytes]]:
    """(key, value) from `first` to `last`, both included, in order."""
    start, stop = _bounds(first, last)
    group: list[tuple[bytes, bytes]] = []
    group_key = b""
    for type_key, _, handle in view.scan(VALUES, start, stop):
        if text_keys.is_long(type_key):
            if text_keys.group(type_key) != group_key:
                yield from sorted(group)
                group, group_key = [], text_keys.group(type_key)
            key, value = text_keys.unwrapped(type_key, view.load(handle))
            if (first is None or key >= first) and (last is None or key <= last):
                group.append((key, value))
            continue
        if group:
            yield from sorted(group)
            group, group_key = [], b""
        yield keys.text_of_key(type_key), view.load(handle)
    yield from sorted(group)


def many(view: VersionedView, wanted: Iterable[bytes]) -> Iterator[bytes | None]:
    """The values of keys, in the order in which they are asked for."""
    return (get(view, key) for key in wanted)
