"""Kinds of points counted per supervoxel: what they spare, and merged versions that disagree about them."""

from __future__ import annotations

import numpy as np
import pytest
from annotation_repo import EDGE, Repo, element

from fascicle.datatypes.annotation import following, kind_counts
from fascicle.datatypes.annotation.kind_counts import summed


@pytest.fixture
def repo() -> Repo:
    """Supervoxels 1 to 4, one in each block along x, all merged into body 1; 20 PreSyn in 2, 10 PostSyn in 3."""
    made = Repo()
    made.write_voxels((np.arange(4 * EDGE, dtype=np.uint64) // EDGE + 1)[None, None].repeat(EDGE, 0).repeat(EDGE, 1))
    made.edit("merge", [1, 2, 3, 4])
    made.post("elements", [element((EDGE + i % EDGE, i // EDGE, 0), "PreSyn") for i in range(20)])
    made.post("elements", [element((2 * EDGE + i, 0, 0), "PostSyn") for i in range(10)])
    return made


def count(repo: Repo, label: int, kind: str, version: int = 0) -> int:
    found: int = repo.get(f"count/{label}/{kind}", version, "counts")[kind]
    return found


def cleave(repo: Repo, body: int, supervoxels: list[int], version: int = 0) -> int:
    found: int = repo.edit(f"cleave/{body}", supervoxels, version)["CleavedLabel"]
    return found


def test_points_are_not_read_for_a_cleave(repo: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    def counted(*_: object) -> None:
        raise AssertionError("a cleave read the points that it moved")

    monkeypatch.setattr(following, "_counted", counted)
    new = cleave(repo, 1, [2, 4])
    assert (count(repo, new, "PreSyn"), count(repo, new, "PostSyn")) == (20, 0)
    assert (count(repo, 1, "PreSyn"), count(repo, 1, "PostSyn")) == (0, 10)
    repo.edit("merge", [1, new])
    assert (count(repo, 1, "AllSyn"), count(repo, new, "AllSyn")) == (30, 0)


def test_many_supervoxels_are_read_in_passing(repo: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kind_counts, "MOST_LOOKED_UP", 0)
    new = cleave(repo, 1, [2, 3])
    assert (count(repo, new, "PreSyn"), count(repo, new, "PostSyn")) == (20, 10)


def test_merged_versions_that_both_changed_a_supervoxel(repo: Repo) -> None:
    left, right = repo.child(repo.root), repo.child(repo.root, "side")
    repo.post("elements", [element((EDGE, 5, 5), "Gap")], left)
    repo.post("elements", [element((EDGE, 6, 6), "Note"), element((3 * EDGE, 1, 1), "Note")], right)
    merged = repo.merged(left, right)
    repo.post("reload", version=merged, name="counts")
    new = cleave(repo, 1, [2], merged)
    counts = [count(repo, new, kind, merged) for kind in ("PreSyn", "Gap", "Note")]
    assert counts == [20, 1, 1]
    # the next change of the supervoxel's points decides what is kept of it
    repo.post("elements", [element((EDGE, 7, 7), "Gap")], merged)
    kept, counted = repo.kinds_by_supervoxel(merged)
    assert kept == counted
    assert count(repo, new, "Gap", merged) == 2


def test_what_older_instances_lack_is_counted(repo: Repo) -> None:
    """An instance whose points were not counted from the first one on."""
    older = Repo()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kind_counts, "are_kept", lambda _: False)
        older.write_voxels(np.full((EDGE, EDGE, EDGE), 5, np.uint64))
        older.write_voxels(np.full((EDGE, EDGE, EDGE), 6, np.uint64), (EDGE, 0, 0))
        older.edit("merge", [5, 6])
        older.post("elements", [element((EDGE + 1, 1, 1), "Gap")])
        new = cleave(older, 5, [6])
        assert (count(older, new, "Gap"), count(older, 5, "Gap")) == (1, 0)


def test_sums() -> None:
    rng = np.random.default_rng(3)
    labels, kinds = rng.integers(1, 9, 200).astype(np.uint64), rng.integers(0, 5, 200).astype(np.uint8)
    signs = rng.choice([-1, 1], 200)
    unique, changes = summed(labels, kinds, signs)
    assert unique.tolist() == sorted(set(labels.tolist()))
    for label, row in zip(unique, changes, strict=True):
        assert row.tolist() == [int(signs[(labels == label) & (kinds == kind)].sum()) for kind in range(5)]
