"""Annotations of bodies from tables into `neuronjson` instances, and back.

One row per body, one column per field, and a column `bodyid`. JSON has the objects as they are. In CSV a text stands as
it is, unless it could be taken for something else: numbers, lists and the like are JSON, and so are the texts that
look like them, in quotes. An empty cell is a field that the body does not have. In Parquet a column has the type of its
values where they all have one; columns of mixed values are JSON texts, marked as such in the column's metadata.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import msgspec

from fascicle.datatypes.keyvalue.messages import key_values
from fascicle.pipeline.ingest_connections import Connection
from fascicle.pipeline.tables import (
    Meter,
    TableError,
    TableWriter,
    array_values,
    arrow,
    at,
    header_of,
    in_batches,
    kind_of,
    no_meter,
    read_rows,
)

Neuron = dict[str, Any]
_FIRST = ("bodyid", "type", "instance", "status", "class")
_BATCH = 2000
_AS_JSON = {b"fascicle": b"json"}
_IDS = {"bodyid", "body_id", "body", "body id"}


# -- cells of CSV


def cell_of(value: Any) -> str:
    """A value as the text of a cell.

    >>> [cell_of(value) for value in ("KC", "12", 12, [1, 2], "")]
    ['KC', '"12"', '12', '[1,2]', '""']
    """
    if isinstance(value, str) and value and value_of(value) == value:
        return value
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def value_of(cell: str) -> Any:
    """The value that a cell's text means.

    >>> [value_of(cell) for cell in ("KC", '"12"', "12", "[1,2]", '""')]
    ['KC', '12', 12, [1, 2], '']
    """
    if cell[:1] in '"[{-0123456789tfnIN':
        try:
            return json.loads(cell)
        except (ValueError, RecursionError):
            return cell
    return cell


# -- from a table


def read_neurons(path: Path, texts: Sequence[str] = (), meter: Meter = no_meter) -> Iterator[tuple[int, Neuron]]:
    """(line, object with `bodyid`) of a table; fields in `texts` are text whatever they look like.

    Raises TableError with file and line.
    """
    kind = kind_of(path)
    columns = header_of(path)
    identity = next((name for name in columns if name.lower() in _IDS), None)
    if identity is None and kind != "json":
        raise at(path, 1, f"no column bodyid, but {', '.join(columns)[:200]}")
    marked = _json_columns(path) if kind == "parquet" else set()
    for line, row in read_rows(path, meter):
        if kind == "json":
            identity = next((name for name in row if name.lower() in _IDS), None)
        neuron: Neuron = {}
        for name, value in row.items():
            if name != identity and kind == "csv":
                value = value if name in texts else value_of(value)
            elif name in marked:
                value = json.loads(value)
            neuron["bodyid" if name == identity else name] = value
        neuron["bodyid"] = _body(path, line, neuron.get("bodyid"))
        yield line, neuron


def _body(path: Path, line: int, value: Any) -> int:
    if isinstance(value, str) and value.isdecimal():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 1 << 64:
        raise at(path, line, f"bodyid is {'missing' if value is None else repr(value)[:40]}, not a number of a body")
    return value


def check_neurons(path: Path, texts: Sequence[str] = (), meter: Meter = no_meter) -> int:
    """Read a whole table: how many rows it has. Raises TableError for the first mistake, as a body that comes twice."""
    import numpy as np

    count = 0
    seen = np.zeros(1 << 10, np.uint64)
    for _, neuron in read_neurons(path, texts, meter):
        if count == seen.size:
            seen = np.resize(seen, 2 * count)
        seen[count] = neuron["bodyid"]
        count += 1
    ids, times = np.unique(seen[:count], return_counts=True)
    if np.any(times > 1):
        raise TableError(f"{path}: body {ids[times > 1][0]} comes {times[times > 1][0]} times")
    return count


def post_neurons(
    connection: Connection,
    node: str,
    instance: str,
    neurons: Iterator[tuple[int, Neuron]],
    user: str,
    replace: bool,
    meter: Callable[[int], None] = lambda done: None,
) -> None:
    """Send objects in batches in the name of a user; with `replace` fields that a row lacks are removed."""
    stored = 0
    query = urlencode({"u": user, **({"replace": "true"} if replace else {})})
    for batch in in_batches(neurons, _BATCH):
        pairs = ((str(neuron["bodyid"]).encode(), msgspec.json.encode(neuron)) for _, neuron in batch)
        connection.request("POST", f"/api/node/{node}/{quote(instance)}/keyvalues?{query}", key_values(pairs))
        stored += len(batch)
        meter(stored)


# -- to a table


def export_neurons(
    connection: Connection,
    node: str,
    instance: str,
    path: Path,
    history: bool = False,
    meter: Callable[[int], None] = lambda done: None,
) -> int:
    """Write all bodies of an instance at a version; with `history` also who changed a field, and when. Their number."""
    kind = kind_of(path)
    schema = None
    columns: list[str] = []
    if kind == "csv":
        columns = list(_column_kinds(connection, node, instance, history))
    elif kind == "parquet":
        kinds = _column_kinds(connection, node, instance, history)
        columns = list(kinds)
        schema = _schema(kinds)
    as_json = {field.name for field in schema if field.metadata} if schema is not None else set()
    with TableWriter(path, columns, schema) as writer:
        for neuron in _neurons(connection, node, instance, history):
            if kind == "csv":
                neuron = {name: cell_of(value) for name, value in neuron.items()}
            elif kind == "parquet":
                neuron = {
                    name: json.dumps(value, ensure_ascii=False) if name in as_json else value
                    for name, value in neuron.items()
                }
            writer.write(neuron)
            if writer.rows % 1000 == 0:
                meter(writer.rows)
        meter(writer.rows)
        return writer.rows


def _neurons(connection: Connection, node: str, instance: str, history: bool) -> Iterator[Neuron]:
    query = "?show=all" if history else ""
    yield from array_values(connection.pieces(f"/api/node/{node}/{quote(instance)}/all{query}"))


def _column_kinds(connection: Connection, node: str, instance: str, history: bool) -> dict[str, set[str]]:
    """Column -> the kinds of values it has, in the order in which columns are written."""
    kinds: dict[str, set[str]] = {"bodyid": {"u64"}}
    for neuron in _neurons(connection, node, instance, history):
        for name, value in neuron.items():
            if name != "bodyid":
                kinds.setdefault(name, set()).add(_kind(value))
    order = [name for name in _FIRST if name in kinds] + sorted(name for name in kinds if name not in _FIRST)
    return {name: kinds[name] for name in order}


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        return "i64" if -(1 << 63) <= value < 1 << 63 else "u64"
    if isinstance(value, float):
        return "f64"
    if isinstance(value, str):
        return "text"
    if isinstance(value, list) and value:
        members = {_kind(member) for member in value}
        if len(members) == 1 and members <= {"i64", "text"}:
            return f"list {members.pop()}"
    return "json"


def _schema(kinds: dict[str, set[str]]) -> Any:
    pyarrow = arrow()
    types = {
        "bool": pyarrow.bool_(),
        "i64": pyarrow.int64(),
        "u64": pyarrow.uint64(),
        "f64": pyarrow.float64(),
        "text": pyarrow.string(),
        "list i64": pyarrow.list_(pyarrow.int64()),
        "list text": pyarrow.list_(pyarrow.string()),
    }
    fields = []
    for name, found in kinds.items():
        kind = next(iter(found)) if len(found) == 1 else "json"
        if kind in types:
            fields.append(pyarrow.field(name, types[kind]))
        else:
            fields.append(pyarrow.field(name, pyarrow.string(), metadata=_AS_JSON))
    return pyarrow.schema(fields)


def _json_columns(path: Path) -> set[str]:
    pyarrow = arrow()
    schema = pyarrow.parquet.read_schema(path)
    return {field.name for field in schema if (field.metadata or {}).get(b"fascicle") == b"json"}
