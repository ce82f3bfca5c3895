"""Keeping counts equal to what annotation instances hold: event by event, and anew.

What follows an annotation is told of every change in the transaction that makes it. A reload compares all points of the
label index with the counts of one snapshot and then adds the *differences* to the counts as they are: events of the
meantime have been added too, and sums do not care for the order. So a reload blocks nobody and may commit in parts.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fascicle.datatypes.annotation.counting import counted_points
from fascicle.datatypes.annotation.events import (
    KINDS,
    BodiesJoined,
    Emptied,
    PointsChanged,
    PointsReassigned,
)
from fascicle.datatypes.annotation.kind_counts import KindCounts, summed
from fascicle.datatypes.annotation.segmentation import indexed_labelmap, segmentation_at, view_of
from fascicle.datatypes.base import Call, Change
from fascicle.datatypes.labelsz import region_counts, tallies
from fascicle.datatypes.labelsz.region_counts import Part, joined
from fascicle.datatypes.labelsz.tallies import AT_ONCE, I64, U64
from fascicle.datatypes.roi.regions import Region, region_named
from fascicle.errors import BadRequest
from fascicle.store.base import ReadTransaction
from fascicle.versions import keys
from fascicle.versions.catalog import Catalog
from fascicle.versions.model import Instance, Node
from fascicle.versions.resolution import VersionedView

RELOADS = 3
"""The class of one key per version, not versioned: a token of the reload that began last."""

STATIC_ROI = "StaticROI"
ANNOTATION = "annotation"
Positions = NDArray[np.int32] | NDArray[np.int64]
"""Voxels [n, 3]: x, y, z."""
_SUMMED_CELLS = 1 << 20


# -- what is counted


class Everywhere:
    """Elements are counted wherever they are."""

    def counted(self, positions: Positions) -> NDArray[np.bool_]:
        return np.ones(len(positions), np.bool_)


class Nowhere:
    """No element is counted: the region is gone."""

    def counted(self, positions: Positions) -> NDArray[np.bool_]:
        return np.zeros(len(positions), np.bool_)


class Inside:
    """Elements are counted whose position lies in a region."""

    def __init__(self, region: Region) -> None:
        self._region = region

    def counted(self, positions: Positions) -> NDArray[np.bool_]:
        return self._region.contains(positions)


Extent = Everywhere | Nowhere | Inside


def extent_of(txn: ReadTransaction, catalog: Catalog, instance: Instance, node: Node) -> Extent:
    """Where an instance counts: everywhere, or in the region of its settings at the version that is named there."""
    text = instance.properties[STATIC_ROI]
    if not text:
        return Everywhere()
    try:
        return Inside(region_named(catalog, txn, node, text))
    except BadRequest:
        return Nowhere()


def followed(catalog: Catalog, instance: Instance) -> list[Instance]:
    """The annotation instances that an instance counts."""
    found = [catalog.instance_by_data_uuid(data_uuid) for data_uuid in instance.syncs]
    return [publisher for publisher in found if publisher is not None and publisher.typename == ANNOTATION]


# -- event by event


def follow(change: Change, publisher: Instance, event: Any) -> None:
    """Bring the counts of `change.instance` up to date with an event of an annotation instance."""
    if isinstance(event, PointsChanged):
        _count_points(change, publisher, event)
    elif isinstance(event, BodiesJoined):
        _join(change, event)
    elif isinstance(event, PointsReassigned):
        _reassign(change, publisher, event)
    elif isinstance(event, Emptied):
        _empty(change, publisher)


def _count_points(change: Change, publisher: Instance, event: PointsChanged) -> None:
    extent = extent_of(change.txn, change.catalog, change.instance, change.node)
    if region_counts.are_kept(change.instance):
        for rows in event.rows:
            region_counts.follow(_in_region(change, publisher, rows.labelmap_id, extent), rows, extent)
    parts = []
    for points, sign in ((event.removed, -1), (event.added, 1)):
        chosen = extent.counted(points.positions)
        parts.append((points.labels[chosen], points.kinds[chosen], np.full(int(chosen.sum()), sign, np.int64)))
    labels, kinds, signs = (np.concatenate(column) for column in zip(*parts, strict=True))
    if len(labels):
        tallies.add(change.view, *summed(labels, kinds, signs))


def _in_region(change: Change, publisher: Instance, labelmap_id: int, extent: Extent) -> KindCounts:
    """What is kept by supervoxel of an annotation instance."""
    points = view_of(change.txn, change.catalog, publisher, change.node)
    return region_counts.of_source(change.view, publisher.id, points, labelmap_id, extent)


def _reassign(change: Change, publisher: Instance, event: PointsReassigned) -> None:
    counts = event.counts
    if change.instance.properties[STATIC_ROI]:
        if not region_counts.are_kept(change.instance):
            _count_points(change, publisher, event.points())
            return
        extent = extent_of(change.txn, change.catalog, change.instance, change.node)
        counts = _in_region(change, publisher, event.labelmap_id, extent).read(event.supervoxels)
    labels, changes = joined([(event.before, -counts), (event.after, counts)])
    live = labels != 0
    tallies.add(change.view, labels[live], changes[live])


def _join(change: Change, event: BodiesJoined) -> None:
    merged = np.unique(np.array(event.merged, np.uint64))
    labels = np.append(merged[merged != np.uint64(event.target)], np.uint64(event.target))
    held = tallies.read(change.view, labels)
    changes = -held.counts
    changes[-1] = held.counts[:-1].sum(axis=0)
    tallies.add(change.view, labels, changes)


def _empty(change: Change, publisher: Instance) -> None:
    view = change.view
    for annotation_id, labelmap_id in list(region_counts.heads(view)):
        if annotation_id == publisher.id:
            kept = region_counts.of_source(view, annotation_id, None, labelmap_id, Nowhere())
            for supervoxels in list(kept.known()):
                kept.change(supervoxels, -kept.held(supervoxels)[0])
    for labels in list(tallies.known_labels(view)):
        held = tallies.read(view, labels)
        tallies.settle(view, labels, np.zeros_like(held.counts))
        tallies.add(view, labels, -held.counts)
    others = [other for other in followed(change.catalog, change.instance) if other.id != publisher.id]
    if others:
        extent = extent_of(change.txn, change.catalog, change.instance, change.node)
        labels, counts = recounted(change.txn, change.catalog, others, change.node, extent)
        tallies.add(view, labels, counts)


# -- anew


def recounted(
    txn: ReadTransaction, catalog: Catalog, annotations: list[Instance], node: Node, extent: Extent
) -> Part:
    """All points of the label indexes at a version: (labels u64[m] ascending, counts i64[m, 5])."""

    def parts() -> Iterator[Part]:
        for annotation in annotations:
            for points in counted_points(txn, catalog, annotation, node):
                chosen = extent.counted(points.positions)
                yield summed(points.labels[chosen], points.kinds[chosen])

    return _gathered(parts())


def _recounted_in_region(view: VersionedView, catalog: Catalog, annotations: list[Instance], node: Node) -> Part:
    """The same from the counts of supervoxels, which must be right."""

    def parts() -> Iterator[Part]:
        for annotation in annotations:
            segmentation = segmentation_at(view.txn, catalog, indexed_labelmap(catalog, annotation), node)
            if segmentation is not None:
                kept = region_counts.of_source(view, annotation.id, None, segmentation.id, Nowhere())
                for supervoxels, held in kept.all():
                    bodies = segmentation.bodies(supervoxels)
                    yield bodies[bodies != 0], held[bodies != 0]

    return _gathered(parts())


def _gathered(parts: Iterable[Part]) -> Part:
    """All parts put together, many at once."""
    found: Part = np.zeros(0, np.uint64), np.zeros((0, len(KINDS)), np.int64)
    waiting: list[Part] = []
    size = 0
    for part in parts:
        waiting.append(part)
        size += len(part[0])
        if size > max(_SUMMED_CELLS, len(found[0])):
            found = joined([found, *waiting])
            waiting, size = [], 0
    return joined([found, *waiting])


def reload(call: Call) -> None:
    """Count everything anew at the version of a call; returns once it is durable.

    A reload of the same version that begins later takes over: this one then stops, having done a part that is right.
    """
    annotations = followed(call.catalog, call.instance)
    if not annotations:
        return
    token = os.urandom(8)
    place = keys.with_version(keys.prefix(call.instance.id, RELOADS), call.ancestry.version)
    call.commit(lambda change: change.txn.put(place, token))
    # Each of the snapshots begins after the token: parts of an earlier reload are in it, or never come. The one from
    # which bodies are counted begins after the supervoxels' counts are right: what a cleave moves meanwhile is right.
    if region_counts.are_kept(call.instance) and not _reload_supervoxels(call, annotations, place, token):
        return
    with call.store.read() as txn:
        view = VersionedView(txn, call.instance.id, call.ancestry)
        if region_counts.are_kept(call.instance):
            labels, counts = _recounted_in_region(view, call.catalog, annotations, call.node)
        else:
            extent = extent_of(txn, call.catalog, call.instance, call.node)
            labels, counts = recounted(txn, call.catalog, annotations, call.node, extent)
        for part in _differences(view, labels, counts):
            if not call.commit(partial(_correct, place=place, token=token, part=part)):
                return
    call.commit(lambda change: _end(change, place, token))


def _reload_supervoxels(call: Call, annotations: list[Instance], place: bytes, token: bytes) -> bool:
    """Correct what is kept by supervoxel; whether no other reload has begun."""
    catalog = call.catalog
    with call.store.read() as txn:
        view = VersionedView(txn, call.instance.id, call.ancestry)
        extent = extent_of(txn, catalog, call.instance, call.node)
        sources: dict[tuple[int, int], Instance | None] = dict.fromkeys(region_counts.heads(view))
        for annotation in annotations:
            labelmap = indexed_labelmap(catalog, annotation)
            if labelmap is not None:
                sources[annotation.id, labelmap.id] = annotation
        for (annotation_id, labelmap_id), source in sources.items():
            points = None if source is None else view_of(txn, catalog, source, call.node)
            kept = region_counts.of_source(view, annotation_id, points, labelmap_id, extent)
            for part in region_counts.differences(kept, points, labelmap_id, extent):
                names = annotation_id, labelmap_id
                if not call.commit(partial(_correct_supervoxels, place=place, token=token, names=names, part=part)):
                    return False
    return True


def _correct_supervoxels(change: Change, place: bytes, token: bytes, names: tuple[int, int], part: Part) -> bool:
    """Apply a part of what is wrong of supervoxels, if no other reload has begun."""
    if change.txn.get(place) != token:
        return False
    annotation_id, labelmap_id = names
    source = next((found for found in followed(change.catalog, change.instance) if found.id == annotation_id), None)
    points = None if source is None else view_of(change.txn, change.catalog, source, change.node)
    extent = extent_of(change.txn, change.catalog, change.instance, change.node)
    region_counts.of_source(change.view, annotation_id, points, labelmap_id, extent).change(*part)
    return True


Difference = tuple[U64, I64, U64, I64]
"""Labels with what is to be added to their counts; labels on which versions disagree, with their counts."""


def _differences(view: VersionedView, labels: U64, counts: I64) -> Iterator[Difference]:
    """What distinguishes the stored counts at a version from the right ones."""
    for at in range(0, len(labels), AT_ONCE):
        yield from _difference(view, labels[at : at + AT_ONCE], counts[at : at + AT_ONCE])
    for known in tallies.known_labels(view):
        missing = known[~np.isin(known, labels, assume_unique=True)]
        yield from _difference(view, missing, np.zeros((len(missing), len(KINDS)), np.int64))


def _difference(view: VersionedView, labels: U64, counts: I64) -> Iterator[Difference]:
    held = tallies.read(view, labels)
    torn = held.conflicts
    wrong = (counts != held.counts).any(axis=1) & ~torn
    if wrong.any() or torn.any():
        yield labels[wrong], (counts - held.counts)[wrong], labels[torn], counts[torn]


def _correct(change: Change, place: bytes, token: bytes, part: Difference) -> bool:
    """Apply a part of a reload, if no other one has begun."""
    if change.txn.get(place) != token:
        return False
    labels, changes, torn, counts = part
    tallies.settle(change.view, torn, counts)
    tallies.add(change.view, labels, changes)
    return True


def _end(change: Change, place: bytes, token: bytes) -> None:
    if change.txn.get(place) == token:
        change.txn.delete(place)
