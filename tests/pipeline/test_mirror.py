"""Mirrors: the same voxels and objects as at the source, of whatever kind and wherever, also when the way is bad."""

from __future__ import annotations

import gzip
import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from fascicle.cli.mirror import mirror as mirror_command
from fascicle.errors import BadRequest, FascicleError
from fascicle.formats import precomputed_info, volume_chunks
from fascicle.formats.precomputed_info import Scale, VolumeInfo
from fascicle.formats.sharding import Sharding, ShardWriter, build_shard
from fascicle.pipeline.mirror import MirrorOptions, mirror
from fascicle.pipeline.mirror_record import RECORD
from fascicle.pipeline.mirror_transfer import MirrorError, Rate, Transfer
from fascicle.volumes import VolumeError, open_pyramid
from fascicle.volumes.destinations import open_destination
from fascicle.volumes.objects import open_folder
from object_server import ObjectBucket, seeded_faults
from remote_volumes import bucket, label_volume, smooth_volume

tensorstore = pytest.importorskip("tensorstore")
SHAPE = (32, 40, 56)
OFFSET = (64, -32, 16)
SHARDINGS = {
    "unsharded": None,
    "identity": Sharding(preshift_bits=3, hash="identity", minishard_bits=2, shard_bits=2,
                         minishard_index_encoding="gzip", data_encoding="gzip"),
    "murmur": Sharding(preshift_bits=0, hash="murmurhash3_x86_128", minishard_bits=2, shard_bits=2),
}  # fmt: skip


@pytest.fixture(scope="module")
def labels() -> np.ndarray:
    """u64[z,y,x] with a corner of background."""
    volume = label_volume(SHAPE, seed=3)
    volume[:16, :16, :16] = 0
    return volume


@pytest.fixture(scope="module")
def volumes(tmp_path_factory: pytest.TempPathFactory, labels: np.ndarray) -> Path:
    """Volumes of two scales that TensorStore wrote, with and without shards, and what belongs to a segmentation."""
    root = tmp_path_factory.mktemp("volumes")
    for name, sharding in SHARDINGS.items():
        scales = tuple(
            Scale(
                key=f"{8 << k}_{8 << k}_{8 << k}", size=tuple(-(-n // (1 << k)) for n in SHAPE[::-1]),
                resolution=(8 << k,) * 3, chunk_sizes=((8, 8, 8),), encoding="compressed_segmentation",
                voxel_offset=tuple(o >> k for o in OFFSET), compressed_segmentation_block_size=(8, 8, 8),
                sharding=sharding if k == 0 or name != "identity" else None,
            )
            for k in range(2)
        )  # fmt: skip
        info = VolumeInfo(type="segmentation", data_type="uint64", scales=scales, mesh="mesh", skeletons="skeletons",
                          segment_properties="names")  # fmt: skip
        folder = root / name
        folder.mkdir()
        (folder / "info").write_bytes(precomputed_info.encode(info))
        for k in range(2):
            spec = {"driver": "neuroglancer_precomputed", "kvstore": {"driver": "file", "path": f"{folder}/"},
                    "scale_index": k}  # fmt: skip
            store = tensorstore.open(spec).result()
            store.write(labels[:: 1 << k, :: 1 << k, :: 1 << k].transpose(2, 1, 0)[..., None]).result()
        write_directories(folder)
    return root


def write_directories(folder: Path) -> None:
    """Meshes of both kinds, skeletons in a shard, properties, annotations without shards."""
    bodies = (5, 7, 1 << 60)
    (folder / "mesh").mkdir()
    (folder / "mesh" / "info").write_text('{"@type": "neuroglancer_legacy_mesh", "spatial_index": {}}')
    for body in bodies:
        (folder / "mesh" / f"{body}:0").write_text(json.dumps({"fragments": [f"{body}:0:a", f"{body}:0:b"]}))
        (folder / "mesh" / f"{body}:0:a").write_bytes(b"A" * 100)
        (folder / "mesh" / f"{body}:0:b").write_bytes(b"B" * 100)
    sharding = Sharding(
        preshift_bits=0, hash="murmurhash3_x86_128", minishard_bits=1, shard_bits=1, data_encoding="gzip"
    )
    described = {"@type": "neuroglancer_skeletons", "vertex_attributes": [], "sharding": {
        "@type": sharding.type, "preshift_bits": 0, "hash": sharding.hash, "minishard_bits": 1, "shard_bits": 1,
        "data_encoding": "gzip"}}  # fmt: skip
    (folder / "skeletons").mkdir()
    (folder / "skeletons" / "info").write_text(json.dumps(described))
    for shard in (0, 1):
        found = [(body, b"skeleton %d" % body) for body in bodies if sharding.place(body)[0] == shard]
        if found:
            (folder / "skeletons" / sharding.file_name(shard)).write_bytes(build_shard(sharding, shard, found))
    (folder / "names").mkdir()
    properties = {"@type": "neuroglancer_segment_properties", "inline": {"ids": ["5"], "properties": []}}
    (folder / "names" / "info").write_text(json.dumps(properties))
    (folder / "synapses").mkdir()
    index = {"key": "by_id"}
    (folder / "synapses" / "info").write_text(json.dumps({
        "@type": "neuroglancer_annotations_v1", "dimensions": {a: [8e-9, "m"] for a in "xyz"},
        "lower_bound": [0, 0, 0], "upper_bound": [20, 10, 10], "annotation_type": "POINT", "properties": [],
        "relationships": [{"id": "body", "key": "rel"}], "by_id": index,
        "spatial": [{"key": "s0", "grid_shape": [2, 1, 1], "chunk_size": [10, 10, 10], "limit": 2}]}))  # fmt: skip
    point = np.array([1, 2, 3], "<f4").tobytes()
    u64 = [np.array([n], "<u8").tobytes() for n in range(100)]
    for directory in ("by_id", "rel", "s0"):
        (folder / "synapses" / directory).mkdir()
    for number in (11, 12):
        (folder / "synapses/by_id" / str(number)).write_bytes(point + np.array([1], "<u4").tobytes() + u64[number - 6])
        (folder / "synapses/rel" / str(number - 6)).write_bytes(u64[1] + point + u64[number])
    (folder / "synapses/s0/0_0_0").write_bytes(u64[2] + point + point + u64[11] + u64[12])


def voxels(address: str, scale: int = 0) -> np.ndarray:
    with open_pyramid(address) as pyramid:
        source = pyramid.scales[scale]
        return source.read((0, 0, 0), source.shape_zyx)


def theirs(folder: Path, scale: int = 0) -> np.ndarray:
    spec = {"driver": "neuroglancer_precomputed", "kvstore": {"driver": "file", "path": f"{folder}/"},
            "scale_index": scale}  # fmt: skip
    return tensorstore.open(spec).result().read().result()[..., 0].transpose(2, 1, 0)


def files(folder: Path) -> dict[str, bytes]:
    """All but the record of a mirror."""
    found = [path for path in folder.rglob("*") if path.is_file() and path.name != RECORD]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def put_all(folder: Path, place: ObjectBucket, prefix: str) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda item: place.put(f"{prefix}/{item[0]}", item[1]), files(folder).items()))


@contextmanager
def served(source: Path, transport: str, object_bucket: ObjectBucket, name: str) -> Iterator[str]:
    """The address of a folder, as a file, by a web server, or copied into a bucket under a name."""
    if transport == "http":
        with bucket(source) as server:
            yield server.url
    elif transport == "s3":
        put_all(source, object_bucket, name)
        yield f"{object_bucket.address}/{name}"
    else:
        yield str(source)


@pytest.mark.parametrize("transport", ["file", "http", "s3"])
@pytest.mark.parametrize("name", SHARDINGS)
def test_whole_volumes(
    volumes: Path, labels: np.ndarray, tmp_path: Path, object_bucket: ObjectBucket, name: str, transport: str
) -> None:
    source = volumes / name
    with ExitStack() as stack:
        address = stack.enter_context(served(source, transport, object_bucket, "v"))
        # a web server cannot list what it has
        chosen: dict[str, Any] = {"bodies": (5, 7, 1 << 60, 99)} if transport == "http" else {}
        result = mirror(address, str(tmp_path / "m"), MirrorOptions(also=("synapses",), **chosen))
        assert result.scales == ("8_8_8", "16_16_16")
        assert result.directories == ("names", "mesh", "skeletons", "synapses")
        assert result.left_out == ()
    found, expected = files(tmp_path / "m"), files(source)
    skeletons = {f"skeletons/{body}": b"skeleton %d" % body for body in (5, 7, 1 << 60)}
    if transport == "http":
        assert {path: data for path, data in found.items() if path in skeletons} == skeletons
    for path in set(found) | set(expected):
        if path.endswith("info"):
            assert path in found
        elif not path.startswith("skeletons/") or transport != "http":
            assert found.get(path) == expected.get(path), path
    info = json.loads(found["info"])
    assert [info[member] for member in ("mesh", "skeletons", "segment_properties")] == ["mesh", "skeletons", "names"]
    assert "sharding" not in json.loads(found["skeletons/info"]) or transport != "http"
    assert np.array_equal(theirs(tmp_path / "m"), labels)
    assert np.array_equal(voxels(str(tmp_path / "m"), 1), labels[::2, ::2, ::2])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m"]
    again = mirror(str(source), str(tmp_path / "m"), MirrorOptions(also=("synapses",)))
    assert again.was_finished == (transport != "http")


@pytest.mark.parametrize("layout", ["keep", "sharded", "unsharded"])
@pytest.mark.parametrize("name", SHARDINGS)
def test_boxes(volumes: Path, labels: np.ndarray, tmp_path: Path, name: str, layout: Any) -> None:
    # x from 64 to 120, y from -32 to 8, z from 16 to 48
    box = ((75, -40, 20), (109, -3, 400))
    result = mirror(str(volumes / name), str(tmp_path / "m"), MirrorOptions(box=box, layout=layout))
    assert result.directories == ("names",)
    assert [line.partition(":")[0] for line in result.left_out] == ["mesh", "skeletons"]
    info = precomputed_info.decode((tmp_path / "m/info").read_bytes())
    assert (info.mesh, info.skeletons, info.segment_properties) == (None, None, "names")
    fine, coarse = info.scales
    assert (fine.voxel_offset, fine.size) == ((72, -32, 16), (40, 32, 32))
    assert (coarse.voxel_offset, coarse.size) == ((32, -16, 8), (24, 16, 16))
    assert (fine.sharding is not None) == (layout == "sharded" or (layout == "keep" and name != "unsharded"))
    part = labels[:, :32, 8:48]
    assert np.array_equal(voxels(str(tmp_path / "m")), part)
    assert np.array_equal(theirs(tmp_path / "m"), part)
    assert np.array_equal(theirs(tmp_path / "m", 1), labels[::2, ::2, ::2][:, :16, :24])


def test_scales_units_and_buckets(volumes: Path, labels: np.ndarray, object_bucket: ObjectBucket) -> None:
    place = f"{object_bucket.address}/mirror"
    options = MirrorOptions(scales=(1,), box=((640, -256, 128), (896, -128, 256)), unit="nm", gzip=True)
    result = mirror(str(volumes / "unsharded"), place, options)
    assert result.scales == ("16_16_16",)
    names = object_bucket.names("mirror/16_16_16/")
    assert names[0] == "mirror/16_16_16/40-48_-16--8_8-16"
    assert object_bucket.attributes(names[-1])["Content-Encoding"] == "gzip"
    assert np.array_equal(voxels(place), labels[::2, ::2, ::2][:8, :8, 8:24])
    assert object_bucket.attributes("mirror/info")["Cache-Control"] == "no-cache"


@pytest.mark.parametrize("name", SHARDINGS)
def test_a_bad_way(volumes: Path, tmp_path: Path, object_bucket: ObjectBucket, name: str) -> None:
    """Errors, lost and cut connections on both ways: the same bytes as without."""
    put_all(volumes / name, object_bucket, "v")
    mirror(str(volumes / name), str(tmp_path / "quiet"), MirrorOptions(box=((64, -32, 16), (120, 0, 48)), meshes=True))
    kinds = (500, 503, "cut", "dropped", "lost")
    object_bucket.server.faults = seeded_faults(11, 0.15, kinds)
    options = MirrorOptions(box=((64, -32, 16), (120, 0, 48)), meshes=True)
    mirror(f"{object_bucket.address}/v", f"{object_bucket.address}/m", options)
    found = {path.removeprefix("m/"): data for path, data in object_bucket.contents("m/").items() if RECORD not in path}
    assert found == files(tmp_path / "quiet")


def test_answers_that_are_too_short(volumes: Path, tmp_path: Path, object_bucket: ObjectBucket) -> None:
    """Half a chunk under a length that agrees with it is no chunk."""
    put_all(volumes / "unsharded", object_bucket, "v")
    short = seeded_faults(3, 0.3, ("short",))
    object_bucket.server.faults = lambda method, key, number: short(method, key, number) if "8_8_8/" in key else None
    mirror(f"{object_bucket.address}/v", str(tmp_path / "m"), MirrorOptions(scales=(0,), properties=False))
    expected = files(volumes / "unsharded" / "8_8_8")
    assert files(tmp_path / "m" / "8_8_8") == expected
    object_bucket.server.faults = lambda method, key, number: "short" if "8_8_8/" in key else None
    with pytest.raises(MirrorError, match=r"chunk .*/8_8_8/.* compressed segmentation"):
        mirror(f"{object_bucket.address}/v", str(tmp_path / "n"), MirrorOptions(scales=(0,), properties=False))
    assert not (tmp_path / "n/info").exists()


@pytest.mark.parametrize("name", SHARDINGS)
def test_an_outage_and_another_run(volumes: Path, tmp_path: Path, object_bucket: ObjectBucket, name: str) -> None:
    put_all(volumes / name, object_bucket, "v")
    expected = files(volumes / name)
    down = threading.Event()
    object_bucket.server.faults = lambda method, key, number: 503 if down.is_set() else None
    options = MirrorOptions(meshes=False, skeletons=False, workers=2)

    def progress(stage: str, done: int, total: int) -> None:
        if stage == "scale 8_8_8" and done > total // 3:
            down.set()

    with pytest.raises(FascicleError, match="cannot be read"):
        mirror(f"{object_bucket.address}/v", str(tmp_path / "m"), options, progress)
    assert not (tmp_path / "m/info").exists()
    down.clear()
    done: list[int] = []
    mirror(
        f"{object_bucket.address}/v", str(tmp_path / "m"), options,
        lambda stage, count, total: done.append(count) if stage == "scale 8_8_8" else None,
    )  # fmt: skip
    assert done[0] > 0
    found = files(tmp_path / "m")
    assert {path: data for path, data in found.items() if "info" not in path} == {
        path: data for path, data in expected.items() if path.startswith(("8_8_8/", "16_16_16/"))
    }
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m"]


def test_what_was_lost_is_fetched_again(volumes: Path, tmp_path: Path) -> None:
    """Damage between a step and the end is found by reading back."""
    source, target = str(volumes / "unsharded"), tmp_path / "m"
    seen: list[str] = []

    def progress(stage: str, done: int, total: int) -> None:
        if stage == "verifying" and stage not in seen:
            victims = sorted((target / "8_8_8").iterdir())
            victims[0].unlink()
            victims[3].write_bytes(b"damage")
        seen.append(stage)

    mirror(source, str(target), MirrorOptions(), progress)
    assert "again" in seen
    assert files(target / "8_8_8") == files(volumes / "unsharded" / "8_8_8")


def test_damage_at_the_source_is_an_error(volumes: Path, tmp_path: Path) -> None:
    source = tmp_path / "v"
    for path, data in files(volumes / "identity").items():
        (source / path).parent.mkdir(parents=True, exist_ok=True)
        (source / path).write_bytes(data)
    shard = max((source / "8_8_8").iterdir(), key=lambda path: path.stat().st_size)
    shard.write_bytes(shard.read_bytes()[:-20])
    for box in (None, ((64, -32, 16), (120, 0, 48))):
        with pytest.raises(MirrorError, match=r"8_8_8/\d\.shard.* ends before byte"):
            mirror(str(source), str(tmp_path / "m"), MirrorOptions(scales=(0,), box=box, again=True))
        assert not (tmp_path / "m/info").exists()
        for left in (tmp_path / ".m.mirror").rglob("*"):
            if left.is_file():
                left.unlink()


def test_annotations_alone_and_over_the_web(volumes: Path, tmp_path: Path) -> None:
    source = volumes / "unsharded/synapses"
    with bucket(source) as server:
        mirror(server.url, str(tmp_path / "a"))
    assert files(tmp_path / "a") == files(source)
    with pytest.raises(BadRequest, match="neither scales nor boxes"):
        mirror(str(source), str(tmp_path / "b"), MirrorOptions(scales=(0,)))


def test_packed_objects_get_their_names(volumes: Path, tmp_path: Path, object_bucket: ObjectBucket) -> None:
    source = tmp_path / "v"
    expected = {p: d for p, d in files(volumes / "unsharded").items() if p.startswith(("8_8_8", "mesh"))}
    for path, data in expected.items():
        (source / path).parent.mkdir(parents=True, exist_ok=True)
        if path.endswith("info"):
            (source / path).write_bytes(data)
        else:
            (source / f"{path}.gz").write_bytes(gzip.compress(data))
    info = json.loads((volumes / "unsharded/info").read_text())
    (source / "info").write_text(json.dumps({**info, "scales": info["scales"][:1], "skeletons": None}))
    mirror(str(source), f"{object_bucket.address}/m", MirrorOptions(gzip=True))
    mirror(f"{object_bucket.address}/m", str(tmp_path / "m"), MirrorOptions(meshes=True))
    found = files(tmp_path / "m")
    assert {p: d for p, d in found.items() if "info" not in p} == {p: d for p, d in expected.items() if "info" not in p}
    assert object_bucket.attributes("m/mesh/5:0:a")["Content-Encoding"] == "gzip"


def test_refusals(volumes: Path, tmp_path: Path) -> None:
    source = str(volumes / "unsharded")
    for options, message in (
        (MirrorOptions(scales=(2,)), "there is no scale 2"),
        (MirrorOptions(box=((0, 0, 0), (0, 5, 5))), "is empty"),
        (MirrorOptions(box=((9000, 0, 0), (9005, 5, 5))), "nothing is left"),
        (MirrorOptions(also=("nothing",)), "nothing has no info"),
        (MirrorOptions(layout="odd"), "layout 'odd' is none of"),  # type: ignore[arg-type]
        (MirrorOptions(box=((0, 0), (1, 1))), "three numbers"),
        (MirrorOptions(workers=0), "fetch nothing"),
    ):
        with pytest.raises(BadRequest, match=message):
            mirror(source, str(tmp_path / "m"), options)
    before = files(volumes / "unsharded")
    with pytest.raises(BadRequest, match="is the source itself"):
        mirror(f"file://{source}", str(volumes / "raw/../unsharded"), MirrorOptions(again=True))
    assert files(volumes / "unsharded") == before
    with pytest.raises(VolumeError, match="no file named info"):
        mirror(str(tmp_path), str(tmp_path / "m"))
    with pytest.raises(VolumeError, match="web servers only read"):
        mirror(source, "http://localhost/x")
    with bucket(volumes / "unsharded") as server:
        with pytest.raises(VolumeError, match="--bodies"):
            mirror(server.url, str(tmp_path / "m"), MirrorOptions(meshes=True))
        result = mirror(server.url, str(tmp_path / "n"))
        assert result.directories == ("names", "skeletons")
        assert "--bodies" in result.left_out[0]
        assert "mesh" not in json.loads((tmp_path / "n/info").read_text())
    shutil.rmtree(tmp_path / "n")
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_scale_hides_nothing(volumes: Path, tmp_path: Path) -> None:
    source = tmp_path / "v"
    for path, data in files(volumes / "unsharded").items():
        if not path.startswith(("mesh", "skel", "names", "synapses")):
            (source / path).parent.mkdir(parents=True, exist_ok=True)
            (source / path).write_bytes(data)
    info = json.loads((source / "info").read_text())
    for member in ("mesh", "skeletons", "segment_properties"):
        info.pop(member)
    info["scales"][1]["encoding"] = "jxl"
    info["scales"][1].pop("compressed_segmentation_block_size")
    (source / "info").write_text(json.dumps(info))
    result = mirror(str(source), str(tmp_path / "m"))
    assert result.scales == ("8_8_8",)
    assert "jxl" in result.left_out[0]
    result = mirror(str(source), str(tmp_path / "n"), MirrorOptions(scales=(1,)))
    assert files(tmp_path / "n/16_16_16") == files(source / "16_16_16")
    assert json.loads((tmp_path / "n/info").read_text())["scales"][0]["encoding"] == "jxl"


def test_the_rate_is_kept(volumes: Path, tmp_path: Path) -> None:
    size = sum(path.stat().st_size for path in (volumes / "unsharded/8_8_8").iterdir())
    began = time.monotonic()
    options = MirrorOptions(scales=(0,), properties=False, rate=size / 0.5)
    mirror(str(volumes / "unsharded"), str(tmp_path / "m"), options)
    assert time.monotonic() - began > 0.4
    assert Rate(0).wait() is None


def test_results_come_in_order(tmp_path: Path) -> None:
    transfer = Transfer(open_folder(str(tmp_path)), None, tmp_path, 4, 0)  # type: ignore[arg-type]
    rng = np.random.default_rng(0)

    def work(number: int) -> int:
        time.sleep(float(rng.uniform(0, 0.002)))
        if number == 50:
            raise ValueError(number)
        return number

    found: list[int] = []


    with pytest.raises(ValueError, match="50"):
        found.extend(transfer.ahead(range(100), work))
    assert found == list(range(50))
    transfer.close()


def multires_manifest(sizes: list[int]) -> bytes:
    """Of one level with a fragment of each size."""
    head = np.zeros(6, "<f4").tobytes() + np.array([1], "<u4").tobytes() + np.zeros(4, "<f4").tobytes()
    counts = np.array([len(sizes)], "<u4").tobytes()
    return head + counts + np.zeros(3 * len(sizes), "<u4").tobytes() + np.array(sizes, "<u4").tobytes()


@pytest.mark.parametrize("sharded", [True, False])
def test_multiresolution_meshes(tmp_path: Path, sharded: bool) -> None:
    """Fragments lie ahead of their manifest in a shard, of which no index speaks."""
    sharding = Sharding(
        preshift_bits=0, hash="murmurhash3_x86_128", minishard_bits=1, shard_bits=0, data_encoding="gzip"
    )
    source = tmp_path / "mesh"
    source.mkdir()
    info: dict[str, Any] = {"@type": "neuroglancer_multilod_draco", "vertex_quantization_bits": 16,
                            "transform": [1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0], "lod_scale_multiplier": 1}  # fmt: skip
    bodies = {body: b"%d" % body * 30 for body in (3, 8, 1 << 63)}
    expected = {f"{body}": data for body, data in bodies.items()}
    expected |= {f"{body}.index": multires_manifest([10, len(data) - 10]) for body, data in bodies.items()}
    if sharded:
        info["sharding"] = {
            "@type": sharding.type, "preshift_bits": 0, "hash": sharding.hash, "minishard_bits": 1, "shard_bits": 0,
            "data_encoding": "gzip",
        }  # fmt: skip
        with (source / "0.shard").open("w+b") as file:
            writer = ShardWriter(sharding, 0, file)
            for body, data in bodies.items():
                writer.add(body, expected[f"{body}.index"], leading=data)
            writer.finish()
    else:
        for name, data in expected.items():
            (source / name).write_bytes(data)
    (source / "info").write_text(json.dumps(info))
    result = mirror(str(source), str(tmp_path / "whole"))
    assert (result.scales, result.directories) == ((), ())
    assert {n: d for n, d in files(tmp_path / "whole").items() if n != "info"} == {
        n: d for n, d in files(source).items() if n != "info"
    }
    with bucket(source) as server:
        mirror(server.url, str(tmp_path / "some"), MirrorOptions(bodies=(3, 5, 1 << 63), gzip=True))
    found = files(tmp_path / "some")
    assert "sharding" not in json.loads(found.pop("info"))
    assert found == {name: data for name, data in expected.items() if not name.startswith("8")}
    if not sharded:
        (source / "8").write_bytes(b"cut")
        with pytest.raises(MirrorError, match="mesh/8 ends before"):
            mirror(str(source), str(tmp_path / "cut"), MirrorOptions(bodies=(8,)))


@pytest.mark.parametrize("encoding", ["raw", "jpeg", "png"])
def test_images_that_are_cut_short(tmp_path: Path, encoding: str) -> None:
    gray = smooth_volume((16, 16, 40))
    scale = Scale(key="s", size=(40, 16, 16), resolution=(8, 8, 8), chunk_sizes=((16, 16, 16),), encoding=encoding)
    info = VolumeInfo(type="image", data_type="uint8", scales=(scale,))
    (tmp_path / "v/s").mkdir(parents=True)
    (tmp_path / "v/info").write_bytes(precomputed_info.encode(info))
    for start in (0, 16, 32):
        stop = min(40, start + 16)
        data = volume_chunks.encode(gray[None, :, :, start:stop], encoding)
        (tmp_path / f"v/s/{start}-{stop}_0-16_0-16").write_bytes(data)
    mirror(str(tmp_path / "v"), str(tmp_path / "m"))
    assert files(tmp_path / "m/s") == files(tmp_path / "v/s")
    victim = tmp_path / "v/s/16-32_0-16_0-16"
    victim.write_bytes(victim.read_bytes()[:-3])
    with pytest.raises(MirrorError, match="16-32_0-16_0-16"):
        mirror(str(tmp_path / "v"), str(tmp_path / "n"))
    assert not (tmp_path / "n/info").exists()


def test_the_command(volumes: Path, tmp_path: Path, object_bucket: ObjectBucket) -> None:
    code = "from fascicle.cli import main; main()"
    command = [sys.executable, "-c", code, "mirror", str(volumes / "identity")]
    (tmp_path / "ids.csv").write_text("body,size\n5,100\n7,3\n")
    place = f"{object_bucket.address}/m"
    options = ["--scales", "0", "--box", "64:120,-32:0,16:48", "--bodies", str(tmp_path / "ids.csv"), "--rate", "500M"]
    done = subprocess.run([*command, place, *options], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"{place}: scale 8_8_8, names, mesh, skeletons; ")
    assert [name for name in object_bucket.names("m/mesh/") if name.endswith(":0")] == ["m/mesh/5:0", "m/mesh/7:0"]
    assert object_bucket.names("m/skeletons/") == ["m/skeletons/5", "m/skeletons/7", "m/skeletons/info"]
    done = subprocess.run([*command, place, *options], capture_output=True, text=True, check=True)
    assert "is a complete mirror already" in done.stdout
    done = subprocess.run([*command, str(tmp_path / "n"), "--scales", "7"], capture_output=True, text=True, check=False)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    for wrong in (["--scales", "x"], ["--box", "1:2,3:4"], ["--bodies", "a"], ["--rate", "fast"]):
        refused = CliRunner().invoke(mirror_command, [str(volumes / "identity"), str(tmp_path / "n"), *wrong])
        assert (refused.exit_code, wrong[0] in refused.output) == (2, True)
    assert not (tmp_path / "n").exists()


@pytest.mark.parametrize(("name", "transport"), [("unsharded", "file"), ("identity", "http"), ("identity", "s3")])
def test_an_update_fetches_what_has_changed(
    volumes: Path, tmp_path: Path, object_bucket: ObjectBucket, name: str, transport: str
) -> None:
    source = tmp_path / "source"
    shutil.copytree(volumes / name, source)
    shutil.rmtree(source / "mesh")  # only manifests know fragments, which are always fetched
    out = tmp_path / "m"

    def changed(path: str, data: bytes | None) -> None:
        if data is None:
            (source / path).unlink()
        else:
            (source / path).write_bytes(data)
        if transport == "s3":
            copy = open_destination(f"{object_bucket.address}/u")
            copy.delete(path) if data is None else copy.put(path, data)

    with ExitStack() as stack:
        address = stack.enter_context(served(source, transport, object_bucket, "u"))
        chosen = MirrorOptions(also=("synapses",), meshes=False)
        update = MirrorOptions(also=("synapses",), meshes=False, update=True)
        whole = mirror(address, str(out), chosen)
        again = mirror(address, str(out), update)
        assert again.was_finished
        assert again.fetched_bytes < whole.fetched_bytes / 3  # infos, and what annotations are found by
        before = files(out)
        some = sorted(path for path in before if path.startswith("8_8_8/"))
        changed(some[0], None)
        if transport != "http":
            changed("synapses/by_id/11", None)
            changed("synapses/by_id/13", before["synapses/by_id/12"])
        found = mirror(address, str(out), update)
        assert not found.was_finished
        assert found.fetched_bytes < whole.fetched_bytes
        fresh = tmp_path / "fresh"
        mirror(address, str(fresh), chosen)
        assert files(out) == files(fresh) != before
        assert mirror(address, str(out), update).was_finished
        with pytest.raises(BadRequest, match="it differs in scales"):
            mirror(address, str(out), MirrorOptions(also=("synapses",), meshes=False, update=True, scales=(0,)))
        with pytest.raises(BadRequest, match="not both"):
            mirror(address, str(out), MirrorOptions(update=True, again=True))
        (out / RECORD).write_text("[]")
        with pytest.raises(BadRequest, match="no record of a mirror"):
            mirror(address, str(out), update)
        (out / RECORD).unlink()
        if transport == "file":
            assert mirror(address, str(out), update).fetched_bytes > found.fetched_bytes
            assert files(out) == files(fresh)


def test_parts_of_shards_are_updated(volumes: Path, tmp_path: Path) -> None:
    """Also parts that got shards of their own; what is killed meanwhile goes on."""
    source, out = tmp_path / "source", tmp_path / "m"
    shutil.copytree(volumes / "identity", source)
    box = ((64.0, -32.0, 16.0), (100.0, 0.0, 48.0))
    options: dict[str, Any] = {"box": box, "layout": "sharded", "scales": (0,)}
    mirror(str(source), str(out), MirrorOptions(**options))
    assert mirror(str(source), str(out), MirrorOptions(update=True, **options)).was_finished
    shards = sorted((source / "8_8_8").iterdir())
    shards[0].write_bytes(shards[0].read_bytes())  # another time is another object
    found = mirror(str(source), str(out), MirrorOptions(update=True, **options))
    assert not found.was_finished
    before = files(out)
    shards[0].unlink()
    mirror(str(source), str(out), MirrorOptions(update=True, **options))
    mirror(str(source), str(tmp_path / "fresh"), MirrorOptions(**options))
    assert files(out) == files(tmp_path / "fresh") != before
