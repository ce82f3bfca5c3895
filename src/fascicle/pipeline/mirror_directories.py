"""Meshes, skeletons, annotations and segment properties as steps of a mirror.

Sharded directories are copied shard by shard. Others are listed where the source can be; web servers cannot, so there
the names of objects follow from the bodies that are asked for (meshes, skeletons), or from the annotations' own
indexes. Chosen bodies of a sharded directory become objects of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any
from zlib import crc32

import msgspec
import numpy as np

from fascicle.errors import BadRequest
from fascicle.formats.annotation_info import AnnotationsInfo, Index, Level
from fascicle.formats.annotation_info import decode as decode_annotations
from fascicle.formats.annotations import decode_single
from fascicle.formats.gzip_stream import gzipped
from fascicle.formats.sharding import Sharding, morton_code, read_sharding
from fascicle.pipeline.mirror_scales import check_shard
from fascicle.pipeline.mirror_transfer import Digest, Done, Step, Transfer
from fascicle.volumes.base import VolumeError
from fascicle.volumes.objects import ObjectFolder
from fascicle.volumes.shards import ShardReader

LEGACY, MULTIRES = "neuroglancer_legacy_mesh", "neuroglancer_multilod_draco"
SKELETONS, ANNOTATIONS = "neuroglancer_skeletons", "neuroglancer_annotations_v1"
PROPERTIES = "neuroglancer_segment_properties"
KINDS = (LEGACY, MULTIRES, SKELETONS, ANNOTATIONS, PROPERTIES)
MOST_VALUE_BYTES = 1 << 31
MOST_SHARDS = 1 << 16
"""So many names of shards are tried where the source cannot be listed."""
_STEP_OBJECTS = 256
_PACKED = (".gz",)

Objects = list[tuple[str, bytes | None]]


class NotListed(VolumeError):
    """What there is cannot be told, as the source lists nothing."""


@dataclass(frozen=True, slots=True)
class DirectoryPlan:
    """A directory that is mirrored."""

    source: str
    """Its path below the source's address; empty for the source itself."""
    target: str
    kind: str
    info: bytes
    """As it will be written."""
    steps: tuple[Step, ...]
    listed: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Of directories that the source was listed for: all names that they have at the destination."""


def plan_directory(
    transfer: Transfer, source: str, target: str, bodies: Sequence[int] | None, gzip: bool, default: str = ""
) -> DirectoryPlan | None:
    """What is taken of a directory; None if there is none. `default` is the kind of one that has no info.

    `bodies` are those to take (None: all). Raises VolumeError if it cannot be told what there is.
    """
    name = _join(source, "info")
    data = transfer.source.get(name)
    if data is None and not default:
        return None
    document: Any = {"@type": default}
    if data is not None:
        try:
            document = msgspec.json.decode(data)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise VolumeError(f"{transfer.source.path(name)} is not JSON: {error}") from None
    kind = document.get("@type") if isinstance(document, dict) else None
    if kind not in KINDS:
        raise VolumeError(f"{transfer.source.path(name)} is of the kind {kind!r}, which is none of {', '.join(KINDS)}")
    # fragments of this kind are read by ranges
    work = _Directory(transfer, source, target, gzip and kind != MULTIRES)
    if kind == PROPERTIES:
        steps: Sequence[Step] = ()
    elif kind == ANNOTATIONS:
        steps = work.annotation_steps(data or b"")
    else:
        steps = work.body_steps(kind, _sharding_of(document, transfer.source.path(name)), bodies)
        if bodies is not None:
            document.pop("sharding", None)
        # nothing else is mirrored along with it
        for member in ("segment_properties", *(("spatial_index",) if bodies is not None else ())):
            document.pop(member, None)
        data = msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"
    return DirectoryPlan(source, target, kind, data or b"", tuple(steps), work.listed)


def _sharding_of(document: Any, path: str) -> Sharding | None:
    value = document.get("sharding")
    try:
        return None if value is None else read_sharding(value)
    except BadRequest as error:
        raise VolumeError(f"{path}: {error.message}") from None


class _Directory:
    def __init__(self, transfer: Transfer, source: str, target: str, gzip: bool) -> None:
        self._transfer = transfer
        self._source = source
        self._target = target
        self._encoding = "gzip" if gzip else ""
        self.listed: dict[str, list[str]] = {}

    # -- shards

    def shard_steps(self, directory: str, sharding: Sharding) -> Iterator[Step]:
        """All shards of a directory below this one, byte by byte."""
        for shard in self._shards(directory, sharding):
            name = _join(self._source, directory, sharding.file_name(shard))
            target = _join(self._target, directory, sharding.file_name(shard))
            yield Step(
                target,
                1,
                partial(self._transfer.copy_file, name, target, partial(self._look, sharding, shard, name)),
                partial(self._transfer.check_file, target),
                partial(list[str], (name,)),
            )

    def _shards(self, directory: str, sharding: Sharding) -> list[int]:
        count = 1 << sharding.shard_bits
        if count <= 16:
            return list(range(count))
        prefix = _join(self._source, directory) + "/"
        if not self._transfer.source.lists:
            if count > MOST_SHARDS:
                path = self._transfer.source.path(prefix)
                raise NotListed(f"{path} may have {count} shards, and a web server lists nothing: name bodies")
            return list(range(count))
        names = {name.removeprefix(prefix) for name in self._transfer.source.names(prefix)}
        found = []
        for name in names:
            stem, dot, ending = name.partition(".")
            if dot and ending == "shard" and "/" not in name:
                found.append(int(stem, 16))
        return sorted(found)

    def _look(self, sharding: Sharding, shard: int, name: str, path: Path) -> None:
        path_name = self._transfer.source.path(name)
        check_shard(path, sharding, shard, MOST_VALUE_BYTES, lambda key, value: None, path_name)

    # -- names that a source can list

    def listed_steps(self, directory: str = "") -> Iterator[Step]:
        """All objects below a directory but its info. Raises VolumeError if they cannot be listed."""
        start = _join(self._source, directory) + "/" if _join(self._source, directory) else ""
        names = set()
        for name in self._transfer.source.names(start):
            plain = name
            for ending in _PACKED:
                plain = plain.removesuffix(ending)
            names.add(plain.removeprefix(start))
        names.discard("info")
        ordered = sorted(name for name in names if not name.rpartition("/")[2].startswith("."))
        self.listed[_join(self._target, directory)] = [_join(self._target, directory, name) for name in ordered]
        for group in _groups(ordered):
            found = {_join(self._target, directory, name): start + name for name in group}
            yield Step(
                f"{_join(self._target, directory)} {group[0]} to {group[-1]}",
                len(group),
                partial(self._copy_listed, found),
                partial(self._transfer.check_objects, list(found)),
                partial(list[str], found.values()),
            )

    def _sources_of(
        self, kind: str, sharding: Sharding | None, bodies: Sequence[int]
    ) -> Callable[[], Sequence[str]] | None:
        """What the meshes or skeletons of bodies are read from. Only manifests know the fragments of legacy meshes."""
        if kind == LEGACY:
            return None
        if sharding is not None:
            numbers = np.unique(sharding.places(np.array(bodies, np.uint64))[0]).tolist()
            return partial(list[str], [_join(self._source, sharding.file_name(shard)) for shard in numbers])
        endings = ("", ".index") if kind == MULTIRES else ("",)
        return partial(list[str], [_join(self._source, f"{body}{end}") for body in bodies for end in endings])

    def _copy_listed(self, found: dict[str, str]) -> Done:
        return self._transfer.copy_objects(
            list(found), lambda target: self._transfer.source.get(found[target]), self._encoding
        )

    # -- meshes and skeletons

    def body_steps(self, kind: str, sharding: Sharding | None, bodies: Sequence[int] | None) -> list[Step]:
        if bodies is None:
            if sharding is not None:
                return list(self.shard_steps("", sharding))
            if not self._transfer.source.lists:
                path = self._transfer.source.path(self._source)
                raise NotListed(f"{path} is on a web server, which lists nothing: name bodies (--bodies)")
            return list(self.listed_steps())
        read = partial(_READERS[kind], self._transfer.source, self._source)
        if sharding is not None:
            reader = ShardReader(self._transfer.source, self._source, sharding)
            read = partial(_READERS_OF_SHARDS[kind], self._transfer.source, reader)
        check = partial(_READERS[kind], self._transfer.destination.folder, self._target)
        steps = []
        for i in range(0, len(bodies), _STEP_OBJECTS):
            group = bodies[i : i + _STEP_OBJECTS]
            steps.append(
                Step(
                    f"{self._target} {group[0]} to {group[-1]}",
                    len(group),
                    partial(self._copy_bodies, group, read),
                    partial(self._check_bodies, group, check),
                    self._sources_of(kind, sharding, group),
                )
            )
        return steps

    def _copy_bodies(self, bodies: Sequence[int], read: Callable[[int], Objects]) -> Done:
        def move(body: int) -> Objects:
            objects = read(body)
            for name, data in objects:
                target = _join(self._target, name)
                if data is None:
                    self._transfer.destination.delete(target)
                else:
                    put = gzipped(data) if self._encoding else data
                    self._transfer.destination.put(target, put, encoding=self._encoding)
            return objects

        return self._digest(bodies, move)

    def _check_bodies(self, bodies: Sequence[int], read: Callable[[int], Objects]) -> Done:
        return self._digest(bodies, read)

    def _digest(self, bodies: Sequence[int], work: Callable[[int], Objects]) -> Done:
        digest = Digest()
        for objects in self._transfer.ahead(bodies, work):
            for _, data in objects:
                digest.add(data)
        return digest.done()

    # -- annotations

    def annotation_steps(self, info: bytes) -> list[Step]:
        try:
            described = decode_annotations(info)
        except BadRequest as error:
            raise VolumeError(f"{self._transfer.source.path(_join(self._source, 'info'))}: {error.message}") from None
        steps: list[Step] = []
        unsharded: list[str] = []
        indexes: list[Index | Level] = [described.by_id, *described.relationships, *described.spatial]
        for index in indexes:
            if index.sharding is None:
                unsharded.append(_plain(index.key))
            else:
                steps += self.shard_steps(_plain(index.key), index.sharding)
        if self._transfer.source.lists:
            return steps + [step for key in unsharded for step in self.listed_steps(key)]
        return steps + list(self._guessed_steps(described))

    def _guessed_steps(self, info: AnnotationsInfo) -> Iterator[Step]:
        """Unsharded indexes behind a web server: cells by their grid, ids by the cells, related bodies by the ids."""
        source = self._transfer.source
        ids: set[int] = set()
        for level in info.spatial:
            key = _plain(level.key)
            cells = list(product(*(range(n) for n in level.grid_shape)))
            if level.sharding is None:
                names = ["_".join(map(str, cell)) for cell in cells]
                yield from self._named_steps(key, names)
                for name in names:
                    data = source.get(_join(self._source, key, name))
                    if data is not None:
                        ids.update(_ids_of(data, source.path(_join(self._source, key, name))))
            else:
                reader = ShardReader(source, _join(self._source, key), level.sharding)
                for _, data in reader.get_many(
                    [morton_code(cell, level.grid_shape) for cell in cells], MOST_VALUE_BYTES
                ):
                    if data is not None:
                        ids.update(_ids_of(data, reader.sharding.file_name(0)))
        ordered = sorted(ids)
        related: list[set[int]] = [set() for _ in info.relationships]
        if info.by_id.sharding is None:
            key = _plain(info.by_id.key)
            yield from self._named_steps(key, [str(number) for number in ordered])
            for number in ordered:
                data = source.get(_join(self._source, key, str(number)))
                if data is not None:
                    columns = decode_single(info, number, data)
                    for found, lists in zip(related, columns.related, strict=True):
                        found.update(np.unique(lists.values).tolist())
        for index, found in zip(info.relationships, related, strict=True):
            if index.sharding is None:
                yield from self._named_steps(_plain(index.key), [str(number) for number in sorted(found)])

    def _named_steps(self, key: str, names: Sequence[str]) -> Iterator[Step]:
        for i in range(0, len(names), _STEP_OBJECTS):
            group = names[i : i + _STEP_OBJECTS]
            found = {_join(self._target, key, name): _join(self._source, key, name) for name in group}
            yield Step(
                f"{_join(self._target, key)} {group[0]} to {group[-1]}",
                len(group),
                partial(self._copy_listed, found),
                partial(self._transfer.check_objects, list(found)),
                partial(list[str], found.values()),
            )


def _groups(names: Sequence[str]) -> Iterator[list[str]]:
    """Names in groups whose borders depend on the names, so that another name does not move all others."""
    group: list[str] = []
    for name in names:
        if len(group) == 2 * _STEP_OBJECTS or (group and crc32(name.encode()) % _STEP_OBJECTS == 0):
            yield group
            group = []
        group.append(name)
    if group:
        yield group


def _ids_of(data: bytes, path: str) -> list[int]:
    """The ids in an encoded list of annotations, which stand at its end."""
    count = int.from_bytes(data[:8], "little")
    if len(data) < 8 + 8 * count:
        raise VolumeError(f"{path} is no list of annotations")
    ids: list[int] = np.frombuffer(data[len(data) - 8 * count :], "<u8").tolist()
    return ids


# -- the objects of one body: name below the directory, and bytes; those of the destination are found in the same way


def _legacy(folder: ObjectFolder, directory: str, body: int) -> Objects:
    manifest = folder.get(_join(directory, f"{body}:0"))
    objects: Objects = []
    if manifest is not None:
        try:
            names = msgspec.json.decode(manifest)["fragments"]
            names = [_plain(name) for name in names]
        except (msgspec.MsgspecError, KeyError, TypeError, AttributeError):
            raise VolumeError(f"{folder.path(_join(directory, f'{body}:0'))} is no manifest of a mesh") from None
        for name in names:
            data = folder.get(_join(directory, name))
            if data is None:
                raise VolumeError(f"{folder.path(_join(directory, name))} is not there, but its manifest names it")
            objects.append((name, data))
    objects.append((f"{body}:0", manifest))
    return objects


def _multires(folder: ObjectFolder, directory: str, body: int) -> Objects:
    name = _join(directory, str(body))
    manifest = folder.get(f"{name}.index")
    if manifest is None:
        return [(str(body), None), (f"{body}.index", None)]
    size = _fragment_bytes(manifest, folder.path(f"{name}.index"))
    fragments = folder.get_range(name, 0, size) if size else folder.get(name)
    if fragments is None:
        raise VolumeError(f"{folder.path(name)} is not there, but its manifest is")
    return [(str(body), fragments), (f"{body}.index", manifest)]


def _skeleton(folder: ObjectFolder, directory: str, body: int) -> Objects:
    return [(str(body), folder.get(_join(directory, str(body))))]


def _multires_of_shard(folder: ObjectFolder, reader: ShardReader, body: int) -> Objects:
    place = reader.find_place(body)
    manifest = reader.get(body, MOST_VALUE_BYTES)
    if place is None or manifest is None:
        return [(str(body), None), (f"{body}.index", None)]
    name, start, _, stamp = place
    size = _fragment_bytes(manifest, folder.path(name))
    found = folder.get_ranges(name, [(start - size, start)], stamp) if size else [b""]
    if found is None:
        raise VolumeError(f"{folder.path(name)} has vanished while it was read")
    return [(str(body), found[0]), (f"{body}.index", manifest)]


def _skeleton_of_shard(folder: ObjectFolder, reader: ShardReader, body: int) -> Objects:
    return [(str(body), reader.get(body, MOST_VALUE_BYTES))]


def _legacy_of_shard(folder: ObjectFolder, reader: ShardReader, body: int) -> Objects:
    raise VolumeError(f"{folder.address}: meshes of the kind {LEGACY} cannot be sharded")


def _fragment_bytes(manifest: bytes, path: str) -> int:
    """The bytes of all fragments that a manifest speaks of."""
    try:
        levels = int.from_bytes(manifest[24:28], "little")
        counts = np.frombuffer(manifest, "<u4", levels, 28 + 16 * levels).astype(np.int64)
        at, total = 28 + 20 * levels, 0
        for count in counts.tolist():
            total += int(np.frombuffer(manifest, "<u4", count, at + 12 * count).sum(dtype=np.int64))
            at += 16 * count
    except ValueError:
        raise VolumeError(f"{path} is no manifest of a mesh") from None
    if at != len(manifest):
        raise VolumeError(f"{path} has {len(manifest)} bytes, but speaks of fragments that would make it {at}")
    return total


_READERS: dict[str, Callable[[ObjectFolder, str, int], Objects]] = {
    LEGACY: _legacy,
    MULTIRES: _multires,
    SKELETONS: _skeleton,
}
_READERS_OF_SHARDS: dict[str, Callable[[ObjectFolder, ShardReader, int], Objects]] = {
    LEGACY: _legacy_of_shard,
    MULTIRES: _multires_of_shard,
    SKELETONS: _skeleton_of_shard,
}


def _plain(path: str) -> str:
    """A relative path without parts that say nothing. Raises VolumeError for one that climbs."""
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise VolumeError(f"the path {path!r} leads out of its directory")
    return "/".join(parts)


def _join(*parts: str) -> str:
    return "/".join(part for part in parts if part)
