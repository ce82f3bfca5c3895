"""Large values in append-only segment files, read with positioned reads so that a cold page never stalls an event loop.

A segment is a file of records; a record is a header (magic `FVL1`, length u32, CRC-32 of the value u32, CRC-32 of these
twelve bytes u32; little-endian) and the value. Nothing in a segment says where it ends: the tail (segment, offset) is
kept in the index, and is moved by the transaction that refers to what was appended. So bytes behind the tail, left by a
process that died or by a disk that was full, are nobody's, and the next writer overwrites them. Before the tail nothing
is ever written again. All appending happens under the index's write lock.

This module knows files and handles; it knows nothing of keys or transactions.
"""

from __future__ import annotations

import contextlib
import errno
import os
import struct
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NoReturn

import numpy as np
from isal.isal_zlib import crc32

from fascicle.errors import CorruptionError, StoreError, StoreFull
from fascicle.store.base import INLINE, ValueBatch

PLACED = 1
"""First byte of a handle that names a place in the log."""
HANDLE = struct.Struct("<BIQII")
HANDLE_FIELDS = np.dtype([("kind", "u1"), ("segment", "<u4"), ("offset", "<u8"), ("length", "<u4"), ("crc", "<u4")])
HEADER = struct.Struct("<4sII")
HEADER_CRC = struct.Struct("<I")
HEADER_BYTES = HEADER.size + HEADER_CRC.size
MAGIC = b"FVL1"

SEGMENT_BYTES = 512 << 20
"""A segment that is longer takes no further values."""
GAP_BYTES = 64 << 10
"""Values that lie no further apart are read together: on a disk with 0.1 ms latency a gap costs less than a read."""
EXTENT_BYTES = 256 << 10
"""About the longest single read: what was read is verified while it is still in the core's cache."""
OPEN_SEGMENTS = 256
PIECES = 1000
"""Buffers per gathering write; POSIX systems take at least 1024 or so."""

FULL_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG} if hasattr(errno, "EDQUOT") else {errno.ENOSPC, 27})


@dataclass(frozen=True, slots=True)
class Tail:
    """Where the next record goes: all bytes of the segment before `offset` belong to the log for ever."""

    segment: int
    offset: int


@dataclass(frozen=True, slots=True)
class Place:
    """A value in the log: `offset` is where its bytes begin, behind the header."""

    segment: int
    offset: int
    length: int
    crc: int

    @classmethod
    def parse(cls, handle: bytes) -> Place:
        if len(handle) != HANDLE.size or handle[0] != PLACED:
            raise CorruptionError(f"{handle[:32].hex()} is no handle of this store")
        return cls(*HANDLE.unpack(handle)[1:])


class Segment:
    """An open segment file; the descriptor lives as long as somebody reads from it."""

    __slots__ = ("__weakref__", "_lock", "fd", "number")

    def __init__(self, path: Path, number: int, flags: int) -> None:
        self.number = number
        self.fd = -1
        self._lock = threading.Lock()  # only for systems without positioned reads and writes
        self.fd = os.open(path, flags | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0), 0o644)

    def __del__(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)

    def read(self, length: int, offset: int) -> bytes:
        """Bytes at a place; fewer at the end of the file."""
        if hasattr(os, "pread"):
            data = os.pread(self.fd, length, offset)
            if len(data) == length or not data:
                return data
        parts = bytearray(length)
        return bytes(parts[: self.read_into(memoryview(parts), offset)])

    def read_into(self, target: memoryview, offset: int) -> int:
        """Fill `target` from a place; how many bytes there were."""
        done = 0
        while done < len(target):
            if hasattr(os, "preadv"):
                count = os.preadv(self.fd, [target[done:]], offset + done)
            else:
                with self._lock:
                    os.lseek(self.fd, offset + done, os.SEEK_SET)
                    data = os.read(self.fd, min(len(target) - done, 1 << 30))
                count = len(data)
                target[done : done + count] = data
            if count == 0:
                break
            done += count
        return done

    def write(self, pieces: list[bytes], offset: int) -> None:
        """Write pieces one after the other at a place."""
        for first in range(0, len(pieces), PIECES):
            chunk = pieces[first : first + PIECES]
            size = sum(map(len, chunk))
            written = write_at(self, chunk, offset)
            if written < size:  # a signal, a limit, or more than one call may write
                rest = memoryview(b"".join(chunk))
                while written < size:
                    written += write_at(self, [bytes(rest[written:])], offset + written)
            offset += size

    def sync(self) -> None:
        getattr(os, "fdatasync", os.fsync)(self.fd)


def write_at(segment: Segment, pieces: list[bytes], offset: int) -> int:
    """One write call; how many bytes it wrote."""
    if hasattr(os, "pwritev"):
        return os.pwritev(segment.fd, pieces, offset)
    with segment._lock:
        os.lseek(segment.fd, offset, os.SEEK_SET)
        return os.write(segment.fd, b"".join(pieces))


def sync_folder(path: Path) -> None:
    """Make the names in a folder durable, where the system can do that."""
    with contextlib.suppress(OSError):
        fd = os.open(path, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


class ValueLog:
    """The segments in one folder."""

    def __init__(self, folder: Path, segment_bytes: int = SEGMENT_BYTES) -> None:
        self.folder = folder
        self.segment_bytes = segment_bytes
        self._segments: dict[int, Segment] = {}
        self._writing: Segment | None = None
        self._lock = threading.Lock()

    def segment_path(self, number: int) -> Path:
        return self.folder / f"{number:08d}.log"

    def load(self, handle: bytes) -> bytes:
        """The value at a place. Raises CorruptionError."""
        if len(handle) != HANDLE.size or handle[0] != PLACED:
            raise CorruptionError(f"{handle[:32].hex()} is no handle of this store")
        _, number, offset, length, crc = HANDLE.unpack(handle)
        segment = self._segments.get(number) or self._open(number)
        value = segment.read(length, offset)
        if crc32(value) != crc or len(value) != length:
            damaged(number, offset, length, len(value))
        return value

    def load_part(self, handle: bytes, start: int, stop: int) -> bytes:
        """Bytes [start, stop) of a value, unverified."""
        place = Place.parse(handle)
        start, stop, _ = slice(start, stop).indices(place.length)
        segment = self._segments.get(place.segment) or self._open(place.segment)
        value = segment.read(max(stop - start, 0), place.offset + start)
        if len(value) != max(stop - start, 0):
            damaged(place.segment, place.offset, place.length, len(value))
        return value

    def load_many(self, handles: Sequence[bytes]) -> ValueBatch:
        """Values of handles of both kinds; an empty handle stands for a missing value."""
        joined = b"".join(handles)
        count = len(handles)
        if len(joined) == count * HANDLE.size:
            fields = np.frombuffer(joined, dtype=HANDLE_FIELDS)
            if (fields["kind"] == PLACED).all() and all(len(handle) == HANDLE.size for handle in handles):
                return self._load_places(fields, b"")
        placed = [i for i, handle in enumerate(handles) if handle and handle[0] != INLINE]
        lengths = np.array([len(handle) - 1 for handle in handles], dtype=np.int64)
        for i in placed:
            Place.parse(handles[i])
        fields = np.frombuffer(b"".join([handles[i] for i in placed]), dtype=HANDLE_FIELDS)
        inline = b"".join([handle[1:] for handle in handles if handle and handle[0] == INLINE])
        batch = self._load_places(fields, inline)
        within = np.maximum(lengths, 0)
        within[placed] = 0
        offsets = len(batch.buffer) - len(inline) + np.cumsum(within) - within
        offsets[placed] = batch.offsets
        lengths[placed] = batch.lengths
        return ValueBatch(batch.buffer, offsets, lengths)

    def _load_places(self, fields: np.ndarray[tuple[int], np.dtype[np.void]], extra: bytes) -> ValueBatch:
        """Values at places (structured array of HANDLE_FIELDS); `extra` is put at the end of the buffer."""
        if not len(fields):
            return ValueBatch(np.frombuffer(extra, dtype=np.uint8), *np.zeros((2, 0), dtype=np.int64))
        order = np.lexsort((fields["offset"], fields["segment"]))
        fields = fields[order]
        numbers = fields["segment"].astype(np.int64)
        starts = fields["offset"].astype(np.int64)
        lengths = fields["length"].astype(np.int64)
        ends = starts + lengths
        breaks = np.ones(len(order), dtype=bool)
        breaks[1:] = (
            (numbers[1:] != numbers[:-1])
            | (starts[1:] - ends[:-1] > GAP_BYTES)
            | (starts[1:] // EXTENT_BYTES != starts[:-1] // EXTENT_BYTES)
        )
        first = np.flatnonzero(breaks)
        after = np.append(first[1:], len(order)).astype(np.intp)
        sizes = ends[after - 1] - starts[first]
        bases = np.cumsum(sizes) - sizes
        at = (bases - starts[first])[np.cumsum(breaks) - 1] + starts
        total = int(sizes.sum())
        buffer = np.empty(total + len(extra), dtype=np.uint8)
        view = buffer.data
        if extra:
            view[total:] = extra
        extents = list(zip(numbers[first].tolist(), starts[first].tolist(), sizes.tolist(), strict=True))
        if len(extents) > 1:
            self._prefetch(extents)
        values = zip(at.tolist(), lengths.tolist(), fields["crc"].tolist(), starts.tolist(), strict=True)
        base = 0
        for (number, start, size), count in zip(extents, (after - first).tolist(), strict=True):
            segment = self._segments.get(number) or self._open(number)
            found = segment.read_into(view[base : base + size], start)
            if found != size:
                damaged(number, start, size, found)
            for offset, length, crc, place in islice(values, count):  # while they are still in the core's cache
                if crc32(view[offset : offset + length]) != crc:
                    damaged(number, place, length, length)
            base += size
        offsets = np.empty(len(order), dtype=np.int64)
        offsets[order] = at
        lengths_given = np.empty(len(order), dtype=np.int64)
        lengths_given[order] = lengths
        return ValueBatch(buffer, offsets, lengths_given)

    def prefetch(self, handles: Sequence[bytes]) -> None:
        """Have the system fetch the values that lie in the log; for loading them one by one afterwards."""
        places = [HANDLE.unpack(handle) for handle in handles if len(handle) == HANDLE.size and handle[0] == PLACED]
        if len(places) > 1:
            with contextlib.suppress(CorruptionError):  # loading will say what is missing
                self._prefetch([(segment, offset, length) for _, segment, offset, length, _ in places])

    def _prefetch(self, extents: list[tuple[int, int, int]]) -> None:
        """Have the system fetch all of them at once; read one after the other, each would wait for the disk."""
        if hasattr(os, "posix_fadvise"):
            for number, start, size in extents:
                segment = self._segments.get(number) or self._open(number)
                os.posix_fadvise(segment.fd, start, size, os.POSIX_FADV_WILLNEED)

    def walk(self, number: int, end: int) -> Iterator[Place]:
        """The records of a segment up to `end`, by their headers alone. Raises CorruptionError where there is none."""
        segment = self._open(number)
        offset = 0
        while offset < end:
            header = segment.read(HEADER_BYTES, offset)
            if len(header) != HEADER_BYTES or HEADER_CRC.unpack_from(header, HEADER.size)[0] != crc32(header[:12]):
                raise CorruptionError(f"segment {number} of the value log has no record header at offset {offset}")
            magic, length, crc = HEADER.unpack_from(header)
            if magic != MAGIC or offset + HEADER_BYTES + length > end:
                raise CorruptionError(f"segment {number} of the value log has a wrong record header at offset {offset}")
            yield Place(number, offset + HEADER_BYTES, length, crc)
            offset += HEADER_BYTES + length

    def close(self) -> None:
        with self._lock:
            self._segments.clear()
            self._writing = None

    def forget_removed(self) -> None:
        """Let go of segments that were removed, so that their space is free."""
        with self._lock:
            for number in [number for number in self._segments if not self.segment_path(number).exists()]:
                del self._segments[number]

    def _open(self, number: int) -> Segment:
        with self._lock:
            segment = self._segments.get(number)
            if segment is None:  # nobody else opened it meanwhile
                try:
                    segment = Segment(self.segment_path(number), number, os.O_RDONLY)
                except FileNotFoundError as error:
                    raise CorruptionError(
                        f"segment {number} of the value log is missing: {self.segment_path(number)}"
                    ) from error
                while len(self._segments) >= OPEN_SEGMENTS:
                    del self._segments[next(iter(self._segments))]
                self._segments[number] = segment
            return segment

    def _open_writing(self, number: int) -> Segment:
        """The segment to append to; only under the index's write lock."""
        if self._writing is None or self._writing.number != number:
            path = self.segment_path(number)
            fresh = not path.exists()
            self._writing = Segment(path, number, os.O_RDWR | os.O_CREAT)
            if fresh:
                sync_folder(self.folder)
        return self._writing


class Append:
    """Values that one transaction appends: placed at once, written and made durable together by `flush`.

    Whoever appends much writes some of it before, so that it need not stay in memory.

    `tail` moves along; `sealed` lists the segments (number, length) that were filled up on the way.
    """

    def __init__(self, log: ValueLog, tail: Tail) -> None:
        self._log = log
        self._segment, self._offset = tail.segment, tail.offset
        self._from = tail.offset
        self._pieces: list[bytes] = []
        self._runs: list[tuple[int, int, list[bytes]]] = []
        self._written: dict[int, None] = {}
        self.waiting_bytes = 0
        self.sealed: list[tuple[int, int]] = []

    @property
    def tail(self) -> Tail:
        return Tail(self._segment, self._offset)

    def place(self, value: bytes) -> bytes:
        """The handle that a value will have."""
        length = len(value)
        if self._offset and self._offset + HEADER_BYTES + length > self._log.segment_bytes:
            self._end_run()
            self.sealed.append((self._segment, self._offset))
            self._segment, self._offset, self._from = self._segment + 1, 0, 0
        crc = crc32(value)
        header = HEADER.pack(MAGIC, length, crc)
        self._pieces += (header + HEADER_CRC.pack(crc32(header)), value)
        self.waiting_bytes += length
        start = self._offset + HEADER_BYTES
        self._offset = start + length
        return HANDLE.pack(PLACED, self._segment, start, length, crc)

    def write(self) -> None:
        """Give the system what was placed until now: it can be read, but is not durable. Raises as `flush`."""
        self._end_run()
        try:
            for number, offset, pieces in self._runs:
                self._log._open_writing(number).write(pieces, offset)
                self._written[number] = None
        except OSError as error:
            raise self._failure(error) from error
        self._runs.clear()
        self.waiting_bytes = 0

    def flush(self) -> None:
        """Write and sync. Raises StoreFull or StoreError; what was written then is behind the durable tail."""
        self.write()
        lengths = dict(self.sealed)
        try:
            for number in self._written:
                segment = self._log._open_writing(number)
                if number in lengths:
                    os.ftruncate(segment.fd, lengths[number])  # a torn tail may reach further
                segment.sync()
        except OSError as error:
            raise self._failure(error) from error

    def _failure(self, error: OSError) -> StoreError:
        self._log._writing = None
        if error.errno in FULL_ERRNOS:
            return StoreFull(f"no space for values in {self._log.folder}: {error.strerror}")
        return StoreError(f"values could not be written to {self._log.folder}: {error}")

    def _end_run(self) -> None:
        if self._pieces:
            self._runs.append((self._segment, self._from, self._pieces))
            self._pieces = []
            self._from = self._offset


def damaged(number: int, offset: int, length: int, found: int) -> NoReturn:
    what = "ends early" if found != length else "does not match its checksum"
    raise CorruptionError(f"segment {number} of the value log is damaged: the value at offset {offset} {what}")
