"""One small pool of threads that all volumes share, for chunks that are fetched and decoded at the same time."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait

FETCHING = 16
"""Threads for what is far away, where most of the time is waiting."""
_lock = threading.Lock()
_pool: ThreadPoolExecutor | None = None


def in_parallel(tasks: Sequence[Callable[[], None]], remote: bool) -> None:
    """Do all tasks; the first error of one is raised once those that run have ended. Tasks start none themselves."""
    width = min(len(tasks), FETCHING if remote else os.cpu_count() or 1)
    if width <= 1:
        for task in tasks:
            task()
        return
    left = iter(tasks)
    stop = threading.Event()
    pull = threading.Lock()

    def work() -> None:
        while not stop.is_set():
            with pull:
                task = next(left, None)
            if task is None:
                return
            try:
                task()
            except BaseException:
                stop.set()
                raise

    futures: list[Future[None]] = [_threads().submit(work) for _ in range(width - 1)]
    try:
        work()
    finally:
        # threads of the pool may be busy elsewhere; what has not begun is not waited for
        running = [future for future in futures if not future.cancel()]
        wait(running)
    for future in running:
        future.result()


def _threads() -> ThreadPoolExecutor:
    global _pool
    with _lock:
        if _pool is None:
            _pool = ThreadPoolExecutor(FETCHING, thread_name_prefix="volume")
        return _pool


def _after_fork() -> None:
    global _pool, _lock
    _pool, _lock = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
