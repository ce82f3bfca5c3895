"""Nodes and centrelines against slow versions of the same."""

from __future__ import annotations

import heapq
import itertools
from dataclasses import dataclass

import numpy as np
import pytest

from fascicle.kernels import centrelines, skeleton_graph
from fascicle.kernels.arrays import frozen
from fascicle.kernels.distance import label_distances
from fascicle.kernels.label_components import label_components

STEPS = np.array([3.0, 1.0, 1.0])


@dataclass
class Scene:
    """Blobs, and the nodes in them."""

    pieces: np.ndarray
    depths: np.ndarray
    cell: np.ndarray
    first: np.ndarray
    owner: np.ndarray
    voxel: np.ndarray
    deep: np.ndarray

    @property
    def places(self) -> np.ndarray:
        return np.stack(np.unravel_index(self.voxel, self.pieces.shape), 1)

    def trace(self, targets: np.ndarray, scale: float, constant: float) -> tuple[np.ndarray, ...]:
        count = int(self.pieces.max())
        targets = targets[np.argsort(self.owner[targets], kind="stable")]
        starts = np.searchsorted(self.owner[targets], np.arange(count + 2)).astype(np.int64)
        found: tuple[np.ndarray, ...] = centrelines.trace(
            np.array(self.pieces.shape), self.cell, STEPS, self.first, self.owner, self.voxel, self.deep, count,
            targets, starts, scale, constant, 1e9,
        )  # fmt: skip
        return found


def scene(seed: int, cell: tuple[int, int, int]) -> Scene:
    rough = np.random.default_rng(seed).integers(0, 4, (4, 5, 6))
    labels = np.kron(rough, np.ones((3, 4, 4), int))[1:, 2:, :-1].astype(np.uint64)
    pieces, depths = np.empty(labels.shape, np.int32), np.empty(labels.shape, np.float32)
    label_components(frozen(labels), frozen(np.zeros(0, np.uint64)), 1, np.zeros(6, np.uint8), pieces)
    label_distances(pieces, STEPS, depths)
    cells = np.array(cell)
    return Scene(pieces, depths, cells, *centrelines.make_nodes(pieces, depths, cells))


@pytest.mark.parametrize("cell", [(1, 1, 1), (1, 2, 2), (2, 4, 3)])
def test_nodes_are_the_deepest_voxels_of_cells(cell: tuple[int, int, int]) -> None:
    there = scene(1, cell)
    expected: dict[tuple[int, ...], tuple[float, int]] = {}
    for i, at in enumerate(np.ndindex(there.pieces.shape)):
        piece = int(there.pieces[at])
        if piece:
            key = (*(a // c for a, c in zip(at, cell, strict=True)), piece)
            depth = float(there.depths[at])
            if key not in expected or depth > expected[key][0]:
                expected[key] = (depth, i)
    found = {
        (*(place // there.cell).tolist(), int(piece)): (float(deep), int(voxel))
        for place, piece, deep, voxel in zip(there.places, there.owner, there.deep, there.voxel, strict=True)
    }
    assert found == expected
    grid = -(-np.array(there.pieces.shape) // there.cell)
    cells = np.ravel_multi_index((there.places // there.cell).T, grid)
    assert np.array_equal(np.searchsorted(cells, np.arange(grid.prod() + 1)), there.first)
    assert np.array_equal(
        skeleton_graph.nodes_of(there.first, there.owner, cells, there.owner), np.arange(len(there.owner))
    )


def cheapest(there: Scene, root: int, constant: float) -> dict[int, float]:
    """What the way from a root to each node of its piece costs."""
    cells: dict[tuple[int, ...], list[int]] = {tuple(place): [] for place in (there.places // there.cell).tolist()}
    for i, place in enumerate((there.places // there.cell).tolist()):
        cells[tuple(place)].append(i)
    price = np.maximum((constant / there.deep.astype(np.float64)) ** 3, 1e-12)
    places = there.places * STEPS
    costs = {root: 0.0}
    heap = [(0.0, root)]
    while heap:
        cost, node = heapq.heappop(heap)
        if cost > costs[node]:
            continue
        at = there.places[node] // there.cell
        for step in itertools.product((-1, 0, 1), repeat=3):
            for other in cells.get(tuple((at + step).tolist()), []):
                if there.owner[other] == there.owner[node]:
                    total = cost + np.linalg.norm(places[node] - places[other]) * (price[node] + price[other])
                    if total < costs.get(other, np.inf):
                        costs[other] = total
                        heapq.heappush(heap, (total, other))
    return costs


@pytest.mark.parametrize("seed", range(3))
def test_paths_are_the_cheapest(seed: int) -> None:
    there = scene(seed, (1, 2, 2))
    made, joined, numbers, _ = there.trace(np.arange(0, len(there.owner), 7), 1.0, 2.0)
    assert np.array_equal(np.flatnonzero(numbers >= 0), np.unique(made))
    assert np.array_equal(numbers[made], np.arange(len(made)))
    places = there.places * STEPS
    price = np.maximum((2.0 / there.deep.astype(np.float64)) ** 3, 1e-12)
    for root in np.flatnonzero(joined < 0):
        costs = cheapest(there, int(made[root]), 2.0)
        for i in np.flatnonzero(there.owner[made] == there.owner[made[root]]):
            total, at = 0.0, int(i)
            while joined[at] >= 0:
                a, b = made[at], made[joined[at]]
                total += float(np.linalg.norm(places[a] - places[b]) * (price[a] + price[b]))
                at = int(joined[at])
            assert at == root
            assert total == pytest.approx(costs[int(made[i])], rel=1e-4)


@pytest.mark.parametrize("seed", range(3))
def test_every_piece_is_covered_by_one_tree(seed: int) -> None:
    there = scene(seed, (1, 2, 2))
    forced = np.arange(3, len(there.owner), 11)
    made, joined, _, _ = there.trace(forced, 1.0, 2.0)
    assert (joined < 0).sum() == there.pieces.max()
    assert np.isin(forced, made).all()
    places = there.places * STEPS
    for piece in range(1, int(there.pieces.max()) + 1):
        own = made[there.owner[made] == piece]
        # nothing is left that is farther from all paths than what they cover, but for the step of the search
        nodes = np.flatnonzero(there.owner == piece)
        left = np.linalg.norm(places[nodes][:, None] - places[own][None], axis=2) - (there.deep[own] + 2.0)[None]
        assert left.min(axis=1).max() <= 1e-5


def test_nothing_forced_nothing_covered_twice() -> None:
    """A large constant: one path for each piece, from end to end."""
    there = scene(2, (1, 1, 1))
    _, joined, _, _ = there.trace(np.zeros(0, np.int64), 0.0, 1e6)
    assert len(joined) == there.pieces.max()
