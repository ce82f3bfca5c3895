"""Cutting a region into boxes of about equal size, for programs that share out work.

Two ways, with the rules and the oddities that clients know from DVID (`datatype/roi` of its sources): a regular one
with cubes of `n` blocks, and an optimized one whose boxes leave out gaps along x. Coordinates are blocks; triples that
are shown are x, y, z.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fascicle.datatypes.roi.spans import INT32_MAX, INT32_MIN, Spans
from fascicle.datatypes.voxel_requests import Triple
from fascicle.errors import BadRequest

MOST_CELLS = 2_000_000
"""More boxes than this are not made for one request."""

I64 = NDArray[np.int64]


@dataclass(slots=True)
class Subvolume:
    """A box of blocks, both corners included."""

    low: Triple
    high: Triple
    total: int
    active: int
    absorbed: bool = False
    """It has grown by what was left of a box with a gap: its last voxel is then shown as that block's first one."""

    def as_json(self, block_size: Triple) -> dict[str, Any]:
        grown = 0 if self.absorbed else 1
        return {
            "MinPoint": [low * size for low, size in zip(self.low, block_size, strict=True)],
            "MaxPoint": [(high + grown) * size - grown for high, size in zip(self.high, block_size, strict=True)],
            "MinChunk": list(self.low),
            "MaxChunk": list(self.high),
            "TotalBlocks": self.total,
            "ActiveBlocks": self.active,
        }


@dataclass(slots=True)
class Partition:
    """Boxes in the order z, y, x, and counts of blocks over all boxes, those without a block inside included."""

    low: Triple
    high: Triple
    total: int = 0
    active: int = 0
    subvolumes: list[Subvolume] = field(default_factory=list)
    cells: int = 0

    @classmethod
    def of(cls, spans: Spans) -> Partition:
        if not len(spans):
            return cls((0, 0, INT32_MAX), (0, 0, INT32_MIN))
        low_y, low_x = min(0, int(spans[:, 1].min())), min(0, int(spans[:, 2].min()))
        high_y, high_x = max(0, int(spans[:, 1].max())), max(0, int(spans[:, 3].max()))
        return cls((low_x, low_y, int(spans[0, 0])), (high_x, high_y, int(spans[-1, 0])))

    def count_cells(self, more: int) -> None:
        """Raises BadRequest once there are too many."""
        self.cells += more
        self.expect_cells(0)

    def expect_cells(self, more: int) -> None:
        """Raises BadRequest if there would be too many with at least so many more, before any of them is made."""
        if self.cells + more > MOST_CELLS:
            raise BadRequest(f"this region would be cut into more than {MOST_CELLS} boxes: use a larger batchsize")

    def as_json(self, block_size: Triple) -> dict[str, Any]:
        return {
            "NumTotalBlocks": self.total,
            "NumActiveBlocks": self.active,
            "NumSubvolumes": len(self.subvolumes),
            "ROI": {"MinChunk": list(self.low), "MaxChunk": list(self.high)},
            "Subvolumes": [subvolume.as_json(block_size) for subvolume in self.subvolumes],
        }


class _Coverage:
    """How many blocks the spans of a row of boxes have, counted along x; overlapping spans count twice."""

    def __init__(self, x0: I64, x1: I64) -> None:
        self.starts = np.sort(x0)
        self.ends = np.sort(x1 + 1)
        self._starts_sum = np.append(0, np.cumsum(self.starts))
        self._ends_sum = np.append(0, np.cumsum(self.ends))

    def below(self, x: I64) -> I64:
        """Blocks of spans whose x is less than each of some x, i64[n]."""
        begun, over = np.searchsorted(self.starts, x), np.searchsorted(self.ends, x)
        return np.asarray((begun - over) * x - self._starts_sum[begun] + self._ends_sum[over], np.int64)

    def between(self, first: int, last: int) -> int:
        """Blocks from x `first` to `last`, both included."""
        low, high = self.below(np.array([first, last + 1])).tolist()
        return int(high - low)

    def runs(self) -> tuple[list[int], list[int]]:
        """First and last x of the runs that spans cover without a gap, ascending."""
        # Sorted alone, starts and ends give the same union: a run ends where as many spans are over as have begun.
        ends = self.ends
        new = np.append(True, self.starts[1:] > ends[:-1])
        last = np.append(new[1:], True)
        return self.starts[new].tolist(), (ends[last] - 1).tolist()


def _groups(numbers: I64) -> list[tuple[int, slice]]:
    """(number, where it stands) of equal neighbours in ascending numbers."""
    edges = np.flatnonzero(np.diff(numbers)) + 1
    starts = [0, *edges.tolist()]
    return [
        (int(numbers[start]), slice(start, stop))
        for start, stop in zip(starts, [*starts[1:], len(numbers)], strict=True)
    ]


def regular(spans: Spans, n: int) -> Partition:
    """Cubes of n blocks, laid so that what is too much on both sides is about equal; only those with blocks are listed.

    `spans` are i32[k, 4], ascending. Raises BadRequest for too many boxes.
    """
    partition = Partition.of(spans)
    if not len(spans):
        return partition
    wide = spans.astype(np.int64)
    first_z = int(wide[0, 0]) - (int(wide[-1, 0] - wide[0, 0]) + 1) % n // 2
    for layer, at in _groups((wide[:, 0] - first_z) // n):
        in_layer = wide[at]
        in_layer = in_layer[np.argsort(in_layer[:, 1], kind="stable")]
        first_y = _first(in_layer[:, 1], in_layer[:, 1], n)[0]
        for row, of_row in _groups((in_layer[:, 1] - first_y) // n):
            corner = (first_y + row * n, first_z + layer * n)
            _add_cubes(partition, in_layer[of_row, 2], in_layer[of_row, 3], corner, n)
    return partition


def _first(low: I64, high: I64, n: int) -> tuple[int, int]:
    """Where cells of n begin along an axis, and how many there are."""
    least, most = int(low.min()), int(high.max())
    left_over = (most - least + 1) % n
    start = least - left_over // 2
    return start, (most + left_over - left_over // 2 - start) // n + 1


def _add_cubes(partition: Partition, x0: I64, x1: I64, corner_yz: tuple[int, int], n: int) -> None:
    start, cells = _first(x0, x1, n)
    partition.count_cells(cells)
    edges = start + n * np.arange(cells + 1, dtype=np.int64)
    counts = np.diff(_Coverage(x0, x1).below(edges))
    partition.total += cells * n**3
    partition.active += int(counts.sum())
    y, z = corner_yz
    used = np.flatnonzero(counts)
    for x, active in zip(edges[used].tolist(), counts[used].tolist(), strict=True):
        partition.subvolumes.append(Subvolume((x, y, z), (x + n - 1, y + n - 1, z + n - 1), n**3, active))


def optimized(spans: Spans, n: int) -> Partition:
    """Boxes of n or n + 1 blocks along each axis that skip gaps along x.

    What lies before a gap joins the box listed before. `spans` are i32[k, 4], ascending. Raises BadRequest for too
    many boxes.
    """
    partition = Partition.of(spans)
    if not len(spans):
        return partition
    wide = spans.astype(np.int64)
    least, most = int(wide[0, 0]), int(wide[-1, 0])
    # Layers are one block higher as long as blocks are left over, the first one excepted.
    for z0, z1 in _stretches(partition, least, most, n, first_is_higher=False):
        low, high = np.searchsorted(wide[:, 0], (z0, z1 + 1)).tolist()
        if low == high:
            continue
        in_layer = wide[low:high]
        in_layer = in_layer[np.argsort(in_layer[:, 1], kind="stable")]
        for y0, y1 in _stretches(partition, int(in_layer[0, 1]), int(in_layer[-1, 1]), n):
            first, last = np.searchsorted(in_layer[:, 1], (y0, y1 + 1)).tolist()
            if first < last:
                _add_boxes(partition, in_layer[first:last, 2], in_layer[first:last, 3], (y0, y1), (z0, z1), n)
    return partition


def _stretches(
    partition: Partition, least: int, most: int, n: int, first_is_higher: bool = True
) -> Iterator[tuple[int, int]]:
    """First and last block of stretches of n blocks, or n + 1 as long as blocks are left over."""
    left_over = (most - least + 1) % n
    higher = first_is_higher
    start = least
    partition.expect_cells((most - least + 1) // (n + 1))
    while start <= most:
        partition.count_cells(1)
        end = start + n - 1
        if higher and left_over:
            end, left_over = end + 1, left_over - 1
        higher = True
        yield start, end
        start = end + 1


def _add_boxes(
    partition: Partition, x0: I64, x1: I64, of_y: tuple[int, int], of_z: tuple[int, int], n: int
) -> None:
    coverage = _Coverage(x0, x1)
    starts, ends = coverage.runs()
    area = (of_y[1] - of_y[0] + 1) * (of_z[1] - of_z[0] + 1)
    start, most = starts[0], ends[-1]
    covered = sum(ends) - sum(starts) + len(starts)
    partition.expect_cells(covered // (n + 1))
    left_over = (most - start + 1) % n
    while start <= most:
        partition.count_cells(1)
        end = start + n - 1
        if left_over:
            end, left_over = end + 1, left_over - 1
        gap = _longest_gap(starts, ends, start, end)
        last = end if gap is None else gap[0] - 1
        if last >= start:
            total, active = (last - start + 1) * area, coverage.between(start, last)
            partition.total += total
            partition.active += active
            before = partition.subvolumes[-1] if gap is not None and partition.subvolumes else None
            if before is None:
                corners = (start, of_y[0], of_z[0]), (last, of_y[1], of_z[1])
                partition.subvolumes.append(Subvolume(*corners, total, active))
            else:
                before.high, before.absorbed = (last, of_y[1], of_z[1]), True
                before.total += total
                before.active += active
        start = (end if gap is None else gap[1]) + 1


def _longest_gap(starts: list[int], ends: list[int], first: int, last: int) -> tuple[int, int] | None:
    """The longest stretch of first..last outside of all runs, the first one of several; None if there is none."""
    best: tuple[int, int] | None = None
    at = first
    run = bisect_left(ends, first)
    while at <= last:
        stop = starts[run] - 1 if run < len(starts) else last
        stop = min(stop, last)
        if stop >= at and (best is None or stop - at > best[1] - best[0]):
            best = (at, stop)
        if run >= len(starts):
            break
        at, run = ends[run] + 1, run + 1
    return best
