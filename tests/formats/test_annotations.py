"""Annotations as bytes: golden records, both directions, and what is refused."""

from __future__ import annotations

import struct
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fascicle.errors import BadRequest
from fascicle.formats import annotations as an
from fascicle.formats.annotation_info import (
    COLORS,
    KINDS,
    NUMBERS,
    AnnotationsInfo,
    Index,
    Level,
    Property,
    in_record_order,
)
from fascicle.formats.annotations import Columns, Lists

MIXED = in_record_order(
    Property(id=f"p_{kind}", type=kind) for kind in ("uint8", "float32", "rgb", "uint16", "uint32", "rgba")
)
VALUES: dict[str, Any] = {
    "p_float32": np.array([0.5], "f4"), "p_uint32": np.array([7], "u4"), "p_uint16": np.array([258], "u2"),
    "p_uint8": np.array([9], "u1"), "p_rgb": np.array([[1, 2, 3]], "u1"), "p_rgba": np.array([[4, 5, 6, 255]], "u1"),
}  # fmt: skip
TAIL = struct.pack("<fIHB3B4B", 0.5, 7, 258, 9, 1, 2, 3, 4, 5, 6, 255) + b"\0\0"


def make_info(
    kind: str, properties: tuple[Property, ...] = (), relationships: int = 0, rank: int = 3
) -> AnnotationsInfo:
    return AnnotationsInfo(
        dimensions={f"d{i}": (8e-9, "m") for i in range(rank)},
        lower_bound=(0.0,) * rank,
        upper_bound=(100.0,) * rank,
        annotation_type=kind,
        properties=properties,
        relationships=tuple(Index(key=f"rel{i}", id=f"r{i}") for i in range(relationships)),
        by_id=Index(key="by_id"),
        spatial=(Level(key="spatial0", grid_shape=(1,) * rank, chunk_size=(100.0,) * rank, limit=1),),
    )


def test_golden_records() -> None:
    """Lengths and order are those of the format's description: info order u8, f32, rgb, u16, u32, rgba."""
    assert [one.type for one in MIXED] == ["float32", "uint32", "uint16", "uint8", "rgb", "rgba"]
    ids = np.array([5], np.uint64)
    a, b = [1.0, 2.0, 3.0], [4.0, 5.0, 6.0]
    for kind, points, size in (("POINT", [a], 32), ("LINE", [a, b], 44), ("ELLIPSOID", [a, b], 44)):
        info = make_info(kind, MIXED, 2)
        columns = Columns(
            ids, np.array([points], "f4"), VALUES, (Lists.of([[10, 1 << 63]]), Lists.of([[]]))
        )
        record = struct.pack(f"<{3 * len(points)}f", *np.array(points).reshape(-1)) + TAIL
        assert len(record) == size == an.record_bytes(info)
        assert an.encode_list(info, columns) == struct.pack("<Q", 1) + record + struct.pack("<Q", 5)
        data, starts = an.encode_singles(info, columns)
        assert bytes(data) == record + struct.pack("<IQQI", 2, 10, 1 << 63, 0)
        assert starts.tolist() == [0, len(data)]
    info = make_info("POLYLINE", MIXED)
    lines = Lists(np.array([a, b, a], "f4"), np.array([0, 3]))
    record = struct.pack("<I9f", 3, *a, *b, *a) + TAIL
    assert len(record) == 60
    assert an.encode_list(info, Columns(ids, lines, VALUES)) == struct.pack("<Q", 1) + record + struct.pack("<Q", 5)


def test_float_and_uint32_have_20_bytes() -> None:
    """The case in which the released writer of the viewer's own package makes 24."""
    info = make_info("POINT", (Property(id="a", type="float32"), Property(id="b", type="uint32")))
    assert an.record_bytes(info) == 20


@st.composite
def sets(draw: st.DrawFn) -> tuple[AnnotationsInfo, Columns]:
    kinds = draw(st.lists(st.sampled_from([*NUMBERS, *COLORS]), max_size=5))
    properties = in_record_order(Property(id=f"p{i}", type=kind) for i, kind in enumerate(kinds))
    info = make_info(
        draw(st.sampled_from(KINDS)), properties, draw(st.integers(0, 2)), draw(st.integers(1, 4))
    )
    count = draw(st.integers(0, 5))
    noise = np.random.default_rng(draw(st.integers(0, 1000)))
    values: dict[str, Any] = {}
    for one in properties:
        shape = (count, one.channels) if one.channels > 1 else (count,)
        raw = noise.integers(0, 256, (*shape, np.dtype(one.number).itemsize), np.uint8).view(one.number)[..., 0]
        values[one.id] = np.nan_to_num(raw, nan=1.5, posinf=2, neginf=3) if one.type == "float32" else raw
    if info.annotation_type == "POLYLINE":
        lengths = noise.integers(2, 6, count)
        points: Any = Lists(noise.random((int(lengths.sum()), info.rank), np.float32), an.starts_of(lengths))
    else:
        points = noise.random((count, an.POINTS[info.annotation_type], info.rank), np.float32)
    related = tuple(
        Lists.of(noise.integers(0, 1 << 64, (count, i + 1), np.uint64).tolist()) for i in range(len(info.relationships))
    )
    return info, Columns(noise.integers(0, 1 << 64, count, np.uint64), points, values, related)


def same(a: Columns, b: Columns) -> None:
    np.testing.assert_array_equal(a.ids, b.ids)
    if isinstance(a.points, Lists):
        assert isinstance(b.points, Lists)
        np.testing.assert_array_equal(a.points.values, b.points.values)
        np.testing.assert_array_equal(a.points.starts, b.points.starts)
    else:
        np.testing.assert_array_equal(a.points, b.points)
    assert list(a.properties) == list(b.properties)
    for name, values in a.properties.items():
        np.testing.assert_array_equal(values, b.properties[name])
        assert values.dtype == b.properties[name].dtype


@settings(max_examples=60, deadline=None)
@given(sets())
def test_both_directions(given: tuple[AnnotationsInfo, Columns]) -> None:
    info, columns = given
    data = an.encode_list(info, columns)
    same(columns, an.decode_list(info, data))
    singles, starts = an.encode_singles(info, columns)
    for i, identifier in enumerate(columns.ids.tolist()):
        found = an.decode_single(info, identifier, singles[starts[i] : starts[i + 1]])
        same(columns.take(np.array([i])), found)
        for before, after in zip(columns.related, found.related, strict=True):
            assert before.row(i).tolist() == after.row(0).tolist()
    rows = np.arange(len(columns))
    same(columns, an.joined(info, [columns.take(rows[:1]), columns.take(rows[1:])]))
    if data[8:]:
        with pytest.raises(BadRequest):
            an.decode_list(info, data[:-1])


def test_slow_twin() -> None:
    """Records of polylines put together one by one."""
    noise = np.random.default_rng(3)
    info = make_info("POLYLINE", (Property(id="a", type="uint16"), Property(id="b", type="uint8")), 1)
    lengths = noise.integers(2, 9, 50)
    points = noise.random((int(lengths.sum()), 3), np.float32)
    values = {"a": noise.integers(0, 1 << 16, 50).astype("u2"), "b": noise.integers(0, 256, 50).astype("u1")}
    related = [noise.integers(1, 99, noise.integers(0, 4)).tolist() for _ in range(50)]
    lines = Lists(points, an.starts_of(lengths))
    columns = Columns(np.arange(50, dtype=np.uint64), lines, values, (Lists.of(related),))
    records, at = [], 0
    for i, length in enumerate(lengths.tolist()):
        body = points[at : at + length].tobytes()
        records.append(struct.pack("<I", length) + body + struct.pack("<HBx", values["a"][i], values["b"][i]))
        at += length
    expected = struct.pack("<Q", 50) + b"".join(records) + columns.ids.tobytes()
    assert an.encode_list(info, columns) == expected
    data, _ = an.encode_singles(info, columns)
    singles = [
        one + struct.pack(f"<I{len(ids)}Q", len(ids), *ids) for one, ids in zip(records, related, strict=True)
    ]
    assert bytes(data) == b"".join(singles)


def test_many_points() -> None:
    """A million points take a moment, not minutes."""
    count = 1_000_000
    info = make_info("POINT", (Property(id="a", type="float32"), Property(id="b", type="uint8")), 1)
    ids = np.arange(count, dtype=np.uint64)
    columns = Columns(
        ids, np.ones((count, 1, 3), "f4"), {"a": np.ones(count, "f4"), "b": np.ones(count, "u1")}, (Lists.single(ids),)
    )
    began = time.process_time()
    assert len(an.encode_list(info, columns)) == 8 + count * 28
    data, _ = an.encode_singles(info, columns)
    assert len(data) == count * 32 - 8
    assert time.process_time() - began < 5


@pytest.mark.parametrize(
    ("points", "values", "word"),
    [
        (np.ones((1, 2, 3), "f4"), np.ones(1, "u1"), r"\[1, 1, 3\]"),
        (np.full((1, 1, 3), np.nan, "f4"), np.ones(1, "u1"), "not finite"),
        (np.ones((1, 1, 3), "f4"), np.ones(2, "u1"), "'a' is an array"),
        (np.ones((1, 1, 3), "f4"), np.array([256]), "no uint8"),
        (np.ones((1, 1, 3), "f4"), np.array([0.5]), "no uint8"),
        (np.ones((1, 1, 3), "f4"), None, "missing"),
    ],
)
def test_refused(points: Any, values: Any, word: str) -> None:
    info = make_info("POINT", (Property(id="a", type="uint8"),))
    columns = Columns(np.ones(1, np.uint64), points, {} if values is None else {"a": values})
    with pytest.raises(BadRequest, match=word):
        an.encode_list(info, columns)


@pytest.mark.parametrize("data", [b"", bytes(7), struct.pack("<Q", 1 << 60), struct.pack("<Q", 2) + bytes(16)])
@pytest.mark.parametrize("kind", KINDS)
def test_damaged_lists(kind: str, data: bytes) -> None:
    with pytest.raises(BadRequest):
        an.decode_list(make_info(kind), data)


def test_damaged_singles() -> None:
    info = make_info("POINT", relationships=1)
    for data in (b"", bytes(12), bytes(12) + struct.pack("<I", 1), bytes(20)):
        with pytest.raises(BadRequest):
            an.decode_single(info, 1, data)
    with pytest.raises(BadRequest):
        an.decode_single(make_info("POLYLINE"), 1, struct.pack("<I", 0xFFFFFFFF) + bytes(24))
