from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fascicle.errors import StoreError, StoreFull
from fascicle.store import LateValue, spool
from fascicle.store.lmdb_engine import LmdbStore
from fascicle.store.spool import LEAST_BYTES, Spool, gathered, mapped_array
from fascicle.testing.store import contents, pattern


@given(st.lists(st.integers(0, 3000), max_size=40), st.integers(0, 20_000))
def test_what_is_kept_is_read_again(sizes: list[int], memory_bytes: int) -> None:
    kept = Spool(None, memory_bytes)
    values = [pattern(i, size) for i, size in enumerate(sizes)]
    found = [kept.keep(value) for value in values]
    assert [value if isinstance(value, bytes) else value.read() for value in reversed(found)] == values[::-1]
    assert [len(value) for value in found] == sizes
    in_memory = [value for value in found if isinstance(value, bytes) and len(value) > LEAST_BYTES]
    assert sum(map(len, in_memory)) <= memory_bytes
    assert kept.file_bytes == sum(len(value) for value in found if not isinstance(value, bytes))


def test_the_first_values_stay_in_memory(tmp_path: Path) -> None:
    kept = Spool(tmp_path, 1000)
    assert kept.keep(b"a" * 600) == b"a" * 600
    late = kept.keep(b"b" * 600)
    assert isinstance(late, LateValue)
    assert kept.keep(b"c" * 400) == b"c" * 400
    assert kept.keep(b"d" * LEAST_BYTES) == b"d" * LEAST_BYTES, "to know its place takes as much memory"
    assert late.read() == b"b" * 600
    more = late.behind(b"2").behind(b"1")
    assert (len(more), more.read(), b"0" + more) == (602, b"12" + b"b" * 600, b"012" + b"b" * 600)
    assert len({late.name, late.behind(b"1").name, late.behind(b"2").name}) == 3


def test_names_tell_spools_apart() -> None:
    names = [value.name for _ in range(3) if isinstance(value := Spool(None, 0).keep(bytes(1000)), LateValue)]
    assert len(set(names)) == 3


def test_its_file_has_no_name_and_goes_with_it(tmp_path: Path) -> None:
    kept = Spool(tmp_path, 0)
    late = kept.keep(bytes(3 << 20))
    assert isinstance(late, LateValue)
    assert list(tmp_path.iterdir()) == []
    fd = kept._file.fileno() if kept._file else -1
    assert os.fstat(fd).st_size == 3 << 20
    del kept
    assert late.read() == bytes(3 << 20), "a value holds its spool"
    del late
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_reading_by_many_threads_while_more_is_kept(tmp_path: Path) -> None:
    kept = Spool(tmp_path, 0)
    values = [pattern(i, 30_000) for i in range(100)]
    lates: list[bytes | LateValue] = []
    wrong: list[int] = []
    ended = threading.Event()

    def look(seed: int) -> None:
        rng = np.random.default_rng(seed)
        while not ended.is_set():
            if lates:
                i = int(rng.integers(len(lates)))
                late = lates[i]
                assert isinstance(late, LateValue)
                if late.read() != values[i]:
                    wrong.append(i)

    threads = [threading.Thread(target=look, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for value in values:
        lates.append(kept.keep(value))
    ended.set()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert len(lates) == 100


@pytest.mark.parametrize(("number", "kind"), [(errno.ENOSPC, StoreFull), (errno.EIO, StoreError)])
def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, kind: type[Exception]) -> None:
    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(spool, "write_whole", fail)
    kept = Spool(tmp_path, 0)
    with pytest.raises(kind, match=r"temporary file in .*" + os.strerror(number)):
        kept.keep(bytes(2 << 20))
    monkeypatch.setattr(spool, "MEMORY_BYTES", 10)
    with pytest.raises(kind, match="temporary file"):
        gathered([b"x" * 20], tmp_path)
    monkeypatch.setattr(spool, "unnamed_file", fail)
    with pytest.raises(kind, match="temporary file"):
        mapped_array(100, tmp_path)


def test_a_full_disk_at_commit_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Values are written to the log before the commit: what got there is behind its end, and is written over."""
    from fascicle.store import lmdb_engine, value_log

    monkeypatch.setattr(lmdb_engine, "WAITING_BYTES", 100_000)
    store = LmdbStore(tmp_path / "store", segment_bytes=300_000)
    store.write(lambda txn: txn.put(b"before", pattern(1, 5000)))
    kept = Spool(store.path, 0)
    lates = [kept.keep(pattern(i, 40_000)) for i in range(20)]
    real = value_log.write_at
    calls: list[int] = []

    def full(segment: value_log.Segment, pieces: list[bytes], offset: int) -> int:
        calls.append(offset)
        if len(calls) == 4:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(segment, pieces, offset)

    with monkeypatch.context() as patch:
        patch.setattr(value_log, "write_at", full)
        with pytest.raises(StoreFull):
            store.write(lambda txn: [txn.put(b"%02d" % i, late) for i, late in enumerate(lates)])
    assert len(calls) == 4
    assert contents(store) == {b"before": pattern(1, 5000)}
    store.write(lambda txn: [txn.put(b"%02d" % i, late) for i, late in enumerate(lates[:15])])
    assert contents(store) == {b"before": pattern(1, 5000), **{b"%02d" % i: pattern(i, 40_000) for i in range(15)}}
    assert store.check() == []
    store.close()


@pytest.mark.parametrize("sizes", [[], [5], [40, 0, 70], [100] * 50])
def test_gathered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sizes: list[int]) -> None:
    monkeypatch.setattr(spool, "MEMORY_BYTES", 100)
    pieces = [pattern(i, size) for i, size in enumerate(sizes)]
    found = gathered(iter(pieces), tmp_path)
    assert found.dtype == np.uint8
    assert found.tobytes() == b"".join(pieces)
    assert list(tmp_path.iterdir()) == []


def test_mapped_array(tmp_path: Path) -> None:
    array = mapped_array(100_000, tmp_path)
    assert not array.any()
    array[:] = 7
    assert (array == 7).all()
    assert list(tmp_path.iterdir()) == []
