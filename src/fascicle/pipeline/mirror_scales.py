"""Scales of a precomputed volume, or a box of them, as steps of a mirror.

A box is widened to whole chunks of each scale, so chunks are copied as they are. Scales that are taken whole keep their
layout: shards are copied byte by byte. Of a part of a sharded scale the cells have other numbers, so it gets shards of
its own, from values that are fetched by ranges; a shard of which a step needs at least half comes whole.

Triples are x, y, z; cells are those of the source's grid.
"""

from __future__ import annotations

import math
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from fascicle.errors import BadRequest
from fascicle.formats import sharding as shards
from fascicle.formats import volume_chunks
from fascicle.formats.precomputed_info import Scale, Triple, VolumeInfo
from fascicle.formats.sharding import Sharding
from fascicle.pipeline.mirror_transfer import Digest, Done, Step, Transfer, scratch_copy
from fascicle.volumes.base import VolumeError
from fascicle.volumes.objects import FileFolder
from fascicle.volumes.precomputed import PrecomputedVolume, directory_of
from fascicle.volumes.shard_writing import ShardFiles

Layout = Literal["keep", "sharded", "unsharded"]
WANTED_WHOLE = 0.5
"""A shard comes whole if a step needs such a part of its chunks."""
_BATCH_BYTES = 4 << 20
_MOST_CELLS = 64
_STEP_BATCHES = 8
_TRIES = 3
_WORDY = ("raw", volume_chunks.SEGMENTATION)
"""Encodings that gzip makes smaller."""


@dataclass(frozen=True, slots=True)
class ScalePlan:
    """What is taken of a scale."""

    index: int
    start: Triple
    stop: Triple
    """Cells, `stop` exclusive."""
    scale: Scale
    """As it will be at the destination."""
    is_copied: bool
    """Whether whole shards are copied byte by byte."""

    @property
    def grid(self) -> Triple:
        """How many cells are taken per axis."""
        x, y, z = (b - a for a, b in zip(self.start, self.stop, strict=True))
        return x, y, z

    @property
    def cells(self) -> int:
        return math.prod(self.grid)


def plan_scale(
    info: VolumeInfo, index: int, box_nm: tuple[Sequence[float], Sequence[float]] | None, layout: Layout
) -> ScalePlan | None:
    """What is taken of a scale so that it covers a box, given by two corners in nm; None if they do not meet."""
    scale = info.scales[index]
    if "sharding" in scale.others:
        raise VolumeError(f"scale {scale.key} cannot be mirrored: {scale.problem}")
    chunk, grid = scale.chunk_sizes[0], scale.grid()
    first, last = [0, 0, 0], list(grid)
    for axis in range(3) if box_nm is not None else ():
        low, high = (corner[axis] / scale.resolution[axis] - scale.voxel_offset[axis] for corner in box_nm or ())
        # 8.0000001 / 8 begins no further voxel
        first[axis] = max(0, math.floor(low + 1e-6) // chunk[axis])
        last[axis] = min(grid[axis], -(-math.ceil(high - 1e-6) // chunk[axis]))
    if any(a >= b for a, b in zip(first, last, strict=True)):
        return None
    start, stop = (first[0], first[1], first[2]), (last[0], last[1], last[2])
    is_whole = start == (0, 0, 0) and stop == grid
    low_xyz = scale.chunk_span(start)[0]
    high_xyz = scale.chunk_span((stop[0] - 1, stop[1] - 1, stop[2] - 1))[1]
    size = tuple(b - a for a, b in zip(low_xyz, high_xyz, strict=True))
    offset = tuple(a + o for a, o in zip(low_xyz, scale.voxel_offset, strict=True))
    made = msgspec.structs.replace(
        scale, size=size, voxel_offset=offset, chunk_sizes=(chunk,), sharding=_sharding(scale, size, is_whole, layout)
    )
    if made.encoding != volume_chunks.SEGMENTATION:
        made = msgspec.structs.replace(made, compressed_segmentation_block_size=None)
    elif made.compressed_segmentation_block_size is None:
        made = msgspec.structs.replace(made, compressed_segmentation_block_size=made.block_xyz)
    return ScalePlan(index, start, stop, made, is_whole and scale.sharding is not None and layout != "unsharded")


def _sharding(scale: Scale, size: Sequence[int], is_whole: bool, layout: Layout) -> Sharding | None:
    if layout == "unsharded" or (layout == "keep" and scale.sharding is None):
        return None
    if is_whole and scale.sharding is not None:
        return scale.sharding
    return shards.sharding_for_volume(size, scale.chunk_sizes[0], scale.encoding)


def scale_steps(
    transfer: Transfer, address: str, info: VolumeInfo, generation: str, plan: ScalePlan, gzip: bool
) -> Iterator[Step]:
    """The steps that bring a scale. `gzip` compresses unsharded chunks that are not compressed already."""
    work = _ScaleCopy(transfer, address, info, generation, plan, gzip)
    if plan.is_copied:
        return work.shard_copies()
    return work.chunk_steps() if plan.scale.sharding is None else work.shard_steps(plan.scale.sharding)


class _ScaleCopy:
    def __init__(
        self, transfer: Transfer, address: str, info: VolumeInfo, generation: str, plan: ScalePlan, gzip: bool
    ) -> None:
        self._transfer = transfer
        self._info = info
        self._plan = plan
        self._scale = info.scales[plan.index]
        self._generation = generation
        self._source = PrecomputedVolume(address, transfer.source, info, plan.index, generation)
        self._encoding = "gzip" if gzip and plan.scale.encoding in _WORDY else ""
        self._directory = directory_of(plan.scale.key)
        self._room = threading.local()
        chunk_bytes = math.prod(self._scale.chunk_sizes[0]) * info.num_channels * info.dtype.itemsize
        packed_bytes = max(1, chunk_bytes // (4 if self._scale.encoding != "raw" else 1))
        self._batch = max(1, min(_MOST_CELLS, _BATCH_BYTES // packed_bytes))

    # -- whole shards

    def shard_copies(self) -> Iterator[Step]:
        sharding = self._scale.sharding
        assert sharding is not None
        for shard, weight in self._source_shards(sharding):
            name = f"{self._directory}/{sharding.file_name(shard)}"
            yield Step(
                name,
                weight,
                partial(self._transfer.copy_file, name, name, partial(self._look, sharding, shard)),
                partial(self._transfer.check_file, name),
                partial(list[str], (name,)),
            )

    def _source_shards(self, sharding: Sharding) -> Iterator[tuple[int, int]]:
        """The numbers of all shards that may exist, and how many chunks each may have."""
        grid = self._scale.grid()
        box = shards.shard_cells(sharding, grid)
        if box is None:
            for shard in range(1 << sharding.shard_bits):
                yield shard, max(1, math.prod(grid) >> sharding.shard_bits)
            return
        found = []
        for corner in product(*(range(0, n, b) for n, b in zip(grid, box, strict=True))):
            cells = math.prod(min(n, a + b) - a for a, n, b in zip(corner, grid, box, strict=True))
            found.append((sharding.place(shards.morton_code(corner, grid))[0], cells))
        yield from sorted(found)

    def _look(self, sharding: Sharding, shard: int, path: Path) -> None:
        """VolumeError unless a file is a shard of chunks of this scale."""
        grid = self._scale.grid()

        def check(key: int, value: bytes) -> None:
            x, y, z = shards.morton_cell(key, grid)
            self._check((x, y, z), value)

        check_shard(path, sharding, shard, self._source.most_bytes, check, self._transfer.source.path(path.name))

    # -- chunks

    def chunk_steps(self) -> Iterator[Step]:
        """Unsharded chunks, in boxes of a source's shard or in rows."""
        if self._scale.sharding is None:
            for first in range(0, self._plan.cells, self._batch * _STEP_BATCHES):
                count = min(self._plan.cells - first, self._batch * _STEP_BATCHES)
                yield Step(
                    f"{self._directory} chunks {first}",
                    count,
                    partial(self._copy_chunks, first, count),
                    partial(self._check_chunks, first, count),
                    partial(self._read_from, first, count),
                )
            return
        cells = self._cells_of(0, self._plan.cells)
        keys = shards.morton_codes(cells, self._scale.grid())
        places = self._scale.sharding.places(keys)[0]
        order = np.lexsort((keys, places))
        borders = np.flatnonzero(places[order][1:] != places[order][:-1]) + 1
        for rows in np.split(order, borders):
            group = cells[rows]
            yield Step(
                f"{self._directory} chunks of {self._scale.sharding.file_name(int(places[rows[0]]))}",
                len(rows),
                partial(self._copy_group, group),
                partial(self._check_names, group),
                partial(self._objects_of, group),
            )

    def _cells_of(self, first: int, count: int) -> NDArray[np.int64]:
        """Cells [n, (x, y, z)] by their number, x fastest."""
        x, y, _ = self._plan.grid
        numbers = np.arange(first, first + count, dtype=np.int64)
        cells = np.stack((numbers % x, numbers // x % y, numbers // (x * y)), 1)
        return cells + np.array(self._plan.start, np.int64)

    def _name(self, cell: Triple) -> str:
        return f"{self._directory}/{self._scale.chunk_name(*self._scale.chunk_span(cell))}"

    def _copy_chunks(self, first: int, count: int) -> Done:
        names = {self._name(cell): cell for cell in _triples(self._cells_of(first, count))}
        fetch = partial(self._fetch_one, self._source)
        return self._transfer.copy_objects(list(names), lambda name: fetch(names[name]), self._encoding)

    def _check_chunks(self, first: int, count: int) -> Done:
        return self._check_names(self._cells_of(first, count))

    def _check_names(self, cells: NDArray[np.int64]) -> Done:
        return self._transfer.check_objects([self._name(cell) for cell in _triples(cells)])

    def _read_from(self, first: int, count: int) -> list[str]:
        return self._objects_of(self._cells_of(first, count))

    def _objects_of(self, cells: NDArray[np.int64]) -> list[str]:
        """The objects of the source that have some cells."""
        sharding = self._scale.sharding
        if sharding is None:
            return [self._name(cell) for cell in _triples(cells)]
        numbers = np.unique(sharding.places(shards.morton_codes(cells, self._scale.grid()))[0])
        return [f"{self._directory}/{sharding.file_name(shard)}" for shard in numbers.tolist()]

    def _copy_group(self, cells: NDArray[np.int64]) -> Done:
        """Chunks of one shard of the source, unsharded."""
        transfer, digest = self._transfer, Digest()
        with self._nearest(cells) as source:
            for batch in transfer.ahead(self._batches(cells), partial(self._fetch_many, source)):
                found = {self._name(cell): value for cell, value, _ in batch}
                part = transfer.copy_objects(list(found), found.get, self._encoding)
                assert part.objects <= len(found)
                for value in found.values():
                    digest.add(value)
        return digest.done()

    # -- shards of our own

    def shard_steps(self, sharding: Sharding) -> Iterator[Step]:
        files = ShardFiles(self._transfer.destination, self._directory, sharding, self._transfer.scratch)
        grid = self._plan.grid
        within = sharding.preshift_bits + sharding.minishard_bits
        for shard in range(1 << sharding.shard_bits):
            codes = np.arange(shard << within, (shard + 1) << within, dtype=np.uint64)
            cells = morton_cells(codes, grid)
            inside = (cells < np.array(grid)).all(axis=1)
            if inside.any():
                yield Step(
                    files.name(shard),
                    int(inside.sum()),
                    partial(self._write_shard, files, shard, cells[inside], codes[inside]),
                    partial(self._transfer.check_written, files.name(shard)),
                    partial(self._objects_of, cells[inside] + np.array(self._plan.start, np.int64)),
                )

    def _write_shard(self, files: ShardFiles, shard: int, cells: NDArray[np.int64], codes: NDArray[np.uint64]) -> Done:
        cells = cells + np.array(self._plan.start, np.int64)
        keys = dict(zip(map(tuple, cells.tolist()), codes.tolist(), strict=True))
        theirs = self._scale.sharding
        keep = theirs is not None and theirs.data_encoding == files.sharding.data_encoding

        with self._nearest(cells) as source:

            def entries() -> Iterator[tuple[int, bytes, bool]]:
                for batch in self._transfer.ahead(self._batches(cells), partial(self._fetch_many, source)):
                    for cell, value, stored in batch:
                        if value is not None:
                            yield keys[cell], stored if keep and stored is not None else value, keep

            written = files.write(shard, entries())
        if written is None:
            self._transfer.destination.delete(files.name(shard))
            return Done(0, 0, "")
        return Done(1, written.size, written.checksum)

    # -- fetching

    def _batches(self, cells: NDArray[np.int64]) -> Iterator[list[Triple]]:
        for i in range(0, len(cells), self._batch):
            yield list(_triples(cells[i : i + self._batch]))

    def _fetch_many(
        self, source: PrecomputedVolume, cells: Sequence[Triple]
    ) -> list[tuple[Triple, bytes | None, bytes | None]]:
        """Cells, their chunks, and these as they are stored in a shard."""
        if source.shards is None:
            return [(cell, self._fetch_one(source, cell), None) for cell in cells]
        sharding = source.shards.sharding
        for attempt in range(_TRIES):
            keys = {shards.morton_code(cell, self._scale.grid()): cell for cell in cells}
            stored = dict(source.shards.get_packed(list(keys)))
            try:
                return [(cell, self._opened(sharding, cell, stored[key]), stored[key]) for key, cell in keys.items()]
            except VolumeError:
                if attempt == _TRIES - 1:
                    raise
        raise AssertionError

    def _opened(self, sharding: Sharding, cell: Triple, stored: bytes | None) -> bytes | None:
        if stored is None:
            return None
        try:
            value = sharding.unpacked(stored, self._source.most_bytes)
        except BadRequest as error:
            raise VolumeError(f"chunk {self._name(cell)}: {error.message}") from None
        self._check(cell, value)
        return value

    def _fetch_one(self, source: PrecomputedVolume, cell: Triple) -> bytes | None:
        for attempt in range(_TRIES):
            data = source.stored(cell)
            if data is None:
                return None
            try:
                self._check(cell, data)
                return data
            except VolumeError:
                if attempt == _TRIES - 1:
                    raise
        raise AssertionError

    def _check(self, cell: Triple, data: bytes) -> None:
        """VolumeError if bytes are not a chunk of a cell, as far as that can be told without its pixels."""
        start, stop = self._scale.chunk_span(cell)
        z, y, x = (b - a for a, b in zip(start[::-1], stop[::-1], strict=True))
        shape = (self._info.num_channels, z, y, x)
        try:
            if self._scale.encoding == volume_chunks.SEGMENTATION and not self._scale.problem:
                # every offset is followed, into room that is kept
                room = getattr(self._room, "voxels", None)
                if room is None or room.size < math.prod(shape[1:]):
                    room = self._room.voxels = np.empty(math.prod(self._scale.chunk_sizes[0]), self._info.dtype)
                out = room[: math.prod(shape[1:])].reshape(shape[1:])
                for channel in range(shape[0]):
                    volume_chunks.decode_into(data, self._scale.encoding, out, channel, shape[0], self._scale.block_xyz)
            else:
                volume_chunks.check_ends(data, self._scale.encoding, shape, self._info.dtype)
        except BadRequest as error:
            raise VolumeError(f"chunk {self._transfer.source.path(self._name(cell))}: {error.message}") from None

    def _nearest(self, cells: NDArray[np.int64]) -> _Near:
        """Where the chunks of a step are best read from."""
        return _Near(self._transfer, self._source, self._whole_shards(cells), self._reader)

    def _reader(self, folder: FileFolder) -> PrecomputedVolume:
        return PrecomputedVolume(folder.address, folder, self._info, self._plan.index, self._generation)

    def _whole_shards(self, cells: NDArray[np.int64]) -> list[str]:
        """Shards of the source that come whole, if they are all that a step reads."""
        sharding = self._scale.sharding
        grid = self._scale.grid()
        box = None if sharding is None else shards.shard_cells(sharding, grid)
        if sharding is None or box is None:
            return []
        numbers, counts = np.unique(sharding.places(shards.morton_codes(cells, grid))[0], return_counts=True)
        within = sharding.preshift_bits + sharding.minishard_bits
        names = []
        for shard, count in zip(numbers.tolist(), counts.tolist(), strict=True):
            corner = shards.morton_cell(shard << within, grid)
            there = math.prod(min(n - a, b) for a, n, b in zip(corner, grid, box, strict=True))
            if count < WANTED_WHOLE * there:
                return []
            names.append(f"{self._directory}/{sharding.file_name(shard)}")
        return names


class _Near:
    """A source whose shards lie in scratch files for as long as a step needs them."""

    def __init__(
        self,
        transfer: Transfer,
        far: PrecomputedVolume,
        names: list[str],
        reader: Callable[[FileFolder], PrecomputedVolume],
    ) -> None:
        self._transfer = transfer
        self._far = far
        self._names = names
        self._reader = reader
        self._folder: Path | None = None

    def __enter__(self) -> PrecomputedVolume:
        if not self._names:
            return self._far
        self._folder = self._transfer.scratch_folder()
        folder = FileFolder(str(self._folder))
        for name in self._names:
            found = self._transfer.to_scratch(name)
            if found is not None:
                folder = scratch_copy(found[0], self._folder, name)
        return self._reader(folder)

    def __exit__(self, *_: object) -> None:
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


def check_shard(
    path: Path, sharding: Sharding, shard: int, most_bytes: int, check: Callable[[int, bytes], None], name: str
) -> None:
    """VolumeError unless a file is a shard whose indexes lead to values within it; `check(key, value)` sees each."""
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            entries = file.read(sharding.index_bytes)
            if len(entries) < sharding.index_bytes:
                raise VolumeError(f"{name} has {size} bytes, less than the index of a shard")
            for minishard in range(1 << sharding.minishard_bits):
                span = sharding.minishard_span(entries[16 * minishard : 16 * minishard + 16])
                if span is None:
                    continue
                if span[1] > size:
                    raise VolumeError(f"{name} ends before byte {span[1]}, where the index of a minishard does")
                file.seek(span[0])
                index = sharding.minishard_index(file.read(span[1] - span[0]))
                places = sharding.places(index.keys)
                if len(index.keys) and not ((places[0] == shard).all() and (places[1] == minishard).all()):
                    raise VolumeError(f"{name} has values of other shards")
                for key, at, length in zip(
                    index.keys.tolist(), index.starts.tolist(), index.sizes.tolist(), strict=True
                ):
                    if at + length > size:
                        raise VolumeError(f"{name} ends before byte {at + length}, where value {key} does")
                    file.seek(at)
                    check(key, sharding.unpacked(file.read(length), most_bytes))
    except VolumeError:
        raise
    except BadRequest as error:
        raise VolumeError(f"{name}: {error.message}") from None


def morton_cells(codes: NDArray[np.uint64], grid: Sequence[int]) -> NDArray[np.int64]:
    """The cells [n, axes] of compressed Morton codes. They may lie outside of a grid whose sides are no powers of 2."""
    cells = np.zeros((len(grid), len(codes)), np.int64)
    seen = [0] * len(grid)
    for j, axis in enumerate(shards.morton_axes(grid)):
        cells[axis] |= ((codes >> np.uint64(j) & np.uint64(1)).astype(np.int64)) << seen[axis]
        seen[axis] += 1
    return np.ascontiguousarray(cells.T)


def _triples(cells: NDArray[np.int64]) -> Iterator[Triple]:
    yield from map(tuple, cells.tolist())


def described(info: VolumeInfo, plans: Sequence[ScalePlan], links: dict[str, str]) -> VolumeInfo:
    """The info of what was taken; `links` are the directories that are there, by member."""
    found = {name: links.get(name) for name in ("mesh", "skeletons", "segment_properties")}
    return msgspec.structs.replace(info, scales=tuple(plan.scale for plan in plans), redirect=None, **found)
