"""Removes the data of deleted instances in the background, in small transactions.

What was interrupted goes on at start.
"""

from __future__ import annotations

import logging
import threading

from fascicle.errors import FascicleError
from fascicle.store.base import Store, WriteTransaction
from fascicle.versions.catalog import CatalogCache, CatalogEditor
from fascicle.versions.model import Instance

log = logging.getLogger(__name__)

BATCH_KEYS = 2000
PAUSE_S = 0.005
"""Between batches, so that other changes come first."""


class Sweeper:
    """One thread at most, which ends when nothing is left."""

    def __init__(self, store: Store, catalogs: CatalogCache) -> None:
        self._store = store
        self._catalogs = catalogs
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._again = False

    def start(self) -> None:
        """Look for deleted instances now."""
        with self._lock:
            self._again = True
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="sweeper", daemon=True)
                self._thread.start()

    def close(self) -> None:
        """Stop after the batch at hand."""
        self._closing.set()
        thread = self._thread
        if thread is not None:
            thread.join(timeout=5)

    def _run(self) -> None:
        while True:
            with self._lock:
                if not self._again or self._closing.is_set():
                    self._thread = None
                    return
                self._again = False
            try:
                sweep(self._store, self._catalogs, self._closing)
            except FascicleError as error:
                log.warning("removing the data of deleted instances stopped: %s", error)


def sweep(store: Store, catalogs: CatalogCache, closing: threading.Event | None = None) -> None:
    """Remove all data of deleted instances."""
    with store.read() as txn:
        deleted = catalogs.at(txn).deleted_instances()
    for instance in deleted:
        while store.write(lambda txn, instance=instance: _remove_batch(txn, catalogs, instance)):  # type: ignore[misc]
            if closing is not None and closing.wait(PAUSE_S):
                return


def _remove_batch(txn: WriteTransaction, catalogs: CatalogCache, instance: Instance) -> bool:
    """Remove some keys of an instance, and the instance with the last ones; whether more may be there."""
    start, stop = instance.id.to_bytes(4, "big"), (instance.id + 1).to_bytes(4, "big")
    batch = []
    for key in txn.scan_keys(start, stop):
        batch.append(key)
        if len(batch) == BATCH_KEYS:
            break
    for key in batch:
        txn.delete(key)
    if len(batch) < BATCH_KEYS:
        CatalogEditor(txn, catalogs).remove_instance(instance)
        return False
    return True
