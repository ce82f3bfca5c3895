"""The protobuf message MappingOps: which supervoxels belong to which body (source: DVID `datatype/common/proto`).

`MappingOps { repeated MappingOp mappings = 1 }`, `MappingOp { uint64 mutid = 1; uint64 mapped = 2; repeated uint64
original = 3 }`.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from fascicle.errors import BadRequest
from fascicle.formats.label_index import varint
from fascicle.kernels import protobuf
from fascicle.kernels.arrays import Buffer, frozen_bytes


def decode(data: Buffer) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """(originals u64[n], bodies u64[n]) in the order of the operations; BadRequest if the message is malformed."""
    view = frozen_bytes(data)
    nothing = np.empty(0, np.uint64)
    n = protobuf.parse_mappings(view, False, nothing, nothing)
    if n < 0:
        raise BadRequest(f"{view.size} bytes are not a serialized MappingOps message")
    originals = np.empty(n, np.uint64)
    mapped = np.empty(n, np.uint64)
    protobuf.parse_mappings(view, True, originals, mapped)
    return originals, mapped


def encode(operations: Iterable[tuple[int, int, Iterable[int]]]) -> bytes:
    """A MappingOps message of (mutation id, body, original supervoxels)."""
    parts = []
    for mutid, mapped, originals in operations:
        packed = b"".join(map(varint, originals))
        message = b"".join(
            (
                b"\x08" + varint(mutid) if mutid else b"",
                b"\x10" + varint(mapped) if mapped else b"",
                b"\x1a" + varint(len(packed)) + packed if packed else b"",
            )
        )
        parts.append(b"\x0a" + varint(len(message)) + message)
    return b"".join(parts)
