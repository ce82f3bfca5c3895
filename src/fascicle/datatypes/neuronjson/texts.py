"""Numbers for texts: each of a process's tables of annotations stores a value as the number of its JSON text."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fascicle.kernels import json_members
from fascicle.kernels.arrays import frozen, frozen_bytes

I64 = NDArray[np.int64]


class Texts:
    """A set of texts numbered from 1; it only grows.

    Arrays are replaced when they become too small, so what a reader has taken hold of keeps its texts. Whoever adds or
    looks up holds the lock.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.count = 0
        self.blob = np.empty(1 << 12, np.uint8)
        self.starts = np.zeros(1 << 8, np.int64)
        self.kinds = np.zeros(1 << 8, np.uint8)
        self.table = np.zeros(1 << 9, np.int32)
        self.verdicts: dict[str, NDArray[np.uint8]] = {}
        """By pattern: for each text 0 (not looked at yet), 1 (not found) or 2 (found)."""

    @classmethod
    def of(cls, texts: Iterable[bytes]) -> Texts:
        found = cls()
        for text in texts:
            found.add(text)
        return found

    @property
    def size_bytes(self) -> int:
        verdicts = sum(verdict.nbytes for verdict in list(self.verdicts.values()))
        return self.blob.nbytes + self.starts.nbytes + self.kinds.nbytes + self.table.nbytes + verdicts

    def reserve(self, size_bytes: int, texts: int) -> None:
        """Make room for so many more bytes and texts."""
        used = int(self.starts[self.count + 1]) if self.count else 0
        if used + size_bytes > len(self.blob):
            self.blob = _grown(self.blob, used + size_bytes)
        if self.count + texts + 2 > len(self.starts):
            self.starts = _grown(self.starts, self.count + texts + 2)
            self.kinds = _grown(self.kinds, len(self.starts))
        if 2 * (self.count + texts) > len(self.table):
            table = np.zeros(1 << (2 * (self.count + texts)).bit_length(), np.int32)
            json_members.rehash(self.blob, self.starts, self.count, table)
            self.table = table

    def add(self, text: bytes) -> int:
        """The number of a text."""
        self.reserve(len(text), 1)
        data = frozen_bytes(text)
        number: int = json_members.add_text(
            self.blob, self.starts, self.kinds, self.table, self.count, data, 0, len(data)
        )
        self.count = max(self.count, number)
        return number

    def find(self, texts: Iterable[bytes]) -> I64:
        """The numbers of texts, 0 for those that are not in the set."""
        given = list(texts)
        ends = np.cumsum(np.array([len(text) for text in given], np.int64))
        out = np.zeros(len(given), np.int64)
        data = frozen_bytes(b"".join(given))
        json_members.find_texts(self.blob, self.starts, self.table, data, frozen(ends), out)
        return out

    def text(self, number: int) -> bytes:
        return self.blob[self.starts[number] : self.starts[number + 1]].tobytes()


def _grown(array: NDArray[Any], least: int) -> NDArray[Any]:
    grown = np.zeros(max(least, len(array) * 3 // 2), array.dtype)
    grown[: len(array)] = array
    return grown
