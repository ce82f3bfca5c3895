"""Requests of the HTTP API from any number of threads, to a server or to a store folder in this process."""

from __future__ import annotations

import getpass
import os
import threading
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import msgspec

from fascicle.errors import BadRequest, FascicleError, NotFound
from fascicle.pipeline.ingest_connections import Connection, LocalConnection, ServerConnection

APP = "fascicle"


class Refused(FascicleError):
    """The server refused a request, and says why."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class Place:
    """A server, or a store folder. May be used by several threads; a server can be sent to other processes."""

    def __init__(self, address: str, token: str = "", user: str = "") -> None:
        self.address = address
        self.token = token or os.environ.get("FASCICLE_ADMIN_TOKEN") or os.environ.get("DVID_ADMIN_TOKEN") or ""
        self.user = user or _user()
        self.is_server = "://" in address
        self._own = threading.local()
        self._opened: list[Connection] = []
        self._lock = threading.Lock()
        self._local: LocalConnection | None = None
        if not self.is_server:
            folder = Path(address).expanduser()
            if not folder.is_dir():
                raise NotFound(f"there is no store in {address}; the address of a server begins with http://")
            self._local = LocalConnection(folder)

    def __reduce__(self) -> tuple[Any, ...]:
        if not self.is_server:
            raise TypeError(f"the store {self.address} is open in this process and cannot be sent to another one")
        return Place, (self.address, self.token, self.user)

    def connection(self) -> Connection:
        """The connection of the calling thread."""
        if self._local is not None:
            return self._local
        found: Connection | None = getattr(self._own, "connection", None)
        if found is None:
            found = self._own.connection = ServerConnection(self.address, self.token)
            with self._lock:
                self._opened.append(found)
        return found

    def exchange(self, method: str, path: str, body: bytes | memoryview = b"", **query: Any) -> tuple[int, bytes]:
        """Status and body of an answer. `path` has its parts quoted already."""
        asked = {name: value for name, value in query.items() if value not in (None, "", False)}
        if method != "GET":
            asked = {"u": self.user, "app": APP, **asked}
        options = urlencode({name: "true" if value is True else value for name, value in asked.items()})
        return self.connection().exchange(method, f"{path}?{options}" if options else path, body)

    def request(self, method: str, path: str, body: bytes | memoryview = b"", **query: Any) -> bytes:
        """The body of an answer. Raises Refused with the server's words, NotFound if it answers so."""
        status, answer = self.exchange(method, path, body, **query)
        if status == 200:
            return answer
        text = answer[:500].decode("utf-8", "replace").strip() or f"{method} {path} was refused with {status}"
        raise NotFound(text) if status == 404 else Refused(text, status)

    def json(self, method: str, path: str, document: Any = None, **query: Any) -> Any:
        """The same with JSON both ways; an empty answer is None."""
        body = b"" if document is None else msgspec.json.encode(document)
        answer = self.request(method, path, body, **query)
        return msgspec.json.decode(answer) if answer else None

    def close(self) -> None:
        """Let go of connections, and of a store that was opened."""
        with self._lock:
            opened, self._opened = self._opened, []
        for connection in opened:
            connection.close()
        self._own = threading.local()
        if self._local is not None:
            self._local.close()
            self._local = None


def path_of(*parts: str | int) -> str:
    """A path below /api/node with each part quoted."""
    return "/api/node/" + "/".join(quote(str(part), safe=":~") for part in parts)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):
        return APP


def checked_label(label: int) -> int:
    """A label that can be one. Raises BadRequest."""
    value = int(label)
    if not 0 <= value < 1 << 64:
        raise BadRequest(f"{label} is no label: labels are from 0 to 2^64 - 1")
    return value
