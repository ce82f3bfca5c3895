"""A store in memory: for tests, for trying things out, and as the obvious model of what an engine does."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType

import numpy as np

from fascicle.errors import StoreError, Unavailable
from fascicle.store.base import INLINE, ReadTransaction, Store, StoreStatistics, ValueBatch
from fascicle.store.overlay import INLINE_PREFIX
from fascicle.store.writer import Change, Done, GroupWriter, Pending, WriteGroup


class MemoryState:
    """Sorted keys and the handles of their values after transaction `number`; never changed once readers see it."""

    def __init__(self, keys: list[bytes], handles: dict[bytes, bytes], number: int) -> None:
        self.keys = keys
        self.handles = handles
        self.number = number

    def copy(self) -> MemoryState:
        return MemoryState(self.keys.copy(), self.handles.copy(), self.number)

    def apply(self, pending: Pending) -> int:
        size = 0
        if len(pending) > 64:
            self._apply_many(pending)
            return sum(len(value) for value in pending.values() if value is not None)
        for key, value in pending.items():
            if value is None:
                if self.handles.pop(key, None) is not None:
                    del self.keys[bisect_left(self.keys, key)]
                continue
            if key not in self.handles:
                insort(self.keys, key)
            self.handles[key] = INLINE_PREFIX + value
            size += len(value)
        return size

    def _apply_many(self, pending: Pending) -> None:
        for key, value in pending.items():
            if value is None:
                self.handles.pop(key, None)
            else:
                self.handles[key] = INLINE_PREFIX + value
        self.keys = sorted(self.handles)


class MemoryRead(ReadTransaction):
    """A snapshot, as a context manager that takes it when entered."""

    def __init__(self, store: MemoryStore, state: MemoryState | None = None) -> None:
        self._store = store
        self._state = state

    def __enter__(self) -> MemoryRead:
        self._state = self._store._enter()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._state = None

    @property
    def state(self) -> MemoryState:
        if self._state is None:
            raise StoreError("the read transaction has ended")
        return self._state

    @property
    def number(self) -> int:
        return self.state.number

    def get(self, key: bytes) -> bytes | None:
        handle = self.state.handles.get(key)
        return None if handle is None else handle[1:]

    def handle(self, key: bytes) -> bytes | None:
        return self.state.handles.get(key)

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
        handles = self.state.handles
        for key in self.scan_keys(start, stop, reverse):
            yield key, handles[key]

    def scan_keys(self, start: bytes, stop: bytes, reverse: bool = False) -> Iterator[bytes]:
        keys = self.state.keys
        chosen = keys[bisect_left(keys, start) : bisect_left(keys, stop)]
        return reversed(chosen) if reverse else iter(chosen)


class MemoryGroup(WriteGroup):
    """A commit: works on a copy, which then becomes the state."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        self._state = store._state.copy()
        self._state.number += 1
        self.view = MemoryRead(store, self._state)

    def add(self, pending: Pending) -> int:
        return self._state.apply(pending)

    def commit(self) -> None:
        self._store._state = self._state

    def abort(self) -> None:
        """The copy is simply dropped."""


class MemoryStore(Store):
    """An ordered store in memory; ends with the process."""

    description = "memory"

    def __init__(self) -> None:
        self._state = MemoryState([], {}, 0)
        self._closed = False
        self._writer = GroupWriter(lambda: MemoryGroup(self), lambda: None, "memory store writer")

    @property
    def path(self) -> Path | None:
        return None

    def read(self) -> MemoryRead:
        return MemoryRead(self)

    def submit(self, change: Change, done: Done) -> None:
        self._writer.submit(change, done)

    def backup(self, target: Path) -> None:
        raise StoreError("a store in memory cannot be backed up; serve from a folder")

    def check(self) -> list[str]:
        state = self._state
        return [] if state.keys == sorted(state.handles) else ["the list of keys does not match the values"]

    def statistics(self) -> StoreStatistics:
        state = self._state
        size = sum(len(key) + len(handle) - 1 for key, handle in list(state.handles.items()))
        return StoreStatistics("memory", "", len(state.handles), size, size, state.number, {})

    def close(self) -> None:
        self._writer.close()
        self._closed = True

    def _enter(self) -> MemoryState:
        if self._closed:
            raise Unavailable("the store is closed")
        return self._state
