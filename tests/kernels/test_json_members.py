"""Taking JSON objects apart and putting them together again, beside a decoder."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fascicle.datatypes.neuronjson import documents
from fascicle.datatypes.neuronjson.texts import Texts
from fascicle.kernels import json_members
from fascicle.kernels.arrays import frozen, frozen_bytes

scalars = st.booleans() | st.integers(-(1 << 63), (1 << 64) - 1) | st.floats(allow_nan=False, allow_infinity=False)
strings = st.text(alphabet='ab"\\{}[],:é\n0', max_size=6)
values = st.recursive(
    scalars | strings, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(strings, inner, max_size=3)
)


def kind_of(value: Any) -> int:
    """The kind of a decoded value."""
    if isinstance(value, str):
        return json_members.ESCAPED_TEXT if b"\\" in documents.normal(value) else json_members.TEXT
    if isinstance(value, bool) or value is None:
        return json_members.LITERAL
    if isinstance(value, int | float):
        return json_members.INTEGER if isinstance(value, int) else json_members.FLOAT
    if isinstance(value, list) and value:
        if all(type(item) is int for item in value):
            return json_members.INTEGERS
        if all(isinstance(item, str) for item in value):
            return json_members.TEXTS
    return json_members.OTHER


@given(st.lists(st.none() | st.dictionaries(strings, values, max_size=5), max_size=5))
def test_taken_apart_and_put_together(given_: list[dict[str, Any] | None]) -> None:
    texts = [
        b"" if one is None else documents.document_of({name: documents.normal(value) for name, value in one.items()})
        for one in given_
    ]
    data = frozen_bytes(b"".join(texts))
    lengths = np.array([len(text) - (text == b"") for text in texts], np.int64)
    offsets = np.concatenate(([0], np.cumsum([len(text) for text in texts])))[:-1].astype(np.int64)
    names, found = Texts(), Texts()
    names.reserve(len(data), len(data))
    found.reserve(len(data), len(data))
    out = np.zeros((2, len(texts)), np.int32)
    at = 0
    while at < len(texts):
        at, names.count, found.count = json_members.take_apart(
            data, frozen(offsets), frozen(lengths), at, out,
            names.blob, names.starts, names.kinds, names.table, names.count,
            found.blob, found.starts, found.kinds, found.table, found.count,
        )  # fmt: skip
        if names.count >= len(out):
            out = np.concatenate((out, np.zeros((names.count, len(texts)), np.int32)))
    numbers = {json.loads(names.text(number)): number for number in range(1, names.count + 1)}
    for i, one in enumerate(given_):
        shown = {name: found.text(int(out[number, i])) for name, number in numbers.items() if out[number, i]}
        assert shown == {name: documents.normal(value) for name, value in (one or {}).items()}
    for number in range(1, found.count + 1):
        assert found.kinds[number] == kind_of(json.loads(found.text(number)))
        assert found.find([found.text(number), b"nothing"]).tolist() == [number, 0]

    ordered = sorted(numbers)
    matrix = frozen(np.stack([out[numbers[name]] for name in ordered]) if ordered else out[:0])
    prefixes = [documents.name_text(name) for name in ordered]
    starts = frozen(np.concatenate(([0], np.cumsum([len(text) for text in prefixes]))).astype(np.int64))
    ends = np.zeros(len(texts), np.int64)
    more = (frozen_bytes(b"".join(prefixes)), starts, frozen(found.blob), frozen(found.starts), True, ends)
    json_members.put_together(matrix, *more, np.empty(0, np.uint8))
    joined = np.empty(int(ends[-1]) if len(ends) else 0, np.uint8)
    if len(joined):
        json_members.put_together(matrix, *more, joined)
    assert joined.tobytes() == b"".join(b"," + (text or b"{}") for text in texts)


lists = st.lists(st.integers(-3, 3), min_size=1) | st.lists(strings, min_size=1)


@given(st.lists(lists, min_size=1), st.lists(strings))
def test_arrays_that_contain(arrays: list[list[Any]], wanted: list[str]) -> None:
    found = Texts.of(documents.normal(array) for array in arrays)
    asked = [*wanted, 1, -2]
    sought = Texts.of(documents.normal(item) for item in asked)
    numbers = np.array([found.add(documents.normal(array)) for array in arrays], np.int32)
    out = np.zeros(len(arrays), np.bool_)
    more = (sought.blob, sought.starts, sought.table, out)
    json_members.contain(frozen(found.blob), frozen(found.starts), frozen(numbers), *more)
    assert out.tolist() == [any(item in asked for item in array) for array in arrays]
    best = json_members.greatest(frozen(found.blob), frozen(found.starts), frozen(numbers))
    assert found.text(best) == max(documents.normal(array) for array in arrays)
