"""Rows of integers as JSON text, read without a Python object for each number and without holding the interpreter."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from fascicle.kernels.arrays import Buffer, frozen_bytes

_OPEN, _CLOSE, _COMMA, _MINUS, _NOUGHT, _NINE = 91, 93, 44, 45, 48, 57
_LIMIT = 1 << 32
"""Larger numbers are left to readers that say what is wrong with them."""


@njit(cache=True, nogil=True)
def _blank(text, at):  # type: ignore[no-untyped-def]
    """The place of the next byte that is no white space of JSON."""
    n = len(text)
    while at < n and (text[at] == 32 or text[at] == 9 or text[at] == 10 or text[at] == 13):
        at += 1
    return at


@njit(cache=True, nogil=True)
def _read_rows(text, columns, out):  # type: ignore[no-untyped-def]
    """How many rows there are; -1 if the text is anything but a list of rows of so many integers."""
    n = len(text)
    at = _blank(text, 0)
    if at >= n or text[at] != _OPEN:
        return -1
    at = _blank(text, at + 1)
    found = 0
    if at < n and text[at] == _CLOSE:
        return 0 if _blank(text, at + 1) == n else -1
    while True:
        if at >= n or text[at] != _OPEN:
            return -1
        at += 1
        for column in range(columns):
            at = _blank(text, at)
            negative = at < n and text[at] == _MINUS
            if negative:
                at += 1
            start = at
            value = np.int64(0)
            while at < n and _NOUGHT <= text[at] <= _NINE:
                value = value * 10 + np.int64(text[at]) - _NOUGHT
                if value > _LIMIT:
                    return -1
                at += 1
            if at == start or (text[start] == _NOUGHT and at - start > 1):
                return -1
            out[found, column] = -value if negative else value
            at = _blank(text, at)
            if at >= n or text[at] != (_CLOSE if column == columns - 1 else _COMMA):
                return -1
            at += 1
        found += 1
        at = _blank(text, at)
        if at >= n:
            return -1
        if text[at] == _CLOSE:
            return found if _blank(text, at + 1) == n else -1
        if text[at] != _COMMA:
            return -1
        at = _blank(text, at + 1)


def parsed_rows(text: Buffer, columns: int) -> NDArray[np.int64] | None:
    """The integers i64[n, columns] of a JSON list of lists; None if it is anything else or holds large numbers."""
    view = frozen_bytes(text)
    out = np.empty((len(view) // (2 * columns + 1) + 1, columns), np.int64)
    found = _read_rows(view, columns, out)
    return None if found < 0 else out[:found].copy()
