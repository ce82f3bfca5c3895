"""What changes in the label index when the labelmap changes, in the same transaction.

Label rows belong to supervoxels, so merging, cleaving and renumbering bodies touches none of them: followers are told,
and lists that were posted by hand are joined and divided. Rows move where voxels were written and where supervoxels
were split.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from fascicle.datatypes.annotation import kind_counts, lists, reading
from fascicle.datatypes.annotation.events import Points, PointsChanged, PointsReassigned
from fascicle.datatypes.annotation.label_index import (
    Reported,
    is_followed,
    join_bodies,
    put_points,
    remove_points,
    segmentation_of,
)
from fascicle.datatypes.annotation.layout import (
    ELEMENTS,
    I64,
    LABELS,
    U8,
    U64,
    block_of,
    index_value_of,
    kinds_of,
    label_prefix,
    positions_of,
    supervoxels_of,
    value_of,
)
from fascicle.datatypes.annotation.reading import Box, rows_in_blocks, rows_in_box
from fascicle.datatypes.annotation.segmentation import Segmentation, block_size_of, rows_of_supervoxels
from fascicle.datatypes.base import Change
from fascicle.datatypes.labelmap import blocks as label_blocks
from fascicle.datatypes.labelmap.events import BlockChange, Cleave, Merge, Remapped, Renumber, Split, SupervoxelSplit
from fascicle.formats import label_block
from fascicle.formats.block_code import block_xyz
from fascicle.versions import keys
from fascicle.versions.model import Instance
from fascicle.versions.resolution import VersionedView


def follow(change: Change, publisher: Instance, event: Any) -> None:
    """Bring the label index of `change.instance` up to date with an event of a labelmap that it is synced with."""
    segmentation = segmentation_of(change)
    if segmentation is None or segmentation.id != publisher.id:
        return  # The index goes by the first labelmap; others that are synced as well do not matter to it.
    if isinstance(event, Merge):
        _join(change, segmentation, event.target, event.merged, event)
    elif isinstance(event, Renumber):
        _join(change, segmentation, event.new, (event.old,), event)
    elif isinstance(event, Cleave):
        _cleave(change, segmentation, event)
    elif isinstance(event, Remapped):
        _remap(change, segmentation, event)
    elif isinstance(event, BlockChange):
        _write_blocks(change, segmentation, event)
    elif isinstance(event, SupervoxelSplit):
        retired = np.array([event.supervoxel], np.uint64)
        _split(change, segmentation, retired, event.body)
    elif isinstance(event, Split):
        _split(change, segmentation, event.supervoxels, event.target)


# -- bodies


def _join(
    change: Change, segmentation: Segmentation, target: int, merged: tuple[int, ...], event: Merge | Renumber
) -> None:
    view, moved = change.view, event.supervoxels
    if lists.any_posted(view):
        owned = segmentation.supervoxels_of(target)
        before = owned[~np.isin(owned, moved)]

        def listed(label: int) -> bytes:
            # What the index says of the target without the others, and of all others together.
            chosen = before if label == target else moved if label == merged[0] else moved[:0]
            rows = rows_of_supervoxels(view, segmentation.id, chosen)
            return b"".join(reading.listed(view, rows, "", (1, 1, 1)))

        lists.join(view, target, merged, listed)
    if not is_followed(change):
        return
    join_bodies(change, target, merged)
    # Supervoxels that are mapped otherwise than the index of bodies has it (mappings may be posted by themselves).
    owners = event.bodies_before(moved)
    strange = ~np.isin(owners, np.array(merged, np.uint64))
    _reassign(change, segmentation, moved[strange], owners[strange], np.full(int(strange.sum()), target, np.uint64))
    for label in merged:
        left = segmentation.supervoxels_of(label)
        before, after = (np.full(len(left), body, np.uint64) for body in (target, label))
        _reassign(change, segmentation, left, before, after)


def _cleave(change: Change, segmentation: Segmentation, event: Cleave) -> None:
    view = change.view
    leaving = np.sort(event.supervoxels)
    if lists.any_posted(view):
        lists.divide(view, event.target, event.cleaved, partial(_inside, segmentation, leaving))
    if not is_followed(change):
        return
    after = np.full(len(leaving), event.cleaved, np.uint64)
    _reassign(change, segmentation, leaving, event.bodies_before(leaving), after)


def _counted(view: VersionedView, segmentation: Segmentation, supervoxels: U64) -> tuple[U64, U8, I64]:
    """Supervoxels u64[n], kinds u8[n] and positions i64[n, 3] of the points in supervoxels (ascending)."""
    type_keys: list[bytes] = []
    handles: list[bytes] = []
    for batch in rows_of_supervoxels(view.settling(), segmentation.id, supervoxels):
        type_keys += [key for key, _ in batch]
        handles += [handle for _, handle in batch]
    return supervoxels_of(type_keys), kinds_of(view, handles), positions_of(type_keys)


def _reassign(change: Change, segmentation: Segmentation, supervoxels: U64, before: U64, after: U64) -> None:
    """Tell the followers that supervoxels (ascending) are of other bodies now."""
    if not len(supervoxels):
        return
    view = change.view

    def points() -> PointsChanged:
        found, kinds, xyz = _counted(view, segmentation, supervoxels)
        at = np.searchsorted(supervoxels, found)
        positions = xyz.astype(np.int32)
        gone, came = (Points(of[of != 0], kinds[of != 0], positions[of != 0]) for of in (before[at], after[at]))
        return PointsChanged(gone, came)

    if not kind_counts.are_kept(change.instance):
        changed = points()
        if len(changed.removed) or len(changed.added):
            change.emit(changed)
        return
    counts = kind_counts.of_labelmap(view, segmentation.id).read(supervoxels)
    some = counts.any(axis=1)
    if some.any():
        event = PointsReassigned(before[some], after[some], segmentation.id, supervoxels[some], counts[some], points)
        change.emit(event)


def _remap(change: Change, segmentation: Segmentation, event: Remapped) -> None:
    if not is_followed(change):
        return
    _reassign(change, segmentation, event.supervoxels, event.before, event.after)


def _inside(segmentation: Segmentation, supervoxels: U64, places: lists.Places) -> list[bool]:
    found = segmentation.supervoxels(np.array(places, np.int64))
    return np.isin(found, supervoxels).tolist()  # type: ignore[no-any-return]


# -- supervoxels


def _split(change: Change, segmentation: Segmentation, retired: U64, body: int) -> None:
    """Rows of retired supervoxels of a body go where their voxels went."""
    view = change.view
    report = Reported.of(change)
    for supervoxel in retired.tolist():
        first = label_prefix(segmentation.id, supervoxel)
        rows = [row for batch in view.scan_batches(LABELS, first, keys.after(first)) for row in batch]
        if not rows:
            continue
        xyz = positions_of([key for key, _ in rows])
        values = [value_of(view, handle) for _, handle in rows]
        old = np.full(len(rows), supervoxel, np.uint64)
        remove_points(report, segmentation, old, xyz, np.full(len(rows), body, np.uint64))
        put_points(report, segmentation, segmentation.supervoxels(xyz), xyz, values)
    report.tell()


# -- voxels


def _write_blocks(change: Change, segmentation: Segmentation, event: BlockChange) -> None:
    view = change.view
    if next(view.scan(ELEMENTS), None) is None:
        return
    size = block_size_of(change.catalog, change.instance)
    label_size = segmentation.block_size
    report = Reported.of(change)
    for i, place in enumerate(block_xyz(event.blocks).tolist()):
        x, y, z = place
        if size == label_size:
            found = rows_in_blocks(view, Box((x, y, z), (x, y, z)))
        else:
            low = (x * label_size[0], y * label_size[1], z * label_size[2])
            found = rows_in_box(view, Box.of(label_size, low), size)
        rows = [row for batch in found for row in batch]
        if not rows:
            continue
        type_keys = [key for key, _ in rows]
        xyz = positions_of(type_keys)
        inside = (block_of(xyz, label_size) == place).all(axis=1)
        if not inside.all():  # elements that were posted into a block that they do not lie in
            rows = [row for row, kept in zip(rows, inside.tolist(), strict=True) if kept]
            xyz = xyz[inside]
            if not rows:
                continue
        values = [index_value_of(value_of(view, handle)) for _, handle in rows]
        local = xyz - np.array(place, np.int64) * np.array(label_size, np.int64)
        new = label_block.points(label_block.opened_stored(event.stored[i]), local)
        old = _previous(segmentation, event.previous[i], local)
        changed = old != new
        if changed.any():
            remove_points(report, segmentation, old[changed], xyz[changed])
        put_points(report, segmentation, new, xyz, values)
    report.tell()


def _previous(segmentation: Segmentation, handle: bytes | None, local: I64) -> U64:
    if handle is None:
        return np.zeros(len(local), np.uint64)
    (block,) = label_blocks.open_blocks(segmentation.view, [handle])
    return label_block.points(block, local)
