"""Jobs that go through a segmentation block by block and then body by body: what meshes and skeletons have in common.

First each block is read and what is found in it is kept in a file, then bodies are joined in ranges and left in spools,
then all are written. Each of these steps is noted in a journal, which lies with the files in between beside the
destination, so the same call goes on where an earlier one was stopped.

A job derives from `BodyJob`; the tasks that its workers do are in a module of their own (`body_parts`).
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, ClassVar, Generic, Self, TypeVar

import msgspec

from fascicle.errors import BadRequest
from fascicle.pipeline.body_outputs import Advance, UnfinishedError
from fascicle.pipeline.body_parts import BodySetting, Ranges, Workplace
from fascicle.pipeline.export_version import choose
from fascicle.pipeline.journal import Journal, work_folder
from fascicle.pipeline.sources import SourceSpec
from fascicle.pipeline.tasks import Job, Progress, Task, TaskError, run_tasks, usual_workers
from fascicle.volumes.base import Pyramid, VolumeSource, Zyx
from fascicle.volumes.destinations import Destination
from fascicle.volumes.shard_writing import ScatteredShards

BASE_BYTES = 200 << 20
"""Memory of a worker before it does anything."""
FEWEST_BYTES = 64 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class BodyOptions:
    """What is made of which bodies, and by whom."""

    keys: bool = False
    """Put values into the key-value of the version in which viewers look for them; the version must be open."""
    scale: int = 0
    """The scale of the volume that is read; 0 is the finest."""
    bodies: tuple[int, ...] = ()
    """Only these."""
    since: str = ""
    """Only bodies that are not what they were at this version; of a version in a store folder."""
    sharded: bool | None = None
    """Of what can be; None: if there are many."""
    block_xyz: tuple[int, int, int] | None = None
    """The size of blocks; by default what the memory allows."""
    workers: int = 0
    """Processes; 0: as many as there are processors."""
    scheduler: str = ""
    memory_bytes: int = 2 << 30
    journal: Path | None = None


O = TypeVar("O", bound=BodyOptions)  # noqa: E741


# -- before anything is done


def check_since(source: SourceSpec, options: BodyOptions) -> None:
    """Raises BadRequest if changed bodies are asked for where they cannot be known."""
    if options.since and not source.data:
        raise BadRequest("only the versions of a store folder can be compared (since)")
    if options.since and source.supervoxels:
        raise BadRequest("versions are compared by their bodies, not by supervoxels")
    if options.since and options.bodies:
        raise BadRequest("name either bodies or an earlier version")


def settled(source: SourceSpec, what_is_put: str) -> tuple[SourceSpec, list[Any]]:
    """The source with its version named, and what of the version's state must not change while the job is done.

    `what_is_put` into that version, if anything is: then its state changes, and it must be open, else BadRequest.
    """
    if source.address:
        return source, []
    version = choose(source)
    if what_is_put and version.locked:
        raise BadRequest(f"version {version.spec.version} is committed: {what_is_put} can be put into an open one only")
    return version.spec, [version.locked, 0 if what_is_put else version.state]


def labels_at(pyramid: Pyramid, scale: int, is_instance: bool) -> VolumeSource:
    """The volume of a scale. Raises BadRequest unless it has labels; files may be of labels without saying so."""
    if pyramid.kind != "segmentation" and is_instance:
        raise BadRequest(f"{pyramid.name} is no segmentation")
    if not 0 <= scale < len(pyramid.scales):
        raise BadRequest(f"{pyramid.name} has no scale {scale}, only 0 to {len(pyramid.scales) - 1}")
    volume = pyramid.scales[scale]
    if volume.dtype.kind not in "ui":
        raise BadRequest(f"{pyramid.name} has voxels of {volume.dtype}, which are no labels")
    return volume


def resolution_at(pyramid: Pyramid, scale: int) -> tuple[float, float, float]:
    """The size of the voxels x, y, z of a scale in nm. Raises BadRequest if it is not known."""
    resolution = pyramid.scales[scale].resolution_nm
    if resolution is None:
        raise BadRequest(f"{pyramid.name} does not say how large its voxels are")
    return resolution


def block_boxes(shape_zyx: Zyx, size_zyx: Zyx) -> Iterator[tuple[list[int], list[int], list[bool]]]:
    """(start, stop, open faces) of the blocks of a volume, each with the first layer of the next one."""
    counts = [max(1, -(-(shape - 1) // size)) for shape, size in zip(shape_zyx, size_zyx, strict=True)]
    for z in range(counts[0]):
        for y in range(counts[1]):
            for x in range(counts[2]):
                at = (z, y, x)
                start = [i * size for i, size in zip(at, size_zyx, strict=True)]
                stop = [min(a + size + 1, shape) for a, size, shape in zip(start, size_zyx, shape_zyx, strict=True)]
                faces = [face for i, count in zip(at, counts, strict=True) for face in (i > 0, i + 1 < count)]
                yield start, stop, faces


class BodyJob(Generic[O]):
    """One job while it is done. Closed by `with`, which removes the journal and the files in between at the end."""

    name: ClassVar[str]
    """Of the command."""
    things: ClassVar[str]
    """What is made."""
    error: ClassVar[type[UnfinishedError]]
    """What is raised if they are not complete."""

    _setting: BodySetting
    """Of the workers; to be set before blocks are done."""

    def __init__(
        self,
        source: SourceSpec,
        destination: str,
        options: O,
        target: Destination | None,
        progress: Progress | None,
    ) -> None:
        self.source, self.options = source, options
        self.count = self.vertices = self.shards = self.removed = 0
        self.linked = False
        self.blocks: list[list[Any]] = []
        """[number, start z y x, stop z y x, open faces] of each."""
        self._destination, self._target = destination, target
        self._progress = progress
        self._workers = options.workers or usual_workers()
        self._bodies, self._vanished = self._choose_bodies()
        self._updates = bool(options.since or options.bodies)
        """Whether what else is at the destination stays."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._journal.close()
        if kind is None:
            self._journal_path.unlink(missing_ok=True)
            shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def _body_bytes(self) -> int:
        """The memory that a worker may use for bodies."""
        return max(FEWEST_BYTES, self.options.memory_bytes // self._workers - BASE_BYTES)

    # -- before anything is done

    def _choose_bodies(self) -> tuple[list[int] | None, list[int]]:
        """The bodies to make (None: all), and those that are no more."""
        if self.options.since:
            from fascicle.pipeline.skeleton_versions import changed_bodies

            return changed_bodies(self.source, self.options.since)
        return (sorted(set(self.options.bodies)) if self.options.bodies else None), []

    def _bodies_digest(self) -> str:
        """A short name for the choice of bodies."""
        return blake2b(msgspec.json.encode([self._bodies, self._vanished]), digest_size=8).hexdigest()

    def _lay_blocks(self, shape_zyx: Zyx, offset_xyz: Sequence[int], size_zyx: Zyx, reach: int) -> None:
        """Divide the volume. Where a store knows that none of the chosen bodies is, nothing is read.

        With a `reach` of 1 a block is read, too, if bodies only touch it from outside.
        """
        if 0 in shape_zyx or (self._bodies is not None and not self._bodies):
            return
        self.blocks = [[number, *box] for number, box in enumerate(block_boxes(shape_zyx, size_zyx))]
        if not self._bodies or not self.source.data:
            return
        from fascicle.pipeline.skeleton_versions import boxes_of

        boxes = boxes_of(self.source, self._bodies, self.options.scale) - list(offset_xyz)
        low, high = boxes[:, 0, ::-1] - reach, boxes[:, 1, ::-1] + reach
        self.blocks = [
            block for block in self.blocks if ((low < block[2]).all(axis=1) & (high > block[1]).all(axis=1)).any()
        ]

    def _begin(self, folder: Path, header: dict[str, Any], replaceable: bool) -> None:
        """Open the journal. Once: what there is does not describe what is written from now on.

        `replaceable`: whether there may be an info at the destination.
        """
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._journal_path = self.options.journal or folder / "journal.jsonl"
        self._journal = Journal(self._journal_path, header)
        try:
            if "begun" not in self._journal.done:
                replaces = False
                if self._target is not None and replaceable and not self._updates:
                    replaces = self._target.folder.exists("info")
                    if replaces:
                        self._target.delete("info")
                self._keep_state()
                self._journal.add("begun", {"replaces": replaces})
        except BaseException:
            self._journal.close()
            raise

    def _keep_state(self) -> None:
        """Keep in the folder what must be that of the beginning."""

    # -- steps

    def _do_blocks(self, do_block: Callable[[Workplace[Any], Any], Any], stage: str) -> None:
        tasks = [
            Task(f"block {block[0]}", block, math.prod(b - a for a, b in zip(block[1], block[2], strict=True)))
            for block in self.blocks
        ]
        self._found = self._run(tasks, do_block, stage)

    def _do_bodies(
        self,
        do_bodies: Callable[[Workplace[Any], Any], Any],
        ranges: Callable[[Path, Sequence[int], int], Ranges],
        most: int,
    ) -> list[Any]:
        """Join all bodies, in ranges of a size of `most`; what `do_bodies` gives for each range."""
        blocks = [block[0] for block in self.blocks if self._found[f"block {block[0]}"]]
        self._ranges = ranges(self._folder, blocks, most)
        tasks = [Task(f"bodies {first}", [first, last, own], size) for first, last, own, size in self._ranges]
        return list(self._run(tasks, do_bodies, "joining").values())

    def _run(self, tasks: list[Task], work: Callable[[Workplace[Any], Any], Any], stage: str) -> dict[str, Any]:
        job = Job(Workplace, self._setting, work)
        try:
            return run_tasks(
                tasks, job, self._journal, stage=stage, workers=self._workers, scheduler=self.options.scheduler,
                progress=self._progress,
            )  # fmt: skip
        except TaskError as error:
            raise self.error(
                f"{error.message}; the {self.things} are not complete: give the same command again to go on"
            ) from error

    # -- writing

    @contextmanager
    def _spooled(self, spool_file: Callable[[int], Path]) -> Iterator[ScatteredShards]:
        """All spools, whose files are named by the first body of their range."""
        with ScatteredShards(self._folder / "shards") as values:
            for first, _, _, _ in self._ranges:
                values.add_spool(spool_file(first))
            yield values

    @contextmanager
    def _stage(self, name: str) -> Iterator[Advance]:
        done = 0

        def advance(more: int) -> None:
            nonlocal done
            done += more
            if self._progress:
                self._progress(name, done, max(done, self.count))

        advance(0)
        yield advance

    def _lost(self, bodies: frozenset[int]) -> list[int]:
        """Those that should have been made but are no more, or dust: what is there of them is of an earlier state."""
        return sorted({*self._vanished, *(self._bodies or ())} - bodies)

    def _delete_keys(self, connection: Any, name: str, keys: Iterable[str]) -> None:
        for key in keys:
            connection.exchange("DELETE", f"/api/node/{self.source.version}/{name}/key/{key}", b"")

    @contextmanager
    def _connection(self) -> Iterator[Any]:
        """To the store or server that is read."""
        from fascicle.pipeline.ingest_connections import LocalConnection, ServerConnection

        if self.source.data:
            with LocalConnection(Path(self.source.data)) as local:
                yield local
            return
        token = os.environ.get("FASCICLE_ADMIN_TOKEN") or os.environ.get("DVID_ADMIN_TOKEN") or ""
        with ServerConnection(self.source.server, token) as server:
            yield server

    def _work_folder(self, file: str | None = None) -> Path:
        """Where the journal and everything in between lie: beside what is written (the target, or a file there), or
        with temporary files.
        """
        target = self._target
        remote = target is None or target.folder.remote
        place = str(self.source) if target is None else target.address
        if file is not None:
            place = f"{place}\0{file}" if remote else str(Path(place) / file)
        return work_folder(self.name, place, remote, self.options.journal)
