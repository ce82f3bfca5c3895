from __future__ import annotations

import pytest
from image_instances import Images

from fascicle.errors import BadRequest


def test_defaults() -> None:
    assert Images().instance.properties == {
        "BlockSize": [32, 32, 32],
        "VoxelSize": [8, 8, 8],
        "VoxelUnits": ["nanometers", "nanometers", "nanometers"],
        "MinPoint": None,
        "MaxPoint": None,
        "Background": 0,
        "GridStore": "",
        "ScaleLevel": 0,
    }


def test_all_settings() -> None:
    images = Images(
        BlockSize="64,43,28", VoxelSize="13.1, 14.2,15.3", VoxelUnits="picometers,nanometers,microns",
        MinPoint="10,20,30", MaxPoint="109,119,129", Background="7", Unknown="x", ScaleLevel="1",
    )  # fmt: skip
    extended = images.extended()
    assert extended["VoxelSize"] == [13.1, 14.2, 15.3]
    assert extended["VoxelUnits"] == ["picometers", "nanometers", "microns"]
    assert extended["MinIndex"] == [0, 0, 1]
    assert extended["MaxIndex"] == [1, 2, 4]
    assert extended["Background"] == 7
    assert list(extended) == [
        "Values", "Interpolable", "BlockSize", "VoxelSize", "VoxelUnits", "MinPoint", "MaxPoint", "MinIndex",
        "MaxIndex", "Background", "GridStore", "ScaleLevel",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("BlockSize", "a,b,c"),
        ("BlockSize", "32,32"),
        ("BlockSize", "0,32,32"),
        ("BlockSize", "2000,2000,2000"),
        ("VoxelSize", "x"),
        ("VoxelSize", "8,8,-8"),
        ("VoxelSize", "8,8,nan"),
        ("VoxelUnits", "nanometers"),
        ("Background", "300"),
        ("Background", "x"),
        ("Compression", "zip"),
        ("Compression", "gzip:10"),
        ("Compression", "lz4:3"),
        ("GridStore", "nowhere"),
        ("MinPoint", "a,b,c"),
        ("MaxPoint", "1,2"),
        ("ScaleLevel", "-1"),
    ],
)
def test_wrong_settings(name: str, value: str) -> None:
    with pytest.raises(BadRequest):
        Images(**{name: value})


def test_jpeg_is_for_gray_bytes_of_moderate_blocks() -> None:
    with pytest.raises(BadRequest, match="uint8blk only"):
        Images("uint16blk", Compression="jpeg")
    with pytest.raises(BadRequest, match="too large for jpeg"):
        Images(BlockSize="16,256,256", Compression="jpeg")
