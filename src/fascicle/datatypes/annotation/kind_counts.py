"""How many points of each kind every supervoxel has, so that who counts need not look at the points when bodies change.

The counts follow every change of the label index in the same transaction. Where merged versions have both changed those
of a supervoxel, its rows are counted until its points change again.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from fascicle.datatypes.annotation.events import KINDS
from fascicle.datatypes.annotation.layout import (
    I64,
    KIND_COUNTS,
    LABELS,
    U64,
    kinds_of,
    label_prefix,
    label_prefixes,
    supervoxels_of,
)
from fascicle.datatypes.annotation.segmentation import FEW, rows_of_supervoxels
from fascicle.errors import ConflictError
from fascicle.store.base import INLINE
from fascicle.versions import keys
from fascicle.versions.model import Instance
from fascicle.versions.resolution import ENVELOPE_BYTES, VersionedView

PROPERTY = "KindCounts"
"""Of an instance: counts have been kept since its first point."""
MOST_LOOKED_UP = 20 * FEW
"""So many supervoxels are looked up one by one; of more, rows and supervoxels are passed over by turns."""

_K = len(KINDS)
_NOTHING = bytes(4 * _K)
_HEAD = 1 + ENVELOPE_BYTES


def summed(labels: U64, kinds: NDArray[np.uint8], signs: I64 | int = 1) -> tuple[U64, I64]:
    """Points as changes of counts: (labels u64[m] ascending, changes i64[m, 5])."""
    unique, place = np.unique(labels, return_inverse=True)
    weights = np.broadcast_to(np.asarray(signs, np.float64), labels.shape)
    cells = np.bincount(place * _K + kinds, weights=weights, minlength=len(unique) * _K)
    return unique, cells.astype(np.int64).reshape(-1, _K)


def are_kept(annotation: Instance) -> bool:
    """Whether an instance has counts at all."""
    return bool(annotation.properties.get(PROPERTY))


def add(view: VersionedView, labelmap_id: int, supervoxels: U64, kinds: NDArray[np.uint8], signs: I64 | int) -> None:
    """Points u64[n] of kinds u8[n] came to supervoxels (sign 1) or left them (-1). Their rows have been written."""
    unique, changes = summed(supervoxels, kinds, signs)
    changed = changes.any(axis=1)
    unique, changes = unique[changed], changes[changed]
    if not len(unique):
        return
    type_keys = label_prefixes(labelmap_id, unique)
    handles, torn = view.handles_apart(KIND_COUNTS, type_keys)
    counts = _counts(view, handles) + changes
    for place in sorted(torn):
        counted = _count_rows(view, labelmap_id, int(unique[place]))
        if counted is None:
            continue
        counts[place] = counted
        torn.discard(place)
    np.maximum(counts, 0, out=counts)
    data = counts.astype("<u4").tobytes()
    rows = []
    remaining: list[bool] = np.asarray(counts.any(axis=1)).tolist()
    for place, (key, left) in enumerate(zip(type_keys, remaining, strict=True)):
        if place in torn:
            continue
        if left:
            rows.append((key, data[4 * _K * place : 4 * _K * (place + 1)]))
        elif handles[place] is not None:
            view.delete(KIND_COUNTS, key)
        else:
            rows.append((key, _NOTHING))  # it ends a disagreement, or there was nothing
    view.put_many(KIND_COUNTS, rows)


def read(view: VersionedView, labelmap_id: int, supervoxels: U64) -> I64:
    """The counts i64[n, 5] of supervoxels u64[n] (ascending, each once). May raise ConflictError if rows do."""
    if len(supervoxels) <= MOST_LOOKED_UP:
        handles, torn = view.handles_apart(KIND_COUNTS, label_prefixes(labelmap_id, supervoxels))
        counts = _counts(view, handles)
        for place in torn:
            counts[place] = _counted(view, labelmap_id, int(supervoxels[place]))
        return counts
    try:
        return _scanned(view, labelmap_id, supervoxels)
    except ConflictError:
        parts = np.split(supervoxels, range(MOST_LOOKED_UP, len(supervoxels), MOST_LOOKED_UP))
        return np.concatenate([read(view, labelmap_id, part) for part in parts])


def _scanned(view: VersionedView, labelmap_id: int, supervoxels: U64) -> I64:
    counts = np.zeros((len(supervoxels), _K), np.int64)
    for batch in rows_of_supervoxels(view, labelmap_id, supervoxels, KIND_COUNTS):
        at = np.searchsorted(supervoxels, supervoxels_of([key for key, _ in batch]))
        counts[at] = _counts(view, [handle for _, handle in batch])
    return counts


def _counts(view: VersionedView, handles: Iterable[bytes | None]) -> I64:
    values = [
        _NOTHING if handle is None else handle[_HEAD:] if handle[0] == INLINE else view.load(handle)
        for handle in handles
    ]
    return np.frombuffer(b"".join(values), "<u4").reshape(-1, _K).astype(np.int64)


def _counted(view: VersionedView, labelmap_id: int, supervoxel: int) -> I64:
    """The counts i64[5] of the rows of a supervoxel."""
    prefix = label_prefix(labelmap_id, supervoxel)
    counts = np.zeros(_K, np.int64)
    for batch in view.scan_batches(LABELS, prefix, keys.after(prefix)):
        counts += np.bincount(kinds_of(view, [handle for _, handle in batch]), minlength=_K)[:_K]
    return counts


def _count_rows(view: VersionedView, labelmap_id: int, supervoxel: int) -> I64 | None:
    """As `_counted`; None where merged versions disagree about the points themselves."""
    try:
        return _counted(view, labelmap_id, supervoxel)
    except ConflictError:
        return None
