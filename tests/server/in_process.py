"""An application in this process, asked over ASGI without a socket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from fascicle.config import Settings
from fascicle.server.app import Application
from fascicle.store import Store
from fascicle.store.memory import MemoryStore

TOKEN = "secret"


@dataclass
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes
    pieces: int

    @property
    def text(self) -> str:
        return self.body.decode()

    def json(self) -> Any:
        return json.loads(self.body)


class InProcess:
    """Requests to an application over a store in memory."""

    def __init__(self, store: Store | None = None, token: str = "", **server: Any) -> None:
        settings = Settings(admin_token=token)
        for name, value in server.items():
            assert hasattr(settings.server, name)
            setattr(settings.server, name, value)
        self.store = store or MemoryStore()
        self.loop = asyncio.new_event_loop()
        self.app = Application(self.store, settings)

    def close(self) -> None:
        self.loop.run_until_complete(self.app.close())
        self.loop.close()

    def ask(
        self, method: str, path: str, body: Any = b"", headers: dict[str, str] | None = None, pieces: int = 1
    ) -> Reply:
        """One request, with its body in some number of pieces."""
        return self.loop.run_until_complete(self.asking(method, path, body, headers, pieces))

    async def asking(
        self, method: str, path: str, body: Any = b"", headers: dict[str, str] | None = None, pieces: int = 1
    ) -> Reply:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        raw_path, _, query = path.partition("?")
        given = [(name.lower().encode(), value.encode()) for name, value in (headers or {}).items()]
        if data:
            given.append((b"content-length", str(len(data)).encode()))
        scope = {
            "type": "http",
            "method": method,
            "path": raw_path,
            "raw_path": raw_path.encode(),
            "query_string": query.encode(),
            "headers": given,
            "client": ("10.0.0.7", 1234),
        }
        waiting: Iterator[dict[str, Any]] = iter(_messages(data, pieces))
        sent: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            return next(waiting, {"type": "http.disconnect"})

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        await self.app(scope, receive, send)
        bodies = [message.get("body", b"") for message in sent[1:]]
        found = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
        return Reply(sent[0]["status"], found, b"".join(bodies), len(bodies))

    def get(self, path: str, body: Any = b"", **headers: str) -> Reply:
        return self.ask("GET", path, body, headers)

    def post(self, path: str, body: Any = b"") -> Reply:
        return self.ask("POST", path, body)

    def made(self, path: str, body: Any = b"") -> Any:
        """The JSON of a POST that must succeed."""
        reply = self.post(path, body)
        assert reply.status == 200, reply.text
        return reply.json() if reply.body else None

    def repo(self, options: str = "", **members: str) -> str:
        """A new repo's UUID."""
        uuid: str = self.made(f"/api/repos{options}", members)["root"]
        return uuid

    def instance(self, uuid: str, name: str, typename: str = "keyvalue", **settings: Any) -> None:
        self.made(f"/api/repo/{uuid}/instance", {"typename": typename, "dataname": name, **settings})

    def child(self, uuid: str) -> str:
        """Lock a version; its new child."""
        self.made(f"/api/node/{uuid}/commit", {})
        child: str = self.made(f"/api/node/{uuid}/newversion")["child"]
        return child


def _messages(data: bytes, pieces: int) -> Iterator[dict[str, Any]]:
    size = max(1, -(-len(data) // pieces))
    parts = [data[at : at + size] for at in range(0, len(data), size)] or [b""]
    for number, part in enumerate(parts, 1):
        yield {"type": "http.request", "body": part, "more_body": number < len(parts)}
