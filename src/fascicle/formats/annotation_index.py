"""The spatial index of precomputed annotations: levels of grids, and which cell of which level lists an annotation.

Source: https://github.com/google/neuroglancer/blob/master/src/datasource/precomputed/annotations.md
A viewer adds up levels from coarse to fine, so each annotation is at one level, and each level is a random sample of
what the coarser ones have left: about as many as `limit` in its fullest cell. Cells that an annotation touches list it,
in random order.

Chance is a hash of an annotation's id and a seed. So an index is the same each time that it is made, the level of an
annotation can be told without the others, and any part of the index can be made alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fascicle.formats.annotation_info import AnnotationsInfo, Level
from fascicle.formats.annotations import Columns, Lists, encode_list, encode_singles, starts_of
from fascicle.formats.sharding import morton_codes

U64 = NDArray[np.uint64]
I64 = NDArray[np.int64]
F64 = NDArray[np.float64]
LIMIT = 1000
"""How many annotations the fullest cell of a level has, more or less, unless it is the last level."""
MOST_LEVELS = 24
_LEAST_CELL = 1.0
"""Cells are not made smaller than this, in coordinates: many annotations may be at one place."""
_COUNTED_CELLS = 1 << 22
_BATCH = 1 << 20
"""So many pairs of annotations and cells are looked at together."""


def priorities(ids: U64, seed: int = 0) -> U64:
    """Random numbers u64[n], the same for the same ids and seed: those of splitmix64."""
    with np.errstate(over="ignore"):
        mixed = ids.astype(np.uint64) + np.uint64((0x9E3779B97F4A7C15 * (seed + 1)) % (1 << 64))
        mixed = (mixed ^ mixed >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ mixed >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return mixed ^ mixed >> np.uint64(31)


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """The cells of one level."""

    lower: F64
    """Where the first cell begins f64[rank]"""
    chunk: F64
    """The size of a cell f64[rank]"""
    shape: tuple[int, ...]

    def cells(self, points: NDArray[Any]) -> I64:
        """The cells i64[n, rank] of points [n, rank]; those outside are in the nearest cell."""
        found = np.floor((points - self.lower) / self.chunk)
        return np.clip(found, 0, np.array(self.shape) - 1).astype(np.int64)

    def numbers(self, cells: I64) -> I64:
        """One number for each cell, in C order."""
        found: I64 = np.ravel_multi_index(tuple(cells.T), self.shape)
        return found

    def span(self, cell: Sequence[int]) -> tuple[F64, F64]:
        """Where a cell begins and ends."""
        low: F64 = self.lower + np.array(cell) * self.chunk
        return low, low + self.chunk


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """The levels of an index. Level i has the priorities from `thresholds[i - 1]` (or 0) to before `thresholds[i]`."""

    grids: tuple[Grid, ...]
    limits: tuple[int, ...]
    thresholds: tuple[int, ...]
    """The last one is 2^64."""

    def __len__(self) -> int:
        return len(self.grids)

    def levels_of(self, priorities: U64) -> I64:
        """The levels of annotations i64[n]."""
        inner = np.array(self.thresholds[:-1], np.uint64)
        return np.searchsorted(inner, priorities, "right").astype(np.int64)

    def window(self, level: int) -> tuple[int, int]:
        """The priorities of a level, first and last."""
        return (self.thresholds[level - 1] if level else 0), self.thresholds[level] - 1

    def described(self, limits: Sequence[int] | None = None) -> tuple[Level, ...]:
        """The levels as an info has them; `limits` are those that were counted, if they were."""
        return tuple(
            Level(
                key=f"spatial{i}",
                grid_shape=grid.shape,
                chunk_size=tuple(float(edge) for edge in grid.chunk),
                limit=max(1, limit),
            )
            for i, (grid, limit) in enumerate(zip(self.grids, limits or self.limits, strict=True))
        )


def plan(
    lower: Sequence[float],
    upper: Sequence[float],
    places: NDArray[Any],
    weights: I64 | None = None,
    *,
    scales: Sequence[float] = (),
    limit: int = LIMIT,
) -> Plan:
    """The levels for annotations at `places` [n, rank] between two corners.

    `weights` i64[n] says how many there are at each place, if not one. `scales` are the lengths of the units of the
    coordinates: axes are halved so that cells come as near to cubes as can be.
    """
    low = np.array(lower, np.float64)
    size = np.maximum(np.array(upper, np.float64) - low, _LEAST_CELL)
    units = np.array(scales if len(scales) else np.ones(len(low)), np.float64)
    shape = np.ones(len(low), np.int64)
    grids: list[Grid] = []
    limits: list[int] = []
    thresholds: list[int] = []
    share = 0.0
    while True:
        grid = Grid(low, size / shape, tuple(shape.tolist()))
        most = _fullest(grid, places, weights)
        more = min(1.0 - share, limit / max(most, 1))
        edges = grid.chunk * units
        halved = (edges > edges.max() / np.sqrt(2)) & (grid.chunk >= 2 * _LEAST_CELL)
        last = len(grids) + 1 == MOST_LEVELS or not halved.any() or float(np.prod(shape * 2.0)) > 2.0**62
        if share + more > 1 - 1e-9 or last:
            more = 1.0 - share
        grids.append(grid)
        limits.append(max(1, round(most * more)))
        share += more
        thresholds.append(min(int(share * 2.0**64), (1 << 64) - 1))
        if share >= 1.0 - 1e-12:
            thresholds[-1] = 1 << 64
            return Plan(tuple(grids), tuple(limits), tuple(thresholds))
        shape = np.where(halved, shape * 2, shape)


def _fullest(grid: Grid, places: NDArray[Any], weights: I64 | None) -> int:
    """How many annotations the fullest cell has."""
    if not len(places):
        return 0
    numbers = grid.numbers(grid.cells(places))
    if int(np.prod(grid.shape)) <= _COUNTED_CELLS:
        return int(np.bincount(numbers, weights).max())
    order = np.argsort(numbers)
    ordered = numbers[order]
    begins = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))
    counts = np.diff(np.append(begins, len(ordered))) if weights is None else np.add.reduceat(weights[order], begins)
    return int(counts.max())


# -- which cells


@dataclass(frozen=True, slots=True, eq=False)
class Cells:
    """The cells of an index that list something, by level and then in C order."""

    levels: I64
    """i64[cells]"""
    cells: I64
    """i64[cells, rank]"""
    rows: Lists
    """The annotations of each cell, in the order of their list."""

    def __iter__(self) -> Iterator[tuple[int, tuple[int, ...], I64]]:
        """(level, cell, annotations) one by one."""
        for i, (level, cell) in enumerate(zip(self.levels.tolist(), self.cells.tolist(), strict=True)):
            yield level, tuple(cell), self.rows.row(i)

    def counted(self, levels: int) -> list[int]:
        """How many annotations the fullest cell of each level has."""
        most = np.zeros(levels, np.int64)
        np.maximum.at(most, self.levels, self.rows.lengths)
        return [int(one) for one in most]


def listed(plan: Plan, info: AnnotationsInfo, columns: Columns, seed: int = 0) -> Cells:
    """Which annotations each cell lists, at all levels."""
    chance = priorities(columns.ids, seed)
    levels = plan.levels_of(chance)
    rank, at = info.rank, 0
    cells, rows, starts, at_levels = [np.empty((0, rank), np.int64)], [], [np.zeros(1, np.int64)], []
    for level, grid in enumerate(plan.grids):
        mine = np.flatnonzero(levels == level)
        some, touching = touched(grid, info.annotation_type, columns.take(mine))
        numbers = grid.numbers(touching)
        order = np.lexsort((chance[mine[some]], numbers))
        ordered = numbers[order]
        begins = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1]))[: len(ordered)])
        cells.append(touching[order[begins]])
        rows.append(mine[some[order]])
        starts.append(at + np.append(begins, len(order))[1:])
        at_levels.append(np.full(len(begins), level, np.int64))
        at += len(order)
    return Cells(np.concatenate(at_levels), np.concatenate(cells), Lists(np.concatenate(rows), np.concatenate(starts)))


def touched(grid: Grid, kind: str, columns: Columns) -> tuple[I64, I64]:
    """(rows i64[m], cells i64[m, rank]): every cell that an annotation touches, each once."""
    points = columns.points
    if isinstance(points, Lists):
        return _touched_by_lines(grid, points)
    if kind == "POINT":
        return np.arange(len(columns), dtype=np.int64), grid.cells(points[:, 0])
    first, second = points[:, 0].astype(np.float64), points[:, 1].astype(np.float64)
    if kind == "ELLIPSOID":
        return _pairs(grid, first - np.abs(second), first + np.abs(second), _in_ellipsoid, first, np.abs(second))
    if kind == "LINE":
        return _pairs(grid, np.minimum(first, second), np.maximum(first, second), _on_line, first, second)
    return _pairs(grid, np.minimum(first, second), np.maximum(first, second), None, first, second)


def _touched_by_lines(grid: Grid, lines: Lists) -> tuple[I64, I64]:
    """As `touched`, of polylines: the cells of their segments."""
    owners = np.repeat(np.arange(len(lines.lengths)), lines.lengths)
    inner = np.flatnonzero(owners[1:] == owners[:-1])
    first, second = lines.values[inner].astype(np.float64), lines.values[inner + 1].astype(np.float64)
    segments, cells = _pairs(grid, np.minimum(first, second), np.maximum(first, second), _on_line, first, second)
    rows = owners[inner][segments]
    once = np.unique(np.column_stack((rows, cells)), axis=0)
    return once[:, 0], once[:, 1:]


def _pairs(grid: Grid, low: F64, high: F64, test: Any, first: F64, second: F64) -> tuple[I64, I64]:
    """(rows, cells) of boxes, without the cells that a test refuses."""
    begin, end = grid.cells(low), grid.cells(high)
    shape = end - begin + 1
    counts = shape.prod(axis=1)
    rows_found: list[I64] = []
    cells_found: list[I64] = []
    bounds = np.cumsum(counts)
    start = 0
    while start < len(counts):
        base = int(bounds[start - 1]) if start else 0
        stop = max(start + 1, int(np.searchsorted(bounds, base + _BATCH, "right")))
        mine = counts[start:stop]
        rows = start + np.repeat(np.arange(stop - start), mine)
        within = np.arange(int(mine.sum())) - np.repeat(starts_of(mine)[:-1], mine)
        cells = np.empty((len(rows), shape.shape[1]), np.int64)
        for axis in range(shape.shape[1] - 1, -1, -1):
            within, cells[:, axis] = np.divmod(within, shape[rows, axis])
        cells += begin[rows]
        single = mine[rows - start] == 1
        if test is not None and not single.all():
            kept = single | test(grid, cells, first[rows], second[rows])
            rows, cells = rows[kept], cells[kept]
        rows_found.append(rows)
        cells_found.append(cells)
        start = stop
    if not rows_found:
        return np.empty(0, np.int64), np.empty((0, len(grid.shape)), np.int64)
    lost = np.ones(len(counts), np.bool_)  # what lies outside of the grid is listed somewhere, too
    for rows in rows_found:
        lost[rows] = False
    outside = np.flatnonzero(lost)
    return np.concatenate([*rows_found, outside]), np.concatenate([*cells_found, grid.cells(first[outside])])


def _on_line(grid: Grid, cells: I64, first: F64, second: F64) -> NDArray[np.bool_]:
    """Whether segments touch cells: the stretches in which they are between a cell's ends overlap on all axes."""
    low = grid.lower + cells * grid.chunk
    high = low + grid.chunk
    way = second - first
    still = way == 0
    safe = np.where(still, 1.0, way)
    enter, leave = (low - first) / safe, (high - first) / safe
    enter, leave = np.minimum(enter, leave), np.maximum(enter, leave)
    inside = (first >= low) & (first <= high)
    enter = np.where(still, np.where(inside, 0.0, 2.0), enter)
    leave = np.where(still, np.where(inside, 1.0, -1.0), leave)
    touches: NDArray[np.bool_] = np.maximum(enter.max(axis=1), 0.0) <= np.minimum(leave.min(axis=1), 1.0) + 1e-12
    return touches


def _in_ellipsoid(grid: Grid, cells: I64, centre: F64, radii: F64) -> NDArray[np.bool_]:
    """Whether ellipsoids touch cells: the nearest point of the cell lies inside."""
    low = grid.lower + cells * grid.chunk
    nearest = np.clip(centre, low, low + grid.chunk)
    away = np.divide(nearest - centre, radii, out=np.zeros_like(centre), where=radii > 0)
    outside = (radii <= 0) & (nearest != centre)
    near: NDArray[np.bool_] = ((away**2).sum(axis=1) <= 1.0 + 1e-12) & ~outside.any(axis=1)
    return near


def by_related(columns: Columns, relationship: int) -> Mapping[int, I64]:
    """The rows of the annotations that each object is related to, by its id, ascending."""
    lists = columns.related[relationship]
    rows = np.repeat(np.arange(len(columns), dtype=np.int64), lists.lengths)
    order = np.argsort(lists.values, kind="stable")
    objects, begins = np.unique(lists.values[order], return_index=True)
    ends = np.append(begins[1:], len(order))
    ordered = rows[order]
    return {int(one): ordered[a:b] for one, a, b in zip(objects, begins, ends, strict=True)}


@dataclass(frozen=True, slots=True)
class Entry:
    """One object of a set of annotations."""

    directory: str
    """The `key` of its index."""
    key: int
    """Its number in a sharded index."""
    name: str
    """Its name in a directory of files."""
    data: bytes


def entries(info: AnnotationsInfo, columns: Columns, cells: Cells, seed: int = 0) -> Iterator[Entry]:
    """Everything that a set of annotations consists of but its info: index by index, in each by ascending key.

    Raises BadRequest if something does not fit the info.
    """
    data, starts = encode_singles(info, columns)
    for row in np.argsort(columns.ids, kind="stable").tolist():
        identifier = int(columns.ids[row])
        single = bytes(data[starts[row] : starts[row + 1]])
        yield Entry(info.by_id.key, identifier, str(identifier), single)
    chance = priorities(columns.ids, seed)
    for number, relationship in enumerate(info.relationships):
        for related, rows in by_related(columns, number).items():
            shuffled = columns.take(rows[np.argsort(chance[rows], kind="stable")])
            yield Entry(relationship.key, related, str(related), encode_list(info, shuffled))
    for level, described in enumerate(info.spatial):
        mine = np.flatnonzero(cells.levels == level)
        codes = morton_codes(cells.cells[mine], described.grid_shape)
        for at in np.argsort(codes, kind="stable").tolist():
            name = "_".join(map(str, cells.cells[mine[at]].tolist()))
            listed_here = columns.take(cells.rows.row(int(mine[at])))
            yield Entry(described.key, int(codes[at]), name, encode_list(info, listed_here))
