"""Meshes of label maps at any version: right, never older than the body, made once."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from fascicle.formats import legacy_mesh, multires_mesh
from remote_volumes import label_volume
from serving import Client, RunningServer, new_instance, new_repo
from surface_checks import is_closed, volume, welded

SIZE_ZYX = (64, 96, 160)


@pytest.fixture(scope="module")
def labels() -> np.ndarray:
    return label_volume(SIZE_ZYX)


@pytest.fixture(scope="module")
def root(server: RunningServer, labels: np.ndarray) -> str:
    with server.client() as client:
        root = new_repo(client, "meshes")
        settings = {"VoxelSize": "8,8,8", "VoxelUnits": "nanometers,nanometers,nanometers", "BlockSize": "32,32,32"}
        path = new_instance(client, root, "labelmap", "seg", **settings)
        z, y, x = SIZE_ZYX
        client.post(f"{path}/raw/0_1_2/{x}_{y}_{z}/0_0_0", labels.tobytes()).expect()
        new_instance(client, root, "keyvalue", "seg_meshes")
    return root


def mesh(client: Client, root: str, version: str, label: int, where: str = "seg") -> tuple[np.ndarray, np.ndarray]:
    path = f"/precomputed/{root}/{version}/{where}/mesh"
    info = multires_mesh.read_info(client.get(f"{path}/info").expect().body)
    manifest = multires_mesh.read_manifest(client.get(f"{path}/{label}.index").expect().body)
    data = client.get(f"{path}/{label}").expect().body
    parts = multires_mesh.decode(manifest, data, info)
    return welded(parts, float(manifest.chunk_shape[0]) / 65535)


def test_every_body(client: Client, root: str, labels: np.ndarray) -> None:
    info = client.get(f"/precomputed/{root}/{root}/seg/info").expect().json()
    assert info["mesh"] == "mesh"
    present, counts = np.unique(labels[labels > 0], return_counts=True)
    big = present[np.argsort(counts)[-3:]]
    for label in big.tolist():
        vertices, triangles = mesh(client, root, root, label)
        assert is_closed(triangles, len(vertices))
        voxels = int((labels == label).sum())
        assert volume(vertices, triangles) == pytest.approx(voxels * 512, rel=0.25)
        where = np.argwhere(labels == label)[:, ::-1]
        assert (vertices.min(axis=0) > where.min(axis=0) * 8 - 17).all()
        assert (vertices.max(axis=0) < (where.max(axis=0) + 1) * 8 + 17).all()


def test_parts_by_range(client: Client, root: str, labels: np.ndarray) -> None:
    label = int(labels.max())
    path = f"/precomputed/{root}/{root}/seg/mesh/{label}"
    whole = client.get(path).expect().body
    part = client.request("GET", path, headers={"Range": "bytes=5-20", "Accept-Encoding": "gzip"})
    assert part.status == 206
    assert part.body == whole[5:21]
    assert "content-encoding" not in part.headers


def test_edits_are_followed(client: Client, labels: np.ndarray, root: str) -> None:
    present, counts = np.unique(labels[labels > 0], return_counts=True)
    first, second = present[np.argsort(counts)[-2:]].tolist()
    before = [volume(*mesh(client, root, root, label)) for label in (first, second)]
    client.post(f"/api/node/{root}/commit", {}).expect()
    child = client.post(f"/api/node/{root}/newversion").expect().json()["child"]
    client.post(f"/api/node/{child}/seg/merge", [first, second]).expect()
    merged = volume(*mesh(client, root, child, first))
    assert merged == pytest.approx(sum(before), rel=0.1)
    assert client.get(f"/precomputed/{root}/{child}/seg/mesh/{second}.index").status == 404
    assert volume(*mesh(client, root, root, first)) == before[0]
    # its supervoxels are as they were
    assert volume(*mesh(client, root, child, second, "seg/supervoxels")) == pytest.approx(before[1], rel=1e-6)
    # stored meshes are shown until the body is another one
    third = int(present[np.argsort(counts)[-3]])
    cube = np.array([[0, 0, 0], [800, 0, 0], [0, 800, 0], [0, 0, 800]], np.float32)
    faces = np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]], np.uint32)
    for label in (first, third):
        value = legacy_mesh.encode(cube, faces)
        client.post(f"/api/node/{child}/seg_meshes/key/{label}.ngmesh", value).expect()
    assert volume(*mesh(client, root, child, third)) == pytest.approx(800**3 / 6, rel=1e-3)
    assert volume(*mesh(client, root, child, first)) == merged
    client.post(f"/api/node/{child}/seg_meshes/key/{third}.ngmesh", legacy_mesh.encode(cube / 2, faces)).expect()
    assert volume(*mesh(client, root, child, third)) == pytest.approx(400**3 / 6, rel=1e-3)
    client.post(f"/api/node/{child}/seg_meshes/key/{third}.ngmesh", b"no mesh").expect()
    voxels = int((labels == third).sum())
    assert volume(*mesh(client, root, child, third)) == pytest.approx(voxels * 512, rel=0.25)


def test_what_is_not_there(client: Client, root: str) -> None:
    for path in ("seg/mesh/0", "seg/mesh/123456789.index", "seg/mesh/x", "seg/mesh/1:0", "seg/mesh", "seg/mesh/1/2"):
        reply = client.get(f"/precomputed/{root}/{root}/{path}")
        assert reply.status == 404, path


def test_many_ask_for_one(server: RunningServer, root: str, labels: np.ndarray) -> None:
    label = int(np.unique(labels[labels > 0])[0])
    bodies: list[bytes] = []

    def ask() -> None:
        with server.client() as client:
            bodies.append(client.get(f"/precomputed/{root}/{root}/seg/mesh/{label}").expect().body)

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(bodies) == 6
    assert len(set(bodies)) == 1
