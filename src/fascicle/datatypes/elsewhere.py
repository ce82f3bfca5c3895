"""Volumes that live elsewhere, as data instances use them: opened once per process, read by several threads, cached.

The properties of an instance say where its voxels are: `Source`, an address that `volumes.open_pyramid` takes, or
`GridStore`, the alias of a store in the server's settings; `ScaleLevel` is the index of the scale. A volume is taken to
be immutable while the server runs. Encoded chunks are kept on disk (`volumes.chunk_cache`), blocks made of them in
memory.

Errors of the volume's store are `VolumeError`, so a request for a volume that cannot be read is answered by a 400 with
the reason, while everything else on the server works.
"""

from __future__ import annotations

import hashlib
import itertools
import struct
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fascicle.config import GridStore
from fascicle.datatypes.single_flight import NOTHING, SingleFlight
from fascicle.datatypes.voxel_requests import Triple
from fascicle.errors import BadRequest
from fascicle.volumes import Pyramid, VolumeError, VolumeSource, open_pyramid
from fascicle.volumes.chunk_cache import ChunkCache
from fascicle.volumes.objects import Access

Voxels = NDArray[Any]

SETTING = "elsewhere"
"""Under this name handlers find the process's `Elsewhere` among the server's settings."""
MEMORY_BYTES = 128 << 20
"""Blocks and chunks that are kept in memory, by each process."""
FETCHING_THREADS = 16
"""Chunks of one volume that are fetched at a time."""
ACCESS = Access(timeout_s=12.0, attempts=3)
"""Somebody waits for the answer: what batch work would try for minutes is given up sooner."""
PATIENCE_S = 30.0
RETRY_S = 5.0
"""A volume that could not be opened is not tried again for so long."""
LARGEST_CHUNK_BYTES = 64 << 20
"""Larger chunks are not kept in memory as a whole."""

_BLOCK = struct.Struct("<iii")


def is_elsewhere(properties: Mapping[str, Any]) -> bool:
    """Whether an instance with these properties has its voxels elsewhere."""
    return bool(properties.get("Source") or properties.get("GridStore"))


class RemoteScale:
    """One scale of a volume as a grid of chunks. Coordinates are voxels and x, y, z, the volume's offset included.

    Safe between threads.
    """

    def __init__(self, volume: VolumeSource, flight: SingleFlight, identity: bytes) -> None:
        self.volume = volume
        self.flight = flight
        self.identity = identity
        """8 bytes that no other scale of any volume has."""
        depth, height, width = volume.shape_zyx
        self.size_xyz: Triple = (width, height, depth)
        self.offset_xyz: Triple = volume.offset_xyz
        cz, cy, cx = volume.chunk_zyx
        self.chunk_xyz: Triple = (cx, cy, cz)
        self.dtype = volume.dtype
        self._one_by_one = None if volume.concurrent else Lock()
        self._keeps_chunks = cx * cy * cz * volume.dtype.itemsize <= LARGEST_CHUNK_BYTES

    @property
    def end_xyz(self) -> Triple:
        """The last voxel, inclusive."""
        (x, y, z), (sx, sy, sz) = self.offset_xyz, self.size_xyz
        return (x + sx - 1, y + sy - 1, z + sz - 1)

    def fits(self, block_xyz: Triple) -> bool:
        """Whether blocks of this size are exactly the chunks."""
        aligned = all(offset % size == 0 for offset, size in zip(self.offset_xyz, block_xyz, strict=True))
        return block_xyz == self.chunk_xyz and aligned

    def touches(self, low_xyz: Triple, stop_xyz: Triple) -> bool:
        """Whether a box (stop exclusive) has voxels of the volume."""
        starts, ends = self.offset_xyz, self.end_xyz
        return all(a <= end and b > start for a, b, start, end in zip(low_xyz, stop_xyz, starts, ends, strict=True))

    def block_range(self, block_xyz: Triple) -> tuple[Triple, Triple]:
        """First and last block (inclusive) of this size that have voxels of the volume."""
        low = tuple(a // size for a, size in zip(self.offset_xyz, block_xyz, strict=True))
        high = tuple(a // size for a, size in zip(self.end_xyz, block_xyz, strict=True))
        return (low[0], low[1], low[2]), (high[0], high[1], high[2])

    def encoded(self, low_xyz: Triple) -> bytes | None:
        """The stored bytes of the chunk that begins at a voxel, or None if there is none."""
        cell = self._cell(low_xyz)
        data: bytes | None = self._alone(lambda: self.volume.chunk_bytes(cell))
        return data

    def decoded(self, data: bytes, low_xyz: Triple) -> Voxels:
        """The voxels [z, y, x] in the stored bytes of the chunk that begins at a voxel; clipped at the volume's end."""
        return self.volume.decode_chunk(data, self._cell(low_xyz))

    def box(self, low_xyz: Triple, size_xyz: Triple, background: int = 0) -> Voxels | None:
        """The voxels [z, y, x] of a box, or None if no chunk of it is stored. Outside is background."""
        low = tuple(a - offset for a, offset in zip(low_xyz, self.offset_xyz, strict=True))
        stop = tuple(a + size for a, size in zip(low, size_xyz, strict=True))
        begin = tuple(max(0, a) for a in low)
        end = tuple(min(a, size) for a, size in zip(stop, self.size_xyz, strict=True))
        if any(a >= b for a, b in zip(begin, end, strict=True)):
            return None
        out: Voxels = np.full(size_xyz[::-1], background, self.dtype)
        if not self._keeps_chunks:
            inner = tuple(slice(a - b, c - b) for a, b, c in zip(begin, low, end, strict=True))
            out[inner[::-1]] = self._alone(lambda: self.volume.read(begin[::-1], end[::-1]))  # type: ignore[arg-type]
            return out
        cells = [range(a // c, (b - 1) // c + 1) for a, b, c in zip(begin, end, self.chunk_xyz, strict=True)]
        found = False
        for z, y, x in itertools.product(*cells[::-1]):
            chunk = self.flight.here((self.identity, "chunk", (z, y, x)), lambda key: self._chunk(key[2]))
            if isinstance(chunk, bytes):
                continue
            found = True
            first = [a * c for a, c in zip((x, y, z), self.chunk_xyz, strict=True)]
            ends = [a + n for a, n in zip(first, chunk.shape[::-1], strict=True)]
            a = [max(p, q) for p, q in zip(first, begin, strict=True)]
            b = [min(p, q) for p, q in zip(ends, end, strict=True)]
            inner = tuple(slice(p - f, q - f) for p, q, f in zip(a, b, first, strict=True))
            outer = tuple(slice(p - f, q - f) for p, q, f in zip(a, b, low, strict=True))
            out[outer[::-1]] = chunk[inner[::-1]]
        return out if found else None

    def _chunk(self, cell_zyx: Triple) -> tuple[Any, int]:
        """The voxels of a cell, or NOTHING; and the size."""
        chunk = self._alone(lambda: self.volume.chunk(cell_zyx))
        return (NOTHING, 0) if chunk is None else (chunk, chunk.nbytes)

    def _cell(self, low_xyz: Triple) -> Triple:
        x, y, z = ((a - offset) // c for a, offset, c in zip(low_xyz, self.offset_xyz, self.chunk_xyz, strict=True))
        return (z, y, x)

    def _alone(self, read: Callable[[], Any]) -> Any:
        if self._one_by_one is None:
            return read()
        with self._one_by_one:
            return read()


class RemoteVolume:
    """All scales of a volume and the threads that read them."""

    def __init__(self, address: str, pyramid: Pyramid, flight: SingleFlight) -> None:
        self.address = address
        self.pyramid = pyramid
        self.made: dict[Any, Any] = {}
        """What datatypes make of the scales, for all requests."""
        digest = hashlib.blake2b(address.encode(), digest_size=6).digest()
        self.scales = tuple(
            RemoteScale(source, flight, digest + i.to_bytes(2, "big")) for i, source in enumerate(pyramid.scales)
        )

    def scale(self, level: int) -> RemoteScale:
        """A scale by its index. Raises VolumeError if there is none."""
        if not 0 <= level < len(self.scales):
            raise VolumeError(f"{self.address} has {len(self.scales)} scales, so there is no scale {level}")
        return self.scales[level]


@dataclass(slots=True)
class _Place:
    """What is known of an address."""

    flight: SingleFlight
    lock: Lock = field(default_factory=Lock)
    volume: RemoteVolume | None = None
    error: str = ""
    retry_at: float = 0.0


class Elsewhere:
    """The volumes that one server process reads from elsewhere. Safe between threads."""

    def __init__(
        self,
        stores: Mapping[str, GridStore] | None = None,
        cache_folder: Path | None = None,
        cache_bytes: int = 0,
        open_: Callable[..., Pyramid] = open_pyramid,
        memory_bytes: int = MEMORY_BYTES,
    ) -> None:
        self.stores = dict(stores or {})
        from fascicle.datatypes.image.block_cache import BlockCache  # its package imports this module

        self.memory = BlockCache(memory_bytes)
        self.cache_bytes = cache_bytes if cache_folder is not None else 0
        self._cache_folder = cache_folder
        self._cache: ChunkCache | None = None
        self._open = open_
        self._places: dict[str, _Place] = {}
        self._lock = Lock()

    def address(self, properties: Mapping[str, Any]) -> str:
        """Where the voxels of an instance are. Raises BadRequest if the settings do not say so any more."""
        source: str = properties.get("Source", "")
        return source or self.store(properties["GridStore"]).address

    def store(self, alias: str) -> GridStore:
        """A store of the settings by its alias, in any case. Raises BadRequest."""
        found = self.stores.get(alias.lower())
        if found is None:
            raise BadRequest(f'bad store ({alias}) designated for GridStore: could not find store with alias "{alias}"')
        return found

    def volume(self, address: str) -> RemoteVolume:
        """An opened volume. Raises VolumeError, at once if it could not be opened a moment ago."""
        place = self._place(address)
        if place.volume is not None:
            return place.volume
        if not place.lock.acquire(timeout=PATIENCE_S):
            raise VolumeError(f"{address} did not answer within {PATIENCE_S:g} s")
        try:
            if place.volume is None:
                if time.monotonic() < place.retry_at:
                    raise VolumeError(place.error)
                self._open_place(place, address)
            assert place.volume is not None
            return place.volume
        finally:
            place.lock.release()

    def scale(self, properties: Mapping[str, Any]) -> RemoteScale:
        """The scale that an instance shows."""
        return self.volume(self.address(properties)).scale(properties["ScaleLevel"])

    def forget(self, address: str) -> None:
        """Open a volume anew when it is next asked for."""
        with self._lock:
            place = self._places.pop(address, None)
        if place is not None:
            place.flight.close()

    def close(self) -> None:
        """Let go of threads and files."""
        with self._lock:
            places, self._places = list(self._places.values()), {}
        for place in places:
            place.flight.close()
            if place.volume is not None:
                place.volume.pyramid.close()

    def descriptions(self) -> list[str]:
        """The stores of the settings, as servers tell of their storage."""
        return [f"ngprecomputed @ {store.address}" for store in self.stores.values()]

    def figures(self) -> dict[str, tuple[str, str, float]]:
        """Name -> kind, meaning and value of what is counted in this process, for metrics."""
        with self._lock:
            flights = [place.flight for place in self._places.values()]
            opened = sum(place.volume is not None for place in self._places.values())
        return {
            "volumes_open": ("gauge", "Volumes elsewhere that are open.", opened),
            "volume_memory_bytes": ("gauge", "Their blocks and chunks in memory.", self.memory.used_bytes),
            "volume_cache_limit_bytes": ("gauge", "What their chunks may take on disk.", self.cache_bytes),
            "volume_blocks_total": ("counter", "Blocks and chunks made.", sum(flight.made for flight in flights)),
            "volume_errors_total": ("counter", "Those that failed.", sum(flight.failed for flight in flights)),
            "volume_seconds_total": ("counter", "Time that making took.", sum(flight.seconds for flight in flights)),
        }

    def _disk(self) -> ChunkCache | None:
        """The cache on disk, whose folder is made when the first volume is opened."""
        with self._lock:
            if self._cache is None and self.cache_bytes and self._cache_folder is not None:
                self._cache = ChunkCache(self._cache_folder, self.cache_bytes)
            return self._cache

    def _place(self, address: str) -> _Place:
        with self._lock:
            place = self._places.get(address)
            if place is None:
                place = self._places[address] = _Place(
                    SingleFlight(address, FETCHING_THREADS, self.memory, PATIENCE_S)
                )
            return place

    def _open_place(self, place: _Place, address: str) -> None:
        """Opening may hang as anything may that is read from a network: a thread does it, we wait for so long."""

        def opened(_: Any) -> tuple[Any, int]:
            pyramid = self._open(address, cache=self._disk(), access=ACCESS)
            return RemoteVolume(address, pyramid, place.flight), 1 << 62  # too large to be cached

        try:
            (place.volume,) = place.flight.many([("open", address)], opened)
        except VolumeError as error:
            place.error = error.message
            place.retry_at = time.monotonic() + RETRY_S
            raise
        except Exception as error:
            place.error = f"{address} cannot be opened: {error!r}"
            place.retry_at = time.monotonic() + RETRY_S
            raise VolumeError(place.error) from error


def elsewhere_of(settings: Mapping[str, Any]) -> Elsewhere:
    """The process's volumes. Raises BadRequest where there is no server around."""
    found: Elsewhere | None = settings.get(SETTING)
    if found is None:
        raise BadRequest("this data instance shows a volume that lives elsewhere, which only a server can read")
    return found


def block_name(identity: bytes, kind: bytes, block_xyz: Sequence[int]) -> bytes:
    """A name for a block of a scale that lives elsewhere, in the place of a stored value's handle."""
    return b"\xfe" + kind + identity + _BLOCK.pack(*block_xyz)


def named_block(name: bytes) -> Triple:
    """The block that a name means."""
    x, y, z = _BLOCK.unpack(name[-_BLOCK.size :])
    return x, y, z
