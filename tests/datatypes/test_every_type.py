"""What instances of all datatypes share: info, help, tags, blobs, and who may follow whom."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from fascicle.datatypes import registry
from fascicle.mutations.blobs import fnv1_128
from serving import TOKEN, Client, new_instance, new_repo

TYPES = registry.typenames()
SETTINGS = {"tarsupervoxels": {"Extension": "drc"}}
FOLLOWS = {"annotation": {"labelmap"}, "labelsz": set(TYPES), "tarsupervoxels": set(TYPES)}
"""For each type that may follow others, which; of what labelsz and tarsupervoxels cannot use they take no notice."""


def make(client: Client, uuid: str, typename: str, name: str = "data") -> str:
    return new_instance(client, uuid, typename, name, **SETTINGS.get(typename, {}))


@pytest.fixture
def uuid(client: Client) -> str:
    return new_repo(client)


def base_of(client: Client, path: str) -> dict[str, Any]:
    found: dict[str, Any] = client.get(f"{path}/info").expect().json()["Base"]
    return found


def test_the_server_says_what_types_it_has_and_uses(client: Client, uuid: str) -> None:
    for typename in TYPES:
        make(client, uuid, typename, typename)
    assert set(TYPES) <= set(client.get("/api/server/types").expect().json())
    listed = client.get("/api/server/compiled-types").expect().json()
    assert listed == {typename: registry.datatype(typename).type_url for typename in TYPES}
    assert {"annotation", "imagetile", "labelsz", "neuronjson", "roi", "tarsupervoxels"} <= set(TYPES)


@pytest.mark.parametrize("typename", TYPES)
def test_info_and_help(client: Client, uuid: str, typename: str) -> None:
    path = make(client, uuid, typename)
    reply = client.get(f"{path}/info").expect()
    assert reply.headers["content-type"] == "application/json"
    info = reply.json()
    base, datatype = info["Base"], registry.datatype(typename)
    assert (base["TypeName"], base["TypeURL"]) == (typename, datatype.type_url)
    assert (base["TypeVersion"], base["Name"], base["RepoUUID"]) == (datatype.type_version, "data", uuid)
    assert (base["Versioned"], base["Syncs"], base["Tags"]) == (True, [], None)
    assert isinstance(info["Extended"], dict)
    assert client.get(f"/api/repo/{uuid}/info").expect().json()["DataInstances"]["data"] == info
    head = client.head(f"{path}/info").expect()
    assert (head.body, head.headers["content-length"]) == (b"", str(len(reply.body)))
    page = client.get(f"{path}/help").expect()
    assert page.headers["content-type"].startswith("text/plain")
    for route in datatype.routes:
        assert route.keyword in page.body.decode()
    assert client.get(f"/api/help/{typename}").expect().body
    odd = client.get(f"{path}/nothing-of-this-name").expect(400).body.decode()
    assert "Bad API call" in odd
    assert odd.rstrip().endswith(f"/api/help/{typename}")


@pytest.mark.parametrize("typename", TYPES)
def test_tags(client: Client, uuid: str, typename: str) -> None:
    path = make(client, uuid, typename)
    assert client.get(f"{path}/tags").expect().json() == {"Tags": None}
    client.post(f"{path}/tags", {"a": "1", "b": "2"}).expect()
    client.post(f"{path}/tags", {"b": "3"}).expect()
    assert client.get(f"{path}/tags").expect().json() == {"Tags": {"a": "1", "b": "3"}}
    for bad in (b"[]", b'{"a":1}', b"{", b'"a"'):
        client.post(f"{path}/tags", bad).expect(400)
    assert base_of(client, path)["Tags"] == {"a": "1", "b": "3"}
    client.post(f"{path}/tags?replace=true", {"c": "4"}).expect()
    assert base_of(client, path)["Tags"] == {"c": "4"}
    client.post(f"/api/node/{uuid}/commit", {}).expect()
    client.post(f"{path}/tags", {"d": "5"}).expect(400)
    client.post(f"{path}/tags?admintoken={TOKEN}", {"d": "5"}).expect()
    assert client.get(f"{path}/tags").expect().json() == {"Tags": {"c": "4", "d": "5"}}


@pytest.mark.parametrize("typename", TYPES)
def test_tags_and_versions_in_the_request_that_makes_it(client: Client, uuid: str, typename: str) -> None:
    settings = {"Tags": "type=test,who=me", "Versioned": "false", **SETTINGS.get(typename, {})}
    base = base_of(client, new_instance(client, uuid, typename, "data", **settings))
    assert (base["Tags"], base["Versioned"]) == ({"type": "test", "who": "me"}, False)
    again = client.post(f"/api/repo/{uuid}/instance", {"typename": typename, "dataname": "data", **settings})
    assert b'Data named "data" already exists' in again.expect(400).body


@pytest.mark.parametrize("typename", TYPES)
def test_blobs(client: Client, uuid: str, typename: str) -> None:
    path = make(client, uuid, typename)
    data = f"blob of {typename}".encode() * 100
    client.post(f"/api/node/{uuid}/commit", {}).expect()  # locks do not concern blobs
    reference = client.post(f"{path}/blobstore", data).expect().json()["reference"]
    assert reference == base64.urlsafe_b64encode(fnv1_128(data)).decode()
    assert client.get(f"{path}/blobstore/{reference}").expect().body == data
    assert client.post(f"{path}/blobstore", data).expect().json()["reference"] == reference
    client.get(f"{path}/blobstore/{base64.urlsafe_b64encode(bytes(16)).decode()}").expect(404)
    for bad in ("", "/", "/zz", "/" + "A" * 24):
        client.get(f"{path}/blobstore{bad}").expect(400)
    client.delete(f"{path}/blobstore/{reference}").expect(400)


@pytest.mark.parametrize("typename", TYPES)
def test_who_may_follow_whom(client: Client, uuid: str, typename: str) -> None:
    """Follow each type alone, then in addition, then instead, then nothing; or refuse and change nothing."""
    follower = make(client, uuid, typename, "follower")
    for kind in TYPES:
        make(client, uuid, kind, f"one-{kind}")
    other = make(client, uuid, "labelmap", "another").rsplit("/", 1)[1]
    allowed = FOLLOWS.get(typename, set())

    def follow(names: str, status: int, option: str = "") -> None:
        before = set(base_of(client, follower)["Syncs"])
        reply = client.post(f"{follower}/sync{option}", {"sync": names}).expect(status)
        if status == 400:
            assert set(base_of(client, follower)["Syncs"]) == before, reply.body

    for kind in TYPES:
        name, expected = f"one-{kind}", 200 if kind in allowed else 400
        follow(name, expected)
        assert base_of(client, follower)["Syncs"] == ([name] if expected == 200 else [])
        follow(name, expected)  # again changes nothing
        follow(f" {other} , {name}", expected)
        if expected == 200:
            assert set(base_of(client, follower)["Syncs"]) == {name, other}
        follow(f"{name},unheard", 400)
        follow(name, expected, "?replace=true")
        assert base_of(client, follower)["Syncs"] == ([name] if expected == 200 else [])
        if allowed:
            follow("", 200)
            assert base_of(client, follower)["Syncs"] == ([name] if expected == 200 else [])
            follow("", 200, "?replace=true")
        assert base_of(client, follower)["Syncs"] == []
    for bad in (b"", b"{}", b'{"sync":5}', b'{"sync":null}', b"[]", b"{"):
        client.post(f"{follower}/sync", bad).expect(400)
    assert base_of(client, follower)["Syncs"] == []


@pytest.mark.parametrize("typename", sorted(FOLLOWS))
def test_what_is_followed_may_be_deleted(client: Client, uuid: str, typename: str) -> None:
    """A follower of something deleted goes on, and can follow something of the same name."""
    follower = make(client, uuid, typename, "follower")
    make(client, uuid, "labelmap", "seg")
    client.post(f"{follower}/sync", {"sync": "seg"}).expect()
    client.delete(f"/api/repo/{uuid}/seg?imsure=true&admintoken={TOKEN}").expect()
    assert base_of(client, follower)["Syncs"] == ["undefined"]
    make(client, uuid, "labelmap", "seg")
    assert base_of(client, follower)["Syncs"] == ["undefined"]
    client.post(f"{follower}/sync?replace=true", {"sync": "seg"}).expect()
    assert base_of(client, follower)["Syncs"] == ["seg"]
