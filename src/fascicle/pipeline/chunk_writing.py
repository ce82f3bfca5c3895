"""Where the chunks of a volume in the making go: into files of their own, or by way of a scratch file into shards.

Each scale has one `ChunkWriter`, used by many threads. What was written is noted in a file of records, of which a
journal says how much counts; so a job that was killed goes on with what it has, and checks all of it at its end.
"""

from __future__ import annotations

import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray

from fascicle.formats.precomputed_info import Scale
from fascicle.formats.sharding import morton_code, packed, shard_cells
from fascicle.kernels.arrays import Buffer
from fascicle.volumes.base import VolumeError
from fascicle.volumes.destinations import BINARY, GZIP, Destination
from fascicle.volumes.shard_writing import ShardFiles, WrittenShard

Triple = tuple[int, int, int]
RECORD = np.dtype(
    [
        ("level", "<u2"),
        ("sampled", "<u2"),
        ("crc", "<u4"),
        ("cell", "<u4", 3),
        ("size", "<u4"),
        ("place", "<u8"),
        ("voxels_crc", "<u4"),
        ("rest", "<u4"),
    ]
)
"""A chunk: its cell x, y, z; CRC-32 and bytes of it as encoded; where it lies in the scratch file of its shards, packed
in `rest` bytes; and of some the CRC-32 of their voxels."""
_PIECE = 1 << 16


def crc32(data: Buffer) -> int:
    """The CRC-32 of gzip."""
    value: int = isal_zlib.crc32(data)
    return value


class Records:
    """The file of records. Appending is safe from many threads."""

    def __init__(self, path: Path, length: int) -> None:
        found = path.stat().st_size if path.exists() else 0
        if found < length:
            raise VolumeError(f"{path} has lost its end; remove the journal to start over")
        self._path = path
        self._file = path.open("r+b" if path.exists() else "w+b", buffering=0)
        self._file.truncate(length)
        self._file.seek(length)
        self.length = length
        """Bytes of the file: what a journal notes."""

    def add(self, rows: Sequence[tuple[Any, ...]]) -> int:
        """Append records; the length of the file then. Not for several threads at once."""
        data = np.array(rows, RECORD).tobytes()
        if data:
            self._file.write(data)
            self.length += len(data)
        return self.length

    def pieces(self, level: int | None = None, start: int = 0) -> Iterator[NDArray[np.void]]:
        """All records from byte `start` on, or those of one level, in arrays of bounded size."""
        with self._path.open("rb") as file:
            file.seek(start)
            left = (self.length - start) // RECORD.itemsize
            while left:
                rows = np.fromfile(file, RECORD, min(left, _PIECE))
                left -= len(rows)
                yield rows if level is None else rows[rows["level"] == level]

    def close(self) -> None:
        self._file.close()


@dataclass(frozen=True, slots=True)
class Written:
    """A chunk that is where it belongs, in the terms of a record."""

    place: int
    size: int


class ChunkWriter(ABC):
    """The chunks of one scale."""

    @abstractmethod
    def put(self, cell: Triple, data: bytes) -> Written:
        """Take an encoded chunk. Safe from many threads."""

    def close(self) -> None:  # noqa: B027 - most have nothing to close
        """Let go of files."""


class FileWriter(ChunkWriter):
    """Every chunk as an object of its own."""

    def __init__(self, destination: Destination, scale: Scale, gzip: bool, separator: str) -> None:
        self._destination = destination
        self._scale = scale
        self._gzip = gzip
        self._separator = separator

    def name(self, cell: Triple) -> str:
        """The object of a chunk."""
        return f"{self._scale.key}/{self._scale.chunk_name(*self._scale.chunk_span(cell), self._separator)}"

    def put(self, cell: Triple, data: bytes) -> Written:
        stored = packed(data, "gzip") if self._gzip else data
        self._destination.put(self.name(cell), stored, BINARY, GZIP if self._gzip else "")
        return Written(0, len(stored))


class ShardedWriter(ChunkWriter):
    """Chunks collected in a scratch file per layer of shards, from which each shard is written once."""

    def __init__(self, destination: Destination, scale: Scale, scratch: Path) -> None:
        assert scale.sharding is not None
        self._scale = scale
        self._sharding = scale.sharding
        self._grid = scale.grid()
        cells = shard_cells(self._sharding, self._grid)
        assert cells is not None, "shards of volumes are boxes"
        self.thickness = cells[2]
        """Layers of chunks in a layer of shards."""
        self._files = ShardFiles(destination, scale.key, self._sharding, scratch)
        self._path = scratch / f"chunks-{scale.key}"
        self._lock = threading.Lock()
        scratch.mkdir(parents=True, exist_ok=True)
        self._scratch = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
        self._end = os.fstat(self._scratch).st_size

    def put(self, cell: Triple, data: bytes) -> Written:
        stored = packed(data, self._sharding.data_encoding)
        with self._lock:
            place, self._end = self._end, self._end + len(stored)
        view = memoryview(stored)
        at = place
        while len(view):
            count = os.pwrite(self._scratch, view, at)
            view, at = view[count:], at + count
        return Written(place, len(stored))

    def shards_of(self, rows: NDArray[np.void]) -> dict[int, list[tuple[int, int, int]]]:
        """Records by shard: (minishard and key, place, size) of each chunk, in the order of the shard."""
        found: dict[int, list[tuple[int, int, int]]] = {}
        keyed = []
        for (x, y, z), place, size in zip(
            rows["cell"].tolist(), rows["place"].tolist(), rows["rest"].tolist(), strict=True
        ):
            key = morton_code((x, y, z), self._grid)
            shard, minishard = self._sharding.place(key)
            keyed.append((shard, minishard, key, place, size))
        for shard, _, key, place, size in sorted(keyed):
            found.setdefault(shard, []).append((key, place, size))
        return found

    def write(self, shard: int, chunks: Sequence[tuple[int, int, int]]) -> WrittenShard | None:
        """Write a shard; its chunks as `shards_of` gives them. Safe from many threads."""
        return self._files.write(shard, ((key, os.pread(self._scratch, size, at), True) for key, at, size in chunks))

    def clear(self) -> None:
        """All shards so far are written: the room of their chunks is free."""
        os.ftruncate(self._scratch, 0)
        self._end = 0

    def close(self) -> None:
        os.close(self._scratch)
