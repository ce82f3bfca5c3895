"""Where the blocks of an image instance come from: the store, or a volume that lives elsewhere.

A *name* is a short byte string that means a block's content: the handle of a stored value, or a block of a volume. What
a name stands for never changes. All blocks are given in their stored form (`blocks`), whatever they are made of.
"""

from __future__ import annotations

import struct
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence

from fascicle.datatypes.elsewhere import RemoteScale, block_name, named_block
from fascicle.datatypes.image.blocks import (
    JPEG,
    RAW,
    BlockLayout,
    after_block_key,
    block_key,
    block_of_key,
    holds_gray_jpeg,
)
from fascicle.datatypes.single_flight import NOTHING
from fascicle.datatypes.voxel_requests import Triple
from fascicle.store.base import INLINE, inline_value
from fascicle.versions.resolution import ENVELOPE_BYTES, VersionedView

BLOCKS = 20
"""The key class of image blocks."""
BATCH_BYTES = 4 << 20
"""About so much is loaded at once."""
LEAST_FETCHED = 16
"""Blocks that are fetched side by side, however large they are."""
_KIND = struct.Struct("<BcIII")

Located = tuple[Triple, bytes]
"""A block coordinate and the name of the block's content."""
Stored = tuple[Triple, bytes, memoryview]
"""A block coordinate, the name and the stored form."""


class BlockSource(ABC):
    """The blocks of one instance as seen at one version. Used by one thread."""

    instance_id: int
    writable: bool
    """Whether voxels may be written."""

    @abstractmethod
    def located(self, first_xyz: Triple, last_xyz: Triple) -> Iterator[Located]:
        """The blocks that there are in a box of blocks (inclusive), in the order z, y, x."""

    @abstractmethod
    def listed(self, blocks: Iterable[Triple]) -> Iterator[Located]:
        """Those of the listed blocks that there are, in their order."""

    @abstractmethod
    def stored(self, blocks: Sequence[Located]) -> Iterator[Stored]:
        """The stored forms of blocks, in their order; got many at a time."""

    @abstractmethod
    def load(self, name: bytes) -> bytes | memoryview:
        """The stored form of one block."""

    @abstractmethod
    def is_kept(self, name: bytes) -> bool:
        """Whether what is made of a block should be kept under its name."""

    def first_byte(self, name: bytes) -> int | None:
        """The coding of a block of which parts can be loaded alone, else None."""
        return None

    def part(self, name: bytes, start: int, stop: int) -> bytes:
        """Bytes of the stored form of such a block."""
        return bytes(self.load(name)[start:stop])


class StoredBlocks(BlockSource):
    """Blocks in the store."""

    writable = True

    def __init__(self, view: VersionedView, layout: BlockLayout) -> None:
        self.view = view
        self.layout = layout
        self.instance_id = view.instance_id

    def located(self, first_xyz: Triple, last_xyz: Triple) -> Iterator[Located]:
        for z in range(first_xyz[2], last_xyz[2] + 1):
            for y in range(first_xyz[1], last_xyz[1] + 1):
                start, stop = block_key((first_xyz[0], y, z)), after_block_key((last_xyz[0], y, z))
                for key, _, handle in self.view.scan(BLOCKS, start, stop):
                    yield block_of_key(key), handle

    def listed(self, blocks: Iterable[Triple]) -> Iterator[Located]:
        for block in blocks:
            handle = self.view.handle(BLOCKS, block_key(block))
            if handle is not None:
                yield block, handle

    def stored(self, blocks: Sequence[Located]) -> Iterator[Stored]:
        per_batch = max(1, BATCH_BYTES // max(1, self.layout.block_bytes))
        for start in range(0, len(blocks), per_batch):
            part = blocks[start : start + per_batch]
            batch = self.view.txn.load_many([handle for _, handle in part])
            for i, (block, handle) in enumerate(part):
                yield block, handle, batch.value(i)[ENVELOPE_BYTES:]

    def load(self, name: bytes) -> bytes:
        return self.view.load(name)

    def is_kept(self, name: bytes) -> bool:
        return inline_value(name) is None

    def first_byte(self, name: bytes) -> int | None:
        return None if name[0] == INLINE else self.part(name, 0, 1)[0]

    def part(self, name: bytes, start: int, stop: int) -> bytes:
        return self.view.txn.load_part(name, ENVELOPE_BYTES + start, ENVELOPE_BYTES + stop)


class RemoteBlocks(BlockSource):
    """Blocks made of the chunks of a volume that lives elsewhere.

    Where blocks are chunks, these are taken as they are if the stored form knows their encoding. A block is there if a
    chunk of it is stored.
    """

    writable = False

    def __init__(self, scale: RemoteScale, layout: BlockLayout, instance_id: int) -> None:
        self.scale = scale
        self.layout = layout
        self.instance_id = instance_id
        self._fits = scale.fits(layout.size_xyz)
        self._kind = _KIND.pack(layout.background, layout.dtype.char.encode(), *layout.size_xyz)
        self._per_batch = max(LEAST_FETCHED, BATCH_BYTES // layout.block_bytes)

    def located(self, first_xyz: Triple, last_xyz: Triple) -> Iterator[Located]:
        low, high = self.scale.block_range(self.layout.size_xyz)
        x0, y0, z0 = (max(a, b) for a, b in zip(first_xyz, low, strict=True))
        x1, y1, z1 = (min(a, b) for a, b in zip(last_xyz, high, strict=True))
        return self.listed(
            (x, y, z) for z in range(z0, z1 + 1) for y in range(y0, y1 + 1) for x in range(x0, x1 + 1)
        )

    def listed(self, blocks: Iterable[Triple]) -> Iterator[Located]:
        names: list[Located] = []
        low, high = self.scale.block_range(self.layout.size_xyz)
        for block in blocks:
            if all(a <= b <= c for a, b, c in zip(low, block, high, strict=True)):
                names.append((block, self._name(block)))
            if len(names) == self._per_batch:
                yield from self._present(names)
                names = []
        yield from self._present(names)

    def _present(self, names: list[Located]) -> Iterator[Located]:
        found = self._fetched([name for _, name in names])
        return (located for located, stored in zip(names, found, strict=True) if len(stored))

    def stored(self, blocks: Sequence[Located]) -> Iterator[Stored]:
        for start in range(0, len(blocks), self._per_batch):
            part = blocks[start : start + self._per_batch]
            for (block, name), stored in zip(part, self._fetched([name for _, name in part]), strict=True):
                yield block, name, memoryview(stored)

    def load(self, name: bytes) -> bytes:
        return self._fetched([name])[0]

    def is_kept(self, name: bytes) -> bool:
        return True

    def _name(self, block: Triple) -> bytes:
        return block_name(self.scale.identity, self._kind, block)

    def _fetched(self, names: list[bytes]) -> list[bytes]:
        return self.scale.flight.many(names, self._made)

    def _made(self, name: bytes) -> tuple[bytes, int]:
        """The stored form of a block and its size; NOTHING if there is none."""
        size = self.layout.size_xyz
        x, y, z = named_block(name)
        low = (x * size[0], y * size[1], z * size[2])
        stored = self._of_chunk(low) if self._fits and self.scale.volume.encoding else self._of_box(low)
        return stored, len(stored)

    def _of_box(self, low_xyz: Triple) -> bytes:
        voxels = self.scale.box(low_xyz, self.layout.size_xyz, self.layout.background)
        if voxels is None:
            return NOTHING
        return bytes((RAW,)) + voxels.astype(self.layout.dtype, copy=False).tobytes()

    def _of_chunk(self, low_xyz: Triple) -> bytes:
        layout, scale = self.layout, self.scale
        data = scale.encoded(low_xyz)
        if data is None:
            return NOTHING
        encoding = scale.volume.encoding
        if scale.dtype == layout.dtype:
            if encoding == "jpeg" and holds_gray_jpeg(data, layout):
                return bytes((JPEG,)) + data
            if encoding == "raw" and len(data) == layout.block_bytes:
                return bytes((RAW,)) + data
        voxels = scale.decoded(data, low_xyz)
        depth, height, width = voxels.shape
        if voxels.shape != layout.shape:
            whole = layout.background_array(layout.shape[:3])
            whole[:depth, :height, :width] = voxels
            voxels = whole
        return bytes((RAW,)) + voxels.astype(layout.dtype, copy=False).tobytes()
