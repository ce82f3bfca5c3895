"""What an export writes beside voxels: annotations, stored meshes and skeletons, segment properties.

Objects are made by the directories of the live view. Workers spool them, a task each for some bodies or some cells, and
the spools of a directory become its shards (or, unsharded, its files) when all of them are there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fascicle.errors import NotFound
from fascicle.formats.sharding import Sharding, morton_bits, morton_cell, morton_codes, sharding_for_keys
from fascicle.pipeline.sources import OpenNode, SourceSpec
from fascicle.pipeline.tasks import Task
from fascicle.precomputed import addresses, derived
from fascicle.precomputed.builders import Form, Snapshot
from fascicle.versions.model import Instance
from fascicle.volumes.base import VolumeError
from fascicle.volumes.destinations import Destination
from fascicle.volumes.objects import ObjectFolder, TooShort, gunzipped
from fascicle.volumes.shard_writing import ScatteredShards, ShardFiles, SpoolWriter
from fascicle.volumes.threads import in_parallel

LINES = "lines"
BY_ID = "by_id"
STORED = {"mesh": ("_meshes", ".ngmesh"), "skeletons": ("_skeletons", "_swc")}
"""The directories of what is stored of bodies: how the key-value is called after the label map, and how keys end."""
_BODIES_PER_TASK = 500
_CELLS_PER_TASK = 200
_STORED_PER_TASK = 100
_FEW_CELLS = 64
_READ_BYTES = 4 << 20
_PUT_TOGETHER = 64


@dataclass(frozen=True, slots=True)
class DirectorySetting:
    """What workers need to know."""

    spec: SourceSpec
    """The version, by its UUID, of a store folder."""
    scratch: Path


class DirectoryPlace:
    """What a worker has open."""

    def __init__(self, setting: DirectorySetting) -> None:
        self.setting = setting
        self._opened = OpenNode(setting.spec)

    @contextmanager
    def instance(self, name: str) -> Iterator[tuple[Snapshot, Instance]]:
        """An instance and the version."""
        with self._opened.snapshot() as snapshot:
            yield snapshot, addresses.find_instance(snapshot.catalog, self._opened.repo, name)

    def spool(self, name: str) -> SpoolWriter:
        """A file for values that a task makes."""
        self.setting.scratch.mkdir(parents=True, exist_ok=True)
        return SpoolWriter(self.setting.scratch / name)

    def close(self) -> None:
        self._opened.close()


# -- annotations


def overview(snapshot: Snapshot, instance: Instance, as_lines: bool) -> Any:
    """The info and the levels of cells, as the live view has them."""
    from fascicle.precomputed.annotations import Annotations

    directory = derived.whole("annotation")
    assert isinstance(directory, Annotations)
    return directory.overview(snapshot, instance, as_lines)


def scan_annotations(place: DirectoryPlace, argument: list[Any]) -> list[int]:
    """All annotations by their ids; the bodies of each relationship and the cells of each level go to a file.

    The numbers of annotations, of the bodies of each relationship, and of the cells of each level.
    """
    from fascicle.formats.annotation_index import priorities
    from fascicle.formats.annotations import encode_singles
    from fascicle.precomputed.annotations import columns_of_all

    name, as_lines, prefix = argument
    with place.instance(name) as (snapshot, instance):
        known = overview(snapshot, instance, as_lines)
        grids = known.plan.grids
        bodies = [_Distinct() for _ in known.info.relationships]
        cells = [_Distinct() for _ in grids]
        count = 0
        spool = place.spool(f"{prefix}{BY_ID}")
        for columns in columns_of_all(snapshot, instance, as_lines):
            count += len(columns)
            data, starts = encode_singles(known.info, columns)
            for i, key in enumerate(columns.ids.tolist()):
                spool.add(key, data[starts[i] : starts[i + 1]])
            for found, lists in zip(bodies, columns.related, strict=True):
                found.add(lists.values)
            levels = known.plan.levels_of(priorities(columns.ids))
            for level in np.unique(levels).tolist():
                points: Any = columns.points
                points = points[levels == level]
                for end in range(points.shape[1]):
                    cells[level].add(morton_codes(grids[level].cells(points[:, end]), grids[level].shape))
        spool.close()
    numbers = {f"body{i}": found.all() for i, found in enumerate(bodies)}
    numbers |= {f"level{i}": found.all() for i, found in enumerate(cells)}
    path = place.setting.scratch / f"{prefix}lists.npz"
    with path.with_suffix(".part").open("wb") as file:
        np.savez(file, **numbers)  # type: ignore[arg-type]
    path.with_suffix(".part").replace(path)
    return [count, *(len(one) for one in numbers.values())]


class _Distinct:
    """Distinct numbers u64 that come in parts."""

    def __init__(self) -> None:
        self._parts: list[NDArray[np.uint64]] = []
        self._size = 0

    def add(self, numbers: NDArray[np.uint64]) -> None:
        self._parts.append(np.unique(numbers.astype(np.uint64)))
        self._size += len(self._parts[-1])
        if self._size > 1 << 20 and self._size > 2 * len(self._parts[0]):
            self._parts = [self.all()]
            self._size = len(self._parts[0])

    def all(self) -> NDArray[np.uint64]:
        """All of them, ascending."""
        return np.unique(np.concatenate(self._parts)) if self._parts else np.empty(0, np.uint64)


def spool_annotations(place: DirectoryPlace, argument: list[Any]) -> int:
    """What some bodies have, or some cells list."""
    from fascicle.formats.annotations import encode_list
    from fascicle.precomputed.annotation_overview import Source
    from fascicle.precomputed.annotations import in_cell, of_body

    name, as_lines, prefix, column, start, stop = argument
    with np.load(place.setting.scratch / f"{prefix}lists.npz") as lists:
        numbers = lists[column][start:stop].tolist()
    with place.instance(name) as (snapshot, instance):
        known = overview(snapshot, instance, as_lines)
        source = Source.of(snapshot, instance)
        spool = place.spool(f"{prefix}{column}-{start}")
        at = int(column[-1]) if column.startswith("body") else int(column.removeprefix("level"))
        for number in numbers:
            if column.startswith("body"):
                found = of_body(source, number, known.info.relationships[at].key)
            else:
                cell = morton_cell(number, known.plan.grids[at].shape)
                found = in_cell(source, known, at, cell, as_lines)
            if len(found):
                spool.add(number, encode_list(known.info, found))
        spool.close()
    return len(numbers)


def annotation_tasks(name: str, as_lines: bool, prefix: str, columns: Sequence[tuple[str, int]]) -> Iterator[Task]:
    """What is to be spooled after a scan: (list, length) of all lists."""
    for column, length in columns:
        step = _BODIES_PER_TASK if column.startswith("body") else _CELLS_PER_TASK
        for start in range(0, length, step):
            stop = min(start + step, length)
            task = f"{name}/{prefix}{column}-{start}"
            yield Task(task, [name, as_lines, prefix, column, start, stop], stop - start)


def sharding_for_cells(grid: Sequence[int], count: int) -> Sharding | None:
    """That of the cells of one level; None if there are few."""
    total = sum(morton_bits(grid))
    if count <= _FEW_CELLS:
        return None
    # cells beside each other share a minishard of about so many that are there
    preshift = min(total, max(0, round(math.log2(256 * 2**total / count))))
    minishard = min(total - preshift, 7)
    return Sharding(
        preshift_bits=preshift,
        hash="identity",
        minishard_bits=minishard,
        shard_bits=total - preshift - minishard,
        minishard_index_encoding="gzip",
        data_encoding="gzip",
    )


# -- what is stored of bodies


def stored_bodies(snapshot: Snapshot, labelmap: Instance, kind: str) -> list[int]:
    """The bodies that are there and of which something is stored, ascending."""
    from fascicle.datatypes.keyvalue import values
    from fascicle.datatypes.labelmap import bodies

    suffix, ending = STORED[kind]
    name = labelmap.name + suffix
    if not snapshot.catalog.has_instance(labelmap.repo_id, name):
        return []
    storage = snapshot.catalog.instance(labelmap.repo_id, name)
    if storage.typename != "keyvalue":
        return []
    end = ending.encode()
    found = {
        int(number)
        for keys in values.listed(snapshot.view(storage))
        for key in keys
        if key.endswith(end) and (number := key.removesuffix(end)).isdigit() and 0 < int(number) < 1 << 64
    }
    view = snapshot.view(labelmap)
    return sorted(body for body in found if bodies.read_body(view, body) is not None)


def spool_stored(place: DirectoryPlace, argument: list[Any]) -> int:
    """The meshes or skeletons of some bodies, as the live view shows them."""
    name, kind, labels, spool_name = argument
    directory = derived.part(kind)
    assert directory is not None
    spool = place.spool(spool_name)
    done = 0
    with place.instance(name) as (snapshot, instance):
        for label in labels:
            with suppress(NotFound):
                if kind == "mesh":
                    manifest = directory.serve(snapshot, instance, Form(), f"{label}.index").body
                    fragments = directory.serve(snapshot, instance, Form(), str(label)).body
                    spool.add(label, manifest, fragments)
                else:
                    spool.add(label, directory.serve(snapshot, instance, Form(), str(label)).body)
                done += 1
    spool.close()
    return done


def stored_tasks(name: str, kind: str, labels: Sequence[int]) -> Iterator[Task]:
    """What is to be spooled of bodies."""
    for start in range(0, len(labels), _STORED_PER_TASK):
        some = list(labels[start : start + _STORED_PER_TASK])
        spool = f"{name}-{kind}-{start}"
        yield Task(f"{name}/{kind}-{start}", [name, kind, some, spool], len(some))


# -- writing


@dataclass(frozen=True, slots=True)
class WrittenIndex:
    """Values under keys that are at their destination."""

    sharding: Sharding | None
    parts: dict[str, str]
    """Checksums of shards by their names."""
    values: int
    size: int


def write_index(
    spools: Iterable[Path],
    target: Destination,
    directory: str,
    scratch: Path,
    choose: Callable[[int], Sharding | None],
    name_of: Callable[[int], str] = str,
    *,
    manifests: bool = False,
    verify: bool = True,
    clearing: bool = False,
) -> WrittenIndex:
    """Write the values of spools as shards, or as files if `choose` finds none for their number.

    With `manifests`, what leads a value becomes the file and the value `<name>.index`, as meshes are. With `clearing`,
    other objects in the directory are removed. Raises VolumeError if something cannot be written, or is not there
    afterwards.
    """
    old = set(target.folder.names(f"{directory}/")) if clearing else set()
    with ScatteredShards(scratch) as values:
        for path in spools:
            values.add_spool(path)
        sharding = choose(len(values))
        if sharding is None:
            size = _write_files(values, target, directory, name_of, manifests, verify, old)
            _remove(target, old)
            return WrittenIndex(None, {}, len(values), size)
        files = ShardFiles(target, directory, sharding, scratch)
        parts: dict[str, str] = {}
        size = 0
        for shard in values.write(files):
            if verify and object_checksum(target.folder, shard.name, shard.size) != shard.checksum:
                raise VolumeError(f"{target.folder.path(shard.name)} is not what was written there")
            parts[shard.name] = shard.checksum
            size += shard.size
            old.discard(shard.name)
        _remove(target, old)
        return WrittenIndex(sharding, parts, len(values), size)


def _write_files(
    values: ScatteredShards,
    target: Destination,
    directory: str,
    name_of: Callable[[int], str],
    manifests: bool,
    verify: bool,
    old: set[str],
) -> int:
    """Takes what it writes out of `old`; the number of bytes."""
    waiting: list[Callable[[], None]] = []
    size = 0

    def put(name: str, data: bytes) -> Callable[[], None]:
        old.discard(name)

        def work() -> None:
            target.put(name, data)
            if verify and target.folder.get(name) != data:
                raise VolumeError(f"{target.folder.path(name)} is not what was written there")

        return work

    for key, packed, leading in values.values():
        name, data = f"{directory}/{name_of(key)}", gunzipped(packed)
        size += len(data) + len(leading)
        if manifests:
            waiting.append(put(name, leading))
        waiting.append(put(f"{name}.index" if manifests else name, data))
        if len(waiting) >= _PUT_TOGETHER:
            in_parallel(waiting, target.folder.remote)
            waiting = []
    in_parallel(waiting, target.folder.remote)
    return size


def _remove(target: Destination, names: Iterable[str]) -> None:
    for name in names:
        if not name.endswith(("/info", ".part")):
            target.delete(name)


def object_checksum(folder: ObjectFolder, name: str, size: int) -> str:
    """`checksum_of` the first bytes of an object; nothing if there are not as many."""
    from hashlib import blake2b

    digest = blake2b(digest_size=16)
    for start in range(0, size, _READ_BYTES):
        try:
            data = folder.get_range(name, start, min(start + _READ_BYTES, size))
        except TooShort:
            return ""
        if data is None:
            return ""
        digest.update(data)
    return digest.hexdigest()


def hashed(sharded: bool) -> Callable[[int], Sharding | None]:
    """How values under scattered keys are sharded."""
    return sharding_for_keys if sharded else lambda count: None
