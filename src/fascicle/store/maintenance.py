"""Copying, verifying and tidying an embedded store while it is in use."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import time
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, cast

import lmdb

from fascicle.errors import CorruptionError, StoreError
from fascicle.store.base import INLINE, MAX_KEY_BYTES, WriteTransaction
from fascicle.store.folder import write_marker
from fascicle.store.overlay import OverlayTransaction
from fascicle.store.snapshots import LmdbRead, SegmentUse, read_segments, segment_key
from fascicle.store.value_log import PLACED, Place, sync_folder

if TYPE_CHECKING:
    from fascicle.store.lmdb_engine import LmdbStore

AFTER_ALL_KEYS = b"\xff" * (MAX_KEY_BYTES + 1)
BATCH = 1024
RETIRE_S = 10.0
"""How long `compact` waits for snapshots that may still read from an emptied segment."""


def backup(store: LmdbStore, target: Path) -> None:
    """Copy the index as of now, then the values it refers to.

    Sealed segments never change, so on the same file system they are linked, which takes no space.
    """
    target = target.absolute()
    if target.exists() and any(target.iterdir()):
        raise StoreError(f"the folder {target} for a backup is not empty")
    with store.read():  # an open snapshot keeps `compact` from removing segments
        try:
            (target / "values").mkdir(parents=True)
            store._env.copy(str(target))
        except (OSError, lmdb.Error) as error:
            raise StoreError(f"the index could not be copied to {target}: {error}") from error
        for number, use in _segments_of_copy(target).items():
            source = store.log.segment_path(number)
            _copy_segment(source, target / "values" / source.name, use)
    with (target / "data.mdb").open("rb+") as file:
        os.fsync(file.fileno())
    sync_folder(target / "values")
    write_marker(target)  # last: what a broken backup leaves behind does not open as a store


def _segments_of_copy(folder: Path) -> dict[int, SegmentUse]:
    with lmdb.open(str(folder), map_size=1, readonly=True, lock=False, max_dbs=4) as env:
        meta = env.open_db(b"meta", create=False)
        with env.begin() as txn:
            return read_segments(txn, meta)


def _copy_segment(source: Path, copy: Path, use: SegmentUse) -> None:
    try:
        if source.stat().st_size < use.length:
            raise CorruptionError(f"{source} has {source.stat().st_size} bytes; the index knows of {use.length}")
        if use.sealed:
            with contextlib.suppress(OSError):
                os.link(source, copy)
                return
        with source.open("rb") as reader, copy.open("xb") as writer:
            shutil.copyfileobj(reader, writer, 8 << 20)
            writer.truncate(use.length)
            writer.flush()
            os.fsync(writer.fileno())
    except OSError as error:
        raise StoreError(f"{source} could not be copied: {error}") from error


def check(store: LmdbStore) -> list[str]:
    """Read every value, follow every segment's records, and compare the counters with what was found."""
    wrong: list[str] = []
    live: dict[int, int] = {}
    inline_bytes = 0
    with store.read() as txn:
        segments = txn.segments()
        tail, inline_expected = txn.tail()
        entries = txn.scan_handles(b"", AFTER_ALL_KEYS)
        while batch := list(islice(entries, BATCH)):
            placed = []
            for key, handle in batch:
                if handle[0] == INLINE:
                    inline_bytes += len(handle) - 1
                    continue
                try:
                    place = Place.parse(handle)
                except CorruptionError as error:
                    wrong.append(f"key {key.hex()}: {error.message}")
                    continue
                use = segments.get(place.segment)
                if use is None or place.offset + place.length > use.length:
                    wrong.append(f"key {key.hex()}: segment {place.segment} ends before offset {place.offset}")
                    continue
                live[place.segment] = live.get(place.segment, 0) + place.length
                placed.append((key, handle))
            wrong += _unreadable(txn, placed)
        for number, use in segments.items():
            try:
                for _ in store.log.walk(number, use.length):
                    pass
            except CorruptionError as error:
                wrong.append(error.message)
            if use.live != live.get(number, 0):
                wrong.append(f"segment {number} holds {live.get(number, 0)} bytes in use; {use.live} were counted")
    if inline_bytes != inline_expected:
        wrong.append(f"the index holds {inline_bytes} bytes of values; {inline_expected} were counted")
    if tail.segment not in segments and tail.offset:
        wrong.append(f"the value log ends in segment {tail.segment}, which is not known")
    return wrong


def _unreadable(txn: LmdbRead, placed: list[tuple[bytes, bytes]]) -> list[str]:
    try:
        txn.load_many([handle for _, handle in placed])
    except CorruptionError:
        pass
    else:
        return []
    wrong = []
    for key, handle in placed:
        try:
            txn.load(handle)
        except CorruptionError as error:
            wrong.append(f"key {key.hex()}: {error.message}")
    return wrong


def compact(store: LmdbStore, wasted: float) -> int:
    """Move what is alive out of mostly dead sealed segments, then remove those that no snapshot can reach.

    Moving is an ordinary write of the same value, so a crash at any time leaves a sound store.
    """
    with store.read() as txn:
        chosen = {
            number
            for number, use in txn.segments().items()
            if use.sealed and use.length - use.live > wasted * use.length
        }
    start = b""
    while chosen:
        with store.read() as txn:
            keys: list[bytes] = []
            size = 0
            for key, handle in txn.scan_handles(start, AFTER_ALL_KEYS):
                if handle[0] == PLACED and (place := Place.parse(handle)).segment in chosen:
                    keys.append(key)
                    size += place.length
                    if size > 16 << 20 or len(keys) >= BATCH:
                        break
        if not keys:
            break
        store.write(partial(_move, keys=keys, chosen=chosen))
        start = keys[-1] + b"\0"
    _forget_empty_segments(store, chosen)
    return _remove_forgotten_files(store)


def _move(txn: WriteTransaction, *, keys: list[bytes], chosen: set[int]) -> None:
    for key in keys:
        handle = txn.handle(key)
        if handle is not None and handle[0] == PLACED and Place.parse(handle).segment in chosen:
            txn.put(key, txn.load(handle))


def _forget_empty_segments(store: LmdbStore, chosen: set[int]) -> None:
    with store.read() as txn:
        segments = txn.segments()
    empty = [number for number in chosen if number in segments and not segments[number].live]

    def forget(txn: WriteTransaction) -> None:
        view = cast(LmdbRead, cast(OverlayTransaction, txn).base)
        for number in empty:
            view._txn.delete(segment_key(number), db=store._meta)

    if empty:
        store.write(forget)


def _remove_forgotten_files(store: LmdbStore) -> int:
    """Remove segments that the index does not know, also those that a crash or an old snapshot has left earlier."""
    with store.read() as txn:
        now, unfinished, segments = txn.number, txn.tail()[0].segment, txn.segments()
    numbered = [(int(file.stem), file) for file in store.log.folder.glob("*.log") if file.stem.isdigit()]
    forgotten = [file for number, file in numbered if number < unfinished and number not in segments]
    if not forgotten:
        return 0
    until = time.monotonic() + RETIRE_S
    while _oldest_snapshot(store) < now:  # it may still read from them, or be copying them
        if time.monotonic() > until:
            return 0  # the next call tries again
        time.sleep(0.05)
    freed = 0
    for file in forgotten:
        with contextlib.suppress(OSError):  # removed by another process, or held open by one on Windows
            size = file.stat().st_size
            file.unlink()
            freed += size
    store.log.forget_removed()
    return freed


def _oldest_snapshot(store: LmdbStore) -> int:
    """The transaction number of the oldest snapshot that any process holds."""
    rows = [line.split() for line in store._env.readers().splitlines()]
    return min((int(row[2]) for row in rows if len(row) == 3 and row[2].isdigit()), default=sys.maxsize)
