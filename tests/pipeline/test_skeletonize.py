"""Skeletons as jobs: every form, from store folders and servers; interrupted, replaced, brought up to date."""

from __future__ import annotations

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
from fascicle.formats import skeleton as skeletons
from fascicle.formats import swc
from fascicle.formats.skeleton import Skeleton
from fascicle.formats.swc import Neuron
from fascicle.pipeline import skeleton_outputs, skeleton_parts
from fascicle.pipeline.body_jobs import block_boxes
from fascicle.pipeline.ingest_connections import LocalConnection
from fascicle.pipeline.journal import JournalError
from fascicle.pipeline.skeletonize import SkeletonizeOptions, block_size, skeletonize
from fascicle.pipeline.sources import SourceSpec
from fascicle.precomputed.centrelines import Teasar
from fascicle.volumes.objects import FileFolder
from fascicle.volumes.shards import ShardReader
from serving import RunningServer

SHAPE = (40, 72, 100)
PARAMETERS = Teasar(constant_nm=60, dust=50)
OPTIONS = SkeletonizeOptions(parameters=PARAMETERS, workers=1, block_xyz=(40, 40, 30))
BODIES = [3, 4, BIG]


@pytest.fixture(scope="module")
def labels() -> np.ndarray:
    """Three bars, one of them of two supervoxels, and dust."""
    found = np.zeros(SHAPE, np.uint64)
    found[10:16, 10:18, 4:96] = 3
    found[4:36, 40:48, 20:27] = 4
    found[20:28, 60:66, 2:50] = BIG
    found[20:28, 60:66, 50:98] = 6
    found[0, 0, 0:40] = 9
    return found


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, labels: np.ndarray) -> Path:
    return make_store(tmp_path_factory.mktemp("skeletonize"), labels)


@pytest.fixture
def source(store: Path) -> SourceSpec:
    return SourceSpec(data=str(store), repo="r", instance="seg")


@pytest.fixture
def root(store: Path) -> str:
    return (store.parent / "root").read_text()


def read(folder: Path) -> dict[int, Skeleton]:
    info = skeletons.read_info((folder / "info").read_bytes())
    return {
        int(path.name): skeletons.decode(path.read_bytes(), info.vertex_attributes)
        for path in folder.iterdir()
        if path.name.isdigit()
    }


def check(skeleton: Skeleton, body: int, labels: np.ndarray) -> None:
    x, y, z = (np.floor(skeleton.vertices / np.array(RESOLUTION)).astype(int) - np.array(OFFSET)).T
    assert (labels[z, y, x] == body).all()
    assert len(skeleton.vertices) == len(skeleton.edges) + 1


def test_precomputed(source: SourceSpec, labels: np.ndarray, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    done = skeletonize(source, str(tmp_path / "out"), OPTIONS, lambda *step: seen.append(step))
    assert (done.skeletons, done.blocks, done.shards) == (3, 12, 0)
    found = read(tmp_path / "out")
    assert sorted(found) == BODIES
    for body, skeleton in found.items():
        check(skeleton, body, only_bodies(labels))
        assert np.bincount(skeleton.edges.ravel()).tolist().count(1) == 2
    assert found[3].length == pytest.approx(92 * 8, rel=0.1)
    assert found[BIG].length == pytest.approx(96 * 8, rel=0.1)
    assert done.vertices == sum(len(skeleton.vertices) for skeleton in found.values())
    assert {name for name, _, _ in seen} == {"centrelines", "joining", "writing"}
    assert all(at[1] <= at[2] for at in seen)
    assert list(tmp_path.iterdir()) == [tmp_path / "out"]  # nothing else is left


def test_workers_and_blocks_in_any_order_give_the_same_bytes(source: SourceSpec, tmp_path: Path) -> None:
    one = skeletonize(source, str(tmp_path / "one"), OPTIONS, None)
    two = skeletonize(source, str(tmp_path / "two"), replace(OPTIONS, workers=2, memory_bytes=4 << 30), None)
    assert replace(one, seconds=0, destination="") == replace(two, seconds=0, destination="")
    assert files(tmp_path / "one") == files(tmp_path / "two")


def test_shards(source: SourceSpec, tmp_path: Path) -> None:
    plain, sharded = tmp_path / "plain", tmp_path / "sharded"
    skeletonize(source, str(plain), OPTIONS, None)
    done = skeletonize(source, str(sharded), replace(OPTIONS, sharded=True), None)
    assert done.shards == 1
    info = skeletons.read_info((sharded / "info").read_bytes())
    assert info.sharding is not None
    reader = ShardReader(FileFolder(str(sharded)), "", info.sharding)
    for body in BODIES:
        assert reader.get(body, 1 << 20) == (plain / str(body)).read_bytes()
    # what is replaced leaves nothing behind, in either direction
    skeletonize(source, str(sharded), replace(OPTIONS, bodies=()), None)
    assert files(sharded) == files(plain)
    done = skeletonize(source, str(plain), replace(OPTIONS, sharded=True), None)
    assert sorted(files(plain)) == ["0.shard", "info"]
    with pytest.raises(BadRequest, match="sharded, so only all"):
        skeletonize(source, str(plain), replace(OPTIONS, bodies=(3,)), None)


def test_supervoxels_and_chosen_bodies(source: SourceSpec, labels: np.ndarray, tmp_path: Path) -> None:
    supervoxels = replace(source, supervoxels=True)
    done = skeletonize(supervoxels, str(tmp_path / "out"), replace(OPTIONS, bodies=(6, 77)), None)
    assert done.skeletons == 1
    found = read(tmp_path / "out")
    assert sorted(found) == [6]
    check(found[6], 6, labels)
    skeletonize(supervoxels, str(tmp_path / "out"), replace(OPTIONS, bodies=(3,)), None)
    assert sorted(read(tmp_path / "out")) == [3, 6]
    dusty = replace(OPTIONS, bodies=(9,), parameters=replace(PARAMETERS, dust=0))
    done = skeletonize(source, str(tmp_path / "dust"), dusty, None)
    assert done.skeletons == 1
    assert done.blocks < 12  # where the index knows that there is nothing nothing is read


def test_since(source: SourceSpec, root: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    before = replace(source, repo="", version=root)
    skeletonize(before, str(out), OPTIONS, None)
    assert sorted(read(out)) == sorted([*BODIES, 6])
    three = (out / "3").stat().st_mtime_ns
    done = skeletonize(source, str(out), replace(OPTIONS, since=root), None)
    assert (done.skeletons, done.removed) == (1, 1)
    assert (out / "3").stat().st_mtime_ns == three
    skeletonize(source, str(tmp_path / "whole"), OPTIONS, None)
    assert files(out) == files(tmp_path / "whole")
    with pytest.raises(BadRequest, match="no skeletons"):
        skeletonize(source, str(tmp_path / "nothing"), replace(OPTIONS, since=root), None)
    with pytest.raises(FascicleError):
        skeletonize(source, str(out), replace(OPTIONS, since="nowhere"), None)


@pytest.mark.parametrize("in_nm", [False, True])
def test_swc(source: SourceSpec, tmp_path: Path, in_nm: bool) -> None:
    skeletonize(source, str(tmp_path / "plain"), OPTIONS, None)
    done = skeletonize(source, str(tmp_path / "out"), replace(OPTIONS, format="swc", in_nm=in_nm), None)
    assert done.skeletons == 3
    factors = (1.0, 1.0, 1.0) if in_nm else RESOLUTION
    for body, expected in read(tmp_path / "plain").items():
        found, _, comments = swc.read((tmp_path / "out" / f"{body}.swc").read_bytes())
        found = swc.scaled(found, factors)
        assert np.allclose(
            found.vertices[np.lexsort(found.vertices.T)], expected.vertices[np.lexsort(expected.vertices.T)], atol=0.02
        )
        assert found.length == pytest.approx(expected.length, rel=1e-3)
        mutation = swc.mutation_of(comments)
        assert mutation is not None
        assert (mutation > 0) == (body == BIG)


def test_archive(source: SourceSpec, tmp_path: Path) -> None:
    neurons = (Neuron(3, "KC", "KC_R"), Neuron(BIG, "MBON"), Neuron(1234))
    options = replace(OPTIONS, format="archive", neurons=neurons)
    skeletonize(source, str(tmp_path / "neurons.tar"), options, None)
    again = skeletonize(source, str(tmp_path / "again.tar"), options, None)
    assert again.skeletons == 2
    assert (tmp_path / "neurons.tar").read_bytes() == (tmp_path / "again.tar").read_bytes()
    with tarfile.open(tmp_path / "neurons.tar") as archive:
        assert archive.getnames() == ["skeletons/3.swc", f"skeletons/{BIG}.swc", "traced-neurons.csv"]
    *texts, table = swc.read_archive([(tmp_path / "neurons.tar").read_bytes()])
    assert table == list(neurons[:2])
    assert [body for body, _ in texts if isinstance(body, int)] == [3, BIG]


def test_keys(source: SourceSpec, store: Path) -> None:
    done = skeletonize(source, "", replace(OPTIONS, keys=True), None)
    assert done.skeletons == 3
    with LocalConnection(store) as connection:
        keys = connection.json("GET", "/api/node/:master/seg_skeletons/keys")
        assert keys == sorted(f"{body}_swc" for body in BODIES)
        text = connection.request("GET", f"/api/node/:master/seg_skeletons/key/{BIG}_swc")
        last = connection.json("GET", f"/api/node/:master/seg/lastmod/{BIG}")["mutation id"]
    assert swc.mutation_of(swc.read(text)[2]) == last


def test_keys_need_an_open_version(source: SourceSpec, root: str) -> None:
    with pytest.raises(BadRequest, match="committed"):
        skeletonize(replace(source, repo="", version=root), "", replace(OPTIONS, keys=True), None)


def test_a_server(source: SourceSpec, store: Path, root: str, tmp_path: Path) -> None:
    at_root = replace(source, repo="", version=root)
    skeletonize(at_root, str(tmp_path / "folder"), replace(OPTIONS, format="swc"), None)
    server = RunningServer(store)
    server.start()
    try:
        served = replace(at_root, data="", server=server.url)
        skeletonize(served, str(tmp_path / "served"), replace(OPTIONS, format="swc"), None)
    finally:
        server.kill9()
    assert files(tmp_path / "folder") == files(tmp_path / "served")


class Stopped(Exception):
    """In the place of a crash."""


@pytest.mark.parametrize("sharded", [False, True])
def test_stopped_anywhere_it_goes_on_to_the_same(
    source: SourceSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sharded: bool
) -> None:
    options = replace(OPTIONS, sharded=sharded)
    skeletonize(source, str(tmp_path / "whole"), options, None)
    expected = files(tmp_path / "whole")
    blocks = []

    def counted(place: Any, argument: Any) -> int:
        blocks.append(argument[0])
        return skeleton_parts.do_block(place, argument)

    monkeypatch.setattr("fascicle.pipeline.skeletonize.do_block", counted)

    def failing_at(number: int) -> Callable[..., None]:
        steps = itertools.count()

        def progress(*_: object) -> None:
            if next(steps) == number:
                raise Stopped

        return progress

    out = str(tmp_path / "out")
    stops = 0
    for number in (1, 5, 8, 2, 3):
        try:
            skeletonize(source, out, options, failing_at(number))
        except Stopped:
            stops += 1
            assert not (tmp_path / "out" / "info").exists()
    assert stops == 5
    skeletonize(source, out, options, None)
    assert files(tmp_path / "out") == expected
    assert sorted(blocks) == list(range(12))  # what was done is not done again


def test_a_journal_of_something_else(source: SourceSpec, tmp_path: Path) -> None:
    def stop(*_: object) -> None:
        raise Stopped

    with pytest.raises(Stopped):
        skeletonize(source, str(tmp_path / "out"), OPTIONS, stop)
    other = replace(OPTIONS, parameters=replace(PARAMETERS, scale=2.0))
    with pytest.raises(JournalError, match="parameters"):
        skeletonize(source, str(tmp_path / "out"), other, None)


def test_what_cannot_be_written_is_an_error(
    source: SourceSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FileFolder, "get", lambda *_: None)
    with pytest.raises(skeleton_outputs.SkeletonError, match="not what was written"):
        skeletonize(source, str(tmp_path / "out"), OPTIONS, None)
    assert not (tmp_path / "out" / "info").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "obj"}, "none of"),
        ({"scale": 9}, "no scale 9"),
        ({"bodies": (3,), "since": "x"}, "either bodies"),
        ({"since": "x", "format": "archive"}, "as a whole"),
        ({"since": "x", "sharded": True}, "as a whole"),
        ({"block_xyz": (1, 9, 9)}, "too small"),
        ({"parameters": Teasar(scale=float("nan"))}, "at least 0"),
        ({"parameters": Teasar(scale=0, constant_nm=0)}, "both be 0"),
    ],
)
def test_bad_input(source: SourceSpec, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(BadRequest, match=message):
        skeletonize(source, str(tmp_path / "out"), replace(OPTIONS, **changes), None)
    assert not list(tmp_path.iterdir())


def test_blocks_are_what_the_memory_allows() -> None:
    class Volume:
        shape_zyx = (512, 4000, 4000)
        chunk_zyx = (64, 64, 64)

    volume: Any = Volume()
    before = 0
    for megabytes in (256, 1024, 4096, 65536):
        size = block_size(volume, (4, 4, 40), replace(OPTIONS, block_xyz=None, memory_bytes=megabytes << 20), 1)
        assert size[0] <= size[1]  # 40 nm against 4
        assert int(np.prod(size)) >= before
        before = int(np.prod(size))
        assert before * 30 < max(megabytes, 512) << 20
    boxes = list(block_boxes((10, 21, 1), (10, 10, 10)))
    assert boxes == [
        ([0, 0, 0], [10, 11, 1], [False, False, False, True, False, False]),
        ([0, 10, 0], [10, 21, 1], [False, False, True, False, False, False]),
    ]


def test_the_command(store: Path, tmp_path: Path) -> None:
    where = ["--data", str(store), "--repo", "r", "--instance", "seg", "--quiet"]
    usual = ["--const", "60", "--dust", "50", "--workers", "1", "--block", "40,40,30"]
    run = CliRunner().invoke(group, ["skeletonize", str(tmp_path / "out"), *where, *usual])
    assert run.exit_code == 0, run.output
    assert run.output.startswith("3 skeletons of ")
    skeletonize(SourceSpec(data=str(store), repo="r", instance="seg"), str(tmp_path / "same"), OPTIONS, None)
    assert files(tmp_path / "out") == files(tmp_path / "same")
    (tmp_path / "list").write_text(f"3\n{BIG}\n")
    chosen = ["--bodies", str(tmp_path / "list"), "--format", "swc", "--units", "nm"]
    run = CliRunner().invoke(group, ["skeletonize", str(tmp_path / "swc"), *where, *usual, *chosen])
    assert run.exit_code == 0, run.output
    assert sorted(files(tmp_path / "swc")) == [f"{BIG}.swc", "3.swc"]
    for arguments in (["skeletonize"], ["skeletonize", *where], ["skeletonize", "a", "b", *where]):
        assert CliRunner().invoke(group, arguments).exit_code == 2
    assert CliRunner().invoke(group, ["skeletonize", "out", *where, "--bodies", "1,x"]).exit_code == 2
