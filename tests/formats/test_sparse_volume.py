"""Runs and their streams: golden bytes, round trips and refusals."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fascicle.errors import BadRequest
from fascicle.formats import sparse_volume

GOLDEN = bytes.fromhex("000300000000000002000000" "0a000000140000001e00000005000000" "ffffffff140000001f00000002000000")

run = st.tuples(*[st.integers(-(2**30), 2**30)] * 3, st.integers(1, 2**20))


def test_golden_bytes() -> None:
    runs = np.array([[10, 20, 30, 5], [-1, 20, 31, 2]], np.int32)
    assert sparse_volume.encode_rles(runs) == GOLDEN
    assert np.array_equal(sparse_volume.decode_rles(GOLDEN), runs)
    assert np.array_equal(sparse_volume.decode_rles(GOLDEN + b"more"), runs)


@given(st.lists(run, max_size=20), st.integers(0, 2**64 - 1))
def test_round_trips(rows: list[tuple[int, int, int, int]], label: int) -> None:
    runs = np.array(rows, np.int32).reshape(-1, 4)
    assert np.array_equal(sparse_volume.decode_rles(sparse_volume.encode_rles(runs)), runs)
    assert np.array_equal(sparse_volume.decode_runs(sparse_volume.encode_runs(runs)), runs)
    back = sparse_volume.decode_coarse_records(sparse_volume.encode_coarse_record(label, runs))
    assert list(back) == [label]
    assert np.array_equal(back[label], runs)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "header"),
        (GOLDEN[:11], "header"),
        (b"\x01" + GOLDEN[1:], "payload descriptor"),
        (GOLDEN[:-1], "announces 2 runs"),
        (GOLDEN[:8] + b"\xff\xff\xff\xff" + GOLDEN[12:], "announces 4294967295 runs"),
        (GOLDEN[:-4] + bytes(4), "length 0"),
        (GOLDEN[:-4] + b"\xff\xff\xff\xff", "length -1"),
        (GOLDEN[:12] + b"\xff\xff\xff\x7f" + GOLDEN[16:], "beyond"),
    ],
)
def test_broken_volumes_are_refused(data: bytes, message: str) -> None:
    with pytest.raises(BadRequest, match=message):
        sparse_volume.decode_rles(data)


def test_binary_blocks() -> None:
    mixed = bytes.fromhex("0200000002000000020000000900000000000000" "00000000000000000000000002" "0201") + bytes(70)
    label, blocks = sparse_volume.decode_binary_blocks(mixed)
    ((corner, mask),) = blocks
    assert (label, corner) == (9, (0, 0, 0))
    assert np.argwhere(mask).tolist() == [[0, 0, 0]]
    solid = sparse_volume.binary_blocks_header((16, 16, 16), 5) + bytes.fromhex("10000000000000000000000001")
    label, blocks = sparse_volume.decode_binary_blocks(solid)
    ((corner, mask),) = blocks
    assert (label, corner, mask.shape, mask.all()) == (5, (16, 0, 0), (16, 16, 16), True)
    bits = bytes.fromhex("0100000001000000010000000900000000000000" "00000000000000000000000002" "020780") + bytes(62)
    ((_, mask),) = sparse_volume.decode_binary_blocks(bits)[1]
    assert np.argwhere(mask).tolist() == [[0, 0, 0], [0, 0, 1], [0, 0, 2], [0, 1, 7]]


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    with contextlib.suppress(BadRequest):
        list(sparse_volume.decode_binary_blocks(data)[1])
    with contextlib.suppress(BadRequest):
        sparse_volume.decode_coarse_records(data)
