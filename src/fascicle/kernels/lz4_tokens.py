# mypy: disable-error-code="assignment"
"""A walk over the sequences of an LZ4 block (format: the LZ4 project's `lz4_Block_format.md`)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def first_and_last(data: Any) -> tuple[int, int, int, int]:
    """(literals of the first sequence, where they start, start of the last sequence's token, where its literals start).

    The last sequence has literals only. `data` must be a valid LZ4 block, such as a compressor has just made.
    """
    at, n = 0, data.size
    first_count, first_at = -1, 0
    while True:
        token_at = at
        token = np.int64(data[at])
        at += 1
        literals = token >> 4
        if literals == 15:
            while True:
                more = np.int64(data[at])
                at += 1
                literals += more
                if more != 255:
                    break
        literals_at = at
        if first_count < 0:
            first_count, first_at = literals, literals_at
        at += literals
        if at >= n:
            return first_count, first_at, token_at, literals_at
        at += 2
        if token & 15 == 15:
            while True:
                more = np.int64(data[at])
                at += 1
                if more != 255:
                    break
