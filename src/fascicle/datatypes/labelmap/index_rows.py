"""Index rows: immutable pages of (supervoxel, block, count), and the runs that make up a body's index.

How they serve bodies is told in `bodies`. Nothing here knows of bodies or versions: pages and exclusion lists are
written once under ids that nothing else can have, and are cached by them.
"""

from __future__ import annotations

import os
import struct
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import msgspec
import numpy as np
from numpy.typing import NDArray

from fascicle.kernels import body_rows
from fascicle.kernels.arrays import frozen
from fascicle.kernels.body_rows import ALL_BLOCKS
from fascicle.store.base import ReadTransaction, WriteTransaction
from fascicle.versions import keys
from fascicle.versions.resolution import VersionedView

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
SMALL_PAGE = 32
"""Rows up to which a page lies inside of the record: most bodies of a fresh segmentation need no other key."""
CACHE_BYTES = 64 << 20
_ID_BYTES = 12
NO_U64: U64 = np.empty(0, np.uint64)
NO_U32: U32 = np.empty(0, np.uint32)


class Run(msgspec.Struct, frozen=True, array_like=True):
    """A page less an exclusion list."""

    page: bytes
    """Its id, or the encoded page itself if it is small; then nothing is excluded: it is rewritten instead."""
    rows: int
    """Rows and surface entries of the page."""
    excluded: bytes = b""
    excluded_rows: int = 0
    touched: int = 0
    """The mutation that last touched every block of the run; 0: the page knows."""

    @property
    def weight(self) -> int:
        return self.rows - self.excluded_rows


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

    __slots__ = ("_supervoxels", "_surface", "_touches", "block", "count", "sv")

    def __init__(self, sv: U64, block: U64, count: U32, touches: tuple[tuple[U64, Any], ...] = ()) -> None:
        self.sv = sv
        self.block = block
        self.count = count
        self._touches = touches
        self._surface: tuple[U64, U64] | None = None
        self._supervoxels: tuple[U64, U64] | None = None

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
        return blocks_of(self)

    def supervoxels(self) -> tuple[U64, U64]:
        """(supervoxels u64[k] ascending, their voxels u64[k])."""
        if self._supervoxels is None:
            if not len(self.sv):
                return NO_U64, NO_U64
            if self.sv[0] == self.sv[-1]:
                self._supervoxels = self.sv[:1], self.count.sum(dtype=np.uint64, keepdims=True)
                return self._supervoxels
            first = np.empty(len(self.sv), np.bool_)
            first[0] = True
            np.not_equal(self.sv[1:], self.sv[:-1], out=first[1:])
            starts = np.flatnonzero(first)
            self._supervoxels = self.sv[starts], np.add.reduceat(self.count.astype(np.uint64), starts)
        return self._supervoxels

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
        return 36 * len(self.sv) + 400


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


def remembered_bytes(key: Any, make: Callable[[], bytes]) -> bytes:
    """What `make` gives for an immutable thing, kept with the pages."""
    made: bytes | None = _cache.get(key)
    if made is None:
        made = make()
        _cache.put(key, made, len(made) + 200)
    return made


# -- reading ------------------------------------------------------------------------------------------------------


def page_of(txn: ReadTransaction, instance_id: int, page_id: bytes) -> Page:
    if len(page_id) != _ID_BYTES:
        return Page.decode(page_id)
    page: Page | None = _cache.get(page_id)
    if page is None:
        value = txn.get(keys.prefix(instance_id, PAGE) + page_id)
        assert value is not None, f"index page {page_id.hex()} is missing"
        page = Page.decode(value)
        _cache.put(page_id, page, page.nbytes)
    return page


def exclusions(txn: ReadTransaction, instance_id: int, exclusion_id: bytes) -> tuple[U64, U64]:
    pairs: tuple[U64, U64] | None = _cache.get(exclusion_id)
    if pairs is None:
        value = txn.get(keys.prefix(instance_id, EXCLUSION) + exclusion_id)
        assert value is not None, f"exclusion list {exclusion_id.hex()} is missing"
        columns = np.frombuffer(value, "<u8").reshape(2, -1)
        pairs = columns[0], columns[1]
        _cache.put(exclusion_id, pairs, len(value) + 200)
    return pairs


def run_page(txn: ReadTransaction, instance_id: int, run: Run) -> Page:
    """The page of a run without the excluded rows."""
    page = page_of(txn, instance_id, run.page)
    if not run.excluded:
        return page
    filtered: Page | None = _cache.get((run.page, run.excluded))
    if filtered is None:
        kept = kept_places(page, *exclusions(txn, instance_id, run.excluded))
        filtered = Page(page.sv[kept], page.block[kept], page.count[kept], page.surface_block, page.surface_mutid)
        _cache.put((run.page, run.excluded), filtered, filtered.nbytes)
    return filtered


def is_small(run: Run) -> bool:
    """Whether the run's page lies inside of it."""
    return len(run.page) != _ID_BYTES


def rows_of_runs(view: VersionedView, runs: tuple[Run, ...]) -> Rows:
    """All rows of runs, in order."""
    if not runs:
        return NO_ROWS
    if len(runs) == 1 and is_small(runs[0]):  # decoding it anew is cheaper than keeping it
        return union(view.txn, view.instance_id, runs)
    rows: Rows | None = _cache.get(runs)
    if rows is None:
        rows = union(view.txn, view.instance_id, runs)
        _cache.put(runs, rows, rows.nbytes)
    return rows


def union(txn: ReadTransaction, instance_id: int, runs: Sequence[Run]) -> Rows:
    pages = [run_page(txn, instance_id, run) for run in runs]
    touches: list[tuple[U64, Any]] = []
    for run, page in zip(runs, pages, strict=True):
        if run.touched:
            touches.append((page.block, run.touched))
        elif len(page.surface_block):
            touches.append((page.surface_block, page.surface_mutid))
    return Rows(*merged_columns([(page.sv, page.block, page.count) for page in pages]), tuple(touches))


def kept_places(page: Page, excluded_sv: U64, excluded_block: U64) -> NDArray[np.bool_]:
    return body_rows.kept_rows(frozen(page.sv), frozen(page.block), frozen(excluded_sv), frozen(excluded_block))


def merged_columns(parts: Sequence[tuple[U64, U64, U32]]) -> tuple[U64, U64, U32]:
    """Sorted rows of several sorted parts, smallest first so that large ones are walked once."""
    ordered = sorted(parts, key=lambda part: len(part[0]))
    sv, block, count = ordered[0]
    for other in ordered[1:]:
        if not len(sv):
            sv, block, count = other
        elif len(other[0]):
            sv, block, count = body_rows.merge_rows(*[frozen(column) for column in (sv, block, count, *other)])
    return sv, block, count


def ascending(values: U64) -> U64:
    """Values in ascending order, each once: themselves if they are that already, as they mostly are."""
    if len(values) < 2 or bool((values[1:] > values[:-1]).all()):
        return values
    return np.unique(values)


def blocks_of(rows: Page | Rows) -> U64:
    """Codes of the blocks of rows, ascending, each once. Those of a single supervoxel are that already."""
    if len(rows.sv) and rows.sv[0] == rows.sv[-1]:
        return rows.block
    return np.unique(rows.block)


def groups(ordered: U64) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(starts, stops) of the runs of equal values."""
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    return starts, np.r_[starts[1:], len(ordered)]


# -- writing ------------------------------------------------------------------------------------------------------


def _new_id() -> bytes:
    """Ids that rise with time, so that pages written together lie together, and that no other process can make."""
    return struct.pack(">QI", time.time_ns(), int.from_bytes(os.urandom(4), "big"))


def writer(view: VersionedView) -> WriteTransaction:
    assert view.txn.writes, "bodies change inside of a write transaction only"
    return cast("WriteTransaction", view.txn)


def put_page(view: VersionedView, page: Page, touched: int = 0) -> Run:
    if page.weight <= SMALL_PAGE:
        return Run(page.encode(), page.weight, b"", 0, touched)
    page_id = _new_id()
    writer(view).put(keys.prefix(view.instance_id, PAGE) + page_id, page.encode())
    _cache.put(page_id, page, page.nbytes)
    return Run(page_id, page.weight, b"", 0, touched)


def excluding(view: VersionedView, run: Run, sv: U64, block: U64, rows: int) -> Run | None:
    """A run without some more of its rows, given as sorted exclusions; None if nothing is left of it."""
    page = page_of(view.txn, view.instance_id, run.page)
    excluded_rows = run.excluded_rows + rows
    if excluded_rows >= len(page.sv) and not len(page.surface_block):
        return None
    if run.excluded:
        old_sv, old_block = exclusions(view.txn, view.instance_id, run.excluded)
        old = (old_sv, old_block, np.zeros(len(old_sv), np.uint32))
        new = (sv, block, np.zeros(len(sv), np.uint32))
        sv, block, _ = body_rows.merge_rows(*[frozen(column) for column in (*old, *new)])
    if excluded_rows * REWRITE_SHARE > len(page.sv) or len(run.page) != _ID_BYTES:
        kept = kept_places(page, sv, block)
        rest = Page(page.sv[kept], page.block[kept], page.count[kept], page.surface_block, page.surface_mutid)
        return put_page(view, rest, run.touched)
    exclusion_id = _new_id()
    columns = np.concatenate((sv, block)).astype("<u8", copy=False)
    writer(view).put(keys.prefix(view.instance_id, EXCLUSION) + exclusion_id, columns.tobytes())
    _cache.put(exclusion_id, (sv, block), columns.nbytes + 200)
    return Run(run.page, run.rows, exclusion_id, excluded_rows, run.touched)


def without_supervoxels(view: VersionedView, runs: Sequence[Run], supervoxels: U64) -> tuple[list[Run], Rows]:
    """Runs without some supervoxels (ascending, unique), and the rows that those had."""
    left: list[Run] = []
    parts: list[tuple[U64, U64, U32]] = []
    for run in runs:
        page = page_of(view.txn, view.instance_id, run.page)
        places = body_rows.ranges_of(frozen(page.sv), frozen(supervoxels))
        if len(places) and run.excluded:
            found = Page(page.sv[places], page.block[places], page.count[places])
            places = places[kept_places(found, *exclusions(view.txn, view.instance_id, run.excluded))]
        if not len(places):
            left.append(run)
            continue
        parts.append((page.sv[places], page.block[places], page.count[places]))
        gone = ascending(page.sv[places])
        rest = excluding(view, run, gone, np.full(len(gone), ALL_BLOCKS, np.uint64), len(places))
        if rest is not None:
            left.append(rest)
    return left, Rows(*merged_columns(parts)) if parts else NO_ROWS


def folded(view: VersionedView, runs: Iterable[Run]) -> tuple[Run, ...]:
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
        ordered.append(put_page(view, _one_page(view, gathered)))
        ordered.sort(key=lambda run: -run.weight)
    return tuple(ordered)


def _one_page(view: VersionedView, runs: Sequence[Run]) -> Page:
    pages = [run_page(view.txn, view.instance_id, run) for run in runs]
    blocks: list[U64] = []
    mutids: list[U64] = []
    for run, page in zip(runs, pages, strict=True):
        if run.touched:
            blocks.append(blocks_of(page))
            mutids.append(np.full(len(blocks[-1]), run.touched, np.uint64))
        else:
            blocks.append(page.surface_block)
            mutids.append(page.surface_mutid)
    surface = latest(np.concatenate(blocks), np.concatenate(mutids))
    return Page(*merged_columns([(page.sv, page.block, page.count) for page in pages]), *surface)


def latest(blocks: U64, mutids: U64) -> tuple[U64, U64]:
    """For each block the greatest mutation, blocks ascending."""
    if not len(blocks):
        return NO_U64, NO_U64
    order = np.lexsort((mutids, blocks))
    blocks, mutids = blocks[order], mutids[order]
    last = np.ones(len(blocks), np.bool_)
    np.not_equal(blocks[1:], blocks[:-1], out=last[:-1])
    return blocks[last], mutids[last]
