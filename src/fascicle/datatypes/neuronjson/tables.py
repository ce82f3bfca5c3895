"""The tables that a process keeps: loaded when a version is first asked for everything, then kept up to date.

What is new is found by the changes that the instance keeps in the store (`storage.py`), so any process sees what
any other one has written, and a table of a new version is made from that of its nearest ancestor.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Collection
from typing import Any
from weakref import WeakKeyDictionary

import msgspec
import numpy as np
from numpy.typing import NDArray

from fascicle.datatypes.base import Call
from fascicle.datatypes.neuronjson import storage
from fascicle.datatypes.neuronjson.table import PART, Column, Table
from fascicle.datatypes.neuronjson.texts import Texts
from fascicle.kernels import json_members
from fascicle.kernels.arrays import frozen
from fascicle.store.base import Store, ValueBatch
from fascicle.versions.resolution import ENVELOPE_BYTES, VersionedView

KEPT_VERSIONS = 16
KEPT_BYTES = 1 << 30
"""What tables of all instances may take; the last one used stays in any case."""
SEARCHED_ANCESTORS = 256
_LEAST_MEMBER_BYTES = 5
_SPARE_TEXTS = 500_000

I64 = NDArray[np.int64]


class Tables:
    """Those of one instance."""

    def __init__(self, instance_id: int) -> None:
        self.instance_id = instance_id
        self.loading = threading.Lock()
        self.clear()

    def clear(self) -> None:
        self.names = Texts()
        self.texts = Texts()
        self.name_list = [""]
        self.place_of: dict[int, int] = {}
        self.bodies = np.empty(0, np.uint64)
        self.by_version: dict[int, Table] = {}
        """The one used last is the last one."""
        self._loaded_texts = 0

    @property
    def size_bytes(self) -> int:
        parts = {
            id(part): part.nbytes
            for table in list(self.by_version.values())
            for column in table.columns.values()
            for part in column
            if part is not None
        }
        return self.texts.size_bytes + sum(parts.values()) + 200 * len(self.place_of)

    # -- up to date

    def at(self, call: Call) -> Table:
        view = call.view
        version = view.ancestry.version
        sequence = storage.last_change(view.txn, self.instance_id)
        found = self.by_version.get(version)
        if found is None or found.sequence < sequence:
            with self.loading:
                found = self.by_version.get(version)
                if found is None or found.sequence < sequence:
                    found = self._newer(call, view, sequence)
                    self.by_version.pop(version, None)
                    self.by_version[version] = found
                    while len(self.by_version) > KEPT_VERSIONS:
                        del self.by_version[next(iter(self.by_version))]
        return found

    def _newer(self, call: Call, view: VersionedView, sequence: int) -> Table:
        if self.texts.count > 2 * self._loaded_texts + _SPARE_TEXTS:
            self.clear()
        base, passed = self._nearest(call, view)
        if base is not None:
            changed = storage.changes_since(view, base.sequence)
            if changed is not None:
                for version in passed:
                    changed.update(storage.changed_in(view, version))
                return self._changed(view, base, changed, sequence)
        return self._loaded(view, sequence)

    def _nearest(self, call: Call, view: VersionedView) -> tuple[Table | None, list[int]]:
        """The table of this version or of the nearest ancestor, and the versions that come after that one."""
        passed: list[int] = []
        for version in view.ancestry.first_parents():
            found = self.by_version.get(version)
            if found is not None:
                self.by_version[version] = self.by_version.pop(version)
                return found, passed
            passed.append(version)
            if len(passed) > SEARCHED_ANCESTORS or len(call.catalog.node(version).parents) != 1:
                break
        return None, []

    def _loaded(self, view: VersionedView, sequence: int) -> Table:
        columns: dict[str, Column] = {}
        for bodies, handles in storage.batches(view):
            places = self._places(bodies.tolist())
            for name, row in self._numbers(view.txn.load_many(handles)):
                _enter(columns.setdefault(name, []), places, row, None)
        self._loaded_texts = self.texts.count
        return self._table(sequence, columns)

    def _changed(self, view: VersionedView, base: Table, changed: Collection[int], sequence: int) -> Table:
        columns = dict(base.columns)
        bodies = sorted(changed)
        for at in range(0, len(bodies), PART):
            batch = bodies[at : at + PART]
            places = self._places(batch)
            handles = view.handles(storage.ANNOTATIONS, map(storage.body_key, batch))
            rows = dict(self._numbers(view.txn.load_many([handle or b"" for handle in handles])))
            nothing = np.zeros(len(batch), np.int32)
            for name in columns.keys() | rows.keys():
                before = columns.get(name, [])
                column = list(before)
                if _enter(column, places, rows.get(name, nothing), base.columns.get(name, [])):
                    columns[name] = column
        return self._table(sequence, columns)

    def _table(self, sequence: int, columns: dict[str, Column]) -> Table:
        texts = self.texts
        return Table(
            sequence,
            self.bodies[: len(self.place_of)],
            columns,
            texts,
            frozen(texts.blob),
            frozen(texts.starts),
            frozen(texts.kinds),
            texts.count,
        )

    def _places(self, bodies: list[int]) -> I64:
        """The places of bodies; a body that is new gets the next one."""
        place_of = self.place_of
        places = [place_of.setdefault(body, len(place_of)) for body in bodies]
        if len(place_of) > len(self.bodies):
            grown = np.zeros(max(1024, 2 * len(place_of)), np.uint64)
            grown[: len(self.bodies)] = self.bodies
            self.bodies = grown
        found = np.array(places, np.int64)
        self.bodies[found] = np.array(bodies, np.uint64)
        return found

    def _numbers(self, batch: ValueBatch) -> list[tuple[str, NDArray[np.int32]]]:
        """For each member of documents: its name, and the numbers of its values i32[documents]."""
        names, texts = self.names, self.texts
        lengths = batch.lengths - ENVELOPE_BYTES
        size = int(lengths[lengths > 0].sum())
        data, offsets, lengths = frozen(batch.buffer), frozen(batch.offsets + ENVELOPE_BYTES), frozen(lengths)
        out = np.zeros((max(64, 2 * names.count), len(lengths)), np.int32)
        at = 0
        with texts.lock:
            texts.reserve(size, size // _LEAST_MEMBER_BYTES + 1)
            names.reserve(size, size // _LEAST_MEMBER_BYTES + 1)
            while at < len(lengths):
                at, names.count, texts.count = json_members.take_apart(
                    data, offsets, lengths, at, out,
                    names.blob, names.starts, names.kinds, names.table, names.count,
                    texts.blob, texts.starts, texts.kinds, texts.table, texts.count,
                )  # fmt: skip
                if names.count >= len(out):
                    out = np.concatenate((out, np.zeros((names.count, out.shape[1]), np.int32)))
        while len(self.name_list) <= names.count:
            self.name_list.append(msgspec.json.decode(names.text(len(self.name_list)), type=str))
        present = np.flatnonzero(out[: names.count + 1].any(axis=1))
        return [(self.name_list[number], out[number]) for number in present.tolist()]


def _enter(column: Column, places: I64, row: NDArray[np.int32], shared: Column | None) -> bool:
    """Put numbers of values at places of a column; whether that changed anything.

    Parts that are those of `shared` are copied before they are changed.
    """
    changed = False
    parts_of = places // PART
    alone = bool((parts_of == parts_of[0]).all())
    for number in [int(parts_of[0])] if alone else np.unique(parts_of).tolist():
        where = slice(None) if alone else np.flatnonzero(parts_of == number)
        within, values = places[where] % PART, row[where]
        column.extend([None] * (number + 1 - len(column)))
        part = column[number]
        if part is None:
            if not values.any():
                continue
            part = column[number] = np.zeros(PART, np.int32)
        else:
            if np.array_equal(part[within], values):
                continue
            if shared is not None and number < len(shared) and part is shared[number]:
                part = column[number] = part.copy()
        part[within] = values
        changed = True
    return changed


# -- of a process

_instances: WeakKeyDictionary[Store, OrderedDict[int, Tables]] = WeakKeyDictionary()
_lock = threading.Lock()


def tables_of(call: Call) -> Tables:
    """Those of the call's instance, up to date with nothing yet."""
    with _lock:
        of_store = _instances.setdefault(call.store, OrderedDict())
        found = of_store.get(call.instance.id)
        if found is None:
            found = of_store[call.instance.id] = Tables(call.instance.id)
        of_store.move_to_end(call.instance.id)
        return found


def _limit(store: Store) -> None:
    """Give up the tables that were not used for the longest time."""
    with _lock:
        of_store = _instances.get(store, OrderedDict[int, Any]())
        sizes = {instance_id: tables.size_bytes for instance_id, tables in of_store.items()}
        for instance_id in list(of_store)[:-1]:
            if sum(sizes.values()) <= KEPT_BYTES:
                break
            del of_store[instance_id], sizes[instance_id]


def table_at(call: Call) -> Table:
    """All annotations at the call's version."""
    tables = tables_of(call)
    known = len(tables.by_version)
    table = tables.at(call)
    if len(tables.by_version) > known:
        _limit(call.store)
    return table


def table_if_loaded(call: Call) -> Table | None:
    """The same, unless that would mean to read all annotations."""
    return table_at(call) if call.ancestry.version in tables_of(call).by_version else None
