"""Which steps of a job are done: a text file, one JSON line each, every line on disk before the next step.

The first line says what the job is, from where to where. A journal of something else is an error; a line that
was cut off by a crash is dropped.
"""

from __future__ import annotations

import os
import tempfile
from hashlib import blake2b
from pathlib import Path
from typing import Any

import msgspec

from fascicle.errors import FascicleError
from fascicle.file_locks import try_lock


class JournalError(FascicleError):
    """A journal is that of another job, or cannot be used."""


def work_folder(job: str, place: str, remote: bool, journal: Path | None) -> Path:
    """Where the journal and scratch files of a job lie: beside what is written at `place`, or, if that is far away,
    with temporary files. A journal that was named (`journal`) has its folder beside it.

    Named by the job and the place, so that the same command finds it again.
    """
    if journal is not None:
        return journal.with_name(journal.name + ".scratch")
    if not remote:
        path = Path(place).expanduser().absolute()
        return path.with_name(f".{path.name}.{job}")
    digest = blake2b(place.encode(), digest_size=6).hexdigest()
    user = os.getuid() if hasattr(os, "getuid") else 0
    return Path(tempfile.gettempdir()) / f"fascicle-{job}-{user}-{digest}"


class Journal:
    """Opens or begins a journal. Steps are named by any text."""

    def __init__(self, path: Path, header: dict[str, Any]) -> None:
        self.path = path
        self.done: dict[str, Any] = {}
        """The steps that are done, and what was kept with them."""
        self._file = path.open("a+b")
        try:
            self._lock()
            length = self._read(header)
        except BaseException:
            self._file.close()
            raise
        self._file.truncate(length)
        self._file.seek(length)
        if not length:
            self._append(header)

    def _lock(self) -> None:
        """Until the process ends, or this is closed, no other one does the same job."""
        if not try_lock(self._file.fileno()):
            raise JournalError(f"{self.path} is in use: another process is doing this job")

    def _read(self, header: dict[str, Any]) -> int:
        """Takes over complete lines; how many bytes of the file they are."""
        length = 0
        for number, line in enumerate(self.path.read_bytes().splitlines(keepends=True)):
            if not line.endswith(b"\n"):
                break
            try:
                entry = msgspec.json.decode(line)
            except msgspec.DecodeError:
                break
            if number == 0 and entry != header:
                changed = sorted(name for name in header | entry if header.get(name) != entry.get(name))
                raise JournalError(
                    f"{self.path} is the journal of another job (it differs in {', '.join(changed)}); remove it to "
                    "start over, or name another one with --journal"
                )
            if number:
                self.done[entry["step"]] = entry.get("kept")
            length += len(line)
        return length

    def add(self, step: str, kept: Any = None) -> None:
        """A step is done and durable."""
        self.done[step] = kept
        self._append({"step": step} if kept is None else {"step": step, "kept": kept})

    def _append(self, entry: dict[str, Any]) -> None:
        self._file.write(msgspec.json.encode(entry) + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()
