"""Tables of points, read as columns and written again with one more: CSV, Parquet, npy.

CSV is RFC 4180 with a header line, maybe gzipped; its cells are written as they were read. It is read by pyarrow where
that is installed, else slowly. Parquet needs pyarrow (`pip install 'fascicle[tables]'`). An npy file holds numbers
[n, 3] (x, y, z) or a structured array with the columns; what is written is structured.
"""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from fascicle.pipeline.tables import TableError, arrow

STANDARD_OUTPUT = "-"


@dataclass(frozen=True, slots=True)
class PointTable:
    """A table, and the points in it."""

    kind: str
    """`csv`, `parquet` or `npy`."""
    points: NDArray[Any]
    """Numbers [n, (x, y, z)]: i64, u64 or f64."""
    table: Any
    """The whole table as it was read."""


def point_kind(path: Path) -> str:
    """`csv`, `parquet` or `npy`, by the ending of a name. Raises TableError for others."""
    name = path.name.lower()
    for kind, endings in (("csv", (".csv", ".csv.gz")), ("parquet", (".parquet",)), ("npy", (".npy",))):
        if name.endswith(endings):
            return kind
    raise TableError(f"{path}: tables of points end with .csv, .csv.gz, .parquet or .npy")


def read_points(path: Path, columns: Sequence[str], new_column: str) -> PointTable:
    """A table with its points; `columns` are the names of x, y and z. Raises TableError that says what is wrong."""
    kind = point_kind(path)
    try:
        if kind == "npy":
            return _read_npy(path, columns, new_column)
        if kind == "parquet":
            table = arrow().parquet.read_table(path)
            return PointTable(kind, _arrow_points(path, table, columns, new_column), table)
        if has_arrow():
            return _read_csv_with_arrow(path, columns, new_column)
        return _read_csv(path, columns, new_column)
    except OSError as error:
        raise TableError(f"{path} cannot be read: {error}") from None
    except ValueError as error:  # of pyarrow, too
        raise TableError(f"{path} cannot be read: {' '.join(str(error).split())[:200]}") from None


def write_labels(table: PointTable, labels: NDArray[Any], name: str, destination: str) -> None:
    """The table with one more column, to a file, which appears when it is whole, or to standard output (`-`)."""
    if destination != STANDARD_OUTPUT and point_kind(Path(destination)) != table.kind:
        raise TableError(f"{destination}: the table is {table.kind}, and so is what is written")
    with _out(destination) as file:
        if table.kind == "npy":
            np.save(file, _structured(table.table, labels, name), allow_pickle=False)
        elif table.kind == "parquet":
            arrow().parquet.write_table(_with_labels(table.table, labels, name), file, compression="zstd")
        elif isinstance(table.table, list):
            _write_csv(table.table[0], table.table[1:], labels, name, file)
        elif any(_needs_quotes(column) for column in table.table.columns):
            # pyarrow would quote all cells
            cells = (column.to_pylist() for column in table.table.columns)
            _write_csv(table.table.column_names, zip(*cells, strict=True), labels, name, file)
        else:
            from pyarrow import csv as arrow_csv

            _write_csv(table.table.column_names, (), labels[:0], name, file)
            options = arrow_csv.WriteOptions(include_header=False, quoting_style="none")
            arrow_csv.write_csv(_with_labels(table.table, labels, name), file, options)


def has_arrow() -> bool:
    """Whether pyarrow is installed."""
    try:
        arrow()
    except TableError:
        return False
    return True


# -- npy


def _read_npy(path: Path, columns: Sequence[str], new_column: str) -> PointTable:
    array: NDArray[Any] = np.load(path, allow_pickle=False)
    if array.dtype.names is None:
        if array.ndim != 2 or array.shape[1] != 3 or array.dtype.kind not in "iuf":
            raise TableError(f"{path} has {array.dtype} {list(array.shape)}, not numbers [n, 3] (x, y, z)")
        fields = [(name, array.dtype) for name in columns]
        table = np.ascontiguousarray(array).view(fields).reshape(-1)
        points = array
    else:
        _check_names(path, array.dtype.names, columns, new_column)
        table = array.reshape(-1)
        points = np.stack([table[name] for name in columns], 1)
    if points.dtype.kind not in "iuf":
        raise TableError(f"{path}: columns of {points.dtype} are no coordinates")
    return PointTable("npy", points, table)


def _structured(table: NDArray[Any], labels: NDArray[Any], name: str) -> NDArray[Any]:
    out = np.empty(len(table), [*table.dtype.descr, (name, labels.dtype)])
    for field in table.dtype.names or ():
        out[field] = table[field]
    out[name] = labels
    return out


# -- Arrow


def _arrow_points(path: Path, table: Any, columns: Sequence[str], new_column: str) -> NDArray[Any]:
    pyarrow = arrow()
    _check_names(path, table.column_names, columns, new_column)
    parts = []
    for name in columns:
        column = table.column(name)
        if column.null_count:
            rows = np.flatnonzero(column.is_null().to_numpy())
            raise TableError(f"{path}, row {rows[0] + 1}: {name} is missing")
        if not (pyarrow.types.is_integer(column.type) or pyarrow.types.is_floating(column.type)):
            raise TableError(f"{path}: column {name} is {column.type}, not numbers")
        parts.append(column.to_numpy())
    return np.stack(parts, 1)


def _with_labels(table: Any, labels: NDArray[Any], name: str) -> Any:
    return table.append_column(name, arrow().array(labels))


def _read_csv_with_arrow(path: Path, columns: Sequence[str], new_column: str) -> PointTable:
    import pyarrow
    from pyarrow import compute
    from pyarrow import csv as arrow_csv

    header = _header(path)
    _check_names(path, header, columns, new_column)
    # all cells as text, so that they are written as they were
    options = arrow_csv.ConvertOptions(
        column_types=dict.fromkeys(header, pyarrow.string()), strings_can_be_null=False, null_values=[]
    )
    parse = arrow_csv.ParseOptions(newlines_in_values=True)
    table = arrow_csv.read_csv(path, convert_options=options, parse_options=parse)
    parts = []
    for name in columns:
        text = compute.utf8_trim_whitespace(table.column(name))
        for kind in (pyarrow.int64(), pyarrow.float64()):
            try:
                parts.append(compute.cast(text, kind).to_numpy())
                break
            except pyarrow.ArrowInvalid:
                continue
        else:
            row, cell = _first_that_is_no_number(text.to_pylist())
            raise TableError(f"{path}, row {row} after the header: {name} is {cell!r}, not a number")
    return PointTable("csv", np.stack(parts, 1), table)


def _first_that_is_no_number(cells: Sequence[str]) -> tuple[int, str]:
    for row, cell in enumerate(cells, 1):
        try:
            float(cell)
        except ValueError:
            return row, cell
    return 0, ""


# -- CSV without Arrow


def _opened(path: Path) -> io.TextIOWrapper:
    raw: Any = gzip.GzipFile(path) if path.name.lower().endswith(".gz") else path.open("rb")
    return io.TextIOWrapper(raw, "utf-8-sig", newline="")


def _header(path: Path) -> list[str]:
    with _opened(path) as file:
        header = next(csv.reader(file), None)
    if not header:
        raise TableError(f"{path} has no header line")
    if len(set(header)) != len(header):
        raise TableError(f"{path}: two columns have the same name")
    return header


def _read_csv(path: Path, columns: Sequence[str], new_column: str) -> PointTable:
    header = _header(path)
    _check_names(path, header, columns, new_column)
    with _opened(path) as file:
        try:
            records = [record for record in csv.reader(file, strict=True) if record][1:]
        except csv.Error as error:
            raise TableError(f"{path} cannot be read: {error}") from None
    for row, record in enumerate(records, 1):
        if len(record) != len(header):
            raise TableError(f"{path}, row {row} after the header: {len(record)} cells in place of {len(header)}")
    parts: list[NDArray[Any]] = []
    for name in columns:
        cells = [record[header.index(name)].strip() for record in records]
        try:
            parts.append(np.array([int(cell) for cell in cells], np.int64))
        except (ValueError, OverflowError):
            try:
                parts.append(np.array([float(cell) for cell in cells]))
            except ValueError:
                row, cell = _first_that_is_no_number(cells)
                raise TableError(
                    f"{path}, row {row} after the header: {name} is {cell!r}, not a number"
                ) from None
    return PointTable("csv", np.stack(parts, 1), [header, *records])


def _write_csv(
    header: Sequence[str], records: Iterable[Sequence[str]], labels: NDArray[Any], name: str, file: IO[bytes]
) -> None:
    text = io.TextIOWrapper(file, "utf-8", newline="")
    writer = csv.writer(text, lineterminator="\n")
    quoting = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL)
    writer.writerow([*header, name])
    for record, label in zip(records, labels.tolist(), strict=True):
        returns = any("\r" in cell for cell in record)  # csv quotes only its own line ends
        (quoting if returns else writer).writerow([*record, label])
    text.flush()
    text.detach()


def _needs_quotes(column: Any) -> bool:
    """Whether some cell of a column of text cannot be written as it is."""
    for chunk in column.chunks:
        data = chunk.buffers()[2]
        if data is not None:
            raw = np.frombuffer(data, np.uint8)
            if any((raw == mark).any() for mark in b'",\r\n'):
                return True
    return False


def _check_names(path: Path, names: Sequence[str], columns: Sequence[str], new_column: str) -> None:
    for name in columns:
        if name not in names:
            raise TableError(f"{path} has no column {name}, only {', '.join(names)}: name them with --columns")
    if new_column in names:
        raise TableError(f"{path} has a column {new_column} already: name the new one with --label-column")


@contextlib.contextmanager
def _out(destination: str) -> Iterator[IO[bytes]]:
    if destination == STANDARD_OUTPUT:
        buffer = io.BytesIO()
        yield buffer
        sys.stdout.buffer.write(buffer.getbuffer())
        sys.stdout.buffer.flush()
        return
    path = Path(destination)
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with partial.open("wb") as raw:
            if path.name.lower().endswith(".gz"):
                with gzip.GzipFile("", "wb", 5, raw, mtime=0) as packed:
                    yield packed  # type: ignore[misc]
            else:
                yield raw
        partial.replace(path)
    except OSError as error:
        raise TableError(f"{destination} cannot be written: {error}") from None
    finally:
        partial.unlink(missing_ok=True)
