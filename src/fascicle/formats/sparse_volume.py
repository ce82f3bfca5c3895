"""Sparse volumes: runs of voxels along x, and the streams that carry them.

Source: DVID `dvid/volumes.go` and `datatype/labelmap`. Runs are i32[n, 4] rows (x, y, z, length), lengths at least 1,
coordinates in voxels of a scale, or in blocks for the coarse forms. All numbers are little-endian.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from fascicle.errors import BadRequest

Runs = NDArray[np.int32]

HEADER_BYTES = 12
RUN_BYTES = 16
MOST_RUNS = (1 << 32) - 1


def header(runs: int) -> bytes:
    """The header of the legacy form for a number of runs; BadRequest if the form cannot carry so many."""
    if runs > MOST_RUNS:
        raise BadRequest(f"{runs} runs do not fit the sparse volume format, whose header counts to {MOST_RUNS}")
    return struct.pack("<BBBBII", 0, 3, 0, 0, 0, runs)


def encode_runs(runs: Runs) -> bytes:
    """Runs without a header (`srles`)."""
    return np.ascontiguousarray(runs, "<i4").tobytes()


def encode_rles(runs: Runs) -> bytes:
    """The legacy form: a header with the number of runs, then the runs."""
    return header(len(runs)) + encode_runs(runs)


def decode_runs(data: bytes | memoryview) -> Runs:
    """Runs without a header; BadRequest for a part of a run, or a length below 1."""
    if len(data) % RUN_BYTES:
        raise BadRequest(f"{len(data)} bytes are no whole number of runs of {RUN_BYTES} bytes")
    runs: Runs = np.frombuffer(data, "<i4").reshape(-1, 4).astype(np.int32, copy=False)
    if len(runs):
        shortest = int(runs[:, 3].min())
        if shortest < 1:
            raise BadRequest(f"a run has length {shortest}: each needs at least one voxel")
        if int((runs[:, 0].astype(np.int64) + runs[:, 3]).max()) > 1 << 31:
            raise BadRequest("a run ends beyond the largest coordinate, 2^31 - 1")
    return runs


def decode_rles(data: bytes | memoryview) -> Runs:
    """The runs of the legacy form. What follows the announced runs is ignored.

    Raises BadRequest if the first byte announces something else than binary voxels, or if bytes are missing.
    """
    if len(data) < HEADER_BYTES:
        raise BadRequest(f"a sparse volume starts with a header of {HEADER_BYTES} bytes; there are {len(data)}")
    if data[0] != 0:
        raise BadRequest(f"the sparse volume's payload descriptor is {data[0]}: only 0, binary voxels, is understood")
    count = int.from_bytes(bytes(data[8:12]), "little")
    end = HEADER_BYTES + RUN_BYTES * count
    if len(data) < end:
        raise BadRequest(f"the sparse volume announces {count} runs but has bytes for {(len(data) - 12) // RUN_BYTES}")
    return decode_runs(memoryview(data)[HEADER_BYTES:end])


def encode_coarse_record(label: int, runs: Runs) -> bytes:
    """One body of `sparsevols-coarse`: label u64, number of runs i32, runs in blocks."""
    return struct.pack("<Qi", label, len(runs)) + encode_runs(runs)


def decode_coarse_records(data: bytes) -> dict[int, Runs]:
    """The bodies of a `sparsevols-coarse` stream."""
    found: dict[int, Runs] = {}
    at = 0
    while at < len(data):
        if len(data) - at < HEADER_BYTES:
            raise BadRequest("the stream of coarse volumes ends inside of a header")
        label, count = struct.unpack_from("<Qi", data, at)
        at += HEADER_BYTES
        if count < 0 or len(data) - at < RUN_BYTES * count:
            raise BadRequest(f"the coarse volume of body {label} is cut short")
        found[label] = decode_runs(data[at : at + RUN_BYTES * count])
        at += RUN_BYTES * count
    return found


def binary_blocks_header(size_xyz: tuple[int, int, int], label: int) -> bytes:
    """The first 20 bytes of `format=blocks`: sub-blocks per axis of a block of `size_xyz` voxels, and the label."""
    return struct.pack("<IIIQ", *(edge // 8 for edge in size_xyz), label)


def decode_binary_blocks(data: bytes) -> tuple[int, Iterator[tuple[tuple[int, int, int], NDArray[np.bool_]]]]:
    """(label, blocks) of a `format=blocks` stream that is not empty.

    Blocks are (x, y, z of the first voxel, mask bool[z, y, x]), read as the iterator advances.
    """
    if len(data) < 20:
        raise BadRequest("the stream of binary blocks ends inside of its header")
    gx, gy, gz, label = struct.unpack_from("<IIIQ", data)
    if not (0 < gx <= 128 and 0 < gy <= 128 and 0 < gz <= 128):
        raise BadRequest(f"blocks of {gx} x {gy} x {gz} sub-blocks are not possible")
    return label, _binary_blocks(memoryview(data), (gz, gy, gx))


def _binary_blocks(
    data: memoryview, grid_zyx: tuple[int, int, int]
) -> Iterator[tuple[tuple[int, int, int], NDArray[np.bool_]]]:
    gz, gy, gx = grid_zyx
    at = 20
    while at < len(data):
        if len(data) - at < 13:
            raise BadRequest("the stream of binary blocks ends inside of a block")
        x, y, z, flag = struct.unpack_from("<iiiB", data, at)
        at += 13
        cells = np.zeros((gz * gy * gx, 8, 8, 8), np.bool_)
        if flag == 1:
            cells[:] = True
        elif flag == 2:
            for cell in cells:
                at = _binary_cell(data, at, cell)
        elif flag:
            raise BadRequest(f"a binary block has flag {flag}: it can be 0, 1 or 2")
        mask = cells.reshape(gz, gy, gx, 8, 8, 8).transpose(0, 3, 1, 4, 2, 5).reshape(gz * 8, gy * 8, gx * 8)
        yield (x, y, z), mask


def _binary_cell(data: memoryview, at: int, cell: NDArray[np.bool_]) -> int:
    """Read one sub-block into `cell`; the position after it."""
    if at >= len(data):
        raise BadRequest("the stream of binary blocks ends inside of a block")
    flag = data[at]
    if flag == 1:
        cell[:] = True
    elif flag == 2:
        if len(data) - at < 65:
            raise BadRequest("the stream of binary blocks ends inside of a mask")
        bits = np.frombuffer(data, np.uint8, 64, at + 1)
        cell[:] = np.unpackbits(bits, bitorder="little").reshape(8, 8, 8)
        return at + 65
    elif flag:
        raise BadRequest(f"a sub-block has flag {flag}: it can be 0, 1 or 2")
    return at + 1
