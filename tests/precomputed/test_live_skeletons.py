"""Skeletons of a label map at any version: stored where they are right, else made from what the body is now."""

from __future__ import annotations

import numpy as np
import pytest

from fascicle.formats import skeleton as skeletons
from fascicle.formats import swc
from fascicle.formats.skeleton import RADIUS, Skeleton
from fascicle.precomputed import body_centrelines
from serving import Client, RunningServer, new_instance, new_repo

SIZE = 128
RESOLUTION = 8.0


@pytest.fixture(scope="module")
def labels() -> np.ndarray:
    """Bars along x: 1 over the whole length, 2 and 3 half of it each, 5 alone; a single voxel of 4."""
    found = np.zeros((64, 64, SIZE), np.uint64)
    found[20:26, 20:28, 2:126] = 1
    found[40:46, 40:46, 2:64] = 2
    found[40:46, 40:46, 64:126] = 3
    found[5:9, 5:9, 3:60] = 5
    found[60, 60, 60] = 4
    return found


@pytest.fixture(scope="module")
def root(server: RunningServer, labels: np.ndarray) -> str:
    """A committed root, with the stored skeleton of 5, and an open child where 2 and 3 are one body."""
    with server.client() as client:
        root = new_repo(client, "live skeletons")
        path = new_instance(client, root, "labelmap", "seg")
        client.post(f"{path}/raw/0_1_2/{SIZE}_64_64/0_0_0", labels.tobytes()).expect()
        path = new_instance(client, root, "keyvalue", "seg_skeletons")
        client.post(f"{path}/key/5_swc", b"1 0 4 6 6 2 -1\n2 0 50 6 6 2 1\n").expect()
        client.post(f"{path}/key/1_swc", b'# {"mutation id": 12345}\n1 0 4 6 6 2 -1\n').expect()
        client.post(f"/api/node/{root}/commit", {}).expect()
        child = client.post(f"/api/node/{root}/newversion").expect().json()["child"]
        client.post(f"/api/node/{child}/seg/merge", [2, 3]).expect()
    return root


def get(client: Client, root: str, label: int, version: str = "master", form: str = "") -> Skeleton:
    reply = client.get(f"/precomputed/{root}/{version}/seg{form}/skeletons/{label}").expect()
    return skeletons.decode(reply.body, [RADIUS])


def span(skeleton: Skeleton) -> tuple[float, float]:
    x = skeleton.vertices[:, 0] / RESOLUTION
    return float(x.min()), float(x.max())


def inside(skeleton: Skeleton, where: np.ndarray) -> bool:
    x, y, z = np.floor(skeleton.vertices / RESOLUTION).astype(int).T
    return bool(where[z, y, x].all())


def test_info(client: Client, root: str) -> None:
    assert client.get(f"/precomputed/{root}/master/seg/info").expect().json()["skeletons"] == "skeletons"
    data = client.get(f"/precomputed/{root}/master/seg/skeletons/info").expect().body
    assert skeletons.read_info(data).vertex_attributes == (RADIUS,)
    assert b"sharding" not in data


def test_made_from_the_body_at_each_version(client: Client, root: str, labels: np.ndarray) -> None:
    before, after = get(client, root, 2, root), get(client, root, 2)
    assert inside(before, labels == 2)
    assert span(before)[1] < 64
    assert inside(after, (labels == 2) | (labels == 3))
    assert span(after)[0] < 10 < 118 < span(after)[1]
    assert len(after.vertices) == len(after.edges) + 1
    middle = after.vertices[np.abs(after.vertices[:, 0] - 64 * RESOLUTION) < 200]
    assert np.abs(middle[:, 1:] - 43 * RESOLUTION).max() <= RESOLUTION
    assert np.abs(after.radii.max() - 3 * RESOLUTION) <= RESOLUTION
    assert np.array_equal(get(client, root, 3, "master", "/supervoxels").vertices, get(client, root, 3, root).vertices)
    client.get(f"/precomputed/{root}/master/seg/skeletons/3").expect(404)
    assert len(get(client, root, 4).vertices) == 1  # nothing is too small


def test_stored_ones(client: Client, root: str) -> None:
    stored = get(client, root, 5)
    assert np.array_equal(stored.vertices, np.array([[4, 6, 6], [50, 6, 6]]) * RESOLUTION)
    assert stored.radii.tolist() == [16, 16]
    made = get(client, root, 1)  # the stored one is of another state
    assert span(made)[1] > 100
    supervoxel = get(client, root, 5, "master", "/supervoxels")
    assert len(supervoxel.vertices) > 2


def test_never_stale(client: Client, server: RunningServer, labels: np.ndarray) -> None:
    root = new_repo(client, "skeletons that change")
    path = new_instance(client, root, "labelmap", "seg")
    client.post(f"{path}/raw/0_1_2/{SIZE}_64_64/0_0_0", labels.tobytes()).expect()
    keys = new_instance(client, root, "keyvalue", "seg_skeletons")
    client.post(f"{keys}/key/2_swc", b"1 0 4 43 43 2 -1\n").expect()
    assert len(get(client, root, 2).vertices) == 1
    tag = client.get(f"/precomputed/{root}/master/seg/skeletons/2").headers["etag"]
    client.post(f"{path}/merge", [2, 3]).expect()
    merged = get(client, root, 2)
    assert span(merged)[1] > 118
    reply = client.get(f"/precomputed/{root}/master/seg/skeletons/2")
    assert reply.headers["etag"] != tag
    assert "immutable" not in reply.headers["cache-control"]
    mutation = client.get(f"{path}/lastmod/2").expect().json()["mutation id"]
    client.post(f"{keys}/key/2_swc", f"#{swc.made_from(mutation)}\n1 0 9 43 43 2 -1\n".encode()).expect()
    assert len(get(client, root, 2).vertices) == 1
    client.post(f"{path}/cleave/2", [3]).expect()
    assert span(get(client, root, 2))[1] < 64
    # writing voxels is no mutation, but the skeleton follows
    one = get(client, root, 1)
    shorter = labels.copy()
    shorter[:, :, 64:] = 0
    client.post(f"{path}/raw/0_1_2/{SIZE}_64_64/0_0_0?mutate=true", shorter.tobytes()).expect()
    assert span(one)[1] > 118
    assert span(get(client, root, 1))[1] < 64


@pytest.mark.parametrize("name", ["0", "abc", "1:0", "99", "01", str(1 << 64), "1/2", ""])
def test_what_is_not_there(client: Client, root: str, name: str) -> None:
    client.get(f"/precomputed/{root}/master/seg/skeletons/{name}").expect(404)


def test_large_bodies_are_read_in_boxes_and_at_coarser_scales(monkeypatch: pytest.MonkeyPatch) -> None:
    cells = np.array([[0, 0, 0], [1, 1, 1], [2, 2, 2], [9, 0, 0]])
    groups = body_centrelines._groups(cells)
    assert {(0, 0, 0), (1, 1, 1), (4, 0, 0)} <= groups
    size = np.full(3, 64)
    monkeypatch.setattr(body_centrelines, "MOST_BOX", 1)
    boxes = list(body_centrelines._boxes(cells, size))
    starts = {start for start, _, _ in boxes}
    assert starts == {tuple(128 * at for at in group) for group in groups}
    for start, stop, faces in boxes:
        assert [b - a for a, b in zip(start, stop, strict=True)] == [129, 129, 129]
        for axis, pair in zip((2, 1, 0), (faces[:2], faces[2:4], faces[4:]), strict=True):
            for is_open, step in zip(pair, (-128, 128), strict=True):
                beside = list(start)
                beside[axis] += step
                assert is_open == (tuple(beside) in starts)


@pytest.mark.parametrize("scale_limit", [1 << 26, 1 << 22])
def test_a_body_that_runs_diagonally_is_one(
    monkeypatch: pytest.MonkeyPatch, server: RunningServer, client: Client, scale_limit: int
) -> None:
    """Made in this process from a store like the server's: limits can be changed here."""
    from pathlib import Path
    from tempfile import TemporaryDirectory

    from fascicle.pipeline.ingest_connections import LocalConnection
    from fascicle.pipeline.sources import OpenVersion, SourceSpec
    from fascicle.precomputed.builders import Form
    from fascicle.precomputed.skeletons import Skeletons

    monkeypatch.setattr(body_centrelines, "MOST_BOX", 1)
    monkeypatch.setattr(body_centrelines, "MOST_VOXELS", scale_limit)
    edge = 192
    voxels = np.zeros((edge, edge, edge), np.uint64)
    for i in range(4, edge - 4):
        voxels[i - 3 : i + 3, i - 3 : i + 3, i - 3 : i + 3] = 8
    with TemporaryDirectory() as folder:
        with LocalConnection(Path(folder) / "db") as connection:
            root = connection.json("POST", "/api/repos", {"alias": "d"})["root"]
            settings = {"typename": "labelmap", "dataname": "seg", "MaxDownresLevel": "2"}
            connection.json("POST", f"/api/repo/{root}/instance", settings)
            connection.request("POST", f"/api/node/{root}/seg/raw/0_1_2/192_192_192/0_0_0", voxels.tobytes())
        opened = OpenVersion(SourceSpec(data=f"{folder}/db", repo="d", instance="seg"))
        try:
            with opened.snapshot() as snapshot:
                body = Skeletons().serve(snapshot, opened.instance, Form(), "8").body
        finally:
            opened.close()
    skeleton = skeletons.decode(body, [RADIUS])
    assert len(skeleton.vertices) == len(skeleton.edges) + 1
    assert inside(skeleton, voxels > 0) or scale_limit < 1 << 24
    assert skeleton.length == pytest.approx(3**0.5 * (edge - 8) * RESOLUTION, rel=0.1)
