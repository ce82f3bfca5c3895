"""Reading and writing single values and ranges of them at a version."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from fascicle.datatypes.keyvalue import text_keys
from fascicle.datatypes.keyvalue.text_keys import VALUES
from fascicle.store.base import INLINE
from fascicle.versions import keys
from fascicle.versions.resolution import ENVELOPE_BYTES, VersionedView


def get(view: VersionedView, key: bytes) -> bytes | None:
    """The value of a key, or None."""
    type_key = text_keys.type_key(key)
    stored = view.get(VALUES, type_key)
    if stored is None or not text_keys.is_long(type_key):
        return stored
    return text_keys.unwrapped(type_key, stored)[1]


def many(view: VersionedView, wanted: Sequence[bytes]) -> list[bytes | None]:
    """The values of keys, None for each that is not there."""
    type_keys = [text_keys.type_key(key) for key in wanted]
    if not text_keys.has_long(type_keys):
        load = view.load
        handles = view.handles(VALUES, type_keys)
        return [None if handle is None else _value(load, handle) for handle in handles]
    found: list[bytes | None] = []
    for type_key, handle in zip(type_keys, view.handles(VALUES, type_keys), strict=True):
        if handle is None:
            found.append(None)
        elif text_keys.is_long(type_key):
            found.append(text_keys.unwrapped(type_key, view.load(handle))[1])
        else:
            found.append(_value(view.load, handle))
    return found


def exists(view: VersionedView, key: bytes) -> bool:
    return view.handle(VALUES, text_keys.type_key(key)) is not None


def put(view: VersionedView, key: bytes, value: bytes) -> None:
    type_key = text_keys.type_key(key)
    view.put(VALUES, type_key, text_keys.wrapped(key, type_key, value))


def put_many(view: VersionedView, pairs: Iterable[tuple[bytes, bytes]]) -> None:
    """Store many values by key; of a key that comes twice the last one counts."""
    pairs = list(pairs)
    short = text_keys.all_short([key for key, _ in pairs])
    if short is not None:
        view.put_many(VALUES, zip(short, [value for _, value in pairs], strict=True))
        return
    type_key, wrapped = text_keys.type_key, text_keys.wrapped
    view.put_many(VALUES, ((name := type_key(key), wrapped(key, name, value)) for key, value in pairs))


def delete(view: VersionedView, key: bytes) -> None:
    view.delete(VALUES, text_keys.type_key(key))


def _bounds(first: bytes | None, last: bytes | None) -> tuple[bytes, bytes | None]:
    start = b"" if first is None else text_keys.first_from(first)
    stop = None if last is None else text_keys.first_after(last)
    return start, stop


def listed(view: VersionedView, first: bytes | None = None, last: bytes | None = None) -> Iterator[list[bytes]]:
    """Keys from `first` to `last`, both included, in order, in lists; None leaves an end open."""
    start, stop = _bounds(first, last)
    group: list[bytes] = []
    group_key = b""
    for batch in view.scan_batches(VALUES, start, stop):
        if not group and not text_keys.any_long(batch):
            yield text_keys.short_keys(batch)
            continue
        found = []
        for type_key, handle in batch:
            is_long = text_keys.is_long(type_key)
            if group and not (is_long and text_keys.group(type_key) == group_key):
                found += sorted(group)
                group = []
            if is_long:
                group_key = text_keys.group(type_key)
                key = text_keys.unwrapped(type_key, view.load(handle))[0]
                if (first is None or key >= first) and (last is None or key <= last):
                    group.append(key)
            else:
                found.append(keys.text_of_key(type_key))
        yield found
    yield sorted(group)


def ranged(
    view: VersionedView, first: bytes | None = None, last: bytes | None = None
) -> Iterator[list[tuple[bytes, bytes]]]:
    """(key, value) from `first` to `last`, both included, in order, in lists."""
    start, stop = _bounds(first, last)
    group: list[tuple[bytes, bytes]] = []
    group_key = b""
    load = view.load
    for batch in view.scan_batches(VALUES, start, stop):
        if not group and not text_keys.any_long(batch):
            names = text_keys.short_keys(batch)
            handles = [handle for _, handle in batch]
            yield list(zip(names, [_value(load, handle) for handle in handles], strict=True))
            continue
        found = []
        for type_key, handle in batch:
            is_long = text_keys.is_long(type_key)
            if group and not (is_long and text_keys.group(type_key) == group_key):
                found += sorted(group)
                group = []
            if is_long:
                group_key = text_keys.group(type_key)
                key, value = text_keys.unwrapped(type_key, load(handle))
                if (first is None or key >= first) and (last is None or key <= last):
                    group.append((key, value))
            else:
                found.append((keys.text_of_key(type_key), load(handle)))
        yield found
    yield sorted(group)


_INLINE_BYTES = 1 + ENVELOPE_BYTES


def _value(load: Callable[[bytes], bytes], handle: bytes) -> bytes:
    """The value of a handle; one that is in it is cut out at once."""
    return handle[_INLINE_BYTES:] if handle[0] == INLINE else load(handle)
