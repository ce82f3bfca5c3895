"""Chunks of every encoding: golden bytes, round trips, other implementations, damage."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fascicle.errors import BadRequest
from fascicle.formats import volume_chunks as vc

U8, U16, U32, U64 = (np.dtype(kind) for kind in ("u1", "u2", "u4", "u8"))
SEGMENTATION = "compressed_segmentation"


def labels(shape: tuple[int, ...], kinds: int, dtype: np.dtype, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    pool = rng.integers(0, np.iinfo(dtype).max, kinds, dtype, endpoint=True)
    return pool[rng.integers(0, kinds, shape)]


volumes = st.builds(
    labels,
    st.tuples(st.integers(1, 2), st.integers(1, 20), st.integers(1, 20), st.integers(1, 20)),
    st.sampled_from([1, 2, 3, 5, 17, 300, 5000]),
    st.sampled_from([U32, U64]),
    st.integers(0, 999),
)
blocks = st.sampled_from([(8, 8, 8), (4, 5, 6), (16, 8, 4), (8, 3, 2), (32, 32, 32)])


def test_golden_bytes() -> None:
    volume = np.zeros((1, 8, 8, 8), np.uint64)
    volume[..., 4:] = 7
    head = bytes.fromhex("01000000 12000001 02000000") + b"\xf0" * 64
    assert vc.encode(volume, SEGMENTATION) == head + bytes(8) + b"\x07" + bytes(7)
    assert vc.encode(volume.astype("u4"), SEGMENTATION) == head + bytes(4) + b"\x07" + bytes(3)
    assert vc.encode(np.arange(8, dtype="u2").reshape(2, 1, 2, 2), "raw") == bytes(
        [0, 0, 1, 0, 2, 0, 3, 0, 4, 0, 5, 0, 6, 0, 7, 0]
    )


@settings(deadline=None, max_examples=80)
@given(volumes, blocks)
def test_segmentation_turns_back(volume: np.ndarray, block: tuple[int, int, int]) -> None:
    data = vc.encode(volume, SEGMENTATION, block)
    assert np.array_equal(vc.decode(data, SEGMENTATION, volume.shape, volume.dtype, block), volume)
    channels, *sides = volume.shape
    larger = np.full([side + 3 for side in sides], 9, volume.dtype)
    part = larger[1:-2, 2:-1, 2:-1]
    vc.decode_into(data, SEGMENTATION, part, channels - 1, channels, block)
    assert np.array_equal(part, volume[-1])
    assert (larger == 9).sum() >= larger.size - part.size


@settings(deadline=None, max_examples=50)
@given(volumes, blocks)
def test_segmentation_of_another_implementation(volume: np.ndarray, block: tuple[int, int, int]) -> None:
    library = pytest.importorskip("compressed_segmentation")
    theirs = bytes(library.compress(np.asfortranarray(volume[0].T), block_size=block, order="F"))
    assert vc.encode(volume[:1], SEGMENTATION, block) == theirs


@settings(deadline=None, max_examples=300)
@given(volumes, st.integers(0, 5000), st.integers(0, 255), st.integers(0, 50), st.booleans())
def test_damaged_segmentation(volume: np.ndarray, at: int, value: int, cut: int, words: bool) -> None:
    data = bytearray(vc.encode(volume, SEGMENTATION))
    data[at % min(len(data), 400)] = value
    del data[len(data) - (4 if words else 1) * cut :]
    try:
        decoded = vc.decode(bytes(data), SEGMENTATION, volume.shape, volume.dtype)
    except BadRequest:
        return
    assert decoded.shape == volume.shape


def test_too_many_labels_are_refused() -> None:
    volume = np.arange(208**3, dtype=np.uint64).reshape(1, 208, 208, 208)
    with pytest.raises(BadRequest, match="too many labels"):
        vc.encode(volume, SEGMENTATION)


@pytest.mark.parametrize(
    ("encoding", "dtype"), [("raw", "f4"), ("raw", "i2"), ("raw", "u8"), ("png", "u1"), ("png", "u2")]
)
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_round_trips(encoding: str, dtype: str, channels: int) -> None:
    volume = np.random.default_rng(1).integers(0, 256, (channels, 3, 5, 7)).astype(dtype)
    volume *= np.array(257 if dtype == "u2" else 1, dtype)
    data = vc.encode(volume, encoding)
    if channels > 1 and (encoding, dtype) == ("png", "u2"):
        pytest.importorskip("imagecodecs")
    assert np.array_equal(vc.decode(data, encoding, volume.shape, volume.dtype), volume)
    assert vc.decode(data, encoding, volume.shape, volume.dtype).dtype == volume.dtype


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg(channels: int) -> None:
    z, y, x = np.mgrid[:5, :6, :9]
    volume = np.stack([10 * z + 5 * y, 3 * x + 7 * y, 200 - 9 * x])[:channels].astype(np.uint8)
    data = vc.encode(volume, "jpeg", level=100)
    assert Image.open(io.BytesIO(data)).size == (9, 30)
    decoded = vc.decode(data, "jpeg", volume.shape, U8).astype(int)
    assert np.abs(decoded - volume).max() <= 4
    assert len(vc.encode(volume, "jpeg", level=10)) < len(data)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_images_of_any_width_and_height(kind: str) -> None:
    volume = np.full((1, 4, 6, 8), 99, np.uint8)
    for size in ((8, 24), (48, 4), (192, 1), (1, 192)):
        out = io.BytesIO()
        Image.fromarray(volume.reshape(size[::-1])).save(out, kind)
        assert np.array_equal(vc.decode(out.getvalue(), kind.lower(), volume.shape, U8), volume)
    with pytest.raises(BadRequest, match="does not hold 191 voxels"):
        vc.decode(out.getvalue(), kind.lower(), (1, 1, 1, 191), U8)
    with pytest.raises(BadRequest, match="1 components instead of 3"):
        vc.decode(out.getvalue(), kind.lower(), (3, 1, 1, 192), U8)
    for damage in (out.getvalue()[:40], b"", b"nonsense" * 9):
        with pytest.raises(BadRequest):
            vc.decode(damage, kind.lower(), volume.shape, U8)


def test_png_with_few_bits_or_a_palette() -> None:
    out = io.BytesIO()
    Image.fromarray(np.eye(4, dtype=bool)).save(out, "PNG")
    assert np.array_equal(vc.decode(out.getvalue(), "png", (1, 1, 4, 4), U8)[0, 0], 255 * np.eye(4))
    out = io.BytesIO()
    Image.new("P", (4, 4), 0).save(out, "PNG")
    assert vc.decode(out.getvalue(), "png", (3, 1, 4, 4), U8).shape == (3, 1, 4, 4)
    with pytest.raises(BadRequest, match="1 bits is not one of uint16"):
        vc.decode(out.getvalue(), "png", (3, 1, 4, 4), U16)


@pytest.mark.parametrize(
    ("encoding", "shape", "dtype"),
    [("jpeg", (1, 2, 2, 2), "u2"), ("jpeg", (2, 2, 2, 2), "u1"), ("png", (1, 2, 2, 2), "f4"),
     ("png", (5, 2, 2, 2), "u1"), (SEGMENTATION, (1, 2, 2, 2), "u1"), ("jxl", (1, 2, 2, 2), "u1")],
)  # fmt: skip
def test_what_an_encoding_cannot_hold(encoding: str, shape: tuple[int, ...], dtype: str) -> None:
    with pytest.raises(BadRequest):
        vc.encode(np.zeros(shape, dtype), encoding)
    with pytest.raises(BadRequest):
        vc.decode(b"\1" * 16, encoding, shape, np.dtype(dtype))


def test_raw_of_another_length() -> None:
    with pytest.raises(BadRequest, match="7 bytes instead of 8"):
        vc.decode(b"1234567", "raw", (1, 2, 2, 2), U8)


@pytest.mark.parametrize("encoding", ["raw", "jpeg", "png"])
def test_ends_tell_a_chunk_that_was_cut(encoding: str) -> None:
    voxels = np.random.default_rng(0).integers(0, 200, (1, 8, 8, 16)).astype(U8)
    data = vc.encode(voxels, encoding)
    vc.check_ends(data, encoding, voxels.shape, U8)
    for size in {0, 1, 3, len(data) // 2 + 1, len(data) - 1}:
        with pytest.raises(BadRequest):
            vc.check_ends(data[:size], encoding, voxels.shape, U8)
    vc.check_ends(b"whatever", "jxl", voxels.shape, U8)
    vc.check_ends(vc.encode(voxels.astype(U64), SEGMENTATION), SEGMENTATION, voxels.shape, U64)
    with pytest.raises(BadRequest):
        vc.check_ends(b"123", SEGMENTATION, voxels.shape, U64)
