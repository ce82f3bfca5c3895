"""`MappingOps`: lists of supervoxels that go to a body, as one protobuf message.

Source: DVID `datatype/common/proto/labelops.proto`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fascicle.errors import BadRequest
from fascicle.formats.label_index import varint
from fascicle.kernels import protobuf
from fascicle.kernels.arrays import frozen_bytes

U64 = NDArray[np.uint64]


def decode(data: bytes | memoryview) -> tuple[U64, U64]:
    """(supervoxels u64[n], bodies u64[n]) of all operations in order; BadRequest if the bytes are no MappingOps."""
    view = frozen_bytes(data)
    originals, mapped = np.empty(len(view), np.uint64), np.empty(len(view), np.uint64)
    n = protobuf.parse_mapping_ops(view, originals, mapped)
    if n < 0:
        raise BadRequest("cannot parse the body as protobuf MappingOps: invalid wire-format data")
    return originals[:n], mapped[:n]


def encode(operations: list[tuple[int, list[int]]], mutation_id: int = 0) -> bytes:
    """A MappingOps message of (body, supervoxels) pairs."""
    parts = []
    for body, supervoxels in operations:
        packed = b"".join(map(varint, supervoxels))
        operation = b""
        if mutation_id:
            operation += b"\x08" + varint(mutation_id)
        if body:
            operation += b"\x10" + varint(body)
        if packed:
            operation += b"\x1a" + varint(len(packed)) + packed
        parts.append(b"\x0a" + varint(len(operation)) + operation)
    return b"".join(parts)
