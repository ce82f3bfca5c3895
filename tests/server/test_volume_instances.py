"""Servers whose settings name volumes that live elsewhere."""

from __future__ import annotations

import http.client
import subprocess
import time
import tomllib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from remote_volumes import bucket, label_volume, smooth_volume, write_precomputed
from serving import RunningServer, command, new_repo
from volume_settings_file import instances_of, settings_file

Launch = Callable[..., RunningServer]


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
            found = instances_of(client, uuid, "grayscale", "grayscale_1")
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
    server = launch(settings_file(tmp_path / "server.toml", {"em": address}))
    with server.client() as client:
        uuid = new_repo(client)
        instances_of(client, uuid, "em")
        client.post(f"/api/node/{uuid}/em/resolution", [5, 5, 5]).expect()
    write_precomputed(tmp_path / "em", [smooth_volume((64, 64, 128)), smooth_volume((32, 32, 64))])
    server.restart()
    with server.client() as client:
        found = instances_of(client, uuid, "em", "em_1")
        assert found["em"]["Extended"]["MaxPoint"] == [127, 63, 63]
        assert found["em"]["Extended"]["VoxelSize"] == [5, 5, 5], "what a person has set stays"


@pytest.mark.slow
def test_a_dead_bucket_stops_nothing_else(launch: Launch, tmp_path: Path) -> None:
    """The server starts, says what is wrong, and serves the instance as soon as the bucket is there."""
    folder = tmp_path / "late"
    server = launch(settings_file(tmp_path / "server.toml", {"em": f"file://{folder}"}))
    with server.client() as client:
        uuid = new_repo(client)
        client.post(f"/api/repo/{uuid}/instance", {"typename": "keyvalue", "dataname": "notes"}).expect()
        told = client.post(
            f"/api/repo/{uuid}/instance", {"typename": "uint8blk", "dataname": "gray", "GridStore": "em"}
        ).expect(400)
        assert str(folder).encode() in told.body
        write_precomputed(folder, [smooth_volume((64, 64, 64))])
        instances_of(client, uuid, "em")
    assert "[store.em]" in server.log_text()


def test_which_repo(launch: Launch, tmp_path: Path) -> None:
    address = write_precomputed(tmp_path / "em", [smooth_volume((8, 8, 8))])
    section = f'[store.{{}}]\nengine = "ngprecomputed"\nref = "{address}"\ninstance = "{{}}"\n'
    text = section.format("a", "anywhere") + section.format("b", "chosen") + 'uuid = "5c1e5c1e"\n'
    server = launch(write_settings(tmp_path / "server.toml", text))
    with server.client() as client:
        first = new_repo(client)
        instances_of(client, first, "anywhere")
        root = "5c1e" * 8
        client.post("/api/repos?admintoken=test-token", {"alias": "second", "root": root}).expect()
        assert "anywhere" not in instances_of(client, root, "chosen")
        assert "chosen" not in instances_of(client, first, "anywhere")


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


def test_a_segmentation_in_a_bucket(launch: Launch, tmp_path: Path) -> None:
    """One labelmap has all scales; a command makes its index, then bodies can be edited. Workers share chunks."""
    volume = label_volume((64, 128, 128), "uint32")
    write_precomputed(tmp_path / "bucket", [volume, volume[::2, ::2, ::2]], "raw", kind="segmentation")
    with bucket(tmp_path / "bucket") as served:
        server = launch(settings_file(tmp_path / "server.toml", {"segmentation": served.url}), "--workers", "2")
        with server.client() as client:
            uuid = new_repo(client)
            found = instances_of(client, uuid, "segmentation")["segmentation"]
            assert found["Base"]["TypeName"] == "labelmap"
            assert found["Extended"]["MaxDownresLevel"] == 1
            path = f"/api/node/{uuid}/segmentation"
            client.get(f"{path}/size/5").expect(400)
            words = [*command(), "index", "segmentation", "--server", server.url, "--uuid", uuid, "--quiet"]
            done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
            assert done.returncode == 0, done.stderr
            assert done.stdout == "segmentation: the index has 4 blocks\n"
            assert client.get(f"{path}/size/5").expect().json() == {"voxels": int((volume == 5).sum())}
            client.post(f"{path}/merge", [5, 6]).expect()
            assert client.get(f"{path}/size/5").expect().json() == {"voxels": int(np.isin(volume, (5, 6)).sum())}
            for _ in range(4):  # over new connections, so that both workers answer
                with server.client() as other:
                    whole = other.get(f"{path}/raw/0_1_2/128_128_64/0_0_0?supervoxels=true").expect().body
                    assert whole == volume.astype("<u8").tobytes()
                    labels = other.get(f"{path}/label/0_0_0").expect().json()
                    assert labels == {"Label": 5 if volume[0, 0, 0] in (5, 6) else int(volume[0, 0, 0])}
            metrics = client.get("/metrics").expect().body.decode()
            assert "fascicle_volumes_open 1" in metrics
            backend = client.get("/api/server/info").expect().json()["Storage backend"]
            assert backend.endswith(f"; ngprecomputed @ {served.url}")
        chunks = [name for name in served.requests if name == "/8_8_8/0-64_0-64_0-64"]
        assert len(chunks) == 1, "what one worker has fetched, others take from the disk"
    with server.client() as client:
        assert client.get(f"{path}/raw/0_1_2/64_64_64/0_0_0").expect().body


def test_a_bucket_that_dies_while_it_is_read(launch: Launch, tmp_path: Path) -> None:
    """Requests for what is not cached fail with the reason; all others go on; nothing hangs."""
    write_precomputed(tmp_path / "bucket", [smooth_volume((64, 64, 640))])
    with bucket(tmp_path / "bucket") as served:
        server = launch(settings_file(tmp_path / "server.toml", {"em": served.url}))
        with server.client() as client:
            uuid = new_repo(client)
            instances_of(client, uuid, "em")
            path = f"/api/node/{uuid}/em"
            client.get(f"{path}/blocks/0_0_0/1").expect()
            served.broken = True
            began = time.monotonic()
            told = client.get(f"{path}/blocks/1_0_0/1").expect(400).body.decode()
            assert time.monotonic() - began < 20
            assert served.url in told
            client.get(f"{path}/blocks/0_0_0/1").expect()
            client.get(f"{path}/info").expect()
            served.broken = False
            client.get(f"{path}/blocks/1_0_0/1").expect()


def test_a_stream_that_cannot_go_on_is_broken_off(launch: Launch, tmp_path: Path) -> None:
    """Nobody takes half of an answer for the whole, or the text of an error for voxels."""
    write_precomputed(tmp_path / "em", [smooth_volume((64, 64, 6400))])
    (tmp_path / "em" / "8_8_8" / "6336-6400_0-64_0-64").write_bytes(b"damaged")
    server = launch(settings_file(tmp_path / "server.toml", {"em": f"file://{tmp_path}/em"}))
    with server.client() as client:
        uuid = new_repo(client)
        instances_of(client, uuid, "em")
        with pytest.raises((http.client.IncompleteRead, ConnectionError)):
            client.get(f"/api/node/{uuid}/em/subvolblocks/6400_64_64/0_0_0")
        client.get(f"/api/node/{uuid}/em/blocks/0_0_0/100").expect(400)
        client.get(f"/api/node/{uuid}/em/blocks/0_0_0/99").expect()


def test_the_settings_of_the_documentation(launch: Launch, tmp_path: Path) -> None:
    """The hemibrain's arrangement as `docs/server.md` gives it, with a stand-in for the bucket."""
    page = (Path(__file__).resolve().parents[2] / "docs" / "server.md").read_text()
    blocks = [text.partition("```")[0] for text in page.split("```toml\n")[1:]]
    (block,) = (text for text in blocks if "ngprecomputed" in text)
    settings = tomllib.loads(block)
    scales = [smooth_volume((64, 64, 128)), smooth_volume((32, 32, 64))]
    write_precomputed(tmp_path / "bucket", scales, "jpeg")
    with bucket(tmp_path / "bucket") as served:
        text = block.replace(settings["store"]["grayscale"]["ref"], served.url)
        text = text.replace(settings["cache"]["volumes"]["path"], str(tmp_path / "chunks"))
        (tmp_path / "server.toml").write_text(text)
        server = launch(str(tmp_path / "server.toml"), "--workers", "1")
        with server.client() as client:
            uuid = new_repo(client)
            found = instances_of(client, uuid, "grayscale", "grayscale_1")
            assert found["grayscale"]["Base"]["Compression"] == "jpeg compression, level 64"
            client.get(f"/api/node/{uuid}/grayscale/subvolblocks/64_64_64/64_0_0").expect()
            assert any(path.is_file() for path in (tmp_path / "chunks").rglob("*"))
