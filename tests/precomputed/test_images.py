"""Image instances as precomputed volumes, read back by TensorStore and by our own reader."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from reading import opened, voxels

from fascicle.volumes import open_pyramid
from remote_volumes import smooth_volume
from serving import Client, RunningServer, new_instance, new_repo

Triple = tuple[int, int, int]


def post(client: Client, path: str, volume_zyx: NDArray[Any], offset_xyz: Triple) -> None:
    size = "_".join(map(str, volume_zyx.shape[2::-1]))
    client.post(f"{path}/raw/0_1_2/{size}/{'_'.join(map(str, offset_xyz))}", volume_zyx.tobytes()).expect()


@pytest.mark.parametrize(
    ("typename", "dtype"),
    [
        ("uint8blk", "uint8"), ("uint16blk", "uint16"), ("uint32blk", "uint32"), ("uint64blk", "uint64"),
        ("float32blk", "float32"), ("rgba8blk", "uint8"),
    ],
)  # fmt: skip
def test_voxels_of_each_type(server: RunningServer, client: Client, typename: str, dtype: str) -> None:
    root = new_repo(client)
    path = new_instance(client, root, typename, "em", BlockSize="32,32,32")
    volume = smooth_volume((64, 96, 32), dtype)
    if typename == "rgba8blk":
        volume = np.stack([volume, volume[::-1], volume[:, ::-1], 255 - volume], -1)
    post(client, path, np.ascontiguousarray(volume), (-32, 64, -64))
    address = f"{server.url}/precomputed/{root}/master/em"
    found = voxels(address)
    assert np.array_equal(found[:, :, 32:], volume)
    assert not found[:, :, :32].any()
    scale = opened(address)
    assert scale.domain.origin[:3] == (-64, 64, -64), "down to a corner of a chunk"
    assert scale.domain.exclusive_max[:3] == (0, 160, 0)


@pytest.mark.parametrize(("encoding", "typename"), [("jpeg", "uint8blk"), ("png", "uint8blk"), ("png", "uint16blk")])
def test_encodings(server: RunningServer, client: Client, encoding: str, typename: str) -> None:
    root = new_repo(client)
    path = new_instance(client, root, typename, "em", BlockSize="64,64,64")
    volume = smooth_volume((64, 64, 128), typename.removesuffix("blk"))
    post(client, path, volume, (0, 0, 0))
    client.post(f"{path}/extents", {"MinPoint": [0, 0, 0], "MaxPoint": [98, 49, 30]}).expect()
    found = voxels(f"{server.url}/precomputed/{root}/{root}/em/{encoding}")
    expected = volume[:31, :50, :99]
    if encoding == "jpeg":
        assert np.abs(found.astype(int) - expected).max() < 12
        assert found.shape == expected.shape
    else:
        assert np.array_equal(found, expected)
    reply = client.get(f"/precomputed/{root}/{root}/em/{encoding}/0/0-64_0-50_0-31")
    assert reply.expect().body[:2] == {"jpeg": b"\xff\xd8", "png": b"\x89P"}[encoding]


def test_stored_jpegs_are_shown_as_they_are(server: RunningServer, client: Client) -> None:
    root = new_repo(client)
    path = new_instance(client, root, "uint8blk", "em", BlockSize="64,64,64", Compression="jpeg:90")
    volume = smooth_volume((64, 64, 64))
    post(client, path, volume, (64, 0, 0))
    info = client.get(f"/precomputed/{root}/{root}/em/info").expect().json()
    assert info["scales"][0]["encoding"] == "jpeg"
    chunk = client.get(f"/precomputed/{root}/{root}/em/0/64-128_0-64_0-64").expect().body
    stored = client.get(f"{path}/subvolblocks/64_64_64/64_0_0").expect().body
    assert stored[16:] == chunk


def test_scales_are_instances_with_numbers(server: RunningServer, client: Client) -> None:
    root = new_repo(client)
    shapes = [(64, 64, 96), (32, 32, 64), (32, 32, 32)]
    for level, shape in enumerate(shapes):
        name = "em" if level == 0 else f"em_{level}"
        settings = {"BlockSize": "32,32,32", "VoxelSize": "4,4,40"}
        if level == 1:
            settings["VoxelSize"] = "8,8,40"
        path = new_instance(client, root, "uint8blk", name, **settings)
        post(client, path, smooth_volume(shape, seed=level), (0, 0, 0))
    new_instance(client, root, "uint16blk", "em_3")
    info = client.get(f"/precomputed/{root}/{root}/em/info").expect().json()
    assert [scale["resolution"] for scale in info["scales"]] == [[4, 4, 40], [8, 8, 40], [16, 16, 160]]
    for level, shape in enumerate(shapes):
        assert np.array_equal(
            voxels(f"{server.url}/precomputed/{root}/{root}/em", level), smooth_volume(shape, seed=level)
        )
    with open_pyramid(f"precomputed://{server.url}/precomputed/{root}/{root}/em") as pyramid:
        assert len(pyramid.scales) == 3
        found = pyramid.scales[0].read((5, 6, 7), (60, 61, 90))
        assert np.array_equal(found, smooth_volume(shapes[0])[5:60, 6:61, 7:90])


def test_background(server: RunningServer, client: Client) -> None:
    root = new_repo(client)
    path = new_instance(client, root, "uint8blk", "em", BlockSize="32,32,32", Background="7")
    post(client, path, smooth_volume((32, 32, 32)), (0, 0, 0))
    client.post(f"{path}/extents", {"MinPoint": [0, 0, 0], "MaxPoint": [150, 31, 31]}).expect()
    found = voxels(f"{server.url}/precomputed/{root}/{root}/em")
    assert np.array_equal(found[:, :, :32], smooth_volume((32, 32, 32)))
    assert (found[:, :, 32:] == 7).all()


@pytest.mark.parametrize(
    ("units", "expected"),
    [("nanometers", [8, 8, 8]), ("um", [8000, 8000, 8000]), ("pixels", [8, 8, 8])],
)
def test_units(client: Client, units: str, expected: list[float]) -> None:
    root = new_repo(client)
    path = new_instance(client, root, "uint8blk", "em", VoxelUnits=",".join([units] * 3))
    post(client, path, smooth_volume((32, 32, 32)), (0, 0, 0))
    info = client.get(f"/precomputed/{root}/{root}/em/info").expect().json()
    assert info["scales"][0]["resolution"] == expected
