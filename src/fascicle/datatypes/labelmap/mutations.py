"""Merging, cleaving and renumbering bodies.

Each kind of edit has a *plan*: what it would do, found by reading only. A plan raises BadRequest for everything that
cannot be, so applying it cannot fail half way. Both happen inside of the write transaction, against the state that
the edit changes: edits at the same time cannot lose each other's work. With `dryrun=true` only the plan is made and
answered.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fascicle.datatypes.base import Answer, Call, Change, Commit, Option, Reply, Route
from fascicle.datatypes.labelmap import bodies, counters
from fascicle.datatypes.labelmap.bodies import Body, Stamp, read_body, read_rows
from fascicle.datatypes.labelmap.events import Cleave, Lookup, Merge, Renumber
from fascicle.datatypes.labelmap.index_rows import ascending
from fascicle.datatypes.labelmap.mapping import add_mappings, mapping_at
from fascicle.datatypes.labelmap.requests import id_array, id_list, indexed, label_argument
from fascicle.errors import BadRequest
from fascicle.versions.resolution import VersionedView
from fascicle.versions.times import rfc3339_seconds

U64 = NDArray[np.uint64]

MOST_SKIPPED_IDS = 100_000
"""How many ids that are in use already a search for a free one passes over."""

DRY_RUN = Option("dryrun", "true: change nothing and answer with what would be done, as JSON")


# -- what all edits share


def stamp_of(change: Change, mutation_id: int) -> Stamp:
    """What an edit leaves on the bodies it changes."""
    return Stamp(mutation_id, rfc3339_seconds(change.time_ns), change.user, change.app)


def in_use(view: VersionedView, label: int) -> bool:
    """Whether an id is a body, a supervoxel or a retired one at this version."""
    return mapping_at(view).body(label)[1] or read_body(view, label) is not None


def fresh_label(change: Change) -> int:
    """A new id that nothing bears at this version.

    Ids come from counters, and those do not know of supervoxels that were ingested past them, or of ids that were in
    use above a NextLabel that was set by hand.
    """
    view = change.view
    for _ in range(MOST_SKIPPED_IDS):
        label = counters.allocate(change)
        if not in_use(view, label):
            return label
    raise BadRequest(f"more than {MOST_SKIPPED_IDS} of the next label ids are in use: set-nextlabel past them")


def _existing(view: VersionedView, label: int, what: str) -> Body:
    body = read_body(view, label) if label else None
    if body is None:
        raise BadRequest(f"can't {what} non-existent label {label}")
    return body


# -- merge


@dataclass(frozen=True, slots=True, eq=False)
class MergePlan:
    """Bodies to be joined into one; `supervoxels` u64[n] are those that change their body, ascending."""

    target: Body
    merged: tuple[Body, ...]
    supervoxels: U64

    @property
    def labels(self) -> tuple[int, ...]:
        return tuple(body.label for body in self.merged)

    @property
    def merged_voxels(self) -> int:
        return sum(body.voxels for body in self.merged)

    def as_json(self) -> dict[str, Any]:
        return {
            "Action": "merge",
            "Target": self.target.label,
            "Labels": list(self.labels),
            "Supervoxels": self.supervoxels.tolist(),
            "Voxels": self.target.voxels + self.merged_voxels,
        }


def plan_merge(view: VersionedView, labels: list[int]) -> MergePlan:
    """The merge of bodies `labels[1:]` into the body `labels[0]`. Raises BadRequest if it cannot be."""
    if len(labels) < 2:
        raise BadRequest(f"a merge needs a target and at least one label to merge into it, not {labels}")
    if 0 in labels:
        raise BadRequest(f"cannot merge {labels}: 0 is the background")
    target, merged = labels[0], tuple(dict.fromkeys(labels[1:]))
    if target in merged:
        raise BadRequest(f"cannot merge label {target} into itself")
    into = _existing(view, target, "merge into")
    others = tuple(_existing(view, label, "merge") for label in merged)
    parts = [read_rows(view, body).supervoxels()[0] for body in others]
    return MergePlan(into, others, parts[0] if len(parts) == 1 else np.unique(np.concatenate(parts)))


def _bodies_now(change: Change) -> Lookup:
    """The mapping before an edit, for those who follow; nobody else needs it to be loaded."""
    uuid = change.instance.data_uuid
    if any(uuid in other.syncs for other in change.catalog.instances(change.instance.repo_id)):
        return mapping_at(change.view).bodies
    return lambda supervoxels: supervoxels


def apply_merge(change: Change, plan: MergePlan) -> int:
    """Carry out a merge planned in this transaction; its mutation id."""
    view, target = change.view, plan.target.label
    mutation_id = change.mutation_id()
    before = _bodies_now(change)
    add_mappings(view, plan.supervoxels, np.full(len(plan.supervoxels), target, np.uint64))
    bodies.merge(view, plan.target, plan.merged, stamp_of(change, mutation_id))
    counters.raise_max_label(change, target)
    change.record(
        {"Action": "merge-complete", "MutationID": mutation_id, "Target": target, "Labels": list(plan.labels)}
    )
    change.emit(
        Merge(mutation_id, target, plan.labels, plan.supervoxels, plan.target.voxels, plan.merged_voxels, before)
    )
    return mutation_id


def post_merge(call: Call) -> Reply:
    indexed(call)
    labels = id_list(call.body, "a merge")
    if call.flag("dryrun"):
        return Answer.json(plan_merge(call.view, labels).as_json())
    return Commit(
        lambda change: apply_merge(change, plan_merge(change.view, labels)),
        lambda mutation_id: Answer(b'{"MutationID": %d}' % mutation_id, "application/json"),
    )


# -- cleave


@dataclass(frozen=True, slots=True, eq=False)
class CleavePlan:
    """Supervoxels u64[n], ascending, that leave a body; `voxels` is how many they have there."""

    target: Body
    supervoxels: U64
    voxels: int

    def as_json(self) -> dict[str, Any]:
        return {
            "Action": "cleave",
            "OrigLabel": self.target.label,
            "CleavedSupervoxels": self.supervoxels.tolist(),
            "CleavedSize": self.voxels,
            "RemainSize": self.target.voxels - self.voxels,
        }


def plan_cleave(view: VersionedView, label: int, supervoxels: U64) -> CleavePlan:
    """The cleave of supervoxels u64[n] off a body. Raises BadRequest if it cannot be.

    A supervoxel without voxels (what a split left over) may leave if it is mapped to the body.
    """
    if not len(supervoxels):
        raise BadRequest(f"a cleave of label {label} needs at least one supervoxel")
    body = _existing(view, label, "cleave")
    leaving = ascending(supervoxels)
    rows = bodies.rows_of_supervoxels(view, body, leaving)
    outside = leaving
    if len(rows.sv):  # ascending
        places = np.minimum(np.searchsorted(rows.sv, leaving), len(rows.sv) - 1)
        outside = leaving[rows.sv[places] != leaving]
    if len(outside):
        owners, found = mapping_at(view).find(outside)
        strangers = outside[~found | (owners != np.uint64(label))]
        if len(strangers):
            raise BadRequest(f"cannot cleave supervoxel {strangers[0]}, which does not exist in label {label}")
    voxels = rows.voxels
    if voxels >= body.voxels:
        raise BadRequest(f"cannot cleave all supervoxels from the label {label}")
    return CleavePlan(body, leaving, voxels)


def apply_cleave(change: Change, plan: CleavePlan) -> tuple[int, int]:
    """Carry out a cleave planned in this transaction; (label of the new body, mutation id)."""
    view, label = change.view, plan.target.label
    mutation_id = change.mutation_id()
    new = fresh_label(change)
    moved = np.concatenate((plan.supervoxels, np.array((new,), np.uint64)))
    owners = np.full(len(moved), new, np.uint64)
    owners[-1] = 0
    before = _bodies_now(change)
    add_mappings(view, moved, owners)
    cleaved, remain = bodies.cleave(view, plan.target, new, plan.supervoxels, stamp_of(change, mutation_id))
    change.record(
        {
            "Action": "cleave-complete",
            "MutationID": mutation_id,
            "OrigLabel": label,
            "CleavedLabel": new,
            "CleavedSupervoxels": plan.supervoxels.tolist(),
            "CleavedSize": cleaved,
            "RemainSize": remain,
        }
    )
    change.emit(Cleave(mutation_id, label, new, plan.supervoxels, before))
    return new, mutation_id


def post_cleave(call: Call) -> Reply:
    indexed(call)
    label = label_argument(call, 0, "the label of a body")
    supervoxels = id_array(call.body, "the supervoxels of a cleave")
    if call.flag("dryrun"):
        return Answer.json(plan_cleave(call.view, label, supervoxels).as_json())
    return Commit(
        lambda change: apply_cleave(change, plan_cleave(change.view, label, supervoxels)),
        lambda done: Answer(b'{"CleavedLabel": %d, "MutationID": %d}' % done, "application/json"),
    )


# -- renumber


@dataclass(frozen=True, slots=True, eq=False)
class RenumberPlan:
    """A body that gets another label; `supervoxels` u64[n] are all of its, ascending."""

    body: Body
    new: int
    supervoxels: U64
    new_is_known: bool
    """The mapping has an entry for the new label already, as a supervoxel or a retired id."""

    def as_json(self) -> dict[str, Any]:
        return {
            "Action": "renumber",
            "NewLabel": self.new,
            "OrigLabel": self.body.label,
            "Supervoxels": self.supervoxels.tolist(),
            "Voxels": self.body.voxels,
        }


def plan_renumber(view: VersionedView, new: int, old: int) -> RenumberPlan:
    """Calling the body `old` `new`. Raises BadRequest if that cannot be."""
    if not 0 < new <= counters.LAST_LABEL:
        raise BadRequest(f"a body cannot be renumbered to {new}: labels go from 1 to {counters.LAST_LABEL}")
    body = _existing(view, old, "renumber")
    if read_body(view, new) is not None:
        raise BadRequest(f"target label for renumber ({new}) already exists")
    supervoxels = read_rows(view, body).supervoxels()[0]
    return RenumberPlan(body, new, supervoxels, mapping_at(view).body(new)[1])


def apply_renumber(change: Change, plan: RenumberPlan) -> int:
    """Carry out a renumbering planned in this transaction; its mutation id."""
    view, old, new = change.view, plan.body.label, plan.new
    mutation_id = change.mutation_id()
    moved, owners = plan.supervoxels, np.full(len(plan.supervoxels), new, np.uint64)
    if not plan.new_is_known:
        moved = np.concatenate((np.array((new,), np.uint64), moved))
        owners = np.concatenate((np.zeros(1, np.uint64), owners))
    before = _bodies_now(change)
    add_mappings(view, moved, owners)
    bodies.rename(view, plan.body, new, stamp_of(change, mutation_id))
    counters.raise_max_label(change, new)
    change.record({"Action": "renumber-complete", "MutationID": mutation_id, "NewLabel": new, "OrigLabel": old})
    change.emit(Renumber(mutation_id, old, new, plan.supervoxels, before))
    return mutation_id


def _renumber_all(change: Change, pairs: list[tuple[int, int]]) -> BadRequest | None:
    """Renumber pairs in order, each an edit of its own: those before one that cannot be stay done."""
    for i, (new, old) in enumerate(pairs):
        try:
            plan = plan_renumber(change.view, new, old)
        except BadRequest as error:
            if i == 0:
                raise
            return BadRequest(f"{error.message}; the {i} pairs before it were renumbered")
        apply_renumber(change, plan)
    return None


def _renumbered(error: BadRequest | None) -> Answer:
    if error is not None:
        raise error
    return Answer()


def post_renumber(call: Call) -> Reply:
    numbers = id_list(call.body, "a renumbering")
    if len(numbers) % 2:
        raise BadRequest("a renumbering must be a list with an even number of labels: [new1, old1, new2, old2, ...]")
    pairs = list(zip(numbers[::2], numbers[1::2], strict=True))
    if call.flag("dryrun"):
        return Answer.json([plan_renumber(call.view, new, old).as_json() for new, old in pairs])
    return Commit(lambda change: _renumber_all(change, pairs), _renumbered)


ROUTES = (
    Route(
        "merge",
        {"POST": post_merge},
        "Merge bodies into the first one of a JSON list: [target, label1, label2, ...].",
        options=(DRY_RUN,),
    ),
    Route(
        "cleave",
        {"POST": post_cleave},
        "Make the supervoxels of a JSON list a body of their own, with a new label.",
        "<label>",
        options=(DRY_RUN,),
    ),
    Route(
        "renumber",
        {"POST": post_renumber},
        "Give bodies other labels: [new1, old1, new2, old2, ...]. Each pair is an edit of its own.",
        options=(DRY_RUN,),
    ),
)
