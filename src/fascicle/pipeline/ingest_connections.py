"""Two ways to talk to a server: over HTTP, or to one that runs inside of this process on a data folder.

Both carry the same requests to the same code, so what is ingested does not depend on the way.
"""

from __future__ import annotations

import asyncio
import http.client
import queue
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

import msgspec

from fascicle.errors import FascicleError
from fascicle.store.base import Store

TIMEOUT_S = 600.0
ATTEMPTS = 5
_PIECE = 1 << 20
Body = bytes | memoryview


class IngestError(FascicleError):
    """The ingest cannot go on; the message says why and what to do."""


class Connection(ABC):
    """Requests of the HTTP API, one at a time."""

    token: str = ""
    """Administrators' token, for what needs it."""

    @abstractmethod
    def exchange(self, method: str, path: str, body: Body) -> tuple[int, bytes]:
        """Status and body of the answer."""

    @abstractmethod
    def pieces(self, path: str) -> Iterator[bytes]:
        """The answer to a GET in pieces as they come, so that it may be of any size.

        Raises IngestError if it is refused or ends too early. No other request may be made before it has ended.
        """

    @abstractmethod
    def another(self) -> Connection:
        """A connection to the same place, for requests beside an answer in pieces. To be closed before this one."""

    @abstractmethod
    def close(self) -> None:
        """Let go of the connection."""

    def request(self, method: str, path: str, body: Body = b"") -> bytes:
        """The answer's body. Raises IngestError with the server's message if it refuses."""
        status, answer = self.exchange(method, path, body)
        if status != 200:
            raise _refused(method, path, status, answer)
        return answer

    def json(self, method: str, path: str, document: Any = None) -> Any:
        """The same with JSON both ways; an empty answer is None."""
        answer = self.request(method, path, b"" if document is None else msgspec.json.encode(document))
        return msgspec.json.decode(answer) if answer else None

    def privileged(self, path: str) -> str:
        """A path with the administrators' token, if there is one."""
        if not self.token:
            return path
        return f"{path}{'&' if '?' in path else '?'}admintoken={self.token}"

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def _refused(method: str, path: str, status: int, answer: bytes) -> IngestError:
    text = answer[:500].decode("utf-8", "replace").strip()
    return IngestError(f"{method} {path.partition('?')[0]} was refused with {status}: {text}")


class ServerConnection(Connection):
    """One kept-alive connection; a request that gets no answer is repeated, which is harmless for all that we send."""

    def __init__(self, url: str, token: str = "") -> None:
        place = urlsplit(url if "://" in url else f"http://{url}")
        if place.scheme not in ("http", "https") or not place.hostname:
            raise IngestError(f"{url!r} is no address of a server; it must look like http://127.0.0.1:8000")
        kind = http.client.HTTPSConnection if place.scheme == "https" else http.client.HTTPConnection
        self.url = f"{place.scheme}://{place.netloc}"
        self.token = token
        self._connection = kind(place.hostname, place.port, timeout=TIMEOUT_S)

    def exchange(self, method: str, path: str, body: Body) -> tuple[int, bytes]:
        for attempt in range(ATTEMPTS):
            try:
                self._connection.request(method, path, body or None, {"Content-Length": str(len(body))})
                answer = self._connection.getresponse()
                data = answer.read()
            except (OSError, http.client.HTTPException) as error:
                self._connection.close()
                problem: object = error
            else:
                if answer.status != 503:
                    return answer.status, data
                problem = data[:200].decode("utf-8", "replace")
            if attempt < ATTEMPTS - 1:
                time.sleep(0.2 * 2**attempt)
        raise IngestError(f"no answer from {self.url}: {problem}")

    def pieces(self, path: str) -> Iterator[bytes]:
        answer = None
        try:
            self._connection.request("GET", path, None, {"Content-Length": "0"})
            answer = self._connection.getresponse()
            if answer.status != 200:
                raise _refused("GET", path, answer.status, answer.read())
            while piece := answer.read(_PIECE):
                yield piece
        except (OSError, http.client.HTTPException) as error:
            raise IngestError(f"no answer from {self.url}: {error}") from None
        finally:
            if answer is None or not answer.isclosed():
                self._connection.close()  # what is left of it must not be taken for the next answer

    def another(self) -> Connection:
        return ServerConnection(self.url, self.token)

    def close(self) -> None:
        self._connection.close()


_open_here: dict[Path, Store] = {}


def store_open_here(folder: Path) -> Store | None:
    """The store of a folder that a connection of this process has open: it cannot be opened twice in one process."""
    return _open_here.get(folder.resolve())


class LocalConnection(Connection):
    """The server's application on a data folder, in this process, without a network."""

    def __init__(self, folder: Path) -> None:
        from fascicle.config import Settings
        from fascicle.server.app import Application
        from fascicle.store import open_store

        self._store = open_store(folder)
        self._folder = folder.resolve()
        _open_here[self._folder] = self._store
        self._application = Application(self._store, Settings(data=folder))
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="ingest", daemon=True)
        self._thread.start()

    def exchange(self, method: str, path: str, body: Body) -> tuple[int, bytes]:
        status, answer = self._run(self._exchange(method, path, body))
        return status, answer

    def another(self) -> Connection:
        return _Shared(self)

    def close(self) -> None:
        self._run(self._application.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        _open_here.pop(self._folder, None)
        self._store.close()

    def _run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def pieces(self, path: str) -> Iterator[bytes]:
        waiting: queue.Queue[bytes | int | None] = queue.Queue(8)
        given_up, ended = threading.Event(), threading.Event()

        def put(item: bytes | int | None) -> None:
            while not given_up.is_set():
                try:
                    waiting.put(item, timeout=0.1)
                    return
                except queue.Full:
                    continue

        async def work() -> None:
            loop = asyncio.get_running_loop()
            try:
                await self._exchange("GET", path, b"", lambda item: loop.run_in_executor(None, put, item))
            finally:
                ended.set()
                if not given_up.is_set():
                    await loop.run_in_executor(None, put, None)

        running = asyncio.run_coroutine_threadsafe(work(), self._loop)
        try:
            status, refusal = 0, b""
            while (item := waiting.get()) is not None:
                if isinstance(item, int):
                    status = item
                elif status == 200:
                    yield item
                else:
                    refusal += item
            running.result()
            if status != 200:
                raise _refused("GET", path, status, refusal)
        finally:
            given_up.set()
            running.cancel()  # as for a client that has gone
            ended.wait(TIMEOUT_S)

    async def _exchange(
        self, method: str, path: str, body: Body, forward: Callable[[bytes | int], Awaitable[None]] | None = None
    ) -> tuple[int, bytes]:
        """The answer; with `forward` its status and its pieces go there as they come."""
        path, _, query = path.partition("?")
        scope = {
            "type": "http",
            "http_version": "1.1",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "headers": [(b"content-length", str(len(body)).encode())],
            "client": ("127.0.0.1", 0),
            "server": ("127.0.0.1", 0),
            "scheme": "http",
        }
        sent = 0
        status, pieces = 0, []

        async def receive() -> dict[str, Any]:
            nonlocal sent
            piece = bytes(memoryview(body)[sent : sent + (4 << 20)])
            sent += len(piece)
            return {"type": "http.request", "body": piece, "more_body": sent < len(body)}

        async def send(message: dict[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if forward is not None:
                    await forward(status)
            elif forward is not None:
                await forward(bytes(message.get("body", b"")))
            else:
                pieces.append(bytes(message.get("body", b"")))

        await self._application(scope, receive, send)
        return status, b"".join(pieces)


class _Shared(Connection):
    """The application of another connection, which stays open."""

    def __init__(self, owner: LocalConnection) -> None:
        self._owner = owner

    def exchange(self, method: str, path: str, body: Body) -> tuple[int, bytes]:
        return self._owner.exchange(method, path, body)

    def pieces(self, path: str) -> Iterator[bytes]:
        return self._owner.pieces(path)

    def another(self) -> Connection:
        return _Shared(self._owner)

    def close(self) -> None:
        pass
