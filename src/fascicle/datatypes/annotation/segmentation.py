"""The labelmap that an annotation instance follows, at the version of a request."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fascicle.datatypes.annotation.layout import (
    DEFAULT_BLOCK_SIZE,
    I64,
    LABELS,
    U64,
    Triple,
    label_prefix,
    numbers_after,
)
from fascicle.datatypes.image.block_cache import BlockCache
from fascicle.versions import keys
from fascicle.versions.catalog import Catalog
from fascicle.versions.model import Instance, Node
from fascicle.versions.resolution import VersionedView

if TYPE_CHECKING:
    from fascicle.store.base import ReadTransaction

LABELMAP = "labelmap"
INDEXED = "IndexedLabelmap"
"""Property of an instance: the data UUID of the labelmap by which its label index was last written."""
BLOCK_SIZE = "BlockSize"
"""Property of an instance: x, y, z of the blocks that its elements lie in, once there are any."""

FEW = 300
"""Up to this many supervoxels are looked up one after the other."""


def view_of(txn: ReadTransaction, catalog: Catalog, instance: Instance, node: Node) -> VersionedView:
    """The rows of an instance as a request at `node` sees them."""
    version = node.id if instance.versioned else catalog.repo(node.repo_id).root_version
    return VersionedView(txn, instance.id, catalog.ancestry(version))


def followed_labelmap(catalog: Catalog, annotation: Instance) -> Instance | None:
    """The first labelmap that an instance is synced with."""
    for data_uuid in annotation.syncs:
        found = catalog.instance_by_data_uuid(data_uuid)
        if found is not None and found.typename == LABELMAP:
            return found
    return None


def indexed_labelmap(catalog: Catalog, annotation: Instance) -> Instance | None:
    """The labelmap to read the label index by: the one followed, or the last one that was."""
    found = followed_labelmap(catalog, annotation)
    if found is None and INDEXED in annotation.properties:
        found = catalog.instance_by_data_uuid(annotation.properties[INDEXED])
    return found


def block_size_of(catalog: Catalog, annotation: Instance) -> Triple:
    """x, y, z of the blocks of an instance: of its first element's time, else those of the labelmap."""
    size = annotation.properties.get(BLOCK_SIZE)
    if size is None:
        labelmap = followed_labelmap(catalog, annotation)
        size = DEFAULT_BLOCK_SIZE if labelmap is None else labelmap.properties["BlockSize"]
    x, y, z = size
    return x, y, z


@dataclass(frozen=True, slots=True)
class Segmentation:
    """A labelmap at a version. Its voxels, its mapping and its index are read by it."""

    instance: Instance
    view: VersionedView
    cache: BlockCache | None = None

    @property
    def id(self) -> int:
        return self.instance.id

    @property
    def block_size(self) -> Triple:
        x, y, z = self.instance.properties["BlockSize"]
        return x, y, z

    def mark(self) -> bytes:
        """Changes whenever voxels are written."""
        from fascicle.datatypes.labelmap import blocks

        return blocks.voxel_writes(self.view)

    def supervoxels(self, xyz: I64) -> U64:
        """Supervoxels u64[n] at voxels i64[n, 3]."""
        from fascicle.datatypes.labelmap.points import supervoxels_at

        return supervoxels_at(self.view, 0, xyz, self.block_size, self.cache)

    def bodies(self, supervoxels: U64) -> U64:
        """Bodies u64[n] of supervoxels u64[n], 0 for background and for those that are retired."""
        from fascicle.datatypes.labelmap.mapping import mapping_at

        return mapping_at(self.view).bodies(supervoxels)

    def mapped_at(self, versions: Iterable[int]) -> U64:
        """Supervoxels u64[n], ascending, whose bodies were entered at some versions."""
        from fascicle.datatypes.labelmap.mapping import supervoxels_mapped

        return supervoxels_mapped(self.view, versions)

    def forget_mapping(self) -> None:
        """Let nobody use what has been looked up of bodies: the version may never come to be."""
        from fascicle.datatypes.labelmap.mapping import forget

        forget(self.view.instance_id, self.view.ancestry.version)

    def supervoxels_of(self, label: int) -> U64:
        """Supervoxels u64[n], ascending, that a body may have points in: those that are mapped to it.

        The index of bodies is not asked. It lacks what was mapped without one, and may be in conflict where versions
        were merged.
        """
        from fascicle.datatypes.labelmap.mapping import mapping_at

        mapping = mapping_at(self.view)
        found = mapping.supervoxels_of(label)
        own = np.uint64(label)
        if mapping.body(label)[0] == label:
            at = int(np.searchsorted(found, own))
            if at == len(found) or found[at] != own:
                found = np.insert(found, at, own)
        return found

    def rows_of_body(self, annotation: VersionedView, label: int) -> Iterator[list[tuple[bytes, bytes]]]:
        """(key, handle) of the label rows of a body in lists, ascending."""
        yield from rows_of_supervoxels(annotation, self.id, self.supervoxels_of(label))

    def handles_of_body(self, annotation: VersionedView, label: int) -> Iterator[list[bytes]]:
        """Only the handles, which is cheaper."""
        supervoxels = self.supervoxels_of(label)
        if len(supervoxels) > FEW:
            for batch in rows_of_supervoxels(annotation, self.id, supervoxels):
                yield [handle for _, handle in batch]
            return
        for supervoxel in supervoxels.tolist():
            first = label_prefix(self.id, supervoxel)
            yield from annotation.scan_handles(LABELS, first, keys.after(first))


def rows_of_supervoxels(
    annotation: VersionedView, labelmap_id: int, supervoxels: U64
) -> Iterator[list[tuple[bytes, bytes]]]:
    """(key, handle) of the label rows of supervoxels (ascending) in lists, ascending."""
    return rows_under(annotation, LABELS, labelmap_id.to_bytes(4, "big"), supervoxels)


def rows_under(
    view: VersionedView, key_class: int, head: bytes, supervoxels: U64
) -> Iterator[list[tuple[bytes, bytes]]]:
    """(key, handle) of all rows whose keys begin with `head` and one of the supervoxels (ascending), in lists.

    Few supervoxels are looked up each. Of many, rows are read on as long as many of them are wanted, and the next
    wanted one is looked up where they are not: whichever is rarer, rows or supervoxels, bounds the work.
    """
    if len(supervoxels) <= FEW:
        for supervoxel in supervoxels.tolist():
            first = head + supervoxel.to_bytes(8, "big")
            yield from view.scan_batches(key_class, first, keys.after(first))
        return
    stop = keys.after(head + int(supervoxels[-1]).to_bytes(8, "big"))
    at = 0
    while at < len(supervoxels):
        start = head + int(supervoxels[at]).to_bytes(8, "big")
        at = len(supervoxels)
        for batch in view.scan_batches(key_class, start, stop):
            if not batch:
                continue
            found = numbers_after(len(head), [key for key, _ in batch])
            places = np.searchsorted(supervoxels, found)
            wanted = supervoxels[np.minimum(places, len(supervoxels) - 1)] == found
            hits = int(wanted.sum())
            if hits == len(batch):
                yield batch
            elif hits:
                yield [row for row, hit in zip(batch, wanted.tolist(), strict=True) if hit]
            if 4 * hits < len(batch) and not wanted[-1]:
                at = int(places[-1])
                break


def segmentation_at(
    txn: ReadTransaction, catalog: Catalog, labelmap: Instance | None, node: Node, cache: BlockCache | None = None
) -> Segmentation | None:
    """A labelmap as seen at `node`, or None if there is none."""
    if labelmap is None:
        return None
    return Segmentation(labelmap, view_of(txn, catalog, labelmap, node), cache)
