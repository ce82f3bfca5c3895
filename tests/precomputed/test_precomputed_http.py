"""What HTTP asks of precomputed views: names, methods, ranges, validators, compression, other origins, bad input."""

from __future__ import annotations

import gzip
from collections.abc import Callable

import numpy as np
import pytest

from remote_volumes import label_volume, smooth_volume
from serving import Client, Reply, RunningServer, new_instance, new_repo

CHUNK = "0/0-64_0-64_0-64"


@pytest.fixture(scope="module")
def labels() -> np.ndarray:
    return label_volume((64, 64, 128))


@pytest.fixture(scope="module")
def root(server: RunningServer, labels: np.ndarray) -> str:
    """A committed root with labels and an image, and an open child of it."""
    with server.client() as client:
        root = new_repo(client, "view of chunks")
        path = new_instance(client, root, "labelmap", "seg")
        client.post(f"{path}/raw/0_1_2/128_64_64/0_0_0", labels.tobytes()).expect()
        path = new_instance(client, root, "uint8blk", "em")
        client.post(f"{path}/raw/0_1_2/64_64_64/0_0_0", smooth_volume((64, 64, 64)).tobytes()).expect()
        new_instance(client, root, "uint8blk", "empty")
        new_instance(client, root, "keyvalue", "notes")
        client.post(f"/api/node/{root}/commit", {}).expect()
        client.post(f"/api/node/{root}/newversion").expect()
        client.post(f"/api/node/{root}/tag", {"tag": f"v1-{root[:6]}"}).expect()
        client.post(f"/api/node/{root}/branch", {"branch": "side"}).expect()
    return root


Ask = Callable[..., Reply]


@pytest.fixture
def ask(client: Client, root: str) -> Ask:
    """Ask for a path of an instance at the committed root."""

    def ask(path: str, method: str = "GET", version: str = root, **headers: str) -> Reply:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return client.request(method, f"/precomputed/{root[:16]}/{version}/{path}", headers=named)

    return ask


def test_names_of_repos_and_versions(client: Client, ask: Ask, root: str) -> None:
    expected = ask(f"seg/{CHUNK}").expect().body
    versions = [root, root[:8], "master", "master~1", "side", f"v1-{root[:6]}"]
    for version in versions:
        reply = ask(f"seg/{CHUNK}", version=version).expect()
        assert reply.body == expected
        assert ("immutable" in reply.headers["cache-control"]) == (version not in ("master", "master~1", "side"))
        assert "immutable" not in ask("seg/info", version=version).headers["cache-control"]
    assert client.get(f"/precomputed/view%20of%20chunks/master/seg/{CHUNK}").expect().body == expected
    assert client.get(f"/precomputed/{root[:6].upper()}/master/seg/{CHUNK}").expect().body == expected
    for path in (f"nobody/master/seg/{CHUNK}", f"{root}/nowhere/seg/{CHUNK}", f"{root}/master/nothing/{CHUNK}"):
        reply = client.get(f"/precomputed/{path}").expect(404)
        assert path.replace(root, "").replace("master", "").strip("/").partition("/")[0].encode() in reply.body


def test_head(ask: Ask) -> None:
    for path in ("seg/info", f"seg/{CHUNK}", f"em/{CHUNK}"):
        whole, head = ask(path).expect(), ask(path, "HEAD").expect()
        assert head.body == b""
        assert head.headers["content-length"] == str(len(whole.body))
        assert head.headers["etag"] == whole.headers["etag"]


def test_ranges(ask: Ask) -> None:
    whole = ask(f"em/{CHUNK}").expect()
    size = len(whole.body)
    for text, part in (("0-9", slice(0, 10)), ("100-", slice(100, None)), ("-7", slice(-7, None))):
        reply = ask(f"em/{CHUNK}", Range=f"bytes={text}", Accept_Encoding="gzip").expect(206)
        assert reply.body == whole.body[part]
        first = range(size)[part].start
        assert reply.headers["content-range"] == f"bytes {first}-{first + len(reply.body) - 1}/{size}"
        assert "content-encoding" not in reply.headers
    beyond = ask(f"em/{CHUNK}", Range=f"bytes={size}-").expect(416)
    assert beyond.headers["content-range"] == f"bytes */{size}"
    assert ask(f"em/{CHUNK}", Range="bytes=0-1,5-6").expect().body == whole.body
    tag = whole.headers["etag"]
    assert ask(f"em/{CHUNK}", Range="bytes=0-1", If_Range=tag).expect(206).body == whole.body[:2]
    assert ask(f"em/{CHUNK}", Range="bytes=0-1", If_Range='"other"').expect().body == whole.body


def test_gzip(ask: Ask, labels: np.ndarray) -> None:
    for path in (f"seg/{CHUNK}", f"em/{CHUNK}", f"seg/raw/{CHUNK}", f"seg/supervoxels/{CHUNK}"):
        plain = ask(path).expect()
        assert "content-encoding" not in plain.headers
        packed = ask(path, Accept_Encoding="deflate, gzip;q=0.8").expect()
        assert packed.headers["content-encoding"] == "gzip"
        assert "Accept-Encoding" in packed.headers["vary"]
        assert gzip.decompress(packed.body) == plain.body
        assert packed.headers["etag"] != plain.headers["etag"]
        refused = ask(path, Accept_Encoding="gzip;q=0, *").expect()
        assert refused.body == plain.body
    assert "content-encoding" not in ask(f"em/jpeg/{CHUNK}", Accept_Encoding="gzip").expect().headers
    assert ask(f"seg/raw/{CHUNK}").body == np.ascontiguousarray(labels[:, :, :64]).tobytes()


def test_what_the_client_has(ask: Ask) -> None:
    for path in ("seg/info", f"seg/{CHUNK}"):
        whole = ask(path).expect()
        tag = whole.headers["etag"]
        assert tag.startswith('"')
        for given in (tag, f'"x", {tag}', f"W/{tag}", "*"):
            same = ask(path, If_None_Match=given).expect(304)
            assert same.body == b""
            assert same.headers["etag"] == tag
            assert same.headers["cache-control"] == whole.headers["cache-control"]
        assert ask(path, If_None_Match='"x"').expect().body == whole.body


def test_changes_of_an_open_version(client: Client, ask: Ask, root: str, labels: np.ndarray) -> None:
    first, second = (int(label) for label in np.unique(labels[:, :, :64])[2:4])
    before = ask(f"seg/{CHUNK}", version="master").expect()
    assert "max-age=5," in before.headers["cache-control"]
    client.post(f"/api/node/{root}:master/seg/merge", [first, second]).expect()
    tag = before.headers["etag"]
    after = ask(f"seg/{CHUNK}", version="master", If_None_Match=tag).expect()
    assert after.headers["etag"] != tag
    assert ask(f"seg/{CHUNK}").headers["etag"] == tag
    supervoxels = ask(f"seg/supervoxels/{CHUNK}", version="master").expect()
    assert supervoxels.body == before.body


def test_other_origins(client: Client, ask: Ask, root: str) -> None:
    path = f"/precomputed/{root}/{root}/seg/{CHUNK}"
    preflight = client.request(
        "OPTIONS", path, headers={"Origin": "http://a.org", "Access-Control-Request-Method": "GET",
                                  "Access-Control-Request-Headers": "range"},
    ).expect()  # fmt: skip
    assert preflight.headers["access-control-allow-origin"] == "*"
    assert "range" in preflight.headers["access-control-allow-headers"].lower()
    tag = ask(f"seg/{CHUNK}").headers["etag"]
    replies = [
        ask(f"seg/{CHUNK}", Origin="http://a.org").expect(),
        ask(f"seg/{CHUNK}", Origin="http://a.org", Range="bytes=0-3").expect(206),
        ask(f"seg/{CHUNK}", Origin="http://a.org", If_None_Match=tag).expect(304),
        ask("seg/0/0-64_0-64_64-128", Origin="http://a.org").expect(404),
        ask(f"seg/{CHUNK}", Origin="http://a.org", Range="bytes=99999999-").expect(416),
    ]
    for reply in replies:
        assert reply.headers["access-control-allow-origin"] == "*"
        assert "content-range" in reply.headers["access-control-expose-headers"].lower()


@pytest.mark.parametrize(
    ("path", "status", "word"),
    [
        ("seg/0/0-64_0-64_64-128", 404, "z is from 0 to 64"),
        ("seg/0/0-64_0-64_0-32", 404, "0-64"),
        ("seg/0/1-65_0-64_0-64", 404, "0-64"),
        ("seg/0/-64-0_0-64_0-64", 404, "x is from 0 to 128"),
        ("seg/0/0-64_0-64", 404, "x0-x1_y0-y1_z0-z1"),
        ("seg/0/00-64_0-64_0-64", 404, "x0-x1_y0-y1_z0-z1"),
        ("seg/0/0-64_0-64_0-99999999999999999999", 404, "x0-x1_y0-y1_z0-z1"),
        ("seg/7/0-64_0-64_0-64", 404, "no scale '7'"),
        ("seg/8_8_8/0-64_0-64_0-64", 404, "no scale"),
        ("seg", 404, "nothing at this path"),
        ("seg/provenance", 404, "nothing at this path"),
        ("seg/mesh/nothing", 404, "no mesh 'nothing'"),
        ("seg/skeletons/nothing", 404, "no skeleton 'nothing'"),
        ("em/mesh/info", 404, "no scale"),
        ("seg/jpeg/info", 400, "cannot be of encoding jpeg"),
        ("em/compressed_segmentation/info", 400, "cannot be of encoding"),
        ("em/supervoxels/info", 400, "no supervoxels"),
        ("empty/info", 404, "no voxels"),
        ("notes/info", 400, "keyvalue"),
    ],
)
def test_what_is_not_there(ask: Ask, path: str, status: int, word: str) -> None:
    reply = ask(path).expect(status)
    assert word.encode() in reply.body
    assert "immutable" not in reply.headers.get("cache-control", "")


def test_methods(ask: Ask) -> None:
    for method in ("POST", "PUT", "DELETE"):
        ask("seg/info", method).expect(400)
