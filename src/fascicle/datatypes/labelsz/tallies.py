"""How many elements of each kind every body has, as stored, and bodies in the order of their counts.

    class 1: label u64                            -> version u32, counts u32[5] [, inherited counts u32[5]]
    class 2: index u8, ~count u32, label u64      -> (nothing)

Keys are big-endian, values little-endian; both classes are versioned. The five counts are those of `events.KINDS`, in
that order. Class 2 has a row for each count that is not 0, and for the sum that `AllSyn` names: read forwards, the
largest count comes first, and of equal ones the smallest label.

A record says at which version it was written, and what its label had at the versions before, unless that was nothing.
So it is known, without looking, whether a row of class 2 that has to go was inherited (then a tombstone hides it) or is
of this version (then it is removed), and a row that comes back is uncovered. Ranks of a version therefore never hold
more tombstones than rows were inherited, however often counts change.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby, islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fascicle.datatypes.annotation.events import KINDS
from fascicle.errors import ConflictError
from fascicle.store.base import INLINE, WriteTransaction
from fascicle.versions import keys
from fascicle.versions.resolution import ENVELOPE_BYTES, LIVE, TOMBSTONE, VersionedView

COUNTS = 1
RANKS = 2

INDEX_TYPES = {"PostSyn": 1, "PreSyn": 2, "Gap": 3, "Note": 4, "AllSyn": 5, "Voxels": 6}
"""Index types by name. The first four are places in a record; nothing is ever counted for the last one."""
ALL_SYN = 5
VOXELS = 6
RANKED = (1, 2, 3, 4, ALL_SYN)
MAX_COUNT = 0xFFFF_FFFF

AT_ONCE = 8192
"""Labels are read in pieces of at most so many where all of them are."""

_K = len(KINDS)
_LABEL = struct.Struct(">Q")
_RANK = struct.Struct(">BIQ")
RANK_BYTES = _RANK.size
_RECORD = struct.Struct(f"<I{_K}I")
_INHERITED_BYTES = 4 * _K
_HANDLE_HEAD = 1 + ENVELOPE_BYTES
_END = _HANDLE_HEAD + _RECORD.size
_GONE = bytes((INLINE,)) + TOMBSTONE
_NOTHING = bytes(_RECORD.size)
_NOTHING_INHERITED = bytes(_INHERITED_BYTES)

UNKNOWN = MAX_COUNT
"""An inherited count after versions were merged that disagree about it: there may be rows of any count below."""

U64 = NDArray[np.uint64]
I64 = NDArray[np.int64]
Bools = NDArray[np.bool_]

_RANK_KEY = np.dtype([("prefix", "S5"), ("index", "u1"), ("count", ">u4"), ("label", ">u8"), ("version", ">u4")])
_RECORD_KEY = np.dtype([("prefix", "S5"), ("label", ">u8"), ("version", ">u4")])


@dataclass(frozen=True, slots=True, eq=False)
class Tallies:
    """Counts of some labels, one row each, in the order in which the labels were given."""

    counts: I64
    """i64[n, 5]"""
    inherited: I64
    """What the versions before say, i64[n, 5]; `UNKNOWN` where they disagree."""
    conflicts: Bools
    """Labels of which merged versions say different things; their counts are 0."""


def all_syn(counts: I64) -> I64:
    """What `AllSyn` counts, i64[n]."""
    return np.asarray(counts[:, 1] + counts[:, 2] + counts[:, 3])


def indexed(counts: I64, index: int) -> I64:
    """The counts of one index type, i64[n]."""
    if index == VOXELS:
        return np.zeros(len(counts), np.int64)
    return all_syn(counts) if index == ALL_SYN else counts[:, index]


# -- records


def read(view: VersionedView, labels: U64) -> Tallies:
    """The counts of labels u64[n] at a version. Never raises for conflicts: see `Tallies.conflicts`."""
    data = labels.astype(">u8").tobytes()
    type_keys = [data[at : at + 8] for at in range(0, len(data), 8)]
    conflicts = np.zeros(len(labels), np.bool_)
    try:
        handles = view.handles(COUNTS, type_keys)
    except ConflictError:
        handles = []
        for i, type_key in enumerate(type_keys):
            try:
                handles.append(view.handle(COUNTS, type_key))
            except ConflictError:
                handles.append(None)
                conflicts[i] = True
    versions, counts, inherited = _decoded(view, handles)
    before = versions != view.ancestry.version
    inherited[before] = counts[before]
    inherited[conflicts] = UNKNOWN
    return Tallies(counts, inherited, conflicts)


def _decoded(view: VersionedView, handles: list[bytes | None]) -> tuple[NDArray[np.uint32], I64, I64]:
    """(version u32[n], counts i64[n, 5], inherited counts i64[n, 5]) of stored records; zeros where there is none."""
    values = [handle if handle is None or handle[0] == INLINE else _inline(view, handle) for handle in handles]
    heads = b"".join([_NOTHING if value is None else value[_HANDLE_HEAD:_END] for value in values])
    tails = b"".join([(value and value[_END:]) or _NOTHING_INHERITED for value in values])
    numbers = np.frombuffer(heads, "<u4").reshape(-1, 1 + _K)
    inherited = np.frombuffer(tails, "<u4").reshape(-1, _K).astype(np.int64)
    return numbers[:, 0], numbers[:, 1:].astype(np.int64), inherited


def _inline(view: VersionedView, handle: bytes) -> bytes:
    return bytes((INLINE,)) + LIVE + view.load(handle)


def known_labels(view: VersionedView) -> Iterator[U64]:
    """Labels u64[n] of which any version has a record, ascending over all pieces."""
    prefix = keys.prefix(view.instance_id, COUNTS)
    first, skip = len(prefix), len(prefix) + _LABEL.size
    stored = (key[first:skip] for key in view.txn.scan_keys(prefix, keys.after(prefix)))
    labels = (label for label, _ in groupby(stored))
    while piece := list(islice(labels, AT_ONCE)):
        yield np.frombuffer(b"".join(piece), ">u8").astype(np.uint64)


def count_of(view: VersionedView, label: int, index: int) -> int:
    """One count. Raises ConflictError where merged versions disagree."""
    value = view.get(COUNTS, _LABEL.pack(label)) if index != VOXELS else None
    if value is None:
        return 0
    counts = _RECORD.unpack_from(value)
    found: int = counts[2] + counts[3] + counts[4] if index == ALL_SYN else counts[1 + index]
    return found


# -- changes


def summed(labels: U64, kinds: NDArray[Any], signs: I64 | int = 1) -> tuple[U64, I64]:
    """Elements as changes of counts: (labels u64[m] ascending, changes i64[m, 5])."""
    unique, place = np.unique(labels, return_inverse=True)
    weights = np.broadcast_to(np.asarray(signs, np.float64), labels.shape)
    cells = np.bincount(place * _K + kinds, weights=weights, minlength=len(unique) * _K)
    return unique, cells.astype(np.int64).reshape(-1, _K)


def add(view: VersionedView, labels: U64, changes: I64) -> None:
    """Add changes i64[n, 5] to the counts of labels u64[n] (each once); what would fall below 0 is 0.

    Labels of which merged versions disagree stay as they are, until a reload counts them anew.
    """
    changed = changes.any(axis=1)
    labels, changes = labels[changed], changes[changed]
    old = read(view, labels)
    new = np.clip(old.counts + changes, 0, MAX_COUNT - 1)
    different = (new != old.counts).any(axis=1) & ~old.conflicts
    if different.any():
        _write(view, labels[different], old.counts[different], old.inherited[different], new[different])


def settle(view: VersionedView, labels: U64, counts: I64) -> None:
    """Decide the counts i64[n, 5] of labels u64[n] of which merged versions disagree; others stay as they are."""
    old = read(view, labels)
    at = old.conflicts
    if at.any():
        _hide_ranks(view, labels[at])
        _write(view, labels[at], old.counts[at], old.inherited[at], counts[at])


def _hide_ranks(view: VersionedView, labels: U64) -> None:
    """Hide all rows of class 2 that any version before may have left for some labels."""
    txn, version = view.txn, view.ancestry.version
    assert isinstance(txn, WriteTransaction)
    for label in labels.tolist():
        first = keys.prefix(view.instance_id, COUNTS) + _LABEL.pack(label)
        entries = list(txn.scan_handles(keys.with_version(first, 0), keys.with_version(first, version)))
        values = [handle for key, handle in entries if view.ancestry.contains(keys.version_of(key))]
        counts = _decoded(view, [None if handle == _GONE else handle for handle in values])[1]
        same = np.full(len(counts), label, np.uint64)
        for index in RANKED:
            shown = indexed(counts, index)
            for key in _rank_keys(view, index, shown, same, shown > 0):
                txn.put(key, TOMBSTONE)


def _write(view: VersionedView, labels: U64, old: I64, inherited: I64, new: I64) -> None:
    txn, version = view.txn, view.ancestry.version
    assert isinstance(txn, WriteTransaction)
    deleted: list[bytes] = []
    hidden: list[bytes] = []
    shown: list[bytes] = []
    for index in RANKED:
        was, now = indexed(old, index), indexed(new, index)
        below = indexed(inherited, index)
        below = np.where((inherited == UNKNOWN).any(axis=1), UNKNOWN, below)
        gone, come = (was != now) & (was > 0), (was != now) & (now > 0)
        covered = (below == was) | (below == UNKNOWN)
        hidden += _rank_keys(view, index, was, labels, gone & covered)
        deleted += _rank_keys(view, index, was, labels, gone & ~covered)
        deleted += _rank_keys(view, index, now, labels, come & (below == now))
        shown += _rank_keys(view, index, now, labels, come & (below != now))
    for key in deleted:
        txn.delete(key)
    for key in hidden:
        txn.put(key, TOMBSTONE)
    for key in shown:
        txn.put(key, LIVE)
    inherits = inherited.any(axis=1)
    dropped = ~inherits & ~new.any(axis=1)
    for key in _record_keys(view, labels[dropped]):
        txn.delete(key)
    heads = np.empty((len(labels), 1 + _K), "<u4")
    heads[:, 0], heads[:, 1:] = version, new
    for chosen, rows in (
        (~inherits & ~dropped, heads),
        (inherits, np.hstack((heads, inherited.astype("<u4")))),
    ):
        data = rows[chosen].astype("<u4").tobytes()
        width = 4 * rows.shape[1]
        for i, key in enumerate(_record_keys(view, labels[chosen])):
            txn.put(key, LIVE + data[i * width : (i + 1) * width])


def _rank_keys(view: VersionedView, index: int, counts: I64, labels: U64, chosen: Bools) -> list[bytes]:
    """Whole keys of class 2 at the view's version."""
    at = np.flatnonzero(chosen)
    if not len(at):
        return []
    rows = np.empty(len(at), _RANK_KEY)
    rows["index"], rows["count"], rows["label"] = index, MAX_COUNT - counts[at], labels[at]
    return _cut(view, RANKS, rows)


def _record_keys(view: VersionedView, labels: U64) -> list[bytes]:
    rows = np.empty(len(labels), _RECORD_KEY)
    rows["label"] = labels
    return _cut(view, COUNTS, rows)


def _cut(view: VersionedView, key_class: int, rows: NDArray[Any]) -> list[bytes]:
    rows["prefix"], rows["version"] = keys.prefix(view.instance_id, key_class), view.ancestry.version
    data, width = rows.tobytes(), rows.dtype.itemsize
    return [data[at : at + width] for at in range(0, len(data), width)]


# -- ranks


def ranked(view: VersionedView, index: int, least: int = 0, start: bytes | None = None) -> Iterator[list[bytes]]:
    """Keys (see `label_and_count`) of bodies with a count of at least `least`, largest first, in pieces.

    `start` is a key to begin with.
    """
    if index == VOXELS:
        return
    first = bytes((index,)) if start is None else start
    stop = bytes((index + 1,)) if least == 0 else _RANK.pack(index, MAX_COUNT - least + 1, 0)
    for batch in view.scan_batches(RANKS, first, stop):
        yield [key for key, _ in batch]


def label_and_count(key: bytes) -> tuple[int, int]:
    """What a key of `ranked` says."""
    _, inverse, label = _RANK.unpack(key)
    return label, MAX_COUNT - inverse
