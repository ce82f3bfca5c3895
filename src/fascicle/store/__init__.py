"""Ordered key-value stores behind one seam."""

from __future__ import annotations

from pathlib import Path

from fascicle.store.base import (
    MAX_KEY_BYTES,
    LateValue,
    Outcome,
    ReadTransaction,
    Store,
    StoreStatistics,
    ValueBatch,
    WriteTransaction,
    inline_value,
)

__all__ = [
    "MAX_KEY_BYTES",
    "LateValue",
    "Outcome",
    "ReadTransaction",
    "Store",
    "StoreStatistics",
    "ValueBatch",
    "WriteTransaction",
    "inline_value",
    "open_store",
]


def open_store(path: Path | None, *, readonly: bool = False) -> Store:
    """The store in a folder, which is made if it is not there; with None, an empty one in memory.

    Raises StoreError for a folder that holds something else, such as another program's database, and leaves it alone.
    """
    if path is None:
        from fascicle.store.memory import MemoryStore

        return MemoryStore()
    from fascicle.store.lmdb_engine import LmdbStore

    return LmdbStore(path, readonly=readonly)
