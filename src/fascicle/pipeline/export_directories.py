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
from typing import TYPE_CHECKING, Any

from fascicle.errors import NotFound
from fascicle.formats.sharding import Sharding, morton_bits, sharding_for_keys
from fascicle.pipeline.ingest_connections import Connection, ServerConnection
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

if TYPE_CHECKING:
    from fascicle.pipeline.served_annotations import ServedLabels
    from fascicle.precomputed.annotation_overview import Source

LINES = "lines"
STORED = {"mesh": ("_meshes", ".ngmesh"), "skeletons": ("_skeletons", "_swc")}
"""The directories of what is stored of bodies: how the key-value is called after the label map, and how keys end."""
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
    labels: ServedLabels | None = None
    """If the store is a copy of annotations: where their bodies are asked for."""


class DirectoryPlace:
    """What a worker has open."""

    def __init__(self, setting: DirectorySetting) -> None:
        self.setting = setting
        self._opened = OpenNode(setting.spec)
        self._connection: Connection | None = None

    @contextmanager
    def instance(self, name: str) -> Iterator[tuple[Snapshot, Instance]]:
        """An instance and the version."""
        with self._opened.snapshot() as snapshot:
            yield snapshot, addresses.find_instance(snapshot.catalog, self._opened.repo, name)

    def source(self, snapshot: Snapshot, instance: Instance) -> Source:
        """An instance of annotations, with the segmentation that it is in."""
        from fascicle.precomputed.annotation_overview import Source

        found, labels = Source.of(snapshot, instance), self.setting.labels
        if labels is None:
            return found
        from fascicle.pipeline.served_annotations import served

        self._connection = self._connection or ServerConnection(labels.server, "")
        return served(found, labels, self._connection)

    def spool(self, name: str) -> SpoolWriter:
        """A file for values that a task makes."""
        self.setting.scratch.mkdir(parents=True, exist_ok=True)
        return SpoolWriter(self.setting.scratch / name)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._opened.close()


# -- annotations


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
    fill: Callable[[ScatteredShards], object],
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
    """Write the values that `fill` gives as shards, or as files if `choose` finds none for their number.

    With `manifests`, what leads a value becomes the file and the value `<name>.index`, as meshes are. With `clearing`,
    other objects in the directory are removed. Raises VolumeError if something cannot be written, or is not there
    afterwards.
    """
    old = set(target.folder.names(f"{directory}/")) if clearing else set()
    with ScatteredShards(scratch) as values:
        fill(values)
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
