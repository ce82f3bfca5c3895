"""Reading and writing large protobuf messages, of label maps and key-values, as flat columns.

`data` is u8; messages lie in data[at:end]. Any field order, packed and unpacked integers and unknown fields are
understood; nothing outside of the range is read. Positions of -1 mean that a message is malformed.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from fascicle.kernels.memory import leading_zeros, load_u64, lowest_one, store_u64

_LOW = np.uint64(0xFFFFF)
_SIGN = np.uint64(1 << 20)
_FIELD = np.uint64((1 << 21) - 1)


@njit(cache=True, nogil=True)
def _read_long(data, at, end):  # type: ignore[no-untyped-def]
    """As `read_varint`, byte by byte."""
    value = np.uint64(0)
    shift = np.uint64(0)
    while at < end and shift < np.uint64(70):
        byte = np.uint64(data[at])
        at += 1
        value |= (byte & np.uint64(127)) << shift
        if byte < np.uint64(128):
            return value, at
        shift += np.uint64(7)
    return value, np.int64(-1)


@njit(cache=True, nogil=True, forceinline=True)
def read_varint(data, at, end):  # type: ignore[no-untyped-def]
    """(value u64, position after it)."""
    if at + 8 > end:
        return _read_long(data, at, end)
    word = load_u64(data, at)
    if word & np.uint64(128) == np.uint64(0):
        return word & np.uint64(127), at + 1
    stops = ~word & np.uint64(0x8080808080808080)
    if stops == np.uint64(0):
        return _read_long(data, at, end)
    # the bytes up to the first without its high bit, their high bits squeezed out
    word &= stops ^ (stops - np.uint64(1))
    word &= np.uint64(0x7F7F7F7F7F7F7F7F)
    word = (word & np.uint64(0x007F007F007F007F)) | ((word & np.uint64(0x7F007F007F007F00)) >> np.uint64(1))
    word = (word & np.uint64(0x00003FFF00003FFF)) | ((word & np.uint64(0x3FFF00003FFF0000)) >> np.uint64(2))
    word = (word & np.uint64(0x000000000FFFFFFF)) | ((word & np.uint64(0x0FFFFFFF00000000)) >> np.uint64(4))
    return word, at + np.int64((lowest_one(stops) + np.uint64(1)) >> np.uint64(3))


@njit(cache=True, nogil=True, forceinline=True)
def read_length(data, at, end):  # type: ignore[no-untyped-def]
    """(start, end) of a length-delimited field whose length is at `at`; start -1 if it does not fit."""
    size, start = read_varint(data, at, end)
    if start < 0 or size > np.uint64(end - start):
        return np.int64(-1), np.int64(-1)
    return start, start + np.int64(size)


@njit(cache=True, nogil=True)
def skip_field(data, at, end, kind):  # type: ignore[no-untyped-def]
    """The position after a field of a wire type that begins (after its tag) at `at`, or -1."""
    if kind == 0:
        _, after = read_varint(data, at, end)
        return after
    if kind == 2:
        start, after = read_length(data, at, end)
        return after if start >= 0 else np.int64(-1)
    if kind == 1 and at + 8 <= end:
        return np.int64(at + 8)
    if kind == 5 and at + 4 <= end:
        return np.int64(at + 4)
    return np.int64(-1)


@njit(cache=True, nogil=True, forceinline=True)
def wire_to_code(wire):  # type: ignore[no-untyped-def]
    """The sortable code of a sign-and-magnitude block code."""
    code = np.uint64(0)
    for axis in range(3):
        shift = np.uint64(21 * axis)
        field = (wire >> shift) & _FIELD
        magnitude = field & _LOW
        biased = _SIGN - magnitude if field >= _SIGN else _SIGN + magnitude
        code |= biased << shift
    return code


@njit(cache=True, nogil=True, forceinline=True)
def code_to_wire(code):  # type: ignore[no-untyped-def]
    """The sign-and-magnitude code of a sortable block code."""
    wire = np.uint64(0)
    for axis in range(3):
        shift = np.uint64(21 * axis)
        biased = (code >> shift) & _FIELD
        field = biased - _SIGN if biased >= _SIGN else (_SIGN - biased) | _SIGN
        wire |= field << shift
    return wire


@njit(cache=True, nogil=True)
def parse_mappings(data, fill, originals, mapped):  # type: ignore[no-untyped-def]
    """MappingOps as pairs in their order; with `fill` they are written. Returns their number, -1 if malformed."""
    n = 0
    end = np.int64(data.size)
    at = np.int64(0)
    while at < end:
        tag, at = read_varint(data, at, end)
        if at < 0:
            return -1
        if tag != np.uint64(10):
            at = skip_field(data, at, end, np.int64(tag & np.uint64(7)))
            if at < 0:
                return -1
            continue
        start, stop = read_length(data, at, end)
        if start < 0:
            return -1
        first = n
        target = np.uint64(0)
        inner = start
        while inner < stop:
            tag, inner = read_varint(data, inner, stop)
            if inner < 0:
                return -1
            if tag == np.uint64(26):
                inner, packed_end = read_length(data, inner, stop)
                if inner < 0:
                    return -1
                while inner < packed_end:
                    value, inner = read_varint(data, inner, packed_end)
                    if inner < 0:
                        return -1
                    if fill:
                        originals[n] = value
                    n += 1
            elif tag == np.uint64(24):
                value, inner = read_varint(data, inner, stop)
                if inner < 0:
                    return -1
                if fill:
                    originals[n] = value
                n += 1
            elif tag == np.uint64(16):
                target, inner = read_varint(data, inner, stop)
                if inner < 0:
                    return -1
            else:
                inner = skip_field(data, inner, stop, np.int64(tag & np.uint64(7)))
                if inner < 0:
                    return -1
        if fill:
            for i in range(first, n):
                mapped[i] = target
        at = stop
    return n


@njit(cache=True, nogil=True)
def member_ranges(data, fill, starts, ends):  # type: ignore[no-untyped-def]
    """The byte ranges of all fields 1 (messages) of a message; returns their number, -1 if malformed."""
    n = 0
    end = np.int64(data.size)
    at = np.int64(0)
    while at < end:
        tag, at = read_varint(data, at, end)
        if at < 0:
            return -1
        if tag != np.uint64(10):
            at = skip_field(data, at, end, np.int64(tag & np.uint64(7)))
            if at < 0:
                return -1
            continue
        start, at = read_length(data, at, end)
        if start < 0:
            return -1
        if fill:
            starts[n] = start
            ends[n] = at
        n += 1
    return n


@njit(cache=True, nogil=True)
def _parse_counts(data, at, end, code, fill, n, svs, blocks, counts):  # type: ignore[no-untyped-def]
    """The SVCount of one block: (rows so far or -1, surface mutation id, whether supervoxels may repeat)."""
    surface = np.uint64(0)
    first = n
    doubtful = False
    last = np.uint64(0)
    while at < end:
        tag, at = read_varint(data, at, end)
        if at < 0:
            return -1, surface, False
        if tag == np.uint64(10):
            inner, stop = read_length(data, at, end)
            if inner < 0:
                return -1, surface, False
            at = stop
            if not fill:
                n += 1
                continue
            if n == svs.size:
                return -2, surface, False
            sv = np.uint64(0)
            count = np.uint64(0)
            while inner < stop:
                tag, inner = read_varint(data, inner, stop)
                if inner < 0:
                    return -1, surface, False
                if tag == np.uint64(8):
                    sv, inner = read_varint(data, inner, stop)
                elif tag == np.uint64(16):
                    count, inner = read_varint(data, inner, stop)
                else:
                    inner = skip_field(data, inner, stop, np.int64(tag & np.uint64(7)))
                if inner < 0:
                    return -1, surface, False
            if n > first and sv <= last:
                doubtful |= n - first > 64
                for k in range(first, min(n, first + 64)):
                    doubtful |= svs[k] == sv
            last = sv
            svs[n] = sv
            blocks[n] = code
            counts[n] = np.uint32(count & np.uint64(0xFFFFFFFF))
            n += 1
        elif tag == np.uint64(16):
            surface, at = read_varint(data, at, end)
            if at < 0:
                return -1, surface, False
        else:
            at = skip_field(data, at, end, np.int64(tag & np.uint64(7)))
            if at < 0:
                return -1, surface, False
    return n, surface, doubtful


@njit(cache=True, nogil=True)
def parse_indices(  # type: ignore[no-untyped-def]
    data, starts, ends, fill, row_starts, surface_starts, scalars, svs, blocks, counts, surface_blocks, surface_mutids
):
    """Many LabelIndex messages as columns.

    Fills, per message i: row_starts[i + 1], surface_starts[i + 1], and scalars[i] i64[9]: label and last mutation id
    (bits of a u64), start and end of time, user and application, and doubts: 1 if a
    supervoxel may occur twice in a block, 2 if blocks do not ascend. With
    `fill` the columns are written too: svs u64, blocks u64 (sortable codes), counts u32, and surface_blocks,
    surface_mutids for blocks with a surface mutation. Returns 0,
    or 1 + the number of a malformed message (without `fill`, some faults are not noticed), or -1 if the columns are too
    short.
    """
    n = 0
    surfaces = 0
    row_starts[0] = 0
    surface_starts[0] = 0
    for i in range(starts.size):
        at = starts[i]
        end = ends[i]
        for k in range(9):
            scalars[i, k] = 0
        previous = np.uint64(0)
        entries = 0
        while at < end:
            tag, at = read_varint(data, at, end)
            if at < 0:
                return i + 1
            field = np.int64(tag >> np.uint64(3))
            kind = np.int64(tag & np.uint64(7))
            if field == 1 and kind == 2:
                start, stop = read_length(data, at, end)
                if start < 0:
                    return i + 1
                at = stop
                key = np.uint64(0)
                inner = start
                while inner < stop:
                    tag, inner = read_varint(data, inner, stop)
                    if inner < 0:
                        return i + 1
                    if tag == np.uint64(8):
                        key, inner = read_varint(data, inner, stop)
                    else:
                        inner = skip_field(data, inner, stop, np.int64(tag & np.uint64(7)))
                    if inner < 0:
                        return i + 1
                code = wire_to_code(key)
                if entries > 0 and code <= previous:
                    scalars[i, 8] |= 2
                previous = code
                entries += 1
                surface = np.uint64(0)
                inner = start
                values = 0
                while inner < stop:
                    tag, inner = read_varint(data, inner, stop)
                    if tag == np.uint64(18):
                        value_start, value_end = read_length(data, inner, stop)
                        n, mutid, doubtful = _parse_counts(
                            data, value_start, value_end, code, fill, n, svs, blocks, counts
                        )
                        if n == -2:
                            return -1
                        if n < 0:
                            return i + 1
                        values += 1
                        if doubtful or values > 1:
                            scalars[i, 8] |= 1
                        if mutid != np.uint64(0):
                            surface = mutid
                        inner = value_end
                    else:
                        inner = skip_field(data, inner, stop, np.int64(tag & np.uint64(7)))
                if surface != np.uint64(0):
                    if fill:
                        if surfaces == surface_blocks.size:
                            return -1
                        surface_blocks[surfaces] = code
                        surface_mutids[surfaces] = surface
                    surfaces += 1
            elif (field == 2 or field == 3) and kind == 0:
                value, at = read_varint(data, at, end)
                if at < 0:
                    return i + 1
                scalars[i, field - 2] = np.int64(value)
            elif 4 <= field <= 6 and kind == 2:
                start, at = read_length(data, at, end)
                if start < 0:
                    return i + 1
                scalars[i, 2 * (field - 3)] = start
                scalars[i, 2 * (field - 3) + 1] = at
            else:
                at = skip_field(data, at, end, kind)
                if at < 0:
                    return i + 1
        row_starts[i + 1] = n
        surface_starts[i + 1] = surfaces
    return 0


@njit(cache=True, nogil=True, forceinline=True)
def varint_size(value):  # type: ignore[no-untyped-def]
    """Bytes of a u64 as varint."""
    return (np.int64(63 - np.int64(leading_zeros(value | np.uint64(1)))) * 9 + 73) >> 6


@njit(cache=True, nogil=True, forceinline=True)
def write_varint(out, at, value):  # type: ignore[no-untyped-def]
    """Write a u64 at `at`; returns the position after it. `out` must have 8 bytes more than is written."""
    size = varint_size(value)
    if size <= 8:
        word = (value & np.uint64(0x0FFFFFFF)) | ((value & np.uint64(0x00FFFFFFF0000000)) << np.uint64(4))
        word = (word & np.uint64(0x00003FFF00003FFF)) | ((word & np.uint64(0x0FFFC0000FFFC000)) << np.uint64(2))
        word = (word & np.uint64(0x007F007F007F007F)) | ((word & np.uint64(0x3F803F803F803F80)) << np.uint64(1))
        more = (np.uint64(1) << np.uint64(8 * (size - 1))) - np.uint64(1)
        store_u64(out, at, word | (np.uint64(0x8080808080808080) & more))
        return at + size
    while value > np.uint64(127):
        out[at] = np.uint8((value & np.uint64(127)) | np.uint64(128))
        value >>= np.uint64(7)
        at += 1
    out[at] = np.uint8(value)
    return at + 1


@njit(cache=True, nogil=True)
def write_index(svs, blocks, counts, surface_blocks, surface_mutids):  # type: ignore[no-untyped-def]
    """The `blocks` fields (u8) of a LabelIndex, from rows sorted by block and surface entries sorted by block."""
    n = svs.size
    bodies = np.empty(n, np.int64)
    total = 0
    entries = 0
    i = 0
    surface = 0
    while i < n:
        block = blocks[i]
        size = 0
        while i < n and blocks[i] == block:
            inner = 2 + varint_size(svs[i]) + varint_size(np.uint64(counts[i]))
            size += 1 + varint_size(np.uint64(inner)) + inner
            i += 1
        while surface < surface_blocks.size and surface_blocks[surface] < block:
            surface += 1
        if surface < surface_blocks.size and surface_blocks[surface] == block:
            size += 1 + varint_size(surface_mutids[surface])
        bodies[entries] = size
        entries += 1
        entry = 2 + varint_size(code_to_wire(block)) + varint_size(np.uint64(size)) + size
        total += 1 + varint_size(np.uint64(entry)) + entry
    out = np.empty(total + 8, np.uint8)
    at = 0
    entries = 0
    surface = 0
    i = 0
    while i < n:
        block = blocks[i]
        wire = code_to_wire(block)
        size = bodies[entries]
        entries += 1
        out[at] = 10
        at = write_varint(out, at + 1, np.uint64(2 + varint_size(wire) + varint_size(np.uint64(size)) + size))
        out[at] = 8
        at = write_varint(out, at + 1, wire)
        out[at] = 18
        at = write_varint(out, at + 1, np.uint64(size))
        while i < n and blocks[i] == block:
            count = np.uint64(counts[i])
            out[at] = 10
            at = write_varint(out, at + 1, np.uint64(2 + varint_size(svs[i]) + varint_size(count)))
            out[at] = 8
            at = write_varint(out, at + 1, svs[i])
            out[at] = 16
            at = write_varint(out, at + 1, count)
            i += 1
        while surface < surface_blocks.size and surface_blocks[surface] < block:
            surface += 1
        if surface < surface_blocks.size and surface_blocks[surface] == block:
            out[at] = 16
            at = write_varint(out, at + 1, surface_mutids[surface])
    return out[:total]


@njit(cache=True, nogil=True)
def pairs(data, fill, out):  # type: ignore[no-untyped-def]
    """Where keys and values of a message KeyValues lie, as out i64[n,4] (start and end of each) if `fill`.

    Returns n, or -1 if a pair is anything but a key of 1 to 127 bytes and then, maybe, its value.
    """
    at = np.int64(0)
    end = np.int64(data.size)
    n = np.int64(0)
    while at < end:
        if data[at] != 0x0A:
            return np.int64(-1)
        start, stop = read_length(data, at + 1, end)
        if start < 0 or start + 2 > stop or data[start] != 0x0A or data[start + 1] > 127 or data[start + 1] == 0:
            return np.int64(-1)
        key = start + 2
        key_end = key + np.int64(data[start + 1])
        value = stop
        if key_end > stop:
            return np.int64(-1)
        if key_end < stop:
            if data[key_end] != 0x12:
                return np.int64(-1)
            value, value_end = read_length(data, key_end + 1, stop)
            if value < 0 or value_end != stop:
                return np.int64(-1)
        if fill:
            out[n, 0] = key
            out[n, 1] = key_end
            out[n, 2] = value
            out[n, 3] = stop
        n += 1
        at = stop
    return n


@njit(cache=True, nogil=True)
def texts(data, fill, out):  # type: ignore[no-untyped-def]
    """Where the texts of a message of fields 1 alone lie, as out i64[n,2] if `fill`; n, or -1 if it is another."""
    at = np.int64(0)
    end = np.int64(data.size)
    n = np.int64(0)
    while at < end:
        if data[at] != 0x0A:
            return np.int64(-1)
        start, stop = read_length(data, at + 1, end)
        if start < 0:
            return np.int64(-1)
        if fill:
            out[n, 0] = start
            out[n, 1] = stop
        n += 1
        at = stop
    return n
