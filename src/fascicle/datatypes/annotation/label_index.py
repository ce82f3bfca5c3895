"""Changing the label index, and telling those who follow what that means for bodies.

Everything that changes it goes through `Reported`: rows that came and went are gathered as points of bodies, lists that
were posted by hand follow (`lists`), and one event tells the followers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from fascicle.datatypes.annotation import lists
from fascicle.datatypes.annotation.events import BodiesJoined, Points, PointsChanged
from fascicle.datatypes.annotation.layout import (
    I64,
    LABELS,
    U8,
    U64,
    label_keys,
    value_of,
)
from fascicle.datatypes.annotation.segmentation import INDEXED, Segmentation, followed_labelmap, segmentation_at
from fascicle.datatypes.base import Change
from fascicle.datatypes.image.block_cache import BlockCache

NO_U64 = np.empty(0, np.uint64)


def is_followed(change: Change) -> bool:
    """Whether another instance hears of changes of this one."""
    uuid = change.instance.data_uuid
    return any(uuid in other.syncs for other in change.catalog.instances(change.instance.repo_id))


def segmentation_of(change: Change, cache: BlockCache | None = None) -> Segmentation | None:
    """The labelmap that the instance follows, in this transaction."""
    return segmentation_at(
        change.txn, change.catalog, followed_labelmap(change.catalog, change.instance), change.node, cache
    )


@dataclass(slots=True, eq=False)
class Rows:
    """Points as the label index has them, with their bodies: one row each."""

    labels: U64
    xyz: I64
    values: list[bytes]
    """As they are stored: the kind's number and the JSON."""

    @property
    def kinds(self) -> U8:
        return np.frombuffer(bytes([value[0] for value in self.values]), np.uint8)

    def chosen(self, keep: Sequence[bool]) -> Rows:
        places = [i for i, kept in enumerate(keep) if kept]
        return Rows(self.labels[places], self.xyz[places], [self.values[i] for i in places])

    def points(self) -> Points:
        live = self.labels != 0
        return Points(self.labels[live], self.kinds[live], self.xyz[live].astype(np.int32))


@dataclass(slots=True)
class Reported:
    """What one change did to the points of bodies, told at its end."""

    change: Change
    wanted: bool
    """Whether anybody needs to know."""
    gone: list[Rows] = field(default_factory=list)
    came: list[Rows] = field(default_factory=list)

    @classmethod
    def of(cls, change: Change) -> Reported:
        return cls(change, is_followed(change) or lists.any_posted(change.view))

    def tell(self) -> None:
        """Bring posted lists up to date and tell the followers."""
        if self.wanted and (self.gone or self.came):
            gone, came = _joined(self.gone), _joined(self.came)
            lists.follow(self.change.view, gone.labels, gone.xyz, came.labels, came.xyz, came.values)
            self.tell_followers()

    def tell_followers(self) -> None:
        removed, added = _different(_joined(self.gone).points(), _joined(self.came).points())
        self.gone, self.came = [], []
        if len(removed) or len(added):
            self.change.emit(PointsChanged(removed, added))


def _joined(parts: list[Rows]) -> Rows:
    if not parts:
        return Rows(NO_U64, np.empty((0, 3), np.int64), [])
    if len(parts) == 1:
        return parts[0]
    return Rows(
        np.concatenate([part.labels for part in parts]),
        np.concatenate([part.xyz for part in parts]),
        [value for part in parts for value in part.values],
    )


def _different(removed: Points, added: Points) -> tuple[Points, Points]:
    """Without the points that went and came back to the same body as the same kind."""
    if not len(removed) or not len(added):
        return removed, added
    before = list(zip(removed.labels.tolist(), removed.kinds.tolist(), map(tuple, removed.positions.tolist()),
                      strict=True))  # fmt: skip
    after = list(zip(added.labels.tolist(), added.kinds.tolist(), map(tuple, added.positions.tolist()), strict=True))
    same = set(before) & set(after)
    if not same:
        return removed, added
    return (
        _subset(removed, [point not in same for point in before]),
        _subset(added, [point not in same for point in after]),
    )


def _subset(points: Points, keep: list[bool]) -> Points:
    mask = np.array(keep, np.bool_)
    return Points(points.labels[mask], points.kinds[mask], points.positions[mask])


# -- rows


def _mark_labelmap(change: Change, segmentation: Segmentation) -> None:
    if change.instance.properties.get(INDEXED) != segmentation.instance.data_uuid:
        change.update_instance(**{INDEXED: segmentation.instance.data_uuid})


def put_points(
    report: Reported,
    segmentation: Segmentation,
    supervoxels: U64,
    xyz: I64,
    values: Sequence[bytes],
    bodies: U64 | None = None,
) -> None:
    """Enter points at i64[n, 3] into the rows of supervoxels u64[n] (0: of none). Bodies are looked up if not given."""
    change = report.change
    if not supervoxels.all():
        places = np.flatnonzero(supervoxels)
        supervoxels, xyz = supervoxels[places], xyz[places]
        values = [values[i] for i in places.tolist()]
        bodies = None if bodies is None else bodies[places]
    if not len(values):
        return
    view = change.view
    _mark_labelmap(change, segmentation)
    type_keys = label_keys(segmentation.id, supervoxels, xyz)
    handles = view.handles(LABELS, type_keys)
    before: list[bytes | None] = []
    put = view.put
    for key, handle, value in zip(type_keys, handles, values, strict=True):
        old = None if handle is None else value_of(view, handle)
        before.append(old)
        if old != value:
            put(LABELS, key, value)
    if report.wanted:
        owners = segmentation.bodies(supervoxels) if bodies is None else bodies
        rows = Rows(owners, xyz, list(values))
        report.came.append(rows)
        there = [old is not None for old in before]
        if any(there):
            gone = rows.chosen(there)
            gone.values = [old for old in before if old is not None]
            report.gone.append(gone)


def remove_points(
    report: Reported, segmentation: Segmentation, supervoxels: U64, xyz: I64, bodies: U64 | None = None
) -> None:
    """Take points at i64[n, 3] out of the lists of supervoxels u64[n]; those that are not there are passed over."""
    view = report.change.view
    type_keys = label_keys(segmentation.id, supervoxels, xyz)
    handles = view.handles(LABELS, type_keys)
    values: list[bytes] = []
    there: list[int] = []
    for i, (key, handle) in enumerate(zip(type_keys, handles, strict=True)):
        if handle is not None:
            view.delete(LABELS, key)
            values.append(value_of(view, handle))
            there.append(i)
    if report.wanted and there:
        owners = (segmentation.bodies(supervoxels) if bodies is None else bodies)[there]
        report.gone.append(Rows(owners, xyz[there], values))


def join_bodies(change: Change, target: int, merged: tuple[int, ...]) -> None:
    """Tell that bodies became one; nothing is stored per body."""
    if is_followed(change):
        change.emit(BodiesJoined(target, merged))
