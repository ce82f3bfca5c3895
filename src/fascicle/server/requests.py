"""A request as the server sees it: path segments, options and headers, read only when they are asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote_to_bytes

READING_METHODS = frozenset({"GET", "HEAD"})


def decoded(raw: bytes) -> str:
    """Percent-decoded text; bytes that are not UTF-8 become surrogates, so that nothing is lost."""
    if b"%" in raw:
        raw = unquote_to_bytes(raw)
    return raw.decode("utf-8", "surrogateescape")


def parse_query(raw: bytes) -> dict[str, str]:
    """Options of a query string; of a name given twice the first value counts."""
    options: dict[str, str] = {}
    for part in raw.split(b"&"):
        if part:
            name, _, value = part.partition(b"=")
            options.setdefault(decoded(name.replace(b"+", b" ")), decoded(value.replace(b"+", b" ")))
    return options


class Headers(Mapping[str, str]):
    """Request headers by lower-case name, decoded at the first look."""

    __slots__ = ("_raw", "_table")

    def __init__(self, raw: list[tuple[bytes, bytes]]) -> None:
        self._raw = raw
        self._table: dict[str, str] | None = None

    def _decoded(self) -> dict[str, str]:
        if self._table is None:
            self._table = {name.decode("latin-1"): value.decode("latin-1") for name, value in self._raw}
        return self._table

    def __getitem__(self, name: str) -> str:
        return self._decoded()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._decoded())

    def __len__(self) -> int:
        return len(self._decoded())


class Request:
    """One request. `segments` are the parts of the decoded path behind the first slash, without an empty last one."""

    __slots__ = (
        "admin",
        "app",
        "content_length",
        "has_body",
        "headers",
        "method",
        "path",
        "query",
        "scope",
        "segments",
        "started",
        "user",
    )

    def __init__(self, scope: Any, started: float) -> None:
        self.scope = scope
        self.started = started
        self.method: str = scope["method"]
        raw_path: bytes = scope.get("raw_path") or scope["path"].encode()
        self.path = path = decoded(raw_path)
        segments = path.split("/")
        del segments[0]
        if segments and not segments[-1]:
            segments.pop()
        if "" in segments:
            segments = [segment for segment in segments if segment]
        self.segments = segments
        raw_query: bytes = scope["query_string"]
        self.query: dict[str, str] = parse_query(raw_query) if raw_query else {}
        raw_headers = scope["headers"]
        self.headers = Headers(raw_headers)
        self.has_body = False
        self.content_length: int | None = None
        for name, value in raw_headers:
            if name == b"content-length":
                self.content_length = int(value)
                self.has_body = value != b"0"
            elif name == b"transfer-encoding":
                self.has_body = True
        self.user = self.query.get("u", "") if raw_query else ""
        self.app = self.query.get("app", "") if raw_query else ""
        self.admin = False

    @property
    def reads(self) -> bool:
        return self.method in READING_METHODS

    def client_address(self) -> str:
        """Where the request comes from: the proxies' headers first, then the connection."""
        for part in self.headers.get("forwarded", "").split(",")[0].split(";"):
            name, _, value = part.strip().partition("=")
            if name.lower() == "for" and value:
                return _host(value.strip('"'))
        forwarded = self.headers.get("x-forwarded-for", "").split(",")[0].strip()
        if forwarded:
            return _host(forwarded)
        client = self.scope.get("client")
        return str(client[0]) if client else ""


def _host(address: str) -> str:
    """The host of `host:port`, `[ipv6]:port` or a bare address."""
    if address.startswith("["):
        return address[1:].partition("]")[0]
    return address.partition(":")[0] if address.count(":") == 1 else address
