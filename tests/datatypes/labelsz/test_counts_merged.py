"""Counts of versions that were made of several parents: what two branches do to bodies and points of each other."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pytest

from datatypes.annotation.annotation_repo import EDGE, Repo, element, row_of_bodies

KINDS = ("PreSyn", "PostSyn", "Gap", "Note")
BODIES = 6


@pytest.fixture
def repo() -> Repo:
    """Supervoxels 1 to 6, one in each block along x, 8 points in each; a region of blocks 1 to 3."""
    made = row_of_bodies(BODIES)
    made.post("elements", [element((x, 0, 0), KINDS[x // 2 % 4]) for x in range(0, BODIES * EDGE, 2)])
    return made


def elements(repo: Repo, version: int) -> list[tuple[int, tuple[int, int, int], str]]:
    """(body, place, kind) of all elements, by voxels."""
    found = []
    for block in repo.get("all-elements", version).values():
        for each in block:
            x, y, z = each["Pos"]
            label = int(repo.voxels((1, 1, 1), (x, y, z), version)[0, 0, 0])
            found.append((label, (x, y, z), each["Kind"]))
    return found


def check(repo: Repo, version: int) -> None:
    """Lists of bodies and counts are what looking at every element gives."""
    there = elements(repo, version)
    for name, inside in (("counts", range(-100, 9999)), ("inside", range(EDGE, 4 * EDGE))):
        for kind in KINDS:
            truth = Counter(label for label, (x, _, _), of in there if label and of == kind and x in inside)
            wanted = sorted(truth.items(), key=lambda pair: (-pair[1], pair[0]))
            rows = repo.get(f"top/999/{kind}", version, name)
            assert [(row["Label"], row["Size"]) for row in rows] == wanted, (name, kind)
            for label in range(1, 30):
                assert repo.get(f"count/{label}/{kind}", version, name)[kind] == truth.get(label, 0)
    for label in {label for label, _, _ in there if label} | set(range(1, BODIES + 1)):
        listed = {tuple(each["Pos"]) for each in repo.get(f"label/{label}", version)}
        assert listed == {place for body, place, _ in there if body == label}
    kept, counted = repo.kinds_by_supervoxel(version)
    assert kept == counted


def branches(repo: Repo) -> tuple[int, int]:
    return repo.child(repo.root), repo.child(repo.root, "side")


def test_both_changed_the_same_body(repo: Repo) -> None:
    left, right = branches(repo)
    repo.edit("merge", [1, 2, 3], left)
    repo.edit("merge", [1, 4], right)
    repo.post("elements", [element((EDGE, 5, 5), "Gap")], right)
    repo.call(f"element/{2 * EDGE}_0_0", "DELETE", version=left)
    for parents in ((left, right), (right, left)):
        merged = repo.merged(*parents)
        check(repo, merged)
        assert repo.get("count/1/Gap", merged, "counts")["Gap"] == 4 * 2 + 1


def test_points_put_where_another_one_merged(repo: Repo) -> None:
    """Neither branch's records of bodies 1 and 2 are right, though only one of them is in conflict."""
    left, right = branches(repo)
    repo.edit("merge", [1, 2], left)
    repo.post("elements", [element((EDGE + i, 5, 5), "Gap") for i in range(3)], right)
    merged = repo.merged(left, right)
    check(repo, merged)
    repo.post("elements", [element((EDGE + i, 6, 6), "Note") for i in range(3)], merged)
    repo.edit("merge", [6, 1], merged)
    check(repo, merged)
    later = repo.child(merged)
    repo.edit("cleave/6", [2], later)
    check(repo, later)
    check(repo, merged)


def test_a_body_without_points_is_merged_while_it_gets_some(repo: Repo) -> None:
    empty = Repo()
    empty.add_region([[0, 0, 0, 3]])
    empty.write_voxels((np.arange(2 * EDGE, dtype=np.uint64) // EDGE + 1)[None, None].repeat(EDGE, 0).repeat(EDGE, 1))
    left, right = branches(empty)
    empty.edit("merge", [1, 2], left)
    empty.post("elements", [element((EDGE + 1, 0, 0), "Gap")], right)
    merged = empty.merged(left, right)
    assert empty.get("count/1/Gap", merged, "counts")["Gap"] == 1
    check(empty, merged)


def test_changes_that_add_up_to_nothing(repo: Repo) -> None:
    left, right = branches(repo)
    repo.post("move/4_0_0/4_4_4", version=left)
    repo.post("move/4_0_0/4_8_8", version=right)
    merged = repo.merged(left, right)
    assert repo.get("count/1/Gap", merged, "counts")["Gap"] == 3
    check(repo, merged)


def test_points_in_what_another_one_split_or_painted(repo: Repo) -> None:
    left, right = branches(repo)
    repo.post("elements", [element((EDGE + i, 3, 3), "Gap") for i in range(EDGE)], left)
    repo.post("elements", [element((2 * EDGE + i, 3, 3), "Gap") for i in range(4)], left)
    repo.call(f"element/{3 * EDGE}_0_0", "DELETE", version=left)
    spans = np.array([EDGE, 3, 3, 8, EDGE, 0, 0, 8], "<i4")
    body = bytes([0, 3, 0, 0]) + np.array([0, 2], "<u4").tobytes() + spans.tobytes()
    repo.edit("split-supervoxel/2", body, right)
    repo.write_voxels(np.full((EDGE, EDGE, EDGE), 9, np.uint64), (2 * EDGE, 0, 0), right)
    repo.write_voxels(np.full((EDGE, EDGE, EDGE), 9, np.uint64), (3 * EDGE, 0, 0), right)
    for parents in ((left, right), (right, left)):
        check(repo, repo.merged(*parents))


def test_three_parents_and_a_merge_of_merges(repo: Repo) -> None:
    first, second, third = repo.child(repo.root), repo.child(repo.root, "b"), repo.child(repo.root, "c")
    for x, version in enumerate((first, second, third)):
        repo.post("elements", [element((20, x + 1, 7), "Note"), element((x, 9, 9), "Gap")], version)
        repo.edit("merge", [2, x + 4], version)
    merged = repo.merged(first, second, third)
    check(repo, merged)
    left, right = repo.child(merged), repo.child(merged, "d")
    repo.edit("merge", [1, 3], left)
    repo.post("elements", [element((40 + i, 9, 9), "Gap") for i in range(3)], right)
    check(repo, repo.merged(left, right))


def test_elements_in_conflict_are_counted_once(repo: Repo) -> None:
    left, right = branches(repo)
    for version, kind in ((left, "Gap"), (right, "Note")):
        repo.post("elements", [element((EDGE, 0, 0), kind, Tags=[kind])], version)
    merged = repo.merged(left, right)
    assert repo.get("count/2/Gap", merged, "counts")["Gap"] == 3
    assert repo.get("count/2/Note", merged, "counts")["Note"] == 2
    assert repo.get("count/2/Gap", merged, "inside")["Gap"] == 3
    repo.post("reload", version=merged, name="counts")
    repo.post("reload", version=merged, name="inside")
    assert repo.get("count/2/Gap", merged, "counts")["Gap"] == 3
    repo.edit("merge", [1, 2], merged)
    assert repo.get("count/1/Gap", merged, "counts")["Gap"] == 5
    # a post settles it
    repo.post("elements", [element((EDGE, 0, 0), "PostSyn")], merged)
    check(repo, merged)
    assert repo.get("tag/Gap", merged) == repo.get("tag/Note", merged) == []


def test_elements_that_are_resolved_are_listed_by_body(repo: Repo) -> None:
    left, right = branches(repo)
    for version, kind in ((left, "Gap"), (right, "Note")):
        repo.post("elements", [element((20, 0, 0), kind)], version)
        repo.post("elements", [element((22 + (version == left), 5, 5), kind)], version)
    check(repo, repo.merged(left, right, resolved=True))
    check(repo, repo.merged(right, left, resolved=True))


def test_counts_that_only_one_branch_made(repo: Repo) -> None:
    """One branch counted what had been there before."""
    late = Repo(counted=False)
    late.write_voxels(np.full((EDGE, EDGE, EDGE), 5, np.uint64))
    late.post("elements", [element((x, 0, 0), "Gap") for x in range(9)])
    left, right = branches(late)
    late.follow("counts", "synapses")
    late.post("reload", version=right, name="counts")
    late.post("elements", [element((x, 1, 1), "Gap") for x in range(4)], right)
    merged = late.merged(left, right)
    assert late.get("count/5/Gap", merged, "counts")["Gap"] == 13


@pytest.mark.parametrize("seed", range(6))
def test_random_branches(repo: Repo, seed: int) -> None:
    random_ = random.Random(seed)
    left, right = branches(repo)
    free = {left: [(x, 7, 7) for x in range(0, BODIES * EDGE, 2)], right: [(x, 7, 7) for x in range(1, 96, 2)]}
    own = {left: [(x, 0, 0) for x in range(0, 96, 4)], right: [(x, 0, 0) for x in range(2, 96, 4)]}
    mine = {left: [1, 2, 3], right: [4, 5, 6]}  # bodies are changed by one branch only, else their index is in conflict
    for _ in range(14):
        version = random_.choice((left, right))
        what = random_.randrange(5)
        if what == 0 and own[version]:
            x, y, z = own[version].pop(random_.randrange(len(own[version])))
            repo.call(f"element/{x}_{y}_{z}", "DELETE", version=version)
        elif what == 1 and own[version]:
            x, y, z = own[version].pop(random_.randrange(len(own[version])))
            to = free[version].pop(random_.randrange(len(free[version])))
            repo.post(f"move/{x}_{y}_{z}/" + "_".join(map(str, to)), version=version)
        elif what == 2:
            places = [free[version].pop(random_.randrange(len(free[version]))) for _ in range(3)]
            repo.post("elements", [element(place, random_.choice(KINDS)) for place in places], version)
        elif what == 3 and len(mine[version]) > 1:
            other = mine[version].pop(random_.randrange(1, len(mine[version])))
            repo.edit("merge", [mine[version][0], other], version)
        else:
            block = random_.randrange(3) * 2 + (version == left)  # even blocks of one, odd ones of the other
            voxels = np.full((EDGE, EDGE, EDGE), block + 1, np.uint64)
            voxels[:, :4] = 20 + block
            repo.write_voxels(voxels, (block * EDGE, 0, 0), version)
    check(repo, left)
    check(repo, right)
    merged = repo.merged(*random_.sample((left, right), 2))
    check(repo, merged)
