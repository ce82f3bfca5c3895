"""`fascicle mesh`: the surfaces of all bodies of a volume, block by block, joined per body, with levels of detail.

Memory is bounded; the volume may be of any size. First the surfaces in each block are found and simplified
(`mesh_parts.do_block`), then bodies are put together in ranges (`do_bodies`), then all are written. Each of these steps
is noted in a journal, and the result depends on the source and the options alone.

Example: `mesh(SourceSpec(address="labels"), "labels/mesh", MeshOptions(error_nm=40))`
"""

from __future__ import annotations

import math
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import msgspec

from fascicle.errors import BadRequest
from fascicle.formats import legacy_mesh, multires_mesh
from fascicle.pipeline.body_outputs import sharding_of, write_sharded
from fascicle.pipeline.body_parts import Workplace
from fascicle.pipeline.export_version import choose
from fascicle.pipeline.journal import Journal
from fascicle.pipeline.mesh_outputs import (
    MeshError,
    blob_form,
    info_of,
    keys_name,
    names_of,
    write_blobs,
    write_files,
    write_keys,
)
from fascicle.pipeline.mesh_parts import (
    LEGACY,
    MOST_EDGE,
    MULTIRES,
    NGMESH,
    Setting,
    do_block,
    do_bodies,
    ranges,
    spool_file,
)
from fascicle.pipeline.skeletonize import block_boxes
from fascicle.pipeline.sources import SourceSpec
from fascicle.pipeline.tasks import Job, Progress, Task, TaskError, run_tasks, usual_workers
from fascicle.pipeline.volume_links import link
from fascicle.precomputed.mesh_building import BYTES_PER_TRIANGLE, MOST_LODS, usual_error
from fascicle.volumes.base import VolumeSource, Zyx
from fascicle.volumes.destinations import JSON, Destination, open_destination
from fascicle.volumes.shard_writing import ScatteredShards

FORMATS = (MULTIRES, LEGACY, NGMESH)
_BASE_BYTES = 200 << 20
"""Memory of a worker before it does anything."""
_VOXEL_BYTES = 64
"""Of each voxel of a block: its label, its number, and one triangle or so."""
_FEWEST_BYTES = 64 << 20
_BLOCK_VOXELS = 1 << 21
"""Larger blocks bring nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeshOptions:
    """What is made, how, and by whom."""

    format: str = MULTIRES
    """`multires` (Draco, levels of detail), `legacy` (one resolution) or `ngmesh` (files `<body>.ngmesh`)."""
    keys: bool = False
    """Put `<body>.ngmesh` into the key-value `<instance>_meshes` of the version, which must be open."""
    blobs: str = ""
    """Put meshes of supervoxels into this instance of tarsupervoxels of the version, which must be open."""
    scale: int = 0
    """The scale of the volume that is read; 0 is the finest."""
    error_nm: float = 0.0
    """How far a mesh may be from the surface of the voxels; 0: as suits the voxels (`usual_error`)."""
    dust: int = 0
    """Bodies of fewer voxels (of the scale that is read) get no mesh."""
    lods: int = MOST_LODS
    """Levels of detail at most."""
    bodies: tuple[int, ...] = ()
    """Only these."""
    since: str = ""
    """Only bodies that are not what they were at this version; of a version in a store folder."""
    sharded: bool | None = None
    """Of multires; None: if there are many."""
    block_xyz: tuple[int, int, int] | None = None
    """The size of blocks; by default what the memory allows."""
    workers: int = 0
    """Processes; 0: as many as there are processors."""
    scheduler: str = ""
    memory_bytes: int = 2 << 30
    journal: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MeshResult:
    """What there is now."""

    destination: str
    meshes: int
    vertices: int
    triangles: int
    """Of the finest level."""
    error_nm: float
    blocks: int
    shards: int
    """0 if not sharded."""
    removed: int
    """Meshes of bodies that are no more, or not any longer large enough."""
    linked: bool
    """Whether the info of the volume in which the destination lies names it."""
    seconds: float


def mesh(source: SourceSpec, destination: str, options: MeshOptions, progress: Progress | None = None) -> MeshResult:
    """Make the meshes of a segmentation. `destination` may be empty with `options.keys` or `options.blobs`.

    Raises BadRequest, NotFound or VolumeError for what cannot be read or written, MeshError or JournalError if the
    result is not complete: the same call goes on from there.
    """
    began = time.perf_counter()
    _check(source, destination, options)
    state: list[Any] = []
    if not source.address:
        version = choose(source)
        source = version.spec
        into_version = bool(options.keys or options.blobs)
        # what is put into the version that is read changes its state while this goes on
        state = [version.locked, 0 if into_version else version.state]
        if into_version and version.locked:
            raise BadRequest(f"version {source.version} is committed: meshes can be put into an open one only")
    with _Mesh(source, destination, options, state, progress) as job:
        job.find_surfaces()
        job.join()
        job.write()
    return MeshResult(
        destination=destination,
        meshes=job.count,
        vertices=job.vertices,
        triangles=job.triangles,
        error_nm=job.error_nm,
        blocks=len(job.blocks),
        shards=job.shards,
        removed=job.removed,
        linked=job.linked,
        seconds=time.perf_counter() - began,
    )


def _check(source: SourceSpec, destination: str, options: MeshOptions) -> None:
    if options.format not in FORMATS:
        raise BadRequest(f"the format {options.format!r} is none of {', '.join(FORMATS)}")
    inside = bool(options.keys or options.blobs)
    if not destination and not inside:
        raise BadRequest("name a destination")
    if inside and source.address:
        raise BadRequest("keys and blobs are put into the version that is read: name a store folder or a server")
    if options.keys and source.supervoxels:
        raise BadRequest("keys are those of bodies, not of supervoxels")
    if options.blobs and not source.supervoxels:
        raise BadRequest("blobs are those of supervoxels, not of bodies")
    if options.keys and options.blobs:
        raise BadRequest("put either keys of bodies or blobs of supervoxels")
    if options.since and not source.data:
        raise BadRequest("only the versions of a store folder can be compared (since)")
    if options.since and source.supervoxels:
        raise BadRequest("versions are compared by their bodies, not by supervoxels")
    if options.since and options.bodies:
        raise BadRequest("name either bodies or an earlier version")
    if options.since and destination and options.sharded:
        raise BadRequest("shards are written as a whole: since needs files that are not sharded")
    if options.sharded and options.format != MULTIRES:
        raise BadRequest(f"meshes of the format {options.format} are not sharded")
    if not (math.isfinite(options.error_nm) and options.error_nm >= 0):
        raise BadRequest(f"the error of the meshes is {options.error_nm} nm; it must be at least 0")
    if options.dust < 0 or not 1 <= options.lods <= MOST_LODS:
        raise BadRequest(f"dust is at least 0, and there are 1 to {MOST_LODS} levels of detail")


def block_size(volume: VolumeSource, options: MeshOptions, workers: int) -> Zyx:
    """The size of blocks z, y, x: chunks put together, or a part of one, as memory allows."""
    if options.block_xyz is not None:
        x, y, z = options.block_xyz
        if min(options.block_xyz) < 2 or max(options.block_xyz) > MOST_EDGE:
            raise BadRequest(f"a block of {x} x {y} x {z} voxels is too small or too large: 2 to {MOST_EDGE} each")
        return z, y, x
    room = max(options.memory_bytes / max(1, workers) - _BASE_BYTES, _FEWEST_BYTES)
    most = min(_BLOCK_VOXELS, room / _VOXEL_BYTES)
    size = [min(chunk, shape) for chunk, shape in zip(volume.chunk_zyx, volume.shape_zyx, strict=True)]
    while math.prod(size) > most or max(size) > MOST_EDGE:
        axis = max(range(3), key=lambda axis: size[axis])
        size[axis] = -(-size[axis] // 2)
    while True:
        growing = [
            axis for axis in range(3) if size[axis] < volume.shape_zyx[axis] and 2 * size[axis] <= MOST_EDGE
        ]
        if not growing:
            break
        axis = min(growing, key=lambda axis: (size[axis], axis))
        if 2 * math.prod(size) > most:
            break
        size[axis] = 2 * size[axis]
    return max(2, size[0]), max(2, size[1]), max(2, size[2])


class _Mesh:
    """One job while it is done."""

    def __init__(
        self,
        source: SourceSpec,
        destination: str,
        options: MeshOptions,
        state: list[Any],
        progress: Progress | None,
    ) -> None:
        self.source, self.options = source, options
        self.count = self.vertices = self.triangles = self.shards = self.removed = 0
        self.linked = False
        self._destination = destination
        self._progress = progress
        self._workers = options.workers or usual_workers()
        self._target = open_destination(destination) if destination else None
        self._bodies, self._vanished = self._choose_bodies()
        self._updates = bool(options.since or options.bodies)
        self._check_target()
        with source.open() as pyramid:
            if pyramid.kind != "segmentation" and not source.address:
                raise BadRequest(f"{pyramid.name} is no segmentation")
            if not 0 <= options.scale < len(pyramid.scales):
                raise BadRequest(f"{pyramid.name} has no scale {options.scale}, only 0 to {len(pyramid.scales) - 1}")
            volume = pyramid.scales[options.scale]
            if volume.dtype.kind not in "ui":
                raise BadRequest(f"{pyramid.name} has voxels of {volume.dtype}, which are no labels")
            if volume.resolution_nm is None:
                raise BadRequest(f"{pyramid.name} does not say how large its voxels are")
            resolution = volume.resolution_nm
            shape, offset = volume.shape_zyx, volume.offset_xyz
            size = block_size(volume, options, self._workers)
        self.error_nm = options.error_nm or usual_error(resolution)
        self.blocks: list[list[Any]] = [
            [number, *box] for number, box in enumerate(block_boxes(shape, size)) if 0 not in shape
        ]
        self._leave_out_blocks(offset)
        self._blob_form = self._form_of_blobs()
        self._folder = _work_folder(self._target, source, options.journal)
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
            resolution_nm=resolution,
            folder=self._folder,
            bodies=tuple(self._bodies or ()),
            error_nm=self.error_nm,
            dust=options.dust,
            most_lods=options.lods,
            form=options.format if destination else "",
            blobs=self._blob_form,
            memory_bytes=self._body_bytes,
        )

    def __enter__(self) -> _Mesh:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._journal.close()
        if kind is None:
            self._journal_path.unlink(missing_ok=True)
            shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def _body_bytes(self) -> int:
        return max(_FEWEST_BYTES, self.options.memory_bytes // self._workers - _BASE_BYTES)

    # -- before anything is done

    def _choose_bodies(self) -> tuple[list[int] | None, list[int]]:
        """The bodies to make (None: all), and those that are no more."""
        if self.options.since:
            from fascicle.pipeline.skeleton_versions import changed_bodies

            return changed_bodies(self.source, self.options.since)
        return (sorted(set(self.options.bodies)) if self.options.bodies else None), []

    def _form_of_blobs(self) -> str:
        if self.options.keys:
            return NGMESH
        if not self.options.blobs:
            return ""
        with self._connection() as connection:
            return blob_form(connection, self.source.version, self.options.blobs)

    def _check_target(self) -> None:
        """Raises BadRequest if what is there cannot be replaced or brought up to date."""
        if self._target is None or self.options.format == NGMESH:
            return
        data = self._target.folder.get("info")
        if data is None:
            if self.options.since:
                raise BadRequest(f"there are no meshes in {self._target.address} to bring up to date")
            return
        kind = _kind_of(data)
        if not self._updates:
            return
        if kind != self.options.format:
            raise BadRequest(f"the meshes in {self._target.address} are of another kind; write to another place")
        if kind == MULTIRES:
            info = multires_mesh.read_info(data)
            if info.sharding is not None:
                raise BadRequest(f"the meshes in {self._target.address} are sharded, so only all can be replaced")
            if info != multires_mesh.MeshInfo():
                raise BadRequest(f"the meshes in {self._target.address} are of another kind; write to another place")

    def _leave_out_blocks(self, offset_xyz: Sequence[int]) -> None:
        """Where a store knows that none of the chosen bodies is, nothing is read."""
        if self._bodies is not None and not self._bodies:
            self.blocks = []
        if not self._bodies or not self.source.data:
            return
        from fascicle.pipeline.skeleton_versions import boxes_of

        boxes = boxes_of(self.source, self._bodies, self.options.scale) - list(offset_xyz)
        low, high = boxes[:, 0, ::-1], boxes[:, 1, ::-1]
        # the surface of a voxel at a block's border is in the blocks on both sides
        self.blocks = [
            block
            for block in self.blocks
            if ((low <= block[2]).all(axis=1) & (high >= block[1]).all(axis=1)).any()
        ]

    def _header(self, destination: str, size_zyx: Zyx, state: list[Any]) -> dict[str, Any]:
        options = self.options
        bodies = msgspec.json.encode([self._bodies, self._vanished])
        return {
            "job": "mesh",
            "source": {name: value for name, value in asdict(self.source).items() if value},
            "state": state,
            "destination": destination,
            "format": options.format,
            "keys": options.keys,
            "blobs": options.blobs,
            "scale": options.scale,
            "error": self.error_nm,
            "dust": options.dust,
            "lods": options.lods,
            "bodies": blake2b(bodies, digest_size=8).hexdigest(),
            "sharded": options.sharded,
            "block_xyz": list(size_zyx[::-1]),
            "memory": min(self._body_bytes, 1 << 40),
        }

    def _begin(self) -> None:
        """Once: what there is does not describe what is written from now on."""
        if "begun" in self._journal.done:
            return
        replaces = False
        if self._target is not None and self.options.format != NGMESH and not self._updates:
            replaces = self._target.folder.exists("info")
            if replaces:
                self._target.delete("info")
        self._journal.add("begun", {"replaces": replaces})

    # -- steps

    def find_surfaces(self) -> None:
        """The surfaces in all blocks."""
        tasks = [
            Task(f"block {block[0]}", block, math.prod(b - a for a, b in zip(block[1], block[2], strict=True)))
            for block in self.blocks
        ]
        self._found = self._run(tasks, do_block, "surfaces")

    def join(self) -> None:
        """The meshes of all bodies, in spools."""
        blocks = [block[0] for block in self.blocks if self._found[f"block {block[0]}"]]
        self._ranges = ranges(self._folder, blocks, self._body_bytes // BYTES_PER_TRIANGLE)
        tasks = [Task(f"bodies {first}", [first, last, own], size) for first, last, own, size in self._ranges]
        made = self._run(tasks, do_bodies, "joining")
        self.count, self.vertices, self.triangles = (sum(numbers[i] for numbers in made.values()) for i in range(3))

    def _run(self, tasks: list[Task], work: Callable[[Workplace[Setting], Any], Any], stage: str) -> dict[str, Any]:
        job = Job(Workplace, self._setting, work)
        try:
            return run_tasks(
                tasks, job, self._journal, stage=stage, workers=self._workers, scheduler=self.options.scheduler,
                progress=self._progress,
            )  # fmt: skip
        except TaskError as error:
            raise MeshError(
                f"{error.message}; the meshes are not complete: give the same command again to go on"
            ) from error

    def write(self) -> None:
        """Everything to where it is wanted; the info last."""
        options, target = self.options, self._target
        if target is not None:
            with self._spooled(options.format) as values, self._stage("writing") as advance:
                sharding = None
                if options.format == MULTIRES:
                    sharding = sharding_of(len(values), False if self._updates else options.sharded)
                if sharding is not None:
                    scratch = self._folder / "shards"
                    self.shards = write_sharded(
                        values, sharding, target, scratch, self._journal, advance, MeshError
                    )
                else:
                    write_files(values, options.format, target, advance)
                self._remove(target, frozenset(values.keys().tolist()))
            if options.format != NGMESH:
                target.put("info", info_of(options.format, sharding), JSON)
                self.linked = link(self._destination, "mesh")
        if self._blob_form:
            with (
                self._spooled(self._blob_form) as values,
                self._stage("instance") as advance,
                self._connection() as connection,
            ):
                if options.blobs:
                    write_blobs(
                        values, connection, self.source.version, options.blobs, self._blob_form, advance
                    )
                else:
                    self._put_keys(values, connection, advance)

    def _put_keys(self, values: ScatteredShards, connection: Any, advance: Callable[[int], None]) -> None:
        name = write_keys(values, connection, self.source.version, self.source.instance, advance)
        for body in self._lost(frozenset(values.keys().tolist())):
            connection.exchange("DELETE", f"/api/node/{self.source.version}/{name}/key/{body}.{NGMESH}", b"")

    @contextmanager
    def _spooled(self, kind: str) -> Iterator[ScatteredShards]:
        with ScatteredShards(self._folder / "shards") as values:
            for first, _, _, _ in self._ranges:
                values.add_spool(spool_file(self._folder, kind, first))
            yield values

    def _lost(self, bodies: frozenset[int]) -> list[int]:
        """Those that should have been made but are no more, or dust: what is there of them is of an earlier state."""
        return sorted({*self._vanished, *(self._bodies or ())} - bodies)

    def _remove(self, target: Destination, bodies: frozenset[int]) -> None:
        """Remove what is there of bodies that have no mesh now."""
        form = self.options.format
        if self._updates:
            for body in self._lost(bodies):
                first, *others = names_of(body, form)
                if target.folder.exists(first):
                    for name in (first, *others):
                        target.delete(name)
                    self.removed += 1
        elif self._journal.done["begun"]["replaces"]:
            kept = {name for name in self._journal.done if name.endswith(".shard")}
            if not self.shards:
                kept |= {name for body in bodies for name in names_of(body, form)}
            for name in list(target.folder.names()):
                stem = name.removesuffix(".gz")
                if stem not in kept and (stem.endswith(".shard") or stem.partition(":")[0].partition(".")[0].isdigit()):
                    target.delete(stem)
                    self.removed += stem.endswith((".index", ":0"))

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


def _kind_of(info: bytes) -> str:
    """The format of a directory. Raises BadRequest if it is of something else than meshes."""
    try:
        legacy_mesh.read_info(info)
        return LEGACY
    except BadRequest:
        multires_mesh.read_info(info)
        return MULTIRES


def _work_folder(target: Destination | None, source: SourceSpec, journal: Path | None) -> Path:
    """Where the journal and everything in between lie: beside a folder that is written, else with temporary files."""
    if journal is not None:
        return journal.with_name(journal.name + ".scratch")
    if target is not None and not target.folder.remote:
        path = Path(target.address.removeprefix("file://")).expanduser().absolute()
        return path.with_name(f".{path.name}.mesh")
    what = target.address if target is not None else str(source)
    digest = blake2b(what.encode(), digest_size=6).hexdigest()
    return Path(tempfile.gettempdir()) / f"fascicle-mesh-{os.getuid() if hasattr(os, 'getuid') else 0}-{digest}"


__all__ = ["MeshError", "MeshOptions", "MeshResult", "block_size", "keys_name", "mesh"]
