"""The folder a store lies in: claiming it, and never touching anybody else's."""

from __future__ import annotations

import json
import os
from pathlib import Path

from fascicle.errors import StoreError
from fascicle.store.value_log import FULL_ERRNOS, sync_folder

MARKER = "store.json"
FORMAT = {"format": "fascicle-store", "engine": "lmdb", "version": 1}
FOREIGN = ("MANIFEST", "MANIFEST-*", "CURRENT", "KEYREGISTRY", "DISCARD", "*.sst", "*.vlog", "*.ldb", "*.mdb")


def claim_folder(path: Path, readonly: bool) -> None:
    """See to it that a folder is a store, or may become one. Raises StoreError, and then has changed nothing."""
    marker = path / MARKER
    if marker.exists():
        try:
            found = json.loads(marker.read_text())
        except ValueError as error:
            raise StoreError(f"{marker} is damaged: {error}") from error
        if found != FORMAT:
            raise StoreError(f"{path} holds a store of another kind or version: {found}; this program reads {FORMAT}")
        return
    if path.exists() and not path.is_dir():
        raise StoreError(f"{path} is a file; a store is a folder")
    foreign = sorted(file.name for pattern in FOREIGN for file in path.glob(pattern))
    if foreign and marker.exists():  # another process has just made the store
        claim_folder(path, readonly)
        return
    if foreign:
        raise StoreError(f"{path} holds another program's database ({', '.join(foreign[:4])}); choose another folder")
    if readonly:
        raise StoreError(f"there is no store in {path}")
    try:
        (path / "values").mkdir(parents=True, exist_ok=True)
        write_marker(path)
    except OSError as error:
        raise StoreError(f"a store cannot be made in {path}: {error}") from error


def write_marker(path: Path) -> None:
    """Make a folder known as a store."""
    temporary = path / f"{MARKER}.{os.getpid()}"
    with temporary.open("w") as file:
        file.write(json.dumps(FORMAT) + "\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path / MARKER)
    sync_folder(path)


def no_space_behind(file: Path) -> bool:
    """Whether a file cannot be made longer. LMDB calls it an I/O error when a part of a write still fitted."""
    probe = file.with_name(f"space.{os.getpid()}")
    size = 1 << 20
    try:
        with probe.open("wb", buffering=0) as stream:
            stream.seek(file.stat().st_size)
            return stream.write(bytes(size)) < size
    except OSError as error:
        return error.errno in FULL_ERRNOS
    finally:
        probe.unlink(missing_ok=True)
