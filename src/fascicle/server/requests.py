"""A request as the server sees it: path segments, options and headers, read only when they are asked for."""

from __future__ import annotations

import time
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
    if b"+" in raw:
        raw = raw.replace(b"+", b" ")
    for part in raw.split(b"&"):
        if part:
            name, _, value = part.partition(b"=")
            options.setdefault(decoded(name), decoded(value))
    return options


class Headers(Mapping[str, str]):
    """Request headers by lower-case name."""

    __slots__ = ("_raw",)

    def __init__(self, raw: list[tuple[bytes, bytes]]) -> None:
        self._raw = raw

    def get(self, name: str, default: Any = None) -> Any:
        wanted = name.encode("latin-1")
        for given, value in self._raw:
            if given == wanted:
                return value.decode("latin-1")
        return default

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self.get(name) is not None

    def __getitem__(self, name: str) -> str:
        found: str | None = self.get(name)
        if found is None:
            raise KeyError(name)
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys(name.decode("latin-1") for name, _ in self._raw))

    def __len__(self) -> int:
        return len({name for name, _ in self._raw})


class Request:
    """One request. `segments` are the parts of the decoded path behind the first slash, without empty ones."""

    __slots__ = (
        "admin",
        "app",
        "client",
        "content_length",
        "has_body",
        "headers",
        "method",
        "path",
        "query",
        "raw_headers",
        "raw_path",
        "raw_query",
        "segments",
        "started",
        "user",
    )

    def __init__(
        self,
        method: str,
        raw_path: bytes,
        raw_query: bytes,
        raw_headers: list[tuple[bytes, bytes]],
        client: tuple[str, int] | None = None,
    ) -> None:
        self.started = time.perf_counter()
        self.method = method
        self.raw_path = raw_path
        self.raw_query = raw_query
        self.raw_headers = raw_headers
        self.client = client
        self.path = path = decoded(raw_path)
        segments = path.split("/")
        if "" in segments:
            segments = [segment for segment in segments if segment]
        self.segments = segments
        self.headers = Headers(raw_headers)
        self.has_body = False
        self.content_length: int | None = None
        for name, value in raw_headers:
            if name == b"content-length":
                if value != b"0":
                    self.has_body = True
                    self.content_length = int(value)
            elif name == b"transfer-encoding":
                self.has_body = True
        self.admin = False
        if raw_query:
            self.query = query = parse_query(raw_query)
            self.user = query.get("u", "")
            self.app = query.get("app", "")
        else:
            self.query = {}
            self.user = self.app = ""

    @classmethod
    def of_scope(cls, scope: Any) -> Request:
        """The request of an ASGI scope."""
        ours = scope.get("fascicle.request")
        if ours is not None:
            return ours  # type: ignore[no-any-return]
        raw_path = scope.get("raw_path") or scope["path"].encode()
        return cls(scope["method"], raw_path, scope["query_string"], list(scope["headers"]), scope.get("client"))

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
        return str(self.client[0]) if self.client else ""


def _host(address: str) -> str:
    """The host of `host:port`, `[ipv6]:port` or a bare address."""
    if address.startswith("["):
        return address[1:].partition("]")[0]
    return address.partition(":")[0] if address.count(":") == 1 else address
