"""The voxels of an export: each task writes one shard, or the chunks of one group of cells, and says their checksum.

Workers read the store folder themselves. A task is idempotent: it writes the same bytes under the same names, however
often it is done. Memory holds one chunk at a time and the caches of a worker, which have a size of their own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from hashlib import blake2b
from itertools import product
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from fascicle.formats import volume_chunks
from fascicle.formats.gzip_stream import gzipped
from fascicle.formats.precomputed_info import Scale, VolumeInfo
from fascicle.formats.sharding import SHARD_VOXELS, morton_cells, sharding_for_volume
from fascicle.pipeline.export_directories import object_checksum
from fascicle.pipeline.export_version import Cell, Chunks, ServedChunks, VersionChunks
from fascicle.pipeline.sources import OpenNode, SourceSpec
from fascicle.pipeline.tasks import Task
from fascicle.precomputed.builders import Form
from fascicle.volumes.destinations import GZIP, open_destination
from fascicle.volumes.objects import ObjectFolder, open_folder
from fascicle.volumes.shard_writing import ShardFiles
from fascicle.volumes.threads import in_parallel

GROUP_EDGE = 4
"""Cells per axis of a group of chunks that are files of their own."""
_PUT_TOGETHER = 16
Kept = list[Any]
"""What the journal keeps of a task: checksum, number of chunks, their bytes, whether any was written."""


@dataclass(frozen=True, slots=True)
class VolumePlan:
    """One volume of an export."""

    name: str
    """Of the instance, and of the directory."""
    form: Form
    info: VolumeInfo
    """As it will be, without links; its scales in the order of the live view's."""

    def tasks(self, number: int, known: dict[str, str]) -> Iterator[Task]:
        """What is to be done for all scales, coarse ones last; `known` are checksums of an earlier export by task."""
        for level, scale in enumerate(self.info.scales):
            groups, weights = _groups(scale)
            for group, weight in zip(groups, weights, strict=True):
                name = self.task_name(level, group)
                yield Task(name, [number, level, group, known.get(name, "")], weight)

    def task_name(self, level: int, group: int) -> str:
        """The name of a shard, or of a group of chunks."""
        scale = self.info.scales[level]
        part = scale.sharding.file_name(group) if scale.sharding else f"group {group}"
        return f"{self.name}/{scale.key}/{part}"


def static_info(info: VolumeInfo, sharded: bool, shard_voxels: int = SHARD_VOXELS) -> VolumeInfo:
    """The info of a static volume from that of a live view: scales are named by their resolution, and sharded."""
    keys = ["_".join(f"{edge:g}" for edge in scale.resolution) for scale in info.scales]
    if len(set(keys)) < len(keys):
        keys = [scale.key for scale in info.scales]
    scales = []
    for key, scale in zip(keys, info.scales, strict=True):
        sharding = sharding_for_volume(scale.size, scale.chunk_sizes[0], scale.encoding, shard_voxels)
        scales.append(msgspec.structs.replace(scale, key=key, sharding=sharding if sharded else None))
    return msgspec.structs.replace(
        info, scales=tuple(scales), mesh=None, skeletons=None, segment_properties=None
    )


def _groups(scale: Scale) -> tuple[list[int], list[int]]:
    """The numbers of all shards or groups that have cells, and how many voxels each has about."""
    grid = scale.grid()
    voxels = math.prod(scale.chunk_sizes[0])
    if scale.sharding is None:
        sides = [-(-side // GROUP_EDGE) for side in grid]
        cells = np.stack(np.unravel_index(np.arange(math.prod(sides)), sides[::-1])[::-1], axis=1) * GROUP_EDGE
        box: Any = (GROUP_EDGE,) * 3
        numbers = np.arange(len(cells))
    else:
        within = scale.sharding.preshift_bits + scale.sharding.minishard_bits
        codes = np.arange(1 << scale.sharding.shard_bits, dtype=np.uint64) << np.uint64(within)
        cells = morton_cells(codes, grid)
        box = 1 + morton_cells(np.array([(1 << within) - 1], np.uint64), grid)[0]
        numbers = np.flatnonzero((cells < grid).all(axis=1))
        cells = cells[numbers]
    counts = np.minimum(np.asarray(grid) - cells, box).prod(axis=1)
    return numbers.tolist(), (counts * voxels).tolist()


def cells_of(scale: Scale, group: int) -> Iterator[tuple[int, Cell]]:
    """The cells x, y, z of a shard, with their keys and by these; of a group, with 0 and by z, y, x."""
    grid = scale.grid()
    if scale.sharding is None:
        sides = [-(-side // GROUP_EDGE) for side in grid]
        at = [int(part) for part in np.unravel_index(group, sides[::-1])[::-1]]
        x, y, z = (
            range(a * GROUP_EDGE, min((a + 1) * GROUP_EDGE, side)) for a, side in zip(at, grid, strict=True)
        )
        for cz, cy, cx in product(z, y, x):
            yield 0, (cx, cy, cz)
        return
    within = scale.sharding.preshift_bits + scale.sharding.minishard_bits
    keys = (np.uint64(group) << np.uint64(within)) + np.arange(1 << within, dtype=np.uint64)
    cells = morton_cells(keys, grid)
    inside = (cells < grid).all(axis=1)
    for key, (cx, cy, cz) in zip(keys[inside].tolist(), cells[inside].tolist(), strict=True):
        yield key, (cx, cy, cz)


# -- in the workers


@dataclass(frozen=True, slots=True)
class VolumeSetting:
    """What workers need to know."""

    spec: SourceSpec
    """The version, by its UUID."""
    destination: str
    scratch: Path
    plans: tuple[VolumePlan, ...]
    gzip: bool = False
    cache_bytes: int = 64 << 20
    earlier: str = ""
    """The address of an earlier export, of which only what differs is written."""
    clearing: bool = False
    """Whether chunks of something older may be there, which are removed where there are none now."""
    durable: bool = True


class Workplace:
    """What a worker has open."""

    def __init__(self, setting: VolumeSetting) -> None:
        self.setting = setting
        self.destination = open_destination(setting.destination, durable=setting.durable)
        self.earlier: ObjectFolder | None = open_folder(setting.earlier) if setting.earlier else None
        self._opened: OpenNode | None = None
        self._chunks: dict[int, VersionChunks | ServedChunks] = {}

    def chunks(self, plan: int) -> VersionChunks | ServedChunks:
        """The chunks of a volume."""
        if plan not in self._chunks:
            spec, planned = self.setting.spec, self.setting.plans[plan]
            source: VersionChunks | ServedChunks
            if spec.data:
                self._opened = self._opened or OpenNode(spec)
                source = VersionChunks(self._opened, planned.name, planned.form, self.setting.cache_bytes)
            else:
                source = ServedChunks(replace(spec, instance=planned.name), planned.form)
            self._chunks[plan] = source
        return self._chunks[plan]

    def close(self) -> None:
        if self._opened is not None:
            self._opened.close()


def write_group(place: Workplace, argument: list[Any]) -> Kept:
    """Write a shard or a group of chunks."""
    number, level, group, known = argument
    plan = place.setting.plans[number]
    scale = plan.info.scales[level]
    source = place.chunks(number)
    with source.reading():
        if scale.sharding is not None:
            return _write_shard(place, source, plan, level, group, known)
        return _write_chunks(place, source, plan, level, group, known)


def _write_shard(
    place: Workplace, source: Chunks, plan: VolumePlan, level: int, group: int, known: str
) -> Kept:
    scale = plan.info.scales[level]
    assert scale.sharding is not None
    gzipped = scale.sharding.data_encoding == "gzip"
    files = ShardFiles(place.destination, f"{plan.name}/{scale.key}", scale.sharding, place.setting.scratch)
    stored = 0

    def entries() -> Iterator[tuple[int, bytes, bool]]:
        nonlocal stored
        for key, cell in cells_of(scale, group):
            data = source.chunk(level, cell, gzipped)
            if data is not None:
                stored += len(data)
                yield key, data, True

    written = files.write(group, entries(), known)
    if written is None:
        if place.setting.clearing:
            place.destination.delete(files.name(group))
        return ["", 0, 0, bool(known)]
    return [written.checksum, written.values, written.size, written.is_new]


def _write_chunks(
    place: Workplace, source: Chunks, plan: VolumePlan, level: int, group: int, known: str
) -> Kept:
    if place.earlier is not None:
        kept = _checksum(
            (cell, source.chunk(level, cell, False)) for _, cell in cells_of(plan.info.scales[level], group)
        )
        if known and kept[0] == known:
            return [*kept, False]
    writer = _ChunkWriter(place, source, plan, level)
    kept = _checksum(writer.written(cell) for _, cell in cells_of(plan.info.scales[level], group))
    writer.flush()
    return [*kept, writer.changed > 0]


class _ChunkWriter:
    """Writes chunks as objects, a few at the same time."""

    def __init__(self, place: Workplace, source: Chunks, plan: VolumePlan, level: int) -> None:
        self._place = place
        self._source = source
        self._level = level
        self._scale = plan.info.scales[level]
        self._folder = f"{plan.name}/{self._scale.key}"
        self._waiting: list[tuple[str, bytes | None]] = []
        self.changed = 0

    def written(self, cell: Cell) -> tuple[Cell, bytes | None]:
        data = self._source.chunk(self._level, cell, False)
        name = f"{self._folder}/{self._scale.chunk_name(*self._scale.chunk_span(cell))}"
        setting, earlier = self._place.setting, self._place.earlier
        if earlier is not None:
            if earlier.get(name) == data:
                return cell, data
            self.changed += 1
            # copied over the earlier export, zeros hide what was there
            hiding = data is None and not setting.clearing
            self._waiting.append((name, self._source.zeros(self._level, cell) if hiding else data))
        elif data is not None or setting.clearing:
            self.changed += data is not None
            self._waiting.append((name, data))
        if len(self._waiting) >= _PUT_TOGETHER:
            self.flush()
        return cell, data

    def flush(self) -> None:
        waiting, self._waiting = self._waiting, []
        remote = self._place.destination.folder.remote
        in_parallel([_put(self._place, name, data) for name, data in waiting], remote)


def _put(place: Workplace, name: str, data: bytes | None) -> Callable[[], None]:
    def put() -> None:
        if data is None:
            place.destination.delete(name)
        elif place.setting.gzip:
            place.destination.put(name, gzipped(data, 1), encoding=GZIP)
        else:
            place.destination.put(name, data)

    return put


def _checksum(chunks: Iterator[tuple[Cell, bytes | None]]) -> list[Any]:
    """Checksum, number and bytes of the chunks of a group: of where they are and what they hold."""
    digest, count, size = blake2b(digest_size=16), 0, 0
    for cell, data in chunks:
        if data is not None:
            digest.update(np.array([*cell, len(data)], "<i8").tobytes())
            digest.update(data)
            count += 1
            size += len(data)
    return [digest.hexdigest() if count else "", count, size]


def check_group(place: Workplace, argument: list[Any]) -> bool:
    """Whether a shard or group has the checksum with which it was written, once it is read back.

    What did not differ from an earlier export elsewhere is read there.
    """
    number, level, group, checksum, size = argument
    plan = place.setting.plans[number]
    scale = plan.info.scales[level]
    folders = [place.destination.folder]
    if place.earlier is not None and not place.setting.clearing:
        folders.append(place.earlier)
    if scale.sharding is None:
        return bool(_checksum(_read_back(folders, plan, level, group))[0] == checksum)
    name = f"{plan.name}/{scale.key}/{scale.sharding.file_name(group)}"
    return any(object_checksum(folder, name, size) == checksum for folder in folders)


def _read_back(
    folders: list[ObjectFolder], plan: VolumePlan, level: int, group: int
) -> Iterator[tuple[Cell, bytes | None]]:
    """The chunks of a group, in the first folder that has them."""
    scale = plan.info.scales[level]
    found: dict[Cell, bytes | None] = {}

    def fetch(cell: Cell) -> Callable[[], None]:
        name = f"{plan.name}/{scale.key}/{scale.chunk_name(*scale.chunk_span(cell))}"

        def work() -> None:
            data = folders[0].get(name)
            if len(folders) > 1:
                data = folders[1].get(name) if data is None else _unless_zero(plan.info, scale, cell, data)
            found[cell] = data

        return work

    cells = [cell for _, cell in cells_of(scale, group)]
    for start in range(0, len(cells), _PUT_TOGETHER):
        some = cells[start : start + _PUT_TOGETHER]
        in_parallel([fetch(cell) for cell in some], folders[0].remote)
        yield from ((cell, found.pop(cell)) for cell in some)


def _unless_zero(info: VolumeInfo, scale: Scale, cell: Cell, data: bytes) -> bytes | None:
    start, stop = scale.chunk_span(cell)
    shape = (info.num_channels, *(b - a for a, b in zip(start[::-1], stop[::-1], strict=True)))
    return data if volume_chunks.decode(data, scale.encoding, shape, info.dtype, scale.block_xyz).any() else None
