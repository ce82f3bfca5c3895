"""Colours of labels that depend on nothing but the label: the 32-bit MurmurHash3 of its eight bytes.

Sources: DVID `datatype/labelmap` (pseudocolor) and Austin Appleby's public domain MurmurHash3_x86_32, seed 0; for those
of the viewer https://github.com/google/neuroglancer, `src/segment_color.ts` and `src/gpu_hash/hash_function.ts`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_C1 = np.uint32(0xCC9E2D51)
_C2 = np.uint32(0x1B873593)


def _rotated(words: NDArray[np.uint32], bits: int) -> NDArray[np.uint32]:
    return (words << np.uint32(bits)) | (words >> np.uint32(32 - bits))


def _mixed(labels: NDArray[np.uint64], seed: int) -> NDArray[np.uint32]:
    """The state of the hash behind both halves of each label, before its end."""
    values = np.ascontiguousarray(labels, "<u8")
    words = values.view("<u4").reshape(*values.shape, 2)
    state = np.full(values.shape, seed, np.uint32)
    for half in range(2):
        state ^= _rotated(words[..., half] * _C1, 15) * _C2
        state = _rotated(state, 13) * np.uint32(5) + np.uint32(0xE6546B64)
    return state


def murmur3(labels: NDArray[np.uint64]) -> NDArray[np.uint32]:
    """MurmurHash3 (x86, 32 bits, seed 0) of the eight little-endian bytes of each label, any shape."""
    state = _mixed(labels, 0)
    state ^= np.uint32(8)
    state ^= state >> np.uint32(16)
    state *= np.uint32(0x85EBCA6B)
    state ^= state >> np.uint32(13)
    state *= np.uint32(0xC2B2AE35)
    state ^= state >> np.uint32(16)
    return state


def colours(labels: NDArray[np.uint64]) -> NDArray[np.uint8]:
    """RGBA u8[..., 4] of labels u64[...]: the three high bytes of the hash, opaque."""
    rgba = murmur3(labels).astype(">u4").view(np.uint8).reshape(*labels.shape, 4)
    rgba[..., 3] = 255
    return rgba


def viewer_colours(labels: NDArray[np.uint64], seed: int = 0) -> NDArray[np.uint8]:
    """RGB u8[..., 3] of labels u64[...] as Neuroglancer shows them with a colour seed."""
    state = _mixed(labels, seed)
    hue = (state & np.uint32(255)) * (6 / 255)
    saturation = 0.5 + (state >> np.uint32(8) & np.uint32(255)) * (0.5 / 255)
    # a channel falls from 1 to 1 - saturation with the distance of the hue from its own
    rgb = np.empty((*labels.shape, 3), np.uint8)
    for channel, own in enumerate((0.0, 2.0, 4.0)):
        away = np.abs((hue - own + 3) % 6 - 3)
        rgb[..., channel] = np.rint(255 * (1 - saturation * np.clip(away - 1, 0, 1)))
    return rgb
