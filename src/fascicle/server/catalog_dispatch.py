"""Finds what answers a request on repos and versions, after the gates."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fascicle.datatypes.base import Answer
from fascicle.errors import BadRequest
from fascicle.server import node_routes, repo_routes
from fascicle.server.catalog_calls import CatalogCall, CatalogReply, CatalogRoute
from fascicle.server.requests import Request
from fascicle.store.base import ReadTransaction

if TYPE_CHECKING:
    from fascicle.server.app import Application

_REPO = {route.keyword: route for route in repo_routes.ROUTES}
_NODE = {route.keyword: route for route in node_routes.ROUTES}


def is_heavy(request: Request) -> bool:
    """Whether a request lists whole repos."""
    segments = request.segments
    if segments[1] == "repos":
        return request.reads
    route = _REPO.get(segments[3]) if segments[1] == "repo" and len(segments) > 3 else None
    return route is not None and route.heavy


def not_routed() -> Answer:
    return Answer.text("404 page not found\n", 404)


def reply(app: Application, request: Request, txn: ReadTransaction, body: bytes) -> CatalogReply:
    """What answers a request on repos or versions."""
    kind, *rest = request.segments[1:]
    catalog = app.catalogs.at(txn)
    gates = app.gates
    if kind == "repos":
        if not rest and request.method == "POST":
            gates.require_owner(request, "Creating a repo")
            call = CatalogCall(app, request, [], body, txn, catalog, None)  # type: ignore[arg-type]
            return repo_routes.create_repo(call)
        if rest == ["info"] and request.reads:
            call = CatalogCall(app, request, [], body, txn, catalog, None)  # type: ignore[arg-type]
            return repo_routes.all_repos(call)
        return not_routed()
    if not rest:
        return not_routed()
    gates.check_mode(request)
    node = catalog.resolve(rest[0])
    keyword = rest[1] if len(rest) > 1 else ""
    route = (_REPO if kind == "repo" else _NODE).get(keyword)
    call = CatalogCall(app, request, rest[2:], body, txn, catalog, node)
    if kind == "repo" and request.method == "DELETE":
        gates.require_owner(request, "Deleting a repo or a data instance")
        return repo_routes.delete_instance(call) if keyword else repo_routes.delete_repo(call)
    if route is None or len(rest) > 2 + bool(route.path):
        return not_routed()
    return _routed(app, request, route, call, kind)


def _routed(app: Application, request: Request, route: CatalogRoute, call: CatalogCall, kind: str) -> CatalogReply:
    method = request.method
    handler = route.handlers.get(method)
    if handler is None and method == "HEAD":
        handler = route.handlers.get("GET")
    if handler is None:
        if not route.keyword:
            return not_routed()
        raise BadRequest(f'{route.keyword} endpoint does not support "{method.lower()}" HTTP verb')
    if kind == "node" and method == "POST" and route.keyword in node_routes.GATED:
        app.gates.check_node_open(request, call.node)
    return handler(call)
