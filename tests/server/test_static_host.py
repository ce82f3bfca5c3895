"""`fascicle host`: what viewers need of a static server, and what they must not get."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable, Iterator
from email.utils import formatdate
from pathlib import Path

import pytest
import zstandard

from fascicle.config import SettingsError
from fascicle.server.static_app import HostOptions
from fascicle.server.static_files import StaticFiles
from fascicle.server.static_host import application, running
from serving import Client, Reply

INFO = b'{"@type":"neuroglancer_multiscale_volume"}'
CHUNK = bytes(range(256)) * 40
SHARD = os.urandom(3_000_000)
MANIFEST = b'{"fragments":["17.frag"]}'

Ask = Callable[..., Reply]


def fill(root: Path) -> None:
    """Files as the format, CloudVolume and neuroglancer-scripts name them."""
    files = {
        "flat/info": INFO,
        "flat/8_8_8/0-64_0-64_0-64": CHUNK,
        "flat/8_8_8/0f.shard": SHARD,
        "packed/info.gz": gzip.compress(INFO),
        "packed/8_8_8/0-64_0-64_-64-0.gz": gzip.compress(CHUNK),
        "packed/8_8_8/64-128_0-64_0-64.zstd": zstandard.compress(CHUNK),
        "packed/8_8_8/1f.shard.gz": gzip.compress(SHARD),
        "packed/8_8_8/128-192_0-64_0-64.gz": b"\x1f\x8bdamaged",
        "deep/8_8_8/0-64/0-64/0-64": CHUNK,
        "deep/8_8_8/64-128/0-64/-64-0.gz": gzip.compress(CHUNK),
        "meshes/1:0": MANIFEST,
        "meshes/2.json": MANIFEST,
        "meshes/3": MANIFEST,
        "meshes/4": b"\x03\0\0\0fragments",
        "meshes/5.gz": gzip.compress(MANIFEST),
        "lods/6": CHUNK,
        "lods/6.index": b"index",
        "page.html": b"<p>",
    }
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    (root.parent / "secret").write_text("not for you")
    (root / "link").symlink_to(root.parent / "secret")
    (root / "way").symlink_to(root.parent)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hosting") / "public"
    folder.mkdir()
    fill(folder)
    return folder


@pytest.fixture(scope="module")
def url(root: Path) -> Iterator[str]:
    with running(application(root)) as base:
        yield base


@pytest.fixture
def ask(url: str) -> Iterator[Ask]:
    with Client(url) as client:

        def ask(path: str, method: str = "GET", **headers: str) -> Reply:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            return client.request(method, path, headers=named)

        yield ask


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("/flat/info", INFO),
        ("/flat/8_8_8/0-64_0-64_0-64", CHUNK),
        ("/packed/info", INFO),
        ("/packed/8_8_8/0-64_0-64_-64-0", CHUNK),
        ("/packed/8_8_8/64-128_0-64_0-64", CHUNK),
        ("/deep/8_8_8/0-64_0-64_0-64", CHUNK),
        ("/deep/8_8_8/64-128_0-64_-64-0", CHUNK),
        ("/meshes/1:0", MANIFEST),
        ("/meshes/2:0", MANIFEST),
        ("/meshes/3:0", MANIFEST),
        ("/meshes/5:0", MANIFEST),
        ("/meshes/1%3A0", MANIFEST),
        ("/flat/../deep/./8_8_8//0-64_0-64_0-64", CHUNK),
        ("/flat/info?token=x", INFO),
    ],
)
def test_names_of_all_programs(ask: Ask, path: str, content: bytes) -> None:
    plain = ask(path).expect()
    assert plain.body == content
    assert "content-encoding" not in plain.headers
    assert plain.headers["access-control-allow-origin"] == "*"
    packed = ask(path, Accept_Encoding="gzip, zstd").expect()
    coding = packed.headers.get("content-encoding", "")
    unpack = {"": bytes, "gzip": gzip.decompress, "zstd": zstandard.decompress}[coding]
    assert unpack(packed.body) == content
    if coding:
        assert packed.headers["etag"] != plain.headers["etag"]
        assert "Accept-Encoding" in packed.headers["vary"]
    head = ask(path, "HEAD").expect()
    assert head.body == b""
    assert head.headers["content-length"] == str(len(content))
    assert head.headers["etag"] == plain.headers["etag"]


def test_stored_compression_is_sent_as_it_is(ask: Ask, root: Path) -> None:
    reply = ask("/packed/8_8_8/0-64_0-64_-64-0", Accept_Encoding="gzip").expect()
    assert reply.headers["content-encoding"] == "gzip"
    assert reply.body == (root / "packed/8_8_8/0-64_0-64_-64-0.gz").read_bytes()
    assert "content-encoding" not in ask("/packed/8_8_8/64-128_0-64_0-64", Accept_Encoding="gzip").headers
    whole = ask("/packed/8_8_8/0-64_0-64_-64-0.gz", Accept_Encoding="gzip").expect()  # by its own name it is a file
    assert "content-encoding" not in whole.headers
    assert gzip.decompress(whole.body) == CHUNK
    ask("/packed/8_8_8/128-192_0-64_0-64").expect(500)


def test_content_types(ask: Ask) -> None:
    for path in ("/flat/info", "/packed/info", "/meshes/1:0", "/meshes/2:0", "/meshes/3:0"):
        assert ask(path).expect().headers["content-type"] == "application/json"
    assert ask("/flat/8_8_8/0-64_0-64_0-64").headers["content-type"] == "application/octet-stream"
    assert ask("/page.html").headers["content-type"] == "text/html; charset=utf-8"


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("/flat/8_8_8/0f.shard", SHARD),
        ("/packed/8_8_8/1f.shard", SHARD),
        ("/lods/6", CHUNK),
        ("/packed/8_8_8/0-64_0-64_-64-0", CHUNK),
    ],
)
def test_ranges(ask: Ask, path: str, content: bytes) -> None:
    size = len(content)
    for text, first, stop in (
        ("0-15", 0, 16),
        ("7-7", 7, 8),
        ("100-", 100, size),
        ("-9", size - 9, size),
        (f"5-{2 * size}", 5, size),
    ):
        reply = ask(path, Range=f"bytes={text}", Accept_Encoding="gzip, br").expect(206)
        assert reply.body == content[first:stop]
        assert reply.headers["content-range"] == f"bytes {first}-{stop - 1}/{size}"
        assert reply.headers["access-control-allow-origin"] == "*"
        assert "content-encoding" not in reply.headers
        assert "Content-Range" in reply.headers["access-control-expose-headers"]
    reply = ask(path, Range=f"bytes={size}-").expect(416)
    assert reply.headers["content-range"] == f"bytes */{size}"
    assert reply.headers["access-control-allow-origin"] == "*"
    for odd in ("bytes=9-3", "bytes=0-1,5-9", "lines=0-1", "bytes=-"):
        assert ask(path, Range=odd).expect().body == content
    assert ask(path, "HEAD", Range="bytes=3-5").expect(206).headers["content-length"] == "3"


def test_what_is_read_by_ranges_has_no_content_encoding(ask: Ask) -> None:
    for path in ("/packed/8_8_8/1f.shard", "/flat/8_8_8/0f.shard", "/lods/6"):
        assert "content-encoding" not in ask(path, Accept_Encoding="gzip").expect().headers


def test_validators(ask: Ask, root: Path) -> None:
    path = "/flat/8_8_8/0-64_0-64_0-64"
    reply = ask(path).expect()
    tag, changed = reply.headers["etag"], reply.headers["last-modified"]
    for headers in (
        {"If_None_Match": tag},
        {"If_None_Match": f'"other", W/{tag}'},
        {"If_None_Match": "*"},
        {"If_Modified_Since": changed},
    ):
        unchanged = ask(path, **headers).expect(304)
        assert unchanged.body == b""
        assert unchanged.headers["etag"] == tag
    assert ask(path, If_None_Match='"other"', If_Modified_Since=changed).expect().body == CHUNK
    assert ask(path, If_Modified_Since=formatdate(0, usegmt=True)).expect().body == CHUNK
    assert ask(path, If_Modified_Since="yesterday").expect().body == CHUNK
    assert ask(path, Range="bytes=0-3", If_Range=tag).expect(206).body == CHUNK[:4]
    assert ask(path, Range="bytes=0-3", If_Range=changed).expect(206).body == CHUNK[:4]
    assert ask(path, Range="bytes=0-3", If_Range='"other"').expect().body == CHUNK
    os.utime(root / path[1:], (1, 1))
    assert ask(path).headers["etag"] != tag


def test_other_origins(ask: Ask) -> None:
    preflight = ask("/flat/info", "OPTIONS", Origin="https://a.org", Access_Control_Request_Method="GET").expect()
    assert preflight.headers["access-control-allow-origin"] == "*"
    assert "Range" in preflight.headers["access-control-allow-headers"]
    assert ask("/nothing", Origin="https://a.org").expect(404).headers["access-control-allow-origin"] == "*"
    refused = ask("/flat/info", "POST").expect(405)
    assert refused.headers["access-control-allow-origin"] == "*"
    assert refused.headers["allow"] == "GET, HEAD, OPTIONS"


@pytest.mark.parametrize(
    "path",
    [
        "/flat",  # no redirect to /flat/
        "/flat/",
        "/flat/8_8_8",
        "/../secret",
        "/%2e%2e/secret",
        "/flat/..%2f..%2fsecret",
        "/flat/%2e%2e/%2e%2e/secret",
        "//secret",
        "/link",
        "/way/secret",
        "/way/public/flat/info%00",
        "/%00",
        "/" + "x" * 5000,
        "/meshes/4:0",
        "/meshes/7:0",
        "/lods/6:0",
        "/deep/8_8_8/0-64_0-64_64-128",
        "/states/none.json",
        "/neuroglancer/v/here/none.js",
    ],
)
def test_what_is_not_served(ask: Ask, path: str) -> None:
    reply = ask(path).expect(404)
    assert b"not for you" not in reply.body
    assert reply.headers["access-control-allow-origin"] == "*"


def test_the_viewer_and_the_front_page(ask: Ask) -> None:
    front = ask("/").expect()
    assert front.headers["content-type"].startswith("text/html")
    assert b'data-path="flat"' in front.body
    assert b"packed" in front.body
    assert b"<script" in ask("/neuroglancer/v/here/").expect().body


def test_options_of_the_host(root: Path) -> None:
    options = HostOptions(origins=("https://lab.org",), listing=True, compress=True, follow_links=True, max_age_s=60)
    with running(application(root, options)) as base, Client(base) as client:
        listing = client.get("/flat/").expect().body.decode()
        assert '<a href="8_8_8/">' in listing
        assert '<a href="info">' in listing
        client.get("/flat").expect(404)
        assert client.get("/link").expect().body == b"not for you"
        packed = client.request("GET", "/flat/8_8_8/0-64_0-64_0-64", headers={"Accept-Encoding": "gzip"}).expect()
        assert packed.headers["content-encoding"] == "gzip"
        assert gzip.decompress(packed.body) == CHUNK
        assert packed.headers["cache-control"] == "public, max-age=60"
        assert client.get("/flat/info").headers["cache-control"] == "no-cache"
        shard = client.request("GET", "/flat/8_8_8/0f.shard", headers={"Accept-Encoding": "gzip"}).expect()
        assert shard.body == SHARD
        own = client.request("GET", "/flat/info", headers={"Origin": "https://lab.org"})
        assert own.headers["access-control-allow-origin"] == "https://lab.org"
        other = client.request("GET", "/flat/info", headers={"Origin": "https://other.org"})
        assert "access-control-allow-origin" not in other.headers
    with pytest.raises(SettingsError, match="no folder"):
        application(root / "none")


def test_infos_are_found_near_first(root: Path) -> None:
    assert list(StaticFiles(root).infos()) == [("flat",), ("packed",)]
    assert json.loads(INFO)
