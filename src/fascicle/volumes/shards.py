"""Values of a sharded folder, found by byte ranges: the index of a shard, of a minishard, then the value.

Indexes are kept in memory, as many as fit into `INDEX_BYTES`, under the stamp of their file. If the file is another one
by the time a value is read, or too short for what they promise, they are read anew.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fascicle.errors import BadRequest
from fascicle.formats.sharding import MinishardIndex, Sharding
from fascicle.volumes.base import VolumeError
from fascicle.volumes.objects import Changed, ObjectFolder, TooShort

INDEX_BYTES = 64 << 20
"""Memory for the indexes of one reader."""
WHOLE_INDEX_BYTES = 64 << 10
"""Shard indexes of this size are read at once, larger ones entry by entry."""
_LOCKS = 32
_TRIES = 4


@dataclass(frozen=True, slots=True)
class _ShardIndex:
    """Entries of a shard's index: all of them (u8[16 n]), or one. `stamp` is that of the file."""

    entries: NDArray[np.uint8]
    stamp: str


class ShardReader:
    """Reads values by their keys. Safe between threads."""

    def __init__(self, folder: ObjectFolder, directory: str, sharding: Sharding, generation: str = "") -> None:
        self._folder = folder
        self._prefix = f"{directory}/" if directory else ""
        self.sharding = sharding
        self._generation = generation
        self._kept: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()
        self._kept_bytes = 0
        self._lock = threading.Lock()
        self._flights = [threading.Lock() for _ in range(_LOCKS)]

    def get(self, key: int, most_bytes: int) -> bytes | None:
        """The value of a key, unpacked; None if there is none. `most_bytes` is the longest that it may be."""
        return next(self.get_many([key], most_bytes))[1]

    def get_many(self, keys: Sequence[int], most_bytes: int) -> Iterator[tuple[int, bytes | None]]:
        """Keys and their values. Values of one shard that lie close together come in one request."""
        for key, data in self.get_packed(keys):
            if data is None:
                yield key, None
                continue
            try:
                yield key, self.sharding.unpacked(data, most_bytes)
            except BadRequest as error:
                path = self._path(self.sharding.place(key)[0])
                raise VolumeError(f"value {key} of {path}: {error.message}") from None

    def get_packed(self, keys: Sequence[int]) -> Iterator[tuple[int, bytes | None]]:
        """As `get_many`, with values as they are stored."""
        shards: dict[int, list[tuple[int, int]]] = {}
        for key in keys:
            shard, minishard = self.sharding.place(key)
            shards.setdefault(shard, []).append((minishard, key))
        for shard, wanted in shards.items():
            yield from self._values(shard, sorted(wanted)).items()

    def find_place(self, key: int) -> tuple[str, int, int, str] | None:
        """Where a value lies: the name of its shard, first byte and the byte after it there, and the shard's stamp."""
        shard, minishard = self.sharding.place(key)
        found = self._minishard(shard, minishard)
        place = None if found is None else found[0].find(key)
        return None if found is None or place is None else (self._name(shard), *place, found[1])

    def _values(self, shard: int, wanted: list[tuple[int, int]]) -> dict[int, bytes | None]:
        """The stored bytes of keys (each with its minishard) of one shard."""
        for attempt in range(_TRIES):
            try:
                return self._values_now(shard, wanted)
            except (Changed, TooShort):
                self._forget(shard)
                if attempt == _TRIES - 1:
                    raise
        raise AssertionError

    def _values_now(self, shard: int, wanted: list[tuple[int, int]]) -> dict[int, bytes | None]:
        values: dict[int, bytes | None] = {}
        spans: dict[int, tuple[int, int]] = {}
        stamps: set[str] = set()
        for minishard, key in wanted:
            values[key] = None
            found = self._minishard(shard, minishard)
            if found is not None:
                index, stamp = found
                stamps.add(stamp)
                place = index.find(key)
                if place is not None and place[0] == place[1]:
                    values[key] = b""
                elif place is not None:
                    spans[key] = place
        if len(stamps) > 1:  # one thread has read an index anew while this one had another of before
            raise Changed(f"{self._path(shard)} has changed while it was read")
        if spans:
            name = self._name(shard)
            data = self._folder.get_ranges(name, list(spans.values()), stamps.pop(), self._generation)
            if data is None:
                raise Changed(f"{self._path(shard)} has vanished while it was read")
            values.update(zip(spans, data, strict=True))
        return values

    def _minishard(self, shard: int, minishard: int) -> tuple[MinishardIndex, str] | None:
        """The index of a minishard and the stamp of its file; None if there are no values."""
        key = (shard, minishard)
        with self._flights[hash(key) % _LOCKS]:
            kept = self._find(key)
            if kept is None:
                kept, size = self._read_minishard(shard, minishard)
                self._keep(key, kept, size)
            found: tuple[MinishardIndex, str] | None = kept[0]
            return found

    def _read_minishard(self, shard: int, minishard: int) -> tuple[tuple[Any], int]:
        sharding = self.sharding
        read = self._shard_index(shard, minishard)
        if read is None:
            return (None,), 0
        try:
            span = sharding.minishard_span(read.entries.tobytes())
            if span is None:
                return (None,), 0
            data = self._folder.get_ranges(self._name(shard), [span], read.stamp, self._generation)
            if data is None:
                raise Changed(f"{self._path(shard)} has vanished while it was read")
            index = sharding.minishard_index(data[0])
        except VolumeError:
            raise
        except BadRequest as error:
            raise VolumeError(f"minishard {minishard} of {self._path(shard)}: {error.message}") from None
        return ((index, read.stamp),), index.size_bytes

    def _shard_index(self, shard: int, minishard: int) -> _ShardIndex | None:
        """The entry of a minishard in the index of its shard; None if there is no such shard."""
        whole = self.sharding.index_bytes <= WHOLE_INDEX_BYTES
        key = (shard, "whole" if whole else -1 - minishard)
        at = 16 * minishard if whole else 0
        kept = self._find(key)
        if kept is None:
            span = (0, self.sharding.index_bytes) if whole else self.sharding.index_span(minishard)
            piece = self._folder.fetch(self._name(shard), span)
            index = None if piece is None else _ShardIndex(np.frombuffer(piece.data, np.uint8), piece.stamp)
            kept = (index,)
            self._keep(key, kept, 0 if piece is None else len(piece.data))
        found: _ShardIndex | None = kept[0]
        return None if found is None else _ShardIndex(found.entries[at : at + 16], found.stamp)

    def _find(self, key: Hashable) -> Any:
        with self._lock:
            entry = self._kept.get(key)
            if entry is None:
                return None
            self._kept.move_to_end(key)
            return entry[0]

    def _keep(self, key: Hashable, value: Any, size: int) -> None:
        size += 200
        with self._lock:
            if key in self._kept:
                self._kept_bytes -= self._kept.pop(key)[1]
            self._kept[key] = value, size
            self._kept_bytes += size
            while self._kept_bytes > INDEX_BYTES and len(self._kept) > 1:
                self._kept_bytes -= self._kept.popitem(last=False)[1][1]

    def _forget(self, shard: int) -> None:
        with self._lock:
            for key in [key for key in self._kept if isinstance(key, tuple) and key[0] == shard]:
                self._kept_bytes -= self._kept.pop(key)[1]

    def _name(self, shard: int) -> str:
        return self._prefix + self.sharding.file_name(shard)

    def _path(self, shard: int) -> str:
        return self._folder.path(self._name(shard))
