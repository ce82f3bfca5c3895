"""Which annotations a query finds in a table."""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

from fascicle.datatypes.neuronjson import automata, patterns
from fascicle.datatypes.neuronjson.conditions import Condition, Exists, Query
from fascicle.datatypes.neuronjson.documents import BODY_ID
from fascicle.datatypes.neuronjson.table import I32, I64, Table
from fascicle.datatypes.neuronjson.texts import Texts
from fascicle.kernels import json_members
from fascicle.kernels.arrays import frozen

Mask = NDArray[np.bool_]

_FOUND = 2
KEPT_PATTERNS = 16


def found(table: Table, query: Query) -> I64:
    """The places of annotations that a query finds, ascending by body."""
    there = table.column(BODY_ID)
    if there is None:
        return np.empty(0, np.int64)
    alive = there != 0
    matches = np.zeros(len(alive), np.bool_)
    for alternative in query.alternatives:
        mask = alive.copy()
        for name, condition in alternative.items():
            mask &= _holds(table, table.column(name), condition, mask)
            if not mask.any():
                break
        matches |= mask
    return table.in_order(np.flatnonzero(matches))


def _holds(table: Table, column: I32 | None, condition: Condition, asked: Mask) -> Mask:
    """Where a condition holds, bool[places]; what is not asked may be anything."""
    if isinstance(condition, Exists):
        if column is None:
            return np.full(len(asked), not condition.wanted)
        there: Mask = column != 0
        return there if condition.wanted else ~there
    if column is None:
        return np.zeros(len(asked), np.bool_)
    verdict = np.zeros(table.count + 1, np.bool_)
    if condition.values:
        with table.texts.lock:
            numbers = table.texts.find(condition.values)
        verdict[numbers[numbers <= table.count]] = True
        verdict[0] = False
    present = column[asked] if condition.elements or condition.patterns else column[:0]
    kinds = table.kinds[present]
    if condition.elements:
        wanted = Texts.of(condition.elements)
        arrays = present[(kinds == json_members.INTEGERS) | (kinds == json_members.TEXTS)]
        if len(arrays):
            out = np.zeros(len(arrays), np.bool_)
            more = (wanted.blob, wanted.starts, wanted.table, out)
            json_members.contain(table.blob, table.starts, frozen(arrays), *more)
            verdict[arrays[out]] = True
    if condition.patterns:
        texts = (kinds == json_members.TEXT) | (kinds == json_members.ESCAPED_TEXT) | (kinds == json_members.TEXTS)
        for pattern in condition.patterns:
            verdict |= _has_pattern(table, present[texts], pattern)
    return verdict[column]


def _has_pattern(table: Table, numbers: I32, pattern: str) -> Mask:
    """Which texts, bool[number], have a pattern, as far as they are among `numbers` or were asked for before.

    `numbers` are those of strings and of arrays of strings.
    """
    verdicts = table.texts.verdicts
    known = verdicts.get(pattern)
    if known is None or len(known) <= table.count:
        grown = np.zeros(table.count + 1 + table.count // 8, np.uint8)
        if known is not None:
            grown[: len(known)] = known
        known = verdicts[pattern] = grown
        while len(verdicts) > KEPT_PATTERNS:
            verdicts.pop(list(verdicts)[0], None)  # noqa: RUF015 (other threads add patterns meanwhile)
    unknown = numbers[known[numbers] == 0]
    found = automata.automaton(pattern) if len(unknown) else None
    if found is not None:
        out = np.zeros(len(unknown), np.uint8)
        more = (frozen(found.steps), frozen(found.class_of), found.classes, frozen(found.accepting), out)
        json_members.run_automaton(table.blob, table.starts, table.kinds, frozen(unknown), *more)
        known[unknown] = out
        unknown = unknown[out == 0]
    if len(unknown):
        _look_at_each(table, np.unique(unknown), pattern, known)
    return np.equal(known[: table.count + 1], _FOUND)


def _look_at_each(table: Table, numbers: I32, pattern: str, known: NDArray[np.uint8]) -> None:
    """Enter verdicts on texts for which there is no automaton."""
    finds = patterns.finder(pattern)
    assert finds is not None, "a query has only patterns that compile"
    data = table.blob.data
    starts, ends = table.starts[numbers].tolist(), table.starts[numbers + 1].tolist()
    kinds = table.kinds[numbers].tolist()
    known[numbers] = [
        1 + _is_in(finds, bytes(data[start:end]), kind) for start, end, kind in zip(starts, ends, kinds, strict=True)
    ]


def _is_in(finds: patterns.Finder, text: bytes, kind: int) -> bool:
    if kind == json_members.TEXT:
        return finds(text[1:-1].decode())
    if kind == json_members.ESCAPED_TEXT:
        return finds(msgspec.json.decode(text, type=str))
    return any(finds(item) for item in msgspec.json.decode(text) if item is not None)
