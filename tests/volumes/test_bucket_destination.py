"""Writing to buckets and reading back, through a store that speaks S3, also when the way there is bad."""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path

import numpy as np
import pytest

from fascicle.volumes import VolumeError
from fascicle.volumes.bucket_destination import PART_BYTES
from fascicle.volumes.destinations import GZIP, JSON, open_destination
from fascicle.volumes.objects import Access, open_folder
from object_server import KEYS, Fault, ObjectBucket, first_faults

BODY = bytes(range(256)) * 300


def test_objects_are_put_and_read(object_bucket: ObjectBucket) -> None:
    destination = open_destination(f"{object_bucket.address}/some/volume")
    destination.put("info", b"{}", JSON, caching="no-cache")
    destination.put("8_8_8/0-64_0-64_0-64", memoryview(BODY))
    destination.put("mesh/5:0", gzip.compress(BODY), encoding=GZIP)
    names = ["some/volume/8_8_8/0-64_0-64_0-64", "some/volume/info", "some/volume/mesh/5:0"]
    assert object_bucket.names() == names
    assert object_bucket.body(names[0]) == BODY
    assert object_bucket.attributes(names[1]) == {"Content-Type": "application/json", "Cache-Control": "no-cache"}
    attributes = {"Content-Type": "application/octet-stream", "Content-Encoding": "gzip"}
    assert object_bucket.attributes(names[2]) == attributes
    assert destination.folder.get("mesh/5:0") == BODY
    assert destination.folder.get_range("8_8_8/0-64_0-64_0-64", 7, 300) == BODY[7:300]
    assert sorted(destination.folder.names()) == ["8_8_8/0-64_0-64_0-64", "info", "mesh/5:0"]
    destination.put("info", b"[]", JSON)
    assert destination.folder.get("info") == b"[]"
    for _ in range(2):
        destination.delete("info")
    assert destination.folder.get("info") is None
    assert not destination.folder.exists("info")


def test_an_endpoint_that_is_given(object_bucket: ObjectBucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    monkeypatch.delenv("AWS_ENDPOINT")
    access = Access(endpoint=object_bucket.server.url)
    open_destination(object_bucket.address, access).put("a/b", BODY)
    assert object_bucket.contents() == {"a/b": BODY}
    assert open_folder(object_bucket.address, access).get("a/b") == BODY


def test_without_keys_only_public_ones_are_read(object_bucket: ObjectBucket, monkeypatch: pytest.MonkeyPatch) -> None:
    object_bucket.put("a", BODY)
    server = object_bucket.server
    public = server.make_bucket(f"{object_bucket.name}-public", public=True)
    server.ask("PUT", f"/{public.name}/a", BODY, {"x-amz-acl": "public-read"})
    for name in KEYS:
        monkeypatch.delenv(name)
    with pytest.raises(VolumeError, match="a cannot be read"):
        open_folder(object_bucket.address).get("a")
    assert open_folder(public.address).get("a") == BODY


@pytest.mark.parametrize("size", [0, PART_BYTES, 2 * PART_BYTES + 12345])
def test_files_of_any_size(object_bucket: ObjectBucket, tmp_path: Path, size: int) -> None:
    data = np.random.default_rng(1).bytes(size)
    (tmp_path / "x").write_bytes(data)
    destination = open_destination(f"{object_bucket.address}/v")
    destination.put_file("a.shard", tmp_path / "x", caching="max-age=60")
    assert hashlib.md5(object_bucket.body("v/a.shard")).digest() == hashlib.md5(data).digest()
    assert object_bucket.attributes("v/a.shard")["Cache-Control"] == "max-age=60"
    parts = [r for r in object_bucket.server.requests if r.method == "PUT" and "partNumber" in r.query]
    assert len(parts) == (3 if size > PART_BYTES else 0)
    assert object_bucket.uploads() == 0


@pytest.mark.parametrize("fault", [500, 503, "dropped", "lost"])
def test_writes_are_tried_again(object_bucket: ObjectBucket, tmp_path: Path, fault: Fault) -> None:
    (tmp_path / "x").write_bytes(BODY)
    object_bucket.server.faults = first_faults(2, fault)
    destination = open_destination(object_bucket.address)
    destination.put("a", BODY)
    destination.put_file("b", tmp_path / "x")
    destination.delete("b")
    assert object_bucket.contents() == {"a": BODY}
    object_bucket.server.faults = first_faults(1000, fault)
    with pytest.raises(VolumeError, match=r"c cannot be written"):
        destination.put("c", BODY)
    if fault != "lost":
        assert object_bucket.names() == ["a"]


def test_a_multipart_upload_with_faults(object_bucket: ObjectBucket, tmp_path: Path) -> None:
    data = np.random.default_rng(2).bytes(2 * PART_BYTES + 5)
    (tmp_path / "x").write_bytes(data)
    destination = open_destination(object_bucket.address)
    object_bucket.server.faults = first_faults(1, "dropped")
    destination.put_file("big", tmp_path / "x")
    assert object_bucket.body("big") == data
    object_bucket.server.faults = lambda method, key, number: 503 if method == "PUT" else None
    with pytest.raises(VolumeError, match="big2 cannot be written"):
        destination.put_file("big2", tmp_path / "x")
    assert object_bucket.names() == ["big"]


@pytest.mark.parametrize("fault", [500, 503, "cut", "dropped", "short"])
def test_reads_are_tried_again(object_bucket: ObjectBucket, fault: Fault) -> None:
    object_bucket.put("a", BODY)
    object_bucket.server.faults = first_faults(1, fault)
    folder = open_folder(object_bucket.address)
    if fault == "short":  # nobody can tell of a whole object; of a range its length says so
        with pytest.raises(VolumeError, match="a ends before byte 500"):
            folder.get_range("a", 100, 500)
        return
    assert folder.get("a") == BODY
    assert folder.get_range("a", 100, 500) == BODY[100:500]


def test_lists_go_on_after_errors(object_bucket: ObjectBucket) -> None:
    for number in range(5):
        object_bucket.put(f"v/{number}", b"x")
    folder = open_folder(f"{object_bucket.address}/v")
    object_bucket.server.faults = first_faults(2, 503)
    assert list(folder.names()) == ["0", "1", "2", "3", "4"]
    object_bucket.server.faults = first_faults(1000, 503)
    with pytest.raises(VolumeError, match="cannot be listed"):
        list(folder.names())
