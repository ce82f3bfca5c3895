"""Precomputed annotations as bytes: single ones by their id, and the lists that relationships and cells have.

Source: https://github.com/google/neuroglancer/blob/master/src/datasource/precomputed/annotations.md
A record is the geometry (f32), then the properties, strictest alignment first, then zeros up to a multiple of 4. A
list is a count u64, the records, their ids u64. Under its id an annotation has its record and, for each relationship, a
count u32 and the ids u64 of what it is related to.

Many annotations are columns: arrays with one row for each. Coordinates are in the order of the info's dimensions.
Everything is done to all rows at once; only lists of polylines are read one by one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fascicle.errors import BadRequest
from fascicle.formats.annotation_info import AnnotationsInfo, in_record_order
from fascicle.kernels.arrays import Buffer

U64 = NDArray[np.uint64]
U32 = NDArray[np.uint32]
I64 = NDArray[np.int64]
F32 = NDArray[np.float32]
POINTS = {"POINT": 1, "LINE": 2, "AXIS_ALIGNED_BOUNDING_BOX": 2, "ELLIPSOID": 2}
"""How many points an annotation has (the second one of an ellipsoid are its radii); a polyline says so itself."""
POLYLINE = "POLYLINE"


@dataclass(frozen=True, slots=True, eq=False)
class Lists:
    """One list for each row, side by side: row i has `values[starts[i] : starts[i + 1]]`."""

    values: NDArray[Any]
    """[m], or [m, k]"""
    starts: I64
    """i64[rows + 1], from 0 to m"""

    @classmethod
    def of(cls, lists: Sequence[Sequence[int]]) -> Lists:
        """Lists of ids u64."""
        lengths = np.array([len(one) for one in lists], np.int64)
        flat = [value for one in lists for value in one]
        return cls(np.array(flat, np.uint64), starts_of(lengths))

    @classmethod
    def single(cls, values: U64) -> Lists:
        """Lists of one id each; 0 stands for none."""
        there = values != 0
        return cls(values[there], starts_of(there.astype(np.int64)))

    @property
    def lengths(self) -> I64:
        return np.diff(self.starts)

    def take(self, rows: I64) -> Lists:
        lengths = self.lengths[rows]
        starts = starts_of(lengths)
        places = np.repeat(self.starts[rows] - starts[:-1], lengths) + np.arange(starts[-1])
        return Lists(self.values[places], starts)

    def row(self, i: int) -> NDArray[Any]:
        return self.values[self.starts[i] : self.starts[i + 1]]


@dataclass(frozen=True, slots=True, eq=False)
class Columns:
    """Annotations of one kind."""

    ids: U64
    """u64[n]"""
    points: F32 | Lists
    """f32[n, points, rank]; of polylines lists of points f32[m, rank]"""
    properties: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    """[n] by id, or u8[n, channels] of colors"""
    related: tuple[Lists, ...] = ()
    """The ids of related objects, by relationship. Needed only where annotations are written by id."""

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: I64) -> Columns:
        """Some rows, in the order given."""
        points = self.points.take(rows) if isinstance(self.points, Lists) else self.points[rows]
        properties = {name: values[rows] for name, values in self.properties.items()}
        return Columns(self.ids[rows], points, properties, tuple(lists.take(rows) for lists in self.related))


def starts_of(lengths: I64) -> I64:
    """i64[n + 1] from lengths i64[n]."""
    starts = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=starts[1:])
    return starts


def joined(info: AnnotationsInfo, parts: Sequence[Columns]) -> Columns:
    """The rows of several columns of one info."""
    if len(parts) == 1:
        return parts[0]
    if not parts:
        return decode_list(info, bytes(8))
    first = parts[0]
    if isinstance(first.points, Lists):
        points: Any = _joined_lists([part.points for part in parts if isinstance(part.points, Lists)])
    else:
        points = np.concatenate([np.asarray(part.points) for part in parts])
    properties = {name: np.concatenate([part.properties[name] for part in parts]) for name in first.properties}
    related = tuple(_joined_lists([part.related[i] for part in parts]) for i in range(len(first.related)))
    return Columns(np.concatenate([part.ids for part in parts]), points, properties, related)


def _joined_lists(parts: Sequence[Lists]) -> Lists:
    values = np.concatenate([part.values for part in parts])
    return Lists(values, starts_of(np.concatenate([part.lengths for part in parts])))


# -- writing


def encode_list(info: AnnotationsInfo, columns: Columns) -> bytes:
    """What a cell or a related object has: the annotations in the order given. Raises BadRequest."""
    words, _ = _beside(len(columns), _record_parts(info, columns))
    count = np.array([len(columns)], "<u8").tobytes()
    return b"".join((count, words.astype("<u4", copy=False).tobytes(), columns.ids.astype("<u8").tobytes()))


def encode_records(info: AnnotationsInfo, columns: Columns) -> NDArray[np.uint8]:
    """The records of annotations that are no polylines, u8[n, `record_bytes`]. Raises BadRequest."""
    words, _ = _beside(len(columns), _record_parts(info, columns))
    return words.astype("<u4", copy=False).view(np.uint8).reshape(len(columns), record_bytes(info))


def encode_singles(info: AnnotationsInfo, columns: Columns) -> tuple[memoryview, I64]:
    """What each annotation has under its id, side by side, and where each begins i64[n + 1], in bytes.

    Raises BadRequest.
    """
    if len(columns.related) != len(info.relationships):
        raise BadRequest(f"{len(columns.related)} of the info's {len(info.relationships)} relationships are given")
    parts = _record_parts(info, columns)
    for relationship, lists in zip(info.relationships, columns.related, strict=True):
        if len(lists.starts) != len(columns) + 1:
            raise BadRequest(f"{len(lists.starts) - 1} lists of {relationship.id} for {len(columns)} annotations")
        parts.append(lists.lengths.astype(np.uint32)[:, None])
        words = np.ascontiguousarray(lists.values, "<u8").view(np.uint32)
        parts.append(Lists(words, 2 * lists.starts))
    found, starts = _beside(len(columns), parts)
    return memoryview(found.astype("<u4", copy=False).tobytes()), 4 * starts


def record_bytes(info: AnnotationsInfo) -> int:
    """The length of a record; of a polyline that of the part behind its points."""
    geometry = 4 * info.rank * POINTS.get(info.annotation_type, 0)
    return geometry + _tail_bytes(info)


def _tail_bytes(info: AnnotationsInfo) -> int:
    """The length of the properties, with the zeros behind them."""
    size = sum(np.dtype(one.number).itemsize * one.channels for one in info.properties)
    return size + -size % 4


_Part = U32 | Lists
"""Words of each row: u32[n, k], or lists of them."""


def _record_parts(info: AnnotationsInfo, columns: Columns) -> list[_Part]:
    count, rank = len(columns), info.rank
    parts: list[_Part] = []
    if info.annotation_type == POLYLINE:
        lines = columns.points
        if not isinstance(lines, Lists) or lines.values.shape[1:] != (rank,) or len(lines.starts) != count + 1:
            raise BadRequest(f"polylines are {count} lists of points with {rank} coordinates")
        if count and int(lines.lengths.min()) < 2:
            raise BadRequest("a polyline has at least 2 points")
        parts.append(lines.lengths.astype(np.uint32)[:, None])
        parts.append(Lists(_words(_finite(lines.values)).reshape(-1), rank * lines.starts))
    else:
        shape = (count, POINTS[info.annotation_type], rank)
        if isinstance(columns.points, Lists) or columns.points.shape != shape:
            raise BadRequest(f"the points of {info.annotation_type} annotations are an array {list(shape)}")
        parts.append(_words(_finite(columns.points)).reshape(count, shape[1] * rank))
    if info.properties:
        parts.append(_tails(info, columns))
    return parts


def _finite(points: NDArray[Any]) -> NDArray[Any]:
    if not np.isfinite(points).all():
        raise BadRequest("a coordinate is not finite")
    return points


def _words(points: NDArray[Any]) -> U32:
    return np.ascontiguousarray(points, "<f4").view(np.uint32)


def _tails(info: AnnotationsInfo, columns: Columns) -> U32:
    """The properties of each row as words u32[n, k]."""
    tails = np.zeros((len(columns), _tail_bytes(info)), np.uint8)
    at = 0
    for one in in_record_order(info.properties):
        shape = (len(columns), one.channels) if one.channels > 1 else (len(columns),)
        given = columns.properties.get(one.id)
        if given is None or given.shape != shape:
            found = "missing" if given is None else f"an array {list(given.shape)}"
            raise BadRequest(f"property {one.id!r} is {found}, not an array {list(shape)}")
        wanted = np.dtype(one.number)
        if wanted.kind in "iu" and given.dtype != wanted and len(given):
            limits = np.iinfo(wanted)
            least, most = given.min(), given.max()
            if not limits.min <= least <= most <= limits.max or (given.dtype.kind == "f" and (given % 1).any()):
                raise BadRequest(f"property {one.id!r} has values that are no {one.type}, from {least} to {most}")
        width = wanted.itemsize * one.channels
        raw = np.ascontiguousarray(given.astype(wanted, copy=False).reshape(len(columns), one.channels))
        tails[:, at : at + width] = raw.view(np.uint8)
        at += width
    return tails.view(np.uint32)


def _beside(count: int, parts: Sequence[_Part]) -> tuple[U32, I64]:
    """For each row the words of all parts one behind the other, and where each row begins i64[n + 1]."""
    if not any(isinstance(part, Lists) for part in parts):
        matrix = np.concatenate([np.asarray(part) for part in parts], axis=1)
        return matrix.reshape(-1), np.arange(count + 1, dtype=np.int64) * matrix.shape[1]
    lengths = [part.lengths if isinstance(part, Lists) else np.full(count, part.shape[1]) for part in parts]
    starts = starts_of(np.sum(lengths, axis=0))
    words = np.empty(int(starts[-1]), np.uint32)
    at = starts[:-1].copy()
    for part, length in zip(parts, lengths, strict=True):
        if isinstance(part, Lists):
            words[np.repeat(at - part.starts[:-1], length) + np.arange(len(part.values))] = part.values
        else:
            words[at[:, None] + np.arange(part.shape[1])] = part
        at += length
    return words, starts


# -- reading


def decode_list(info: AnnotationsInfo, data: Buffer) -> Columns:
    """The annotations of a list, in its order. Raises BadRequest if the bytes are not of this info."""
    raw = np.frombuffer(data, np.uint8)
    count = int(raw[:8].view("<u8")[0]) if len(raw) >= 8 else -1
    if count < 0 or count > len(raw) // 8:
        raise BadRequest(f"a list of annotations has {len(raw)} bytes, and says that it has {count} annotations")
    records = raw[8 : len(raw) - 8 * count]
    ids = raw[len(raw) - 8 * count :].copy().view("<u8").astype(np.uint64, copy=False)
    return _records(info, records, ids)


def decode_single(info: AnnotationsInfo, identifier: int, data: Buffer) -> Columns:
    """One annotation with what it is related to, from what lies under its id. Raises BadRequest."""
    raw = np.frombuffer(data, np.uint8)
    ids = np.array([identifier], np.uint64)
    size = record_bytes(info)
    if info.annotation_type == POLYLINE:
        size += 4 + 4 * info.rank * (int(raw[:4].view("<u4")[0]) if len(raw) >= 4 else 0)
    found = _records(info, raw[:size], ids)
    related: list[Lists] = []
    at = size
    for relationship in info.relationships:
        count = int(raw[at : at + 4].view("<u4")[0]) if len(raw) >= at + 4 else -1
        stop = at + 4 + 8 * count
        if count < 0 or stop > len(raw):
            raise BadRequest(f"annotation {identifier} ends in the middle of its list of {relationship.id}")
        values = raw[at + 4 : stop].copy().view("<u8").astype(np.uint64, copy=False)
        related.append(Lists(values, np.array([0, count], np.int64)))
        at = stop
    if at != len(raw):
        raise BadRequest(f"annotation {identifier} has {len(raw)} bytes instead of {at}")
    return Columns(ids, found.points, found.properties, tuple(related))


def _records(info: AnnotationsInfo, raw: NDArray[np.uint8], ids: U64) -> Columns:
    count, rank = len(ids), info.rank
    if info.annotation_type == POLYLINE:
        return _polylines(info, raw, ids)
    size = record_bytes(info)
    if len(raw) != count * size:
        raise BadRequest(f"{count} annotations have {len(raw)} bytes instead of {size} each")
    matrix = raw.reshape(count, size)
    geometry = 4 * rank * POINTS[info.annotation_type]
    points = np.ascontiguousarray(matrix[:, :geometry]).view("<f4").reshape(count, geometry // (4 * rank), rank)
    return Columns(ids, points, _properties(info, matrix[:, geometry:]))


def _polylines(info: AnnotationsInfo, raw: NDArray[np.uint8], ids: U64) -> Columns:
    count, rank, tail = len(ids), info.rank, _tail_bytes(info) // 4
    if len(raw) % 4:
        raise BadRequest(f"{count} polylines have {len(raw)} bytes, which is no multiple of 4")
    words = raw.copy().view("<u4")
    quick = words.astype(np.uint32, copy=False).data
    begins = np.empty(count + 1, np.int64)
    at = 0
    for i in range(count):
        begins[i] = at
        at += 1 + tail + rank * quick[at] if at < len(quick) else len(quick) + 1
    begins[count] = at
    if at != len(words):
        raise BadRequest(f"{count} polylines have {len(raw)} bytes instead of {4 * at}")
    lengths = words[begins[:-1]].astype(np.int64)
    starts = starts_of(rank * lengths)
    places = np.repeat(begins[:-1] + 1 - starts[:-1], rank * lengths) + np.arange(starts[-1])
    points = words[places].view("<f4").reshape(-1, rank)
    tails = words[(begins[1:] - tail)[:, None] + np.arange(tail)].view(np.uint8).reshape(count, 4 * tail)
    return Columns(ids, Lists(points, starts // rank), _properties(info, tails))


def _properties(info: AnnotationsInfo, tails: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
    found: dict[str, NDArray[Any]] = {}
    at = 0
    for one in in_record_order(info.properties):
        width = np.dtype(one.number).itemsize * one.channels
        values = np.ascontiguousarray(tails[:, at : at + width]).view(one.number)
        found[one.id] = values if one.channels > 1 else values.reshape(-1)
        at += width
    return {one.id: found[one.id] for one in info.properties}
