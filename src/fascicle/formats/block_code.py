"""Block coordinates as single u64 numbers: a sortable code for our own columns, and the wire code of label indices.

*Code*: `((z + 2^20) << 42) | ((y + 2^20) << 21) | (x + 2^20)`, so that codes sort like (z, y, x). *Wire*: the key of
`LabelIndex.blocks`, which holds sign and magnitude: bits 0-19 |x|, 20 sign of x, and so on for y (from bit 21) and z
(from bit 42); source: DVID `datatype/common/labels/index.go`. Both hold -1048575 to 1048575 per axis.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fascicle.errors import BadRequest

LIMIT = (1 << 20) - 1
"""Largest magnitude of a block coordinate."""

_BIAS = np.int64(1 << 20)
_FIELD = np.uint64((1 << 21) - 1)
_MAGNITUDE = np.uint64((1 << 20) - 1)


def block_code(x: int, y: int, z: int) -> int:
    """The code of one block."""
    if not (-LIMIT <= x <= LIMIT and -LIMIT <= y <= LIMIT and -LIMIT <= z <= LIMIT):
        raise BadRequest(f"block coordinate ({x},{y},{z}) is out of range: each must lie within -{LIMIT} to {LIMIT}")
    return ((z + 1048576) << 42) | ((y + 1048576) << 21) | (x + 1048576)


def block_codes(xyz: ArrayLike) -> NDArray[np.uint64]:
    """Codes u64[n] of block coordinates [n,3] in x, y, z order; BadRequest if one is out of range."""
    points = np.asarray(xyz, dtype=np.int64).reshape(-1, 3)
    if points.size and (points.min() < -LIMIT or points.max() > LIMIT):
        row = points[np.argmax(np.abs(points).max(axis=1) > LIMIT)]
        raise BadRequest(f"block coordinate {tuple(row.tolist())} is out of range: within -{LIMIT} to {LIMIT}")
    biased = points + _BIAS
    return ((biased[:, 2] << 42) | (biased[:, 1] << 21) | biased[:, 0]).astype(np.uint64)


def block_xyz(codes: ArrayLike) -> NDArray[np.int64]:
    """Block coordinates i64[n,3] (x, y, z) of codes."""
    values = np.asarray(codes, dtype=np.uint64).reshape(-1)
    out = np.empty((values.size, 3), np.int64)
    for axis in range(3):
        out[:, axis] = ((values >> np.uint64(21 * axis)) & _FIELD).astype(np.int64) - _BIAS
    return out


def xyz_of_code(code: int) -> tuple[int, int, int]:
    """Block coordinates (x, y, z) of one code."""
    return (code & 0x1FFFFF) - 1048576, (code >> 21 & 0x1FFFFF) - 1048576, (code >> 42) - 1048576


def block_to_wire(xyz: ArrayLike) -> NDArray[np.uint64]:
    """Wire codes u64[n] of block coordinates [n,3] (x, y, z); BadRequest if one is out of range."""
    return codes_to_wire(block_codes(xyz))


def block_from_wire(wire: ArrayLike) -> NDArray[np.int64]:
    """Block coordinates i64[n,3] (x, y, z) of wire codes."""
    return block_xyz(wire_to_codes(wire))


def codes_to_wire(codes: ArrayLike) -> NDArray[np.uint64]:
    """Wire codes of sortable codes, element by element."""
    values = np.asarray(codes, dtype=np.uint64)
    wire = np.zeros(values.shape, np.uint64)
    for axis in range(3):
        shift = np.uint64(21 * axis)
        coordinate = ((values >> shift) & _FIELD).astype(np.int64) - _BIAS
        field = np.abs(coordinate).astype(np.uint64) | ((coordinate < 0).astype(np.uint64) << np.uint64(20))
        wire |= field << shift
    return wire


def wire_to_codes(wire: ArrayLike) -> NDArray[np.uint64]:
    """Sortable codes of wire codes, element by element."""
    values = np.asarray(wire, dtype=np.uint64)
    codes = np.zeros(values.shape, np.uint64)
    for axis in range(3):
        shift = np.uint64(21 * axis)
        field = (values >> shift) & _FIELD
        magnitude = (field & _MAGNITUDE).astype(np.int64)
        coordinate = np.where(field > _MAGNITUDE, -magnitude, magnitude)
        codes |= (coordinate + _BIAS).astype(np.uint64) << shift
    return codes
