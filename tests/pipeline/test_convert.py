"""Converting: every encoding, layout and type reads back equal, whatever was interrupted, however little memory."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorstore as ts
import tifffile
from click.testing import CliRunner
from numpy.typing import NDArray
from PIL import Image

from fascicle.cli.convert import convert as command
from fascicle.errors import BadRequest
from fascicle.pipeline import convert as converting
from fascicle.pipeline import convert_plan
from fascicle.pipeline.convert import ConvertError, ConvertOptions, ConvertResult, convert
from fascicle.pipeline.convert_checks import Incomplete
from fascicle.pipeline.scales import ScaleOptions
from fascicle.pipeline.sources import SourceSpec
from fascicle.volumes import open_volume
from fascicle.volumes.adapted import Adaptation
from fascicle.volumes.base import VolumeError
from object_server import ObjectBucket, seeded_faults

SHAPE = (37, 40, 52)
CSEG = "compressed_segmentation"


def blobs(dtype: str, shape: tuple[int, int, int] = SHAPE, seed: int = 0) -> NDArray[Any]:
    rng = np.random.default_rng(seed)
    numbers = rng.integers(0, 6, [-(-n // 5) for n in shape]).repeat(5, 0).repeat(5, 1).repeat(5, 2)
    voxels = numbers[: shape[0], : shape[1], : shape[2]]
    most = 1 if dtype == "float32" else np.iinfo(dtype).max // 6
    return (voxels * most).astype(dtype)


def saved(folder: Path, voxels: NDArray[Any], name: str = "source.npy") -> SourceSpec:
    np.save(folder / name, voxels)
    return SourceSpec(address=str(folder / name))


def read(folder: Path, scale: int = 0) -> NDArray[Any]:
    with open_volume(str(folder), scale=scale) as volume:
        return volume.read((0, 0, 0), volume.shape_zyx)


def read_by_tensorstore(folder: Path, scale: int = 0) -> NDArray[Any]:
    spec = {
        "driver": "neuroglancer_precomputed",
        "kvstore": {"driver": "file", "path": f"{folder}/"},
        "scale_index": scale,
    }
    found: NDArray[Any] = ts.open(spec).result()[..., 0].read().result().T
    return found


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def options(**rest: Any) -> ConvertOptions:
    scales = {"chunk": (16, 16, 16)} | {name: rest.pop(name) for name in list(rest) if name in ScaleOptions.__slots__}
    seen = {name: rest.pop(name) for name in list(rest) if name in Adaptation.__slots__}
    return ConvertOptions(scales=ScaleOptions(**scales), adaptation=Adaptation(**seen), workers=2, **rest)


CASES = [
    *((dtype, "raw") for dtype in ("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "float32")),
    *((dtype, CSEG) for dtype in ("uint32", "uint64")),
    *((dtype, "png") for dtype in ("uint8", "uint16")),
    ("uint8", "jpeg"),
]


@pytest.mark.parametrize("sharded", [False, True], ids=["files", "shards"])
@pytest.mark.parametrize(("dtype", "encoding"), CASES)
def test_reads_back_equal(tmp_path: Path, dtype: str, encoding: str, sharded: bool) -> None:
    voxels = blobs(dtype)
    kind = "segmentation" if encoding == CSEG else "image"
    how = options(
        kind=kind, encoding=encoding, sharded=sharded, shard_voxels=16**3 * 4, offset_xyz=(16, -32, 64), verify=True
    )
    result = convert(saved(tmp_path, voxels), str(tmp_path / "out"), how)
    assert result.info.scales[0].voxel_offset == (16, -32, 64)
    assert [scale.size for scale in result.info.scales] == [(52, 40, 37), (26, 20, 19), (13, 10, 10)]
    if encoding == "jpeg":
        assert np.abs(read(tmp_path / "out").astype(int) - voxels).mean() < 8
    else:
        assert np.array_equal(read(tmp_path / "out"), voxels)
    for scale in range(len(result.info.scales)):
        assert np.array_equal(read(tmp_path / "out", scale), read_by_tensorstore(tmp_path / "out", scale))
    assert bool(list((tmp_path / "out").rglob("*.shard"))) == sharded
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "out.convert.jsonl", "source.npy"]


def halved_slowly(labels: NDArray[Any], zero_counts: bool = False) -> NDArray[Any]:
    out = np.zeros([-(-n // 2) for n in labels.shape], labels.dtype)
    for z, y, x in np.ndindex(*out.shape):
        cell = labels[2 * z : 2 * z + 2, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2].ravel()
        cell = cell if zero_counts else cell[cell != 0]
        if len(cell):
            found, counts = np.unique(cell, return_counts=True)
            out[z, y, x] = found[counts.argmax()]
    return out


def test_scales_of_labels_follow_the_rule_of_label_blocks(tmp_path: Path) -> None:
    labels = blobs("uint32")
    labels[np.random.default_rng(1).random(SHAPE) < 0.1] = 0
    source = saved(tmp_path, labels)
    for scaling in ("labels", "majority"):
        convert(source, str(tmp_path / scaling), options(scaling=scaling))
        expected = labels
        for scale in (1, 2):
            expected = halved_slowly(expected, scaling == "majority")
            assert np.array_equal(read(tmp_path / scaling, scale), expected)


def test_thin_neurites_survive(tmp_path: Path) -> None:
    """A fibre of one voxel between two large bodies is there at every scale if wanted, and gone otherwise."""
    labels = np.full((64, 64, 64), 5, np.uint32)
    labels[:, 32:] = 9
    labels[:, 33, 20] = 7
    source = saved(tmp_path, labels)
    convert(source, str(tmp_path / "thin"), options(scaling="thin", verify=True))
    convert(source, str(tmp_path / "usual"), options())
    for scale in (1, 2):
        assert (read(tmp_path / "thin", scale) == 7).any(axis=(1, 2)).all()
        assert not (read(tmp_path / "usual", scale) == 7).any()


def test_finer_axes_are_halved_first(tmp_path: Path) -> None:
    voxels = blobs("uint8", (20, 90, 100))
    result = convert(
        saved(tmp_path, voxels), str(tmp_path / "out"), options(resolution_nm=(4, 4, 40), chunk=None, scales=4)
    )
    resolutions = [scale.resolution for scale in result.info.scales]
    assert resolutions == [(4, 4, 40), (8, 8, 40), (16, 16, 40), (32, 32, 40), (64, 64, 80)]
    assert result.info.scales[0].chunk_sizes == ((128, 128, 16),)
    assert result.info.scales[3].chunk_sizes == ((64, 64, 64),)
    planes = voxels.reshape(20, 45, 2, 50, 2).astype(int).sum(axis=(2, 4))
    assert np.array_equal(read(tmp_path / "out", 1), (planes + 2) // 4)
    assert np.array_equal(read(tmp_path / "out", 4), read_by_tensorstore(tmp_path / "out", 4))


def slices(folder: Path, voxels: NDArray[Any], kind: str) -> None:
    folder.mkdir()
    for z, plane in enumerate(voxels):
        if kind == "tif":
            tifffile.imwrite(folder / f"{z}.tif", plane, compression="zlib")
        else:
            Image.fromarray(plane).save(folder / f"{z}.{kind}", quality=95)


@pytest.mark.parametrize("memory", [1 << 30, 1], ids=["in memory", "by way of the disk"])
@pytest.mark.parametrize(("kind", "brick"), [("tif", 1 << 24), ("png", 1 << 24), ("tif", 1)])
def test_slices(tmp_path: Path, kind: str, brick: int, memory: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convert_plan, "BRICK_BYTES", brick)  # rows of chunks are cut
    voxels = blobs("uint32" if kind == "tif" else "uint8")
    slices(tmp_path / "slices", voxels, kind)
    convert(
        SourceSpec(address=str(tmp_path / "slices")), str(tmp_path / "out"), options(memory_bytes=memory, verify=True)
    )
    assert np.array_equal(read(tmp_path / "out"), voxels)
    # the same from a volume that is read in boxes, by another number of threads
    address = str(tmp_path / "out")
    convert(SourceSpec(address=address), str(tmp_path / "again"), replace(options(memory_bytes=memory), workers=1))
    assert tree(tmp_path / "again") == tree(tmp_path / "out")


def test_many_files_and_remapped_labels_by_the_command(tmp_path: Path) -> None:
    labels = blobs("uint32")
    slices(tmp_path / "slices", labels, "tif")
    (tmp_path / "table.csv").write_text(f"label,body\n{labels.max()},77\n")
    names = [str(path) for path in (tmp_path / "slices").iterdir()]
    arguments = [*names, str(tmp_path / "out"), "--resolution", "4,4,4", "--offset", "1,2,3", "--remap"]
    arguments += [str(tmp_path / "table.csv"), "--chunk", "16", "--nested", "--unsharded", "--gzip", "--quiet"]
    done = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert "52 x 40 x 37 voxels of uint32 in 3 scales" in done.output
    assert np.array_equal(read(tmp_path / "out"), np.where(labels == labels.max(), 77, labels))
    assert (tmp_path / "out/4_4_4/1-17/2-18/3-19.gz").is_file()


def test_blank_chunks_are_left_out_unless_wanted(tmp_path: Path) -> None:
    voxels = np.zeros(SHAPE, np.uint8)
    voxels[20, 20, 20] = 255
    source = saved(tmp_path, voxels)
    sparse = convert(source, str(tmp_path / "sparse"), options(sharded=False))
    whole = convert(source, str(tmp_path / "whole"), options(sharded=False, all_chunks=True))
    assert (sparse.chunks, whole.chunks) == (3, 36 + 8 + 1)
    for scale in range(3):
        assert np.array_equal(read(tmp_path / "sparse", scale), read(tmp_path / "whole", scale))


def test_a_version_of_a_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fascicle.cli.ingest import ingest

    labels = blobs("uint64")
    np.save(tmp_path / "labels.npy", labels)
    arguments = [str(tmp_path / "labels.npy"), "--data", str(tmp_path / "db"), "--repo", "r", "--instance", "seg"]
    assert CliRunner().invoke(ingest, [*arguments, "--quiet"]).exit_code == 0
    convert(
        SourceSpec(data=str(tmp_path / "db"), repo="r", instance="seg"), str(tmp_path / "out"), options(verify=True)
    )
    assert np.array_equal(read(tmp_path / "out"), labels)


@pytest.mark.parametrize("sharded", [False, True], ids=["objects", "shards"])
def test_into_a_bucket_that_errs(tmp_path: Path, object_bucket: ObjectBucket, sharded: bool) -> None:
    labels = blobs("uint32")
    source, how = saved(tmp_path, labels), options(sharded=sharded, gzip=True, chunk=(32, 32, 32))
    convert(source, str(tmp_path / "out"), how)
    object_bucket.server.faults = seeded_faults(11, 0.1)
    convert(
        source, f"{object_bucket.address}/labels", replace(how, journal=str(tmp_path / "journal.jsonl"), verify=True)
    )
    object_bucket.server.faults = None
    expected = {f"labels/{name.removesuffix('.gz')}": data for name, data in tree(tmp_path / "out").items()}
    assert object_bucket.contents() == expected


# -- interruptions

CHILD = """
import resource, sys
from fascicle.pipeline.convert import ConvertOptions, convert
from fascicle.pipeline.scales import ScaleOptions
from fascicle.pipeline.sources import SourceSpec
source, target, edge, sharded, memory = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])
print("ready", flush=True)
scales = ScaleOptions(chunk=(edge, edge, edge), sharded=bool(sharded), shard_voxels=1 << 15)
convert(SourceSpec(address=source), target, ConvertOptions(scales=scales, gzip=True, workers=2, memory_bytes=memory))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10)
"""
"""Converts like `options`; prints its peak in MB."""


def child(source: str, target: Path, edge: int, sharded: bool, memory: int = 1 << 30) -> subprocess.Popen[str]:
    arguments = [sys.executable, "-c", CHILD, source, str(target), str(edge), str(int(sharded)), str(memory)]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
@pytest.mark.parametrize("sharded", [False, True], ids=["files", "shards"])
def test_killed_at_any_moment_it_goes_on_to_the_same_bytes(tmp_path: Path, sharded: bool) -> None:
    source = saved(tmp_path, blobs("uint32", (120, 110, 100)))
    how = options(sharded=sharded, shard_voxels=1 << 15, gzip=True)
    convert(source, str(tmp_path / "calm"), how)
    target = tmp_path / "out"
    chance = random.Random(int(os.environ.get("FASCICLE_SEED", "5")))
    for _ in range(3):
        with child(source.address, target, 16, sharded) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            try:
                process.wait(chance.uniform(0.2, 1.0))
            except subprocess.TimeoutExpired:
                process.kill()
    convert(source, str(target), how)
    assert tree(target) == tree(tmp_path / "calm")
    assert not (tmp_path / "out.convert.scratch").exists()


def test_goes_on_after_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    voxels = blobs("uint16")
    slices(tmp_path / "slices", voxels, "png")
    source = SourceSpec(address=str(tmp_path / "slices"))
    convert(source, str(tmp_path / "calm"), options())
    damaged = tmp_path / "slices/30.png"
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:50])
    with pytest.raises(VolumeError, match=r"30\.png"):
        convert(source, str(tmp_path / "out"), options())
    assert not (tmp_path / "out/info").exists()
    damaged.write_bytes(whole)
    reads: list[Path] = []
    from fascicle.volumes import plain_images

    original = plain_images.read_into
    monkeypatch.setattr(plain_images, "read_into", lambda path, out: reads.append(path) or original(path, out))
    convert(source, str(tmp_path / "out"), options())
    assert tree(tmp_path / "out") == tree(tmp_path / "calm")
    assert not any(path.name == "10.png" for path in reads)


def test_what_is_missing_or_wrong_at_the_end_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = saved(tmp_path, blobs("uint32"))
    check = converting._Conversion._shards

    def spoiled(conversion: Any) -> Any:
        chunks = sorted((tmp_path / "out/8_8_8").iterdir())
        chunks[0].unlink()
        chunks[1].write_bytes(chunks[1].read_bytes()[:-4] + b"oops")
        return check(conversion)

    monkeypatch.setattr(converting._Conversion, "_shards", spoiled)
    with pytest.raises(Incomplete, match=r"is not whole: 8_8_8/.* is missing; 8_8_8/.* has other bytes"):
        convert(source, str(tmp_path / "out"), options(sharded=False))
    assert not (tmp_path / "out/info").exists()


def test_other_volumes_are_not_overwritten(tmp_path: Path) -> None:
    first, second = saved(tmp_path, blobs("uint8")), saved(tmp_path, blobs("uint8", seed=3)[:20], "other.npy")
    target = str(tmp_path / "out")
    result = convert(first, target, options(sharded=False))
    assert convert(first, target, options(sharded=False)).chunks == result.chunks
    with pytest.raises(ConvertError, match="has a volume already"):
        convert(second, target, options(sharded=False))
    convert(second, target, options(sharded=False, overwrite=True))
    (tmp_path / "out.convert.jsonl").unlink()
    convert(second, str(tmp_path / "fresh"), options(sharded=False))
    assert tree(tmp_path / "out") == tree(tmp_path / "fresh")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"encoding": "jpeg", "kind": "image"}, "JPEG chunks cannot hold 1 channels of uint32"),
        ({"encoding": "gif"}, "the encoding 'gif' is none of"),
        ({"kind": "mesh"}, "the kind 'mesh' is neither"),
        ({"scaling": "median"}, "the scaling 'median' is none of"),
        ({"chunk": 48}, "must be a power of two"),
        ({"chunk": (16, 16, 4), "scaling": "thin"}, "needs chunks of multiples of 8"),
        ({"chunk": (0, 8, 8)}, "make no sense"),
        ({"dtype": "uint7"}, "the type 'uint7' is none of"),
        ({"axes": "zyy"}, "must name z, y and x"),
        ({"quality": 80}, "a quality belongs to jpeg and png"),
        ({"source_scale": 3}, "has 1 scales, so there is no 3"),
        ({"resolution_nm": (0, 8, 8)}, "must be above 0"),
    ],
)
def test_what_makes_no_sense_is_refused(tmp_path: Path, wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(BadRequest, match=message):
        convert(saved(tmp_path, blobs("uint32")), str(tmp_path / "out"), options(**wrong))
    assert not (tmp_path / "out").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source.npy"]


def test_negative_labels_are_refused(tmp_path: Path) -> None:
    labels = blobs("int32")
    labels[3, 3, 3] = -5
    with pytest.raises(VolumeError, match="values from -5 to"):
        convert(saved(tmp_path, labels), str(tmp_path / "out"), options())
    assert not (tmp_path / "out/info").exists()


def test_progress_and_result(tmp_path: Path) -> None:
    stages: dict[str, list[tuple[int, int]]] = {}
    result: ConvertResult = convert(
        saved(tmp_path, blobs("uint8")),
        str(tmp_path / "out"),
        options(verify=True),
        lambda stage, done, total: stages.setdefault(stage, []).append((done, total)),
    )
    voxels = 52 * 40 * 37 + 26 * 20 * 19 + 13 * 10 * 10
    assert list(stages) == ["converting", "checking", "comparing"]
    assert all(marks[-1][0] == marks[-1][1] and marks == sorted(marks) for marks in stages.values())
    assert stages["converting"][-1] == (voxels, voxels)
    assert (result.voxels, result.verified) == (voxels, "all voxels")
    assert json.loads((tmp_path / "out/info").read_bytes())["scales"][0]["key"] == "8_8_8"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="peaks are told in other units elsewhere")
def test_memory_does_not_grow_with_the_volume(tmp_path: Path) -> None:
    peaks = []
    for side in (256, 1024):
        plane = np.arange(side * side, dtype=np.uint32).reshape(side, side) >> 10
        (tmp_path / f"slices-{side}").mkdir()
        for z in range(32):
            tifffile.imwrite(tmp_path / f"slices-{side}/{z}.tif", plane)
        with child(str(tmp_path / f"slices-{side}"), tmp_path / f"out-{side}", 32, False, 200 << 20) as process:
            assert process.stdout is not None
            peaks.append(int(process.stdout.read().split()[-1]))
    layer_mb = 32 * 1024 * 1024 * 4 >> 20
    assert peaks[1] < peaks[0] + layer_mb // 4, peaks
