"""Rows of integers as JSON, against the JSON library."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fascicle.kernels.json_rows import parsed_rows

numbers = st.integers(-(1 << 32), 1 << 32) | st.integers(-3, 3)


@given(st.integers(1, 4).flatmap(lambda n: st.tuples(st.just(n), st.lists(st.lists(numbers, min_size=n, max_size=n)))),
       st.sampled_from([None, 0, 2]))  # fmt: skip
def test_rows(given_rows: tuple[int, list[list[int]]], indent: int | None) -> None:
    columns, rows = given_rows
    for text in (json.dumps(rows, indent=indent), f"\r\n {json.dumps(rows, separators=(',', ':'))}\t"):
        found = parsed_rows(text.encode(), columns)
        assert found is not None
        assert (found.shape[1], found.tolist()) == (columns, rows)


@pytest.mark.parametrize(
    "text",
    ["", " ", "[", "]", "[[", "[[1,2]", "[[1,2],]", "[,[1,2]]", "[[1,2] [3,4]]", "[[1,2]]]", "[[1,2]] x", "[1,2]",
     "[[1]]", "[[1,2,3]]", "[[1,]]", "[[,1]]", "[[1 2]]", "[[01,2]]", "[[-,2]]", "[[--1,2]]", "[[+1,2]]", "[[1.0,2]]",
     "[[1e1,2]]", "[[null,2]]", '[["1",2]]', "[[4294967297,2]]", "[[99999999999999999999,2]]", "null", "{}", "[[1,2}]",
     "[[1,2\x0b]]", "[] []", "[[]]", "[[1,2],null]"],
)  # fmt: skip
def test_everything_else_is_left_to_others(text: str) -> None:
    assert parsed_rows(text.encode(), 2) is None


@given(st.binary(max_size=30) | st.text("[],-0123 ", max_size=30).map(str.encode))
def test_no_text_does_harm(data: bytes) -> None:
    found = parsed_rows(data, 2)
    assert found is None or found.tolist() == json.loads(data)
