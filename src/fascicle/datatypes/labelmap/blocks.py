"""Where label blocks lie in the store, and how they are found at a version.

    class 20: scale u8, z u32, y u32, x u32 (block coordinates, big-endian, biased by 2^31) | version -> stored block
    class 21: (nothing)                                                                     | version -> extents
    class 22: (nothing), not versioned                             -> count of voxel writes u64, for caches

Keys sort like (scale, z, y, x), so a row of blocks along x is one range. A stored block is the split form of
`formats.label_block`: its label table and voxel counts can be read without inflating anything.

Blocks are never deleted, only overwritten. Inside of this package a block is named by its code (`formats.block_code`),
which sorts the same way.
"""

from __future__ import annotations

import os
import struct
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fascicle import file_locks
from fascicle.datatypes.image.block_cache import BlockCache
from fascicle.datatypes.labelmap.remote_labels import RemoteView
from fascicle.errors import ConflictError
from fascicle.formats import label_block
from fascicle.formats.block_code import LIMIT, block_codes, block_xyz
from fascicle.formats.label_block import LabelBlock
from fascicle.store.base import Store, ValueBatch, WriteTransaction
from fascicle.versions import keys
from fascicle.versions.resolution import ENVELOPE_BYTES, VersionedView

U64 = NDArray[np.uint64]
I64 = NDArray[np.int64]
Triple = tuple[int, int, int]

BLOCKS = 20
EXTENTS = 21
VOXEL_WRITES = 22

BATCH_BLOCKS = 128
"""Blocks that are loaded and worked on together; bounds the memory of a streamed answer."""

_KEY = struct.Struct(">BIII")
_FULL_KEY = struct.Struct(">IBBIII")
_EXTENTS = struct.Struct("<6i")
_BIAS = 1 << 31
_CODE_BIAS = 1 << 20
_FIELD = (1 << 21) - 1
_BASE_BYTES = keys.PREFIX_BYTES + _KEY.size
_KEY_BYTES = _BASE_BYTES + keys.VERSION_BYTES
_SCATTERED = 4
"""Where rows have fewer blocks than this, on average, each is looked up for itself."""
_GAP = 8
"""Blocks of a row further apart than this are looked up separately instead of scanning what lies between."""


# -- keys


def block_key(scale: int, x: int, y: int, z: int) -> bytes:
    """The type key of a block."""
    return _KEY.pack(scale, z + _BIAS, y + _BIAS, x + _BIAS)


def key_of_code(scale: int, code: int) -> bytes:
    """The type key of a block given by its code."""
    shift = _BIAS - _CODE_BIAS
    return _KEY.pack(scale, (code >> 42) + shift, (code >> 21 & _FIELD) + shift, (code & _FIELD) + shift)


def _row_key(instance_id: int, scale: int, z: int, y: int, x: int) -> bytes:
    return _FULL_KEY.pack(instance_id, BLOCKS, scale, z + _BIAS, y + _BIAS, x + _BIAS)


def _codes_and_versions(found: Sequence[bytes]) -> tuple[U64, NDArray[np.uint32]]:
    """Codes and versions of full keys."""
    rows = np.frombuffer(b"".join(found), np.uint8).reshape(len(found), _KEY_BYTES)
    numbers = np.ascontiguousarray(rows[:, keys.PREFIX_BYTES + 1 :]).view(">u4").astype(np.uint64)
    numbers[:, :3] -= np.uint64(_BIAS - _CODE_BIAS)
    codes = (numbers[:, 0] << np.uint64(42)) | (numbers[:, 1] << np.uint64(21)) | numbers[:, 2]
    return codes, numbers[:, 3].astype(np.uint32)


def _seen(view: VersionedView, found: list[bytes], handles: list[bytes]) -> tuple[U64, list[bytes]]:
    """(codes, handles) of the entries that count at the view's version, from all entries in key order."""
    if not found:
        return np.empty(0, np.uint64), []
    codes, versions = _codes_and_versions(found)
    ancestry = view.ancestry
    first = int(versions[0])
    last_of_block = np.empty(len(codes), np.bool_)
    last_of_block[-1] = True
    np.not_equal(codes[1:], codes[:-1], out=last_of_block[:-1])
    if ancestry.linear:
        if last_of_block.all() and (versions == first).all():
            return (codes, handles) if ancestry.contains(first) else (codes[:0], [])
        present, inverse = np.unique(versions, return_inverse=True)
        inside = np.array([ancestry.contains(int(version)) for version in present.tolist()], np.bool_)[inverse]
        if not inside.all():
            places = np.flatnonzero(inside)
            codes = codes[places]
            last_of_block = np.append(codes[1:] != codes[:-1], True) if len(codes) else np.empty(0, np.bool_)
            chosen = places[last_of_block]
            return codes[last_of_block], [handles[i] for i in chosen.tolist()]
        chosen = np.flatnonzero(last_of_block)
        return codes[chosen], [handles[i] for i in chosen.tolist()]
    ends = (np.flatnonzero(last_of_block) + 1).tolist()
    kept, begin = [], 0
    for end in ends:
        entries = {int(versions[i]): i for i in range(begin, end)}
        version = ancestry.resolve([(number, False) for number in entries])
        if version is not None:
            kept.append(entries[version])
        begin = end
    return codes[kept], [handles[i] for i in kept]


# -- finding


def scan_box(
    view: VersionedView, scale: int, low_xyz: Triple, high_xyz: Triple, batch: int = BATCH_BLOCKS
) -> Iterator[tuple[U64, list[bytes]]]:
    """(codes u64[n] ascending, handles) of the blocks stored in a box of block coordinates, ends included.

    Pieces end with a row and have about `batch` blocks. Space without blocks costs nothing, however large the box.
    """
    local = _scan_stored(view, scale, low_xyz, high_xyz, batch)
    if isinstance(view, RemoteView) and 0 <= scale <= 255:
        return view.scan_over(scale, low_xyz, high_xyz, local, batch)
    return local


def _scan_stored(
    view: VersionedView, scale: int, low_xyz: Triple, high_xyz: Triple, batch: int
) -> Iterator[tuple[U64, list[bytes]]]:
    x0, y0, z0 = (max(v, -LIMIT) for v in low_xyz)
    x1, y1, z1 = (min(v, LIMIT) for v in high_xyz)
    if x0 > x1 or y0 > y1 or z0 > z1 or not 0 <= scale <= 255:
        return
    instance_id, scan = view.instance_id, view.txn.scan_handles
    stop = _row_key(instance_id, scale, z1, y1, x1 + 1)
    found: list[bytes] = []
    handles: list[bytes] = []
    z, y, exhausted = z0, y0, False
    while not exhausted:
        row_stop = _row_key(instance_id, scale, z, y, x1 + 1)
        exhausted = True
        for key, handle in scan(_row_key(instance_id, scale, z, y, x0), stop):
            if key < row_stop:
                found.append(key)
                handles.append(handle)
                continue
            if len(found) >= batch:
                yield _seen(view, found, handles)
                found, handles = [], []
            kz, ky, kx = (v - _BIAS for v in _KEY.unpack_from(key, keys.PREFIX_BYTES)[1:])
            if y0 <= ky <= y1 and x0 <= kx <= x1:
                row_stop = _row_key(instance_id, scale, kz, ky, x1 + 1)
                found.append(key)
                handles.append(handle)
                continue
            if ky < y0:
                z, y = kz, y0
            elif ky > y1:
                z, y = kz + 1, y0
            else:
                z, y = kz, ky + (kx > x1)
                if y > y1:
                    z, y = kz + 1, y0
            exhausted = z > z1
            break
    if found:
        yield _seen(view, found, handles)


def find_blocks(view: VersionedView, scale: int, codes: U64) -> tuple[I64, list[bytes]]:
    """(places i64[k] in `codes`, handles) of the blocks that are stored; `codes` ascending and unique."""
    if len(codes) == 0 or not 0 <= scale <= 255:
        return np.empty(0, np.int64), []
    places, handles = _find_stored(view, scale, codes)
    if isinstance(view, RemoteView) and len(places) < len(codes):
        return view.find_under(scale, codes, block_xyz(codes), places, handles)
    return places, handles


def find_block(view: VersionedView, scale: int, block: Triple) -> bytes | None:
    """The handle of one block, if it is stored."""
    if max(map(abs, block)) > LIMIT:
        return None
    handle = view.handle(BLOCKS, block_key(scale, *block))
    if handle is None and isinstance(view, RemoteView):
        _, names = view.remote.present(scale, [block])
        return names[0] if names else None
    return handle


def _find_stored(view: VersionedView, scale: int, codes: U64) -> tuple[I64, list[bytes]]:
    prefix, scan = keys.prefix(view.instance_id, BLOCKS), view.txn.scan_handles
    starts = np.flatnonzero(np.diff(codes) > np.uint64(_GAP)) + 1
    if len(codes) <= _SCATTERED * (len(starts) + 1):
        return _find_scattered(view, scale, codes)
    begins = codes[np.append(0, starts)].tolist()
    ends = codes[np.append(starts - 1, len(codes) - 1)].tolist()
    found: list[tuple[bytes, bytes]] = []
    for begin, end in zip(begins, ends, strict=True):
        first = prefix + key_of_code(scale, begin)
        last = first if end == begin else prefix + key_of_code(scale, end)
        found += scan(first, last + b"\xff\xff\xff\xff\xff")
    present, kept = _seen(view, [key for key, _ in found], [handle for _, handle in found])
    places = np.searchsorted(codes, present)
    wanted = codes[np.minimum(places, len(codes) - 1)] == present
    if wanted.all():
        return places, kept
    chosen = np.flatnonzero(wanted)
    return places[chosen], [kept[i] for i in chosen.tolist()]


def _find_scattered(view: VersionedView, scale: int, codes: U64) -> tuple[I64, list[bytes]]:
    """The same one by one: a range takes as long to begin as a few blocks to look up."""
    handles = view.handles(BLOCKS, [key_of_code(scale, code) for code in codes.tolist()])
    places = [place for place, handle in enumerate(handles) if handle is not None]
    return np.array(places, np.int64), [handle for handle in handles if handle is not None]


def load_blocks(view: VersionedView, handles: Sequence[bytes]) -> ValueBatch:
    """The stored blocks that handles name, side by side, without their envelopes."""
    if isinstance(view, RemoteView):
        return view.load_labels(handles, ENVELOPE_BYTES)
    batch = view.txn.load_many(handles)
    return ValueBatch(batch.buffer, batch.offsets + ENVELOPE_BYTES, batch.lengths - ENVELOPE_BYTES)


def open_blocks(view: VersionedView, handles: Sequence[bytes], cache: BlockCache | None = None) -> list[LabelBlock]:
    """The blocks that handles name, inflated; from the cache where they are there, and into it."""
    opened: list[LabelBlock | None] = [None] * len(handles) if cache is None else cache.get_all(handles)
    missing = [i for i, block in enumerate(opened) if block is None]
    if missing:
        stored = load_blocks(view, [handles[i] for i in missing])
        for number, i in enumerate(missing):
            block = label_block.opened_stored(stored.value(number), check=False)
            if cache is None:
                opened[i] = block
                continue
            # a copy of the table, so that the cache does not hold on to the whole batch
            block = block.with_table(block.table.copy())
            opened[i] = block
            cache.put(handles[i], block, block.size_bytes + 200)
    return opened  # type: ignore[return-value]


def coarser(codes: U64, scale: int) -> U64:
    """The blocks `scale` levels up that contain scale-0 blocks; unique, ascending."""
    if scale == 0 or len(codes) == 0:
        return np.unique(codes)
    return np.unique(block_codes(block_xyz(codes) >> scale))


# -- extents and the count of writes


def read_extents(view: VersionedView) -> tuple[Triple, Triple] | None:
    """The least and the greatest voxel x, y, z (inclusive) that a version has had written, or None.

    Where several versions were merged that each have their own, those are put together.
    """
    try:
        stored = view.get(EXTENTS, b"")
    except ConflictError:
        return _joined_extents(view)
    if stored is None:
        return None
    x0, y0, z0, x1, y1, z1 = _EXTENTS.unpack(stored)
    return (x0, y0, z0), (x1, y1, z1)


def _joined_extents(view: VersionedView) -> tuple[Triple, Triple]:
    first = keys.prefix(view.instance_id, EXTENTS)
    boxes = [
        _EXTENTS.unpack(value[ENVELOPE_BYTES:])
        for key, value in view.txn.scan(first, keys.after(first))
        if view.ancestry.contains(keys.version_of(key))
    ]
    x0, y0, z0 = (min(box[axis] for box in boxes) for axis in range(3))
    x1, y1, z1 = (max(box[axis] for box in boxes) for axis in range(3, 6))
    return (x0, y0, z0), (x1, y1, z1)


def write_extents(view: VersionedView, low_xyz: Triple, high_xyz: Triple) -> None:
    """Set the extents of the view's version."""
    view.put(EXTENTS, b"", _EXTENTS.pack(*low_xyz, *high_xyz))


def grow_extents(view: VersionedView, low_xyz: Sequence[int], high_xyz: Sequence[int]) -> None:
    """Make the extents of the view's version contain a box of voxels x, y, z, ends inclusive."""
    known = read_extents(view)
    if known is None and isinstance(view, RemoteView):
        known = view.extents
    if known is not None:
        low_xyz = [min(a, b) for a, b in zip(low_xyz, known[0], strict=True)]
        high_xyz = [max(a, b) for a, b in zip(high_xyz, known[1], strict=True)]
        if (*low_xyz, *high_xyz) == (*known[0], *known[1]):
            return
    x0, y0, z0 = low_xyz
    x1, y1, z1 = high_xyz
    write_extents(view, (x0, y0, z0), (x1, y1, z1))


def voxel_writes(view: VersionedView) -> bytes:
    """A mark that changes whenever any block of the instance is written, at any version."""
    return view.txn.get(keys.prefix(view.instance_id, VOXEL_WRITES)) or b""


def mark_voxel_write(txn: WriteTransaction, instance_id: int) -> None:
    """To be called in every transaction that writes blocks."""
    key = keys.prefix(instance_id, VOXEL_WRITES)
    count = int.from_bytes(txn.get(key) or b"", "little") + 1
    txn.put(key, count.to_bytes(8, "little"))


# -- one writer at a time


class VoxelLock:
    """Held from the planning of a voxel write to its commit; excludes other threads and other processes.

    It may be released by another thread than the one that acquired it. Plans are checked again in the transaction, so
    it saves work rather than keeping data right.
    """

    def __init__(self, thread_lock: threading.Lock, path: Path | None) -> None:
        self._lock = thread_lock
        self._path = path
        self._file: int | None = None
        self._held = False

    def acquire(self) -> None:
        """Wait until no other writer is in."""
        self._lock.acquire()
        self._held = True
        if self._path is not None:
            try:
                self._path.parent.mkdir(exist_ok=True)
                self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
                file_locks.lock(self._file)
            except OSError:
                self.release()
                raise

    def release(self) -> None:
        """Let the next writer in. May be called more than once."""
        if not self._held:
            return
        self._held = False
        if self._file is not None:
            os.close(self._file)
            self._file = None
        self._lock.release()

    def __del__(self) -> None:
        self.release()


_locks: dict[tuple[str, int], threading.Lock] = {}
_locks_guard = threading.Lock()


def voxel_lock(store: Store, instance_id: int) -> VoxelLock:
    """The lock of an instance's voxels, not yet acquired."""
    place = f"memory {id(store)}" if store.path is None else str(store.path)
    with _locks_guard:
        lock = _locks.setdefault((place, instance_id), threading.Lock())
    path = None if store.path is None else store.path / "locks" / f"voxels-{instance_id}"
    return VoxelLock(lock, path)
