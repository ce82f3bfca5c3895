from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings

from fascicle.errors import StoreError
from fascicle.store import Store, open_store
from fascicle.store.memory import MemoryStore
from fascicle.testing.store import StoreMachine, StoreTests


class TestMemoryStore(StoreTests):
    def open(self, folder: Path) -> Store:
        return open_store(None)

    def test_it_lies_nowhere(self, store: Store, tmp_path: Path) -> None:
        assert store.path is None
        with pytest.raises(StoreError, match="memory"):
            store.backup(tmp_path / "copy")


class MemoryMachine(StoreMachine):
    def open(self, folder: Path) -> Store:
        return MemoryStore()


TestMemoryMachine = MemoryMachine.TestCase
TestMemoryMachine.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
