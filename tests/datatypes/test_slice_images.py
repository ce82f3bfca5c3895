from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from PIL import Image

from fascicle.datatypes.slice_images import (
    ImageFormat,
    as_pixels,
    encode_image,
    encode_jpeg,
    encode_png,
    encode_tiff,
    parse_format,
    rescale_average,
    rescale_nearest,
)
from fascicle.errors import BadRequest

SHAPES = npst.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=24)


def png_samples(data: bytes) -> np.ndarray[Any, Any]:
    """The samples of a PNG whose rows have the filters none or up, in big-endian bytes as stored [row, byte]."""
    width, height, depth, colour = struct.unpack(">IIBB", data[16:26])
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    at, packed = 8, b""
    while at < len(data):
        (size,), name = struct.unpack(">I", data[at : at + 4]), data[at + 4 : at + 8]
        body = data[at + 8 : at + 8 + size]
        assert zlib.crc32(name + body) == struct.unpack(">I", data[at + 8 + size : at + 12 + size])[0]
        packed += body if name == b"IDAT" else b""
        at += 12 + size
    row_bytes = width * depth // 8 * (4 if colour == 6 else 1)
    lines = np.frombuffer(zlib.decompress(packed), np.uint8).reshape(height, row_bytes + 1)
    rows, above = [], np.zeros(row_bytes, np.uint8)
    for line in lines:
        assert line[0] in (0, 2)
        above = line[1:] + (above if line[0] == 2 else 0)
        rows.append(above)
    return np.array(rows)


@given(npst.arrays(np.uint8, SHAPES))
def test_gray_png(image: np.ndarray[Any, Any]) -> None:
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(encode_png(image)))), image)


@given(npst.arrays(np.uint16, SHAPES))
def test_deep_gray_png(image: np.ndarray[Any, Any]) -> None:
    data = encode_png(image)
    assert np.array_equal(png_samples(data).view(">u2"), image)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(data))), image)


@given(npst.arrays(np.uint32, SHAPES))
def test_words_become_rgba(image: np.ndarray[Any, Any]) -> None:
    picture = Image.open(io.BytesIO(encode_image(image, ImageFormat())))
    assert picture.mode == "RGBA"
    assert np.array_equal(np.ascontiguousarray(picture).view("<u4")[:, :, 0], image)
    assert np.array_equal(as_pixels(image.view(np.float32)), as_pixels(image))


@given(npst.arrays(np.uint64, SHAPES))
def test_labels_become_deep_rgba(image: np.ndarray[Any, Any]) -> None:
    data = encode_image(image, ImageFormat())
    assert data[24:26] == bytes((16, 6))
    assert np.array_equal(np.ascontiguousarray(png_samples(data)).view("<u8"), image)


def test_label_sample_bytes() -> None:
    image = np.array([[0x0807060504030201]], np.uint64)
    assert png_samples(encode_image(image, ImageFormat())).tobytes() == bytes(range(1, 9))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, np.uint64])
def test_tiff(dtype: type[np.generic]) -> None:
    tifffile = pytest.importorskip("tifffile")
    image = (np.arange(35).reshape(5, 7) * 7_000_000_001 % 2**53).astype(dtype)
    data = encode_image(image, ImageFormat("tiff"))
    assert np.array_equal(tifffile.imread(io.BytesIO(data)), as_pixels(image))
    if dtype == np.uint8:
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(encode_tiff(image)))), image)


@pytest.mark.parametrize("kind", ["png", "tiff", "bmp", "jpg"])
@pytest.mark.parametrize("channels", [3, 4])
def test_colours(kind: str, channels: int) -> None:
    if kind == "tiff":
        pytest.importorskip("tifffile")
    image = np.zeros((9, 11, channels), np.uint8)
    image[:, :, 0], image[:, :, 1], image[:, :, -1] = 40, 200, 255
    found = np.asarray(Image.open(io.BytesIO(encode_image(image, ImageFormat(kind, 95)))))
    assert np.abs(found.astype(int)[:, :, :3] - image[:, :, :3]).max() <= (8 if kind == "jpg" else 0)
    assert found.shape[2] == (channels if kind in ("png", "tiff") else 3)


def test_bmp() -> None:
    image = np.arange(35, dtype=np.uint8).reshape(5, 7)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(encode_image(image, ImageFormat("bmp"))))), image)
    deep = image.astype(np.uint16) << 8
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(encode_image(deep, ImageFormat("bmp"))))), image)


def test_jpeg() -> None:
    ramp = np.add.outer(np.arange(40), np.arange(60)).astype(np.uint8)
    picture = Image.open(io.BytesIO(encode_image(ramp, ImageFormat("jpg", 95))))
    assert (picture.mode, picture.size) == ("L", (60, 40))
    assert np.abs(np.asarray(picture).astype(int) - ramp).max() <= 4
    assert len(encode_jpeg(ramp, 95)) > len(encode_jpeg(ramp, 30))
    colour = Image.open(io.BytesIO(encode_jpeg(ramp.astype(np.uint16) << 8)))
    assert colour.mode == "RGB"
    transparent = np.dstack([ramp, ramp, ramp, np.zeros_like(ramp)])
    assert np.asarray(Image.open(io.BytesIO(encode_jpeg(transparent)))).max() <= 2
    with pytest.raises(BadRequest, match="at most 65535"):
        encode_jpeg(np.zeros((70_000, 2), np.uint8))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ImageFormat("png")),
        ("png:5", ImageFormat("png", 5)),
        ("JPG", ImageFormat("jpg", 80)),
        ("jpeg:30", ImageFormat("jpg", 30)),
        ("tif", ImageFormat("tiff")),
        ("bmp", ImageFormat("bmp")),
    ],
)
def test_formats(text: str, expected: ImageFormat) -> None:
    assert parse_format(text) == expected


@pytest.mark.parametrize("text", ["gif", "jpg:x", "jpg:0", "jpg:101", "jpg:", "octet-stream"])
def test_unknown_formats(text: str) -> None:
    with pytest.raises(BadRequest, match="image format"):
        parse_format(text)


def slow_average(image: np.ndarray[Any, Any], width: int, height: int) -> np.ndarray[Any, Any]:
    h, w = image.shape
    out = np.zeros((height, width), object)
    for big_y in range(height):
        for big_x in range(width):
            total = 0
            for y in range(h):
                oy = min((y + 1) * height, (big_y + 1) * h) - max(y * height, big_y * h)
                for x in range(w):
                    ox = min((x + 1) * width, (big_x + 1) * w) - max(x * width, big_x * w)
                    if ox > 0 and oy > 0:
                        total += int(image[y, x]) * ox * oy
            out[big_y, big_x] = total // (w * h)
    return out


@given(
    st.sampled_from([np.uint8, np.uint16, np.uint32, np.uint64]).flatmap(
        lambda dtype: npst.arrays(dtype, npst.array_shapes(min_dims=2, max_dims=2, max_side=7))
    ),
    st.integers(1, 9),
    st.integers(1, 9),
)
def test_average(image: np.ndarray[Any, Any], width: int, height: int) -> None:
    scaled = rescale_average(image, width, height)
    assert scaled.dtype == image.dtype
    assert np.array_equal(scaled.astype(object), slow_average(image, width, height))


def test_average_examples() -> None:
    image = np.array([[0, 1, 2, 3], [8, 9, 10, 11]], np.uint8)
    assert rescale_average(image, 4, 4).tolist() == [[0, 1, 2, 3]] * 2 + [[8, 9, 10, 11]] * 2
    assert rescale_average(image, 3, 2).tolist() == [[0, 1, 2], [8, 9, 10]]
    assert rescale_average(image.astype(np.float32), 1, 1).tolist() == [[5.5]]
    colour = np.stack([image] * 4, axis=2)
    assert np.array_equal(rescale_average(colour, 3, 2)[:, :, 2], rescale_average(image, 3, 2))


def test_nearest() -> None:
    image = np.array([[1, 2, 3]], np.uint64)
    assert rescale_nearest(image, 6, 2).tolist() == [[1, 1, 2, 2, 3, 3]] * 2
    assert rescale_nearest(image, 2, 1).tolist() == [[1, 2]]
