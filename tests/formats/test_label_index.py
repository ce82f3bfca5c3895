"""Label indices and mapping operations: golden bytes, round trips, broken input, and another implementation."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fascicle.errors import BadRequest
from fascicle.formats import label_index, mapping_ops
from fascicle.formats.block_code import block_codes
from fascicle.formats.label_index import LabelIndex

GOLDEN = bytes.fromhex(
    "0a13088180808280800312090a05080510ac021009" "1007" "188194ebdc03" "2214323032342d30312d30325430333a30343a30355a"
    "2a0175" "320161"
)


def one_row() -> LabelIndex:
    code = block_codes([[1, 2, 3]])
    return LabelIndex(
        7, np.array([5], np.uint64), code, np.array([300], np.uint32), code, np.array([9], np.uint64),
        1000000001, "2024-01-02T03:04:05Z", "u", "a",
    )  # fmt: skip


def test_golden_bytes() -> None:
    assert label_index.encode(one_row()) == GOLDEN
    many = label_index.as_member(GOLDEN) + label_index.as_member(label_index.encode_empty(8))
    assert many == b"\x0a\x39" + GOLDEN + b"\x0a\x02\x10\x08"
    first, second = label_index.decode_many(many)
    assert (first.label, first.last_mutid, first.last_mod_user, second.label) == (7, 1000000001, "u", 8)
    assert first.supervoxels.tolist() == [5]
    assert first.counts.tolist() == [300]
    assert first.surface_mutids.tolist() == [9]
    assert np.array_equal(first.blocks, block_codes([[1, 2, 3]]))
    assert len(second.supervoxels) == 0


def test_golden_bytes_of_mapping_operations() -> None:
    data = bytes.fromhex("0a090801100a1a030aac02")
    assert mapping_ops.encode([(10, [10, 300])], 1) == data
    supervoxels, owners = mapping_ops.decode(data + data)
    assert supervoxels.tolist() == [10, 300, 10, 300]
    assert owners.tolist() == [10] * 4


def test_unpacked_numbers_and_unknown_fields_are_read() -> None:
    supervoxels, owners = mapping_ops.decode(bytes.fromhex("0a07180a18ac021007"))
    assert supervoxels.tolist() == [10, 300]
    assert owners.tolist() == [7, 7]
    assert label_index.decode(GOLDEN + b"\x7a\x02xy").label == 7


rows = st.dictionaries(
    st.tuples(st.integers(1, 2**64 - 1), st.tuples(*[st.integers(-(2**20) + 1, 2**20 - 1)] * 3)),
    st.integers(1, 2**32 - 1),
    max_size=30,
)


@given(rows, st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1), st.text(), st.data())
def test_round_trip(table: dict, label: int, mutation: int, text: str, data: st.DataObject) -> None:
    codes = block_codes([xyz for _, xyz in table]) if table else np.empty(0, np.uint64)
    supervoxels = np.array([sv for sv, _ in table], np.uint64)
    counts = np.array(list(table.values()), np.uint32)
    blocks = np.unique(codes)
    mutids = np.array([data.draw(st.integers(1, 2**63)) for _ in blocks], np.uint64)
    index = LabelIndex(label, supervoxels, codes, counts, blocks, mutids, mutation, "t", text, "")
    back = label_index.decode(label_index.encode(index))
    assert (back.label, back.last_mutid, back.last_mod_time, back.last_mod_user) == (label, mutation, "t", text)
    found = zip(back.supervoxels.tolist(), back.blocks.tolist(), back.counts.tolist(), strict=True)
    assert sorted(found) == sorted(zip(supervoxels.tolist(), codes.tolist(), counts.tolist(), strict=True))
    assert np.array_equal(back.surface_blocks, blocks)
    assert np.array_equal(back.surface_mutids, mutids)


@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    for read in (label_index.decode, label_index.decode_many, mapping_ops.decode):
        with contextlib.suppress(BadRequest):
            read(data)


@pytest.mark.parametrize("cut", range(1, len(GOLDEN)))
def test_a_message_cut_short_is_refused_or_shorter(cut: int) -> None:
    try:
        index = label_index.decode(GOLDEN[:cut])
    except BadRequest:
        return
    assert index.last_mod_app == ""
