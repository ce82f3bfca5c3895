"""Label blocks: golden bytes, round trips against slow twins, damage."""

from __future__ import annotations

import gzip
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fascicle.errors import BadRequest, CorruptionError
from fascicle.formats import label_block

SOLID_7 = bytes.fromhex("080000000800000008000000010000000700000000000000")
EXAMPLE_2 = bytes.fromhex(
    "020000000200000002000000"
    "02000000"
    "05000000000000000900000000000000"
    "02000100010001000100010001000100"
    "0000000001000000" + "00000000" * 7 + "80" + "00" * 63
)
UNINITIALISED = bytes.fromhex(
    "020000000200000002000000"
    "02000000"
    "00000000000000000500000000000000"
    "00000100010001000100010001000100"
    "01000000" + "00000000" * 6
)


def slow_decode(data: bytes) -> np.ndarray:
    """The layout followed voxel by voxel."""
    gx, gy, gz, n = struct.unpack_from("<4I", data)
    table = struct.unpack_from(f"<{n}Q", data, 16)
    out = np.zeros((8 * gz, 8 * gy, 8 * gx), np.uint64)
    if n == 1:
        out[:] = table[0]
        return out
    nsb = gx * gy * gz
    lengths = struct.unpack_from(f"<{nsb}H", data, 16 + 8 * n)
    positions = struct.unpack_from(f"<{sum(lengths)}I", data, 16 + 8 * n + 2 * nsb)
    bits = "".join(f"{byte:08b}" for byte in data[16 + 8 * n + 2 * nsb + 4 * sum(lengths) :])
    used = 0
    at = 0
    for i, length in enumerate(lengths):
        sz, sy, sx = i // (gy * gx), i // gx % gy, i % gx
        width = max(length - 1, 0).bit_length()
        for v in range(512):
            if length == 0:
                continue
            value = int(bits[at : at + width] or "0", 2)
            at += width
            out[8 * sz + v // 64, 8 * sy + v // 8 % 8, 8 * sx + v % 8] = table[positions[used + value]]
        used += length
    assert at == len(bits)
    return out


def slow_encode(block: np.ndarray) -> bytes:
    """The layout written sub-block by sub-block."""
    gz, gy, gx = (n // 8 for n in block.shape)
    table: list[int] = []
    lengths, positions, bits = [], [], ""
    for sz in range(gz):
        for sy in range(gy):
            for sx in range(gx):
                sub = block[8 * sz : 8 * sz + 8, 8 * sy : 8 * sy + 8, 8 * sx : 8 * sx + 8].reshape(-1).tolist()
                labels = sorted(set(sub))
                table += [label for label in labels if label not in table]
                lengths.append(len(labels))
                positions += [table.index(label) for label in labels]
                width = (len(labels) - 1).bit_length()
                if width:
                    bits += "".join(f"{labels.index(label):0{width}b}" for label in sub)
    head = struct.pack("<4I", gx, gy, gz, len(table)) + struct.pack(f"<{len(table)}Q", *table)
    if len(table) == 1:
        return head
    packed = int(bits or "0", 2).to_bytes(len(bits) // 8, "big")
    return head + struct.pack(f"<{len(lengths)}H", *lengths) + struct.pack(f"<{len(positions)}I", *positions) + packed


def random_block(
    shape: tuple[int, int, int], labels: int, seed: int, patch: int = 4, high: int = 2**64 - 1
) -> np.ndarray:
    """A block of cubic patches (sides `patch`) with labels drawn from a pool; patch 1 is pure noise."""
    rng = np.random.default_rng(seed)
    pool = rng.integers(0, high, labels, dtype=np.uint64, endpoint=True)
    coarse = [-(-n // patch) for n in shape]
    block = pool[rng.integers(0, labels, coarse)]
    for axis in range(3):
        block = np.repeat(block, patch, axis)
    return np.ascontiguousarray(block[: shape[0], : shape[1], : shape[2]])


SHAPES = [(8, 8, 8), (16, 16, 16), (16, 24, 32), (8, 40, 16), (24, 8, 80)]
blocks = st.builds(
    random_block,
    st.sampled_from(SHAPES),
    st.sampled_from([1, 2, 3, 4, 5, 9, 16, 17, 40, 300, 3000]),
    st.integers(0, 10**6),
    st.sampled_from([1, 3, 8, 12]),
    st.sampled_from([1, 7, 2**40, 2**64 - 1]),
)
common = settings(deadline=None, max_examples=60)


def test_golden_blocks() -> None:
    assert label_block.encode(np.full((64, 64, 64), 7, np.uint64)) == SOLID_7
    block = np.full((16, 16, 16), 5, np.uint64)
    block[0, 0, 0] = 9
    assert label_block.encode(block) == EXAMPLE_2
    assert np.array_equal(label_block.decode(EXAMPLE_2), block)
    assert label_block.count(EXAMPLE_2).tolist() == [4095, 1]


@pytest.mark.parametrize(
    ("labels", "values", "row"),
    [
        (3, [0, 1, 2, 0, 1, 2, 0, 1], "1861"),
        (5, [0, 1, 2, 3, 4, 3, 2, 1], "0538d1"),
        (512, range(8), "000040403020140c07"),
    ],
)
def test_golden_bit_packing(labels: int, values: list[int], row: str) -> None:
    sub = np.arange(512, dtype=np.uint64) % labels
    sub[:8] = list(values)
    encoded = label_block.encode(sub.reshape(8, 8, 8))
    start = 16 + 8 * labels + 2 + 4 * labels
    assert encoded[start : start + len(row) // 2].hex() == row


def test_uninitialised_sub_blocks_are_background_and_rewritten() -> None:
    expected = np.zeros((16, 16, 16), np.uint64)
    expected[:8, :8, 8:] = 5
    assert np.array_equal(label_block.decode(UNINITIALISED), slow_decode(UNINITIALISED))
    label_block.validate(UNINITIALISED, (16, 16, 16))
    normal, counts = label_block.admit(UNINITIALISED, (16, 16, 16))
    assert normal == slow_encode(label_block.decode(UNINITIALISED))
    assert counts.sum() == 4096


@common
@given(blocks)
def test_encode_and_decode_agree_with_the_slow_twins(block: np.ndarray) -> None:
    encoded = label_block.encode(block)
    assert encoded == slow_encode(block)
    assert np.array_equal(label_block.decode(encoded), block)
    assert np.array_equal(slow_decode(encoded), block)


@common
@given(blocks)
def test_counts_agree_with_unique(block: np.ndarray) -> None:
    encoded = label_block.encode(block)
    labels, voxels = np.unique(block, return_counts=True)
    found = dict(zip(label_block.table(encoded).tolist(), label_block.count(encoded).tolist(), strict=True))
    assert found == dict(zip(labels.tolist(), voxels.tolist(), strict=True))
    label_block.validate(encoded)
    assert label_block.normalise(encoded) == encoded
    assert label_block.normalise(encoded + b"trailing") == encoded


@pytest.mark.parametrize("shape", [(64, 64, 64), (128, 128, 128)])
@pytest.mark.parametrize(("labels", "patch"), [(1, 4), (30, 20), (300, 1)])
def test_large_blocks_round_trip(shape: tuple[int, int, int], labels: int, patch: int) -> None:
    block = random_block(shape, labels, 3, patch)
    encoded = label_block.encode(block)
    assert np.array_equal(label_block.decode(encoded), block)
    assert label_block.count(encoded).sum() == block.size
    assert label_block.join(label_block.split(encoded)) == encoded


def test_worst_case_has_the_published_size() -> None:
    encoded = label_block.encode(np.arange(64**3, dtype=np.uint64).reshape(64, 64, 64))
    assert len(encoded) == 3_441_680
    assert np.array_equal(label_block.decode(encoded).reshape(-1), np.arange(64**3))
    assert gzip.decompress(label_block.gzip_of(label_block.split(encoded))) == encoded


@common
@given(blocks, st.data())
def test_a_box_is_decoded_into_any_array(block: np.ndarray, data: Any) -> None:
    start = [data.draw(st.integers(0, n)) for n in block.shape]
    stop = [data.draw(st.integers(a, n)) for a, n in zip(start, block.shape, strict=True)]
    encoded = label_block.opened(label_block.encode(block))
    mapped = encoded.table + np.uint64(1)
    part = block[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))]
    volume = np.zeros([n + 3 for n in part.shape], np.uint64)
    view = volume[1:-2, 2:-1, 1:-2]
    label_block.decode_into(encoded, view, tuple(start))
    assert np.array_equal(view, part)
    assert (volume > 0).sum() == (part > 0).sum()
    label_block.decode_into(encoded, view, tuple(start), mapped)
    assert np.array_equal(view, part + np.uint64(1))
    across = np.zeros(part.shape[::-1], np.uint64).transpose(2, 1, 0)
    label_block.decode_into(encoded, across, tuple(start))
    assert np.array_equal(across, part)


@common
@given(blocks, st.integers(0, 10**6))
def test_points_agree_with_dense_voxels(block: np.ndarray, seed: int) -> None:
    encoded = label_block.encode(block)
    xyz = np.random.default_rng(seed).integers(0, block.shape[::-1], (50, 3))
    assert np.array_equal(label_block.points(encoded, xyz), block[xyz[:, 2], xyz[:, 1], xyz[:, 0]])
    assert label_block.points(UNINITIALISED, np.array([[0, 0, 0], [8, 0, 0]])).tolist() == [0, 5]
    with pytest.raises(ValueError):
        label_block.points(encoded, np.array([[0, 0, block.shape[0]]]))


def slow_runs(mask: np.ndarray, offset: tuple[int, int, int]) -> list[tuple[int, int, int, int]]:
    found: list[tuple[int, int, int, int]] = []
    for z, y, x in zip(*(axis.tolist() for axis in np.nonzero(mask)), strict=True):
        if found and (found[-1][2], found[-1][1]) == (z, y) and found[-1][0] + found[-1][3] == x:
            found[-1] = (*found[-1][:3], found[-1][3] + 1)
        else:
            found.append((x, y, z, 1))
    return [(x + offset[0], y + offset[1], z + offset[2], n) for x, y, z, n in found]


@common
@given(blocks, st.integers(0, 10**6), st.booleans(), st.data())
def test_runs_and_binary_blocks_agree_with_masks(block: np.ndarray, seed: int, bounded: bool, data: Any) -> None:
    encoded = label_block.encode(block)
    table = label_block.table(encoded)
    wanted = np.random.default_rng(seed).random(len(table)) < 0.4
    mask = np.isin(block, table[wanted])
    binary = label_block.binary_block(encoded, wanted)
    assert (binary is None) == (not mask.any())
    if binary is not None:
        assert np.array_equal(slow_binary(binary, block.shape), mask)
        assert (binary[0] == 1) == bool(wanted.all())
    offset = (-16, 1000, 32)
    bounds = None
    if bounded:
        edges = [sorted((data.draw(st.integers(-3, n + 3)), data.draw(st.integers(-3, n + 3)))) for n in block.shape]
        keep = np.zeros(block.shape, bool)
        keep[tuple(slice(max(a, 0), max(b + 1, 0)) for a, b in edges)] = True
        mask &= keep
        minimum, maximum = (tuple(edges[2 - a][side] + offset[a] for a in range(3)) for side in (0, 1))
        bounds = (minimum, maximum)
    assert label_block.runs(encoded, wanted, offset, bounds).tolist() == [list(r) for r in slow_runs(mask, offset)]


def slow_binary(data: bytes, shape: tuple[int, int, int]) -> np.ndarray:
    if data == b"\1":
        return np.ones(shape, bool)
    out = np.zeros(shape, bool)
    at = 1
    for sz in range(shape[0] // 8):
        for sy in range(shape[1] // 8):
            for sx in range(shape[2] // 8):
                kind = data[at]
                at += 1
                sub = np.full(512, kind == 1)
                if kind == 2:
                    sub = np.unpackbits(np.frombuffer(data, np.uint8, 64, at), bitorder="little").astype(bool)
                    at += 64
                out[8 * sz : 8 * sz + 8, 8 * sy : 8 * sy + 8, 8 * sx : 8 * sx + 8] = sub.reshape(8, 8, 8)
    assert at == len(data)
    return out


def test_golden_binary_blocks() -> None:
    assert label_block.binary_block(EXAMPLE_2, np.array([False, True])) == bytes.fromhex(
        "020201" + "00" * 63 + "00" * 7
    )
    assert label_block.binary_block(SOLID_7, np.array([True])) == b"\1"
    assert label_block.binary_block(SOLID_7, np.array([False])) is None


@common
@given(st.integers(0, 10**6), st.booleans())
def test_runs_of_neighbouring_blocks_are_joined(seed: int, far: bool) -> None:
    volume = random_block((16, 32, 48), 3, seed, 5)
    pieces = []
    wanted_label = volume[0, 0, 0]
    for z in range(0, 16, 8):
        for y in range(0, 32, 16):
            for x in range(0, 48, 16):
                encoded = label_block.encode(volume[z : z + 8, y : y + 16, x : x + 16])
                pieces.append(label_block.runs(encoded, label_block.table(encoded) == wanted_label, (x, y, z)))
    expected = [list(r) for r in slow_runs(volume == wanted_label, (0, 0, 0))]
    stacked = np.concatenate(pieces)
    if far:
        stacked = np.concatenate([stacked, [[-5, 10**9, 10**9, 3]]]).astype(np.int32)
        expected.append([-5, 10**9, 10**9, 3])
    assert label_block.join_runs(stacked).tolist() == expected
    assert label_block.join_runs(np.empty((0, 4), np.int32)).shape == (0, 4)


@common
@given(blocks, st.integers(0, 10**6))
def test_stored_blocks_and_spliced_gzip(block: np.ndarray, seed: int) -> None:
    encoded = label_block.encode(block)
    stored = label_block.split(encoded)
    assert label_block.join(stored) == encoded
    assert label_block.stored_table(stored).tolist() == label_block.table(encoded).tolist()
    assert label_block.stored_counts(stored).tolist() == label_block.count(encoded).tolist()
    assert label_block.stored_size_xyz(stored) == block.shape[::-1]
    assert gzip.decompress(label_block.gzip_of(stored)) == encoded
    mapped = np.random.default_rng(seed).integers(0, 3, len(label_block.table(encoded)), dtype=np.uint64)
    spliced = gzip.decompress(label_block.gzip_of(stored, mapped))
    assert spliced == label_block.join(stored, mapped)
    lookup = dict(zip(label_block.table(encoded).tolist(), mapped.tolist(), strict=True))
    assert np.array_equal(label_block.decode(spliced), np.vectorize(lookup.get, otypes=[np.uint64])(block))


@pytest.mark.parametrize("skip", [0, 1, 5])
def test_batches(skip: int) -> None:
    encoded = [label_block.encode(random_block((16, 16, 16), n, n, 3)) for n in (1, 2, 30, 4000)]
    stored = [label_block.split(e) for e in encoded]
    buffer = b""
    offsets, lengths = [], []
    for value in stored:
        buffer += b"gap"
        offsets.append(len(buffer))
        lengths.append(len(value) + skip)
        buffer += b"x" * skip + value
    offsets.append(0)
    lengths.append(-1)
    batch: Any = (np.frombuffer(buffer, np.uint8), np.array(offsets), np.array(lengths), skip)
    tables, counts, starts = label_block.gather(*batch)
    for i, e in enumerate(encoded):
        assert np.array_equal(tables[starts[i] : starts[i + 1]], label_block.table(e))
        assert np.array_equal(counts[starts[i] : starts[i + 1]], label_block.count(e))
    assert starts[-1] == starts[-2] == len(tables)
    xyz = np.array([[i, -i, 100 + i] for i in range(5)], np.int32)
    for new in (None, tables // np.uint64(3)):
        stream = label_block.block_stream(*batch, xyz, new, None if new is None else starts).tobytes()
        at = 0
        for i, e in enumerate(encoded):
            x, y, z, size = struct.unpack_from("<3iI", stream, at)
            assert (x, y, z) == (i, -i, 100 + i)
            payload = stream[at + 16 : at + 16 + size]
            expected = e if new is None else label_block.wire(label_block.opened(e), new[starts[i] : starts[i + 1]])
            assert zlib.decompress(payload, 31) == expected
            at += 16 + size
        assert at == len(stream)
    broken = bytearray(buffer)
    broken[offsets[2] + skip] = 9
    with pytest.raises(CorruptionError, match="block 2"):
        label_block.block_stream(np.frombuffer(broken, np.uint8), *batch[1:], xyz)


def test_damage_of_a_stored_block_is_noticed() -> None:
    stored = label_block.split(EXAMPLE_2)
    for damaged in (stored[:-1], b"\2" + stored[1:], stored[:10], stored[:8] + b"\0" + stored[9:]):
        with pytest.raises(CorruptionError):
            label_block.join(damaged)
    start = 24 + 12 * 2
    for value in range(256):
        if value != stored[start]:
            with pytest.raises(CorruptionError):
                label_block.join(stored[:start] + bytes((value,)) + stored[start + 1 :])


@common
@given(blocks, st.integers(0, 10**6))
def test_supervoxels_are_split_along_runs(block: np.ndarray, seed: int) -> None:
    rng = np.random.default_rng(seed)
    supervoxel = int(block.reshape(-1)[rng.integers(block.size)])
    inside = rng.random(block.shape) < 0.3
    offset = (64, -128, 8)
    runs = np.array([*slow_runs(inside, offset), (-500, -500, -500, 9), (0, -128, 8, 4)], np.int32)
    expected = block.copy()
    expected[(block == supervoxel) & inside] = 2**50 + 1
    expected[(block == supervoxel) & ~inside] = 2**50 + 2
    encoded, moved, kept = label_block.replace_in_runs(
        label_block.encode(block), supervoxel, 2**50 + 1, 2**50 + 2, runs, offset
    )
    assert np.array_equal(label_block.decode(encoded), expected)
    assert (moved, kept) == (int((expected == 2**50 + 1).sum()), int((expected == 2**50 + 2).sum()))


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "24 bytes"),
        (SOLID_7[:23], "24 bytes"),
        (EXAMPLE_2[:-1], "ends before"),
        (EXAMPLE_2[:40], "ends before"),
        (struct.pack("<4I", 2, 2, 2, 0) + bytes(20), "0 labels"),
        (struct.pack("<4I", 2, 2, 2, 2**31) + bytes(20), "claims"),
        (struct.pack("<4I", 2**30, 2**30, 2**30, 1) + bytes(20), "sub-blocks"),
        (struct.pack("<4I", 0, 2, 2, 1) + bytes(20), "sub-blocks"),
        (EXAMPLE_2[:32] + b"\x01\x02" + EXAMPLE_2[34:], "more than 512"),
        (EXAMPLE_2[:48] + b"\x07" + EXAMPLE_2[49:], "outside of its table"),
    ],
)
def test_malformed_blocks_are_refused(data: bytes, why: str) -> None:
    with pytest.raises(BadRequest, match=why):
        label_block.validate(data)


def test_values_outside_of_the_list_are_refused() -> None:
    for labels, patch in ((3, 1), (5, 1), (300, 1)):
        encoded = bytearray(label_block.encode(random_block((8, 8, 8), labels, 1, patch)))
        encoded[-1] = 255
        with pytest.raises(BadRequest, match="value"):
            label_block.validate(encoded)
    with pytest.raises(BadRequest, match="should have"):
        label_block.validate(SOLID_7, (32, 32, 32))


@settings(deadline=None, max_examples=300)
@given(
    blocks, st.lists(st.tuples(st.integers(0, 2**20), st.integers(0, 255)), min_size=1, max_size=4), st.integers(0, 9)
)
def test_random_damage_is_refused_or_harmless(block: np.ndarray, changes: list[tuple[int, int]], cut: int) -> None:
    data = bytearray(label_block.encode(block))
    for at, value in changes:
        data[at % min(len(data), 600)] = value
    if cut > 5:
        del data[-cut:]
    try:
        normal, counts = label_block.admit(data, block.shape[::-1])
    except BadRequest:
        return
    assert counts.sum() == block.size
    assert len(set(label_block.table(normal).tolist())) == len(counts)
    assert np.array_equal(
        label_block.decode(normal), slow_decode(bytes(label_block.encode(label_block.decode(normal))))
    )


def test_unused_and_repeated_entries_are_removed() -> None:
    block = random_block((16, 16, 16), 9, 5)
    encoded = label_block.encode(block)
    parts = label_block.opened(encoded)
    repeated = parts.table.copy()
    repeated[3] = repeated[1]
    normal, counts = label_block.admit(label_block.wire(parts, repeated))
    assert np.array_equal(label_block.decode(normal), label_block.decode(parts.with_table(repeated)))
    assert len(set(label_block.table(normal).tolist())) == len(counts) == len(set(repeated.tolist()))


def test_marks() -> None:
    blocks = [label_block.split(label_block.encode(np.full((8, 8, 8), label, np.uint64))) for label in (1, 2)]
    blocks.append(label_block.split(EXAMPLE_2))
    assert len({label_block.mark(stored) for stored in blocks}) == 3
    given = np.arange(8, dtype=np.uint64) + np.uint64(2**63)
    for stored in blocks:
        assert not label_block.marks(stored).any()
        marked = label_block.marked(stored, given)
        assert (marked[0], len(marked)) == (2, len(stored) + 64)
        assert np.array_equal(label_block.marks(marked), given)
        assert label_block.mark(marked) == label_block.mark(stored) != 0
        assert label_block.marked(marked, given[::-1]) == label_block.marked(stored, given[::-1])
        for asked in (label_block.join, label_block.gzip_of):
            assert asked(marked) == asked(stored)
        with pytest.raises(CorruptionError):
            label_block.mark(marked[:-1])


def test_marks_tell_blocks_with_equal_counts_apart() -> None:
    dense = np.arange(512, dtype=np.uint64).reshape(8, 8, 8) % np.uint64(2)
    one, other = (label_block.split(label_block.encode(block)) for block in (dense, np.ascontiguousarray(dense.T)))
    assert np.array_equal(label_block.stored_counts(one), label_block.stored_counts(other))
    assert label_block.mark(one) != label_block.mark(other)
