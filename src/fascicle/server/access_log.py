"""One line per request, written in batches so that it costs little."""

from __future__ import annotations

import asyncio
import logging
import time

from fascicle.server.requests import Request

log = logging.getLogger("fascicle.requests")

FLUSH_S = 0.5


class AccessLog:
    """Collects lines and writes them every half second. `level` is one of none, errors, changes and all."""

    def __init__(self, level: str) -> None:
        self.level = level
        self._every = level == "all"
        self._changes = level in ("changes", "all")
        self._none = level == "none"
        self._lines: list[str] = []
        self._scheduled = False

    def add(self, request: Request, status: int, seconds: float, size: int) -> None:
        if self._every or (status >= 400 and not self._none) or (self._changes and not request.reads):
            self._lines.append(line(request, status, seconds, size))
            if not self._scheduled:
                self._scheduled = True
                asyncio.get_running_loop().call_later(FLUSH_S, self.flush)

    def flush(self) -> None:
        lines, self._lines, self._scheduled = self._lines, [], False
        if lines:
            log.info("\n".join(lines))


def line(request: Request, status: int, seconds: float, size: int) -> str:
    """Time, address, user, application, method, path, status, bytes and milliseconds."""
    address = request.client[0] if request.client else "-"
    path = request.path.encode("unicode_escape", "surrogateescape").decode("ascii")
    return (
        f"{time.strftime('%Y-%m-%dT%H:%M:%S')} {address} {_word(request.user)} {_word(request.app)} "
        f"{request.method} {path[:500]} {status} {size} {seconds * 1000:.1f}ms"
    )


def _word(text: str) -> str:
    return text.encode("unicode_escape", "surrogateescape").decode("ascii").replace(" ", "_")[:80] or "-"
