"""Lists of elements that were posted for labels (`POST labels`), which stand in for what the index says of a label.

A list is answered as it was posted. From then on it is changed the way the index changes: elements that are posted in
the body are put into it, deleted ones taken out, merged bodies bring theirs along. A reload puts the index back into
its place. Nobody but tools that repair an index writes such lists, so all that costs others is to look whether there
are any.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec

from fascicle.datatypes.annotation.layout import I64, INDEX_HEAD, LISTS, U64, label_key
from fascicle.versions.resolution import VersionedView

_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode

Element = dict[str, Any]


def any_posted(view: VersionedView) -> bool:
    return next(view.scan(LISTS), None) is not None


def labels_posted(view: VersionedView) -> list[int]:
    """Labels that have a list, ascending."""
    return [int.from_bytes(key, "big") for key, _, _ in view.scan(LISTS)]


def read(view: VersionedView, label: int) -> bytes | None:
    """The list of a label as JSON, or None if the index speaks for it."""
    return view.get(LISTS, label_key(label))


def write(view: VersionedView, label: int, text: bytes) -> None:
    view.put(LISTS, label_key(label), text)


def remove(view: VersionedView, label: int) -> None:
    view.delete(LISTS, label_key(label))


def elements_of(text: bytes) -> list[Element]:
    """What can be understood of a list: its elements with a position."""
    try:
        given = _decode(text)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return []
    if not isinstance(given, list):
        return []
    return [e for e in given if isinstance(e, dict) and position_of(e) is not None]


def position_of(element: Element) -> tuple[int, int, int] | None:
    given = element.get("Pos")
    if not isinstance(given, list) or len(given) != 3 or not all(type(c) is int and abs(c) < 1 << 31 for c in given):
        return None
    return given[0], given[1], given[2]


def follow(
    view: VersionedView, gone_labels: U64, gone_xyz: I64, came_labels: U64, came_xyz: I64, values: Sequence[bytes]
) -> None:
    """Change lists the way the index changed. What both went and came keeps its place."""
    posted = set(labels_posted(view))
    if not posted:
        return
    going: dict[int, set[tuple[int, ...]]] = {}
    for label, place in zip(gone_labels.tolist(), gone_xyz.tolist(), strict=True):
        if label in posted:
            going.setdefault(label, set()).add(tuple(place))
    coming: dict[int, dict[tuple[int, ...], Element]] = {}
    for label, place, value in zip(came_labels.tolist(), came_xyz.tolist(), values, strict=True):
        if label in posted:
            coming.setdefault(label, {})[tuple(place)] = _decode(value[INDEX_HEAD:])
    for label in going.keys() | coming.keys():
        text = read(view, label)
        assert text is not None
        new = coming.get(label, {})
        gone = going.get(label, set()) - new.keys()
        kept: list[Element] = []
        for element in elements_of(text):
            place = position_of(element)
            assert place is not None
            if place in new:
                kept.append(new.pop(place))
            elif place not in gone:
                kept.append(element)
        write(view, label, _encode([*kept, *new.values()]))


def join(view: VersionedView, target: int, merged: Iterable[int], listed: Callable[[int], bytes]) -> None:
    """Bodies became one: if one of them has a list, the target gets one of all. `listed` gives what the index says."""
    posted = set(labels_posted(view))
    others = list(merged)
    if not posted & {target, *others}:
        return
    elements: list[Element] = []
    for label in (target, *others):
        text = read(view, label) if label in posted else listed(label)
        elements += elements_of(text or b"[]")
        if label != target and label in posted:
            remove(view, label)
    write(view, target, _encode(elements))


Places = list[tuple[int, int, int]]


def divide(view: VersionedView, label: int, new: int, leaves: Callable[[Places], list[bool]]) -> None:
    """A part of a body became the body `new`: if it has a list, the elements that leave go to a list of the new one."""
    text = read(view, label)
    if text is None:
        return
    elements = elements_of(text)
    places = [place for element in elements if (place := position_of(element)) is not None]
    leaving = leaves(places) if places else []
    write(view, label, _encode([e for e, left in zip(elements, leaving, strict=True) if not left]))
    write(view, new, _encode([e for e, left in zip(elements, leaving, strict=True) if left]))
