"""Values that wait for their transaction: few in memory, many in an unnamed file.

A request whose parts become values while they arrive writes nothing until the last part was found right. A spool keeps
what is ready in the meantime, however much it is. Its file has no name, so it goes with its last user, also when the
process is killed.

This module knows bytes and places; it knows nothing of keys or transactions.
"""

from __future__ import annotations

import errno
import itertools
import os
import struct
import tempfile
import threading
from array import array
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

import numpy as np
from isal.isal_zlib import crc32
from numpy.typing import NDArray

from fascicle.errors import CorruptionError, StoreError, StoreFull
from fascicle.store.base import LateValue

MEMORY_BYTES = 64 << 20
"""So many bytes stay in memory, of the values of one spool and of a body."""
LEAST_BYTES = 192
"""A shorter value stays in memory whatever else does: to know its place would take as much."""
PIECE_BYTES = 1 << 20
"""Values are written together until they are so many bytes."""
FULL_ERRNOS = frozenset({errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)})

SPOOLED = 0xFD
"""First byte of the name of a value in a spool."""
_NAME = struct.Struct("<BQQ")
_numbers = itertools.count(1)


class Spool:
    """Keeps values; beyond `memory_bytes` in a file, which is made when it is needed.

    One thread keeps values; any thread may read them, also at the same time.
    """

    def __init__(self, folder: Path | None, memory_bytes: int | None = None) -> None:
        """`folder` is where the file would lie; None: where the system has its temporary files."""
        self.number = next(_numbers)
        self._folder = folder
        self._memory_left = MEMORY_BYTES if memory_bytes is None else memory_bytes
        self._file: IO[bytes] | None = None
        self._starts = array("Q")
        self._lengths = array("I")
        self._checksums = array("I")
        self._end = 0
        self._written = 0
        self._pending = bytearray()
        self._lock = threading.Lock()

    @property
    def file_bytes(self) -> int:
        """Bytes of the values that are not kept in memory."""
        return self._end

    def keep(self, value: bytes) -> bytes | LateValue:
        """The value itself as long as there is memory for it, then what reads it. Raises StoreFull or StoreError."""
        size = len(value)
        if size <= self._memory_left:
            self._memory_left -= size
            return value
        if size <= LEAST_BYTES:
            return value
        with self._lock:
            self._starts.append(self._end)
            self._lengths.append(size)
            self._checksums.append(crc32(value))
            self._pending += value
            self._end += size
            if len(self._pending) >= PIECE_BYTES:
                self._write()
        return SpooledValue(self, len(self._starts) - 1)

    def size(self, number: int) -> int:
        return self._lengths[number]

    def read(self, number: int) -> bytes:
        """The value with this number. Raises CorruptionError if it is not what was kept."""
        start, length = self._starts[number], self._lengths[number]
        if start + length > self._written:
            with self._lock:
                self._write()
        assert self._file is not None
        try:
            value = self._read_at(self._file, start, length)
        except OSError as error:
            raise StoreError(f"a temporary file in {_place(self._folder)} cannot be read: {error}") from error
        if len(value) != length or crc32(value) != self._checksums[number]:
            place = _place(self._folder)
            raise CorruptionError(f"a temporary file in {place} is damaged: its value at offset {start} is another one")
        return value

    def _write(self) -> None:
        """Write what is pending; under the lock."""
        try:
            if self._file is None:
                self._file = unnamed_file(self._folder)
            self._file.seek(self._written)
            write_whole(self._file, self._pending)
        except OSError as error:
            raise spool_failure(error, self._folder) from error
        self._written += len(self._pending)
        self._pending = bytearray()

    def _read_at(self, file: IO[bytes], start: int, length: int) -> bytes:
        if hasattr(os, "pread"):
            value = os.pread(file.fileno(), length, start)
            if len(value) == length or not value:
                return value
        with self._lock:  # where there are no positioned reads, and for values longer than one call reads
            file.seek(start)
            parts = [value := file.read(length)]
            while value and sum(map(len, parts)) < length:
                parts.append(value := file.read(length - sum(map(len, parts))))
            return b"".join(parts)


class SpooledValue(LateValue):
    """A value in the file of a spool, with some bytes in front."""

    __slots__ = ("_head", "_number", "_spool")

    def __init__(self, spool: Spool, number: int, head: bytes = b"") -> None:
        self._spool = spool
        self._number = number
        self._head = head

    def __len__(self) -> int:
        return len(self._head) + self._spool.size(self._number)

    def read(self) -> bytes:
        value = self._spool.read(self._number)
        return self._head + value if self._head else value

    def behind(self, head: bytes) -> SpooledValue:
        return SpooledValue(self._spool, self._number, head + self._head)

    @property
    def name(self) -> bytes:
        return _NAME.pack(SPOOLED, self._spool.number, self._number) + self._head


def unnamed_file(folder: Path | None) -> IO[bytes]:
    """A temporary file that nobody else can open, without a buffer of its own. Raises OSError."""
    return tempfile.TemporaryFile(dir=folder, buffering=0)


def _place(folder: Path | None) -> str:
    return str(folder or tempfile.gettempdir())


def spool_failure(error: OSError, folder: Path | None) -> StoreError:
    """What to raise where an unnamed file could not be made or written."""
    place = _place(folder)
    if error.errno in FULL_ERRNOS:
        return StoreFull(f"no space for a temporary file in {place}: {error.strerror}")
    return StoreError(f"a temporary file in {place} could not be written: {error}")


def fits_in_memory(size_bytes: int) -> bool:
    """Whether so much may stay in memory on its way into the store."""
    return size_bytes <= MEMORY_BYTES


def gathered(pieces: Iterable[bytes], folder: Path | None) -> NDArray[np.uint8]:
    """Bytes that arrive in pieces as one array u8; many are mapped from an unnamed file.

    Raises StoreFull or StoreError.
    """
    parts: list[bytes] = []
    size = 0
    file: IO[bytes] | None = None
    try:
        for piece in pieces:
            parts.append(piece)
            size += len(piece)
            if not fits_in_memory(size) and (file is None or len(parts) >= 16):
                file = file or unnamed_file(folder)
                write_whole(file, b"".join(parts))
                parts = []
        if file is None:
            return np.frombuffer(b"".join(parts), np.uint8)
        write_whole(file, b"".join(parts))
    except OSError as error:
        raise spool_failure(error, folder) from error
    return np.memmap(file, np.uint8, "r", shape=(size,))


def mapped_array(size: int, folder: Path | None) -> NDArray[np.uint8]:
    """An array u8[size] of zeros that lies in an unnamed file. Raises StoreFull or StoreError."""
    try:
        with unnamed_file(folder) as file:
            # Pages that find no space on the disk when they are touched would end the process.
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
            else:
                file.truncate(size)
            return np.memmap(file, np.uint8, "r+", shape=(size,))
    except OSError as error:
        raise spool_failure(error, folder) from error


def write_whole(file: IO[bytes], data: Any) -> None:
    """Write all bytes at the file's position; a single call may write fewer."""
    left = memoryview(data).cast("B")
    while left:
        left = left[file.write(left) :]
