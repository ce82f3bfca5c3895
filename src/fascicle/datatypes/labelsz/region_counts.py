"""How many points of each kind every supervoxel has inside of the region that an instance counts in.

With them a merge or a cleave moves sums, as it does where everything is counted. They follow the events that add points
and take them away, in the same transaction, and a reload corrects them before it counts bodies.

    class 4: annotation u32, labelmap u32, supervoxel u64 (big-endian) -> u32[5] (`annotation/kind_counts.py`)
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from fascicle.datatypes.annotation.counting import indexed_points
from fascicle.datatypes.annotation.events import KINDS, RowsChanged
from fascicle.datatypes.annotation.kind_counts import AT_ONCE, KindCounts, points_of, summed
from fascicle.datatypes.labelsz.tallies import I64, U64
from fascicle.versions import keys
from fascicle.versions.model import Instance
from fascicle.versions.resolution import VersionedView

if TYPE_CHECKING:
    from fascicle.datatypes.labelsz.counting import Extent

REGION_COUNTS = 4
PROPERTY = "RegionCounts"
"""Of an instance: what it counts has been kept by supervoxel, too, since it was made."""


Part = tuple[U64, I64]
"""Labels u64[n], ascending, with counts or changes i64[n, 5]."""
_NO_PART = np.zeros(0, np.uint64), np.zeros((0, len(KINDS)), np.int64)


def of_source(
    view: VersionedView, annotation_id: int, points: VersionedView | None, labelmap_id: int, extent: Extent
) -> KindCounts:
    """The counts of the points of one annotation instance by the supervoxels of one labelmap.

    `view` is of who counts, `points` of the annotation instance; without it nothing is to be counted.
    """

    def count(supervoxel: int) -> I64:
        if points is None:
            return np.zeros(len(KINDS), np.int64)
        kinds, xyz = points_of(points, labelmap_id, supervoxel)
        return np.bincount(kinds[extent.counted(xyz)], minlength=len(KINDS))[: len(KINDS)]

    head = annotation_id.to_bytes(4, "big") + labelmap_id.to_bytes(4, "big")
    return KindCounts(view, REGION_COUNTS, head, count)


def are_kept(instance: Instance) -> bool:
    return bool(instance.properties.get(PROPERTY))


def follow(counts: KindCounts, rows: RowsChanged, extent: Extent) -> None:
    """Points came to supervoxels and left them."""
    inside = extent.counted(rows.positions)
    counts.add(rows.supervoxels[inside], rows.kinds[inside], rows.signs[inside])


# -- anew


def differences(counts: KindCounts, view: VersionedView | None, labelmap_id: int, extent: Extent) -> Iterator[Part]:
    """What distinguishes the stored counts from the right ones, in pieces: (supervoxels u64[n], changes i64[n, 5]).

    Supervoxels of which merged versions say different things are among them. `view` is of the annotation instance;
    without it nothing is to be counted.
    """
    low = 0
    for supervoxels, right in () if view is None else _counted(view, labelmap_id, extent):
        high = int(supervoxels[-1])
        yield from _compared(counts, low, high, supervoxels, right)
        low = high + 1
    if low < 1 << 64:
        yield from _compared(counts, low, (1 << 64) - 1, *_NO_PART)


def _counted(view: VersionedView, labelmap_id: int, extent: Extent) -> Iterator[Part]:
    """The right counts, supervoxels ascending over all pieces."""
    waiting, size = [_NO_PART], 0
    for supervoxels, kinds, xyz in indexed_points(view, labelmap_id):
        inside = extent.counted(xyz)
        waiting.append(summed(supervoxels[inside], kinds[inside]))
        size += len(waiting[-1][0])
        if size > AT_ONCE:
            found, counts = joined(waiting)
            yield found[:-1], counts[:-1]  # the last supervoxel may go on
            waiting, size = [(found[-1:], counts[-1:])], 0
    last = joined(waiting)
    if len(last[0]):
        yield last


def _compared(counts: KindCounts, low: int, high: int, supervoxels: U64, right: I64) -> Iterator[Part]:
    for known in counts.known(low, high):
        missing = known[~np.isin(known, supervoxels)]
        yield from _different(counts, missing, np.zeros((len(missing), len(KINDS)), np.int64))
    yield from _different(counts, supervoxels, right)


def _different(counts: KindCounts, supervoxels: U64, right: I64) -> Iterator[Part]:
    held, torn = counts.held(supervoxels)
    wrong = (held != right).any(axis=1) | torn
    if wrong.any():
        yield supervoxels[wrong], (right - held)[wrong]


def joined(parts: list[Part]) -> Part:
    """Counts of labels put together."""
    labels, place = np.unique(np.concatenate([part[0] for part in parts]), return_inverse=True)
    counts = np.zeros((len(labels), len(KINDS)), np.int64)
    np.add.at(counts, place, np.concatenate([part[1] for part in parts]))
    return labels, counts


def heads(view: VersionedView) -> Iterator[tuple[int, int]]:
    """(annotation, labelmap) of which any version has counts."""
    prefix = keys.prefix(view.instance_id, REGION_COUNTS)
    at, end = prefix, keys.after(prefix)
    while (key := next(view.txn.scan_keys(at, end), None)) is not None:
        head = key[: len(prefix) + 8]
        yield int.from_bytes(head[-8:-4], "big"), int.from_bytes(head[-4:], "big")
        at = keys.after(head)
