"""Settings of a server: from a TOML file, ours or one written for DVID, and from command-line options.

    [server]                    where to listen, who may write, limits        `ServerSettings`
    [store.main] path = "db"    where the data lie; any embedded engine of DVID means our own store at that path
    [store.em] ref = "gs://..." a volume that lives elsewhere (engine = "ngprecomputed")        `GridStore`
    [backend.x] store = "em"    which new instances show such a volume
    [cache.volumes]             what of such volumes is kept on disk      `VolumeCacheSettings`
    [logging]                   the log file and what of each request is logged `LoggingSettings`

Names are read without regard to case. Sections and names that this server does not use are collected in
`Settings.unused`, to be reported once; they do no harm. Relative paths are resolved against the file.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgspec

from fascicle.errors import FascicleError

ADMIN_TOKEN_VARIABLES = ("FASCICLE_ADMIN_TOKEN", "DVID_ADMIN_TOKEN")
EMBEDDED_ENGINES = frozenset({"lmdb", "fascicle", "badger", "basholeveldb", "leveldb", "filestore"})
LOG_ENGINES = frozenset({"filelog"})
VOLUME_ENGINES = frozenset({"ngprecomputed"})
DEFAULT_PORT = 8000
DEFAULT_DATA = "fascicle-data"


class SettingsError(FascicleError):
    """A settings file or an option makes no sense."""


class ServerSettings(msgspec.Struct, kw_only=True, rename=str.lower):
    """Section `[server]`."""

    httpAddress: str = f"127.0.0.1:{DEFAULT_PORT}"
    """`HOST:PORT` to listen on; without a host, on all addresses. The default is this computer only."""
    host: str = ""
    """Name of this server in links and in `/api/server/info`; by default the address."""
    note: str = ""
    """Text of `/api/server/note`."""
    rwmode: Literal["", "readonly", "fullwrite"] = ""
    """`readonly` refuses changes; `fullwrite` allows them on committed versions, too."""
    corsDomains: tuple[str, ...] = ("*",)
    """Origins or domains whose web pages may read answers; `*` allows all, an empty list none."""
    allowTiming: bool = False
    """Add `Timing-Allow-Origin: *` to answers."""
    allowLabelmapSplit: bool = False
    """Allow the endpoint `split` of label maps."""
    blockListFile: str = ""
    """File with lines `u=<user>,<note>` or `ip=1.2.3.*,<note>` of who is refused."""
    pidFile: str = ""
    """File that holds the process id while the server runs."""
    instance_id_start: int = 1
    """Least number of a new instance's keys."""
    min_mutation_id_start: int = 0
    """Least mutation id given out, if above 1,000,000,000."""
    shutdownDelay: float = 0
    """Seconds in which requests are answered by 503 before the server ends."""
    maxThrottledOps: int = 1
    """How many requests that ask to be throttled may run at a time."""
    workers: int = 1
    """Processes that answer requests."""
    threads: int = 0
    """Threads for heavy requests in each process; 0 means one per core, at least 2."""
    maxBodyBytes: int = 1 << 30
    """Largest request body that is read into memory; bodies that are worked on as they arrive have no limit."""
    bodyTimeoutSeconds: float = 600
    """Longest pause while a request's body arrives."""


class LoggingSettings(msgspec.Struct, kw_only=True, rename=str.lower):
    """Section `[logging]`."""

    logfile: str = ""
    """File that log lines are appended to; without one they go to the standard error output."""
    requests: Literal["none", "errors", "changes", "all"] = "errors"
    """Which requests get a line: none, those that fail, also those that change something, or all."""


class VolumeCacheSettings(msgspec.Struct, kw_only=True, rename=str.lower):
    """Section `[cache.volumes]`: chunks of volumes that live elsewhere, kept on disk for all worker processes."""

    size: int = 4096
    """Megabytes; 0 keeps nothing on disk."""
    path: str = ""
    """Folder; by default `chunks` in the folder of the data."""


@dataclass(frozen=True, slots=True)
class GridStore:
    """A section `[store.x]` of engine `ngprecomputed`: a volume, and the instances that are made of its scales."""

    alias: str
    """In lower case."""
    address: str
    """As `volumes.open_pyramid` takes it."""
    instance: str = ""
    """Base name of the instances; none are made without one."""
    uuid: str = ""
    """The version (or the beginning of its UUID) that gets them."""


@dataclass(slots=True)
class Settings:
    """All settings of a server."""

    server: ServerSettings = field(default_factory=ServerSettings)
    logging: LoggingSettings = field(default_factory=LoggingSettings)
    volume_cache: VolumeCacheSettings = field(default_factory=VolumeCacheSettings)
    grid_stores: dict[str, GridStore] = field(default_factory=dict)
    """Volumes that live elsewhere, by alias in lower case."""
    assignments: dict[str, str] = field(default_factory=dict)
    """What `[backend.x]` says of such volumes: a spec (a typename, a tag, an instance and its root) -> an alias."""
    data: Path = field(default_factory=lambda: Path(DEFAULT_DATA))
    file: Path | None = None
    """The TOML file, if there is one."""
    text: str = ""
    """Its text."""
    unused: list[str] = field(default_factory=list)
    """Names in the file that mean nothing to this server."""
    admin_token: str = ""

    @property
    def readonly(self) -> bool:
        return self.server.rwmode == "readonly"

    @property
    def full_write(self) -> bool:
        return self.server.rwmode == "fullwrite"

    def address(self) -> tuple[str, int]:
        """Host and port to listen on. Raises SettingsError."""
        return parse_address(self.server.httpAddress)


def parse_address(text: str) -> tuple[str, int]:
    """`HOST:PORT`, `:PORT` (all addresses), `PORT` or `[IPV6]:PORT`. Raises SettingsError."""
    host, colon, port = text.rpartition(":")
    if not colon:
        host = "127.0.0.1"
    if not port.isdecimal() or int(port) > 65535:
        raise SettingsError(f"address {text!r} must be HOST:PORT")
    return host.strip("[]") or "0.0.0.0", int(port)


def load(path: Path | None = None, environment: Mapping[str, str] = os.environ) -> Settings:
    """Settings from a TOML file, or the defaults. Raises SettingsError."""
    token = next((environment[name] for name in ADMIN_TOKEN_VARIABLES if environment.get(name)), "")
    if path is None:
        return Settings(admin_token=token)
    try:
        text = path.read_text()
    except OSError as error:
        raise SettingsError(f"settings file {path} cannot be read: {error.strerror}") from None
    settings = parse(text, path.resolve().parent)
    settings.file, settings.admin_token = path.resolve(), token
    return settings


def parse(text: str, folder: Path) -> Settings:
    """Settings from the text of a TOML file that lies in a folder. Raises SettingsError."""
    try:
        sections = _lowered(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"settings are not valid TOML: {error}") from None
    unused: list[str] = []
    settings = Settings(text=text, unused=unused)
    settings.server = _section(sections, "server", ServerSettings, unused)
    settings.logging = _section(sections, "logging", LoggingSettings, unused)
    stores, backend = sections.pop("store", {}), sections.pop("backend", {})
    if not isinstance(stores, dict) or not isinstance(backend, dict):
        raise SettingsError("'store' and 'backend' must be sections")
    settings.grid_stores = _grid_stores(stores, folder, unused)
    settings.assignments = _assignments(backend, settings.grid_stores)
    settings.data = _data_path(stores, backend, folder, unused)
    caches = sections.pop("cache", {})
    if not isinstance(caches, dict):
        raise SettingsError("'cache' must be a section")
    settings.volume_cache = _section(caches, "volumes", VolumeCacheSettings, unused, "cache.volumes")
    if settings.volume_cache.size < 0:
        raise SettingsError(f"[cache.volumes]: the size must not be negative: {settings.volume_cache.size}")
    if settings.volume_cache.path:
        settings.volume_cache.path = str(folder / settings.volume_cache.path)
    unused += [f"[cache.{name}]" for name in caches]
    for name in ("pidFile", "blockListFile"):
        if value := getattr(settings.server, name):
            setattr(settings.server, name, str(folder / value))
    if settings.logging.logfile:
        settings.logging.logfile = str(folder / settings.logging.logfile)
    unused += [f"[{name}]" for name in sections]
    settings.address()
    return settings


def _lowered(value: Any) -> Any:
    if isinstance(value, dict):
        return {name.lower(): _lowered(inner) for name, inner in value.items()}
    return value


def _section(sections: dict[str, Any], name: str, kind: type[Any], unused: list[str], shown: str = "") -> Any:
    given = sections.pop(name, {})
    shown = shown or name
    if not isinstance(given, dict):
        raise SettingsError(f"{shown!r} must be a section")
    known = {member.encode_name for member in msgspec.structs.fields(kind)}
    unused += [f"{shown}.{key}" for key in given if key not in known]
    try:
        return msgspec.convert({key: value for key, value in given.items() if key in known}, kind, strict=False)
    except msgspec.ValidationError as error:
        raise SettingsError(f"section [{shown}]: {error}") from None


def _grid_stores(stores: dict[str, Any], folder: Path, unused: list[str]) -> dict[str, GridStore]:
    """The volumes among the stores, which are taken out."""
    found = {}
    for alias, options in list(stores.items()):
        if not isinstance(options, dict) or str(options.get("engine", "")).lower() not in VOLUME_ENGINES:
            continue
        del stores[alias]
        texts = {}
        for name in ("ref", "instance", "uuid"):
            texts[name] = options.get(name, "")
            if not isinstance(texts[name], str):
                raise SettingsError(f"[store.{alias}]: {name!r} must be a text, not {texts[name]!r}")
        if not texts["ref"]:
            raise SettingsError(f"[store.{alias}] needs a 'ref', the address of a volume")
        unused += [f"store.{alias}.{name}" for name in options if name not in ("engine", *texts)]
        found[alias] = GridStore(alias, volume_address(texts["ref"], folder), texts["instance"], texts["uuid"])
    return found


def volume_address(ref: str, folder: Path) -> str:
    """A `ref` as the address of a volume: as in DVID, what names no other place is a bucket of Google's.

    Paths begin with `/` or `.`; relative ones are resolved against a folder.
    """
    if ref.startswith((".", "/")):
        return str((folder / ref).resolve())
    return ref if "://" in ref else f"gs://{ref}"


def _assignments(backend: dict[str, Any], grid_stores: Mapping[str, GridStore]) -> dict[str, str]:
    """The sections of `[backend]` that name volumes, which are taken out."""
    found = {}
    for spec, options in list(backend.items()):
        alias = str(options.get("store", "") if isinstance(options, dict) else options).lower()
        if alias in grid_stores:
            if spec in ("default", "metadata"):
                raise SettingsError(f"[backend.{spec}] names {alias!r}, a volume that can only be read")
            del backend[spec]
            found[spec] = alias
    return found


def _data_path(stores: dict[str, Any], backend: dict[str, Any], folder: Path, unused: list[str]) -> Path:
    """The folder of the store that `[backend.default]` names, or of the only one that holds data."""
    usable = {}
    for alias, options in stores.items():
        engine = str(options.get("engine", "lmdb")).lower() if isinstance(options, dict) else ""
        if engine in EMBEDDED_ENGINES:
            if not options.get("path"):
                raise SettingsError(f"[store.{alias}] needs a 'path'")
            usable[alias] = folder / str(options["path"])
        elif engine in LOG_ENGINES:
            unused.append(f"[store.{alias}] (the log is part of the store)")
        else:
            known = ", ".join(sorted(EMBEDDED_ENGINES | LOG_ENGINES | VOLUME_ENGINES))
            raise SettingsError(f"[store.{alias}]: engine {engine!r} is not supported; known are {known}")
    default = backend.get("default", {})
    chosen = default.get("store") if isinstance(default, dict) else default
    unused += [f"[backend.{spec}]" for spec in backend if spec != "default"]
    if chosen is not None:
        if str(chosen).lower() not in usable:
            raise SettingsError(f"[backend.default] names store {chosen!r}, which is none of {sorted(usable)}")
        alias = str(chosen).lower()
    elif len(usable) > 1:
        raise SettingsError("there are several stores: [backend.default] must say which one to use")
    else:
        alias = next(iter(usable), "")
    unused += [f"[store.{other}]" for other in usable if other != alias]
    return usable[alias] if alias else folder / DEFAULT_DATA
