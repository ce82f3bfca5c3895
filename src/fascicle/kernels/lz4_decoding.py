"""Decoding a raw LZ4 block piece by piece."""

from __future__ import annotations

import numpy as np
from numba import njit

from fascicle.kernels.memory import copy_bytes, load_u16

TOKEN, LITERALS, OFFSET, MATCH, DONE = range(5)
TRUNCATED, BAD_OFFSET = 1, 2
STATE = 6
"""Length of the state i64: position in the block, phase, literals left, match left, offset of the match, token."""


@njit(cache=True, nogil=True)
def decode(block, state, window, begin, limit):  # type: ignore[no-untyped-def]
    """Decode on, from where `state` says, into window[begin:limit]; what was decoded before lies in window[:begin].

    Returns (problem, end): where the output ends, before `limit` only when the block is done.
    """
    size = np.int64(block.size)
    at, phase, literals, match, offset, token = state[0], state[1], state[2], state[3], state[4], state[5]
    out = np.int64(begin)
    problem = 0
    while phase != DONE and problem == 0:
        if phase == TOKEN:
            if at >= size:
                problem = TRUNCATED
                break
            token = np.int64(block[at])
            at += 1
            literals = token >> 4
            if literals == 15:
                byte = np.int64(255)
                while byte == 255:
                    if at >= size:
                        problem = TRUNCATED
                        break
                    byte = np.int64(block[at])
                    at += 1
                    literals += byte
            if at + literals > size:
                problem = TRUNCATED
            phase = LITERALS
        elif phase == LITERALS:
            n = min(literals, limit - out)
            copy_bytes(window, out, block, at, n)
            at += n
            out += n
            literals -= n
            if literals > 0:
                break
            phase = DONE if at == size else OFFSET
        elif phase == OFFSET:
            if at + 2 > size:
                problem = TRUNCATED
                break
            offset = np.int64(load_u16(block, at))
            at += 2
            match = token & 15
            if match == 15:
                byte = np.int64(255)
                while byte == 255:
                    if at >= size:
                        problem = TRUNCATED
                        break
                    byte = np.int64(block[at])
                    at += 1
                    match += byte
            match += 4
            phase = MATCH
        else:
            if offset == 0 or offset > out:
                problem = BAD_OFFSET
                break
            n = min(match, limit - out)
            match -= n
            start = out - offset
            while n > 0:  # what was copied is copied again, twice as much each time
                part = min(n, out - start)
                copy_bytes(window, out, window, start, part)
                out += part
                n -= part
            if match > 0:
                break
            phase = TOKEN
    state[0], state[1], state[2], state[3], state[4], state[5] = at, phase, literals, match, offset, token
    return problem, out
