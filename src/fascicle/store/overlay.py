"""A write transaction as pending changes over a snapshot; nothing reaches the engine before the change has succeeded.

One class serves every engine: a change that fails is undone by forgetting its overlay, which costs nothing.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Sequence

from fascicle.errors import BadRequest
from fascicle.store.base import MAX_KEY_BYTES, LateValue, ReadTransaction, ValueBatch, WriteTransaction

INLINE_PREFIX = b"\0"
FEW_KEYS = 16


class OverlayTransaction(WriteTransaction):
    """Pending puts and deletes (None) over `base`.

    Handles of pending values contain the value, whatever its size; those of late values are their names.
    """

    def __init__(self, base: ReadTransaction) -> None:
        self.base = base
        self.pending: dict[bytes, bytes | LateValue | None] = {}
        self._sorted: list[bytes] | None = None
        self._unsorted: list[bytes] = []
        """Keys of `pending` that are not in `_sorted` yet, if there is one."""
        self._named: dict[bytes, LateValue] = {}
        """Late values of which handles were given out."""

    @property
    def number(self) -> int:
        """The number this transaction will have once it is committed; all changes of a group have the same."""
        return self.base.number

    def get(self, key: bytes) -> bytes | None:
        if key in self.pending:
            value = self.pending[key]
            return value if value is None or isinstance(value, bytes) else value.read()
        return self.base.get(key)

    def handle(self, key: bytes) -> bytes | None:
        if key in self.pending:
            value = self.pending[key]
            return None if value is None else self._handle_of(value)
        return self.base.handle(key)

    def _handle_of(self, value: bytes | LateValue) -> bytes:
        if isinstance(value, bytes):
            return INLINE_PREFIX + value
        name = value.name
        self._named[name] = value
        return name

    def load(self, handle: bytes) -> bytes:
        if self._named and handle in self._named:
            return self._named[handle].read()
        return self.base.load(handle)

    def load_part(self, handle: bytes, start: int, stop: int) -> bytes:
        if self._named and handle in self._named:
            return self._named[handle].read()[start:stop]
        return self.base.load_part(handle, start, stop)

    def load_many(self, handles: Sequence[bytes]) -> ValueBatch:
        if self._named:
            named = self._named
            handles = [INLINE_PREFIX + named[handle] if handle in named else handle for handle in handles]
        return self.base.load_many(handles)

    def put(self, key: bytes, value: bytes | bytearray | memoryview | LateValue) -> None:
        if not 0 < len(key) <= MAX_KEY_BYTES:
            raise BadRequest(f"a key of {len(key)} bytes cannot be stored: 1 to {MAX_KEY_BYTES} bytes are possible")
        if self._sorted is not None and key not in self.pending:
            self._unsorted.append(key)
        self.pending[key] = value if type(value) is bytes or isinstance(value, LateValue) else bytes(value)

    def put_many(self, rows: Iterable[tuple[bytes, bytes]]) -> None:
        added = dict(rows)
        if self._sorted is not None or b"" in added:
            super().put_many(added.items())
            return
        longest = max(map(len, added), default=0)
        if longest > MAX_KEY_BYTES:
            raise BadRequest(f"a key of {longest} bytes cannot be stored: 1 to {MAX_KEY_BYTES} bytes are possible")
        self.pending.update(added)

    def delete(self, key: bytes) -> bool:
        if key in self.pending:
            there = self.pending[key] is not None
        else:
            there = self.base.handle(key) is not None
            if there and self._sorted is not None:
                self._unsorted.append(key)
        if there:
            self.pending[key] = None
        return there

    def scan_handles(self, start: bytes, stop: bytes, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        below = self.base.scan_handles(start, stop, reverse)
        keys = self._pending_keys(start, stop, reverse)
        return self._merge(below, keys, reverse) if keys else below

    def scan_keys(self, start: bytes, stop: bytes, reverse: bool = False) -> Iterator[bytes]:
        keys = self._pending_keys(start, stop, reverse)
        if not keys:
            return self.base.scan_keys(start, stop, reverse)
        return (key for key, _ in self.scan_handles(start, stop, reverse))

    def last(self, start: bytes, stop: bytes) -> tuple[bytes, bytes] | None:
        keys = self._pending_keys(start, stop, reverse=True)
        if not keys:
            return self.base.last(start, stop)
        return next(self._merge(self.base.scan_handles(start, stop, True), keys, True), None)

    def last_of(self, starts: Sequence[bytes], beyond: bytes) -> list[tuple[bytes, bytes] | None]:
        return super().last_of(starts, beyond) if self.pending else self.base.last_of(starts, beyond)

    def _pending_keys(self, start: bytes, stop: bytes, reverse: bool) -> list[bytes]:
        if not self.pending:
            return []
        if self._sorted is None:
            self._sorted = sorted(self.pending)
        elif self._unsorted:
            self._sort_in()
        keys = self._sorted[bisect_left(self._sorted, start) : bisect_left(self._sorted, stop)]
        if reverse:
            keys.reverse()
        return keys

    def _sort_in(self) -> None:
        """Few keys are put in their places one by one; for many it is cheaper to sort once."""
        assert self._sorted is not None
        if len(self._unsorted) <= FEW_KEYS:
            for key in self._unsorted:
                insort(self._sorted, key)
        else:
            self._sorted += self._unsorted
            self._sorted.sort()
        self._unsorted.clear()

    def _merge(
        self, below: Iterator[tuple[bytes, bytes]], keys: list[bytes], reverse: bool
    ) -> Iterator[tuple[bytes, bytes]]:
        entry = next(below, None)
        for key in keys:
            while entry is not None and (entry[0] > key if reverse else entry[0] < key):
                yield entry
                entry = next(below, None)
            if entry is not None and entry[0] == key:
                entry = next(below, None)
            value = self.pending.get(key)
            if value is not None:
                yield key, self._handle_of(value)
        if entry is not None:
            yield entry
            yield from below
