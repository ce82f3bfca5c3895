"""Slices that are read without detours: the same voxels as those packages read that know the formats whole."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fascicle.kernels import png_rows
from fascicle.volumes import open_volume, plain_images
from fascicle.volumes.base import VolumeError

RNG = np.random.default_rng(3)


@pytest.mark.parametrize("dtype", ["u1", "u2", "u4", "i4", "f4"])
@pytest.mark.parametrize(
    "options", [{}, {"compression": "zlib"}, {"compression": "zlib", "rowsperstrip": 7}, {"byteorder": ">"}]
)
def test_tiff(tmp_path: Path, dtype: str, options: dict[str, Any]) -> None:
    image = (RNG.random((33, 29)) * 100).astype(dtype)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, image, **options)
    out = np.zeros(image.shape, dtype)
    assert plain_images.read_into(path, out)
    assert np.array_equal(out, image)
    assert plain_images.described(path) == (image.shape, image.dtype)


@pytest.mark.parametrize(
    "options",
    [
        {"compression": "lzw"},
        {"tile": (16, 16)},
        {"compression": "zlib", "predictor": True},
        {"photometric": "miniswhite"},
    ],
)
def test_other_tiff_is_left_to_others(tmp_path: Path, options: dict[str, Any]) -> None:
    image = RNG.integers(0, 200, (32, 32), np.uint8)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, image, **options)
    assert not plain_images.read_into(path, np.zeros((32, 32), np.uint8))
    assert plain_images.described(path) is None
    with open_volume(str(tmp_path)) as volume:
        assert np.array_equal(volume.read((0, 0, 0), volume.shape_zyx)[0], tifffile.imread(path))


@pytest.mark.parametrize("dtype", ["u1", "u2"])
def test_png(tmp_path: Path, dtype: str) -> None:
    image = (np.cumsum(RNG.integers(0, 3, (40, 31)), axis=1) + np.arange(40)[:, None] * 100).astype(dtype)
    path = tmp_path / "a.png"
    Image.fromarray(image).save(path)
    out = np.zeros(image.shape, dtype)
    assert plain_images.read_into(path, out)
    assert np.array_equal(out, image)


@settings(max_examples=60)
@given(st.integers(0, 2**32), st.integers(1, 9), st.integers(1, 9), st.sampled_from([1, 2]))
def test_every_filter_of_png(seed: int, width: int, height: int, size: int) -> None:
    """Against the rule as the specification words it, in rows of any filter."""
    rng = np.random.default_rng(seed)
    row = width * size
    rows = rng.integers(0, 256, (height, row), np.uint8)
    kinds = rng.integers(0, 5, height)
    data = np.concatenate([np.concatenate(([kind], line)) for kind, line in zip(kinds, rows, strict=True)]).astype(
        np.uint8
    )
    expected = np.zeros((height, row), np.int64)
    for y in range(height):
        for x in range(row):
            a = expected[y, x - size] if x >= size else 0
            b = expected[y - 1, x] if y else 0
            c = expected[y - 1, x - size] if y and x >= size else 0
            near = min((abs(int(a + b - c - v)), i, v) for i, v in enumerate((a, b, c)))[2]
            guess = [0, a, b, (a + b) // 2, near][kinds[y]]
            expected[y, x] = (int(rows[y, x]) + int(guess)) % 256
    out = np.zeros(height * row, np.uint8)
    assert png_rows.unfilter(data, row, size, out)
    assert np.array_equal(out.reshape(height, row), expected)


def test_files_that_are_not_whole(tmp_path: Path) -> None:
    image = RNG.integers(0, 200, (32, 32), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    whole = buffer.getvalue()
    path = tmp_path / "a.png"
    for length in (0, 4, 20, 40, len(whole) // 2):
        path.write_bytes(whole[:length])
        assert not plain_images.read_into(path, np.zeros((32, 32), np.uint8))
    tifffile.imwrite(tmp_path / "a.tif", image, compression="zlib")
    whole = (tmp_path / "a.tif").read_bytes()
    for length in (4, 10, 100, len(whole) - 300):
        (tmp_path / "a.tif").write_bytes(whole[:length])
        assert not plain_images.read_into(tmp_path / "a.tif", np.zeros((32, 32), np.uint8))
    with pytest.raises(VolumeError, match="cannot be read"):
        plain_images.read_into(tmp_path / "none.png", np.zeros((32, 32), np.uint8))


def test_colour_and_palettes_are_not_taken_for_gray(tmp_path: Path) -> None:
    rgb = Image.fromarray(RNG.integers(0, 255, (8, 8, 3), np.uint8))
    rgb.save(tmp_path / "rgb.png")
    rgb.convert("P").save(tmp_path / "palette.png")
    for name in ("rgb.png", "palette.png"):
        assert not plain_images.read_into(tmp_path / name, np.zeros((8, 8), np.uint8))
