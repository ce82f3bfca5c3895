"""Label maps as precomputed segmentations, read back by TensorStore and by our own reader."""

from __future__ import annotations

import numpy as np
import pytest
from reading import opened, voxels

from fascicle.volumes import open_pyramid
from remote_volumes import label_volume
from serving import Client, RunningServer, new_instance, new_repo

OFFSET_XYZ = (-64, 64, 128)
SHAPE_ZYX = (64, 128, 192)


@pytest.fixture(scope="module")
def labels() -> np.ndarray:
    return label_volume(SHAPE_ZYX, count=60)


@pytest.fixture
def root(client: Client, labels: np.ndarray) -> str:
    """A repo with the labels at its open root."""
    root = new_repo(client)
    path = new_instance(client, root, "labelmap", "seg", MaxDownresLevel="2", VoxelSize="8,8,8")
    size = "_".join(map(str, labels.shape[::-1]))
    offset = "_".join(map(str, OFFSET_XYZ))
    client.post(f"{path}/raw/0_1_2/{size}/{offset}", labels.tobytes()).expect()
    return root


@pytest.mark.parametrize("encoding", ["", "/raw", "/compressed_segmentation"])
def test_all_scales(
    server: RunningServer, client: Client, root: str, labels: np.ndarray, encoding: str
) -> None:
    address = f"{server.url}/precomputed/{root}/{root}/seg{encoding}"
    assert np.array_equal(voxels(address), labels)
    for level in (1, 2):
        scale = opened(address, level)
        x, y, z = scale.domain.origin[:3]
        width, height, depth = scale.domain.shape[:3]
        path = f"/api/node/{root}/seg/raw/0_1_2/{width}_{height}_{depth}/{x}_{y}_{z}?scale={level}"
        expected = np.frombuffer(client.get(path).expect().body, np.uint64).reshape(depth, height, width)
        assert np.array_equal(voxels(address, level), expected)
        assert expected.any()
        ends = [-(-(a + n) // 2**level) for a, n in zip(OFFSET_XYZ, SHAPE_ZYX[::-1], strict=True)]
        assert list(scale.domain.exclusive_max[:3]) == ends
        assert [a % 64 for a in (x, y, z)] == [0, 0, 0]


def test_odd_extents(server: RunningServer, client: Client, root: str, labels: np.ndarray) -> None:
    path = new_instance(
        client, root, "labelmap", "odd", MinPoint="0,0,0", MaxPoint="100,76,41", BlockSize="32,32,32"
    )
    body = np.ascontiguousarray(labels[:, :96, :128])
    info = client.get(f"/precomputed/{root}/{root}/odd/info").expect().json()
    assert info["scales"][0]["size"] == [101, 77, 42]
    address = f"{server.url}/precomputed/{root}/{root}/odd"
    assert not voxels(address).any()
    client.post(f"{path}/raw/0_1_2/128_96_64/0_0_0", body.tobytes()).expect()
    assert np.array_equal(voxels(address), body)
    reply = client.get(f"/precomputed/{root}/{root}/odd/raw/0/64-128_64-96_0-64").expect()
    assert reply.body == np.ascontiguousarray(body[:, 64:, 64:]).tobytes()


def test_supervoxels_and_edits(server: RunningServer, client: Client, root: str, labels: np.ndarray) -> None:
    first, second = (int(label) for label in np.unique(labels)[5:7])
    client.post(f"/api/node/{root}/commit", {}).expect()
    child = client.post(f"/api/node/{root}/newversion").expect().json()["child"]
    chunk = "0/0-64_64-128_128-192"
    before = client.get(f"/precomputed/{root}/{root}/seg/{chunk}").expect()
    client.post(f"/api/node/{child}/seg/merge", [first, second]).expect()
    merged = np.where(labels == second, np.uint64(first), labels)
    assert np.array_equal(voxels(f"{server.url}/precomputed/{root}/master/seg"), merged)
    assert np.array_equal(voxels(f"{server.url}/precomputed/{root}/{child[:10]}/seg/raw"), merged)
    assert np.array_equal(voxels(f"{server.url}/precomputed/{root}/master/seg/supervoxels"), labels)
    assert np.array_equal(voxels(f"{server.url}/precomputed/{root}/{root}/seg"), labels)
    after = client.get(f"/precomputed/{root}/{root}/seg/{chunk}").expect()
    assert after.body == before.body
    assert after.headers["etag"] == before.headers["etag"]
    assert "immutable" in after.headers["cache-control"]


def test_our_own_reader(server: RunningServer, root: str, labels: np.ndarray) -> None:
    with open_pyramid(f"precomputed://{server.url}/precomputed/{root[:12]}/master/seg") as pyramid:
        assert pyramid.kind == "segmentation"
        assert len(pyramid.scales) == 3
        assert pyramid.scales[0].offset_xyz == OFFSET_XYZ
        assert np.array_equal(pyramid.scales[0].read((3, 4, 5), (60, 120, 180)), labels[3:60, 4:120, 5:180])
