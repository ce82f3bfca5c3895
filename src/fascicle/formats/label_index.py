"""Label indices as protobuf messages: `LabelIndex` and `LabelIndices`.

Source: DVID `datatype/common/proto/labelops.proto`. A message maps scale-0 blocks to the supervoxels in them with
their voxel counts, and says who last changed the body. Parsers accept any field order, unknown fields, and messages
put together by concatenation, of which the later fields count.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fascicle.errors import BadRequest
from fascicle.formats.block_code import codes_to_wire, wire_to_codes
from fascicle.kernels import protobuf, sorted_map
from fascicle.kernels.arrays import frozen, frozen_bytes

U64 = NDArray[np.uint64]
U32 = NDArray[np.uint32]


def _no_u64() -> U64:
    return np.empty(0, np.uint64)


@dataclass(frozen=True, slots=True)
class LabelIndex:
    """One body's index in columns.

    `supervoxels` u64[n], `blocks` u64[n] (sortable codes of `block_code`), `counts` u32[n], one row for each supervoxel
    in a block; `surface_blocks` u64[m] and `surface_mutids` u64[m], the mutation that last changed the body in a block.
    """

    label: int
    supervoxels: U64 = field(default_factory=_no_u64)
    blocks: U64 = field(default_factory=_no_u64)
    counts: U32 = field(default_factory=lambda: np.empty(0, np.uint32))
    surface_blocks: U64 = field(default_factory=_no_u64)
    surface_mutids: U64 = field(default_factory=_no_u64)
    last_mutid: int = 0
    last_mod_time: str = ""
    last_mod_user: str = ""
    last_mod_app: str = ""


def decode(data: bytes | memoryview) -> LabelIndex:
    """A LabelIndex message; BadRequest if the bytes are none. Rows come in the order of the message."""
    view = frozen_bytes(data)
    most = len(view) // 2 + 1
    sv, block = np.empty(most, np.uint64), np.empty(most, np.uint64)
    surface_block, surface_mutid = np.empty(most, np.uint64), np.empty(most, np.uint64)
    count = np.empty(most, np.uint32)
    scalars, spans = np.zeros(2, np.uint64), np.zeros((3, 2), np.int64)
    rows, blocks = protobuf.parse_label_index(view, sv, block, count, surface_block, surface_mutid, scalars, spans)
    if rows < 0:
        raise BadRequest("cannot parse the body as a protobuf LabelIndex: invalid wire-format data")
    try:
        texts = [bytes(view[a:b]).decode() for a, b in spans.tolist()]
    except UnicodeDecodeError as error:
        raise BadRequest(f"a text of the protobuf LabelIndex is not UTF-8: {error}") from None
    known = surface_mutid[:blocks] > 0
    return LabelIndex(
        int(scalars[0]),
        sv[:rows].copy(),
        wire_to_codes(block[:rows]),
        count[:rows].copy(),
        wire_to_codes(surface_block[:blocks][known]),
        surface_mutid[:blocks][known],
        int(scalars[1]),
        *texts,
    )


def members(data: bytes | memoryview) -> Iterator[memoryview]:
    """The messages of field 1 of a message that has only that one, such as LabelIndices."""
    view, at = memoryview(data), 0
    while at < len(view):
        tag, at = _varint(view, at)
        if tag != 10:
            raise BadRequest("cannot parse the body as protobuf LabelIndices: invalid wire-format data")
        length, at = _varint(view, at)
        if length > len(view) - at:
            raise BadRequest("cannot parse the body as protobuf LabelIndices: it is cut short")
        yield view[at : at + length]
        at += length


def decode_many(data: bytes | memoryview) -> list[LabelIndex]:
    """The indices of a LabelIndices message, in order; BadRequest if the bytes are none."""
    return [decode(member) for member in members(data)]


def _varint(view: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(view) and shift < 70:
        byte = view[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise BadRequest("cannot parse the body as protobuf: a number is cut short or too long")


def _number(field_number: int, value: int) -> bytes:
    return bytes((field_number << 3,)) + varint(value) if value else b""


def _text(field_number: int, text: str) -> bytes:
    data = text.encode()
    return bytes((field_number << 3 | 2,)) + varint(len(data)) + data if data else b""


def varint(value: int) -> bytes:
    """A number of at most 64 bits as a protobuf varint."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def encode(index: LabelIndex) -> bytes:
    """A LabelIndex message, blocks ascending (z, y, x), supervoxels as they come.

    Rows must be unique in (supervoxel, block); they are fastest if sorted by supervoxel.
    """
    order: U64
    blocks, order = sorted_map.sort_pairs(index.blocks, np.arange(len(index.blocks), dtype=np.uint64))
    places = order.astype(np.int64)
    starts = np.flatnonzero(np.r_[True, blocks[1:] != blocks[:-1]]) if len(blocks) else np.empty(0, np.int64)
    present = blocks[starts]
    surface = np.zeros(len(present), np.uint64)
    if len(index.surface_blocks):
        at = np.searchsorted(present, index.surface_blocks)
        there = at < len(present)
        there[there] = present[at[there]] == index.surface_blocks[there]
        surface[at[there]] = index.surface_mutids[there]
    encoded = protobuf.encode_blocks(
        frozen(index.supervoxels[places]),
        frozen(codes_to_wire(blocks)),
        frozen(index.counts[places]),
        frozen(np.r_[starts, len(blocks)].astype(np.int64)),
        frozen(surface),
    )
    scalars = _number(2, index.label) + _number(3, index.last_mutid)
    texts = _text(4, index.last_mod_time) + _text(5, index.last_mod_user) + _text(6, index.last_mod_app)
    return bytes(encoded.tobytes()) + scalars + texts


def encode_empty(label: int) -> bytes:
    """The LabelIndex of a body that does not exist: only its label."""
    return _number(2, label)


def as_member(message: bytes) -> bytes:
    """A LabelIndex as it stands in a LabelIndices message."""
    return b"\x0a" + varint(len(message)) + message
