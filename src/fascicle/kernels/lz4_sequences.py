"""Finding the sequences of a raw LZ4 block."""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def find_ends(block):  # type: ignore[no-untyped-def]
    """Where the first and the last sequence of a well-formed raw LZ4 block u8 keep their literals.

    Returns (start of the first literals, their number, token of the last sequence, start of its literals).
    """
    size = np.int64(block.size)
    at = np.int64(0)
    first_start = np.int64(-1)
    first_count = np.int64(0)
    while True:
        token_at = at
        token = np.int64(block[at])
        at += 1
        count = token >> 4
        if count == 15:
            while True:
                byte = np.int64(block[at])
                at += 1
                count += byte
                if byte != 255:
                    break
        start = at
        if first_start < 0:
            first_start = start
            first_count = count
        at += count
        if at >= size:
            return first_start, first_count, token_at, start
        at += 2
        if token & 15 == 15:
            while block[at] == 255:
                at += 1
            at += 1
