"""Spans: runs of blocks along x, as clients send them and as they are stored.

A span is z, y, x0, x1 in block coordinates, x1 inclusive; many are an array i32[n, 4] of these columns, ascending
and without doubles. Overlapping and adjacent spans stay as they were posted.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any

import msgspec
import numpy as np
import zstandard
from numpy.typing import NDArray

from fascicle.errors import NOT_JSON, BadRequest, CorruptionError
from fascicle.kernels import json_rows

Spans = NDArray[np.int32]

INT32_MIN, INT32_MAX = -(1 << 31), (1 << 31) - 1
NO_SPANS: Spans = np.zeros((0, 4), np.int32)

_LEVEL = 3
_SPANS_AT_ONCE = 1 << 15
_loose_decoder = msgspec.json.Decoder()
_encode = msgspec.json.Encoder().encode


def parse_rows(data: bytes, columns: int, what: str) -> NDArray[np.int64]:
    """A JSON list of lists of int32 as i64[n, columns]; `null` is an empty list.

    Lists that are too short are filled with zeros, what is too much is left out. Raises BadRequest naming `what` the
    rows are.
    """
    numbers = json_rows.parsed_rows(data, columns)
    if numbers is None:
        rows = chain.from_iterable(_loosely(data, columns, what))
        try:
            numbers = np.fromiter(rows, np.int64).reshape(-1, columns)
        except OverflowError:
            raise BadRequest(f"Error trying to parse POSTed JSON: {what} must be 32-bit integers") from None
    if len(numbers) and (numbers.min() < INT32_MIN or numbers.max() > INT32_MAX):
        raise BadRequest(f"Error trying to parse POSTed JSON: {what} must be 32-bit integers")
    return numbers


def _loosely(data: bytes, columns: int, what: str) -> list[Any]:
    """What the fast reader does not take: rows of other lengths, and `null` for zeros."""
    try:
        rows = _loose_decoder.decode(data)
    except NOT_JSON as error:
        raise BadRequest(f"Error trying to parse POSTed JSON: {error}") from None
    if rows is None:
        return []
    if not isinstance(rows, list):
        raise BadRequest(f"Error trying to parse POSTed JSON: {what} must be a list of lists of integers")
    return [_filled(row, columns, what) for row in rows]


def _filled(row: Any, columns: int, what: str) -> list[int]:
    if row is None:
        return [0] * columns
    if not isinstance(row, list):
        raise BadRequest(f"Error trying to parse POSTed JSON: {what} must be lists of integers, not {row!r:.100}")
    numbers = [0 if value is None else value for value in row[:columns]]
    for value in numbers:
        if type(value) is not int:
            raise BadRequest(f"Error trying to parse POSTed JSON: {what} must be integers, not {value!r:.100}")
    return numbers + [0] * (columns - len(numbers))


def parse_spans(data: bytes) -> Spans:
    """Posted spans, in any order, as they are kept. Raises BadRequest."""
    rows = parse_rows(data, 4, "spans [z, y, x0, x1]")
    backward = np.flatnonzero(rows[:, 3] < rows[:, 2])
    if len(backward):
        z, y, x0, x1 = rows[backward[0]].tolist()
        raise BadRequest(f"Got weird span [{z}, {y}, {x0}, {x1}].  span[3] (X1) < span[2] (X0)")
    return in_order(rows.astype(np.int32))


def in_order(spans: Spans) -> Spans:
    """Spans i32[n, 4] ascending, each once."""
    rows, runs = pair_keys(spans[:, 0], spans[:, 1]), pair_keys(spans[:, 2], spans[:, 3])
    greater = (rows[1:] > rows[:-1]) | ((rows[1:] == rows[:-1]) & (runs[1:] > runs[:-1]))
    if greater.all():
        return spans
    order = np.lexsort((runs, rows))
    rows, runs = rows[order], runs[order]
    kept = np.ones(len(order), np.bool_)
    kept[1:] = (rows[1:] != rows[:-1]) | (runs[1:] != runs[:-1])
    return np.ascontiguousarray(spans[order[kept]])


def pair_keys(first: NDArray[Any], second: NDArray[Any]) -> NDArray[np.uint64]:
    """Pairs of int32 as u64 that sort as the pairs do."""
    offset = np.int64(1 << 31)
    high = (first.astype(np.int64) + offset).astype(np.uint64) << np.uint64(32)
    return high | (second.astype(np.int64) + offset).astype(np.uint64)


def json_pieces(spans: Spans) -> Iterator[bytes]:
    """Spans i32[n, 4] as a JSON list of lists."""
    separator = b"["
    for at in range(0, len(spans), _SPANS_AT_ONCE):
        yield separator + _encode(spans[at : at + _SPANS_AT_ONCE].tolist())[1:-1]
        separator = b","
    yield b"[]" if separator == b"[" else b"]"


# -- as stored: differences to the span before, a column after the other, little-endian, compressed with Zstandard


def encoded(spans: Spans) -> bytes:
    """Spans i32[n, 4] as they are stored."""
    columns = np.ascontiguousarray(spans.T).view(np.uint32)
    differences = np.diff(columns, axis=1, prepend=np.uint32(0))
    return zstandard.ZstdCompressor(_LEVEL).compress(differences.astype("<u4").tobytes())


def decoded(data: bytes, count: int) -> Spans:
    """Spans i32[count, 4] that were stored. Raises CorruptionError."""
    try:
        raw = zstandard.ZstdDecompressor().decompress(data, max_output_size=16 * count)
    except zstandard.ZstdError as error:
        raise CorruptionError(f"stored spans cannot be decompressed: {error}") from None
    if len(raw) != 16 * count:
        raise CorruptionError(f"{count} stored spans have {len(raw)} bytes instead of {16 * count}")
    columns = np.frombuffer(raw, "<u4").reshape(4, count).cumsum(axis=1, dtype=np.uint32)
    return np.ascontiguousarray(columns.view(np.int32).T)
