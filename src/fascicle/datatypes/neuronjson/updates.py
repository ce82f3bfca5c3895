"""What a posted annotation makes of the stored one: merging, deleting by null, and who set what and when."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from fascicle.datatypes.neuronjson.documents import BODY_ID, TIME, USER, Members, is_bookkeeping
from fascicle.errors import BadRequest

_UNSIGNED = frozenset((BODY_ID, "user"))
"""Members without bookkeeping."""

_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Posting:
    """How a request wants annotations to be stored."""

    user: str
    time: str
    """RFC 3339, whole seconds."""
    conditional: frozenset[str] = frozenset()
    """Members that keep the value they have."""
    replace: bool = False
    """What is not posted disappears."""


def check(posted: dict[str, bytes | None], body_id: int) -> None:
    """Raises BadRequest for an annotation that cannot be that of a body."""
    if BODY_ID not in posted:
        raise BadRequest(f"neuronjson data must have '{BODY_ID}' field")
    given = posted[BODY_ID]
    if given is None or not given.isdigit():
        raise BadRequest(f"neuronjson '{BODY_ID}' field must be uint64")
    if int(given) != body_id:
        raise BadRequest(f"neuronjson '{BODY_ID}' field {given.decode()} must match key {body_id}")
    for name, value in posted.items():
        if not is_bookkeeping(name):
            continue
        if name in (BODY_ID + USER, BODY_ID + TIME):
            raise BadRequest(f"'{name}' field not allowed")
        if name.endswith(TIME) and value is not None and value[:1] != b'"':
            raise BadRequest(f"'{name}' field must be a string, a time as in RFC 3339")


def updated(stored: Members | None, posted: dict[str, bytes | None], posting: Posting) -> Members:
    """The annotation to store; `posted` has passed `check`."""
    user, time = _encode(posting.user), _encode(posting.time)
    new = {name: value for name, value in posted.items() if value is not None}
    old = stored
    if old is not None:
        old = {name: value for name, value in old.items() if posted.get(name, b"") is not None}
    for name, value in posted.items():
        if value is None and not is_bookkeeping(name) and name not in _UNSIGNED:
            for signed, default in ((name + USER, user), (name + TIME, time)):
                if signed not in posted:
                    new[signed] = default

    given = [name for name, value in posted.items() if value is not None]
    if old is None:
        changed = set(given)
        changed.update(name[: -len(USER)] for name in given if name.endswith(USER))
        changed = {name for name in changed if posted.get(name, b"") is not None}
    else:
        changed = {name for name in given if old.get(name) != posted[name]}
        if not posting.replace:
            for name, value in old.items():
                if name not in new:
                    new[name] = value
                elif name in posting.conditional:
                    new[name] = value
                    changed.discard(name)
    for name in changed:
        if not is_bookkeeping(name) and name not in _UNSIGNED:
            if posted.get(name + USER) is None:
                new[name + USER] = user
            if posted.get(name + TIME) is None:
                new[name + TIME] = time
    if posting.replace and old is not None:
        for name in given:
            if name not in changed and not is_bookkeeping(name) and name not in _UNSIGNED:
                new.setdefault(name + USER, old.get(name + USER, user))
                new.setdefault(name + TIME, old.get(name + TIME, time))
    return new
