"""Things that were made from an instance on request (meshes, skeletons) and are kept, in memory and on disk.

What is kept lies under a key that says everything it was made from, so nothing here ever gets old: see `body_state`.
Whoever asks for a thing while it is being made waits for it. Processes share the folder; two of them may make the same
thing at once, which costs time only.

Example: `kept_of(snapshot.store).get(f"{instance.data_uuid} mesh {body} {state}", make)`
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b
from threading import Lock
from weakref import WeakKeyDictionary

import msgspec

from fascicle.datatypes.image.block_cache import BlockCache
from fascicle.datatypes.labelmap.blocks import voxel_writes
from fascicle.datatypes.labelmap.bodies import Body
from fascicle.datatypes.single_flight import SingleFlight
from fascicle.store.base import Store
from fascicle.versions.resolution import VersionedView
from fascicle.volumes.chunk_cache import ChunkCache
from fascicle.volumes.objects import Piece

FOLDER = "made"
"""Within the folder of a store. May be removed at any time."""
DISK_BYTES = 8 << 30
MEMORY_BYTES = 64 << 20
PATIENCE_S = 300.0
"""How long somebody waits for what another request makes."""


class Kept:
    """A cache of bytes by key. Safe between threads."""

    def __init__(self, disk: ChunkCache | None, memory_bytes: int = MEMORY_BYTES) -> None:
        self._disk = disk
        self._flight = SingleFlight("what another request makes", 1, BlockCache(memory_bytes), PATIENCE_S)

    def get(self, key: str, make: Callable[[], bytes]) -> bytes:
        """What lies under a key, else what `make` gives. Raises what `make` raises; then nothing is kept.

        VolumeError if another request makes it and does not get ready in time.
        """

        def found_or_made(_: str) -> tuple[tuple[bytes], int]:
            kept = self._disk.get(key) if self._disk else None
            if kept is not None and kept[0] is not None:
                return (kept[0].data,), len(kept[0].data)
            made = make()
            if self._disk:
                self._disk.put(key, Piece(made, ""))
            return (made,), len(made)

        thing: tuple[bytes] = self._flight.here(key, found_or_made)
        return thing[0]


_KEPT: WeakKeyDictionary[Store, Kept] = WeakKeyDictionary()
_LOCK = Lock()


def kept_of(store: Store) -> Kept:
    """The process's cache for one open store; on disk in the store's folder, if it has one."""
    with _LOCK:
        kept = _KEPT.get(store)
        if kept is None:
            disk = ChunkCache(store.path / FOLDER, DISK_BYTES) if store.path else None
            kept = _KEPT[store] = Kept(disk)
        return kept


def body_state(view: VersionedView, body: Body) -> str:
    """A text that is another one whenever the voxels of a body are others: its last mutation and more.

    Writing voxels is no mutation of bodies, so the pages of the body's index and the last write of voxels that the
    version sees are part of it.
    """
    record = msgspec.msgpack.encode((body.label, body.voxels, body.last_mutid, body.runs))
    return f"{body.last_mutid}-{blake2b(record + voxel_writes(view), digest_size=12).hexdigest()}"
