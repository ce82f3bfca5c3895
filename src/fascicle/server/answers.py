"""Sending: status, headers, bodies, errors, and what web pages of other origins may see."""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Any
from urllib.parse import urlsplit

from fascicle.datatypes.base import Answer
from fascicle.errors import FascicleError, RangeNotSatisfiable
from fascicle.server.requests import Request
from fascicle.volumes import VolumeError

log = logging.getLogger(__name__)

Send = Callable[[dict[str, Any]], Awaitable[None]]
RawHeader = tuple[bytes, bytes]

METHODS = b"GET, HEAD, POST, PUT, DELETE, OPTIONS"
_EXPOSED = (b"access-control-expose-headers", b"Content-Range, Accept-Ranges, Content-Encoding, ETag")
_ANYBODY = (b"access-control-allow-origin", b"*")


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
        self.always_encoded = _encoded(self.always)

    def of(self, request: Request) -> list[RawHeader]:
        """The headers for one request. The list must not be changed."""
        if self.everybody or not self._domains:
            return self.always
        origin = request.headers.get("origin", "")
        if not origin or not any(_matches(domain, origin) for domain in self._domains):
            return [(b"vary", b"Origin"), *self._timing]
        allowed = (b"access-control-allow-origin", origin.encode("latin-1"))
        return [allowed, (b"vary", b"Origin"), _EXPOSED, *self._timing]

    def encoded(self, request: Request) -> bytes:
        """The headers for one request as they are sent."""
        if self.everybody or not self._domains:
            return self.always_encoded
        return _encoded(self.of(request))


def _encoded(headers: list[RawHeader]) -> bytes:
    return b"".join([b"%b: %b\r\n" % header for header in headers])


_type_lines: dict[str, bytes] = {}


def _type_line(content_type: str) -> bytes:
    found = _type_lines.get(content_type)
    if found is None:
        found = b"content-type: " + content_type.encode("latin-1") + b"\r\n"
        if len(_type_lines) < 200:
            _type_lines[content_type] = found
    return found


_header_lines: dict[tuple[str, str], bytes] = {}


def _checked(header: tuple[str, str]) -> bytes:
    found = _header_lines.get(header)
    if found is None:
        name, value = header
        line = f"{name.lower()}: {value}".encode("latin-1", "replace")
        if b"\r" in line or b"\n" in line:
            raise ValueError(f"header {name!r} would contain a line break")
        found = line + b"\r\n"
        if len(_header_lines) < 200 and len(found) < 200:
            _header_lines[header] = found
    return found


def whole_head(request: Request, answer: Answer, common: CommonHeaders, size: int) -> bytes:
    """The encoded headers of an answer whose body has `size` bytes."""
    head = common.encoded(request)
    if answer.content_type is not None:
        head += _type_line(answer.content_type)
    for header in answer.headers:
        head += _checked(header)
    # RFC 9110, 8.6: an answer of status 204 has no body and must not say how long it would be.
    return head if answer.status == 204 else head + b"content-length: %d\r\n" % size


def of_error(error: FascicleError, path: str) -> Answer:
    """The answer that an expected error becomes."""
    if error.status == 204:
        return Answer(status=204)
    text = f"{error.message} ({path}).\n" if error.names_path else f"{error.message}\n"
    headers = [("X-Content-Type-Options", "nosniff")]
    if isinstance(error, RangeNotSatisfiable):
        headers.append(("Content-Range", f"bytes */{error.size}"))
    body = text.encode("utf-8", "backslashreplace")
    return Answer(body, "text/plain; charset=utf-8", error.status, headers)


def of_defect() -> Answer:
    """The answer to a request that met a defect of this program."""
    return Answer(b"Internal error while answering: see the server's log\n", "text/plain; charset=utf-8", 500)


def of_raised(error: BaseException, request: Request) -> Answer:
    """The answer to a request in which something was raised."""
    if isinstance(error, FascicleError):
        return of_error(error, request.path)
    log.error("%s %s failed", request.method, request.path, exc_info=error)
    return of_defect()


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

    __slots__ = ("_common", "_request", "_send", "_takes_parts", "headless", "size", "started", "status")

    def __init__(self, send: Send, request: Request, common: CommonHeaders, takes_parts: bool = False) -> None:
        self._send = send
        self._request = request
        self._common = common
        self._takes_parts = takes_parts
        self.headless = request.method == "HEAD"
        """Whether only the headers are sent."""
        self.status = 0
        self.size = 0
        self.started = False

    def _headers(self, answer: Answer) -> list[RawHeader]:
        headers = list(self._common.of(self._request))
        if answer.content_type is not None:
            headers.append((b"content-type", answer.content_type.encode("latin-1")))
        for name, value in answer.headers:
            given, _, encoded = _checked((name, value)).rstrip().partition(b": ")
            headers.append((given, encoded))
        return headers

    async def answer(self, answer: Answer) -> None:
        """Send an answer whose body is there."""
        body: Any = answer.body
        if not isinstance(body, (bytes, memoryview)) and not (self._takes_parts and type(body) is list):
            body = b"".join(body)
        headers = self._headers(answer)
        if type(body) is list:
            size = sum(map(len, body))
        else:
            size = body.nbytes if type(body) is memoryview else len(body)
        if answer.status not in (204, 304):  # RFC 9110, 8.6
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

    async def parts(self, parts: list[bytes | memoryview]) -> None:
        """Send several pieces; without a copy, if the server behind `send` can do that."""
        if len(parts) <= 1 or not self._takes_parts:
            await self.piece(parts[0] if len(parts) == 1 else b"".join(parts))
        elif not self.headless:
            self.size += sum(map(len, parts))
            await self._send({"type": "http.response.body", "body": parts, "more_body": True})

    async def end(self) -> None:
        await self._send({"type": "http.response.body", "body": b""})

    async def error(self, error: FascicleError) -> None:
        """Send an expected error; behind the beginning of an answer its text is appended to the body.

        An answer made of a volume that cannot be read any further is broken off: text would be taken for voxels.
        """
        answer = of_error(error, self._request.path)
        if self.started and isinstance(error, VolumeError):
            self.status = answer.status
            raise ConnectionAbortedError(error.message)
        if self.started:
            await self.piece(answer.body)  # type: ignore[arg-type]
            await self.end()
        else:
            await self.answer(answer)

    async def failure(self) -> None:
        """Send word of a defect; an answer that has begun is broken off, so that nobody takes it as whole."""
        if self.started:
            self.status = 500
            raise ConnectionAbortedError("the answer had begun")
        await self.answer(of_defect())

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
