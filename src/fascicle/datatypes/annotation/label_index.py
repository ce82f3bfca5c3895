"""Changing the label index, and telling those who follow what that means for bodies.

Everything that changes it goes through `Reported`: rows that came and went are gathered as points of bodies, lists that
were posted by hand follow (`lists`), and one event tells the followers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from fascicle.datatypes.annotation import events, kind_counts, lists
from fascicle.datatypes.annotation.events import BodiesJoined, PointsChanged, RowsChanged
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
from fascicle.versions.resolution import VersionedView

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

    def points(self) -> events.Points:
        live = self.labels != 0
        return events.Points(self.labels[live], self.kinds[live], self.xyz[live].astype(np.int32))


@dataclass(slots=True)
class Reported:
    """What one change did to the points of bodies, told at its end."""

    change: Change
    wanted: bool
    """Whether anybody needs to know what it means for bodies."""
    followed: bool = False
    """Whether another instance does."""
    lists: bool = False
    """Whether there are posted lists."""
    gone: list[Rows] = field(default_factory=list)
    came: list[Rows] = field(default_factory=list)
    counted: dict[int, list[tuple[U64, U8, I64, int]]] = field(default_factory=dict)
    """By labelmap: supervoxels, kinds and positions of points that came (1) or went (-1)."""

    @classmethod
    def of(cls, change: Change) -> Reported:
        posted, followed = lists.any_posted(change.view), is_followed(change)
        return cls(change, posted or followed, followed, posted)

    def tell(self) -> None:
        """Bring counts and posted lists up to date and tell the followers."""
        if self.wanted and (self.gone or self.came):
            if self.lists:
                gone, came = _joined(self.gone), _joined(self.came)
                lists.follow(self.change.view, gone.labels, gone.xyz, came.labels, came.xyz, came.values)
            self.tell_followers()
        self.count()

    def note(self, labelmap_id: int, supervoxels: U64, kinds: U8, xyz: I64, sign: int) -> None:
        """Rows of supervoxels u64[n] were written or removed."""
        self.counted.setdefault(labelmap_id, []).append((supervoxels, kinds, xyz, sign))

    def count(self) -> tuple[RowsChanged, ...]:
        """Bring the counts of supervoxels up to date; what was noted."""
        noted = []
        for labelmap_id, parts in self.counted.items():
            supervoxels, kinds, xyz = (np.concatenate([part[i] for part in parts]) for i in (0, 1, 2))
            signs = np.concatenate([np.full(len(part[0]), part[3], np.int64) for part in parts])
            if kind_counts.are_kept(self.change.instance):
                kind_counts.of_labelmap(self.change.view, labelmap_id).add(supervoxels, kinds, signs)
            noted.append(RowsChanged(labelmap_id, supervoxels, kinds, xyz, signs))
        self.counted = {}
        return tuple(noted)

    def tell_followers(self) -> None:
        rows = self.count()
        removed, added = _different(_joined(self.gone).points(), _joined(self.came).points())
        self.gone, self.came = [], []
        if self.followed and (rows or len(removed) or len(added)):
            self.change.emit(PointsChanged(removed, added, rows))


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


def _different(removed: events.Points, added: events.Points) -> tuple[events.Points, events.Points]:
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


def _subset(points: events.Points, keep: list[bool]) -> events.Points:
    mask = np.array(keep, np.bool_)
    return events.Points(points.labels[mask], points.kinds[mask], points.positions[mask])


# -- rows


def _mark_labelmap(change: Change, segmentation: Segmentation) -> None:
    if change.instance.properties.get(INDEXED) != segmentation.instance.data_uuid:
        change.update_instance(**{INDEXED: segmentation.instance.data_uuid})


@dataclass(slots=True, eq=False)
class Points:
    """Points to be entered into the rows of supervoxels, with what is there."""

    segmentation: Segmentation
    supervoxels: U64
    """u64[n]; 0 is background: the point is entered nowhere."""
    xyz: I64
    type_keys: list[bytes]
    handles: list[bytes | None]
    torn: set[int]
    """Places of rows of which merged versions say different things."""
    values: Sequence[bytes]

    @classmethod
    def look_up(
        cls, view: VersionedView, segmentation: Segmentation, supervoxels: U64, xyz: I64, values: Sequence[bytes]
    ) -> Points:
        if not supervoxels.all():
            places = np.flatnonzero(supervoxels)
            supervoxels, xyz = supervoxels[places], xyz[places]
            values = [values[i] for i in places.tolist()]
        type_keys = label_keys(segmentation.id, supervoxels, xyz)
        return cls(segmentation, supervoxels, xyz, type_keys, *view.handles_settled(LABELS, type_keys), values)

    def put(self, report: Reported, bodies: U64 | None = None) -> None:
        """Enter the points. Their bodies are looked up if not given."""
        if not self.type_keys:
            return
        change, view = report.change, report.change.view
        _mark_labelmap(change, self.segmentation)
        before = [None if handle is None else value_of(view, handle) for handle in self.handles]
        rows = list(zip(self.type_keys, before, self.values, strict=True))
        written = [(key, value) for i, (key, old, value) in enumerate(rows) if old != value or i in self.torn]
        view.put_many(LABELS, sorted(written))
        self._count(report, before)
        if not report.wanted:
            return
        places = list(range(len(rows)))
        if not report.lists:  # who counts needs to know only of new points, and of those of another kind
            places = [i for i, (_, old, value) in enumerate(rows) if old is None or old[0] != value[0]]
            if not places:
                return
        owners = (self.segmentation.bodies(self.supervoxels) if bodies is None else bodies)[places]
        report.came.append(Rows(owners, self.xyz[places], [self.values[i] for i in places]))
        there = [before[i] is not None for i in places]
        if any(there):
            gone = report.came[-1].chosen(there)
            gone.values = [old for i in places if (old := before[i]) is not None]
            report.gone.append(gone)


    def _count(self, report: Reported, before: Sequence[bytes | None]) -> None:
        """Note the points that are new or of another kind, before and after."""
        new = np.frombuffer(bytes([value[0] for value in self.values]), np.uint8)
        old = np.array([-1 if value is None else value[0] for value in before], np.int16)
        changed = old != new
        if changed.any():
            report.note(self.segmentation.id, self.supervoxels[changed], new[changed], self.xyz[changed], 1)
        changed &= old >= 0
        if changed.any():
            kinds = old[changed].astype(np.uint8)
            report.note(self.segmentation.id, self.supervoxels[changed], kinds, self.xyz[changed], -1)


def put_points(
    report: Reported, segmentation: Segmentation, supervoxels: U64, xyz: I64, values: Sequence[bytes]
) -> None:
    """Enter points at i64[n, 3] into the rows of supervoxels u64[n] (0: of none)."""
    Points.look_up(report.change.view, segmentation, supervoxels, xyz, values).put(report)


def remove_points(
    report: Reported, segmentation: Segmentation, supervoxels: U64, xyz: I64, bodies: U64 | None = None
) -> None:
    """Take points at i64[n, 3] out of the lists of supervoxels u64[n]; those that are not there are passed over."""
    view = report.change.view
    type_keys = label_keys(segmentation.id, supervoxels, xyz)
    handles, _ = view.handles_settled(LABELS, type_keys)
    values: list[bytes] = []
    there: list[int] = []
    for i, (key, handle) in enumerate(zip(type_keys, handles, strict=True)):
        if handle is not None:
            view.delete(LABELS, key)
            values.append(value_of(view, handle))
            there.append(i)
    if there:
        kinds = np.frombuffer(bytes([value[0] for value in values]), np.uint8)
        report.note(segmentation.id, supervoxels[there], kinds, xyz[there], -1)
    if report.wanted and there:
        owners = (segmentation.bodies(supervoxels) if bodies is None else bodies)[there]
        report.gone.append(Rows(owners, xyz[there], values))


def join_bodies(change: Change, target: int, merged: tuple[int, ...]) -> None:
    """Tell that bodies became one; nothing is stored per body."""
    change.emit(BodiesJoined(target, merged))
