"""Splitting supervoxels, and bodies along voxels, by a sparse volume.

The voxels of a split supervoxel become those of two new ones, so blocks change, at every scale. Which and how is
*planned* against a snapshot under the voxel lock, with the ids that the counters will most likely give; in the write
transaction it is planned again if the ids or the blocks turn out to be others. A plan raises BadRequest for
everything that cannot be.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from fascicle.datatypes.base import Answer, Call, Change, Commit, Option, Reply, Route, Work
from fascicle.datatypes.labelmap import block_writes, blocks, bodies, counters
from fascicle.datatypes.labelmap.bodies import Body, Rows, read_body
from fascicle.datatypes.labelmap.events import Split, SupervoxelSplit
from fascicle.datatypes.labelmap.lookups import record_splits
from fascicle.datatypes.labelmap.mapping import add_mappings, mapping_at
from fascicle.datatypes.labelmap.mutations import DRY_RUN, fresh_label, in_use, stamp_of
from fascicle.datatypes.labelmap.queries import rows_of_supervoxel
from fascicle.datatypes.labelmap.replacements import (
    BlockChanges,
    Replacement,
    corner_of,
    replace_in_blocks,
    stored_blocks,
)
from fascicle.datatypes.labelmap.requests import indexed, label_argument, number
from fascicle.datatypes.labelmap.split_runs import RunsByBlock, posted_runs, voxels_of
from fascicle.errors import BadRequest
from fascicle.formats import label_block
from fascicle.formats.block_code import block_xyz
from fascicle.versions.resolution import VersionedView

U64 = NDArray[np.uint64]
Triple = tuple[int, int, int]


# -- ids


def _likely_labels(view: VersionedView, more_than: int = 0) -> Iterator[int]:
    """The ids that `fresh_label` would give, in order, if nothing happens in between."""
    known = counters.repo_counters(view.txn, view.instance_id)
    label = known.next_label or max(known.max_repo_label, more_than)
    while True:
        label += 1
        if label > counters.LAST_LABEL:
            raise BadRequest(f"no new labels are left: {known.last_taken} is in use, {counters.LAST_LABEL} is the last")
        if not in_use(view, label):
            yield label


# -- what both kinds share

PlanT = TypeVar("PlanT", "SupervoxelPlan", "BodyPlan")


def _planned(call: Call, make: Callable[[VersionedView], PlanT], apply: Callable[[Change, PlanT], Any],
             answer: Callable[[Any], Answer]) -> Reply:  # fmt: skip
    """The reply that carries out a plan, or only tells it."""
    if call.flag("dryrun"):
        return Answer.json(make(call.view).as_json())
    lock = blocks.voxel_lock(call.store, call.instance.id)
    lock.acquire()
    try:
        with call.store.read() as txn:
            view = call.view_in(txn)
            mark, plan = blocks.voxel_writes(view), make(view)
    except BaseException:
        lock.release()
        raise

    def change_all(change: Change) -> Any:
        try:
            view = change.view
            return apply(change, plan if plan.still_holds(view, mark) else make(view))
        except BaseException:
            lock.release()
            raise

    def answered(result: Any) -> Answer:
        lock.release()
        return answer(result)

    return Commit(change_all, answered)


def _top_scale(call: Call) -> int:
    if call.query.get("downres") == "false":
        return 0
    return int(call.instance.properties["MaxDownresLevel"])


def _size(call: Call) -> Triple:
    x, y, z = call.instance.properties["BlockSize"]
    return x, y, z


def _blob_of(body: bytes) -> bytes:
    """What is kept of a posted sparse volume: its runs, without the header."""
    count = int.from_bytes(body[8:12], "little")
    return body[12 : 12 + 16 * count]


# -- split-supervoxel


@dataclass(frozen=True, slots=True)
class GivenIds:
    """Ids that a client chose for the new supervoxels; 0 leaves the choice to the counters."""

    split: int = 0
    remain: int = 0

    def check(self, view: VersionedView, supervoxel: int) -> None:
        for label in (self.split, self.remain):
            if label and (label > counters.LAST_LABEL or label == supervoxel or in_use(view, label)):
                raise BadRequest(f"label {label} cannot be given to a new supervoxel: it is in use or reserved")
        if self.split and self.split == self.remain:
            raise BadRequest(f"the two new supervoxels cannot both be {self.split}")

    def likely(self, view: VersionedView, supervoxel: int) -> Replacement:
        more = _likely_labels(view, max(self.split, self.remain))
        split = self.split or next(label for label in more if label != self.remain)
        remain = self.remain or next(label for label in more if label != split)
        return Replacement(supervoxel, split, remain)


@dataclass(slots=True, eq=False)
class SupervoxelPlan:
    """A supervoxel to be replaced by two."""

    body: Body
    given: GivenIds
    replacement: Replacement
    old: Rows
    changes: BlockChanges

    def still_holds(self, view: VersionedView, mark: bytes) -> bool:
        """Whether the plan is right for another state, given the mark of the one it was made for."""
        replacement = self.replacement
        found = rows_of_supervoxel(view, replacement.supervoxel)
        return (
            blocks.voxel_writes(view) == mark
            and found is not None
            and np.array_equal(found[1].block, self.old.block)
            and replacement == self.given.likely(view, replacement.supervoxel)
            and not in_use(view, replacement.split)
            and not in_use(view, replacement.remain)
        )

    @property
    def split_voxels(self) -> int:
        return self.changes.split_voxels[self.replacement.supervoxel]

    def as_json(self) -> dict[str, Any]:
        return {
            "Action": "split-supervoxel",
            "Supervoxel": self.replacement.supervoxel,
            "Body": self.body.label,
            "SplitSupervoxel": self.replacement.split,
            "RemainSupervoxel": self.replacement.remain,
            "SplitSize": self.split_voxels,
            "RemainSize": self.old.voxels - self.split_voxels,
            "Blocks": block_xyz(self.changes.new.codes()).tolist(),
        }


def plan_supervoxel_split(
    view: VersionedView, supervoxel: int, body_bytes: bytes, given: GivenIds, size_xyz: Triple, top_scale: int
) -> SupervoxelPlan:
    """Replacing a supervoxel by two: voxels of a posted sparse volume, and the others."""
    found = rows_of_supervoxel(view, supervoxel)
    if found is None:
        raise BadRequest(f"cannot split supervoxel {supervoxel}, which does not exist")
    body, old = found
    given.check(view, supervoxel)
    runs = RunsByBlock(posted_runs(body_bytes, old.voxels, f"supervoxel {supervoxel}"), size_xyz)
    codes = old.blocks()
    outside = runs.codes[~np.isin(runs.codes, codes)]
    if len(outside):
        block = tuple(block_xyz(outside[:1])[0].tolist())
        raise BadRequest(f"the split volume has voxels in block {block}, where supervoxel {supervoxel} has none")
    replacement = given.likely(view, supervoxel)
    changes = replace_in_blocks(view, size_xyz, [replacement], codes, runs, top_scale)
    if changes.split_voxels[supervoxel] != runs.voxels:
        raise BadRequest(f"the split volume has voxels that are not of supervoxel {supervoxel}, or some of them twice")
    if changes.rows[supervoxel].voxels != old.voxels:
        raise BadRequest(f"the label index and the blocks disagree on the voxels of supervoxel {supervoxel}")
    return SupervoxelPlan(body, given, replacement, old, changes)


def _take(change: Change, wanted: int, given: int) -> None:
    """Take a planned id off the counters; ids given by the client have raised them already."""
    if given:
        return
    while (label := fresh_label(change)) < wanted:
        pass  # One that the client chose for the other supervoxel.
    assert label == wanted, f"planned with id {wanted}, counters gave {label}"


def apply_supervoxel_split(change: Change, plan: SupervoxelPlan, blob: bytes) -> tuple[int, int, int]:
    """Carry out a split planned for this very state; (split, remain, mutation id)."""
    view, replacement, given = change.view, plan.replacement, plan.given
    old, split, remain = replacement.supervoxel, replacement.split, replacement.remain
    found = rows_of_supervoxel(view, old)
    assert found is not None
    label = found[0].label
    mutation_id = change.mutation_id()
    if given.split or given.remain:
        counters.raise_max_label(change, max(given.split, given.remain))
    _take(change, split, given.split)
    _take(change, remain, given.remain)
    block_writes.store_plan(change, plan.changes.levels)
    entries = np.array([old, split, remain], np.uint64)
    add_mappings(view, entries, np.array([0, label, label], np.uint64))
    bodies.replace_supervoxel(view, label, old, plan.changes.rows[old], stamp_of(change, mutation_id))
    record_splits(change, mutation_id, entries[:1], entries[2:], entries[1:2])
    change.record(
        {
            "Action": "split-supervoxel-complete",
            "MutationID": mutation_id,
            "Supervoxel": old,
            "Body": label,
            "SplitSupervoxel": split,
            "RemainSupervoxel": remain,
            "Split": change.put_blob(blob),
            "SplitSize": plan.split_voxels,
            "RemainSize": plan.old.voxels - plan.split_voxels,
        }
    )
    change.emit(SupervoxelSplit(mutation_id, label, old, split, remain, plan.old.blocks()))
    return split, remain, mutation_id


def post_split_supervoxel(call: Call) -> Reply:
    indexed(call)
    supervoxel = label_argument(call, 0, "the supervoxel to split")
    given = GivenIds(
        number(call.query.get("split") or "0", "option 'split'"),
        number(call.query.get("remain") or "0", "option 'remain'"),
    )
    size, top_scale, body = _size(call), _top_scale(call), call.body
    return _planned(
        call,
        lambda view: plan_supervoxel_split(view, supervoxel, body, given, size, top_scale),
        lambda change, plan: apply_supervoxel_split(change, plan, _blob_of(body)),
        lambda done: Answer(
            b'{"SplitSupervoxel": %d, "RemainSupervoxel": %d, "MutationID": %d}' % done, "application/json"
        ),
    )


# -- split


@dataclass(slots=True, eq=False)
class BodyPlan:
    """Voxels that leave a body; every supervoxel that has some of them is replaced by two."""

    body: Body
    new: int
    replacements: list[Replacement]
    old: Rows
    voxels: int
    changes: BlockChanges
    touched: U64 = field(default_factory=lambda: np.empty(0, np.uint64))
    """Blocks in which voxels leave."""

    def still_holds(self, view: VersionedView, mark: bytes) -> bool:
        """Whether the plan is right for another state, given the mark of the one it was made for."""
        if blocks.voxel_writes(view) != mark or read_body(view, self.body.label) is None:
            return False
        ids = [self.new, *(label for r in self.replacements for label in (r.split, r.remain))]
        if any(in_use(view, label) for label in ids):
            return False
        owners = mapping_at(view).bodies(np.array([r.supervoxel for r in self.replacements], np.uint64))
        likely = _likely_labels(view)
        return bool((owners == np.uint64(self.body.label)).all()) and ids == [next(likely) for _ in ids]

    def as_json(self) -> dict[str, Any]:
        return {
            "Action": "split",
            "Target": self.body.label,
            "NewLabel": self.new,
            "SVSplits": self.splits_json(),
            "SplitSize": self.voxels,
            "RemainSize": self.body.voxels - self.voxels,
            "Blocks": block_xyz(self.changes.new.codes()).tolist(),
        }

    def splits_json(self) -> dict[str, dict[str, int]]:
        return {str(r.supervoxel): {"Split": r.split, "Remain": r.remain} for r in self.replacements}


def _supervoxels_under(view: VersionedView, runs: RunsByBlock, size_xyz: Triple) -> tuple[U64, int]:
    """Supervoxels with voxels in the runs, each once, in the order they are met; how many voxels are background."""
    met: dict[int, None] = {}
    present = background = 0
    for code, stored in stored_blocks(view, runs.codes):
        present += 1
        inside = voxels_of(runs.of(code)) - np.array(corner_of(code, size_xyz), np.int64)
        labels = label_block.points(label_block.opened_stored(stored), inside)
        unique, first = np.unique(labels, return_index=True)
        met.update(dict.fromkeys(unique[np.argsort(first)].tolist()))
        background += int((labels == 0).sum())
    if present < len(runs.codes):
        raise BadRequest("the split volume has voxels in blocks that are not stored")
    met.pop(0, None)
    return np.array(list(met), np.uint64), background


def plan_body_split(
    view: VersionedView, label: int, body_bytes: bytes, size_xyz: Triple, top_scale: int
) -> BodyPlan:
    """Moving the voxels of a posted sparse volume from a body to a new one. Voxels of background stay what they are."""
    body = read_body(view, label)
    if body is None:
        raise BadRequest(f"cannot split body {label}, which does not exist")
    runs = RunsByBlock(posted_runs(body_bytes, body.voxels, f"body {label}"), size_xyz)
    touched, background = _supervoxels_under(view, runs, size_xyz)
    if not len(touched):
        raise BadRequest(f"the split volume has no voxels of body {label}")
    owners = mapping_at(view).bodies(touched)
    strangers = touched[owners != np.uint64(label)]
    if len(strangers):
        raise BadRequest(f"the split volume has voxels of supervoxel {strangers[0]}, which is not of body {label}")
    likely = _likely_labels(view)
    new = next(likely)
    replacements = [Replacement(supervoxel, next(likely), next(likely)) for supervoxel in touched.tolist()]
    old = bodies.rows_of_supervoxels(view, body, touched)
    changes = replace_in_blocks(view, size_xyz, replacements, old.blocks(), runs, top_scale)
    wanted = runs.voxels - background
    voxels = sum(changes.split_voxels.values())
    if voxels != wanted:
        raise BadRequest(f"the split volume has voxels that are not of body {label}, or some of them twice")
    if sum(rows.voxels for rows in changes.rows.values()) != old.voxels:
        raise BadRequest(f"the label index and the blocks disagree on the voxels of body {label}")
    return BodyPlan(body, new, replacements, old, voxels, changes, runs.codes)


def apply_body_split(change: Change, plan: BodyPlan, blob: bytes) -> tuple[int, int]:
    """Carry out a split planned for this very state; (label of the new body, mutation id)."""
    view, label = change.view, plan.body.label
    mutation_id = change.mutation_id()
    stamp = stamp_of(change, mutation_id)
    _take(change, plan.new, 0)
    for replacement in plan.replacements:
        _take(change, replacement.split, 0)
        _take(change, replacement.remain, 0)
    columns = np.array([(r.supervoxel, r.split, r.remain) for r in plan.replacements], np.uint64)
    old, split, remain = columns[:, 0], columns[:, 1], columns[:, 2]
    block_writes.store_plan(change, plan.changes.levels)
    leaving = []
    for replacement in plan.replacements:
        rows = plan.changes.rows[replacement.supervoxel]
        staying = rows.only(np.array([replacement.remain], np.uint64))
        bodies.replace_supervoxel(view, label, replacement.supervoxel, staying, stamp)
        leaving.append(rows.only(np.array([replacement.split], np.uint64)))
    # Unlike a cleave, a split leaves the surface mutations of blocks as they are.
    columns_of = [np.concatenate([getattr(rows, name) for rows in leaving]) for name in ("sv", "block", "count")]
    bodies.write_rows(view, plan.new, Rows.of(*columns_of), stamp)
    owners = np.repeat(np.array([0, plan.new, label], np.uint64), len(old))
    add_mappings(view, np.concatenate((old, split, remain)), owners)
    record_splits(change, mutation_id, old, remain, split)
    change.record(
        {
            "Action": "split-complete",
            "MutationID": mutation_id,
            "Target": label,
            "NewLabel": plan.new,
            "Split": change.put_blob(blob),
            "SVSplits": plan.splits_json(),
        }
    )
    change.emit(Split(mutation_id, label, plan.new, old, split, remain, plan.touched))
    return plan.new, mutation_id


def post_split(call: Call) -> Reply:
    if not call.settings.get("allow_labelmap_split"):
        raise BadRequest("Split endpoint deactivated on this server: it needs the setting allowLabelmapSplit")
    indexed(call)
    label = label_argument(call, 0, "the label of a body")
    size, top_scale, body = _size(call), _top_scale(call), call.body
    return _planned(
        call,
        lambda view: plan_body_split(view, label, body, size, top_scale),
        lambda change, plan: apply_body_split(change, plan, _blob_of(body)),
        lambda done: Answer(b'{"label": %d, "MutationID": %d}' % done, "application/json"),
    )


ROUTES = (
    Route(
        "split-supervoxel",
        {"POST": post_split_supervoxel},
        "Replace a supervoxel by two: the voxels of the sparse volume in the request's body, and the others.",
        "<supervoxel>",
        (
            Option("split", "id of the supervoxel that the posted voxels become"),
            Option("remain", "id of the supervoxel that the other voxels become"),
            Option("downres", "false: leave lower resolutions as they are"),
            DRY_RUN,
        ),
        work=Work.HEAVY,
    ),
    Route(
        "split",
        {"POST": post_split},
        "Make the voxels of the sparse volume in the request's body a body of their own, where the server allows it.",
        "<label>",
        (DRY_RUN,),
        work=Work.HEAVY,
    ),
)
