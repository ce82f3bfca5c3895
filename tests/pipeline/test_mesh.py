"""Meshes as jobs: every form, from store folders and servers; interrupted, replaced, brought up to date."""

from __future__ import annotations

import io
import itertools
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from body_store import BIG, OFFSET, RESOLUTION, files, make_store, only_bodies
from fascicle.cli import group
from fascicle.errors import BadRequest, FascicleError
from fascicle.formats import legacy_mesh, multires_mesh, precomputed_info
from fascicle.pipeline import mesh_parts
from fascicle.pipeline.ingest_connections import LocalConnection
from fascicle.pipeline.journal import JournalError
from fascicle.pipeline.mesh import MeshOptions, block_size, mesh
from fascicle.pipeline.sources import SourceSpec
from fascicle.volumes.objects import FileFolder
from fascicle.volumes.shards import ShardReader
from serving import RunningServer
from surface_checks import euler, is_closed, volume, welded

SHAPE = (40, 60, 80)
OPTIONS = MeshOptions(error_nm=8.0, dust=50, workers=1, block_xyz=(40, 40, 30))
BODIES = [3, 4, BIG]


@pytest.fixture(scope="module")
def labels() -> np.ndarray:
    """Three bars, one of them of two supervoxels, and dust."""
    found = np.zeros(SHAPE, np.uint64)
    found[10:16, 10:18, 4:76] = 3
    found[4:36, 40:48, 20:27] = 4
    found[20:28, 52:58, 2:36] = BIG
    found[20:28, 52:58, 36:78] = 6
    found[0, 0, 0:40] = 9
    return found


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, labels: np.ndarray) -> Path:
    return make_store(tmp_path_factory.mktemp("mesh"), labels, "blobs")


@pytest.fixture
def source(store: Path) -> SourceSpec:
    return SourceSpec(data=str(store), repo="r", instance="seg")


@pytest.fixture
def root(store: Path) -> str:
    return (store.parent / "root").read_text()


def read(folder: Path) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    info = multires_mesh.read_info((folder / "info").read_bytes())
    found = {}
    for path in folder.glob("*.index"):
        manifest = multires_mesh.read_manifest(path.read_bytes())
        parts = multires_mesh.decode(manifest, path.with_suffix("").read_bytes(), info)
        origin = manifest.grid_origin.astype(np.float64)
        step = float(manifest.chunk_shape[0]) / 65535
        places, triangles = welded([(vertices - origin, faces) for vertices, faces in parts], step)
        found[int(path.stem)] = (places + origin, triangles)
    return found


def check(vertices: np.ndarray, triangles: np.ndarray, body: int, labels: np.ndarray) -> None:
    """Closed, as large as the body, and where it is."""
    assert is_closed(triangles, len(vertices))
    where = np.argwhere(labels == body)[:, ::-1]
    assert volume(vertices, triangles) == pytest.approx(len(where) * 640, rel=0.1)
    low, high = (where.min(axis=0) + OFFSET) * RESOLUTION, (where.max(axis=0) + 1 + OFFSET) * RESOLUTION
    assert np.abs(vertices.min(axis=0) - low).max() < 8.1
    assert np.abs(vertices.max(axis=0) - high).max() < 8.1


def test_multires(source: SourceSpec, labels: np.ndarray, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    done = mesh(source, str(tmp_path / "out"), OPTIONS, lambda *step: seen.append(step))
    assert (done.meshes, done.blocks, done.shards, done.linked) == (3, 8, 0, False)
    found = read(tmp_path / "out")
    assert sorted(found) == BODIES
    for body, (vertices, triangles) in found.items():
        check(vertices, triangles, body, only_bodies(labels))
    assert {name for name, _, _ in seen} == {"surfaces", "joining", "writing"}
    assert all(at[1] <= at[2] for at in seen)
    assert list(tmp_path.iterdir()) == [tmp_path / "out"]  # nothing else is left


@pytest.mark.slow
def test_workers_give_the_same_bytes(source: SourceSpec, tmp_path: Path) -> None:
    one = mesh(source, str(tmp_path / "one"), OPTIONS, None)
    two = mesh(source, str(tmp_path / "two"), replace(OPTIONS, workers=2, memory_bytes=4 << 30), None)
    assert replace(one, seconds=0, destination="") == replace(two, seconds=0, destination="")
    assert files(tmp_path / "one") == files(tmp_path / "two")


def test_shards(source: SourceSpec, tmp_path: Path) -> None:
    plain, sharded = tmp_path / "plain", tmp_path / "sharded"
    mesh(source, str(plain), OPTIONS, None)
    done = mesh(source, str(sharded), replace(OPTIONS, sharded=True), None)
    assert done.shards == 1
    info = multires_mesh.read_info((sharded / "info").read_bytes())
    assert info.sharding is not None
    reader = ShardReader(FileFolder(str(sharded)), "", info.sharding)
    shard = (sharded / "0.shard").read_bytes()
    for body in BODIES:
        manifest = (plain / f"{body}.index").read_bytes()
        assert reader.get(body, 1 << 20) == manifest
        assert (plain / str(body)).read_bytes() in shard
    # what is replaced leaves nothing behind, in either direction
    mesh(source, str(sharded), OPTIONS, None)
    assert files(sharded) == files(plain)
    mesh(source, str(plain), replace(OPTIONS, format="legacy"), None)
    assert sorted(files(plain)) == sorted(["info", *(f"{body}{end}" for body in BODIES for end in (":0", ":0:0"))])


def test_legacy_and_ngmesh(source: SourceSpec, labels: np.ndarray, tmp_path: Path) -> None:
    mesh(source, str(tmp_path / "legacy"), replace(OPTIONS, format="legacy"), None)
    mesh(source, str(tmp_path / "ng"), replace(OPTIONS, format="ngmesh"), None)
    assert sorted(files(tmp_path / "ng")) == sorted(f"{body}.ngmesh" for body in BODIES)
    assert legacy_mesh.read_info((tmp_path / "legacy/info").read_bytes()) == {}
    for body in BODIES:
        (name,) = legacy_mesh.read_manifest((tmp_path / f"legacy/{body}:0").read_bytes())
        data = (tmp_path / "legacy" / name).read_bytes()
        vertices, triangles = legacy_mesh.decode(data)
        assert euler(vertices, triangles) == 2
        check(vertices, triangles, body, only_bodies(labels))
        assert (tmp_path / f"ng/{body}.ngmesh").read_bytes() == data


def test_a_volume_is_linked(source: SourceSpec, labels: np.ndarray, tmp_path: Path) -> None:
    scale = precomputed_info.Scale(
        key="8", size=(80, 60, 40), resolution=RESOLUTION, chunk_sizes=((80, 60, 40),), encoding="raw",
        voxel_offset=OFFSET,
    )  # fmt: skip
    info = precomputed_info.VolumeInfo(type="segmentation", data_type="uint64", scales=(scale,), others={"x": 1})
    folder = tmp_path / "volume"
    (folder / "8").mkdir(parents=True)
    (folder / "info").write_bytes(precomputed_info.encode(info))
    (folder / "8/64-144_0-60_-64--24").write_bytes(only_bodies(labels).tobytes())
    done = mesh(SourceSpec(address=str(folder)), str(folder / "mesh"), OPTIONS, None)
    assert done.linked
    now = precomputed_info.decode((folder / "info").read_bytes())
    assert now.mesh == "mesh"
    assert now.others == {"x": 1}
    mesh(source, str(tmp_path / "out"), OPTIONS, None)
    assert files(folder / "mesh") == files(tmp_path / "out")


def test_dust_supervoxels_and_chosen_bodies(source: SourceSpec, labels: np.ndarray, tmp_path: Path) -> None:
    out = tmp_path / "out"
    mesh(source, str(out), replace(OPTIONS, dust=0), None)
    assert sorted(read(out)) == [3, 4, 9, BIG]
    supervoxels = replace(source, supervoxels=True)
    mesh(supervoxels, str(tmp_path / "some"), replace(OPTIONS, bodies=(6, 77)), None)
    found = read(tmp_path / "some")
    assert sorted(found) == [6]
    check(*found[6], 6, labels)
    mesh(supervoxels, str(tmp_path / "some"), replace(OPTIONS, bodies=(4,)), None)
    assert sorted(read(tmp_path / "some")) == [4, 6]
    # what is dust now is taken away
    done = mesh(supervoxels, str(tmp_path / "some"), replace(OPTIONS, bodies=(6,), dust=10**6), None)
    assert (done.meshes, done.removed) == (0, 1)
    assert sorted(read(tmp_path / "some")) == [4]


def test_since(source: SourceSpec, root: str, tmp_path: Path) -> None:
    old, new, out = tmp_path / "old", tmp_path / "new", tmp_path / "out"
    mesh(replace(source, version=root), str(old), OPTIONS, None)
    mesh(replace(source, version=root), str(out), OPTIONS, None)
    mesh(source, str(new), OPTIONS, None)
    assert sorted(read(old)) == [3, 4, 6, BIG]
    done = mesh(source, str(out), replace(OPTIONS, since=root), None)
    assert (done.meshes, done.removed) == (1, 1)
    assert files(out) == files(new)
    with pytest.raises(BadRequest, match="no meshes"):
        mesh(source, str(tmp_path / "nothing"), replace(OPTIONS, since=root), None)
    mesh(source, str(new), replace(OPTIONS, sharded=True), None)
    with pytest.raises(BadRequest, match="sharded"):
        mesh(source, str(new), replace(OPTIONS, since=root), None)


def test_keys_and_blobs(source: SourceSpec, store: Path, labels: np.ndarray, tmp_path: Path) -> None:
    done = mesh(source, str(tmp_path / "ng"), replace(OPTIONS, keys=True, format="ngmesh"), None)
    assert done.meshes == 3
    mesh(replace(source, supervoxels=True), "", replace(OPTIONS, blobs="blobs"), None)
    with LocalConnection(store) as connection:
        assert connection.json("GET", "/api/node/:master/seg_meshes/keys") == sorted(f"{b}.ngmesh" for b in BODIES)
        data = connection.request("GET", f"/api/node/:master/seg_meshes/key/{BIG}.ngmesh", b"")
        assert data == (tmp_path / f"ng/{BIG}.ngmesh").read_bytes()
        archive = connection.request("GET", f"/api/node/:master/blobs/tarfile/{BIG}", b"")
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        sizes = {entry.name: entry.size for entry in tar}
    assert sorted(sizes) == sorted(["6.drc", f"{BIG}.drc"])
    assert all(sizes.values())


def test_a_server(source: SourceSpec, server: RunningServer, labels: np.ndarray, tmp_path: Path) -> None:
    with server.client() as client:
        from serving import new_instance, new_repo

        root = new_repo(client, "mesh by server")
        settings = {"VoxelSize": "8,8,10", "VoxelUnits": "nanometers,nanometers,nanometers"}
        path = new_instance(client, root, "labelmap", "seg", **settings)
        whole = np.zeros((64, 64, 128), np.uint64)
        whole[:40, :60, :80] = only_bodies(labels)
        client.post(f"{path}/raw/0_1_2/128_64_64/64_0_-64", whole.tobytes()).expect()
    spec = SourceSpec(server=server.url, repo=root, instance="seg")
    mesh(spec, str(tmp_path / "out"), replace(OPTIONS, keys=True), None)
    found = read(tmp_path / "out")
    for body in BODIES:
        check(*found[body], body, only_bodies(labels))
    with server.client() as client:
        assert len(client.get(f"/api/node/{root}/seg_meshes/keys").expect().json()) == 3


@pytest.mark.parametrize("stage", ["do_block", "do_bodies"])
def test_stopped_anywhere_it_goes_on_to_the_same(
    source: SourceSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    options = replace(OPTIONS, sharded=True)
    mesh(source, str(tmp_path / "whole"), options, None)
    work: Callable[[Any, Any], Any] = getattr(mesh_parts, stage)
    calls = itertools.count()

    def failing(place: Any, argument: Any) -> Any:
        if (stage == "do_bodies" or next(calls) % 3 == 2) and broken[0]:
            broken[0] -= 1
            raise OSError("the disk is gone")
        return work(place, argument)

    broken = [2]
    monkeypatch.setattr(f"fascicle.pipeline.mesh.{stage}", failing)
    out = tmp_path / "out"
    for _ in range(2):
        with pytest.raises(FascicleError, match="give the same command again"):
            mesh(source, str(out), options, None)
        assert not (out / "info").exists()
    mesh(source, str(out), options, None)
    assert files(out) == files(tmp_path / "whole")


def test_a_journal_of_something_else(source: SourceSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("fascicle.pipeline.mesh.write_files", stop)
    with pytest.raises(KeyboardInterrupt):
        mesh(source, str(tmp_path / "out"), OPTIONS, None)
    with pytest.raises(JournalError, match="dust"):
        mesh(source, str(tmp_path / "out"), replace(OPTIONS, dust=7), None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "obj"}, "none of multires"),
        ({"scale": 40}, "no scale 40"),
        ({"error_nm": float("nan")}, "nan"),
        ({"lods": 0}, "levels of detail"),
        ({"bodies": (3,), "since": "x"}, "either bodies"),
        ({"since": "x", "sharded": True}, "as a whole"),
        ({"sharded": True, "format": "legacy"}, "not sharded"),
        ({"block_xyz": (1, 5, 5)}, "too small"),
        ({"block_xyz": (500, 5, 5)}, "too large"),
        ({"blobs": "blobs"}, "supervoxels"),
        ({"keys": True, "blobs": "blobs"}, "supervoxels"),
    ],
)
def test_bad_input(source: SourceSpec, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(FascicleError, match=message):
        mesh(source, str(tmp_path / "out"), replace(OPTIONS, **changes), None)
    assert not (tmp_path / "out").exists()


def test_blobs_need_an_instance_of_them(source: SourceSpec, root: str) -> None:
    supervoxels = replace(source, supervoxels=True)
    for name in ("seg", "nothing"):
        with pytest.raises(BadRequest, match=name):
            mesh(supervoxels, "", replace(OPTIONS, blobs=name), None)
    with pytest.raises(BadRequest, match="committed"):
        mesh(replace(supervoxels, repo="", version=root), "", replace(OPTIONS, blobs="blobs"), None)


def test_blocks_are_what_the_memory_allows(source: SourceSpec) -> None:
    with source.open() as pyramid:
        volume = pyramid.scales[0]
        for memory in (1 << 28, 1 << 30, 1 << 34):
            size = block_size(volume, MeshOptions(memory_bytes=memory), 1)
            assert np.prod(size) <= 1 << 21
            assert max(size) <= 250


def test_the_command(store: Path, tmp_path: Path) -> None:
    options = ["--data", str(store), "--repo", "r", "--instance", "seg", "--quiet", "--workers", "1"]
    out = str(tmp_path / "out")
    done = CliRunner().invoke(group, ["mesh", out, *options, "--error", "10", "--dust", "50", "--bodies", "3,4"])
    assert done.exit_code == 0, done.output
    assert done.output.startswith("2 meshes of ")
    assert "within 10 nm" in done.output
    assert sorted(read(Path(out))) == [3, 4]
    wrong = CliRunner().invoke(group, ["mesh", *options])
    assert wrong.exit_code == 2
    assert "--keys" in wrong.output
