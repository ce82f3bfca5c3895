from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fascicle.errors import CorruptionError
from fascicle.store.lmdb_engine import LmdbStore
from fascicle.store.value_log import HANDLE, HEADER_BYTES, Append, Place, Tail, ValueLog
from fascicle.testing.store import pattern

POSITIONED = ("pread", "preadv", "pwritev", "posix_fadvise", "fdatasync")


@pytest.fixture
def log(tmp_path: Path) -> ValueLog:
    return ValueLog(tmp_path, segment_bytes=1000)


def put(log: ValueLog, tail: Tail, values: list[bytes]) -> tuple[list[bytes], Append]:
    append = Append(log, tail)
    handles = [append.place(value) for value in values]
    append.flush()
    return handles, append


def test_golden_record(log: ValueLog) -> None:
    handles, append = put(log, Tail(1, 0), [b"123456789"])
    # CRC-32 of "123456789" is 0xCBF43926, the check value of the usual catalogues of checksums.
    record = log.segment_path(1).read_bytes()
    assert record == b"FVL1" + bytes.fromhex("09000000") + bytes.fromhex("2639f4cb") + record[12:16] + b"123456789"
    assert handles == [bytes.fromhex("01010000001000000000000000090000002639f4cb")]
    assert append.tail == Tail(1, HEADER_BYTES + 9)


def test_segments_fill_up_and_are_sealed(log: ValueLog) -> None:
    values = [pattern(i, 400) for i in range(5)] + [pattern(9, 5000), pattern(10, 10)]
    handles, append = put(log, Tail(1, 0), values)
    assert [Place.parse(handle).segment for handle in handles] == [1, 1, 2, 2, 3, 4, 5]
    assert append.sealed == [(1, 832), (2, 832), (3, 416), (4, 5016)]
    assert append.tail == Tail(5, 26)
    assert [log.load(handle) for handle in handles] == values
    assert [log.segment_path(number).stat().st_size for number, _ in append.sealed] == [832, 832, 416, 5016]


def test_walking_finds_the_records(log: ValueLog) -> None:
    values = [pattern(i, i * 10) for i in range(8)]
    handles, append = put(log, Tail(1, 0), values)
    assert list(log.walk(1, append.tail.offset)) == [Place.parse(handle) for handle in handles]
    assert list(log.walk(1, 0)) == []
    with pytest.raises(CorruptionError, match=f"offset {append.tail.offset}"):
        list(log.walk(1, append.tail.offset + 1))


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1), st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
def test_handles(segment: int, offset: int, length: int, crc: int) -> None:
    place = Place(segment, offset, length, crc)
    assert Place.parse(HANDLE.pack(1, segment, offset, length, crc)) == place


@given(st.binary(max_size=30))
def test_what_is_no_handle_is_refused(data: bytes) -> None:
    if len(data) != HANDLE.size or data[0] != 1:
        with pytest.raises(CorruptionError, match="no handle"):
            Place.parse(data)


def test_short_writes_are_continued(log: ValueLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "fascicle.store.value_log.write_at",
        lambda segment, pieces, offset: os.pwrite(segment.fd, b"".join(pieces)[:7], offset),
    )
    values = [pattern(i, 100) for i in range(3)]
    handles, _ = put(log, Tail(1, 0), values)
    assert [log.load(handle) for handle in handles] == values


def test_few_files_stay_open(log: ValueLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fascicle.store.value_log.OPEN_SEGMENTS", 4)
    values = [pattern(i, 900) for i in range(20)]
    handles, _ = put(log, Tail(1, 0), values)
    for _ in range(2):
        assert [log.load(handle) for handle in handles] == values
    assert len(log._segments) == 4
    batch = log.load_many(handles)
    assert [bytes(batch.value(i)) for i in range(20)] == values


def test_systems_without_positioned_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in POSITIONED:
        monkeypatch.delattr(os, name, raising=False)
    store = LmdbStore(tmp_path / "store", segment_bytes=100_000)
    values = {b"%02d" % i: pattern(i, 9000) for i in range(30)}
    store.write(lambda txn: [txn.put(key, value) for key, value in values.items()])
    with store.read() as txn:
        assert dict(txn.scan(b"", b"\xff")) == values
        batch = txn.load_many([handle for _, handle in txn.scan_handles(b"", b"\xff")])
        assert [bytes(batch.value(i)) for i in range(30)] == list(values.values())
        assert txn.load_part(txn.handle(b"07") or b"", 10, 20) == values[b"07"][10:20]
    assert store.check() == []
    store.close()
