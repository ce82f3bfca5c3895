"""Rows of a fixed length that are sorted on disk: as many as there are, in the memory of one run of them.

Rows are structured arrays that begin with two numbers u64, by which they are sorted. They come in any order, are sorted
by runs as they come, and are merged when they are read. Rows with equal numbers stay in the order in which they came.

Example:

    rows = RowSorter(Path("cells.rows"), np.dtype([("cell", "<u8"), ("chance", "<u8"), ("id", "<u8")]))
    for part in parts:
        rows.add(part)
    rows.close()
    for block in sorted_rows(Path("cells.rows"), rows.dtype):
        ...
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from fascicle.volumes.base import VolumeError

RUN_BYTES = 8 << 20
_LEAST_ROWS = 64
Rows = NDArray[Any]


class RowSorter:
    """Writes a file of sorted runs. The file has its name when it is whole."""

    def __init__(self, path: Path, dtype: np.dtype[Any]) -> None:
        self.dtype = dtype
        self._path = path
        self._part = path.with_name(path.name + ".part")
        self._file: BinaryIO | None = None
        self._run: Rows = np.empty(0, dtype)
        self._held = 0

    def add(self, rows: Rows) -> None:
        """More rows, [n]."""
        at, most = 0, _run_rows(self.dtype)
        while at < len(rows):
            wanted = min(self._held + len(rows) - at, most)
            if wanted > len(self._run):
                grown = np.empty(min(2 * wanted, most), self.dtype)
                grown[: self._held] = self._run[: self._held]
                self._run = grown
            taken = min(len(self._run) - self._held, len(rows) - at)
            self._run[self._held : self._held + taken] = rows[at : at + taken]
            self._held += taken
            at += taken
            if self._held == most:
                self._write()

    def close(self, durable: bool = True) -> None:
        """All rows are there."""
        self._write()
        self._run = np.empty(0, self.dtype)
        file = self._opened()
        if durable:
            file.flush()
            os.fsync(file.fileno())
        file.close()
        self._part.replace(self._path)

    def abandon(self) -> None:
        """No file is left, unless it was closed."""
        self._run = np.empty(0, self.dtype)
        if self._file is not None:
            self._file.close()
        with suppress(FileNotFoundError):
            self._part.unlink()

    def _opened(self) -> BinaryIO:
        if self._file is None:
            self._file = self._part.open("wb")
        return self._file

    def _write(self) -> None:
        if self._held:
            run = self._run[: self._held]
            self._opened().write(run[_order(run)].tobytes())
            self._held = 0


def sorted_rows(path: Path, dtype: np.dtype[Any]) -> Iterator[Rows]:
    """The rows of a file in order, in blocks. Raises VolumeError if it is not whole."""
    size = path.stat().st_size
    if size % dtype.itemsize:
        raise VolumeError(f"{path} has {size} bytes, which are no rows of {dtype.itemsize}")
    total, length = size // dtype.itemsize, _run_rows(dtype)
    starts = list(range(0, total, length))
    block = max(_LEAST_ROWS, length // max(1, len(starts)))
    with path.open("rb", buffering=0) as file:
        runs = [_Run(file, dtype, at, min(at + length, total), block) for at in starts]
        while runs := [run for run in runs if run.filled()]:
            yield _next_block(runs)


class _Run:
    """One run as it is read."""

    def __init__(self, file: Any, dtype: np.dtype[Any], at: int, stop: int, block: int) -> None:
        self._file, self._dtype, self._at, self._stop, self._block = file, dtype, at, stop, block
        self.rows: Rows = np.empty(0, dtype)

    @property
    def ends(self) -> bool:
        """Whether all that is left of it is in memory."""
        return self._at == self._stop

    def filled(self) -> bool:
        """Whether there are rows."""
        if not len(self.rows) and not self.ends:
            count = min(self._block, self._stop - self._at)
            self._file.seek(self._at * self._dtype.itemsize)
            self.rows = np.fromfile(self._file, self._dtype, count)
            if len(self.rows) < count:
                raise VolumeError(f"{self._file.name} has become shorter while it was read")
            self._at += count
        return len(self.rows) > 0

    def take(self, bound: Any) -> Rows:
        """The rows up to those that are equal to `bound`; all if it is None."""
        count = len(self.rows)
        if bound is not None:
            first, second = self._dtype.names[:2]  # type: ignore[index]
            column = self.rows[first]
            low = int(np.searchsorted(column, bound[first], "left"))
            high = int(np.searchsorted(column, bound[first], "right"))
            count = low + int(np.searchsorted(self.rows[second][low:high], bound[second], "right"))
        taken, self.rows = self.rows[:count], self.rows[count:]
        return taken


def _next_block(runs: list[_Run]) -> Rows:
    """What comes before everything that is still on disk; at least one run is used up by it."""
    if len(runs) == 1:
        return runs[0].take(None)
    going_on = [run.rows[-1] for run in runs if not run.ends]
    bound = min(going_on, key=lambda row: (int(row[0]), int(row[1]))) if going_on else None
    rows = np.concatenate([run.take(bound) for run in runs])
    return rows[_order(rows)]


def _order(rows: Rows) -> NDArray[np.int64]:
    first, second = rows.dtype.names[:2]  # type: ignore[index]
    return np.lexsort((rows[second], rows[first])).astype(np.int64, copy=False)


def _run_rows(dtype: np.dtype[Any]) -> int:
    return max(_LEAST_ROWS, RUN_BYTES // dtype.itemsize)
