"""Counts in a region by supervoxel: what they spare, and that they follow whatever happens to points and bodies."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from datatypes.annotation.annotation_repo import EDGE, Repo, element
from fascicle.datatypes.annotation import following
from fascicle.datatypes.labelsz import region_counts
from fascicle.datatypes.labelsz.region_counts import REGION_COUNTS
from fascicle.versions import keys

INSIDE_X = range(EDGE, 3 * EDGE)
"""The region: the second and the third block along x, of the first row."""


def in_region(position: list[int]) -> bool:
    x, y, z = position
    return x in INSIDE_X and 0 <= y < EDGE and 0 <= z < EDGE


@pytest.fixture
def repo() -> Repo:
    """Supervoxels 1 to 4, one in each block along x; a region of the two in the middle; points on both sides of it."""
    made = Repo()
    made.add_region([[0, 0, 1, 2]])
    made.write_voxels((np.arange(4 * EDGE, dtype=np.uint64) // EDGE + 1)[None, None].repeat(EDGE, 0).repeat(EDGE, 1))
    made.edit("merge", [1, 2, 3, 4])
    made.post("elements", [element((x, 0, 0), "PreSyn") for x in range(4 * EDGE)])
    made.post("elements", [element((x, 1, 1), "PostSyn") for x in range(2 * EDGE, 2 * EDGE + 5)])
    return made


def ranking(repo: Repo, version: int, kind: str = "PreSyn", name: str = "inside") -> dict[int, int]:
    return {row["Label"]: row["Size"] for row in repo.get(f"top/99/{kind}", version, name)}


def truth(repo: Repo, version: int, kind: str = "PreSyn") -> dict[int, int]:
    """Counted one by one by what can be asked of the other instances."""
    found: Counter[int] = Counter()
    blocks: dict[str, list[dict[str, Any]]] = repo.get("all-elements", version)
    for elements in blocks.values():
        for each in elements:
            if each["Kind"] == kind and in_region(each["Pos"]):
                x, y, z = each["Pos"]
                found[int(repo.voxels((1, 1, 1), (x, y, z), version)[0, 0, 0])] += 1
    return {label: count for label, count in found.items() if label}


def check(repo: Repo, version: int) -> None:
    for kind in ("PreSyn", "PostSyn", "Gap", "Note"):
        assert ranking(repo, version, kind) == truth(repo, version, kind)


def cleave(repo: Repo, body: int, supervoxels: list[int], version: int = 0) -> int:
    found: int = repo.edit(f"cleave/{body}", supervoxels, version)["CleavedLabel"]
    return found


@pytest.fixture
def unread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks for the points of supervoxels fails."""

    def counted(*_: object) -> None:
        raise AssertionError("a merge or a cleave read the points that it moved")

    monkeypatch.setattr(following, "_counted", counted)
    monkeypatch.setattr(region_counts, "points_of", counted)


@pytest.mark.usefixtures("unread")
def test_points_are_not_read_for_merges_and_cleaves(repo: Repo) -> None:
    check(repo, repo.root)
    new = cleave(repo, 1, [2, 4])
    assert ranking(repo, repo.root) == {1: EDGE, new: EDGE}
    assert ranking(repo, repo.root, "PostSyn") == {1: 5}
    repo.edit("merge", [new, 1])
    assert ranking(repo, repo.root) == {new: 2 * EDGE}
    repo.edit("renumber", [77, new])
    check(repo, repo.root)
    repo.post("move/20_0_0/100_3_3")
    repo.post("move/21_0_0/21_5_5")
    check(repo, repo.root)
    other = cleave(repo, 77, [2])
    assert ranking(repo, repo.root) == {77: EDGE, other: EDGE - 1}


@pytest.mark.usefixtures("unread")
def test_supervoxels_that_change_by_voxels(repo: Repo) -> None:
    repo.write_voxels(np.full((EDGE, EDGE, EDGE), 9, np.uint64), (EDGE, 0, 0))
    repo.edit("merge", [1, 9])
    new = cleave(repo, 1, [9])
    assert ranking(repo, repo.root) == {1: EDGE, new: EDGE}
    spans = np.array([0, 1, *([2 * EDGE, 0, 0, 8]), *([2 * EDGE, 1, 1, 2])], "<i4")
    body = bytes([0, 3, 0, 0]) + np.array([0, 2], "<u4").tobytes() + spans[2:].tobytes()
    split = repo.edit("split-supervoxel/3", body)["SplitSupervoxel"]
    check(repo, repo.root)
    newer = cleave(repo, 1, [split])
    assert ranking(repo, repo.root) == {1: EDGE - 8, new: EDGE, newer: 8}
    assert ranking(repo, repo.root, "PostSyn") == {1: 3, newer: 2}


def test_branches(repo: Repo) -> None:
    left, right = repo.child(repo.root), repo.child(repo.root, "side")
    new = cleave(repo, 1, [2], left)
    repo.call(f"element/{EDGE}_0_0", "DELETE", version=right)
    for version in (repo.root, left, right):
        check(repo, version)
    other = cleave(repo, 1, [2], right)
    check(repo, right)
    assert ranking(repo, right)[other] == EDGE - 1
    assert ranking(repo, left)[new] == EDGE


def test_another_region_counts_from_a_reload_on(repo: Repo) -> None:
    before = ranking(repo, repo.root)
    repo.post("roi", [[0, 0, 0, 2]], name="region")
    assert ranking(repo, repo.root) == before
    new = cleave(repo, 1, [1, 2])  # moves what has been counted
    assert ranking(repo, repo.root) == {1: EDGE, new: EDGE}
    repo.post("reload", name="inside")
    assert ranking(repo, repo.root) == {1: EDGE, new: 2 * EDGE}
    newer = cleave(repo, new, [1])
    assert ranking(repo, repo.root) == {1: EDGE, new: EDGE, newer: EDGE}
    repo.post("roi", [], name="region")
    repo.post("reload", name="inside")
    assert ranking(repo, repo.root) == {}
    repo.edit("merge", [1, new, newer])
    assert ranking(repo, repo.root) == {}


def test_a_reload_counts_what_was_there_before(repo: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    late = Repo(edge=EDGE)
    late.write_voxels(np.full((EDGE, EDGE, EDGE), 5, np.uint64), (EDGE, 0, 0))
    late.post("elements", [element((EDGE + i, 0, 0), "PreSyn") for i in range(7)])
    late.add_region([[0, 0, 1, 2]])
    late.write_voxels(np.full((EDGE, EDGE, EDGE), 6, np.uint64), (2 * EDGE, 0, 0))
    late.edit("merge", [6, 5])
    assert ranking(late, late.root) == {}
    late.post("reload", name="inside")
    assert ranking(late, late.root) == {6: 7}
    assert ranking(late, late.root, name="counts") == {6: 7}
    new = cleave(late, 6, [5])
    assert ranking(late, late.root) == {new: 7}
    monkeypatch.setattr(region_counts, "AT_ONCE", 1)  # pieces of a supervoxel each
    with repo.store.read() as txn:
        instance = repo.cache.at(txn).instance(repo.cache.at(txn).node(repo.root).repo_id, "inside")
    wrong = keys.with_version(keys.prefix(instance.id, REGION_COUNTS), repo.root)
    stored = [(key, value) for key, value in repo.rows() if key.startswith(wrong[:5])]
    assert len(stored) == 2
    repo.store.write(lambda txn: [txn.put(key, b"\x00" + bytes(20)) for key, _ in stored[:1]])
    repo.post("reload", name="inside")
    assert [(key, value) for key, value in repo.rows() if key.startswith(wrong[:5])] == stored
    check(repo, repo.root)


def test_instances_made_before_read_the_points(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(region_counts, "are_kept", lambda _: False)
    older = Repo()
    older.add_region([[0, 0, 1, 2]])
    older.write_voxels(np.full((EDGE, EDGE, EDGE), 5, np.uint64), (EDGE, 0, 0))
    older.write_voxels(np.full((EDGE, EDGE, EDGE), 6, np.uint64), (2 * EDGE, 0, 0))
    older.edit("merge", [5, 6])
    older.post("elements", [element((EDGE + i, 0, 0), "PreSyn") for i in range(20)])
    new = cleave(older, 5, [6])
    assert ranking(older, older.root) == {5: EDGE, new: 20 - EDGE}
    older.post("reload", name="inside")
    check(older, older.root)


