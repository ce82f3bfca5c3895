"""Servers whose settings name volumes that live elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from remote_volumes import bucket, smooth_volume, write_precomputed
from serving import Client, RunningServer, new_repo

Launch = Callable[..., RunningServer]


def instances(client: Client, uuid: str, *names: str) -> dict[str, Any]:
    """The info of a repo's instances, once they are there."""
    deadline = time.monotonic() + 20
    while True:
        found: dict[str, Any] = client.get(f"/api/repo/{uuid}/info").expect().json()["DataInstances"]
        if set(names) <= set(found) or time.monotonic() > deadline:
            assert set(names) <= set(found)
            return found
        time.sleep(0.05)


def write_settings(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def test_grayscale_in_a_bucket_and_the_rest_here(launch: Launch, tmp_path: Path) -> None:
    """One file of settings in DVID's form, a server that knows no repo yet, then one: no restart is needed."""
    scales = [smooth_volume((64, 80, 100)), smooth_volume((32, 40, 50))]
    write_precomputed(tmp_path / "bucket", scales, "jpeg")
    with bucket(tmp_path / "bucket") as served:
        settings = write_settings(
            tmp_path / "server.toml",
            f"""
            [server]
            httpAddress = ":8000"
            [backend]
              [backend.default]
              store = "main"
              log = "mutationlog"
            [store]
              [store.main]
              engine = "badger"
              path = "db"
              [store.mutationlog]
              engine = "filelog"
              path = "log"
              [store.grayscale]
              engine = "ngprecomputed"
              ref = "{served.url}"
              instance = "grayscale"
            [cache.volumes]
            size = 100
            path = "chunks"
            """,
        )
        server = launch(settings, "--workers", "2")
        with server.client() as client:
            uuid = new_repo(client)
            found = instances(client, uuid, "grayscale", "grayscale_1")
            for level, name in enumerate(("grayscale", "grayscale_1")):
                described = found[name]
                assert described["Base"]["TypeName"] == "uint8blk"
                assert described["Base"]["Compression"] == "jpeg compression, level 64"
                assert described["Extended"]["VoxelSize"] == [8 * 2**level] * 3
                assert described["Extended"]["MaxPoint"] == [n // 2**level - 1 for n in (100, 80, 64)]
                assert described["Extended"]["GridStore"] == "grayscale"
                assert described["Extended"]["ScaleLevel"] == level
            path = f"/api/node/{uuid}/grayscale"
            (tmp_path / "bucket" / "8_8_8").rename(tmp_path / "bucket" / "hidden")
            client.get(f"{path}/subvolblocks/64_64_64/64_64_0").expect()
            (tmp_path / "bucket" / "hidden").rename(tmp_path / "bucket" / "8_8_8")
            got = client.get(f"{path}/subvolblocks/64_64_64/0_0_0").expect().body
            assert got[16:] == (tmp_path / "bucket" / "8_8_8" / "0-64_0-64_0-64").read_bytes()
            assert len(client.get(f"{path}/raw/0_1_2/100_80_64/0_0_0").expect().body) == 100 * 80 * 64
            client.post(f"/api/node/{uuid}/grayscale/raw/0_1_2/64_64_64/0_0_0", bytes(64**3)).expect(400)
            client.post(f"/api/repo/{uuid}/instance", {"typename": "labelmap", "dataname": "segmentation"}).expect()


def test_descriptions_follow_the_volume(launch: Launch, tmp_path: Path) -> None:
    address = write_precomputed(tmp_path / "em", [smooth_volume((64, 64, 64))])
    text = f'[store.em]\nengine = "ngprecomputed"\nref = "{address}"\ninstance = "em"\n'
    server = launch(write_settings(tmp_path / "server.toml", text))
    with server.client() as client:
        uuid = new_repo(client)
        instances(client, uuid, "em")
        client.post(f"/api/node/{uuid}/em/resolution", [5, 5, 5]).expect()
    write_precomputed(tmp_path / "em", [smooth_volume((64, 64, 128)), smooth_volume((32, 32, 64))])
    server.restart()
    with server.client() as client:
        found = instances(client, uuid, "em", "em_1")
        assert found["em"]["Extended"]["MaxPoint"] == [127, 63, 63]
        assert found["em"]["Extended"]["VoxelSize"] == [5, 5, 5], "what a person has set stays"


@pytest.mark.slow
def test_a_dead_bucket_stops_nothing_else(launch: Launch, tmp_path: Path) -> None:
    """The server starts, says what is wrong, and serves the instance as soon as the bucket is there."""
    folder = tmp_path / "late"
    text = f'[store.em]\nengine = "ngprecomputed"\nref = "file://{folder}"\ninstance = "em"\n'
    server = launch(write_settings(tmp_path / "server.toml", text))
    with server.client() as client:
        uuid = new_repo(client)
        client.post(f"/api/repo/{uuid}/instance", {"typename": "keyvalue", "dataname": "notes"}).expect()
        told = client.post(
            f"/api/repo/{uuid}/instance", {"typename": "uint8blk", "dataname": "gray", "GridStore": "em"}
        ).expect(400)
        assert str(folder).encode() in told.body
        write_precomputed(folder, [smooth_volume((64, 64, 64))])
        instances(client, uuid, "em")
    assert "[store.em]" in server.log_text()


def test_which_repo(launch: Launch, tmp_path: Path) -> None:
    address = write_precomputed(tmp_path / "em", [smooth_volume((8, 8, 8))])
    section = f'[store.{{}}]\nengine = "ngprecomputed"\nref = "{address}"\ninstance = "{{}}"\n'
    text = section.format("a", "anywhere") + section.format("b", "chosen") + 'uuid = "5c1e5c1e"\n'
    server = launch(write_settings(tmp_path / "server.toml", text))
    with server.client() as client:
        first = new_repo(client)
        instances(client, first, "anywhere")
        root = "5c1e" * 8
        client.post("/api/repos?admintoken=test-token", {"alias": "second", "root": root}).expect()
        assert "anywhere" not in instances(client, root, "chosen")
        assert "chosen" not in instances(client, first, "anywhere")


def test_assigned_by_type_tag_and_name(launch: Launch, tmp_path: Path) -> None:
    address = write_precomputed(tmp_path / "em", [smooth_volume((64, 64, 64))])
    root = "ab12" * 8
    text = f"""
    [backend]
      [backend.default]
      store = "main"
      [backend."place=bucket"]
      store = "em"
      [backend."gray:{root}"]
      store = "em"
      [backend.uint16blk]
      store = "em"
    [store]
      [store.main]
      path = "db"
      [store.em]
      engine = "ngprecomputed"
      ref = "{address}"
    """
    server = launch(write_settings(tmp_path / "server.toml", text))
    with server.client() as client:
        client.post("/api/repos?admintoken=test-token", {"alias": "second", "root": root}).expect()

        def shown(name: str, typename: str = "uint8blk", **settings: str) -> str:
            body = {"typename": typename, "dataname": name, **settings}
            client.post(f"/api/repo/{root}/instance", body).expect()
            found: str = client.get(f"/api/node/{root}/{name}/info").expect().json()["Extended"]["GridStore"]
            return found

        assert shown("gray") == "em"
        assert shown("other") == ""
        assert shown("tagged", Tags="place=bucket") == "em"
        assert shown("wide", "uint16blk") == "em"


def test_an_address_needs_an_administrator(launch: Launch, tmp_path: Path) -> None:
    address = write_precomputed(tmp_path / "em", [smooth_volume((64, 64, 64))])
    server = launch()
    with server.client() as client:
        uuid = new_repo(client)
        asked = {"typename": "uint8blk", "dataname": "em", "Source": address}
        assert b"admin" in client.post(f"/api/repo/{uuid}/instance", asked).expect(400).body
        client.post(f"/api/repo/{uuid}/instance?admintoken=test-token", asked).expect()
        expected = smooth_volume((64, 64, 64)).tobytes()
        assert client.get(f"/api/node/{uuid}/em/raw/0_1_2/64_64_64/0_0_0").expect().body == expected
