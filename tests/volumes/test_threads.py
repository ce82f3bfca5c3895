"""Tasks of the shared pool."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from fascicle.volumes.threads import FETCHING, in_parallel


@pytest.mark.parametrize("remote", [False, True])
def test_all_tasks_are_done(remote: bool) -> None:
    done: list[int] = []
    in_parallel([partial(done.append, i) for i in range(100)], remote)
    assert sorted(done) == list(range(100))
    in_parallel([], remote)


def test_tasks_far_away_wait_together() -> None:
    most, now, lock = [0], [0], threading.Lock()

    def task() -> None:
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        time.sleep(0.05)
        with lock:
            now[0] -= 1

    in_parallel([task] * 30, remote=True)
    assert 4 < most[0] <= FETCHING


def test_the_first_error_ends_it() -> None:
    done: list[int] = []

    def task(i: int) -> None:
        if i == 5:
            raise ValueError("five")
        time.sleep(0.001)
        done.append(i)

    with pytest.raises(ValueError, match="five"):
        in_parallel([partial(task, i) for i in range(1000)], remote=True)
    begun = len(done)
    assert begun < 900
    time.sleep(0.05)
    assert len(done) == begun  # nothing goes on behind the back of who called


def test_many_callers_share_the_pool() -> None:
    done: list[int] = []
    with ThreadPoolExecutor(40) as callers:
        list(callers.map(lambda _: in_parallel([partial(done.append, i) for i in range(20)], True), range(40)))
    assert len(done) == 800
