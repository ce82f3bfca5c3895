"""Loops for labels at points, against obvious ones."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fascicle.formats import volume_chunks
from fascicle.kernels import chunk_points
from fascicle.kernels.arrays import frozen


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(0, 60))
def test_points_by_chunk(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    size, chunk = rng.integers(1, 30, 3), rng.integers(1, 9, 3)
    offset = rng.integers(-20, 20, 3)
    points = rng.integers(-3, 33, (count, 3)) + offset
    grid = -(-size // chunk)
    cells = np.empty(count, np.int64)
    chunk_points.cells_of(points, offset, size, chunk, grid, cells)
    expected = []
    for point in points - offset:
        inside = ((point >= 0) & (point < size)).all()
        x, y, z = point // chunk
        expected.append(x + grid[0] * (y + grid[1] * z) if inside else -1)
    assert cells.tolist() == expected

    starts = np.zeros(int(np.prod(grid)) + 1, np.int64)
    order, places = np.empty(count, np.int64), np.empty(count, np.int64)
    inside = chunk_points.grouped(cells, points, offset, chunk, starts, order, places)
    assert inside == sum(cell >= 0 for cell in expected)
    for cell in range(len(starts) - 1):
        members = order[starts[cell] : starts[cell + 1]].tolist()
        assert members == [i for i, found in enumerate(expected) if found == cell]
    again = np.empty(inside, np.int64)
    chunk_points.places_of(points, offset, chunk, order[:inside], again)
    for k, i in enumerate(order[:inside].tolist()):
        x, y, z = ((points[i] - offset) % chunk).tolist()
        assert places[k] == again[k] == x + (y << 21) + (z << 42)


@settings(max_examples=40)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from(["uint32", "uint64"]),
    st.tuples(*[st.integers(1, 20)] * 3),
    st.tuples(*[st.integers(1, 9)] * 3),
    st.sampled_from([1, 2, 3, 5, 17, 300, 1 << 40]),
)
def test_labels_without_decoding(
    seed: int, dtype: str, shape: tuple[int, int, int], block: tuple[int, int, int], labels: int
) -> None:
    rng = np.random.default_rng(seed)
    volume = rng.integers(0, min(labels, np.iinfo(dtype).max), shape, np.uint64).astype(dtype)
    data = volume_chunks.encode(volume[None], "compressed_segmentation", block)
    local = rng.integers(0, shape[::-1], (50, 3))
    out = np.full(60, 7, np.uint64)
    order = rng.permutation(50)[:40]
    words = volume_chunks.segmentation_channel(data, 0, 1)
    x, y, z = local[order].T
    places = frozen(x | y << 21 | z << 42)
    arguments = (np.array(block), np.array(shape[::-1]), places, frozen(order), out)
    assert chunk_points.segmentation_at(words, *arguments, dtype == "uint64")
    expected = np.full(60, 7, np.uint64)
    for i in order:
        x, y, z = local[i]
        expected[i] = volume[z, y, x]
    assert np.array_equal(out, expected)

    raw = np.zeros(60, dtype)
    chunk_points.raw_at(frozen(volume), places, frozen(order), raw)
    assert np.array_equal(raw[order], expected[order].astype(dtype))


@settings(max_examples=50)
@given(st.integers(0, 2**32 - 1), st.binary(max_size=200))
def test_damage_stays_within_the_chunk(seed: int, damage: bytes) -> None:
    """Whatever the words are, nothing is read outside of them."""
    rng = np.random.default_rng(seed)
    volume = rng.integers(0, 9, (8, 8, 16)).astype(np.uint64)
    data = bytearray(volume_chunks.encode(volume[None], "compressed_segmentation"))
    at = int(rng.integers(4, len(data)))
    data[at : at + len(damage)] = damage
    words = frozen(np.frombuffer(bytes(data[4 : len(data) - len(data) % 4]), "<u4"))
    x, y, z = rng.integers(0, (16, 8, 8), (30, 3)).T
    out = np.zeros(30, np.uint64)
    place = (np.full(3, 8), np.array([16, 8, 8]), frozen(x | y << 21 | z << 42), frozen(np.arange(30)), out)
    assert chunk_points.segmentation_at(words, *place, True) in (True, False)
    assert not chunk_points.segmentation_at(words[:3], *place, True)


@pytest.mark.parametrize("width", [3, 33, 255])
def test_widths_that_do_not_exist(width: int) -> None:
    words = frozen(np.array([2 | width << 24, 2, 0, 0, 0, 0], np.uint32))
    one = frozen(np.zeros(1, np.int64))
    assert not chunk_points.segmentation_at(words, np.full(3, 8), np.full(3, 8), one, one, np.zeros(1, np.uint64), True)
