"""Colours of labels."""

from __future__ import annotations

import numpy as np

from fascicle.formats import pseudocolor


def test_published_colours() -> None:
    colours = pseudocolor.colours(np.array([[0, 1], [2, 12345]], np.uint64))
    assert colours.shape == (2, 2, 4)
    assert [bytes(c).hex() for c in colours.reshape(4, 4)] == ["63852aff", "53075dff", "c61fa2ff", "146c33ff"]


def slow_murmur3(data: bytes) -> int:
    state = 0
    for at in range(0, 8, 4):
        word = int.from_bytes(data[at : at + 4], "little") * 0xCC9E2D51 & 0xFFFFFFFF
        word = (word << 15 | word >> 17) & 0xFFFFFFFF
        state ^= word * 0x1B873593 & 0xFFFFFFFF
        state = (state << 13 | state >> 19) & 0xFFFFFFFF
        state = (state * 5 + 0xE6546B64) & 0xFFFFFFFF
    state ^= 8
    for multiplier, shift in ((0x85EBCA6B, 16), (0xC2B2AE35, 13)):
        state = (state ^ state >> shift) * multiplier & 0xFFFFFFFF
    return state ^ state >> 16


def test_hash_agrees_with_its_definition() -> None:
    labels = np.random.default_rng(0).integers(0, 2**64 - 1, 200, dtype=np.uint64)
    assert pseudocolor.murmur3(labels).tolist() == [slow_murmur3(v.tobytes()) for v in labels]
