"""Paths, methods, headers and error texts."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from in_process import InProcess

Serve = Callable[..., InProcess]


def test_error_texts_name_the_path(app: InProcess) -> None:
    reply = app.get("/api/repo/zzz/info?u=me")
    assert reply.status == 400
    assert reply.text == "could not find UUID with partial match to zzz (/api/repo/zzz/info).\n"
    assert reply.headers["content-type"] == "text/plain; charset=utf-8"
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert reply.headers["access-control-allow-origin"] == "*"


def test_unknown_instances_and_keywords(app: InProcess) -> None:
    root = app.repo()
    app.instance(root, "kv")
    assert "invalid data instance name" in app.get(f"/api/node/{root}/other/keys").text
    reply = app.get(f"/api/node/{root}/kv/nothing")
    assert reply.status == 400
    assert reply.text.startswith(f'Bad API call (/api/node/{root}/kv/nothing) for data "kv".  See API help at http://')
    assert reply.text.endswith("/api/help/keyvalue\n")


@pytest.mark.parametrize("path", ["/api/nonsense", "/api/server/nonsense", "/api", "/api/repos", "/does/not/exist"])
def test_unrouted_paths_are_404(app: InProcess, path: str) -> None:
    assert app.get(path).status == 404


def test_unrouted_behind_a_version(app: InProcess) -> None:
    root = app.repo()
    assert app.get(f"/api/node/{root}/whatever").status == 404
    assert app.get("/api/node/zzz/whatever").status == 400
    assert app.get(f"/api/repo/{root}").status == 404
    assert app.ask("HEAD", f"/api/repo/{root}").status == 200


def test_trailing_and_doubled_slashes(app: InProcess) -> None:
    root = app.repo()
    app.instance(root, "kv")
    app.post(f"/api/node/{root}/kv/key/a", b"1")
    for path in (f"/api/node/{root}/kv/key/a/", f"/api//node/{root}/kv//key/a"):
        assert app.get(path).body == b"1"
    for path in ("/api/server/info/", "/api/repos/info/", f"/api/repo/{root}/info/", f"/api/node/{root}/status/"):
        assert app.get(path).status == 200


def test_head_on_every_get(app: InProcess) -> None:
    root = app.repo()
    app.instance(root, "kv")
    for path in (
        "/api/help",
        "/api/load",
        "/api/server/info",
        "/api/repos/info",
        f"/api/repo/{root}/info",
        f"/api/repo/{root}/log",
        f"/api/repo/{root}/branch-versions/master",
        f"/api/node/{root}/note",
        f"/api/node/{root}/commit",
        f"/api/node/{root}/kv/info",
        f"/api/node/{root}/kv/help",
        f"/api/node/{root}/kv/tags",
        f"/api/node/{root}/kv/keys",
    ):
        full, bare = app.get(path), app.ask("HEAD", path)
        assert (full.status, bare.status, bare.body) == (200, 200, b"")
        if path not in ("/api/load", "/api/server/info"):
            assert bare.headers == full.headers


def test_no_content_says_nothing_of_a_body(app: InProcess) -> None:
    root = app.repo()
    app.instance(root, "bodies", "labelmap")
    reply = app.ask("HEAD", f"/api/node/{root}/bodies/sparsevol/7")
    assert (reply.status, reply.body) == (204, b"")
    assert not {"content-length", "content-type", "transfer-encoding"} & set(reply.headers)
    assert reply.headers["access-control-allow-origin"] == "*"


def test_preflight_and_allowed_methods(app: InProcess) -> None:
    asked = {"Origin": "https://viewer.org", "Access-Control-Request-Method": "POST"}
    reply = app.ask("OPTIONS", "/api/repos/info", headers=asked)
    assert reply.status == 200
    assert reply.headers["access-control-allow-origin"] == "*"
    assert "Content-Type" in reply.headers["access-control-allow-headers"]
    assert "POST" in reply.headers["access-control-allow-methods"]
    assert "GET" in app.ask("OPTIONS", "/api/repos/info").headers["allow"]


@pytest.mark.parametrize(
    ("domains", "origin", "allowed"),
    [
        (("a.org",), "https://a.org", True),
        (("a.org",), "https://x.a.org:8080", True),
        (("a.org",), "https://ba.org", False),
        (("https://a.org",), "https://a.org", True),
        (("https://a.org",), "http://a.org", False),
        (("https://*.a.org",), "https://b.a.org", True),
        (("https://*.a.org",), "https://b.c.org", False),
        ((), "https://a.org", False),
    ],
)
def test_origins(serve: Serve, domains: tuple[str, ...], origin: str, allowed: bool) -> None:
    app = serve(corsDomains=domains)
    reply = app.ask("GET", "/api/repos/info", headers={"Origin": origin})
    assert reply.headers.get("access-control-allow-origin") == (origin if allowed else None)


def test_timing_header(serve: Serve) -> None:
    assert serve(allowTiming=True).get("/api/load").headers["timing-allow-origin"] == "*"


def test_help_pages_name_every_route(app: InProcess) -> None:
    root = app.repo()
    app.instance(root, "kv")
    own, typed = app.get(f"/api/node/{root}/kv/help").text, app.get("/api/help/keyvalue").text
    for keyword in ("key", "keys", "keyrange", "keyrangevalues", "keyvalues", "tags", "blobstore", "info"):
        assert f"/{keyword}" in own
        assert f"/{keyword}" in typed
    page = app.get("/api/help").text
    for path in ("/api/server/info", "/api/repo/&lt;UUID&gt;/instance", "/api/node/&lt;UUID&gt;/newversion"):
        assert path in page
    assert app.get("/api/help/nothing").status == 400


def test_very_long_urls(app: InProcess) -> None:
    root = app.repo()
    app.instance(root, "kv")
    name = "k" * 200_000
    assert app.post(f"/api/node/{root}/kv/key/{name}", b"v").status == 200
    assert app.get(f"/api/node/{root}/kv/key/{name}").body == b"v"
    assert app.get(f"/api/node/{root}/kv/keys").json() == [name]


def test_metrics(app: InProcess) -> None:
    root = app.repo()
    app.get(f"/api/node/{root}/note")
    text = app.get("/metrics").text
    assert 'fascicle_requests_total{kind="node",keyword="note",method="GET",status="200"} 1' in text
    assert "fascicle_request_duration_seconds_count" in text
    assert "fascicle_store_keys" in text
