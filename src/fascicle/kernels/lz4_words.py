"""Raw LZ4 blocks of labels.

Labels repeat along rows and from one row to the next, whole u64 at a time, so matches are looked for only there: one
word back, in the row above, and there one word further on, where a border has moved. That needs no table of what was
seen, and finds more than a general compressor does.
Format after LZ4 `doc/lz4_Block_format.md`.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from fascicle.kernels.memory import copy_bytes, load_u64, store_u16

LAST_WORDS = 2
"""The last 5 bytes of a block must be literals, and no match may begin in its last 12."""


def largest(words: int) -> int:
    """Bytes that may be needed for the block of so many words."""
    return 8 * words + 8 * words // 255 + 32


@njit(cache=True, nogil=True)
def _put_length(out, at, rest):  # type: ignore[no-untyped-def]
    """The bytes of a length behind the 15 of a token; where they end."""
    while rest >= 255:
        out[at] = 255
        at += 1
        rest -= 255
    out[at] = rest
    return at + 1


@njit(cache=True, nogil=True)
def _put_literals(words, start, end, out, at, match):  # type: ignore[no-untyped-def]
    """A token with literals; `match` is its lower half. Where it ends."""
    count = 8 * (end - start)
    token_at = at
    at += 1
    out[token_at] = (min(count, 15) << 4) | match
    if count >= 15:
        at = _put_length(out, at, count - 15)
    copy_bytes(out, at, words, 8 * start, count)
    return at + count


@njit(cache=True, nogil=True, inline="always")
def _word(words, i):  # type: ignore[no-untyped-def]
    return load_u64(words, 8 * i)  # indexing would look whether i is negative


@njit(cache=True, nogil=True)
def encode(words, width, out):  # type: ignore[no-untyped-def]
    """Write the raw LZ4 block of words u64[n] in rows of `width` to out u8 (`largest` bytes); its length."""
    n = np.int64(words.size)
    end = n - LAST_WORDS
    if width < 2 or width > 8191:  # a match looks back 65,535 bytes at most
        width = 2
    at = np.int64(0)
    literals = np.int64(0)
    i = np.int64(1)
    while i < end:
        label = _word(words, i)
        back = np.int64(0)
        if i >= width and _word(words, i - width) == label:
            back = np.int64(width)
        elif _word(words, i - 1) == label:
            back = np.int64(1)
        elif i >= width and _word(words, i - width + 1) == label:
            back = np.int64(width - 1)
        else:
            i += 1
            continue
        stop = i + 1
        while stop + 8 <= end:
            differs = np.uint64(0)
            for k in range(8):
                differs |= _word(words, stop + k) ^ _word(words, stop + k - back)
            if differs:
                break
            stop += 8
        while stop < end and _word(words, stop) == _word(words, stop - back):
            stop += 1
        length = 8 * (stop - i) - 4
        at = _put_literals(words, literals, i, out, at, min(length, 15))
        store_u16(out, at, 8 * back)
        at += 2
        if length >= 15:
            at = _put_length(out, at, length - 15)
        i = stop
        literals = stop
    return _put_literals(words, literals, n, out, at, 0)
