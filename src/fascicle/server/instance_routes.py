"""Routes that every instance has, whatever its datatype; a datatype's own route of the same keyword goes first."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from typing import Any

import msgspec

from fascicle.datatypes import registry
from fascicle.datatypes.base import ANY_METHOD, Answer, Call, Change, Commit, Option, Reply, Route, Work
from fascicle.datatypes.change import MIN_MUTATION_ID, StoreChange
from fascicle.errors import NOT_JSON, BadCall, BadRequest, NotFound
from fascicle.mutations import blobs, records
from fascicle.server import help_pages
from fascicle.server.descriptions import Describer
from fascicle.versions import graph

LOGGED = frozenset({"keyvalue", "labelmap"})
"""Datatypes whose records of mutations can be asked for."""


def _info(call: Call) -> Answer:
    describer = Describer(call.txn, call.catalog, call.store.description, call.settings.get(MIN_MUTATION_ID, 0))
    return Answer.json(describer.instance(call.instance, call.node))


def _help(call: Call) -> Answer:
    return Answer.text(help_pages.datatype_page(registry.datatype(call.instance.typename), ROUTES))


def text_object(body: bytes) -> dict[str, str]:
    """A body that is a JSON object of texts; an empty body is an empty object."""
    if not body.strip():
        return {}
    try:
        return msgspec.json.decode(body, type=dict[str, str])
    except NOT_JSON as error:
        raise BadRequest(f"Malformed JSON request in body: a flat object of strings was expected: {error}") from None


def _tags(call: Call) -> Answer:
    return Answer.json({"Tags": call.instance.tags})


def _change_tags(call: Call) -> Commit:
    given = text_object(call.body)
    replaced = call.flag("replace")

    def apply(change: Change) -> None:
        assert isinstance(change, StoreChange)
        old = {} if replaced else change.instance.tags or {}
        graph.change_instance(change.editor, change.instance, tags={**old, **given})

    return Commit(apply)


def _sync(call: Call) -> Commit:
    try:
        given = msgspec.json.decode(call.body, type=dict[str, Any])
    except NOT_JSON as error:
        raise BadRequest(f"Malformed JSON request in body: {error}") from None
    named = given.get("sync")
    if not isinstance(named, str):
        raise BadRequest("Could not find 'sync' value in POSTed JSON to sync request.")
    names = [name.strip() for name in named.split(",") if name.strip()]
    replaced = call.flag("replace")
    if not registry.datatype(call.instance.typename).syncable():
        for name in names:
            call.catalog.instance(call.instance.repo_id, name)
        if names:
            raise BadRequest(f'Can\'t create syncs for instance "{call.instance.name}", which is not syncable')
        return Commit(lambda change: None)

    followable = registry.datatype(call.instance.typename).followable()

    def apply(change: Change) -> None:
        assert isinstance(change, StoreChange)
        for name in names if followable is not None else ():
            if not change.catalog.has_instance(change.instance.repo_id, name):
                continue  # said below
            typename = change.catalog.instance(change.instance.repo_id, name).typename
            if followable is not None and typename not in followable:
                raise BadRequest(
                    f'Unable to set syncs for data "{change.instance.name}": unable to sync {change.instance.name} '
                    f'with {name} since datatype "{typename}" is not supported, only {", ".join(followable)}'
                )
        if names or replaced:
            graph.follow(change.editor, change.instance, names, replaced)

    return Commit(apply)


def _blob(call: Call) -> Answer:
    if not call.args or not call.args[0]:
        raise BadRequest("GET /blobstore requires reference")
    data = blobs.get(call.txn, call.args[0])
    if not data:
        raise NotFound(f'Reference "{call.args[0]}" not found')
    return Answer.binary(data)


def _put_blob(call: Call) -> Commit:
    data = call.body
    return Commit(
        lambda change: change.put_blob(data),
        lambda reference: Answer(b'{"reference": "' + reference.encode() + b'"}', "application/json"),
    )


def _no_blob_method(call: Call) -> Reply:
    raise BadRequest("can only do GET and POST actions on blobstore endpoint")


def _of_user(lines: Iterator[bytes], user: str) -> Iterator[bytes]:
    for line in lines:
        if msgspec.json.decode(line, type=dict[str, Any]).get("User") == user:
            yield line


def _json_list(lines: Iterator[bytes]) -> Iterator[bytes]:
    yield b"["
    separator = b""
    for line in lines:
        yield separator + line
        separator = b","
    yield b"]"


def _mutations(call: Call) -> Answer:
    lines = records.stored(call.txn, call.instance.id, call.ancestry.version)
    if user := call.query.get("userid"):
        lines = _of_user(lines, user)
    return Answer(_json_list(lines), "application/json")


def _mutations_range(call: Call) -> Answer:
    start = call.catalog.resolve(call.argument(0, "the UUIDs of a first and a last version"))
    end = call.catalog.resolve(call.argument(1, "the UUIDs of a first and a last version"))
    if start.repo_id != call.node.repo_id or end.repo_id != call.node.repo_id:
        raise BadRequest("the versions of a range must be of the repo that the instance belongs to")
    sequence = [call.node] if not call.instance.versioned else call.catalog.version_sequence(end.id, start.id)
    versions = [node.id if call.instance.versioned else call.ancestry.version for node in sequence]
    lines: Iterator[bytes] = (
        line for version in versions for line in records.stored(call.txn, call.instance.id, version)
    )
    if user := call.query.get("userid"):
        lines = _of_user(lines, user)
    return Answer(_json_list(lines), "application/json")


ROUTES: tuple[Route, ...] = (
    Route("info", {"GET": _info}, "Settings and properties of the instance as JSON."),
    Route("help", {"GET": _help, ANY_METHOD: _help}, "This page."),
    Route(
        "tags",
        {"GET": _tags, "POST": _change_tags},
        'The instance\'s tags as `{"Tags": {...}}`; POST of a JSON object of strings adds to them.',
        options=(Option("replace", "`true`: the object replaces all tags"),),
    ),
    Route(
        "sync",
        {"POST": _sync},
        'Follow the changes of other instances: `{"sync": "name1,name2"}`.',
        options=(Option("replace", "`true`: follow these only"),),
    ),
    Route(
        "blobstore",
        {"GET": _blob, "POST": _put_blob, ANY_METHOD: _no_blob_method},
        'Bytes by the hash of their content: POST answers `{"reference": ...}`, GET gives them back.',
        path="<reference>",
        work=Work.HEAVY,
    ),
)

LOG_ROUTES: tuple[Route, ...] = (
    Route(
        "mutations",
        {"GET": _mutations},
        "Records of the mutations made at this version, oldest first, as a JSON list.",
        options=(Option("userid", "only those of one user"), Option("throttle", "`on`: may be answered by 503")),
        throttled=True,
    ),
    Route(
        "mutations-range",
        {"GET": _mutations_range},
        "The same for all versions from the last one back to the first one, newest version first.",
        path="<first UUID>/<last UUID>",
        options=(Option("userid", "only those of one user"), Option("throttle", "`on`: may be answered by 503")),
        throttled=True,
    ),
)


def routes(typename: str) -> tuple[Route, ...]:
    """All routes of a datatype, its own first."""
    generic = ROUTES + LOG_ROUTES if typename in LOGGED else ROUTES
    datatype = registry.datatype(typename)
    return datatype.routes + tuple(route for route in generic if route.keyword not in datatype.lacks)


@cache
def table(typename: str) -> dict[str, Route]:
    """The routes of a datatype by keyword; methods that its own route lacks are answered by the generic one."""
    found: dict[str, Route] = {}
    for route in routes(typename):
        own = found.get(route.keyword)
        if own is None:
            found[route.keyword] = route
        elif ANY_METHOD not in own.handlers:
            found[route.keyword] = replace(own, handlers={**route.handlers, **own.handlers})
    return found


def handler(route: Route, method: str) -> Callable[[Call], Reply]:
    """What answers a method of a route. Raises BadCall if nothing does."""
    handlers = route.handlers
    found = handlers.get(method)
    if found is None and method == "HEAD":
        found = handlers.get("GET")
    if found is None:
        found = handlers.get(ANY_METHOD)
    if found is None:
        known = " and ".join(sorted(handlers))
        raise BadRequest(f'{route.keyword} endpoint does not support "{method.lower()}" HTTP verb, only {known}')
    return found


def unknown_keyword(path: str, instance_name: str, typename: str, host: str) -> BadCall:
    return BadCall(
        f'Bad API call ({path}) for data "{instance_name}".  See API help at http://{host}/api/help/{typename}'
    )
