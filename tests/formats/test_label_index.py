"""Label indices and mapping operations: golden bytes, an independent protobuf implementation, damage."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fascicle.errors import BadRequest
from fascicle.formats import label_index, mapping_ops
from fascicle.formats.block_code import LIMIT, block_codes, block_to_wire, codes_to_wire

EXAMPLE = bytes.fromhex(
    "0a130881808082808003" "12090a05080510ac021009" "1007188194ebdc03"
    "2214323032342d30312d30325430333a30343a30355a" "2a0175320161"
)


def example() -> label_index.LabelIndex:
    code = block_codes([(1, 2, 3)])
    return label_index.LabelIndex(
        7,
        np.array([5], np.uint64),
        code,
        np.array([300], np.uint32),
        code,
        np.array([9], np.uint64),
        1000000001,
        "2024-01-02T03:04:05Z",
        "u",
        "a",
    )


def facts(index: label_index.LabelIndex) -> tuple[Any, ...]:
    rows = zip(index.blocks.tolist(), index.supervoxels.tolist(), index.counts.tolist(), strict=True)
    surfaces = zip(index.surface_blocks.tolist(), index.surface_mutids.tolist(), strict=True)
    scalars = (index.label, index.last_mutid, index.last_mod_time, index.last_mod_user, index.last_mod_app)
    return sorted(rows), sorted(surfaces), scalars


def messages() -> Any:
    """LabelIndex as an independent implementation of protobuf sees it."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    file = descriptor_pb2.FileDescriptorProto(name="index.proto", package="proto", syntax="proto3")
    kinds = {"uint64": 4, "uint32": 13, "string": 9, "message": 11}

    def add(name: str, *fields: tuple[str, int, str, str], parent: Any = None) -> Any:
        message = (parent.nested_type if parent is not None else file.message_type).add(name=name)
        for field_name, number, kind, type_name in fields:
            entry = message.field.add(name=field_name, number=number, type=kinds[kind], label=1)
            if type_name:
                entry.type_name = f".proto.{type_name}"
                entry.label = 3
        return message

    def map_entry(parent: Any, name: str, value: str, type_name: str) -> None:
        entry = parent.nested_type.add(name=name)
        entry.options.map_entry = True
        entry.field.add(name="key", number=1, type=4, label=1)
        field = entry.field.add(name="value", number=2, type=kinds[value], label=1)
        if type_name:
            field.type_name = f".proto.{type_name}"

    counts = add("SVCount", ("counts", 1, "message", "SVCount.CountsEntry"), ("surface_mutid", 2, "uint64", ""))
    map_entry(counts, "CountsEntry", "uint32", "")
    index = add(
        "LabelIndex",
        ("blocks", 1, "message", "LabelIndex.BlocksEntry"),
        ("label", 2, "uint64", ""),
        ("last_mutid", 3, "uint64", ""),
        ("last_mod_time", 4, "string", ""),
        ("last_mod_user", 5, "string", ""),
        ("last_mod_app", 6, "string", ""),
    )
    map_entry(index, "BlocksEntry", "message", "SVCount")
    add("LabelIndices", ("indices", 1, "message", "LabelIndex"))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)  # type: ignore[no-untyped-call]
    return message_factory.GetMessages([file], pool=pool)


coordinate = st.integers(-LIMIT, LIMIT) | st.integers(0, 3)
u64 = st.integers(0, 2**64 - 1) | st.integers(0, 300)
block_maps = st.dictionaries(
    st.tuples(coordinate, coordinate, coordinate),
    st.tuples(st.dictionaries(u64, st.integers(0, 2**32 - 1), max_size=5), st.integers(0, 2**40)),
    max_size=6,
)
text = st.text(max_size=6)


def test_golden_bytes() -> None:
    assert label_index.encode(example()) == EXAMPLE
    assert facts(label_index.decode(EXAMPLE)) == facts(example())
    many = label_index.as_member(EXAMPLE) + label_index.as_member(label_index.encode_empty(8))
    assert many.hex() == "0a39" + EXAMPLE.hex() + "0a021008"
    assert label_index.encode_many([example(), label_index.LabelIndex(8)]) == many
    assert [facts(i) for i in label_index.decode_many(many + many[:59])] == [
        facts(example()), facts(label_index.LabelIndex(8)), facts(example())
    ]  # fmt: skip


@settings(deadline=None)
@given(block_maps, u64, u64, text, text, text)
def test_agrees_with_another_implementation(
    blocks: dict[Any, Any], label: int, mutid: int, time: str, user: str, app: str
) -> None:
    kinds = messages()
    message = kinds["proto.LabelIndex"](
        label=label, last_mutid=mutid, last_mod_time=time, last_mod_user=user, last_mod_app=app
    )
    for xyz, (counts, surface) in blocks.items():
        entry = message.blocks[int(block_to_wire([xyz])[0])]
        entry.surface_mutid = surface
        for sv, count in counts.items():
            entry.counts[sv] = count
    index = label_index.decode(message.SerializeToString())
    rows = sorted((b, s, n) for b, s, n in facts(index)[0])
    assert rows == sorted(
        (int(block_codes([xyz])[0]), sv, n) for xyz, (counts, _) in blocks.items() for sv, n in counts.items()
    )
    assert dict(facts(index)[1]) == {int(block_codes([xyz])[0]): s for xyz, (_, s) in blocks.items() if s}
    again = kinds["proto.LabelIndex"].FromString(label_index.encode(index))
    kept = {int(block_to_wire([xyz])[0]) for xyz, (counts, _) in blocks.items() if counts}
    assert set(again.blocks) == kept
    for key in kept:
        assert dict(again.blocks[key].counts) == dict(message.blocks[key].counts)
        assert again.blocks[key].surface_mutid == message.blocks[key].surface_mutid
    scalars = ("label", "last_mutid", "last_mod_time", "last_mod_user", "last_mod_app")
    assert [getattr(again, s) for s in scalars] == [getattr(message, s) for s in scalars]
    shuffled = np.random.default_rng(0).permutation(len(index.blocks))
    index.blocks, index.supervoxels, index.counts = (
        index.blocks[shuffled], index.supervoxels[shuffled], index.counts[shuffled]
    )  # fmt: skip
    assert dict(kinds["proto.LabelIndex"].FromString(label_index.encode(index)).blocks) == dict(again.blocks)


def test_any_field_order_unknown_fields_and_repeats() -> None:
    v = label_index.varint
    wire = int(codes_to_wire(block_codes([(1, 2, 3)]))[0])
    count = lambda sv, n: b"\x0a" + v(len(c := b"\x10" + v(n) + b"\x08" + v(sv))) + c  # noqa: E731
    value = b"\x55\x01\x02\x03\x04" + count(6, 1) + b"\x10\x09" + count(5, 1) + count(5, 300)
    entry = b"\x12" + v(len(value)) + value + b"\x08" + v(wire)
    data = b"\x10\x07\x79" + bytes(8) + b"\x0a" + v(len(entry)) + entry + b"\x3a\x02zz"
    rows, surfaces, scalars = facts(label_index.decode(data))
    code = int(block_codes([(1, 2, 3)])[0])
    assert rows == [(code, 5, 300), (code, 6, 1)]
    assert surfaces == [(code, 9)]
    assert scalars[0] == 7


def test_rows_without_counts_are_many_for_their_bytes() -> None:
    value = b"\x0a\x02\x08\x05" + b"\x0a\x00" * 50
    entry = b"\x12" + label_index.varint(len(value)) + value
    data = b"\x0a" + label_index.varint(len(entry)) + entry
    zero = int(block_codes([(0, 0, 0)])[0])
    assert facts(label_index.decode(data))[0] == [(zero, 0, 0), (zero, 5, 0)]
    assert facts(label_index.decode(data * 3))[0] == [(zero, 0, 0), (zero, 5, 0)]


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=60), st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), max_size=4))
def test_damage_is_refused_or_harmless(noise: bytes, changes: list[tuple[int, int]]) -> None:
    data = bytearray(label_index.as_member(EXAMPLE) + noise)
    for at, value in changes:
        data[at % len(data)] = value
    for decode in (label_index.decode, label_index.decode_many, mapping_ops.decode):
        try:
            decode(data)
        except BadRequest:
            continue


@pytest.mark.parametrize("cut", range(1, len(EXAMPLE)))
def test_truncated_indices_do_not_decode_to_the_whole(cut: int) -> None:
    with contextlib.suppress(BadRequest):
        assert facts(label_index.decode(EXAMPLE[:cut])) != facts(example())


def test_mapping_operations() -> None:
    golden = bytes.fromhex("0a090801100a1a030aac02")
    assert mapping_ops.encode([(1, 10, [10, 300])]) == golden
    originals, bodies = mapping_ops.decode(golden)
    assert originals.tolist() == [10, 300]
    assert bodies.tolist() == [10, 10]
    unpacked = bytes.fromhex("0a09" "180a" "18ac02" "100b" "0801") + golden + bytes.fromhex("0a021803")
    originals, bodies = mapping_ops.decode(unpacked)
    assert originals.tolist() == [10, 300, 10, 300, 3]
    assert bodies.tolist() == [11, 11, 10, 10, 0]
    assert len(mapping_ops.decode(b"")[0]) == 0
    with pytest.raises(BadRequest):
        mapping_ops.decode(golden[:-1])


@settings(deadline=None)
@given(st.lists(st.tuples(u64, u64, st.lists(u64, max_size=8)), max_size=8))
def test_mapping_operations_round_trip(operations: list[tuple[int, int, list[int]]]) -> None:
    originals, bodies = mapping_ops.decode(mapping_ops.encode(operations))
    assert originals.tolist() == [o for _, _, all_of_them in operations for o in all_of_them]
    assert bodies.tolist() == [body for _, body, all_of_them in operations for _ in all_of_them]
