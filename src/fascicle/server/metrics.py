"""Counts of requests, and their text for Prometheus (exposition format 0.0.4)."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import deque
from collections.abc import Mapping

from fascicle.store.base import StoreStatistics

_BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)


class Metrics:
    """What this process has answered. Used in the event loop only."""

    def __init__(self) -> None:
        self.started = time.time()
        self.requests: dict[tuple[str, str, str, int], list[float]] = {}
        """(kind, keyword, method, status) -> count, seconds, bytes sent."""
        self.buckets = [0] * (len(_BUCKETS_S) + 1)
        self.running = 0
        self.users: dict[str, list[float]] = {}
        """User -> time of the last sign of life, last, least and greatest latency in ms."""
        self._seconds: deque[tuple[int, dict[str, int]]] = deque(maxlen=2)

    def count(self, kind: str, keyword: str, method: str, status: int, seconds: float, size: int) -> None:
        entry = self.requests.get((kind, keyword, method, status))
        if entry is None:
            entry = self.requests[kind, keyword, method, status] = [0, 0.0, 0]
        entry[0] += 1
        entry[1] += seconds
        entry[2] += size
        self.buckets[bisect_left(_BUCKETS_S, seconds)] += 1

    def count_user(self, user: str, seconds: float) -> None:
        milliseconds = seconds * 1000
        entry = self.users.get(user)
        if entry is None:
            if len(self.users) < 10_000:
                self.users[user] = [time.time(), milliseconds, milliseconds, milliseconds]
            return
        entry[0] = time.time()
        entry[1] = milliseconds
        entry[2] = min(entry[2], milliseconds)
        entry[3] = max(entry[3], milliseconds)

    def totals(self) -> dict[str, int]:
        """Requests and bytes so far, by whether they read or write."""
        totals = {"reads": 0, "writes": 0, "bytes": 0}
        for (_, _, method, _), (count, _, size) in self.requests.items():
            totals["reads" if method in ("GET", "HEAD") else "writes"] += int(count)
            totals["bytes"] += int(size)
        return totals

    def last_second(self) -> dict[str, int]:
        """What was added to the totals since they were last asked for in another second."""
        now = int(time.time())
        totals = self.totals()
        if not self._seconds or self._seconds[-1][0] != now:
            self._seconds.append((now, totals))
        before = self._seconds[0][1]
        return {name: value - before[name] for name, value in totals.items()}

    def text(
        self,
        store: StoreStatistics | None,
        transaction: int,
        volumes: Mapping[str, tuple[str, str, float]] | None = None,
    ) -> str:
        """All figures in Prometheus' text format. `volumes`: name -> kind, meaning and value."""
        lines = [
            "# HELP fascicle_requests_total Answered requests.",
            "# TYPE fascicle_requests_total counter",
        ]
        seconds, sizes = [], []
        for (kind, keyword, method, status), (count, duration, size) in sorted(self.requests.items()):
            labels = (
                f'{{kind="{_label(kind)}",keyword="{_label(keyword)}",method="{_label(method)}",status="{status}"}}'
            )
            lines.append(f"fascicle_requests_total{labels} {int(count)}")
            seconds.append(f"fascicle_request_seconds_total{labels} {duration:.6f}")
            sizes.append(f"fascicle_answer_bytes_total{labels} {int(size)}")
        lines += [
            "# HELP fascicle_request_seconds_total Time from request to answer.",
            "# TYPE fascicle_request_seconds_total counter",
            *seconds,
            "# HELP fascicle_answer_bytes_total Bytes of answers' bodies.",
            "# TYPE fascicle_answer_bytes_total counter",
            *sizes,
            "# HELP fascicle_request_duration_seconds Requests by duration.",
            "# TYPE fascicle_request_duration_seconds histogram",
        ]
        running = 0
        for bound, count in zip(_BUCKETS_S, self.buckets, strict=False):
            running += count
            lines.append(f'fascicle_request_duration_seconds_bucket{{le="{bound:g}"}} {running}')
        total = sum(self.buckets)
        duration = sum(entry[1] for entry in self.requests.values())
        lines += [
            f'fascicle_request_duration_seconds_bucket{{le="+Inf"}} {total}',
            f"fascicle_request_duration_seconds_sum {duration:.6f}",
            f"fascicle_request_duration_seconds_count {total}",
        ]
        gauges: dict[str, tuple[str, float]] = {
            "requests_running": ("Requests being answered now.", self.running),
            "uptime_seconds": ("Time since this process started.", time.time() - self.started),
            "store_transaction": ("Number of the last transaction.", transaction),
        }
        if store is not None:
            gauges["store_keys"] = ("Keys in the store.", store.keys)
            gauges["store_file_bytes"] = ("Size of the store's files.", store.file_bytes)
            gauges["store_live_bytes"] = ("Bytes of the values that can be reached.", store.live_bytes)
        for name, (meaning, value) in gauges.items():
            lines += [
                f"# HELP fascicle_{name} {meaning}",
                f"# TYPE fascicle_{name} gauge",
                f"fascicle_{name} {value:g}",
            ]
        for name, (kind, meaning, value) in (volumes or {}).items():
            lines += [f"# HELP fascicle_{name} {meaning}", f"# TYPE fascicle_{name} {kind}"]
            lines.append(f"fascicle_{name} {value:g}")
        return "\n".join(lines) + "\n"


def _label(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
