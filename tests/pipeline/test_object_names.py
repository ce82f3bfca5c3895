"""Names that programs give files become those of the format."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import pytest

from fascicle.errors import FascicleError
from fascicle.pipeline.object_names import fix_names
from fascicle.volumes.destinations import open_destination
from object_server import ObjectBucket

MANIFEST = b'{"fragments": ["a"]}'


def fill(root: Path) -> dict[str, bytes]:
    """Files under odd names; what there should be afterwards."""
    before = {
        "info": b"{}",
        "8_8_8/0-64_0-64_0-64.gz": gzip.compress(b"one"),
        "8_8_8/64-128/0-64/-64-0": b"two",
        "8_8_8/64-128/0-64/0-64.gz": gzip.compress(b"three"),
        "mesh/17.json": MANIFEST,
        "mesh/18": MANIFEST,
        "mesh/19.gz": gzip.compress(MANIFEST),
        "mesh/20:0": MANIFEST,
        "mesh/21": b"{not a manifest",
        "mesh/22": b"",
        "skeletons/17": b"\1\0\0\0bytes",
        "skeletons/18.gz": gzip.compress(b"\1\0\0\0more"),
        "lods/17": MANIFEST,
        "lods/17.index": b"index",
        "scan.nii.gz": gzip.compress(b"scan"),
        "8_8_8/0.shard": b"shard",
    }
    for name, data in before.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return {
        "info": b"{}",
        "8_8_8/0-64_0-64_0-64": b"one",
        "8_8_8/64-128_0-64_-64-0": b"two",
        "8_8_8/64-128_0-64_0-64": b"three",
        "mesh/17:0": MANIFEST,
        "mesh/18:0": MANIFEST,
        "mesh/19:0": MANIFEST,
        "mesh/20:0": MANIFEST,
        "mesh/21": b"{not a manifest",
        "mesh/22": b"",
        "skeletons/17": b"\1\0\0\0bytes",
        "skeletons/18": b"\1\0\0\0more",
        "lods/17": MANIFEST,
        "lods/17.index": b"index",
        "scan.nii.gz": before["scan.nii.gz"],
        "8_8_8/0.shard": b"shard",
    }


def contents(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_a_folder(tmp_path: Path) -> None:
    expected = fill(tmp_path)
    before = contents(tmp_path)
    planned = fix_names(str(tmp_path), dry_run=True)
    assert contents(tmp_path) == before
    done = fix_names(str(tmp_path))
    assert done == planned
    assert len(done.renamed) == 7
    assert contents(tmp_path) == expected
    assert not (tmp_path / "8_8_8" / "64-128").exists()
    assert fix_names(str(tmp_path)).renamed == ()


def test_nothing_is_written_over(tmp_path: Path) -> None:
    (tmp_path / "info").write_bytes(b"new")
    (tmp_path / "info.gz").write_bytes(gzip.compress(b"old"))
    done = fix_names(str(tmp_path))
    assert done.renamed == ()
    assert done.in_the_way == (("info.gz", "info"),)
    assert (tmp_path / "info").read_bytes() == b"new"


def test_damaged_files_stay(tmp_path: Path) -> None:
    (tmp_path / "info.gz").write_bytes(b"\x1f\x8bno")
    with pytest.raises(FascicleError, match="damaged"):
        fix_names(str(tmp_path))
    assert os.listdir(tmp_path) == ["info.gz"]
    with pytest.raises(FascicleError, match="no folder"):
        fix_names(str(tmp_path / "none"))


def test_a_bucket(object_bucket: ObjectBucket) -> None:
    """There a packed object keeps its bytes, and its headers say what they are."""
    target = open_destination(object_bucket.address)
    target.put("v/info.gz", gzip.compress(b"{}"))
    target.put("v/8/0-64/0-64/0-64.gz", gzip.compress(b"voxels"))
    target.put("v/mesh/17", MANIFEST)
    target.put("v/8/0.shard", b"shard")
    done = fix_names(f"{object_bucket.address}/v")
    assert len(done.renamed) == 3
    assert set(object_bucket.contents()) == {"v/info", "v/8/0-64_0-64_0-64", "v/mesh/17:0", "v/8/0.shard"}
    assert target.folder.get("v/8/0-64_0-64_0-64") == b"voxels"
    assert object_bucket.contents()["v/8/0-64_0-64_0-64"][:2] == b"\x1f\x8b"
    assert target.folder.get("v/info") == b"{}"
    assert object_bucket.attributes("v/info")["Content-Encoding"] == "gzip"
