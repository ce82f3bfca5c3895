"""The 128-bit FNV-1 hash (multiply, then xor), by which blobs are named."""

from __future__ import annotations

import numpy as np
from numba import njit

from fascicle.kernels.arrays import Buffer, frozen_bytes

_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)
_FACTOR = np.uint64(0x13B)
_SHIFT = np.uint64(24)


@njit(cache=True, nogil=True)
def _hash(data, high, low):  # type: ignore[no-untyped-def]
    # The prime is 2^88 + 0x13b, so a product modulo 2^128 is a shift of the low word and a short multiplication.
    for byte in data:
        part0 = (low & _LOW) * _FACTOR
        part1 = (low >> _HALF) * _FACTOR + (part0 >> _HALF)
        high = high * _FACTOR + (part1 >> _HALF) + (low << _SHIFT)
        low = ((part1 << _HALF) | (part0 & _LOW)) ^ np.uint64(byte)
    return high, low


def fnv1_128(data: Buffer, basis: int) -> bytes:
    """The hash of bytes, big-endian, starting from an offset basis."""
    high, low = _hash(frozen_bytes(data), np.uint64(basis >> 64), np.uint64(basis & (1 << 64) - 1))
    return (int(high) << 64 | int(low)).to_bytes(16, "big")
