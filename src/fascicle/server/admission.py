"""Where work runs: small requests in the event loop, heavy ones in a few threads that yield to it.

While the store is cold, small reads run in threads, too. Nothing is refused for load, with one exception: of the
requests that ask for it (`throttle=on`) only some run at a time.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType

from fascicle.errors import Throttled
from fascicle.server.requests import Request

HEAVY_NICENESS = 10
UPLOAD_THREADS = 32
COLD_THREADS = 8
ELSEWHERE_THREADS = 32
"""These wait for volumes that live elsewhere, most of the time, and must not keep others from their cores."""
SLOW_READ_S = 0.002
COLD_S = 0.5
"""How long small reads run in threads after one had to wait for the disk."""
SWITCH_INTERVAL_S = 0.0005
"""How long a thread may keep the interpreter while the event loop waits for it."""


def yield_to_others() -> None:
    """Let this thread run when the event loop does not need the core (a thread has its own priority on Linux)."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), HEAVY_NICENESS)


class Pools:
    """Threads for heavy requests, others for requests that read their body while it arrives, and so on.

    What may take seconds to make (surfaces, skeletons) has threads of its own, so that voxels need not wait behind it.
    """

    def __init__(self, threads: int) -> None:
        self.size = threads or max(2, os.cpu_count() or 2)
        self.heavy = ThreadPoolExecutor(self.size, "heavy", initializer=yield_to_others)
        self.uploads = ThreadPoolExecutor(UPLOAD_THREADS, "upload", initializer=yield_to_others)
        self.cold = ThreadPoolExecutor(COLD_THREADS, "cold")
        self.elsewhere = ThreadPoolExecutor(ELSEWHERE_THREADS, "elsewhere", initializer=yield_to_others)
        self.making = ThreadPoolExecutor(self.size, "making", initializer=yield_to_others)
        sys.setswitchinterval(SWITCH_INTERVAL_S)

    def close(self) -> None:
        self.heavy.shutdown(wait=False, cancel_futures=True)
        self.uploads.shutdown(wait=False, cancel_futures=True)
        self.cold.shutdown(wait=False, cancel_futures=True)
        self.elsewhere.shutdown(wait=False, cancel_futures=True)
        self.making.shutdown(wait=False, cancel_futures=True)


class ColdPages:
    """Notices that small reads had to wait for the disk: for a while they run in threads, so that none stalls the
    others.

    Used in the event loop's thread only. A look costs a comparison; the counter of page faults is read after slow
    requests.
    """

    def __init__(self) -> None:
        self._until = 0.0
        self._faults = -1

    def now(self, time_s: float) -> bool:
        """Whether small reads should run in threads, at a time of `time.perf_counter`."""
        return time_s < self._until

    def watch(self, started: float) -> None:
        """Tell of a small read that began at a time and has just ended."""
        ended = time.perf_counter()
        if ended - started > SLOW_READ_S:
            faults = _major_faults()
            if 0 <= self._faults < faults:
                self._until = ended + COLD_S
            self._faults = faults


def _major_faults() -> int:
    """How often this thread has waited for a page from the disk."""
    if sys.platform != "linux":
        return 0
    import resource

    return resource.getrusage(resource.RUSAGE_THREAD).ru_majflt


class Throttle:
    """Counts the running requests that asked to be throttled. Used in the event loop only."""

    def __init__(self, maximum: int) -> None:
        self.maximum = maximum
        self.running = 0

    def slot(self, request: Request) -> Throttle | None:
        """A context for a request that asks to be throttled, or None. Raises Throttled if there is no room."""
        if request.query.get("throttle") not in ("on", "true"):
            return None
        if self.running >= self.maximum:
            raise Throttled(f"Server already running {self.running} throttled operations (max = {self.maximum})")
        return self

    def __enter__(self) -> None:
        self.running += 1

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.running -= 1
