"""All annotations of an instance at a version in memory, by member: what queries and lists of everything are made from.

A body has a place (the same in all versions of an instance that a process knows), a value is the number of its text. A
column has the numbers of one member's values by place, in parts of `PART` places. Tables are immutable: one of a child
version, or of the same version after an edit, shares all parts but those that differ.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fascicle.datatypes.neuronjson.documents import BODY_ID, Selection, name_text
from fascicle.datatypes.neuronjson.texts import Texts
from fascicle.kernels import json_members
from fascicle.kernels.arrays import frozen, frozen_bytes

PART = 1 << 12
"""Places per part of a column."""
_PART_BITS = 12

U64 = NDArray[np.uint64]
I64 = NDArray[np.int64]
I32 = NDArray[np.int32]
Column = list[I32 | None]
"""Parts i32[PART]; None for one without any value. Parts may be missing at the end."""

_NOTHING = np.zeros(PART, np.int32)
_NO_BYTES = np.empty(0, np.uint8)


@dataclass(slots=True)
class Table:
    """The annotations at one version, as of one change."""

    sequence: int
    """The last change that is in it."""
    bodies: U64
    """Body by place."""
    columns: dict[str, Column]
    texts: Texts
    """The set that the numbers of values belong to, as it grows on."""
    blob: NDArray[np.uint8]
    """With `starts` and `kinds`: its texts up to now, as in `kernels/json_members.py`."""
    starts: I64
    kinds: NDArray[np.uint8]
    count: int
    """How many texts there are."""
    _places: I64 | None = field(default=None, repr=False)

    def column(self, name: str) -> I32 | None:
        """The numbers of a member's values i32[places], 0 where it is missing; None if it is so everywhere."""
        parts = self.columns.get(name)
        if parts is None:
            return None
        missing = -(-len(self.bodies) // PART) - len(parts)
        whole = np.concatenate([_NOTHING if part is None else part for part in parts] + [_NOTHING] * missing)
        return whole[: len(self.bodies)]

    def places(self) -> I64:
        """The places of bodies that are there, ascending by body."""
        if self._places is None:
            there = self.column(BODY_ID)
            self._places = self.in_order(np.empty(0, np.int64) if there is None else np.flatnonzero(there))
        return self._places

    def between(self, first: int, last: int) -> tuple[I64, U64]:
        """(places, bodies) of the bodies from `first` to `last`, both included, that are there, ascending."""
        places = self.places()
        bodies = self.bodies[places]
        start = np.searchsorted(bodies, np.uint64(first))
        stop = np.searchsorted(bodies, np.uint64(last), "right")
        return places[start:stop], bodies[start:stop]

    def in_order(self, places: I64) -> I64:
        """Places ascending by body."""
        bodies = self.bodies[places]
        if len(bodies) < 2 or bool((bodies[1:] > bodies[:-1]).all()):
            return places
        return places[np.argsort(bodies)]

    def counts(self) -> dict[str, int]:
        """How many annotations have each member, for those that any has."""
        counted = {
            name: sum(int(np.count_nonzero(part)) for part in parts if part is not None)
            for name, parts in sorted(self.columns.items())
        }
        return {name: count for name, count in counted.items() if count}

    def greatest_text(self, name: str) -> bytes | None:
        """The JSON string among a member's values that comes last, or None."""
        column = self.column(name)
        if column is None:
            return None
        strings = column[(self.kinds[column] == json_members.TEXT) | (self.kinds[column] == json_members.ESCAPED_TEXT)]
        number = json_members.greatest(self.blob, self.starts, frozen(strings))
        return self.text(number) if number else None

    def text(self, number: int) -> bytes:
        return self.blob[self.starts[number] : self.starts[number + 1]].tobytes()

    # -- documents

    def _matrix(self, places: I64, selection: Selection) -> tuple[I32, list[str]]:
        """Numbers of values i32[members, places], and the names of the members, in order."""
        parts_of = places >> _PART_BITS
        within = places & (PART - 1)
        wanted = [(int(part), np.flatnonzero(parts_of == part)) for part in np.unique(parts_of)]
        rows: list[I32] = []
        names: list[str] = []
        for name in sorted(filter(selection.keeps, self.columns)):
            parts = self.columns[name]
            row: I32 | None = None
            for number, where in wanted:
                part = parts[number] if number < len(parts) else None
                if part is not None:
                    if row is None:
                        row = np.zeros(len(places), np.int32)
                    row[where] = part[within[where]]
            if row is not None and row.any():
                rows.append(row)
                names.append(name)
        return np.stack(rows) if rows else np.zeros((0, len(places)), np.int32), names

    def documents(self, places: I64, selection: Selection) -> Iterator[tuple[memoryview, I64]]:
        """For each `PART` of places: the documents side by side, and where each ends."""
        for at in range(0, len(places), PART):
            out, ends = self._written(*self._matrix(places[at : at + PART], selection), False)
            yield out.data, ends

    def json_list(self, places: I64, selection: Selection, bare: bool = True) -> Iterator[bytes | memoryview]:
        """A JSON list of documents, in pieces; without those that have nothing but `bodyid` unless `bare`."""
        begun = False
        for at in range(0, len(places), PART):
            matrix, names = self._matrix(places[at : at + PART], selection)
            if not bare:
                matrix = matrix[:, np.count_nonzero(matrix, axis=0) > 1]
            if matrix.shape[1]:
                piece = self._written(matrix, names, True)[0].data
                yield piece if begun else b"[" + piece[1:]
                begun = True
        yield b"]" if begun else b"[]"

    def _written(self, matrix: I32, names: Sequence[str], separated: bool) -> tuple[NDArray[np.uint8], I64]:
        texts = [name_text(name) for name in names]
        starts = np.concatenate((np.zeros(1, np.int64), np.cumsum([len(text) for text in texts], dtype=np.int64)))
        ends = np.empty(matrix.shape[1], np.int64)
        more = (frozen_bytes(b"".join(texts)), frozen(starts), self.blob, self.starts, separated, ends)
        matrix = frozen(matrix)
        json_members.put_together(matrix, *more, _NO_BYTES)
        out = np.empty(int(ends[-1]) if len(ends) else 0, np.uint8)
        if len(out):
            json_members.put_together(matrix, *more, out)
        return out, ends
