"""The index of bodies: which blocks each of their supervoxels lies in, with how many voxels, at every version.

A *page* is an immutable set of rows (supervoxel, block, count), sorted; it belongs to no version. A *body* at a version
is one small versioned record: totals, who changed it last, and *runs*. A run is a page, less the rows that an
*exclusion list* names (also immutable), and says which mutation last touched its blocks. The rows of a body are the
disjoint union of its runs.

    class 10: label u64                -> Body (versioned)
    class 11: page id (12 bytes)       -> Page
    class 12: exclusion id (12 bytes)  -> excluded supervoxels u64[n], blocks u64[n] (ALL_BLOCKS: every row of one)

So merging puts lists of runs together, cleaving writes an exclusion list and a page of what left, renumbering writes a
record: none of them rewrites a large body. Small runs are folded into larger ones, and a run is rewritten once a
quarter of it is excluded, so a body never has more than a dozen runs. Pages are never changed, hence cached by their id
alone, which holds for all versions, transactions and processes.

`surface_mutid` of the wire format (the mutation that last changed a body in a block) is kept per block in pages and,
for whole runs, in the record.
"""

from __future__ import annotations

import os
import struct
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from fascicle.datatypes.labelmap.mapping import mapping_at
from fascicle.errors import BadRequest, NotFound
from fascicle.kernels import body_rows
from fascicle.kernels.arrays import frozen
from fascicle.kernels.body_rows import ALL_BLOCKS
from fascicle.store.base import ReadTransaction, WriteTransaction
from fascicle.versions import keys
from fascicle.versions.resolution import VersionedView

BODY = 10
PAGE = 11
EXCLUSION = 12

U64 = NDArray[np.uint64]
U32 = NDArray[np.uint32]

FOLD_RATIO = 3
"""A run is folded with the next larger one unless that one is more than this many times its weight."""
FOLD_LIMIT = 1 << 16
"""Rows up to which runs are folded eagerly."""
MOST_RUNS = 12
REWRITE_SHARE = 4
"""A run is rewritten once one row in this many is excluded."""
CACHE_BYTES = 64 << 20


# -- values -------------------------------------------------------------------------------------------------------


class Stamp(msgspec.Struct, frozen=True):
    """What a mutation leaves on the bodies that it changes."""

    mutation_id: int
    time: str
    """RFC 3339."""
    user: str
    app: str


class Run(msgspec.Struct, frozen=True, array_like=True):
    """A page less an exclusion list."""

    page: bytes
    rows: int
    """Rows and surface entries of the page."""
    excluded: bytes = b""
    excluded_rows: int = 0
    touched: int = 0
    """The mutation that last touched every block of the run; 0: the page knows."""

    @property
    def weight(self) -> int:
        return self.rows - self.excluded_rows


class Body(msgspec.Struct, frozen=True, array_like=True):
    """The record of a body at a version."""

    label: int
    voxels: int
    last_mutid: int = 0
    last_mod_time: str = ""
    last_mod_user: str = ""
    last_mod_app: str = ""
    runs: tuple[Run, ...] = ()

    @property
    def rows(self) -> int:
        """About how many rows the index has (surface entries included)."""
        return sum(run.weight for run in self.runs)


_decode = msgspec.msgpack.Decoder(Body).decode
_encode = msgspec.msgpack.Encoder().encode

NO_U64: U64 = np.empty(0, np.uint64)
NO_U32: U32 = np.empty(0, np.uint32)


@dataclass(frozen=True, slots=True)
class Page:
    """Rows sorted by (supervoxel, block), and the last touching mutation of some blocks, ascending by block."""

    sv: U64
    block: U64
    count: U32
    surface_block: U64 = field(default_factory=lambda: NO_U64)
    surface_mutid: U64 = field(default_factory=lambda: NO_U64)

    @property
    def nbytes(self) -> int:
        return 20 * len(self.sv) + 16 * len(self.surface_block) + 200

    @property
    def weight(self) -> int:
        return len(self.sv) + len(self.surface_block)

    def encode(self) -> bytes:
        head = struct.pack("<II", len(self.sv), len(self.surface_block))
        columns = (self.sv, self.block, self.surface_block, self.surface_mutid)
        parts = [np.ascontiguousarray(column, "<u8").tobytes() for column in columns]
        return b"".join((head, *parts, np.ascontiguousarray(self.count, "<u4").tobytes()))

    @classmethod
    def decode(cls, data: bytes) -> Page:
        n, m = struct.unpack_from("<II", data)
        wide = np.frombuffer(data, "<u8", 2 * n + 2 * m, 8)
        count = np.frombuffer(data, "<u4", n, 8 + 16 * (n + m))
        return cls(wide[:n], wide[n : 2 * n], count, wide[2 * n : 2 * n + m], wide[2 * n + m :])


class Rows:
    """The index rows of a body or of some of its supervoxels.

    `sv` u64[n], `block` u64[n] (codes of `formats.block_code`), `count` u32[n], sorted by (sv, block).
    """

    __slots__ = ("_surface", "_touches", "block", "count", "sv")

    def __init__(self, sv: U64, block: U64, count: U32, touches: tuple[tuple[U64, Any], ...] = ()) -> None:
        self.sv = sv
        self.block = block
        self.count = count
        self._touches = touches
        self._surface: tuple[U64, U64] | None = None

    @classmethod
    def of(cls, sv: U64, block: U64, count: U32, surface_block: U64 = NO_U64, surface_mutid: U64 = NO_U64) -> Rows:
        """Rows given in any order, those without voxels left out; the last of several for one (sv, block) counts."""
        order = np.lexsort((block, sv))
        sv, block, count = sv[order], block[order], count[order].astype(np.uint32)
        keep = (count > 0) & (sv != 0)
        if len(sv):
            keep[:-1] &= (sv[1:] != sv[:-1]) | (block[1:] != block[:-1])
        touches = ((surface_block, surface_mutid),) if len(surface_block) else ()
        return cls(sv[keep], block[keep], count[keep], touches)

    def __len__(self) -> int:
        return len(self.sv)

    @property
    def voxels(self) -> int:
        return int(self.count.sum(dtype=np.uint64))

    def blocks(self) -> U64:
        """Codes of the blocks, ascending, each once."""
        return np.unique(self.block)

    def supervoxels(self) -> tuple[U64, U64]:
        """(supervoxels u64[k] ascending, their voxels u64[k])."""
        if not len(self.sv):
            return NO_U64, NO_U64
        starts = np.flatnonzero(np.r_[True, self.sv[1:] != self.sv[:-1]])
        return self.sv[starts], np.add.reduceat(self.count.astype(np.uint64), starts)

    def only(self, supervoxels: U64) -> Rows:
        """The rows of some supervoxels."""
        places = body_rows.ranges_of(frozen(self.sv), frozen(np.unique(supervoxels).astype(np.uint64)))
        return Rows(self.sv[places], self.block[places], self.count[places], self._touches)

    @property
    def surface_block(self) -> U64:
        """The body's blocks, ascending."""
        return self._surfaces()[0]

    @property
    def surface_mutid(self) -> U64:
        """For each of `surface_block` the mutation that last changed the body there, 0 for none."""
        return self._surfaces()[1]

    def _surfaces(self) -> tuple[U64, U64]:
        if self._surface is None:
            blocks = self.blocks()
            mutids = np.zeros(len(blocks), np.uint64)
            for touched, by in self._touches:
                at = np.searchsorted(blocks, touched)
                there = at < len(blocks)
                there[there] = blocks[at[there]] == touched[there]
                values = by[there] if isinstance(by, np.ndarray) else np.uint64(by)
                np.maximum.at(mutids, at[there], values)
            self._surface = blocks, mutids
        return self._surface

    @property
    def nbytes(self) -> int:
        return 20 * len(self.sv) + 400


NO_ROWS = Rows(NO_U64, NO_U64, NO_U32)


# -- the cache of this process ------------------------------------------------------------------------------------


class _Cache:
    """Decoded immutable things by their ids, least recently used ones dropped."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit, self._held = limit_bytes, 0
        self._lock = threading.Lock()
        self._entries: OrderedDict[Any, tuple[Any, int]] = OrderedDict()

    def get(self, key: Any) -> Any:
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                return None
            self._entries.move_to_end(key)
            return entry[0]

    def put(self, key: Any, value: Any, nbytes: int) -> None:
        if nbytes > self._limit // 2:
            return
        with self._lock:
            old = self._entries.pop(key, None)
            self._held += nbytes - (old[1] if old else 0)
            self._entries[key] = value, nbytes
            while self._held > self._limit:
                self._held -= self._entries.popitem(last=False)[1][1]

    def clear(self) -> None:
        with self._lock:
            self._entries.clear()
            self._held = 0


_cache = _Cache(CACHE_BYTES)
forget_all = _cache.clear


# -- reading ------------------------------------------------------------------------------------------------------


def _label_key(label: int) -> bytes:
    return label.to_bytes(8, "big")


def read_body(view: VersionedView, label: int) -> Body | None:
    """The record of a body, or None if it does not exist at this version."""
    value = view.get(BODY, _label_key(label))
    return None if value is None else _decode(value)


def read_bodies(view: VersionedView, labels: Iterable[int]) -> list[Body | None]:
    return [read_body(view, label) for label in labels]


def existing_body(view: VersionedView, label: int) -> Body:
    """The record of a body; NotFound if it does not exist."""
    body = read_body(view, label)
    if body is None:
        raise NotFound(f"body {label} does not exist")
    return body


def body_version(view: VersionedView, label: int) -> int | None:
    """The version whose record of a body is in effect, or None."""
    return view.version_of(BODY, _label_key(label))


def list_bodies(view: VersionedView, start: int = 0) -> Iterator[tuple[int, int]]:
    """(label, voxels) of all bodies from `start` on, ascending."""
    for type_key, _, handle in view.scan(BODY, _label_key(start)):
        yield int.from_bytes(type_key, "big"), _decode(view.load(handle)).voxels


def read_rows(view: VersionedView, body: Body) -> Rows:
    """All index rows of a body."""
    if not body.runs:
        return NO_ROWS
    rows: Rows | None = _cache.get(body.runs)
    if rows is None:
        rows = _union(view.txn, view.instance_id, body.runs)
        _cache.put(body.runs, rows, rows.nbytes)
    return rows


def rows_of_supervoxels(view: VersionedView, body: Body, supervoxels: U64) -> Rows:
    """The index rows of some supervoxels of a body, without reading the rest of a large one into order."""
    wanted = np.unique(np.asarray(supervoxels, np.uint64))
    parts = []
    for run in body.runs:
        page = _run_page(view.txn, view.instance_id, run)
        places = body_rows.ranges_of(frozen(page.sv), frozen(wanted))
        if len(places):
            parts.append((page.sv[places], page.block[places], page.count[places]))
    if not parts:
        return NO_ROWS
    return Rows(*_merged(parts))


def _page(txn: ReadTransaction, instance_id: int, page_id: bytes) -> Page:
    page: Page | None = _cache.get(page_id)
    if page is None:
        value = txn.get(keys.prefix(instance_id, PAGE) + page_id)
        assert value is not None, f"index page {page_id.hex()} is missing"
        page = Page.decode(value)
        _cache.put(page_id, page, page.nbytes)
    return page


def _exclusions(txn: ReadTransaction, instance_id: int, exclusion_id: bytes) -> tuple[U64, U64]:
    pairs: tuple[U64, U64] | None = _cache.get(exclusion_id)
    if pairs is None:
        value = txn.get(keys.prefix(instance_id, EXCLUSION) + exclusion_id)
        assert value is not None, f"exclusion list {exclusion_id.hex()} is missing"
        columns = np.frombuffer(value, "<u8").reshape(2, -1)
        pairs = columns[0], columns[1]
        _cache.put(exclusion_id, pairs, len(value) + 200)
    return pairs


def _run_page(txn: ReadTransaction, instance_id: int, run: Run) -> Page:
    """The page of a run without the excluded rows."""
    page = _page(txn, instance_id, run.page)
    if not run.excluded:
        return page
    filtered: Page | None = _cache.get((run.page, run.excluded))
    if filtered is None:
        kept = _kept(page, *_exclusions(txn, instance_id, run.excluded))
        filtered = Page(page.sv[kept], page.block[kept], page.count[kept], page.surface_block, page.surface_mutid)
        _cache.put((run.page, run.excluded), filtered, filtered.nbytes)
    return filtered


def _kept(page: Page, excluded_sv: U64, excluded_block: U64) -> NDArray[np.bool_]:
    return body_rows.kept_rows(frozen(page.sv), frozen(page.block), frozen(excluded_sv), frozen(excluded_block))


def _merged(parts: Sequence[tuple[U64, U64, U32]]) -> tuple[U64, U64, U32]:
    """Sorted rows of several sorted parts, smallest first so that large ones are walked once."""
    ordered = sorted(parts, key=lambda part: len(part[0]))
    sv, block, count = ordered[0]
    for other in ordered[1:]:
        if not len(sv):
            sv, block, count = other
        elif len(other[0]):
            sv, block, count = body_rows.merge_rows(*map(frozen, (sv, block, count, *other)))
    return sv, block, count


def _union(txn: ReadTransaction, instance_id: int, runs: Sequence[Run]) -> Rows:
    pages = [_run_page(txn, instance_id, run) for run in runs]
    touches: list[tuple[U64, Any]] = []
    for run, page in zip(runs, pages, strict=True):
        if run.touched:
            touches.append((page.block, run.touched))
        elif len(page.surface_block):
            touches.append((page.surface_block, page.surface_mutid))
    return Rows(*_merged([(page.sv, page.block, page.count) for page in pages]), tuple(touches))


# -- writing ------------------------------------------------------------------------------------------------------


def _new_id() -> bytes:
    """Ids that rise with time, so that pages written together lie together, and that no other process can make."""
    return struct.pack(">QI", time.time_ns(), int.from_bytes(os.urandom(4), "big"))


def _writer(view: VersionedView) -> WriteTransaction:
    assert isinstance(view.txn, WriteTransaction), "bodies change inside of a write transaction only"
    return view.txn


def _put_page(view: VersionedView, page: Page, touched: int = 0) -> Run:
    page_id = _new_id()
    _writer(view).put(keys.prefix(view.instance_id, PAGE) + page_id, page.encode())
    _cache.put(page_id, page, page.nbytes)
    return Run(page_id, page.weight, b"", 0, touched)


def _put_body(view: VersionedView, body: Body) -> None:
    """Store a record; a body without voxels does not exist."""
    if body.voxels <= 0:
        remove_body(view, body.label)
    else:
        view.put(BODY, _label_key(body.label), _encode(body))


def _stamped(body: Body, stamp: Stamp, **changes: Any) -> Body:
    return msgspec.structs.replace(
        body,
        last_mutid=stamp.mutation_id,
        last_mod_time=stamp.time,
        last_mod_user=stamp.user,
        last_mod_app=stamp.app,
        **changes,
    )


def _excluding(view: VersionedView, run: Run, sv: U64, block: U64, rows: int) -> Run | None:
    """A run without some more of its rows, given as sorted exclusions; None if nothing is left of it."""
    page = _page(view.txn, view.instance_id, run.page)
    excluded_rows = run.excluded_rows + rows
    if excluded_rows >= len(page.sv) and not len(page.surface_block):
        return None
    if run.excluded:
        old_sv, old_block = _exclusions(view.txn, view.instance_id, run.excluded)
        nothing = np.zeros(len(old_sv), np.uint32), np.zeros(len(sv), np.uint32)
        sv, block, _ = body_rows.merge_rows(
            *map(frozen, (old_sv, old_block, nothing[0], np.ascontiguousarray(sv), block, nothing[1]))
        )
    if excluded_rows * REWRITE_SHARE > len(page.sv):
        kept = _kept(page, sv, block)
        rest = Page(page.sv[kept], page.block[kept], page.count[kept], page.surface_block, page.surface_mutid)
        return _put_page(view, rest, run.touched)
    exclusion_id = _new_id()
    columns = np.concatenate((sv, block)).astype("<u8", copy=False)
    _writer(view).put(keys.prefix(view.instance_id, EXCLUSION) + exclusion_id, columns.tobytes())
    _cache.put(exclusion_id, (sv, block), columns.nbytes + 200)
    return Run(run.page, run.rows, exclusion_id, excluded_rows, run.touched)


def _folded(view: VersionedView, runs: Iterable[Run]) -> tuple[Run, ...]:
    """Runs with the small ones put together, largest first."""
    ordered = sorted(runs, key=lambda run: -run.weight)
    while len(ordered) > 1:
        small, next_larger = ordered[-1], ordered[-2]
        eager = next_larger.weight <= FOLD_RATIO * small.weight and small.weight + next_larger.weight <= FOLD_LIMIT
        if not eager and len(ordered) <= MOST_RUNS:
            break
        # Everything that is not much larger than what is gathered so far goes into one page, written once.
        gathered = [ordered.pop(), ordered.pop()]
        weight = sum(run.weight for run in gathered)
        while ordered and ordered[-1].weight <= FOLD_RATIO * weight and weight + ordered[-1].weight <= FOLD_LIMIT:
            weight += ordered[-1].weight
            gathered.append(ordered.pop())
        ordered.append(_put_page(view, _one_page(view, gathered)))
        ordered.sort(key=lambda run: -run.weight)
    return tuple(ordered)


def _one_page(view: VersionedView, runs: Sequence[Run]) -> Page:
    pages = [_run_page(view.txn, view.instance_id, run) for run in runs]
    blocks: list[U64] = []
    mutids: list[U64] = []
    for run, page in zip(runs, pages, strict=True):
        if run.touched:
            blocks.append(np.unique(page.block))
            mutids.append(np.full(len(blocks[-1]), run.touched, np.uint64))
        else:
            blocks.append(page.surface_block)
            mutids.append(page.surface_mutid)
    surface = _latest(np.concatenate(blocks), np.concatenate(mutids))
    return Page(*_merged([(page.sv, page.block, page.count) for page in pages]), *surface)


def _latest(blocks: U64, mutids: U64) -> tuple[U64, U64]:
    """For each block the greatest mutation, blocks ascending."""
    if not len(blocks):
        return NO_U64, NO_U64
    order = np.lexsort((mutids, blocks))
    blocks, mutids = blocks[order], mutids[order]
    last = np.r_[blocks[1:] != blocks[:-1], True]
    return blocks[last], mutids[last]


def write_rows(view: VersionedView, label: int, rows: Rows, stamp: Stamp) -> None:
    """Replace a body's index, totals and stamp; no rows remove the body."""
    if not len(rows):
        remove_body(view, label)
        return
    blocks, mutids = rows.surface_block, rows.surface_mutid
    known = mutids > 0
    run = _put_page(view, Page(rows.sv, rows.block, rows.count, blocks[known], mutids[known]))
    _put_body(view, _stamped(Body(label, rows.voxels), stamp, runs=(run,)))


def remove_body(view: VersionedView, label: int) -> None:
    view.delete(BODY, _label_key(label))


def merge(view: VersionedView, target: int, merged: Sequence[int], stamp: Stamp) -> Body:
    """Give the rows of existing bodies to an existing target and remove them; the target's new record.

    Their blocks count as touched by the mutation, also where the target was before.
    """
    body = existing_body(view, target)
    runs, voxels = list(body.runs), body.voxels
    for label in merged:
        other = existing_body(view, label)
        runs.extend(msgspec.structs.replace(run, touched=stamp.mutation_id) for run in other.runs)
        voxels += other.voxels
        remove_body(view, label)
    result = _stamped(body, stamp, voxels=voxels, runs=_folded(view, runs))
    _put_body(view, result)
    return result


def cleave(
    view: VersionedView, label: int, new_label: int, supervoxels: U64, stamp: Stamp
) -> tuple[int, int]:
    """Move supervoxels of a body to a new one; (voxels moved, voxels left). Those without rows are passed over."""
    body = existing_body(view, label)
    left_runs, moved = _without_supervoxels(view, body.runs, np.unique(np.asarray(supervoxels, np.uint64)))
    if not len(moved):
        return 0, body.voxels
    blocks = moved.blocks()
    touched = np.full(len(blocks), stamp.mutation_id, np.uint64)
    trace = _put_page(view, Page(NO_U64, NO_U64, NO_U32, blocks, touched))
    left = body.voxels - moved.voxels
    _put_body(view, _stamped(body, stamp, voxels=left, runs=_folded(view, [*left_runs, trace])))
    run = _put_page(view, Page(moved.sv, moved.block, moved.count), stamp.mutation_id)
    _put_body(view, _stamped(Body(new_label, moved.voxels), stamp, runs=(run,)))
    return moved.voxels, left


def _without_supervoxels(view: VersionedView, runs: Sequence[Run], supervoxels: U64) -> tuple[list[Run], Rows]:
    """Runs without some supervoxels (ascending, unique), and the rows that those had."""
    left: list[Run] = []
    parts: list[tuple[U64, U64, U32]] = []
    for run in runs:
        page = _page(view.txn, view.instance_id, run.page)
        places = body_rows.ranges_of(frozen(page.sv), frozen(supervoxels))
        if len(places) and run.excluded:
            found = Page(page.sv[places], page.block[places], page.count[places])
            places = places[_kept(found, *_exclusions(view.txn, view.instance_id, run.excluded))]
        if not len(places):
            left.append(run)
            continue
        parts.append((page.sv[places], page.block[places], page.count[places]))
        gone = np.unique(page.sv[places])
        rest = _excluding(view, run, gone, np.full(len(gone), ALL_BLOCKS, np.uint64), len(places))
        if rest is not None:
            left.append(rest)
    return left, Rows(*_merged(parts)) if parts else NO_ROWS


def rename(view: VersionedView, old: int, new: int, stamp: Stamp) -> None:
    """Give an existing body another label."""
    body = existing_body(view, old)
    remove_body(view, old)
    _put_body(view, _stamped(body, stamp, label=new))


def replace_supervoxel(view: VersionedView, label: int, supervoxel: int, rows: Rows, stamp: Stamp) -> None:
    """Put the rows of other supervoxels in the place of one supervoxel's; `surface_mutid` stays as it is."""
    body = existing_body(view, label)
    runs, old = _without_supervoxels(view, body.runs, np.array([supervoxel], np.uint64))
    if len(rows):
        # Blocks keep their surface mutation: what the old rows' runs said of them moves to the new rows' page.
        blocks, mutids = read_rows(view, body).surface_block, read_rows(view, body).surface_mutid
        there = np.isin(blocks, rows.block) & (mutids > 0)
        runs.append(_put_page(view, Page(rows.sv, rows.block, rows.count, blocks[there], mutids[there])))
    voxels = body.voxels - old.voxels + rows.voxels
    _put_body(view, _stamped(body, stamp, voxels=voxels, runs=_folded(view, runs)))


def apply_counts(view: VersionedView, supervoxels: U64, blocks: U64, counts: U32) -> None:
    """Set how many voxels supervoxels have in blocks: supervoxel u64[n], block code u64[n], count u32[n] (0: none).

    Every pair once. The body of each supervoxel is found by the mapping (its own where there is none, or where it was
    retired); bodies come, grow, shrink and go accordingly. Stamps and surfaces stay: writing voxels is no mutation of
    a body. Supervoxel 0 is passed over.
    """
    live = supervoxels != 0
    supervoxels, blocks, counts = supervoxels[live], blocks[live], counts[live]
    if not len(supervoxels):
        return
    owners = mapping_at(view).bodies(supervoxels)
    owners = np.where(owners == 0, supervoxels, owners)
    order = np.lexsort((blocks, supervoxels, owners))
    owners, supervoxels, blocks = owners[order], supervoxels[order], blocks[order]
    counts = counts[order].astype(np.uint32)
    starts = np.flatnonzero(np.r_[True, owners[1:] != owners[:-1]])
    stops = np.r_[starts[1:], len(owners)]
    for a, b in zip(starts.tolist(), stops.tolist(), strict=True):
        _set_counts(view, int(owners[a]), supervoxels[a:b], blocks[a:b], counts[a:b])


def _set_counts(view: VersionedView, label: int, sv: U64, block: U64, count: U32) -> None:
    """`apply_counts` for one body, rows sorted by (sv, block)."""
    body = read_body(view, label)
    runs: list[Run] = []
    voxels = 0
    traces: list[tuple[U64, int]] = []
    if body is not None:
        voxels = body.voxels
        for run in body.runs:
            page = _page(view.txn, view.instance_id, run.page)
            places = body_rows.find_rows(frozen(page.sv), frozen(page.block), frozen(sv), frozen(block))
            places = places[places >= 0]
            if len(places) and run.excluded:
                found = Page(page.sv[places], page.block[places], page.count[places])
                places = places[_kept(found, *_exclusions(view.txn, view.instance_id, run.excluded))]
            if not len(places):
                runs.append(run)
                continue
            voxels -= int(page.count[places].sum(dtype=np.uint64))
            if run.touched:
                traces.append((page.block[places], run.touched))
            rest = _excluding(view, run, page.sv[places], page.block[places], len(places))
            if rest is not None:
                runs.append(rest)
    there = count > 0
    if there.any() or traces:
        voxels += int(count[there].sum(dtype=np.uint64))
        surface = _latest(
            np.concatenate([NO_U64, *(blocks for blocks, _ in traces)]),
            np.concatenate([NO_U64, *(np.full(len(blocks), mutid, np.uint64) for blocks, mutid in traces)]),
        )
        runs.append(_put_page(view, Page(sv[there], block[there], count[there], *surface)))
    if body is None:
        body = Body(label, voxels)
    elif voxels < 0:
        raise BadRequest(f"index of body {label} has fewer voxels than are taken away")
    if voxels == 0 and not read_body(view, label):
        return
    _put_body(view, msgspec.structs.replace(body, voxels=voxels, runs=_folded(view, runs)))
