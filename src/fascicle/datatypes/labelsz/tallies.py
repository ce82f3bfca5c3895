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

import operator
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby, islice

import numpy as np
from numpy.typing import NDArray

from fascicle.datatypes.annotation.events import KINDS
from fascicle.store.base import INLINE, WriteTransaction
from fascicle.versions import keys
from fascicle.versions.resolution import ENVELOPE_BYTES, LIVE, TOMBSTONE, VersionedView

COUNTS = 1
RANKS = 2

INDEX_TYPES = {"PostSyn": 1, "PreSyn": 2, "Gap": 3, "Note": 4, "AllSyn": 5, "Voxels": 6}
"""Index types by name. The first four are places in a record; nothing is ever counted for the last one."""
ALL_SYN = 5
VOXELS = 6
MAX_COUNT = 0xFFFF_FFFF

AT_ONCE = 8192
"""Labels are read in pieces of at most so many where all of them are."""

_K = len(KINDS)
_LABEL = struct.Struct(">Q")
_RANK = struct.Struct(">BIQ")
_RECORD = struct.Struct(f"<I{_K}I")
_INHERITED = struct.Struct(f"<{_K}I")
_HANDLE_HEAD = 1 + ENVELOPE_BYTES
_END = _HANDLE_HEAD + _RECORD.size
_GONE = bytes((INLINE,)) + TOMBSTONE
_NOTHING = bytes(_RECORD.size)
_ZEROS = (0,) * _K

UNKNOWN = MAX_COUNT
"""An inherited count after versions were merged that disagree about it: any rank of it may be inherited."""
_UNKNOWNS = (UNKNOWN,) * _K

U64 = NDArray[np.uint64]
I64 = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Tallies:
    """Counts of some labels, one row each, in the order in which the labels were given."""

    counts: I64
    """i64[n, 5]"""
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
    handles, conflicts = view.handles_apart(COUNTS, _type_keys(labels))
    values = [handle if handle is None or handle[0] == INLINE else _inline(view, handle) for handle in handles]
    data = b"".join([_NOTHING if value is None else value[_HANDLE_HEAD:_END] for value in values])
    torn = np.zeros(len(labels), np.bool_)
    torn[list(conflicts)] = True
    return Tallies(np.frombuffer(data, "<u4").reshape(-1, 1 + _K)[:, 1:].astype(np.int64), torn)


def handles(view: VersionedView, labels: U64) -> tuple[list[bytes | None], set[int]]:
    """The handles of the records of labels u64[n], and the places of those of which merged versions disagree."""
    return view.handles_apart(COUNTS, _type_keys(labels))


def _type_keys(labels: U64) -> list[bytes]:
    data = labels.astype(">u8").tobytes()
    return [data[at : at + _LABEL.size] for at in range(0, len(data), _LABEL.size)]


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


def add(view: VersionedView, labels: U64, changes: I64) -> None:
    """Add changes i64[n, 5] to the counts of labels u64[n] (each once); what would fall below 0 is 0.

    Labels of which merged versions disagree stay as they are, until a reload counts them anew.
    """
    changed = changes.any(axis=1)
    labels, changes = labels[changed], changes[changed]
    type_keys = _type_keys(labels)
    handles, conflicts = view.handles_apart(COUNTS, type_keys)
    writing = _Writing(view)
    rows = zip(labels.tolist(), type_keys, handles, changes.tolist(), strict=True)
    for place, (label, type_key, handle, change) in enumerate(rows):
        if place not in conflicts:
            old, inherited = writing.record(handle)
            new = tuple(map(operator.add, old, change))
            if min(new) < 0 or max(new) >= UNKNOWN:
                new = tuple(min(max(count, 0), UNKNOWN - 1) for count in new)
            writing.replace(label, type_key, old, inherited, new)
    writing.finish()


def settle(view: VersionedView, labels: U64, counts: I64) -> None:
    """Decide the counts i64[n, 5] of labels u64[n] of which merged versions disagree; others stay as they are."""
    type_keys = _type_keys(labels)
    _, conflicts = view.handles_apart(COUNTS, type_keys)
    writing = _Writing(view)
    for place in sorted(conflicts):
        writing.hide_all(int(labels[place]), type_keys[place])
        writing.replace(int(labels[place]), type_keys[place], _ZEROS, _UNKNOWNS, tuple(counts[place].tolist()))
    writing.finish()


Counts = tuple[int, ...]


class _Writing:
    """Records and ranks to be stored at one version. All is read before anything is written: that is cheaper."""

    def __init__(self, view: VersionedView) -> None:
        assert isinstance(view.txn, WriteTransaction)
        self._view = view
        self._txn = view.txn
        self._version = view.ancestry.version
        self._end = self._version.to_bytes(keys.VERSION_BYTES, "big")
        self._counts = keys.prefix(view.instance_id, COUNTS)
        self._ranks = keys.prefix(view.instance_id, RANKS)
        self._deleted: list[bytes] = []
        self._put: dict[bytes, bytes] = {}

    def record(self, handle: bytes | None) -> tuple[Counts, Counts]:
        """(counts, inherited counts) of a stored record."""
        if handle is None:
            return _ZEROS, _ZEROS
        value = handle if handle[0] == INLINE else _inline(self._view, handle)
        version, *counts = _RECORD.unpack_from(value, _HANDLE_HEAD)
        found = tuple(counts)
        if version != self._version:
            return found, found
        return found, _INHERITED.unpack_from(value, _END) if len(value) > _END else _ZEROS

    def replace(self, label: int, type_key: bytes, old: Counts, inherited: Counts, new: Counts) -> None:
        """Make `new` the counts of a label, and rank it by them."""
        if new == old and inherited is not _UNKNOWNS:
            return
        for index in (1, 2, 3, 4):
            if new[index] != old[index]:
                self._rank(index, label, old[index], inherited[index], new[index])
        was, now = old[1] + old[2] + old[3], new[1] + new[2] + new[3]
        if was != now:
            below = UNKNOWN if inherited[1] == UNKNOWN else inherited[1] + inherited[2] + inherited[3]
            self._rank(ALL_SYN, label, was, below, now)
        key = self._counts + type_key + self._end
        if any(inherited):
            self._put[key] = LIVE + _RECORD.pack(self._version, *new) + _INHERITED.pack(*inherited)
        elif any(new):
            self._put[key] = LIVE + _RECORD.pack(self._version, *new)
        else:
            self._deleted.append(key)

    def _rank(self, index: int, label: int, was: int, below: int, now: int) -> None:
        if was:
            key = self._ranks + _RANK.pack(index, MAX_COUNT - was, label) + self._end
            if below in (was, UNKNOWN):
                self._put[key] = TOMBSTONE
            else:
                self._deleted.append(key)
        if now:
            key = self._ranks + _RANK.pack(index, MAX_COUNT - now, label) + self._end
            if below == now:
                self._deleted.append(key)  # what hides the row that was inherited
            else:
                self._put[key] = LIVE

    def hide_all(self, label: int, type_key: bytes) -> None:
        """Hide all ranks that the versions before may have left for a label."""
        view, first = self._view, self._counts + type_key
        for key, handle in self._txn.scan_handles(first + bytes(keys.VERSION_BYTES), first + self._end):
            if view.ancestry.contains(keys.version_of(key)) and handle != _GONE:
                counts, _ = self.record(handle)
                for index, count in enumerate((*counts[1:], sum(counts[1:4])), 1):
                    if count:
                        self._put[self._ranks + _RANK.pack(index, MAX_COUNT - count, label) + self._end] = TOMBSTONE

    def finish(self) -> None:
        """Store it."""
        delete, put = self._txn.delete, self._txn.put
        for key in self._deleted:
            delete(key)
        for key, value in self._put.items():
            put(key, value)


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
