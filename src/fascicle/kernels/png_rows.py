"""Undoing the filters of PNG rows. Source: PNG specification (W3C), second edition, section 9."""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True, nogil=True, inline="always")
def _paeth(a, b, c):  # type: ignore[no-untyped-def]
    """Of left a, above b and above left c that which is nearest to a + b - c; of equally near ones the first."""
    # it lies in the middle third between a and b, or beyond one of them: two comparisons, which need no branch
    limit = 3 * c - (a + b)
    low, high = min(a, b), max(a, b)
    best = low if high <= limit else c
    return high if limit <= low else best


@njit(cache=True, nogil=True)
def unfilter(data, row, step, out):  # type: ignore[no-untyped-def]
    """Rows of u8 with their filter byte before each, `row` bytes each, pixels of `step` bytes, into `out` u8.

    False if there is a filter that does not exist.
    """
    height = out.size // row
    for y in range(height):
        source = y * (row + 1) + 1
        kind = data[source - 1]
        at = y * row
        above = at - row
        if kind == 0:
            for x in range(row):
                out[at + x] = data[source + x]
        elif kind == 1:
            for x in range(min(step, row)):
                out[at + x] = data[source + x]
            for x in range(step, row):
                out[at + x] = data[source + x] + out[at + x - step]
        elif kind == 2:
            for x in range(row):
                out[at + x] = data[source + x] + (out[above + x] if y > 0 else np.uint8(0))
        elif kind == 3:
            for x in range(row):
                left = np.int32(out[at + x - step]) if x >= step else np.int32(0)
                up = np.int32(out[above + x]) if y > 0 else np.int32(0)
                out[at + x] = data[source + x] + np.uint8((left + up) >> 1)
        elif kind == 4:
            if y == 0:
                for x in range(row):
                    out[at + x] = data[source + x] + (out[at + x - step] if x >= step else np.uint8(0))
                continue
            for x in range(min(step, row)):
                out[at + x] = data[source + x] + out[above + x]
            if step == 1:
                a = np.int32(out[at])
                c = np.int32(out[above])
                for x in range(1, row):
                    b = np.int32(out[above + x])
                    a = (np.int32(data[source + x]) + _paeth(a, b, c)) & np.int32(255)
                    c = b
                    out[at + x] = np.uint8(a)
            else:
                for x in range(step, row):
                    a, b, c = np.int32(out[at + x - step]), np.int32(out[above + x]), np.int32(out[above + x - step])
                    out[at + x] = np.uint8((np.int32(data[source + x]) + _paeth(a, b, c)) & np.int32(255))
        else:
            return False
    return True
