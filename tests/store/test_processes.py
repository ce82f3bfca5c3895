"""Several processes on one store, and processes that die."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from fascicle.errors import StoreError
from fascicle.store.base import WriteTransaction
from fascicle.store.lmdb_engine import LmdbStore
from fascicle.testing.store import END, contents

sys.path.insert(0, str(Path(__file__).parent))
from store_process import BATCH_KEYS, SEGMENT_BYTES, batch_value

SCRIPT = Path(__file__).with_name("store_process.py")


def start(folder: Path, *job: object) -> subprocess.Popen[str]:
    command = [sys.executable, str(SCRIPT), str(folder), *map(str, job)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


class Other:
    """Another process on the same store."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"

    def send(self, *command: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()

    def receive(self) -> Any:
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())

    def ask(self, *command: Any) -> Any:
        self.send(*command)
        return self.receive()


@contextmanager
def other(folder: Path) -> Iterator[Other]:
    process = start(folder, "obey")
    try:
        yield Other(process)
    finally:
        process.kill()
        process.communicate()


def test_each_process_sees_what_the_other_has_written(tmp_path: Path) -> None:
    store = LmdbStore(tmp_path / "store", segment_bytes=SEGMENT_BYTES)
    with other(tmp_path / "store") as process:
        for i in range(20):
            mine, theirs = os.urandom(i * 4000), os.urandom(i * 3000)
            store.write(lambda txn, mine=mine: txn.put(b"mine", mine))
            assert process.ask("get", "mine") == mine.hex()
            process.ask("put", "theirs", theirs.hex())
            assert contents(store) == {b"mine": mine, b"theirs": theirs}
    assert store.check() == []
    store.close()


def test_many_processes_may_make_one_store_at_once(tmp_path: Path) -> None:
    processes = [start(tmp_path / "store", "obey") for _ in range(6)]
    try:
        for process in [Other(process) for process in processes]:
            assert process.ask("add", "count", 5) == "done"
            last = process.ask("get", "count")
        assert bytes.fromhex(last) == b"30"
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def test_no_increment_of_two_processes_is_lost(tmp_path: Path) -> None:
    store = LmdbStore(tmp_path / "store")
    with other(tmp_path / "store") as process:
        process.send("add", "count", 200)
        for _ in range(200):
            store.write(lambda txn: txn.put(b"count", b"%d" % (int(txn.get(b"count") or b"0") + 1)))
        assert process.receive() == "done"
    assert contents(store) == {b"count": b"400"}
    store.close()


def test_a_map_that_another_process_has_grown_is_adopted(tmp_path: Path) -> None:
    store = LmdbStore(tmp_path / "store", map_bytes=1 << 20)
    with other(tmp_path / "store") as process:  # this one starts with a large map
        for i in range(40):
            process.ask("put", f"key{i}", (b"x" * 1200).hex())
        store.write(lambda txn: [txn.put(b"%05d" % i, b"x" * 1000) for i in range(3000)])
        assert process.ask("get", "02999") == (b"x" * 1000).hex()
        assert len(contents(store)) == 3040
    store.close()


def test_changes_run_again_if_another_process_wrote_while_the_map_grew(tmp_path: Path) -> None:
    store = LmdbStore(tmp_path / "store", map_bytes=128 << 10)
    with other(tmp_path / "store") as process:
        grow, runs = store._grow_map, []

        def grow_late() -> None:
            grow()
            if len(runs) == 1:
                process.ask("add", "count", 5)

        store._grow_map = grow_late  # type: ignore[method-assign]

        def change(txn: WriteTransaction) -> None:
            runs.append(1)
            txn.put(b"count", b"%d" % (int(txn.get(b"count") or b"0") + 1))
            for i in range(300):
                txn.put(b"fill%d" % i, b"x" * 1000)

        store.write(change)
        assert len(runs) == 2
        assert contents(store)[b"count"] == b"6"
    assert store.check() == []
    store.close()


def test_the_slot_of_a_killed_reader_is_freed(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    store = LmdbStore(folder)
    store.write(lambda txn: txn.put(b"key", b"1"))
    process = start(folder, "hold")
    assert process.stdout is not None
    assert process.stdout.readline() == "holding\n"
    process.kill()
    process.communicate()
    for i in range(200):
        store.write(lambda txn, i=i: txn.put(b"key", b"%d" % i * 1000))
    assert str(process.pid) in store._env.readers()
    store._readers_checked -= 1000
    store.write(lambda txn: txn.put(b"key", b"2"))
    store.write(lambda txn: txn.put(b"key", b"3"))
    assert str(process.pid) not in store._env.readers()
    store.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_is_told_to_open_its_own(tmp_path: Path) -> None:
    store = LmdbStore(tmp_path / "store")
    store.write(lambda txn: txn.put(b"key", b"value"))
    child = os.fork()
    if child == 0:
        refused = 0
        for use in (lambda: store.read().__enter__(), lambda: store.write(lambda txn: None)):
            try:
                use()
            except StoreError as error:
                refused += "fork" in error.message
        os._exit(0 if refused == 2 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert contents(store) == {b"key": b"value"}
    store.close()


def test_a_store_opens_once_in_a_process(tmp_path: Path) -> None:
    store = LmdbStore(tmp_path / "store")
    with pytest.raises(StoreError, match="already open"):
        LmdbStore(tmp_path / "store")
    store.write(lambda txn: txn.put(b"key", b"value"))
    store.close()


def read_line(process: subprocess.Popen[str]) -> str:
    """The first acknowledgement of a process: it is at work."""
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line
    return line


def kill_rounds(folder: Path, rounds: int, writers: int) -> int:
    """Kill writers at random moments; how many batches were acknowledged and found again, whole."""
    chance = random.Random(7)
    acknowledged: list[set[int]] = [set() for _ in range(writers)]
    for _ in range(rounds):
        processes = [
            start(folder, "acknowledge", writer, max(acknowledged[writer], default=-1) + 1) for writer in range(writers)
        ]
        heard = [read_line(process) for process in processes]
        time.sleep(chance.random() * 0.03)
        for process in processes:
            process.send_signal(signal.SIGKILL)
        for writer, process in enumerate(processes):
            assert process.stdout is not None
            lines = (heard[writer] + process.stdout.read()).split("\n")
            acknowledged[writer].update(int(line) for line in lines[:-1])
            process.communicate()
        store = LmdbStore(folder, segment_bytes=SEGMENT_BYTES)
        verify(store, acknowledged)
        store.close()
    return sum(map(len, acknowledged))


def verify(store: LmdbStore, acknowledged: list[set[int]]) -> None:
    assert store.check() == []
    with store.read() as txn:
        for writer, numbers in enumerate(acknowledged):
            found: dict[int, int] = {}
            for key in txn.scan_keys(b"%d/" % writer, b"%d0" % writer):
                number, i = map(int, key.split(b"/")[1:])
                found[number] = found.get(number, 0) + 1
                if number % 50 == 0 or number > max(numbers) - 20:
                    assert txn.get(key) == batch_value(writer, number, i)
            assert set(found.values()) == {BATCH_KEYS}, "a batch is there in part"
            assert numbers <= found.keys(), "an acknowledged batch is lost"
            numbers.update(found)  # written, but killed before it could say so
        assert sum(1 for _ in txn.scan_keys(b"", END)) == BATCH_KEYS * sum(map(len, acknowledged))


def test_nothing_acknowledged_is_lost_when_killed(tmp_path: Path) -> None:
    assert kill_rounds(tmp_path / "store", 6, 1) >= 6
    assert kill_rounds(tmp_path / "shared", 2, 2) >= 4


@pytest.mark.slow
def test_nothing_acknowledged_is_lost_in_many_kills(tmp_path: Path) -> None:
    for part in range(10):  # a new folder now and then keeps verifying short
        assert kill_rounds(tmp_path / f"store{part}", 18, 1) >= 18
    assert kill_rounds(tmp_path / "shared", 20, 2) >= 40
