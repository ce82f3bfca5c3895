"""Sparse volumes: bodies as runs of voxels along x, or as bit masks.

Sources: DVID `dvid/volumes.go` (runs) and `datatype/common/labels` (binary blocks). A run is i32 x, y, z of its first
voxel and i32 length. Formats:

* *rles*: header of 12 bytes (u8 0, u8 dimensions 3, u8 run axis 0, u8 0, u32 0, u32 number of runs), then the runs;
* *srles*: runs only;
* *coarse*: as rles, in block coordinates; *coarse volumes*: repeated u64 label, i32 number of runs, runs;
* *binary blocks*: u32 gx, gy, gz (sub-blocks per axis), u64 label, then per block i32 x, y, z of its first voxel and
a flag: 0 empty, 1 full, 2 followed by the sub-blocks (x fastest), each a flag of the same meaning, 2 followed by 64
bytes of mask, one per row of 8 voxels, lowest bit first.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from fascicle.errors import BadRequest
from fascicle.kernels.arrays import Buffer, frozen_bytes

Runs = NDArray[np.int32]

RLE_HEADER = struct.Struct("<BBBBII")
BINARY_HEADER = struct.Struct("<IIIQ")
COARSE_HEADER = struct.Struct("<Qi")
RUN_BYTES = 16


def header(runs: int) -> bytes:
    """The 12 bytes before the runs of the format rles."""
    if runs >= 1 << 32:
        raise BadRequest(f"{runs} runs do not fit into the format rles, which counts to 4294967295: ask for srles")
    return RLE_HEADER.pack(0, 3, 0, 0, 0, runs)


def encode_rles(runs: Runs) -> bytes:
    """Runs i32[k,4] (x, y, z, length) in the format rles."""
    return header(len(runs)) + encode_runs(runs)


def encode_runs(runs: Runs) -> bytes:
    """Runs i32[k,4] without a header."""
    return np.ascontiguousarray(runs, "<i4").tobytes()


def decode_rles(data: Buffer) -> Runs:
    """Runs i32[k,4] of a posted sparse volume; BadRequest if it is cut short or a run makes no sense.

    As the reference, bytes 1 to 7 and what follows the last run are ignored.
    """
    view = memoryview(frozen_bytes(data).data)
    if len(view) < RLE_HEADER.size:
        raise BadRequest(f"a sparse volume has a header of 12 bytes, the body has only {len(view)}")
    descriptor, _, _, _, _, count = RLE_HEADER.unpack_from(view)
    if descriptor != 0:
        raise BadRequest(f"sparse volumes with payload {descriptor} are not understood: byte 0 must be 0 (binary)")
    if len(view) - RLE_HEADER.size < RUN_BYTES * count:
        raise BadRequest(f"the sparse volume claims {count} runs, its {len(view)} bytes are too few for them")
    return _checked(decode_runs(view[RLE_HEADER.size : RLE_HEADER.size + RUN_BYTES * count]))


def decode_runs(data: Buffer) -> Runs:
    """Runs i32[k,4] of bytes that hold nothing else."""
    view = memoryview(frozen_bytes(data).data)
    if len(view) % RUN_BYTES:
        raise BadRequest(f"{len(view)} bytes are not a whole number of runs, which have 16 bytes each")
    return np.frombuffer(view, "<i4").reshape(-1, 4).astype(np.int32)


def _checked(runs: Runs) -> Runs:
    if len(runs):
        bad = (runs[:, 3] < 1) | (runs[:, 0].astype(np.int64) + runs[:, 3] > 1 << 31)
        if bad.any():
            x, y, z, length = runs[int(np.argmax(bad))].tolist()
            raise BadRequest(f"run at ({x},{y},{z}) has length {length}: it must be at least 1 and end within 32 bits")
    return runs


def voxels_of(runs: Runs) -> int:
    """How many voxels runs have together."""
    return int(runs[:, 3].sum(dtype=np.int64))


def coarse_runs(blocks_xyz: NDArray[np.int64]) -> Runs:
    """Runs i32[k,4] of distinct blocks i64[n,3] (x, y, z), sorted by z, y, x and maximal along x."""
    blocks = np.asarray(blocks_xyz, np.int64).reshape(-1, 3)
    if not len(blocks):
        return np.empty((0, 4), np.int32)
    blocks = blocks[np.lexsort((blocks[:, 0], blocks[:, 1], blocks[:, 2]))]
    step = np.diff(blocks, axis=0)
    starts = np.flatnonzero(np.append(True, (step[:, 0] != 1) | (step[:, 1] != 0) | (step[:, 2] != 0)))
    lengths = np.diff(np.append(starts, len(blocks)))
    return np.column_stack((blocks[starts], lengths)).astype(np.int32)


def encode_coarse_record(label: int, runs: Runs) -> bytes:
    """One body of the format coarse volumes."""
    return COARSE_HEADER.pack(label, len(runs)) + encode_runs(runs)


def decode_coarse_records(data: Buffer) -> Iterator[tuple[int, Runs]]:
    """(label, runs i32[k,4] in block coordinates) of each body of the format coarse volumes."""
    view = memoryview(frozen_bytes(data).data)
    at = 0
    while at < len(view):
        if len(view) - at < COARSE_HEADER.size:
            raise BadRequest("coarse volumes end inside of a header")
        label, count = COARSE_HEADER.unpack_from(view, at)
        at += COARSE_HEADER.size
        if count < 0 or len(view) - at < RUN_BYTES * count:
            raise BadRequest(f"coarse volume of label {label} claims {count} runs, more than follow")
        yield label, decode_runs(view[at : at + RUN_BYTES * count])
        at += RUN_BYTES * count


def binary_blocks_header(size_xyz: tuple[int, int, int], label: int) -> bytes:
    """The 20 bytes before the first block of binary blocks; without blocks not even they are sent.

    Each block is then i32 x, y, z of its first voxel and its encoding (`label_block.binary_block`).
    """
    return BINARY_HEADER.pack(*(size // 8 for size in size_xyz), label)


def decode_binary_blocks(data: Buffer) -> tuple[int, Iterator[tuple[tuple[int, int, int], NDArray[np.bool_]]]]:
    """(label, iterator of (first voxel x, y, z, mask bool[z,y,x])) of binary blocks; BadRequest if malformed."""
    view = memoryview(frozen_bytes(data).data)
    if len(view) < BINARY_HEADER.size:
        raise BadRequest(f"binary blocks have a header of 20 bytes, there are only {len(view)}")
    gx, gy, gz, label = BINARY_HEADER.unpack_from(view)
    if not all(1 <= g <= 128 for g in (gx, gy, gz)):
        raise BadRequest(f"binary blocks claim ({gx},{gy},{gz}) sub-blocks: there must be 1 to 128 per axis")

    def blocks() -> Iterator[tuple[tuple[int, int, int], NDArray[np.bool_]]]:
        at = BINARY_HEADER.size
        while at < len(view):
            if len(view) - at < 13:
                raise BadRequest("binary blocks end inside of a block's coordinate")
            x, y, z = struct.unpack_from("<3i", view, at)
            flag = view[at + 12]
            at += 13
            mask = np.zeros((8 * gz, 8 * gy, 8 * gx), np.bool_)
            if flag == 1:
                mask[...] = True
            elif flag == 2:
                at = _read_sub_blocks(view, at, mask)
            elif flag != 0:
                raise BadRequest(f"binary block at ({x},{y},{z}) has flag {flag}: it must be 0, 1 or 2")
            yield (x, y, z), mask

    return label, blocks()


def _read_sub_blocks(view: memoryview, at: int, mask: NDArray[np.bool_]) -> int:
    for z, y, x in np.ndindex(*(size // 8 for size in mask.shape)):
        flag = view[at] if at < len(view) else -1
        at += 1
        part = mask[8 * z : 8 * z + 8, 8 * y : 8 * y + 8, 8 * x : 8 * x + 8]
        if flag == 1:
            part[...] = True
        elif flag == 2 and at + 64 <= len(view):
            bits = np.unpackbits(np.frombuffer(view, np.uint8, 64, at), bitorder="little")
            part[...] = bits.reshape(8, 8, 8).astype(np.bool_)
            at += 64
        elif flag != 0:
            raise BadRequest("binary blocks end inside of a block, or a sub-block's flag is not 0, 1 or 2")
    return at
