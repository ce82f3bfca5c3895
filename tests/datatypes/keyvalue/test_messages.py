"""The protobuf messages against the documented bytes and against Google's own encoder."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fascicle.datatypes.keyvalue import messages
from fascicle.errors import BadRequest

PAIRS = st.lists(st.tuples(st.text(min_size=1, max_size=200), st.binary(max_size=300)), max_size=6)


@pytest.fixture(scope="module")
def classes() -> dict[str, Any]:
    """The message classes as Google's library makes them from their description."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    file = descriptor_pb2.FileDescriptorProto(name="keyvalue_test.proto", package="test", syntax="proto3")
    shapes: dict[str, list[tuple[str, int, int, str]]] = {
        "KeyValue": [("key", 9, 1, ""), ("value", 12, 1, "")],
        "KeyRange": [("key", 9, 1, ""), ("byte_start", 4, 1, ""), ("byte_end", 4, 1, "")],
        "Keys": [("keys", 9, 3, ""), ("key_ranges", 11, 3, ".test.KeyRange")],
        "KeyValues": [("kvs", 11, 3, ".test.KeyValue")],
    }
    for name, members in shapes.items():
        message = file.message_type.add(name=name)
        for number, (member, kind, label, type_name) in enumerate(members, 1):
            field = message.field.add(name=member, number=number, type=kind, label=label)
            if type_name:
                field.type_name = type_name
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"test.{name}")) for name in shapes}


def test_documented_bytes() -> None:
    assert messages.key_values([(b"a", b"xy")]).hex() == "0a070a016112027879"
    assert messages.decode_keys(bytes.fromhex("0a027a7a0a0162")) == [(b"zz", None, None), (b"b", None, None)]
    assert messages.key_values([(b"zz", b"")]).hex() == "0a040a027a7a"


@given(PAIRS)
def test_key_values_round_trip(classes: dict[str, Any], pairs: list[tuple[str, bytes]]) -> None:
    encoded = [(key.encode(), value) for key, value in pairs]
    theirs = classes["KeyValues"](kvs=[{"key": key, "value": value} for key, value in pairs])
    assert messages.key_values(encoded) == theirs.SerializeToString()
    assert messages.decode_key_values(theirs.SerializeToString()) == encoded


@given(
    st.lists(st.text(max_size=200), max_size=5), st.lists(st.tuples(st.text(), st.integers(0, 2**64 - 1)), max_size=4)
)
def test_keys_and_ranges(classes: dict[str, Any], names: list[str], ranges: list[tuple[str, int]]) -> None:
    theirs = classes["Keys"](
        keys=names, key_ranges=[{"key": key, "byte_start": 1, "byte_end": end} for key, end in ranges]
    )
    expected: list[messages.Ranged] = [(name.encode(), None, None) for name in names]
    expected += [(key.encode(), 1, end) for key, end in ranges]
    for few_bytes in (0, 1 << 20):
        with patch.object(messages, "FEW_BYTES", few_bytes):
            assert messages.decode_keys(theirs.SerializeToString()) == expected


@given(st.binary(max_size=60))
def test_any_bytes_are_decoded_or_refused(data: bytes) -> None:
    for decode in (messages.decode_keys, messages.decode_key_values):
        results: list[Any] = []
        for few_bytes in (0, 1000):  # with compiled loops and without them
            with patch.object(messages, "FEW_BYTES", few_bytes):
                try:
                    results.append(decode(data))
                except BadRequest as error:
                    results.append(str(error))
        assert results[0] == results[1]


@given(st.lists(st.tuples(st.binary(max_size=140), st.binary(max_size=200))), st.binary(max_size=4), st.integers(0, 40))
def test_the_usual_form_is_read_as_any_other(pairs: list[tuple[bytes, bytes]], more: bytes, cut: int) -> None:
    encoded = messages.key_values(pairs)
    compiled = patch.object(messages, "FEW_BYTES", 0)
    for data in (encoded, encoded + more, encoded[: max(0, len(encoded) - cut)], encoded[cut:]):
        try:
            expected = messages.decode_any_key_values(data)
        except BadRequest:
            with pytest.raises(BadRequest), compiled:
                messages.decode_key_values(data)
        else:
            with compiled:
                assert messages.decode_key_values(data) == expected
