from __future__ import annotations

from typing import Any

import lz4.block
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from fascicle.datatypes.image.block_cache import BlockCache
from fascicle.datatypes.image.blocks import (
    GZIP,
    LZ4,
    RAW,
    BlockLayout,
    block_key,
    block_of_key,
    decode_block,
    encode_block,
    framed_payload,
    lz4_literals,
    snappy_literal,
)
from fascicle.errors import CorruptionError

COORDINATES = st.tuples(*[st.integers(-(2**31), 2**31 - 1)] * 3)


@given(COORDINATES, COORDINATES)
def test_keys(first: tuple[int, int, int], second: tuple[int, int, int]) -> None:
    assert block_of_key(block_key(first)) == first
    assert (block_key(first) < block_key(second)) == (first[::-1] < second[::-1])


@given(
    npst.arrays(np.uint16, (3, 4, 5), elements=st.sampled_from([0, 1, 7, 65535]) | st.integers(0, 65535)),
    st.sampled_from(["none", "lz4", "gzip", "gzip:1", "snappy"]),
)
def test_stored_form(voxels: np.ndarray[Any, Any], compression: str) -> None:
    layout = BlockLayout((5, 4, 3), np.dtype("<u2"), compression=compression)
    stored = encode_block(voxels, layout)
    assert np.array_equal(decode_block(stored, layout), voxels)


def test_codings() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (16, 16, 16)).astype(np.uint8)
    flat = np.zeros((16, 16, 16), np.uint8)
    layout = BlockLayout((16, 16, 16), np.dtype("u1"))
    assert encode_block(noise, layout)[0] == RAW
    assert encode_block(flat, layout)[0] == LZ4
    assert encode_block(flat, BlockLayout((16, 16, 16), np.dtype("u1"), compression="none"))[0] == RAW
    assert encode_block(flat, BlockLayout((16, 16, 16), np.dtype("u1"), compression="gzip"))[0] == GZIP


@pytest.mark.parametrize("coding", [0, 1, 2, 3, 9])
def test_damaged_blocks(coding: int) -> None:
    with pytest.raises(CorruptionError, match="stored image block"):
        decode_block(bytes((coding,)) + b"what is this?", BlockLayout((4, 4, 4), np.dtype("u1")))


@pytest.mark.parametrize("size", [0, 1, 14, 15, 16, 269, 270, 271, 5000, 262144])
def test_literals(size: int) -> None:
    data = bytes(i % 251 for i in range(size))
    assert lz4.block.decompress(lz4_literals(size) + data, uncompressed_size=size) == data
    cramjam = pytest.importorskip("imagecodecs")
    if size:
        assert bytes(cramjam.snappy_decode(snappy_literal(size) + data)) == data


def test_framing_follows_the_instance() -> None:
    voxels = np.arange(8, dtype=np.uint8).reshape(2, 2, 2)
    for compression, expected in (
        ("lz4", "0800000080" + bytes(range(8)).hex()),
        ("none", bytes(range(8)).hex()),
        ("snappy", "08fc07000000" + bytes(range(8)).hex()),
    ):
        layout = BlockLayout((2, 2, 2), np.dtype("u1"), compression=compression)
        stored = memoryview(encode_block(voxels, layout))
        assert b"".join(framed_payload(stored, "", layout)).hex() == expected
        assert b"".join(framed_payload(stored, "uncompressed", layout)) == bytes(range(8))


def test_cache_drops_what_was_not_used() -> None:
    cache = BlockCache(100)
    for i in range(4):
        cache.put(i, str(i), 30)
        cache.get(0)
    assert [cache.get(i) for i in range(4)] == ["0", None, "2", "3"]
    assert cache.used_bytes == 90
    cache.put("large", "x", 101)
    assert cache.get("large") is None
    cache.put(0, "again", 100)
    assert (cache.get(0), cache.get(3), cache.used_bytes) == ("again", None, 100)
