"""Spans as clients send them and as they are stored."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fascicle.datatypes.roi import spans
from fascicle.errors import BadRequest, CorruptionError

int32 = st.integers(spans.INT32_MIN, spans.INT32_MAX) | st.integers(-5, 5)
rows = st.lists(st.tuples(int32, int32, int32, int32))


def sorted_spans(given_rows: list[tuple[int, int, int, int]]) -> list[list[int]]:
    """What is kept of posted rows, the slow way."""
    return [list(row) for row in sorted({(z, y, min(a, b), max(a, b)) for z, y, a, b in given_rows})]


@given(rows)
def test_posted_spans_are_kept_in_order(given_rows: list[tuple[int, int, int, int]]) -> None:
    posted = [[z, y, min(a, b), max(a, b)] for z, y, a, b in given_rows]
    kept = spans.parse_spans(json.dumps(posted).encode())
    assert kept.tolist() == sorted_spans(given_rows)
    assert json.loads(b"".join(spans.json_pieces(kept))) == kept.tolist()
    assert spans.decoded(spans.encoded(kept), len(kept)).tolist() == kept.tolist()


def test_many_spans_come_in_pieces() -> None:
    z, y = np.divmod(np.arange(100_000, dtype=np.int32), 300)
    many = np.stack((z, y, z * 0, y), axis=1).astype(np.int32)
    pieces = list(spans.json_pieces(many))
    assert len(pieces) > 3
    assert json.loads(b"".join(pieces)) == many.tolist()
    assert len(spans.encoded(many)) < 100_000


@pytest.mark.parametrize(
    ("body", "kept"),
    [
        (b"[[5]]", [[5, 0, 0, 0]]),
        (b'[[1, 2], [1, 2, 3, 4, "more", {}]]', [[1, 2, 0, 0], [1, 2, 3, 4]]),
        (b"[null, [], [0,0,0,1]]", [[0, 0, 0, 0], [0, 0, 0, 1]]),
        (b"[[1, null, 3, 4]]", [[1, 0, 3, 4]]),
        (b"null", []),
        (b" [] ", []),
    ],
)
def test_incomplete_spans_are_filled_with_zeros(body: bytes, kept: list[list[int]]) -> None:
    assert spans.parse_spans(body).tolist() == kept


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"{}",
        b'"x"',
        b"[1,2,3]",
        b"[[1,2,3.5,4]]",
        b"[[1,2,3,4e1]]",
        b'[["a",1,2,3]]',
        b"[[true,1,2,3]]",
        b"[[1,2,3,99999999999]]",
        b"[[1,2,-2147483649,0]]",
        b"[[1,2,3,36893488147419103232]]",
        b"[[0,0,5,4]]",
        b"[" * 100_000,
        b"\xff\xfe",
    ],
)
def test_other_bodies_are_refused(body: bytes) -> None:
    with pytest.raises(BadRequest):
        spans.parse_spans(body)


def test_damaged_spans_are_noticed() -> None:
    stored = spans.encoded(np.array([[1, 2, 3, 4], [5, 6, 7, 8]], np.int32))
    for damaged, count in ((stored[:-1], 2), (b"", 2), (stored, 1), (stored, 3)):
        with pytest.raises(CorruptionError):
            spans.decoded(damaged, count)
