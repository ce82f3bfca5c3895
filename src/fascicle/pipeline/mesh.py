"""`fascicle mesh`: the surfaces of all bodies of a volume, block by block, joined per body, with levels of detail.

Memory is bounded; the volume may be of any size. First the surfaces in each block are found and simplified
(`mesh_parts.do_block`), then bodies are put together in ranges (`do_bodies`), then all are written. Each of these steps
is noted in a journal, and the result depends on the source and the options alone.

Example: `mesh(SourceSpec(address="labels"), "labels/mesh", MeshOptions(error_nm=40))`
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from typing import Any

from fascicle.errors import BadRequest
from fascicle.formats import legacy_mesh, multires_mesh
from fascicle.pipeline.body_jobs import (
    BASE_BYTES,
    FEWEST_BYTES,
    BodyJob,
    BodyOptions,
    check_since,
    labels_at,
    resolution_at,
    settled,
)
from fascicle.pipeline.body_outputs import sharding_of, write_sharded
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
from fascicle.pipeline.sources import SourceSpec
from fascicle.pipeline.tasks import Progress
from fascicle.pipeline.volume_links import link
from fascicle.precomputed.mesh_building import BYTES_PER_TRIANGLE, MOST_LODS, usual_error
from fascicle.volumes.base import VolumeSource, Zyx
from fascicle.volumes.destinations import JSON, Destination, open_destination
from fascicle.volumes.shard_writing import ScatteredShards

FORMATS = (MULTIRES, LEGACY, NGMESH)
_VOXEL_BYTES = 64
"""Of each voxel of a block: its label, its number, and one triangle or so."""
_BLOCK_VOXELS = 1 << 21
"""Larger blocks bring nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeshOptions(BodyOptions):
    """What is made, how, and by whom. Keys are `<body>.ngmesh` in `<instance>_meshes`; only multires is sharded."""

    format: str = MULTIRES
    """`multires` (Draco, levels of detail), `legacy` (one resolution) or `ngmesh` (files `<body>.ngmesh`)."""
    blobs: str = ""
    """Put meshes of supervoxels into this instance of tarsupervoxels of the version, which must be open."""
    error_nm: float = 0.0
    """How far a mesh may be from the surface of the voxels; 0: as suits the voxels (`usual_error`)."""
    dust: int = 0
    """Bodies of fewer voxels (of the scale that is read) get no mesh."""
    lods: int = MOST_LODS
    """Levels of detail at most."""


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
    source, state = settled(source, "meshes" if options.keys or options.blobs else "")
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
    check_since(source, options)
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
    room = max(options.memory_bytes / max(1, workers) - BASE_BYTES, FEWEST_BYTES)
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


class _Mesh(BodyJob[MeshOptions]):
    """One job while it is done."""

    name, things, error = "mesh", "meshes", MeshError

    def __init__(
        self,
        source: SourceSpec,
        destination: str,
        options: MeshOptions,
        state: list[Any],
        progress: Progress | None,
    ) -> None:
        target = open_destination(destination) if destination else None
        super().__init__(source, destination, options, target, progress)
        self.triangles = 0
        self._check_target()
        with source.open() as pyramid:
            volume = labels_at(pyramid, options.scale, not source.address)
            resolution = resolution_at(pyramid, options.scale)
            shape, offset = volume.shape_zyx, volume.offset_xyz
            size = block_size(volume, options, self._workers)
        self.error_nm = options.error_nm or usual_error(resolution)
        # the surface of a voxel at a block's border is in the blocks on both sides
        self._lay_blocks(shape, offset, size, reach=1)
        self._blob_form = self._form_of_blobs()
        self._begin(self._work_folder(), self._header(destination, size, state), options.format != NGMESH)
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

    # -- before anything is done

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

    def _header(self, destination: str, size_zyx: Zyx, state: list[Any]) -> dict[str, Any]:
        options = self.options
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
            "bodies": self._bodies_digest(),
            "sharded": options.sharded,
            "block_xyz": list(size_zyx[::-1]),
            "memory": min(self._body_bytes, 1 << 40),
        }

    # -- steps

    def find_surfaces(self) -> None:
        """The surfaces in all blocks."""
        self._do_blocks(do_block, "surfaces")

    def join(self) -> None:
        """The meshes of all bodies, in spools."""
        made = self._do_bodies(do_bodies, ranges, self._body_bytes // BYTES_PER_TRIANGLE)
        self.count, self.vertices, self.triangles = (sum(numbers[i] for numbers in made) for i in range(3))

    def write(self) -> None:
        """Everything to where it is wanted; the info last."""
        options, target = self.options, self._target
        if target is not None:
            with self._values(options.format) as values, self._stage("writing") as advance:
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
                self._values(self._blob_form) as values,
                self._stage("instance") as advance,
                self._connection() as connection,
            ):
                if options.blobs:
                    write_blobs(
                        values, connection, self.source.version, options.blobs, self._blob_form, advance
                    )
                else:
                    self._put_keys(values, connection, advance)

    def _values(self, kind: str) -> AbstractContextManager[ScatteredShards]:
        return self._spooled(lambda first: spool_file(self._folder, kind, first))

    def _put_keys(self, values: ScatteredShards, connection: Any, advance: Callable[[int], None]) -> None:
        name = write_keys(values, connection, self.source.version, self.source.instance, advance)
        lost = self._lost(frozenset(values.keys().tolist()))
        self._delete_keys(connection, name, (f"{body}.{NGMESH}" for body in lost))

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


def _kind_of(info: bytes) -> str:
    """The format of a directory. Raises BadRequest if it is of something else than meshes."""
    try:
        legacy_mesh.read_info(info)
        return LEGACY
    except BadRequest:
        multires_mesh.read_info(info)
        return MULTIRES


__all__ = ["MeshError", "MeshOptions", "MeshResult", "block_size", "keys_name", "mesh"]
