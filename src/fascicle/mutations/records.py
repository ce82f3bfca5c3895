"""Mutation ids, and records of completed mutations as JSON.

A repo has one counter of mutation ids. A record lies under its instance, by version and time; the times of one writer
are strictly increasing, and only one writer is at work at a time.
"""

from __future__ import annotations

import os
import struct
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from fascicle.store.base import ReadTransaction, WriteTransaction
from fascicle.versions import keys
from fascicle.versions.catalog import MUTATION_IDS, row_key

FIRST_MUTATION_ID = 1_000_000_000
RECORDS = 250
"""The class of keys of records; it belongs to every datatype."""
_RECORDS_PER_ROW = 250
"""Records of one change lie in one row, as a JSON list, up to this number."""

_ID = struct.Struct(">Q")
_WHEN = struct.Struct(">IQH")
_SALT = os.getpid() & 0xFFFF
_encode = msgspec.json.Encoder().encode
_decode_row = msgspec.json.Decoder(list[msgspec.Raw]).decode
_lock = threading.Lock()
_last_ns = 0


def next_mutation_id(txn: ReadTransaction, repo_id: int, at_least: int = 0) -> int:
    """The id that the repo's next mutation will get."""
    row = txn.get(row_key(MUTATION_IDS, repo_id))
    return max(FIRST_MUTATION_ID, at_least, 0 if row is None else _ID.unpack(row)[0])


def take_mutation_id(txn: WriteTransaction, repo_id: int, at_least: int = 0) -> int:
    """Give out the repo's next mutation id."""
    number = next_mutation_id(txn, repo_id, at_least)
    txn.put(row_key(MUTATION_IDS, repo_id), _ID.pack(number + 1))
    return number


def _later_than_any() -> int:
    """The time, or a nanosecond after the last one that was given."""
    global _last_ns
    with _lock:
        _last_ns = max(_last_ns + 1, time.time_ns())
        return _last_ns


def append(txn: WriteTransaction, instance_id: int, version: int, message: dict[str, Any]) -> None:
    """Store a record behind all others of an instance at a version."""
    key = keys.prefix(instance_id, RECORDS) + _WHEN.pack(version, _later_than_any(), _SALT)
    txn.put(key, _encode(message))


def append_all(txn: WriteTransaction, instance_id: int, version: int, messages: Sequence[dict[str, Any]]) -> None:
    """Store many records, of one change, behind all others of an instance at a version."""
    prefix = keys.prefix(instance_id, RECORDS)
    for at in range(0, len(messages), _RECORDS_PER_ROW):
        row = _encode(messages[at : at + _RECORDS_PER_ROW])
        txn.put(prefix + _WHEN.pack(version, _later_than_any(), _SALT), row)


def stored(txn: ReadTransaction, instance_id: int, version: int) -> Iterator[bytes]:
    """The records of an instance at a version as JSON, oldest first."""
    first = keys.prefix(instance_id, RECORDS) + version.to_bytes(4, "big")
    for _, row in txn.scan(first, keys.after(first)):
        if row[:1] == b"[":
            yield from map(bytes, _decode_row(row))
        else:
            yield row
