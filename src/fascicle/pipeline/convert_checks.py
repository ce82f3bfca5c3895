"""Is what was converted all there and right? Checksums of everything, and on demand all voxels of all scales."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fascicle.errors import FascicleError
from fascicle.formats.precomputed_info import VolumeInfo
from fascicle.pipeline.chunk_writing import ChunkWriter, FileWriter, Records, crc32
from fascicle.volumes.base import VolumeError
from fascicle.volumes.destinations import Destination
from fascicle.volumes.precomputed import PrecomputedVolume

if TYPE_CHECKING:
    from fascicle.pipeline.convert_plan import Level

Progress = Callable[[str, int, int], None]
NAMED = 5
"""So many things that are wrong are named."""
MOST_ERROR = 16.0
"""The mean error of JPEGs in gray levels that is taken for JPEG's."""
COMPARED_BYTES = 1 << 20
"""Boxes of coarser scales are compared one by one; those of the next finer one are eight times as large."""
_PIECE_BYTES = 8 << 20
Triple = tuple[int, int, int]


class Incomplete(FascicleError):
    """A volume that was written is not whole."""


def check_written(
    destination: Destination,
    info: VolumeInfo,
    writers: Sequence[ChunkWriter],
    records: Records,
    shards: dict[str, Any],
    pool: ThreadPoolExecutor,
    progress: Progress,
) -> tuple[int, int]:
    """Read back all that was written, compare checksums, and decode some chunks: how many chunks and bytes there are.

    Raises Incomplete, which names some of what is missing or wrong.
    """
    check = _Check(destination, info, writers)
    total = records.length
    wrong: list[str] = []
    chunks = stored = done = 0
    progress("checking", 0, total)
    is_file = np.array([isinstance(writer, FileWriter) for writer in writers])
    for rows in records.pieces():
        for part in np.array_split(rows, max(1, len(rows) // 256)):
            files = is_file[part["level"]]
            wrong += [line for line in pool.map(check.chunk, part[files | (part["sampled"] == 1)]) if line]
            stored += int(part["rest"][files].sum())
            done += part.nbytes
            progress("checking", done, total)
        chunks += len(rows)
    for name, size, expected in shards.values():
        if line := check.shard(name, size, expected):
            wrong.append(line)
        stored += size
    if wrong:
        more = f", and {len(wrong) - NAMED} more" if len(wrong) > NAMED else ""
        raise Incomplete(f"{destination.address} is not whole: {'; '.join(wrong[:NAMED])}{more}")
    return chunks, stored


class _Check:
    """Compares what is at a destination with what was noted."""

    def __init__(self, destination: Destination, info: VolumeInfo, writers: Sequence[ChunkWriter]) -> None:
        self._folder = destination.folder
        self._writers = writers
        self._scales = volume_at(destination, info)

    def chunk(self, row: NDArray[np.void]) -> str:
        """What is wrong with a chunk of a record; empty if nothing is."""
        writer = self._writers[int(row["level"])]
        x, y, z = row["cell"].tolist()
        scale = self._scales[int(row["level"])]
        try:
            data = None
            if isinstance(writer, FileWriter):
                name = writer.name((x, y, z))
                data = self._folder.get(name)
                if data is None:
                    return f"{name} is missing"
                if len(data) != int(row["size"]) or crc32(data) != int(row["crc"]):
                    return f"{name} has other bytes than were written"
            if row["sampled"]:
                data = scale.chunk_bytes((z, y, x))
                if data is None or crc32(data) != int(row["crc"]):
                    return f"chunk {x}, {y}, {z} of scale {scale.scale.key} is not found"
                voxels = np.ascontiguousarray(scale.decode_chunk(data, (z, y, x)))
                if crc32(voxels.view(np.uint8).reshape(-1)) != int(row["voxels_crc"]):
                    return f"chunk {x}, {y}, {z} of scale {scale.scale.key} has other voxels than were encoded"
        except VolumeError as error:
            return error.message
        return ""

    def shard(self, name: str, size: int, expected: str) -> str:
        """What is wrong with a shard; empty if nothing is."""
        digest = hashlib.blake2b(digest_size=16)
        try:
            for start in range(0, size, _PIECE_BYTES):
                piece = self._folder.get_range(name, start, min(size, start + _PIECE_BYTES))
                if piece is None:
                    return f"{name} is missing"
                digest.update(piece)
            found = self._folder.measure(name)
        except VolumeError as error:
            return error.message
        if digest.hexdigest() != expected or found is None or found[0] != size:
            return f"{name} has other bytes than were written"
        return ""


def volume_at(destination: Destination, info: VolumeInfo) -> list[PrecomputedVolume]:
    """The scales at a destination, whether it has an info or not."""
    return [
        PrecomputedVolume(destination.address, destination.folder, info, index) for index in range(len(info.scales))
    ]


def compare(scale: PrecomputedVolume, start: Triple, expected: NDArray[Any]) -> None:
    """Compare a box of a scale, from `start` (z, y, x) on, with what should be there.

    JPEGs differ a little: of these the mean error counts. Raises Incomplete.
    """
    z, y, x = start
    dz, dy, dx = expected.shape
    found = scale.read(start, (z + dz, y + dy, x + dx))
    where = f"{scale.name}, scale {scale.scale.key} at {x}, {y}, {z} (x, y, z)"
    if scale.encoding == "jpeg":
        error = float(np.abs(found.astype(np.int16) - expected.astype(np.int16)).mean())
        if error > MOST_ERROR:
            raise Incomplete(f"{where}: differs by {error:.1f} gray levels")
    elif not np.array_equal(found, expected, equal_nan=found.dtype.kind == "f"):
        raise Incomplete(f"{where}: {int(np.count_nonzero(found != expected))} voxels differ")


def compare_coarser(
    scale: PrecomputedVolume, finer: PrecomputedVolume, level: Level, scaling: str, count: Callable[[int], None]
) -> None:
    """Compare all of a scale with what the next finer one, whose plan is `level`, gives; in small boxes.

    `count` hears how many voxels are compared. Raises Incomplete.
    """
    from fascicle.pipeline.voxel_boxes import Box, coarsen

    cz, cy, cx = scale.chunk_zyx
    columns = cx * max(1, COMPARED_BYTES // (cz * cy * cx * scale.dtype.itemsize))
    depth, height, width = scale.shape_zyx
    for z, y, x in product(range(0, depth, cz), range(0, height, cy), range(0, width, columns)):
        shape = min(cz, depth - z), min(cy, height - y), min(columns, width - x)
        low = [a * f for a, f in zip((z, y, x), level.halved, strict=True)]
        sizes = [n * f for n, f in zip(shape, level.halved, strict=True)]
        high = [min(a + n, end) for a, n, end in zip(low, sizes, level.shape_zyx, strict=True)]
        voxels = np.ascontiguousarray(finer.read((low[0], low[1], low[2]), (high[0], high[1], high[2])))
        out = np.empty(shape, voxels.dtype)
        coarsen(Box.whole(voxels), level.halved, scaling, out.reshape(-1), 0, shape[2], shape[1] * shape[2])
        compare(scale, (z, y, x), out)
        count(out.size)
