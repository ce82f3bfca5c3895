"""What happened to a body between two versions, from the records of mutations."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import numpy as np

from fascicle.datatypes.base import Answer, Call, Reply, Route, Work
from fascicle.datatypes.labelmap.bodies import read_body, read_rows
from fascicle.datatypes.labelmap.mapping import mapping_at
from fascicle.datatypes.labelmap.requests import label_argument
from fascicle.mutations.records import stored
from fascicle.versions.model import Node
from fascicle.versions.resolution import VersionedView

Item = dict[str, Any]


def _merge(record: Item) -> tuple[Item, set[int]]:
    item = {"Action": "merge", "Target": record["Target"], "Labels": record["Labels"]}
    return item, {record["Target"], *record["Labels"]}


def _cleave(record: Item) -> tuple[Item, set[int]]:
    names = ("OrigLabel", "CleavedLabel", "CleavedSupervoxels")
    item = {"Action": "cleave", **{name: record[name] for name in names}}
    return item, {record["OrigLabel"], record["CleavedLabel"]}


def _split(record: Item) -> tuple[Item, set[int]]:
    item = {"Action": "split", "Target": record["Target"], "NewLabel": record["NewLabel"], "Coarse": False}
    return item, {record["Target"], record["NewLabel"]}


def _split_supervoxel(record: Item) -> tuple[Item, set[int]]:
    names = ("Supervoxel", "SplitSupervoxel", "RemainSupervoxel")
    return {"Action": "split-supervoxel", **{name: record[name] for name in names}}, {record["Body"]}


_KINDS: dict[str, Callable[[Item], tuple[Item, set[int]]]] = {
    "merge": _merge,
    "cleave": _cleave,
    "split": _split,
    "split-supervoxel": _split_supervoxel,
}


def bodies_before(view: VersionedView, label: int, before: VersionedView) -> set[int]:
    """The bodies that the supervoxels of a body belonged to at an earlier version."""
    body = read_body(view, label)
    if body is None:
        return set()
    supervoxels = read_rows(view, body).supervoxels()[0]
    return {int(old) for old in np.unique(mapping_at(before).bodies(supervoxels)) if old}


def operations(call: Call, nodes: list[Node], bodies: set[int]) -> Iterator[Item]:
    """Merges, cleaves and splits of versions, oldest first, that touched one of some bodies."""
    for node in reversed(nodes):
        for text in stored(call.txn, call.instance.id, node.id):
            record = msgspec.json.decode(text)
            kind = _KINDS.get(record["Action"].removesuffix("-complete"))
            if kind is not None:
                item, touched = kind(record)
                if touched & bodies:
                    yield item


def get_history(call: Call) -> Reply:
    label = label_argument(call, 0, "a label, a 'from' UUID and a 'to' UUID")
    first = call.catalog.resolve(call.argument(1, "a label, a 'from' UUID and a 'to' UUID"))
    last = call.catalog.resolve(call.argument(2, "a label, a 'from' UUID and a 'to' UUID"))
    before = VersionedView(call.txn, call.instance.id, call.catalog.ancestry(first.id))
    after = VersionedView(call.txn, call.instance.id, call.catalog.ancestry(last.id))
    bodies = bodies_before(after, label, before)
    nodes = call.catalog.version_sequence(last.id, first.id)
    return Answer.json(list(operations(call, nodes, bodies)) if bodies else [])


ROUTES = (
    Route(
        "history",
        {"GET": get_history},
        "Merges, cleaves and splits between two versions that touched the bodies which the supervoxels of this body "
        "belonged to at the first of them, as a JSON list.",
        "<label>/<from UUID>/<to UUID>",
        work=Work.HEAVY,
    ),
)
