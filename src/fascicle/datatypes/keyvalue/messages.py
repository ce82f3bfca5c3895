"""The protobuf messages of key-values, by hand: they are few and flat.

Wire format: https://protobuf.dev/programming-guides/encoding. Messages (proto3):

    KeyValue   1 key string, 2 value bytes
    KeyRange   1 key string, 2 byte_start uint64, 3 byte_end uint64
    Keys       1 keys repeated string, 2 key_ranges repeated KeyRange
    KeyValues  1 kvs repeated KeyValue
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from fascicle.errors import BadRequest

FEW_BYTES = 4096
"""Shorter messages are read without compiled loops."""

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

Ranged = tuple[bytes, int | None, int | None]
"""A key and the first and last byte that is asked for, None for the whole value."""


def varint(number: int) -> bytes:
    if number < 0x80:
        return bytes((number,))
    pieces = bytearray()
    while number >= 0x80:
        pieces.append(number & 0x7F | 0x80)
        number >>= 7
    pieces.append(number)
    return bytes(pieces)


class _Heads(dict[tuple[int, int], tuple[bytes, bytes]]):
    """For lengths of a key and a value: what stands before the key, and what before the value."""

    def __missing__(self, lengths: tuple[int, int]) -> tuple[bytes, bytes]:
        key, value = lengths
        before_key = b"\x0a" + varint(key)
        before_value = b"\x12" + varint(value) if value else b""
        found = (b"\x0a" + varint(len(before_key) + key + len(before_value) + value) + before_key, before_value)
        if len(self) < 50_000:
            self[lengths] = found
        return found


_heads = _Heads()


def key_values(pairs: Iterable[tuple[bytes, bytes]]) -> bytes:
    """KeyValues. Parts of such messages, joined, are one."""
    heads = _heads
    parts: list[bytes] = []
    for key, value in pairs:
        before_key, before_value = heads[len(key), len(value)]
        parts += (before_key, key, before_value, value)
    return b"".join(parts)


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise BadRequest("undecodable protobuf: a number is cut off or too long")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """(field number, value) of a message; fixed-size numbers are skipped."""
    at = 0
    end = len(data)
    while at < end:
        tag = data[at]
        if tag < 0x80:
            at += 1
        else:
            tag, at = _read_varint(data, at)
        kind = tag & 7
        if kind == _BYTES:
            if at < end and data[at] < 0x80:
                length = data[at]
                at += 1
            else:
                length, at = _read_varint(data, at)
            if at + length > end:
                raise BadRequest("undecodable protobuf: a field goes beyond the end of the message")
            yield tag >> 3, data[at : at + length]
            at += length
        elif kind == _VARINT:
            value, at = _read_varint(data, at)
            yield tag >> 3, value
        elif kind in (_FIXED64, _FIXED32):
            at += 8 if kind == _FIXED64 else 4
            if at > end:
                raise BadRequest("undecodable protobuf: a number is cut off")
        else:
            raise BadRequest(f"undecodable protobuf: unknown wire type {kind}")


def _text(field: int | bytes) -> bytes:
    if not isinstance(field, bytes):
        raise BadRequest("undecodable protobuf: a key or value is a number")
    return field


def decode_key_values(data: bytes) -> list[tuple[bytes, bytes]]:
    """The pairs of KeyValues, in order. Raises BadRequest."""
    pairs = _usual_key_values(data)
    return decode_any_key_values(data) if pairs is None else pairs


def _usual_key_values(data: bytes) -> list[tuple[bytes, bytes]] | None:
    """The pairs of KeyValues written as they usually are, a key of less than 128 bytes and then its value; or None."""
    if len(data) < FEW_BYTES:
        return None
    from fascicle.kernels import protobuf

    places = _places(protobuf.pairs, data, 4)
    return None if places is None else [(data[key:end], data[value:stop]) for key, end, value, stop in places]


def _places(walk: Any, data: bytes, columns: int) -> list[list[int]] | None:
    """What a kernel tells of a message, in two passes; None if the message is not of its kind."""
    view = np.frombuffer(data, np.uint8)
    count = walk(view, False, np.empty((0, columns), np.int64))
    if count < 0:
        return None
    out = np.empty((count, columns), np.int64)
    walk(view, True, out)
    listed: list[list[int]] = out.tolist()
    return listed


def decode_any_key_values(data: bytes) -> list[tuple[bytes, bytes]]:
    """The pairs of KeyValues, in order, however they are written. Raises BadRequest."""
    pairs = []
    for number, message in _fields(data):
        if number == 1:
            key = value = b""
            for inner, field in _fields(_text(message)):
                if inner == 1:
                    key = _text(field)
                elif inner == 2:
                    value = _text(field)
            pairs.append((key, value))
    return pairs


def decode_keys(data: bytes) -> list[Ranged]:
    """What Keys asks for: first the keys, then the ranges. Raises BadRequest."""
    if len(data) >= FEW_BYTES:
        from fascicle.kernels import protobuf

        places = _places(protobuf.texts, data, 2)
        if places is not None:
            return [(data[start:end], None, None) for start, end in places]
    keys: list[Ranged] = []
    ranges: list[Ranged] = []
    for number, message in _fields(data):
        if number == 1:
            keys.append((_text(message), None, None))
        elif number == 2:
            key, start, end = b"", 0, 0
            for inner, field in _fields(_text(message)):
                if inner == 1:
                    key = _text(field)
                elif isinstance(field, int):
                    start, end = (field, end) if inner == 2 else (start, field)
            ranges.append((key, start, end))
    return keys + ranges
