"""Rows sorted on disk are in the order in which NumPy sorts them, however they came and whatever a run holds."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fascicle.volumes import sorted_rows as module
from fascicle.volumes.base import VolumeError
from fascicle.volumes.sorted_rows import RowSorter, sorted_rows

DTYPE = np.dtype([("first", "<u8"), ("second", "<u8"), ("rest", "V3")])


def rows_of(pairs: list[tuple[int, int]]) -> np.ndarray:
    rows = np.zeros(len(pairs), DTYPE)
    for i, pair in enumerate(pairs):
        rows[i] = (*pair, i.to_bytes(3, "little"))
    return rows


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 5) | st.integers(2**63, 2**64 - 1), st.integers(0, 3)), max_size=400),
    st.integers(1, 150),
)
def test_order(tmp_path_factory: pytest.TempPathFactory, pairs: list[tuple[int, int]], step: int) -> None:
    path = tmp_path_factory.mktemp("rows") / "rows"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "RUN_BYTES", 1)  # runs of 64 rows
        sorter = RowSorter(path, DTYPE)
        rows = rows_of(pairs)
        for at in range(0, len(rows), step):
            sorter.add(rows[at : at + step])
        assert not path.exists()
        sorter.close()
        found = [row for block in sorted_rows(path, DTYPE) for row in block.tolist()]
    order = sorted(range(len(pairs)), key=lambda i: (*pairs[i], i))
    assert found == rows[order].tolist()
    assert [entry.name for entry in path.parent.iterdir()] == ["rows"]


def test_memory_is_that_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RUN_BYTES", 1 << 16)
    numbers = np.random.default_rng(1)

    def peak(count: int) -> int:
        path = tmp_path / str(count)
        tracemalloc.start()
        try:
            sorter = RowSorter(path, DTYPE)
            for _ in range(count):
                rows = np.zeros(1000, DTYPE)
                rows["first"] = numbers.integers(0, 1 << 60, 1000)
                sorter.add(rows)
            sorter.close()
            assert sum(map(len, sorted_rows(path, DTYPE))) == 1000 * count
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert peak(60) < 1.5 * peak(8) < 1 << 20


def test_what_is_not_whole(tmp_path: Path) -> None:
    path = tmp_path / "rows"
    sorter = RowSorter(path, DTYPE)
    sorter.add(rows_of([(1, 2), (0, 1)]))
    sorter.abandon()
    assert list(tmp_path.iterdir()) == []
    path.write_bytes(bytes(DTYPE.itemsize + 1))
    with pytest.raises(VolumeError, match="are no rows of 19"):
        list(sorted_rows(path, DTYPE))
