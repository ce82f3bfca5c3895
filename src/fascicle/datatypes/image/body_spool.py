"""A body of voxels on its way into blocks, in bounded memory.

What arrives is kept until it is complete and found right, because nothing may change if it is not, and because the
store has one writer that must not wait for a slow client. Small bodies stay in memory, large ones go through unnamed
files. The blocks that are made of them wait in a `store.spool.Spool`.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from fascicle.kernels.arrays import Buffer, frozen_bytes
from fascicle.store.spool import fits_in_memory, spool_failure, unnamed_file, write_whole


class BodySpool:
    """The bytes of a body, whose expected size is known; anything beyond it is counted but not kept.

    StoreFull or StoreError where the file cannot be written.
    """

    def __init__(self, expected_bytes: int, folder: Path | None) -> None:
        self.expected_bytes = expected_bytes
        self.received_bytes = 0
        self._folder = folder
        self._file: IO[bytes] | None = None
        self._memory = np.empty(expected_bytes if fits_in_memory(expected_bytes) else 0, np.uint8)

    def fill(self, pieces: Iterable[Buffer]) -> None:
        for piece in pieces:
            start = self.received_bytes
            self.received_bytes += len(piece)
            kept = frozen_bytes(piece).data[: max(0, self.expected_bytes - start)]
            if not fits_in_memory(self.expected_bytes):
                self._write(kept)
            elif kept:
                self._memory[start : start + len(kept)] = np.frombuffer(kept, np.uint8)

    def _write(self, piece: memoryview) -> None:
        try:
            self._file = self._file or unnamed_file(self._folder)
            write_whole(self._file, piece)
        except OSError as error:
            raise spool_failure(error, self._folder) from error

    @property
    def is_complete(self) -> bool:
        return self.received_bytes == self.expected_bytes

    def data(self) -> NDArray[np.uint8]:
        """The bytes of a complete body; those of a large one are mapped from its file."""
        if self._file is None:
            return self._memory
        return np.memmap(self._file, np.uint8, "r", shape=(self.expected_bytes,))
