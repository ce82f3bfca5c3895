"""Settings from files of ours and of DVID, and their documentation."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from fascicle import config
from fascicle.config import GridStore, LoggingSettings, ServerSettings, SettingsError, VolumeCacheSettings

DVID_FILE = """
[server]
httpAddress = ":8000"
rpcAddress = ":8001"
allowlabelmapsplit = true
note = '''
several
lines'''

[mutations]
jsonstore = "logs"

[backend]
  [backend.default]
  store = "Main"
  log = "mutationlog"
  [backend.metadata]
  store = "main"

[store]
  [store.main]
  engine = "badger"
  path = "db"
  [store.meshes]
  engine = "filestore"
  path = "meshes"
  [store.mutationlog]
  engine = "filelog"
  path = "mutlog"
"""


def test_a_file_of_dvid() -> None:
    settings = config.parse(DVID_FILE, Path("/srv"))
    assert settings.address() == ("0.0.0.0", 8000)
    assert settings.data == Path("/srv/db")
    assert settings.server.allowLabelmapSplit
    assert settings.server.note == "several\nlines"
    assert "server.rpcaddress" in settings.unused
    assert "[mutations]" in settings.unused
    assert "[store.meshes]" in settings.unused


def test_a_file_of_ours(tmp_path: Path) -> None:
    file = tmp_path / "server.toml"
    file.write_text(
        '[server]\nhttpAddress = "127.0.0.1:9000"\nworkers = 3\npidFile = "run/pid"\n[logging]\nrequests = "all"'
    )
    settings = config.load(file, {"DVID_ADMIN_TOKEN": "t"})
    assert (settings.server.workers, settings.logging.requests, settings.admin_token) == (3, "all", "t")
    assert settings.server.pidFile == str(tmp_path / "run/pid")
    assert settings.data == tmp_path / config.DEFAULT_DATA
    assert settings.unused == []


def test_without_a_file() -> None:
    settings = config.load(None, {"FASCICLE_ADMIN_TOKEN": "ours", "DVID_ADMIN_TOKEN": "theirs"})
    assert settings.admin_token == "ours"
    assert settings.address() == ("127.0.0.1", 8000)
    assert settings.server.corsDomains == ("*",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nonsense", "not valid TOML"),
        ('[server]\nrwmode = "sometimes"', "section .server."),
        ("[server]\nworkers = 'many'", "section .server."),
        ('[server]\nhttpAddress = "nowhere"', "must be HOST:PORT"),
        ('[store.a]\nengine = "bigtable"\npath = "x"', "engine 'bigtable' is not supported"),
        ('[store.a]\nengine = "badger"', "needs a 'path'"),
        ('[store.a]\npath = "x"\n[store.b]\npath = "y"', "several stores"),
        ('[store.a]\npath = "x"\n[backend.default]\nstore = "b"', "names store 'b'"),
        ('server = "x"', "must be a section"),
        ('[store.em]\nengine = "ngprecomputed"', "needs a 'ref'"),
        ('[store.em]\nengine = "ngprecomputed"\nref = 5', "'ref' must be a text"),
        ('[store.em]\nengine = "ngprecomputed"\nref = "b"\ninstance = true', "'instance' must be a text"),
        ('[store.em]\nengine = "ngprecomputed"\nref = "b"\n[backend.default]\nstore = "em"', "can only be read"),
        ('[cache.volumes]\nsize = "much"', "section .cache.volumes."),
        ("[cache.volumes]\nsize = -1", "must not be negative"),
        ("cache = 5", "'cache' must be a section"),
    ],
)
def test_what_makes_no_sense_is_refused(text: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        config.parse(text, Path("/"))


@pytest.mark.parametrize(
    ("text", "address"),
    [("a:1", ("a", 1)), (":1", ("0.0.0.0", 1)), ("8000", ("127.0.0.1", 8000)), ("[::1]:80", ("::1", 80))],
)
def test_addresses(text: str, address: tuple[str, int]) -> None:
    assert config.parse_address(text) == address


def test_volumes_that_live_elsewhere() -> None:
    text = """
    [backend.default]
    store = "main"
    [backend.uint8blk]
    store = "EM"
    [backend."place:bucket"]
    store = "far"
    [store.main]
    path = "db"
    [store.EM]
    engine = "NGprecomputed"
    ref = "bucket/path/to/volume/"
    instance = "Grayscale"
    uuid = "5c1e"
    testing = true
    [store.far]
    engine = "ngprecomputed"
    ref = "./volume"
    [cache.volumes]
    size = 10
    path = "chunks"
    colour = "red"
    [cache.labelmap]
    size = 100
    """
    settings = config.parse(text, Path("/srv"))
    assert settings.grid_stores == {
        "em": GridStore("em", "gs://bucket/path/to/volume/", "Grayscale", "5c1e"),
        "far": GridStore("far", "/srv/volume"),
    }
    assert settings.assignments == {"uint8blk": "em", "place:bucket": "far"}
    assert settings.data == Path("/srv/db")
    assert (settings.volume_cache.size, settings.volume_cache.path) == (10, "/srv/chunks")
    assert set(settings.unused) == {"store.em.testing", "cache.volumes.colour", "[cache.labelmap]"}


@pytest.mark.parametrize("address", ["gs://b/c", "s3://b/c", "https://a/b", "file:///a/b", "vast://h/b", "zarr://s3://b"])
def test_addresses_of_volumes_stay(address: str) -> None:
    assert config.volume_address(address, Path("/srv")) == address


def test_every_setting_is_documented() -> None:
    page = (Path(__file__).parent.parent / "docs" / "server.md").read_text()
    for kind in (ServerSettings, LoggingSettings, VolumeCacheSettings):
        for member in msgspec.structs.fields(kind):
            assert f"`{member.name}`" in page, f"docs/server.md does not tell of {member.name}"
            default = member.default
            shown = msgspec.json.encode(default).decode()
            line = next(line for line in page.splitlines() if line.startswith(f"| `{member.name}`"))
            assert f"`{shown}`" in line, f"docs/server.md gives another default than {shown} for {member.name}"
