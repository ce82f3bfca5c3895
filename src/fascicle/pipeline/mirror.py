"""`fascicle mirror`: a precomputed volume, or a part of it, from anywhere to a folder or a bucket.

Chunks are copied as they are, shards too where a scale is taken whole. What is not at the source is not at the mirror
either, whatever cannot be read is an error: nothing becomes zeros. Everything is read back and compared before the
files `info` are written, that of the volume last; it describes exactly what is there.

Example: `mirror("https://example.org/labels", "labels", MirrorOptions(scales=(1,), box=((0, 0, 0), (4096,) * 3)))`
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal, get_args

import msgspec

from fascicle.errors import BadRequest
from fascicle.formats import precomputed_info
from fascicle.formats.precomputed_info import VOLUME, VolumeInfo
from fascicle.pipeline.journal import Journal, work_folder
from fascicle.pipeline.mirror_directories import LEGACY, PROPERTIES, DirectoryPlan, NotListed, plan_directory
from fascicle.pipeline.mirror_record import RECORD, read_record, write_record
from fascicle.pipeline.mirror_scales import Layout, ScalePlan, described, plan_scale, scale_steps
from fascicle.pipeline.mirror_transfer import Done, MirrorError, Step, Transfer
from fascicle.pipeline.tasks import Progress
from fascicle.volumes.base import VolumeError
from fascicle.volumes.destinations import JSON, Destination, open_destination
from fascicle.volumes.objects import Access, ObjectFolder, gunzipped, open_folder
from fascicle.volumes.precomputed import NoInfo, plain_address, read_info

WORKERS = 16
Box = tuple[Sequence[float], Sequence[float]]
_TRIES = 2
_TEMPORARY = ".*.????????.part"


@dataclass(frozen=True, slots=True, kw_only=True)
class MirrorOptions:
    """What is mirrored, and how."""

    scales: tuple[int, ...] = ()
    """Indexes of scales, 0 for the finest; without any, all that can be read."""
    box: Box | None = None
    """Two corners x, y, z, the second exclusive; each scale is taken as far as its chunks meet the box."""
    unit: Literal["voxels", "nm"] = "voxels"
    """Of the box: voxels of the finest scale, with its offset, or nanometres."""
    meshes: bool | None = None
    """Whether meshes are taken. By default if the volume is taken whole, or `bodies` are named."""
    skeletons: bool | None = None
    properties: bool = True
    """Whether segment properties are taken."""
    bodies: tuple[int, ...] = ()
    """Bodies whose meshes and skeletons are taken; without any, those of all."""
    also: tuple[str, ...] = ()
    """Further directories below the source, as those of annotations."""
    layout: Layout = "keep"
    """`keep`: whole scales as they are, parts of sharded ones in shards of their own; or `sharded`, `unsharded`."""
    gzip: bool = False
    """Pack objects that are not compressed (Content-Encoding, or `.gz` in folders)."""
    workers: int = WORKERS
    """Requests at the same time."""
    rate: float = 0.0
    """The most bytes per second that are fetched; 0: no limit."""
    verify: bool = True
    """Read everything back in the end, and compare it."""
    again: bool = False
    """Fetch everything anew even if the destination is a finished mirror of the same."""
    update: bool = False
    """Of a finished mirror, fetch only what has changed at the source since."""
    journal: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MirrorResult:
    """What there is at the destination now."""

    destination: str
    scales: tuple[str, ...]
    """The keys of the scales."""
    directories: tuple[str, ...]
    """Meshes, skeletons and so on."""
    left_out: tuple[str, ...]
    """What could have been taken but was not, and why."""
    objects: int
    size_bytes: int
    """Of all objects, without compression around them."""
    fetched_bytes: int
    """In this run."""
    was_finished: bool
    """Whether it was complete before, so that nothing was fetched."""
    seconds: float


def mirror(
    source: str, destination: str, options: MirrorOptions | None = None, progress: Progress | None = None
) -> MirrorResult:
    """Copy a precomputed volume, or a directory of meshes, skeletons, annotations or properties, to an address.

    Raises BadRequest or VolumeError for what cannot be mirrored, MirrorError if something is missing in the end: the
    same call goes on from there.
    """
    began = time.perf_counter()
    options = options or MirrorOptions()
    _check(options)
    target = open_destination(destination, durable=False)
    address = plain_address(source)
    folder, data, kind = _begin(address, options)
    if _place(folder) == _place(target.folder):
        raise BadRequest(f"{destination} is the source itself: a mirror needs another place")
    work = work_folder("mirror", target.address, target.folder.remote, options.journal)
    scratch = work / "scratch"
    shutil.rmtree(scratch, ignore_errors=True)
    transfer = Transfer(folder, target, scratch, options.workers, options.rate)
    try:
        job = _Mirror(transfer, data, kind, options)
        header = _header(folder, data, target, options)
        begun = _journal_path(work, options).exists()
        if options.update:
            job.take_over(header, progress)
        finished = not begun and job.is_finished() and (job.is_current() if options.update else not options.again)
        if finished:
            shutil.rmtree(work, ignore_errors=True)  # of a run that was killed in its last moment
        else:
            with _journal(target, work, options, header) as journal:
                job.run(journal, header, progress)
        return MirrorResult(
            destination=target.address,
            scales=tuple(plan.scale.key for plan in job.plans),
            directories=tuple(plan.target for plan in job.directories if plan.target),
            left_out=tuple(job.left_out),
            objects=sum(done.objects for done in job.done),
            size_bytes=sum(done.size_bytes for done in job.done),
            fetched_bytes=transfer.source.fetched_bytes,
            was_finished=finished,
            seconds=time.perf_counter() - began,
        )
    finally:
        transfer.close()


def _check(options: MirrorOptions) -> None:
    """BadRequest for values that make no sense."""
    if options.again and options.update:
        raise BadRequest("a mirror is either fetched again or updated, not both")
    if options.layout not in get_args(Layout):
        raise BadRequest(f"the layout {options.layout!r} is none of {', '.join(get_args(Layout))}")
    if options.unit not in ("voxels", "nm"):
        raise BadRequest(f"the unit {options.unit!r} is neither voxels nor nm")
    if options.workers < 1 or options.rate < 0:
        raise BadRequest(f"{options.workers} workers at {options.rate} bytes per second fetch nothing")
    if options.box is not None and [len(corner) for corner in options.box] != [3, 3]:
        raise BadRequest("a box has two corners of three numbers, x, y, z")


def _place(folder: ObjectFolder) -> str:
    return folder.address if folder.remote else str(Path(folder.address).expanduser().resolve())


def _begin(address: str, options: MirrorOptions) -> tuple[ObjectFolder, bytes, str]:
    """The folder that is mirrored, its info, and the kind that this names."""
    access = Access()
    folder = open_folder(address, access)
    data = folder.get("info")
    if data is None:
        raise NoInfo(f"{address} has nothing to mirror: there is no file named info")
    if data[:2] == b"\x1f\x8b":
        data = gunzipped(data)
    try:
        document: Any = msgspec.json.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise VolumeError(f"{folder.path('info')} is not JSON: {error}") from None
    if not isinstance(document, dict):
        raise VolumeError(f"{folder.path('info')} is not a JSON object")
    kind = document.get("@type", VOLUME)
    if kind == VOLUME:
        folder, _, _ = read_info(address, access=access)
        found = folder.get("info")
        assert found is not None
        data = gunzipped(found) if found[:2] == b"\x1f\x8b" else found
    elif options.scales or options.box:
        raise BadRequest(f"{address} is of the kind {kind}, which has neither scales nor boxes")
    return folder, data, str(kind)


class _Mirror:
    """What one mirror takes."""

    def __init__(self, transfer: Transfer, info: bytes, kind: str, options: MirrorOptions) -> None:
        self._transfer = transfer
        self._options = options
        self.left_out: list[str] = []
        self.plans: list[ScalePlan] = []
        self.directories: list[DirectoryPlan] = []
        self.done: list[Done] = []
        self._info = b""
        self._groups: list[tuple[str, list[Step]]] = []
        self._same: dict[str, Done] = {}
        """What an earlier mirror has of the same objects."""
        if kind == VOLUME:
            self._plan_volume(precomputed_info.decode(info), blake2b(info, digest_size=8).hexdigest())
        else:
            bodies = options.bodies or None
            plan = plan_directory(transfer, "", "", bodies, options.gzip)
            assert plan is not None
            self.directories.append(plan)
            self._info = plan.info
            for name in options.also:
                self._plan_directory(name, "", None)
        self._groups += [(plan.target or "objects", list(plan.steps)) for plan in self.directories]

    def _plan_volume(self, info: VolumeInfo, generation: str) -> None:
        options = self._options
        for index in options.scales:
            if not 0 <= index < len(info.scales):
                raise BadRequest(f"there is no scale {index}: the source has scales 0 to {len(info.scales) - 1}")
        box = _box_nm(info, options)
        for index, scale in enumerate(info.scales):
            if options.scales and index not in options.scales:
                continue
            if scale.problem and not options.scales:
                # one scale that a reader does not know hides all others from it
                self.left_out.append(f"scale {scale.key}: {scale.problem}")
                continue
            plan = plan_scale(info, index, box, options.layout)
            if plan is None:
                self.left_out.append(f"scale {scale.key}: it does not reach into the box")
            else:
                self.plans.append(plan)
        if not self.plans:
            raise BadRequest(f"nothing is left to mirror: {'; '.join(self.left_out)}")
        for plan in self.plans:
            steps = scale_steps(self._transfer, self._transfer.source.address, info, generation, plan, options.gzip)
            self._groups.append((f"scale {plan.scale.key}", list(steps)))
        links = self._plan_links(info)
        made = described(info, self.plans, links)
        if any(plan.scale.problem for plan in self.plans):
            document = precomputed_info.document(made)
            self._info = msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"
        else:
            self._info = precomputed_info.encode(made)

    def _plan_links(self, info: VolumeInfo) -> dict[str, str]:
        options = self._options
        whole = not options.scales and options.box is None
        links: dict[str, str] = {}
        chosen = (
            ("segment_properties", info.segment_properties, options.properties, None),
            ("mesh", info.mesh, options.meshes, options.bodies or None),
            ("skeletons", info.skeletons, options.skeletons, options.bodies or None),
        )
        for member, path, wanted, bodies in chosen:
            if path is None:
                if wanted and member != "segment_properties":
                    raise BadRequest(f"{self._transfer.source.address} has no {member}")
                continue
            if not (whole or options.bodies if wanted is None else wanted):
                self.left_out.append(f"{member}: not asked for")
                continue
            try:
                plan = self._plan_directory(path, LEGACY if member == "mesh" else "", bodies)
            except NotListed as error:
                if wanted:
                    raise
                self.left_out.append(f"{member}: {error.message}")
                continue
            if plan is None:
                self.left_out.append(f"{member}: the source names {path!r}, but there is nothing")
            else:
                links[member] = plan.target
        for path in options.also:
            if self._plan_directory(path, "", None) is None:
                raise VolumeError(f"{self._transfer.source.path(path)} has no info")
        return links

    def _plan_directory(self, path: str, default: str, bodies: Sequence[int] | None) -> DirectoryPlan | None:
        parts = [part for part in path.split("/") if part not in ("", ".")]
        # what lies beside the volume is put below its mirror
        target = parts[-1] if ".." in parts else "/".join(parts)
        if target in ("", "..") or any(target == plan.target for plan in self.directories):
            raise VolumeError(f"the directory {path!r} cannot be mirrored: it needs a name of its own")
        plan = plan_directory(self._transfer, "/".join(parts), target, bodies, self._options.gzip, default)
        if plan is not None:
            self.directories.append(plan)
        return plan

    def is_finished(self) -> bool:
        """Whether the destination describes itself as what this would make of it."""
        folder = self._transfer.destination.folder
        return folder.get("info") == self._info and all(
            folder.get(f"{plan.target}/info" if plan.target else "info") == plan.info for plan in self.directories
        )

    def take_over(self, header: dict[str, Any], progress: Progress | None) -> None:
        """Ask the source which objects have not changed since the record of the destination was written.

        Raises BadRequest if the destination is a mirror of something else.
        """
        known = read_record(self._transfer.destination.folder, header)
        for stage, steps in self._groups:
            if progress:
                progress(f"{stage}: what has changed", 0, len(steps))
            self._same |= {step.name: known[step.name] for step in self._transfer.unchanged(steps, known)}
            if progress:
                progress(f"{stage}: what has changed", len(steps), len(steps))

    def is_current(self) -> bool:
        """Whether nothing has changed at the source."""
        return all(step.name in self._same for _, steps in self._groups for step in steps) and not self._left_over()

    def _left_over(self) -> list[str]:
        """Names at the destination, of directories that were listed, that the source does not have any more."""
        folder = self._transfer.destination.folder
        found = []
        for directory, names in ((one, names) for plan in self.directories for one, names in plan.listed.items()):
            there = set(names)
            for name in folder.names(f"{directory}/" if directory else ""):
                plain = name.removesuffix(".gz")
                if plain not in there and plain.rpartition("/")[2] not in ("info", RECORD):
                    found.append(plain)
        return found

    def run(self, journal: Journal, header: dict[str, Any], progress: Progress | None) -> None:
        """Bring everything, compare it, describe it."""
        destination = self._transfer.destination
        if "begun" not in journal.done:
            # what is replaced does not describe what is written from now on
            destination.delete("info")
            for plan in self.directories:
                destination.delete(f"{plan.target}/info" if plan.target else "info")
            journal.add("begun")
        kept = [name for name in self._same if name not in journal.done]
        journal.done |= {name: list(astuple(self._same[name])) for name in kept}
        if self._options.update:
            for name in self._left_over():
                destination.delete(name)
        for stage, steps in self._groups:
            self._transfer.run(steps, journal, stage, progress)
        if self._options.verify:
            self._verify(journal, frozenset(kept), progress)
        self.done = [Done(*journal.done[step.name]) for _, steps in self._groups for step in steps]
        if not destination.folder.remote and hasattr(os, "sync"):
            os.sync()  # files were left to the system until now
        for plan in sorted(self.directories, key=lambda plan: plan.kind != PROPERTIES):
            if plan.target:
                destination.put(f"{plan.target}/info", plan.info, JSON)
        names = [step.name for _, steps in self._groups for step in steps]
        write_record(destination, header, dict(zip(names, self.done, strict=True)))
        destination.put("info", self._info, JSON, caching="no-cache")

    def _verify(self, journal: Journal, kept: frozenset[str], progress: Progress | None) -> None:
        """Read back what was written, but for what was `kept` from an earlier mirror."""
        steps = [step for _, steps in self._groups for step in steps if step.name not in kept]
        wrong = self._transfer.verify(steps, journal, "verifying", progress)
        for _ in range(_TRIES - 1):
            if not wrong:
                return
            # noted as done, but not there as it was: lost with the power, or changed by somebody
            for step in wrong:
                del journal.done[step.name]
            self._transfer.run(wrong, journal, "again", progress)
            wrong = self._transfer.verify(wrong, journal, "verifying again", progress)
        if wrong:
            names = ", ".join(step.name for step in wrong[:5])
            raise MirrorError(f"{len(wrong)} parts are not at the destination as they were written: {names}")


def _box_nm(info: VolumeInfo, options: MirrorOptions) -> Box | None:
    if options.box is None:
        return None
    low, high = options.box
    if not all(a < b for a, b in zip(low, high, strict=True)):
        raise BadRequest(f"the box from {tuple(low)} to {tuple(high)} (x, y, z) is empty")
    if options.unit == "nm":
        return low, high
    finest = info.scales[0].resolution
    return [a * r for a, r in zip(low, finest, strict=True)], [b * r for b, r in zip(high, finest, strict=True)]


def _header(folder: ObjectFolder, info: bytes, target: Destination, options: MirrorOptions) -> dict[str, Any]:
    box = options.box and [[float(edge) for edge in corner] for corner in options.box]
    bodies = blake2b(msgspec.json.encode(options.bodies), digest_size=8).hexdigest() if options.bodies else ""
    return {
        "job": "mirror",
        "source": _place(folder),
        "info": blake2b(info, digest_size=8).hexdigest(),
        "destination": _place(target.folder),
        "scales": list(options.scales),
        "box": box,
        "unit": options.unit,
        "taken": [options.meshes, options.skeletons, options.properties],
        "bodies": bodies,
        "also": list(options.also),
        "layout": options.layout,
        "gzip": options.gzip,
        **({"update": True} if options.update else {}),
    }


def _journal_path(work: Path, options: MirrorOptions) -> Path:
    return options.journal or work / "journal.jsonl"


@contextmanager
def _journal(target: Destination, work: Path, options: MirrorOptions, header: dict[str, Any]) -> Iterator[Journal]:
    """The journal of a mirror, which is removed when the mirror is complete."""
    work.mkdir(parents=True, exist_ok=True)
    path = _journal_path(work, options)
    journal = Journal(path, header)
    if not target.folder.remote:
        root = Path(target.address).expanduser()
        for left in root.rglob(_TEMPORARY) if root.is_dir() else ():
            left.unlink(missing_ok=True)  # of a run that was killed
    try:
        yield journal
    except BaseException:
        journal.close()
        raise
    finally:
        shutil.rmtree(work / "scratch", ignore_errors=True)
    journal.close()
    path.unlink(missing_ok=True)
    shutil.rmtree(work, ignore_errors=True)
