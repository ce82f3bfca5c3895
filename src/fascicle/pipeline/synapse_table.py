"""Synapses, or any elements of an annotation instance, from tables into a version, and back.

Both directions take bounded memory: tables are sorted on disk before anything is sent, and answers are read block by
block. Not for this module: what the rows mean (`fascicle.pipeline.synapse_rows`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec

from fascicle.pipeline import synapse_rows as rows
from fascicle.pipeline.ingest_connections import Connection
from fascicle.pipeline.synapse_rows import Element, RowError
from fascicle.pipeline.synapse_staging import Staging
from fascicle.pipeline.tables import (
    Meter,
    TableError,
    TableWriter,
    arrow,
    at,
    header_of,
    in_batches,
    kind_of,
    no_meter,
    read_rows,
)

LAYOUTS = ("points", "partners")
_BATCH = 10_000
_LOOKED_UP = 20_000
_NEXT_BLOCK = re.compile(rb'\],"(-?\d+,-?\d+,-?\d+)":\[')
"""Where a block ends and the next begins: inside of an element no list follows a name of digits, and a quote in a text
is escaped."""


@dataclass(frozen=True, slots=True)
class TableSummary:
    """What was read or written."""

    rows: int
    elements: int
    unused_columns: tuple[str, ...] = ()


# -- from a table


def stage(path: Path, partners: Path | None, staged: Staging, meter: Meter = no_meter) -> TableSummary:
    """Read a table, and perhaps a second one that joins its points by id. Raises TableError with file and line."""
    count = 0
    repeated = False
    known = {"id", "x", "y", "z", "location", *rows.POINT_COLUMNS, "pre_id"}
    unused: tuple[str, ...] = ()
    if kind_of(path) == "json":
        for line, row in read_rows(path, meter):
            count += 1
            staged.add(_made(path, line, rows.element_of_json, row), line)
    else:
        names = rows.plain_names(header_of(path))
        plain = set(names.values())
        repeated = "x_pre" in plain
        if repeated:
            known = set(rows.PARTNER_COLUMNS)
        elif not ({"x", "y", "z"} <= plain or "location" in plain):
            raise at(path, 1, f"no columns x, y and z (or x_pre, ..., or location), but {', '.join(names)[:200]}")
        unused = tuple(name for name, meaning in names.items() if meaning not in known)
        for line, cells in read_rows(path, meter):
            count += 1
            row = {names[name]: value for name, value in cells.items()}
            if repeated:
                for element in _made(path, line, rows.partner_elements, row):
                    staged.add(element, line)
                continue
            identity = row.get("id")
            staged.add(_made(path, line, rows.point_element, row), line, None if identity is None else str(identity))
            if row.get("pre_id") is not None:
                if identity is None:
                    raise at(path, line, "pre_id without an id of the row's own")
                staged.link(str(row["pre_id"]), str(identity), line)
    if partners is not None:
        _stage_partners(partners, staged, meter)
    total, mistake = staged.finish(repeated=repeated)
    if mistake is not None:
        line, problem = mistake
        raise at(partners if partners is not None and problem.startswith("there is no") else path, line, problem)
    return TableSummary(count, total, unused)


def _made(path: Path, line: int, make: Callable[[dict[str, Any]], Any], row: dict[str, Any]) -> Any:
    try:
        return make(row)
    except RowError as error:
        raise at(path, line, str(error)) from None


def _stage_partners(path: Path, staged: Staging, meter: Meter) -> None:
    names = rows.plain_names(header_of(path))
    if not {"pre_id", "post_id"} <= set(names.values()):
        raise at(path, 1, f"no columns pre_id and post_id, but {', '.join(names)[:200]}")
    for line, cells in read_rows(path, meter):
        row = {names[name]: value for name, value in cells.items()}
        if row.get("pre_id") is None or row.get("post_id") is None:
            raise at(path, line, "pre_id or post_id is missing")
        staged.link(str(row["pre_id"]), str(row["post_id"]), line)


def post_elements(
    connection: Connection, node: str, instance: str, elements: Iterable[Element], meter: Callable[[int], None]
) -> None:
    """Send elements in batches; `meter` is told how many have been stored."""
    stored = 0
    for batch in in_batches(elements, _BATCH):
        path = f"/api/node/{node}/{quote(instance)}/elements?kafkalog=off"
        connection.request("POST", path, msgspec.json.encode(batch))
        stored += len(batch)
        meter(stored)


def make_instance(connection: Connection, node: str, instance: str, instances: dict[str, Any], follow: str) -> bool:
    """Make an annotation instance that follows a label map, unless it is there; whether it was made.

    Raises TableError if the instance has another type or the label map is not there.
    """
    if instance in instances:
        kind = instances[instance]["Base"]["TypeName"]
        if kind != "annotation":
            raise TableError(f"instance {instance!r} is of type {kind}, not annotation")
        return False
    if follow and (follow not in instances or instances[follow]["Base"]["TypeName"] != "labelmap"):
        raise TableError(f"there is no label map {follow!r} to follow: name one with --follow, or '' for none")
    connection.json("POST", f"/api/repo/{node}/instance", {"typename": "annotation", "dataname": instance})
    if follow:
        connection.json("POST", f"/api/node/{node}/{quote(instance)}/sync", {"sync": follow})
    return True


# -- to a table


def export_synapses(
    connection: Connection,
    lookups: Connection,
    node: str,
    instance: str,
    path: Path,
    layout: str = "points",
    segmentation: str = "",
    meter: Callable[[int], None] = lambda done: None,
) -> TableSummary:
    """Write the elements of an instance at a version; with `segmentation` the body of each is looked up.

    `lookups` is a second connection, since the first one is busy with a long answer. `meter` is told how many elements
    were read.
    """
    kind = kind_of(path)
    schema = None
    if kind == "parquet":
        schema = (rows.partner_schema if layout == "partners" else rows.point_schema)(arrow())
    if layout == "partners" and kind == "json":
        raise TableError("partners are written as CSV or Parquet; JSON has the elements as they are")
    columns = rows.PARTNER_COLUMNS if layout == "partners" else rows.POINT_COLUMNS
    read = 0
    with TableWriter(path, columns, schema) as writer:
        source = _elements(connection, node, instance)
        if layout == "partners":
            written = _partners(lookups, node, instance, source, segmentation)
        else:
            written = _points(lookups, node, source, segmentation, kind)
        for row, elements in written:
            writer.write(row)
            read += elements
            if writer.rows % 1000 == 0:
                meter(read)
        meter(read)
        return TableSummary(writer.rows, read)


def _elements(connection: Connection, node: str, instance: str) -> Iterator[Element]:
    """All elements, block by block."""
    for _, elements in blocks_of(connection, node, instance):
        yield from elements


def blocks_of(connection: Connection, node: str, instance: str) -> Iterator[tuple[str, list[Element]]]:
    """All blocks that have elements, as a server names them (x,y,z), with those."""
    rest, name = b"", ""
    for piece in connection.pieces(f"/api/node/{node}/{quote(instance)}/all-elements"):
        rest += piece
        if not name:
            head, bracket, after = rest.partition(b'":[')
            if not bracket:
                continue
            name, rest = head.rpartition(b'"')[2].decode(), after
        position = 0
        for border in _NEXT_BLOCK.finditer(rest):
            yield name, msgspec.json.decode(b"[" + rest[position : border.start()] + b"]")
            name, position = border[1].decode(), border.end()
        rest = rest[position:]
    if name:
        if not rest.rstrip().endswith(b"]}"):
            raise TableError("the answer ended before it was complete: see the server's log")
        yield name, msgspec.json.decode(b"[" + rest.rstrip()[:-1])


def bodies_of(connection: Connection, node: str, segmentation: str, points: list[list[int]]) -> list[int]:
    """The bodies at points x, y, z."""
    if not points:
        return []
    found: list[int] = connection.json("GET", f"/api/node/{node}/{quote(segmentation)}/labels", points)
    return found


def _points(
    lookups: Connection, node: str, source: Iterator[Element], segmentation: str, kind: str
) -> Iterator[tuple[dict[str, Any], int]]:
    if kind == "json":
        for element in source:
            yield element, 1
        return
    for batch in in_batches(source, _LOOKED_UP):
        bodies: list[Any] = [None] * len(batch)
        if segmentation:
            bodies = bodies_of(lookups, node, segmentation, [element["Pos"] for element in batch])
        for element, body in zip(batch, bodies, strict=True):
            yield rows.point_row(element, body, kind), 1


def _partners(
    lookups: Connection, node: str, instance: str, source: Iterator[Element], segmentation: str
) -> Iterator[tuple[dict[str, Any], int]]:
    """A row for each relation from a T-bar to a density.

    Densities may lie in blocks that come later, or came before; each batch asks for those that it does not hold.
    """
    for batch in in_batches(source, _LOOKED_UP):
        pairs = [
            (element, tuple(relation["To"]))
            for element in batch
            if element["Kind"] == "PreSyn"
            for relation in element["Rels"]
            if relation["Rel"] == "PreSynTo"
        ]
        held = {tuple(element["Pos"]): element for element in batch}
        for place in sorted({place for _, place in pairs if place not in held}):
            at_place = "_".join(map(str, place))
            found = lookups.json("GET", f"/api/node/{node}/{quote(instance)}/elements/1_1_1/{at_place}")
            held[place] = found[0] if found else {"Pos": list(place), "Prop": {}}
        bodies: dict[tuple[int, ...], int | None] = {}
        if segmentation:
            places = sorted({tuple(pre["Pos"]) for pre, _ in pairs} | {place for _, place in pairs})
            found = bodies_of(lookups, node, segmentation, [list(place) for place in places])
            bodies = dict(zip(places, found, strict=True))
        count = len(batch)
        for pre, place in pairs:
            yield rows.partner_row(pre, held[place], (bodies.get(tuple(pre["Pos"])), bodies.get(place))), count
            count = 0
