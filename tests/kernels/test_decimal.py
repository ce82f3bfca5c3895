"""Lists of integers as JSON, against a JSON library."""

from __future__ import annotations

import json

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fascicle.kernels import decimal

ids = st.lists(st.integers(0, 2**64 - 1) | st.sampled_from((0, 9, 10, 99, 100, 2**64 - 1, 10**19)))


@settings(deadline=None)
@given(ids)
def test_written_as_compact_json(values: list[int]) -> None:
    text = decimal.json_list(np.array(values, np.uint64))
    assert text == msgspec.json.encode(values)
    parsed = decimal.parsed_list(text)
    assert parsed is not None
    assert parsed.tolist() == values


@settings(deadline=None)
@given(ids, st.sampled_from((None, 1, "\t")))
def test_spaces_are_passed_over(values: list[int], indent: int | str | None) -> None:
    parsed = decimal.parsed_list((" " + json.dumps(values, indent=indent) + "\n").encode())
    assert parsed is not None
    assert parsed.tolist() == values


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "[",
        "]",
        "{}",
        "1",
        "[1",
        "[1,",
        "[1,]",
        "[,1]",
        "[1 2]",
        "[-1]",
        "[1.0]",
        "[1e3]",
        "[01]",
        '["1"]',
        "[[1]]",
        "[1]x",
        "[18446744073709551616]",
        "[99999999999999999999999]",
        "[null]",
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    assert decimal.parsed_list(text.encode()) is None


@given(st.binary(max_size=40))
@settings(deadline=None)
def test_never_reads_what_a_json_library_refuses(data: bytes) -> None:
    parsed = decimal.parsed_list(b"[" + data)
    if parsed is not None:
        # Control characters count as space here.
        cleaned = bytes(byte if byte > 32 else 32 for byte in data)
        assert msgspec.json.decode(b"[" + cleaned) == parsed.tolist()


def test_separators_take_turns() -> None:
    assert decimal.joined(np.array([1, 20, 3, 400], np.uint64), b" \n") == b"1 20\n3 400\n"
