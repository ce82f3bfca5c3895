"""`fascicle skeletonize`: the centrelines of all bodies of a volume, block by block, joined per body, as skeletons.

Memory is bounded by the size of the blocks; the volume may be of any size. First each block's centrelines are found
(`skeleton_parts.do_block`), then bodies are joined in ranges (`do_bodies`), then all are written. Each of these steps
is noted in a journal, and the result depends on the source and the options alone.

Example: `skeletonize(SourceSpec(address="labels"), "labels/skeletons", SkeletonizeOptions(), None)`
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from typing import Any

import msgspec

from fascicle.errors import BadRequest
from fascicle.formats import skeleton as skeletons
from fascicle.formats.swc import Neuron
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
from fascicle.pipeline.tasks import Progress
from fascicle.pipeline.volume_links import link
from fascicle.precomputed.centrelines import Teasar
from fascicle.volumes.base import VolumeSource, Zyx
from fascicle.volumes.destinations import JSON, Destination, open_destination

FORMATS = ("precomputed", "swc", "archive")
_VOXEL_BYTES = 22
"""Of each voxel of a block: its label twice for a moment, its piece, its depth."""
_NODE_BYTES = 90


@dataclass(frozen=True, slots=True, kw_only=True)
class SkeletonizeOptions(BodyOptions):
    """What is made, how, and by whom. Keys are SWC under `<body>_swc` in `<instance>_skeletons`."""

    format: str = "precomputed"
    """`precomputed` (a directory), `swc` (a folder of files) or `archive` (a tar with its table)."""
    parameters: Teasar = field(default_factory=Teasar)
    neurons: tuple[Neuron, ...] = ()
    """The table of an archive. If `bodies` names none, those of the table are chosen."""
    in_nm: bool = False
    """SWC in nanometres instead of voxels of the finest scale."""


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
    source, state = settled(source, "keys" if options.keys else "")
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
    check_since(source, options)
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
    room = options.memory_bytes / max(1, workers) - BASE_BYTES
    most = max(room, FEWEST_BYTES) / (_VOXEL_BYTES + 1.3 * _NODE_BYTES / math.prod(
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


class _Skeletonize(BodyJob[SkeletonizeOptions]):
    """One job while it is done."""

    name, things, error = "skeletonize", "skeletons", SkeletonError

    def __init__(
        self,
        source: SourceSpec,
        destination: str,
        options: SkeletonizeOptions,
        state: list[Any],
        progress: Progress | None,
    ) -> None:
        target, self._file = _target(destination, options.format)
        super().__init__(source, destination, options, target, progress)
        self._locked = not state or bool(state[0])
        self._updates = self._updates and options.format != "archive"
        self._check_target()
        with source.open() as pyramid:
            volume = labels_at(pyramid, options.scale, not source.address)
            self._resolution, self._finest = resolution_at(pyramid, options.scale), resolution_at(pyramid, 0)
            shape, offset = volume.shape_zyx, volume.offset_xyz
            size = block_size(volume, self._resolution, options, self._workers)
        self._lay_blocks(shape, offset, size, reach=0)
        header = self._header(destination, size, state)
        self._begin(self._work_folder(self._file), header, options.format == "precomputed")
        self._setting = Setting(
            source=source,
            scale=options.scale,
            resolution_nm=self._resolution,
            folder=self._folder,
            bodies=tuple(self._bodies or ()),
            parameters=options.parameters,
        )

    # -- before anything is done

    def _choose_bodies(self) -> tuple[list[int] | None, list[int]]:
        """The bodies to make (None: all), and those that are no more."""
        options = self.options
        if options.neurons and not options.since and not options.bodies:
            return sorted({neuron.body for neuron in options.neurons}), []
        return super()._choose_bodies()

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

    def _header(self, destination: str, size_zyx: Zyx, state: list[Any]) -> dict[str, Any]:
        options, spec = self.options, self.source
        return {
            "job": "skeletonize",
            "source": {name: value for name, value in asdict(spec).items() if value},
            "state": state,
            "destination": destination,
            "format": options.format,
            "keys": options.keys,
            "scale": options.scale,
            "parameters": asdict(options.parameters),
            "bodies": self._bodies_digest(),
            "neurons": blake2b(msgspec.json.encode(options.neurons), digest_size=8).hexdigest(),
            "sharded": options.sharded,
            "in_nm": options.in_nm,
            "block_xyz": list(size_zyx[::-1]),
            "memory": min(options.memory_bytes // self._workers, 1 << 40),
        }

    def _keep_state(self) -> None:
        """The mutations that changed the bodies last, before their voxels are read."""
        if self._needs_mutations and self.source.data:
            from fascicle.pipeline.skeleton_versions import last_mutations

            (self._folder / "mutations").write_bytes(msgspec.msgpack.encode(last_mutations(self.source)))

    @property
    def _needs_mutations(self) -> bool:
        return (self.options.format != "precomputed" or self.options.keys) and not self.source.supervoxels

    # -- steps

    def find_centrelines(self) -> None:
        """The centrelines of all blocks."""
        self._do_blocks(do_block, "centrelines")

    def join(self) -> None:
        """The skeletons of all bodies, in spools."""
        made = self._do_bodies(do_bodies, ranges, self._body_bytes // BYTES_PER_VERTEX)
        self.count, self.vertices = (sum(numbers[i] for numbers in made) for i in range(2))

    def write(self) -> None:
        """Everything to where it is wanted; the info last."""
        options, target = self.options, self._target
        with self._spooled(lambda first: spool_file(self._folder, first)) as values:
            made = Made(values, self._finest, options.in_nm, self._mutations())
            bodies = frozenset(values.keys().tolist())
            if target is not None and options.format == "archive":
                with self._stage("writing") as advance:
                    write_archive(made, target, self._file, options.neurons, self._folder, advance)
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
                    self._delete_keys(connection, name, (f"{body}_swc" for body in self._lost(bodies)))

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
