"""Blocks put together from pieces must be what any LZ4 decoder takes for one block."""

from __future__ import annotations

import lz4.block
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fascicle.formats import lz4_block
from fascicle.formats.lz4_block import compress_stream

piece = st.one_of(
    st.binary(min_size=1, max_size=400),
    st.builds(lambda unit, n: unit * n, st.binary(min_size=1, max_size=20), st.integers(1, 300)),
)


@given(st.lists(piece, min_size=1, max_size=8))
def test_pieces_make_one_block(pieces: list[bytes]) -> None:
    whole = b"".join(pieces)
    packed = b"".join(compress_stream(pieces, len(whole)))
    assert lz4.block.decompress(packed, uncompressed_size=len(whole)) == whole


def test_literals_of_every_length_are_carried_over() -> None:
    rng = np.random.default_rng(0)
    for held in (0, 1, 5, 14, 15, 16, 269, 270, 271, 524, 525, 526, 70_000):
        pieces = [bytes(100), rng.bytes(held) if held else b"x", bytes(64) + rng.bytes(held), b"y" * 40]
        whole = b"".join(pieces)
        packed = b"".join(compress_stream(pieces, len(whole)))
        assert lz4.block.decompress(packed, uncompressed_size=len(whole)) == whole


def test_large_pieces_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lz4_block, "PIECE_BYTES", 1000)
    labels = np.repeat(np.arange(500, dtype="<u8"), 13)
    parts = list(compress_stream([labels], labels.nbytes))
    assert len(parts) > 10
    assert lz4.block.decompress(b"".join(parts), uncompressed_size=labels.nbytes) == labels.tobytes()
