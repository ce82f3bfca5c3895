"""Label blocks made of a segmentation that lives elsewhere, under the blocks that are stored here.

Scale k of an instance is the scale of the volume whose voxels are 2^k times as large on every axis. A scale that the
volume lacks between two that it has, and scale 1 of a volume that has only one, are made block by block from the next
finer one; all others hold nothing. A block is there if a chunk of it is stored.

A block has a name in the place of a stored block's handle, so whatever finds, loads and keeps stored blocks (`blocks`)
treats both alike. Blocks that are stored here, because voxels were written or supervoxels split, lie over those of the
volume.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fascicle.datatypes.elsewhere import Elsewhere, RemoteScale, RemoteVolume, block_name, elsewhere_of, named_block
from fascicle.datatypes.single_flight import NOTHING
from fascicle.datatypes.voxel_requests import Triple
from fascicle.formats import downres, label_block
from fascicle.formats.block_code import LIMIT, block_codes
from fascicle.store.base import INLINE, ReadTransaction, ValueBatch
from fascicle.versions.resolution import LIVE, Ancestry, VersionedView

U64 = NDArray[np.uint64]

REMOTE = 0xFE
"""First byte of a name."""
MOST_LOOKED_AT = 512
_KIND = struct.Struct("<cBBHHH")
_TOLERANCE = 1e-3


class RemoteLabels:
    """The blocks of a size that a volume's labels make. Safe between threads."""

    def __init__(self, volume: RemoteVolume, base: int, block_xyz: Triple) -> None:
        self.block_xyz = block_xyz
        self.scales = scales_of(volume, base)
        self._top = top_scale(self.scales)
        self.flight = volume.scale(base).flight
        sx, sy, sz = block_xyz
        self.background = label_block.split(label_block.opened(label_block.encode(np.zeros((sz, sy, sx), np.uint64))))
        """What is loaded for a block that there is not."""
        self._identity = volume.scale(base).identity

    def block_range(self, scale: int) -> tuple[Triple, Triple] | None:
        """First and last block of a scale; None for a scale that holds nothing."""
        found = self.scales.get(scale)
        if found is not None:
            return found.block_range(self.block_xyz)
        finer = self.scales.get(scale - 1)
        if finer is None or scale > self._top:
            return None
        (x0, y0, z0), (x1, y1, z1) = finer.block_range(self.block_xyz)
        return (x0 // 2, y0 // 2, z0 // 2), (x1 // 2, y1 // 2, z1 // 2)

    def present(self, scale: int, xyz: Sequence[Triple]) -> tuple[list[int], list[bytes]]:
        """(places in `xyz`, names) of those blocks that there are.

        Of many blocks at once all count that lie within the volume: that they are asked for together means that an
        index says they are there, and to look at each now would fetch the volume twice.
        """
        within = self.block_range(scale)
        if within is None:
            return [], []
        low, high = within
        places = [
            i for i, block in enumerate(xyz) if all(a <= b <= c for a, b, c in zip(low, block, high, strict=True))
        ]
        names = [self._name(scale, xyz[i]) for i in places]
        if len(names) > MOST_LOOKED_AT:
            return places, names
        there = [len(stored) > 0 for stored in self.stored(names)]
        return list(itertools.compress(places, there)), list(itertools.compress(names, there))

    def stored(self, names: Sequence[bytes]) -> list[bytes]:
        """The stored form of blocks; nothing for those that there are not."""
        return self.flight.many(names, self._made)

    def _name(self, scale: int, block_xyz: Triple) -> bytes:
        return block_name(self._identity, _KIND.pack(b"L", scale, 0, *self.block_xyz), block_xyz)

    def _made(self, name: bytes) -> tuple[bytes, int]:
        """The stored form of a block and its size."""
        scale, (x, y, z) = _KIND.unpack_from(name, 1)[1], named_block(name)
        size = self.block_xyz
        source = self.scales.get(scale)
        dense = (
            self._halved(scale, (x, y, z))
            if source is None
            else source.box((x * size[0], y * size[1], z * size[2]), size)
        )
        if dense is None:
            return NOTHING, 0
        opened = label_block.opened(label_block.encode(np.ascontiguousarray(dense, np.uint64)))
        stored = label_block.split(opened)
        return stored, len(stored)

    def _halved(self, scale: int, block_xyz: Triple) -> U64 | None:
        """A block of a scale that the volume lacks, from the eight of the next finer one."""
        sx, sy, sz = self.block_xyz
        dense = None
        for dz, dy, dx in itertools.product((0, 1), repeat=3):
            x, y, z = block_xyz
            child = self._name(scale - 1, (2 * x + dx, 2 * y + dy, 2 * z + dz))
            stored = self.flight.here(child, self._made)
            if not len(stored):
                continue
            if dense is None:
                dense = np.zeros((sz, sy, sx), np.uint64)
            corner = dense[dz * sz // 2 :, dy * sy // 2 :, dx * sx // 2 :][: sz // 2, : sy // 2, : sx // 2]
            downres.halve_into(label_block.opened_stored(stored, check=False), corner)
        return dense


def scales_of(volume: RemoteVolume, base: int) -> dict[int, RemoteScale]:
    """The volume's scales by the scale of an instance whose finest one is `base`."""
    finest = volume.scale(base)
    found = {0: finest}
    for scale in volume.scales[base + 1 :]:
        level = _level(finest, scale)
        if level is not None:
            found.setdefault(level, scale)
    return found


def _level(finest: RemoteScale, scale: RemoteScale) -> int | None:
    """k if voxels are 2^k times as large on every axis."""
    fine, coarse = finest.volume.resolution_nm, scale.volume.resolution_nm
    if fine is not None and coarse is not None:
        ratios = [b / a for a, b in zip(fine, coarse, strict=True)]
    else:
        ratios = [a / b for a, b in zip(finest.size_xyz, scale.size_xyz, strict=True)]
    level = round(float(np.log2(max(ratios))))
    if level < 1 or any(abs(ratio / 2**level - 1) > (_TOLERANCE if fine else 0.5) for ratio in ratios):
        return None
    return level


def top_scale(scales: Mapping[int, Any]) -> int:
    """The highest scale that can be shown without a gap, at least 1: viewers refuse label maps with one scale."""
    top = 0
    while top + 1 in scales or (top in scales and top + 2 in scales):
        top += 1
    return max(1, top)


class RemoteView(VersionedView):
    """The keys of an instance over the labels of a volume. The volume is opened when it is first needed."""

    __slots__ = ("_elsewhere", "_properties", "_remote")

    def __init__(
        self,
        txn: ReadTransaction,
        instance_id: int,
        ancestry: Ancestry,
        properties: Mapping[str, Any],
        settings: Mapping[str, Any],
    ) -> None:
        super().__init__(txn, instance_id, ancestry)
        self._properties = properties
        self._elsewhere = settings
        self._remote: RemoteLabels | None = None

    @property
    def remote(self) -> RemoteLabels:
        """The volume's blocks. Raises VolumeError if it cannot be read."""
        if self._remote is None:
            elsewhere = elsewhere_of(self._elsewhere)
            self._remote = remote_labels(elsewhere, self._properties)
        return self._remote

    @property
    def extents(self) -> tuple[Triple, Triple] | None:
        """The least and the greatest voxel of the volume."""
        low, high = self._properties["MinPoint"], self._properties["MaxPoint"]
        return None if low is None or high is None else (tuple(low), tuple(high))

    def inline(self, handles: Sequence[bytes | None]) -> tuple[bytes | None, ...]:
        """Handles of which those that name blocks of the volume contain them: these anybody can load."""
        names = [handle for handle in handles if handle is not None and handle[0] == REMOTE]
        if not names:
            return tuple(handles)
        contents = dict(zip(names, self.remote.stored(names), strict=True))
        return tuple(
            handle if handle is None or handle[0] != REMOTE else bytes((INLINE,)) + LIVE + contents[handle]
            for handle in handles
        )

    def load_labels(self, handles: Sequence[bytes], envelope_bytes: int) -> ValueBatch:
        """Blocks side by side, without envelopes; some of them from the volume."""
        local = self.txn.load_many([handle for handle in handles if handle[0] != REMOTE])
        names = [handle for handle in handles if handle[0] == REMOTE]
        made = [stored or self.remote.background for stored in self.remote.stored(names)]
        parts = [local.buffer, np.frombuffer(b"".join(made), np.uint8)]
        ends = np.cumsum([len(stored) for stored in made]) + len(local.buffer)
        offsets, lengths = np.empty(len(handles), np.int64), np.empty(len(handles), np.int64)
        at_local = at_made = 0
        for i, handle in enumerate(handles):
            if handle[0] == REMOTE:
                lengths[i] = len(made[at_made])
                offsets[i] = ends[at_made] - lengths[i]
                at_made += 1
            else:
                offsets[i] = local.offsets[at_local] + envelope_bytes
                lengths[i] = local.lengths[at_local] - envelope_bytes
                at_local += 1
        return ValueBatch(np.concatenate(parts), offsets, lengths)

    def scan_over(
        self, scale: int, low_xyz: Triple, high_xyz: Triple, local: Iterator[tuple[U64, list[bytes]]], batch: int
    ) -> Iterator[tuple[U64, list[bytes]]]:
        """(codes ascending, handles) of the blocks in a box: those stored here, and those of the volume under them."""
        waiting = _Stored(local)
        for candidates in _candidates(self.remote.block_range(scale), low_xyz, high_xyz, batch):
            codes = block_codes(candidates)
            here_codes, here = waiting.up_to(int(codes[-1]))
            free = ~np.isin(codes, here_codes)
            asked = [candidates[i] for i in np.flatnonzero(free).tolist()]
            places, names = self.remote.present(scale, asked)
            together = np.concatenate((here_codes, codes[free][places]))
            handles = [*here, *names]
            order = np.argsort(together, kind="stable")
            if len(order):
                yield together[order], [handles[i] for i in order.tolist()]
        rest_codes, rest = waiting.up_to(None)
        if len(rest):
            yield rest_codes, rest

    def find_under(
        self, scale: int, codes: U64, xyz: NDArray[np.int64], places: NDArray[np.int64], handles: list[bytes]
    ) -> tuple[NDArray[np.int64], list[bytes]]:
        """(places in `codes`, handles), given those of the blocks that are stored here."""
        free = np.ones(len(codes), np.bool_)
        free[places] = False
        asked = np.flatnonzero(free)
        blocks = [(x, y, z) for x, y, z in xyz[asked].tolist()]
        more, names = self.remote.present(scale, blocks)
        together = np.concatenate((places, asked[more])).astype(np.int64)
        found = [*handles, *names]
        order = np.argsort(together, kind="stable")
        return together[order], [found[i] for i in order.tolist()]


class _Stored:
    """Pieces of ascending codes with their handles, given out up to a code."""

    def __init__(self, pieces: Iterator[tuple[U64, list[bytes]]]) -> None:
        self._pieces = pieces
        self._codes: U64 = np.empty(0, np.uint64)
        self._handles: list[bytes] = []
        self._ended = False

    def up_to(self, last: int | None) -> tuple[U64, list[bytes]]:
        while not self._ended and (last is None or not len(self._codes) or int(self._codes[-1]) <= last):
            piece = next(self._pieces, None)
            if piece is None:
                self._ended = True
            else:
                self._codes = np.concatenate((self._codes, piece[0]))
                self._handles += piece[1]
        cut = len(self._codes) if last is None else int(np.searchsorted(self._codes, np.uint64(last), side="right"))
        codes, handles = self._codes[:cut], self._handles[:cut]
        self._codes, self._handles = self._codes[cut:], self._handles[cut:]
        return codes, handles


def _candidates(
    within: tuple[Triple, Triple] | None, low_xyz: Triple, high_xyz: Triple, batch: int
) -> Iterator[list[Triple]]:
    """The blocks of a box that lie within another one, in the order z, y, x, in lists of whole rows."""
    if within is None:
        return
    x0, y0, z0 = (max(a, b, -LIMIT) for a, b in zip(low_xyz, within[0], strict=True))
    x1, y1, z1 = (min(a, b, LIMIT) for a, b in zip(high_xyz, within[1], strict=True))
    if x0 > x1:
        return
    found: list[Triple] = []
    for z in range(z0, z1 + 1):
        for y in range(y0, y1 + 1):
            found += [(x, y, z) for x in range(x0, x1 + 1)]
            if len(found) >= batch:
                yield found
                found = []
    if found:
        yield found


def remote_labels(elsewhere: Elsewhere, properties: Mapping[str, Any]) -> RemoteLabels:
    """The blocks of an instance's volume, the same ones for all requests."""
    x, y, z = properties["BlockSize"]
    base = properties["ScaleLevel"]
    volume = elsewhere.volume(elsewhere.address(properties))
    key = (base, x, y, z)
    found: RemoteLabels | None = volume.made.get(key)
    if found is None:
        found = volume.made[key] = RemoteLabels(volume, base, (x, y, z))
    return found
