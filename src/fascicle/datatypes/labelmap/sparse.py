"""Sparse volumes: which voxels, or which blocks, belong to a body or supervoxel.

The index says which blocks to look into; only those are read, and their runs are found without expanding voxels.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import lz4.block
import numpy as np
from isal import igzip
from numpy.typing import NDArray

from fascicle.datatypes.base import Answer, Call, Option, Reply, Route, Work
from fascicle.datatypes.image.block_cache import BlockCache, cache_of
from fascicle.datatypes.labelmap import blocks, bodies
from fascicle.datatypes.labelmap.bodies import Rows, read_body, read_rows
from fascicle.datatypes.labelmap.mapping import mapping_at
from fascicle.datatypes.labelmap.points import body_at
from fascicle.datatypes.labelmap.requests import indexed, label_argument
from fascicle.datatypes.labelmap.voxels import SCALE, SUPERVOXELS, block_size, scale_of
from fascicle.datatypes.voxel_requests import INT32_MAX, INT32_MIN, Triple, parse_integer, parse_triple
from fascicle.errors import BadRequest, NoContent, NotFound
from fascicle.formats import label_block, label_layer, nanovdb, sparse_volume
from fascicle.formats.block_code import block_xyz
from fascicle.versions.resolution import VersionedView

U64 = NDArray[np.uint64]
Runs = NDArray[np.int32]

CACHED_BLOCKS = 256
"""Bodies of at most so many blocks keep them inflated for the next request; larger ones would only flush the cache."""

SMALL_ROWS = 4000
"""The blocks of bodies with at most so many index rows are told without asking a thread."""

_CORNER = struct.Struct("<iii")


# -- what is asked for


@dataclass(frozen=True, slots=True)
class Bounds:
    """A box of voxels with inclusive ends, x, y, z; ends that were not given lie at the limits of int32."""

    low_xyz: Triple
    high_xyz: Triple
    given: bool

    @property
    def empty(self) -> bool:
        return any(low > high for low, high in zip(self.low_xyz, self.high_xyz, strict=True))

    def blocks_inside(self, codes: U64, size_xyz: Triple) -> U64:
        """Those of the blocks (codes) that the box touches."""
        if not self.given:
            return codes
        if self.empty:
            return codes[:0]
        xyz = block_xyz(codes)
        low = np.floor_divide(self.low_xyz, size_xyz)
        high = np.floor_divide(self.high_xyz, size_xyz)
        return codes[((xyz >= low) & (xyz <= high)).all(axis=1)]


def bounds_of(call: Call) -> Bounds:
    """The options minx, maxx, miny, maxy, minz and maxz."""
    low, high, given = [INT32_MIN] * 3, [INT32_MAX] * 3, False
    for axis, name in enumerate("xyz"):
        for ends, option in ((low, f"min{name}"), (high, f"max{name}")):
            text = call.query.get(option)
            if text:
                ends[axis] = parse_integer(text)
                given = True
    return Bounds((low[0], low[1], low[2]), (high[0], high[1], high[2]), given)


def rows_of_label(call: Call, label: int, supervoxel: bool) -> Rows:
    """The index rows of a body or of one supervoxel. NotFound if it has none, BadRequest if it was split up."""
    view = call.view
    if not supervoxel:
        body = read_body(view, label)
        if body is None:
            raise NotFound("")
        return read_rows(view, body)
    owner = mapping_at(view).body(label)[0]
    if owner == 0:
        raise BadRequest(f"supervoxel {label} has been split and doesn't exist anymore")
    body = read_body(view, owner)
    rows = bodies.NO_ROWS if body is None else bodies.rows_of_supervoxels(view, body, np.array([label], np.uint64))
    if not len(rows):
        raise NotFound("")
    return rows


# -- runs


def _wanted(tables: list[U64], supervoxels: U64) -> list[NDArray[np.bool_]]:
    """For each table which of its entries are among the supervoxels, which are sorted."""
    together = np.concatenate(tables)
    places = np.searchsorted(supervoxels, together)
    places[places == len(supervoxels)] = 0
    hits = supervoxels[places] == together
    ends = np.cumsum([len(table) for table in tables]).tolist()
    return [hits[end - len(table) : end] for table, end in zip(tables, ends, strict=True)]


@dataclass(frozen=True, slots=True)
class Volume:
    """The voxels of some supervoxels (sorted u64) in some blocks of a scale (codes, ascending)."""

    view: VersionedView
    scale: int
    codes: U64
    supervoxels: U64
    size_xyz: Triple
    cache: BlockCache | None

    def _batches(self) -> Iterator[tuple[NDArray[np.int64], list[label_block.LabelBlock], list[NDArray[np.bool_]]]]:
        """(first voxels i64[n,3] x, y, z, blocks, wanted table entries) of the stored blocks that may hold voxels."""
        places, handles = blocks.find_blocks(self.view, self.scale, self.codes)
        corners = block_xyz(self.codes[places]).astype(np.int64) * self.size_xyz
        for begin in range(0, len(handles), blocks.BATCH_BLOCKS):
            opened = blocks.open_blocks(self.view, handles[begin : begin + blocks.BATCH_BLOCKS], self.cache)
            chosen = _wanted([block.table for block in opened], self.supervoxels)
            yield corners[begin : begin + len(opened)], opened, chosen

    def parts(self) -> Iterator[tuple[Triple, label_block.LabelBlock, NDArray[np.bool_]]]:
        """(first voxel x, y, z, block, wanted table entries) of the stored blocks that may hold voxels of it."""
        for corners, opened, chosen in self._batches():
            for (x, y, z), block, wanted in zip(corners.tolist(), opened, chosen, strict=True):
                if wanted.any():
                    yield (x, y, z), block, wanted

    def runs(self, bounds: Bounds | None) -> Iterator[Runs]:
        """Maximal runs i32[n,4], sorted by z, y, x; a piece for each layer of blocks. `bounds` clips them."""
        box = None if bounds is None or not bounds.given else (bounds.low_xyz, bounds.high_xyz)
        layer: list[Runs] = []  # the last one, of which the next batch may have more
        at = 0
        for corners, opened, chosen in self._batches():
            found, ends = label_layer.runs_of_layers(opened, chosen, corners, box)
            z = corners[:, 2]
            starts = np.flatnonzero(np.diff(z, prepend=z[0] - 1))
            for corner, begin, end in zip(z[starts].tolist(), [0, *ends[:-1].tolist()], ends.tolist(), strict=True):
                if layer and corner != at:
                    yield _united(layer)
                    layer = []
                at = corner
                layer.append(found[begin:end])
        if layer:
            yield _united(layer)

    def binary_blocks(self, label: int) -> Iterator[bytes]:
        """The format `blocks`; nothing at all if there are no voxels."""
        begun = False
        pending: list[bytes] = []
        for corner, block, wanted in self.parts():
            encoded = label_block.binary_block(block, wanted)
            if encoded is None:
                continue
            if not begun:
                begun = True
                pending.append(sparse_volume.binary_blocks_header(self.size_xyz, label))
            pending += (_CORNER.pack(*corner), encoded)
            if len(pending) > blocks.BATCH_BLOCKS:
                yield b"".join(pending)
                pending = []
        yield b"".join(pending)


def _united(parts: list[Runs]) -> Runs:
    """One layer of blocks that came in some batches."""
    return parts[0] if len(parts) == 1 else label_block.join_runs(np.concatenate(parts))


def _rles(runs: Iterable[Runs], compression: str) -> bytes | memoryview:
    """The format `rles`; empty if there are no runs."""
    parts = [part for part in runs if len(part)]
    count = sum(len(part) for part in parts)
    if count == 0:
        return b""
    data = b"".join((sparse_volume.header(count), *(np.ascontiguousarray(part, "<i4").data for part in parts)))
    if compression == "lz4":
        packed: bytes = lz4.block.compress(data, store_size=False)
        return packed
    if compression == "gzip":
        return igzip.compress(data, 1)
    return data


# -- endpoints


def _bounded(call: Call, rows: Rows) -> tuple[U64, Bounds, int]:
    """(blocks of the scale inside of the bounds, bounds, scale)."""
    scale = scale_of(call)
    bounds = bounds_of(call)
    codes = blocks.coarser(rows.blocks(), scale)
    return bounds.blocks_inside(codes, block_size(call)), bounds, scale


def _sparsevol(call: Call, label: int) -> Answer:
    compression = call.query.get("compression", "")
    form = call.query.get("format", "rles")
    if form not in ("srles", "blocks"):
        form = "rles"
        if compression not in ("", "none", "lz4", "gzip"):
            raise BadRequest(f'unknown compression type "{compression}": it can be none, lz4 or gzip')
    scale_of(call)
    bounds_of(call)
    rows = rows_of_label(call, label, call.flag("supervoxels"))
    codes, bounds, scale = _bounded(call, rows)
    if not len(codes):
        raise NotFound("")
    cache = cache_of(call.store) if len(codes) <= CACHED_BLOCKS else None
    body = Volume(call.view, scale, codes, rows.supervoxels()[0], block_size(call), cache)
    if form == "blocks":
        return Answer.binary(body.binary_blocks(label))
    runs = body.runs(bounds if call.query.get("exact") != "false" else None)
    if form == "srles":
        return Answer.binary(sparse_volume.encode_runs(part) for part in runs if len(part))
    return Answer.binary(_rles(runs, compression))


def get_sparsevol(call: Call) -> Reply:
    indexed(call)
    return _sparsevol(call, label_argument(call))


def head_sparsevol(call: Call) -> Reply:
    """200 if the body has a block inside of the bounds, else 204."""
    indexed(call)
    label = label_argument(call)
    try:
        codes, _, _ = _bounded(call, rows_of_label(call, label, call.flag("supervoxels")))
    except NotFound:
        raise NoContent("") from None
    if not len(codes):
        raise NoContent("")
    return Answer.binary(b"")


def refuse_sparsevol(call: Call) -> Reply:
    raise BadRequest(f"{call.method} of sparsevol is not currently implemented: use split-supervoxel")


def get_sparsevol_by_point(call: Call) -> Reply:
    indexed(call)
    xyz = parse_triple(call.argument(0, "a coordinate x_y_z"))
    label = body_at(call, xyz, scale_of(call))
    if label == 0:
        raise BadRequest(f"voxel {call.args[0]} is background: it belongs to no body")
    return _sparsevol(call, label)


def _coarse_runs(codes: U64) -> Runs:
    """Blocks (codes, ascending) as maximal runs i32[n,4] in block coordinates."""
    if not len(codes):
        return np.empty((0, 4), np.int32)
    starts = np.flatnonzero(np.append(True, np.diff(codes) != np.uint64(1)))
    runs = np.empty((len(starts), 4), np.int32)
    runs[:, :3] = block_xyz(codes[starts])
    runs[:, 3] = np.diff(np.append(starts, len(codes)))
    return runs


def get_sparsevol_coarse(call: Call) -> Answer:
    """The blocks of a body as runs."""
    indexed(call)
    label = label_argument(call)
    bounds = bounds_of(call)
    rows = rows_of_label(call, label, call.flag("supervoxels"))
    runs = _coarse_runs(bounds.blocks_inside(rows.blocks(), block_size(call)))
    return Answer.binary(sparse_volume.encode_rles(runs))


def small_sparsevol_coarse(call: Call) -> Answer | None:
    """The same, unless the body is large."""
    indexed(call)
    body = None if call.flag("supervoxels") else read_body(call.view, label_argument(call))
    return get_sparsevol_coarse(call) if body is not None and body.rows <= SMALL_ROWS else None


def get_sparsevols_coarse(call: Call) -> Reply:
    """The blocks of all bodies whose labels lie in a range."""
    first, last = label_argument(call, 0, "a first label"), label_argument(call, 1, "a last label")
    bounds = bounds_of(call)
    return Answer.binary(_coarse_volumes(call, first, last, bounds))


def _coarse_volumes(call: Call, first: int, last: int, bounds: Bounds) -> Iterator[bytes]:
    view, size = call.view, block_size(call)
    pending: list[bytes] = []
    for label, _ in bodies.list_bodies(view, first):
        if label > last:
            break
        body = read_body(view, label)
        if body is None:
            continue
        runs = _coarse_runs(bounds.blocks_inside(read_rows(view, body).blocks(), size))
        pending.append(sparse_volume.encode_coarse_record(label, runs))
        if len(pending) >= 256:
            yield b"".join(pending)
            pending = []
    yield b"".join(pending)


def get_sparsevol_size(call: Call) -> Reply:
    """Voxels, blocks and the box (of whole blocks) of a body."""
    rows = rows_of_label(call, label_argument(call), call.flag("supervoxels"))
    codes = rows.blocks()
    xyz, size = block_xyz(codes), block_size(call)
    low = (xyz.min(axis=0) * size).tolist()
    high = ((xyz.max(axis=0) + 1) * size - 1).tolist()
    text = f'{{"voxels": {rows.voxels}, "numblocks": {len(codes)}, "minvoxel": {low}, "maxvoxel": {high}}}'
    return Answer(text.encode(), "application/json")


def get_fvdb(call: Call) -> Reply:
    """The voxels of a body as a NanoVDB index grid."""
    indexed(call)
    label = label_argument(call)
    scale = scale_of(call)
    name = call.query.get("name") or f"label_{label}"
    if not (name.isascii() and name.isprintable()) or set(name) & set('"\\/'):
        raise BadRequest(f"the name of a grid must be plain text, not {name!r}")
    rows = rows_of_label(call, label, call.flag("supervoxels"))
    codes = blocks.coarser(rows.blocks(), scale)
    body = Volume(call.view, scale, codes, rows.supervoxels()[0], block_size(call), None)
    found = []
    for corner, block, wanted in body.parts():
        origins, masks = nanovdb.masks_of(label_block.decode(block.with_table(wanted.astype(np.uint64))) != 0)
        found.append((origins + corner, masks))
    if not any(len(origins) for origins, _ in found):
        raise BadRequest(f"label {label} has no voxels at scale {scale}")
    grid = nanovdb.encode_on_index(
        np.concatenate([origins for origins, _ in found]),
        np.concatenate([masks for _, masks in found]),
        call.instance.properties["VoxelSize"],
        name,
    )
    headers = [("Content-Disposition", f'attachment; filename="{name}.nvdb"')]
    return Answer(grid, "application/octet-stream", headers=headers)


_BOUNDS = Option("minx, maxx, miny, maxy, minz, maxz", "inclusive bounds in voxels of the scale; each may be left out")
_SPARSE = (
    Option("format", "rles (default), srles (runs without a header, streamed) or blocks (bit masks, streamed)"),
    _BOUNDS,
    Option("exact", "false: whole blocks instead of clipping runs at the bounds"),
    SCALE,
    SUPERVOXELS,
    Option("compression", "of rles: lz4 or gzip"),
)

ROUTES = (
    Route(
        "sparsevol",
        {"GET": get_sparsevol, "HEAD": head_sparsevol, "POST": refuse_sparsevol},
        "The voxels of a body; HEAD answers 200 if it has any inside of the bounds, else 204.",
        "<label>",
        _SPARSE,
        work=Work.HEAVY,
    ),
    Route(
        "sparsevol-by-point",
        {"GET": get_sparsevol_by_point},
        "The voxels of the body at a voxel.",
        "<x_y_z>",
        _SPARSE,
        work=Work.HEAVY,
    ),
    Route(
        "sparsevol-coarse",
        {"GET": get_sparsevol_coarse},
        "The blocks of scale 0 that a body lies in, as runs in block coordinates.",
        "<label>",
        (_BOUNDS, SUPERVOXELS),
        work=Work.HEAVY,
        at_once=small_sparsevol_coarse,
    ),
    Route(
        "sparsevols-coarse",
        {"GET": get_sparsevols_coarse},
        "The same for all bodies from one label to another, ends included.",
        "<first label>/<last label>",
        (_BOUNDS,),
        work=Work.HEAVY,
    ),
    Route(
        "sparsevol-size",
        {"GET": get_sparsevol_size},
        "Voxels, number of blocks and enclosing box of a body.",
        "<label>",
        (SUPERVOXELS,),
        work=Work.HEAVY,
    ),
    Route(
        "fvdb",
        {"GET": get_fvdb},
        "The voxels of a body as a NanoVDB index grid (OnIndex).",
        "<label>",
        (SCALE, SUPERVOXELS, Option("name", "of the grid and the file; default label_<label>")),
        work=Work.HEAVY,
    ),
)
