"""The embedded store: LMDB for keys and small values, an append-only log for large ones.

LMDB gives ordered keys, snapshots and the lock between processes; its commit is the only commit point. Bindings: `lmdb`
(file format 0.9); API at https://lmdb.readthedocs.io.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from itertools import takewhile
from pathlib import Path
from types import TracebackType
from typing import Any

import lmdb
import numpy as np

from fascicle.errors import StoreError, StoreFull, Unavailable
from fascicle.store.base import INLINE, ReadTransaction, Store, StoreStatistics, ValueBatch
from fascicle.store.overlay import INLINE_PREFIX
from fascicle.store.writer import Change, Done, GroupWriter, Pending, WriteGroup

MAP_BYTES = 1 << 40
MAX_READERS = 4096


class LmdbRead(ReadTransaction):
    """A snapshot, as a context manager that takes it when entered."""

    def __init__(self, store: LmdbStore, txn: Any = None) -> None:
        self._store = store
        self._txn = txn

    def __enter__(self) -> LmdbRead:
        self._txn = self._store._begin_read()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        txn, self._txn = self._txn, None
        txn.abort()

    @property
    def number(self) -> int:
        return int(self._txn.id())

    def get(self, key: bytes) -> bytes | None:
        try:
            handle = self._txn.get(key)
        except lmdb.BadValsizeError:
            return None
        if handle is None:
            return None
        return handle[1:] if handle[0] == INLINE else self.load(handle)  # type: ignore[no-any-return]

    def handle(self, key: bytes) -> bytes | None:
        try:
            return self._txn.get(key)  # type: ignore[no-any-return]
        except lmdb.BadValsizeError:
            return None

    def load(self, handle: bytes) -> bytes:
        if not handle or handle[0] != INLINE:
            raise StoreError(f"{handle!r} is no handle of this store")
        return handle[1:]

    def load_many(self, handles: Sequence[bytes]) -> ValueBatch:
        lengths = np.array([len(handle) - 1 for handle in handles], dtype=np.int64)
        ends = np.cumsum(np.maximum(lengths, 0) + (lengths >= 0), dtype=np.int64)
        buffer = np.frombuffer(b"".join(handles), dtype=np.uint8)
        return ValueBatch(buffer, ends - np.maximum(lengths, 0), lengths)

    def scan_handles(self, start: bytes, stop: bytes, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        cursor = self._txn.cursor()
        # (stop,) < (stop, handle), so comparing tuples with a one-tuple compares the keys alone; all of it runs in C.
        if not reverse:
            if not cursor.set_range(start):
                return iter(())
            return takewhile((stop,).__gt__, cursor.iternext())
        if cursor.set_range(stop):
            if not cursor.prev():
                return iter(())
        elif not cursor.last():
            return iter(())
        return takewhile((start,).__le__, cursor.iterprev())

    def scan_keys(self, start: bytes, stop: bytes, reverse: bool = False) -> Iterator[bytes]:
        cursor = self._txn.cursor()
        if not reverse:
            if not cursor.set_range(start):
                return iter(())
            return takewhile(stop.__gt__, cursor.iternext(True, False))
        if cursor.set_range(stop):
            if not cursor.prev():
                return iter(())
        elif not cursor.last():
            return iter(())
        return takewhile(start.__le__, cursor.iterprev(True, False))

    def last(self, start: bytes, stop: bytes) -> tuple[bytes, bytes] | None:
        cursor = self._txn.cursor()
        if cursor.set_range(stop):
            if not cursor.prev():
                return None
        elif not cursor.last():
            return None
        item: tuple[bytes, bytes] = cursor.item()
        return item if item[0] >= start else None


class LmdbGroup(WriteGroup):
    """One LMDB write transaction, which is also the lock between processes."""

    def __init__(self, store: LmdbStore) -> None:
        self._store = store
        self._txn = store._env.begin(store._db, write=True)
        self.view = LmdbRead(store, self._txn)

    def add(self, pending: Pending) -> int:
        size = 0
        txn = self._txn
        for key, value in pending.items():
            if value is None:
                txn.delete(key)
            else:
                txn.put(key, INLINE_PREFIX + value)
                size += len(value)
        return size

    def commit(self) -> None:
        try:
            self._txn.commit()
        except (lmdb.MapFullError, lmdb.DiskError) as error:
            raise StoreFull(f"the store in {self._store.path} is full: {error}") from error

    def abort(self) -> None:
        self._txn.abort()


class LmdbStore(Store):
    """An ordered store in a folder, for any number of processes on one machine."""

    description = "LMDB + value log"

    def __init__(self, path: Path, *, readonly: bool = False) -> None:
        if not readonly:
            path.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._env = lmdb.open(
            str(path),
            map_size=MAP_BYTES,
            readonly=readonly,
            readahead=False,
            meminit=False,
            max_readers=MAX_READERS,
            max_spare_txns=64,
            max_dbs=4,
        )
        self._db = self._env.open_db(b"keys", create=not readonly)
        self._env.reader_check()
        self._closed = False
        self._lock = threading.Lock()
        self._writer = None if readonly else GroupWriter(lambda: LmdbGroup(self), self._housekeeping, "store writer")

    @property
    def path(self) -> Path | None:
        return self._path

    def read(self) -> LmdbRead:
        return LmdbRead(self)

    def submit(self, change: Change, done: Done) -> None:
        if self._writer is None:
            raise StoreError(f"the store in {self._path} was opened for reading only")
        self._writer.submit(change, done)

    def backup(self, target: Path) -> None:
        if target.exists() and any(target.iterdir()):
            raise StoreError(f"the folder {target} for a backup is not empty")
        target.mkdir(parents=True, exist_ok=True)
        self._env.copy(str(target))

    def check(self) -> list[str]:
        return []

    def statistics(self) -> StoreStatistics:
        size = sum(file.stat().st_size for file in self._path.rglob("*") if file.is_file())
        with self.read() as txn:
            keys = txn._txn.stat(self._db)["entries"]
            return StoreStatistics("lmdb", str(self._path), keys, size, size, txn.number, {})

    def close(self) -> None:
        with self._lock:
            if self._closed:
                return
            if self._writer is not None:
                self._writer.close()
            self._closed = True
            self._env.close()

    def _begin_read(self) -> Any:
        if self._closed:
            raise Unavailable("the store is closed")
        return self._env.begin(self._db)

    def _housekeeping(self) -> None:
        pass
