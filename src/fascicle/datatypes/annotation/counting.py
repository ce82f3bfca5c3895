"""All points of the label index, for those who count them."""

from __future__ import annotations

from collections.abc import Iterator

from fascicle.datatypes.annotation.events import Points
from fascicle.datatypes.annotation.layout import (
    I64,
    LABELS,
    U8,
    U64,
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
from fascicle.versions.resolution import VersionedView


def counted_points(txn: ReadTransaction, catalog: Catalog, annotation: Instance, node: Node) -> Iterator[Points]:
    """Every point that belongs to a body in the label index of an annotation instance, as seen at a version.

    Pieces have up to about a thousand points, in no order that means anything.
    """
    segmentation = segmentation_at(txn, catalog, indexed_labelmap(catalog, annotation), node)
    if segmentation is None:
        return
    view = view_of(txn, catalog, annotation, node)
    for supervoxels, kinds, xyz in indexed_points(view, segmentation.id):
        labels = segmentation.bodies(supervoxels)
        live = labels != 0
        if live.any():
            yield Points(labels[live], kinds[live], xyz[live].astype("i4"))


def indexed_points(view: VersionedView, labelmap_id: int) -> Iterator[tuple[U64, U8, I64]]:
    """Supervoxels u64[n], kinds u8[n] and positions i64[n, 3] of all label rows, in pieces, supervoxels ascending.

    Rows of which merged versions say different things are points, too: as the first parent has them.
    """
    view = view.settling()
    start = label_prefix(labelmap_id, 0)
    for batch in view.scan_batches(LABELS, start, keys.after(start[:4])):
        if batch:
            type_keys = [key for key, _ in batch]
            yield supervoxels_of(type_keys), kinds_of(view, [handle for _, handle in batch]), positions_of(type_keys)
