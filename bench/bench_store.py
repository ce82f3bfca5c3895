"""The store against plain LMDB and SQLite, in one run: `python bench/bench_store.py [--folder FOLDER]`.

Each line gives a figure for each and how many times faster the store is. Rounds alternate and the best of them counts,
so a busy machine disturbs all alike. "Cold" means that the files' pages were dropped from memory before. All writes are
synced to disk before they are acknowledged.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sqlite3
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import lmdb

from fascicle.store.base import Outcome
from fascicle.store.lmdb_engine import LmdbStore

SUBMITTERS = 32
SMALL = 100
LARGE = 60_000
SMALL_COUNT = 100_000
LARGE_COUNT = 600
ROUNDS = 3


class Peer(Protocol):
    name: str

    def put(self, key: bytes, value: bytes) -> None: ...
    def put_many(self, items: Iterable[tuple[bytes, bytes]]) -> None: ...
    def get(self, key: bytes) -> bytes | None: ...
    def get_many(self, keys: list[bytes]) -> int: ...
    def count(self, start: bytes, stop: bytes) -> int: ...
    def close(self) -> None: ...


class Fascicle:
    name = "fascicle"

    def __init__(self, folder: Path) -> None:
        self.store = LmdbStore(folder)

    def put(self, key: bytes, value: bytes) -> None:
        self.store.write(lambda txn: txn.put(key, value))

    def put_many(self, items: Iterable[tuple[bytes, bytes]]) -> None:
        self.store.write(lambda txn: [txn.put(key, value) for key, value in items])

    def get(self, key: bytes) -> bytes | None:
        with self.store.read() as txn:
            return txn.get(key)

    def get_many(self, keys: list[bytes]) -> int:
        with self.store.read() as txn:
            return int(txn.load_many([txn.handle(key) or b"" for key in keys]).lengths.sum())

    def count(self, start: bytes, stop: bytes) -> int:
        with self.store.read() as txn:
            return sum(1 for _ in txn.scan_handles(start, stop))

    def close(self) -> None:
        self.store.close()


class PlainLmdb:
    name = "lmdb"

    def __init__(self, folder: Path) -> None:
        self.env = lmdb.open(str(folder), map_size=1 << 40, readahead=False, max_spare_txns=16)

    def put(self, key: bytes, value: bytes) -> None:
        with self.env.begin(write=True) as txn:
            txn.put(key, value)

    def put_many(self, items: Iterable[tuple[bytes, bytes]]) -> None:
        with self.env.begin(write=True) as txn:
            for key, value in items:
                txn.put(key, value)

    def get(self, key: bytes) -> bytes | None:
        with self.env.begin() as txn:
            return txn.get(key)

    def get_many(self, keys: list[bytes]) -> int:
        with self.env.begin() as txn:
            return sum(map(len, [txn.get(key) or b"" for key in keys]))

    def count(self, start: bytes, stop: bytes) -> int:
        found = 0
        with self.env.begin() as txn, txn.cursor() as cursor:
            cursor.set_range(start)
            for key, _ in cursor:
                if key >= stop:
                    break
                found += 1
        return found

    def close(self) -> None:
        self.env.close()


class Sqlite:
    name = "sqlite"

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self.lock = threading.Lock()
        self.db = sqlite3.connect(folder / "db", check_same_thread=False, isolation_level=None)
        for setting in ("journal_mode=wal", "synchronous=full", "page_size=8192"):
            self.db.execute(f"pragma {setting}")
        self.db.execute("create table if not exists kv (key blob unique, value blob)")

    def put(self, key: bytes, value: bytes) -> None:
        self.put_many([(key, value)])

    def put_many(self, items: Iterable[tuple[bytes, bytes]]) -> None:
        with self.lock:
            self.db.execute("begin")
            self.db.executemany("insert or replace into kv values (?, ?)", items)
            self.db.execute("commit")

    def get(self, key: bytes) -> bytes | None:
        row = self.db.execute("select value from kv where key = ?", (key,)).fetchone()
        return row[0] if row else None

    def get_many(self, keys: list[bytes]) -> int:
        return sum(map(len, [self.get(key) or b"" for key in keys]))

    def count(self, start: bytes, stop: bytes) -> int:
        rows = self.db.execute("select key, value from kv where key >= ? and key < ? order by key", (start, stop))
        return sum(1 for _ in rows)

    def close(self) -> None:
        self.db.close()


PEERS: list[type[Any]] = [Fascicle, PlainLmdb, Sqlite]


def threaded_puts(peer: Peer, mark: int) -> int:
    each = 60
    value = os.urandom(SMALL)

    def work(thread: int) -> None:
        for i in range(each):
            peer.put(b"put/%d/%d/%d" % (mark, thread, i), value)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(SUBMITTERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return each * SUBMITTERS


def submitted_puts(store: LmdbStore, mark: int) -> int:
    """Puts as an event loop sends them: nobody waits for one before sending the next."""
    each = 2000
    value = os.urandom(SMALL)
    finished = threading.Semaphore(0)

    def work(thread: int) -> None:
        left = [each]

        def done(outcome: Outcome) -> None:
            assert outcome.error is None
            left[0] -= 1
            if not left[0]:
                finished.release()

        for i in range(each):
            key = b"submitted/%d/%d/%d" % (mark, thread, i)
            store.submit(lambda txn, key=key: txn.put(key, value), done)  # type: ignore[misc]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(SUBMITTERS)]
    for thread in threads:
        thread.start()
    for _ in threads:
        finished.acquire()
    return each * SUBMITTERS


def drop_pages(folder: Path) -> None:
    for file in folder.rglob("*"):
        if file.is_file() and hasattr(os, "posix_fadvise"):
            fd = os.open(file, os.O_RDONLY)
            os.fsync(fd)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(fd)


def small_key(i: int, mark: int = 0) -> bytes:
    return b"small/%d/%08d/%08d" % (mark, i // 4, i % 4)


def large_key(i: int, mark: int = 0) -> bytes:
    return b"large/%d/%08d" % (mark, i)


Figures = dict[str, dict[str, list[float]]]


def measure(folder: Path) -> Figures:
    figures: Figures = {}
    peers = [peer(folder / peer.name) for peer in PEERS]
    for mark in range(ROUNDS):
        small = [(small_key(i, mark), b"v" * 16) for i in range(SMALL_COUNT)]
        random.Random(mark).shuffle(small)
        large = os.urandom(LARGE + LARGE_COUNT * 7)
        values = [(large_key(i, mark), large[i * 7 : i * 7 + LARGE]) for i in range(LARGE_COUNT)]
        for peer in peers:
            note(figures, "load small, 1000 a commit (k/s)", peer, 1e-3, partial(load, peer, small, 1000))
            note(figures, "load 60 kB, 50 a commit (MB/s)", peer, LARGE / 1e6, partial(load, peer, values, 50))
        order = random.Random(mark).sample(range(LARGE_COUNT), 300)
        keys = [large_key(i) for i in order]
        for peer in peers:
            note(figures, "durable puts of 100 B by 32 threads (k/s)", peer, 1e-3, partial(threaded_puts, peer, mark))
            note(
                figures, "get of 16 B (k/s)", peer, 1e-3, partial(gets, peer, [small_key(i * 7) for i in range(10_000)])
            )
            note(figures, "scan of 100,000 keys (M/s)", peer, 1e-6, partial(peer.count, b"small/0/", b"small/00"))
            note(figures, "get of 60 kB, warm (k/s)", peer, 1e-3, partial(gets, peer, keys))
            note(figures, "64 neighbours of 60 kB, warm (k/s)", peer, 1e-3, partial(neighbours, peer, order[:20]))
        ours = peers[0]
        note(
            figures,
            "puts of 100 B submitted by 32 threads (k/s)",
            ours,
            1e-3,
            partial(submitted_puts, ours.store, mark),
        )
        note(figures, "entering and leaving a snapshot (k/s)", ours, 1e-3, partial(snapshots, ours.store))
    for peer in peers:
        peer.close()
    for mark in range(ROUNDS):
        order = random.Random(100 + mark).sample(range(LARGE_COUNT), 100)
        keys = [large_key(i) for i in order]
        for kind in PEERS:
            for what in ("get of 60 kB, cold (k/s)", "64 neighbours of 60 kB, cold (k/s)"):
                drop_pages(folder / kind.name)
                peer = kind(folder / kind.name)
                work = partial(gets, peer, keys) if what.startswith("get") else partial(neighbours, peer, order[:3])
                note(figures, what, peer, 1e-3, work)
                peer.close()
    return figures


def note(figures: Figures, what: str, peer: Peer, unit: float, work: Callable[[], int]) -> None:
    """Do the work, and note how many operations a second that were, in a unit."""
    start = time.perf_counter()
    count = work()
    rate = count / (time.perf_counter() - start)
    figures.setdefault(what, {}).setdefault(peer.name, []).append(rate * unit)


def load(peer: Peer, items: list[tuple[bytes, bytes]], batch: int) -> int:
    for first in range(0, len(items), batch):
        peer.put_many(items[first : first + batch])
    return len(items)


def gets(peer: Peer, keys: list[bytes]) -> int:
    for key in keys:
        assert peer.get(key) is not None
    return len(keys)


def neighbours(peer: Peer, starts: list[int]) -> int:
    for start in starts:
        first = min(start, LARGE_COUNT - 64)
        assert peer.get_many([large_key(i) for i in range(first, first + 64)]) == 64 * LARGE
    return 64 * len(starts)


def snapshots(store: LmdbStore) -> int:
    for _ in range(20_000):
        with store.read():
            pass
    return 20_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="where to make the test files (a folder on the disk in question)")
    folder = Path(tempfile.mkdtemp(dir=parser.parse_args().folder))
    try:
        figures = measure(folder)
    finally:
        shutil.rmtree(folder)
    names = [peer.name for peer in PEERS]
    print(f"{'':46}" + "".join(f"{name:>10}" for name in names) + "".join(f"{'/ ' + name:>10}" for name in names[1:]))
    for what, found in figures.items():
        best = {name: max(values) for name, values in found.items()}
        line = f"{what:46}" + "".join(f"{best[name]:10.2f}" if name in best else f"{'':10}" for name in names)
        print(line + "".join(f"{best[names[0]] / best[name]:9.2f}x" for name in names[1:] if name in best))


if __name__ == "__main__":
    main()
