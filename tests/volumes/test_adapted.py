"""Volumes seen with other axes, types, places and labels."""

from __future__ import annotations

import numpy as np
import pytest

from fascicle.errors import BadRequest
from fascicle.volumes.adapted import Adaptation, AdaptedVolume, Axes
from fascicle.volumes.array_files import ArrayVolume
from fascicle.volumes.base import VolumeError

ARRAY = np.arange(2 * 3 * 4, dtype=np.uint16).reshape(2, 3, 4)


def adapted(**options: object) -> AdaptedVolume:
    source = ArrayVolume(ARRAY)
    source.resolution_nm, source.offset_xyz = (1, 2, 3), (10, 20, 30)
    return AdaptedVolume(source, Adaptation(**options))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("axes", "expected"),
    [
        ("zyx", ARRAY),
        ("xyz", ARRAY.transpose(2, 1, 0)),
        ("yzx", ARRAY.transpose(1, 0, 2)),
        ("xzy", ARRAY.transpose(1, 2, 0)),
        ("-zyx", ARRAY[::-1]),
        ("z-yx", ARRAY[:, ::-1]),
        ("x-yz", ARRAY[:, ::-1].transpose(2, 1, 0)),
        ("-y-z-x", ARRAY[::-1, ::-1, ::-1].transpose(1, 0, 2)),
    ],
)
def test_axes(axes: str, expected: np.ndarray) -> None:
    volume = adapted(axes=axes)
    assert volume.shape_zyx == expected.shape
    assert np.array_equal(volume.read((0, 0, 0), expected.shape), expected)
    high = tuple(n - 1 for n in expected.shape)
    part = volume.read((1, 1, 0), (high[0] + 1, high[1] + 1, high[2]))
    assert np.array_equal(part, expected[1:, 1:, : high[2]])
    out = np.zeros(expected.shape, np.uint16)
    volume.read_into((0, 0, 0), out)
    assert np.array_equal(out, expected)


def test_resolution_and_offset_turn_with_the_axes() -> None:
    volume = adapted(axes="xyz")
    assert volume.resolution_nm == (3, 2, 1)
    assert volume.offset_xyz == (30, 20, 10)
    volume = adapted(axes="xyz", resolution_nm=(8, 9, 10), offset_xyz=(0, 0, 0))
    assert (volume.resolution_nm, volume.offset_xyz) == ((8, 9, 10), (0, 0, 0))


@pytest.mark.parametrize("text", ["", "zy", "zyxx", "abc", "z--yx", "zyx-"])
def test_axes_that_make_no_sense(text: str) -> None:
    with pytest.raises(BadRequest, match="must name z, y and x"):
        Axes.named(text)


def test_types() -> None:
    volume = adapted(dtype="uint8")
    assert volume.dtype == np.uint8
    assert np.array_equal(volume.read((0, 0, 0), ARRAY.shape), ARRAY)
    big = AdaptedVolume(ArrayVolume(ARRAY + 300), Adaptation(dtype="uint8"))
    with pytest.raises(VolumeError, match="do not fit into uint8"):
        big.read((0, 0, 0), ARRAY.shape)
    real = AdaptedVolume(ArrayVolume(ARRAY.astype("f4") + np.float32(0.6)), Adaptation(dtype="uint32"))
    assert np.array_equal(real.read((0, 0, 0), ARRAY.shape), ARRAY + 1)
    lost = AdaptedVolume(ArrayVolume(np.full((1, 1, 1), np.nan)), Adaptation(dtype="uint8"))
    with pytest.raises(VolumeError, match="do not fit"):
        lost.read((0, 0, 0), (1, 1, 1))
    with pytest.raises(BadRequest, match="none of"):
        adapted(dtype="complex64")


def test_labels_get_other_names() -> None:
    table = np.array([[1, 7], [5, 1 << 40]], np.uint64)
    volume = adapted(remap=table)
    assert volume.dtype == np.uint64
    found = volume.read((0, 0, 0), ARRAY.shape)
    expected = ARRAY.astype(np.uint64)
    expected[ARRAY == 1], expected[ARRAY == 5] = 7, 1 << 40
    assert np.array_equal(found, expected)
    assert adapted(remap=table[:1]).dtype == np.uint16
    with pytest.raises(VolumeError, match="cannot be mapped"):
        AdaptedVolume(ArrayVolume(ARRAY.astype("f4")), Adaptation(remap=table))
    with pytest.raises(VolumeError, match="negative label -3"):
        AdaptedVolume(ArrayVolume(np.full((1, 1, 1), -3)), Adaptation(remap=table)).read((0, 0, 0), (1, 1, 1))
