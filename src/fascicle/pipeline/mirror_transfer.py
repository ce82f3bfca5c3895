"""How a mirror moves bytes: threads that fetch, a limit on their rate, steps that a journal remembers, checks.

What lies at the destination is compared with what was sent there when all is done; steps whose objects are not as they
were are done again. Not for this module: what the objects are.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import TypeVar

from fascicle.errors import FascicleError
from fascicle.formats.gzip_stream import gzipped
from fascicle.pipeline.futures import ended_futures
from fascicle.pipeline.journal import Journal
from fascicle.pipeline.tasks import Progress
from fascicle.volumes.base import VolumeError
from fascicle.volumes.destinations import BINARY, Destination
from fascicle.volumes.objects import Changed, FileFolder, ObjectFolder, Piece, Span

PIECE_BYTES = 4 << 20
"""Large objects come in pieces of this size."""
STEPS_AT_ONCE = 4
FAILED_STEPS = 8
"""After so many failed steps no more are begun."""
_TRIES = 3
_STAMPS = 1 << 17
_ABSENT = "absent"
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class MirrorError(FascicleError):
    """Something could not be mirrored; the message says what is missing. What is done is noted."""


class Rate:
    """A limit on bytes per second, shared by all threads; 0 for none."""

    def __init__(self, bytes_per_s: float) -> None:
        self._bytes_per_s = bytes_per_s
        self._lock = threading.Lock()
        self._free_at = time.monotonic()

    def wait(self) -> None:
        """Until what was fetched so far has had its time."""
        if not self._bytes_per_s:
            return
        with self._lock:
            pause = self._free_at - time.monotonic()
        if pause > 0:
            time.sleep(pause)

    def add(self, size: int) -> None:
        """Bytes were fetched."""
        if not self._bytes_per_s:
            return
        with self._lock:
            self._free_at = max(self._free_at, time.monotonic()) + size / self._bytes_per_s


class MeteredFolder(ObjectFolder):
    """A folder whose bytes are counted and come no faster than a rate allows."""

    def __init__(self, inner: ObjectFolder, rate: Rate) -> None:
        self._inner = inner
        self._rate = rate
        self._lock = threading.Lock()
        self.address = inner.address
        self.remote = inner.remote
        self.lists = inner.lists
        self.fetched_bytes = 0
        self._stamps: dict[str, str] = {}
        """Of the objects that were asked for last."""

    def fetch(self, name: str, span: Span | None = None) -> Piece | None:
        self._rate.wait()
        piece = self._inner.fetch(name, span)
        size = 0 if piece is None else len(piece.data)
        self._rate.add(size)
        with self._lock:
            self.fetched_bytes += size
        self._note(name, None if piece is None else piece.stamp)
        return piece

    def measure(self, name: str) -> tuple[int, str] | None:
        found = self._inner.measure(name)
        self._note(name, None if found is None else found[1])
        return found

    def _note(self, name: str, stamp: str | None) -> None:
        with self._lock:
            if stamp == "" and name in self._stamps:
                return  # some servers say nothing of the object with a range of it
            while len(self._stamps) >= _STAMPS:
                del self._stamps[next(iter(self._stamps))]
            self._stamps[name] = _ABSENT if stamp is None else plain_stamp(stamp)

    def stamp(self, name: str, anew: bool) -> str:
        """What changes when an object does: as it was told last, or asked for anew; empty if nobody says."""
        if anew or not self._stamps.get(name):
            self.measure(name)
        return self._stamps.get(name, "")

    def exists(self, name: str) -> bool:
        return self._inner.exists(name)

    def names(self, prefix: str = "") -> Iterator[str]:
        return self._inner.names(prefix)

    def path(self, name: str) -> str:
        return self._inner.path(name)


@dataclass(frozen=True, slots=True)
class Done:
    """What a step has put to the destination."""

    objects: int
    size_bytes: int
    checksum: str
    """Of all its objects: `Digest`."""
    stamps: str = ""
    """The hash of what changes when something changes at the source; empty if that cannot be told."""


@dataclass(frozen=True, slots=True)
class Step:
    """A part of a mirror that is done and noted as a whole."""

    name: str
    weight: int
    do: Callable[[], Done]
    check: Callable[[], Done]
    """Reads back what `do` has written."""
    sources: Callable[[], Sequence[str]] | None = None
    """The names of all objects of the source that are read, if that can be told before."""


class Digest:
    """The hash of objects, in order, those that are not there included."""

    def __init__(self) -> None:
        self._hash = hashlib.blake2b(digest_size=16)
        self.objects = 0
        self.size_bytes = 0

    def begin(self, size: int | None) -> None:
        """An object follows, of so many bytes, or the next one is not there."""
        self._hash.update(b"\0" if size is None else b"\1" + size.to_bytes(8, "little"))
        self.objects += size is not None
        self.size_bytes += size or 0

    def update(self, data: bytes) -> None:
        """A piece of the object."""
        self._hash.update(data)

    def add(self, data: bytes | None) -> None:
        """A whole object."""
        self.begin(None if data is None else len(data))
        if data is not None:
            self.update(data)

    def done(self) -> Done:
        return Done(self.objects, self.size_bytes, self._hash.hexdigest())


class Transfer:
    """From one folder to one destination. `fetch` and `ahead` may be called by several steps at once."""

    def __init__(
        self, source: ObjectFolder, destination: Destination, scratch: Path, workers: int, bytes_per_s: float
    ) -> None:
        self.rate = Rate(bytes_per_s)
        self.source = MeteredFolder(source, self.rate)
        self.destination = destination
        self.scratch = scratch
        self.workers = workers
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="mirror")
        self._number = 0
        self._lock = threading.Lock()

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)

    def ahead(self, items: Iterable[_Item], work: Callable[[_Item], _Result]) -> Iterator[_Result]:
        """Results in order, made by the threads that fetch, some of them before they are asked for."""
        window = max(2, -(-2 * self.workers // STEPS_AT_ONCE))
        waiting: deque[Future[_Result]] = deque()
        rest = iter(items)
        try:
            while True:
                for item in rest:
                    waiting.append(self._pool.submit(work, item))
                    if len(waiting) >= window:
                        break
                if not waiting:
                    return
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
            for future in waiting:
                if not future.cancelled():
                    with suppress(Exception):
                        future.result()

    def scratch_folder(self) -> Path:
        """An empty folder for whoever removes it."""
        with self._lock:
            self._number += 1
            folder = self.scratch / f"step-{self._number}"
        folder.mkdir(parents=True)
        return folder

    # -- objects in pieces

    def pieces(self, name: str, size: int, stamp: str) -> Iterator[bytes]:
        """An object that does not change meanwhile. Raises Changed if it does."""

        def fetch(start: int) -> bytes:
            piece = self.source.fetch(name, (start, min(size, start + PIECE_BYTES)))
            if piece is None:
                raise Changed(f"{self.source.path(name)} has vanished while it was read")
            if stamp and piece.stamp and piece.stamp != stamp:
                raise Changed(f"{self.source.path(name)} has changed while it was read")
            return piece.data

        yield from self.ahead(range(0, size, PIECE_BYTES), fetch)

    def to_scratch(self, name: str) -> tuple[Path, Done] | None:
        """A whole object in a scratch file; None if there is no such object."""
        for attempt in range(_TRIES):
            found = self.source.measure(name)
            if found is None:
                return None
            with self._lock:
                self._number += 1
                path = self.scratch / f"{self._number}.part"
            path.parent.mkdir(parents=True, exist_ok=True)
            digest = Digest()
            digest.begin(found[0])
            try:
                with path.open("wb") as file:
                    for data in self.pieces(name, *found):
                        file.write(data)
                        digest.update(data)
                return path, digest.done()
            except Changed:
                path.unlink(missing_ok=True)
                if attempt == _TRIES - 1:
                    raise
            except OSError as error:
                path.unlink(missing_ok=True)
                raise VolumeError(f"{path} cannot be written: {error}") from None
            except BaseException:
                path.unlink(missing_ok=True)
                raise
        raise AssertionError

    def copy_file(self, name: str, target: str, look: Callable[[Path], None] | None = None) -> Done:
        """A whole object, as it is, in pieces; `look` raises VolumeError if what came makes no sense."""
        found = self.to_scratch(name)
        if found is None:
            self.destination.delete(target)
            return _nothing(1)
        path, done = found
        try:
            if look:
                look(path)
            self.destination.take_file(target, path)
        finally:
            path.unlink(missing_ok=True)
        return done

    def check_file(self, target: str) -> Done:
        """Reads back what `copy_file` wrote."""
        folder = self.destination.folder
        found = folder.measure(target)
        if found is None:
            return _nothing(1)
        digest = Digest()
        digest.begin(found[0])
        for start in range(0, found[0], PIECE_BYTES):
            digest.update(folder.get_range(target, start, min(found[0], start + PIECE_BYTES)) or b"")
        return digest.done()

    def check_written(self, target: str) -> Done:
        """An object whose checksum is plain, as `WrittenShard` has it."""
        folder = self.destination.folder
        found = folder.measure(target)
        if found is None:
            return Done(0, 0, "")
        plain = hashlib.blake2b(digest_size=16)
        for start in range(0, found[0], PIECE_BYTES):
            plain.update(folder.get_range(target, start, min(found[0], start + PIECE_BYTES)) or b"")
        return Done(1, found[0], plain.hexdigest())

    # -- objects that fit into memory

    def copy_objects(
        self, names: Sequence[str], fetch: Callable[[str], bytes | None], encoding: str = "", kind: str = BINARY
    ) -> Done:
        """Objects by the names that they get; `fetch` brings one, or None. Compressed if `encoding` is gzip."""

        def move(name: str) -> bytes | None:
            data = fetch(name)
            if data is None:
                self.destination.delete(name)
            else:
                self.destination.put(name, gzipped(data) if encoding else data, kind, encoding)
            return data

        digest = Digest()
        for data in self.ahead(names, move):
            digest.add(data)
        return digest.done()

    def check_objects(self, names: Sequence[str]) -> Done:
        """Reads back what `copy_objects` wrote."""
        digest = Digest()
        for data in self.ahead(names, self.destination.folder.get):
            digest.add(data)
        return digest.done()

    # -- steps

    def stamps(self, step: Step, anew: bool = False) -> str:
        """The hash of the stamps of all that a step reads, as `Done` has it."""
        if step.sources is None:
            return ""
        digest = hashlib.blake2b(digest_size=12)
        for name in step.sources():
            stamp = self.source.stamp(name, anew)
            if not stamp:
                return ""
            digest.update(f"{name}\0{stamp}\0".encode())
        return digest.hexdigest()

    def unchanged(self, steps: Sequence[Step], known: dict[str, Done]) -> list[Step]:
        """Those of which nothing has changed at the source since they were done as `known` says."""
        some = [step for step in steps if step.name in known and known[step.name].stamps]
        found = self.ahead(some, lambda step: self.stamps(step, anew=True))
        return [step for step, stamps in zip(some, found, strict=True) if stamps == known[step.name].stamps]

    def run(self, steps: Sequence[Step], journal: Journal, stage: str, progress: Progress | None) -> list[Done]:
        """Do the steps that the journal does not know. Raises MirrorError that names those that failed."""
        results = {step.name: Done(*journal.done[step.name]) for step in steps if step.name in journal.done}
        missing = [step for step in steps if step.name not in results]
        total = sum(step.weight for step in steps)
        done = total - sum(step.weight for step in missing)
        if progress:
            progress(stage, done, total)
        for step, result in self._outcomes(missing, lambda step: replace(step.do(), stamps=self.stamps(step))):
            journal.add(step.name, list(astuple(result)))
            results[step.name] = result
            done += step.weight
            if progress:
                progress(stage, done, total)
        return [results[step.name] for step in steps]

    def verify(self, steps: Sequence[Step], journal: Journal, stage: str, progress: Progress | None) -> list[Step]:
        """Reads back what the steps have written; those whose objects are not as they were noted."""
        total, done = sum(step.weight for step in steps), 0
        wrong = []
        if progress:
            progress(stage, 0, total)
        for step, result in self._outcomes(steps, lambda step: step.check()):
            if replace(result, stamps="") != replace(Done(*journal.done[step.name]), stamps=""):
                wrong.append(step)
            done += step.weight
            if progress:
                progress(stage, done, total)
        return wrong

    def _outcomes(self, steps: Sequence[Step], work: Callable[[Step], Done]) -> Iterator[tuple[Step, Done]]:
        waiting = iter(steps)
        failures: list[str] = []
        with ThreadPoolExecutor(STEPS_AT_ONCE, thread_name_prefix="mirror-step") as pool:
            ended = ended_futures(
                waiting, lambda step: pool.submit(work, step), 2 * STEPS_AT_ONCE, lambda: len(failures) < FAILED_STEPS
            )
            with closing(ended):
                for step, future in ended:
                    try:
                        result = future.result()
                    except FascicleError as error:
                        failures.append(f"{step.name}: {error.message}")
                        continue
                    yield step, result
        if failures:
            rest = sum(1 for _ in waiting)
            more = f" ({len(failures)} steps failed, {rest} were not begun)" if len(failures) > 1 or rest else ""
            raise MirrorError(f"not everything could be mirrored{more}; {'; '.join(failures[:3])}")


def plain_stamp(stamp: str) -> str:
    """A stamp without what web servers add to it when they compress an answer."""
    plain = stamp.removeprefix("W/").strip('"')
    for ending in ("-gzip", ";gzip", "--gzip"):
        plain = plain.removesuffix(ending)
    return plain


def scratch_copy(path: Path, folder: Path, name: str) -> FileFolder:
    """A scratch file under the name that its object has, in a folder of its own."""
    target = folder / name
    target.parent.mkdir(parents=True, exist_ok=True)
    path.replace(target)
    return FileFolder(str(folder))


def _nothing(objects: int) -> Done:
    digest = Digest()
    for _ in range(objects):
        digest.begin(None)
    return digest.done()
