"""The annotations of an export: all of them are looked at once, and sorted on disk into the lists of every index.

Each list of an index (the annotations of a body, or of a cell) is made of rows that are sorted by the key of the list
and then by chance, as the live view orders them. So memory holds some thousand annotations, a run of rows, and one list
at a time, however many annotations there are.

    <prefix>by_id             spool of single annotations
    <prefix>body0.rows        rows of the first relationship: body, chance, id, record
    <prefix>level0.rows       rows of the first level: Morton code of the cell, chance, id, record
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fascicle.formats import annotation_info
from fascicle.formats.annotation_index import priorities
from fascicle.formats.annotation_info import AnnotationsInfo
from fascicle.formats.annotations import Columns, encode_records, encode_singles, record_bytes
from fascicle.formats.sharding import morton_codes
from fascicle.precomputed import derived
from fascicle.precomputed.builders import Snapshot
from fascicle.versions.model import Instance
from fascicle.volumes.sorted_rows import RowSorter, sorted_rows

if TYPE_CHECKING:
    from fascicle.pipeline.export_directories import DirectoryPlace
    from fascicle.precomputed.annotation_overview import Overview, Source
    from fascicle.precomputed.annotations import Points
    from fascicle.precomputed.synapse_columns import Lines

BY_ID = "by_id"
Flags = NDArray[np.bool_]
U64 = NDArray[np.uint64]


def overview(snapshot: Snapshot, instance: Instance, as_lines: bool) -> Overview:
    """The info and the levels of cells, as the live view has them."""
    from fascicle.precomputed.annotations import Annotations

    directory = derived.whole("annotation")
    assert isinstance(directory, Annotations)
    return directory.overview(snapshot, instance, as_lines)


def row_type(info: AnnotationsInfo) -> np.dtype[Any]:
    """The rows of lists."""
    return np.dtype([("key", "<u8"), ("chance", "<u8"), ("id", "<u8"), ("record", f"V{record_bytes(info)}")])


def scan_annotations(place: DirectoryPlace, argument: list[Any]) -> list[Any]:
    """All annotations (or lines) of an instance into spools and sorted rows; their number, and the info as JSON."""
    from fascicle.precomputed.annotations import lines_of_all, points_of_all

    name, as_lines, prefix = argument
    with place.instance(name) as (snapshot, instance):
        source = place.source(snapshot, instance)
        known = overview(snapshot, instance, as_lines)
        count = 0
        spool = place.spool(f"{prefix}{BY_ID}")
        scan = _Scan(place.setting.scratch, prefix, source, known)
        try:
            for found in lines_of_all(source) if as_lines else points_of_all(source):
                columns = found.columns
                count += len(columns)
                data, starts = encode_singles(known.info, columns)
                for i, key in enumerate(columns.ids.tolist()):
                    spool.add(key, data[starts[i] : starts[i + 1]])
                scan.add(found)
            scan.close()
        finally:
            scan.abandon()
        spool.close()
    return [count, annotation_info.encode(known.info).decode()]


class _Scan:
    """Rows of all lists."""

    def __init__(self, folder: Path, prefix: str, source: Source, known: Overview) -> None:
        from fascicle.datatypes.annotation import lists

        self._source = source
        self._known = known
        self._dtype = row_type(known.info)
        self._bodies = self._sorters(folder, f"{prefix}body", len(known.info.relationships))
        self._cells = self._sorters(folder, f"{prefix}level", len(known.plan))
        self._posted = np.array(lists.labels_posted(source.view), np.uint64)
        """Bodies that have a list of their own, whatever is in them."""
        self._met: list[set[int]] = [set() for _ in self._bodies]

    def _sorters(self, folder: Path, name: str, count: int) -> list[RowSorter]:
        return [RowSorter(folder / f"{name}{i}.rows", self._dtype) for i in range(count)]

    def add(self, found: Points | Lines) -> None:
        """Some annotations."""
        columns = found.columns
        records = encode_records(self._known.info, columns)
        chance = priorities(columns.ids)
        ends = _ends(found)
        for i, (sorter, lists) in enumerate(zip(self._bodies, columns.related, strict=True)):
            rows = np.repeat(np.arange(len(columns)), lists.lengths)
            bodies, kept = lists.values.astype(np.uint64), np.ones(len(rows), np.bool_)
            if len(ends) > 1:  # a body knows of lines of which its elements know
                kept &= ends[i][1][rows]
            if len(self._posted):
                posted = np.isin(bodies, self._posted)
                self._met[i].update(bodies[posted].tolist())
                kept &= ~posted
            self._put(sorter, bodies[kept], rows[kept], columns, chance, records)
        levels = self._known.plan.levels_of(chance)
        for level in np.unique(levels).tolist():
            self._add_level(level, np.flatnonzero(levels == level), found, ends, chance, records)

    def _add_level(
        self, level: int, mine: NDArray[np.int64], found: Points | Lines, ends: Sequence[tuple[Any, Flags]],
        chance: U64, records: NDArray[np.uint8],
    ) -> None:  # fmt: skip
        from fascicle.precomputed.annotations import lies_near

        grid, points = self._known.plan.grids[level], found.columns.points
        assert isinstance(points, np.ndarray)
        before: Any = None
        for end in range(len(ends)):
            cells = grid.cells(points[mine, end])
            codes = morton_codes(cells, grid.shape)
            kept = np.ones(len(mine), np.bool_) if before is None else codes != before
            if len(ends) > 1 and level not in self._known.known:  # lines are found by the elements that know of them
                near = [told[mine] & lies_near(grid, cells, xyz[mine]) for xyz, told in ends]
                kept &= near[0] | near[1]
            self._put(self._cells[level], codes[kept], mine[kept], found.columns, chance, records)
            before = codes

    def _put(
        self, sorter: RowSorter, keys: U64, rows: Any, columns: Columns, chance: U64, records: NDArray[np.uint8]
    ) -> None:
        made = np.empty(len(rows), self._dtype)
        made["key"], made["chance"], made["id"] = keys, chance[rows], columns.ids[rows]
        made["record"] = records[rows].view(self._dtype["record"])[:, 0]
        sorter.add(made)

    def close(self) -> None:
        """All annotations were added."""
        from fascicle.precomputed.annotations import of_body

        info = self._known.info
        for relationship, sorter, met in zip(info.relationships, self._bodies, self._met, strict=True):
            for label in sorted(met):
                columns = of_body(self._source, label, relationship.key)
                keys = np.full(len(columns), label, np.uint64)
                chance, records = priorities(columns.ids), encode_records(info, columns)
                self._put(sorter, keys, np.arange(len(columns)), columns, chance, records)
        for sorter in (*self._bodies, *self._cells):
            sorter.close()

    def abandon(self) -> None:
        for sorter in (*self._bodies, *self._cells):
            sorter.abandon()


def _ends(found: Points | Lines) -> list[tuple[Any, Flags]]:
    """Where the ends of annotations are, and whether the elements there know of them."""
    if hasattr(found, "xyz"):
        return [(found.xyz, np.ones(len(found.xyz), np.bool_))]
    return list(zip((found.pre_xyz, found.post_xyz), found.told, strict=True))


def sorted_lists(path: Path, info: AnnotationsInfo) -> Iterator[tuple[int, bytes]]:
    """The lists of an index with their keys, ascending, as they are encoded."""
    parts: list[NDArray[Any]] = []
    for block in sorted_rows(path, row_type(info)):
        keys = block["key"]
        borders = [0, *(np.flatnonzero(keys[1:] != keys[:-1]) + 1).tolist(), len(block)]
        for start, stop in pairwise(borders):
            if parts and parts[0]["key"][0] != keys[start]:
                yield _encoded(parts)
                parts = []
            parts.append(block[start:stop])
    if parts:
        yield _encoded(parts)


def _encoded(parts: list[NDArray[Any]]) -> tuple[int, bytes]:
    count = sum(map(len, parts)).to_bytes(8, "little")
    records = [part["record"].tobytes() for part in parts]
    ids = [part["id"].tobytes() for part in parts]
    return int(parts[0]["key"][0]), b"".join((count, *records, *ids))
