"""Counters of label ids: the greatest one of each version, the greatest of all, and where new ids come from.

    class 30: version u32                                          -> greatest label of the version u64
    class 31: (nothing)                                            -> MaxRepoLabel, NextLabel, NextLabelCeiling u64

Both are rows of the instance, not versioned ones. A version's own entry is never below what it inherits, so on a line
of versions the nearest entry counts. A NextLabel other than 0 is where new ids come from instead of MaxRepoLabel.
"""

from __future__ import annotations

import struct

import msgspec

from fascicle.datatypes.base import Answer, Call, Change, Commit, Reply, Route
from fascicle.datatypes.labelmap.requests import indexed, label_argument, number_argument
from fascicle.errors import BadRequest
from fascicle.store.base import ReadTransaction
from fascicle.versions import keys
from fascicle.versions.resolution import VersionedView

MAX_LABEL = 30
REPO_COUNTERS = 31

LAST_LABEL = (1 << 64) - 2
"""The greatest id that can be given to a body or supervoxel."""
MAX_POSTED_LABEL = 1 << 48
"""`POST maxlabel` refuses more: a typing error there would use up the ids of the whole instance."""

_U64 = struct.Struct("<Q")
_U32_KEY = struct.Struct(">I")
_THREE = struct.Struct("<QQQ")


class RepoCounters(msgspec.Struct, frozen=True):
    """Counters of an instance over all versions."""

    max_repo_label: int = 0
    next_label: int = 0
    """0 where ids follow `max_repo_label`; otherwise the last id that was taken."""
    ceiling: int = 0
    """The greatest id that may be taken by way of `next_label`; 0 is no limit."""

    @property
    def last_taken(self) -> int:
        return self.next_label or self.max_repo_label


# -- reading


def repo_counters(txn: ReadTransaction, instance_id: int) -> RepoCounters:
    value = txn.get(keys.prefix(instance_id, REPO_COUNTERS))
    return RepoCounters() if value is None else RepoCounters(*_THREE.unpack(value))


def max_label(view: VersionedView) -> int:
    """The greatest label of the version and all its ancestors; 0 if none was recorded."""
    base = keys.prefix(view.instance_id, MAX_LABEL)
    ancestry = view.ancestry
    own = view.txn.get(base + _U32_KEY.pack(ancestry.version))
    if own is not None and ancestry.linear:
        return int(_U64.unpack(own)[0])
    greatest = 0
    for key, handle in view.txn.scan_handles(base, base + _U32_KEY.pack(ancestry.version) + b"\x00", reverse=True):
        if ancestry.contains(keys.version_of(key)):
            greatest = max(greatest, int(_U64.unpack(view.txn.load(handle))[0]))
            if ancestry.linear:
                break
    return greatest


def max_labels(txn: ReadTransaction, instance_id: int) -> dict[int, int]:
    """The entries of all versions that have one: version -> greatest label."""
    base = keys.prefix(instance_id, MAX_LABEL)
    return {keys.version_of(key): int(_U64.unpack(value)[0]) for key, value in txn.scan(base, keys.after(base))}


# -- changing


def _store_repo(change: Change, counters: RepoCounters) -> None:
    value = _THREE.pack(counters.max_repo_label, counters.next_label, counters.ceiling)
    change.txn.put(keys.prefix(change.instance.id, REPO_COUNTERS), value)


def _store_max_label(change: Change, label: int) -> None:
    """Raise the entry of this version, and entries below `label` of versions that descend from it."""
    base = keys.prefix(change.instance.id, MAX_LABEL)
    version = change.ancestry.version
    if change.node.children:
        after = base + _U32_KEY.pack(version) + b"\x00"
        for key, value in list(change.txn.scan(after, keys.after(base))):
            if _U64.unpack(value)[0] < label and change.catalog.ancestry(keys.version_of(key)).contains(version):
                change.txn.put(key, _U64.pack(label))
    change.txn.put(base + _U32_KEY.pack(version), _U64.pack(label))


def raise_max_label(change: Change, label: int) -> bool:
    """Take note of a label that is in use at this version. Whether it is greater than all that were known there.

    A version that has no entry of its own gets one in any case, that of its ancestors if the label is no greater.
    """
    known = max_label(change.view)
    if label <= known:
        own = keys.prefix(change.instance.id, MAX_LABEL) + _U32_KEY.pack(change.ancestry.version)
        if change.txn.handle(own) is None:
            _store_max_label(change, known)
        return False
    _store_max_label(change, label)
    counters = repo_counters(change.txn, change.instance.id)
    if label > counters.max_repo_label:
        _store_repo(change, msgspec.structs.replace(counters, max_repo_label=label))
    return True


def allocate(change: Change, count: int = 1) -> int:
    """The first of `count` new ids in a row. Raises BadRequest where there are not as many."""
    name = change.instance.name
    counters = repo_counters(change.txn, change.instance.id)
    if count < 1:
        raise BadRequest(f"the number of new labels for data {name!r} must be at least 1, not {count}")
    last = counters.last_taken + count
    if last > LAST_LABEL:
        raise BadRequest(
            f"allocating {count} new labels for data {name!r} would overflow the label space: "
            f"ids up to {counters.last_taken} are taken and {LAST_LABEL} is the greatest"
        )
    if counters.next_label:
        if counters.ceiling and last > counters.ceiling:
            raise BadRequest(
                f"allocating {count} new labels for data {name!r} would pass the ceiling {counters.ceiling}: "
                f"ids up to {counters.next_label} are taken"
            )
        _store_repo(change, msgspec.structs.replace(counters, next_label=last))
    else:
        _store_repo(change, msgspec.structs.replace(counters, max_repo_label=last))
    if last > max_label(change.view):
        _store_max_label(change, last)
    return last - count + 1


# -- endpoints


def _need_admin(call: Call, what: str) -> None:
    """Counters may be overridden by anyone on a server without an admin token, else by its bearer."""
    if call.settings.get("admin_configured") and not call.admin:
        raise BadRequest(f"POST /{what} requires admin privileges (admintoken)")


def get_max_label(call: Call) -> Reply:
    indexed(call)
    label = max_label(call.view)
    if label == 0:
        raise BadRequest(f"No maximum label found for {call.instance.name} version {call.node.uuid}")
    return Answer(b'{"maxlabel": %d}' % label, "application/json")


def post_max_label(call: Call) -> Reply:
    indexed(call)
    _need_admin(call, "maxlabel")
    label = label_argument(call, 0, "a label")
    if label > MAX_POSTED_LABEL:
        raise BadRequest(f"posted max label {label} exceeds the greatest that is allowed, {MAX_POSTED_LABEL}")
    return Commit(lambda change: raise_max_label(change, label))


def get_next_label(call: Call) -> Reply:
    indexed(call)
    return Answer(b'{"nextlabel": %d}' % (repo_counters(call.txn, call.instance.id).last_taken + 1), "application/json")


def post_next_label(call: Call) -> Reply:
    indexed(call)
    count = number_argument(call, 0, "a number of labels")
    if count < 1:
        raise BadRequest("the number of labels to reserve must be at least 1")
    return Commit(
        lambda change: allocate(change, count),
        lambda start: Answer(b'{"start": %d, "end": %d}' % (start, start + count - 1), "application/json"),
    )


def post_set_next_label(call: Call) -> Reply:
    indexed(call)
    _need_admin(call, "set-nextlabel")
    label = label_argument(call, 0, "a label")
    if label > LAST_LABEL:
        raise BadRequest(f"label {label} must be at most {LAST_LABEL}")
    ceiling: int | None = None
    if call.query.get("ceiling"):
        ceiling = call.integer("ceiling", 0)
        if ceiling and not label <= ceiling <= LAST_LABEL:
            raise BadRequest(f"ceiling {ceiling} must be 0 or lie between the label {label} and {LAST_LABEL}")

    def apply(change: Change) -> None:
        counters = repo_counters(change.txn, change.instance.id)
        kept = counters.ceiling if ceiling is None else ceiling
        if kept and kept < label:
            raise BadRequest(f"next label {label} is beyond the ceiling {kept}: set both")
        _store_repo(change, RepoCounters(counters.max_repo_label, label, kept))

    return Commit(apply)


ROUTES = (
    Route(
        "maxlabel",
        {"GET": get_max_label, "POST": post_max_label},
        "The greatest label of the version and its ancestors; POST raises it (admin).",
        "[<label>]",
    ),
    Route(
        "nextlabel",
        {"GET": get_next_label, "POST": post_next_label},
        "The id that would be given to the next new body or supervoxel; POST reserves a range of ids.",
        "[<number>]",
    ),
    Route(
        "set-nextlabel",
        {"POST": post_set_next_label},
        "Take new ids from here on upwards instead of following the greatest label (admin).",
        "<label>",
    ),
)
