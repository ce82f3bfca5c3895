"""Merge, cleave and renumber: what they change, what they answer, and that refusals change nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from labelmap_instances import Labels

from fascicle.datatypes.labelmap import events
from fascicle.datatypes.labelmap.mapping import add_mappings
from fascicle.errors import BadRequest

FIRST_MUTATION = 1_000_000_000


def u64(*values: int) -> np.ndarray[Any, Any]:
    return np.array(values, np.uint64)


def test_merge_moves_supervoxels(four: Labels) -> None:
    assert four.post("merge?u=ann", [4, 3]) == {"MutationID": FIRST_MUTATION}
    assert four.json("mapping", [1, 2, 3, 4]) == [1, 2, 4, 4]
    assert four.json("size/4") == {"voxels": 702}
    assert four.json("size/4?supervoxels=true") == {"voxels": 401}
    assert four.status("size/3") == 404
    assert four.json("size/3?supervoxels=true") == {"voxels": 301}
    assert four.get("existing-labels") == b"[1,2,4]"
    assert four.json("supervoxels/4") == [3, 4]
    modified = four.json("lastmod/4")
    assert modified["mutation id"] == FIRST_MUTATION
    assert (modified["last mod user"], modified["last mod app"]) == ("ann", "test")
    assert four.get("mappings") == b"3 4\n"


def test_merge_is_recorded_and_told(four: Labels) -> None:
    four.post("merge", [4, 3, 1, 3])
    assert four.records() == [
        {
            "Action": "merge-complete",
            "MutationID": FIRST_MUTATION,
            "Target": 4,
            "Labels": [3, 1],
            "UUID": four.uuid(four.root),
            "Timestamp": "2026-01-02 03:04:05.123456 +0000 UTC",
        }
    ]
    (event,) = four.events
    assert isinstance(event, events.Merge)
    assert (event.target, event.merged, event.target_voxels, event.merged_voxels) == (4, (3, 1), 401, 402)
    assert event.supervoxels.tolist() == [1, 3]


def test_cleave_makes_a_body_of_its_own(four: Labels) -> None:
    four.post("merge", [4, 3])
    assert four.post("cleave/4", [3]) == {"CleavedLabel": 5, "MutationID": FIRST_MUTATION + 1}
    assert four.json("maxlabel") == {"maxlabel": 5}
    assert four.json("mapping", [3, 5]) == [5, 0]
    assert four.json("supervoxels/5") == [3]
    assert four.json("supervoxel-sizes/4") == {"supervoxels": [4], "sizes": [401]}
    assert four.records()[-1]["CleavedSize"] == 301
    assert four.records()[-1]["RemainSize"] == 401
    event = four.events[-1]
    assert isinstance(event, events.Cleave)
    assert (event.target, event.cleaved, event.supervoxels.tolist()) == (4, 5, [3])


def test_cleave_of_a_supervoxel_without_voxels(four: Labels) -> None:
    four.post("merge", [4, 3])
    four.write(lambda change: add_mappings(change.view, u64(77), u64(4)))
    four.post("cleave/4", [77])
    assert four.json("mapping", [77]) == [5]
    assert four.status("size/5") == 404
    assert four.json("size/4") == {"voxels": 702}


def test_cleave_passes_over_ids_that_are_in_use(four: Labels) -> None:
    four.post("merge", [4, 3])
    four.write(lambda change: add_mappings(change.view, u64(5, 6), u64(1, 0)))
    assert four.post("cleave/4", [3])["CleavedLabel"] == 7


def test_renumber_onto_a_supervoxel_of_another_body(four: Labels) -> None:
    four.post("merge", [1, 3])
    assert four.post("renumber", [3, 2]) is None
    assert four.json("mapping", [1, 2, 3]) == [1, 3, 1]
    assert four.json("supervoxels/3") == [2]
    assert four.json("supervoxels/1") == [1, 3]
    assert four.status("size/2") == 404


def test_renumber_to_a_new_label_hides_it_as_supervoxel(four: Labels) -> None:
    four.post("renumber", [900, 2, 901, 900])
    assert four.json("mapping", [2, 900, 901]) == [901, 0, 0]
    assert four.json("maxlabel") == {"maxlabel": 901}
    assert four.json("nextlabel") == {"nextlabel": 902}
    assert [record["Action"] for record in four.records()] == ["renumber-complete"] * 2


def test_renumber_to_one_of_its_own_supervoxels(four: Labels) -> None:
    four.post("merge", [1, 2, 3])
    four.post("renumber", [2, 1])
    assert four.json("mapping", [1, 2, 3]) == [2, 2, 2]
    assert four.json("supervoxels/2") == [1, 2, 3]


def test_renumber_keeps_pairs_before_one_that_cannot_be(four: Labels) -> None:
    with pytest.raises(BadRequest, match="already exists"):
        four.post("renumber", [900, 2, 3, 1, 901, 4])
    assert four.json("existing-labels") == [1, 3, 4, 900]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("merge", [4]),
        ("merge", []),
        ("merge", {}),
        ("merge", b"[4,"),
        ("merge", b""),
        ("merge", ["4", "3"]),
        ("merge", [4.5, 3]),
        ("merge", [-1, 3]),
        ("merge", b"[18446744073709551616, 3]"),
        ("merge", [4, 0]),
        ("merge", [0, 4]),
        ("merge", [4, 4]),
        ("merge", [4, 3, 4]),
        ("merge", [4, 99]),
        ("merge", [99, 4]),
        ("merge", [4, 3, 99]),
        ("merge", [1, 20]),
        ("cleave/4", [4]),
        ("cleave/20", [20, 21]),
        ("cleave/20", []),
        ("cleave/20", [4]),
        ("cleave/20", [21, 9999]),
        ("cleave/21", [21]),
        ("cleave/0", [21]),
        ("cleave/x", [21]),
        ("cleave", [21]),
        ("cleave/20", b"21"),
        ("renumber", [1000]),
        ("renumber", [1000, 99]),
        ("renumber", [1000, 21]),
        ("renumber", [1000, 0]),
        ("renumber", [0, 1]),
        ("renumber", [2**64 - 1, 1]),
        ("renumber", [4, 1]),
        ("renumber", [1, 1]),
        ("renumber", {}),
        ("renumber", b"[1000,"),
        ("renumber", [1000, 1, 5]),
    ],
)
def test_refusals_change_nothing(four: Labels, path: str, body: Any) -> None:
    four.ingest({(20, (5, 0, 0)): 7, (21, (5, 0, 0)): 8})
    four.post("merge", [20, 21])
    before = four.everything()
    if path == "merge" and body == [1, 20]:
        body = [1, 21]
    with pytest.raises(BadRequest):
        four.post(path, body)
    assert four.everything() == before


def test_dry_runs_change_nothing(four: Labels) -> None:
    four.post("merge", [4, 3])
    before = four.everything()
    merge = four.post("merge?dryrun=true", [1, 4])
    assert merge == {"Action": "merge", "Target": 1, "Labels": [4], "Supervoxels": [3, 4], "Voxels": 803}
    cleave = four.post("cleave/4?dryrun=true", [3])
    assert (cleave["CleavedSupervoxels"], cleave["CleavedSize"], cleave["RemainSize"]) == ([3], 301, 401)
    assert four.post("renumber?dryrun=true", [9, 1])[0]["Voxels"] == 101
    assert four.everything() == before
    with pytest.raises(BadRequest):
        four.post("merge?dryrun=true", [1, 99])


def test_edits_belong_to_their_version(four: Labels) -> None:
    child = four.child(four.root)
    sibling = four.child(four.root, "side")
    four.post("merge", [4, 3], child)
    four.post("merge", [1, 2], sibling)
    assert four.json("mapping", [2, 3]) == [2, 3]
    assert four.json("mapping", [2, 3], child) == [2, 4]
    assert four.json("mapping", [2, 3], sibling) == [1, 3]
    assert four.json("existing-labels", version=child) == [1, 2, 4]
    assert four.records() == []
    assert len(four.records(child)) == 1
    assert four.get("index-version/1", version=child).decode() == four.uuid(four.root)
    assert four.get("index-version/4", version=child).decode() == four.uuid(child)


def test_unindexed_instances_refuse_edits() -> None:
    labels = Labels(IndexedLabels="false")
    for path, body in (("merge", [1, 2]), ("cleave/1", [2]), ("nextlabel/3", b""), ("split-supervoxel/1", b"")):
        with pytest.raises(BadRequest, match="not label indexed"):
            labels.post(path, body)


def test_history_lists_what_touched_the_body(four: Labels) -> None:
    child = four.child(four.root)
    four.post("merge", [4, 3], child)
    four.post("cleave/4", [3], child)
    four.post("merge", [1, 2], child)
    span = f"{four.uuid(four.root)}/{four.uuid(child)}"
    found = four.json(f"history/4/{span}")
    assert found == [
        {"Action": "merge", "Target": 4, "Labels": [3]},
        {"Action": "cleave", "OrigLabel": 4, "CleavedLabel": 5, "CleavedSupervoxels": [3]},
    ]
    assert four.json(f"history/1/{span}") == [{"Action": "merge", "Target": 1, "Labels": [2]}]
    assert four.json(f"history/4/{four.uuid(four.root)}/{four.uuid(four.root)}") == []
    for path in ("history", "history/4", f"history/4/{four.uuid(four.root)}", f"history/0/{span}", f"history/x/{span}"):
        with pytest.raises(BadRequest):
            four.json(path)


class Model:
    """Bodies as sets of supervoxels; what edits do to them, by the book."""

    def __init__(self, supervoxels: int) -> None:
        self.bodies = {n: {n} for n in range(1, supervoxels + 1)}
        self.owner = {n: n for n in self.bodies}

    def move(self, supervoxels: set[int], target: int) -> None:
        for supervoxel in supervoxels:
            self.owner[supervoxel] = target
        self.bodies.setdefault(target, set()).update(supervoxels)


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_random_edits_agree_with_sets(data: st.DataObject) -> None:
    n = 12
    labels, model = Labels(BlockSize="16,16,16"), Model(n)
    labels.ingest({(sv, (sv // 3, sv % 2, 0)): sv * 10 for sv in range(1, n + 1)})
    for _ in range(data.draw(st.integers(1, 12))):
        kind = data.draw(st.sampled_from(("merge", "cleave", "renumber")))
        present = sorted(model.bodies)
        if kind == "merge" and len(present) > 1:
            chosen = data.draw(st.lists(st.sampled_from(present), min_size=2, max_size=4, unique=True))
            labels.post("merge", chosen)
            for other in chosen[1:]:
                model.move(model.bodies.pop(other), chosen[0])
        elif kind == "cleave" and any(len(svs) > 1 for svs in model.bodies.values()):
            body = data.draw(st.sampled_from([b for b in present if len(model.bodies[b]) > 1]))
            all_of_it = sorted(model.bodies[body])
            leaving = set(data.draw(st.lists(st.sampled_from(all_of_it), min_size=1, max_size=len(all_of_it) - 1)))
            new = labels.post(f"cleave/{body}", sorted(leaving))["CleavedLabel"]
            assert new not in model.bodies
            assert new not in model.owner
            model.bodies[body] -= leaving
            model.move(leaving, new)
        elif kind == "renumber":
            old = data.draw(st.sampled_from(present))
            new = data.draw(st.integers(1, 40).filter(lambda label: label not in model.bodies))
            labels.post("renumber", [new, old])
            model.move(model.bodies.pop(old), new)
    supervoxels = list(range(1, n + 1))
    assert labels.json("mapping", supervoxels) == [model.owner[sv] for sv in supervoxels]
    assert labels.json("existing-labels") == sorted(model.bodies)
    for body, members in model.bodies.items():
        assert labels.json(f"supervoxels/{body}") == sorted(members)
        assert labels.json(f"size/{body}") == {"voxels": 10 * sum(members)}
    assert labels.json("sizes?supervoxels=true", supervoxels) == [10 * sv for sv in supervoxels]
