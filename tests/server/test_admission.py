"""Where requests run."""

from __future__ import annotations

import time

import pytest
from in_process import InProcess

from fascicle.server import admission
from fascicle.server.admission import COLD_S, ColdPages


def test_reads_move_to_threads_while_the_store_is_cold(monkeypatch: pytest.MonkeyPatch) -> None:
    faults = 5
    monkeypatch.setattr(admission, "_major_faults", lambda: faults)
    cold = ColdPages()
    now = time.perf_counter()
    cold.watch(now - 1)  # the first slow read only sets the counter
    assert not cold.now(now)
    cold.watch(now - 1)  # slow, but not because of the disk
    assert not cold.now(now)
    faults = 6
    cold.watch(time.perf_counter())  # quick
    assert not cold.now(now)
    cold.watch(now - 1)
    assert cold.now(time.perf_counter())
    assert not cold.now(time.perf_counter() + COLD_S + 1)


def test_answers_are_the_same_in_a_cold_store(app: InProcess) -> None:
    root = app.repo()
    app.instance(root, "kv")
    app.app.cold._until = time.perf_counter() + 100
    app.made(f"/api/node/{root}/kv/key/a", b"1")
    assert app.get(f"/api/node/{root}/kv/key/a").body == b"1"
    assert app.get(f"/api/node/{root}/kv/key/b").status == 404
