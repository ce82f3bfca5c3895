"""Sparse volumes: golden bytes, round trips, malformed input."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fascicle.errors import BadRequest
from fascicle.formats import label_block, sparse_volume

EXAMPLE = bytes.fromhex("0003000000000000020000000a000000140000001e00000005000000ffffffff140000001f00000002000000")
coordinate = st.integers(-(2**31), 2**31 - 1)
runs = st.lists(st.tuples(st.integers(-(2**31), 2**30), coordinate, coordinate, st.integers(1, 2**20)), max_size=20)


def binary_stream(
    size_xyz: tuple[int, int, int], label: int, blocks: list[tuple[tuple[int, int, int], bytes]]
) -> bytes:
    parts = [struct.pack("<3i", *corner) + encoded for corner, encoded in blocks]
    return sparse_volume.binary_blocks_header(size_xyz, label) + b"".join(parts)


def as_runs(rows: list[tuple[int, int, int, int]]) -> np.ndarray:
    return np.array(rows, np.int32).reshape(-1, 4)


def test_golden_rles() -> None:
    rows = [(10, 20, 30, 5), (-1, 20, 31, 2)]
    assert sparse_volume.encode_rles(as_runs(rows)) == EXAMPLE
    assert sparse_volume.decode_rles(EXAMPLE).tolist() == [list(r) for r in rows]
    ignored = b"\0" + b"\xff" * 7 + EXAMPLE[8:] + b"more"
    assert sparse_volume.decode_rles(ignored).tolist() == [list(r) for r in rows]


@given(runs)
def test_runs_round_trip(rows: list[tuple[int, int, int, int]]) -> None:
    assert sparse_volume.decode_rles(sparse_volume.encode_rles(as_runs(rows))).tolist() == [list(r) for r in rows]
    assert sparse_volume.decode_runs(sparse_volume.encode_runs(as_runs(rows))).tolist() == [list(r) for r in rows]
    assert sparse_volume.voxels_of(as_runs(rows)) == sum(r[3] for r in rows)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "header"),
        (EXAMPLE[:11], "header"),
        (EXAMPLE[:-1], "too few"),
        (b"\1" + EXAMPLE[1:], "payload"),
        (sparse_volume.RLE_HEADER.pack(0, 3, 0, 0, 0, 2**32 - 1), "too few"),
        (EXAMPLE[:40] + bytes(4), "length 0"),
        (EXAMPLE[:40] + b"\xff" * 4, "length -1"),
        (EXAMPLE[:28] + struct.pack("<4i", 2**31 - 1, 0, 0, 2), "32 bits"),
    ],
)
def test_malformed_runs_are_refused(data: bytes, why: str) -> None:
    with pytest.raises(BadRequest, match=why):
        sparse_volume.decode_rles(data)


def test_golden_coarse_runs() -> None:
    found = sparse_volume.coarse_runs(np.array([(3, 0, 0), (0, 1, 0), (1, 0, 0), (0, 0, 0)]))
    assert found.tolist() == [[0, 0, 0, 2], [3, 0, 0, 1], [0, 1, 0, 1]]
    assert len(sparse_volume.coarse_runs(np.empty((0, 3), np.int64))) == 0


@settings(deadline=None)
@given(st.sets(st.tuples(st.integers(-3, 3), st.integers(-1, 1), st.integers(-1, 1)), max_size=40))
def test_coarse_runs_cover_the_blocks(blocks: set[tuple[int, int, int]]) -> None:
    found = sparse_volume.coarse_runs(np.array(sorted(blocks), np.int64).reshape(-1, 3)).tolist()
    covered = [(x + i, y, z) for x, y, z, n in found for i in range(n)]
    assert len(covered) == len(blocks)
    assert set(covered) == blocks
    assert [r[2::-1] for r in found] == sorted(r[2::-1] for r in found)
    assert not {(x + n, y, z) for x, y, z, n in found} & blocks


def test_coarse_volumes() -> None:
    data = sparse_volume.encode_coarse_record(7, as_runs([(1, 2, 3, 4)])) + sparse_volume.encode_coarse_record(
        2**64 - 1, as_runs([])
    )
    assert [(label, r.tolist()) for label, r in sparse_volume.decode_coarse_records(data)] == [
        (7, [[1, 2, 3, 4]]),
        (2**64 - 1, []),
    ]
    for cut in (1, 13, 20, 30):
        with pytest.raises(BadRequest):
            list(sparse_volume.decode_coarse_records(data[:-cut]))


def test_golden_binary_blocks() -> None:
    block = np.full((16, 16, 16), 5, np.uint64)
    block[0, 0, 0] = 9
    encoded = label_block.encode(block)
    nine = label_block.binary_block(encoded, label_block.table(encoded) == 9)
    assert nine is not None
    stream = binary_stream((16, 16, 16), 9, [((0, 0, 0), nine)])
    assert stream.hex() == "02000000" * 3 + "0900000000000000" + "00" * 12 + "020201" + "00" * 63 + "00" * 7
    label, blocks = sparse_volume.decode_binary_blocks(stream)
    assert label == 9
    ((corner, mask),) = blocks
    assert corner == (0, 0, 0)
    assert np.array_equal(mask, block == 9)
    solid = binary_stream((16, 16, 16), 5, [((16, 0, 0), b"\1")])
    assert solid.hex() == "020000000200000002000000050000000000000010000000000000000000000001"
    for cut in (1, 9, 60, 100):
        with pytest.raises(BadRequest):
            list(sparse_volume.decode_binary_blocks(stream[:-cut])[1])


def test_binary_blocks_of_several_blocks() -> None:
    rng = np.random.default_rng(0)
    dense = [np.repeat(rng.integers(0, 3, (8, 16, 6)), 4, 2).astype(np.uint64) for _ in range(3)]
    parts = []
    for i, block in enumerate(dense):
        encoded = label_block.encode(block)
        binary = label_block.binary_block(encoded, label_block.table(encoded) == 1)
        assert binary is not None
        parts.append(((24 * i, -16, 8), binary))
    label, blocks = sparse_volume.decode_binary_blocks(binary_stream((24, 16, 8), 2**64 - 1, parts))
    assert label == 2**64 - 1
    for block, (corner, _), (found_corner, mask) in zip(dense, parts, blocks, strict=True):
        assert corner == found_corner
        assert np.array_equal(mask, block == 1)
