"""The compiled 128-bit FNV-1 against the same in Python integers."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from fascicle.kernels.fnv import fnv1_128
from fascicle.mutations import blobs

BASIS = 0x6C62272E07BB014262B821756295C58D


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_agrees_with_big_integers(data: bytes) -> None:
    assert fnv1_128(data, BASIS) == blobs.fnv1_128(data)


def test_large_blobs_are_hashed_the_same() -> None:
    data = bytes(range(256)) * 40
    value = BASIS
    for byte in data:
        value = (value * 0x1000000000000000000013B) % (1 << 128) ^ byte
    assert blobs.fnv1_128(data) == value.to_bytes(16, "big")
