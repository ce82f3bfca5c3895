"""Exports of versions: read back by TensorStore and by our reader, resumed, beside an earlier one, refused."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import tensorstore
from distributed import LocalCluster

from fascicle.cli import group
from fascicle.errors import BadRequest, NotFound
from fascicle.formats import precomputed_info
from fascicle.pipeline import export as export_pipeline
from fascicle.pipeline import export_volumes
from fascicle.pipeline.export import ExportError, ExportOptions, ExportResult, export
from fascicle.pipeline.export_volumes import cells_of
from fascicle.pipeline.ingest import IngestOptions, ingest
from fascicle.pipeline.ingest_connections import LocalConnection
from fascicle.pipeline.journal import JournalError, work_folder
from fascicle.pipeline.sources import SourceSpec
from fascicle.volumes import open_pyramid, open_volume
from fascicle.volumes.shard_writing import ShardFiles
from serving import RunningServer

SHAPE = (140, 300, 260)
OFFSET = (64, 0, -128)


@pytest.fixture(scope="module")
def voxels() -> np.ndarray:
    """Labels u32[z, y, x] of 10^3 cubes; the last third along x is empty."""
    rng = np.random.default_rng(5)
    labels = np.kron(rng.integers(1, 50, (14, 30, 26)), np.ones((10, 10, 10), np.int64)).astype(np.uint32)
    labels[:, :, 170:] = 0
    labels[0, 0, -1] = 7
    return labels


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, voxels: np.ndarray) -> Path:
    """A store with labels and an image: a committed root, and an open child in which two bodies are one."""
    folder = tmp_path_factory.mktemp("exported")
    np.save(folder / "labels.npy", voxels)
    np.save(folder / "gray.npy", voxels.astype(np.uint8))
    with LocalConnection(folder / "db") as connection:
        for name, file in (("segmentation", "labels.npy"), ("grayscale", "gray.npy")):
            options = IngestOptions(instance=name, repo="r", offset_xyz=OFFSET, resolution_nm=(4, 4, 40))
            with open_volume(str(folder / file)) as source:
                root = ingest(connection, source, options, folder / f"{name}.jsonl", lambda *_: None).node
        connection.json("POST", f"/api/node/{root}/commit", {"note": "all"})
        child = connection.json("POST", f"/api/node/{root}/branch", {"branch": "side"})["child"]
        connection.json("POST", f"/api/node/{child}/segmentation/merge", [3, 7])
        (folder / "nodes").write_text(f"{root} {child}")
    return folder / "db"


@pytest.fixture(scope="module")
def nodes(store: Path) -> list[str]:
    return (store.parent / "nodes").read_text().split()


def exported(store: Path, version: str, out: Path | str, **options: object) -> ExportResult:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        chosen = ExportOptions(**{"workers": 1, **options})  # type: ignore[arg-type]
        return export(SourceSpec(data=str(store), version=version), str(out), chosen)


def with_tensorstore(folder: Path, level: int = 0) -> np.ndarray:
    spec = {"driver": "neuroglancer_precomputed", "kvstore": f"file://{folder}/", "scale_index": level}
    return np.asarray(tensorstore.open(spec, read=True).result()[..., 0].read().result()).T


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def sharded(store: Path, nodes: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sharded") / "out"
    result = exported(store, nodes[0], out, shard_voxels=128**3)
    assert result.volumes == ("grayscale", "segmentation")
    assert not work_folder("export", str(out), False, None).exists()
    return out


def test_all_scales_are_read_back_by_tensorstore(
    store: Path, nodes: list[str], sharded: Path, voxels: np.ndarray
) -> None:
    for name in ("segmentation", "grayscale"):
        found = with_tensorstore(sharded / name)
        assert np.array_equal(found, voxels)
        with SourceSpec(data=str(store), version=nodes[0], instance=name).open() as live:
            info = json.loads((sharded / name / "info").read_bytes())
            assert [scale["resolution"] for scale in info["scales"]] == [[4 << k, 4 << k, 40 << k] for k in range(4)]
            assert [scale["key"] for scale in info["scales"]] == ["4_4_40", "8_8_80", "16_16_160", "32_32_320"]
            assert "sharding" in info["scales"][0]
            with open_pyramid(str(sharded / name)) as static:
                for scale, again in zip(live.scales, static.scales, strict=True):
                    whole = scale.read((0, 0, 0), scale.shape_zyx)
                    assert np.array_equal(whole, again.read((0, 0, 0), again.shape_zyx))
    for level in (1, 3):
        with open_pyramid(str(sharded / "segmentation")) as static:
            scale = static.scales[level]
            whole = scale.read((0, 0, 0), scale.shape_zyx)
            assert np.array_equal(with_tensorstore(sharded / "segmentation", level), whole)


def test_chunks_of_zeros_are_left_out(store: Path, nodes: list[str], tmp_path: Path, voxels: np.ndarray) -> None:
    result = exported(store, nodes[0], tmp_path / "out", sharded=False, instances=("segmentation",))
    names = {path.name for path in (tmp_path / "out/segmentation/4_4_40").iterdir()}
    corners = [tuple(64 * at for at in cell) for cell in np.ndindex(*(-(-side // 64) for side in SHAPE))]
    filled = sum(bool(voxels[z : z + 64, y : y + 64, x : x + 64].any()) for z, y, x in corners)
    assert len(names) == filled < len(corners)
    assert np.array_equal(with_tensorstore(tmp_path / "out/segmentation"), voxels)
    assert result.chunks == sum(1 for path in (tmp_path / "out/segmentation").rglob("*-*_*-*_*-*"))
    for other, options in (("packed", {"gzip": True}), ("raw", {"encoding": "raw"})):
        exported(store, nodes[0], tmp_path / other, sharded=False, instances=("segmentation",), **options)
        with open_pyramid(str(tmp_path / other / "segmentation")) as static:
            assert np.array_equal(static.scales[0].read((0, 0, 0), SHAPE), voxels)
        assert {path.name.removesuffix(".gz") for path in (tmp_path / other / "segmentation/4_4_40").iterdir()} == names
    assert all(path.suffix == ".gz" for path in (tmp_path / "packed/segmentation/4_4_40").iterdir())


def test_equal_bytes_whoever_does_the_work(store: Path, nodes: list[str], sharded: Path, tmp_path: Path) -> None:
    exported(store, nodes[0], tmp_path / "again", shard_voxels=128**3)
    assert files(tmp_path / "again") == files(sharded)
    server = RunningServer(store)
    server.start()
    try:
        spec = SourceSpec(server=server.url, repo="r", version=nodes[0][:12])
        export(spec, str(tmp_path / "served"), ExportOptions(workers=1, shard_voxels=128**3))
    finally:
        server.kill9()
    assert files(tmp_path / "served") == files(sharded)


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Fails the work on the groups whose number is in the list, in this process."""
    wrong: list[str] = []
    write = ShardFiles.write

    def failing(self, shard, *rest):  # type: ignore[no-untyped-def]
        if self.name(shard) in wrong:
            raise BadRequest("the disk is on fire")
        return write(self, shard, *rest)

    monkeypatch.setattr(ShardFiles, "write", failing)
    return wrong


def test_it_goes_on_where_it_stopped(
    store: Path, nodes: list[str], sharded: Path, tmp_path: Path, broken: list[str]
) -> None:
    out = tmp_path / "out"
    shards = sorted(path.relative_to(sharded) for path in (sharded / "segmentation/4_4_40").iterdir())
    broken.append(shards[3].as_posix())
    with pytest.raises(ExportError, match=r"segmentation/4_4_40/.*the disk is on fire; \d+ of \d+ parts are missing"):
        exported(store, nodes[0], out, shard_voxels=128**3)
    assert not list(out.rglob("info"))
    assert not (out / "export.json").exists()
    times = {name: (out / name).stat().st_mtime_ns for name in files(out)}
    assert times
    with pytest.raises(JournalError, match="journal of another job"):
        exported(store, nodes[0], out, shard_voxels=64**3)
    broken.clear()
    exported(store, nodes[0], out, shard_voxels=128**3)
    assert files(out) == files(sharded)
    assert {name: (out / name).stat().st_mtime_ns for name in times} == times


def test_what_was_lost_is_written_again(
    store: Path, nodes: list[str], sharded: Path, tmp_path: Path, broken: list[str]
) -> None:
    out = tmp_path / "out"
    shards = sorted(path.relative_to(sharded).as_posix() for path in (sharded / "segmentation/4_4_40").iterdir())
    broken.append(shards[-1])
    with pytest.raises(ExportError):
        exported(store, nodes[0], out, shard_voxels=128**3)
    (out / shards[0]).unlink()
    with (out / shards[1]).open("r+b") as file:
        file.seek(-3, 2)
        file.write(b"\0\0\0")
    broken.clear()
    exported(store, nodes[0], out, shard_voxels=128**3)
    assert files(out) == files(sharded)


def test_destinations_that_lie_are_found_out(
    store: Path, nodes: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fascicle.volumes.destinations import FileDestination

    put = FileDestination.put
    wrong = "segmentation/4_4_40/64-128_0-64_-128--64"

    def lying(self, name, data, *rest, **more):  # type: ignore[no-untyped-def]
        put(self, name, data[:-1] + b"?" if name == wrong else data, *rest, **more)

    monkeypatch.setattr(FileDestination, "put", lying)
    with pytest.raises(ExportError, match=r"1 parts are not at the destination .* segmentation/4_4_40/group 0"):
        exported(store, nodes[0], tmp_path / "out", sharded=False)
    assert not (tmp_path / "out/segmentation/info").exists()


# -- since an earlier one


def test_only_what_differs_is_written_in_place(store: Path, nodes: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    for version in nodes:
        exported(store, version, tmp_path / version, sharded=False)
    exported(store, nodes[0], out, sharded=False)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*-*_*")}
    result = exported(store, nodes[1], out, sharded=False, since=str(out))
    assert files(out) == files(tmp_path / nodes[1])
    written = {path.relative_to(out) for path, time in before.items() if path.stat().st_mtime_ns != time}
    old, new = files(tmp_path / nodes[0]), files(tmp_path / nodes[1])
    assert {str(path) for path in written} == {name for name in new if "-" in name and old[name] != new[name]}
    assert written
    assert result.changed
    assert all(name.startswith("segmentation/") for name in result.changed)
    again = exported(store, nodes[1], out, sharded=False, since=str(out))
    assert again.changed == ()
    # back again, where labels are gone and come back
    exported(store, nodes[0], out, sharded=False, since=str(out))
    assert files(out) == files(tmp_path / nodes[0])


def test_what_differs_can_go_elsewhere(store: Path, nodes: list[str], tmp_path: Path) -> None:
    old, new, delta = tmp_path / "old", tmp_path / "new", tmp_path / "delta"
    exported(store, nodes[0], old, sharded=False)
    exported(store, nodes[1], new, sharded=False)
    exported(store, nodes[1], delta, sharded=False, since=str(old))
    changes = {name for name, data in files(new).items() if "-" in name and data != files(old)[name]}
    assert {name for name in files(delta) if "-" in name} == changes
    for name, data in files(delta).items():
        (old / name).write_bytes(data)
    assert files(old) == files(new)


def test_shards_that_change_are_named(store: Path, nodes: list[str], sharded: Path, tmp_path: Path) -> None:
    result = exported(store, nodes[1], tmp_path / "new", shard_voxels=128**3, since=str(sharded))
    whole = tmp_path / "whole"
    exported(store, nodes[1], whole, shard_voxels=128**3)
    old, new = files(sharded), files(whole)
    changes = {name for name in new if name.endswith(".shard") and old[name] != new[name]}
    assert {name for name in result.changed if name.endswith(".shard")} == changes
    assert {name for name in files(tmp_path / "new") if name.endswith(".shard")} == changes
    with pytest.raises(BadRequest, match=r"no finished export in .* no export\.json"):
        exported(store, nodes[1], tmp_path / "x", since=str(tmp_path))


def test_an_export_replaces_what_was_there(store: Path, nodes: list[str], tmp_path: Path, voxels: np.ndarray) -> None:
    out = tmp_path / "out"
    stale = out / "segmentation/4_4_40/256-320_0-64_-128--64"
    stale.parent.mkdir(parents=True)
    (out / "segmentation/info").write_text("{}")
    stale.write_bytes(b"what was here before")
    exported(store, nodes[0], out, sharded=False, instances=("segmentation",))
    assert not stale.exists()
    assert np.array_equal(with_tensorstore(out / "segmentation"), voxels)


# -- the rest


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"instances": ("x",)}, "no data instance 'x'"),
        ({"encoding": "jpg"}, "'jpg' is none of raw"),
        ({"encoding": "jpeg", "instances": ("segmentation",)}, "cannot be of encoding jpeg"),
    ],
)
def test_what_cannot_be_exported(
    store: Path, nodes: list[str], tmp_path: Path, options: dict[str, object], text: str
) -> None:
    with pytest.raises((BadRequest, NotFound), match=text):
        exported(store, nodes[0], tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_an_encoding_counts_for_what_can_have_it(store: Path, nodes: list[str], tmp_path: Path) -> None:
    exported(store, nodes[0], tmp_path / "out", encoding="jpeg", provenance="What we saw")
    encodings = {
        name: precomputed_info.decode((tmp_path / "out" / name / "info").read_bytes()).scales[0].encoding
        for name in ("grayscale", "segmentation")
    }
    assert encodings == {"grayscale": "jpeg", "segmentation": "compressed_segmentation"}
    provenance = json.loads((tmp_path / "out/grayscale/provenance").read_bytes())
    assert provenance["description"] == "What we saw"
    assert nodes[0] in provenance["sources"][0]


def test_supervoxels_and_open_versions(store: Path, nodes: list[str], tmp_path: Path, voxels: np.ndarray) -> None:
    spec = SourceSpec(data=str(store), repo="r", version="side")
    options = ExportOptions(workers=1, supervoxels=True, instances=("segmentation",))
    with pytest.warns(UserWarning, match=f"version {nodes[1]} is open"):
        export(spec, str(tmp_path / "out"), options)
    assert np.array_equal(with_tensorstore(tmp_path / "out/segmentation"), voxels)
    exported(store, nodes[1], tmp_path / "bodies", instances=("segmentation",))
    assert np.array_equal(with_tensorstore(tmp_path / "bodies/segmentation"), np.where(voxels == 7, 3, voxels))


def test_groups_and_shards_cover_every_cell_once() -> None:
    scale = precomputed_info.Scale(
        key="s", size=(500, 300, 700), resolution=(1, 1, 1), chunk_sizes=((64, 64, 32),), encoding="raw"
    )
    info = precomputed_info.VolumeInfo(type="image", data_type="uint8", scales=(scale,))
    for sharded in (False, True):
        found = export_volumes.static_info(info, sharded, 128**3).scales[0]
        assert (found.sharding is not None) == sharded
        groups, weights = export_volumes._groups(found)
        cells = [cell for number in groups for _, cell in cells_of(found, number)]
        assert len(cells) == len(set(cells)) == np.prod(found.grid())
        assert [len(list(cells_of(found, number))) * 64 * 64 * 32 for number in groups] == weights
        for number in groups if found.sharding else ():
            keys = [key for key, _ in cells_of(found, number)]
            assert keys == sorted(keys)
            assert found.sharding is not None
            assert {found.sharding.place(key)[0] for key in keys} == {number}


def test_the_command(store: Path, nodes: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*arguments: str) -> str:
        group.main(args=["export", *arguments], prog_name="fascicle", standalone_mode=False)
        return capsys.readouterr().out

    out = str(tmp_path / "out")
    said = run(f"r/{nodes[0]}", out, "--data", str(store), "--unsharded", "--workers", "1", "--quiet")
    assert f"grayscale, segmentation of version {nodes[0]} in {out}" in said
    assert "verified" in said
    said = run(nodes[1], out, "--data", str(store), "--unsharded", "--workers", "1", "--quiet", "--since", out)
    assert "changed: segmentation/4_4_40/group 0" in said
    with pytest.raises(Exception, match="either a folder"):
        run(nodes[0], out)
    with pytest.raises(Exception, match="--unsharded"):
        run(nodes[0], out, "--data", str(store), "--gzip")


@pytest.mark.slow
def test_workers_and_a_dask_cluster_write_the_same(
    store: Path, nodes: list[str], sharded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export_pipeline, "_WORKER_VOXELS", 1)
    exported(store, nodes[0], tmp_path / "workers", shard_voxels=128**3, workers=2)
    assert files(tmp_path / "workers") == files(sharded)
    with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None) as cluster:
        scheduler = cluster.scheduler_address
        exported(store, nodes[0], tmp_path / "dask", shard_voxels=128**3, scheduler=scheduler)
    assert files(tmp_path / "dask") == files(sharded)
