"""Neuroglancer precomputed volumes: in a folder, behind a web server or in a bucket; sharded or not; one channel.

Format: https://github.com/google/neuroglancer/tree/master/src/datasource/precomputed (volume.md, sharded.md). In
folders chunks are found under their name, under the name with `.gz` or another ending, and in the nested layout that
some writers use. A chunk that is not there is zeros; a chunk that cannot be read is an error.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import product
from typing import Any

import msgspec
import numpy as np

from fascicle.errors import BadRequest
from fascicle.formats import precomputed_info, volume_chunks
from fascicle.formats.precomputed_info import Triple, VolumeInfo
from fascicle.formats.sharding import morton_code
from fascicle.volumes.base import Array, Pyramid, VolumeError, VolumeSource, Zyx
from fascicle.volumes.chunk_cache import ChunkCache
from fascicle.volumes.objects import Access, ObjectFolder, gunzipped, open_folder
from fascicle.volumes.shards import ShardReader
from fascicle.volumes.threads import in_parallel

REDIRECTS = 10
CELLS_PER_TASK = 8
"""So many chunks of a shard are fetched by one thread, where they lie side by side in one request."""
_GZIP_MAGIC = b"\x1f\x8b"


class NoInfo(VolumeError):
    """There is no precomputed volume at an address."""


class PrecomputedVolume(VolumeSource):
    """One scale of a precomputed volume, and one of its channels."""

    concurrent = True

    def __init__(
        self, name: str, folder: ObjectFolder, info: VolumeInfo, index: int, generation: str = "", channel: int = 0
    ) -> None:
        self.name = name if info.num_channels == 1 else f"{name}, channel {channel}"
        self.info = info
        self.scale = scale = info.scales[index]
        self._folder = folder
        self._generation = generation
        self.channel = channel
        self.dtype = info.dtype
        # a chunk of several channels is no chunk of one of them
        self.encoding = scale.encoding if info.num_channels == 1 else ""
        self._chunk = scale.chunk_sizes[0]
        self.shape_zyx = (scale.size[2], scale.size[1], scale.size[0])
        self.chunk_zyx = (self._chunk[2], self._chunk[1], self._chunk[0])
        self.offset_xyz = scale.voxel_offset
        self.resolution_nm = scale.resolution
        self._grid = scale.grid()
        self.shards = (
            None if scale.sharding is None else ShardReader(folder, directory_of(scale.key), scale.sharding, generation)
        )
        self.most_bytes = 2 * math.prod(self._chunk) * info.num_channels * self.dtype.itemsize + (1 << 16)

    def read(self, start_zyx: Zyx, stop_zyx: Zyx) -> Array:
        self.check()
        start, stop = start_zyx[::-1], stop_zyx[::-1]
        out = np.zeros([b - a for a, b in zip(start_zyx, stop_zyx, strict=True)], self.dtype)
        if not out.size:
            return out
        ranges = [range(a // c, -(-b // c)) for a, b, c in zip(start, stop, self._chunk, strict=True)]
        cells = [(x, y, z) for z, y, x in product(*ranges[::-1])]
        place = partial(self._place, out, start, stop)
        in_parallel(list(self._tasks(cells, place)), self._folder.remote)
        return out

    def chunk_bytes(self, cell_zyx: Zyx) -> bytes | None:
        if not self.encoding:
            raise VolumeError(f"{self.name} has chunks of {self.info.num_channels} channels")
        self.check()
        self.chunk_box(cell_zyx)
        return self.stored(cell_zyx[::-1])

    def decode_chunk(self, data: bytes, cell_zyx: Zyx) -> Array:
        return self.decode_cell(data, cell_zyx[::-1])

    def visit(self, cells: Sequence[Triple], see: Callable[[Triple, bytes], None]) -> None:
        """Let `see` have the stored chunks of cells x, y, z, in any order and from several threads at once.

        Cells without a chunk are passed over.
        """
        self.check()
        in_parallel(list(self._tasks(list(cells), see)), self._folder.remote)

    def check(self) -> None:
        if self.scale.problem:
            raise VolumeError(f"scale {self.scale.key} of {self.name} cannot be read: {self.scale.problem}")

    def _tasks(self, cells: list[Triple], place: Callable[[Triple, bytes], None]) -> Iterator[Callable[[], None]]:
        """What brings cells to their place."""
        if self.shards is None:
            for cell in cells:
                yield partial(self._bring, [cell], place)
            return
        keys = sorted((self.shards.sharding.place(key), key, cell) for key, cell in self._keyed(cells))
        for i in range(0, len(keys), CELLS_PER_TASK):
            yield partial(self._bring_sharded, {key: cell for _, key, cell in keys[i : i + CELLS_PER_TASK]}, place)

    def _keyed(self, cells: Sequence[Triple]) -> Iterator[tuple[int, Triple]]:
        for cell in cells:
            yield morton_code(cell, self._grid), cell

    def _bring(self, cells: Sequence[Triple], place: Callable[[Triple, bytes], None]) -> None:
        for cell in cells:
            data = self.stored(cell)
            if data is not None:
                place(cell, data)

    def _bring_sharded(self, cells: dict[int, Triple], place: Callable[[Triple, bytes], None]) -> None:
        assert self.shards is not None
        for key, data in self.shards.get_many(list(cells), self.most_bytes):
            if data is not None:
                place(cells[key], data)

    def stored(self, cell: Triple) -> bytes | None:
        """The chunk, of all channels, of a cell x, y, z without the compression around it; None if it is not stored.

        It is not looked at, so chunks of any encoding can be copied.
        """
        if self.shards is not None:
            return self.shards.get(morton_code(cell, self._grid), self.most_bytes)
        start, stop = self.scale.chunk_span(cell)
        directory = directory_of(self.scale.key)
        data = self._folder.get_kept(f"{directory}/{self.scale.chunk_name(start, stop)}", self._generation)
        if data is None and not self._folder.remote:
            data = self._folder.get(f"{directory}/{self.scale.chunk_name(start, stop, '/')}")
        if data is None or data[:2] != _GZIP_MAGIC:
            return data
        # copied from a bucket as it was, together with the gzip that its headers spoke of
        if self.scale.encoding == "raw" and len(data) == math.prod(self._shape(cell)) * self.dtype.itemsize:
            return data
        try:
            return gunzipped(data)
        except Exception as error:
            raise VolumeError(f"{self._chunk_path(cell)} cannot be decoded: {error}") from None

    def decode_cell(self, data: bytes, cell: Triple) -> Array:
        """The voxels [z, y, x] of a cell."""
        shape, scale = self._shape(cell), self.scale
        with self.naming(cell):
            voxels = volume_chunks.decode(data, scale.encoding, shape, self.dtype, scale.block_xyz)
        chosen: Array = voxels[self.channel]
        return chosen

    def _place(self, out: Array, start: Triple, stop: Triple, cell: Triple, data: bytes) -> None:
        """Put what a cell shares with the box from `start` to `stop` into `out` [z, y, x]."""
        begin, end = self.scale.chunk_span(cell)
        low = [max(a, b) for a, b in zip(begin, start, strict=True)]
        high = [min(a, b) for a, b in zip(end, stop, strict=True)]
        target = out[tuple(slice(a - b, c - b) for a, b, c in zip(low[::-1], start[::-1], high[::-1], strict=True))]
        if target.shape == self._shape(cell)[1:]:
            scale, channels = self.scale, self.info.num_channels
            with self.naming(cell):
                volume_chunks.decode_into(data, scale.encoding, target, self.channel, channels, scale.block_xyz)
        else:
            inner = tuple(slice(a - b, c - b) for a, b, c in zip(low[::-1], begin[::-1], high[::-1], strict=True))
            target[...] = self.decode_cell(data, cell)[inner]

    @contextmanager
    def naming(self, cell: Triple) -> Iterator[None]:
        """Errors of decoding name the chunk."""
        try:
            yield
        except BadRequest as error:
            raise VolumeError(f"{self._chunk_path(cell)} cannot be decoded: {error.message}") from None

    def _shape(self, cell: Triple) -> tuple[int, ...]:
        """Channels and voxels z, y, x of a chunk."""
        start, stop = self.scale.chunk_span(cell)
        return (self.info.num_channels, *(b - a for a, b in zip(start[::-1], stop[::-1], strict=True)))

    def _chunk_path(self, cell: Triple) -> str:
        return f"chunk {self.scale.chunk_name(*self.scale.chunk_span(cell))} of {self._folder.path(self.scale.key)}"


def open_precomputed(
    address: str, cache: ChunkCache | None = None, access: Access | None = None, channel: int | None = None
) -> Pyramid:
    """All scales of a precomputed volume; `channel` is needed if there are several.

    Scales that cannot be decoded are there as well; reading them raises VolumeError.
    """
    folder, info, generation = read_info(address, cache, access)
    if channel is None and info.num_channels > 1:
        raise VolumeError(f"{address} has {info.num_channels} channels; name one of them")
    if channel is not None and not 0 <= channel < info.num_channels:
        raise VolumeError(f"{address} has {info.num_channels} channels, so there is no channel {channel}")
    scales = tuple(
        PrecomputedVolume(address, folder, info, i, generation, channel or 0) for i in range(len(info.scales))
    )
    return Pyramid(address, info.type, scales)


def read_info(
    address: str, cache: ChunkCache | None = None, access: Access | None = None
) -> tuple[ObjectFolder, VolumeInfo, str]:
    """The folder of a volume, what its info says, and a hash of the info. Follows redirects."""
    seen = [address]
    for _ in range(REDIRECTS):
        folder = open_folder(seen[-1], access, cache)
        data = folder.get("info")
        if data is None:
            raise NoInfo(f"{seen[-1]} has no precomputed volume: there is no file named info")
        if data[:2] == _GZIP_MAGIC:
            data = gunzipped(data)
        target = _redirect(data)
        if not target:
            try:
                info = precomputed_info.decode(data)
            except BadRequest as error:
                raise VolumeError(f"{seen[-1]} has no precomputed volume: {error.message}") from None
            return folder, info, hashlib.blake2b(data, digest_size=8).hexdigest()
        if target in seen:
            raise VolumeError(f"{address} redirects in a circle: {' -> '.join([*seen, target])}")
        seen.append(target)
    raise VolumeError(f"{address} redirects more than {REDIRECTS} times")


def plain_address(address: str) -> str:
    """An address without the words that viewers put around it: `precomputed://`, `|neuroglancer-precomputed:`."""
    return address.removeprefix("precomputed://").removesuffix("|neuroglancer-precomputed:")


def _redirect(info: bytes) -> str:
    """Where an info sends its readers; empty if it does not."""
    try:
        document: Any = msgspec.json.decode(info)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return ""
    target = document.get("redirect") if isinstance(document, dict) else None
    return plain_address(target) if isinstance(target, str) else ""


def directory_of(key: str) -> str:
    """The directory of a scale, without parts that say nothing."""
    return "/".join(part for part in key.split("/") if part not in ("", "."))
