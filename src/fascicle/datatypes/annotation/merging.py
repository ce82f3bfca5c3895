"""The label index of a version that was made of several parents, where these changed it.

One branch may have moved a point, split the supervoxel that another one put a point into, or painted over it: rows that
were right on either side need not be right together. So the elements and the voxels of the merged version are looked at
wherever a branch changed a row. Elements that are in conflict themselves stay as they are, rows included.
"""

from __future__ import annotations

from collections.abc import Set

import numpy as np

from fascicle.datatypes.annotation import kind_counts
from fascicle.datatypes.annotation.label_index import (
    Reported,
    is_followed,
    put_points,
    remove_points,
    segmentation_of,
)
from fascicle.datatypes.annotation.layout import (
    ELEMENTS,
    I64,
    LABELS,
    U64,
    element_keys,
    index_value_of,
    label_prefix,
    positions_of,
    value_of,
)
from fascicle.datatypes.annotation.segmentation import Segmentation, block_size_of
from fascicle.datatypes.base import Change
from fascicle.errors import ConflictError
from fascicle.versions import keys
from fascicle.versions.resolution import VersionedView

Bools = np.ndarray[tuple[int], np.dtype[np.bool_]]


def settle(change: Change, apart: Set[int]) -> None:
    """Make the rows anew that versions on some of the ways to the change's version wrote, and count them."""
    segmentation = segmentation_of(change)
    if segmentation is None or not kind_counts.are_kept(change.instance):
        return
    try:
        counts = kind_counts.of_labelmap(change.view, segmentation.id)
        supervoxels = counts.written(apart)
        if len(supervoxels):
            _settle_rows(change, segmentation, *_rows_written(change.view, segmentation.id, supervoxels, apart))
            counts.settle(supervoxels)
    finally:
        segmentation.forget_mapping()


def _rows_written(view: VersionedView, labelmap_id: int, supervoxels: U64, apart: Set[int]) -> tuple[U64, I64]:
    """Supervoxels u64[n] and positions i64[n, 3] of rows that some versions wrote or removed, each once."""
    class_prefix = keys.prefix(view.instance_id, LABELS)
    owners: list[int] = []
    type_keys: list[bytes] = []
    for supervoxel in supervoxels.tolist():
        prefix = class_prefix + label_prefix(labelmap_id, supervoxel)
        stored = view.txn.scan_keys(prefix, keys.after(prefix))
        found = dict.fromkeys(key[: -keys.VERSION_BYTES] for key in stored if keys.version_of(key) in apart)
        owners += [supervoxel] * len(found)
        type_keys += found
    return np.array(owners, np.uint64), positions_of(type_keys)


def _settle_rows(change: Change, segmentation: Segmentation, supervoxels: U64, xyz: I64) -> None:
    view = change.view
    places, row_places = np.unique(xyz, axis=0, return_inverse=True)
    row_places = row_places.reshape(-1)
    handles, torn = view.handles_apart(ELEMENTS, element_keys(places, block_size_of(change.catalog, change.instance)))
    voxels, known = _voxels(segmentation, places)
    known[list(torn)] = False
    live = known & np.array([handle is not None for handle in handles], np.bool_)
    wanted = np.where(live, voxels, np.uint64(0))
    # Followers are told of rows only: what bodies have they derive themselves from the supervoxels of all branches.
    report = Reported(change, wanted=False, followed=is_followed(change))
    stale = known[row_places] & (wanted[row_places] != supervoxels)
    if stale.any():
        remove_points(report, segmentation, supervoxels[stale], xyz[stale])
    values = [index_value_of(value_of(view, handle)) for handle, kept in zip(handles, live.tolist(), strict=True)
              if handle is not None and kept]  # fmt: skip
    put_points(report, segmentation, wanted[live], places[live], values)
    report.tell_followers()


def _voxels(segmentation: Segmentation, places: I64) -> tuple[U64, Bools]:
    """Supervoxels u64[n] at voxels i64[n, 3]; bool[n] where they are known: not in blocks that are in conflict."""
    known = np.ones(len(places), np.bool_)
    try:
        return segmentation.supervoxels(places), known
    except ConflictError:
        pass
    found = np.zeros(len(places), np.uint64)
    blocks = np.floor_divide(places, np.array(segmentation.block_size, np.int64))
    _, block = np.unique(blocks, axis=0, return_inverse=True)
    block = block.reshape(-1)
    for number in range(int(block.max()) + 1):
        inside = block == number
        try:
            found[inside] = segmentation.supervoxels(places[inside])
        except ConflictError:
            known[inside] = False
    return found, known
