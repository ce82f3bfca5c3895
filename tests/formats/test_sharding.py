"""Sharding: golden bytes, hashes, keys of grids, what is written is found again, damage is refused."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fascicle.errors import BadRequest
from fascicle.formats import sharding as sh

PLAIN = {"preshift_bits": 0, "hash": "identity", "minishard_bits": 0, "shard_bits": 0}

shardings = st.builds(
    sh.Sharding,
    preshift_bits=st.integers(0, 12),
    hash=st.sampled_from(["identity", "murmurhash3_x86_128"]),
    minishard_bits=st.integers(0, 5),
    shard_bits=st.integers(0, 3),
    minishard_index_encoding=st.sampled_from(["raw", "gzip"]),
    data_encoding=st.sampled_from(["raw", "gzip"]),
)
u64 = st.integers(0, 2**64 - 1) | st.integers(0, 50)


def value_in(file: bytes, sharding: sh.Sharding, key: int) -> bytes | None:
    """What a reader does with byte ranges."""
    _, minishard = sharding.place(key)
    first, last = sharding.index_span(minishard)
    span = sharding.minishard_span(file[first:last])
    if span is None:
        return None
    place = sharding.minishard_index(file[slice(*span)]).find(key)
    return None if place is None else sharding.unpacked(file[slice(*place)], 1 << 20)


def test_golden_bytes() -> None:
    file = sh.build_shard(sh.Sharding(**PLAIN), 0, [(1, b"b" * 4096), (0, b"a" * 4096)])
    assert file[:16].hex() == "00200000000000003020000000000000"
    assert file[16 : 16 + 8192] == b"a" * 4096 + b"b" * 4096
    assert struct.unpack("<6Q", file[-48:]) == (0, 1, 0, 0, 4096, 4096)
    assert len(file) == 8256


def test_hashes() -> None:
    keys = np.array([0, 1, 2, 10, 1000, 1537331894], np.uint64)
    assert sh.murmurhash3_x86_128(keys).tolist() == [
        5148371408780832321, 16770674756601302682, 15433726874232110938,
        14170201220281386132, 18166190685042036079, 16445007013936879798,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("cell", "code"), [((1, 0, 0), 1), ((0, 1, 0), 2), ((0, 0, 1), 4), ((3, 4, 5), 397), ((6, 4, 8), 712)]
)
def test_keys_of_cells(cell: tuple[int, int, int], code: int) -> None:
    assert sh.morton_code(cell, (7, 5, 9)) == code
    assert sh.morton_cell(code, (7, 5, 9)) == cell
    assert sh.morton_codes(np.array([cell]), (7, 5, 9)).tolist() == [code]


def test_cells_outside_of_the_grid_are_refused() -> None:
    for cell in ((7, 0, 0), (0, -1, 0)):
        with pytest.raises(BadRequest, match="outside"):
            sh.morton_code(cell, (7, 5, 9))


@given(st.lists(st.integers(1, 300), min_size=1, max_size=5), st.data())
def test_keys_are_distinct_and_turn_back(grid: list[int], data: st.DataObject) -> None:
    cell = [data.draw(st.integers(0, side - 1)) for side in grid]
    code = sh.morton_code(cell, grid)
    assert sh.morton_cell(code, grid) == tuple(cell)
    assert code < 1 << sum(sh.morton_bits(grid))
    assert sh.morton_codes(np.array([cell]), grid).tolist() == [code]
    assert sh.morton_cells(np.array([0, code], np.uint64), grid).tolist() == [[0] * len(grid), cell]


@pytest.mark.parametrize(("bits", "shard", "name"), [(0, 0, "0.shard"), (13, 0x1A, "001a.shard"), (4, 15, "f.shard")])
def test_names(bits: int, shard: int, name: str) -> None:
    assert sh.Sharding(**PLAIN | {"shard_bits": bits}).file_name(shard) == name


@settings(max_examples=80, deadline=None)
@given(shardings, st.dictionaries(u64, st.binary(max_size=60), max_size=40))
def test_what_is_written_is_found(sharding: sh.Sharding, values: dict[int, bytes]) -> None:
    shards: dict[int, list[tuple[int, bytes]]] = {}
    for key, value in values.items():
        shards.setdefault(sharding.place(key)[0], []).append((key, value))
    files = {shard: sh.build_shard(sharding, shard, items) for shard, items in shards.items()}
    for key, value in values.items():
        assert value_in(files[sharding.place(key)[0]], sharding, key) == value
    for absent in (0, 7, 2**64 - 1):
        if absent not in values and (file := files.get(sharding.place(absent)[0])):
            assert value_in(file, sharding, absent) is None
    keys = np.array(list(values), np.uint64)
    numbers = [sharding.place(int(key)) for key in keys]
    assert list(zip(*(column.tolist() for column in sharding.places(keys)), strict=True)) == numbers


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 400), st.integers(0, 255), st.integers(0, 40), st.sampled_from(["raw", "gzip"]))
def test_damage_is_refused_or_harmless(at: int, value: int, cut: int, encoding: str) -> None:
    sharding = sh.Sharding(**PLAIN | {"minishard_bits": 1, "minishard_index_encoding": encoding})
    file = bytearray(sh.build_shard(sharding, 0, [(key, bytes([key]) * 9) for key in range(8)]))
    file[at % len(file)] = value
    del file[len(file) - cut :]
    try:
        found = [value_in(bytes(file), sharding, key) for key in range(8)]
    except BadRequest:
        return
    assert len(found) == 8


def test_values_that_are_too_long_are_refused() -> None:
    for encoding in ("raw", "gzip"):
        data = sh.packed(bytes(10**6), encoding)  # type: ignore[arg-type]
        assert sh.unpacked(data, encoding, 10**6) == bytes(10**6)  # type: ignore[arg-type]
        with pytest.raises(BadRequest, match="more than"):
            sh.unpacked(data, encoding, 10**6 - 1)  # type: ignore[arg-type]
    with pytest.raises(BadRequest, match="too soon"):
        sh.unpacked(data[:-9], "gzip", 10**7)
    with pytest.raises(BadRequest, match="not gzip"):
        sh.unpacked(b"nonsense" * 9, "gzip", 10**7)


def test_a_writer_keeps_to_its_shard_and_order(tmp_path) -> None:  # type: ignore[no-untyped-def]
    sharding = sh.Sharding(**PLAIN | {"shard_bits": 1, "preshift_bits": 0})
    with (tmp_path / "0.shard").open("wb") as out:
        writer = sh.ShardWriter(sharding, 0, out)
        writer.add(4, b"x")
        with pytest.raises(ValueError, match="belongs to shard 1"):
            writer.add(5, b"x")
        with pytest.raises(ValueError, match="comes after"):
            writer.add(2, b"x")
        writer.add(6, sh.packed(b"y", "raw"), is_packed=True)
        assert writer.finish() == 2
    file = (tmp_path / "0.shard").read_bytes()
    assert [value_in(file, sharding, key) for key in (2, 4, 6)] == [None, b"x", b"y"]


@pytest.mark.parametrize(
    ("size", "chunk", "voxels", "bits", "cells"),
    [
        ((124416, 67072, 7063), (128, 128, 32), 512**3, (8, 0, 20), (8, 8, 4)),
        ((124416, 67072, 7063), (128, 128, 32), 1024**3, (9, 2, 17), (16, 16, 8)),
        ((34432, 39552, 41408), (64, 64, 64), 512**3, (9, 0, 21), (8, 8, 8)),
        ((2048, 2048, 512), (64, 64, 64), 1024**3, (9, 3, 1), (32, 16, 8)),
        ((512, 512, 512), (64, 64, 64), 512**3, (9, 0, 0), (8, 8, 8)),
    ],
)
def test_parameters_for_volumes(size, chunk, voxels, bits, cells) -> None:  # type: ignore[no-untyped-def]
    sharding = sh.sharding_for_volume(size, chunk, "raw", voxels)
    assert sharding is not None
    assert (sharding.preshift_bits, sharding.minishard_bits, sharding.shard_bits) == bits
    assert sh.shard_cells(sharding, [-(-a // b) for a, b in zip(size, chunk, strict=True)]) == cells
    assert sharding.data_encoding == "gzip"
    jpeg = sh.sharding_for_volume(size, chunk, "jpeg", voxels)
    assert jpeg is not None
    assert jpeg.data_encoding == "raw"
    assert sh.sharding_for_volume((256, 256, 256), (64, 64, 64), "raw") is None


@pytest.mark.parametrize(
    ("count", "shard", "minishard"),
    [(10**3, 0, 0), (3 * 10**4, 0, 5), (10**5, 0, 7), (10**6, 1, 9), (10**7, 4, 9), (10**8, 8, 9)],
)
def test_parameters_for_keys(count: int, shard: int, minishard: int) -> None:
    sharding = sh.sharding_for_keys(count)
    assert sharding is not None
    assert (sharding.shard_bits, sharding.minishard_bits) == (shard, minishard)
    assert sh.sharding_for_keys(1) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"@type": "other"}, "'other'"),
        ({"hash": "md5"}, "md5"),
        ({"minishard_bits": 60}, "minishard_bits is 60"),
        ({"minishard_bits": 20, "shard_bits": 45}, "shard_bits is 45"),
        ({"preshift_bits": -1}, "preshift_bits is -1"),
        ({"shard_bits": "x"}, "shard_bits"),
        ({"data_encoding": "zstd"}, "zstd"),
    ],
)
def test_members_that_make_no_sense(change: dict[str, object], message: str) -> None:
    with pytest.raises(BadRequest, match=message):
        sh.read_sharding(PLAIN | change)
    assert sh.read_sharding(PLAIN) == sh.Sharding(**PLAIN)
