"""Help texts over HTTP, made from the same declarations that route requests."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

from fascicle.datatypes import registry
from fascicle.datatypes.base import ANY_METHOD, Datatype, Route
from fascicle.errors import FascicleError


def route_text(route: Route) -> str:
    """A route: methods, path, meaning, options."""
    methods = ", ".join(method for method in route.handlers if method != ANY_METHOD) or "GET"
    path = f"/api/node/<UUID>/<name>/{route.keyword}" + (f"/{route.path}" if route.path else "")
    lines = [f"{methods} {path}", "", f"    {route.summary}"]
    if route.options:
        lines.append("")
        lines += [f"    ?{option.name}=  {option.meaning}" for option in route.options]
    return "\n".join(lines)


def datatype_page(datatype: Datatype, generic: Sequence[Route]) -> str:
    """The help text of a datatype."""
    own = {route.keyword for route in datatype.routes}
    routes = [*datatype.routes, *(route for route in generic if route.keyword not in own)]
    head = f"{datatype.typename} (version {datatype.type_version})\n\n{datatype.summary}\n"
    return head + "\n" + "\n\n".join(route_text(route) for route in routes) + "\n"


def api_page(sections: Iterable[tuple[str, Iterable[tuple[str, str]]]]) -> str:
    """The page of the whole API: sections of (request, meaning), and links to the datatypes."""
    parts = ["<!DOCTYPE html><html><head><meta charset='utf-8'><title>HTTP API</title></head><body><h1>HTTP API</h1>"]
    for title, rows in sections:
        parts.append(f"<h2>{html.escape(title)}</h2><dl>")
        parts += [
            f"<dt><code>{html.escape(request)}</code></dt><dd>{html.escape(meaning)}</dd>" for request, meaning in rows
        ]
        parts.append("</dl>")
    parts.append("<h2>Datatypes</h2><ul>")
    for typename in registry.typenames():
        try:
            summary = registry.datatype(typename).summary
        except (ImportError, AttributeError, FascicleError):
            continue
        parts.append(f"<li><a href='/api/help/{typename}'>{typename}</a> {html.escape(summary)}</li>")
    parts.append("</ul></body></html>")
    return "".join(parts)
