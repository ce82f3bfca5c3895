"""Mappings that were posted by themselves: lists by body and counts go by the mapping, whatever the index of bodies."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from annotation_repo import EDGE, Repo, element, row_of_bodies

from fascicle.formats import mapping_ops

BODIES = 6


@pytest.fixture
def repo() -> Repo:
    """Supervoxels 1 to 6, one in each block along x, three points in each."""
    made = row_of_bodies(BODIES)
    made.post("elements", [element((x, 0, 0), "PreSyn") for x in range(0, BODIES * EDGE, 5)])
    return made


def post_mappings(repo: Repo, *pairs: tuple[int, int]) -> None:
    repo.edit("mappings", mapping_ops.encode((1, body, [supervoxel]) for supervoxel, body in pairs))


def check(repo: Repo) -> None:
    """Lists, counts and labels of voxels agree."""
    owners: dict[int, list[int]] = {}
    for x in range(0, BODIES * EDGE, 5):
        label = int(repo.voxels((1, 1, 1), (x, 0, 0))[0, 0, 0])
        owners.setdefault(label, []).append(x)
    for label in {*owners, *range(1, BODIES + 4)} - {0}:
        listed = sorted(each["Pos"][0] for each in repo.get(f"label/{label}"))
        assert listed == owners.get(label, []), label
        assert repo.get(f"count/{label}/PreSyn", name="counts")["PreSyn"] == len(listed), label
    inside = Counter({label: len([x for x in at if EDGE <= x < 4 * EDGE]) for label, at in owners.items() if label})
    wanted = sorted(((label, n) for label, n in inside.items() if n), key=lambda pair: (-pair[1], pair[0]))
    assert [(row["Label"], row["Size"]) for row in repo.get("top/99/PreSyn", name="inside")] == wanted


def test_lists_and_counts_follow_the_mapping(repo: Repo) -> None:
    post_mappings(repo, (2, 1), (3, 1), (4, 9))
    check(repo)
    assert len(repo.get("label/1")) == len(range(0, 3 * EDGE, 5))
    post_mappings(repo, (3, 0), (2, 2))
    check(repo)


def test_edits_of_bodies_whose_index_says_otherwise(repo: Repo) -> None:
    post_mappings(repo, (2, 1))
    repo.edit("merge", [5, 1])  # takes supervoxel 1 along; 2 stays mapped to 1
    check(repo)
    repo.edit("merge", [6, 2])  # the index of 2 has supervoxel 2, which is mapped to 1
    check(repo)
    repo.edit("renumber", [70, 5])
    check(repo)
    post_mappings(repo, (1, 3))
    repo.edit("cleave/70", [1])
    check(repo)


@pytest.mark.parametrize("seed", range(4))
def test_random_edits(repo: Repo, seed: int) -> None:
    random_ = random.Random(seed)
    bodies = list(range(1, BODIES + 1))
    for _ in range(8):
        if random_.random() < 0.5 or len(bodies) < 2:
            some = random_.sample(range(1, BODIES + 1), 2)
            post_mappings(repo, *[(supervoxel, random_.randrange(BODIES + 3)) for supervoxel in some])
        else:
            target, other = random_.sample(bodies, 2)
            repo.edit("merge", [target, other])
            bodies.remove(other)
        check(repo)
