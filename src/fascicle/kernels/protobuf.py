# mypy: disable-error-code="arg-type, misc, no-any-return"
"""Loops over protobuf wire bytes, for messages of which there are millions (encoding: protobuf.dev, "Encoding").

Errors are reported as negative results: the caller turns them into messages.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

MALFORMED = -1


@njit(cache=True, nogil=True, inline="never")
def read_varint(data: Any, at: int, end: int) -> tuple[Any, int]:
    """(value u64, position after it); the position is negative for a varint that is cut short or too long."""
    value = np.uint64(0)
    shift = np.uint64(0)
    while at < end and shift < np.uint64(64):
        byte = np.uint64(data[at])
        at += 1
        value |= (byte & np.uint64(0x7F)) << shift
        if byte < np.uint64(0x80):
            return value, at
        shift += np.uint64(7)
    return value, MALFORMED


@njit(cache=True, nogil=True, inline="never")
def skip_field(data: Any, at: int, end: int, wire_type: int) -> int:
    """The position after a field's value, or negative."""
    if wire_type == 0:
        return int(read_varint(data, at, end)[1])
    if wire_type == 1:
        at += 8
    elif wire_type == 5:
        at += 4
    elif wire_type == 2:
        length, at = read_varint(data, at, end)
        if at < 0 or length > np.uint64(end - at):
            return MALFORMED
        at += np.int64(length)
    else:
        return MALFORMED
    return at if at <= end else MALFORMED


@njit(cache=True, nogil=True)
def parse_label_index(
    data: Any, sv: Any, block: Any, count: Any, surface_block: Any, surface_mutid: Any, scalars: Any, spans: Any
) -> tuple[int, int]:
    """(rows, blocks) of a LabelIndex whose columns are filled in, or (-1, position) where it is malformed.

    `sv`, `block` (wire codes) u64, `count` u32: at least len(data) // 2 + 1 long; `surface_*` u64 likewise.
    `scalars` u64[2]: label, last_mutid. `spans` i64[3, 2]: start and stop of the three strings.
    """
    at, end = 0, data.size
    rows, blocks = 0, 0
    while at < end:
        tag, at = read_varint(data, at, end)
        if at < 0:
            return MALFORMED, 0
        field, wire = np.int64(tag >> np.uint64(3)), np.int64(tag & np.uint64(7))
        if wire == 0 and (field == 2 or field == 3):
            value, at = read_varint(data, at, end)
            if at < 0:
                return MALFORMED, 0
            scalars[field - 2] = value
            continue
        if wire != 2 or not (field == 1 or 4 <= field <= 6):
            if 1 <= field <= 6 or field == 0:
                return MALFORMED, at
            at = skip_field(data, at, end, wire)
            if at < 0:
                return MALFORMED, 0
            continue
        length, at = read_varint(data, at, end)
        if at < 0 or length > np.uint64(end - at):
            return MALFORMED, 0
        stop = at + np.int64(length)
        if field != 1:
            spans[field - 4, 0], spans[field - 4, 1] = at, stop
            at = stop
            continue
        # one entry of the map of blocks: key = 1, value = 2 (SVCount)
        key, first, surface = np.uint64(0), rows, np.uint64(0)
        while at < stop:
            tag, at = read_varint(data, at, stop)
            if at < 0:
                return MALFORMED, 0
            if tag == np.uint64(8):
                key, at = read_varint(data, at, stop)
                if at < 0:
                    return MALFORMED, 0
            elif tag == np.uint64(18):
                length, at = read_varint(data, at, stop)
                if at < 0 or length > np.uint64(stop - at):
                    return MALFORMED, 0
                inner = at + np.int64(length)
                rows, at, surface = _parse_counts(data, at, inner, rows, sv, count, surface)
                if at < 0:
                    return MALFORMED, 0
            else:
                at = skip_field(data, at, stop, np.int64(tag & np.uint64(7)))
                if at < 0:
                    return MALFORMED, 0
        for row in range(first, rows):
            block[row] = key
        surface_block[blocks], surface_mutid[blocks] = key, surface
        blocks += 1
    return rows, blocks


@njit(cache=True, nogil=True)
def _parse_counts(
    data: Any, at: int, end: int, rows: int, sv: Any, count: Any, surface: Any
) -> tuple[int, int, Any]:
    """(rows, position, surface_mutid) after an SVCount message."""
    while at < end:
        tag, at = read_varint(data, at, end)
        if at < 0:
            return rows, MALFORMED, surface
        if tag == np.uint64(10):
            length, at = read_varint(data, at, end)
            if at < 0 or length > np.uint64(end - at):
                return rows, MALFORMED, surface
            stop = at + np.int64(length)
            sv[rows], count[rows] = np.uint64(0), np.uint32(0)
            while at < stop:
                tag, at = read_varint(data, at, stop)
                if at < 0:
                    return rows, MALFORMED, surface
                if tag == np.uint64(8) or tag == np.uint64(16):
                    value, at = read_varint(data, at, stop)
                    if at < 0:
                        return rows, MALFORMED, surface
                    if tag == np.uint64(8):
                        sv[rows] = value
                    else:
                        count[rows] = np.uint32(value & np.uint64(0xFFFFFFFF))
                else:
                    at = skip_field(data, at, stop, np.int64(tag & np.uint64(7)))
                    if at < 0:
                        return rows, MALFORMED, surface
            rows += 1
        elif tag == np.uint64(16):
            surface, at = read_varint(data, at, end)
            if at < 0:
                return rows, MALFORMED, surface
        else:
            at = skip_field(data, at, end, np.int64(tag & np.uint64(7)))
            if at < 0:
                return rows, MALFORMED, surface
    return rows, at, surface


@njit(cache=True, nogil=True)
def _varint_bytes(value: Any) -> int:
    n = 1
    while value >= np.uint64(0x80):
        value >>= np.uint64(7)
        n += 1
    return n


@njit(cache=True, nogil=True)
def _put_varint(out: Any, at: int, value: Any) -> int:
    while value >= np.uint64(0x80):
        out[at] = np.uint8((value & np.uint64(0x7F)) | np.uint64(0x80))
        value >>= np.uint64(7)
        at += 1
    out[at] = np.uint8(value)
    return at + 1


@njit(cache=True, nogil=True)
def encode_blocks(sv: Any, block: Any, count: Any, block_starts: Any, surface: Any) -> Any:
    """The `blocks` entries of a LabelIndex as u8[n].

    Rows are sorted by block; block i has the rows `block_starts[i]:block_starts[i + 1]` and `surface[i]` (u64).
    `block` holds wire codes, one per row.
    """
    n = len(block_starts) - 1
    inner = np.empty(n, np.int64)
    total = 0
    for i in range(n):
        size = 0
        for row in range(block_starts[i], block_starts[i + 1]):
            entry = 2 + _varint_bytes(sv[row]) + _varint_bytes(np.uint64(count[row]))
            size += 2 + entry
        if surface[i] > np.uint64(0):
            size += 1 + _varint_bytes(surface[i])
        inner[i] = size
        entry = 2 + _varint_bytes(block[block_starts[i]]) + _varint_bytes(np.uint64(size)) + size
        total += 1 + _varint_bytes(np.uint64(entry)) + entry
    out = np.empty(total, np.uint8)
    at = 0
    for i in range(n):
        key = block[block_starts[i]]
        size = np.uint64(inner[i])
        entry = np.uint64(2 + _varint_bytes(key) + _varint_bytes(size)) + size
        out[at] = np.uint8(10)
        at = _put_varint(out, at + 1, entry)
        out[at] = np.uint8(8)
        at = _put_varint(out, at + 1, key)
        out[at] = np.uint8(18)
        at = _put_varint(out, at + 1, size)
        for row in range(block_starts[i], block_starts[i + 1]):
            voxels = np.uint64(count[row])
            out[at] = np.uint8(10)
            out[at + 1] = np.uint8(2 + _varint_bytes(sv[row]) + _varint_bytes(voxels))
            out[at + 2] = np.uint8(8)
            at = _put_varint(out, at + 3, sv[row])
            out[at] = np.uint8(16)
            at = _put_varint(out, at + 1, voxels)
        if surface[i] > np.uint64(0):
            out[at] = np.uint8(16)
            at = _put_varint(out, at + 1, surface[i])
    return out


@njit(cache=True, nogil=True)
def parse_mapping_ops(data: Any, originals: Any, mapped: Any) -> int:
    """The number of pairs of a MappingOps message, in the order of its operations; -1 where it is malformed.

    `originals` and `mapped` u64 are at least len(data) long.
    """
    at, end, n = 0, data.size, 0
    while at < end:
        tag, at = read_varint(data, at, end)
        if at < 0:
            return MALFORMED
        if tag != np.uint64(10):
            if tag >> np.uint64(3) <= np.uint64(1):
                return MALFORMED
            at = skip_field(data, at, end, np.int64(tag & np.uint64(7)))
            if at < 0:
                return MALFORMED
            continue
        length, at = read_varint(data, at, end)
        if at < 0 or length > np.uint64(end - at):
            return MALFORMED
        stop = at + np.int64(length)
        first, target = n, np.uint64(0)
        while at < stop:
            tag, at = read_varint(data, at, stop)
            if at < 0:
                return MALFORMED
            if tag == np.uint64(16):
                target, at = read_varint(data, at, stop)
                if at < 0:
                    return MALFORMED
            elif tag == np.uint64(24):
                originals[n], at = read_varint(data, at, stop)
                if at < 0:
                    return MALFORMED
                n += 1
            elif tag == np.uint64(26):
                length, at = read_varint(data, at, stop)
                if at < 0 or length > np.uint64(stop - at):
                    return MALFORMED
                inner = at + np.int64(length)
                while at < inner:
                    originals[n], at = read_varint(data, at, inner)
                    if at < 0:
                        return MALFORMED
                    n += 1
            else:
                at = skip_field(data, at, stop, np.int64(tag & np.uint64(7)))
                if at < 0:
                    return MALFORMED
        for i in range(first, n):
            mapped[i] = target
    return n
