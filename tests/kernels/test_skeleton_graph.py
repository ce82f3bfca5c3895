"""Faces, spanning trees, pruning and orders on small graphs."""

from __future__ import annotations

import numpy as np
import pytest

from fascicle.kernels import skeleton_graph


def neighbours(edges: list[tuple[int, int]], count: int) -> tuple[np.ndarray, np.ndarray]:
    both = np.array(sorted([*edges, *((b, a) for a, b in edges)]), np.int64).reshape(-1, 2)
    return np.searchsorted(both[:, 0], np.arange(count + 1)), np.ascontiguousarray(both[:, 1])


def test_middles_of_faces() -> None:
    pieces = np.zeros((7, 9), np.int32)
    pieces[1:6, 1:4] = 1
    pieces[0, 5:9] = 2
    depths = np.zeros((7, 9), np.float32)
    depths[1:6, 1:4] = [[1, 1, 1], [1, 2, 1], [1, 2, 1], [1, 2, 1], [1, 1, 1]]
    depths[0, 5:9] = 1
    found = skeleton_graph.face_points(pieces, depths, np.array([40.0, 4.0]), 2)
    assert found[1].tolist() == [3, 2]
    assert found[2].tolist() == [0, 6]  # of two in the middle the first


@pytest.mark.parametrize("seed", range(5))
def test_spanning_forest(seed: int) -> None:
    random = np.random.default_rng(seed)
    edges = random.integers(0, 12, (15, 2))
    kept, tree = skeleton_graph.spanning_forest(edges, 12)
    groups = [{i} for i in range(12)]
    for (a, b), is_kept in zip(edges.tolist(), kept, strict=True):
        one = next(group for group in groups if a in group)
        two = next(group for group in groups if b in group)
        assert is_kept == (one is not two)
        if one is not two:
            groups.remove(two)
            one |= two
    assert all(tree[i] == min(group) for group in groups for i in group)


def test_pruning() -> None:
    # a line 0..6 along x; at 3 a branch 7, 8 upwards, at 4 another one, 9
    edges = [(i, i + 1) for i in range(6)] + [(3, 7), (7, 8), (4, 9)]
    positions = np.array([[i, 0, 0] for i in range(7)] + [[3, 1, 0], [3, 2, 0], [4, 1, 0]], float)
    starts, others = neighbours(edges, 10)
    radii = np.ones(10)

    def left(loose: list[int], constant: float) -> list[int]:
        flags = np.isin(np.arange(10), loose)
        return np.flatnonzero(~skeleton_graph.prune(starts, others, positions, 0.5 * radii + constant, flags)).tolist()

    assert left([], 100) == list(range(10))
    assert left([8, 9], 0.5) == [0, 1, 2, 3, 4, 5, 6, 7, 8]  # 1 is short, 2 is not
    assert left([8, 9], 1.5) == list(range(7))
    assert left([3, 7], 1.5) == list(range(10))  # not at an end
    # when the branches are gone the ends reach to each other: what is left is a tree of its own and stays
    assert left(list(range(10)), 100) == [0, 1, 2, 3, 4, 5, 6]


def test_a_long_branch_beside_another_one_goes_but_not_one_that_leaves() -> None:
    # from 0 two lines along x, 1..20 and 21..40; the second one 2 above the first one, or going up
    edges = [(i, i + 1) for i in range(20)] + [(0, 21), *((i, i + 1) for i in range(21, 40))] + [(0, 41)]
    line = np.array([[i, 0, 0] for i in range(21)] + [[i, 2, 0] for i in range(1, 21)] + [[-9, 0, 0]], float)
    starts, others = neighbours(edges, 42)
    loose = np.arange(42) == 40
    assert skeleton_graph.prune(starts, others, line, np.full(42, 3.0), loose)[21:41].all()
    line[21:41, 1] = np.arange(20)
    assert not skeleton_graph.prune(starts, others, line, np.full(42, 3.0), loose).any()


def test_of_two_short_ends_the_shorter_one_goes() -> None:
    edges = [(0, 1), (1, 2), (1, 3)]
    positions = np.array([[0, 0, 0], [9, 0, 0], [11, 0, 0], [9, 3, 0]], float)
    starts, others = neighbours(edges, 4)
    gone = skeleton_graph.prune(starts, others, positions, np.full(4, 5.0), np.array([0, 0, 1, 1], bool))
    assert gone.tolist() == [False, False, True, False]


def test_depth_first() -> None:
    edges = [(4, 2), (2, 0), (2, 1), (3, 5)]
    starts, others = neighbours(edges, 6)
    order, parents = skeleton_graph.depth_first(starts, others, np.array([5, 2, 0, 4]))
    assert order.tolist() == [5, 3, 2, 0, 1, 4]
    assert parents.tolist() == [-1, 0, -1, 2, 2, 2]
