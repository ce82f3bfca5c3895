"""Things that take time to get, got by a few threads, each once however many ask for it, and kept up to a size."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeVar

from fascicle.volumes import VolumeError

if TYPE_CHECKING:
    from fascicle.datatypes.image.block_cache import BlockCache

Key = TypeVar("Key", bound=Hashable)

NOTHING = b""
"""What is kept where there turned out to be nothing."""
_ENTRY_BYTES = 200


class SingleFlight:
    """A pool of threads before a cache. Safe between threads.

    `name` is told in errors. That nothing arrives for `patience_s` is an error for those who wait; the threads go on,
    and what they bring is kept.
    """

    def __init__(self, name: str, threads: int, cache: BlockCache, patience_s: float) -> None:
        self.name = name
        self.patience_s = patience_s
        self.made = self.failed = 0
        self.seconds = 0.0
        self._cache = cache
        self._pool = ThreadPoolExecutor(threads, "elsewhere")
        self._flying: dict[Hashable, Future[Any]] = {}
        self._lock = Lock()

    def many(self, keys: Sequence[Key], make: Callable[[Key], tuple[Any, int]]) -> list[Any]:
        """What `make` gives for each key: a thing and its size in bytes; side by side.

        Raises what `make` raises, and VolumeError for what does not come in time.
        """
        results: list[Any] = [self._cache.get(key) for key in keys]
        waiting = [(i, self._started(keys[i], make)) for i, result in enumerate(results) if result is None]
        for i, future in waiting:
            try:
                results[i] = future.result(self.patience_s)
            except FutureTimeout:
                raise VolumeError(f"{self.name} did not answer within {self.patience_s:g} s") from None
        return results

    def here(self, key: Key, make: Callable[[Key], tuple[Any, int]]) -> Any:
        """The same for one key, made in this thread unless another one is at it."""
        found = self._cache.get(key)
        if found is not None:
            return found
        with self._lock:
            future = self._flying.get(key)
            if future is None:
                mine: Future[Any] = Future()
                self._flying[key] = mine
        if future is not None:
            try:
                return future.result(self.patience_s)
            except FutureTimeout:
                raise VolumeError(f"{self.name} did not answer within {self.patience_s:g} s") from None
        self._run(key, make, mine)
        return mine.result()

    def close(self) -> None:
        """Take no more work."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _started(self, key: Key, make: Callable[[Key], tuple[Any, int]]) -> Future[Any]:
        with self._lock:
            future = self._flying.get(key)
            if future is not None:
                return future
            future = self._flying[key] = Future()
        try:
            self._pool.submit(self._run, key, make, future)
        except RuntimeError:  # the pool is closed
            self._land(key)
            future.set_exception(VolumeError(f"{self.name} is closed"))
        return future

    def _run(self, key: Key, make: Callable[[Key], tuple[Any, int]], future: Future[Any]) -> None:
        try:
            found = self._cache.get(key)  # it may have landed between the look and the start
            if found is None:
                began = time.monotonic()
                found, size_bytes = make(key)
                self.made += 1
                self.seconds += time.monotonic() - began
                self._cache.put(key, found, size_bytes + _ENTRY_BYTES)
        except BaseException as error:
            self.failed += 1
            self._land(key)
            future.set_exception(error)
        else:
            self._land(key)
            future.set_result(found)

    def _land(self, key: Hashable) -> None:
        with self._lock:
            self._flying.pop(key, None)
