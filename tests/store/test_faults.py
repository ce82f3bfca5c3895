"""Damaged files, full disks and folders that belong to somebody else."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lmdb
import pytest

from fascicle.errors import CorruptionError, StoreError, StoreFull
from fascicle.store import open_store, value_log
from fascicle.store.base import Outcome
from fascicle.store.lmdb_engine import LmdbGroup, LmdbStore
from fascicle.store.value_log import HEADER_BYTES, Place
from fascicle.testing.store import contents, pattern


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def store(folder: Path) -> Iterator[LmdbStore]:
    store = LmdbStore(folder, segment_bytes=200_000)
    yield store
    store.close()


def place_of(store: LmdbStore, key: bytes) -> Place:
    with store.read() as txn:
        return Place.parse(txn.handle(key) or b"")


def flip(path: Path, offset: int) -> None:
    with path.open("rb+") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1]))


class TestDamage:
    def test_a_damaged_value_is_named_and_the_others_are_read(self, store: LmdbStore) -> None:
        values = {b"%d" % i: pattern(i, 50_000) for i in range(10)}
        store.write(lambda txn: [txn.put(key, value) for key, value in values.items()])
        place = place_of(store, b"7")
        assert place.segment > 1
        flip(store.log.segment_path(place.segment), place.offset + 30_000)
        named = f"segment {place.segment} of the value log.*offset {place.offset} "
        with store.read() as txn:
            with pytest.raises(CorruptionError, match=named):
                txn.get(b"7")
            handles = [txn.handle(key) or b"" for key in values]
            with pytest.raises(CorruptionError, match=named):
                txn.load_many(handles)
            assert all(txn.get(key) == value for key, value in values.items() if key != b"7")
        wrong = store.check()
        assert len(wrong) == 1
        assert b"7".hex() in wrong[0]
        assert f"segment {place.segment} " in wrong[0]
        assert f"offset {place.offset} " in wrong[0]
        store.write(lambda txn: txn.put(b"7", values[b"7"]))
        assert store.check() == []
        assert contents(store) == values

    def test_a_damaged_record_header_is_found(self, store: LmdbStore) -> None:
        store.write(lambda txn: [txn.put(b"%d" % i, pattern(i, 5000)) for i in range(5)])
        place = place_of(store, b"3")
        flip(store.log.segment_path(place.segment), place.offset - HEADER_BYTES + 5)
        assert [f"offset {place.offset - HEADER_BYTES}" in line for line in store.check()] == [True]

    def test_a_shortened_or_missing_segment_is_named(self, store: LmdbStore) -> None:
        store.write(lambda txn: [txn.put(b"%d" % i, pattern(i, 50_000)) for i in range(10)])
        place = place_of(store, b"9")
        os.truncate(store.log.segment_path(place.segment), place.offset + 100)
        with store.read() as txn, pytest.raises(CorruptionError, match=f"segment {place.segment} .*ends early"):
            txn.get(b"9")
        assert any(f"segment {place.segment} " in line for line in store.check())
        store.log.segment_path(1).unlink()
        store.log.close()
        with store.read() as txn, pytest.raises(CorruptionError, match=r"segment 1 .*missing"):
            txn.get(b"0")
        assert any("segment 1 " in line and "missing" in line for line in store.check())

    def test_something_that_is_no_handle(self, store: LmdbStore) -> None:
        with store.read() as txn:
            for handle in (b"\x01abc", b"\x07" + b"x" * 20):
                with pytest.raises(CorruptionError, match="handle"):
                    txn.load(handle)
                with pytest.raises(CorruptionError, match="handle"):
                    txn.load_many([b"\0inline", handle])

    def test_a_torn_tail_is_overwritten(self, store: LmdbStore, folder: Path) -> None:
        store.write(lambda txn: txn.put(b"a", pattern(1, 50_000)))
        place = place_of(store, b"a")
        store.close()
        end = place.offset + place.length
        with store.log.segment_path(place.segment).open("ab") as file:
            file.write(pattern(2, 80_000))  # what a killed writer may leave behind
        again = LmdbStore(folder, segment_bytes=200_000)
        assert again.check() == []
        again.write(lambda txn: txn.put(b"b", pattern(3, 30_000)))
        assert place_of(again, b"b").offset == end + HEADER_BYTES
        again.write(lambda txn: [txn.put(b"c%d" % i, pattern(i, 60_000)) for i in range(3)])
        assert place_of(again, b"c2").segment == place.segment + 1
        assert again.log.segment_path(place.segment).stat().st_size <= 200_000  # sealed without the torn rest
        assert again.check() == []
        assert len(contents(again)) == 5
        again.close()


class TestFullDisk:
    @pytest.mark.parametrize("number", [errno.ENOSPC, errno.EFBIG])
    @pytest.mark.parametrize("written", [0, 1000])
    def test_values(self, store: LmdbStore, monkeypatch: pytest.MonkeyPatch, number: int, written: int) -> None:
        store.write(lambda txn: txn.put(b"before", pattern(1, 5000)))
        real = value_log.write_at

        def full(segment: value_log.Segment, pieces: list[bytes], offset: int) -> int:
            if written and sum(map(len, pieces)) > written:
                return real(segment, [b"".join(pieces)[:written]], offset)  # a part fits, the next call fails
            raise OSError(number, os.strerror(number))

        with monkeypatch.context() as patch:
            patch.setattr(value_log, "write_at", full if not written else fails_on_second_call(full, number))
            with pytest.raises(StoreFull, match="no space"):
                store.write(lambda txn: [txn.put(b"large", pattern(2, 5000)), txn.put(b"before", b"")])
            store.write(lambda txn: txn.put(b"small", b"fits"))
            assert contents(store) == {b"before": pattern(1, 5000), b"small": b"fits"}
        store.write(lambda txn: txn.put(b"large", pattern(3, 5000)))
        assert contents(store)[b"large"] == pattern(3, 5000)
        assert store.check() == []

    def test_all_of_a_group_hear_of_it(self, store: LmdbStore, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(segment: value_log.Segment, pieces: list[bytes], offset: int) -> int:
            raise OSError(errno.ENOSPC, "full")

        monkeypatch.setattr(value_log, "write_at", full)
        outcomes: list[Outcome] = []
        held, finished = threading.Event(), threading.Event()
        store.submit(lambda txn: held.wait(10), outcomes.append)
        store.submit(lambda txn: txn.put(b"large", pattern(2, 5000)), outcomes.append)
        store.submit(lambda txn: {}[0], outcomes.append)
        store.submit(lambda txn: txn.put(b"small", b""), lambda outcome: (outcomes.append(outcome), finished.set()))
        held.set()
        assert finished.wait(10)
        assert [type(outcome.error) for outcome in outcomes] == [StoreFull, StoreFull, KeyError, StoreFull]
        assert contents(store) == {}

    @pytest.mark.skipif(sys.platform == "win32", reason="needs resource limits")
    @pytest.mark.parametrize("size", [1000, 3000], ids=["index", "log"])
    def test_a_limited_file_size(self, folder: Path, size: int) -> None:
        """The real thing as far as the engine can tell: the kernel refuses to make a file longer."""
        script = f"""
import resource, sys
from pathlib import Path
from typing import Any
from fascicle.errors import StoreFull
from fascicle.store.lmdb_engine import LmdbGroup, LmdbStore
from fascicle.testing.store import contents, pattern
store = LmdbStore(Path({str(folder)!r}))
resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, resource.RLIM_INFINITY))
kept = {{}}
refused = 0
for i in range(40):
    batch = {{b"%03d/%d" % (i, j): pattern(i + j, {size}) for j in range(20)}}
    try:
        store.write(lambda txn: [txn.put(key, value) for key, value in batch.items()])
        kept.update(batch)
    except StoreFull:
        refused += 1
    assert contents(store) == kept, "a refused write is visible, or an accepted one is not"
assert refused and kept, (refused, len(kept))
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
store.write(lambda txn: txn.put(b"after", pattern(1, 5000)))
kept[b"after"] = pattern(1, 5000)
assert contents(store) == kept
assert store.check() == []
store.close()
store = LmdbStore(Path({str(folder)!r}))
assert contents(store) == kept
store.close()
"""
        subprocess.run([sys.executable, "-c", script], check=True, timeout=60)

    @pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="mounting needs root")
    def test_a_small_file_system(self, tmp_path: Path) -> None:
        mount = tmp_path / "small"
        mount.mkdir()
        if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(mount)], check=False).returncode:
            pytest.skip("mounting is not allowed here")
        try:
            store = LmdbStore(mount / "store")
            kept: dict[bytes, bytes] = {}
            refused = 0
            for i in range(60):
                batch = {b"%03d" % i: pattern(i, 100_000 if i % 2 else 900)}
                try:
                    store.write(lambda txn, batch=batch: [txn.put(key, value) for key, value in batch.items()])
                    kept.update(batch)
                except StoreFull:
                    refused += 1
                assert contents(store) == kept
            assert refused
            assert kept
            assert store.check() == []
            store.close()
        finally:
            subprocess.run(["umount", "-l", str(mount)], check=True)


def fails_on_second_call(first: Callable[..., int], number: int) -> Callable[..., int]:
    calls = []

    def write(segment: value_log.Segment, pieces: list[bytes], offset: int) -> int:
        calls.append(1)
        if len(calls) % 2:
            return first(segment, pieces, offset)
        raise OSError(number, os.strerror(number))

    return write


class TestIndexThatGrows:
    def test_by_itself(self, folder: Path) -> None:
        store = LmdbStore(folder, map_bytes=128 << 10)
        for i in range(30):
            store.write(lambda txn, i=i: [txn.put(b"%d/%d" % (i, j), pattern(j, 1000)) for j in range(50)])
        assert store.statistics().keys == 1500
        assert store.check() == []
        store.close()

    def test_in_one_large_change(self, folder: Path) -> None:
        store = LmdbStore(folder, map_bytes=128 << 10)
        store.write(lambda txn: [txn.put(b"%d" % j, pattern(j, 3000 if j % 3 else 1000)) for j in range(3000)])
        assert store.statistics().keys == 3000
        assert store.check() == []
        store.close()

    def test_also_when_only_the_commit_finds_it_full(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        class FullAtCommit:
            """A transaction whose commit fails, which closes it."""

            def __init__(self, real: Any) -> None:
                self._real = real

            def __getattr__(self, name: str) -> Any:
                return getattr(self._real, name)

            def commit(self) -> None:
                self._real.abort()
                raise lmdb.MapFullError("full")

        store = LmdbStore(folder, map_bytes=128 << 10)
        begin, left = LmdbGroup._begin, [1]

        def begin_full(group: LmdbGroup) -> None:
            begin(group)
            if left.pop(0) if left else 0:
                group._txn = FullAtCommit(group._txn)  # type: ignore[assignment]

        monkeypatch.setattr(LmdbGroup, "_begin", begin_full)
        store.write(lambda txn: txn.put(b"key", b"value"))
        store.write(lambda txn: txn.put(b"large", bytes(5000)))
        assert left == []
        assert contents(store) == {b"key": b"value", b"large": bytes(5000)}
        assert store.check() == []
        store.close()

    def test_waits_for_reads_and_keeps_new_ones_waiting(self, folder: Path) -> None:
        store = LmdbStore(folder, map_bytes=128 << 10)
        store.write(lambda txn: txn.put(b"key", b"value"))
        stop = threading.Event()
        failures: list[BaseException] = []

        def look() -> None:
            try:
                while not stop.is_set():
                    with store.read() as txn:
                        assert txn.get(b"key") == b"value"
                        time.sleep(0.0005)  # spinning readers would keep the interpreter from the writer
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=look, daemon=True) for _ in range(4)]
        for thread in threads:
            thread.start()
        for i in range(20):
            store.write(lambda txn, i=i: [txn.put(b"%d/%d" % (i, j), b"x" * 1000) for j in range(100)])
        stop.set()
        for thread in threads:
            thread.join()
        assert failures == []
        store.close()

    def test_fails_cleanly_if_a_read_never_ends(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("fascicle.store.lmdb_engine.PAUSE_S", 0.1)
        store = LmdbStore(folder, map_bytes=128 << 10)
        store.write(lambda txn: txn.put(b"key", b"value"))
        with store.read(), pytest.raises(StoreFull, match="reads stay open"):
            store.write(lambda txn: [txn.put(b"%d" % j, b"x" * 1000) for j in range(1000)])
        assert contents(store) == {b"key": b"value"}
        store.write(lambda txn: [txn.put(b"%d" % j, b"x" * 1000) for j in range(1000)])
        assert len(contents(store)) == 1001
        store.close()


class TestFolders:
    @pytest.mark.parametrize(
        "names",
        [["MANIFEST", "000001.vlog", "KEYREGISTRY"], ["CURRENT", "MANIFEST-000004"], ["000012.sst"], ["data.mdb"]],
        ids=["badger", "leveldb", "rocksdb", "lmdb"],
    )
    @pytest.mark.parametrize("readonly", [False, True])
    def test_another_database_is_refused_and_left_alone(self, folder: Path, names: list[str], readonly: bool) -> None:
        folder.mkdir()
        for name in names:
            (folder / name).write_bytes(b"theirs")
        with pytest.raises(StoreError, match=names[0]):
            open_store(folder, readonly=readonly)
        assert sorted(file.name for file in folder.iterdir()) == sorted(names)
        assert all(file.read_bytes() == b"theirs" for file in folder.iterdir())

    def test_a_file_and_an_unknown_version(self, folder: Path) -> None:
        folder.write_text("a file")
        with pytest.raises(StoreError, match="file"):
            open_store(folder)
        folder.unlink()
        folder.mkdir()
        (folder / "store.json").write_text('{"format": "fascicle-store", "engine": "lmdb", "version": 99}')
        with pytest.raises(StoreError, match="99"):
            open_store(folder)
        (folder / "store.json").write_text("{")
        with pytest.raises(StoreError, match="damaged"):
            open_store(folder)

    def test_reading_only(self, folder: Path) -> None:
        with pytest.raises(StoreError, match="no store"):
            open_store(folder, readonly=True)
        assert not folder.exists()
        store = open_store(folder)
        store.write(lambda txn: [txn.put(b"a", b"1"), txn.put(b"b", b"2" * 5000)])
        store.close()
        store = open_store(folder, readonly=True)
        assert contents(store) == {b"a": b"1", b"b": b"2" * 5000}
        with pytest.raises(StoreError, match="reading only"):
            store.write(lambda txn: txn.put(b"a", b"2"))
        assert store.check() == []
        store.close()

    def test_other_files_may_lie_in_the_folder(self, folder: Path) -> None:
        folder.mkdir()
        (folder / "settings.toml").write_text("")
        open_store(folder).close()


class TestCompaction:
    def fill(self, store: LmdbStore) -> dict[bytes, bytes]:
        values = {b"%03d" % i: pattern(i, 30_000) for i in range(40)}
        store.write(lambda txn: [txn.put(key, value) for key, value in values.items()])
        dead = [key for i, key in enumerate(values) if i % 4 and i < 32]
        store.write(lambda txn: [txn.delete(key) for key in dead])
        return {key: value for key, value in values.items() if key not in dead}

    def test_dead_space_is_given_back(self, store: LmdbStore) -> None:
        values = self.fill(store)
        before = store.statistics()
        assert before.details["log_dead_bytes"] > 500_000
        freed = store.compact()
        assert freed > 500_000
        after = store.statistics()
        assert after.live_bytes == before.live_bytes == sum(map(len, values.values()))
        assert after.file_bytes < before.file_bytes - 400_000
        assert contents(store) == values
        assert store.check() == []
        assert store.compact() == 0

    def test_open_snapshots_are_respected(self, store: LmdbStore, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("fascicle.store.maintenance.RETIRE_S", 0.1)
        values = self.fill(store)
        with store.read() as txn:
            assert store.compact() == 0
            assert all(txn.get(key) == value for key, value in values.items())
        assert store.compact() > 500_000
        assert contents(store) == values
        assert store.check() == []

    def test_files_left_by_a_crash_are_removed(self, store: LmdbStore, monkeypatch: pytest.MonkeyPatch) -> None:
        values = self.fill(store)
        with monkeypatch.context() as patch:
            patch.setattr(Path, "unlink", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                store.compact()
        assert contents(store) == values
        store.write(lambda txn: [txn.put(b"more%d" % i, pattern(i, 60_000)) for i in range(12)])
        store.write(lambda txn: [txn.delete(b"more%d" % i) for i in range(12)])
        store.compact()
        used = {file.name for file in store.log.folder.iterdir()}
        with store.read() as txn:
            assert used == {store.log.segment_path(number).name for number in txn.segments()}
        assert contents(store) == values


class PanickingEnvironment:
    """Stands for an LMDB environment that could not write its meta page."""

    def __init__(self, real: lmdb.Environment) -> None:
        self.real = real

    def begin(self, *_: object, **__: object) -> None:
        raise lmdb.PanicError("MDB_PANIC")

    def close(self) -> None:
        self.real.close()


def test_the_index_is_opened_anew_after_a_panic(store: LmdbStore) -> None:
    store.write(lambda txn: txn.put(b"before", b"1"))
    store._env = PanickingEnvironment(store._env)
    store.write(lambda txn: txn.put(b"after", b"2"))
    assert contents(store) == {b"before": b"1", b"after": b"2"}
