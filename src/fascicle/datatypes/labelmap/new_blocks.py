"""What a write of label blocks keeps until its commit, of which only a part lies in memory (`store.spool`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
from numpy.typing import NDArray

from fascicle.formats import label_block, sub_blocks
from fascicle.formats.label_block import LabelBlock
from fascicle.store.base import LateValue
from fascicle.store.spool import Spool

U64 = NDArray[np.uint64]
U32 = NDArray[np.uint32]

OPEN_BYTES = 64 << 20
"""Blocks of a write that are kept inflated for the scales above; the others are inflated again."""

ROWS_AT_ONCE = 1 << 17
"""Rows of the index that are changed together. Bodies that reach farther are changed several times."""


@dataclass(frozen=True, slots=True)
class Edited:
    """Which sub-blocks i64[k] of a stored block may be others than they were, and the mark of the block as it was."""

    places: sub_blocks.Chosen
    mark: int


class NewBlocks:
    """Blocks of one scale on their way into the store, by code; the last one given for a code counts."""

    def __init__(self, spool: Spool | None = None) -> None:
        self.spool = spool or Spool(None)
        self.kept: dict[int, bytes | LateValue] = {}
        self.greatest = 0
        """The greatest label of all that were added taken apart."""
        self.edited: dict[int, Edited] = {}
        """Of the blocks that are stored ones with some changes."""
        self._open: dict[int, LabelBlock] = {}
        self._open_bytes = 0

    def __len__(self) -> int:
        return len(self.kept)

    def add(self, code: int, stored: bytes, opened: LabelBlock | None = None) -> None:
        self.kept[code] = self.spool.keep(stored)
        if opened is not None:
            self.greatest = max(self.greatest, int(opened.table.max()))
        before = self._open.pop(code, None)
        if before is not None:
            self._open_bytes -= before.size_bytes
        if opened is not None and self._open_bytes + opened.size_bytes <= OPEN_BYTES:
            self._open[code] = opened
            self._open_bytes += opened.size_bytes

    def opened(self, code: int, stored: bytes) -> LabelBlock:
        """A block, whose stored form is at hand, taken apart."""
        found = self._open.get(code)
        return label_block.opened_stored(stored, check=False) if found is None else found

    def close(self) -> None:
        """Keep nothing inflated any more."""
        self._open.clear()
        self._open_bytes = 0

    def stored(self, code: int) -> bytes:
        """Raises CorruptionError or StoreError if it cannot be read from the spool."""
        kept = self.kept[code]
        return kept if isinstance(kept, bytes) else kept.read()

    def codes(self) -> U64:
        """Ascending."""
        return np.sort(np.fromiter(self.kept, np.uint64, len(self.kept)))


class StoredInOrder(Sequence[bytes]):
    """The stored form of new blocks by their places among `codes`, read when it is asked for."""

    def __init__(self, new: NewBlocks, codes: U64) -> None:
        self._new = new
        self._codes = codes

    def __len__(self) -> int:
        return len(self._codes)

    @overload
    def __getitem__(self, place: int) -> bytes: ...
    @overload
    def __getitem__(self, place: slice) -> StoredInOrder: ...
    def __getitem__(self, place: int | slice) -> bytes | StoredInOrder:
        if isinstance(place, slice):
            return StoredInOrder(self._new, self._codes[place])
        return self._new.stored(int(self._codes[place]))


class KeptHandles(Sequence["bytes | None"]):
    """Handles of which some wait in a spool, because they contain their values."""

    def __init__(self, kept: Sequence[bytes | LateValue | None]) -> None:
        self._kept = kept

    def __len__(self) -> int:
        return len(self._kept)

    @overload
    def __getitem__(self, place: int) -> bytes | None: ...
    @overload
    def __getitem__(self, place: slice) -> KeptHandles: ...
    def __getitem__(self, place: int | slice) -> bytes | KeptHandles | None:
        if isinstance(place, slice):
            return KeptHandles(self._kept[place])
        kept = self._kept[place]
        return kept.read() if isinstance(kept, LateValue) else kept


@dataclass(slots=True)
class Rows:
    """How many voxels supervoxels u64[n] have in blocks u64[n], before and after (u32[n]); only what differs."""

    sv: U64
    block: U64
    before: U32
    after: U32

    def __len__(self) -> int:
        return len(self.sv)

    def tobytes(self) -> bytes:
        return b"".join(column.tobytes() for column in (self.sv, self.block, self.before, self.after))

    @classmethod
    def frombuffer(cls, data: bytes) -> Rows:
        n = len(data) // 24
        wide, narrow = np.frombuffer(data, np.uint64, 2 * n), np.frombuffer(data, np.uint32, 2 * n, 16 * n)
        return cls(wide[:n], wide[n:], narrow[:n], narrow[n:])


class ChangedRows:
    """What a write changes in the index, block after block; much of it waits in a spool."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._parts: list[bytes | LateValue] = []

    def add(self, rows: Rows) -> None:
        self._parts.append(self._spool.keep(rows.tobytes()))

    def __iter__(self) -> Iterator[Rows]:
        """In pieces of about `ROWS_AT_ONCE`, none of them empty; no block is in two of them."""
        waiting: list[bytes] = []
        size = 0
        for part in self._parts:
            waiting.append(part if isinstance(part, bytes) else part.read())
            size += len(waiting[-1]) // 24
            if size >= ROWS_AT_ONCE:
                yield _joined(waiting)
                waiting, size = [], 0
        if size:
            yield _joined(waiting)


def _joined(parts: Sequence[bytes]) -> Rows:
    rows = [Rows.frombuffer(part) for part in parts]
    return Rows(
        np.concatenate([part.sv for part in rows]),
        np.concatenate([part.block for part in rows]),
        np.concatenate([part.before for part in rows]),
        np.concatenate([part.after for part in rows]),
    )
