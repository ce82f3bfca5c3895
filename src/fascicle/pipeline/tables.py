"""Tables in files, row by row: CSV, JSON and Parquet, of any length in bounded memory.

CSV is RFC 4180 with a header line; JSON is one array of objects; Parquet needs the package pyarrow
(`pip install 'fascicle[tables]'`). CSV and JSON may be gzipped. Not for this module: what the columns mean.
"""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import itertools
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import msgspec

from fascicle.errors import FascicleError

if TYPE_CHECKING:
    import pyarrow as pa

Row = dict[str, Any]
KINDS = ("csv", "json", "parquet")
_BATCH_ROWS = 8192
_PIECE = 1 << 20
_LONGEST_VALUE = 64 << 20
"""A JSON value that is longer than this, in characters, is not one row of a table."""
_SPACE = " \t\r\n"
_IN_NUMBERS = "0123456789.eE+-"
csv.field_size_limit(1 << 26)


class TableError(FascicleError):
    """A file is not the table that it should be; the message names the file and the line or row."""


Meter = Callable[[int, int], None]
"""Called with the bytes of a file that are read, and how many it has."""


def no_meter(done: int, total: int) -> None:
    """Where nobody wants to know."""


def kind_of(path: Path) -> str:
    """`csv`, `json` or `parquet`, by the ending of a name. Raises TableError for others."""
    name = path.name.lower().removesuffix(".gz")
    for kind in KINDS:
        if name.endswith("." + kind) and not (kind == "parquet" and path.name.lower().endswith(".gz")):
            return kind
    raise TableError(f"{path}: tables end with .csv, .json or .parquet (the first two also with .gz)")


def at(path: Path, line: int, problem: str) -> TableError:
    """The error that says where: `line` counts from 1 (in Parquet files it is the row)."""
    return TableError(f"{path}, {'row' if kind_of(path) == 'parquet' else 'line'} {line}: {problem}")


def read_rows(path: Path, meter: Meter = no_meter) -> Iterator[tuple[int, Row]]:
    """(line, row) of a table, in order. Cells of CSV are text, and empty ones are left out, as are nulls in Parquet.

    Raises TableError for files that cannot be read.
    """
    kind = kind_of(path)
    try:
        if kind == "csv":
            yield from _read_csv(path, meter)
        elif kind == "json":
            for line, value in json_values(path, meter):
                if not isinstance(value, dict):
                    raise at(path, line, f"{json.dumps(value)[:60]} is not an object")
                yield line, value
        else:
            yield from _read_parquet(path, meter)
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise TableError(f"{path} cannot be read: {error}") from None


def in_batches(values: Iterable[Any], count: int) -> Iterator[list[Any]]:
    """Lists of `count` values; the last one may be shorter."""
    rest = iter(values)
    while batch := list(itertools.islice(rest, count)):
        yield batch


def header_of(path: Path) -> list[str]:
    """The columns of a CSV or Parquet file; of JSON the members of the first object."""
    if kind_of(path) == "parquet":
        return list(_parquet(path).schema_arrow.names)
    if kind_of(path) == "csv":
        with _opened(path, no_meter) as file:
            return next(_records(path, file), (0, []))[1]
    first = next(read_rows(path), None)
    return list(first[1]) if first else []


class _Metered(io.RawIOBase):
    """A file that tells how much of it was read."""

    def __init__(self, path: Path, meter: Meter) -> None:
        self._file: io.FileIO | None = None  # `close` is called also where there is no such file
        self._file = path.open("rb", buffering=0)
        self._size = os.fstat(self._file.fileno()).st_size
        self._meter = meter

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        assert self._file is not None
        count = self._file.readinto(buffer) or 0
        self._meter(self._file.tell(), self._size)
        return count

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        super().close()


def _opened(path: Path, meter: Meter) -> io.TextIOWrapper:
    raw: Any = io.BufferedReader(_Metered(path, meter), _PIECE)
    if path.name.lower().endswith(".gz"):
        raw = gzip.GzipFile(fileobj=raw)
    return io.TextIOWrapper(raw, "utf-8-sig", newline="")


# -- CSV


def _records(path: Path, file: io.TextIOWrapper) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(file, strict=True)
    while True:
        line = reader.line_num + 1
        try:
            record = next(reader, None)
        except csv.Error as error:
            raise at(path, reader.line_num, str(error)) from None
        if record is None:
            return
        if record:
            yield line, record


def _read_csv(path: Path, meter: Meter) -> Iterator[tuple[int, Row]]:
    with _opened(path, meter) as file:
        records = _records(path, file)
        _, header = next(records, (0, []))
        if not header:
            raise TableError(f"{path} has no header line")
        if len(set(header)) != len(header):
            raise at(path, 1, "two columns have the same name")
        for line, record in records:
            if len(record) != len(header):
                raise at(path, line, f"{len(record)} cells in place of {len(header)}")
            yield line, {name: cell for name, cell in zip(header, record, strict=True) if cell}


# -- JSON


def json_values(path: Path, meter: Meter = no_meter) -> Iterator[tuple[int, Any]]:
    """(line, value) of the values of one array in a file. Raises TableError."""
    with _opened(path, meter) as file:
        yield from _array_values(lambda: file.read(_PIECE), lambda line, problem: at(path, line, problem))


def array_values(pieces: Iterable[bytes]) -> Iterator[Any]:
    """The values of one JSON array that comes in pieces, each as soon as it is there."""
    import codecs

    decoder = codecs.getincrementaldecoder("utf-8")()
    rest = iter(pieces)

    def more() -> str:
        for piece in rest:
            text = decoder.decode(piece)
            if text:
                return text
        return ""

    def wrong(line: int, problem: str) -> TableError:
        return TableError(f"line {line} of the answer is not as it should be: {problem}")

    for _, value in _array_values(more, wrong):
        yield value


def _array_values(more: Callable[[], str], wrong: Callable[[int, str], TableError]) -> Iterator[tuple[int, Any]]:
    decode = json.JSONDecoder().raw_decode
    text, position, line, ended = "", 0, 1, False

    def fill() -> bool:
        nonlocal text, position, ended
        piece = more()
        ended = not piece
        text, position = text[position:] + piece, 0
        return not ended

    def skip() -> str:
        """The next character that is not space, or nothing at the end."""
        nonlocal position, line
        while True:
            while position < len(text) and text[position] in _SPACE:
                line += text[position] == "\n"
                position += 1
            if position < len(text):
                return text[position]
            if not fill():
                return ""

    if skip() != "[":
        raise wrong(line, "not a JSON array")
    position += 1
    if skip() == "]":
        position += 1
        if skip():
            raise wrong(line, "something follows the array")
        return
    while True:
        skip()
        while True:
            try:
                value, end = decode(text, position)
                if ended or len(text) - position > _LONGEST_VALUE:
                    break
                if end < len(text) and text[end] not in _IN_NUMBERS:
                    break  # otherwise a number may go on: `0` of `0.`, of which the rest is still to come
            except json.JSONDecodeError as error:
                if ended or len(text) - position > _LONGEST_VALUE:
                    raise wrong(line + text.count("\n", position, error.pos), f"not JSON: {error.msg}") from None
            except RecursionError:
                raise wrong(line, "nested too deeply") from None
            fill()
        yield line, value
        line += text.count("\n", position, end)
        position = end
        mark = skip()
        position += 1
        if mark == "]":
            if skip():
                raise wrong(line, "something follows the array")
            return
        if mark != ",":
            raise wrong(line, "the array does not go on with a comma" if mark else "the array has no end")


# -- Parquet


def arrow() -> Any:
    """The package pyarrow. Raises TableError that says how to get it."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError:
        raise TableError("Parquet needs pyarrow: pip install 'fascicle[tables]'") from None
    return pyarrow


def _parquet(path: Path) -> Any:
    pyarrow = arrow()
    try:
        return pyarrow.parquet.ParquetFile(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise TableError(f"{path} cannot be read: {' '.join(str(error).split())[:200]}") from None


def _read_parquet(path: Path, meter: Meter) -> Iterator[tuple[int, Row]]:
    pyarrow = arrow()
    file = _parquet(path)
    total, row = file.metadata.num_rows, 0
    narrow = [field.name for field in file.schema_arrow if pyarrow.types.is_float32(field.type)]
    try:
        for batch in file.iter_batches(_BATCH_ROWS):
            for values in batch.to_pylist():
                row += 1
                for name in narrow:  # the number that was meant, not the one that its 32 bits are
                    if values[name] is not None:
                        values[name] = _shortest(values[name])
                yield row, {name: value for name, value in values.items() if value is not None}
            meter(row, total)
    except pyarrow.ArrowException as error:
        raise TableError(f"{path} cannot be read: {' '.join(str(error).split())[:200]}") from None


def _shortest(value: float) -> float:
    import numpy as np

    return float(str(np.float32(value)))


# -- writing


class TableWriter(contextlib.AbstractContextManager["TableWriter"]):
    """Write rows to a new file, which appears under its name when all is written.

    `columns` are those of CSV; `schema` is an Arrow schema, for Parquet only.
    """

    def __init__(self, path: Path, columns: Sequence[str], schema: pa.Schema | None = None) -> None:
        self.kind = kind_of(path)
        self.rows = 0
        self._path = path
        self._columns = list(columns)
        self._partial = path.with_name(path.name + ".partial")
        self._waiting: list[Row] = []
        self._parquet: Any = None
        self._text: IO[Any] | None = None
        try:
            self._partial.unlink(missing_ok=True)
            if self.kind == "parquet":
                pyarrow = arrow()
                assert schema is not None
                self._schema = schema
                self._parquet = pyarrow.parquet.ParquetWriter(self._partial, schema, compression="zstd")
            else:
                packed = path.name.lower().endswith(".gz")
                raw: Any = gzip.GzipFile(self._partial, "wb", 5) if packed else self._partial.open("wb")
                self._text = io.TextIOWrapper(raw, "utf-8", newline="")
        except OSError as error:
            raise TableError(f"{path} cannot be written: {error}") from None
        if self.kind == "csv":
            assert self._text is not None
            self._csv = csv.writer(self._text, lineterminator="\n")
            self._csv_quoted = csv.writer(self._text, lineterminator="\n", quoting=csv.QUOTE_ALL)
            self._csv.writerow(self._columns)

    def write(self, row: Row) -> None:
        """One row; in CSV values are written as text, and what is missing or None is empty."""
        if self.kind == "csv":
            cells = [row.get(name) for name in self._columns]
            returns = any(isinstance(cell, str) and "\r" in cell for cell in cells)  # csv quotes only its own line ends
            (self._csv_quoted if returns else self._csv).writerow(cells)
        elif self.kind == "json":
            assert self._text is not None
            self._text.write(("[\n" if not self.rows else ",\n") + msgspec.json.encode(row).decode())
        else:
            self._waiting.append(row)
            if len(self._waiting) >= 8 * _BATCH_ROWS:
                self._flush()
        self.rows += 1

    def _flush(self) -> None:
        pyarrow = arrow()
        self._parquet.write_table(pyarrow.Table.from_pylist(self._waiting, schema=self._schema))
        self._waiting.clear()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self.kind == "parquet":
            if kind is None and self._waiting:
                self._flush()
            self._parquet.close()
        else:
            assert self._text is not None
            if kind is None and self.kind == "json":
                self._text.write("\n]\n" if self.rows else "[]\n")
            self._text.close()
        if kind is None:
            self._partial.replace(self._path)
        else:
            self._partial.unlink(missing_ok=True)
