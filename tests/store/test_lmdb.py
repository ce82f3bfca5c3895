from __future__ import annotations

from pathlib import Path

from hypothesis import settings

from fascicle.store import Store
from fascicle.store.lmdb_engine import LmdbStore
from fascicle.testing.store import PersistentStoreTests, StoreMachine


class TestLmdbStore(PersistentStoreTests):
    def open(self, folder: Path) -> Store:
        return LmdbStore(folder)


class TestLmdbStoreWithSmallSegments(PersistentStoreTests):
    """Every commit of large values fills segments, and the index starts too small."""

    def open(self, folder: Path) -> Store:
        return LmdbStore(folder, map_bytes=128 << 10, segment_bytes=16 << 10)


class LmdbMachine(StoreMachine):
    keeps = True

    def open(self, folder: Path) -> Store:
        return LmdbStore(folder, segment_bytes=100_000)


TestLmdbMachine = LmdbMachine.TestCase
TestLmdbMachine.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
