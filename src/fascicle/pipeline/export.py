"""`fascicle export VERSION DEST`: a version as static precomputed volumes, in a folder or a bucket.

Each volume of the version becomes a directory `<instance>/` with all of its scales; its chunks come from the builders
of the live view. One task writes one shard, or one group of chunks, and is noted in a journal with its checksum; at the
end everything is read back and compared, and only then the files `info`, and last `export.json`, are written.

Example: `export(SourceSpec(data="db", repo="medulla"), "s3://bucket/medulla", ExportOptions(workers=8))`
"""

from __future__ import annotations

import shutil
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from fascicle.errors import BadRequest, FascicleError, NotFound
from fascicle.formats import precomputed_info
from fascicle.formats.precomputed_info import VolumeInfo
from fascicle.formats.sharding import SHARD_VOXELS
from fascicle.pipeline.export_contents import Contents, Wanted
from fascicle.pipeline.export_record import (
    RECORD,
    ExportRecord,
    ScaleRecord,
    VolumeRecord,
    earlier_export,
    layout_of,
)
from fascicle.pipeline.export_version import ChosenVersion, ServedChunks, choose, described
from fascicle.pipeline.export_volumes import (
    VolumePlan,
    VolumeSetting,
    Workplace,
    check_group,
    static_info,
    write_group,
)
from fascicle.pipeline.journal import Journal, work_folder
from fascicle.pipeline.sources import OpenNode, SourceSpec
from fascicle.pipeline.tasks import Job, Progress, Task, TaskError, run_tasks, usual_workers
from fascicle.precomputed.builders import ENCODINGS, Form
from fascicle.volumes.destinations import JSON, Destination, open_destination

_MOST_CACHE = 8 << 20  # chunks are made once each
_TRIES = 2
_WORKER_VOXELS = 1 << 26
"""Each worker but the first should have so many to do,"""
_WORKER_OBJECTS = 500
"""or so many annotated bodies, cells or meshes."""


class ExportError(FascicleError):
    """An export is not complete; the message says what is missing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportOptions:
    """What is exported, how, and by whom."""

    instances: tuple[str, ...] = ()
    """Those to export; without any, all volumes that are no coarser scales of others."""
    supervoxels: bool = False
    """Of label maps supervoxels instead of bodies."""
    encoding: str = ""
    """Of the chunks of those volumes that can have it; else what suits each."""
    sharded: bool = True
    gzip: bool = False
    """Pack chunks that are objects of their own (Content-Encoding, or `.gz` in folders)."""
    workers: int = 0
    """Processes; 0: as many as there are processors."""
    scheduler: str = ""
    """The address of a Dask scheduler whose workers do the work instead."""
    memory_bytes: int = 2 << 30
    journal: Path | None = None
    since: str = ""
    """Address or journal of an earlier export, of which only what differs is written."""
    verify: bool = True
    meshes: bool | None = None
    """None: those that are stored; True: made of all bodies."""
    skeletons: bool | None = None
    """As meshes."""
    annotations: bool | None = None
    """None: those that there are."""
    properties: bool | None = None
    """What is known of bodies, as segment properties. None: if anything is."""
    provenance: str = ""
    """If given, the description in a file `provenance` beside each info."""
    shard_voxels: int = SHARD_VOXELS


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportResult:
    """What there is at the destination now."""

    destination: str
    version: str
    volumes: tuple[str, ...]
    directories: dict[str, int]
    """Annotations, meshes, skeletons and properties by their places, and how many each has."""
    left_out: tuple[str, ...]
    """What could not be exported, and why."""
    chunks: int
    size_bytes: int
    """Of all chunks as they are stored, or shards."""
    objects: int
    """Shards, or groups of chunks, that there are."""
    changed: tuple[str, ...]
    """With `since`: the shards or groups that differ."""
    seconds: float


def export(
    source: SourceSpec, destination: str, options: ExportOptions, progress: Progress | None = None
) -> ExportResult:
    """Write a version to an address; `source.instance` is left aside.

    Raises BadRequest or NotFound for what cannot be exported, ExportError or JournalError if it is not complete: the
    same call goes on from there.
    """
    began = time.perf_counter()
    version = choose(source)
    target = open_destination(destination)
    if not version.locked:
        warnings.warn(
            f"version {version.spec.version} is open: what is written to it meanwhile may be in the export or not",
            stacklevel=2,
        )
    plans = _plans(version, options)
    folder = work_folder("export", target.address, target.folder.remote, options.journal)
    job = _Export(version, target, options, plans, folder, progress)
    with job:
        job.write_volumes()
        job.write_directories()
        job.write_infos()
        target.put(RECORD, job.record().encode(), JSON)
    kept = list(job.kept.values())
    return ExportResult(
        destination=target.address,
        version=version.spec.version,
        volumes=tuple(plan.name for plan in plans),
        directories={name: kept["values"] for name, kept in job.directories.items()},
        left_out=job.contents.left_out(),
        chunks=sum(entry[1] for entry in kept),
        size_bytes=sum(entry[2] for entry in kept),
        objects=sum(bool(entry[1]) for entry in kept),
        changed=tuple(name for name, entry in job.kept.items() if entry[3]) if options.since else (),
        seconds=time.perf_counter() - began,
    )


def _plans(version: ChosenVersion, options: ExportOptions) -> tuple[VolumePlan, ...]:
    """The volumes to write. Those that were not named are left out if they are empty."""
    if options.encoding and options.encoding not in ENCODINGS:
        raise BadRequest(f"the encoding {options.encoding!r} is none of {', '.join(ENCODINGS)}")
    for name in options.instances:
        if name not in version.types:
            raise NotFound(f"there is no data instance {name!r}")
    named = [name for name in options.instances if version.types[name] != "annotation"]
    names = named if options.instances else version.volumes()
    found: list[VolumePlan] = []
    refused: list[str] = []
    with _Describer(version.spec) as describe:
        for name in names:
            supervoxels = options.supervoxels and version.types[name] == "labelmap"
            try:
                try:
                    form = Form(supervoxels, options.encoding)
                    info = describe(name, form)
                except BadRequest as error:
                    if not options.encoding or len(names) == 1:
                        raise
                    refused.append(error.message)
                    form = Form(supervoxels)
                    info = describe(name, form)
            except NotFound:
                if options.instances:
                    raise
                continue
            found.append(VolumePlan(name, form, static_info(info, options.sharded, options.shard_voxels)))
    if not found and not options.instances:
        raise NotFound(f"version {version.spec.version} has no volumes with voxels")
    if refused and len(refused) == len(found):
        raise BadRequest(refused[0])
    return tuple(found)


class _Describer:
    """Describes instances of a version by their live views."""

    def __init__(self, spec: SourceSpec) -> None:
        self._spec = spec
        self._opened: OpenNode | None = None

    def __enter__(self) -> Callable[[str, Form], VolumeInfo]:
        if self._spec.data:
            self._opened = OpenNode(self._spec)
        return self._describe

    def __exit__(self, *_: object) -> None:
        if self._opened is not None:
            self._opened.close()

    def _describe(self, name: str, form: Form) -> VolumeInfo:
        if self._opened is None:
            return ServedChunks(replace(self._spec, instance=name), form).info
        with self._opened.snapshot() as snapshot:
            return described(snapshot, name, form).info


class _Export:
    """One export while it is done."""

    def __init__(
        self,
        version: ChosenVersion,
        target: Destination,
        options: ExportOptions,
        plans: tuple[VolumePlan, ...],
        folder: Path,
        progress: Progress | None,
    ) -> None:
        self._version = version
        self._target = target
        self._options = options
        self._plans = plans
        self._folder = folder
        self._progress = progress
        self._workers = options.workers or usual_workers()
        self._earlier: ExportRecord | None = None
        address = ""
        if options.since:
            address, self._earlier = earlier_export(options.since)
        folder.mkdir(parents=True, exist_ok=True)
        self._journal_path = options.journal or folder / "journal.jsonl"
        self._journal = Journal(self._journal_path, self._header(address))
        shutil.rmtree(folder / "shards", ignore_errors=True)
        if "begun" not in self._journal.done:
            # an export that is replaced does not describe what is written from now on
            self._journal.add("begun", {"clearing": self._begin(address)})
        in_place = bool(address) and address == target.address
        self._setting = VolumeSetting(
            spec=version.spec,
            destination=target.address,
            scratch=folder / "shards",
            plans=plans,
            gzip=options.gzip,
            cache_bytes=min(_MOST_CACHE, max(1 << 20, options.memory_bytes // (8 * self._workers))),
            earlier=address,
            clearing=in_place or (not address and self._journal.done["begun"]["clearing"]),
            durable=options.sharded or not options.verify,
        )
        self.kept: dict[str, list[Any]] = {}
        self.directories: dict[str, Any] = {}
        """What the journal keeps of each directory."""
        self.contents = self._contents()

    def _contents(self) -> Contents:
        options = self._options
        wanted = Wanted(
            annotations=options.annotations,
            properties=options.properties,
            meshes=options.meshes,
            skeletons=options.skeletons,
            supervoxels=options.supervoxels,
            sharded=options.sharded,
            verify=options.verify,
            clearing=self._journal.done["begun"]["clearing"],
            workers=options.workers,
            scheduler=options.scheduler,
            memory_bytes=options.memory_bytes,
        )
        kinds = self._version.types
        annotations = [name for name in options.instances or sorted(kinds) if kinds[name] == "annotation"]
        labelmaps = [plan.name for plan in self._plans if kinds[plan.name] == "labelmap"]
        return Contents(
            self._version, self._target, tuple(labelmaps), tuple(annotations), wanted, self._folder / "spools",
            self._journal, self._run_noted, self._progress,
        )  # fmt: skip

    def _header(self, earlier: str) -> dict[str, Any]:
        spec, options = self._version.spec, self._options
        chosen = {
            "supervoxels", "encoding", "sharded", "gzip", "provenance", "shard_voxels",
            "meshes", "skeletons", "annotations", "properties",
        }  # fmt: skip
        return {
            "job": "export",
            "source": str(Path(spec.data).absolute()) if spec.data else spec.server,
            "version": spec.version,
            "state": self._version.state,
            "destination": self._target.address,
            "volumes": [plan.name for plan in self._plans],
            "earlier": [earlier, self._earlier.version] if self._earlier else [],
            **{name: value for name, value in sorted(asdict(options).items()) if name in chosen},
        }

    def _begin(self, earlier: str) -> bool:
        """Whether something is replaced."""
        found = False
        kinds = self._version.types
        annotations = [name for name in self._options.instances or kinds if kinds[name] == "annotation"]
        for place in (*(plan.name for plan in self._plans), *annotations):
            name = f"{place}/info"
            if self._target.folder.exists(name):
                found = True
                if not earlier:
                    self._target.delete(name)
        if found and not earlier:
            self._target.delete(RECORD)
        return found

    def __enter__(self) -> _Export:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._journal.close()
        shutil.rmtree(self._folder / "shards", ignore_errors=True)
        if kind is None:
            self._journal_path.unlink(missing_ok=True)
            shutil.rmtree(self._folder, ignore_errors=True)

    # -- voxels

    def write_volumes(self) -> None:
        """Write all chunks and read them back."""
        tasks = [
            task for number, plan in enumerate(self._plans) for task in plan.tasks(number, self._known(plan))
        ]
        self.kept = self._run(tasks, self._job(write_group), "writing", self._journal)
        if not self._options.verify:
            return
        for attempt in range(_TRIES):
            wrong = self._differing(tasks)
            if not wrong:
                return
            if attempt + 1 < _TRIES:
                # noted as done, but not there: lost with the power, or removed by somebody
                again = self._run(wrong, self._job(write_group), "writing again", None)
                for name, kept in again.items():
                    self._journal.add(name, kept)
                self.kept |= again
        names = ", ".join(task.name for task in wrong[:5])
        raise ExportError(f"{len(wrong)} parts are not at the destination as they were written: {names}")

    def _differing(self, tasks: list[Task]) -> list[Task]:
        """The tasks whose outcome cannot be read back."""
        checks = [
            replace(task, argument=[*task.argument[:3], *self.kept[task.name][:3:2]])
            for task in tasks
            if self.kept[task.name][1]
        ]
        found = self._run(checks, self._job(check_group), "verifying", None)
        bad = {name for name, right in found.items() if not right}
        return [task for task in tasks if task.name in bad]

    def _job(self, work: Callable[[Workplace, Any], Any]) -> Job:
        return Job(Workplace, self._setting, work)

    def write_directories(self) -> None:
        """Write what there is beside voxels."""
        self.directories = self.contents.write()

    def _run_noted(self, tasks: list[Task], job: Job, stage: str) -> dict[str, Any]:
        return self._run(tasks, job, stage, self._journal, _WORKER_OBJECTS)

    def _run(
        self, tasks: list[Task], job: Job, stage: str, journal: Journal | None, enough: int = 0
    ) -> dict[str, Any]:
        # starting a process takes as long as some work does
        most = 1 + sum(task.weight for task in tasks) // (enough or _WORKER_VOXELS)
        workers, scheduler = min(self._workers, most), self._options.scheduler
        try:
            return run_tasks(
                tasks, job, journal, stage=stage, workers=workers, scheduler=scheduler, progress=self._progress
            )
        except TaskError as error:
            done = sum(task.name in journal.done for task in tasks) if journal else 0
            raise ExportError(
                f"{error.message}; {len(tasks) - done} of {len(tasks)} parts are missing, and no info was written: "
                "give the same command again to go on"
            ) from error

    def _known(self, plan: VolumePlan) -> dict[str, str]:
        return {} if self._earlier is None else self._earlier.known(plan.name, plan.info)

    # -- what describes them

    def record(self) -> ExportRecord:
        """What `export.json` will hold."""
        volumes = []
        for plan in self._plans:
            scales = []
            for level, scale in enumerate(plan.info.scales):
                start = f"{plan.name}/{scale.key}/"
                parts = {
                    name: entry[0] for name, entry in self.kept.items() if name.startswith(start) and entry[0]
                }
                parts = dict(sorted(parts.items()))
                scales.append(ScaleRecord(key=scale.key, layout=layout_of(plan.info, level), parts=parts))
            volumes.append(VolumeRecord(name=plan.name, scales=tuple(scales)))
        spec = self._version.spec
        directories = {name: kept["parts"] for name, kept in self.directories.items()}
        return ExportRecord(repo=spec.repo, version=spec.version, volumes=tuple(volumes), directories=directories)

    def write_infos(self) -> None:
        """The files that make chunks volumes."""
        for plan in self._plans:
            if self._options.provenance:
                self._target.put(f"{plan.name}/provenance", self._provenance(plan), JSON)
        for name, kept in self.directories.items():
            if kept["info"]:
                self._target.put(f"{name}/info", kept["info"].encode(), JSON)
        for plan in self._plans:
            info = msgspec.structs.replace(plan.info, **self.contents.links(plan.name, self.directories))
            self._target.put(f"{plan.name}/info", precomputed_info.encode(info), JSON)

    def _provenance(self, plan: VolumePlan) -> bytes:
        from fascicle import __version__

        spec = self._version.spec
        document = {
            "owners": [],
            "description": self._options.provenance,
            "sources": [f"{plan.name} at version {spec.version} of repo {spec.repo}"],
            "processing": [{"method": {"task": "fascicle export", "version": __version__}}],
        }
        return msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"
