"""Regions against sets of blocks."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fascicle.datatypes.roi.option import blank
from fascicle.datatypes.roi.regions import Region, _Regions, prepared
from fascicle.datatypes.roi.spans import NO_SPANS, Spans, in_order

Triple = tuple[int, int, int]
Blocks = set[Triple]

small = st.integers(-3, 3)
sizes = st.tuples(*[st.integers(1, 5)] * 3)
boxes = st.tuples(st.tuples(*[st.integers(-20, 14)] * 3), st.tuples(*[st.integers(1, 11)] * 3))


@st.composite
def some_spans(draw: st.DrawFn) -> Spans:
    rows = draw(st.lists(st.tuples(small, small, small, st.integers(0, 4)), max_size=20))
    return in_order(np.array([(z, y, x, x + more) for z, y, x, more in rows], np.int32).reshape(-1, 4))


def blocks_of(spans: Spans) -> Blocks:
    return {(x, y, z) for z, y, first, last in spans.tolist() for x in range(first, last + 1)}


def each_voxel(offset: Triple, size: Triple, inside: Callable[[Triple], bool]) -> np.ndarray:
    """bool[z, y, x]"""
    x, y, z = (range(start, start + length) for start, length in zip(offset, size, strict=True))
    return np.array([[[inside((i, j, k)) for i in x] for j in y] for k in z])


@given(some_spans(), sizes, boxes)
def test_masks_and_points(spans: Spans, block_size: Triple, box: tuple[Triple, Triple]) -> None:
    blocks, region = blocks_of(spans), Region(spans, block_size)
    wanted = each_voxel(*box, lambda p: tuple(v // s for v, s in zip(p, block_size, strict=True)) in blocks)
    assert np.array_equal(region.mask(*box), wanted)
    z, y, x = np.nonzero(np.ones_like(wanted))
    points = np.stack((x, y, z), axis=1) + np.array(box[0])
    assert np.array_equal(region.contains(points), wanted.ravel())


@settings(max_examples=50)
@given(some_spans(), sizes, sizes, boxes)
def test_blocks_of_another_size_are_inside_if_a_voxel_is(
    spans: Spans, block_size: Triple, other: Triple, box: tuple[Triple, Triple]
) -> None:
    blocks, region = blocks_of(spans), Region(spans, block_size)
    known: dict[Triple, bool] = {}

    def touches(point: Triple) -> bool:
        block = tuple(v // s for v, s in zip(point, other, strict=True))
        if block not in known:
            corner = [b * s for b, s in zip(block, other, strict=True)]
            of_block = np.argwhere(np.ones(other)) + corner
            known[block] = any(tuple(row) in blocks for row in (of_block // block_size).tolist())
        return known[block]

    wanted = each_voxel(*box, touches)
    shown = np.full(wanted.shape, 200, np.uint8)
    blank(shown, box[0], region, other, background=7)
    assert np.array_equal(shown, np.where(wanted, 200, 7))
    darkened = np.full((*wanted.shape, 4), 200, np.uint8)
    blank(darkened, box[0], region, other, attenuation=3)
    assert np.array_equal(darkened, np.repeat(np.where(wanted, 200, 25)[..., None], 4, axis=3))


def test_the_ends_of_coordinates() -> None:
    least, most = -(1 << 31), (1 << 31) - 1
    spans = np.array([[least, most, least, least], [0, 0, least, most], [most, least, most, most]], np.int32)
    region = Region(spans, (32, 32, 32))
    inside = [[32 * least, 32 * most, 32 * least], [12345, 31, 0], [32 * most + 31, 32 * least, 32 * most]]
    outside = [
        [32 * least - 1, 0, 0],
        [32 * most + 32, 0, 0],
        [0, 32 * most + 32, 0],
        [0, 0, 32 * least - 1],
        [0, -1, 0],
        [1 << 62, 1 << 62, 1 << 62],
    ]
    assert region.contains(np.array(inside + outside, np.int64)).tolist() == [True] * 3 + [False] * 6
    assert Region(NO_SPANS, (32, 32, 32)).contains(np.array(inside)).tolist() == [False] * 3
    assert Region(NO_SPANS, (2, 2, 2)).mask((0, 0, 0), (2, 2, 2)).tolist() == [[[0, 0], [0, 0]], [[0, 0], [0, 0]]]
    assert region.contains(np.zeros((0, 3), np.int64)).tolist() == []


def test_many_spans_take_little_time() -> None:
    rows = np.arange(250_000, dtype=np.int32)
    spans = np.repeat(np.stack((rows // 500, rows % 500, rows * 0, rows * 0 + 3), axis=1), 4, axis=0).astype(np.int32)
    spans[:, 2:] += np.tile(np.arange(4, dtype=np.int32) * 10, len(rows))[:, None]
    region = Region(in_order(spans), (32, 32, 32))
    assert len(region) == 1_000_000
    points = np.random.default_rng(5).integers(0, 500 * 32, (100_000, 3))
    points[:, 0] %= 40 * 32
    assert np.array_equal(region.contains(points), points[:, 0] // 32 % 10 < 4)
    assert region.mask((0, 0, 0), (320, 64, 64)).sum() == 4 * 32 * 64 * 64


def test_the_cache_forgets_what_was_not_asked_for() -> None:
    def region(n: int) -> Region:
        return Region(np.array([[n, 0, 0, 0]], np.int32), (1, 1, 1))

    cache = _Regions(3 * region(0).size_bytes)
    for n in range(3):
        cache.put((bytes((n,)), (1, 1, 1)), region(n))
    assert cache.get((b"\x00", (1, 1, 1))) is not None
    cache.put((b"\x03", (1, 1, 1)), region(3))
    assert [cache.get((bytes((n,)), (1, 1, 1))) is not None for n in range(4)] == [True, False, True, True]


@given(some_spans(), some_spans())
def test_digests_tell_spans_apart(first: Spans, second: Spans) -> None:
    stored, other = prepared(first), prepared(second)
    assert (stored == other) == np.array_equal(first, second)


@pytest.mark.parametrize("block_size", [(32, 32, 32), (64, 16, 8)])
def test_worked_example(block_size: Triple) -> None:
    region = Region(np.array([[0, 0, 0, 2], [0, 1, 0, 2], [1, 0, 1, 3], [2, 3, 5, 5]], np.int32), block_size)
    x, y, z = block_size
    points = [[3 * x - 1, y - 1, 0], [3 * x, 0, 0], [3 * x, 0, z], [-1, 0, 0]]
    assert region.contains(np.array(points)).tolist() == [True, False, True, False]
    assert region.mask((3 * x - 2, y + 2, 2), (3, 1, 1)).tolist() == [[[1, 1, 0]]]
