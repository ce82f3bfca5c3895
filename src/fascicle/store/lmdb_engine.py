"""The embedded store: LMDB for keys and small values, an append-only log for large ones.

LMDB gives ordered keys, snapshots and the lock between processes, and its commit is the only commit point: values are
appended to the log and synced first, then the pointers to them are committed. Bindings: `lmdb` with the file format of
LMDB 0.9; https://lmdb.readthedocs.io.

A folder of this engine: `store.json` says what it is, `data.mdb` and `lock.mdb` are LMDB's, `values/` holds the log.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lmdb

from fascicle.errors import FascicleError, StoreError, StoreFull, Unavailable
from fascicle.store.base import INLINE, Store, StoreStatistics
from fascicle.store.folder import claim_folder, no_space_behind
from fascicle.store.overlay import INLINE_PREFIX
from fascicle.store.snapshots import (
    SEGMENT_RECORD,
    TAIL_KEY,
    TAIL_RECORD,
    GroupView,
    LmdbRead,
    segment_key,
)
from fascicle.store.value_log import FULL_ERRNOS, SEGMENT_BYTES, Append, Place, ValueLog, sync_folder
from fascicle.store.writer import Change, Done, GroupOutdated, GroupWriter, Pending, WriteGroup

log = logging.getLogger(__name__)

INLINE_BYTES = 1280
"""Longest value kept beside its key: three such entries fill a page of LMDB; longer ones would take whole pages."""
MAP_BYTES = (64 << 20) if sys.platform == "win32" else (1 << 40)
"""Address space for the index, a sparse reservation; Windows makes a file of this size, so there it starts small."""
WAITING_BYTES = 16 << 20
"""Values of a group that wait in memory for being written to the log; the system gets them as soon as they are more."""
MAX_READERS = 4096
SPARE_TRANSACTIONS = 64
PAUSE_S = 5.0
"""How long a change of the map's size waits for the reads of this process to end."""
READER_CHECK_S = 60.0


class LmdbGroup(WriteGroup):
    """One LMDB write transaction, which is also the lock between processes, and what it appends to the log."""

    def __init__(self, store: LmdbStore) -> None:
        self._store = store
        self._added: list[Pending] = []
        self.view: GroupView = GroupView(store)
        self._begin()

    def _begin(self) -> None:
        store = self._store
        self._txn = store._begin_write()
        self._number = self._txn.id()
        self._cursor = self._txn.cursor()
        self.view._txn = self._txn
        self.view.placed = {}
        self.view.known = {}
        tail, self._inline_bytes = self.view.tail()
        self._append = Append(store.log, tail)
        self._live: dict[int, int] = {}

    def add(self, pending: Pending) -> int:
        self._added.append(pending)
        try:
            return self._apply(pending)
        except lmdb.MapFullError:
            self._grow()
            return sum(len(value) for value in pending.values() if value is not None)
        except lmdb.Error as error:
            raise self._store._failure(error) from error

    def _apply(self, pending: Pending) -> int:
        size = 0
        cursor = self._cursor
        known = self.view.known
        for key, value in pending.items():
            if key in known:
                del known[key]
            if value is None:
                old = cursor.pop(key)
            elif len(value) <= INLINE_BYTES:
                old = cursor.replace(key, INLINE_PREFIX + value)
                size += len(value)
                self._inline_bytes += len(value)
            else:
                at_hand = value if isinstance(value, bytes) else value.read()
                handle = self._append.place(at_hand)
                old = cursor.replace(key, handle)
                size += len(at_hand)
                self.view.placed[handle] = at_hand
                self._count(handle, 1)
                if self._append.waiting_bytes > WAITING_BYTES:
                    self._append.write()
                    self.view.placed.clear()
            if old is not None:
                if old[0] == INLINE:
                    self._inline_bytes -= len(old) - 1
                else:
                    self._count(old, -1)
        return size

    def _count(self, handle: bytes, sign: int) -> None:
        place = Place.parse(handle)
        self._live[place.segment] = self._live.get(place.segment, 0) + sign * place.length

    def _grow(self) -> None:
        """Start anew in a larger map. Nobody else may have written meanwhile, or the changes have to run again."""
        number = self._number  # a transaction whose commit failed is closed, and has no number any more
        while True:
            self._txn.abort()
            self._store._grow_map()
            self._begin()
            if self._number != number:
                self._txn.abort()
                raise GroupOutdated
            try:
                for pending in self._added:
                    self._apply(pending)
                return
            except lmdb.MapFullError:
                continue

    def commit(self) -> None:
        while True:
            try:
                self._append.flush()
                self._put_records()
                self._txn.commit()
                return
            except lmdb.MapFullError:
                self._grow()
            except lmdb.Error as error:
                raise self._store._failure(error) from error

    def _put_records(self) -> None:
        meta = self._store._meta
        sealed = dict(self._append.sealed)
        tail = self._append.tail
        for number in sorted(self._live.keys() | sealed.keys()):
            old = self._txn.get(segment_key(number), db=meta)
            length, live = SEGMENT_RECORD.unpack(old) if old is not None else (0, 0)
            record = SEGMENT_RECORD.pack(sealed.get(number, length), live + self._live.get(number, 0))
            self._txn.put(segment_key(number), record, db=meta)
        self._txn.put(TAIL_KEY, TAIL_RECORD.pack(tail.segment, tail.offset, self._inline_bytes), db=meta)

    def abort(self) -> None:
        self._txn.abort()


class LmdbStore(Store):
    """An ordered store in a folder, for any number of processes on one machine (not on network file systems)."""

    description = "Fascicle LMDB + value log"

    def __init__(
        self, path: Path, *, readonly: bool = False, map_bytes: int = MAP_BYTES, segment_bytes: int = SEGMENT_BYTES
    ) -> None:
        """Open or make a store. `map_bytes` is where the index's address space starts; it grows by itself.

        Raises StoreError if the folder holds something else, or is open in this process already.
        """
        self._path = path.absolute()
        self._map_bytes = map_bytes
        self.readonly = readonly
        claim_folder(self._path, readonly)
        self.log = ValueLog(self._path / "values", segment_bytes)
        self._barred: BaseException | threading.Event | None = None
        self._readers: set[LmdbRead] = set()
        self._lock = threading.Lock()
        self._readers_checked = time.monotonic()
        self._open_environment()
        self._writer: GroupWriter | None = None
        if not readonly:
            self._writer = GroupWriter(lambda: LmdbGroup(self), self._housekeeping, "store writer")
        OPEN_STORES.add(self)

    @property
    def path(self) -> Path | None:
        return self._path

    def read(self) -> LmdbRead:
        return LmdbRead(self)

    def submit(self, change: Change, done: Done) -> None:
        if isinstance(self._barred, BaseException):
            raise self._barred
        if self._writer is None:
            raise StoreError(f"the store in {self._path} was opened for reading only")
        self._writer.submit(change, done)

    def backup(self, target: Path) -> None:
        from fascicle.store.maintenance import backup

        backup(self, target)

    def check(self) -> list[str]:
        from fascicle.store.maintenance import check

        return check(self)

    def compact(self, wasted: float = 0.5) -> int:
        """Rewrite sealed segments of which more than this share is dead; how many bytes were given back."""
        from fascicle.store.maintenance import compact

        return compact(self, wasted)

    def statistics(self) -> StoreStatistics:
        with self.read() as txn:
            keys = txn._txn.stat(self._db)["entries"]
            segments = txn.segments()
            inline_bytes = txn.tail()[1]
            number = txn.number
        info, page = self._env.info(), self._env.stat()["psize"]
        log_bytes = sum(use.length for use in segments.values())
        live_log_bytes = sum(use.live for use in segments.values())
        index_bytes = (info["last_pgno"] + 1) * page
        details = {
            "index_bytes": index_bytes,
            "log_bytes": log_bytes,
            "log_live_bytes": live_log_bytes,
            "log_dead_bytes": log_bytes - live_log_bytes,
            "segments": len(segments),
            "map_bytes": info["map_size"],
            "reader_slots": info["num_readers"],
            "commits": self._writer.groups if self._writer else 0,
            "changes": self._writer.changes if self._writer else 0,
        }
        return StoreStatistics(
            "lmdb", str(self._path), keys, index_bytes + log_bytes, inline_bytes + live_log_bytes, number, details
        )

    def close(self) -> None:
        if self._writer is not None and not isinstance(self._barred, BaseException):
            self._writer.close()
        with self._lock:
            if isinstance(self._barred, BaseException):
                return
            self._barred = Unavailable(f"the store in {self._path} is closed")
        if self._drain(PAUSE_S):  # never unmap the index under a thread that reads
            self._env.close()
        else:
            log.warning("the store in %s was closed while reads were open", self._path)
        self.log.close()
        OPEN_STORES.discard(self)

    def _open_environment(self) -> None:
        size = self._map_bytes
        while True:
            try:
                self._env = lmdb.open(
                    str(self._path),
                    map_size=size,
                    readonly=self.readonly,
                    create=not self.readonly,
                    readahead=False,
                    meminit=False,
                    max_readers=MAX_READERS,
                    max_spare_txns=SPARE_TRANSACTIONS,
                    max_dbs=4,
                )
                break
            except (lmdb.Error, OverflowError) as error:
                limited = isinstance(error, (lmdb.MemoryError, OverflowError)) or error.code == errno.ENOMEM
                if not limited or size <= 64 << 20:  # address space is limited: take less
                    raise StoreError(f"the store in {self._path} cannot be opened: {error}") from error
                size //= 4
        try:
            self._db = self._env.open_db(b"keys", create=not self.readonly)
            self._meta = self._env.open_db(b"meta", create=not self.readonly)
        except lmdb.Error as error:
            self._env.close()
            raise self._failure(error) from error
        if not self.readonly:
            sync_folder(self._path)
        self._env.reader_check()

    def _begin_read(self, reader: LmdbRead) -> Any:
        while True:
            self._readers.add(reader)  # before looking at the bar: whoever bars the way then sees this reader
            barred = self._barred
            if barred is None:
                try:
                    return self._env.begin(self._db)
                except lmdb.MapResizedError:
                    self._readers.discard(reader)
                    self._resize_map(0)
                except lmdb.ReadersFullError as error:
                    self._readers.discard(reader)
                    if not self._env.reader_check():
                        raise StoreError(f"more than {MAX_READERS} reads are open in {self._path}") from error
                except lmdb.Error as error:
                    self._readers.discard(reader)
                    raise self._failure(error) from error
                continue
            self._readers.discard(reader)
            if isinstance(barred, BaseException):
                raise barred
            barred.wait()

    def _begin_write(self) -> Any:
        while True:
            try:
                return self._env.begin(self._db, write=True)
            except lmdb.MapResizedError:
                self._resize_map(0)
            except lmdb.PanicError:  # LMDB could not write its meta page once; what it holds in memory is void
                with self._paused():
                    self._env.close()
                    self._open_environment()
            except lmdb.Error as error:
                raise self._failure(error) from error

    def _grow_map(self) -> None:
        size = self._env.info()["map_size"]
        self._resize_map(size * 2 if size < 1 << 30 else size + (1 << 30))

    def _resize_map(self, size: int) -> None:
        """Change the map's size, or with 0 adopt what another process has made it."""
        with self._paused():
            try:
                self._env.set_mapsize(size)
            except lmdb.Error as error:
                raise self._failure(error) from error

    @contextlib.contextmanager
    def _paused(self) -> Iterator[None]:
        """Keep new reads of this process waiting and let the running ones end."""
        with self._lock:
            if isinstance(self._barred, BaseException):
                raise self._barred
            gate = threading.Event()
            self._barred = gate
            try:
                if not self._drain(PAUSE_S):
                    raise StoreFull(f"the index in {self._path} has to grow and cannot while reads stay open")
                yield
            finally:
                self._barred = None
                gate.set()

    def _drain(self, timeout_s: float) -> bool:
        """Wait for the reads of this process; whether all ended."""
        until = time.monotonic() + timeout_s
        while self._readers and time.monotonic() < until:
            time.sleep(0.001)
        return not self._readers

    def _failure(self, error: lmdb.Error) -> FascicleError:
        full = isinstance(error, (lmdb.MapFullError, lmdb.DiskError)) or error.code in FULL_ERRNOS
        if full or (error.code == errno.EIO and no_space_behind(self._path / "data.mdb")):
            return StoreFull(f"no space for the index in {self._path}: {error}")
        return StoreError(f"the index in {self._path} failed: {error}")

    def _housekeeping(self) -> None:
        """Free the slots of killed readers, whose snapshots would keep old pages alive, and let go of removed files."""
        now = time.monotonic()
        if now - self._readers_checked > READER_CHECK_S:
            self._readers_checked = now
            self._env.reader_check()
            self.log.forget_removed()


OPEN_STORES: weakref.WeakSet[LmdbStore] = weakref.WeakSet()


def _bar_forked_stores() -> None:
    """LMDB's memory map and locks do not survive a fork: in the child, every open store refuses to work."""
    for store in list(OPEN_STORES):
        store._barred = StoreError(f"the store in {store._path} was opened before a fork; open it after")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_bar_forked_stores)
