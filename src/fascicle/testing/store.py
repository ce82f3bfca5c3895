"""What every store engine must do: subclass `StoreTests`, and run `StoreMachine` against it.

    class TestMyStore(StoreTests):
        def open(self, folder: Path) -> Store:
            return MyStore(folder)

Needs pytest and hypothesis.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from fascicle.errors import BadRequest, CorruptionError, FascicleError, Unavailable
from fascicle.store.base import (
    MAX_KEY_BYTES,
    LateValue,
    Outcome,
    ReadTransaction,
    Store,
    WriteTransaction,
    inline_value,
)
from fascicle.store.spool import LEAST_BYTES, Spool

END = b"\xff" * (MAX_KEY_BYTES + 1)
SIZES = (0, 1, 100, 1280, 1281, 5000, 70_000)


def pattern(seed: int, size: int) -> bytes:
    """Bytes that differ from seed to seed."""
    return np.random.default_rng(seed).bytes(size)


def contents(store: Store) -> dict[bytes, bytes]:
    """Everything in a store."""
    with store.read() as txn:
        return dict(txn.scan(b"", END))


def late(spool: Spool, value: bytes) -> LateValue:
    """A value that lies in a spool and nowhere else, behind its first byte."""
    kept = spool.keep(value[1:])
    assert isinstance(kept, LateValue)
    return kept.behind(value[:1])


class StoreTests:
    """Behaviour that callers of a store rely on."""

    def open(self, folder: Path) -> Store:
        """A store; opening the same folder again finds what was written, if the engine keeps anything."""
        raise NotImplementedError

    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[Store]:
        store = self.open(tmp_path / "store")
        yield store
        store.close()

    @pytest.mark.parametrize("size", SIZES)
    @pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
    def test_values_of_all_sizes_and_kinds(self, store: Store, size: int, kind: Any) -> None:
        value = pattern(size, size)
        store.write(lambda txn: txn.put(b"key", kind(value)))
        with store.read() as txn:
            assert txn.get(b"key") == value
            handle = txn.handle(b"key")
            assert handle is not None
            assert type(handle) is bytes
            assert txn.load(handle) == value
            assert inline_value(handle) in (None, value)
            assert txn.load_part(handle, 1, size // 2) == value[1 : size // 2]
            assert txn.load_part(handle, size - 1, size + 10) == value[size - 1 :]

    def test_missing_keys(self, store: Store) -> None:
        with store.read() as txn:
            assert txn.get(b"nothing") is None
            assert txn.handle(b"nothing") is None
            assert txn.get(b"x" * (MAX_KEY_BYTES + 1000)) is None
            assert txn.last(b"", END) is None
            assert list(txn.scan_handles(b"", END)) == []
            assert list(txn.scan_keys(b"", END, reverse=True)) == []
            assert txn.get_many([b"a", b"b"]) == [None, None]
            assert len(txn.load_many([])) == 0
        assert store.write(lambda txn: txn.delete(b"nothing")) is False
        assert store.write(lambda txn: txn.delete_range(b"", END)) == 0

    @pytest.mark.parametrize("key", [b"", b"x" * (MAX_KEY_BYTES + 1)])
    def test_keys_of_wrong_length_are_refused(self, store: Store, key: bytes) -> None:
        with pytest.raises(BadRequest, match=str(MAX_KEY_BYTES)):
            store.write(lambda txn: txn.put(key, b"value"))
        with pytest.raises(BadRequest, match=str(MAX_KEY_BYTES)):
            store.write(lambda txn: txn.put_many([(b"a", b"value"), (key, b"value")]))
        assert contents(store) == {}

    def test_many_puts_at_once(self, store: Store) -> None:
        def change(txn: WriteTransaction) -> list[bytes]:
            txn.put_many([])
            txn.put_many([(b"b", b"1"), (b"d", b"2"), (b"b", b"3")])
            seen = list(txn.scan_keys(b"", END))
            txn.put_many((key, b"4") for key in (b"c", b"d"))
            return seen + list(txn.scan_keys(b"", END))

        assert store.write(change) == [b"b", b"d", b"b", b"c", b"d"]
        assert contents(store) == {b"b": b"3", b"c": b"4", b"d": b"4"}

    def test_longest_key(self, store: Store) -> None:
        key = b"\xff" * MAX_KEY_BYTES
        store.write(lambda txn: txn.put(key, b"value"))
        assert contents(store) == {key: b"value"}

    def test_the_result_of_a_change_is_returned(self, store: Store) -> None:
        assert store.write(lambda txn: 42) == 42

    def test_keys_are_ordered_bytewise(self, store: Store) -> None:
        keys = [
            b"\0",
            b"\0\0",
            b"\0\1",
            b"\1",
            b"a",
            b"a\0",
            b"aa",
            b"b",
            b"\x7f",
            b"\x80",
            b"\xff",
            b"\xff\0",
            b"\xff\xff",
        ]
        store.write(lambda txn: [txn.put(key, key) for key in reversed(keys)])
        with store.read() as txn:
            assert list(txn.scan_keys(b"", END)) == sorted(keys)
            assert list(txn.scan_keys(b"", END, reverse=True)) == sorted(keys, reverse=True)

    def test_bounds_of_scans(self, store: Store) -> None:
        keys = [b"%02d" % i for i in range(10, 30, 2)]
        store.write(lambda txn: [txn.put(key, key * 1000) for key in keys])
        with store.read() as txn:
            for start, stop in [
                (b"12", b"18"),
                (b"11", b"19"),
                (b"00", b"10"),
                (b"29", b"99"),
                (b"18", b"12"),
                (b"", b"\xff"),
            ]:
                expected = [key for key in keys if start <= key < stop]
                assert list(txn.scan_keys(start, stop)) == expected
                assert list(txn.scan_keys(start, stop, reverse=True)) == expected[::-1]
                assert [key for key, _ in txn.scan_handles(start, stop)] == expected
                assert [key for key, _ in txn.scan_handles(start, stop, reverse=True)] == expected[::-1]
                assert list(txn.scan(start, stop)) == [(key, key * 1000) for key in expected]
                last = txn.last(start, stop)
                assert (last[0] if last else None) == (expected[-1] if expected else None)

    def test_load_many(self, store: Store) -> None:
        values = {b"%03d" % i: pattern(i, SIZES[i % len(SIZES)]) for i in range(60)}
        store.write(lambda txn: [txn.put(key, value) for key, value in values.items()])
        keys = sorted(values, key=lambda key: values[key])
        with store.read() as txn:
            handles = [txn.handle(key) or b"" for key in keys]
            handles += [b"", handles[3], handles[40], b""]
            batch = txn.load_many(handles)
            assert len(batch) == len(handles)
            assert batch.buffer.dtype == np.uint8
            for i, handle in enumerate(handles):
                if handle:
                    assert bytes(batch.value(i)) == txn.load(handle)
                else:
                    assert batch.lengths[i] == -1
            assert txn.get_many([*keys, b"missing", keys[0]]) == [*(values[key] for key in keys), None, values[keys[0]]]
            large = [handle for handle in handles if handle and inline_value(handle) is None]
            assert [bytes(txn.load_many(large).value(i)) for i in range(len(large))] == [txn.load(h) for h in large]

    def test_a_snapshot_does_not_change(self, store: Store) -> None:
        store.write(lambda txn: [txn.put(b"a", b"1"), txn.put(b"b", b"2" * 5000)])
        with store.read() as old:
            store.write(lambda txn: [txn.put(b"a", b"new"), txn.delete(b"b"), txn.put(b"c", b"3")])
            assert dict(old.scan(b"", END)) == {b"a": b"1", b"b": b"2" * 5000}
            with store.read() as new:
                assert dict(new.scan(b"", END)) == {b"a": b"new", b"c": b"3"}
                assert new.number > old.number

    def test_numbers_grow_with_every_commit(self, store: Store) -> None:
        numbers = []
        for i in range(5):
            inside = store.write(lambda txn, i=i: (txn.put(b"key", b"%d" % i), txn.number)[1])  # type: ignore[misc]
            with store.read() as txn:
                assert txn.number == inside
                numbers.append(txn.number)
        assert numbers == sorted(set(numbers))

    def test_reads_inside_of_a_change_see_it(self, store: Store) -> None:
        store.write(lambda txn: [txn.put(b"a", b"1" * 3000), txn.put(b"c", b"3"), txn.put(b"e", b"5")])

        def change(txn: WriteTransaction) -> None:
            txn.put(b"b", b"2" * 3000)
            assert txn.get(b"b") == b"2" * 3000
            handle = txn.handle(b"b")
            assert handle is not None
            assert txn.load(handle) == b"2" * 3000
            assert txn.delete(b"c") is True
            assert txn.delete(b"c") is False
            assert txn.get(b"c") is None
            txn.put(b"d", b"")
            txn.put(b"e", b"new")
            expected = [(b"a", b"1" * 3000), (b"b", b"2" * 3000), (b"d", b""), (b"e", b"new")]
            assert list(txn.scan(b"", END)) == expected
            assert list(txn.scan(b"", END, reverse=True)) == expected[::-1]
            assert list(txn.scan_keys(b"b", b"e")) == [b"b", b"d"]
            last = txn.last(b"b", b"d")
            assert last is not None
            assert last[0] == b"b"
            batch = txn.load_many([handle for _, handle in txn.scan_handles(b"", END)])
            assert [bytes(batch.value(i)) for i in range(4)] == [value for _, value in expected]
            txn.put(b"aa", b"late")
            assert list(txn.scan_keys(b"", b"b")) == [b"a", b"aa"]
            assert txn.delete_range(b"aa", b"e") == 3

        store.write(change)
        assert contents(store) == {b"a": b"1" * 3000, b"e": b"new"}

    @pytest.mark.parametrize("size", [LEAST_BYTES + 2, 1280, 1281, 70_000])
    def test_late_values_of_all_sizes(self, store: Store, size: int) -> None:
        value = pattern(size, size)
        spool = Spool(store.path, 0)
        store.write(lambda txn: txn.put(b"key", late(spool, value)))
        with store.read() as txn:
            handle = txn.handle(b"key")
            assert handle is not None
            assert txn.get(b"key") == txn.load(handle) == value
        assert store.check() == []
        live = store.statistics().live_bytes
        store.write(lambda txn: txn.put(b"key", value))
        assert store.statistics().live_bytes == live, "it is accounted for as any other"

    def test_reads_inside_of_a_change_see_late_values(self, store: Store) -> None:
        spool = Spool(store.path, 0)
        values = {b"%02d" % i: pattern(i, 5000 if i % 3 else 300) for i in range(12)}
        lates = {key: late(spool, value) for key, value in values.items()}
        store.write(lambda txn: [txn.put(key, b"old") for key in [*values, b"other"]])

        def change(txn: WriteTransaction) -> dict[bytes, bytes]:
            for key, value in lates.items():
                txn.put(key, value)
            assert txn.get(b"05") == values[b"05"]
            assert dict(txn.scan(b"", b"1")) == {key: value for key, value in values.items() if key < b"1"}
            handles = [handle for _, handle in txn.scan_handles(b"", END)]
            assert len(set(handles)) == 13
            assert [txn.load(handle) for handle in handles] == [*values.values(), b"old"]
            assert txn.load_part(handles[4], 10, 20) == values[b"04"][10:20]
            batch = txn.load_many([*handles, handles[1], b""])
            found = [bytes(batch.value(i)) for i in range(14)]
            assert found == [*values.values(), b"old", values[b"01"]]
            assert batch.lengths[14] == -1
            assert txn.get_many([b"02", b"no"]) == [values[b"02"], None]
            last = txn.last(b"", b"07")
            assert last is not None
            assert txn.load(last[1]) == values[b"06"]
            txn.put(b"03", b"written over")
            assert txn.load(handles[3]) == values[b"03"], "a handle that was given out names what it named"
            txn.put(b"late", lates[b"04"])
            assert txn.delete(b"04") is True
            assert txn.get(b"04") is None
            assert txn.delete_range(b"10", b"12") == 2
            return {
                b"late": values[b"04"],
                **{key: value for key, value in values.items() if key not in (b"04", b"10", b"11")},
                b"03": b"written over",
                b"other": b"old",
            }

        expected = store.write(change)
        assert contents(store) == expected
        store.write(lambda txn: [txn.put(b"03", lates[b"03"]), txn.delete(b"05"), txn.put(b"06", b"")])
        assert contents(store)[b"03"] == values[b"03"]
        assert store.check() == []

    def test_changes_of_one_commit_see_late_values_of_each_other(self, store: Store) -> None:
        spool = Spool(store.path, 0)
        value = pattern(1, 60_000)
        kept = late(spool, value)
        outcomes: list[Outcome] = []
        held = threading.Event()
        store.submit(lambda txn: held.wait(10), lambda outcome: None)
        store.submit(lambda txn: txn.put(b"a", kept), outcomes.append)

        def failing(txn: WriteTransaction) -> None:
            txn.put(b"b", kept)
            assert txn.get(b"a") == txn.get(b"b") == value
            raise ValueError("no")

        store.submit(failing, outcomes.append)
        store.submit(lambda txn: (txn.get(b"a"), txn.get(b"b"), txn.delete(b"a")), outcomes.append)
        held.set()
        store.write(lambda txn: None)
        assert [type(outcome.error) for outcome in outcomes] == [type(None), ValueError, type(None)]
        assert outcomes[2].result == (value, None, True)
        assert contents(store) == {}
        assert store.check() == []

    def test_more_late_values_than_fit_into_memory(self, store: Store) -> None:
        """A change with more than a group keeps waiting, read in parts while the rest is still to come."""
        spool = Spool(store.path, 0)
        values = {b"%03d" % i: pattern(i, 1_000_000) for i in range(40)}
        lates = {key: late(spool, value) for key, value in values.items()}
        held = threading.Event()
        store.submit(lambda txn: held.wait(10), lambda outcome: None)
        store.submit(lambda txn: [txn.put(key, value) for key, value in lates.items()], lambda outcome: None)
        seen: list[Outcome] = []
        store.submit(lambda txn: [txn.get(b"003") == values[b"003"], txn.get(b"039") == values[b"039"]], seen.append)
        held.set()
        store.write(lambda txn: txn.put(b"010", b""))
        assert seen[0].result == [True, True]
        assert contents(store) == values | {b"010": b""}
        assert store.check() == []

    def test_a_damaged_spool_is_found_and_nothing_is_written(self, store: Store) -> None:
        store.write(lambda txn: txn.put(b"a", b"before"))
        for damage in ("shorter", "other"):
            spool = Spool(store.path, 0)
            lates = [late(spool, pattern(i, 50_000)) for i in range(3)]
            assert lates[0].read() == pattern(0, 50_000)
            assert spool._file is not None
            if damage == "shorter":
                spool._file.truncate(120_000)
            else:
                spool._file.seek(120_000)
                spool._file.write(b"something else")

            def change(txn: WriteTransaction, lates: list[LateValue] = lates) -> None:
                txn.put(b"a", b"after")
                for i, value in enumerate(lates):
                    txn.put(b"%d" % i, value)

            with pytest.raises(CorruptionError, match="temporary file"):
                store.write(change)
            assert contents(store) == {b"a": b"before"}
        store.write(lambda txn: txn.put(b"a", pattern(7, 50_000)))
        assert contents(store) == {b"a": pattern(7, 50_000)}
        assert store.check() == []

    def test_a_failing_change_leaves_nothing_and_hurts_nobody(self, store: Store) -> None:
        outcomes: list[Outcome] = []
        finished = threading.Event()
        held = threading.Event()
        store.submit(lambda txn: held.wait(10), lambda outcome: None)  # so that the others share a commit

        def failing(txn: WriteTransaction) -> None:
            txn.put(b"bad", b"x" * 3000)
            txn.delete(b"first")
            raise ValueError("no")

        store.submit(lambda txn: txn.put(b"first", b"1" * 3000), outcomes.append)
        store.submit(failing, outcomes.append)
        store.submit(lambda txn: txn.get(b"first"), outcomes.append)
        store.submit(lambda txn: txn.put(b"second", b"2"), outcomes.append)
        store.submit(lambda txn: None, lambda outcome: finished.set())
        held.set()
        assert finished.wait(10)
        assert [type(outcome.error) for outcome in outcomes] == [type(None), ValueError, type(None), type(None)]
        assert outcomes[2].result == b"1" * 3000
        assert contents(store) == {b"first": b"1" * 3000, b"second": b"2"}

    def test_changes_run_in_the_order_of_submission(self, store: Store) -> None:
        seen: list[int] = []
        finished = threading.Event()
        for i in range(500):
            store.submit(lambda txn, i=i: seen.append(i), lambda outcome: None)  # type: ignore[misc]
        store.submit(lambda txn: None, lambda outcome: finished.set())
        assert finished.wait(10)
        assert seen == list(range(500))

    def test_increments_from_many_threads_are_not_lost(self, store: Store) -> None:
        def increment(txn: WriteTransaction) -> None:
            txn.put(b"count", b"%d" % (int(txn.get(b"count") or b"0") + 1))

        threads = [threading.Thread(target=lambda: [store.write(increment) for _ in range(25)]) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert contents(store) == {b"count": b"200"}

    def test_readers_see_whole_changes_only(self, store: Store) -> None:
        stop = threading.Event()
        torn: list[dict[bytes, bytes]] = []

        def look() -> None:
            while not stop.is_set():
                found = contents(store)
                if len(set(found.values())) > 1:
                    torn.append(found)

        store.write(lambda txn: [txn.put(b"%d" % i, b"0") for i in range(5)])
        thread = threading.Thread(target=look)
        thread.start()
        for number in range(40):
            value = b"%d" % number * (2000 if number % 2 else 1)
            store.write(lambda txn, value=value: [txn.put(b"%d" % i, value) for i in range(5)])  # type: ignore[misc]
        stop.set()
        thread.join()
        assert torn == []

    def test_a_receiver_that_fails_does_not_stop_the_store(self, store: Store) -> None:
        def fail(outcome: Outcome) -> None:
            raise ValueError("expected by a test")

        store.submit(lambda txn: txn.put(b"a", b"1"), fail)
        store.write(lambda txn: txn.put(b"b", b"2"))
        assert contents(store) == {b"a": b"1", b"b": b"2"}

    def test_statistics(self, store: Store) -> None:
        store.write(lambda txn: [txn.put(b"%d" % i, b"x" * 3000) for i in range(10)])
        statistics = store.statistics()
        assert statistics.keys == 10
        assert statistics.live_bytes >= 30_000
        assert statistics.file_bytes >= statistics.live_bytes
        with store.read() as txn:
            assert statistics.transaction == txn.number

    def test_a_sound_store_passes_its_check(self, store: Store) -> None:
        store.write(lambda txn: [txn.put(b"%d" % i, pattern(i, size)) for i, size in enumerate(SIZES)])
        store.write(lambda txn: [txn.put(b"3", b"other" * 1000), txn.delete(b"5")])
        assert store.check() == []

    def test_closing_finishes_what_was_submitted(self, tmp_path: Path) -> None:
        store = self.open(tmp_path / "closing")
        outcomes: list[Outcome] = []
        for i in range(100):
            store.submit(lambda txn, i=i: txn.put(b"%d" % i, b""), outcomes.append)  # type: ignore[misc]
        store.close()
        assert [outcome.error for outcome in outcomes] == [None] * 100
        store.close()
        with pytest.raises(Unavailable):
            store.write(lambda txn: None)
        with pytest.raises(Unavailable), store.read():
            pass


class PersistentStoreTests(StoreTests):
    """For engines that keep what they are given."""

    def test_reopening(self, tmp_path: Path) -> None:
        expected = {b"%d" % i: pattern(i, size) for i, size in enumerate(SIZES)}
        store = self.open(tmp_path / "kept")
        store.write(lambda txn: [txn.put(key, value) for key, value in expected.items()])
        with store.read() as txn:
            number = txn.number
        store.close()
        store = self.open(tmp_path / "kept")
        assert contents(store) == expected
        with store.read() as txn:
            assert txn.number >= number
        store.close()

    def test_a_backup_made_during_writes_is_one_state(self, store: Store, tmp_path: Path) -> None:
        store.write(lambda txn: [txn.put(b"%02d" % i, b"0") for i in range(20)])
        stop = threading.Event()

        def write() -> None:
            number = 0
            while not stop.is_set():
                number += 1
                value = b"%d" % number * 2000
                store.write(lambda txn, value=value: [txn.put(b"%02d" % i, value) for i in range(20)])  # type: ignore[misc]

        thread = threading.Thread(target=write)
        thread.start()
        try:
            for i in range(3):
                store.backup(tmp_path / f"copy{i}")
        finally:
            stop.set()
            thread.join()
        for i in range(3):
            copy = self.open(tmp_path / f"copy{i}")
            found = contents(copy)
            assert len(found) == 20
            assert len(set(found.values())) == 1
            assert copy.check() == []
            before = contents(store)
            copy.write(lambda txn: [txn.put(b"%02d" % i, b"changed" * 1000) for i in range(20)])
            copy.close()
            assert contents(store) == before
        assert store.check() == []

    def test_a_backup_refuses_a_folder_in_use(self, store: Store, tmp_path: Path) -> None:
        (tmp_path / "used").mkdir()
        (tmp_path / "used" / "file").write_text("mine")
        with pytest.raises(FascicleError, match="not empty"):
            store.backup(tmp_path / "used")
        assert [file.name for file in (tmp_path / "used").iterdir()] == ["file"]


KEYS = st.one_of(
    st.binary(min_size=1, max_size=3), st.sampled_from([b"a", b"b", b"ab", b"\xff", b"\xff\xff", b"k" * 500])
)
VALUES = st.builds(pattern, st.integers(0, 1000), st.sampled_from(SIZES))
BOUNDS = st.one_of(st.binary(max_size=3), st.just(END))
OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), KEYS, VALUES),
        st.tuples(st.just("put_late"), KEYS, VALUES),
        st.tuples(st.just("delete"), KEYS),
        st.tuples(st.just("delete_range"), BOUNDS, BOUNDS),
        st.tuples(st.just("get"), KEYS),
        st.tuples(st.just("scan"), BOUNDS, BOUNDS, st.booleans()),
    ),
    max_size=8,
)


class Undone(Exception):
    """Raised by a change that is meant to fail."""


class StoreMachine(RuleBasedStateMachine):
    """Random changes, snapshots and reopenings of a store, compared with a dictionary."""

    keeps = False
    """Whether the engine finds its contents again when it is opened a second time."""

    def open(self, folder: Path) -> Store:
        raise NotImplementedError

    @initialize()
    def start(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.store = self.open(Path(self.folder.name) / "store")
        self.model: dict[bytes, bytes] = {}
        self.spool = Spool(self.store.path, 0)
        self.snapshots: list[tuple[Any, ReadTransaction, dict[bytes, bytes]]] = []

    def teardown(self) -> None:
        if hasattr(self, "store"):
            for context, _, _ in self.snapshots:
                context.__exit__(None, None, None)
            assert contents(self.store) == self.model
            assert self.store.check() == []
            self.store.close()
            self.folder.cleanup()

    @rule(operations=OPERATIONS, fails=st.booleans())
    def change(self, operations: list[Any], fails: bool) -> None:
        model = dict(self.model)

        def run(txn: WriteTransaction) -> None:
            for operation, *arguments in operations:
                self.operate(txn, model, operation, arguments)
            if fails:
                raise Undone

        if fails:
            with pytest.raises(Undone):
                self.store.write(run)
        else:
            self.store.write(run)
            self.model = model

    @rule(changes=st.lists(st.tuples(OPERATIONS, st.booleans()), min_size=2, max_size=5))
    def changes_together(self, changes: list[tuple[list[Any], bool]]) -> None:
        outcomes: list[Outcome] = []
        release = threading.Event()
        self.store.submit(lambda txn: release.wait(10), lambda outcome: None)
        for operations, fails in changes:

            def run(txn: WriteTransaction, operations: list[Any] = operations, fails: bool = fails) -> None:
                model = dict(self.model)
                for operation, *arguments in operations:
                    self.operate(txn, model, operation, arguments)
                if fails:
                    raise Undone
                self.model = model

            self.store.submit(run, outcomes.append)
        release.set()
        self.store.write(lambda txn: None)
        assert [type(outcome.error) for outcome in outcomes] == [
            Undone if fails else type(None) for _, fails in changes
        ]

    def operate(self, txn: WriteTransaction, model: dict[bytes, bytes], operation: str, arguments: list[Any]) -> None:
        if operation == "put":
            key, value = arguments
            txn.put(key, value)
            model[key] = value
        elif operation == "put_late":
            key, value = arguments
            txn.put(key, self.spool.keep(value))
            model[key] = value
        elif operation == "delete":
            assert txn.delete(arguments[0]) == (model.pop(arguments[0], None) is not None)
        elif operation == "delete_range":
            doomed = [key for key in model if arguments[0] <= key < arguments[1]]
            assert txn.delete_range(*arguments) == len(doomed)
            for key in doomed:
                del model[key]
        elif operation == "get":
            assert txn.get(arguments[0]) == model.get(arguments[0])
        else:
            self.compare(txn, model, *arguments)

    @staticmethod
    def compare(txn: ReadTransaction, model: dict[bytes, bytes], start: bytes, stop: bytes, reverse: bool) -> None:
        expected = sorted(((k, v) for k, v in model.items() if start <= k < stop), reverse=reverse)
        assert list(txn.scan(start, stop, reverse)) == expected
        assert list(txn.scan_keys(start, stop, reverse)) == [key for key, _ in expected]
        handles = [handle for _, handle in txn.scan_handles(start, stop, reverse)]
        batch = txn.load_many(handles)
        assert [bytes(batch.value(i)) for i in range(len(batch))] == [value for _, value in expected]
        last = txn.last(start, stop)
        assert (last and last[0]) == max((key for key, _ in expected), default=None)

    @rule(start=BOUNDS, stop=BOUNDS, reverse=st.booleans())
    def scan(self, start: bytes, stop: bytes, reverse: bool) -> None:
        with self.store.read() as txn:
            self.compare(txn, self.model, start, stop, reverse)

    @precondition(lambda self: len(self.snapshots) < 3)
    @rule()
    def take_snapshot(self) -> None:
        context = self.store.read()
        self.snapshots.append((context, context.__enter__(), dict(self.model)))

    @precondition(lambda self: self.snapshots)
    @rule(data=st.data(), start=BOUNDS, stop=BOUNDS)
    def look_at_snapshot(self, data: st.DataObject, start: bytes, stop: bytes) -> None:
        _, txn, model = data.draw(st.sampled_from(self.snapshots))
        self.compare(txn, model, start, stop, False)

    @precondition(lambda self: self.snapshots)
    @rule()
    def release_snapshot(self) -> None:
        self.snapshots.pop()[0].__exit__(None, None, None)

    @precondition(lambda self: self.keeps and not self.snapshots)
    @rule()
    def reopen(self) -> None:
        self.store.close()
        self.store = self.open(Path(self.folder.name) / "store")
        assert contents(self.store) == self.model
