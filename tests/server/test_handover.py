"""Changes that an event loop hands over to a store, and edits of versions that need no task."""

from __future__ import annotations

import asyncio
import threading
from functools import partial
from types import SimpleNamespace
from typing import Any

from fascicle.datatypes.base import Work
from fascicle.errors import Unavailable
from fascicle.server.app import Application
from fascicle.server.handover import Handover
from fascicle.store.base import Outcome, WriteTransaction
from fascicle.store.memory import MemoryStore
from serving import Client


class Watched(MemoryStore):
    """Notes when changes arrive."""

    def __init__(self) -> None:
        super().__init__()
        self.arrived = 0

    def submit(self, change: Any, done: Any) -> None:
        self.arrived += 1
        super().submit(change, done)


def test_changes_go_when_the_loop_has_dealt_with_what_arrived() -> None:
    store = Watched()
    handover = Handover(store)
    heard: list[tuple[Any, bool]] = []

    async def asking() -> None:
        loop = asyncio.get_running_loop()
        all_heard = loop.create_future()
        main = threading.current_thread()

        def receiver(outcome: Outcome) -> None:
            heard.append((outcome.result, threading.current_thread() is main))
            if len(heard) == 3:
                all_heard.set_result(None)

        def putting(key: bytes, txn: WriteTransaction) -> bytes:
            txn.put(key, b"x")
            return key

        for key in (b"0", b"1", b"2"):
            handover.submit(loop, partial(putting, key), receiver)
        assert store.arrived == 0
        await asyncio.sleep(0)
        assert store.arrived == 3
        await asyncio.wait_for(all_heard, 10)

    asyncio.run(asking())
    assert heard == [(b"0", True), (b"1", True), (b"2", True)]
    with store.read() as txn:
        assert list(txn.scan_keys(b"", b"\xff")) == [b"0", b"1", b"2"]
    store.close()


def test_a_store_that_was_closed_meanwhile() -> None:
    store = Watched()
    handover = Handover(store)
    heard: list[Outcome] = []

    async def asking() -> None:
        handover.submit(asyncio.get_running_loop(), lambda txn: None, heard.append)
        store.close()
        await asyncio.sleep(0)

    asyncio.run(asking())
    assert [type(outcome.error) for outcome in heard] == [Unavailable]


def test_versions_over_one_connection(server: Any) -> None:
    with Client(server.url) as client:
        root = client.post("/api/repos?admintoken=test-token", {}).expect().json()["root"]
        path = f"/api/node/{root}"
        client.post(f"{path}/note", {"note": "first"}).expect()
        assert client.get(f"{path}/note").expect().json() == {"note": "first"}
        assert b"Malformed JSON" in client.post(f"{path}/note", b"[1").expect(400).body
        assert b"can't branch an unlocked node" in client.post(f"{path}/newversion").expect(400).body
        head = client.head(f"{path}/status").expect()
        assert head.body == b""
        assert int(head.headers["content-length"]) == len(client.get(f"{path}/status").body)
        assert client.get(f"{path}/nonsense").expect(404).body == b"404 page not found\n"
        assert b'does not support "delete"' in client.delete(f"{path}/commit").expect(400).body
        assert client.post(f"{path}/commit", {"note": "done"}).expect().json() == {"committed": root}
        child = client.post(f"{path}/newversion").expect().json()["child"]
        assert client.get(f"/api/node/{child}/status").expect().json() == {"Locked": False}
        assert client.post(f"{path}/newversion").expect(400).headers["content-type"].startswith("text/plain")


def test_the_loop_answers_heavy_requests_only_once_kernels_are_compiled() -> None:
    plan = SimpleNamespace(
        route=SimpleNamespace(work=Work.HEAVY, at_once=lambda call: f"answer to {call}"),
        instance=SimpleNamespace(properties={}),
    )
    app: Any = SimpleNamespace(kernels_ready=False, _call=lambda *_: "call")
    request: Any = SimpleNamespace(method="GET")
    assert Application._reply_now(app, request, plan, None, b"") is None  # type: ignore[arg-type]
    app.kernels_ready = True
    assert Application._reply_now(app, request, plan, None, b"") == "answer to call"  # type: ignore[arg-type]
