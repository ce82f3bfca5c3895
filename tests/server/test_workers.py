"""Several processes over one store."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

from serving import new_instance, new_repo


def test_every_worker_sees_what_another_one_has_acknowledged(launch: Callable[..., Any]) -> None:
    running = launch("--workers", "2")
    clients = [running.client() for _ in range(8)]  # spread over both workers
    root = new_repo(clients[0])
    path = new_instance(clients[1], root, "keyvalue", "kv")
    uuid = root
    for number in range(30):
        writer, *readers = clients[number % 8 :] + clients[: number % 8]
        writer.post(f"/api/node/{uuid}/kv/key/k", f"{number}").expect()
        for reader in readers:
            assert reader.get(f"/api/node/{uuid}/kv/key/k").expect().body == b"%d" % number
        writer.post(f"/api/node/{uuid}/commit", {}).expect()
        uuid = readers[0].post(f"/api/node/{uuid}/newversion").expect().json()["child"]
    assert len(clients[3].get(f"/api/repo/{root}/info").json()["DAG"]["Nodes"]) == 31
    assert clients[5].get(f"{path}/key/k").body == b"0"
    for client in clients:
        client.close()
    started = time.monotonic()
    assert running.stop() == 0
    assert time.monotonic() - started < 3.0


def test_writes_of_both_workers_are_kept(launch: Callable[..., Any]) -> None:
    running = launch("--workers", "2")
    with running.client() as client:
        root = new_repo(client)
        new_instance(client, root, "keyvalue", "kv")

    def write(worker: int) -> None:
        with running.client() as client:
            for number in range(40):
                client.post(f"/api/node/{root}/kv/key/{worker}-{number}", "x").expect()

    threads = [threading.Thread(target=write, args=(worker,)) for worker in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with running.client() as client:
        assert len(client.get(f"/api/node/{root}/kv/keys").json()) == 240
        assert len(client.get(f"/api/node/{root}/kv/mutations").json()) == 240


def test_a_worker_that_dies_is_started_again(launch: Callable[..., Any]) -> None:
    running = launch("--workers", "2")
    children = _children(running.pid)
    for child in children:
        os.kill(child, signal.SIGKILL)
    deadline = time.monotonic() + 20
    while len(set(_children(running.pid)) - set(children)) < 2:
        assert time.monotonic() < deadline, "no new workers"
        time.sleep(0.1)
    with running.client() as client:
        client.get("/api/repos/info").expect()
    assert running.stop() == 0


def _children(parent: int) -> list[int]:
    """The worker processes: spawned Python programs, without the process that watches over their resources."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdecimal():
            try:
                with open(f"/proc/{entry}/stat") as stat:
                    fields = stat.read().rsplit(")", 1)[1].split()
                with open(f"/proc/{entry}/cmdline") as command:
                    spawned = "spawn_main" in command.read()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if int(fields[1]) == parent and spawned:
                found.append(int(entry))
    return found
