"""The normal form of annotations, and parts of them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fascicle.datatypes.neuronjson import documents
from fascicle.datatypes.neuronjson.documents import Selection
from fascicle.errors import BadRequest

numbers = st.integers(-(1 << 65), 1 << 66) | st.floats(allow_nan=False, allow_infinity=False)
scalars = st.none() | st.booleans() | numbers
values = st.recursive(
    scalars | st.text(), lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4)
)


def rounded(value: Any) -> Any:
    """A value in which integers that do not fit 64 bits are floats."""
    if type(value) is int:
        return value if -(1 << 63) <= value < 1 << 64 else float(value)
    if isinstance(value, list):
        return [rounded(item) for item in value]
    if isinstance(value, dict):
        return {name: rounded(item) for name, item in value.items()}
    return value


@given(st.dictionaries(st.text(), values, max_size=6))
def test_the_normal_form_says_the_same_and_is_its_own(document: dict[str, Any]) -> None:
    posted = documents.members(documents.parsed(json.dumps(document).encode()))
    kept = {name: value for name, value in posted.items() if value is not None}
    text = documents.document_of(kept)
    decoded = json.loads(text)
    assert decoded == rounded({name: value for name, value in document.items() if value is not None})
    assert documents.stored_members(text) == kept
    again = documents.members(documents.parsed(text))
    assert documents.document_of({name: value for name, value in again.items() if value is not None}) == text
    assert list(decoded) == sorted(decoded)


@pytest.mark.parametrize(
    ("given_", "shown"),
    [
        (b"18446744073709551615", b"18446744073709551615"),
        (b"18446744073709551616", b"18446744073709552000.0"),
        (b"-9223372036854775808", b"-9223372036854775808"),
        (b"5.0", b"5.0"),
        (b"1e3", b"1000.0"),
        (b"[ 1 , 2 ]", b"[1,2]"),
        (b"[1.0, 2]", b"[1.0,2.0]"),
        (b"[1, null]", b"[1,null]"),
        (b'{"b":5.0,"a":9007199254740993}', b'{"a":9007199254740993,"b":5}'),
        (b'[1.0,"a"]', b'[1,"a"]'),
        (b'"a\\u0000\\n\\u00e9"', '"a\\u0000\\né"'.encode()),
    ],
)
def test_values(given_: bytes, shown: bytes) -> None:
    posted = documents.members(documents.parsed(b'{"a":' + given_ + b"}"))
    value = posted["a"]
    assert value is not None
    assert json.loads(value) == json.loads(shown)
    assert value == shown or b"e" in value


def test_what_is_no_annotation() -> None:
    for wrong in (b"", b"{", b"[]", b"5", b'{"a":1e999}', b'{"a":\xff}', b'{"a":' * 5000):
        with pytest.raises(BadRequest):
            documents.parsed(wrong)
    with pytest.raises(BadRequest):
        documents.members({"a": json.loads("[" * 300 + "{}" + "]" * 300)})


def test_selections() -> None:
    document = b'{"a":1,"a_time":"t","a_user":"u","b":2,"b_user":"v","bodyid":7}'
    for show, fields, shown in (
        ("", "", b'{"a":1,"b":2,"bodyid":7}'),
        ("user", "", b'{"a":1,"a_user":"u","b":2,"b_user":"v","bodyid":7}'),
        ("time", "", b'{"a":1,"a_time":"t","b":2,"bodyid":7}'),
        ("all", "", document),
        ("none", "", b'{"a":1,"b":2,"bodyid":7}'),
        ("", "a", b'{"a":1,"bodyid":7}'),
        ("all", "a", b'{"a":1,"a_time":"t","a_user":"u","bodyid":7}'),
        ("", "a_user,b", b'{"a_user":"u","b":2,"bodyid":7}'),
        ("", " a", b'{"bodyid":7}'),
        ("", "bodyid", b'{"bodyid":7}'),
    ):
        assert Selection(show, fields).of(document) == shown
