"""Ordered key-value stores behind one seam."""

from fascicle.store.base import (
    MAX_KEY_BYTES,
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
    "Outcome",
    "ReadTransaction",
    "Store",
    "StoreStatistics",
    "ValueBatch",
    "WriteTransaction",
    "inline_value",
]
