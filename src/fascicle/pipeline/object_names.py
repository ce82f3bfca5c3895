"""Names of files as the precomputed format has them, where a program has given them others.

Source: https://github.com/google/neuroglancer/tree/master/src/datasource/precomputed

* `<name>.gz` (CloudVolume on files, neuroglancer-scripts) becomes `<name>`: unpacked in a folder, so that a web server
  need know nothing of it; with `Content-Encoding: gzip` in a bucket.
* `<scale>/<x>/<y>/<z>` (neuroglancer-scripts) becomes `<scale>/<x>_<y>_<z>`.
* `<id>.json` and `<id>`, manifests of meshes on filesystems without `:`, become `<id>:0`.

Safe to interrupt and to run again: an object is there under its old name until it is there under the new one.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from fascicle.errors import BadRequest
from fascicle.volumes.base import VolumeError
from fascicle.volumes.destinations import BINARY, GZIP, JSON, Destination, FileDestination, open_destination
from fascicle.volumes.objects import TooShort, gunzipped

_SPAN = r"-?\d+--?\d+"
_DEEP = re.compile(rf"(.*/)?({_SPAN})/({_SPAN})/({_SPAN})", re.ASCII)
_MANIFEST = re.compile(r"(.*/)?(\d+)(\.json)?", re.ASCII)
_KNOWN_ENDINGS = (".json", ".spatial", ".index")
_GZIP_MAGIC = b"\x1f\x8b"


@dataclass(frozen=True, slots=True)
class FixedNames:
    """What was done, or would be."""

    renamed: tuple[tuple[str, str], ...]
    """(old name, new name) of each object, relative to the address."""
    in_the_way: tuple[tuple[str, str], ...]
    """Those that were left alone, because there is another object of the new name."""


def fix_names(address: str, *, dry_run: bool = False, progress: Callable[[int], None] | None = None) -> FixedNames:
    """Give what lies in a folder or bucket the names of the format; `dry_run` only says what would be done.

    Raises VolumeError if something cannot be read or written, BadRequest where files cannot have such names.

    Example: `fix_names("out/segmentation", dry_run=True).renamed`
    """
    destination = open_destination(address)
    local = isinstance(destination, FileDestination)
    if local and not Path(destination.address).expanduser().is_dir():
        raise VolumeError(f"there is no folder {address}")
    names = sorted(destination.folder.names())
    taken = set(names)
    renamed: list[tuple[str, str]] = []
    in_the_way: list[tuple[str, str]] = []
    for name in names:
        new = _name_of_format(destination, name, taken)
        if new == name:
            continue
        if new in taken:
            in_the_way.append((name, new))
            continue
        if local and os.name == "nt" and ":" in new:
            raise BadRequest(f"{new} cannot be the name of a file on this system; `fascicle host` needs no such names")
        if not dry_run:
            _move(destination, local, name, new)
        taken.add(new)
        renamed.append((name, new))
        if progress is not None:
            progress(len(renamed))
    return FixedNames(tuple(renamed), tuple(in_the_way))


def _name_of_format(destination: Destination, name: str, taken: set[str]) -> str:
    plain = name
    if name.endswith(".gz"):
        stem = name[:-3]
        last = stem.rpartition("/")[2]
        if "." in last and not last.endswith(_KNOWN_ENDINGS):
            return name  # scan.nii.gz is a file of its own
        plain = stem
    deep = _DEEP.fullmatch(plain)
    if deep is not None:
        return f"{deep[1] or ''}{deep[2]}_{deep[3]}_{deep[4]}"
    manifest = _MANIFEST.fullmatch(plain)
    has_index = manifest is not None and f"{manifest[1] or ''}{manifest[2]}.index" in taken
    if manifest is not None and not has_index and _is_manifest(destination, name):
        return f"{manifest[1] or ''}{manifest[2]}:0"
    return plain


def _is_manifest(destination: Destination, name: str) -> bool:
    try:
        first = destination.folder.get_range(name, 0, 2)
    except TooShort:
        return False
    if first is None or (first[:1] not in b"{ \n" and first != _GZIP_MAGIC):  # a skeleton, or fragments of a mesh
        return False
    data = _plain(destination.folder.get(name) or b"")
    try:
        document = json.loads(data)
    except ValueError:
        return False
    return isinstance(document, dict) and isinstance(document.get("fragments"), list)


def _plain(data: bytes) -> bytes:
    return gunzipped(data) if data.startswith(_GZIP_MAGIC) else data


def _move(destination: Destination, local: bool, name: str, new: str) -> None:
    if local:
        root = Path(destination.address).expanduser()
        _move_file(destination, root, name, new)
        return
    data = destination.folder.get(name)
    if data is None:
        return
    kind = JSON if new.endswith((":0", "/info")) or new == "info" else BINARY
    packed = name.endswith(".gz") and data.startswith(_GZIP_MAGIC)
    destination.put(new, data, kind, GZIP if packed else "")
    destination.delete(name)


def _move_file(destination: Destination, root: Path, name: str, new: str) -> None:
    old = root / name
    if not name.endswith(".gz"):
        target = root / new
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            old.replace(target)
        except OSError as error:
            raise VolumeError(f"{old} cannot be renamed to {target}: {error}") from None
    else:
        data = old.read_bytes()
        try:
            plain = _plain(data)
        except Exception as error:
            raise VolumeError(f"{old} is damaged: {error}") from None
        destination.put(new, plain)
        old.unlink(missing_ok=True)
    for folder in _empty_parents(old, root):
        folder.rmdir()


def _empty_parents(path: Path, root: Path) -> Iterator[Path]:
    """Folders that have nothing left in them, innermost first."""
    for folder in path.parents:
        if folder == root or any(folder.iterdir()):
            return
        yield folder
