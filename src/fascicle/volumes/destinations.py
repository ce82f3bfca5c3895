"""Where objects are written to: folders of files, and buckets (Google, S3 and what speaks its protocol).

An object is there whole or not at all: files are written beside their place and renamed, objects in buckets are put in
one request or as a multipart upload that is completed at its end. What is written is durable when a call returns.

Compression around an object (`encoding="gzip"`) becomes its Content-Encoding in a bucket. In a folder it becomes the
ending `.gz` of the file, which `ObjectFolder`, CloudVolume and servers that are told to look for it understand, but
TensorStore does not.
"""

from __future__ import annotations

import io
import os
from abc import ABC, abstractmethod
from hashlib import blake2b
from pathlib import Path

from fascicle.volumes.base import VolumeError
from fascicle.volumes.objects import Access, FileFolder, ObjectFolder

BINARY = "application/octet-stream"
JSON = "application/json"
GZIP = "gzip"
Data = bytes | memoryview


class Destination(ABC):
    """Objects under one address that are written. May be used by several threads at once."""

    address: str
    folder: ObjectFolder
    """The same place for reading."""

    @abstractmethod
    def put(self, name: str, data: Data, kind: str = BINARY, encoding: str = "", caching: str = "") -> None:
        """Write an object, or replace it. VolumeError if it cannot be written, after tries where another may help.

        `kind` is its Content-Type, `encoding` that of `data` (nothing or gzip), `caching` its Cache-Control.
        """

    @abstractmethod
    def put_file(self, name: str, path: Path, kind: str = BINARY, caching: str = "") -> None:
        """Write an object from a file of any size, which stays where it is; memory does not grow with it."""

    def take_file(self, name: str, path: Path, kind: str = BINARY, caching: str = "") -> None:
        """As `put_file`, of a file that is not needed afterwards: it is gone when this returns."""
        self.put_file(name, path, kind, caching)
        path.unlink(missing_ok=True)

    @abstractmethod
    def delete(self, name: str) -> None:
        """Remove an object, in whatever compression; nothing happens if there is none."""

    def tidy(self, directory: str) -> None:  # noqa: B027 - buckets show nothing of what was not completed
        """Remove what writers that were killed have left in a directory. Nobody may be writing there."""


class FileDestination(Destination):
    """A folder, made when the first object is written."""

    def __init__(self, path: str, durable: bool = True) -> None:
        self._root = Path(path.removeprefix("file://")).expanduser()
        self.folder = FileFolder(str(self._root))
        self.address = self.folder.address
        self._durable = durable

    def put(self, name: str, data: Data, kind: str = BINARY, encoding: str = "", caching: str = "") -> None:
        path = self._root / name
        packed = path.with_name(path.name + ".gz")
        target, other = (packed, path) if encoding == GZIP else (path, packed)
        temporary = self._temporary(target)
        try:
            with self._created(temporary) as file:
                _write(file, data)
                if self._durable:
                    os.fsync(file.fileno())
            temporary.replace(target)
            other.unlink(missing_ok=True)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise VolumeError(f"{target} cannot be written: {error}") from None

    def put_file(self, name: str, path: Path, kind: str = BINARY, caching: str = "") -> None:
        target = self._path(name)
        temporary = self._temporary(target)
        try:
            with path.open("rb") as source, temporary.open("wb", buffering=0) as file:
                while piece := source.read(1 << 20):
                    _write(file, piece)
                if self._durable:
                    os.fsync(file.fileno())
            temporary.replace(target)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise VolumeError(f"{target} cannot be written: {error}") from None

    def take_file(self, name: str, path: Path, kind: str = BINARY, caching: str = "") -> None:
        target = self._path(name)
        try:
            if self._durable:
                with path.open("rb") as file:
                    os.fsync(file.fileno())
            path.replace(target)
        except FileNotFoundError as error:
            raise VolumeError(f"{target} cannot be written: {error}") from None
        except OSError:  # another file system
            super().take_file(name, path, kind, caching)

    def delete(self, name: str) -> None:
        path = self._root / name
        for found in (path, path.with_name(path.name + ".gz")):
            try:
                found.unlink(missing_ok=True)
            except OSError as error:
                raise VolumeError(f"{found} cannot be removed: {error}") from None

    def tidy(self, directory: str) -> None:
        folder = self._root / directory
        for left in folder.rglob(".*.part") if folder.is_dir() else ():
            left.unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        path = self._root / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise VolumeError(f"the folder {path.parent} cannot be made: {error}") from None
        return path

    @staticmethod
    def _created(path: Path) -> io.FileIO:
        """A new file, whose folder is made if it is not there, which is seldom."""
        try:
            return io.FileIO(path, "w")
        except FileNotFoundError:
            path.parent.mkdir(parents=True, exist_ok=True)
            return io.FileIO(path, "w")

    @staticmethod
    def _temporary(target: Path) -> Path:
        """Named so that what a killed job left there is replaced when the object is written again."""
        name = target.name if len(target.name) < 200 else blake2b(target.name.encode(), digest_size=16).hexdigest()
        return target.with_name(f".{name}.part")


def _write(file: io.FileIO, data: Data) -> None:
    """All of the bytes: a raw file may take some of them only."""
    view = memoryview(data)
    while len(view):
        view = view[file.write(view) or 0 :]


def open_destination(address: str, access: Access | None = None, *, durable: bool = True) -> Destination:
    """The destination of an address: a path, `file://`, `gs://bucket/...`, `s3://bucket/...`, `vast://host/bucket/...`.

    `durable=False` leaves it to the system when files reach the disk: for work that is verified afterwards.
    """
    path = address.removeprefix("precomputed://")
    if path.startswith(("http://", "https://")):
        raise VolumeError(f"{address} cannot be written to: web servers only read")
    if "://" in path and not path.startswith("file://"):
        from fascicle.volumes.bucket_destination import BucketDestination

        return BucketDestination(path, access or Access())
    return FileDestination(path, durable)
