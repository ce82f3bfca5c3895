"""Folders of objects, near and far: what is there, what is not, and what goes wrong on the way."""

from __future__ import annotations

import bz2
import gzip
import lzma
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import zstandard
from folder_server import ObjectServer

from fascicle.volumes import VolumeError, bucket_objects, persistence, web_objects
from fascicle.volumes.objects import Access, Changed, ObjectFolder, merged, open_folder

KINDS = ("file", "http", "s3", "gs", "vast")
FAR = KINDS[1:]
DATA = bytes(range(256)) * 40


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(persistence, "FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr(persistence, "LONGEST_PAUSE_S", 0.01)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_ENDPOINT_URL", "AWS_REGION", "GOOGLE_APPLICATION_CREDENTIALS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ObjectServer]:
    folder = tmp_path / "bucket" / "a b" / "v"
    (folder / "sub").mkdir(parents=True)
    (folder / "info").write_bytes(DATA)
    (folder / "sub" / "0-4_-3-2:0").write_bytes(b"chunk")
    (tmp_path / "bucket" / "a b" / "beside").write_bytes(b"beside")
    with ObjectServer(tmp_path) as running:
        yield running


def folder_of(kind: str, server: ObjectServer, attempts: int = 4, timeout_s: float = 5) -> ObjectFolder:
    access = Access(attempts=attempts, timeout_s=timeout_s, endpoint=server.url if kind in ("s3", "gs") else "")
    address = {
        "file": f"file://{server.root}/bucket/a b/v",
        "http": f"{server.url}/bucket/a b/v/",
        "vast": f"vast+http://{server.host}/bucket/a b/v",
    }.get(kind, f"{kind}://bucket/a b/v")
    return open_folder(address, access)


@pytest.mark.parametrize("kind", KINDS)
def test_objects_are_read(kind: str, server: ObjectServer) -> None:
    folder = folder_of(kind, server)
    assert folder.remote == (kind != "file")
    assert folder.get("info") == DATA
    assert folder.get("sub/0-4_-3-2:0") == b"chunk"
    assert folder.get("../beside") == b"beside"
    assert folder.get("nothing") is None
    assert folder.get("sub") is None
    assert folder.get_range("info", 3, 9) == DATA[3:9]
    assert folder.get_range("nothing", 3, 9) is None
    assert folder.get_ranges("info", [(9000, 9010), (0, 16), (9005, 9020)]) == [
        DATA[9000:9010], DATA[:16], DATA[9005:9020]
    ]  # fmt: skip
    assert folder.get_ranges("nothing", [(0, 1)]) is None
    assert [folder.exists(name) for name in ("info", "sub/0-4_-3-2:0", "nothing")] == [True, True, False]
    for start, stop in ((len(DATA) - 1, len(DATA) + 1), (len(DATA) + 5, len(DATA) + 6)):
        with pytest.raises(VolumeError, match=r"info ends before"):
            folder.get_range("info", start, stop)
    if kind != "http":
        assert list(folder.names()) == ["info", "sub/0-4_-3-2:0"]
        assert list(folder.names("sub/")) == list(folder.names("sub/0")) == ["sub/0-4_-3-2:0"]
    else:
        with pytest.raises(VolumeError, match="cannot list"):
            folder.names()


@pytest.mark.parametrize("kind", KINDS)
def test_stamps_tell_objects_apart(kind: str, server: ObjectServer) -> None:
    folder = folder_of(kind, server)
    piece = folder.fetch("info", (0, 4))
    assert piece is not None
    assert piece.stamp
    assert folder.get_ranges("info", [(0, 4)], piece.stamp) == [DATA[:4]]
    (server.root / "bucket/a b/v/info").write_bytes(DATA + b"more")
    with pytest.raises(Changed):
        folder.get_ranges("info", [(0, 4)], piece.stamp)


@pytest.mark.parametrize("kind", FAR)
@pytest.mark.parametrize("fault", [500, 503, 429, "cut"])
def test_what_passes_is_tried_again(kind: str, fault: int | str, server: ObjectServer) -> None:
    server.faults = lambda name, number: fault if number < 3 else None
    folder = folder_of(kind, server)
    assert folder.get("info") == DATA
    assert folder.get_range("sub/0-4_-3-2:0", 1, 4) == b"hun"
    server.faults = lambda name, number: fault
    with pytest.raises(VolumeError, match=r"a b/v/info cannot be read: .+"):
        folder.get("info")
    assert len([name for name in server.names() if name.endswith("info")]) == 3 + 4


@pytest.mark.parametrize("kind", FAR)
def test_a_silent_server(kind: str, server: ObjectServer) -> None:
    server.faults = lambda name, number: "silent" if number == 1 else None
    assert folder_of(kind, server, timeout_s=0.3).get("info") == DATA
    server.faults = lambda name, number: "silent"
    with pytest.raises(VolumeError, match="cannot be read"):
        folder_of(kind, server, attempts=2, timeout_s=0.2).get("info")


@pytest.mark.parametrize("kind", FAR)
def test_nobody_there(kind: str, server: ObjectServer) -> None:
    folder = folder_of(kind, server, attempts=2)
    server.__exit__()
    try:
        with pytest.raises(VolumeError, match="cannot be read"):
            folder.get("info")
    finally:
        server.__enter__()


@pytest.mark.parametrize("kind", FAR)
def test_refusals(kind: str, server: ObjectServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bucket that may not be listed says 403 for what is not there. That is no reason to take a lock for a gap."""
    server.missing_status = 403
    folder = folder_of(kind, server)
    with pytest.raises(VolumeError, match="cannot be read"):
        folder.get("nothing")
    assert folder.get("info") == DATA
    assert folder.get("nothing") is None
    assert not folder.exists("nothing")
    server.forbidden = True
    monkeypatch.setattr(persistence.RefusalJudge, "TRUST_S", -1.0)
    folder = folder_of(kind, server)
    server.forbidden = False
    folder.get("info")
    server.forbidden = True
    with pytest.raises(VolumeError, match="cannot be read"):
        folder.get("nothing")


@pytest.mark.parametrize("kind", FAR)
def test_content_encoding(kind: str, server: ObjectServer) -> None:
    server.coding = True
    folder = folder_of(kind, server)
    assert folder.get("info") == DATA
    assert folder.get_range("info", 3, 9) == DATA[3:9]
    assert any(name.endswith("info") for name in server.names())


def test_no_ranges(server: ObjectServer) -> None:
    (server.root / "bucket/a b/v/large").write_bytes(DATA * 1000)
    server.ranges = False
    folder = folder_of("http", server)
    assert folder.get_range("large", 300, 900) == (DATA * 2)[300:900]
    assert folder.get_range("info", 0, len(DATA)) == DATA
    with pytest.raises(VolumeError, match="ends before"):
        folder.get_range("info", 0, len(DATA) + 1)
    assert folder.get("info") == DATA


def test_queries_and_redirects(server: ObjectServer) -> None:
    server.query = "token=a%2Fb&x=1"
    assert open_folder(f"{server.url}/bucket/a b/v/?token=a%2Fb&x=1").get("info") == DATA
    with pytest.raises(VolumeError, match="403"):
        open_folder(f"{server.url}/bucket/a b/v").get("info")


def test_several_threads(server: ObjectServer) -> None:
    for kind in FAR:
        folder = folder_of(kind, server)
        found: list[bytes | None] = []

        def read(folder: ObjectFolder = folder, found: list[bytes | None] = found) -> None:
            found.extend(folder.get_range("info", at, at + 9) for at in range(20))

        threads = [threading.Thread(target=read) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(found) == sorted(8 * [DATA[at : at + 9] for at in range(20)])  # type: ignore[type-var]


@pytest.mark.parametrize(
    ("suffix", "pack"),
    [(".gz", gzip.compress), (".xz", lzma.compress), (".bz2", bz2.compress), (".zstd", zstandard.compress)],
)
def test_packed_files(suffix: str, pack, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / f"x{suffix}").write_bytes(pack(DATA))
    folder = open_folder(str(tmp_path))
    assert folder.get("x") == DATA
    assert folder.exists("x")
    assert folder.get_range("x", 5, 10) == DATA[5:10]
    (tmp_path / f"x{suffix}").write_bytes(pack(DATA)[:-20])
    with pytest.raises(VolumeError, match=rf"x{suffix} is damaged"):
        folder.get("x")


def test_packing_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "x.br").write_bytes(b"?")
    with pytest.raises(VolumeError, match="compression that cannot be read"):
        open_folder(str(tmp_path)).get("x")


@pytest.mark.parametrize("address", ["ftp://x/y", "gs://", "s3:///x", "vast://host", "http:///x"])
def test_addresses_that_name_nothing(address: str) -> None:
    with pytest.raises(VolumeError):
        open_folder(address).get("info")


def test_spans_that_lie_close_come_together() -> None:
    assert merged([(0, 10), (20, 30), (5, 12)]) == [[(0, 10), (5, 12), (20, 30)]]
    assert merged([(0, 10), (10**6, 10**6 + 1)]) == [[(0, 10)], [(10**6, 10**6 + 1)]]
    assert merged([(0, 10), (10, 100 << 20), (100 << 20, 101 << 20)]) == [
        [(0, 10)], [(10, 100 << 20)], [(100 << 20, 101 << 20)]
    ]  # fmt: skip
    assert merged([]) == []


def test_the_region_that_a_bucket_names(monkeypatch: pytest.MonkeyPatch) -> None:
    class Answer:
        headers = {"x-amz-bucket-region": "eu-central-2"}  # noqa: RUF012

    asked = []
    monkeypatch.setattr("urllib3.request", lambda method, url, **_: asked.append((method, url)) or Answer())
    folder = bucket_objects.BucketFolder("s3://somewhere/v", Access())
    assert asked == [("HEAD", "https://somewhere.s3.amazonaws.com")]
    assert "eu-central-2" in repr(folder.store.config)


@pytest.mark.parametrize(("path", "climbed"), [("/a/b/../c", "/a/c"), ("/a/./b", "/a/b"), ("/../a", "/a"), ("/", "/")])
def test_paths_that_climb(path: str, climbed: str) -> None:
    assert web_objects._climbed(path) == climbed
