"""How many points of each kind every supervoxel has, so that who counts need not look at the points when bodies change.

The counts follow every change of the label index in the same transaction. A row is written whenever points of its
supervoxel change, also if their numbers stay what they were: so where versions are merged, rows that only one of them
has are right, and those that both have disagree. Those are counted anew, until they are decided.

Others count in the same way what interests them of the points (`KindCounts`), with rows of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, islice

import numpy as np
from numpy.typing import NDArray

from fascicle.datatypes.annotation.events import KINDS
from fascicle.datatypes.annotation.layout import (
    I64,
    KIND_COUNTS,
    LABELS,
    U8,
    U64,
    kinds_of,
    label_prefix,
    numbers_after,
    positions_of,
)
from fascicle.datatypes.annotation.segmentation import FEW, rows_under
from fascicle.errors import ConflictError
from fascicle.store.base import INLINE, ReadTransaction
from fascicle.versions import keys
from fascicle.versions.model import Instance
from fascicle.versions.resolution import ENVELOPE_BYTES, VersionedView

PROPERTY = "KindCounts"
"""Of an instance: counts have been kept since its first point."""
MOST_LOOKED_UP = 20 * FEW
"""So many supervoxels are looked up one by one; of more, rows and supervoxels are passed over by turns."""
AT_ONCE = 8192
"""Supervoxels are compared in pieces of about so many."""

_K = len(KINDS)
_NOTHING = bytes(4 * _K)
_HEAD = 1 + ENVELOPE_BYTES


def summed(labels: U64, kinds: U8, signs: I64 | int = 1) -> tuple[U64, I64]:
    """Points as changes of counts: (labels u64[m] ascending, changes i64[m, 5])."""
    unique, place = np.unique(labels, return_inverse=True)
    weights = np.broadcast_to(np.asarray(signs, np.float64), labels.shape)
    cells = np.bincount(place * _K + kinds, weights=weights, minlength=len(unique) * _K)
    return unique, cells.astype(np.int64).reshape(-1, _K)


def are_kept(annotation: Instance) -> bool:
    """Whether an instance has counts at all."""
    return bool(annotation.properties.get(PROPERTY))


def of_labelmap(view: VersionedView, labelmap_id: int) -> KindCounts:
    """What an annotation instance keeps of the supervoxels of a labelmap."""

    def count(supervoxel: int) -> I64:
        kinds, _ = points_of(view, labelmap_id, supervoxel)
        return np.bincount(kinds, minlength=_K)[:_K]

    return KindCounts(view, KIND_COUNTS, labelmap_id.to_bytes(4, "big"), count)


def points_of(view: VersionedView, labelmap_id: int, supervoxel: int) -> tuple[U8, I64]:
    """Kinds u8[n] and positions i64[n, 3] of the label rows of a supervoxel.

    Rows of which merged versions say different things are points, too: as the first parent has them.
    """
    prefix = label_prefix(labelmap_id, supervoxel)
    rows = [row for batch in view.settling().scan_batches(LABELS, prefix, keys.after(prefix)) for row in batch]
    return kinds_of(view, [handle for _, handle in rows]), positions_of([key for key, _ in rows])


@dataclass(frozen=True, slots=True)
class KindCounts:
    """Rows with counts of supervoxels: `head`, supervoxel u64 (big-endian) -> u32[5] (little-endian)."""

    view: VersionedView
    key_class: int
    head: bytes
    count: Callable[[int], I64]
    """The counts i64[5] of a supervoxel from its points."""

    def _type_keys(self, supervoxels: U64) -> list[bytes]:
        data, head = supervoxels.astype(">u8").tobytes(), self.head
        return [head + data[at : at + 8] for at in range(0, len(data), 8)]

    def add(self, supervoxels: U64, kinds: U8, signs: I64 | int) -> None:
        """Points u64[n] of kinds u8[n] came to supervoxels (sign 1) or left them (-1). Their rows have been written."""
        self.change(*summed(supervoxels, kinds, signs))

    def change(self, supervoxels: U64, changes: I64) -> None:
        """Add changes i64[n, 5] to the counts of supervoxels u64[n], each once, and write their rows in any case."""
        if not len(supervoxels):
            return
        type_keys = self._type_keys(supervoxels)
        handles, torn = self.view.handles_apart(self.key_class, type_keys)
        counts = _counts(self.view, handles) + changes
        for place in torn:
            counts[place] = self.count(int(supervoxels[place]))
        self._write(type_keys, counts)

    def settle(self, supervoxels: U64) -> None:
        """Decide the counts of those of supervoxels u64[n] of which merged versions say different things."""
        type_keys = self._type_keys(supervoxels)
        _, torn = self.view.handles_apart(self.key_class, type_keys)
        if torn:
            places = sorted(torn)
            counts = np.array([self.count(int(supervoxels[place])) for place in places])
            self._write([type_keys[place] for place in places], counts)

    def _write(self, type_keys: Sequence[bytes], counts: I64) -> None:
        # Never a tombstone: it would give way to what another branch has, though that knows nothing of what went here.
        data = np.maximum(counts, 0).astype("<u4").tobytes()
        rows = [(key, data[at : at + 4 * _K]) for key, at in zip(type_keys, range(0, len(data), 4 * _K), strict=True)]
        self.view.put_many(self.key_class, rows)

    def held(self, supervoxels: U64) -> tuple[I64, NDArray[np.bool_]]:
        """What is stored i64[n, 5] of supervoxels u64[n]; whether merged versions say different things (then 0)."""
        handles, places = self.view.handles_apart(self.key_class, self._type_keys(supervoxels))
        torn = np.zeros(len(supervoxels), np.bool_)
        torn[list(places)] = True
        return _counts(self.view, handles), torn

    def read(self, supervoxels: U64) -> I64:
        """The counts i64[n, 5] of supervoxels u64[n] (ascending, each once)."""
        if len(supervoxels) <= MOST_LOOKED_UP:
            handles, torn = self.view.handles_apart(self.key_class, self._type_keys(supervoxels))
            counts = _counts(self.view, handles)
            for place in torn:
                counts[place] = self.count(int(supervoxels[place]))
            return counts
        try:
            return self._scanned(supervoxels)
        except ConflictError:
            parts = np.split(supervoxels, range(MOST_LOOKED_UP, len(supervoxels), MOST_LOOKED_UP))
            return np.concatenate([self.read(part) for part in parts])

    def _scanned(self, supervoxels: U64) -> I64:
        counts = np.zeros((len(supervoxels), _K), np.int64)
        for batch in rows_under(self.view, self.key_class, self.head, supervoxels):
            at = np.searchsorted(supervoxels, numbers_after(len(self.head), [key for key, _ in batch]))
            counts[at] = _counts(self.view, [handle for _, handle in batch])
        return counts

    def all(self) -> Iterator[tuple[U64, I64]]:
        """(supervoxels u64[n], counts i64[n, 5]) of all rows, in pieces, ascending. May raise ConflictError."""
        for batch in self.view.scan_batches(self.key_class, self.head, keys.after(self.head)):
            if batch:
                supervoxels = numbers_after(len(self.head), [key for key, _ in batch])
                yield supervoxels, _counts(self.view, [handle for _, handle in batch])

    def known(self, first: int = 0, last: int = (1 << 64) - 1) -> Iterator[U64]:
        """Supervoxels u64[n] from `first` to `last` that any version has a row of, in pieces, ascending."""
        prefix = keys.prefix(self.view.instance_id, self.key_class) + self.head
        skip = len(prefix)
        stop = keys.after(prefix + last.to_bytes(8, "big"))
        stored = (key[skip : skip + 8] for key in self.view.txn.scan_keys(prefix + first.to_bytes(8, "big"), stop))
        unique = (name for name, _ in groupby(stored))
        while piece := list(islice(unique, AT_ONCE)):
            yield np.frombuffer(b"".join(piece), ">u8").astype(np.uint64)

    def written(self, versions: Container[int]) -> U64:
        """Supervoxels u64[n], ascending, of which one of some versions has a row."""
        prefix = keys.prefix(self.view.instance_id, self.key_class) + self.head
        return keys_written(self.view.txn, prefix, versions)


def keys_written(txn: ReadTransaction, prefix: bytes, versions: Container[int]) -> U64:
    """Numbers u64[n], ascending, each once, that follow a prefix in versioned keys of some versions."""
    first, last = len(prefix), len(prefix) + 8
    chosen: dict[bytes, bool] = {}
    found = []
    for key in txn.scan_keys(prefix, keys.after(prefix)):
        version = key[last:]
        if version not in chosen:
            chosen[version] = keys.version_of(key) in versions
        if chosen[version]:
            found.append(key[first:last])
    return np.unique(np.frombuffer(b"".join(found), ">u8").astype(np.uint64))


def _counts(view: VersionedView, handles: Iterable[bytes | None]) -> I64:
    values = [
        _NOTHING if handle is None else handle[_HEAD:] if handle[0] == INLINE else view.load(handle)
        for handle in handles
    ]
    return np.frombuffer(b"".join(values), "<u4").reshape(-1, _K).astype(np.int64)
