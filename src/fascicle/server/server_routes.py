"""Routes of the server itself: help, load, information, settings."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from fascicle import __version__
from fascicle.datatypes import registry
from fascicle.datatypes.base import Answer
from fascicle.errors import NOT_JSON, BadRequest, NotFound
from fascicle.mutations import blobs
from fascicle.server import help_pages, instance_routes, node_routes, repo_routes
from fascicle.server.requests import Request
from fascicle.versions import times

if TYPE_CHECKING:
    from fascicle.server.app import Application

Handler = Callable[["Application", Request, bytes], Answer]

DATASTORE_VERSION = "0.11.0"
API_LEVEL = "v1.0.0-0"
"""Clients split the version at dots and hyphens, and want four integers after the `v` to compare with."""


def plain(text: str) -> Answer:
    return Answer(text.encode(), "text/plain")


def _help(app: Application, request: Request, body: bytes) -> Answer:
    if len(request.segments) > 2:
        return plain(help_pages.datatype_page(registry.datatype(request.segments[2]), instance_routes.ROUTES))
    rows = [(f"{' / '.join(methods)} /api/{path}", "") for path, methods in _TABLE.items()]
    repos = [
        (f"{', '.join(route.handlers)} /api/repo/<UUID>/{route.keyword}/{route.path}".rstrip("/"), route.summary)
        for route in repo_routes.ROUTES
    ]
    nodes = [
        (f"{', '.join(route.handlers)} /api/node/<UUID>/{route.keyword}", route.summary) for route in node_routes.ROUTES
    ]
    page = help_pages.api_page([("Server", rows), ("Repos", repos), ("Versions", nodes)])
    return Answer(page.encode(), "text/html; charset=utf-8")


def _load(app: Application, request: Request, body: bytes) -> Answer:
    last = app.metrics.last_second()
    return Answer.json(
        {
            "file bytes read": 0,
            "file bytes written": 0,
            "key bytes read": 0,
            "key bytes written": 0,
            "value bytes read": last["bytes"],
            "value bytes written": 0,
            "GET requests": last["reads"],
            "PUT requests": last["writes"],
            "handlers active": min(100, 100 * app.metrics.running // app.pools.size),
            "goroutines": app.metrics.running,
            "active CGo writes": 0,
            "pending log messages": 0,
        }
    )


def _heartbeat(app: Application, request: Request, body: bytes) -> Answer:
    if request.user:
        app.metrics.count_user(request.user, 1000 * (time.perf_counter() - request.started))
    return plain("OK")


def _user_latencies(app: Application, request: Request, body: bytes) -> Answer:
    found: dict[str, Any] = {}
    for user, (ping, last, least, most) in app.metrics.users.items():
        found[user] = {
            "User": user,
            "LastPing": times.rfc3339(int(ping * 1e9)),
            "LastLatency": last,
            "MinLatency": least,
            "MaxLatency": most,
        }
    if request.user:
        unknown = {"User": "", "LastPing": "0001-01-01T00:00:00Z", "LastLatency": 0, "MinLatency": 0, "MaxLatency": 0}
        found = {request.user: found.get(request.user, unknown)}
    return Answer.json(found)


def _storage(app: Application, request: Request, body: bytes) -> Answer:
    if not request.admin:
        raise BadRequest("Storage summary takes considerable resources and is only available to admin users.")
    statistics = app.store.statistics()
    return Answer.json(
        {
            "Engine": statistics.engine,
            "Path": statistics.path,
            "Keys": statistics.keys,
            "FileBytes": statistics.file_bytes,
            "LiveBytes": statistics.live_bytes,
            "Transaction": statistics.transaction,
            "Details": statistics.details,
        }
    )


def _duration(seconds: float) -> str:
    """`1h2m3.5s`"""
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(int(minutes), 60)
    text = f"{rest:.6g}s"
    if hours:
        return f"{hours}h{minutes}m{text}"
    return f"{minutes}m{text}" if minutes else text


def _open_files() -> str:
    """How many files this process may open."""
    try:
        import resource
    except ImportError:  # not a Unix
        return "unknown"
    return str(resource.getrlimit(resource.RLIMIT_NOFILE)[0])


def _info(app: Application, request: Request, body: bytes) -> Answer:
    settings = app.settings
    described = {
        "Cores": str(app.pools.size),
        "Maximum Cores": str(os.cpu_count() or 1),
        "Datastore Version": DATASTORE_VERSION,
        "DVID Version": f"{API_LEVEL}-fascicle-{__version__}",
        "Storage backend": "; ".join([app.store.description, *app.elsewhere.descriptions()]),
        "Server time": times.record_text(time.time_ns()),
        "Server uptime": _duration(time.time() - app.metrics.started),
        "RPC Address": "",
        "Host": app.host,
        "Note": settings.server.note,
        "TOML location": str(settings.file or ""),
        "Max Open Files": _open_files(),
    }
    if settings.readonly:
        described["Mode"] = "read only"
    elif settings.full_write:
        described["Mode"] = "allow writes on committed nodes"
    return Answer.json(described)


def _note(app: Application, request: Request, body: bytes) -> Answer:
    return plain(app.settings.server.note)


def _config(app: Application, request: Request, body: bytes) -> Answer:
    app.gates.require_admin(request, "GET /api/server/config")
    return plain(app.settings.text)


def _types(app: Application, request: Request, body: bytes) -> Answer:
    with app.store.read() as txn:
        catalog = app.catalogs.at(txn)
        used = {instance.typename for repo in catalog.repos() for instance in catalog.instances(repo.id)}
    return Answer.json({name: registry.datatype(name).type_url for name in sorted(used)})


def _compiled_types(app: Application, request: Request, body: bytes) -> Answer:
    return Answer.json({name: registry.datatype(name).type_url for name in registry.typenames()})


def _group_cache(app: Application, request: Request, body: bytes) -> Answer:
    cache = {"Items": 0, "Bytes": 0, "Gets": 0, "Hits": 0, "Evictions": 0}
    names = ("Gets", "CacheHits", "PeerLoads", "PeerErrors", "Loads", "LoadsDeduped", "LocalLoads", "LocalLoadErrs")
    return Answer.json({**dict.fromkeys(names, 0), "ServerRequests": 0, "MainCache": cache, "HotCache": cache})


def _token(app: Application, request: Request, body: bytes) -> Answer:
    raise BadRequest("this server asks for no tokens")


def _blob(app: Application, request: Request, body: bytes) -> Answer:
    if len(request.segments) < 4:
        raise BadRequest("GET /blobstore requires reference")
    with app.store.read() as txn:
        data = blobs.get(txn, request.segments[3])
    if not data:
        raise NotFound(f'Reference "{request.segments[3]}" not found')
    return Answer.binary(data)


def _settings(app: Application, request: Request, body: bytes) -> Answer:
    app.gates.require_admin(request, "POST /api/server/settings")
    try:
        given = msgspec.json.decode(body, type=dict[str, str | int])
        values = {name.lower(): int(value) for name, value in given.items()}
    except (*NOT_JSON, ValueError) as error:
        raise BadRequest(f"settings must be a JSON object of whole numbers: {error}") from None
    lines = []
    if "throttle" in values:
        if values["throttle"] < 0:
            raise BadRequest(f"'throttle' must not be negative: {values['throttle']}")
        lines.append(f"Maximum throttled ops set to {values['throttle']} from {app.throttle.maximum}\n")
        app.throttle.maximum = values["throttle"]
    if "gc" in values:
        lines.append("GC percentage is not used by this server\n")
    return plain("".join(lines))


def _reload_auth(app: Application, request: Request, body: bytes) -> Answer:
    app.gates.require_admin(request, "POST /api/server/reload-auth")
    return plain("No authorization is configured\n")


def _reload_block_list(app: Application, request: Request, body: bytes) -> Answer:
    app.gates.require_admin(request, "POST /api/server/reload-blocklist")
    if app.gates.blocked.path is None:
        return plain("No block list is configured\n")
    app.gates.blocked.read()
    return plain("Block list reloaded\n")


def _reload_metadata(app: Application, request: Request, body: bytes) -> Answer:
    app.gates.require_admin(request, "POST /api/server/reload-metadata")
    return Answer()


SILENT = frozenset({"load", "heartbeat", "user-latencies"})
"""Answered whatever the state of the server, and to everybody."""

_TABLE: dict[str, dict[str, Handler]] = {
    "help": {"GET": _help},
    "load": {"GET": _load},
    "heartbeat": {"GET": _heartbeat},
    "user-latencies": {"GET": _user_latencies},
    "storage": {"GET": _storage},
    "server/info": {"GET": _info},
    "server/note": {"GET": _note},
    "server/config": {"GET": _config},
    "server/types": {"GET": _types},
    "server/compiled-types": {"GET": _compiled_types},
    "server/groupcache": {"GET": _group_cache},
    "server/token": {"GET": _token},
    "server/blobstore": {"GET": _blob},
    "server/settings": {"POST": _settings},
    "server/reload-auth": {"POST": _reload_auth},
    "server/reload-blocklist": {"POST": _reload_block_list},
    "server/reload-metadata": {"POST": _reload_metadata},
}
_WITH_ARGUMENT = frozenset({"help", "server/blobstore"})


def handlers(segments: list[str]) -> dict[str, Handler] | None:
    """The methods of a path below /api, or None."""
    name = segments[1] if len(segments) > 1 else ""
    used = 2
    if name == "server" and len(segments) > 2:
        name = f"server/{segments[2]}"
        used = 3
    if len(segments) > used + (name in _WITH_ARGUMENT):
        return None
    return _TABLE.get(name)
