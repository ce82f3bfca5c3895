"""The loops behind the sample brain, against slow and obvious versions."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fascicle.kernels.brain_growth import fill_space, grow_neurites, strays


def _strays_slowly(labels: np.ndarray) -> set[int]:
    waiting = {tuple(point) for point in np.argwhere(labels > 0).tolist()}
    parts: dict[int, list[list[int]]] = {}
    while waiting:
        start = min(waiting)
        waiting.discard(start)
        stack, part = [start], []
        while stack:
            z, y, x = stack.pop()
            part.append(int(np.ravel_multi_index((z, y, x), labels.shape)))
            for near in ((z - 1, y, x), (z + 1, y, x), (z, y - 1, x), (z, y + 1, x), (z, y, x - 1), (z, y, x + 1)):
                if near in waiting and labels[near] == labels[start]:
                    waiting.discard(near)
                    stack.append(near)
        parts.setdefault(int(labels[start]), []).append(part)
    lost: set[int] = set()
    for found in parts.values():
        largest = max(found, key=lambda part: (len(part), -min(part)))
        lost.update(*(part for part in found if part is not largest))
    return lost


@settings(max_examples=60, deadline=None)
@given(arrays(np.int32, st.tuples(*[st.integers(1, 6)] * 3), elements=st.integers(-1, 3)))
def test_strays_are_all_but_the_largest_part(labels: np.ndarray) -> None:
    assert set(strays(labels).tolist()) == _strays_slowly(labels)


def test_space_goes_to_the_nearest_of_equal_nodes() -> None:
    nodes = np.array([[4, 4, 4], [12, 20, 24]], np.float32)
    owner = fill_space(nodes, np.array([4, 4], np.float32), (12, 14, 16), 20.0)
    centres = np.stack(np.meshgrid(*(2 * np.arange(n) + 1 for n in (12, 14, 16)), indexing="ij"), -1)
    distance = np.linalg.norm(centres[..., None, :] - nodes, axis=-1)
    clear = np.abs(distance[..., 0] - distance[..., 1]) > 1.0
    np.testing.assert_array_equal(owner[clear], distance.argmin(-1)[clear])


def test_space_far_from_every_node_stays_empty() -> None:
    owner = fill_space(np.array([[4, 4, 4]], np.float32), np.array([3], np.float32), (20, 20, 20), 2.0)
    assert owner[2, 2, 2] == 0
    assert owner[15, 15, 15] == -1


def test_neurites_keep_apart() -> None:
    capacity = 4000
    nodes, radii = np.empty((capacity, 3), np.float32), np.empty(capacity, np.float32)
    neurite, parent, branch = (np.empty(capacity, np.int32) for _ in range(3))
    count, found = grow_neurites(
        np.array([5], np.uint64), (64, 64, 64), 200, 8.0, 3.0, nodes, radii, neurite, parent, branch
    )
    nodes, radii, neurite, parent = nodes[:count], radii[:count], neurite[:count], parent[:count]
    assert found == neurite.max() > 3
    apart = np.linalg.norm(nodes[:, None] - nodes[None], axis=-1)
    others = neurite[:, None] != neurite[None]
    assert np.min((apart / np.maximum(radii[:, None], radii[None]))[others]) > 0.9
    children = parent >= 0
    np.testing.assert_array_equal(neurite[children], neurite[parent[children]])
    assert np.all(parent[children] < np.flatnonzero(children))
