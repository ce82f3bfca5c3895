"""Counts of a version that was made of several parents.

A branch may have merged bodies while another one put points into them: then neither branch's counts are right together,
whether or not both have changed a record. So they are derived. What a body has is what it has at a parent, less what
that parent says of the supervoxels that any branch changed, plus what the merged version says of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Set

import numpy as np

from fascicle.datatypes.annotation import kind_counts
from fascicle.datatypes.annotation.events import KINDS
from fascicle.datatypes.annotation.kind_counts import KindCounts, keys_written
from fascicle.datatypes.annotation.segmentation import Segmentation, indexed_labelmap, segmentation_at, view_of
from fascicle.datatypes.base import Change
from fascicle.datatypes.labelsz import region_counts, tallies
from fascicle.datatypes.labelsz.counting import STATIC_ROI, extent_of, followed
from fascicle.datatypes.labelsz.region_counts import Part, joined
from fascicle.datatypes.labelsz.tallies import I64, U64
from fascicle.versions import keys
from fascicle.versions.model import Instance, Node


def settle(change: Change, apart: Set[int]) -> None:
    """Derive the counts of all bodies that the branches changed, in the transaction that makes the version.

    Instances made before counts were kept by supervoxel stay as their records are: a reload decides.
    """
    annotations = followed(change.catalog, change.instance)
    restricted = bool(change.instance.properties[STATIC_ROI])
    if restricted and not region_counts.are_kept(change.instance):
        return
    if not all(kind_counts.are_kept(annotation) for annotation in annotations):
        return
    parents = [change.catalog.node(parent) for parent in change.node.parents]
    parts: list[list[Part]] = [[] for _ in parents]
    for annotation in annotations:
        for found, part in zip(parts, _changes(change, annotation, parents, apart), strict=True):
            found.append(part)
    touched = keys_written(change.txn, keys.prefix(change.view.instance_id, tallies.COUNTS), apart)
    moved = [labels[counts.any(axis=1)] for found in parts for labels, counts in found]
    labels = np.unique(np.concatenate([touched, *moved]))
    labels = labels[labels != 0]
    if not len(labels):
        return
    held = tallies.read(change.view, labels)
    right, known = _right(change, labels, parents, parts)
    torn = held.conflicts
    tallies.settle(change.view, labels[torn & known], right[torn & known])
    untorn = known & ~torn
    tallies.add(change.view, labels[untorn], (right - held.counts)[untorn])


def _changes(change: Change, annotation: Instance, parents: list[Node], apart: Set[int]) -> Iterator[Part]:
    """For each parent, what distinguishes bodies from what they have there."""
    labelmap = indexed_labelmap(change.catalog, annotation)
    merged = segmentation_at(change.txn, change.catalog, labelmap, change.node)
    if merged is None:
        yield from [(np.zeros(0, np.uint64), np.zeros((0, len(KINDS)), np.int64))] * len(parents)
        return
    kept = _kept(change, annotation, merged, change.node)
    supervoxels = np.union1d(kept.written({*apart, change.node.id}), merged.mapped_at(apart))
    if change.instance.properties[STATIC_ROI]:
        kept.settle(supervoxels)
    counts = kept.read(supervoxels)
    try:
        bodies = merged.bodies(supervoxels)
    finally:
        merged.forget_mapping()
    for parent in parents:
        segmentation = segmentation_at(change.txn, change.catalog, labelmap, parent)
        assert segmentation is not None
        before = _kept(change, annotation, segmentation, parent).read(supervoxels)
        yield joined([(bodies, counts), (segmentation.bodies(supervoxels), -before)])


def _kept(change: Change, annotation: Instance, segmentation: Segmentation, node: Node) -> KindCounts:
    """What is kept by supervoxel at a version of what the instance counts."""
    points = view_of(change.txn, change.catalog, annotation, node)
    if not change.instance.properties[STATIC_ROI]:
        return kind_counts.of_labelmap(points, segmentation.id)
    extent = extent_of(change.txn, change.catalog, change.instance, node)
    view = view_of(change.txn, change.catalog, change.instance, node)
    return region_counts.of_source(view, annotation.id, points, segmentation.id, extent)


def _right(
    change: Change, labels: U64, parents: list[Node], parts: list[list[Part]]
) -> tuple[I64, np.ndarray[tuple[int], np.dtype[np.bool_]]]:
    """The counts i64[n, 5] of labels, and bool[n] where they are known.

    They are derived from the parent whose record the merged version sees, from the first one where there is no such.
    """
    seen, _ = tallies.handles(change.view, labels)
    right = np.zeros((len(labels), len(KINDS)), np.int64)
    known = np.zeros(len(labels), np.bool_)
    left = np.ones(len(labels), np.bool_)
    for number, (parent, found) in enumerate(zip(parents, parts, strict=True)):
        view = view_of(change.txn, change.catalog, change.instance, parent)
        theirs, _ = tallies.handles(view, labels)
        chosen = left & np.array([a == b for a, b in zip(seen, theirs, strict=True)], np.bool_)
        if number == 0:
            _, torn = tallies.handles(change.view, labels)
            chosen[list(torn)] = True
        left &= ~chosen
        there = tallies.read(view, labels[chosen])
        right[chosen] = there.counts + _picked(joined(found) if found else None, labels[chosen])
        known[chosen] = ~there.conflicts
    return right, known


def _picked(part: Part | None, labels: U64) -> I64:
    """The counts i64[n, 5] of some labels u64[n] among those of a part, 0 for others."""
    counts = np.zeros((len(labels), len(KINDS)), np.int64)
    if part is not None and len(part[0]):
        at = np.minimum(np.searchsorted(part[0], labels), len(part[0]) - 1)
        there = part[0][at] == labels
        counts[there] = part[1][at[there]]
    return counts
