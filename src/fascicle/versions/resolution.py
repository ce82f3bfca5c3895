"""Which of a key's stored versions is seen at a version, and reading and writing keys that way.

The rules are those of `docs/design/002-versions.md`: on a line of versions the nearest ancestor's entry counts;
through merged versions, of all entries at ancestors those count that are not an ancestor of another one; a tombstone
hides what it descends from and is no value itself; two values that remain are a conflict.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby, islice
from typing import cast

from fascicle.errors import ConflictError
from fascicle.store.base import INLINE, LateValue, ReadTransaction, WriteTransaction, inline_value
from fascicle.versions import keys

LIVE = b"\x00"
TOMBSTONE = b"\x01"
ENVELOPE_BYTES = 1
_FIRST_BATCH = 64
_LARGEST_BATCH = 1024
_INLINE_SKIP = 1 + ENVELOPE_BYTES
_TOMBSTONE_HANDLE = bytes((INLINE,)) + TOMBSTONE
is_tombstone = _TOMBSTONE_HANDLE.__eq__
"""Whether a handle says that a key was deleted."""


class Ancestry(ABC):
    """A version and what it descends from. Immutable, hashable by identity, cached per version by the catalog."""

    version: int
    linear: bool
    """No version on the way to the root has two parents; then among ancestors the greatest number is the nearest."""

    @abstractmethod
    def contains(self, version: int) -> bool:
        """Whether a version is this one or an ancestor of it, through any parent."""

    @abstractmethod
    def descends(self, version: int, ancestor: int) -> bool:
        """Whether one ancestor descends from another one (and is not the same)."""

    @abstractmethod
    def first_parents(self) -> Iterator[int]:
        """This version, its first parent, that one's first parent, up to the root."""

    def resolve(self, entries: Sequence[tuple[int, bool]]) -> int | None:
        """The version whose entry is seen here, or None.

        `entries` are (version, is_tombstone), in any order. Raises ConflictError if several values are seen.
        """
        seen = [(version, dead) for version, dead in entries if self.contains(version)]
        if not seen:
            return None
        if self.linear:
            version, dead = max(seen)
            return None if dead else version
        values = [
            version
            for version, dead in seen
            if not dead and not any(self.descends(other, version) for other, _ in seen if other != version)
        ]
        if len(values) > 1:
            raise ConflictError(f"found multiple kv for key among parents: versions {sorted(values)}")
        return values[0] if values else None


class Settling(Ancestry):
    """As another one, but of values that disagree the one on the line of first parents counts, else the latest.

    For what is derived from keys and must be there whether or not the keys are in conflict.
    """

    def __init__(self, ancestry: Ancestry) -> None:
        self._ancestry = ancestry
        self.version = ancestry.version
        self.linear = ancestry.linear

    def contains(self, version: int) -> bool:
        return self._ancestry.contains(version)

    def descends(self, version: int, ancestor: int) -> bool:
        return self._ancestry.descends(version, ancestor)

    def first_parents(self) -> Iterator[int]:
        return self._ancestry.first_parents()

    def resolve(self, entries: Sequence[tuple[int, bool]]) -> int | None:
        try:
            return self._ancestry.resolve(entries)
        except ConflictError:
            pass
        seen = [(version, dead) for version, dead in entries if self.contains(version)]
        values = {
            version
            for version, dead in seen
            if not dead and not any(self.descends(other, version) for other, _ in seen if other != version)
        }
        return next((version for version in self.first_parents() if version in values), max(values))


class _Counts(dict[bytes, bool]):
    """For versions as they end keys: whether they are ancestors."""

    def __init__(self, ancestry: Ancestry) -> None:
        self._contains = ancestry.contains

    def __missing__(self, version: bytes) -> bool:
        found = self[version] = self._contains(int.from_bytes(version, "big"))
        return found


class VersionedView:
    """The keys of one instance as seen at one version. Writing needs a write transaction."""

    __slots__ = ("ancestry", "instance_id", "txn")

    def __init__(self, txn: ReadTransaction, instance_id: int, ancestry: Ancestry) -> None:
        self.txn = txn
        self.instance_id = instance_id
        self.ancestry = ancestry

    def settling(self) -> VersionedView:
        """The same keys without conflicts, see `Settling`."""
        if self.ancestry.linear or isinstance(self.ancestry, Settling):
            return self
        return VersionedView(self.txn, self.instance_id, Settling(self.ancestry))

    # -- one key

    def handle(self, key_class: int, type_key: bytes) -> bytes | None:
        """The handle of the value seen, whose first byte is the envelope (see `load`), or None."""
        base = keys.prefix(self.instance_id, key_class) + type_key
        found = self._find(base)
        return None if found is None else found[1]

    def get(self, key_class: int, type_key: bytes) -> bytes | None:
        """The value seen, or None."""
        found = self._find(keys.prefix(self.instance_id, key_class) + type_key)
        if found is None:
            return None
        handle = found[1]
        return handle[_INLINE_SKIP:] if handle[0] == INLINE else self.txn.load(handle)[ENVELOPE_BYTES:]

    def handles(self, key_class: int, type_keys: Iterable[bytes]) -> list[bytes | None]:
        """The handles of the values seen for many keys, None for each that is not there: cheaper than one by one."""
        ancestry = self.ancestry
        if not ancestry.linear:
            return [self.handle(key_class, type_key) for type_key in type_keys]
        prefix = keys.prefix(self.instance_id, key_class)
        beyond = (ancestry.version + 1).to_bytes(keys.VERSION_BYTES, "big")
        counts = _Counts(ancestry)
        bases = [prefix + type_key for type_key in type_keys]
        found: list[bytes | None] = []
        for base, last in zip(bases, self.txn.last_of(bases, beyond), strict=True):
            item = last
            while item is not None and not counts[item[0][-4:]]:
                item = self.txn.last(base, item[0])
            found.append(None if item is None or item[1] == _TOMBSTONE_HANDLE else item[1])
        return found

    def handles_apart(self, key_class: int, type_keys: Sequence[bytes]) -> tuple[list[bytes | None], set[int]]:
        """As `handles`, and the places of the keys of which merged versions disagree (None among the handles)."""
        try:
            return self.handles(key_class, type_keys), set()
        except ConflictError:
            handles: list[bytes | None] = []
            conflicts: set[int] = set()
            for place, type_key in enumerate(type_keys):
                try:
                    handles.append(self.handle(key_class, type_key))
                except ConflictError:
                    handles.append(None)
                    conflicts.add(place)
            return handles, conflicts

    def handles_settled(self, key_class: int, type_keys: Sequence[bytes]) -> tuple[list[bytes | None], set[int]]:
        """As `handles_apart`, but where merged versions disagree with the handle that `settling` sees."""
        handles, conflicts = self.handles_apart(key_class, type_keys)
        if conflicts:
            settling = self.settling()
            for place in conflicts:
                handles[place] = settling.handle(key_class, type_keys[place])
        return handles, conflicts

    def version_of(self, key_class: int, type_key: bytes) -> int | None:
        """The version that supplies the value, or None."""
        found = self._find(keys.prefix(self.instance_id, key_class) + type_key)
        return None if found is None else found[0]

    def load(self, handle: bytes) -> bytes:
        """The value of a handle without its envelope."""
        value = inline_value(handle)
        if value is None:
            value = self.txn.load(handle)
        return value[ENVELOPE_BYTES:]

    def _find(self, base: bytes) -> tuple[int, bytes] | None:
        ancestry = self.ancestry
        stop = base + (ancestry.version + 1).to_bytes(keys.VERSION_BYTES, "big")
        if ancestry.linear:
            last = self.txn.last(base, stop)
            while last is not None:
                key, handle = last
                version = int.from_bytes(key[-4:], "big")
                if ancestry.contains(version):
                    return None if handle == _TOMBSTONE_HANDLE else (version, handle)
                last = self.txn.last(base, key)
            return None
        entries = {keys.version_of(key): handle for key, handle in self.txn.scan_handles(base, stop)}
        return self._resolved(entries, base)

    def _resolved(self, entries: dict[int, bytes], base: bytes) -> tuple[int, bytes] | None:
        try:
            version = self.ancestry.resolve([(v, handle == _TOMBSTONE_HANDLE) for v, handle in entries.items()])
        except ConflictError as error:
            shown = base[keys.PREFIX_BYTES :].rstrip(b"\x00\x01").decode("utf-8", "backslashreplace")
            raise ConflictError(str(error).replace("for key", f"for key {shown!r}")) from None
        return None if version is None else (version, entries[version])

    # -- ranges

    def scan(self, key_class: int, start: bytes = b"", stop: bytes | None = None) -> Iterator[tuple[bytes, int, bytes]]:
        """(type key, version that supplies the value, handle) for start <= type key < stop, ascending.

        `stop` None means the end of the class.
        """
        skip = keys.PREFIX_BYTES
        for batch in self._batches(key_class, start, stop):
            for key, handle in batch:
                if handle != _TOMBSTONE_HANDLE:
                    yield key[skip:-4], int.from_bytes(key[-4:], "big"), handle

    def scan_batches(
        self, key_class: int, start: bytes = b"", stop: bytes | None = None
    ) -> Iterator[list[tuple[bytes, bytes]]]:
        """Lists of (type key, handle) for start <= type key < stop, ascending: cheaper per key than `scan`."""
        skip = keys.PREFIX_BYTES
        for batch in self._batches(key_class, start, stop):
            yield [(key[skip:-4], handle) for key, handle in batch if handle != _TOMBSTONE_HANDLE]

    def scan_handles(self, key_class: int, start: bytes = b"", stop: bytes | None = None) -> Iterator[list[bytes]]:
        """Lists of the handles that `scan_batches` gives, for who has no need of the keys."""
        for batch in self._batches(key_class, start, stop):
            yield [handle for _, handle in batch if handle != _TOMBSTONE_HANDLE]

    def scan_entries(
        self, key_class: int, start: bytes = b"", stop: bytes | None = None
    ) -> Iterator[Sequence[tuple[bytes, bytes]]]:
        """Lists of (whole key, handle) of what is seen, tombstones (`is_tombstone`) included: cheapest of all."""
        for batch in self._batches(key_class, start, stop):
            yield batch if isinstance(batch, list) else list(batch)

    def _batches(self, key_class: int, start: bytes, stop: bytes | None) -> Iterator[Iterable[tuple[bytes, bytes]]]:
        """(key, handle) of what is seen, tombstones included; few keys first, so that who stops early paid little."""
        first = keys.prefix(self.instance_id, key_class)
        stored = self.txn.scan_handles(first + start, keys.after(first) if stop is None else first + stop)
        size = _FIRST_BATCH
        if not self.ancestry.linear:
            yield from self._merged_batches(stored)
            return
        counts = _Counts(self.ancestry)
        left: dict[bytes, tuple[bytes, bytes]] = {}
        while True:
            batch = list(islice(stored, size))
            more = len(batch) == size
            versions = {key[-4:] for key, _ in batch}
            versions.update([key[-4:] for key, _ in left.values()])
            if len(versions) == 1 and counts[next(iter(versions))]:
                # Entries of one version are of different keys, and all of them are seen.
                if left:
                    batch = [*left.values(), *batch]
                left = {}
                if more:
                    last = batch.pop()
                    left = {last[0][:-4]: last}
                yield batch
            else:
                # Versions of a key ascend: the last one that counts is the one that is seen.
                seen = left | {item[0][:-4]: item for item in batch if counts[item[0][-4:]]}
                left = dict((seen.popitem(),)) if seen and more else {}
                yield seen.values()
            if not more:
                return
            size = min(2 * size, _LARGEST_BATCH)

    def _merged_batches(self, stored: Iterator[tuple[bytes, bytes]]) -> Iterator[Iterable[tuple[bytes, bytes]]]:
        for base, group in groupby(stored, lambda item: item[0][:-4]):
            entries = {int.from_bytes(key[-4:], "big"): handle for key, handle in group}
            found = self._resolved(entries, base)
            if found is not None:
                yield ((keys.with_version(base, found[0]), found[1]),)

    # -- writing

    @property
    def _writer(self) -> WriteTransaction:
        assert self.txn.writes, "a view over a read transaction cannot write"
        return cast("WriteTransaction", self.txn)  # asking for its class costs more than a put

    def put(self, key_class: int, type_key: bytes, value: bytes | bytearray | memoryview) -> None:
        """Store a value at this version."""
        key = keys.with_version(keys.prefix(self.instance_id, key_class) + type_key, self.ancestry.version)
        self._writer.put(key, b"".join((LIVE, value)))

    def put_many(self, key_class: int, rows: Iterable[tuple[bytes, bytes]]) -> None:
        """Store many values at this version, by type key: cheaper than one by one."""
        prefix, suffix = keys.prefix(self.instance_id, key_class), self.ancestry.version.to_bytes(4, "big")
        self._writer.put_many([(prefix + type_key + suffix, LIVE + value) for type_key, value in rows])

    def put_spooled(self, key_class: int, rows: Iterable[tuple[bytes, bytes | LateValue]]) -> None:
        """As `put_many` with values of which some are not at hand."""
        prefix, suffix = keys.prefix(self.instance_id, key_class), self.ancestry.version.to_bytes(4, "big")
        put = self._writer.put
        for type_key, value in rows:
            put(prefix + type_key + suffix, LIVE + value if isinstance(value, bytes) else value.behind(LIVE))

    def delete(self, key_class: int, type_key: bytes) -> None:
        """Write a tombstone at this version, whether or not there is anything to hide."""
        key = keys.with_version(keys.prefix(self.instance_id, key_class) + type_key, self.ancestry.version)
        self._writer.put(key, TOMBSTONE)
