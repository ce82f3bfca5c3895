"""Which directories an export has beside its volumes, and the steps that write each of them.

<labelmap>/properties   segment properties, if anything is known of its bodies
<labelmap>/mesh         stored meshes, or meshes made of all bodies
<labelmap>/skeletons    stored skeletons, or skeletons made of all bodies
<annotation>            annotations as points
<annotation>/lines      relations between them as lines, if there are any

Each is a step of the journal, which keeps its info until all is written.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from fascicle.errors import NotFound
from fascicle.formats import annotation_info
from fascicle.formats.annotation_info import AnnotationsInfo
from fascicle.formats.sharding import Sharding, morton_cell
from fascicle.pipeline.export_annotations import BY_ID, scan_annotations, sorted_lists
from fascicle.pipeline.export_directories import (
    LINES,
    STORED,
    DirectoryPlace,
    DirectorySetting,
    WrittenIndex,
    hashed,
    sharding_for_cells,
    spool_stored,
    stored_bodies,
    stored_tasks,
    write_index,
)
from fascicle.pipeline.export_version import ChosenVersion
from fascicle.pipeline.journal import Journal
from fascicle.pipeline.sources import SourceSpec
from fascicle.pipeline.tasks import Job, Progress, Task
from fascicle.precomputed import derived
from fascicle.precomputed.builders import Form
from fascicle.volumes.destinations import Destination
from fascicle.volumes.objects import open_folder
from fascicle.volumes.shard_writing import ScatteredShards

Run = Callable[[list[Task], Job, str], dict[str, Any]]
"""Do tasks, noted in the journal, with a stage for the progress."""
Fill = Callable[[ScatteredShards], object]
"""Gives the values of an index."""
PROPERTIES = "properties"
_MEMBERS = {"mesh": "mesh", "skeletons": "skeletons", PROPERTIES: "segment_properties"}
"""The members of a volume's info that name directories."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is to be written beside voxels. None: what there is; of meshes and skeletons, what is stored."""

    annotations: bool | None
    properties: bool | None
    meshes: bool | None
    skeletons: bool | None
    supervoxels: bool
    sharded: bool
    verify: bool
    clearing: bool
    """Whether something older may be there."""
    workers: int
    scheduler: str
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class Contents:
    """Writes the directories of an export."""

    version: ChosenVersion
    target: Destination
    labelmaps: tuple[str, ...]
    annotations: tuple[str, ...]
    """Instances of annotations."""
    wanted: Wanted
    folder: Path
    """For spools."""
    journal: Journal
    run: Run
    progress: Progress | None

    def write(self) -> dict[str, Any]:
        """Write what is wanted; what the journal keeps of each directory, by its name: info, checksums, numbers.

        Raises NotFound if something was asked for that there is not.
        """
        done: dict[str, Any] = {}
        for name, make in self._steps():
            step = f"directory {name}"
            if step not in self.journal.done:
                self.journal.add(step, make())
            kept = self.journal.done[step]
            if kept is not None:
                done[name] = kept
        for kind, name in (("annotations", "annotations"), (PROPERTIES, "segment properties")):
            found = self.annotations if kind == "annotations" else [one for one in done if one.endswith(PROPERTIES)]
            if getattr(self.wanted, kind) and not any(name in done for name in found):
                raise NotFound(f"version {self.version.spec.version} has no {name} to export")
        return done

    def links(self, name: str, done: dict[str, Any]) -> dict[str, str]:
        """The members of a volume's info that name its directories."""
        return {member: kind for kind, member in _MEMBERS.items() if f"{name}/{kind}" in done}

    def left_out(self) -> tuple[str, ...]:
        """What a server does not give as a whole: stored meshes and skeletons."""
        if self.version.spec.data:
            return ()
        wanted = {"mesh": self.wanted.meshes, "skeletons": self.wanted.skeletons}
        return tuple(
            f"{name}{suffix}: a store folder is needed for what is stored"
            for name in self.labelmaps
            for kind, (suffix, _) in STORED.items()
            if wanted[kind] is None and self.version.types.get(name + suffix) == "keyvalue"
        )

    def _steps(self) -> Iterator[tuple[str, Callable[[], Any]]]:
        wanted, in_folder = self.wanted, bool(self.version.spec.data)
        for name in self.labelmaps:
            if wanted.properties is not False and not wanted.supervoxels:
                yield f"{name}/{PROPERTIES}", partial(self._properties, name)
            for kind, choice in (("mesh", wanted.meshes), ("skeletons", wanted.skeletons)):
                if choice:
                    yield f"{name}/{kind}", partial(self._made, name, kind)
                elif choice is None and in_folder and not wanted.supervoxels:
                    yield f"{name}/{kind}", partial(self._stored, name, kind)
        if wanted.annotations is not False:
            for name in self.annotations:
                yield name, partial(self._annotations, name, False)
                yield f"{name}/{LINES}", partial(self._annotations, name, True)

    # -- each kind

    def _properties(self, name: str) -> Any:
        spec = replace(self.version.spec, instance=name)
        if not spec.data:
            folder = open_folder(spec.precomputed_address)
            linked = msgspec.json.decode(folder.get("info") or b"{}").get(_MEMBERS[PROPERTIES])
            data = folder.get(f"{linked}/info") if linked else None
            return None if data is None else _kept(data)
        directory = derived.part(PROPERTIES)
        assert directory is not None
        place = self._place()
        try:
            with place.instance(name) as (snapshot, instance):
                if not directory.exists(snapshot, instance, Form()):
                    return None
                return _kept(directory.serve(snapshot, instance, Form(), "info").body)
        finally:
            place.close()

    def _made(self, name: str, kind: str) -> Any:
        """Meshes or skeletons of all bodies, by the commands that make them."""
        wanted = self.wanted
        spec = replace(self.version.spec, instance=name, supervoxels=wanted.supervoxels)
        place = f"{self.target.address}/{name}/{kind}"
        sharded = None if wanted.sharded else False
        if kind == "mesh":
            from fascicle.pipeline.mesh import MeshOptions, mesh

            mesh_options = MeshOptions(
                sharded=sharded, workers=wanted.workers, scheduler=wanted.scheduler, memory_bytes=wanted.memory_bytes
            )
            count = mesh(spec, place, mesh_options, self.progress).meshes
        else:
            from fascicle.pipeline.skeletonize import SkeletonizeOptions, skeletonize

            options = SkeletonizeOptions(
                sharded=sharded, workers=wanted.workers, scheduler=wanted.scheduler, memory_bytes=wanted.memory_bytes
            )
            count = skeletonize(spec, place, options, self.progress).skeletons
        return {"info": "", "parts": {}, "values": count, "size": 0}

    def _stored(self, name: str, kind: str) -> Any:
        place = self._place()
        try:
            with place.instance(name) as (snapshot, instance):
                labels = stored_bodies(snapshot, instance, kind)
        finally:
            place.close()
        if not labels:
            return None
        folder = self.folder / name
        tasks = list(stored_tasks(name, kind, labels))
        self.run(tasks, self._job(spool_stored, folder), kind)
        spools = [folder / task.argument[3] for task in tasks]
        written = self._index(partial(_add_spools, spools), f"{name}/{kind}", folder, manifests=kind == "mesh")
        shutil.rmtree(folder)
        if kind == "mesh":
            from fascicle.formats import multires_mesh

            info = multires_mesh.write_info(multires_mesh.MeshInfo(sharding=written.sharding))
        else:
            from fascicle.formats import skeleton

            info = skeleton.write_info(
                skeleton.SkeletonInfo(vertex_attributes=(skeleton.RADIUS,), sharding=written.sharding)
            )
        return _kept(info, written)

    def _annotations(self, name: str, as_lines: bool) -> Any:
        prefix = f"{LINES if as_lines else 'points'}-"
        directory = f"{name}/{LINES}" if as_lines else name
        folder = self.folder / name
        scan = Task(f"{name}/{prefix}scan", [name, as_lines, prefix])
        setting = self._setting(folder) if self.version.spec.data else self._copied(name, folder)
        job = Job(DirectoryPlace, setting, scan_annotations)
        count, described = self.run([scan], job, "annotations")[scan.name]
        if not count:
            return None
        info = annotation_info.decode(described.encode())
        singles = partial(_add_spools, [folder / f"{prefix}{BY_ID}"])
        by_id = self._index(singles, f"{directory}/{BY_ID}", folder)
        written = [by_id]
        relationships, levels = [], []
        for number, index in enumerate(info.relationships):
            fill = partial(_fill, folder / f"{prefix}body{number}.rows", info)
            written.append(self._index(fill, f"{directory}/{index.key}", folder))
            relationships.append(msgspec.structs.replace(index, sharding=written[-1].sharding))
        for number, level in enumerate(info.spatial):
            fill = partial(_fill, folder / f"{prefix}level{number}.rows", info)
            written.append(self._cells(fill, f"{directory}/{level.key}", folder, level.grid_shape))
            levels.append(msgspec.structs.replace(level, sharding=written[-1].sharding))
        shutil.rmtree(folder)
        info = msgspec.structs.replace(
            info,
            by_id=msgspec.structs.replace(info.by_id, sharding=by_id.sharding),
            relationships=tuple(relationships),
            spatial=tuple(levels),
        )
        return _kept(annotation_info.encode(info), *written)

    def _copied(self, name: str, folder: Path) -> DirectorySetting:
        """Annotations of a server, copied once."""
        from fascicle.pipeline.served_annotations import REPO, ServedLabels, copy_annotations

        spec, copy, step = self.version.spec, self.folder.with_name("copies") / name, f"copy of {name}"
        if step not in self.journal.done:
            self.journal.add(step, copy_annotations(spec, name, copy))
        labels = ServedLabels(spec.server, spec.version, *self.journal.done[step])
        return DirectorySetting(SourceSpec(data=str(copy), repo=REPO), folder, labels)

    # -- what they share

    def _setting(self, folder: Path) -> DirectorySetting:
        spec: SourceSpec = replace(self.version.spec, instance="")
        return DirectorySetting(spec, folder)

    def _place(self) -> DirectoryPlace:
        return DirectoryPlace(self._setting(self.folder))

    def _job(self, work: Callable[[DirectoryPlace, Any], Any], folder: Path) -> Job:
        return Job(DirectoryPlace, self._setting(folder), work)

    def _index(self, fill: Fill, directory: str, scratch: Path, manifests: bool = False) -> WrittenIndex:
        return write_index(
            fill, self.target, directory, scratch, hashed(self.wanted.sharded), manifests=manifests,
            verify=self.wanted.verify, clearing=self.wanted.clearing,
        )  # fmt: skip

    def _cells(self, fill: Fill, directory: str, scratch: Path, grid: tuple[int, ...]) -> WrittenIndex:
        def choose(count: int) -> Sharding | None:
            return sharding_for_cells(grid, count) if self.wanted.sharded else None

        def name_of(key: int) -> str:
            return "_".join(map(str, morton_cell(key, grid)))

        return write_index(
            fill, self.target, directory, scratch, choose, name_of,
            verify=self.wanted.verify, clearing=self.wanted.clearing,
        )  # fmt: skip


def _add_spools(spools: list[Path], values: ScatteredShards) -> None:
    for path in spools:
        values.add_spool(path)


def _fill(path: Path, info: AnnotationsInfo, values: ScatteredShards) -> None:
    for key, data in sorted_lists(path, info):
        values.add(key, data)


def _kept(info: bytes, *written: WrittenIndex) -> dict[str, Any]:
    """What the journal keeps of a directory."""
    parts: dict[str, str] = {}
    for one in written:
        parts |= one.parts
    values = written[0].values if written else 1
    return {"info": info.decode(), "parts": parts, "values": values, "size": sum(one.size for one in written)}
