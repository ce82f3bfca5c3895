"""Regions of interest from tables into `roi` instances, and back.

CSV and Parquet have one run of blocks per row: `roi,z,y,x0,x1`, in blocks, x1 inside; without the column `roi` all rows
are of one region. JSON is an object of regions, `{"AB(L)": [[z, y, x0, x1], ...]}`, or DVID's list of runs for a single
one. Runs are written as they are stored, and stored as they are read.
"""

from __future__ import annotations

import json
import sqlite3
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec

from fascicle.pipeline.ingest_connections import Connection
from fascicle.pipeline.synapse_rows import RowError, integer
from fascicle.pipeline.tables import Meter, TableError, TableWriter, arrow, at, header_of, kind_of, no_meter, read_rows

COLUMNS = ("roi", "z", "y", "x0", "x1")
_RUN = COLUMNS[1:]
_BATCH = 10_000


class Regions:
    """Runs by region, kept on disk while a table is read; `with Regions() as regions: ...`."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="fascicle-table-")
        self._database = sqlite3.connect(Path(self._folder.name) / "staged", isolation_level=None)
        for words in ("PRAGMA journal_mode=OFF", "PRAGMA synchronous=OFF", "BEGIN"):
            self._database.execute(words)
        self._database.execute("CREATE TABLE runs (region INT, z INT, y INT, x0 INT, x1 INT)")
        self._waiting: list[tuple[int, ...]] = []
        self.names: dict[str, int] = {}
        self.rows = 0

    def __enter__(self) -> Regions:
        return self

    def __exit__(self, *_: object) -> None:
        self._database.close()
        self._folder.cleanup()

    def declare(self, name: str) -> int:
        """A region, which may be empty; gives its number."""
        return self.names.setdefault(name, len(self.names))

    def add(self, name: str, run: Sequence[int]) -> None:
        """A run `[z, y, x0, x1]` of a region."""
        self._waiting.append((self.declare(name), *run))
        self.rows += 1
        if len(self._waiting) >= _BATCH:
            self._flush()

    def _flush(self) -> None:
        self._database.executemany("INSERT INTO runs VALUES (?,?,?,?,?)", self._waiting)
        self._waiting.clear()

    def finish(self) -> None:
        """All runs are there."""
        self._flush()
        self._database.execute("CREATE INDEX regions ON runs (region)")

    def runs(self, name: str) -> list[tuple[int, int, int, int]]:
        """The runs of a region, in the order of the table."""
        query = "SELECT z, y, x0, x1 FROM runs WHERE region = ? ORDER BY rowid"
        return self._database.execute(query, (self.names[name],)).fetchall()


def stage_regions(path: Path, only: str, regions: Regions, meter: Meter = no_meter) -> None:
    """Read a table; `only` names the region where the table does not. Raises TableError with file and line."""
    if kind_of(path) == "json":
        for name, run in _json_runs(path, only):
            if run is None:
                regions.declare(name)
                continue
            try:
                regions.add(name, _checked(dict(zip(_RUN, run, strict=True))))
            except (RowError, ValueError) as error:
                raise TableError(f"{path}: {name}: {json.dumps(run)[:60]}: {error}") from None
    else:
        missing = [name for name in _RUN if name not in header_of(path)]
        if missing:
            raise at(path, 1, f"no column {', '.join(missing)}; runs are z,y,x0,x1 in blocks")
        for line, row in read_rows(path, meter):
            name = row.get("roi") or only
            if not name:
                raise at(path, line, "no region is named: there must be a column roi, or --instance")
            try:
                regions.add(str(name), _checked(row))
            except RowError as error:
                raise at(path, line, str(error)) from None
    regions.finish()


def _checked(row: dict[str, Any]) -> list[int]:
    run = [integer(row, name) for name in _RUN]
    if run[3] < run[2]:
        raise RowError(f"x1 is {run[3]}, which is below x0, {run[2]}")
    return run


def _json_runs(path: Path, only: str) -> Iterator[tuple[str, Any]]:
    """(name, run), after (name, None) once for each region, which may have no runs.

    The document is read as a whole: it is as large as the requests that it becomes.
    """
    import gzip

    try:
        data = path.read_bytes()
        document = json.loads(gzip.decompress(data) if path.name.lower().endswith(".gz") else data)
    except (OSError, EOFError) as error:
        raise TableError(f"{path} cannot be read: {error}") from None
    except json.JSONDecodeError as error:
        raise at(path, error.lineno, f"not JSON: {error.msg}") from None
    except (UnicodeDecodeError, RecursionError):
        raise TableError(f"{path} is not JSON") from None
    if isinstance(document, list):
        if not only:
            raise TableError(f"{path} is the list of one region, which --instance must name")
        document = {only: document}
    if not isinstance(document, dict):
        raise TableError(f"{path} must be an object of regions, or the list of one")
    for name, runs in document.items():
        if not isinstance(runs, list):
            raise TableError(f"{path}: {name} must be a list of runs")
        yield name, None
        for run in runs:
            if not isinstance(run, list) or len(run) != 4:
                raise TableError(f"{path}: {name}: {json.dumps(run)[:60]} is not a run [z, y, x0, x1]")
            yield name, run


def post_regions(
    connection: Connection,
    node: str,
    regions: Regions,
    instances: dict[str, Any],
    block: int,
    meter: Callable[[int], None] = lambda done: None,
) -> int:
    """Replace the regions at a version by those of a table, making instances that are missing; how many were made.

    Raises TableError, before anything is changed, for instances of other types.
    """
    for name in regions.names:
        if name in instances and instances[name]["Base"]["TypeName"] != "roi":
            raise TableError(f"instance {name!r} is of type {instances[name]['Base']['TypeName']}, not roi")
        have = instances[name]["Extended"]["BlockSize"] if name in instances else None
        if have is not None and have != [block] * 3:
            raise TableError(f"instance {name!r} has blocks of {have} voxels, not of {block}: say --block-size")
    made = 0
    for count, name in enumerate(regions.names, start=1):
        if name not in instances:
            asked = {"typename": "roi", "dataname": name, "BlockSize": f"{block},{block},{block}"}
            connection.json("POST", f"/api/repo/{node}/instance", asked)
            made += 1
        connection.request("POST", f"/api/node/{node}/{quote(name)}/roi", msgspec.json.encode(regions.runs(name)))
        meter(count)
    return made


def export_regions(
    connection: Connection,
    node: str,
    names: Sequence[str],
    path: Path,
    meter: Callable[[int], None] = lambda done: None,
) -> tuple[int, int]:
    """Write regions at a version to a table; the numbers of regions and of runs."""
    kind = kind_of(path)
    if kind == "json":
        return _export_json(connection, node, names, path, meter)
    schema = None
    if kind == "parquet":
        pyarrow = arrow()
        types = [pyarrow.dictionary(pyarrow.int32(), pyarrow.string())] + [pyarrow.int32()] * 4
        schema = pyarrow.schema(list(zip(COLUMNS, types, strict=True)))
    with TableWriter(path, COLUMNS, schema) as writer:
        for count, name in enumerate(names, start=1):
            for run in _runs(connection, node, name):
                writer.write(dict(zip(COLUMNS, (name, *run), strict=True)))
            meter(count)
        return len(names), writer.rows


def _runs(connection: Connection, node: str, name: str) -> list[list[int]]:
    found: list[list[int]] = connection.json("GET", f"/api/node/{node}/{quote(name)}/roi")
    return found


def _export_json(
    connection: Connection, node: str, names: Sequence[str], path: Path, meter: Callable[[int], None]
) -> tuple[int, int]:
    import gzip

    partial = path.with_name(path.name + ".partial")
    total = 0
    try:
        packed = path.name.lower().endswith(".gz")
        with gzip.GzipFile(partial, "wb", 5) if packed else partial.open("wb") as file:
            file.write(b"{")
            for count, name in enumerate(names, start=1):
                runs = _runs(connection, node, name)
                total += len(runs)
                head = b"\n" if count == 1 else b",\n"
                file.write(head + msgspec.json.encode(name) + b": " + msgspec.json.encode(runs))
                meter(count)
            file.write(b"\n}\n")
        partial.replace(path)
    except OSError as error:
        raise TableError(f"{path} cannot be written: {error}") from None
    finally:
        partial.unlink(missing_ok=True)
    return len(names), total
