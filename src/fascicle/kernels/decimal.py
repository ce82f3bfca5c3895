"""Lists of unsigned integers as JSON text and back, without a Python object for each number."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from fascicle.kernels.arrays import Buffer, frozen, frozen_bytes

U64 = NDArray[np.uint64]

_TEN = np.uint64(10)
_ZERO = np.uint64(48)
_ONE = np.uint64(1)
_TWO = np.uint64(2)
_HUNDRED = np.uint64(100)
_POWERS = frozen(np.array([0, *(10**n for n in range(1, 20))], np.uint64))
_PAIRS = frozen_bytes("".join(f"{n:02d}" for n in range(100)).encode())
_LAST_TENTH = np.uint64((1 << 64) // 10)
_LAST_DIGIT = np.uint64(((1 << 64) - 1) % 10)


@njit(cache=True, nogil=True)
def _write(values, out, separators, powers, pairs):  # type: ignore[no-untyped-def]
    at = np.uint64(0)
    period = np.uint64(len(separators))
    turn = np.uint64(0)
    for value in values:
        digits = np.uint64(1)
        while digits < np.uint64(20) and value >= powers[digits]:
            digits += np.uint64(1)
        end = at + digits
        at = end
        while value >= _HUNDRED:
            rest = value // _HUNDRED
            pair = (value - rest * _HUNDRED) * _TWO
            end -= _TWO
            out[end] = pairs[pair]
            out[end + _ONE] = pairs[pair + _ONE]
            value = rest
        if value >= _TEN:
            out[end - _TWO] = pairs[value * _TWO]
            out[end - _ONE] = pairs[value * _TWO + _ONE]
        else:
            out[end - _ONE] = pairs[value * _TWO + _ONE]
        out[at] = separators[turn]
        at += _ONE
        turn += _ONE
        if turn == period:
            turn = np.uint64(0)
    return at


@njit(cache=True, nogil=True)
def _read(text, out):  # type: ignore[no-untyped-def]
    """How many numbers there are; -1 if the text is not a plain list of integers that fit."""
    n = np.uint64(len(text))
    at = np.uint64(0)
    while at < n and text[at] <= 32:
        at += _ONE
    if at >= n or text[at] != 91:
        return -1
    at += _ONE
    found = 0
    while True:
        while at < n and text[at] <= 32:
            at += _ONE
        if at < n and text[at] == 93 and found == 0:
            break
        start = at
        value = np.uint64(0)
        while at < n and 48 <= text[at] <= 57:
            digit = np.uint64(text[at]) - _ZERO
            if value > _LAST_TENTH or (value == _LAST_TENTH and digit > _LAST_DIGIT):
                return -1
            value = value * _TEN + digit
            at += _ONE
        if at == start or (text[start] == 48 and at - start > _ONE):
            return -1
        out[found] = value
        found += 1
        while at < n and text[at] <= 32:
            at += _ONE
        if at == n:
            return -1
        if text[at] == 93:
            break
        if text[at] != 44:
            return -1
        at += _ONE
    at += _ONE
    while at < n:
        if text[at] > 32:
            return -1
        at += _ONE
    return found


def joined(values: U64, separators: bytes) -> bytes:
    """Numbers u64[n] in decimal digits, each followed by the next of the separators, over and over."""
    out = np.empty(21 * len(values), np.uint8)
    size = int(_write(frozen(np.asarray(values, np.uint64)), out, frozen_bytes(separators), _POWERS, _PAIRS))
    return out[:size].tobytes()


def json_list(values: U64) -> bytes:
    """Numbers u64[n] as a compact JSON list."""
    return b"[" + joined(values, b",")[:-1] + b"]"


def parsed_list(text: Buffer) -> U64 | None:
    """The numbers u64[n] of a JSON list; None if the text is anything but a list of unsigned 64-bit integers."""
    view = frozen_bytes(text)
    out = np.empty(len(view) // 2 + 1, np.uint64)
    found = _read(view, out)
    return None if found < 0 else out[:found].copy()
