"""`fascicle skeletonize`: the centrelines of all bodies of a volume, block by block, joined per body, as skeletons.

Memory is bounded by the size of the blocks; the volume may be of any size. First each block's centrelines are found
(`skeleton_parts.do_block`), then bodies are joined in ranges (`do_bodies`), then all are written. Each of these steps
is noted in a journal, and the result depends on the source and the options alone.

Example: `skeletonize(SourceSpec(address="labels"), "labels/skeletons", SkeletonizeOptions(), None)`
"""

from __future__ import annotations

import math
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

import msgspec

from fascicle.errors import BadRequest
from fascicle.formats import skeleton as skeletons
from fascicle.formats.swc import Neuron
from fascicle.pipeline.body_parts import Workplace
from fascicle.pipeline.export_version import choose
from fascicle.pipeline.journal import Journal
from fascicle.pipeline.skeleton_outputs import (
    Made,
    SkeletonError,
    info_of,
    write_archive,
    write_keys,
    write_precomputed,
    write_swc,
)
from fascicle.pipeline.skeleton_parts import (
    BYTES_PER_VERTEX,
    Setting,
    do_block,
    do_bodies,
    ranges,
    spool_file,
)
from fascicle.pipeline.sources import SourceSpec
from fascicle.pipeline.tasks import Job, Progress, Task, TaskError, run_tasks, usual_workers
from fascicle.pipeline.volume_links import link
from fascicle.precomputed.centrelines import Teasar
from fascicle.volumes.base import VolumeSource, Zyx
from fascicle.volumes.destinations import JSON, Destination, open_destination
from fascicle.volumes.shard_writing import ScatteredShards

FORMATS = ("precomputed", "swc", "archive")
_BASE_BYTES = 200 << 20
"""Memory of a worker before it does anything."""
_VOXEL_BYTES = 22
"""Of each voxel of a block: its label twice for a moment, its piece, its depth."""
_NODE_BYTES = 90
_FEWEST_BYTES = 64 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class SkeletonizeOptions:
    """What is made, how, and by whom."""

    format: str = "precomputed"
    """`precomputed` (a directory), `swc` (a folder of files) or `archive` (a tar with its table)."""
    keys: bool = False
    """Put SWC under `<body>_swc` into the key-value `<instance>_skeletons` of the version, which must be open."""
    scale: int = 0
    """The scale of the volume that is read; 0 is the finest."""
    parameters: Teasar = field(default_factory=Teasar)
    bodies: tuple[int, ...] = ()
    """Only these."""
    neurons: tuple[Neuron, ...] = ()
    """The table of an archive. If `bodies` names none, those of the table are chosen."""
    since: str = ""
    """Only bodies that are not what they were at this version; of a version in a store folder."""
    sharded: bool | None = None
    """Of precomputed; None: if there are many."""
    in_nm: bool = False
    """SWC in nanometres instead of voxels of the finest scale."""
    block_xyz: tuple[int, int, int] | None = None
    """The size of blocks; by default what the memory allows."""
    workers: int = 0
    """Processes; 0: as many as there are processors."""
    scheduler: str = ""
    memory_bytes: int = 2 << 30
    journal: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SkeletonizeResult:
    """What there is now."""

    destination: str
    skeletons: int
    vertices: int
    blocks: int
    shards: int
    """0 if not sharded."""
    removed: int
    """Skeletons of bodies that are no more, or not any longer large enough."""
    linked: bool
    """Whether the info of the volume in which the destination lies names it."""
    seconds: float


def skeletonize(
    source: SourceSpec, destination: str, options: SkeletonizeOptions, progress: Progress | None = None
) -> SkeletonizeResult:
    """Make the skeletons of a segmentation. `destination` may be empty with `options.keys`.

    Raises BadRequest, NotFound or VolumeError for what cannot be read or written, SkeletonError or JournalError if the
    result is not complete: the same call goes on from there.
    """
    began = time.perf_counter()
    _check(source, destination, options)
    state: list[Any] = []
    if not source.address:
        version = choose(source)
        source = version.spec
        # keys are written to the version that is read, so its state changes while this goes on
        state = [version.locked, 0 if options.keys else version.state]
        if options.keys and version.locked:
            raise BadRequest(f"version {source.version} is committed: keys can be put into an open one only")
    with _Skeletonize(source, destination, options, state, progress) as job:
        job.find_centrelines()
        job.join()
        job.write()
    return SkeletonizeResult(
        destination=destination,
        skeletons=job.count,
        vertices=job.vertices,
        blocks=len(job.blocks),
        shards=job.shards,
        removed=job.removed,
        linked=job.linked,
        seconds=time.perf_counter() - began,
    )


def _check(source: SourceSpec, destination: str, options: SkeletonizeOptions) -> None:
    parameters = options.parameters
    if options.format not in FORMATS:
        raise BadRequest(f"the format {options.format!r} is none of {', '.join(FORMATS)}")
    if not destination and not options.keys:
        raise BadRequest("name a destination")
    if options.keys and source.address:
        raise BadRequest("keys are put into the version that is read: name a store folder or a server")
    if options.keys and source.supervoxels:
        raise BadRequest("keys are those of bodies, not of supervoxels")
    if options.since and not source.data:
        raise BadRequest("only the versions of a store folder can be compared (since)")
    if options.since and source.supervoxels:
        raise BadRequest("versions are compared by their bodies, not by supervoxels")
    if options.since and options.bodies:
        raise BadRequest("name either bodies or an earlier version")
    if options.since and destination and options.format == "archive":
        raise BadRequest("an archive is written as a whole: since goes with precomputed and swc")
    if options.since and destination and options.sharded:
        raise BadRequest("shards are written as a whole: since needs files that are not sharded")
    for name, number in (("scale factor", parameters.scale), ("constant", parameters.constant_nm)):
        if not (math.isfinite(number) and number >= 0):
            raise BadRequest(f"the {name} of the centrelines is {number}; it must be at least 0")
    if parameters.constant_nm == 0 and parameters.scale == 0:
        raise BadRequest("the scale factor and the constant of the centrelines cannot both be 0")


def block_size(volume: VolumeSource, resolution_nm: Sequence[float], options: SkeletonizeOptions, workers: int) -> Zyx:
    """The size of blocks z, y, x: chunks put together along the axis that is shortest in nm, as memory allows."""
    if options.block_xyz is not None:
        x, y, z = options.block_xyz
        if min(options.block_xyz) < 2:
            raise BadRequest(f"a block of {x} x {y} x {z} voxels is too small")
        return z, y, x
    room = options.memory_bytes / max(1, workers) - _BASE_BYTES
    most = max(room, _FEWEST_BYTES) / (_VOXEL_BYTES + 1.3 * _NODE_BYTES / math.prod(
        options.parameters.cell(resolution_nm)
    ))  # fmt: skip
    size = [min(chunk, shape) for chunk, shape in zip(volume.chunk_zyx, volume.shape_zyx, strict=True)]
    steps = list(resolution_nm)[::-1]
    while True:
        growing = [axis for axis in range(3) if size[axis] < volume.shape_zyx[axis]]
        if not growing:
            break
        axis = min(growing, key=lambda axis: (size[axis] * steps[axis], axis))
        larger = list(size)
        larger[axis] = min(2 * size[axis], volume.shape_zyx[axis])
        if math.prod(edge + 1 for edge in larger) > most:
            break
        size = larger
    return size[0], size[1], size[2]


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


class _Skeletonize:
    """One job while it is done."""

    def __init__(
        self,
        source: SourceSpec,
        destination: str,
        options: SkeletonizeOptions,
        state: list[Any],
        progress: Progress | None,
    ) -> None:
        self.source, self.options = source, options
        self.count = self.vertices = self.shards = self.removed = 0
        self.linked = False
        self._destination = destination
        self._locked = not state or bool(state[0])
        self._progress = progress
        self._workers = options.workers or usual_workers()
        self._target, self._name = _target(destination, options.format)
        self._bodies, self._vanished = self._choose_bodies()
        self._updates = bool(options.since or options.bodies) and options.format != "archive"
        self._check_target()
        with source.open() as pyramid:
            if pyramid.kind != "segmentation" and not source.address:
                raise BadRequest(f"{pyramid.name} is no segmentation")
            if not 0 <= options.scale < len(pyramid.scales):
                raise BadRequest(f"{pyramid.name} has no scale {options.scale}, only 0 to {len(pyramid.scales) - 1}")
            volume = pyramid.scales[options.scale]
            if volume.dtype.kind not in "ui":
                raise BadRequest(f"{pyramid.name} has voxels of {volume.dtype}, which are no labels")
            if volume.resolution_nm is None or pyramid.scales[0].resolution_nm is None:
                raise BadRequest(f"{pyramid.name} does not say how large its voxels are")
            self._resolution = volume.resolution_nm
            self._finest = pyramid.scales[0].resolution_nm
            shape, offset = volume.shape_zyx, volume.offset_xyz
            size = block_size(volume, self._resolution, options, self._workers)
        self.blocks: list[list[Any]] = [
            [number, *box] for number, box in enumerate(block_boxes(shape, size)) if 0 not in shape
        ]
        self._leave_out_blocks(offset)
        self._folder = _work_folder(self._target, self._name, source, options.journal)
        self._folder.mkdir(parents=True, exist_ok=True)
        self._journal_path = options.journal or self._folder / "journal.jsonl"
        self._journal = Journal(self._journal_path, self._header(destination, size, state))
        try:
            self._begin()
        except BaseException:
            self._journal.close()
            raise
        self._setting = Setting(
            source=source,
            scale=options.scale,
            resolution_nm=self._resolution,
            folder=self._folder,
            bodies=tuple(self._bodies or ()),
            parameters=options.parameters,
        )

    def __enter__(self) -> _Skeletonize:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._journal.close()
        if kind is None:
            self._journal_path.unlink(missing_ok=True)
            shutil.rmtree(self._folder, ignore_errors=True)

    # -- before anything is done

    def _choose_bodies(self) -> tuple[list[int] | None, list[int]]:
        """The bodies to make (None: all), and those that are no more."""
        options = self.options
        if options.since:
            from fascicle.pipeline.skeleton_versions import changed_bodies

            return changed_bodies(self.source, options.since)
        if options.bodies:
            return sorted(set(options.bodies)), []
        if options.neurons:
            return sorted({neuron.body for neuron in options.neurons}), []
        return None, []

    def _check_target(self) -> None:
        """Raises BadRequest if what is there cannot be replaced or brought up to date."""
        if self._target is None or self.options.format != "precomputed":
            return
        data = self._target.folder.get("info")
        if data is None:
            if self.options.since:
                raise BadRequest(f"there are no skeletons in {self._target.address} to bring up to date")
            return
        info = skeletons.read_info(data)
        if not self._updates:
            return
        if info.sharding is not None:
            raise BadRequest(f"the skeletons in {self._target.address} are sharded, so only all can be replaced")
        ours = skeletons.read_info(skeletons.write_info(skeletons.SkeletonInfo(vertex_attributes=(skeletons.RADIUS,))))
        if (info.transform, info.vertex_attributes) != (ours.transform, ours.vertex_attributes):
            raise BadRequest(f"the skeletons in {self._target.address} are of another kind; write to another place")

    def _leave_out_blocks(self, offset_xyz: Sequence[int]) -> None:
        """Where a store knows that none of the chosen bodies is, nothing is read."""
        if self._bodies is not None and not self._bodies:
            self.blocks = []
        if not self._bodies or not self.source.data:
            return
        from fascicle.pipeline.skeleton_versions import boxes_of

        boxes = boxes_of(self.source, self._bodies, self.options.scale) - list(offset_xyz)
        low, high = boxes[:, 0, ::-1], boxes[:, 1, ::-1]
        self.blocks = [
            block for block in self.blocks if ((low < block[2]).all(axis=1) & (high > block[1]).all(axis=1)).any()
        ]

    def _header(self, destination: str, size_zyx: Zyx, state: list[Any]) -> dict[str, Any]:
        options, spec = self.options, self.source
        bodies = msgspec.json.encode([self._bodies, self._vanished])
        return {
            "job": "skeletonize",
            "source": {name: value for name, value in asdict(spec).items() if value},
            "state": state,
            "destination": destination,
            "format": options.format,
            "keys": options.keys,
            "scale": options.scale,
            "parameters": asdict(options.parameters),
            "bodies": blake2b(bodies, digest_size=8).hexdigest(),
            "neurons": blake2b(msgspec.json.encode(options.neurons), digest_size=8).hexdigest(),
            "sharded": options.sharded,
            "in_nm": options.in_nm,
            "block_xyz": list(size_zyx[::-1]),
            "memory": min(options.memory_bytes // self._workers, 1 << 40),
        }

    def _begin(self) -> None:
        """Once: what there is does not describe what is written from now on."""
        if "begun" in self._journal.done:
            return
        replaces = False
        if self._target is not None and self.options.format == "precomputed" and not self._updates:
            replaces = self._target.folder.exists("info")
            if replaces:
                self._target.delete("info")
        kept = {"replaces": replaces}
        if self._needs_mutations and self.source.data:
            from fascicle.pipeline.skeleton_versions import last_mutations

            known = last_mutations(self.source)
            path = self._folder / "mutations"
            path.write_bytes(msgspec.msgpack.encode(known))
        self._journal.add("begun", kept)

    @property
    def _needs_mutations(self) -> bool:
        return (self.options.format != "precomputed" or self.options.keys) and not self.source.supervoxels

    # -- steps

    def find_centrelines(self) -> None:
        """The centrelines of all blocks."""
        tasks = [
            Task(f"block {block[0]}", block, math.prod(b - a for a, b in zip(block[1], block[2], strict=True)))
            for block in self.blocks
        ]
        self._found = self._run(tasks, do_block, "centrelines")

    def join(self) -> None:
        """The skeletons of all bodies, in spools."""
        blocks = [block[0] for block in self.blocks if self._found[f"block {block[0]}"]]
        room = max(_FEWEST_BYTES, self.options.memory_bytes // self._workers - _BASE_BYTES)
        self._ranges = ranges(self._folder, blocks, room // BYTES_PER_VERTEX)
        tasks = [Task(f"bodies {first}", [first, last, own], size) for first, last, own, size in self._ranges]
        made = self._run(tasks, do_bodies, "joining")
        self.count = sum(count for count, _ in made.values())
        self.vertices = sum(vertices for _, vertices in made.values())

    def _run(self, tasks: list[Task], work: Callable[[Workplace[Setting], Any], Any], stage: str) -> dict[str, Any]:
        job = Job(Workplace, self._setting, work)
        options = self.options
        try:
            return run_tasks(
                tasks, job, self._journal, stage=stage, workers=self._workers, scheduler=options.scheduler,
                progress=self._progress,
            )  # fmt: skip
        except TaskError as error:
            raise SkeletonError(
                f"{error.message}; the skeletons are not complete: give the same command again to go on"
            ) from error

    def write(self) -> None:
        """Everything to where it is wanted; the info last."""
        options, target = self.options, self._target
        with ScatteredShards(self._folder / "shards") as values:
            for first, _, _, _ in self._ranges:
                values.add_spool(spool_file(self._folder, first))
            made = Made(values, self._finest, options.in_nm, self._mutations())
            bodies = frozenset(values.keys().tolist())
            if target is not None and options.format == "archive":
                with self._stage("writing") as advance:
                    write_archive(made, target, self._name, options.neurons, self._folder, advance)
            elif target is not None and options.format == "swc":
                with self._stage("writing") as advance:
                    write_swc(made, target, advance)
                self._remove(target, bodies, ".swc")
            elif target is not None:
                sharded = False if self._updates else options.sharded
                with self._stage("writing") as advance:
                    self.shards = write_precomputed(
                        made, target, sharded, self._folder / "shards", self._journal, advance
                    )
                self._remove(target, bodies, "")
                target.put("info", info_of(made, self.shards > 0), JSON)
                self.linked = link(self._destination, "skeletons")
            if options.keys:
                with self._stage("keys") as advance, self._connection() as connection:
                    name = write_keys(made, connection, self.source.version, self.source.instance, advance)
                    for body in self._lost(bodies):
                        connection.exchange("DELETE", f"/api/node/{self.source.version}/{name}/key/{body}_swc", b"")

    def _lost(self, bodies: frozenset[int]) -> list[int]:
        """Those that should have been made but are no more, or dust: what is there of them is of an earlier state."""
        return sorted({*self._vanished, *(self._bodies or ())} - bodies)

    def _remove(self, target: Destination, bodies: frozenset[int], ending: str) -> None:
        """Remove what is there of bodies that have no skeleton now."""
        if self._updates:
            for body in self._lost(bodies):
                if target.folder.exists(f"{body}{ending}"):
                    target.delete(f"{body}{ending}")
                    self.removed += 1
        elif self._journal.done["begun"]["replaces"]:
            shards = {name for name in self._journal.done if name.endswith(".shard")}
            for name in list(target.folder.names()):
                stem = name.removesuffix(".gz")
                if stem.isdigit() and (self.shards or int(stem) not in bodies):
                    target.delete(stem)
                    self.removed += 1
                elif stem.endswith(".shard") and stem not in shards:
                    target.delete(stem)

    def _mutations(self) -> Callable[[int], int | None]:
        if not self._needs_mutations or self.source.address:
            return lambda _: None
        if self.source.data:
            known = msgspec.msgpack.decode((self._folder / "mutations").read_bytes(), type=dict[int, int])
            return known.get
        if not self._locked:
            return lambda _: None  # who knows what was read
        from fascicle.pipeline.skeleton_versions import mutations_of_server

        return mutations_of_server(self.source)

    @contextmanager
    def _stage(self, name: str) -> Iterator[Callable[[int], None]]:
        done = 0

        def advance(more: int) -> None:
            nonlocal done
            done += more
            if self._progress:
                self._progress(name, done, max(done, self.count))

        advance(0)
        yield advance

    @contextmanager
    def _connection(self) -> Iterator[Any]:
        from fascicle.pipeline.ingest_connections import LocalConnection, ServerConnection

        if self.source.data:
            with LocalConnection(Path(self.source.data)) as local:
                yield local
            return
        token = os.environ.get("FASCICLE_ADMIN_TOKEN") or os.environ.get("DVID_ADMIN_TOKEN") or ""
        with ServerConnection(self.source.server, token) as server:
            yield server


def _target(destination: str, form: str) -> tuple[Destination | None, str]:
    """Where to write, and the name of an archive there."""
    if not destination:
        return None, ""
    if form != "archive":
        return open_destination(destination), ""
    folder, _, name = destination.rstrip("/").rpartition("/")
    if not name or ("://" in destination and folder.endswith(":/")):
        raise BadRequest(f"{destination} is no name of an archive")
    return open_destination(folder or ("/" if destination.startswith("/") else ".")), name


def _work_folder(target: Destination | None, name: str, source: SourceSpec, journal: Path | None) -> Path:
    """Where the journal and everything in between lie: beside a folder that is written, else with temporary files."""
    if journal is not None:
        return journal.with_name(journal.name + ".scratch")
    if target is not None and not target.folder.remote:
        path = Path(target.address.removeprefix("file://")).expanduser().absolute()
        path = path / name if name else path
        return path.with_name(f".{path.name}.skeletonize")
    what = target.address if target is not None else str(source)
    digest = blake2b(f"{what}\0{name}".encode(), digest_size=6).hexdigest()
    return Path(tempfile.gettempdir()) / f"fascicle-skeletonize-{os.getuid() if hasattr(os, 'getuid') else 0}-{digest}"
