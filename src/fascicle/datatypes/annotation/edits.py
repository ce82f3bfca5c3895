"""Posting, deleting and moving elements: what changes in the blocks, in the label index and in the tag index."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from fascicle.datatypes.annotation import label_index
from fascicle.datatypes.annotation.elements import (
    Batch,
    Element,
    Relation,
    decode_stored,
    encode_element,
    needle_of,
    tags_of,
)
from fascicle.datatypes.annotation.label_index import Reported, segmentation_of
from fascicle.datatypes.annotation.layout import (
    BLOCK_BYTES,
    ELEMENT_HEAD,
    ELEMENTS,
    EMPTIED,
    TAGS,
    U64,
    Triple,
    block_key,
    element_key,
    element_keys,
    element_value,
    index_value_of,
    position_key,
    position_keys,
    tag_prefix,
    value_of,
)
from fascicle.datatypes.annotation.segmentation import BLOCK_SIZE, Segmentation, block_size_of
from fascicle.datatypes.base import Change
from fascicle.errors import BadRequest
from fascicle.versions import keys
from fascicle.versions.resolution import VersionedView, is_tombstone


def settle_block_size(change: Change) -> Triple:
    """The size of the instance's blocks, which stays what it is from the first element on."""
    size = block_size_of(change.catalog, change.instance)
    if BLOCK_SIZE not in change.instance.properties:
        change.update_instance(**{BLOCK_SIZE: list(size)})
    return size


@dataclass(frozen=True, slots=True, eq=False)
class Located:
    """Supervoxels u64[n] found for positions, and what tells whether they still hold in a later transaction."""

    labelmap_id: int
    version: int
    mark: bytes
    supervoxels: U64

    @classmethod
    def of(cls, segmentation: Segmentation, batch: Batch) -> Located:
        found = segmentation.supervoxels(batch.xyz)
        return cls(segmentation.id, segmentation.view.ancestry.version, segmentation.mark(), found)

    def holds(self, segmentation: Segmentation) -> bool:
        known = (self.labelmap_id, self.version, self.mark)
        return known == (segmentation.id, segmentation.view.ancestry.version, segmentation.mark())


# -- posting


def in_key_order(batch: Batch, size: Triple) -> Batch:
    """The batch in the order in which its rows are stored, which is how they are written fastest."""
    xyz = batch.xyz
    block = np.floor_divide(xyz, np.array(size, np.int64))
    order = np.lexsort((xyz[:, 0], xyz[:, 1], xyz[:, 2], block[:, 0], block[:, 1], block[:, 2]))
    if (order[1:] > order[:-1]).all():
        return batch
    return batch.ordered(order.tolist())


def post_elements(change: Change, batch: Batch, located: Located | None) -> None:
    """Store elements; one that is there already is replaced as a whole."""
    if not len(batch):
        return
    size = settle_block_size(change)
    view = change.view
    type_keys = element_keys(batch.xyz, size)
    # All looking up comes before all writing, which makes looking up dearer.
    handles, torn = view.handles_settled(ELEMENTS, type_keys)
    points: label_index.Points | None = None
    segmentation = segmentation_of(change)
    if segmentation is not None:
        if located is not None and located.holds(segmentation):
            supervoxels = located.supervoxels
        else:
            supervoxels = segmentation.supervoxels(batch.xyz)
        points = label_index.Points.look_up(view, segmentation, supervoxels, batch.xyz, batch.index_values)
    rows: list[tuple[bytes, bytes]] = []
    gone: dict[int, list[str]] = {}
    for i, (key, handle, value) in enumerate(zip(type_keys, handles, batch.values, strict=True)):
        if handle is not None:
            old = value_of(view, handle)
            if old == value and i not in torn:
                continue
            tags = tags_of(old[ELEMENT_HEAD:]) if i not in torn else _all_tags(view, key)
            if tags:
                gone[i] = tags
        rows.append((key, value))
    view.put_many(ELEMENTS, rows)
    for i in gone.keys() | batch.tags.keys():
        change_tags(view, type_keys[i][BLOCK_BYTES:], gone.get(i, ()), batch.tags.get(i, ()), batch.index_values[i])
    if points is not None:
        report = Reported.of(change)
        points.put(report)
        report.tell()


def _all_tags(view: VersionedView, type_key: bytes) -> list[str]:
    """Tags of an element as any version has it."""
    first = keys.prefix(view.instance_id, ELEMENTS) + type_key
    stored = view.txn.scan_handles(first, keys.after(first))
    values = [value_of(view, handle) for _, handle in stored if not is_tombstone(handle)]
    return list(dict.fromkeys(tag for value in values for tag in tags_of(value[ELEMENT_HEAD:])))


def change_tags(view: VersionedView, place: bytes, old: Iterable[str], new: Iterable[str], value: bytes) -> None:
    """Bring the tag index up to date for the element at a position (as in keys)."""
    wanted = set(new)
    for tag in old:
        if tag not in wanted:
            view.delete(TAGS, tag_prefix(tag) + place)
    for tag in wanted:
        view.put(TAGS, tag_prefix(tag) + place, value)


# -- blocks as they are


def rows_of_block(view: VersionedView, block: bytes) -> list[tuple[bytes, bytes]]:
    """(key, handle) of the elements stored under a block's key."""
    return [row for batch in view.scan_batches(ELEMENTS, block, keys.after(block)) for row in batch]


def _remove_element(view: VersionedView, type_key: bytes) -> None:
    """Take an element out of its block, which stays listed when it is the last one."""
    view.delete(ELEMENTS, type_key)
    block = type_key[:BLOCK_BYTES]
    if next(view.scan(ELEMENTS, block, keys.after(block)), None) is None:
        view.put(EMPTIED, block, b"")


def post_blocks(change: Change, given: Mapping[Triple, Batch]) -> None:
    """Replace the lists of blocks. The indexes are left as they are until a reload."""
    if not given:
        return
    settle_block_size(change)
    view = change.view
    for block_xyz, batch in given.items():
        block = block_key(*block_xyz)
        old = dict(rows_of_block(view, block))
        for place, value in zip(position_keys(batch.xyz), batch.values, strict=True):
            key = block + place
            handle = old.pop(key, None)
            if handle is None or value_of(view, handle) != value:
                view.put(ELEMENTS, key, value)
        for key in old:
            view.delete(ELEMENTS, key)
        if not len(batch):
            view.put(EMPTIED, block, b"")


# -- relations


def _change_relations(view: VersionedView, block: bytes, position: Triple, moved_to: Triple | None) -> None:
    """In the elements of a block, let relations to a position go, or point somewhere else."""
    needle = needle_of(position)
    for key, handle in rows_of_block(view, block):
        value = value_of(view, handle)
        if needle not in value:
            continue
        element = decode_stored(value[ELEMENT_HEAD:])
        view.put(ELEMENTS, key, element_value(*encode_element(_redirected(element, position, moved_to))))


def _redirected(element: Element, position: Triple, moved_to: Triple | None) -> Element:
    relations = element.Rels or []
    if moved_to is None:
        element.Rels = [relation for relation in relations if relation.To != position]
    else:
        element.Rels = [Relation(r.Rel, moved_to) if r.To == position else r for r in relations]
    return element


def _related_blocks(element: Element, own: bytes, size: Triple) -> Iterator[bytes]:
    """The block of an element and those of what it has relations to, each once."""
    found = {own: None}
    for relation in element.Rels or ():
        found[element_key(relation.To, size)[:BLOCK_BYTES]] = None
    return iter(found)


def _stored(change: Change, position: Triple, size: Triple, what: str) -> tuple[bytes, bytes]:
    """(key, value) of the element at a position. Raises BadRequest if there is none."""
    key = element_key(position, size)
    handle = change.view.handle(ELEMENTS, key)
    if handle is None:
        x, y, z = position
        raise BadRequest(f"Did not find {what} ({x},{y},{z}) in datastore")
    return key, value_of(change.view, handle)


# -- deleting and moving


def delete_element(change: Change, position: Triple) -> None:
    """Remove an element, and the relations to it from its block and from the blocks of its partners."""
    size = block_size_of(change.catalog, change.instance)
    view = change.view
    key, value = _stored(change, position, size, "element")
    element = decode_stored(value[ELEMENT_HEAD:])
    _remove_element(view, key)
    change_tags(view, position_key(*position), element.Tags or (), (), b"")
    for block in _related_blocks(element, key[:BLOCK_BYTES], size):
        _change_relations(view, block, position, None)
    segmentation = segmentation_of(change)
    if segmentation is not None:
        report = Reported.of(change)
        xyz = np.array([position], np.int64)
        label_index.remove_points(report, segmentation, segmentation.supervoxels(xyz), xyz)
        report.tell()


def move_element(change: Change, position: Triple, target: Triple) -> None:
    """Give an element another position; relations to it in its block and in those of its partners follow.

    Its relations to itself follow wherever it goes. An element that is at the new position is replaced.
    """
    size = block_size_of(change.catalog, change.instance)
    view = change.view
    key, value = _stored(change, position, size, "moved element")
    if position == target:
        return
    element = decode_stored(value[ELEMENT_HEAD:])
    new_key = element_key(target, size)
    replaced = view.handle(ELEMENTS, new_key)
    replaced_tags = [] if replaced is None else tags_of(value_of(view, replaced)[ELEMENT_HEAD:])
    related = list(_related_blocks(element, key[:BLOCK_BYTES], size))
    _redirected(element, position, target)
    element.Pos = target
    new_value = element_value(*encode_element(element))
    _remove_element(view, key)
    view.put(ELEMENTS, new_key, new_value)
    for block in related:
        _change_relations(view, block, position, target)
    tags: list[Any] = element.Tags or []
    change_tags(view, position_key(*position), tags, (), b"")
    change_tags(view, position_key(*target), replaced_tags, tags, index_value_of(new_value))
    segmentation = segmentation_of(change)
    if segmentation is not None:
        report = Reported.of(change)
        places = np.array([position, target], np.int64)
        supervoxels = segmentation.supervoxels(places)
        label_index.remove_points(report, segmentation, supervoxels[:1], places[:1])
        label_index.put_points(report, segmentation, supervoxels[1:], places[1:], [index_value_of(new_value)])
        report.tell()
