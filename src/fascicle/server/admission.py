"""Where work runs: small requests in the event loop, heavy ones in a few threads that yield to it.

Nothing is refused for load, with one exception: of the requests that ask for it (`throttle=on`) only some run at a
time.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType

from fascicle.errors import Throttled
from fascicle.server.requests import Request

HEAVY_NICENESS = 10
UPLOAD_THREADS = 32
SWITCH_INTERVAL_S = 0.0005
"""How long a thread may keep the interpreter while the event loop waits for it."""


def _yield_to_others() -> None:
    """Let this thread run when the event loop does not need the core (a thread has its own priority on Linux)."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), HEAVY_NICENESS)


class Pools:
    """Threads for heavy requests, and others for requests that read their body while it arrives."""

    def __init__(self, threads: int) -> None:
        self.size = threads or max(2, os.cpu_count() or 2)
        self.heavy = ThreadPoolExecutor(self.size, "heavy", initializer=_yield_to_others)
        self.uploads = ThreadPoolExecutor(UPLOAD_THREADS, "upload", initializer=_yield_to_others)
        sys.setswitchinterval(SWITCH_INTERVAL_S)

    def close(self) -> None:
        self.heavy.shutdown(wait=False, cancel_futures=True)
        self.uploads.shutdown(wait=False, cancel_futures=True)


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
