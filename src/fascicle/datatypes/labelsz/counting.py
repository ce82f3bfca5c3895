"""Keeping counts equal to what annotation instances hold: event by event, and anew.

What follows an annotation is told of every change in the transaction that makes it. A reload compares all points of the
label index with the counts of one snapshot and then adds the *differences* to the counts as they are: events of the
meantime have been added too, and sums do not care for the order. So a reload blocks nobody and may commit in parts.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fascicle.datatypes.annotation.counting import counted_points
from fascicle.datatypes.annotation.events import (
    KINDS,
    BodiesJoined,
    Emptied,
    Points,
    PointsChanged,
    PointsReassigned,
)
from fascicle.datatypes.annotation.kind_counts import summed
from fascicle.datatypes.base import Call, Change
from fascicle.datatypes.labelsz import tallies
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
_SUMMED_CELLS = 1 << 20


# -- what is counted


class Everywhere:
    """Elements are counted wherever they are."""

    def counted(self, points: Points) -> NDArray[np.bool_]:
        return np.ones(len(points), np.bool_)


class Nowhere:
    """No element is counted: the region is gone."""

    def counted(self, points: Points) -> NDArray[np.bool_]:
        return np.zeros(len(points), np.bool_)


class Inside:
    """Elements are counted whose position lies in a region."""

    def __init__(self, region: Region) -> None:
        self._region = region

    def counted(self, points: Points) -> NDArray[np.bool_]:
        return self._region.contains(points.positions)


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
        _count_points(change, event)
    elif isinstance(event, BodiesJoined):
        _join(change, event)
    elif isinstance(event, PointsReassigned):
        _reassign(change, event)
    elif isinstance(event, Emptied):
        _empty(change, publisher)


def _count_points(change: Change, event: PointsChanged) -> None:
    extent = extent_of(change.txn, change.catalog, change.instance, change.node)
    parts = []
    for points, sign in ((event.removed, -1), (event.added, 1)):
        chosen = extent.counted(points)
        parts.append((points.labels[chosen], points.kinds[chosen], np.full(int(chosen.sum()), sign, np.int64)))
    labels, kinds, signs = (np.concatenate(column) for column in zip(*parts, strict=True))
    if len(labels):
        tallies.add(change.view, *summed(labels, kinds, signs))


def _reassign(change: Change, event: PointsReassigned) -> None:
    if change.instance.properties[STATIC_ROI]:
        _count_points(change, event.points())
        return
    labels, place = np.unique(np.concatenate((event.before, event.after)), return_inverse=True)
    changes = np.zeros((len(labels), len(KINDS)), np.int64)
    np.add.at(changes, place, np.concatenate((-event.counts, event.counts)))
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
) -> tuple[U64, I64]:
    """All points of the label indexes at a version: (labels u64[m] ascending, counts i64[m, 5])."""
    labels, counts = np.zeros(0, np.uint64), np.zeros((0, len(KINDS)), np.int64)
    waiting: list[tuple[U64, I64]] = []
    size = 0
    for annotation in annotations:
        for points in counted_points(txn, catalog, annotation, node):
            chosen = extent.counted(points)
            waiting.append(summed(points.labels[chosen], points.kinds[chosen]))
            size += len(waiting[-1][0])
            if size > max(_SUMMED_CELLS, len(labels)):
                labels, counts = _merged([(labels, counts), *waiting])
                waiting, size = [], 0
    return _merged([(labels, counts), *waiting])


def _merged(parts: list[tuple[U64, I64]]) -> tuple[U64, I64]:
    """Counts of labels put together."""
    labels, place = np.unique(np.concatenate([part[0] for part in parts]), return_inverse=True)
    counts = np.zeros((len(labels), len(KINDS)), np.int64)
    np.add.at(counts, place, np.concatenate([part[1] for part in parts]))
    return labels, counts


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
    with call.store.read() as txn:  # begins after the token: parts of an earlier reload are in it, or never come
        view = VersionedView(txn, call.instance.id, call.ancestry)
        extent = extent_of(txn, call.catalog, call.instance, call.node)
        labels, counts = recounted(txn, call.catalog, annotations, call.node, extent)
        for part in _differences(view, labels, counts):
            if not call.commit(partial(_correct, place=place, token=token, part=part)):
                return
    call.commit(lambda change: _end(change, place, token))


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
