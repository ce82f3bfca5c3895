"""The spatial index: each annotation at one level, in every cell that it touches, in random order."""

from __future__ import annotations

import time
from itertools import pairwise

import msgspec
import numpy as np
import pytest
from test_annotations import make_info

from fascicle.formats import annotation_index as ix
from fascicle.formats.annotations import Columns, Lists, decode_list, decode_single, starts_of
from fascicle.formats.sharding import morton_code

LOW, HIGH = (0.0, 0.0, 0.0), (1000.0, 500.0, 250.0)


def some(count: int, seed: int = 0) -> np.ndarray:
    """Points, most of them in a corner."""
    noise = np.random.default_rng(seed)
    return noise.random((count, 3)) ** 3 * HIGH


def test_levels_of_points() -> None:
    places = some(20_000)
    plan = ix.plan(LOW, HIGH, places, limit=200)
    columns = Columns(np.arange(20_000, dtype=np.uint64), places[:, None].astype("f4"))
    cells = ix.listed(plan, make_info("POINT"), columns)
    assert len(plan) > 3
    assert plan.grids[0].shape == (1, 1, 1)
    assert plan.grids[1].shape == (2, 1, 1)
    assert plan.grids[2].shape == (4, 2, 1)  # then cells are cubes
    assert plan.grids[3].shape == (8, 4, 2)
    everyone = np.concatenate([rows for _, _, rows in cells])
    assert sorted(everyone.tolist()) == list(range(20_000))  # each once
    for level, cell, rows in cells:
        low, high = plan.grids[level].span(cell)
        assert ((places[rows] >= low - 1e-3) & (places[rows] <= high + 1e-3)).all()
    for most, limit in zip(cells.counted(len(plan))[:-1], plan.limits[:-1], strict=True):
        assert limit == 200
        assert 100 < most < 300
    coarse = next(rows for level, _, rows in cells if level == 0)
    # The first of a list are as good a sample as any: they are not sorted along an axis.
    half = places[coarse[: len(coarse) // 2]].mean(axis=0), places[coarse[len(coarse) // 2 :]].mean(axis=0)
    assert np.abs(half[0] - half[1]).max() < 100
    assert abs(places[coarse].mean() / places.mean() - 1) < 0.25


def test_the_same_each_time_and_in_parts() -> None:
    places = some(3000)
    ids = np.random.default_rng(5).permutation(3000).astype(np.uint64)
    plan = ix.plan(LOW, HIGH, places, limit=50)
    info = make_info("POINT")
    whole = ix.listed(plan, info, Columns(ids, places[:, None].astype("f4")))
    lists = {(level, cell): ids[rows].tolist() for level, cell, rows in whole}
    order = np.random.default_rng(6).permutation(3000)
    shuffled = ix.listed(plan, info, Columns(ids[order], places[order][:, None].astype("f4")))
    assert {(level, cell): ids[order][rows].tolist() for level, cell, rows in shuffled} == lists
    other = ix.listed(plan, info, Columns(ids, places[:, None].astype("f4")), seed=1)
    assert {(level, cell): ids[rows].tolist() for level, cell, rows in other} != lists
    level = 2
    first, last = plan.window(level)
    chance = ix.priorities(ids)
    mine = np.flatnonzero((chance >= first) & (chance <= last))
    assert sorted(ids[mine].tolist()) == sorted(i for (at, _), found in lists.items() if at == level for i in found)


def brute(grid: ix.Grid, first: np.ndarray, second: np.ndarray) -> set[tuple[int, ...]]:
    """The cells of a segment by looking at very many points of it."""
    t = np.linspace(0, 1, 4_000)[:, None]
    return set(map(tuple, grid.cells(first + t * (second - first)).tolist()))


@pytest.mark.parametrize("seed", range(4))
def test_lines(seed: int) -> None:
    noise = np.random.default_rng(seed)
    grid = ix.Grid(np.zeros(3), np.array([50.0, 40.0, 30.0]), (10, 8, 6))
    ends = noise.random((12, 2, 3)) * [500, 320, 180]
    ends[0, 1] = ends[0, 0]  # no way at all
    ends[1, 1, 1:] = ends[1, 0, 1:]  # along an axis
    rows, cells = ix.touched(grid, "LINE", Columns(np.arange(12, dtype=np.uint64), ends))
    for i in range(12):
        assert brute(grid, *ends[i]) == set(map(tuple, cells[rows == i].tolist()))
    joined = Lists(ends.reshape(-1, 3), starts_of(np.full(4, 6)))
    rows, cells = ix.touched(grid, "POLYLINE", Columns(np.arange(4, dtype=np.uint64), joined))
    for i in range(4):
        points = joined.row(i)
        expected = set().union(*(brute(grid, a, b) for a, b in pairwise(points)))
        found = list(map(tuple, cells[rows == i].tolist()))
        assert set(found) == expected
        assert len(found) == len(expected)


def test_boxes_and_ellipsoids() -> None:
    grid = ix.Grid(np.zeros(2), np.array([10.0, 10.0]), (10, 10))
    one = np.arange(1, dtype=np.uint64)
    corner = np.array([[[35.0, 15.0], [12.0, 29.0]]], "f4")  # corners in any order
    _, cells = ix.touched(grid, "AXIS_ALIGNED_BOUNDING_BOX", Columns(one, corner))
    assert set(map(tuple, cells.tolist())) == {(x, y) for x in (1, 2, 3) for y in (1, 2)}
    ball = np.array([[[50.0, 50.0], [14.0, 14.0]]], "f4")
    _, cells = ix.touched(grid, "ELLIPSOID", Columns(one, ball))
    found = set(map(tuple, cells.tolist()))
    assert (3, 3) not in found  # its nearest corner is 14.1 away
    assert {(3, 4), (4, 3), (4, 4), (5, 5), (6, 5), (5, 6)} <= found
    flat = np.array([[[55.0, 55.0], [0.0, 20.0]]], "f4")
    _, cells = ix.touched(grid, "ELLIPSOID", Columns(one, flat))
    assert set(map(tuple, cells.tolist())) == {(5, y) for y in (3, 4, 5, 6, 7)}


def test_outside_of_the_grid_and_at_one_place() -> None:
    grid = ix.Grid(np.zeros(3), np.full(3, 10.0), (4, 4, 4))
    ends = np.array([[[-50, 5, 5], [-5, 25, 5]], [[90, 90, 0], [99, 20, 0]]], "f4")
    rows, _ = ix.touched(grid, "LINE", Columns(np.arange(2, dtype=np.uint64), ends))
    assert set(rows.tolist()) == {0, 1}
    heap = np.zeros((50_000, 3))
    plan = ix.plan((0, 0, 0), (1, 1, 1), heap, limit=10)
    assert len(plan) == 1
    assert plan.limits == (50_000,)
    empty = ix.plan(LOW, HIGH, np.empty((0, 3)))
    assert len(empty) == 1
    assert empty.described()[0].limit == 1
    nothing = ix.listed(empty, make_info("POINT"), Columns(np.empty(0, np.uint64), np.empty((0, 1, 3), "f4")))
    assert list(nothing) == []


def test_weights_count_as_annotations() -> None:
    places = np.round(some(5000) / 20) * 20
    once, counts = np.unique(places, axis=0, return_counts=True)
    first = ix.plan(LOW, HIGH, places, limit=100)
    second = ix.plan(LOW, HIGH, once, counts.astype(np.int64), limit=100)
    assert first.thresholds == second.thresholds
    assert first.limits == second.limits


def test_units_make_cells_cubes() -> None:
    plan = ix.plan((0, 0, 0), (1024, 1024, 128), some(9000) % 128, scales=(4, 4, 40), limit=100)
    shapes = [grid.shape for grid in plan.grids]
    assert shapes[1] == (1, 1, 2) or shapes[1][2] >= 1
    edges = plan.grids[-1].chunk * [4, 4, 40]
    assert edges.max() / edges.min() < 2.1


def test_by_related() -> None:
    related = Lists.of([[7, 9], [], [7], [9, 1]])
    columns = Columns(np.arange(4, dtype=np.uint64), np.zeros((4, 1, 3), "f4"), related=(related,))
    found = {one: rows.tolist() for one, rows in ix.by_related(columns, 0).items()}
    assert found == {1: [3], 7: [0, 2], 9: [0, 3]}


def test_a_million_points() -> None:
    places = some(1_000_000)
    began = time.process_time()
    plan = ix.plan(LOW, HIGH, places, limit=1000)
    columns = Columns(np.arange(1_000_000, dtype=np.uint64), places[:, None].astype("f4"))
    cells = ix.listed(plan, make_info("POINT"), columns)
    assert cells.rows.starts[-1] == 1_000_000
    assert time.process_time() - began < 15


def test_entries() -> None:
    """A whole set as objects says the same three times: by id, by related object, in space."""
    places = some(3000)
    noise = np.random.default_rng(9)
    ids = noise.permutation(1 << 20)[:3000].astype(np.uint64)
    related = Lists.of(noise.integers(1, 40, (3000, 2)).tolist())
    columns = Columns(ids, places[:, None].astype("f4"), related=(related,))
    plan = ix.plan(LOW, HIGH, places, limit=100)
    info = make_info("POINT", relationships=1)
    cells = ix.listed(plan, info, columns)
    info = msgspec.structs.replace(
        info, lower_bound=LOW, upper_bound=HIGH, spatial=plan.described(cells.counted(len(plan)))
    )
    found: dict[str, list[ix.Entry]] = {}
    for entry in ix.entries(info, columns, cells):
        found.setdefault(entry.directory, []).append(entry)
    assert set(found) == {"by_id", "rel0", *(level.key for level in info.spatial)}
    for listed in found.values():
        keys = [entry.key for entry in listed]
        assert keys == sorted(set(keys))
    objects: dict[int, list[int]] = {}
    for entry in found["by_id"]:
        assert entry.name == str(entry.key)
        objects[entry.key] = decode_single(info, entry.key, entry.data).related[0].values.tolist()
    assert set(objects) == set(ids.tolist())
    for entry in found["rel0"]:
        expected = sorted(one for one, values in objects.items() for value in values if value == entry.key)
        assert sorted(decode_list(info, entry.data).ids.tolist()) == expected
    in_space = []
    for level in info.spatial:
        for entry in found[level.key]:
            cell = tuple(map(int, entry.name.split("_")))
            assert morton_code(cell, level.grid_shape) == entry.key
            some_ids = decode_list(info, entry.data).ids.tolist()
            assert len(some_ids) <= level.limit
            in_space += some_ids
    assert sorted(in_space) == sorted(ids.tolist())
