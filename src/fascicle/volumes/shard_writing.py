"""Writing sharded directories: each shard is assembled in a scratch file and sent once; memory holds only indexes.

Format: https://github.com/google/neuroglancer/blob/master/src/datasource/precomputed/sharded.md
In a shard, values lie by minishard and key, whatever the order in which they came, so the same values give the same
bytes. `ShardFiles` writes shards whose values are at hand one shard after the other, as the chunks of a volume are;
`ScatteredShards` first collects values under hashed keys, each of which may belong to any shard.

Example:

    files = ShardFiles(open_destination("out"), "8_8_8", sharding, Path("scratch"))
    files.write(0, ((key, chunk, False) for key, chunk in chunks_of_shard_0))
"""

from __future__ import annotations

import hashlib
import os
import secrets
import struct
from array import array
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from fascicle.formats.sharding import Encoding, Sharding, ShardWriter, packed
from fascicle.kernels.arrays import Buffer
from fascicle.volumes.base import VolumeError
from fascicle.volumes.destinations import Destination
from fascicle.volumes.sorted_rows import RowSorter, sorted_rows

_BUFFER = 1 << 20
_MAGIC = b"fscspool"
_RECORD = struct.Struct("<QQQ")
"""Ahead of each value in a spool: key, bytes of what leads it, bytes of the packed value."""
_NOTE = struct.Struct("=5Q")
_NOTES_BYTES = _NOTE.size << 16
_NOTED = ("number", "key", "at", "lead", "size")
_ROW = np.dtype([(name, "<u8") for name in ("place", "key", "number", "at", "lead", "size")])
_MOST_OPEN = 128
_AT_ONCE = 4096


@dataclass(frozen=True, slots=True)
class WrittenShard:
    """A shard that is at its destination."""

    shard: int
    name: str
    """Of the object, with its directory."""
    values: int
    size: int
    """Bytes of the file."""
    checksum: str
    """`checksum_of` the file."""
    is_new: bool = True
    """False if it was known to be there already, so that it was not sent."""


class ShardFiles:
    """The shards of one directory of a destination. Several of these, in any processes, may write different shards."""

    def __init__(self, destination: Destination, directory: str, sharding: Sharding, scratch_folder: Path) -> None:
        self.sharding = sharding
        self._destination = destination
        self._prefix = f"{directory.strip('/')}/" if directory.strip("/") else ""
        self._scratch = scratch_folder

    def name(self, shard: int) -> str:
        """The name of a shard's object, with its directory."""
        return self._prefix + self.sharding.file_name(shard)

    def write(
        self, shard: int, entries: Iterable[tuple[int, Buffer, bool]], known: str = ""
    ) -> WrittenShard | None:
        """One shard from (key, value, whether the value is in `data_encoding` already); None, and no file, if empty.

        It is not sent if its checksum is `known`: that of the one which is there. Entries may come in any order; those
        that come by minishard and key, as chunks in the order of their keys do, are not written twice. Raises
        ValueError for a key of another shard and for one that comes twice, VolumeError if the shard cannot be written.
        """
        with _Scratch(self._scratch) as scratch:
            values = _Values(self.sharding, scratch.open())
            for key, value, is_packed in entries:
                values.add(shard, key, value if is_packed else packed(value, self.sharding.data_encoding))
            return self._sent(shard, values.assembled(shard, scratch), scratch, known)

    def write_ordered(
        self, shard: int, entries: Iterable[tuple[int, int, Buffer, Buffer]]
    ) -> WrittenShard | None:
        """As `write`, from (key, minishard, packed value, what leads it) that come by minishard and key."""
        with _Scratch(self._scratch) as scratch:
            writer = ShardWriter(self.sharding, shard, scratch.open())
            for key, minishard, value, leading in entries:
                writer.add(key, value, is_packed=True, leading=leading, minishard=minishard)
            return self._sent(shard, writer.finish(), scratch, "")

    def _sent(self, shard: int, values: int, scratch: _Scratch, known: str) -> WrittenShard | None:
        if not values:
            return None
        path = scratch.closed()
        name, size, checksum = self.name(shard), path.stat().st_size, checksum_of(path)
        if checksum != known:
            self._destination.take_file(name, path)
        return WrittenShard(shard, name, values, size, checksum, checksum != known)


def checksum_of(path: Path) -> str:
    """The BLAKE2b hash of 16 bytes, in hexadecimal, of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


class _Scratch:
    """Scratch files, of which the last one counts; all are gone at the end."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: list[tuple[Path, BinaryIO]] = []

    def __enter__(self) -> _Scratch:
        return self

    def __exit__(self, *_: object) -> None:
        for path, file in self._files:
            file.close()
            path.unlink(missing_ok=True)

    def open(self) -> BinaryIO:
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"shard-{os.getpid()}-{secrets.token_hex(6)}"
        file = path.open("x+b", buffering=_BUFFER)
        self._files.append((path, file))
        return file

    def closed(self) -> Path:
        path, file = self._files[-1]
        file.close()
        return path


class _Values:
    """Packed values of one shard as they come, in a file that is the shard already if they come in its order."""

    def __init__(self, sharding: Sharding, out: BinaryIO) -> None:
        self._sharding = sharding
        self._out = out
        self._keys, self._starts, self._sizes = array("Q"), array("Q"), array("Q")
        self._minishards = array("Q")
        self._ordered = True
        self._at = sharding.index_bytes
        out.seek(self._at)

    def add(self, shard: int, key: int, value: Buffer) -> None:
        found, minishard = self._sharding.place(key)
        if found != shard:
            raise ValueError(f"key {key} belongs to shard {found:x}, not to shard {shard:x}")
        if self._keys and (self._minishards[-1], self._keys[-1]) >= (minishard, key):
            self._ordered = False
        data: Any = value
        self._out.write(data)
        for column, number in (
            (self._keys, key), (self._starts, self._at), (self._sizes, len(data)), (self._minishards, minishard)
        ):  # fmt: skip
            column.append(number)
        self._at += len(data)

    def assembled(self, shard: int, scratch: _Scratch) -> int:
        """Make the last scratch file the shard; the number of values."""
        if not self._keys:
            return 0
        keys, minishards = np.array(self._keys, np.uint64), np.array(self._minishards, np.uint64)
        order = np.arange(len(keys)) if self._ordered else np.lexsort((keys, minishards))
        twice = np.flatnonzero(keys[order][1:] == keys[order][:-1])
        if len(twice):
            raise ValueError(f"key {keys[order[twice[0]]]} comes twice")
        if self._ordered:
            writer = ShardWriter(self._sharding, shard, self._out)
            for key, size, minishard in zip(self._keys, self._sizes, self._minishards, strict=True):
                writer.adopt(key, size, minishard)
            return writer.finish()
        self._out.flush()
        writer = ShardWriter(self._sharding, shard, scratch.open())
        for i in order.tolist():
            value = os.pread(self._out.fileno(), self._sizes[i], self._starts[i])
            writer.add(self._keys[i], value, is_packed=True, minishard=self._minishards[i])
        return writer.finish()


class ScatteredShards:
    """Values under keys that hashing scatters over all shards: collected on disk, then written shard by shard.

    Values are packed when they are added, so `encoding` is the `data_encoding` of the sharding, which may be chosen
    when their number is known: `files = ShardFiles(..., sharding_for_keys(len(values)), ...)`. Where they lie is noted
    on disk, too, and sorted there: memory holds the indexes of one shard, however many values there are.
    """

    def __init__(self, scratch_folder: Path, encoding: Encoding = "gzip") -> None:
        self._encoding = encoding
        scratch_folder.mkdir(parents=True, exist_ok=True)
        self._own = scratch_folder / f"spool-{os.getpid()}-{secrets.token_hex(6)}"
        self._spool: SpoolWriter | None = None
        self._own_number = 0
        self._files = _OpenFiles()
        self._count = 0
        self._notes = bytearray()
        """Of the last values: number of the file, key, place, bytes that lead, bytes of the value."""
        self._noted: BinaryIO | None = None
        """Those of the values before."""

    def __len__(self) -> int:
        return self._count

    def __enter__(self) -> ScatteredShards:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def add(self, key: int, value: Buffer, leading: Buffer = b"") -> None:
        """A value; `leading` will lie as it is right before the encoded value."""
        if self._spool is None:
            self._spool = SpoolWriter(self._own, self._encoding, durable=False)
            self._own_number = self._files.add(self._named(".part"))
        self._note(self._own_number, *self._spool.add(key, value, leading))

    def add_spool(self, path: Path) -> int:
        """The values that a `SpoolWriter` wrote, which stay in its file; their number. Raises VolumeError."""
        number, before = self._files.add(path), self._count
        for record in _records(self._files.get(number), path):
            self._note(number, *record)
        return self._count - before

    def _named(self, ending: str) -> Path:
        return self._own.with_name(self._own.name + ending)

    def _note(self, number: int, key: int, place: int, lead: int, size: int) -> None:
        self._notes += _NOTE.pack(number, key, place, lead, size)
        self._count += 1
        if len(self._notes) >= _NOTES_BYTES:
            if self._noted is None:
                self._noted = self._named(".notes").open("x+b", buffering=0)
            self._noted.write(self._notes)
            self._notes = bytearray()

    def _parts(self) -> Iterator[NDArray[np.uint64]]:
        """All notes u64[n, 5], in parts."""
        if self._spool is not None:
            self._spool.flush()
        if self._noted is not None:
            size, width = self._noted.tell(), _NOTE.size * (_NOTES_BYTES // _NOTE.size)
            for at in range(0, size, width):
                data = os.pread(self._noted.fileno(), min(width, size - at), at)
                yield np.frombuffer(data, np.uint64).reshape(-1, 5)
        if self._notes:
            yield np.frombuffer(bytes(self._notes), np.uint64).reshape(-1, 5)

    def keys(self) -> NDArray[np.uint64]:
        """The keys that were added, ascending: u64[n]."""
        return np.sort(np.concatenate([np.empty(0, np.uint64), *(part[:, 1] for part in self._parts())]))

    def finish(self, files: ShardFiles) -> list[WrittenShard]:
        """Write all shards in order. Raises ValueError if a key was added twice, VolumeError."""
        return list(self.write(files))

    def write(self, files: ShardFiles, done: frozenset[int] = frozenset()) -> Iterator[WrittenShard]:
        """As `finish`, one by one, but for the shards that are `done` already."""
        if files.sharding.data_encoding != self._encoding:
            raise ValueError(f"values are {self._encoding}, but those of the shards {files.sharding.data_encoding}")
        bits = files.sharding.minishard_bits
        mask = (1 << bits) - 1
        for shard, rows in groupby(self._ordered(files.sharding), lambda row: row[0] >> bits):
            if shard not in done:
                stored = ((row[1], row[0] & mask, *self._stored(row)) for row in rows)
                written = files.write_ordered(shard, stored)
                assert written is not None
                yield written

    def values(self) -> Iterator[tuple[int, bytes, bytes]]:
        """Key, packed value and what leads it, by key: for directories without shards."""
        for row in self._ordered(None):
            yield row[1], *self._stored(row)

    def _ordered(self, sharding: Sharding | None) -> Iterator[tuple[int, ...]]:
        """Rows (shard and minishard, key, number of the file, place, bytes that lead, bytes of the value) in order."""
        sorter = RowSorter(self._named(".rows"), _ROW)
        last: int | None = None
        try:
            for part in self._parts():
                rows = np.zeros(len(part), _ROW)
                for i, name in enumerate(_NOTED):
                    rows[name] = part[:, i]
                if sharding is not None:
                    shards, minishards = sharding.places(part[:, 1].copy())
                    rows["place"] = shards << np.uint64(sharding.minishard_bits) | minishards
                sorter.add(rows)
            sorter.close(durable=False)
            for block in sorted_rows(self._named(".rows"), _ROW):
                for at in range(0, len(block), _AT_ONCE):
                    for row in block[at : at + _AT_ONCE].tolist():
                        if row[1] == last:
                            raise ValueError(f"key {last} comes twice")
                        last = row[1]
                        yield row
        finally:
            sorter.abandon()
            self._named(".rows").unlink(missing_ok=True)

    def _stored(self, row: tuple[int, ...]) -> tuple[bytes, bytes]:
        """A packed value and what leads it."""
        _, _, number, at, lead, size = row
        data = os.pread(self._files.get(number).fileno(), lead + size, at)
        return data[lead:], data[:lead]

    def close(self) -> None:
        """Remove what was collected. Spools of others stay."""
        self._files.close()
        if self._noted is not None:
            self._noted.close()
            self._named(".notes").unlink(missing_ok=True)
            self._noted = None
        if self._spool is not None:
            self._spool.abandon()
            self._spool = None


class _OpenFiles:
    """Files that are read, of which a process may not have any number open."""

    def __init__(self) -> None:
        self._paths: list[Path] = []
        self._open: dict[int, BinaryIO] = {}

    def add(self, path: Path) -> int:
        """The number of a file from now on."""
        self._paths.append(path)
        return len(self._paths) - 1

    def get(self, number: int) -> BinaryIO:
        file = self._open.get(number)
        if file is None:
            if len(self._open) >= _MOST_OPEN:
                self._open.pop(next(iter(self._open))).close()
            file = self._open[number] = self._paths[number].open("rb", buffering=0)
        return file

    def close(self) -> None:
        for file in self._open.values():
            file.close()
        self._open = {}


class SpoolWriter:
    """A file of values under keys, whole or not there at all: what one task of a job leaves for `ScatteredShards`."""

    def __init__(self, path: Path, encoding: Encoding = "gzip", durable: bool = True) -> None:
        self._path = path
        self._part = path.with_name(path.name + ".part")
        self._encoding = encoding
        self._durable = durable
        self._file = self._part.open("wb", buffering=_BUFFER)
        self._file.write(_MAGIC)
        self._at = len(_MAGIC)

    def add(self, key: int, value: Buffer, leading: Buffer = b"") -> tuple[int, int, int, int]:
        """Key, where its bytes lie in the file, how many lead, how many the packed value has."""
        data = packed(value, self._encoding)
        before: Any = leading
        lead = len(before)
        self._file.write(_RECORD.pack(key, lead, len(data)))
        if lead:
            self._file.write(before)
        self._file.write(data)
        place = self._at + _RECORD.size
        self._at = place + lead + len(data)
        return key, place, lead, len(data)

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        """All values are there: the file gets its name."""
        self._file.flush()
        if self._durable:
            os.fsync(self._file.fileno())
        self._file.close()
        self._part.replace(self._path)

    def abandon(self) -> None:
        """No file is left."""
        self._file.close()
        with suppress(FileNotFoundError):
            self._part.unlink()


def _records(file: BinaryIO, path: Path) -> Iterator[tuple[int, int, int, int]]:
    """Key, place, bytes that lead and bytes of the value, of each value in a spool."""
    total = path.stat().st_size
    if file.read(len(_MAGIC)) != _MAGIC:
        raise VolumeError(f"{path} is no spool of values")
    at = len(_MAGIC)
    while at < total:
        head = os.pread(file.fileno(), _RECORD.size, at)
        if len(head) < _RECORD.size:
            raise VolumeError(f"{path} ends within a value")
        key, lead, size = _RECORD.unpack(head)
        at += _RECORD.size
        if at + lead + size > total:
            raise VolumeError(f"{path} ends within the value of key {key}")
        yield key, at, lead, size
        at += lead + size
