"""Compressed segmentation: golden bytes, an independent implementation, transcoding of label blocks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fascicle.errors import BadRequest
from fascicle.formats import compressed_segmentation, label_block

shapes = st.sampled_from([(8, 8, 8), (16, 8, 24), (24, 32, 8)])


def random_volume(shape: tuple[int, int, int], labels: int, patch: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    pool = rng.integers(0, 2**64 - 1, labels, dtype=np.uint64, endpoint=True)
    volume = pool[rng.integers(0, labels, shape)]
    for axis in range(3):
        volume = np.repeat(volume, patch, axis)
    return np.ascontiguousarray(volume[: shape[0], : shape[1], : shape[2]])


volumes = st.builds(
    random_volume,
    shapes,
    st.sampled_from([1, 2, 3, 5, 17, 30, 257, 900]),
    st.sampled_from([1, 3, 8]),
    st.integers(0, 999),
)


def test_golden_bytes() -> None:
    volume = np.full((8, 8, 8), 5, np.uint64)
    assert compressed_segmentation.encode(volume).hex() == "0100000002000000020000000500000000000000"
    volume[0, 0, 0] = 9
    assert compressed_segmentation.encode(volume).hex() == (
        "010000001200000102000000" + "fe" + "ff" * 63 + "09000000000000000500000000000000"
    )


@settings(deadline=None, max_examples=50)
@given(volumes, st.integers(1, 23))
def test_round_trip_and_slabs(volume: np.ndarray, thickness: int) -> None:
    encoded = compressed_segmentation.encode(volume)
    assert np.array_equal(compressed_segmentation.decode(encoded, volume.shape), volume)
    slabs = [volume[z : z + thickness] for z in range(0, len(volume), thickness)]
    assert compressed_segmentation.encode_slabs(slabs, volume.shape) == encoded


@settings(deadline=None, max_examples=30)
@given(volumes)
def test_agrees_with_another_implementation(volume: np.ndarray) -> None:
    library = pytest.importorskip("compressed_segmentation")
    encoded = compressed_segmentation.encode(volume)
    shape_xyz = volume.shape[::-1]
    theirs = library.decompress(encoded, volume_size=shape_xyz, dtype=np.uint64, block_size=(8, 8, 8), order="F")
    assert np.array_equal(np.asarray(theirs).reshape(shape_xyz, order="F").T, volume)
    ours = library.compress(np.asfortranarray(volume.T), block_size=(8, 8, 8), order="F")
    assert np.array_equal(compressed_segmentation.decode(ours, volume.shape), volume)


@settings(deadline=None, max_examples=50)
@given(volumes, st.integers(0, 999))
def test_label_blocks_are_transcoded(volume: np.ndarray, seed: int) -> None:
    block = label_block.opened(label_block.encode(volume))
    assert np.array_equal(
        compressed_segmentation.decode(compressed_segmentation.from_label_block(block), volume.shape), volume
    )
    mapped = np.random.default_rng(seed).integers(0, 4, len(block.table), dtype=np.uint64)
    encoded = compressed_segmentation.from_label_block(block, mapped)
    expected = label_block.decode(block.with_table(mapped))
    assert np.array_equal(compressed_segmentation.decode(encoded, volume.shape), expected)
    library = pytest.importorskip("compressed_segmentation")
    theirs = library.decompress(
        encoded, volume_size=volume.shape[::-1], dtype=np.uint64, block_size=(8, 8, 8), order="F"
    )
    assert np.array_equal(np.asarray(theirs).reshape(volume.shape[::-1], order="F").T, expected)


def test_sides_that_do_not_fit_are_refused() -> None:
    with pytest.raises(BadRequest, match="multiples of 8"):
        compressed_segmentation.encode(np.zeros((8, 8, 12), np.uint64))
    with pytest.raises(ValueError, match="slabs"):
        compressed_segmentation.encode_slabs([np.zeros((9, 8, 8), np.uint64)], (16, 8, 8))


@settings(deadline=None, max_examples=200)
@given(st.integers(0, 300), st.integers(0, 255), st.integers(0, 40))
def test_damage_is_refused_or_harmless(at: int, value: int, cut: int) -> None:
    data = bytearray(compressed_segmentation.encode(random_volume((8, 8, 16), 40, 1, 1)))
    data[at % len(data)] = value
    del data[len(data) - 4 * cut :]
    try:
        compressed_segmentation.decode(data, (8, 8, 16))
    except BadRequest:
        return
