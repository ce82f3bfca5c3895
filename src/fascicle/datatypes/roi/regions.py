"""Regions: the blocks of an `roi` instance at a version, for everyone who asks what lies inside.

All spans of a version are one versioned record (a post replaces them all), with a short head beside it:

    class 1: (empty)      digest of the spans 16 bytes, how many u32, least and greatest z i32 (little-endian)
    class 2: (empty)      the spans (`spans.encoded`)

A region in memory is what the digest says it is, whatever store, version or process it came from: it never gets old.
Coordinates are x, y, z; arrays of voxels are [z, y, x].
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from collections.abc import Iterator
from hashlib import blake2b
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fascicle.datatypes.roi import spans as spans_
from fascicle.datatypes.roi.spans import INT32_MAX, INT32_MIN, NO_SPANS, Spans, pair_keys
from fascicle.datatypes.voxel_requests import Triple
from fascicle.errors import BadRequest, FascicleError
from fascicle.store.base import ReadTransaction
from fascicle.versions.catalog import Catalog
from fascicle.versions.model import Instance, Node
from fascicle.versions.resolution import VersionedView

HEAD = 1
SPANS = 2
TYPENAME = "roi"

_HEAD = struct.Struct("<16sIii")
EMPTY_HEAD = (b"", 0, INT32_MAX, INT32_MIN)
CACHE_BYTES = 256 << 20

I64 = NDArray[np.int64]
Bools = NDArray[np.bool_]


class Region:
    """A set of blocks. Immutable; safe between threads."""

    __slots__ = ("_ends", "_rows", "_starts", "block_size", "spans")

    def __init__(self, spans: Spans, block_size: Triple) -> None:
        self.block_size = block_size
        """Voxels per block: x, y, z."""
        self.spans = spans
        """i32[n, 4]: z, y, x0, x1 (inclusive) in blocks, ascending, as posted (they may overlap)."""
        # Spans put together to runs that do not touch. A run is named by its row (place in `_rows` of its z, y) in the
        # high half of a number and its x in the low half, so that one search finds both.
        rows = pair_keys(spans[:, 0], spans[:, 1])
        first = np.ones(len(rows), np.bool_)
        first[1:] = rows[1:] != rows[:-1]
        self._rows = rows[first]
        number = (np.cumsum(first) - 1).astype(np.uint64) << np.uint64(32)
        starts = number | _unsigned(spans[:, 2])
        ends = np.maximum.accumulate(number | _unsigned(spans[:, 3])) if len(spans) else number
        new = np.ones(len(rows), np.bool_)
        new[1:] = first[1:] | (starts[1:] > ends[:-1])
        self._starts = starts[new]
        last = np.ones(len(rows), np.bool_)
        last[:-1] = new[1:]
        self._ends = ends[last]

    def __len__(self) -> int:
        """How many spans there are."""
        return len(self.spans)

    @property
    def size_bytes(self) -> int:
        return self.spans.nbytes + self._rows.nbytes + self._starts.nbytes + self._ends.nbytes

    # -- points and blocks

    def contains(self, xyz: NDArray[Any]) -> Bools:
        """Which voxels [n, 3] (x, y, z) lie inside, bool[n]."""
        return self.contains_blocks(np.floor_divide(xyz, np.array(self.block_size, np.int64)))

    def contains_blocks(self, blocks_xyz: NDArray[Any]) -> Bools:
        """Which blocks [n, 3] (x, y, z, in blocks of this region) belong to it, bool[n]."""
        blocks = np.asarray(blocks_xyz, np.int64).reshape(-1, 3)
        return self._touches(blocks[:, 2], blocks[:, 1], blocks[:, 0], blocks[:, 0])

    def intersects_blocks(self, blocks_xyz: NDArray[Any], block_size_xyz: Triple) -> Bools:
        """Which blocks [n, 3] (x, y, z) of another block size have a voxel inside, bool[n]."""
        blocks = np.asarray(blocks_xyz, np.int64).reshape(-1, 3)
        if tuple(block_size_xyz) == self.block_size:
            return self.contains_blocks(blocks)
        theirs, ours = np.array(block_size_xyz, np.int64), np.array(self.block_size, np.int64)
        low = np.floor_divide(blocks * theirs, ours)
        high = np.floor_divide(blocks * theirs + (theirs - 1), ours)
        found = np.zeros(len(blocks), np.bool_)
        steps = (high - low).max(axis=0, initial=0)
        for z in range(int(steps[2]) + 1):
            for y in range(int(steps[1]) + 1):
                left = np.flatnonzero(~found & (low[:, 2] + z <= high[:, 2]) & (low[:, 1] + y <= high[:, 1]))
                at = low[left]
                found[left] = self._touches(at[:, 2] + z, at[:, 1] + y, at[:, 0], high[left, 0])
        return found

    def _touches(self, z: I64, y: I64, x0: I64, x1: I64) -> Bools:
        """Whether runs x0..x1 of blocks in rows z, y have a block inside, bool[n]."""
        if not len(self._rows):
            return np.zeros(len(z), np.bool_)
        known = (z >= INT32_MIN) & (z <= INT32_MAX) & (y >= INT32_MIN) & (y <= INT32_MAX)
        known &= (x1 >= INT32_MIN) & (x0 <= INT32_MAX)
        rows = pair_keys(np.where(known, z, 0), np.where(known, y, 0))
        at = np.minimum(np.searchsorted(self._rows, rows), len(self._rows) - 1)
        known &= self._rows[at] == rows
        row = at.astype(np.uint64) << np.uint64(32)
        last = row | _unsigned(np.minimum(x1, INT32_MAX))
        first = row | _unsigned(np.maximum(x0, INT32_MIN))
        run = np.searchsorted(self._starts, last, "right") - 1
        return known & (run >= 0) & (self._ends[np.maximum(run, 0)] >= first)

    # -- boxes

    def mask(self, offset_xyz: Triple, size_xyz: Triple) -> NDArray[np.uint8]:
        """1 inside and 0 outside for a box of voxels, u8[z, y, x]."""
        blocks, place = self.block_mask(offset_xyz, size_xyz), []
        for axis in (2, 1, 0):
            start, step = offset_xyz[axis], self.block_size[axis]
            place.append(np.arange(start, start + size_xyz[axis]) // step - start // step)
        rows = blocks.view(np.uint8)[:, :, place[2]]
        return np.ascontiguousarray(rows[:, place[1]][place[0]])

    def block_mask(self, offset_xyz: Triple, size_xyz: Triple, block_size_xyz: Triple | None = None) -> Bools:
        """Which of the blocks that a box of voxels touches lie inside, bool[z, y, x] from the first one on.

        With another block size, those blocks that have a voxel inside.
        """
        size = self.block_size if block_size_xyz is None else block_size_xyz
        ends = [offset + length - 1 for offset, length in zip(offset_xyz, size_xyz, strict=True)]
        low = [offset // step for offset, step in zip(offset_xyz, size, strict=True)]
        high = [end // step for end, step in zip(ends, size, strict=True)]
        if tuple(size) != self.block_size:
            axes = [np.arange(low[axis], high[axis] + 1) for axis in (2, 1, 0)]
            z, y, x = np.meshgrid(*axes, indexing="ij")
            blocks = np.stack((x.ravel(), y.ravel(), z.ravel()), axis=1)
            return self.intersects_blocks(blocks, size).reshape(z.shape)
        first, last = np.searchsorted(self.spans[:, 0], (low[2], high[2] + 1)).tolist()
        near = self.spans[first:last]
        near = near[(near[:, 1] >= low[1]) & (near[:, 1] <= high[1]) & (near[:, 3] >= low[0]) & (near[:, 2] <= high[0])]
        nx, ny, nz = (high[axis] - low[axis] + 1 for axis in range(3))
        steps = np.zeros((nz, ny, nx + 1), np.int32)
        at_z, at_y = near[:, 0] - low[2], near[:, 1] - low[1]
        np.add.at(steps, (at_z, at_y, np.maximum(near[:, 2].astype(np.int64) - low[0], 0)), 1)
        np.add.at(steps, (at_z, at_y, np.minimum(near[:, 3].astype(np.int64) - low[0] + 1, nx)), -1)
        return np.ascontiguousarray(np.cumsum(steps, axis=2)[:, :, :nx] > 0)

    def outside(
        self, offset_xyz: Triple, size_xyz: Triple, block_size_xyz: Triple | None = None
    ) -> Iterator[tuple[slice, slice, slice]]:
        """The parts (slices z, y, x) of an array [z, y, x] of a box that lie in blocks outside, runs of blocks each."""
        size = self.block_size if block_size_xyz is None else block_size_xyz
        mask = self.block_mask(offset_xyz, size_xyz, size)
        if mask.all():
            return
        cuts = []
        for axis in (2, 1, 0):
            start, length, step = offset_xyz[axis], size_xyz[axis], size[axis]
            edges = np.arange(start // step, (start + length - 1) // step + 2) * step - start
            cuts.append(np.clip(edges, 0, length).tolist())
        steps = np.diff(mask, axis=2, prepend=True, append=True)
        # Rows that begin and end inside have an even number of changes: each pair of them is a run outside.
        z, y, x = np.nonzero(steps)
        for k, j, first, last in zip(
            z[::2].tolist(), y[::2].tolist(), x[::2].tolist(), x[1::2].tolist(), strict=True
        ):
            yield (
                slice(cuts[0][k], cuts[0][k + 1]),
                slice(cuts[1][j], cuts[1][j + 1]),
                slice(cuts[2][first], cuts[2][last]),
            )


def _unsigned(x: NDArray[Any]) -> NDArray[np.uint64]:
    """int32 as u64 in the same order."""
    return (x.astype(np.int64) + np.int64(1 << 31)).astype(np.uint64)


# -- stored regions


class _Regions:
    """Decoded regions by digest and block size; the least recently used go first."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self._used_bytes = 0
        self._lock = Lock()
        self._kept: OrderedDict[tuple[bytes, Triple], Region] = OrderedDict()

    def get(self, key: tuple[bytes, Triple]) -> Region | None:
        with self._lock:
            found = self._kept.get(key)
            if found is not None:
                self._kept.move_to_end(key)
            return found

    def put(self, key: tuple[bytes, Triple], region: Region) -> None:
        with self._lock:
            if key in self._kept or region.size_bytes > self.limit_bytes:
                return
            self._kept[key] = region
            self._used_bytes += region.size_bytes
            while self._used_bytes > self.limit_bytes:
                self._used_bytes -= self._kept.popitem(last=False)[1].size_bytes


_regions = _Regions(CACHE_BYTES)


def block_size_of(instance: Instance) -> Triple:
    """Voxels per block x, y, z of an `roi` instance."""
    x, y, z = instance.properties["BlockSize"]
    return (x, y, z)


def head(view: VersionedView) -> tuple[bytes, int, int, int]:
    """Digest of the spans at a version, how many they are, their least and greatest z (`EMPTY_HEAD` if none)."""
    stored = view.get(HEAD, b"")
    return EMPTY_HEAD if stored is None else _HEAD.unpack(stored)


def region_at(view: VersionedView, block_size: Triple) -> Region:
    """The region of an `roi` instance as seen at a version."""
    digest, count, _, _ = head(view)
    if not count:
        return Region(NO_SPANS, block_size)
    key = (digest, block_size)
    region = _regions.get(key)
    if region is None:
        region = Region(spans_at(view), block_size)
        _regions.put(key, region)
    return region


def spans_at(view: VersionedView) -> Spans:
    """The spans i32[n, 4] of an `roi` instance as seen at a version."""
    _, count, _, _ = head(view)
    stored = view.get(SPANS, b"") if count else None
    return NO_SPANS if stored is None else spans_.decoded(stored, count)


def prepared(spans: Spans) -> tuple[bytes, bytes] | None:
    """What `replace` stores for spans i32[n, 4] (ascending, each once): head and spans; None for no spans."""
    if not len(spans):
        return None
    digest = blake2b(spans.astype("<i4").tobytes(), digest_size=16).digest()
    return _HEAD.pack(digest, len(spans), spans[0, 0], spans[-1, 0]), spans_.encoded(spans)


def replace(view: VersionedView, stored: tuple[bytes, bytes] | None) -> None:
    """Make what `prepared` gave the region of a version."""
    if stored is None:
        view.delete(HEAD, b"")
        view.delete(SPANS, b"")
    else:
        view.put(HEAD, b"", stored[0])
        view.put(SPANS, b"", stored[1])


def region_named(catalog: Catalog, txn: ReadTransaction, node: Node, text: str) -> Region:
    """The region that another datatype's request or setting names: `<name>` at the node, or `<name>,<uuid>`.

    Raises BadRequest for names that are no `roi` instance and for unknown versions.
    """
    name, comma, reference = text.partition(",")
    try:
        if "," in reference:
            raise BadRequest("a region is given as <name> or <name>,<uuid>")
        if comma:
            node = catalog.resolve(reference)
        instance = catalog.instance(node.repo_id, name)
    except FascicleError as error:
        raise BadRequest(f'Can\'t get ROI with name "{text}": {error.message}') from None
    if instance.typename != TYPENAME:
        raise BadRequest(f'Can\'t get ROI with name "{text}": "{name}" is of type {instance.typename}, not roi')
    version = node.id if instance.versioned else catalog.repo(node.repo_id).root_version
    return region_at(VersionedView(txn, instance.id, catalog.ancestry(version)), block_size_of(instance))
