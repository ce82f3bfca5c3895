"""Exports to a store that speaks S3, also when requests fail, connections break and objects get lost."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fascicle.pipeline.export import ExportError, ExportOptions, ExportResult, export
from fascicle.pipeline.ingest import IngestOptions, ingest
from fascicle.pipeline.ingest_connections import LocalConnection
from fascicle.pipeline.sources import SourceSpec
from fascicle.volumes import open_pyramid, open_volume
from object_server import ObjectBucket, seeded_faults


@pytest.fixture(scope="module")
def voxels() -> np.ndarray:
    rng = np.random.default_rng(5)
    return np.kron(rng.integers(0, 50, (20, 26, 31)), np.ones((10, 10, 10), np.int64)).astype(np.uint32)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, voxels: np.ndarray) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    np.save(folder / "labels.npy", voxels)
    with LocalConnection(folder / "db") as connection, open_volume(str(folder / "labels.npy")) as source:
        options = IngestOptions(instance="seg", repo="r")
        root = ingest(connection, source, options, folder / "journal", lambda *_: None).node
        connection.json("POST", f"/api/node/{root}/commit", {"note": "all"})
    return folder / "db"


def exported(store: Path, out: str, **options: object) -> ExportResult:
    chosen = ExportOptions(**{"workers": 1, "shard_voxels": 128**3, **options})  # type: ignore[arg-type]
    return export(SourceSpec(data=str(store), repo="r"), out, chosen)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("sharded", [True, False])
def test_with_faults_it_ends_as_without(
    store: Path, tmp_path: Path, object_bucket: ObjectBucket, voxels: np.ndarray, sharded: bool
) -> None:
    exported(store, str(tmp_path / "out"), sharded=sharded)
    for rate in (0.0, 0.25):
        object_bucket.server.faults = seeded_faults(7, rate)
        address = f"{object_bucket.address}/rate{rate}"
        exported(store, address, sharded=sharded)
        object_bucket.server.faults = seeded_faults(0, 0.0)
        found = object_bucket.contents(f"rate{rate}/")
        assert {name.partition("/")[2]: data for name, data in found.items()} == files(tmp_path / "out")
    with open_pyramid(f"{address}/seg") as static:
        assert np.array_equal(static.scales[0].read((0, 0, 0), voxels.shape), voxels)
    assert object_bucket.uploads() == 0
    assert object_bucket.attributes("rate0.0/seg/info")["Content-Type"] == "application/json"


def test_each_shard_is_sent_once(store: Path, object_bucket: ObjectBucket) -> None:
    result = exported(store, object_bucket.address)
    sent = [asked.key for asked in object_bucket.server.requests if asked.method == "PUT" and ".shard" in asked.key]
    assert len(sent) == len(set(sent)) > 10
    assert {name for name in object_bucket.names() if name.endswith(".shard")} == set(sent)
    assert result.objects >= len(sent)
    read = [asked.key for asked in object_bucket.server.requests if asked.method == "GET" and ".shard" in asked.key]
    assert sorted(read) == sorted(sent)


def test_packed_chunks_say_so(store: Path, object_bucket: ObjectBucket, voxels: np.ndarray) -> None:
    exported(store, object_bucket.address, sharded=False, gzip=True)
    name = next(name for name in object_bucket.names("seg/8_8_8/"))
    assert object_bucket.attributes(name)["Content-Encoding"] == "gzip"
    assert object_bucket.body(name)[:2] == b"\x1f\x8b"
    with open_pyramid(f"{object_bucket.address}/seg") as static:
        assert np.array_equal(static.scales[0].read((0, 0, 0), voxels.shape), voxels)


def test_what_cannot_be_sent_is_named_and_sent_later(
    store: Path, tmp_path: Path, object_bucket: ObjectBucket
) -> None:
    exported(store, str(tmp_path / "out"))
    names = sorted(name for name in files(tmp_path / "out") if name.startswith("seg/8_8_8/"))
    object_bucket.server.faults = lambda method, key, number: 503 if key == names[3] else None
    command = [
        sys.executable, "-c",
        "from fascicle.volumes import persistence; persistence.FIRST_PAUSE_S = persistence.LONGEST_PAUSE_S = 0.001\n"
        "import sys; from fascicle.pipeline.export import *; from fascicle.cli import main\n"
        "sys.argv[0] = 'fascicle'; main()",
        "export", "r/master", object_bucket.address, "--data", str(store), "--workers", "1", "--quiet",
    ]  # fmt: skip
    with pytest.raises(ExportError, match=rf"{names[3]} cannot be written: .*parts are missing"):
        exported(store, object_bucket.address)
    # of shards as large as usual there is one for each scale, or files
    object_bucket.server.faults = lambda method, key, number: 503 if key.startswith("other/seg/8_8_8/") else None
    command[5] = f"{object_bucket.address}/other"
    refused = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert refused.returncode == 2
    assert "parts are missing, and no info was written" in refused.stderr
    assert "seg/8_8_8/" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
    assert not any(name.endswith(("info", "export.json")) for name in object_bucket.names())
    before = {name for name in object_bucket.names() if not name.startswith("other/")}
    asked = len(object_bucket.server.requests)
    object_bucket.server.faults = seeded_faults(1, 0.1)
    exported(store, object_bucket.address)
    again = {one.key for one in object_bucket.server.requests[asked:] if one.method == "PUT"}
    assert not again & before
    found = {name: data for name, data in object_bucket.contents().items() if not name.startswith("other/")}
    assert found == files(tmp_path / "out")


def test_objects_that_get_lost_are_noticed(store: Path, object_bucket: ObjectBucket) -> None:
    object_bucket.server.faults = lambda method, key, number: (
        404 if method == "GET" and key.startswith("seg/8_8_8/") and key.endswith("3.shard") else None
    )
    with pytest.raises(ExportError, match=r"1 parts are not at the destination .* seg/8_8_8/03\.shard"):
        exported(store, object_bucket.address)
    assert not any(name.endswith("info") for name in object_bucket.names())
