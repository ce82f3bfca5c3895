"""All points of the label index, for those who count them."""

from __future__ import annotations

from collections.abc import Iterator

from fascicle.datatypes.annotation.events import Points
from fascicle.datatypes.annotation.layout import (
    LABELS,
    kinds_of,
    label_prefix,
    positions_of,
    supervoxels_of,
)
from fascicle.datatypes.annotation.segmentation import indexed_labelmap, segmentation_at, view_of
from fascicle.store.base import ReadTransaction
from fascicle.versions import keys
from fascicle.versions.catalog import Catalog
from fascicle.versions.model import Instance, Node


def counted_points(txn: ReadTransaction, catalog: Catalog, annotation: Instance, node: Node) -> Iterator[Points]:
    """Every point that belongs to a body in the label index of an annotation instance, as seen at a version.

    Pieces have up to about a thousand points, in no order that means anything.
    """
    view = view_of(txn, catalog, annotation, node)
    segmentation = segmentation_at(txn, catalog, indexed_labelmap(catalog, annotation), node)
    if segmentation is None:
        return
    start = label_prefix(segmentation.id, 0)
    for batch in view.scan_batches(LABELS, start, keys.after(start[:4])):
        if not batch:
            continue
        type_keys = [key for key, _ in batch]
        labels = segmentation.bodies(supervoxels_of(type_keys))
        kinds = kinds_of(view, [handle for _, handle in batch])
        xyz = positions_of(type_keys)
        live = labels != 0
        if live.any():
            yield Points(labels[live], kinds[live], xyz[live].astype("i4"))
