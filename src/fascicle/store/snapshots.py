"""Snapshots of an embedded store, and the records that its engine keeps for itself beside the keys."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from itertools import takewhile
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

import lmdb

from fascicle.store.base import INLINE, ReadTransaction, ValueBatch
from fascicle.store.overlay import INLINE_PREFIX
from fascicle.store.value_log import Tail

if TYPE_CHECKING:
    from fascicle.store.lmdb_engine import LmdbStore

TAIL_KEY = b"tail"
TAIL_RECORD = struct.Struct("<IQQ")  # the log's tail: segment, offset; bytes of all inline values
SEGMENT_KEY = b"segment"
KNOWN_VALUES = 64
KNOWN_BYTES = 1024
SEGMENT_RECORD = struct.Struct("<QQ")  # bytes of a sealed segment (0: not sealed yet), bytes of values still in use


class SegmentUse(NamedTuple):
    """Length of a segment, and of the values in it that are still in use, in bytes."""

    length: int
    live: int
    sealed: bool


def segment_key(number: int) -> bytes:
    return SEGMENT_KEY + number.to_bytes(4, "big")


class LmdbRead(ReadTransaction):
    """A snapshot, as a context manager that takes it when entered."""

    def __init__(self, store: LmdbStore) -> None:
        self._store = store
        self._log = store.log
        self._txn: Any = None

    def __enter__(self) -> LmdbRead:
        self._txn = self._store._begin_read(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        txn, self._txn = self._txn, None
        txn.abort()
        self._store._readers.discard(self)

    @property
    def number(self) -> int:
        return int(self._txn.id())

    def get(self, key: bytes) -> bytes | None:
        handle = self.handle(key)
        if handle is None:
            return None
        return handle[1:] if handle[0] == INLINE else self.load(handle)

    def handle(self, key: bytes) -> bytes | None:
        try:
            handle: bytes | None = self._txn.get(key)
        except lmdb.BadValsizeError:  # longer than any key can be
            return None
        return handle

    def load(self, handle: bytes) -> bytes:
        return handle[1:] if handle[:1] == INLINE_PREFIX else self._log.load(handle)

    def load_part(self, handle: bytes, start: int, stop: int) -> bytes:
        return handle[1:][start:stop] if handle[:1] == INLINE_PREFIX else self._log.load_part(handle, start, stop)

    def load_many(self, handles: Sequence[bytes]) -> ValueBatch:
        return self._log.load_many(handles)

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        handles = [self.handle(key) for key in keys]
        self._log.prefetch([handle for handle in handles if handle is not None])
        return [None if handle is None else self.load(handle) for handle in handles]

    def scan_handles(self, start: bytes, stop: bytes, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        # A one-tuple sorts before every pair with the same key, so comparing with it compares keys alone, and in C.
        cursor = self._txn.cursor()
        if reverse:
            return takewhile((start,).__le__, cursor.iterprev()) if seek_below(cursor, stop) else iter(())
        return takewhile((stop,).__gt__, cursor.iternext()) if cursor.set_range(start) else iter(())

    def scan_keys(self, start: bytes, stop: bytes, reverse: bool = False) -> Iterator[bytes]:
        cursor = self._txn.cursor()
        if reverse:
            return takewhile(start.__le__, cursor.iterprev(True, False)) if seek_below(cursor, stop) else iter(())
        return takewhile(stop.__gt__, cursor.iternext(True, False)) if cursor.set_range(start) else iter(())

    def last(self, start: bytes, stop: bytes) -> tuple[bytes, bytes] | None:
        cursor = self._txn.cursor()
        if not seek_below(cursor, stop):
            return None
        item: tuple[bytes, bytes] = cursor.item()
        return item if item[0] >= start else None

    def last_of(self, starts: Sequence[bytes], beyond: bytes) -> list[tuple[bytes, bytes] | None]:
        cursor = self._txn.cursor()
        set_range, item = cursor.set_range, cursor.item
        found: list[tuple[bytes, bytes] | None] = []
        for start in starts:
            if cursor.prev() if set_range(start + beyond) else cursor.last():
                last = item()
                found.append(last if last[0] >= start else None)
            else:
                found.append(None)
        return found

    def tail(self) -> tuple[Tail, int]:
        """The log's tail, and the bytes of all inline values."""
        return read_tail(self._txn, self._store._meta)

    def segments(self) -> dict[int, SegmentUse]:
        """What is known of every segment of the log, the unfinished one included."""
        return read_segments(self._txn, self._store._meta)


def seek_below(cursor: Any, stop: bytes) -> bool:
    """Move a cursor to the greatest key below `stop`; whether there is one."""
    found: bool = cursor.prev() if cursor.set_range(stop) else cursor.last()
    return found


def read_tail(txn: Any, meta: Any) -> tuple[Tail, int]:
    """The log's tail, and the bytes of all inline values."""
    record = txn.get(TAIL_KEY, db=meta)
    if record is None:
        return Tail(1, 0), 0
    segment, offset, inline_bytes = TAIL_RECORD.unpack(record)
    return Tail(segment, offset), inline_bytes


def read_segments(txn: Any, meta: Any) -> dict[int, SegmentUse]:
    """What is known of every segment of the log, the unfinished one included."""
    tail = read_tail(txn, meta)[0]
    found = {}
    cursor = txn.cursor(meta)
    if cursor.set_range(SEGMENT_KEY):
        for key, record in cursor.iternext():
            if not key.startswith(SEGMENT_KEY):
                break
            number = int.from_bytes(key[len(SEGMENT_KEY) :], "big")
            length, live = SEGMENT_RECORD.unpack(record)
            sealed = number != tail.segment
            found[number] = SegmentUse(length if sealed else tail.offset, live, sealed)
    return found


class GroupView(LmdbRead):
    """The state inside of a group; values that the group has placed but not yet written are at hand."""

    def __init__(self, store: LmdbStore) -> None:
        super().__init__(store)
        self.placed: dict[bytes, bytes] = {}
        self.known: dict[bytes, bytes | None] = {}
        """What was read last: counters and the like, which every change of a group reads."""

    def get(self, key: bytes) -> bytes | None:
        known = self.known
        if key in known:
            return known[key]
        value = super().get(key)
        if len(known) < KNOWN_VALUES and (value is None or len(value) <= KNOWN_BYTES):
            known[key] = value
        return value

    def load(self, handle: bytes) -> bytes:
        value = self.placed.get(handle)
        return super().load(handle) if value is None else value

    def load_part(self, handle: bytes, start: int, stop: int) -> bytes:
        value = self.placed.get(handle)
        return super().load_part(handle, start, stop) if value is None else value[start:stop]

    def load_many(self, handles: Sequence[bytes]) -> ValueBatch:
        placed = self.placed
        if placed:
            handles = [INLINE_PREFIX + placed[handle] if handle in placed else handle for handle in handles]
        return super().load_many(handles)
