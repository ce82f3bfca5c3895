"""The protobuf messages LabelIndex and LabelIndices as flat columns (source: DVID `datatype/common/proto`).

A label index says, for a body, how many voxels of which supervoxel lie in which block::

    LabelIndex   { map<uint64, SVCount> blocks = 1; uint64 label = 2; uint64 last_mutid = 3;
                   string last_mod_time = 4, last_mod_user = 5, last_mod_app = 6 }
    SVCount      { map<uint64, uint32> counts = 1; uint64 surface_mutid = 2 }
    LabelIndices { repeated LabelIndex indices = 1 }

Inside, blocks are the sortable codes of `formats.block_code`; the keys on the wire hold sign and magnitude.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fascicle.errors import BadRequest
from fascicle.kernels import protobuf, sorted_map
from fascicle.kernels.arrays import Buffer, frozen, frozen_bytes

U64 = NDArray[np.uint64]
U32 = NDArray[np.uint32]


def _no_u64() -> U64:
    return np.empty(0, np.uint64)


def _no_u32() -> U32:
    return np.empty(0, np.uint32)


@dataclass(slots=True)
class LabelIndex:
    """The index of one body.

    Rows: `supervoxels` u64[n], `blocks` u64[n] (sortable codes), `counts` u32[n] voxels; each (block, supervoxel)
    once, in any order. Surfaces: `surface_blocks` u64[m] and `surface_mutids` u64[m], the mutations that last changed
    the body there.
    """

    label: int = 0
    supervoxels: U64 = field(default_factory=_no_u64)
    blocks: U64 = field(default_factory=_no_u64)
    counts: U32 = field(default_factory=_no_u32)
    surface_blocks: U64 = field(default_factory=_no_u64)
    surface_mutids: U64 = field(default_factory=_no_u64)
    last_mutid: int = 0
    last_mod_time: str = ""
    last_mod_user: str = ""
    last_mod_app: str = ""


def varint(value: int) -> bytes:
    """A protobuf varint; negative numbers as their 64-bit complement."""
    value &= (1 << 64) - 1
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def encode(index: LabelIndex) -> bytes:
    """A serialized LabelIndex, its blocks and supervoxels ascending."""
    blocks, order = index.blocks, None
    if len(blocks) > 1 and not bool((blocks[1:] >= blocks[:-1]).all()):
        blocks, order = sorted_map.sort_pairs(blocks, np.arange(len(blocks), dtype=np.uint64))
    supervoxels = index.supervoxels if order is None else index.supervoxels[order]
    counts = index.counts if order is None else index.counts[order]
    surface_blocks, surface_mutids = sorted_map.sort_pairs(index.surface_blocks, index.surface_mutids)
    rows = protobuf.write_index(
        frozen(supervoxels), frozen(blocks), frozen(counts), frozen(surface_blocks), frozen(surface_mutids)
    )
    return b"".join((rows.tobytes(), _scalars(index)))


def _scalars(index: LabelIndex) -> bytes:
    """Fields 2 to 6, those that are not zero or empty."""
    out = b""
    if index.label:
        out += b"\x10" + varint(index.label)
    if index.last_mutid:
        out += b"\x18" + varint(index.last_mutid)
    for tag, text in (
        (b"\x22", index.last_mod_time),
        (b"\x2a", index.last_mod_user),
        (b"\x32", index.last_mod_app),
    ):
        if text:
            encoded = text.encode()
            out += tag + varint(len(encoded)) + encoded
    return out


def encode_empty(label: int) -> bytes:
    """A serialized LabelIndex that has nothing but its label."""
    return _scalars(LabelIndex(label))


def as_member(serialized: bytes) -> bytes:
    """A serialized LabelIndex as a field of LabelIndices; members may simply be concatenated."""
    return b"\x0a" + varint(len(serialized)) + serialized


def encode_many(indices: Iterable[LabelIndex]) -> bytes:
    """A serialized LabelIndices."""
    return b"".join(as_member(encode(index)) for index in indices)


def decode(data: Buffer) -> LabelIndex:
    """The columns of a serialized LabelIndex; BadRequest if it is malformed."""
    view = frozen_bytes(data)
    return _decode_ranges(view, np.zeros(1, np.int64), np.array([view.size], np.int64))[0]


def decode_many(data: Buffer) -> list[LabelIndex]:
    """The indices of a serialized LabelIndices, also of several concatenated ones; BadRequest if it is malformed."""
    view = frozen_bytes(data)
    nothing = np.empty(0, np.int64)
    n = protobuf.member_ranges(view, False, nothing, nothing)
    if n < 0:
        raise BadRequest(f"{view.size} bytes are not a serialized LabelIndices message")
    starts = np.empty(n, np.int64)
    ends = np.empty(n, np.int64)
    protobuf.member_ranges(view, True, starts, ends)
    return _decode_ranges(view, starts, ends)


def _decode_ranges(data: NDArray[np.uint8], starts: NDArray[np.int64], ends: NDArray[np.int64]) -> list[LabelIndex]:
    n = len(starts)
    row_starts = np.empty(n + 1, np.int64)
    surface_starts = np.empty(n + 1, np.int64)
    scalars = np.empty((n, 9), np.int64)
    frame = (row_starts, surface_starts, scalars)
    # a row has at least 6 bytes unless it lacks its count or supervoxel; then it is counted first
    size = int((ends - starts).sum())
    columns = _columns(size // 6, size // 12)
    if not _parse(data, starts, ends, True, *frame, *columns):
        _parse(data, starts, ends, False, *frame, *columns)
        columns = _columns(int(row_starts[n]), int(surface_starts[n]))
        _parse(data, starts, ends, True, *frame, *columns)
    lengths = [int(row_starts[n])] * 3 + [int(surface_starts[n])] * 2
    columns = tuple(column[:length].copy() for column, length in zip(columns, lengths, strict=True))
    supervoxels, blocks, counts, surface_blocks, surface_mutids = columns
    indices = []
    for i, row in enumerate(scalars.tolist()):
        here = slice(int(row_starts[i]), int(row_starts[i + 1]))
        surface = slice(int(surface_starts[i]), int(surface_starts[i + 1]))
        texts = [data[row[k] : row[k + 1]].tobytes().decode(errors="replace") for k in (2, 4, 6)]
        index = LabelIndex(
            row[0] & ((1 << 64) - 1),
            supervoxels[here],
            blocks[here],
            counts[here],
            surface_blocks[surface],
            surface_mutids[surface],
            row[1] & ((1 << 64) - 1),
            *texts,
        )
        if row[8] & 1 or (row[8] and _has_repeated_blocks(index)):
            _keep_last(index)
        indices.append(index)
    return indices


def _columns(rows: int, surfaces: int) -> tuple[NDArray[Any], ...]:
    return (
        np.empty(rows, np.uint64),
        np.empty(rows, np.uint64),
        np.empty(rows, np.uint32),
        np.empty(surfaces, np.uint64),
        np.empty(surfaces, np.uint64),
    )


def _parse(data: NDArray[np.uint8], starts: NDArray[np.int64], *rest: Any) -> bool:
    """Whether the columns were long enough."""
    bad = protobuf.parse_indices(data, starts, *rest)
    if bad > 0:
        raise BadRequest(f"serialized label index {bad - 1} of {len(starts)} is malformed")
    return bool(bad == 0)


def _has_repeated_blocks(index: LabelIndex) -> bool:
    """Whether a block comes more than once, its rows not side by side or its surface twice."""
    blocks = index.blocks
    changes = blocks[np.append(True, blocks[1:] != blocks[:-1])] if len(blocks) else blocks
    return any(len(np.unique(column)) < len(column) for column in (changes, index.surface_blocks))


def _keep_last(index: LabelIndex) -> None:
    """Of repeated (block, supervoxel) pairs and surfaces keep the last, as protobuf maps do."""
    n = len(index.blocks)
    if n:
        order = np.lexsort((index.supervoxels, index.blocks))
        blocks, supervoxels = index.blocks[order], index.supervoxels[order]
        last = np.append((blocks[1:] != blocks[:-1]) | (supervoxels[1:] != supervoxels[:-1]), True)
        index.blocks, index.supervoxels, index.counts = blocks[last], supervoxels[last], index.counts[order][last]
    index.surface_blocks, index.surface_mutids = sorted_map.sort_unique_last(index.surface_blocks, index.surface_mutids)
