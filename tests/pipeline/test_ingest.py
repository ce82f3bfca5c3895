"""Ingest into a data folder: afterwards everything is there, also after interruptions, and nothing else has changed."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from PIL import Image

from fascicle.cli import ingest as ingest_command
from fascicle.errors import FascicleError
from fascicle.pipeline.ingest import IngestOptions, IngestSummary, average_of_eight, ingest, verify
from fascicle.pipeline.ingest_connections import Connection, IngestError, LocalConnection
from fascicle.pipeline.ingest_mapping import bodies_of, mapping_messages, read_mapping
from fascicle.pipeline.ingest_plan import Box, aligned, clipped, coarser_scales, halved, past, tiling
from fascicle.pipeline.journal import Journal, JournalError
from fascicle.volumes import VolumeSource, open_volume

RNG = np.random.default_rng(9)


def quiet(stage: str, done: int, total: int) -> None:
    assert 0 <= done <= total


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "db"


@pytest.fixture
def connection(folder: Path) -> Iterator[LocalConnection]:
    with LocalConnection(folder) as connection:
        yield connection  # type: ignore[misc]


def saved(path: Path, volume: np.ndarray[Any, Any]) -> VolumeSource:
    np.save(path, volume)
    return open_volume(str(path))


def gray_volume(shape: tuple[int, int, int] = (40, 70, 50)) -> np.ndarray[Any, Any]:
    return RNG.integers(0, 256, shape).astype(np.uint8)


def supervoxels(shape: tuple[int, int, int] = (40, 70, 50)) -> np.ndarray[Any, Any]:
    """Cubes of 8 voxels with ids of their own, some of them background."""
    z, y, x = np.indices(shape) // 8
    labels = 1 + x + 10 * y + 100 * z
    return np.where(labels % 7 == 0, 0, labels).astype(np.uint32)


def stored(connection: Connection, node: str, name: str, box: Box, dtype: str, more: str = "") -> np.ndarray[Any, Any]:
    sizes, offset = "_".join(map(str, box.size_xyz)), "_".join(map(str, box.offset_xyz))
    data = connection.request("GET", f"/api/node/{node}/{name}/raw/0_1_2/{sizes}/{offset}{more}")
    return np.frombuffer(data, dtype).reshape(box.shape_zyx)


def run(connection: Connection, source: VolumeSource, journal: Path, **options: Any) -> IngestSummary:
    given_options = IngestOptions(**({"repo": "r", "instance": "em", "block_size": 16} | options))
    summary = ingest(connection, source, given_options, journal, quiet)
    assert verify(connection, source, given_options, summary.node, quiet) == []
    return summary


def extents(connection: Connection, node: str, name: str) -> tuple[list[int], list[int]]:
    found = connection.json("GET", f"/api/node/{node}/{name}/info")["Extents"]
    return found["MinPoint"], found["MaxPoint"]


@pytest.mark.parametrize(("offset", "memory"), [((0, 0, 0), 1 << 30), ((-5, 3, 100), 300_000)])
def test_images(connection: LocalConnection, tmp_path: Path, offset: tuple[int, int, int], memory: int) -> None:
    volume = gray_volume()
    source = saved(tmp_path / "v.npy", volume)
    summary = run(
        connection, source, tmp_path / "j", offset_xyz=offset, memory_bytes=memory, resolution_nm=(4, 5, 40.5)
    )
    assert (summary.typename, summary.scales, summary.posted_voxels) == ("uint8blk", 3, volume.size)
    assert extents(connection, summary.node, "em") == (
        list(offset),
        [a + b - 1 for a, b in zip(offset, (50, 70, 40), strict=True)],
    )
    info = connection.json("GET", f"/api/node/{summary.node}/em_2/info")
    assert info["Extended"]["VoxelSize"] == [16, 20, 162]
    finer, box = volume, summary.box
    for scale in (1, 2, 3):
        coarse = halved(box)
        pads = [(a % 2, b % 2) for a, b in zip(box.offset_xyz[::-1], past(box)[::-1], strict=True)]
        finer = average_of_eight(np.pad(finer, pads, mode="edge"))
        assert np.array_equal(stored(connection, summary.node, f"em_{scale}", coarse, "u1"), finer)
        low, high = extents(connection, summary.node, f"em_{scale}")
        assert (tuple(low), tuple(high)) == (coarse.offset_xyz, coarse.end_xyz)
        box = coarse


def test_bodies(connection: LocalConnection, tmp_path: Path) -> None:
    volume = supervoxels()
    ids = np.unique(volume)[1:]
    np.save(tmp_path / "map.npy", np.stack([ids, ids % 5 + 1000], axis=1).astype(np.int64))
    summary = run(
        connection, saved(tmp_path / "v.npy", volume), tmp_path / "j",
        mapping=str(tmp_path / "map.npy"), instance="seg", offset_xyz=(0, 16, 32),
    )  # fmt: skip
    assert summary.typename == "labelmap"
    bodies = stored(connection, summary.node, "seg", summary.box, "u8")
    assert np.array_equal(bodies, np.where(volume == 0, 0, volume % 5 + 1000))
    assert connection.json("GET", f"/api/node/{summary.node}/seg/maxlabel")["maxlabel"] >= 1004
    assert extents(connection, summary.node, "seg") == ([0, 16, 32], [49, 85, 71])


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("labels", [False, True])
def test_an_interrupted_ingest_goes_on(folder: Path, tmp_path: Path, labels: bool) -> None:
    volume = supervoxels() if labels else gray_volume()
    source = saved(tmp_path / "v.npy", volume)
    options = IngestOptions(instance="v", repo="r", block_size=16, memory_bytes=300_000, offset_xyz=(3, 0, -9))
    posted: list[int] = []
    for limit in (2, 5, 10**9):
        with LocalConnection(folder) as connection:
            calls = itertools.count()
            original = connection.exchange

            def failing(method: str, path: str, body: Any) -> tuple[int, bytes]:
                answer = original(method, path, body)  # noqa: B023
                if method == "POST" and "/raw/" in path and next(calls) == limit:  # noqa: B023
                    raise Interrupted
                return answer

            connection.exchange = failing  # type: ignore[method-assign]
            try:
                summary = ingest(connection, source, options, tmp_path / "j", quiet)
            except Interrupted:
                continue
            posted.append(summary.posted_voxels)
            assert verify(connection, source, options, summary.node, quiet) == []
            assert len(connection.json("GET", "/api/repos/info")) == 1
            again = ingest(connection, source, options, tmp_path / "j", quiet)
            assert again.posted_voxels == 0
    assert 0 < posted[0] < volume.size


def test_what_was_there_before_stays(connection: LocalConnection, tmp_path: Path) -> None:
    first, second = gray_volume((20, 20, 20)), gray_volume((20, 20, 20))
    run(connection, saved(tmp_path / "a.npy", first), tmp_path / "a", scales=0)
    summary = run(connection, saved(tmp_path / "b.npy", second), tmp_path / "b", offset_xyz=(20, 0, 0), scales=0)
    whole = stored(connection, summary.node, "em", Box((40, 20, 20), (0, 0, 0)), "u1")
    assert np.array_equal(whole, np.concatenate([first, second], axis=2))
    assert extents(connection, summary.node, "em") == ([0, 0, 0], [39, 19, 19])


def test_labels_that_were_there_before_stay(connection: LocalConnection, tmp_path: Path) -> None:
    first, second = supervoxels((20, 20, 20)), supervoxels((20, 20, 20)) + np.uint32(1)
    run(connection, saved(tmp_path / "a.npy", first), tmp_path / "a")
    summary = run(connection, saved(tmp_path / "b.npy", second.astype("u8")), tmp_path / "b", offset_xyz=(0, 20, 0))
    whole = stored(connection, summary.node, "em", Box((20, 40, 20), (0, 0, 0)), "u8")
    assert np.array_equal(whole, np.concatenate([first, second], axis=1))


def test_differences_are_found(connection: LocalConnection, tmp_path: Path) -> None:
    volume = supervoxels((16, 16, 16))
    summary = run(connection, saved(tmp_path / "v.npy", volume), tmp_path / "j")
    volume[0, 0, 0] += 1
    options = IngestOptions(instance="em", repo="r", block_size=16)
    wrong = verify(connection, saved(tmp_path / "v.npy", volume), options, summary.node, quiet)
    assert len(wrong) >= 2
    assert "1 voxels differ" in wrong[0]
    assert "voxels instead of" in wrong[1]


def test_jpeg_instances_cannot_be_verified(connection: LocalConnection, tmp_path: Path) -> None:
    volume = np.tile(np.arange(32, dtype=np.uint8), (32, 32, 1))
    options = IngestOptions(instance="em", repo="r", block_size=16, compression="jpeg:95")
    source = saved(tmp_path / "v.npy", volume)
    summary = ingest(connection, source, options, tmp_path / "j", quiet)
    found = stored(connection, summary.node, "em", summary.box, "u1")
    assert np.abs(found.astype(int) - volume).max() <= 3
    with pytest.raises(IngestError, match="stores JPEGs"):
        verify(connection, source, options, summary.node, quiet)


def test_refusals(connection: LocalConnection, tmp_path: Path) -> None:
    gray = saved(tmp_path / "g.npy", gray_volume((4, 4, 4)))
    negative = saved(tmp_path / "n.npy", np.full((4, 4, 4), -1, np.int64))
    wide = saved(tmp_path / "f.npy", np.ones((4, 4, 4)))
    for source, options, message in (
        (gray, {"typename": "rgba8blk"}, "none of labelmap"),
        (wide, {}, "need a --type"),
        (wide, {"typename": "labelmap"}, "cannot be labels"),
        (wide, {"typename": "uint8blk"}, "do not fit"),
        (negative, {"instance": "other"}, "negative label -1"),
        (gray, {"mapping": "x"}, "belongs to a labelmap"),
        (gray, {"uuid": "1234"}, "either a version"),
        (gray, {"uuid": "1234", "repo": ""}, "refused with 400"),
    ):
        with pytest.raises(FascicleError, match=message):
            run(connection, source, tmp_path / message[:5], **options)
    summary = run(connection, gray, tmp_path / "j")
    with pytest.raises(IngestError, match="exists and is a uint8blk"):
        run(connection, gray, tmp_path / "k", typename="labelmap")
    with pytest.raises(JournalError, match=r"journal of another job \(it differs in offset"):
        run(connection, gray, tmp_path / "j", offset_xyz=(1, 1, 1))
    connection.json("POST", f"/api/node/{summary.node}/commit", {"note": "done"})
    with pytest.raises(IngestError, match="is committed"):
        run(connection, gray, tmp_path / "l")


@pytest.mark.parametrize("kind", ["zarr", "n5", "neuroglancer_precomputed", "nifti"])
def test_the_command_on_other_kinds_of_volumes(kind: str, tmp_path: Path) -> None:
    """Place and size of the voxels are those that the source says."""
    volume, source, options = gray_volume(), tmp_path / "v", []
    if kind == "nifti":
        nibabel = pytest.importorskip("nibabel")
        source = tmp_path / "v.nii.gz"
        nibabel.save(nibabel.Nifti1Image(volume.T, np.diag([4e-6, 5e-6, 40e-6, 1])), source)
    else:
        tensorstore = pytest.importorskip("tensorstore")
        spec: dict[str, Any] = {"driver": kind, "kvstore": f"file://{source}/", "create": True}
        both = np.stack([volume, 255 - volume], axis=-1 if kind != "zarr" else 0)
        if kind == "zarr":
            spec["metadata"] = {"shape": both.shape, "chunks": [1, 16, 16, 16], "dtype": "|u1"}
            options = ["--channel", "1", "--resolution", "4,5,40", "--offset", "7,0,-3"]
            volume, array = both[1], both
        elif kind == "n5":
            size = {"dimensions": volume.shape[::-1], "blockSize": [16] * 3, "dataType": "uint8"}
            spec["metadata"] = size | {"compression": {"type": "gzip"}}
            options, array = ["--resolution", "4,5,40"], volume.T
        else:
            spec |= {"multiscale_metadata": {"type": "image", "data_type": "uint8", "num_channels": 1}}
            sharding = {"@type": "neuroglancer_uint64_sharded_v1", "hash": "murmurhash3_x86_128", "preshift_bits": 2}
            spec["scale_metadata"] = {
                "size": volume.shape[::-1], "resolution": [4, 5, 40], "voxel_offset": [7, 0, -3], "encoding": "raw",
                "chunk_size": [8, 8, 8], "sharding": sharding | {"minishard_bits": 1, "shard_bits": 1},
            }  # fmt: skip
            array = volume.T[..., None]
        tensorstore.open(spec).result().write(array).result()
    words = [str(source), "--data", str(tmp_path / "db"), "--repo", "r", "--instance", "em", "--block-size", "16"]
    result = CliRunner().invoke(ingest_command.ingest, [*words, "--verify", *options])
    assert result.exit_code == 0, result.output
    offset = (7, 0, -3) if kind in ("zarr", "neuroglancer_precomputed") else (0, 0, 0)
    with LocalConnection(tmp_path / "db") as connection:
        node = connection.json("GET", "/api/repos/info").popitem()[1]["Root"]
        assert connection.json("GET", f"/api/node/{node}/em/info")["Extended"]["VoxelSize"] == [4, 5, 40]
        box = Box((volume.shape[2], volume.shape[1], volume.shape[0]), offset)
        assert np.array_equal(stored(connection, node, "em", box, "u1"), volume)


def test_the_command(tmp_path: Path) -> None:
    volume = gray_volume((70, 30, 20))
    (tmp_path / "slices").mkdir()
    for z, plane in enumerate(volume):
        Image.fromarray(plane).save(tmp_path / "slices" / f"s{z}.png")
    arguments = [
        f"{tmp_path}/slices/*.png", "--data", f"{tmp_path}/db", "--repo", "r", "--instance", "em",
        "--resolution", "8,8,8", "--memory", "64M", "--verify", "--quiet",
    ]  # fmt: skip
    for speed in ("0.0 MVoxel in", "0.0 MVoxel in"):
        result = CliRunner().invoke(ingest_command.ingest, arguments, catch_exceptions=False)
        assert result.exit_code == 0
        assert "verified" in result.output
        assert speed in result.output
    assert CliRunner().invoke(ingest_command.ingest, arguments[:1] + arguments[3:]).exit_code == 2
    wrong = CliRunner().invoke(ingest_command.ingest, [*arguments, "--resolution", "8,8"])
    assert "must be three numbers" in wrong.output


# -- parts

COORDINATES = st.tuples(*[st.integers(-300, 300)] * 3)
SIZES = st.tuples(*[st.integers(1, 200)] * 3)


@given(COORDINATES, SIZES, st.sampled_from([16, 32, 64]), st.integers(1, 8), st.integers(1, 1 << 24))
@settings(max_examples=60, deadline=None)
def test_tiles(offset: Any, size: Any, block: int, bytes_per_voxel: int, limit: int) -> None:
    box = Box(size, offset)
    plan = tiling(box, block, bytes_per_voxel, limit)
    units = list(plan.units())
    assert len(units) == len(plan)
    assert sum(unit.voxels for unit in units) == aligned(box, block).voxels
    for unit in units:
        assert unit.is_aligned((block, block, block))
        assert unit.voxels * bytes_per_voxel <= max(limit, block**3 * bytes_per_voxel)
        assert clipped(unit, box) is not None
    corners = {unit.offset_xyz for unit in units}
    assert len(corners) == len(units)


@given(COORDINATES, SIZES)
def test_halved_boxes(offset: Any, size: Any) -> None:
    box, half = Box(size, offset), halved(Box(size, offset))
    for axis in range(3):
        voxels = range(offset[axis], past(box)[axis])
        assert {v // 2 for v in voxels} == set(range(half.offset_xyz[axis], past(half)[axis]))


def test_numbers_of_scales() -> None:
    assert [coarser_scales(Box((n, 1, 1), (0, 0, 0)), 64) for n in (1, 64, 128, 129, 250, 512, 513)] == [
        1, 1, 1, 2, 2, 3, 4,
    ]  # fmt: skip


@given(
    st.sampled_from(["u1", "u2", "u4", "u8"]).flatmap(
        lambda kind: npst.arrays(kind, st.tuples(*[st.sampled_from([2, 4])] * 3))
    )
)
def test_averages(voxels: np.ndarray[Any, Any]) -> None:
    d, h, w = (edge // 2 for edge in voxels.shape)
    eight = voxels.astype(object).reshape(d, 2, h, 2, w, 2).sum(axis=(1, 3, 5))
    assert np.array_equal(average_of_eight(voxels).astype(object), (eight + 4) // 8)


def test_averages_of_floats() -> None:
    voxels = np.arange(8, dtype=np.float32).reshape(2, 2, 2)
    assert average_of_eight(voxels).tolist() == [[[3.5]]]
    assert average_of_eight(voxels).dtype == np.float32


def test_journals(tmp_path: Path) -> None:
    path, header = tmp_path / "j", {"a": 1}
    journal = Journal(path, header)
    journal.add("one")
    journal.add("two", {"x": [1]})
    journal.close()
    with path.open("ab") as file:
        file.write(b'{"step":"cut o')
    journal = Journal(path, header)
    assert journal.done == {"one": None, "two": {"x": [1]}}
    journal.add("three")
    journal.close()
    assert set(Journal(path, header).done) == {"one", "two", "three"}
    path.write_bytes(path.read_bytes()[:5])
    assert Journal(path, header).done == {}


def test_mapping_messages() -> None:
    table = np.array([[5, 5], [7, 300], [9, 300], [2**40, 1]], np.uint64)
    (message,) = mapping_messages(table)
    assert message.hex() == "0a0c" + "080110011a06808080808020" + "0a09" + "080110ac021a020709"


def test_mapping_tables(tmp_path: Path) -> None:
    source = saved(tmp_path / "v.npy", np.zeros((1, 1, 1), np.uint64))
    (tmp_path / "m.csv").write_text("supervoxel,body\n# note\n7, 3\n5\t3\n\n7 3\n")
    table = read_mapping(str(tmp_path / "m.csv"), source)
    assert table.tolist() == [[5, 3], [7, 3]]
    assert bodies_of(table, np.array([0, 5, 6, 7, 8], np.uint64)).tolist() == [0, 3, 6, 3, 8]
    for text, message in (
        ("1,2\nx,y\n", "line 2"),
        ("1,2\n1,3\n", "to two bodies"),
        ("-1,2\n", "negative"),
        ("0,2\n", "background 0"),
    ):
        (tmp_path / "m.csv").write_text(text)
        with pytest.raises(IngestError, match=message):
            read_mapping(str(tmp_path / "m.csv"), source)
    np.save(tmp_path / "m.npy", np.zeros((2, 3), int))
    for name in ("m.npy", "nothing"):
        with pytest.raises(IngestError, match=name):
            read_mapping(str(tmp_path / name), source)


@pytest.mark.reference_data
@pytest.mark.slow
def test_real_data(shared: Path, tmp_path: Path) -> None:
    fib25, pinky = shared / "data/fib25-medulla-250", shared / "data/pinky-512"
    common = ["--data", f"{tmp_path}/db", "--verify", "--quiet", "--repo"]
    for arguments in (
        [f"{fib25}/grayscale", *common, "fib25", "--instance", "grayscale", "--offset", "0,0,2600"],
        [
            f"{fib25}/groundtruth.h5.gz", "--dataset", "stack", "--mapping", "transforms",
            *common, "fib25", "--instance", "segmentation", "--offset", "0,0,2600",
        ],
        [f"{pinky}/connectomics.npy.ckl.gz", *common, "pinky", "--instance", "segmentation", "--memory", "1G"],
    ):  # fmt: skip
        result = CliRunner().invoke(ingest_command.ingest, arguments, catch_exceptions=False)
        assert result.exit_code == 0, result.output
        assert "verified" in result.output


def test_the_command_turns_and_renames(tmp_path: Path) -> None:
    labels = supervoxels((20, 30, 40))
    np.save(tmp_path / "labels.npy", labels)
    np.save(tmp_path / "table.npy", np.array([[int(labels.max()), 5_000_000_000]]))
    arguments = [
        str(tmp_path / "labels.npy"),
        "--data",
        str(tmp_path / "db"),
        "--repo",
        "r",
        "--instance",
        "seg",
        "--quiet",
    ]
    more = ["--axes", "x-yz", "--remap", str(tmp_path / "table.npy")]
    done = CliRunner().invoke(ingest_command.ingest, [*arguments, *more], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    expected = np.where(labels == labels.max(), 5_000_000_000, labels.astype(np.uint64))[:, ::-1].transpose(2, 1, 0)
    with LocalConnection(tmp_path / "db") as connection:
        root = next(iter(connection.json("GET", "/api/repos/info")))
        data = connection.request("GET", f"/api/node/{root}/seg/raw/0_1_2/20_30_40/0_0_0")
    assert np.array_equal(np.frombuffer(data, np.uint64).reshape(40, 30, 20), expected)


def test_several_boxes_are_sent_at_once(folder: Path, tmp_path: Path) -> None:
    source = saved(tmp_path / "labels.npy", supervoxels((64, 130, 140)))
    stored = []
    for workers in (1, 4):
        options = IngestOptions(
            repo="r", instance=f"seg{workers}", memory_bytes=1 << 20, block_size=32, workers=workers
        )
        with LocalConnection(folder) as connection:
            summary = ingest(connection, source, options, tmp_path / f"journal{workers}", quiet)
            path = f"/api/node/{summary.node}/seg{workers}/raw/0_1_2"
            scales = [connection.request("GET", f"{path}/{size}/0_0_0?scale={k}") for k, size in SIZES_OF_SCALES]
            stored.append(scales)
    assert stored[0] == stored[1]


SIZES_OF_SCALES = ((0, "160_160_64"), (1, "96_96_32"), (2, "64_64_32"))


@pytest.mark.parametrize("offset", [(0, 0, 0), (-13, 40, 7)])
def test_thin_neurites_are_kept(connection: LocalConnection, tmp_path: Path, offset: tuple[int, int, int]) -> None:
    labels = np.full((40, 70, 50), 5, np.uint64)
    labels[:, 35:] = 9
    labels[:, 41, 23] = 7
    source = saved(tmp_path / "labels.npy", labels)
    for keep in (False, True):
        options = IngestOptions(
            repo="r", instance=f"seg{keep}", offset_xyz=offset, block_size=32, keep_thin=keep, memory_bytes=1 << 20
        )
        summary = ingest(connection, source, options, tmp_path / f"journal{keep}", quiet)
        assert summary.scales == 2
        for scale in (0, 1, 2):
            low = [at >> scale for at in offset]
            size = [(at + n - 1 >> scale) - a + 1 for at, n, a in zip(offset, (50, 70, 40), low, strict=True)]
            place = f"{'_'.join(map(str, size))}/{'_'.join(map(str, low))}"
            data = connection.request("GET", f"/api/node/{summary.node}/seg{keep}/raw/0_1_2/{place}?scale={scale}")
            voxels = np.frombuffer(data, np.uint64).reshape(size[::-1])
            fibre = (voxels == 7).any(axis=(1, 2))
            assert fibre.all() if keep or scale == 0 else not fibre.all()
            assert set(np.unique(voxels)) <= {0, 5, 7, 9}
    gray = saved(tmp_path / "gray.npy", gray_volume())
    with pytest.raises(IngestError, match="kept in a labelmap"):
        ingest(connection, gray, IngestOptions(repo="r", instance="g", keep_thin=True), tmp_path / "journal", quiet)


def test_damage_is_found_at_the_end(
    connection: LocalConnection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = saved(tmp_path / "gray.npy", gray_volume())
    original = LocalConnection.exchange

    def spoiled(self: LocalConnection, method: str, path: str, body: Any) -> tuple[int, bytes]:
        if method == "POST" and "/raw/" in path:
            body = bytes([body[0] ^ 1]) + bytes(body)[1:]
        return original(self, method, path, body)

    monkeypatch.setattr(LocalConnection, "exchange", spoiled)
    with pytest.raises(IngestError, match="other voxels than were posted"):
        ingest(connection, source, IngestOptions(repo="r", instance="g", scales=0), tmp_path / "journal", quiet)
