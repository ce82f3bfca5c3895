"""Bytes and arrays that were expensive to make from stored values, kept in memory up to a limit.

Keys start with a store handle that names a value (not one that contains it). Such a handle always means the same bytes,
so nothing here ever gets old.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from threading import Lock
from typing import Any
from weakref import WeakKeyDictionary

from fascicle.store.base import Store

CACHE_BYTES = 64 << 20
RAW_HANDLES = 100_000


class BlockCache:
    """Least recently used things are dropped once their sizes add up to more than a limit. Safe between threads."""

    def __init__(self, limit_bytes: int = CACHE_BYTES) -> None:
        self.limit_bytes = limit_bytes
        self._used_bytes = 0
        self._lock = Lock()
        self._kept: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()
        self.raw: dict[bytes, bool] = {}
        """Handles of which is known whether their voxels are stored raw."""

    def get(self, key: Hashable) -> Any | None:
        with self._lock:
            found = self._kept.get(key)
            if found is None:
                return None
            self._kept.move_to_end(key)
            return found[0]

    def get_all(self, keys: Sequence[Hashable]) -> list[Any | None]:
        """What `get` gives for each of the keys."""
        found = []
        with self._lock:
            kept = self._kept
            for key in keys:
                entry = kept.get(key)
                if entry is not None:
                    kept.move_to_end(key)
                found.append(None if entry is None else entry[0])
        return found

    def put(self, key: Hashable, thing: Any, size_bytes: int) -> None:
        if size_bytes > self.limit_bytes:
            return
        with self._lock:
            old = self._kept.pop(key, None)
            if old is not None:
                self._used_bytes -= old[1]
            self._kept[key] = (thing, size_bytes)
            self._used_bytes += size_bytes
            while self._used_bytes > self.limit_bytes:
                self._used_bytes -= self._kept.popitem(last=False)[1][1]

    def remember_raw(self, handle: bytes, is_raw: bool) -> None:
        if len(self.raw) >= RAW_HANDLES:
            self.raw = {}
        self.raw[handle] = is_raw

    @property
    def used_bytes(self) -> int:
        return self._used_bytes


_CACHES: WeakKeyDictionary[Store, BlockCache] = WeakKeyDictionary()
_CACHES_LOCK = Lock()


def cache_of(store: Store) -> BlockCache:
    """The process's cache for one open store; handles of different stores must not be mixed."""
    with _CACHES_LOCK:
        cache = _CACHES.get(store)
        if cache is None:
            cache = _CACHES[store] = BlockCache()
        return cache
