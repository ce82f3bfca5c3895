"""Bodies of voxels and encoded blocks on their way into the store, in bounded memory.

What arrives is kept until it is complete and found right, because nothing may change if it is not, and because the
store has one writer that must not wait for a slow client. Small bodies stay in memory, large ones go through unnamed
files.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

MEMORY_BYTES = 64 << 20
"""Up to so much stays in memory, of a body and of encoded blocks."""


class BodySpool:
    """The bytes of a body, whose expected size is known; anything beyond it is counted but not kept."""

    def __init__(self, expected_bytes: int, folder: Path | None) -> None:
        self.expected_bytes = expected_bytes
        self.received_bytes = 0
        self._file: IO[bytes] | None = None
        self._memory = np.empty(0, np.uint8)
        if expected_bytes > MEMORY_BYTES:
            self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - lives as long as the spool
        else:
            self._memory = np.empty(expected_bytes, np.uint8)

    def fill(self, pieces: Iterable[bytes]) -> None:
        for piece in pieces:
            start = self.received_bytes
            self.received_bytes += len(piece)
            kept = memoryview(piece)[: max(0, self.expected_bytes - start)]
            if self._file is not None:
                self._file.write(kept)
            elif kept:
                self._memory[start : start + len(kept)] = np.frombuffer(kept, np.uint8)

    @property
    def is_complete(self) -> bool:
        return self.received_bytes == self.expected_bytes

    def data(self) -> NDArray[np.uint8]:
        """The bytes of a complete body; those of a large one are mapped from its file."""
        if self._file is None:
            return self._memory
        self._file.flush()
        return np.memmap(self._file, np.uint8, "r", shape=(self.expected_bytes,))


class BlockSpool:
    """Keys and encoded blocks that wait for their transaction."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._memory: list[tuple[bytes, bytes]] = []
        self._memory_bytes = 0
        self._file: IO[bytes] | None = None
        self._filed: list[tuple[bytes, int]] = []

    def __len__(self) -> int:
        return len(self._memory) + len(self._filed)

    def add(self, key: bytes, value: bytes) -> None:
        if self._memory_bytes + len(value) <= MEMORY_BYTES:
            self._memory.append((key, value))
            self._memory_bytes += len(value)
            return
        if self._file is None:
            self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115 - lives as long as the spool
        self._file.write(value)
        self._filed.append((key, len(value)))

    def __iter__(self) -> Iterator[tuple[bytes, bytes]]:
        yield from self._memory
        if self._file is not None:
            self._file.seek(0)
            for key, size in self._filed:
                yield key, self._file.read(size)
