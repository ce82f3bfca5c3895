"""A process of its own that works on a store: `python store_process.py FOLDER JOB`. Not a test; tests start it.

Jobs: `acknowledge` writes batches for ever and prints each one's number when it is durable; `obey` answers commands,
one JSON list a line; `hold` opens a snapshot, says so, and waits.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path

import numpy as np

from fascicle.store.base import Outcome, WriteTransaction
from fascicle.store.lmdb_engine import LmdbStore

BATCH_KEYS = 4
SEGMENT_BYTES = 300_000


def batch_value(writer: int, number: int, i: int) -> bytes:
    """Value i of a batch: small ones, and ones that go to the log."""
    size = (10, 3000, 1200, 40_000)[i]
    return np.random.default_rng([writer, number, i]).bytes(size)


def acknowledge(store: LmdbStore, writer: int, first: int) -> None:
    slots = threading.Semaphore(8)

    def submit(number: int) -> None:
        def change(txn: WriteTransaction) -> None:
            for i in range(BATCH_KEYS):
                txn.put(b"%d/%08d/%d" % (writer, number, i), batch_value(writer, number, i))

        def done(outcome: Outcome) -> None:
            if outcome.error is not None:
                raise outcome.error
            sys.stdout.write(f"{number}\n")
            sys.stdout.flush()
            slots.release()

        store.submit(change, done)

    number = first
    while True:
        slots.acquire()
        submit(number)
        number += 1


def obey(store: LmdbStore) -> None:
    print("ready", flush=True)
    for line in sys.stdin:
        command, *arguments = json.loads(line)
        if command == "add":  # read, change and write in one transaction
            key, times = arguments[0].encode(), arguments[1]

            def add(txn: WriteTransaction, key: bytes = key) -> None:
                txn.put(key, b"%d" % (int(txn.get(key) or b"0") + 1))

            for _ in range(times):
                store.write(add)
            print(json.dumps("done"), flush=True)
        elif command == "put":
            store.write(lambda txn, a=arguments: txn.put(a[0].encode(), bytes.fromhex(a[1])))  # type: ignore[misc]
            print(json.dumps("done"), flush=True)
        elif command == "get":
            with store.read() as txn:
                value = txn.get(arguments[0].encode())
            print(json.dumps(None if value is None else value.hex()), flush=True)


def hold(store: LmdbStore) -> None:
    with store.read() as txn:
        txn.get(b"key")
        print("holding", flush=True)
        time.sleep(60)


if __name__ == "__main__":
    opened = LmdbStore(Path(sys.argv[1]), segment_bytes=SEGMENT_BYTES)
    if sys.argv[2] == "acknowledge":
        acknowledge(opened, int(sys.argv[3]), int(sys.argv[4]))
    elif sys.argv[2] == "obey":
        obey(opened)
    else:
        hold(opened)
