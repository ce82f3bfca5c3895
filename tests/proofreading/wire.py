"""Wire formats of the labelmap in plain NumPy, for tests: slow, obvious, and independent of the project's own code.

Volumes are uint64 `[z, y, x]`; block coordinates, boxes and runs are x, y, z. Layouts: the public DVID sources
(`datatype/common/labels`, `dvid/rle.go`) and the protobuf encoding guide.
"""

from __future__ import annotations

import gzip
import struct
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

Volume = npt.NDArray[np.uint64]
Points = npt.NDArray[np.int64]
"""Voxels, one row each, columns z, y, x, sorted."""
Block = tuple[int, int, int]


# -- label blocks ------------------------------------------------------------------------------------------------


def encode_label_block(volume: Volume) -> bytes:
    """A volume whose sides are multiples of 8 as a label block (not gzipped)."""
    gz, gy, gx = (side // 8 for side in volume.shape)
    table, first = np.unique(volume, return_index=True)
    table = table[np.argsort(first)]
    head = struct.pack("<4I", gx, gy, gz, len(table)) + table.astype("<u8").tobytes()
    if len(table) == 1:
        return head
    position = {int(label): i for i, label in enumerate(table)}
    counts, indices, values = [], [], []
    for z in range(gz):
        for y in range(gy):
            for x in range(gx):
                labels, inverse = np.unique(
                    volume[z * 8 : z * 8 + 8, y * 8 : y * 8 + 8, x * 8 : x * 8 + 8], return_inverse=True
                )
                counts.append(len(labels))
                indices.extend(position[int(label)] for label in labels)
                bits = (len(labels) - 1).bit_length()
                if bits:
                    shifts = np.arange(bits - 1, -1, -1)
                    values.append(np.packbits((inverse.reshape(-1, 1) >> shifts & 1).astype(np.uint8)).tobytes())
    return head + np.array(counts, "<u2").tobytes() + np.array(indices, "<u4").tobytes() + b"".join(values)


def decode_label_block(data: bytes) -> Volume:
    """The volume of a label block; AssertionError if it has bytes too few or too many."""
    gx, gy, gz, n = struct.unpack_from("<4I", data)
    assert n >= 1, "a block without labels"
    table = np.frombuffer(data, "<u8", n, 16)
    if n == 1:
        assert len(data) == 24, "trailing bytes after a solid block"
        return np.full((gz * 8, gy * 8, gx * 8), table[0], np.uint64)
    at = 16 + 8 * n
    sub_blocks = gx * gy * gz
    counts = np.frombuffer(data, "<u2", sub_blocks, at)
    at += 2 * sub_blocks
    indices = np.frombuffer(data, "<u4", int(counts.sum()), at)
    at += 4 * len(indices)
    volume = np.empty((gz * 8, gy * 8, gx * 8), np.uint64)
    used = 0
    for i, count in enumerate(counts.tolist()):
        assert count >= 1, "a sub-block without labels"
        bits = (count - 1).bit_length()
        if bits:
            packed = np.unpackbits(np.frombuffer(data, np.uint8, 64 * bits, at)).reshape(512, bits)
            value = packed @ (1 << np.arange(bits - 1, -1, -1))
            at += 64 * bits
        else:
            value = np.zeros(512, np.int64)
        z, y, x = i // (gx * gy) * 8, i // gx % gy * 8, i % gx * 8
        volume[z : z + 8, y : y + 8, x : x + 8] = table[indices[used + value]].reshape(8, 8, 8)
        used += count
    assert at == len(data), f"{len(data) - at} bytes after the block"
    return volume


def block_stream(blocks: dict[Block, Volume]) -> bytes:
    """Records of gzipped label blocks."""
    pieces = []
    for (x, y, z), volume in blocks.items():
        payload = gzip.compress(encode_label_block(volume), 1, mtime=0)
        pieces += [struct.pack("<3iI", x, y, z, len(payload)), payload]
    return b"".join(pieces)


def split_stream(data: bytes) -> Iterator[tuple[Block, bytes]]:
    """Block coordinates and payloads of a block stream."""
    at = 0
    while at < len(data):
        assert at + 16 <= len(data), "a truncated record"
        x, y, z, size = struct.unpack_from("<3iI", data, at)
        at += 16
        assert at + size <= len(data), "a truncated payload"
        yield (x, y, z), data[at : at + size]
        at += size


# -- sparse volumes ----------------------------------------------------------------------------------------------


def runs_of(points: Points) -> npt.NDArray[np.int32]:
    """Maximal runs (x, y, z, length) of sorted voxels."""
    if not len(points):
        return np.zeros((0, 4), np.int32)
    step = np.diff(points, axis=0)
    starts = np.flatnonzero(np.r_[True, (step[:, 0] != 0) | (step[:, 1] != 0) | (step[:, 2] != 1)])
    lengths = np.diff(np.r_[starts, len(points)])
    return np.column_stack([points[starts][:, ::-1], lengths]).astype("<i4")


def legacy_rles(points: Points) -> bytes:
    """Voxels as the form that clients post to split a supervoxel."""
    runs = runs_of(points)
    return struct.pack("<4BII", 0, 3, 0, 0, 0, len(runs)) + runs.tobytes()


def points_of_runs(data: bytes) -> Points:
    """The voxels of run records; AssertionError for empty or overlapping runs."""
    assert len(data) % 16 == 0, "a truncated run"
    runs = np.frombuffer(data, "<i4").reshape(-1, 4).astype(np.int64)
    assert (runs[:, 3] >= 1).all(), "a run without voxels"
    points = np.repeat(runs[:, 2::-1], runs[:, 3], axis=0)
    ends = np.cumsum(runs[:, 3])
    points[:, 2] += np.arange(len(points)) - np.repeat(ends - runs[:, 3], runs[:, 3])
    return sorted_points(points)


def points_of_legacy_rles(data: bytes) -> Points:
    """The voxels of the form with a header; no bytes at all are no voxels."""
    if not data:
        return np.zeros((0, 3), np.int64)
    assert data[:4] == b"\0\3\0\0", f"a strange header {data[:12]!r}"
    count = struct.unpack_from("<I", data, 8)[0]
    assert len(data) == 12 + 16 * count, "the header tells another number of runs"
    return points_of_runs(data[12:])


def points_of_binary_blocks(data: bytes, label: int) -> Points:
    """The voxels of the format `blocks`, in which every block must have some."""
    if not data:
        return np.zeros((0, 3), np.int64)
    gx, gy, gz, told = struct.unpack_from("<3IQ", data)
    assert told == label, f"the header tells label {told}"
    at, pieces, order = 20, [], []
    while at < len(data):
        x, y, z, flag = struct.unpack_from("<3iB", data, at)
        at += 13
        order.append((z, y, x))
        inside = np.zeros((gz * 8, gy * 8, gx * 8), bool)
        if flag == 1:
            inside[:] = True
        else:
            assert flag == 2, f"a block with flag {flag}"
            for i in range(gx * gy * gz):
                sz, sy, sx = i // (gx * gy) * 8, i // gx % gy * 8, i % gx * 8
                kind = data[at]
                at += 1
                if kind == 2:
                    mask = np.unpackbits(np.frombuffer(data, np.uint8, 64, at), bitorder="little")
                    inside[sz : sz + 8, sy : sy + 8, sx : sx + 8] = mask.reshape(8, 8, 8)
                    at += 64
                else:
                    assert kind < 2, f"a sub-block with flag {kind}"
                    inside[sz : sz + 8, sy : sy + 8, sx : sx + 8] = kind
        assert inside.any(), "a block without voxels"
        pieces.append(np.argwhere(inside) + np.array((z, y, x)))
    assert order == sorted(order), "blocks that are not in scan order"
    return sorted_points(np.concatenate(pieces))


def in_scan_order(points: Points) -> Points:
    """Voxels by z, then y, then x, none of which may reach 2^20."""
    z, y, x = (points + (1 << 20)).T
    return points[np.argsort(z << 42 | y << 21 | x, kind="stable")]


def sorted_points(points: Points) -> Points:
    """Voxels in scan order; AssertionError for duplicates."""
    points = in_scan_order(points)
    assert not len(points) or (np.diff(points, axis=0) != 0).any(1).all(), "a voxel that comes twice"
    return points


# -- protobuf ----------------------------------------------------------------------------------------------------


def varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at


def fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Field numbers and values of a protobuf message that has only varints and bytes."""
    at = 0
    while at < len(data):
        key, at = varint(data, at)
        if key & 7 == 0:
            value, at = varint(data, at)
            yield key >> 3, value
        else:
            assert key & 7 == 2, f"wire type {key & 7}"
            size, at = varint(data, at)
            assert at + size <= len(data), "a truncated message"
            yield key >> 3, data[at : at + size]
            at += size


Counts = dict[Block, dict[int, int]]
"""Voxels of each supervoxel in each block."""


def decode_block_index(code: int) -> Block:
    def part(at: int) -> int:
        magnitude = code >> at & 0xFFFFF
        return -magnitude if code >> (at + 20) & 1 else magnitude

    return part(0), part(21), part(42)


def decode_label_index(data: bytes) -> tuple[int, Counts]:
    """Label and counts of a LabelIndex; AssertionError for entries that come twice or count nothing."""
    label, counts = 0, Counts()
    for number, value in fields(data):
        if number == 2:
            assert isinstance(value, int)
            label = value
        elif number == 1:
            assert isinstance(value, bytes)
            entry = dict(fields(value))
            code = entry.get(1, 0)
            assert isinstance(code, int)
            block = decode_block_index(code)
            assert block not in counts, f"block {block} comes twice"
            counts[block] = {}
            message = entry[2]
            assert isinstance(message, bytes)
            for inner, pair in fields(message):
                if inner == 1:
                    assert isinstance(pair, bytes)
                    numbers = dict(fields(pair))
                    supervoxel, count = numbers.get(1, 0), numbers.get(2, 0)
                    assert isinstance(supervoxel, int)
                    assert isinstance(count, int)
                    assert count > 0, "a supervoxel with no voxels in a block"
                    counts[block][supervoxel] = count
            assert counts[block], f"block {block} without supervoxels"
    return label, counts
