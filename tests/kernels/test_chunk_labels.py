"""Encoding labels where they lie, and coarser voxels, against slow twins."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fascicle.kernels import chunk_labels, coarser_voxels, segmentation_chunks
from fascicle.kernels.arrays import frozen

THIN, FOREGROUND, MAJORITY = coarser_voxels.THIN, coarser_voxels.FOREGROUND, coarser_voxels.MAJORITY


def labels_of(seed: int, shape: tuple[int, int, int], distinct: int, dtype: type) -> NDArray[np.uint64]:
    """Blobs of labels, with noise for many labels."""
    rng = np.random.default_rng(seed)
    names = rng.integers(0, np.iinfo(dtype).max, max(1, distinct), dtype)
    names[0] = 0
    coarse = rng.integers(0, len(names), [-(-n // 3) for n in shape])
    picked = coarse.repeat(3, 0).repeat(3, 1).repeat(3, 2)[: shape[0], : shape[1], : shape[2]]
    noise = rng.random(shape) < (0.9 if distinct > 30 else 0.05)
    return names[np.where(noise, rng.integers(0, len(names), shape), picked)]


@settings(max_examples=40)
@given(
    st.integers(0, 2**32), st.sampled_from([1, 2, 3, 5, 17, 25, 40, 300, 5000]), st.sampled_from([np.uint32, np.uint64])
)
def test_encodes_in_place_as_the_general_encoder_does(seed: int, distinct: int, dtype: type) -> None:
    volume = labels_of(seed, (24, 20, 40), distinct, dtype)
    wide = dtype is np.uint64
    room = np.empty(2 * 1 * 3 * chunk_labels.ROOM, np.uint32)
    flat = frozen(volume).reshape(-1)
    words = chunk_labels.encode(flat, 3 * 800 + 2 * 40 + 9, 40, 800, 2, 1, 3, room, wide)
    box = frozen(volume[3:19, 2:10, 9:33])
    expected = np.empty(room.size, np.uint32)
    count = segmentation_chunks.encode(box, 8, 8, 8, expected, wide)
    assert words == count
    assert np.array_equal(room[:words], expected[:count])


def test_blank_boxes() -> None:
    volume = np.zeros((4, 5, 6), np.uint16)
    volume[1, 2, 3] = 1
    flat = frozen(volume).reshape(-1)
    assert not chunk_labels.is_blank(flat, 0, 6, 30, 4, 5, 6)
    assert chunk_labels.is_blank(flat, 0, 6, 30, 4, 5, 3)


def slow_label(cell: NDArray[np.uint64], rule: int, block: NDArray[np.uint64]) -> int:
    """The label of a cell, as the documentation words it."""
    found = [int(v) for v in cell.ravel() if v or rule == MAJORITY]
    if not found:
        return 0
    if rule == THIN:
        return min(set(found), key=lambda label: (int((block == label).sum()), label))
    return min(set(found), key=lambda label: (-found.count(label), label))


@settings(max_examples=25)
@given(
    st.integers(0, 2**32),
    st.sampled_from([2, 4, 300]),
    st.sampled_from([FOREGROUND, MAJORITY, THIN]),
    st.sampled_from([(2, 2, 2), (1, 2, 2), (2, 1, 2), (2, 2, 1), (1, 1, 2)]),
    st.tuples(st.integers(1, 9), st.integers(1, 11), st.integers(1, 19)),
)
def test_coarser_labels(
    seed: int, distinct: int, rule: int, halved: tuple[int, int, int], shape: tuple[int, int, int]
) -> None:
    volume = labels_of(seed, shape, distinct, np.uint64)
    expected = np.zeros([-(-n // f) for n, f in zip(shape, halved, strict=True)], np.uint64)
    for place in product(*map(range, expected.shape)):
        low = [at * f for at, f in zip(place, halved, strict=True)]
        cell = volume[tuple(slice(a, a + f) for a, f in zip(low, halved, strict=True))]
        block = volume[tuple(slice(a // 8 * 8, a // 8 * 8 + 8) for a in low)]
        expected[place] = slow_label(cell, rule, block)
    out = np.full(expected.shape, 99, np.uint64)
    _, height, width = shape
    arguments = (frozen(volume).reshape(-1), 0, width, height * width, *shape, *halved, out.reshape(-1), 0)
    pitch = (out.shape[2], out.shape[1] * out.shape[2])
    if rule == THIN:
        coarser_voxels.thin_labels(*arguments, *pitch)
    else:
        coarser_voxels.halve_labels(*arguments, *pitch, rule)
    assert np.array_equal(out, expected)


@pytest.mark.parametrize("dtype", ["u1", "i2", "u4", "u8", "f4"])
def test_means(dtype: str) -> None:
    rng = np.random.default_rng(7)
    shape = (5, 7, 9)
    if dtype == "f4":
        volume = rng.random(shape).astype("f4")
    else:
        limits = np.iinfo(dtype)
        volume = rng.integers(limits.min, limits.max, shape, dtype, endpoint=True)
    kernel = {"f4": coarser_voxels.average_real, "u8": coarser_voxels.average_wide}.get(dtype, coarser_voxels.average)
    for halved in ((2, 2, 2), (1, 2, 2), (2, 1, 1)):
        out = np.zeros([-(-n // f) for n, f in zip(shape, halved, strict=True)], dtype)
        pitch = (out.shape[2], out.shape[1] * out.shape[2])
        kernel(frozen(volume).reshape(-1), 0, 9, 63, *shape, *halved, out.reshape(-1), 0, *pitch)
        for place in product(*map(range, out.shape)):
            cell = volume[tuple(slice(a * f, a * f + f) for a, f in zip(place, halved, strict=True))]
            if dtype == "f4":
                assert out[place] == pytest.approx(cell.mean(), rel=1e-6)
            else:
                values = [int(v) for v in cell.ravel()]
                assert int(out[place]) == (2 * sum(values) + len(values)) // (2 * len(values))
