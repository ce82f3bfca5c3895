"""Objects far away, and pieces of them, kept in a folder on disk. Several processes may use one folder at once.

Each piece is a file named by a hash of where it comes from: address, name, span, and the stamp (ETag, generation) of
the object if it is known. The file begins with that, and a checksum; one that does not fit is removed and fetched
again. Files appear by renaming, so nobody sees half of one. The time of change of a file says when it was last used:
when the folder holds more than it may, those go that were not used for longest. Nothing here is the only copy of
anything: a disk that is full or read-only makes the cache useless, but harms nobody.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import struct
import tempfile
import threading
import time
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from fascicle.volumes.objects import ObjectFolder, Piece, Span

ABSENT_AGE_S = 600.0
"""How long it is believed that an object is not there."""
TOUCH_S = 60.0
"""Uses of a file are noted so often at most."""
LARGEST_SHARE = 8
"""A piece may take this part of the cache at most."""
KEPT_SHARE = 0.9
_MAGIC = b"FaCh"
_HEAD = struct.Struct("<4sBIHHQd")
"""Magic, whether the object exists, CRC-32 of all else; lengths of key, stamp and data; when it was fetched."""
_PRESENT, _ABSENT = 1, 0
_LOCK = "lock"
_LOCK_AGE_S = 600.0


class ChunkCache:
    """A cache of `size_bytes` in a folder, which is made if need be.

    `max_age_s`: pieces that were fetched longer ago are fetched again; None trusts that what lies under a name stays.
    """

    def __init__(self, folder: Path, size_bytes: int, max_age_s: float | None = None) -> None:
        self.path = folder
        self.size_bytes = size_bytes
        self.max_age_s = max_age_s
        self._added = 0
        self._allowance = max(1, min(size_bytes // 64, 256 << 20))
        self._lock = threading.Lock()
        self._sweep: threading.Thread | None = None
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)

    def folder(self, folder: ObjectFolder) -> ObjectFolder:
        """A folder whose objects are kept here."""
        return CachedFolder(folder, self)

    def get(self, key: str) -> tuple[Piece | None] | None:
        """(what is kept under a key, where None means that there is no such object), or None if nothing is kept."""
        path = self._file(key)
        try:
            with path.open("rb") as file:
                data = file.read()
                changed = os.fstat(file.fileno()).st_mtime
        except OSError:
            return None
        entry = _read(data, key)
        if entry is None:
            self._remove(path)
            return None
        piece, fetched = entry
        now = time.time()
        age = ABSENT_AGE_S if piece is None else self.max_age_s
        if age is not None and not 0 <= now - fetched <= age:
            return None
        if now - changed > TOUCH_S:
            with contextlib.suppress(OSError):
                os.utime(path)
        return (piece,)

    def put(self, key: str, piece: Piece | None) -> None:
        """Keep a piece, or that an object is not there."""
        data = _written(key, piece)
        if len(data) > self.size_bytes // LARGEST_SHARE:
            return
        path = self._file(key)
        try:
            path.parent.mkdir(exist_ok=True)
            handle, temporary = tempfile.mkstemp(prefix="new-", dir=path.parent)
            try:
                with open(handle, "wb") as file:
                    file.write(data)
                os.replace(temporary, path)
            except OSError:
                with contextlib.suppress(OSError):
                    os.unlink(temporary)
                return
        except OSError:
            return
        with self._lock:
            self._added += len(data)
            if self._added < self._allowance or (self._sweep is not None and self._sweep.is_alive()):
                return
            self._added = 0
            self._sweep = threading.Thread(target=self.shrink, name="chunk-cache", daemon=True)
            self._sweep.start()

    def shrink(self) -> int:
        """Remove what was not used for longest until the cache is within its size; the bytes that it has then."""
        with self._sole() as is_sole:
            if not is_sole:
                return -1
            files = sorted(self._files())
            total = sum(size for _, size, _ in files)
            if total <= self.size_bytes * KEPT_SHARE:
                return total
            for _, size, path in files:
                if total <= self.size_bytes * KEPT_SHARE:
                    break
                if self._remove(Path(path)):
                    total -= size
            return total

    def wait(self) -> None:
        """Until a removal that runs in the background has ended."""
        sweep = self._sweep
        if sweep is not None:
            sweep.join()

    def _file(self, key: str) -> Path:
        name = hashlib.blake2b(key.encode(), digest_size=20).hexdigest()
        return self.path / name[:2] / name[2:]

    def _files(self) -> Iterator[tuple[float, int, str]]:
        """When each file was used, its size on disk, and its path."""
        now = time.time()
        for number in range(256):
            with contextlib.suppress(OSError), os.scandir(self.path / f"{number:02x}") as entries:
                for entry in entries:
                    with contextlib.suppress(OSError):
                        stat = entry.stat()
                        if entry.name.startswith("new-") and now - stat.st_mtime < _LOCK_AGE_S:
                            continue  # somebody writes it
                        yield stat.st_mtime, stat.st_size, entry.path

    def _remove(self, path: Path) -> bool:
        try:
            path.unlink()
        except OSError:
            return False
        return True

    @contextlib.contextmanager
    def _sole(self) -> Iterator[bool]:
        """Whether no other process removes files now. A lock that a process left behind when it died grows old."""
        lock = self.path / _LOCK
        try:
            if time.time() - lock.stat().st_mtime > _LOCK_AGE_S:
                self._remove(lock)
        except OSError:
            pass
        try:
            os.close(os.open(lock, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        except OSError:
            yield False
            return
        try:
            yield True
        finally:
            self._remove(lock)


class CachedFolder(ObjectFolder):
    """A folder of which a cache keeps what is asked for by `get_kept` and `get_ranges`; `fetch` always asks anew."""

    def __init__(self, inner: ObjectFolder, cache: ChunkCache) -> None:
        self.inner = inner
        self.address = inner.address
        self.remote = inner.remote
        self._cache = cache

    def fetch(self, name: str, span: Span | None = None) -> Piece | None:
        return self.inner.fetch(name, span)

    def get_kept(self, name: str, generation: str) -> bytes | None:
        key = f"{self.address}\n{name}\n{generation}"
        kept = self._cache.get(key)
        if kept is None:
            kept = (self.inner.fetch(name),)
            self._cache.put(key, kept[0])
        return None if kept[0] is None else kept[0].data

    def get_ranges(
        self, name: str, spans: Sequence[Span], stamp: str = "", generation: str = ""
    ) -> list[bytes] | None:
        if not stamp and not generation:
            return self.inner.get_ranges(name, spans)
        keys = {span: f"{self.address}\n{name}\n{span[0]}-{span[1]}\n{stamp or generation}" for span in spans}
        found: dict[Span, bytes] = {}
        for span, key in keys.items():
            kept = self._cache.get(key)
            if kept is not None and kept[0] is not None:
                found[span] = kept[0].data
        missing = [span for span in keys if span not in found]
        if missing:
            fetched = self.inner.get_ranges(name, missing, stamp, generation)
            if fetched is None:
                return None
            for span, data in zip(missing, fetched, strict=True):
                found[span] = data
                self._cache.put(keys[span], Piece(data, stamp))
        return [found[span] for span in spans]

    def exists(self, name: str) -> bool:
        return self.inner.exists(name)

    def names(self, prefix: str = "") -> Iterator[str]:
        return self.inner.names(prefix)

    def path(self, name: str) -> str:
        return self.inner.path(name)


def _written(key: str, piece: Piece | None) -> bytes:
    """A file of the cache."""
    name, stamp = key.encode(), (piece.stamp if piece else "").encode()
    data = piece.data if piece else b""
    body = name + stamp + data
    head = (_MAGIC, _ABSENT if piece is None else _PRESENT, 0, len(name), len(stamp), len(data), time.time())
    check = zlib.crc32(body, zlib.crc32(_HEAD.pack(*head)))
    return _HEAD.pack(*head[:2], check, *head[3:]) + body


def _read(data: bytes, key: str) -> tuple[Piece | None, float] | None:
    """What a file holds and when that was fetched; None if it is damaged or has the hash of another key."""
    if len(data) < _HEAD.size or data[:4] != _MAGIC:
        return None
    head = _HEAD.unpack_from(data)
    _, kind, check, name_size, stamp_size, size, fetched = head
    begin = _HEAD.size + name_size
    if len(data) != begin + stamp_size + size or data[_HEAD.size : begin] != key.encode():
        return None
    if check != zlib.crc32(data[_HEAD.size :], zlib.crc32(_HEAD.pack(*head[:2], 0, *head[3:]))):
        return None
    if kind == _ABSENT:
        return None, fetched
    return Piece(data[begin + stamp_size :], data[begin : begin + stamp_size].decode()), fetched
