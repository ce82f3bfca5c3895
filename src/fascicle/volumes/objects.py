"""Folders of objects: files, what a web server has, what lies in buckets (Google, S3, VAST). Bytes only, no formats.

A name that is not there is None. Everything else that goes wrong is a VolumeError that says what was asked for and what
happened, after some tries where another one may help. So zeros never stand for an error.

Names are relative, with `/` between parts; `..` climbs. Folders may be used by several threads at once.
"""

from __future__ import annotations

import bz2
import lzma
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import zstandard
from isal import igzip

from fascicle.volumes.base import VolumeError

if TYPE_CHECKING:
    from fascicle.volumes.chunk_cache import ChunkCache

Span = tuple[int, int]
REMOTE_SCHEMES = ("http://", "https://", "gs://", "s3://", "vast://", "vast+http://")
MERGED_GAP_BYTES = 32 << 10
"""Ranges of one object that lie so close are fetched as one."""
MERGED_BYTES = 16 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """How objects far away are fetched."""

    timeout_s: float = 60.0
    """The longest silence of a server."""
    attempts: int = 4
    """Tries before an error that may pass counts."""
    region: str = ""
    """Of an S3 bucket; else as the environment says, or as the bucket itself does."""
    endpoint: str = ""
    """URL of a server that speaks S3 or Google's protocol, instead of their own."""
    anonymous: bool | None = None
    """Whether requests to buckets go unsigned; by default if the environment has no credentials."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes of an object, and what changes when the object does (empty if nobody says)."""

    data: bytes
    stamp: str


class Forbidden(VolumeError):
    """The server lets nobody read an object, or not us, and nothing else was read from it that would tell more."""


class TooShort(VolumeError):
    """An object ends before the bytes that were asked for."""


class Changed(VolumeError):
    """An object is another one than the one whose index was read."""


class ObjectFolder(ABC):
    """Objects under one address."""

    address: str
    """As it was given, without a slash at its end."""
    remote: bool = True
    lists: bool = True
    """Whether `names` can tell."""

    @abstractmethod
    def fetch(self, name: str, span: Span | None = None) -> Piece | None:
        """An object or the bytes of a span (stop exclusive) of it, exactly as many; None if there is no such object.

        VolumeError if it cannot be read; TooShort if it ends before the span does.
        """

    @abstractmethod
    def exists(self, name: str) -> bool:
        """Whether there is an object of this name."""

    @abstractmethod
    def names(self, prefix: str = "") -> Iterator[str]:
        """The names of all objects that begin with a prefix. VolumeError if the server cannot tell."""

    def measure(self, name: str) -> tuple[int, str] | None:
        """The bytes of an object and its stamp, as `fetch` would give them; None if there is no such object."""
        piece = self.fetch(name)
        return None if piece is None else (len(piece.data), piece.stamp)

    def get(self, name: str) -> bytes | None:
        """A whole object."""
        piece = self.fetch(name)
        return None if piece is None else piece.data

    def get_range(self, name: str, start: int, stop: int) -> bytes | None:
        """The bytes of an object from `start` up to `stop`."""
        piece = self.fetch(name, (start, stop))
        return None if piece is None else piece.data

    def get_kept(self, name: str, generation: str) -> bytes | None:
        """A whole object, as a cache may have kept it since it was asked for under the same `generation`."""
        return self.get(name)

    def get_ranges(
        self, name: str, spans: Sequence[Span], stamp: str = "", generation: str = ""
    ) -> list[bytes] | None:
        """Several spans of an object; those that lie close together come in one request.

        Raises Changed if `stamp` is given and the object has another one. What a cache has kept is taken if it was
        asked for under the same stamp, or without one under the same `generation`.
        """
        found: dict[Span, bytes] = {}
        for group in merged(spans):
            start, stop = group[0][0], max(end for _, end in group)
            piece = self.fetch(name, (start, stop))
            if piece is None:
                return None
            if stamp and piece.stamp and piece.stamp != stamp:
                raise Changed(f"{self.path(name)} has changed while it was read")
            for a, b in group:
                found[a, b] = piece.data if (a, b) == (start, stop) else piece.data[a - start : b - start]
        return [found[span] for span in spans]

    def path(self, name: str) -> str:
        """An object's full address, for messages."""
        return f"{self.address}/{name}"


def open_folder(address: str, access: Access | None = None, cache: ChunkCache | None = None) -> ObjectFolder:
    """The folder of an address: a path, `file://`, `http(s)://`, `gs://bucket/...`, `s3://bucket/...`, or
    `vast://host/bucket/...` (S3 of another server; `vast+http://` without encryption). `cache` keeps what is far away.
    """
    folder = _open(address, access or Access())
    return folder if cache is None or not folder.remote else cache.folder(folder)


def _open(address: str, access: Access) -> ObjectFolder:
    if address.startswith(("http://", "https://")):
        from fascicle.volumes.web_objects import WebFolder

        return WebFolder(address, access)
    if address.startswith(REMOTE_SCHEMES):
        from fascicle.volumes.bucket_objects import BucketFolder

        return BucketFolder(address, access)
    path = address.removeprefix("file://")
    if "://" in path:
        raise VolumeError(f"{address} begins with none of file://, {', '.join(REMOTE_SCHEMES)}")
    return FileFolder(path)


def is_remote(address: str) -> bool:
    """Whether an address is far away."""
    return address.startswith(REMOTE_SCHEMES)


def merged(spans: Sequence[Span]) -> list[list[Span]]:
    """Spans in groups that are worth one request each, in order of position."""
    groups: list[list[Span]] = []
    end = 0
    for span in sorted(set(spans)):
        if groups and span[0] - end <= MERGED_GAP_BYTES and span[1] - groups[-1][0][0] <= MERGED_BYTES:
            groups[-1].append(span)
            end = max(end, span[1])
        else:
            groups.append([span])
            end = span[1]
    return groups


# -- files


class FileFolder(ObjectFolder):
    """Files in a folder, also those that some writers compress and name `<name>.gz` (or .zstd, .xz, .bz2)."""

    remote = False

    def __init__(self, path: str) -> None:
        self.address = path.rstrip("/") or "/"
        self._root = Path(path).expanduser()

    def fetch(self, name: str, span: Span | None = None) -> Piece | None:
        path = self._root / name
        try:
            with path.open("rb", buffering=0) as file:
                stat = os.fstat(file.fileno())
                stamp = f"{stat.st_mtime_ns}-{stat.st_size}"
                if span is None:
                    return Piece(file.readall(), stamp)
                file.seek(span[0])
                return Piece(self._exactly(_read(file, span[1] - span[0]), name, span), stamp)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            pass
        except OSError as error:
            if not path.is_dir():
                raise VolumeError(f"{path} cannot be read: {error}") from None
        data = self._unpacked(path)
        if data is None or span is None:
            return None if data is None else Piece(data, "")
        return Piece(self._exactly(data[slice(*span)], name, span), "")

    def exists(self, name: str) -> bool:
        path = self._root / name
        return path.is_file() or any(path.with_name(path.name + suffix).is_file() for suffix in _SUFFIXES)

    def measure(self, name: str) -> tuple[int, str] | None:
        path = self._root / name
        try:
            stat = path.stat()
        except OSError:  # packed, not there, or one that says why when it is read
            return super().measure(name)
        return (stat.st_size, f"{stat.st_mtime_ns}-{stat.st_size}") if path.is_file() else super().measure(name)

    def names(self, prefix: str = "") -> Iterator[str]:
        folder = self._root / prefix.rpartition("/")[0]
        for path in sorted(folder.rglob("*")):
            name = path.relative_to(self._root).as_posix()
            if name.startswith(prefix) and path.is_file():
                yield name

    def _exactly(self, data: bytes, name: str, span: Span) -> bytes:
        if len(data) != span[1] - span[0]:
            raise TooShort(f"{self.path(name)} ends before byte {span[1]}")
        return data

    @staticmethod
    def _unpacked(path: Path) -> bytes | None:
        for suffix, unpack in _SUFFIXES.items():
            packed = path.with_name(path.name + suffix)
            try:
                data = packed.read_bytes()
            except FileNotFoundError:
                continue
            except OSError as error:
                if isinstance(error, NotADirectoryError) or packed.is_dir():
                    continue
                raise VolumeError(f"{packed} cannot be read: {error}") from None
            if unpack is None:
                raise VolumeError(f"{packed} has a compression that cannot be read; gzip can")
            try:
                return unpack(data)
            except Exception as error:
                raise VolumeError(f"{packed} is damaged: {error}") from None
        return None


def _read(file: object, size: int) -> bytes:
    """As many bytes of a raw file as there are, up to `size`."""
    parts = []
    while size > 0:
        part = file.read(size)  # type: ignore[attr-defined]
        if not part:
            break
        parts.append(part)
        size -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def gunzipped(data: bytes) -> bytes:
    """What gzip has packed, of one member or several."""
    plain: bytes = igzip.decompress(data)  # type: ignore[no-untyped-call]
    return plain


def unzstd(data: bytes) -> bytes:
    """What zstd has packed; ValueError if it ends too soon."""
    unpacker = zstandard.ZstdDecompressor().decompressobj()
    plain = unpacker.decompress(data)
    if not unpacker.eof:
        raise ValueError("it ends too soon")
    return plain


_SUFFIXES: dict[str, Callable[[bytes], bytes] | None] = {
    ".gz": gunzipped,
    ".zstd": unzstd,
    ".zst": unzstd,
    ".xz": lzma.decompress,
    ".bz2": bz2.decompress,
    ".br": None,
}
