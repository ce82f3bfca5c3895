"""Sending: status, headers, bodies, errors, and what web pages of other origins may see."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Any
from urllib.parse import urlsplit

from fascicle.datatypes.base import Answer
from fascicle.errors import FascicleError, RangeNotSatisfiable
from fascicle.server.requests import Request

Send = Callable[[dict[str, Any]], Awaitable[None]]
RawHeader = tuple[bytes, bytes]

METHODS = b"GET, HEAD, POST, PUT, DELETE, OPTIONS"
_EXPOSED = (b"access-control-expose-headers", b"Content-Range, Accept-Ranges, Content-Encoding, ETag")
_ANYBODY = (b"access-control-allow-origin", b"*")
_NOSNIFF = (b"x-content-type-options", b"nosniff")
_TEXT = (b"content-type", b"text/plain; charset=utf-8")
_content_types: dict[str, RawHeader] = {}


def page(path: str) -> Answer | None:
    """A page outside of the API, or None."""
    try:
        from fascicle.server import viewer
    except ImportError:
        return None
    return viewer.respond(path)


class CommonHeaders:
    """Headers of every answer of one server."""

    def __init__(self, domains: Sequence[str], timing: bool) -> None:
        self._domains = domains
        self._timing = [(b"timing-allow-origin", b"*")] if timing else []
        self.everybody = "*" in domains
        self.always: list[RawHeader] = [_ANYBODY, _EXPOSED, *self._timing] if self.everybody else self._timing

    def of(self, request: Request) -> list[RawHeader]:
        """The headers for one request. The list must not be changed."""
        if self.everybody or not self._domains:
            return self.always
        origin = request.headers.get("origin", "")
        if not origin or not any(_matches(domain, origin) for domain in self._domains):
            return [(b"vary", b"Origin"), *self._timing]
        allowed = (b"access-control-allow-origin", origin.encode("latin-1"))
        return [allowed, (b"vary", b"Origin"), _EXPOSED, *self._timing]


def _matches(domain: str, origin: str) -> bool:
    """Whether an origin such as `https://a.b.org` is one of a domain: a whole origin, a pattern, or a bare name."""
    if "*" in domain:
        return re.fullmatch(re.escape(domain).replace(r"\*", ".*"), origin) is not None
    if "://" in domain:
        return domain.rstrip("/") == origin
    parts = urlsplit(origin)
    name = parts.hostname or ""
    return domain in (name, parts.netloc) or name.endswith(f".{domain}")


class Sending:
    """Sends one answer, and remembers what was sent."""

    __slots__ = ("_common", "_request", "_send", "headless", "size", "started", "status")

    def __init__(self, send: Send, request: Request, common: CommonHeaders) -> None:
        self._send = send
        self._request = request
        self._common = common
        self.headless = request.method == "HEAD"
        """Whether only the headers are sent."""
        self.status = 0
        self.size = 0
        self.started = False

    def _headers(self, answer: Answer) -> list[RawHeader]:
        headers = list(self._common.of(self._request))
        if answer.content_type is not None:
            found = _content_types.get(answer.content_type)
            if found is None:
                found = (b"content-type", answer.content_type.encode("latin-1"))
                if len(_content_types) < 200:
                    _content_types[answer.content_type] = found
            headers.append(found)
        for name, value in answer.headers:
            headers.append((name.lower().encode("latin-1"), value.encode("latin-1", "replace")))
        return headers

    async def answer(self, answer: Answer) -> None:
        """Send an answer whose body is there."""
        body: Any = answer.body
        if not isinstance(body, (bytes, memoryview)):
            body = b"".join(body)
        headers = self._headers(answer)
        size = body.nbytes if type(body) is memoryview else len(body)
        headers.append((b"content-length", b"%d" % size))
        self.status = answer.status
        self.size = size
        self.started = True
        await self._send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await self._send({"type": "http.response.body", "body": b"" if self.headless else body})

    async def start(self, answer: Answer) -> None:
        """Send the head of an answer whose length is not known."""
        self.status = answer.status
        self.started = True
        await self._send({"type": "http.response.start", "status": answer.status, "headers": self._headers(answer)})

    async def piece(self, piece: bytes | memoryview) -> None:
        if not self.headless and len(piece):
            self.size += len(piece)
            await self._send({"type": "http.response.body", "body": piece, "more_body": True})

    async def end(self) -> None:
        await self._send({"type": "http.response.body", "body": b""})

    async def error(self, error: FascicleError) -> None:
        """Send an expected error; behind the beginning of an answer its text is appended to the body."""
        text = error.message
        if error.names_path:
            text = f"{text} ({self._request.path})."
        body = f"{text}\n".encode("utf-8", "surrogateescape")
        if self.started:
            await self.piece(body)
            await self.end()
            return
        headers = [*self._common.of(self._request), _TEXT, _NOSNIFF, (b"content-length", b"%d" % len(body))]
        if isinstance(error, RangeNotSatisfiable):
            headers.append((b"content-range", b"bytes */%d" % error.size))
        self.status = error.status
        self.size = len(body)
        self.started = True
        await self._send({"type": "http.response.start", "status": error.status, "headers": headers})
        await self._send({"type": "http.response.body", "body": b"" if self.headless else body})

    async def failure(self) -> None:
        """Send word of a defect; an answer that has begun is broken off, so that nobody takes it as whole."""
        if self.started:
            self.status = 500
            raise ConnectionAbortedError("the answer had begun")
        error = FascicleError("Internal error while answering: see the server's log")
        error.status = 500
        await self.error(error)

    async def options(self) -> None:
        """Answer OPTIONS: which methods there are and, before a request of another origin, what it may send."""
        headers = [*self._common.of(self._request), (b"allow", METHODS), (b"content-length", b"0")]
        allowed = any(name == b"access-control-allow-origin" for name, _ in headers)
        if allowed and "access-control-request-method" in self._request.headers:
            headers += [
                (b"access-control-allow-methods", METHODS),
                (b"access-control-allow-headers", b"Authorization, Content-Type, Range, Origin"),
                (b"access-control-max-age", b"86400"),
            ]
        self.status = 200
        self.started = True
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})
        await self._send({"type": "http.response.body", "body": b""})
