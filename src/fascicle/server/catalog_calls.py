"""Requests on repos and versions: what their handlers get, and what they give back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from fascicle.datatypes.base import Answer
from fascicle.errors import NOT_JSON, BadRequest
from fascicle.server.requests import Request
from fascicle.store.base import ReadTransaction
from fascicle.versions.catalog import Catalog, CatalogEditor
from fascicle.versions.model import Node

if TYPE_CHECKING:
    from fascicle.server.app import Application


@dataclass(slots=True)
class CatalogCall:
    """A request on a repo or a version."""

    app: Application
    request: Request
    args: list[str]
    """Path segments behind the keyword."""
    body: bytes
    txn: ReadTransaction
    catalog: Catalog
    node: Node

    def json(self) -> dict[str, Any]:
        """The body as a JSON object with lower-case names; an empty one is an empty object. Raises BadRequest."""
        if not self.body.strip():
            return {}
        try:
            given = msgspec.json.decode(self.body)
        except NOT_JSON as error:
            raise BadRequest(f"Malformed JSON request in body: {error}") from None
        if not isinstance(given, dict):
            raise BadRequest("Malformed JSON request in body: an object was expected")
        return {name.lower(): value for name, value in given.items()}


@dataclass(slots=True)
class Edit:
    """A change of the catalog: `apply` runs in the write transaction, `answer` after it is durable."""

    apply: Callable[[CatalogEditor], Any]
    answer: Callable[[Any], Answer] = field(default=lambda _: Answer())


CatalogReply = Answer | Edit
Handler = Callable[[CatalogCall], CatalogReply]


@dataclass(frozen=True, slots=True)
class CatalogRoute:
    """One keyword behind a repo or a version."""

    keyword: str
    handlers: Mapping[str, Handler]
    summary: str
    path: str = ""
    heavy: bool = False


def text_member(given: Mapping[str, Any], name: str, default: str = "") -> str:
    """A member of a JSON object that must be a text if it is there. Raises BadRequest."""
    value = given.get(name, default)
    if value is None:
        return default
    if not isinstance(value, str):
        raise BadRequest(f"'{name}' must be a string, not {msgspec.json.encode(value).decode()}")
    return value


def text_list(given: Mapping[str, Any], name: str) -> list[str]:
    """A member of a JSON object that must be a list of texts; [] if it is missing. Raises BadRequest."""
    value = given.get(name)
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(line, str) for line in value):
        raise BadRequest(f"'{name}' must be a list of strings")
    return value


def member_answer(name: str, value: str) -> Answer:
    """`{"name": "value"}` with one space, as clients have always seen it."""
    return Answer(b'{"' + name.encode() + b'": ' + msgspec.json.encode(value) + b"}", "application/json")
