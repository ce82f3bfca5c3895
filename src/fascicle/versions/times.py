"""Times as texts: of the catalog's rows, of log lines and of mutation records."""

from __future__ import annotations

import time

_STARTED_NS = time.time_ns()
_last = (-1, "")


def _text(seconds: int) -> str:
    """`YYYY-MM-DDTHH:MM:SS` in UTC; the last second is kept, since most calls ask for it again."""
    global _last
    last = _last
    if seconds != last[0]:
        last = _last = (seconds, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)))
    return last[1]


def rfc3339(time_ns: int) -> str:
    """RFC 3339 in UTC, always with nine digits, so that such texts sort by time."""
    seconds, fraction = divmod(time_ns, 1_000_000_000)
    return f"{_text(seconds)}.{fraction:09d}Z"


def rfc3339_seconds(time_ns: int) -> str:
    """RFC 3339 in UTC, as it stands before the lines of repo and node logs."""
    return f"{_text(time_ns // 1_000_000_000)}Z"


def record_text(time_ns: int) -> str:
    """The time of a mutation record: clients look for fractional seconds, an offset and something behind it."""
    seconds, fraction = divmod(time_ns, 1_000_000_000)
    running = (time_ns - _STARTED_NS) / 1e9
    return f"{_text(seconds).replace('T', ' ')}.{fraction:09d} +0000 UTC m=+{running:.6f}"
