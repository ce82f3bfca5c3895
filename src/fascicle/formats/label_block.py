"""Label blocks: the compressed unit of segmentation, on the wire and in the store.

**Wire form** (source: DVID `datatype/common/labels/compressed.go`): u32 gx, gy, gz (sub-blocks of 8x8x8 voxels per
axis), u32 N, then part E: table u64[N]. If N > 1 follow F: u16 per sub-block, the length of its list; G: the lists,
u32 table positions; H: per sub-block its 512 values, x fastest, each ceil(log2(list length)) bits, most significant
first. Everything is little-endian; sub-blocks come x fastest. We encode as libdvid does: lists ascending by label,
table by first use.

**Stored form** ("split block"): what changes with bodies, the table, lies apart from what does not, parts F, G and H,
which are kept as one raw deflate stream, so that the gzip of a block with another table needs neither inflating nor
deflating:

====== ========== ==========================================================
byte   type       what
====== ========== ==========================================================
0      u8         version of this layout, 1 without and 2 with marks
1      u8[3]      gx, gy, gz
4      u32        N
8      u32        length of parts F, G, H before compression
12     u32        CRC-32 of parts F, G, H
16     u32        x^(8 length) modulo the CRC polynomial, to combine CRCs
20     u32        length of the deflate stream
24     u64[N]     table
...    u32[N]     voxels per table entry
...    bytes      deflate stream (nothing for solid blocks)
...    u64[8]     marks (version 2): see `marks`
====== ========== ==========================================================

Stored blocks are *normal*: no uninitialised sub-blocks, no equal and no unused table entries, no trailing bytes.

Functions that read a block take its wire form as bytes, or a `LabelBlock`, which saves parsing it again.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from isal import igzip_lib
from numpy.typing import NDArray

from fascicle.errors import BadRequest, CorruptionError
from fascicle.kernels import label_codec, label_decoding, label_masks, splice
from fascicle.kernels.arrays import Buffer, address_of, frozen, frozen_bytes

MAX_SUB_BLOCKS = 128
"""Per axis."""

DEFLATE_LEVEL = 1

STORED_TABLE_AT = 24
"""The byte of a stored block at which its table begins."""

_HEADER = struct.Struct("<4I")
_STORED = struct.Struct("<B3BIIIII")
_NO_BYTES = frozen_bytes(b"")
_NO_STARTS = frozen(np.empty(0, np.int64))


@dataclass(frozen=True, slots=True)
class LabelBlock:
    """A label block taken apart: sub-blocks per axis, table u64[N], and parts F, G, H at `data[start:]` (u8).

    The parts are known to be sound. Replace `table` (same length) to see the block through a mapping.
    """

    gx: int
    gy: int
    gz: int
    table: NDArray[np.uint64]
    data: NDArray[np.uint8]
    start: int
    _places: list[tuple[int, int]] = field(default_factory=list, init=False, repr=False, compare=False)

    @property
    def addresses(self) -> tuple[int, int]:
        """Where part F and the table lie in memory, for kernels that look into many blocks; part F of solid ones: 0."""
        if not self._places:
            lists = 0 if len(self.table) == 1 else address_of(self.data) + self.start
            self._places.append((lists, address_of(self.table)))
        return self._places[0]

    @property
    def shape_zyx(self) -> tuple[int, int, int]:
        """Voxels per axis."""
        return 8 * self.gz, 8 * self.gy, 8 * self.gx

    @property
    def size_bytes(self) -> int:
        """Bytes held by the arrays."""
        return self.data.nbytes + self.table.nbytes

    def with_table(self, table: NDArray[np.uint64]) -> LabelBlock:
        """The same voxels with other labels; u64[N] in the order of the table."""
        return LabelBlock(self.gx, self.gy, self.gz, frozen(table), self.data, self.start)


Block: TypeAlias = LabelBlock | Buffer


def opened(block: Block) -> LabelBlock:
    """A block taken apart. Only for bytes of ours or validated ones: the parts are not checked again."""
    if isinstance(block, LabelBlock):
        return block
    data = frozen_bytes(block)
    gx, gy, gz, n = _HEADER.unpack_from(data.data, 0)
    table = frozen(np.frombuffer(data, "<u8", n, 16))
    return LabelBlock(gx, gy, gz, table, data, 16 + 8 * n)


# ---------------------------------------------------------------------------------------------------------------------
# dense voxels


def encode(block_zyx: NDArray[np.uint64]) -> bytes:
    """The wire form of a dense block u64[z,y,x] whose sides are multiples of 8 (8 to 1024); deterministic."""
    for side in block_zyx.shape:
        if side < 8 or side % 8 or side > 8 * MAX_SUB_BLOCKS:
            raise BadRequest(f"a block of {block_zyx.shape} voxels cannot be: sides are multiples of 8 up to 1024")
    encoded: NDArray[np.uint8] = label_codec.encode(frozen(block_zyx.astype(np.uint64, copy=False)))
    return encoded.tobytes()


def decode(block: Block) -> NDArray[np.uint64]:
    """The dense voxels u64[z,y,x] of a block."""
    parts = opened(block)
    out = np.empty(parts.shape_zyx, np.uint64)
    decode_into(parts, out)
    return out


def decode_into(
    block: Block,
    out_zyx: NDArray[np.uint64],
    start_zyx: tuple[int, int, int] = (0, 0, 0),
    table: NDArray[np.uint64] | None = None,
) -> None:
    """Write the box of a block that begins at voxel `start_zyx` and is as large as `out_zyx` (u64[z,y,x], any strides).

    With `table` (u64[N]) the voxels get its labels. The box must lie inside of the block.
    """
    parts = opened(block)
    ends = [s + n for s, n in zip(start_zyx, out_zyx.shape, strict=True)]
    if min(start_zyx) < 0 or any(e > n for e, n in zip(ends, parts.shape_zyx, strict=True)):
        raise ValueError(f"box {start_zyx} to {ends} is not inside of a block of {parts.shape_zyx}")
    if out_zyx.dtype != np.uint64 or not out_zyx.flags.writeable:
        raise ValueError("out_zyx must be writable u64")
    if table is not None and len(table) != len(parts.table):
        raise ValueError(f"table has {len(table)} entries, the block {len(parts.table)}")
    if out_zyx.size == 0:
        return
    target = out_zyx
    if out_zyx.strides[2] != 8 or not out_zyx.flags.aligned:
        target = np.empty(out_zyx.shape, np.uint64)
    label_decoding.decode_box(
        parts.data,
        parts.start,
        parts.table if table is None else frozen(table),
        parts.gx,
        parts.gy,
        parts.gz,
        np.array([*start_zyx, *ends], np.int64),
        target.ctypes.data,
        target.strides[0],
        target.strides[1],
    )
    if target is not out_zyx:
        out_zyx[...] = target


def wire_of_solid(size_xyz: tuple[int, int, int], label: int) -> bytes:
    """The wire form of a block in which every voxel has one label."""
    return _HEADER.pack(*(n // 8 for n in size_xyz), 1) + struct.pack("<Q", label)


# ---------------------------------------------------------------------------------------------------------------------
# bytes from outside

_PROBLEMS = {
    label_codec.TRUNCATED: "ends before all of its parts",
    label_codec.TOO_MANY: "has a sub-block with more than 512 labels",
    label_codec.BAD_POSITION: "names a label outside of its table",
    label_codec.BAD_VALUE: "has a voxel value outside of its sub-block's list",
}


def _checked(data: Buffer, size_xyz: tuple[int, int, int] | None) -> tuple[LabelBlock, NDArray[np.uint32], int, int]:
    """(block, counts u32[N], length without trailing bytes, uninitialised sub-blocks) of bytes from outside."""
    view = frozen_bytes(data)
    if view.size < 24:
        raise BadRequest(f"a label block has at least 24 bytes, not {view.size}")
    gx, gy, gz, n = _HEADER.unpack_from(view.data, 0)
    if size_xyz is not None:
        if (8 * gx, 8 * gy, 8 * gz) != tuple(size_xyz):
            raise BadRequest(f"label block has (x,y,z) {(8 * gx, 8 * gy, 8 * gz)} voxels, it should have {size_xyz}")
    elif not all(1 <= g <= MAX_SUB_BLOCKS for g in (gx, gy, gz)):
        raise BadRequest(f"label block has ({gx},{gy},{gz}) sub-blocks: there must be 1 to {MAX_SUB_BLOCKS} per axis")
    if n == 0:
        raise BadRequest("label block has 0 labels, it must have at least one")
    start = 16 + 8 * n
    if n > 512 * gx * gy * gz or start > view.size:
        raise BadRequest(f"label block claims {n} labels, more than its {view.size} bytes can hold")
    block = LabelBlock(gx, gy, gz, frozen(np.frombuffer(view, "<u8", n, 16)), view, start)
    counts = np.empty(n, np.uint32)
    if n == 1:
        counts[0] = 512 * gx * gy * gz
        return block, counts, start, 0
    problem, where, end, uninitialised = label_codec.check(view, start, n, gx, gy, gz, counts)
    if problem:
        raise BadRequest(f"label block of {view.size} bytes {_PROBLEMS[problem]} (sub-block {where})")
    return block, counts, end, uninitialised


def validate(data: Buffer, size_xyz: tuple[int, int, int] | None = None) -> None:
    """Raise BadRequest if bytes are not a label block (of `size_xyz` voxels, if given).

    Trailing bytes and uninitialised sub-blocks are accepted; `admit` removes them.
    """
    _checked(data, size_xyz)


def admit(data: Buffer, size_xyz: tuple[int, int, int] | None = None) -> tuple[bytes, NDArray[np.uint32]]:
    """A posted label block in normal form, and voxels per table entry u32[N]; BadRequest if it is malformed."""
    block, counts, end, uninitialised = _checked(data, size_xyz)
    n = len(counts)
    if uninitialised == 0 and counts.all() and len(set(block.table.tolist())) == n:
        return (bytes(data) if end == block.data.size else block.data[:end].tobytes()), counts
    normal = encode(decode(block))
    return normal, count(normal)


def normalise(data: Buffer, size_xyz: tuple[int, int, int] | None = None) -> bytes:
    """A posted label block in normal form; BadRequest if it is malformed."""
    return admit(data, size_xyz)[0]


# ---------------------------------------------------------------------------------------------------------------------
# questions to a block


def table(block: Block) -> NDArray[np.uint64]:
    """The label table u64[N] (read-only)."""
    return opened(block).table


def count(block: Block) -> NDArray[np.uint32]:
    """Voxels per table entry u32[N]."""
    parts = opened(block)
    n = len(parts.table)
    if n == 1:
        return np.array([512 * parts.gx * parts.gy * parts.gz], np.uint32)
    counts = np.empty(n, np.uint32)
    problem, where, _, _ = label_codec.check(parts.data, parts.start, n, parts.gx, parts.gy, parts.gz, counts)
    if problem:
        raise CorruptionError(f"label block {_PROBLEMS[problem]} (sub-block {where})")
    return counts


counts = count


def points_index(block: Block, xyz: NDArray[np.int64]) -> NDArray[np.int32]:
    """Table positions i32[k] of voxels [k,3] (x, y, z inside of the block); -1 in uninitialised sub-blocks."""
    parts = opened(block)
    points_xyz = frozen(np.asarray(xyz, np.int64).reshape(-1, 3))
    out = np.empty(len(points_xyz), np.int32)
    if not label_codec.positions_at(
        parts.data, parts.start, len(parts.table), parts.gx, parts.gy, parts.gz, points_xyz, out
    ):
        raise ValueError(f"a point lies outside of the block of {parts.shape_zyx} (z, y, x) voxels")
    return out


def points(block: Block, xyz: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Labels u64[k] of voxels [k,3] (x, y, z inside of the block)."""
    parts = opened(block)
    positions = points_index(parts, xyz)
    labels: NDArray[np.uint64] = parts.table[positions]
    labels[positions < 0] = 0
    return labels


def runs(
    block: Block,
    wanted: NDArray[np.bool_],
    offset_xyz: tuple[int, int, int] = (0, 0, 0),
    bounds: tuple[tuple[int, int, int], tuple[int, int, int]] | None = None,
) -> NDArray[np.int32]:
    """Runs i32[k,4] (x, y, z, length along x) of the voxels whose table entry is wanted, sorted by z, y, x.

    `wanted` is bool[N]; `offset_xyz` the volume coordinate of the block's first voxel, added to all runs; `bounds` an
    inclusive box (minimum x, y, z), (maximum x, y, z) in volume coordinates that clips the runs exactly.
    """
    parts = opened(block)
    depth, height, width = parts.shape_zyx
    box = np.array([0, 0, 0, depth, height, width], np.int64)
    if bounds is not None:
        for axis in range(3):
            size = parts.shape_zyx[2 - axis]
            box[2 - axis] = min(max(bounds[0][axis] - offset_xyz[axis], 0), size)
            box[5 - axis] = min(max(bounds[1][axis] + 1 - offset_xyz[axis], 0), size)
    found: NDArray[np.int32] = label_masks.label_runs(
        parts.data,
        parts.start,
        len(parts.table),
        parts.gx,
        parts.gy,
        parts.gz,
        _mask_bytes(wanted, parts),
        box,
        offset_xyz[0],
        offset_xyz[1],
        offset_xyz[2],
    )
    return found


def join_runs(runs: NDArray[np.int32]) -> NDArray[np.int32]:
    """Runs i32[k,4] of several blocks sorted by z, y, x, those that touch along x united.

    Runs of one row must come with ascending x: concatenate the runs of blocks in any order in which x ascends for
    equal (z, y).
    """
    done, joined = label_masks.join_runs(frozen(runs))
    if not done:
        _, joined = label_masks.join_runs(frozen(runs[np.lexsort((runs[:, 1], runs[:, 2]))]))
    united: NDArray[np.int32] = joined
    return united


def binary_block(block: Block, wanted: NDArray[np.bool_]) -> bytes | None:
    """A block of the sparse volume's `blocks` format after its coordinate: flag and sub-blocks; None without voxels."""
    parts = opened(block)
    encoded: NDArray[np.uint8] = label_masks.binary_block(
        parts.data, parts.start, len(parts.table), parts.gx, parts.gy, parts.gz, _mask_bytes(wanted, parts)
    )
    return encoded.tobytes() or None


def _mask_bytes(wanted: NDArray[np.bool_], parts: LabelBlock) -> NDArray[np.uint8]:
    if len(wanted) != len(parts.table):
        raise ValueError(f"mask has {len(wanted)} entries, the block's table {len(parts.table)}")
    return frozen(np.asarray(wanted, np.bool_).view(np.uint8))


def replace_in_runs(
    block: Block,
    supervoxel: int,
    split: int,
    remain: int,
    runs: NDArray[np.int32],
    offset_xyz: tuple[int, int, int],
) -> tuple[bytes, int, int]:
    """Split a supervoxel in one block: its voxels inside of the runs become `split`, the others `remain`.

    Runs i32[k,4] and `offset_xyz`, the block's first voxel, are volume coordinates; parts outside of the block are
    ignored.
    `split` must not equal `supervoxel`. Returns (encoded block, voxels split, voxels that remain).
    """
    dense = decode(block)
    moved, kept = label_codec.replace_in_runs(
        dense, np.uint64(supervoxel), np.uint64(split), np.uint64(remain), frozen(runs), *offset_xyz
    )
    return encode(dense), int(moved), int(kept)


# ---------------------------------------------------------------------------------------------------------------------
# the stored form


def split(
    block: Block, voxels: NDArray[np.uint32] | None = None, marks: NDArray[np.uint64] | None = None
) -> bytes:
    """The stored form of a block in normal form; `voxels` u32[N] saves counting them, `marks` u64[8]: see `marks`."""
    parts = opened(block)
    if voxels is None:
        voxels = count(parts)
    n = len(parts.table)
    rest = parts.data[parts.start :] if n > 1 else _NO_BYTES
    deflated = b""
    if n > 1:
        deflated = igzip_lib.compress(rest, DEFLATE_LEVEL, igzip_lib.COMP_DEFLATE)
    header = _STORED.pack(
        splice.STORED_VERSION if marks is None else splice.MARKED_VERSION,
        parts.gx,
        parts.gy,
        parts.gz,
        n,
        rest.size,
        zlib.crc32(rest.data),
        int(splice.shift_operator(rest.size)),
        len(deflated),
    )
    ending = b"" if marks is None else marks.astype("<u8").tobytes()
    return b"".join((header, parts.table.tobytes(), voxels.tobytes(), deflated, ending))


def mark(stored: Buffer) -> int:
    """A number, never 0, that tells what a stored block holds: of blocks with other voxels it is another one.

    Made of the label table, the voxels per label, and checksum and lengths of the rest; not of the block's own marks.
    """
    data, n, _ = _stored_header(stored)
    return _mark(data, n)


def _mark(data: NDArray[np.uint8], n: int) -> int:
    told = hashlib.blake2b(data[1 : 24 + 12 * n].data, digest_size=8).digest()
    return int.from_bytes(told, "little") or 1


def marks(stored: Buffer) -> NDArray[np.uint64]:
    """Per octant the mark of the block of the finer scale that it was made from, u64[8]; 0 where that is not known.

    Octants are numbered as in `sub_blocks.follow`. One whose mark is that of the finer block is equal to its half.
    """
    data, _, fields = _stored_header(stored)
    if fields[0] != splice.MARKED_VERSION:
        return np.zeros(8, np.uint64)
    return np.frombuffer(data[-splice.MARKS_BYTES :].tobytes(), "<u8")


def marked(stored: Buffer, marks: NDArray[np.uint64]) -> bytes:
    """A stored block with other marks u64[8]."""
    data, n, fields = _stored_header(stored)
    rest = data[1 : 24 + 12 * n + fields[8]]
    return b"".join((bytes((splice.MARKED_VERSION,)), rest.data, marks.astype("<u8").tobytes()))


def _stored_header(stored: Buffer) -> tuple[NDArray[np.uint8], int, tuple[int, ...]]:
    """(bytes, N, all header fields) of a stored block; CorruptionError if its lengths do not fit."""
    data = frozen_bytes(stored)
    if data.size >= _STORED.size:
        # As `splice.is_sound`: to call a kernel takes longer.
        fields = _STORED.unpack_from(data.data)
        version, n = fields[0], fields[4]
        size = 24 + 12 * n + fields[8] + (splice.MARKS_BYTES if version == splice.MARKED_VERSION else 0)
        if n >= 1 and data.size == size and version in (splice.STORED_VERSION, splice.MARKED_VERSION):
            return data, n, fields
    raise CorruptionError(f"stored label block of {data.size} bytes is damaged or of an unknown version")


def opened_stored(stored: Buffer, check: bool = True) -> LabelBlock:
    """A stored block taken apart, its rest inflated (and its CRC verified if `check`)."""
    return _opened_stored(*_stored_header(stored), check)


def opened_to_edit(stored: Buffer) -> tuple[LabelBlock, NDArray[np.uint32], int]:
    """A stored block of ours taken apart, voxels per table entry u32[N], and its mark."""
    data, n, fields = _stored_header(stored)
    return _opened_stored(data, n, fields, False), np.frombuffer(data, "<u4", n, 24 + 8 * n), _mark(data, n)


def _opened_stored(data: NDArray[np.uint8], n: int, fields: tuple[int, ...], check: bool) -> LabelBlock:
    _, gx, gy, gz, _, size, crc, _, _ = fields
    labels = frozen(np.frombuffer(data, "<u8", n, 24))
    if n == 1:
        return LabelBlock(gx, gy, gz, labels, _NO_BYTES, 0)
    try:
        rest = igzip_lib.decompress(data[24 + 12 * n :], igzip_lib.DECOMP_DEFLATE, bufsize=size)
    except igzip_lib.IsalError as error:  # type: ignore[misc]
        raise CorruptionError(f"the rest of a stored label block cannot be inflated: {error}") from None
    if len(rest) != size or (check and zlib.crc32(rest) != crc):
        raise CorruptionError("the rest of a stored label block does not match its checksum")
    return LabelBlock(gx, gy, gz, labels, frozen_bytes(rest), 0)


def join(stored: Buffer, mapped: NDArray[np.uint64] | None = None) -> bytes:
    """The wire form of a stored block, with another table u64[N] if given."""
    return wire(opened_stored(stored), mapped)


def wire(block: LabelBlock, mapped: NDArray[np.uint64] | None = None) -> bytes:
    """The wire form of a block taken apart, with another table u64[N] if given."""
    labels = block.table if mapped is None else np.ascontiguousarray(mapped, "<u8")
    header = _HEADER.pack(block.gx, block.gy, block.gz, len(labels))
    return b"".join((header, labels.tobytes(), block.data[block.start :].data if len(labels) > 1 else b""))


def stored_size_xyz(stored: Buffer) -> tuple[int, int, int]:
    """Voxels per axis of a stored block."""
    fields = _stored_header(stored)[2]
    return 8 * fields[1], 8 * fields[2], 8 * fields[3]


def stored_table(stored: Buffer) -> NDArray[np.uint64]:
    """The label table u64[N] of a stored block."""
    data, n, _ = _stored_header(stored)
    return np.frombuffer(data, "<u8", n, 24)


def stored_counts(stored: Buffer) -> NDArray[np.uint32]:
    """Voxels per table entry u32[N] of a stored block."""
    data, n, _ = _stored_header(stored)
    return np.frombuffer(data, "<u4", n, 24 + 8 * n)


def gzip_of(stored: Buffer, mapped: NDArray[np.uint64] | None = None) -> bytes:
    """The gzip of a stored block's wire form, with another table u64[N] if given; nothing is inflated."""
    data, n, fields = _stored_header(stored)
    if mapped is not None and len(mapped) != n:
        raise ValueError(f"mapped table has {len(mapped)} entries, the block {n}")
    out = np.empty(splice.gzip_size(n, fields[8]), np.uint8)
    if mapped is None:
        splice.write_gzip(data, 0, data, 24, out, 0)
    else:
        splice.write_gzip(data, 0, _as_bytes(mapped), 0, out, 0)
    return out.tobytes()


# ---------------------------------------------------------------------------------------------------------------------
# many stored blocks at once; arguments are the fields of a ValueBatch, `skip` the bytes before each stored block


def gather(
    buffer: NDArray[np.uint8], offsets: NDArray[np.int64], lengths: NDArray[np.int64], skip: int
) -> tuple[NDArray[np.uint64], NDArray[np.uint32], NDArray[np.int64]]:
    """(tables u64, counts u32, starts i64[n + 1]) of many stored blocks: those of block i at starts[i] to [i + 1]."""
    starts = np.empty(len(offsets) + 1, np.int64)
    problem, tables, voxels = splice.gather(frozen_bytes(buffer), frozen(offsets), frozen(lengths), skip, starts)
    if problem:
        raise CorruptionError(f"stored label block {problem - 1} of {len(offsets)} is damaged")
    return tables, voxels, starts


def gather_tables(
    buffer: NDArray[np.uint8], offsets: NDArray[np.int64], lengths: NDArray[np.int64], skip: int
) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """(tables u64 one after the other, starts i64[n + 1]) of many stored blocks."""
    tables, _, starts = gather(buffer, offsets, lengths, skip)
    return tables, starts


def gather_counts(
    buffer: NDArray[np.uint8], offsets: NDArray[np.int64], lengths: NDArray[np.int64], skip: int
) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    """(voxels per table entry u32 one after the other, starts i64[n + 1]) of many stored blocks."""
    _, voxels, starts = gather(buffer, offsets, lengths, skip)
    return voxels, starts


def block_stream(
    buffer: NDArray[np.uint8],
    offsets: NDArray[np.int64],
    lengths: NDArray[np.int64],
    skip: int,
    coordinates_xyz: NDArray[np.int32],
    tables: NDArray[np.uint64] | None = None,
    starts: NDArray[np.int64] | None = None,
) -> NDArray[np.uint8]:
    """The records of a `/blocks` answer for many stored blocks (u8, ready to send): coordinate, size, gzip of the
    block.

    `coordinates_xyz` is i32[n,3]. With `tables` and `starts` (as of `gather_tables`, mapped), the blocks get those
    labels.
    Missing values give no record. CorruptionError if a value is not a stored block.
    """
    mapped = tables is not None and starts is not None
    problem, out = splice.block_stream(
        frozen_bytes(buffer),
        frozen(offsets),
        frozen(lengths),
        skip,
        frozen(np.asarray(coordinates_xyz, np.int32)),
        _as_bytes(tables) if tables is not None else _NO_BYTES,
        frozen(starts) if starts is not None else _NO_STARTS,
        mapped,
    )
    if problem:
        raise CorruptionError(f"stored label block {problem - 1} of {len(offsets)} is damaged")
    stream: NDArray[np.uint8] = out
    return stream


def _as_bytes(labels: NDArray[np.uint64]) -> NDArray[np.uint8]:
    return frozen(np.ascontiguousarray(labels, "<u8").view(np.uint8))
