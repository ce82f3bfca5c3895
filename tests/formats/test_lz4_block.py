"""Raw LZ4 blocks assembled from pieces."""

from __future__ import annotations

from unittest import mock

import lz4.block
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fascicle.errors import BadRequest
from fascicle.formats import lz4_block

noise = st.binary(max_size=400)
repeats = st.builds(lambda data, times: data * times, st.binary(min_size=1, max_size=12), st.integers(1, 900))
pieces = st.lists(st.one_of(noise, repeats), max_size=8)


@settings(deadline=None, max_examples=300)
@given(pieces, st.sampled_from([1, 13, 100, 4 << 20]))
def test_pieces_make_one_block(parts: list[bytes], piece_bytes: int) -> None:
    assembler = lz4_block.Lz4Assembler()
    with mock.patch.object(lz4_block, "PIECE_BYTES", piece_bytes):
        block = b"".join([assembler.feed(part) for part in parts] + [assembler.finish()])
    whole = b"".join(parts)
    assert lz4.block.decompress(block, uncompressed_size=len(whole)) == whole
    assert ends_as_it_must(block, len(whole))


def ends_as_it_must(block: bytes, size: int) -> bool:
    """The last 5 bytes are literals and the last match begins 12 bytes before the end, or there is none."""
    at, out, last_match = 0, 0, -1
    while True:
        token = block[at]
        at += 1
        count = token >> 4
        while count >= 15 and block[at] == 255:
            count += 255
            at += 1
        if token >> 4 == 15:
            count += block[at]
            at += 1
        at += count
        out += count
        if at == len(block):
            return out == size and (last_match < 0 or (count >= 5 and last_match <= size - 12))
        at += 2
        length = (token & 15) + 4
        if token & 15 == 15:
            while block[at] == 255:
                length += 255
                at += 1
            length += block[at]
            at += 1
        last_match = out
        out += length


def test_volumes_are_streamed() -> None:
    volume = np.repeat(np.arange(64 * 64, dtype=np.uint64).reshape(64, 64, 1), 64, 2)
    parts = list(lz4_block.compress_stream([volume[:3], volume[3:50], volume[50:]], volume.nbytes))
    block = b"".join(parts)
    assert len(parts) > 3
    assert len(block) < volume.nbytes / 10
    assert lz4.block.decompress(block, uncompressed_size=volume.nbytes) == volume.tobytes()
    with pytest.raises(ValueError, match="bytes"):
        list(lz4_block.compress_stream([volume], 5))


def test_incompressible_data_stays_right() -> None:
    data = np.random.default_rng(0).bytes(9_000_000)
    assembler = lz4_block.Lz4Assembler()
    block = assembler.feed(data) + assembler.feed(bytes(100)) + assembler.finish()
    assert lz4.block.decompress(block, uncompressed_size=len(data) + 100) == data + bytes(100)


@settings(max_examples=60, deadline=None)
@given(
    parts=st.lists(st.tuples(st.binary(max_size=12), st.integers(0, 70000)), max_size=6),
    piece=st.integers(1, 300000),
)
def test_blocks_are_decoded_in_pieces(parts: list[tuple[bytes, int]], piece: int) -> None:
    data = b"".join(part * (length // max(1, len(part))) for part, length in parts)
    packed = lz4.block.compress(data, store_size=False)
    found = [bytes(part) for part in lz4_block.decompress_stream(packed, len(data), piece)]
    assert b"".join(found) == data
    assert all(len(part) == piece for part in found[:-1])
    assert all(len(part) <= piece for part in found)


@settings(max_examples=100, deadline=None)
@given(data=st.binary(max_size=200), size=st.integers(0, 3000), cut=st.integers(0, 40))
def test_what_is_no_block_is_refused(data: bytes, size: int, cut: int) -> None:
    for block in (data, lz4.block.compress(data * 9, store_size=False)[:cut]):
        try:
            expected = lz4.block.decompress(block, uncompressed_size=size) if size else None
        except lz4.block.LZ4BlockError:
            expected = None
        try:
            found = b"".join(bytes(part) for part in lz4_block.decompress_stream(block, size))
        except BadRequest:
            assert expected is None or len(expected) != size
        else:
            assert len(found) == size
            if expected is not None:
                assert found == expected


@settings(max_examples=200, deadline=None)
@given(
    rows=st.lists(st.tuples(st.integers(0, 3), st.integers(1, 40)), max_size=60),
    width=st.sampled_from([1, 2, 7, 64, 8191, 8192, 100_000]),
    times=st.integers(1, 300),
    cut=st.integers(0, 5),
)
def test_labels_make_a_block(rows: list[tuple[int, int]], width: int, times: int, cut: int) -> None:
    labels = np.repeat(np.array([label for label, _ in rows], np.uint64), [count for _, count in rows])
    labels = np.tile(labels, times)[cut:]
    labels[len(labels) // 2 :] += np.uint64(1 << 60)
    block = lz4_block.compress_labels(labels, width)
    if len(labels):
        assert lz4.block.decompress(block, uncompressed_size=labels.nbytes) == labels.tobytes()
    assert ends_as_it_must(block, labels.nbytes)


def test_labels_without_repetitions_fit() -> None:
    labels = np.random.default_rng(1).integers(0, 1 << 63, 100_000, np.uint64)
    labels[::3] = 5
    labels[1::3] = 5
    for width in (1, 64):
        block = lz4_block.compress_labels(labels, width)
        assert lz4.block.decompress(block, uncompressed_size=labels.nbytes) == labels.tobytes()
