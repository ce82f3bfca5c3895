"""The model of annotations and counts follows the published examples."""

from __future__ import annotations

from typing import Any

import numpy as np

from proofreading import points
from proofreading.model import State, empty_world
from proofreading.wire import Block


def element(kind: str, *relations: tuple[str, Block], tags: tuple[str, ...] = ()) -> dict[str, Any]:
    return {"Kind": kind, "Tags": list(tags), "Prop": {}, "Rels": list(relations)}


def two_bodies() -> State:
    """Body 5 in block (0, 0, 0), body 7 in the two that follow along x, and two partners."""
    state = empty_world("a", (64, 64, 64), 1).versions["a"]
    blocks = {(x, 0, 0): np.full((64, 64, 64), label, np.uint64) for x, label in enumerate((5, 7, 7))}
    state = state.with_blocks(blocks, False)
    posted = {
        (10, 10, 10): element("PreSyn", ("PreSynTo", (70, 10, 10)), tags=("t1",)),
        (70, 10, 10): element("PostSyn", ("PostSynTo", (10, 10, 10))),
        (-5, 10, 10): element("Note"),
    }
    return points.with_posted(state, posted)


def test_elements_of_bodies() -> None:
    state = two_bodies()
    one = {"Pos": [10, 10, 10], "Kind": "PreSyn", "Tags": ["t1"], "Prop": {}}
    assert points.listed(state, points.in_body(state, 5), "") == [one]
    partner = {"Rel": "PreSynTo", "To": [70, 10, 10], "Kind": "PostSyn"}
    assert points.listed(state, points.in_body(state, 5), "verbose") == [one | {"Rels": [partner]}]
    assert points.in_body(state, 0) == []
    assert [name for name, _ in points.by_block(state, lambda _: True)] == ["-1,0,0", "0,0,0", "1,0,0"]


def test_moving_merging_deleting() -> None:
    state = points.moved(two_bodies(), (70, 10, 10), (130, 10, 10))
    shown = dict(points.by_block(state, lambda _: True))
    assert shown["1,0,0"] == []
    assert shown["0,0,0"][0]["Rels"] == [{"Rel": "PreSynTo", "To": [130, 10, 10]}]
    assert points.in_body(state, 7) == [(130, 10, 10)]
    merged = state.merged(5, [7], 1)
    assert sorted(points.in_body(merged, 5)) == [(10, 10, 10), (130, 10, 10)]
    assert points.in_body(merged, 7) == []
    left = points.without(merged, (130, 10, 10))
    assert points.listed(left, points.with_tag(left, "t1"), "true")[0]["Rels"] == []


def test_what_nobody_listed_keeps_its_relation() -> None:
    state = points.with_posted(two_bodies(), {(71, 0, 0): element("Gap", ("GroupedWith", (130, 0, 0)))})
    state = points.with_posted(state, {(130, 0, 0): element("Gap")})
    assert points.without(state, (130, 0, 0)).elements[(71, 0, 0)]["Rels"] == [("GroupedWith", (130, 0, 0))]


def test_relations_to_itself_follow_a_moved_element() -> None:
    state = points.with_posted(two_bodies(), {(70, 10, 10): element("Gap", ("GroupedWith", (70, 10, 10)))})
    moved = points.moved(state, (70, 10, 10), (130, 10, 10))
    assert moved.elements[(130, 10, 10)]["Rels"] == [("GroupedWith", (130, 10, 10))]


def test_counts() -> None:
    state = two_bodies()
    posted = {(x, 1, 1): element(kind) for x, kind in ((1, "PreSyn"), (2, "Note"), (3, "Unknown"), (66, "PostSyn"))}
    state = points.with_posted(state, posted)
    assert points.ranked(state, "AllSyn") == [{"Label": 5, "Size": 2}, {"Label": 7, "Size": 2}]
    assert points.ranked(state, "PreSyn") == [{"Label": 5, "Size": 2}]
    assert points.counts(state, "Note") == {5: 1}
    assert points.ranked(state, "Voxels") == []
    assert points.counts(state, "AllSyn", points.INSIDE) == {5: 2, 7: 2}
    state = points.with_posted(state, {(80, 9, 9): element("Gap")})
    assert points.counts(state, "Gap") == {7: 1}
    assert points.counts(state, "Gap", points.INSIDE) == {}
