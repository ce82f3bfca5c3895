"""An annotation instance at a version as precomputed annotations: elements as points, relations as lines.

    info         by_id/<id>         body/<body>                                          spatial<level>/<x>_<y>_<z>
    lines/info   lines/by_id/<id>   lines/presynaptic/<body>, lines/postsynaptic/<body>  lines/spatial<level>/...

What belongs to bodies comes from the label index, so it follows every merge and cleave at once. The level of an
element is told by its id alone (`formats.annotation_index`), so a cell is read by looking at the elements in its box,
and needs no index either; only what the large cells of coarse levels list is remembered with the `Overview`.
"""

from __future__ import annotations

import dataclasses
import math
import re
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import msgspec
import numpy as np
from numpy.typing import NDArray

from fascicle.datatypes.annotation import lists, reading
from fascicle.datatypes.annotation.layout import (
    ELEMENT_HEAD,
    ELEMENTS,
    I64,
    INT32_MAX,
    INT32_MIN,
    U64,
    element_keys,
    full_texts,
    kinds_of,
    nr_texts,
    positions_of,
    value_of,
)
from fascicle.errors import NotFound
from fascicle.formats import annotation_info
from fascicle.formats.annotation_index import Cells, Grid, listed, priorities
from fascicle.formats.annotation_info import AnnotationsInfo, Index
from fascicle.formats.annotations import Columns, Lists, encode_list, encode_singles, joined
from fascicle.precomputed.annotation_overview import BODY, I32, SIDES, Overview, Source, overview_of, relationships_of
from fascicle.precomputed.builders import Form, Snapshot
from fascicle.precomputed.derived import JSON, Directory, Served
from fascicle.precomputed.synapse_columns import (
    BATCH,
    BOTH,
    POST_TO,
    Lines,
    ids_of,
    in_parts,
    line_properties,
    lines,
    point_properties,
    points,
    position_of,
)
from fascicle.store.base import Store
from fascicle.versions.model import Instance

LINES = "lines"
KEPT = 32
"""Overviews that a process keeps of each store."""
PATIENCE = 20.0
"""That of an open version is made anew after so many times as long as it took to make."""
_CELL = re.compile(r"(\d{1,15})_(\d{1,15})_(\d{1,15})", re.ASCII)
_NUMBER = re.compile(r"0|[1-9]\d{0,19}", re.ASCII)


def columns_of_all(snapshot: Snapshot, instance: Instance, as_lines: bool = False) -> Iterator[Columns]:
    """All elements of an instance at a version, or all lines between them, in parts, with the bodies they belong to.

    Each is given once, in the order in which elements lie in space. Parts have some ten thousand, never none.
    """
    source = Source.of(snapshot, instance)
    return (found.columns for found in (lines_of_all(source) if as_lines else points_of_all(source)))


@dataclass(frozen=True, slots=True, eq=False)
class Points:
    """Elements as points, with where they are."""

    columns: Columns
    xyz: I64


def points_of_all(source: Source) -> Iterator[Points]:
    """All elements, as `columns_of_all` gives them."""
    for rows in in_parts(source.view.scan_batches(ELEMENTS)):
        handles = [handle for _, handle in rows]
        xyz = positions_of([key for key, _ in rows])
        texts = full_texts(source.view, handles)
        yield Points(points(xyz, kinds_of(source.view, handles), texts, source.segmentation), xyz)


def lines_of_all(source: Source) -> Iterator[Lines]:
    """All lines, as `columns_of_all` gives them."""
    for rows in in_parts(source.view.scan_batches(ELEMENTS)):
        texts = full_texts(source.view, [handle for _, handle in rows])
        found = lines(source.elements, texts, source.segmentation, once=True)
        if len(found.columns):
            yield found


@dataclass(frozen=True, slots=True, eq=False)
class WholeSet:
    """All annotations of an instance at a version, ready to be written (`formats.annotation_index.entries`)."""

    info: AnnotationsInfo
    columns: Columns
    cells: Cells


def whole_set(snapshot: Snapshot, instance: Instance, as_lines: bool = False) -> WholeSet:
    """Everything at once: some 100 bytes of memory for each element (or line), twice as much for a moment."""
    overview = overview_of(snapshot, instance, as_lines)
    columns = joined(overview.info, list(columns_of_all(snapshot, instance, as_lines)))
    if not len(columns):
        columns = dataclasses.replace(columns, related=tuple(Lists.of([]) for _ in overview.info.relationships))
    cells = listed(overview.plan, overview.info, columns)
    levels = overview.plan.described(cells.counted(len(overview.plan)))
    return WholeSet(msgspec.structs.replace(overview.info, spatial=levels), columns, cells)


# -- parts of the index


def in_cell(source: Source, overview: Overview, level: int, cell: Sequence[int], as_lines: bool) -> Columns:
    """What a cell of a level lists: points in it, or lines with an end in it; in random order."""
    grid, place = overview.plan.grids[level], np.array(cell)
    if level in overview.known:
        first, second = overview.known[level]
        ends = [one[(_cells(grid, first) == place).all(axis=1) | (_cells(grid, second) == place).all(axis=1)]
                for one in ((first, second) if as_lines else (first,))]  # fmt: skip
        found = _at(source, np.unique(np.concatenate(ends), axis=0).astype(np.int64), as_lines)
    elif as_lines:
        found = _lines_in_box(source, _box(grid, cell))
    else:
        found = _points_in_box(source, _box(grid, cell), overview.plan.window(level))
    assert not isinstance(found.points, Lists)
    touches = np.zeros(len(found), np.bool_)
    for end in range(found.points.shape[1]):
        touches |= (grid.cells(found.points[:, end]) == place).all(axis=1)
    chance = priorities(found.ids)
    mine = np.flatnonzero(touches & (overview.plan.levels_of(chance) == level))
    return found.take(mine[np.argsort(chance[mine])])


def _cells(grid: Grid, xyz: I32) -> I64:
    return grid.cells((xyz + 0.5).astype(np.float32))


def _box(grid: Grid, cell: Sequence[int]) -> reading.Box:
    """The voxels whose middles are in a cell, and some more; cells at the border have all that lies beyond."""
    low, high = grid.span(cell)
    at, shape = np.array(cell), np.array(grid.shape)
    x0, y0, z0 = np.where(at == 0, INT32_MIN, np.floor(low - 1)).astype(np.int64).tolist()
    x1, y1, z1 = np.where(at == shape - 1, INT32_MAX, np.ceil(high + 1)).astype(np.int64).tolist()
    return reading.Box((x0, y0, z0), (x1, y1, z1))


def lies_near(grid: Grid, cells: I64, xyz: I64) -> NDArray[np.bool_]:
    """Whether voxels [n, 3] are in the boxes in which the elements of cells [n, 3] are looked for."""
    low = np.floor(grid.lower + cells * grid.chunk - 1)
    high = np.ceil(grid.lower + (cells + 1) * grid.chunk + 1)
    inside = ((cells == 0) | (xyz >= low)) & ((cells == np.array(grid.shape) - 1) | (xyz <= high))
    found: NDArray[np.bool_] = inside.all(axis=1)
    return found


def _points_in_box(source: Source, box: reading.Box, window: tuple[int, int]) -> Columns:
    """The elements in a box whose priorities are in a window: the others need not be read."""
    view, parts = source.view, []
    low, high = np.array(window, np.uint64)
    for rows in in_parts(reading.rows_in_box(view, box, source.elements.block_size)):
        xyz = positions_of([key for key, _ in rows])
        chance = priorities(ids_of(xyz))
        mine = np.flatnonzero((chance >= low) & (chance <= high))
        handles = [rows[i][1] for i in mine.tolist()]
        parts.append(points(xyz[mine], kinds_of(view, handles), full_texts(view, handles), None))
    return _together(parts, False)


def _lines_in_box(source: Source, box: reading.Box) -> Columns:
    """The lines of the elements in a box."""
    parts = []
    for rows in in_parts(reading.rows_in_box(source.view, box, source.elements.block_size)):
        texts = full_texts(source.view, [handle for _, handle in rows])
        parts.append(lines(source.elements, texts, None).columns)
    return _together(parts, True)


def _at(source: Source, xyz: I64, as_lines: bool, sides: Sequence[str] = BOTH) -> Columns:
    """The elements at positions (each once), or their lines."""
    view, parts = source.view, []
    for at in range(0, len(xyz), BATCH):
        places = xyz[at : at + BATCH]
        handles = view.handles(ELEMENTS, element_keys(places, source.elements.block_size))
        there = [i for i, handle in enumerate(handles) if handle is not None]
        values = [value_of(view, handle) for handle in handles if handle is not None]
        texts = [value[ELEMENT_HEAD:] for value in values]
        if as_lines:
            parts.append(lines(source.elements, texts, None, sides=sides).columns)
        else:
            kinds = np.frombuffer(bytes([value[0] for value in values]), np.uint8)
            parts.append(points(places[there], kinds, texts, None))
    return _together(parts, as_lines)


def _together(parts: list[Columns], as_lines: bool) -> Columns:
    """The columns of several parts; lines that are in more than one of them once."""
    found = joined(_BARE[as_lines], parts)
    if as_lines and len(parts) > 1:
        found = found.take(np.sort(np.unique(found.ids, return_index=True)[1]))
    return found


def _bare(as_lines: bool) -> AnnotationsInfo:
    """An info that says how records look, and nothing of a place."""
    return AnnotationsInfo(
        dimensions=dict.fromkeys("xyz", (1.0, "m")),
        lower_bound=(0.0, 0.0, 0.0),
        upper_bound=(1.0, 1.0, 1.0),
        annotation_type="LINE" if as_lines else "POINT",
        properties=line_properties() if as_lines else point_properties(),
        by_id=Index(key="by_id"),
    )


_BARE = {as_lines: _bare(as_lines) for as_lines in (False, True)}


# -- bodies and single ones


def of_body(source: Source, label: int, relationship: str) -> Columns:
    """The elements of a body, or the lines that begin or end in it (relationship `presynaptic`, `postsynaptic`).

    In random order.
    """
    view = source.view
    as_lines = relationship != BODY
    side = (SIDES[relationship],) if as_lines else ()
    parts: list[Columns] = []
    posted = lists.read(view, label)
    if posted is not None:
        places = [place for one in lists.elements_of(posted) if (place := lists.position_of(one)) is not None]
        xyz = np.unique(np.array(places, np.int64).reshape(-1, 3), axis=0)
        parts.append(_at(source, xyz, as_lines, side))
    elif source.segmentation is not None:
        for batch in in_parts(source.segmentation.rows_of_body(view, label)):
            xyz = positions_of([key for key, _ in batch])
            if as_lines:
                parts.append(_at(source, xyz, True, side))
            else:
                handles = [handle for _, handle in batch]
                parts.append(points(xyz, kinds_of(view, handles), nr_texts(view, handles), None))
    found = _together(parts, as_lines)
    return found.take(np.argsort(priorities(found.ids)))


def by_id(source: Source, identifier: int, as_lines: bool) -> Columns:
    """One element or line, with the bodies it belongs to; empty columns if there is none with this id."""
    place = position_of(identifier)
    wanted = np.array([identifier], np.uint64)
    if place is not None:
        found = _at(source, np.array([place], np.int64), as_lines, (POST_TO,))
    else:
        found = _together(list(_scanned(source, wanted, as_lines)), as_lines)
    found = found.take(np.flatnonzero(found.ids == wanted[0])[:1])
    if source.segmentation is None:
        return found
    assert not isinstance(found.points, Lists)
    ends = np.floor(found.points).astype(np.int64)
    related = [
        Lists.single(source.segmentation.bodies(source.segmentation.supervoxels(ends[:, end])))
        for end in range(ends.shape[1])
    ]
    return Columns(found.ids, found.points, found.properties, tuple(related))


def _scanned(source: Source, wanted: U64, as_lines: bool) -> Iterator[Columns]:
    """What has an id that does not say where it is: everything has to be looked at."""
    for rows in in_parts(source.view.scan_batches(ELEMENTS)):
        if as_lines:
            texts = full_texts(source.view, [handle for _, handle in rows])
            found = lines(source.elements, texts, None, once=True).columns
            yield found.take(np.flatnonzero(np.isin(found.ids, wanted)))
        else:
            xyz = positions_of([key for key, _ in rows])
            yield _at(source, xyz[np.isin(ids_of(xyz), wanted)], False)


# -- in the view


@dataclass(frozen=True, slots=True)
class _Kept:
    number: int
    """That of the transaction in which it was made."""
    until: float
    overview: Overview

    def holds(self, snapshot: Snapshot) -> bool:
        return self.number == snapshot.txn.number or time.monotonic() < self.until


class Annotations(Directory):
    """An annotation instance as a directory with annotations."""

    name = "annotations"

    def __init__(self) -> None:
        self._kept: WeakKeyDictionary[Store, dict[tuple[int, int, bool], _Kept]] = WeakKeyDictionary()
        self._making = threading.Lock()

    def exists(self, snapshot: Snapshot, instance: Instance, form: Form) -> bool:
        return any(snapshot.view(instance).scan_batches(ELEMENTS))

    def serve(self, snapshot: Snapshot, instance: Instance, form: Form, path: str) -> Served:
        parts = path.split("/")
        as_lines = parts[0] == LINES
        parts = parts[as_lines:]
        if parts == ["info"]:
            return Served(annotation_info.encode(self.overview(snapshot, instance, as_lines).info), JSON)
        source = Source.of(snapshot, instance)
        if len(parts) == 2:
            kind, name = parts
            if kind == "by_id":
                return self._single(source, _number(name), as_lines)
            if kind in (SIDES if as_lines else (BODY,)) and source.segmentation is not None:
                return Served(encode_list(_BARE[as_lines], of_body(source, _number(name), kind)))
            if kind.startswith("spatial"):
                overview = self.overview(snapshot, instance, as_lines)
                level, cell = _cell(overview, kind, name)
                found = in_cell(source, overview, level, cell, as_lines)
                return Served(encode_list(_BARE[as_lines], found))
        directories = ["by_id/<id>", *(f"{one.key}/<body>" for one in relationships_of(source, as_lines))]
        raise NotFound(f"there is no {path!r}, only info, {', '.join(directories)} and spatial<level>/<x>_<y>_<z>")

    def _single(self, source: Source, identifier: int, as_lines: bool) -> Served:
        found = by_id(source, identifier, as_lines)
        if not len(found):
            raise NotFound(f"there is no annotation {identifier}")
        info = msgspec.structs.replace(_BARE[as_lines], relationships=relationships_of(source, as_lines))
        return Served(bytes(encode_singles(info, found)[0]))

    def overview(self, snapshot: Snapshot, instance: Instance, as_lines: bool) -> Overview:
        """That of the version, or of a moment ago while it is edited and making one takes its time."""
        kept = self._kept.setdefault(snapshot.store, {})
        key = (instance.id, snapshot.node.id, as_lines)
        known = kept.get(key)
        if known is not None and known.holds(snapshot):
            return known.overview
        with self._making:  # of those that wait here, all but the first find it made
            known = kept.get(key)
            if known is None or not known.holds(snapshot):
                began = time.monotonic()
                made = overview_of(snapshot, instance, as_lines)
                ended = time.monotonic()
                lasting = snapshot.node.locked and instance.versioned and not snapshot.settings.get("full_write")
                until = math.inf if lasting else ended + PATIENCE * (ended - began)
                known = _Kept(snapshot.txn.number, until, made)
                while len(kept) >= KEPT:
                    del kept[next(iter(kept))]
                kept[key] = known
        return known.overview


def _number(name: str) -> int:
    """An id in a path. Raises NotFound."""
    number = int(name) if _NUMBER.fullmatch(name) else 1 << 64
    if number >= 1 << 64:
        raise NotFound(f"{name!r} is no id: a decimal number of 64 bits is expected")
    return number


def _cell(overview: Overview, level_name: str, name: str) -> tuple[int, tuple[int, ...]]:
    """A level and a cell of it by their names in a path. Raises NotFound."""
    for level, described in enumerate(overview.info.spatial):
        if described.key == level_name:
            match = _CELL.fullmatch(name)
            cell = tuple(int(part) for part in match.groups()) if match is not None else ()
            if match is None or any(at >= cells for at, cells in zip(cell, described.grid_shape, strict=True)):
                shape = "x".join(map(str, described.grid_shape))
                raise NotFound(f"there is no cell {name!r} at {level_name}, which has {shape} from 0_0_0 on")
            return level, cell
    raise NotFound(f"there is no level {level_name!r} but spatial0 to spatial{len(overview.info.spatial) - 1}")
