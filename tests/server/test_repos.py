"""Repos, versions and instances over HTTP."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from in_process import InProcess

Serve = Callable[..., InProcess]


def test_a_new_repo(app: InProcess) -> None:
    assert app.get("/api/repos/info").json() == {}
    root = app.repo(alias="medulla", description="seven columns")
    found = app.get("/api/repos/info").json()[root]
    assert (found["Root"], found["Alias"], found["Description"]) == (root, "medulla", "seven columns")
    node = found["DAG"]["Nodes"][root]
    assert (node["Branch"], node["Locked"], node["Parents"], node["Children"]) == ("", False, [], [])
    assert found["MutationID"] == 1_000_000_000
    assert found["Log"] == []
    assert found["Properties"] == {}
    assert app.get(f"/api/repo/{root[:8]}/info").json() == found


def test_committing_and_children(app: InProcess) -> None:
    root = app.repo()
    assert app.get(f"/api/node/{root}/commit").json() == {"Locked": False}
    reply = app.post(f"/api/node/{root}/commit", {"note": "done", "log": ["one", "two"]})
    assert reply.body == f'{{"committed": "{root}"}}'.encode()
    assert app.get(f"/api/node/{root}/status").json() == {"Locked": True}
    assert app.get(f"/api/node/{root}/note").json() == {"note": "done"}
    log = app.get(f"/api/node/{root}/log").json()["log"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ  one", log[0])
    child = app.made(f"/api/node/{root}/newversion", {"note": "next"})["child"]
    side = app.made(f"/api/node/{root}/branch", {"branch": "side"})["child"]
    assert app.get(f"/api/repo/{root}/branch-versions/master").json() == [child, root]
    assert app.get(f"/api/repo/{root}/branch-versions/side").json() == [side, root]
    assert app.get(f"/api/repo/{root}/branch-versions/none").json() == []
    nodes = app.get(f"/api/repo/{root}/info").json()["DAG"]["Nodes"]
    assert nodes[root]["Children"] == [nodes[child]["VersionID"], nodes[side]["VersionID"]]
    assert nodes[child]["Note"] == "next"
    assert nodes[root]["Updated"] >= nodes[side]["Created"]
    assert app.made(f"/api/node/{root}/tag", {"tag": "v1.0"})["child"] == "v1.0"
    assert app.get("/api/node/v1.0/status").json() == {"Locked": True}
    assert app.get(f"/api/node/{root[:9]}:master/note").json() == {"note": "next"}


@pytest.mark.parametrize("body", [b"[1]", b"nonsense", b'{"note": 3}', b"{}"])
def test_bad_notes_change_nothing(app: InProcess, body: bytes) -> None:
    root = app.repo()
    app.post(f"/api/node/{root}/note", {"note": "kept"})
    assert app.post(f"/api/node/{root}/note", body).status == 400
    assert app.get(f"/api/node/{root}/note").json() == {"note": "kept"}


def test_instances_and_their_settings(app: InProcess) -> None:
    root = app.repo()
    settings = {
        "TypeName": "keyvalue",
        "DataName": "kv",
        "versioned": False,
        "Tags": "a=1,b=2",
        "Compression": "gzip:3",
    }
    reply = app.post(f"/api/repo/{root}/instance", {**settings, "Checksum": "crc32", "unknown": 7})
    assert reply.body == f'{{"result": "Added kv [keyvalue] to node {root}"}}'.encode()
    base = app.get(f"/api/node/{root}/kv/info").json()["Base"]
    assert base["Compression"] == "gzip compression, level 3"
    assert base["Checksum"] == "CRC32 checksum"
    assert base["Tags"] == {"a": "1", "b": "2"}
    assert base["Versioned"] is False
    assert base["RepoUUID"] == root
    assert base["TypeURL"] == "github.com/janelia-flyem/dvid/datatype/keyvalue"
    log = app.get(f"/api/repo/{root}/log").json()["log"]
    assert 'New data instance "kv" of type "keyvalue" with config {map[' in log[0]
    for wrong in (
        {"typename": "keyvalue"},
        {"dataname": "x"},
        {"typename": "nothing", "dataname": "x"},
        {"typename": "labelblk", "dataname": "x"},
        {"typename": "keyvalue", "dataname": "kv"},
        {"typename": "keyvalue", "dataname": "x", "tags": "a"},
        {"typename": "keyvalue", "dataname": "x", "compression": "gzip:77"},
        {"typename": "keyvalue", "dataname": "x", "versioned": "maybe"},
        {"typename": "keyvalue", "dataname": "x", "tags": {"a": 1}},
    ):
        assert app.post(f"/api/repo/{root}/instance", wrong).status == 400
    assert list(app.get(f"/api/repo/{root}/info").json()["DataInstances"]) == ["kv"]


def test_tags_of_instances(app: InProcess) -> None:
    root = app.repo()
    app.instance(root, "kv")
    path = f"/api/node/{root}/kv/tags"
    assert app.get(path).json() == {"Tags": None}
    app.made(path, {"a": "1"})
    app.made(path, {"b": "2"})
    app.made(path)
    assert app.get(path).json() == {"Tags": {"a": "1", "b": "2"}}
    assert app.post(path, {"a": 3}).status == 400
    app.made(path + "?replace=true", {"c": "3"})
    assert app.get(path).json() == {"Tags": {"c": "3"}}
    app.made(path + "?replace=true", {})
    assert not app.get(path).json()["Tags"]


def test_blobs(app: InProcess) -> None:
    root = app.repo()
    app.instance(root, "kv")
    path = f"/api/node/{root}/kv/blobstore"
    assert app.post(path, b"hello").body == b'{"reference": "8UtYSGSD2U9wgDh5jClpfw=="}'
    assert app.get(f"{path}/8UtYSGSD2U9wgDh5jClpfw==").body == b"hello"
    assert app.ask("HEAD", f"{path}/8UtYSGSD2U9wgDh5jClpfw==").status == 200
    assert app.get("/api/server/blobstore/8UtYSGSD2U9wgDh5jClpfw==").body == b"hello"
    missing = app.get(f"{path}/0ijLaRAajK94kStwTkoUHg==")
    assert (missing.status, missing.text) == (404, 'Reference "0ijLaRAajK94kStwTkoUHg==" not found\n')
    assert app.get(f"{path}/abc").status == 400
    assert app.get(path).status == 400
    assert app.ask("PUT", path, b"x").status == 400


def test_merging(app: InProcess) -> None:
    root = app.repo()
    app.instance(root, "kv")
    left = app.child(root)
    right = app.made(f"/api/node/{root}/branch", {"branch": "side"})["child"]
    for uuid, value in ((left, b"left"), (right, b"right")):
        app.made(f"/api/node/{uuid}/kv/key/both", value)
        app.made(f"/api/node/{uuid}/kv/key/{value.decode()}", value)
        app.made(f"/api/node/{uuid}/commit", {})
    path = f"/api/repo/{root}"
    for wrong in (
        {"parents": [left, right]},
        {"mergeType": "conflict-free", "parents": [left]},
        {"mergeType": "conflict-free", "parents": [left, "zzz"]},
        {"mergeType": "conflict-free", "parents": [left, left]},
    ):
        assert app.post(f"{path}/merge", wrong).status == 400
    assert len(app.get(f"{path}/info").json()["DAG"]["Nodes"]) == 3
    merged = app.made(f"{path}/merge", {"mergeType": "conflict-free", "parents": [left[:9], right]})["child"]
    conflict = app.get(f"/api/node/{merged}/kv/key/both")
    assert conflict.status == 400
    assert "found multiple kv for key 'both'" in conflict.text
    assert app.get(f"/api/node/{merged}/kv/key/right").body == b"right"
    assert app.get(f"/api/node/{merged}/kv/keys").status == 400
    resolved = app.made(f"{path}/resolve", {"data": ["kv"], "parents": [right, left]})["child"]
    assert app.get(f"/api/node/{resolved}/kv/key/both").body == b"right"
    assert app.get(f"/api/node/{resolved}/kv/keys").json() == ["both", "left", "right"]


def test_server_information(serve: Serve) -> None:
    app = serve(token="secret", note="a note")
    info = app.get("/api/server/info").json()
    assert re.match(r"v\d+\.\d+\.\d+[.-]", info["DVID Version"])
    assert all(isinstance(value, str) for value in info.values())
    assert info["Note"] == app.get("/api/server/note").text == "a note"
    assert app.get("/api/server/types").json() == {}
    assert "keyvalue" in app.get("/api/server/compiled-types").json()
    assert app.get("/api/server/config").status == 400
    assert app.get("/api/server/config?admintoken=secret").status == 200
    assert app.get("/api/storage").status == 400
    assert app.get("/api/storage?admintoken=secret").json()["Keys"] >= 0
    for body in (b'{"throttle": "3"}', b'{"throttle": 3}'):
        assert app.post("/api/server/settings?admintoken=secret", body).status == 200
        assert app.app.throttle.maximum == 3
    assert app.post("/api/server/settings?admintoken=secret", b'{"throttle": "x"}').status == 400
    assert app.post("/api/server/reload-metadata?admintoken=secret").status == 200
    assert app.get("/api/heartbeat?u=alice").text == "OK"
    assert app.get("/api/user-latencies").json()["alice"]["User"] == "alice"
    assert app.get("/api/user-latencies?u=bob").json()["bob"]["LastLatency"] == 0
