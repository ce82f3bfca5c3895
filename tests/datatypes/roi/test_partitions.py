"""Partitions against the rules written down one by one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fascicle.datatypes.roi import partitions
from fascicle.datatypes.roi.spans import Spans, in_order
from fascicle.errors import BadRequest

SIZE = (32, 32, 32)
Row = tuple[int, int, int, int]

rows = st.lists(
    st.tuples(st.integers(-4, 9), st.integers(-4, 9), st.integers(-6, 12), st.integers(0, 6)), min_size=1, max_size=25
)


def as_spans(given_rows: list[Row]) -> Spans:
    return in_order(np.array([(z, y, x, x + more) for z, y, x, more in given_rows], np.int32))


def overlap(spans: list[Row], low: int, high: int) -> int:
    return sum(max(0, min(x1, high) - max(x0, low) + 1) for _, _, x0, x1 in spans)


def slow_regular(spans: list[Row], n: int) -> dict[str, Any]:
    """Cubes of n blocks: (low corner x, y, z, active) of those listed, and the totals."""
    least, most = spans[0][0], spans[-1][0]
    cells, total, active = [], 0, 0
    z = least - ((most - least + 1) % n) // 2
    while z <= most:
        layer = [span for span in spans if z <= span[0] < z + n]
        if layer:
            ymin, ymax = min(s[1] for s in layer), max(s[1] for s in layer)
            r = (ymax - ymin + 1) % n
            y = ymin - r // 2
            while y <= ymax + (r - r // 2):
                row = [span for span in layer if y <= span[1] < y + n]
                if row:
                    xmin, xmax = min(s[2] for s in row), max(s[3] for s in row)
                    rx = (xmax - xmin + 1) % n
                    x = xmin - rx // 2
                    while x <= xmax + (rx - rx // 2):
                        count = overlap(row, x, x + n - 1)
                        total += n**3
                        active += count
                        if count:
                            cells.append(((x, y, z), (x + n - 1, y + n - 1, z + n - 1), n**3, count))
                        x += n
                y += n
        z += n
    return {"total": total, "active": active, "cells": cells}


def slow_optimized(spans: list[Row], n: int) -> dict[str, Any]:
    """Boxes without gaps: what is listed, the totals."""
    least, most = spans[0][0], spans[-1][0]
    cells: list[list[Any]] = []
    total = active = 0
    rz, z, first_layer = (most - least + 1) % n, least, True
    while z <= most:
        height = n
        if not first_layer and rz > 0:
            height, rz = n + 1, rz - 1
        first_layer = False
        zend = z + height - 1
        layer = [span for span in spans if z <= span[0] <= zend]
        if layer:
            ymin, ymax = min(s[1] for s in layer), max(s[1] for s in layer)
            ry, y = (ymax - ymin + 1) % n, ymin
            while y <= ymax:
                width = n
                if ry > 0:
                    width, ry = n + 1, ry - 1
                yend = y + width - 1
                row = [span for span in layer if y <= span[1] <= yend]
                if row:
                    touched = {x for _, _, x0, x1 in row for x in range(x0, x1 + 1)}
                    xmin, xmax = min(touched), max(touched)
                    rx, x = (xmax - xmin + 1) % n, xmin
                    while x <= xmax:
                        length = n
                        if rx > 0:
                            length, rx = n + 1, rx - 1
                        columns = range(x, x + length)
                        gaps = [
                            (-(b - a), a, b)
                            for a in columns
                            for b in columns[a - x :]
                            if not touched.intersection(range(a, b + 1))
                        ]
                        gap = min(gaps) if gaps else None
                        end = x + length - 1 if gap is None else gap[1] - 1
                        if end >= x:
                            size = (end - x + 1) * width * height
                            count = overlap(row, x, end)
                            total, active = total + size, active + count
                            if gap is None or not cells:
                                cells.append([(x, y, z), (end, yend, zend), size, count, False])
                            else:
                                cells[-1][1] = (end, yend, zend)
                                cells[-1][2] += size
                                cells[-1][3] += count
                                cells[-1][4] = True
                        x = (x + length - 1 if gap is None else gap[2]) + 1
                y = yend + 1
        z = zend + 1
    return {"total": total, "active": active, "cells": [tuple(cell) for cell in cells]}


@given(rows, st.integers(1, 9))
def test_regular(given_rows: list[Row], n: int) -> None:
    spans = as_spans(given_rows)
    found, wanted = partitions.regular(spans, n), slow_regular([tuple(row) for row in spans.tolist()], n)
    assert (found.total, found.active) == (wanted["total"], wanted["active"])
    assert [(s.low, s.high, s.total, s.active) for s in found.subvolumes] == wanted["cells"]
    assert found.active == sum(more + 1 for _, _, _, more in set(given_rows))


@given(rows, st.integers(1, 9))
def test_optimized(given_rows: list[Row], n: int) -> None:
    spans = as_spans(given_rows)
    found, wanted = partitions.optimized(spans, n), slow_optimized([tuple(row) for row in spans.tolist()], n)
    assert (found.total, found.active) == (wanted["total"], wanted["active"])
    assert [(s.low, s.high, s.total, s.active, s.absorbed) for s in found.subvolumes] == wanted["cells"]


def test_a_small_batch_of_a_huge_region_is_refused() -> None:
    wide = np.array([[0, 0, -(1 << 31), (1 << 31) - 1]], np.int32)
    far = np.array([[-(1 << 31), 0, 0, 0], [(1 << 31) - 1, 0, 0, 0]], np.int32)
    corners = np.array([[0, -(1 << 31), 0, 0], [0, (1 << 31) - 1, 0, 0]], np.int32)
    for spans in (wide, far, corners):
        with pytest.raises(BadRequest):
            partitions.optimized(spans, 1)
    with pytest.raises(BadRequest):
        partitions.regular(wide, 1)
    assert partitions.regular(far, 1).active == 2
    assert partitions.regular(corners, 1).active == 2
    assert partitions.regular(wide, (1 << 31) - 1).active == 1 << 32


EXAMPLE = np.array([[0, 0, 0, 2], [0, 1, 0, 2], [1, 0, 1, 3], [2, 3, 5, 5]], np.int32)


def test_worked_example_regular() -> None:
    found = partitions.regular(EXAMPLE, 2).as_json(SIZE)
    assert [found[name] for name in ("NumTotalBlocks", "NumActiveBlocks", "NumSubvolumes")] == [24, 10, 3]
    assert found["ROI"] == {"MinChunk": [0, 0, 0], "MaxChunk": [5, 3, 2]}
    first, second, third = found["Subvolumes"]
    assert first == {
        "MinPoint": [0, 0, 0],
        "MaxPoint": [63, 63, 63],
        "MinChunk": [0, 0, 0],
        "MaxChunk": [1, 1, 1],
        "TotalBlocks": 8,
        "ActiveBlocks": 5,
    }
    assert [second["MinChunk"], second["MaxChunk"], second["ActiveBlocks"]] == [[2, 0, 0], [3, 1, 1], 4]
    assert [third["MinChunk"], third["MaxChunk"], third["ActiveBlocks"]] == [[5, 3, 2], [6, 4, 3], 1]


def test_worked_example_optimized() -> None:
    found = partitions.optimized(EXAMPLE, 2).as_json(SIZE)
    assert [found[name] for name in ("NumTotalBlocks", "NumActiveBlocks", "NumSubvolumes")] == [25, 10, 2]
    second = found["Subvolumes"][1]
    assert [second["MinChunk"], second["MaxChunk"], second["MaxPoint"]] == [[2, 0, 0], [5, 5, 4], [160, 160, 128]]
    assert [second["TotalBlocks"], second["ActiveBlocks"]] == [17, 5]


def test_empty() -> None:
    for cut in (partitions.regular, partitions.optimized):
        found = cut(np.zeros((0, 4), np.int32), 3).as_json(SIZE)
        assert [found[name] for name in ("NumTotalBlocks", "NumActiveBlocks", "NumSubvolumes")] == [0, 0, 0]
        assert found["Subvolumes"] == []
