"""The cache on disk: bounded, checked, shared by processes, and never in the way."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from fascicle.volumes import chunk_cache
from fascicle.volumes.chunk_cache import ChunkCache
from fascicle.volumes.objects import Piece


def kept(cache: ChunkCache, key: str) -> bytes | None:
    found = cache.get(key)
    return None if found is None or found[0] is None else found[0].data


def files(cache: ChunkCache) -> list[Path]:
    return [path for path in cache.path.rglob("*") if path.is_file()]


def test_pieces_outlive_the_process(tmp_path: Path) -> None:
    cache = ChunkCache(tmp_path / "c", 1 << 20)
    assert cache.get("a") is None
    cache.put("a", Piece(b"data", "stamp"))
    cache.put("empty", Piece(b"", ""))
    cache.put("nothing", None)
    for again in (cache, ChunkCache(tmp_path / "c", 1 << 20)):
        assert again.get("a") == (Piece(b"data", "stamp"),)
        assert again.get("empty") == (Piece(b"", ""),)
        assert again.get("nothing") == (None,)
        assert again.get("b") is None
    cache.put("a", Piece(b"new", "other"))
    assert kept(cache, "a") == b"new"


def test_old_pieces_are_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = ChunkCache(tmp_path, 1 << 20, max_age_s=50)
    lasting = ChunkCache(tmp_path, 1 << 20)
    cache.put("a", Piece(b"data", ""))
    cache.put("nothing", None)
    now = time.time()
    for age, young, absent in ((40, True, True), (60, False, True), (700, False, False), (-10, False, False)):
        monkeypatch.setattr(time, "time", lambda age=age: now + age)
        assert (cache.get("a") is not None) == young
        assert lasting.get("a") is not None
        assert (lasting.get("nothing") is not None) == absent


@pytest.mark.parametrize("at", [0, 5, 10, 30, 45, -1])
def test_damage_is_noticed(at: int, tmp_path: Path) -> None:
    cache = ChunkCache(tmp_path, 1 << 20)
    cache.put("a", Piece(b"data" * 9, "stamp"))
    (path,) = files(cache)
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)
    assert cache.get("a") is None
    assert not path.exists()
    for cut in (0, 3, len(data) - 1):
        cache.put("a", Piece(b"data" * 9, "stamp"))
        path.write_bytes(path.read_bytes()[:cut])
        assert cache.get("a") is None


def test_the_longest_unused_go_first(tmp_path: Path) -> None:
    cache = ChunkCache(tmp_path, 200_000)
    for i in range(15):
        cache.put(f"k{i}", Piece(bytes([i]) * 10_000, ""))
        cache.wait()
    by_key = {key: cache._file(key) for key in (f"k{i}" for i in range(15))}
    for i, path in enumerate(by_key.values()):
        os.utime(path, (1_000_000 + i, 1_000_000 + i))
    assert kept(cache, "k0") is not None  # and so it is used now
    for i in range(15, 20):
        cache.put(f"k{i}", Piece(bytes(10_000), ""))
        cache.wait()
    assert cache.shrink() <= 180_000
    assert kept(cache, "k0") is not None
    assert kept(cache, "k1") is None
    assert kept(cache, "k19") is not None
    assert sum(path.stat().st_size for path in files(cache)) <= 180_000


def test_it_stays_within_its_size(tmp_path: Path) -> None:
    cache = ChunkCache(tmp_path, 300_000)
    for i in range(80):
        cache.put(f"k{i}", Piece(bytes(9_000), ""))
        cache.wait()
        assert sum(path.stat().st_size for path in files(cache)) <= 300_000
    cache.put("large", Piece(bytes(100_000), ""))
    assert cache.get("large") is None


def test_a_lock_left_behind_grows_old(tmp_path: Path) -> None:
    cache = ChunkCache(tmp_path, 100)
    (tmp_path / "lock").touch()
    assert cache.shrink() == -1
    os.utime(tmp_path / "lock", (time.time() - 1000,) * 2)
    assert cache.shrink() == 0
    assert not (tmp_path / "lock").exists()


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    cache = ChunkCache(tmp_path / "file" / "c", 1 << 20)
    cache.put("a", Piece(b"data", ""))
    assert cache.get("a") is None
    assert cache.shrink() in (-1, 0)


def test_threads_and_processes(tmp_path: Path) -> None:
    """All write and read the same few keys while the cache overflows: what is found is always what was put."""
    script = (
        "import sys\nfrom pathlib import Path\nfrom fascicle.volumes.chunk_cache import ChunkCache\n"
        "from fascicle.volumes.objects import Piece\ncache = ChunkCache(Path(sys.argv[1]), 400_000)\n"
        "for i in range(400):\n"
        "    key = i * 7 % 60\n    found = cache.get(str(key))\n"
        "    assert found is None or found[0].data == bytes([key]) * 9000, key\n"
        "    cache.put(str(key), Piece(bytes([key]) * 9000, ''))\n"
        "cache.wait()\n"
    )
    others = [subprocess.Popen([sys.executable, "-c", script, str(tmp_path)]) for _ in range(2)]
    cache = ChunkCache(tmp_path, 400_000)
    wrong: list[int] = []

    def work() -> None:
        for i in range(400):
            key = i * 11 % 60
            found = kept(cache, str(key))
            if found is not None and found != bytes([key]) * 9000:
                wrong.append(key)
            cache.put(str(key), Piece(bytes([key]) * 9000, ""))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    cache.wait()
    assert [other.wait(60) for other in others] == [0, 0]
    assert not wrong
    assert cache.shrink() <= 400_000
    assert chunk_cache.KEPT_SHARE < 1
