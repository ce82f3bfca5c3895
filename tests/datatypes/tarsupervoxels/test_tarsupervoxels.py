"""Blobs of supervoxels over HTTP: single ones, archives of bodies, uploads, and what versions and splits change."""

from __future__ import annotations

import hashlib
import io
import struct
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from fascicle.formats import tar
from remote_volumes import write_precomputed
from serving import TOKEN, Client, RunningServer, new_instance, new_repo

Files = dict[str, bytes]


def archive(files: list[tuple[str, bytes]] | Files) -> bytes:
    pairs = files.items() if isinstance(files, dict) else files
    return b"".join(tar.entry(name.encode(), data) for name, data in pairs) + tar.END


def opened(data: bytes) -> Files:
    with tarfile.open(fileobj=io.BytesIO(data)) as found:
        members = found.getmembers()
        assert len({member.name for member in members}) == len(members)
        files = {}
        for member in members:
            assert (member.mode, member.type) == (0o755, tarfile.REGTYPE)
            content = found.extractfile(member)
            assert content is not None
            files[member.name] = content.read()
        return files


class Scene:
    """A labelmap of supervoxels 10, 15, 30 (one body: 30) and 40 along x, and meshes that follow it."""

    def __init__(self, client: Client, **settings: str) -> None:
        self.client = client
        self.uuid = new_repo(client)
        self.seg = new_instance(client, self.uuid, "labelmap", "seg")
        labels = np.zeros((64, 64, 64), "<u8")
        for i, label in enumerate((10, 15, 30, 40)):
            labels[:, :, 16 * i : 16 * (i + 1)] = label
        client.post(f"{self.seg}/raw/0_1_2/64_64_64/0_0_0", labels.tobytes()).expect()
        client.post(f"{self.seg}/merge", [30, 10, 15]).expect()
        settings = {"Extension": "drc", "versioned": "false", **settings}
        self.meshes = new_instance(client, self.uuid, "tarsupervoxels", "meshes", **settings)
        client.post(f"{self.meshes}/sync", {"sync": "seg"}).expect()

    def child(self) -> str:
        self.client.post(f"/api/node/{self.uuid}/commit", {}).expect()
        found: str = self.client.post(f"/api/node/{self.uuid}/newversion", {}).expect().json()["child"]
        return found


@pytest.fixture
def uuid(client: Client) -> str:
    return new_repo(client)


@pytest.fixture
def scene(client: Client) -> Scene:
    return Scene(client)


def test_worked_examples(scene: Scene, client: Client) -> None:
    meshes = scene.meshes
    client.post(f"{meshes}/load", archive({"10.drc": b"tenth", "30.drc": b"thirty!"})).expect()
    assert client.get(f"{meshes}/exists", [10, 15, 30, 0]).expect().json() == [True, False, True, False]
    assert client.get(f"{meshes}/missing/30").expect().json() == [15]
    client.head(f"{meshes}/tarfile/30").expect(400)
    reply = client.get(f"{meshes}/tarfile/30").expect()
    assert reply.headers["content-type"] == "application/tar"
    assert opened(reply.body) == {"10.drc": b"tenth", "15.missing": b"", "30.drc": b"thirty!"}
    assert b"label 10 has no supervoxels" in client.get(f"{meshes}/tarfile/10").expect(400).body
    client.post(f"{meshes}/supervoxel/15", b"abc").expect()
    assert client.get(f"{meshes}/supervoxel/15").expect().body == b"abc"
    assert client.get(f"{meshes}/missing/30").expect().json() == []
    client.head(f"{meshes}/tarfile/30").expect()
    refused = client.post(f"{meshes}/load", archive({"40.drc": b"40", "41.obj": b"41"})).expect(400)
    assert b'file 2 name has bad extension (expect "drc"): 41.obj' in refused.body
    assert client.get(f"{meshes}/exists", [40, 41]).expect().json() == [True, False]
    child = scene.child()
    cleaved = client.post(f"/api/node/{child}/seg/cleave/30", [15]).expect().json()["CleavedLabel"]
    assert opened(client.get(f"/api/node/{child}/meshes/tarfile/{cleaved}").expect().body) == {"15.drc": b"abc"}
    assert len(opened(client.get(f"{meshes}/tarfile/30").expect().body)) == 3
    client.delete(f"{meshes}/supervoxel/15").expect()  # through a locked version: the instance is not versioned
    assert client.get(f"/api/node/{child}/meshes/missing/{cleaved}").expect().json() == [15]


def test_it_follows_splits_of_supervoxels(scene: Scene, client: Client) -> None:
    """At the version of a split the retired supervoxel is in no list any more, and the new ones are missing."""
    client.post(f"{scene.meshes}/load", archive({f"{sv}.drc": b"%d" % sv for sv in (10, 15, 30, 40)})).expect()
    client.head(f"{scene.meshes}/tarfile/30").expect()
    child = scene.child()
    runs = [struct.pack("<4i", 16, y, z, 8) for z in range(64) for y in range(64)]
    rles = struct.pack("<4BII", 0, 3, 0, 0, 0, len(runs)) + b"".join(runs)
    done = client.post(f"/api/node/{child}/seg/split-supervoxel/15", rles).expect().json()
    new = {done["SplitSupervoxel"], done["RemainSupervoxel"]}
    meshes = f"/api/node/{child}/meshes"
    assert set(client.get(f"{meshes}/missing/30").expect().json()) == new
    client.head(f"{meshes}/tarfile/30").expect(400)
    expected = {"10.drc": b"10", "30.drc": b"30"} | {f"{sv}.missing": b"" for sv in new}
    assert opened(client.get(f"{meshes}/tarfile/30").expect().body) == expected
    assert client.get(f"{meshes}/exists", [15, *new]).expect().json() == [True, False, False]
    assert client.get(f"{scene.meshes}/missing/30").expect().json() == []
    client.post(f"{meshes}/load", archive({f"{sv}.drc": b"new" for sv in new})).expect()
    client.head(f"{meshes}/tarfile/30").expect()
    cleaved = client.post(f"{meshes.replace('meshes', 'seg')}/cleave/30", [min(new)]).expect().json()["CleavedLabel"]
    assert opened(client.get(f"{meshes}/tarfile/{cleaved}").expect().body) == {f"{min(new)}.drc": b"new"}
    assert len(opened(client.get(f"{scene.meshes}/tarfile/30").expect().body)) == 3


def test_empty_blobs_are_there(scene: Scene, client: Client) -> None:
    meshes = scene.meshes
    client.post(f"{meshes}/supervoxel/40", b"").expect()
    assert client.get(f"{meshes}/supervoxel/40").expect().body == b""
    assert client.get(f"{meshes}/exists", [40]).expect().json() == [True]
    assert client.get(f"{meshes}/missing/40").expect().json() == []
    client.head(f"{meshes}/tarfile/40").expect()
    assert opened(client.get(f"{meshes}/tarfile/40").expect().body) == {"40.drc": b""}
    client.delete(f"{meshes}/supervoxel/40").expect()
    assert opened(client.get(f"{meshes}/tarfile/40").expect().body) == {"40.missing": b""}


def test_a_locked_version_of_a_versioned_instance(client: Client) -> None:
    scene = Scene(client, versioned="true")
    client.post(f"{scene.meshes}/supervoxel/10", b"old").expect()
    child = scene.child()
    for refused in (
        client.post(f"{scene.meshes}/supervoxel/10", b"new"),
        client.delete(f"{scene.meshes}/supervoxel/10"),
        client.post(f"{scene.meshes}/load", archive({"10.drc": b"new"})),
    ):
        assert b"of locked node" in refused.expect(400).body
    client.post(f"{scene.meshes}/supervoxel/10?admintoken={TOKEN}", b"admin").expect()
    client.post(f"/api/node/{child}/meshes/load", archive({"15.drc": b"child"})).expect()
    assert client.get(f"{scene.meshes}/supervoxel/15").expect().body == b"child"  # one blob for all versions
    assert client.get(f"/api/node/{child}/meshes/supervoxel/10").expect().body == b"admin"


@pytest.mark.parametrize(
    "name",
    ["x.drc", "7", "-7.drc", "./7.drc", "a/7.drc", "7.drc.gz", "7.", ".drc", "0.drc", "18446744073709551616.drc",
     "7.DRC", " 7.drc", "٧.drc", "9" * 90 + ".drc", "9" * 5000 + ".drc"],
)  # fmt: skip
def test_names_that_are_refused(scene: Scene, client: Client, name: str) -> None:
    """Whatever stands before a bad name is stored, whatever follows it is not."""
    files = [("40.drc", name.encode()), (name, b"bad"), ("41.drc", b"after")]
    client.post(f"{scene.meshes}/load", archive(files)).expect(400)
    assert client.get(f"{scene.meshes}/exists", [7, 41]).expect().json() == [False, False]
    assert client.get(f"{scene.meshes}/supervoxel/40").expect().body == name.encode()


def test_uploads_that_are_no_archives(scene: Scene, client: Client) -> None:
    meshes = scene.meshes
    whole = archive({"40.drc": b"a" * 3000, "41.drc": b"b" * 3000})
    assert b"cut off" in client.post(f"{meshes}/load", whole[:5000]).expect(400).body
    assert client.get(f"{meshes}/exists", [40, 41]).expect().json() == [True, False]
    for body in (b"hello", b"x" * 5000, bytes(100) + b"x" * 5000):
        client.post(f"{meshes}/load", body).expect(400)
    folder = io.BytesIO()
    with tarfile.open(fileobj=folder, mode="w") as opened_folder:
        info = tarfile.TarInfo("50.drc")
        info.type = tarfile.DIRTYPE
        opened_folder.addfile(info)
    client.post(f"{meshes}/load", folder.getvalue()).expect(400)
    assert client.get(f"{meshes}/exists", [50]).expect().json() == [False]
    for nothing in (b"", tar.END):
        client.post(f"{meshes}/load", nothing).expect()


def test_an_upload_may_be_repeated_and_the_last_file_wins(scene: Scene, client: Client) -> None:
    body = archive([("40.drc", b"first"), ("41.drc", b"other"), ("40.drc", b"last")])
    for _ in range(2):
        client.post(f"{scene.meshes}/load", body).expect()
        assert client.get(f"{scene.meshes}/supervoxel/40").expect().body == b"last"


def test_many_small_blobs_in_one_upload(scene: Scene, client: Client) -> None:
    """More than go into one transaction."""
    ids = range(1000, 11_000)
    client.post(f"{scene.meshes}/load", archive({f"{sv}.drc": b"%d" % sv for sv in ids})).expect()
    assert client.get(f"{scene.meshes}/exists", list(ids)).expect().json() == [True] * len(ids)
    assert client.get(f"{scene.meshes}/supervoxel/10999").expect().body == b"10999"


def test_exists_with_a_hash(scene: Scene, client: Client) -> None:
    body = b"[40, 18446744073709551615]"
    good = hashlib.md5(body).hexdigest()
    assert client.get(f"{scene.meshes}/exists?hash={good}", body).expect().json() == [False, False]
    assert b"content hash incorrect" in client.get(f"{scene.meshes}/exists?hash={good[:-1]}x", body).expect(400).body
    for empty in (b"[]", b"null"):
        assert client.get(f"{scene.meshes}/exists", empty).expect().json() == []
    for bad in (b"", b"{}", b"[1.5]", b"[-1]", b"[18446744073709551616]", b'["1"]', b"["):
        client.get(f"{scene.meshes}/exists", bad).expect(400)


def test_methods_and_paths_that_are_refused(scene: Scene, client: Client) -> None:
    for method, path in (
        ("HEAD", "supervoxel/1"), ("PUT", "supervoxel/1"), ("GET", "supervoxel/0"), ("GET", "supervoxel"),
        ("GET", "supervoxel/x"), ("POST", "supervoxel/0"), ("GET", "supervoxel/18446744073709551616"),
        ("POST", "tarfile/30"), ("PUT", "tarfile/30"), ("GET", "tarfile/0"), ("GET", "tarfile"), ("GET", "missing/0"),
        ("HEAD", "exists"), ("POST", "exists"), ("GET", "load"), ("PUT", "load"), ("DELETE", "load"), ("GET", "sync"),
        ("GET", "nothing"),
    ):  # fmt: skip
        assert client.request(method, f"{scene.meshes}/{path}", b"[]").status == 400, f"{method} {path}"
    assert client.get(f"{scene.meshes}/supervoxel/12345").expect(404).body == b"Supervoxel 12345 not found\n"


def test_bodies_of_a_segmentation_elsewhere(client: Client, uuid: str, tmp_path: Path) -> None:
    """They are known once the volume's index is made, and can be merged."""
    labels = np.full((32, 32, 32), 7, np.uint64)
    labels[:, :, 16:] = 9
    address = write_precomputed(tmp_path, [labels], kind="segmentation")
    settings = {"typename": "labelmap", "dataname": "far", "Source": address}
    client.post(f"/api/repo/{uuid}/instance?admintoken={TOKEN}", settings).expect()
    meshes = new_instance(client, uuid, "tarsupervoxels", "meshes", Extension="drc")
    client.post(f"{meshes}/sync", {"sync": "far"}).expect()
    client.post(f"{meshes}/supervoxel/7", b"seven").expect()
    assert b"has no index yet" in client.get(f"{meshes}/tarfile/7").expect(400).body
    far = f"/api/node/{uuid}/far"
    while not client.post(f"{far}/index-source").expect().json()["complete"]:
        pass
    assert opened(client.get(f"{meshes}/tarfile/7").expect().body) == {"7.drc": b"seven"}
    client.post(f"{far}/merge", [9, 7]).expect()
    assert opened(client.get(f"{meshes}/tarfile/9").expect().body) == {"7.drc": b"seven", "9.missing": b""}
    client.get(f"{meshes}/tarfile/7").expect(400)


def test_without_a_labelmap(client: Client) -> None:
    uuid = new_repo(client)
    for settings in ({}, {"Extension": ""}, {"Extension": ".drc"}, {"Extension": "a/b"}):
        body = {"typename": "tarsupervoxels", "dataname": "alone", **settings}
        client.post(f"/api/repo/{uuid}/instance", body).expect(400)
    alone = new_instance(client, uuid, "tarsupervoxels", "alone", Extension="tar.gz")
    client.post(f"{alone}/load", archive({"5.tar.gz": b"five"})).expect()
    assert client.get(f"{alone}/supervoxel/5").expect().body == b"five"
    assert b"is not synced with any labelmap" in client.get(f"{alone}/missing/5").expect(400).body
    new_instance(client, uuid, "keyvalue", "keys")
    client.post(f"{alone}/sync", {"sync": "keys"}).expect()
    assert b"is not synced with any labelmap" in client.get(f"{alone}/tarfile/5").expect(400).body


def test_changing_settings(scene: Scene, client: Client) -> None:
    meshes = scene.meshes
    client.post(f"{meshes}/supervoxel/40", b"forty").expect()
    settings = {"Extension": "obj", "Compression": "none", "Checksum": "crc32", "Tags": "a=b", "Versioned": True}
    told = client.post(f"{meshes}/info", settings).expect().body
    assert told.startswith(b"Changed 'meshes' based on received configuration:\n")
    info = client.get(f"{meshes}/info").expect().json()
    assert info["Extended"] == {"Extension": "obj"}
    assert info["Base"]["Compression"] == "No compression, level -1"
    assert info["Base"]["Checksum"] == "CRC32 checksum"
    assert (info["Base"]["Tags"], info["Base"]["Versioned"]) == ({"a": "b"}, True)
    client.get(f"{meshes}/supervoxel/40").expect(404)
    for bad in ({"Extension": "a/b"}, {"Compression": "zip"}, {"Checksum": "md5"}, {"Versioned": "perhaps"}, [], 5):
        client.post(f"{meshes}/info", bad).expect(400)
    assert client.get(f"{meshes}/info").expect().json() == info
    client.post(f"{meshes}/info", {"Extension": "drc"}).expect()
    assert client.get(f"{meshes}/supervoxel/40").expect().body == b"forty"


def test_many_workers_see_an_upload_at_once(launch) -> None:  # type: ignore[no-untyped-def]
    server = launch("--workers", "2")
    with server.client() as first:
        scene = Scene(first)
    clients = [server.client() for _ in range(4)]
    for i in range(10):
        clients[i % 4].post(f"{scene.meshes}/load", archive({"40.drc": b"%d" % i})).expect()
        for other in clients:
            assert other.get(f"{scene.meshes}/supervoxel/40").expect().body == b"%d" % i
            assert other.get(f"{scene.meshes}/missing/40").expect().json() == []


# -- large ones

MEGABYTE = 1 << 20


class _Stream:
    """The bytes of an archive of many blobs, made while they are sent."""

    def __init__(self, blobs: int, blob_bytes: int) -> None:
        self.blobs, self.blob_bytes = blobs, blob_bytes
        self.size = blobs * (512 + blob_bytes) + len(tar.END)

    def __iter__(self) -> Iterator[bytes]:
        for i in range(self.blobs):
            yield tar.entry(b"%d.drc" % (1 + i), bytes([i % 251]) * self.blob_bytes)
        yield tar.END


@pytest.mark.slow
def test_large_archives_take_little_memory(launch) -> None:  # type: ignore[no-untyped-def]
    """300 MB up and down again: the server holds a few blobs at a time."""
    server: RunningServer = launch()
    blobs, blob_bytes = 300, MEGABYTE
    with server.client() as client:
        uuid = new_repo(client)
        seg = new_instance(client, uuid, "labelmap", "seg")
        labels = np.zeros((64, 64, 64), "<u8")
        labels.ravel()[: 64 * blobs] = np.repeat(np.arange(1, blobs + 1), 64)
        client.post(f"{seg}/raw/0_1_2/64_64_64/0_0_0", labels.tobytes()).expect()
        client.post(f"{seg}/merge", list(range(1, blobs + 1))).expect()
        meshes = new_instance(client, uuid, "tarsupervoxels", "meshes", Extension="drc", versioned="false")
        client.post(f"{meshes}/sync", {"sync": "seg"}).expect()
        client.post(f"{meshes}/load", archive({"1.drc": b"warm"})).expect()
        client.get(f"{meshes}/tarfile/1").expect()
        with server.watch_memory() as before:
            pass
        stream = _Stream(blobs, blob_bytes)
        with server.watch_memory() as memory:
            connection = client.connection
            connection.putrequest("POST", f"{meshes}/load")
            connection.putheader("Content-Length", str(stream.size))
            connection.endheaders()
            for piece in stream:
                connection.send(piece)
            assert connection.getresponse().read() == b""
        grown = memory.peak_anonymous_bytes - before.peak_anonymous_bytes
        assert grown < 100 * MEGABYTE, f"{grown >> 20} MB for an upload of {stream.size >> 20} MB"
        client.head(f"{meshes}/tarfile/1").expect()
        with server.watch_memory() as memory:
            connection.request("GET", f"{meshes}/tarfile/1")
            response = connection.getresponse()
            received = 0
            while piece := response.read(MEGABYTE):
                received += len(piece)
        assert received == stream.size
        grown = memory.peak_anonymous_bytes - before.peak_anonymous_bytes
        assert grown < 100 * MEGABYTE, f"{grown >> 20} MB for an answer of {received >> 20} MB"
