"""From the name that a viewer asks for to a file of a folder, for all ways in which programs name what they write.

Source: https://github.com/google/neuroglancer/tree/master/src/datasource/precomputed (names as the format has them),
and the names that CloudVolume (`<name>.gz`, `.br`, `.zstd`) and neuroglancer-scripts (`<scale>/x/y/z`, manifests
without `:`) give files.

Nothing outside of the folder is found, whatever the name: neither by `..` nor by a link.
"""

from __future__ import annotations

import bz2
import lzma
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from stat import S_ISREG

from fascicle.errors import FascicleError, StoreError
from fascicle.volumes.objects import gunzipped, unzstd

_SPAN = r"-?\d+--?\d+"
_CHUNK = re.compile(rf"({_SPAN})_({_SPAN})_({_SPAN})", re.ASCII)
_MANIFEST = re.compile(r"(\d+):0", re.ASCII)
_FRAGMENTS = re.compile(r"\d+", re.ASCII)
_JSON_NAMES = frozenset(["info", "provenance", ".zarray", ".zattrs", ".zgroup", ".zmetadata"])
JSON = "application/json"
BINARY = "application/octet-stream"
_TYPES = {
    ".json": JSON, ".html": "text/html; charset=utf-8",
    ".txt": "text/plain; charset=utf-8", ".csv": "text/csv; charset=utf-8",
    ".png": "image/png", ".jpg": "image/jpeg", ".svg": "image/svg+xml", ".zip": "application/zip",
}  # fmt: skip


class NotAcceptable(FascicleError):
    """A file is only there in a compression that the client does not take and that cannot be undone here."""

    status = 406


def _unbrotli(data: bytes) -> bytes:
    for module, name in (("brotli", "decompress"), ("brotlicffi", "decompress"), ("imagecodecs", "brotli_decode")):
        try:
            plain: bytes = bytes(getattr(import_module(module), name)(data))
        except ImportError:
            continue
        return plain
    raise NotAcceptable("this file is in brotli, which the client does not take: pip install 'fascicle[ingest]' helps")


@dataclass(frozen=True, slots=True)
class Packing:
    """A compression of whole files."""

    suffix: str
    coding: str
    """Its name in Content-Encoding; empty if HTTP has none that clients know."""
    unpack: Callable[[bytes], bytes]


PACKINGS = (
    Packing(".gz", "gzip", gunzipped),
    Packing(".br", "br", _unbrotli),
    Packing(".zstd", "zstd", unzstd),
    Packing(".zst", "zstd", unzstd),
    Packing(".xz", "", lzma.decompress),
    Packing(".bz2", "", bz2.decompress),
)


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A file that has what was asked for."""

    path: Path
    kind: str
    """Its Content-Type."""
    packing: Packing | None
    """How its content is compressed around what was asked for."""
    whole: bool
    """Whether it is read whole. Shards and the fragments of multi-resolution meshes are read by ranges: they are never
    sent in any Content-Encoding."""
    size: int
    """Bytes of the file as it is."""
    changed_ns: int

    def content(self) -> bytes:
        """What was asked for. Raises StoreError if the file is damaged."""
        data = self.path.read_bytes()
        if self.packing is None:
            return data
        try:
            return self.packing.unpack(data)
        except FascicleError:
            raise
        except Exception as error:  # each compression has errors of its own
            raise StoreError(f"{self.path.name} is damaged: {error}") from None


class StaticFiles:
    """The files of one folder. May be used by several threads at once."""

    def __init__(self, root: Path, follow_links: bool = False) -> None:
        self.root = root.resolve()
        self._follow_links = follow_links

    def find(self, segments: list[str]) -> FoundFile | None:
        """The file for the parts of a path (decoded, without empty ones), or None."""
        parts = _climbed(segments)
        if not parts:
            return None
        *folders, name = parts
        folder = self.root.joinpath(*folders)
        return self._named(folder, name) or self._deep(folder, name) or self._manifest(folder, name)

    def is_folder(self, segments: list[str]) -> bool:
        """Whether there is a folder of this name."""
        parts = _climbed(segments)
        if parts is None:
            return False
        path = self.root.joinpath(*parts)
        return path.is_dir() and self._is_inside(path)

    def names(self, segments: list[str]) -> list[str]:
        """What is in a folder, by name; folders end in `/`. What is hidden is left out."""
        parts = _climbed(segments)
        if parts is None or not self.is_folder(segments):
            return []
        with os.scandir(self.root.joinpath(*parts)) as entries:
            return sorted(entry.name + ("/" if entry.is_dir() else "") for entry in entries if entry.name[:1] != ".")

    def infos(self, deepest: int = 3, most: int = 200) -> Iterator[tuple[str, ...]]:
        """Folders that have a file `info`, as parts of their path: these first that are nearest."""
        waiting: list[tuple[str, ...]] = [()]
        seen = 0
        while waiting and seen < most:
            parts = waiting.pop(0)
            names = self.names(list(parts))
            if self.find([*parts, "info"]) is not None:
                seen += 1
                yield parts
            elif len(parts) < deepest:
                waiting += [(*parts, name[:-1]) for name in names if name.endswith("/")][:most]

    # -- ways in which a name may be on the disk

    def _named(self, folder: Path, name: str, kind: str = "") -> FoundFile | None:
        """The file of a name, as it is or compressed."""
        if os.name == "nt" and ":" in name:  # would name a stream of another file
            return None
        kind = kind or _kind(name)
        path = folder / name
        for packing in (None, *PACKINGS):
            candidate = path if packing is None else folder / (name + packing.suffix)
            try:
                stat = candidate.stat()
            except (OSError, ValueError):
                continue
            if not S_ISREG(stat.st_mode) or not self._is_inside(candidate):
                continue
            whole = not name.endswith(".shard") and not self._has_index(folder, name)
            return FoundFile(candidate, kind, packing, whole, stat.st_size, stat.st_mtime_ns)
        return None

    def _deep(self, folder: Path, name: str) -> FoundFile | None:
        """A chunk in folders, as neuroglancer-scripts writes it."""
        match = _CHUNK.fullmatch(name)
        if match is None:
            return None
        x, y, z = match.groups()
        return self._named(folder / x / y, z)

    def _manifest(self, folder: Path, name: str) -> FoundFile | None:
        """The manifest `<id>:0` of a mesh, under the names that filesystems without `:` make people give it."""
        match = _MANIFEST.fullmatch(name)
        if match is None:
            return None
        found = self._named(folder, match[1] + ".json", JSON)
        if found is not None:
            return found
        found = self._named(folder, match[1], JSON)
        # the same name may be that of a skeleton, or of the fragments of a multi-resolution mesh
        return found if found is not None and found.whole and found.content().lstrip()[:1] == b"{" else None

    @staticmethod
    def _has_index(folder: Path, name: str) -> bool:
        return _FRAGMENTS.fullmatch(name) is not None and (folder / f"{name}.index").is_file()

    def _is_inside(self, path: Path) -> bool:
        if self._follow_links:
            return True
        try:
            return path.resolve().is_relative_to(self.root)
        except (OSError, RuntimeError):
            return False


def _climbed(segments: list[str]) -> list[str] | None:
    """The parts of a path without `.` and `..`; None if it leaves the folder or cannot be that of a file."""
    parts: list[str] = []
    for segment in segments:
        if "\0" in segment or "/" in segment or (os.sep != "/" and (os.sep in segment or _has_drive(segment))):
            return None
        if segment == "..":
            if not parts:
                return None
            parts.pop()
        elif segment not in (".", ""):
            parts.append(segment)
    return parts


def _has_drive(segment: str) -> bool:
    return bool(os.path.splitdrive(segment)[0])


def _kind(name: str) -> str:
    if name in _JSON_NAMES or _MANIFEST.fullmatch(name):
        return JSON
    return _TYPES.get(os.path.splitext(name)[1].lower(), BINARY)
