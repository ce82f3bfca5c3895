"""Which body a supervoxel belongs to, at every version.

A change of the mapping is one immutable record: the supervoxels, ascending, and the body each went to. Records are kept
twice as keys, once by sequence number (what is new since I looked?) and once by version (what belongs to this one?):

    class 1: sequence u64 | version u32 | nonce u64          -> empty
    class 2: version u32 | sequence u64                      -> supervoxels u64[n], bodies u64[n] (little-endian)

Neither is versioned by the key layout: the version is part of the record. The nonce makes the last key of class 1 a
stamp that no other history can have, so a cached mapping is right as long as that key is the last one its transaction
sees.

In memory a `Mapping` is a short list of sorted tiers, newest last, like the runs of a log-structured tree. Tiers are
immutable: a mapping after an edit shares all large tiers with the one before it, and so does that of a child version.
No process needs more than the records to come to the same answer.
"""

from __future__ import annotations

import os
import struct
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import cast

import numpy as np
from numpy.typing import NDArray

from fascicle.kernels import sorted_map
from fascicle.store.base import ReadTransaction, WriteTransaction
from fascicle.versions import keys
from fascicle.versions.resolution import Ancestry, VersionedView

BY_SEQUENCE = 1
BY_VERSION = 2

_SEQUENCE_KEY = struct.Struct(">QI8s")
_RECORD_KEY = struct.Struct(">IQ")

U64 = NDArray[np.uint64]

MERGE_RATIO = 3
"""A tier is folded into the one before it unless that one is this many times larger."""
LARGE_TIER = 1 << 19
"""Tiers of this many entries are only folded together when there are more than `MOST_LARGE_TIERS` of them."""
MOST_LARGE_TIERS = 16
SEARCHED_TIER = 1 << 14
"""Tiers of fewer entries are looked through for the supervoxels of a body; larger ones get an index."""
KEPT_PER_VERSION = 4
"""How many successive states of a version stay cached, for readers whose snapshot is a little older."""
KEPT_VERSIONS = 64
SEARCHED_ANCESTORS = 256
"""How far up the first parents a cached mapping is looked for before the records are read anew."""


class Tier:
    """Entries of one or more records: `keys` ascending and unique."""

    __slots__ = ("_by_value", "_index", "keys", "values")

    def __init__(self, keys_: U64, values: U64) -> None:
        self.keys = keys_
        self.values = values
        self._index: tuple[int, NDArray[np.uint32]] | None = None
        self._by_value: tuple[int, NDArray[np.uint32], NDArray[np.uint32]] | None = None

    @property
    def index(self) -> tuple[int, NDArray[np.uint32]]:
        """(shift, starts) of `bucket_index`: made when asked for, since one edit's tier lasts only until the next."""
        if self._index is None:
            self._index = sorted_map.bucket_index(self.keys)
        return self._index

    @property
    def nbytes(self) -> int:
        of_values = self._by_value[1].nbytes + self._by_value[2].nbytes if self._by_value else 0
        return self.keys.nbytes + self.values.nbytes + of_values + (self._index[1].nbytes if self._index else 0)

    def keys_to(self, value: int) -> U64:
        """The keys u64[n], ascending, that lead to a value. Large tiers are indexed by value when first asked."""
        if len(self) < SEARCHED_TIER:
            return np.asarray(self.keys[self.values == np.uint64(value)])
        if self._by_value is None:
            self._by_value = sorted_map.value_index(self.values)
        return self.keys[sorted_map.places_of(value, self.values, *self._by_value)]

    def __len__(self) -> int:
        return len(self.keys)


class Mapping:
    """The supervoxel-to-body mapping at one version. Immutable."""

    __slots__ = ("newest", "sequence", "stamp", "tiers")

    def __init__(self, tiers: tuple[Tier, ...] = (), sequence: int = 0, stamp: bytes = b"", newest: int = 0) -> None:
        self.tiers = tiers
        self.sequence = sequence
        self.stamp = stamp
        self.newest = newest
        """The greatest version that supplied an entry."""

    def __len__(self) -> int:
        """Entries over all tiers, those that a newer tier hides included."""
        return sum(len(tier) for tier in self.tiers)

    @property
    def size_bytes(self) -> int:
        return sum(tier.nbytes for tier in self.tiers)

    def find(self, supervoxels: U64) -> tuple[U64, NDArray[np.bool_]]:
        """(bodies u64[n], found bool[n]) of supervoxels u64[n]; a supervoxel without entry is its own body."""
        wanted = np.ascontiguousarray(supervoxels, np.uint64)
        bodies = wanted.copy()
        found = np.zeros(len(wanted), np.bool_)
        for tier in self.tiers:
            sorted_map.lookup(wanted, tier.keys, tier.values, *tier.index, bodies, found)
        return bodies, found

    def bodies(self, supervoxels: U64) -> U64:
        """Bodies u64[n] of supervoxels u64[n]: itself where there is no entry, 0 for one that is retired."""
        if not self.tiers:
            return np.array(supervoxels, np.uint64)
        return self.find(supervoxels)[0]

    def body(self, supervoxel: int) -> tuple[int, bool]:
        """(body, found) of one supervoxel."""
        wanted = np.uint64(supervoxel)
        for tier in reversed(self.tiers):
            at = int(np.searchsorted(tier.keys, wanted))
            if at < len(tier.keys) and tier.keys[at] == wanted:
                return int(tier.values[at]), True
        return supervoxel, False

    def supervoxels_of(self, body: int) -> U64:
        """Supervoxels u64[n], ascending, that have an entry and lead to a body."""
        parts = [np.empty(0, np.uint64), *(tier.keys_to(body) for tier in self.tiers)]
        found = np.unique(np.concatenate(parts))
        return np.asarray(found[self.bodies(found) == np.uint64(body)])

    def entries_over(self, chunk: int = 1 << 18) -> Iterator[tuple[U64, U64]]:
        """(supervoxels, bodies) of all entries, identity ones included, ascending, in pieces of bounded size."""
        if not self.tiers:
            return
        positions = [0] * len(self.tiers)
        left = True
        while left:
            # A piece ends where the first tier has given its share, so that no tier gives more than that.
            places = zip(self.tiers, (at + chunk for at in positions), strict=True)
            last = [tier.keys[at] for tier, at in places if at < len(tier)]
            left = bool(last)
            cut = min(last, default=np.uint64(0))
            ends = [int(np.searchsorted(tier.keys, cut)) if left else len(tier) for tier in self.tiers]
            parts = [tier.keys[a:b] for tier, a, b in zip(self.tiers, positions, ends, strict=True)]
            values = [tier.values[a:b] for tier, a, b in zip(self.tiers, positions, ends, strict=True)]
            positions = ends
            if len(parts) == 1:
                yield parts[0], values[0]
            else:
                yield sorted_map.sort_unique_last(np.concatenate(parts), np.concatenate(values))

    def non_identity(self) -> tuple[U64, U64]:
        """(supervoxels, bodies) of all entries that change something, ascending; those mapped to 0 included."""
        all_keys, all_values = [np.empty(0, np.uint64)], [np.empty(0, np.uint64)]
        for supervoxels, bodies in self.entries_over():
            changed = supervoxels != bodies
            all_keys.append(supervoxels[changed])
            all_values.append(bodies[changed])
        return np.concatenate(all_keys), np.concatenate(all_values)


EMPTY = Mapping()


# -- the cache of this process ------------------------------------------------------------------------------------


class _Cache:
    """Recent mappings by (instance, version), each valid only under its stamp."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._mappings: OrderedDict[tuple[int, int], tuple[Mapping, ...]] = OrderedDict()

    def get(self, instance_id: int, version: int) -> tuple[Mapping, ...]:
        """Newest first."""
        with self._lock:
            found = self._mappings.get((instance_id, version), ())
            if found:
                self._mappings.move_to_end((instance_id, version))
            return found

    def put(self, instance_id: int, version: int, mapping: Mapping) -> None:
        with self._lock:
            kept = [m for m in self._mappings.get((instance_id, version), ()) if m.stamp != mapping.stamp]
            self._mappings[(instance_id, version)] = (mapping, *kept)[:KEPT_PER_VERSION]
            self._mappings.move_to_end((instance_id, version))
            while len(self._mappings) > KEPT_VERSIONS:
                self._mappings.popitem(last=False)

    def clear(self) -> None:
        with self._lock:
            self._mappings.clear()

    def drop(self, instance_id: int, version: int) -> None:
        with self._lock:
            self._mappings.pop((instance_id, version), None)

    def newest(self) -> dict[int, dict[int, Mapping]]:
        """By instance and version, the last state that was asked for."""
        found: dict[int, dict[int, Mapping]] = {}
        with self._lock:
            for (instance_id, version), mappings in self._mappings.items():
                found.setdefault(instance_id, {})[version] = mappings[0]
        return found


_cache = _Cache()
forget_all = _cache.clear
forget = _cache.drop
"""Of an instance at a version: for who looked at a version that may never come to be."""
loaded = _cache.newest


# -- reading ------------------------------------------------------------------------------------------------------


def mapping_at(view: VersionedView) -> Mapping:
    """The mapping that a view sees, brought up to date from its transaction."""
    first = keys.prefix(view.instance_id, BY_SEQUENCE)
    last = view.txn.last(first, keys.after(first))
    if last is None:
        return EMPTY
    stamp = last[0]
    cached = _cache.get(view.instance_id, view.ancestry.version)
    if cached and cached[0].stamp == stamp:
        return cached[0]
    for mapping in cached:
        if mapping.stamp == stamp:
            return mapping
    mapping = _refreshed(view, cached, stamp) or _built(view, stamp)
    _cache.put(view.instance_id, view.ancestry.version, mapping)
    return mapping


def _sequence_of(stamp: bytes) -> int:
    return int(_SEQUENCE_KEY.unpack(stamp[keys.PREFIX_BYTES :])[0])


def _new_records(txn: ReadTransaction, instance_id: int, stamp: bytes) -> list[tuple[int, int]] | None:
    """(sequence, version) of the records after the one that `stamp` names; None if this history does not have it."""
    end = keys.after(keys.prefix(instance_id, BY_SEQUENCE))
    following = txn.scan_keys(stamp, end)
    if next(following, None) != stamp:
        return None
    return [_SEQUENCE_KEY.unpack(key[keys.PREFIX_BYTES :])[:2] for key in following]


def _refreshed(view: VersionedView, cached: tuple[Mapping, ...], stamp: bytes) -> Mapping | None:
    """The newest cached state of this very version that the transaction's history contains, plus what came since."""
    for mapping in cached:
        records = _new_records(view.txn, view.instance_id, mapping.stamp)
        if records is not None:
            return _extended(view, view.ancestry, mapping, records, stamp)
    return None


def _extended(
    view: VersionedView, ancestry: Ancestry, mapping: Mapping, records: list[tuple[int, int]], stamp: bytes
) -> Mapping | None:
    """A mapping with the records of its ancestry added; None if one lies below what the mapping already has."""
    relevant = [(sequence, version) for sequence, version in records if ancestry.contains(version)]
    newest = mapping.newest
    for _, version in relevant:
        if version < newest or (not ancestry.linear and version != ancestry.version):
            return None
        newest = version
    tiers = mapping.tiers
    for tier in _tiers_of(view.txn, view.instance_id, [(v, s) for s, v in relevant]):
        tiers = _with_tier(tiers, tier)
    return Mapping(tiers, _sequence_of(stamp), stamp, newest)


def _tiers_of(txn: ReadTransaction, instance_id: int, records: list[tuple[int, int]]) -> Iterator[Tier]:
    """The entries of records, given as (version, sequence) in order of precedence; runs of small ones in one tier."""
    first = keys.prefix(instance_id, BY_VERSION)
    pending: list[tuple[U64, U64]] = []
    size = 0
    for version, sequence in records:
        value = txn.get(first + _RECORD_KEY.pack(version, sequence))
        assert value is not None, f"mapping record {sequence} of version {version} is missing"
        pairs = np.frombuffer(value, "<u8").reshape(2, -1)
        if pairs.shape[1] >= LARGE_TIER:
            if pending:
                yield _joined(pending)
            pending, size = [], 0
            yield Tier(pairs[0], pairs[1])
            continue
        pending.append((pairs[0], pairs[1]))
        size += pairs.shape[1]
        if size >= LARGE_TIER:
            yield _joined(pending)
            pending, size = [], 0
    if pending:
        yield _joined(pending)


def _joined(parts: list[tuple[U64, U64]]) -> Tier:
    """One tier of several pieces, the later ones winning."""
    if len(parts) == 1:
        return Tier(*parts[0])
    joined_keys = np.concatenate([keys_ for keys_, _ in parts])
    joined_values = np.concatenate([values for _, values in parts])
    return Tier(*sorted_map.sort_unique_last(joined_keys, joined_values))


def _with_tier(tiers: tuple[Tier, ...], tier: Tier) -> tuple[Tier, ...]:
    """Tiers with a newer one on top, folded so that sizes fall geometrically and large ones are seldom rewritten."""
    kept = list(tiers)
    while kept and len(kept[-1]) <= MERGE_RATIO * len(tier):
        if len(tier) >= LARGE_TIER and len(kept) < MOST_LARGE_TIERS:
            break
        below = kept.pop()
        tier = Tier(*sorted_map.merge_sorted(below.keys, below.values, tier.keys, tier.values))
    return (*kept, tier)


def _built(view: VersionedView, stamp: bytes) -> Mapping:
    """The mapping made from a cached one of an ancestor, or from all records."""
    ancestry = view.ancestry
    if not ancestry.linear:
        return _through_merges(view, stamp)
    base, above = _nearest_cached(view, stamp)
    if base is None:
        records = list(_all_records(view))
        tiers: tuple[Tier, ...] = ()
        newest = 0
    else:
        records = [pair for version in sorted(above) for pair in _records_of(view, version)]
        tiers, newest = base.tiers, base.newest
    for tier in _tiers_of(view.txn, view.instance_id, records):
        tiers = _with_tier(tiers, tier)
    newest = max((version for version, _ in records), default=newest)
    return Mapping(tiers, _sequence_of(stamp), stamp, newest)


def _nearest_cached(view: VersionedView, stamp: bytes) -> tuple[Mapping | None, list[int]]:
    """The mapping of the nearest ancestor that is cached and can be brought up to date, and the versions above it."""
    above: list[int] = []
    for version in view.ancestry.first_parents():
        if version != view.ancestry.version:
            restricted = _Above(view.ancestry, version)
            for mapping in _cache.get(view.instance_id, version):
                if mapping.stamp == stamp:
                    return mapping, above
                records = _new_records(view.txn, view.instance_id, mapping.stamp)
                if records is not None:
                    extended = _extended(view, restricted, mapping, records, stamp)
                    if extended is not None:
                        return extended, above
        above.append(version)
        if len(above) > SEARCHED_ANCESTORS:
            break
    return None, []


class _Above(Ancestry):
    """The part of a linear ancestry from one of its versions up to the root."""

    linear = True

    def __init__(self, ancestry: Ancestry, version: int) -> None:
        self._ancestry = ancestry
        self.version = version

    def contains(self, version: int) -> bool:
        return version <= self.version and self._ancestry.contains(version)

    def descends(self, version: int, ancestor: int) -> bool:
        return version > ancestor

    def first_parents(self) -> Iterator[int]:
        return (version for version in self._ancestry.first_parents() if version <= self.version)


def _records_of(view: VersionedView, version: int) -> Iterator[tuple[int, int]]:
    """(version, sequence) of one version's records, oldest first."""
    first = keys.prefix(view.instance_id, BY_VERSION) + version.to_bytes(4, "big")
    for key in view.txn.scan_keys(first, keys.after(first)):
        yield _RECORD_KEY.unpack(key[keys.PREFIX_BYTES :])


def supervoxels_mapped(view: VersionedView, versions: Iterable[int]) -> U64:
    """Supervoxels u64[n], ascending, that were entered at some versions."""
    prefix = keys.prefix(view.instance_id, BY_VERSION)
    found = [np.empty(0, np.uint64)]
    for version in versions:
        for record in _records_of(view, version):
            value = view.txn.get(prefix + _RECORD_KEY.pack(*record))
            assert value is not None
            found.append(np.frombuffer(value, "<u8").reshape(2, -1)[0])
    return np.unique(np.concatenate(found))


def _all_records(view: VersionedView) -> Iterator[tuple[int, int]]:
    """(version, sequence) of all records at ancestors: versions ascending, oldest first."""
    prefix = keys.prefix(view.instance_id, BY_VERSION)
    end = keys.after(prefix)
    at = prefix
    while (key := next(view.txn.scan_keys(at, end), None)) is not None:
        version = _RECORD_KEY.unpack(key[keys.PREFIX_BYTES :])[0]
        if view.ancestry.contains(version):
            yield from _records_of(view, version)
        at = keys.after(prefix + version.to_bytes(4, "big"))


def _through_merges(view: VersionedView, stamp: bytes) -> Mapping:
    """The mapping where an ancestor has several parents.

    Entries resolve as keys do. Where two entries remain that do not descend from each other, the one on the line of
    first parents counts, else the later version's: a mapping has no way to report a conflict for a single supervoxel.
    """
    ancestry = view.ancestry
    by_version: dict[int, list[tuple[U64, U64]]] = {}
    prefix = keys.prefix(view.instance_id, BY_VERSION)
    for version, sequence in _all_records(view):
        value = view.txn.get(prefix + _RECORD_KEY.pack(version, sequence))
        assert value is not None
        pairs = np.frombuffer(value, "<u8").reshape(2, -1)
        by_version.setdefault(version, []).append((pairs[0], pairs[1]))
    if not by_version:
        return Mapping((), _sequence_of(stamp), stamp, 0)
    versions = sorted(by_version)
    folded = [_joined(by_version[version]) for version in versions]
    all_keys = np.concatenate([tier.keys for tier in folded])
    all_values = np.concatenate([tier.values for tier in folded])
    all_versions = np.concatenate(
        [np.full(len(tier), version, np.int64) for tier, version in zip(folded, versions, strict=True)]
    )
    order = np.argsort(all_keys, kind="stable")
    all_keys, all_values, all_versions = all_keys[order], all_values[order], all_versions[order]
    starts = np.flatnonzero(np.r_[True, all_keys[1:] != all_keys[:-1]])
    stops = np.r_[starts[1:], len(all_keys)]
    chosen = starts.copy()
    line = set(ancestry.first_parents())
    for group in np.flatnonzero(stops - starts > 1):
        a, b = int(starts[group]), int(stops[group])
        candidates = [
            i for i in range(a, b)
            if not any(ancestry.descends(int(all_versions[j]), int(all_versions[i])) for j in range(a, b) if j != i)
        ]
        chosen[group] = max(candidates, key=lambda i: (int(all_versions[i]) in line, int(all_versions[i])))
    tier = Tier(np.ascontiguousarray(all_keys[chosen]), np.ascontiguousarray(all_values[chosen]))
    return Mapping((tier,), _sequence_of(stamp), stamp, ancestry.version)


# -- writing ------------------------------------------------------------------------------------------------------


def add_mappings(view: VersionedView, supervoxels: U64, bodies: U64) -> None:
    """Enter supervoxels u64[n] -> bodies u64[n] at the view's version; of equal supervoxels the last one counts."""
    if len(supervoxels) == 0:
        return
    assert view.txn.writes, "the mapping changes inside of a write transaction only"
    txn = cast("WriteTransaction", view.txn)
    sorted_keys, sorted_values = np.asarray(supervoxels, np.uint64), np.asarray(bodies, np.uint64)
    if len(sorted_keys) > 1:
        sorted_keys, sorted_values = sorted_map.sort_unique_last(
            np.ascontiguousarray(sorted_keys), np.ascontiguousarray(sorted_values)
        )
    first = keys.prefix(view.instance_id, BY_SEQUENCE)
    last = txn.last(first, keys.after(first))
    sequence = 1 if last is None else _sequence_of(last[0]) + 1
    version = view.ancestry.version
    txn.put(first + _SEQUENCE_KEY.pack(sequence, version, os.urandom(8)), b"")
    record = np.concatenate((sorted_keys, sorted_values)).astype("<u8", copy=False)
    txn.put(keys.prefix(view.instance_id, BY_VERSION) + _RECORD_KEY.pack(version, sequence), record.tobytes())
