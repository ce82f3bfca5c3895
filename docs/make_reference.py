"""Make docs/api.md and docs/commands.md from the declarations that route requests and parse command lines.

`python docs/make_reference.py` writes them; a test compares what lies there with what would be written.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from pathlib import Path

import click

from fascicle.cli import group
from fascicle.datatypes import registry
from fascicle.datatypes.base import ANY_METHOD, Route
from fascicle.server import instance_routes, node_routes, repo_routes, server_routes

DOCS = Path(__file__).resolve().parent

SERVER = {
    "help": "The list of requests; `/api/help/<type>` tells of a datatype.",
    "load": "How busy the server has been in the last second.",
    "heartbeat": "Says `OK`; with `?u=` the user's latency is noted.",
    "user-latencies": "Latencies of the users who sent heartbeats.",
    "storage": "Size and health of the store; for administrators.",
    "server/info": "Version, store, uptime and the like as JSON.",
    "server/note": "The note of the settings.",
    "server/config": "The settings file; for administrators.",
    "server/types": "Datatypes in use, with their URLs.",
    "server/compiled-types": "All datatypes of this server, with their URLs.",
    "server/groupcache": "Figures of a cache that this server does not need: zeros.",
    "server/token": "Tokens for people: refused, since this server gives none out.",
    "server/blobstore": "A blob by its reference, whatever the repo.",
    "server/settings": '`{"throttle": n}` sets how many throttled requests run at a time; for administrators.',
    "server/reload-auth": "Accepted, without effect; for administrators.",
    "server/reload-blocklist": "Read the block list anew; for administrators.",
    "server/reload-metadata": "Accepted, without effect: nothing is ever out of date; for administrators.",
}
OTHERS = (
    ("POST /api/repos", 'A new repo: `{"alias": ..., "description": ..., "root": ..., "passcode": ...}`.'),
    ("GET /api/repos/info", "Everything about all repos as JSON."),
    ("DELETE /api/repo/<UUID>?imsure=true", "Delete a repo."),
    ("DELETE /api/repo/<UUID>/<name>?imsure=true", "Delete a data instance."),
    ("GET /metrics", "Figures for Prometheus."),
    ("GET /", "A page that lists repos, versions and instances, with links to the viewer."),
    ("GET /neuroglancer/", "The viewer; its state is kept in the part of the URL after `#!`."),
)

INTRODUCTION = """\
# HTTP API

*Made by `docs/make_reference.py`; do not edit.*

The API is DVID's. `<UUID>` is any reference to a version: a UUID, enough of its first characters to be unique, or
`<UUID>:<branch>` for the newest version of a branch of the repo. Coordinates are x, y, z in voxels, written `x_y_z`.
HEAD works wherever GET does. Every request may carry `u=<user>` and `app=<program>` for logs and mutation records,
and a GET may have a body where one is asked for. Errors are a 4xx with a line of text.
"""


def _methods(handlers: Iterable[str]) -> str:
    return ", ".join(sorted(method for method in handlers if method != ANY_METHOD)) or "GET"


def _row(request: str, meaning: str) -> str:
    return f"| `{request}` | {meaning} |".replace("\n", " ")


def _route_rows(prefix: str, route: Route) -> Iterator[str]:
    path = "/".join(part for part in (prefix, route.keyword, route.path) if part)
    options = "".join(f"<br>`?{option.name}=` {option.meaning}" for option in route.options)
    yield _row(f"{_methods(route.handlers)} {path}".replace("|", "\\|"), (route.summary + options).replace("|", "\\|"))


def api_text() -> str:
    """The text of docs/api.md."""
    lines = [INTRODUCTION]

    def section(title: str, rows: Iterable[str], text: str = "") -> None:
        lines.extend([f"## {title}\n", *([text, ""] if text else []), "| request | meaning |", "|---|---|", *rows, ""])

    table = server_routes._TABLE
    section("Server", [_row(f"{_methods(table[path])} /api/{path}", SERVER[path]) for path in table])
    section("Other addresses", [_row(*other) for other in OTHERS])
    repos = [
        _row("/".join(filter(None, (f"{_methods(r.handlers)} /api/repo/<UUID>", r.keyword, r.path))), r.summary)
        for r in repo_routes.ROUTES
    ]
    section("Repos", repos)
    section(
        "Versions",
        [_row(f"{_methods(r.handlers)} /api/node/<UUID>/{r.keyword}", r.summary) for r in node_routes.ROUTES],
    )
    generic = (*instance_routes.ROUTES, *instance_routes.LOG_ROUTES)
    rows = [row for route in generic for row in _route_rows("/api/node/<UUID>/<name>", route)]
    section("Every data instance", rows, "The two with mutation records exist where a datatype keeps them.")
    for typename, sharing in _datatypes():
        datatype = registry.datatype(typename)
        rows = [row for route in datatype.routes for row in _route_rows("/api/node/<UUID>/<name>", route)]
        text = datatype.summary.strip()
        if sharing:
            text += f" `{'`, `'.join(sharing)}` have the same requests."
        section(f"`{typename}`", rows, text)
    return "\n".join(lines).rstrip() + "\n"


def _datatypes() -> list[tuple[str, list[str]]]:
    """Typenames, each with the later ones that have exactly the same requests."""
    found: list[tuple[str, list[str]]] = []
    seen: dict[str, int] = {}
    for typename in sorted(registry.typenames(), key=lambda name: (name != "uint8blk" and name.endswith("blk"), name)):
        rows = "".join(row for route in registry.datatype(typename).routes for row in _route_rows("", route))
        if rows in seen:
            found[seen[rows]][1].append(typename)
        else:
            seen[rows] = len(found)
            found.append((typename, []))
    return found


def commands() -> Iterator[tuple[str, click.Command]]:
    """(words, command) of every command, also of those in groups."""

    def walk(words: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
        if isinstance(command, click.Group):
            context = click.Context(command)
            for name in command.list_commands(context):
                found = command.get_command(context, name)
                assert found is not None
                yield from walk(f"{words} {name}", found)
        else:
            yield words, command

    return walk("fascicle", group)


def commands_text() -> str:
    """The text of docs/commands.md."""
    lines = ["# Commands\n", "*Made by `docs/make_reference.py`; do not edit.*\n"]
    for words, command in commands():
        context = click.Context(command, info_name=words)
        usage = " ".join(command.collect_usage_pieces(context))
        lines += [f"## `{words}`\n", f"```\n{words} {usage}\n```\n", _paragraphs(command.help or ""), ""]
        options = [parameter for parameter in command.params if isinstance(parameter, click.Option)]
        if options:
            lines += ["| option | meaning |", "|---|---|", *map(_option_row, options), ""]
    return "\n".join(lines).rstrip() + "\n"


def _option_row(option: click.Option) -> str:
    value = "" if option.is_flag else " " + (option.metavar or option.type.name.upper())
    default = f" [{option.default}]" if option.show_default else ""
    return _row(", ".join(option.opts) + value, (option.help or "").replace("|", "\\|") + default)


def _paragraphs(text: str) -> str:
    """Help text; paragraphs that click must not wrap become code."""
    return "\n\n".join(
        f"```\n{paragraph.strip(chr(8)).strip()}\n```" if "\b" in paragraph else paragraph
        for paragraph in inspect.cleandoc(text).split("\n\n")
    )


PAGES = {"api.md": api_text, "commands.md": commands_text}


def main() -> None:
    for name, text in PAGES.items():
        (DOCS / name).write_text(text())


if __name__ == "__main__":
    main()
