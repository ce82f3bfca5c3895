"""The published guide for slices, followed with its own program and with one command of ours: the same files.

Guide: https://neuroglancer-scripts.readthedocs.io/en/latest/examples.html (info template, generate-scales-info,
slices-to-precomputed, compute-scales).
"""

from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from click.testing import CliRunner
from PIL import Image

from fascicle.cli.convert import convert
from fascicle.volumes import open_volume

pytestmark = pytest.mark.slow
SIZE = (90, 70, 40)  # x, y, z


def run(program: str, *arguments: str) -> None:
    """A program of neuroglancer-scripts."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    found = shutil.which(program, path=path)
    if found is None:
        pytest.skip("neuroglancer-scripts is not installed: pip install '.[programs]'")
    subprocess.run([found, *arguments], check=True, capture_output=True)


def theirs(folder: Path, target: Path, template: dict[str, Any], edge: int, flat: list[str], method: str) -> None:
    info = folder.parent / "info_fullres.json"
    info.write_text(json.dumps(template))
    run("generate-scales-info", str(info), str(target), "--target-chunk-size", str(edge))
    run("slices-to-precomputed", *flat, str(folder), str(target))
    run("compute-scales", *flat, "--downscaling-method", method, str(target))


def plain(folder: Path) -> dict[str, bytes]:
    """Files by name, without the gzip around them, of which each program has its own."""
    files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return {name: gzip.decompress(data) if name.endswith(".gz") else data for name, data in files.items()}


def template(kind: str, data_type: str, encoding: str, resolution: list[int]) -> dict[str, Any]:
    scale = {"chunk_sizes": [], "encoding": encoding, "key": "", "resolution": resolution, "size": [*SIZE]}
    return {"type": kind, "data_type": data_type, "num_channels": 1, "scales": [scale | {"voxel_offset": [0, 0, 0]}]}


def compared(folder: Path, target: Path) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """Chunks of both; the infos are equal but for what says which kind of info it is."""
    ours, others = plain(target), plain(folder)
    info, expected = json.loads(ours.pop("info")), json.loads(others.pop("info"))
    assert info.pop("@type") == "neuroglancer_multiscale_volume"
    expected.pop("@type", None)
    assert info == expected
    assert sorted(ours) == sorted(others)
    return ours, others


@pytest.mark.parametrize(
    ("layout", "edge", "resolution"),
    [("flat", 32, [8, 8, 8]), ("nested", 16, [4, 4, 40])],
    ids=["cubes", "flat voxels"],
)
def test_labels(tmp_path: Path, layout: str, edge: int, resolution: list[int]) -> None:
    rng = np.random.default_rng(2)
    small = rng.integers(0, 50, (-(-SIZE[2] // 7), -(-SIZE[1] // 7), -(-SIZE[0] // 7)))
    labels = small.repeat(7, 0).repeat(7, 1).repeat(7, 2)[: SIZE[2], : SIZE[1], : SIZE[0]].astype(np.uint32) * 1001
    slices = tmp_path / "slices"
    slices.mkdir()
    for z, plane in enumerate(labels):
        tifffile.imwrite(slices / f"{z:04}.tif", plane, compression="zlib")
    info = template("segmentation", "uint32", "compressed_segmentation", resolution)
    theirs(slices, tmp_path / "theirs", info, edge, ["--flat"] if layout == "flat" else [], "majority")
    arguments = [str(slices), str(tmp_path / "ours"), "--style", "neuroglancer-scripts", "--chunk", str(edge)]
    arguments += ["--resolution", ",".join(map(str, resolution)), *(["--nested"] if layout == "nested" else [])]
    done = CliRunner().invoke(convert, [*arguments, "--quiet"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    ours, _ = compared(tmp_path / "theirs", tmp_path / "ours")
    assert all(name.endswith(".gz") for name in ours)
    assert len(ours) > 20
    # the encoders put tables and values in another order, so voxels are compared
    for scale, found in enumerate(json.loads((tmp_path / "ours/info").read_bytes())["scales"]):
        with (
            open_volume(str(tmp_path / "ours"), scale=scale) as one,
            open_volume(str(tmp_path / "theirs"), scale=scale) as other,
        ):
            assert one.shape_zyx == tuple(found["size"][::-1])
            assert np.array_equal(one.read((0, 0, 0), one.shape_zyx), other.read((0, 0, 0), one.shape_zyx))


def test_gray_images(tmp_path: Path) -> None:
    """Raw chunks; means of theirs are rounded to even numbers, ours up, so coarser voxels may differ by one."""
    gray = np.random.default_rng(1).integers(0, 256, SIZE[::-1], np.uint8)
    slices = tmp_path / "slices"
    slices.mkdir()
    for z, plane in enumerate(gray):
        Image.fromarray(plane).save(slices / f"{z:04}.png")
    theirs(slices, tmp_path / "theirs", template("image", "uint8", "raw", [8, 8, 8]), 32, ["--flat"], "average")
    arguments = [str(slices), str(tmp_path / "ours"), "--style", "neuroglancer-scripts", "--chunk", "32"]
    done = CliRunner().invoke(convert, [*arguments, "--quiet"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    ours, others = compared(tmp_path / "theirs", tmp_path / "ours")
    for name, data in ours.items():
        first, second = (np.frombuffer(chunk, np.uint8).astype(int) for chunk in (data, others[name]))
        if name.startswith("8nm/"):
            assert np.array_equal(first, second)
        assert np.abs(first - second).max() <= (0 if name.startswith("8nm/") else 1 if name.startswith("16nm/") else 2)
