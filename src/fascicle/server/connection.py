"""One HTTP/1.1 connection: parses requests with httptools and runs them.

uvicorn accepts connections, ticks the clock and ends the server; this class takes the place of its own protocol. A
request that is complete when its bytes arrive and that can be answered at once, or by one change of the store, is
answered without a task (`Application.quick`); all others are ASGI exchanges. Requests that a client sends ahead wait
for their turn.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections import deque
from collections.abc import Awaitable, Coroutine
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, cast

import httptools

from fascicle.server.requests import Request

if TYPE_CHECKING:
    import uvicorn
    from uvicorn.server import ServerState

    from fascicle.server.app import Application

log = logging.getLogger(__name__)

PARTS = "fascicle.parts"
"""Extension of ASGI: the body of a message may be a list of buffers, if it is not the end of a chunked answer."""
LARGEST_HEAD_BYTES = 16 << 20
"""URL and headers of a request together; keys of some hundred kilobytes are in use."""
QUICK_BODY_BYTES = 1 << 20
"""Larger bodies are not collected here but read by the application."""
READ_AHEAD_BYTES = 256 << 10
"""How much of a body may wait for the application before reading stops."""
JOINED_BODY_BYTES = 32 << 10
"""Smaller bodies are copied behind their headers, larger ones written on their own."""

STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}


class Connection(asyncio.Protocol):
    """The protocol of one connection, made by uvicorn."""

    def __init__(
        self,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self.app = cast("Application", config.loaded_app)
        self.state = server_state
        self.loop = _loop or asyncio.get_event_loop()
        self.idle_s = config.timeout_keep_alive
        self.parser = httptools.HttpRequestParser(self)
        self.transport: asyncio.Transport = cast(asyncio.Transport, None)
        self.client: tuple[str, int] | None = None
        self.exchange: Exchange | None = None
        self.waiting: deque[Exchange] = deque()
        self.writable: asyncio.Future[None] | None = None
        """Set while the other side does not take what was written."""
        self.closed = False
        self.ending = False
        self._reading = True
        self._last_active = 0.0
        self._head_bytes = 0
        self._url = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._arriving: Exchange | None = None

    # -- asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        peer = transport.get_extra_info("peername")
        self.client = (str(peer[0]), int(peer[1])) if isinstance(peer, tuple) else None
        self.state.connections.add(self)  # type: ignore[arg-type]
        self._last_active = self.loop.time()
        self.loop.call_later(self.idle_s, self._close_if_idle)

    def connection_lost(self, error: Exception | None) -> None:
        self.closed = True
        self.state.connections.discard(self)
        if self.exchange is not None:
            self.exchange.lost()
        self.resume_writing()
        self.waiting.clear()

    def eof_received(self) -> None:
        pass

    def pause_writing(self) -> None:
        if self.writable is None:
            self.writable = self.loop.create_future()

    def resume_writing(self) -> None:
        if self.writable is not None:
            writable, self.writable = self.writable, None
            if not writable.done():
                writable.set_result(None)

    def data_received(self, data: bytes) -> None:
        if self._arriving is None:
            self._head_bytes += len(data)
            if self._head_bytes > LARGEST_HEAD_BYTES:
                self._refuse(431, f"the head of a request may have {LARGEST_HEAD_BYTES} bytes\n")
                return
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            pass  # the request is answered as any other
        except httptools.HttpParserError as error:
            self._refuse(400, f"Invalid HTTP request: {error}\n")

    def _refuse(self, status: int, text: str) -> None:
        """Answer what is no request, and end the connection."""
        if self.exchange is None and not self.closed:
            body = text.encode()
            head = b"content-type: text/plain; charset=utf-8\r\nconnection: close\r\ncontent-length: %d\r\n\r\n"
            self.transport.write(STATUS_LINES[status] + head % len(body) + body)
        self.transport.close()

    def _close_if_idle(self) -> None:
        if self.closed:
            return
        idle = self.loop.time() - self._last_active
        if self.exchange is None and idle >= self.idle_s:
            self.transport.close()
            return
        wait = self.idle_s - idle if self.exchange is None else self.idle_s
        self.loop.call_later(max(wait, 1.0), self._close_if_idle)

    def shutdown(self) -> None:
        """Called by uvicorn when the server ends."""
        self.ending = True
        if self.exchange is None:
            self.transport.close()

    # -- httptools

    def on_message_begin(self) -> None:
        self._url = b""
        self._headers = []

    def on_url(self, url: bytes) -> None:
        self._url = self._url + url if self._url else url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        self._head_bytes = 0
        parser = self.parser
        path, _, query = self._url.partition(b"?")
        if not path.startswith(b"/"):
            path = httptools.parse_url(self._url).path or b"/"
        request = Request(parser.get_method().decode("ascii"), path, query, self._headers, self.client)
        exchange = Exchange(self, request, parser.should_keep_alive())
        self._arriving = exchange
        if request.has_body:
            length = request.content_length
            if length is None or length > QUICK_BODY_BYTES or "expect" in request.headers:
                exchange.collected = False
                self._begin(exchange)

    def on_body(self, body: bytes) -> None:
        exchange = self._arriving
        if exchange is not None and not exchange.complete:  # what comes behind an early answer is thrown away
            exchange.pieces.append(body)
            if not exchange.collected:
                exchange.take(len(body))

    def on_message_complete(self) -> None:
        exchange = self._arriving
        self._arriving = None
        if exchange is not None:
            exchange.more = False
            if exchange.collected:
                self._begin(exchange)
            else:
                exchange.wake()

    # -- exchanges

    def _begin(self, exchange: Exchange) -> None:
        """Run a request now, or after those that came before it."""
        if self.exchange is not None or self.waiting:
            self.waiting.append(exchange)
            self.pause_reading()
        else:
            self._run(exchange)

    def _run(self, exchange: Exchange) -> None:
        self.exchange = exchange
        if exchange.collected and self.writable is None:
            pieces = exchange.pieces
            body = b"" if not pieces else pieces[0] if len(pieces) == 1 else b"".join(pieces)
            if self.app.quick(exchange.request, body, exchange):
                return
        task = self.loop.create_task(exchange.run(), context=contextvars.Context())
        self.state.tasks.add(task)
        task.add_done_callback(self.state.tasks.discard)

    def finished(self, keep_alive: bool) -> None:
        """An exchange has sent its answer."""
        self.exchange = None
        self.state.total_requests += 1
        if not keep_alive or self.ending:
            self.transport.close()
            return
        self._last_active = self.loop.time()
        if self.waiting:
            self.loop.call_soon(self._next)
        elif not self._reading:
            self.resume_reading()

    def _next(self) -> None:
        if self.waiting and self.exchange is None and not self.closed:
            self._run(self.waiting.popleft())

    def pause_reading(self) -> None:
        if self._reading and not self.closed:
            self._reading = False
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        if not self._reading and not self.closed:
            self._reading = True
            self.transport.resume_reading()

    def common_head(self) -> bytes:
        """The headers that uvicorn keeps for all answers (the date), encoded."""
        return _encoded_once(self.state.default_headers)


_last_default: tuple[list[tuple[bytes, bytes]], bytes] = ([], b"")


def _encoded_once(headers: list[tuple[bytes, bytes]]) -> bytes:
    """Encoded headers; the list is a new one every second, the bytes of the last one are kept."""
    global _last_default
    kept, encoded = _last_default
    if kept is not headers:
        encoded = encode_headers(headers)
        _last_default = (headers, encoded)
    return encoded


def encode_headers(headers: list[tuple[bytes, bytes]]) -> bytes:
    return b"".join([b"%b: %b\r\n" % header for header in headers])


class Exchange:
    """One request and its answer: what a quick answer is given to, and the two sides of an ASGI application."""

    __slots__ = (
        "_chunked",
        "_left",
        "_started",
        "_waiter",
        "collected",
        "complete",
        "connection",
        "gone",
        "keep_alive",
        "more",
        "pieces",
        "request",
        "size",
    )

    def __init__(self, connection: Connection, request: Request, keep_alive: bool) -> None:
        self.connection = connection
        self.request = request
        self.keep_alive = keep_alive
        self.collected = True
        """The body is complete before the request is run."""
        self.pieces: list[bytes] = []
        self.size = 0
        self.more = True
        self.complete = False
        self.gone = False
        self._started = False
        self._chunked = False
        self._left = 0
        self._waiter: asyncio.Future[None] | None = None

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        return self.connection.loop

    # -- the body

    def take(self, size: int) -> None:
        """A piece of the body has arrived."""
        self.size += size
        if self.size > READ_AHEAD_BYTES:
            self.connection.pause_reading()
        self.wake()

    def wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def lost(self) -> None:
        """The connection is gone."""
        self.gone = True
        self.wake()

    async def receive(self) -> dict[str, Any]:
        if not self._started and "expect" in self.request.headers and not self.pieces and self.more:
            self.connection.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        while not self.pieces and self.more and not self.gone and not self.complete:
            self.connection.resume_reading()
            self._waiter = self.connection.loop.create_future()
            await self._waiter
            self._waiter = None
        if self.complete or (self.gone and (self.more or not self.pieces)):
            return {"type": "http.disconnect"}
        body = self.pieces[0] if len(self.pieces) == 1 else b"".join(self.pieces)
        self.pieces.clear()
        self.size = 0
        return {"type": "http.request", "body": body, "more_body": self.more}

    # -- the answer

    def write(self, status: int, head: bytes, body: bytes | memoryview | list[bytes | memoryview]) -> None:
        """Send a whole answer; `head` are its encoded headers with its length, a body may come in parts."""
        connection = self.connection
        if self.gone or connection.closed:
            self.complete = True
            connection.exchange = None
            return
        keep_alive = self.keep_alive and not connection.ending
        first: list[bytes | memoryview] = [
            STATUS_LINES[status],
            connection.common_head(),
            head,
            b"\r\n" if keep_alive else _CLOSE,
        ]
        if isinstance(body, list):
            connection.transport.writelines([b"".join(first), *body])
        elif len(body) <= JOINED_BODY_BYTES:
            first.append(body)
            connection.transport.write(b"".join(first))
        else:
            connection.transport.writelines((b"".join(first), body))
        self.complete = True
        connection.finished(keep_alive)

    async def run(self) -> None:
        """Let the application answer."""
        connection = self.connection
        request = self.request
        scope: dict[str, Any] = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": request.method,
            "scheme": "http",
            "path": request.path,
            "raw_path": request.raw_path,
            "query_string": request.raw_query,
            "root_path": "",
            "headers": request.raw_headers,
            "client": connection.client,
            "server": None,
            "extensions": {PARTS: {}},
            "fascicle.request": request,
        }
        await self._sent(connection.app(scope, self.receive, self.send))

    def start(self, sending: Coroutine[Any, Any, None]) -> None:
        """Let a task send an answer."""
        connection = self.connection
        task = connection.loop.create_task(self._sent(sending), context=contextvars.Context())
        connection.state.tasks.add(task)
        task.add_done_callback(connection.state.tasks.discard)

    async def _sent(self, sending: Awaitable[None]) -> None:
        """Wait until an answer is sent; end the connection if it was broken off."""
        connection = self.connection
        try:
            await sending
        except Exception:
            log.debug("an answer was broken off", exc_info=True)
        if not self.complete:
            self.complete = True
            connection.exchange = None
            connection.transport.close()

    async def send(self, message: dict[str, Any]) -> None:
        connection = self.connection
        if connection.writable is not None and not connection.closed:
            await connection.writable
        if self.gone or connection.closed:
            return
        if not self._started:
            self._start(message["status"], message["headers"])
            return
        body = message.get("body", b"")
        more = message.get("more_body", False)
        if self.request.method == "HEAD":
            body = b""
        if type(body) is list:
            if self._chunked:
                connection.transport.write(b"%x\r\n" % sum(map(len, body)))
            connection.transport.writelines(body)
            if self._chunked:
                connection.transport.write(b"\r\n")
        elif self._chunked:
            if len(body):
                connection.transport.write(b"%x\r\n" % len(body))
                connection.transport.write(body)
                connection.transport.write(b"\r\n" if more else b"\r\n0\r\n\r\n")
            elif not more:
                connection.transport.write(b"0\r\n\r\n")
        elif len(body):
            connection.transport.write(body)
        if not more:
            self.complete = True
            connection.finished(self.keep_alive)

    def _start(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        self._started = True
        connection = self.connection
        head = [STATUS_LINES[status], connection.common_head(), encode_headers(headers)]
        known = any(name == b"content-length" for name, _ in headers)
        if not known and self.request.method != "HEAD" and status not in (204, 304):
            self._chunked = True
            head.append(b"transfer-encoding: chunked\r\n")
        if connection.ending or (self.more and not self.pieces and "expect" in self.request.headers):
            self.keep_alive = False  # in the second case it is not known whether the body will come
        head.append(b"\r\n" if self.keep_alive else _CLOSE)
        connection.transport.write(b"".join(head))


_CLOSE = b"connection: close\r\n\r\n"
