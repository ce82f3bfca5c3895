"""Colours of labels that depend on nothing but the label.

Source: DVID `datatype/labelmap` with MurmurHash3 (x86, 32 bits, seed 0; Austin Appleby, public domain) over the
label's 8 little-endian bytes; the hash's bytes, highest first, are red, green and blue.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_C1, _C2 = np.uint32(0xCC9E2D51), np.uint32(0x1B873593)


def _rotated(values: NDArray[np.uint32], bits: int) -> NDArray[np.uint32]:
    return (values << np.uint32(bits)) | (values >> np.uint32(32 - bits))


def murmur3(labels: NDArray[np.uint64]) -> NDArray[np.uint32]:
    """MurmurHash3 x86_32 with seed 0 of each label's 8 bytes, in the labels' shape."""
    state = np.zeros(labels.shape, np.uint32)
    low = (labels & np.uint64(0xFFFFFFFF)).astype(np.uint32)
    high = (labels >> np.uint64(32)).astype(np.uint32)
    for word in (low, high):
        state ^= _rotated(word * _C1, 15) * _C2
        state = _rotated(state, 13) * np.uint32(5) + np.uint32(0xE6546B64)
    state ^= np.uint32(8)
    state ^= state >> np.uint32(16)
    state *= np.uint32(0x85EBCA6B)
    state ^= state >> np.uint32(13)
    state *= np.uint32(0xC2B2AE35)
    state ^= state >> np.uint32(16)
    return state


def colours(labels: NDArray[Any]) -> NDArray[np.uint8]:
    """Opaque colours u8[..., 4] (red, green, blue, alpha) of labels u64[...]; 0 has a colour too."""
    unique, inverse = np.unique(np.asarray(labels, np.uint64), return_inverse=True)
    palette = np.empty((len(unique), 4), np.uint8)
    palette[:, :3] = murmur3(unique).astype(">u4").view(np.uint8).reshape(-1, 4)[:, :3]
    palette[:, 3] = 255
    return palette[inverse.reshape(np.shape(labels))]
