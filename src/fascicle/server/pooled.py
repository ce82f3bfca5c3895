"""Heavy requests whose body is there: threads answer them without a task of the event loop.

A thread makes the answer, or the beginning of a long one, and wakes the loop to send it. Only what is longer than that
needs a task, which has the rest made piece by piece.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from fascicle.datatypes.base import Answer, Commit, Reply
from fascicle.datatypes.elsewhere import is_elsewhere
from fascicle.errors import FascicleError
from fascicle.server import answers
from fascicle.server.connection import Exchange
from fascicle.server.requests import Request
from fascicle.store.base import Outcome, ReadTransaction

if TYPE_CHECKING:
    from fascicle.server.app import Application, Plan

log = logging.getLogger(__name__)

Reading = AbstractContextManager[ReadTransaction]
Parts = list[bytes | memoryview]

STREAM_BYTES = 1 << 20
"""Pieces of a streamed answer are gathered to this size before they are sent."""
LARGE_PIECE_BYTES = 64 << 10
FIRST_BYTES = 2 << 20
"""The first ones to this size: an answer that is complete by then is sent as a whole."""
STREAM_S = 0.05
"""... or for this long."""


@dataclass(slots=True)
class Rest:
    """A streamed answer that has begun: its first parts, and where the others come from."""

    first: Parts
    pieces: Iterator[bytes | memoryview]
    body: Any
    reading: Reading

    def more(self) -> tuple[Parts, bool]:
        """In a thread: the next parts, and whether more may follow."""
        return _gathered(self.pieces, STREAM_BYTES)

    def close(self) -> None:
        """In a thread: let go of the answer and of its snapshot."""
        _close(self.body, self.reading)


def begun(answer: Answer, reading: Reading) -> Rest | None:
    """In a thread: make the beginning of a streamed answer. Where that is all, it becomes the body; None."""
    body: Any = answer.body
    try:
        pieces = iter(body)
        first, more = _gathered(pieces, FIRST_BYTES)
    except BaseException:
        _close(body, reading)
        raise
    if more:
        return Rest(first, pieces, body, reading)
    _close(body, reading)
    answer.body = first[0] if len(first) == 1 else first
    return None


def _gathered(pieces: Iterator[bytes | memoryview], enough: int) -> tuple[Parts, bool]:
    """The next pieces, `enough` bytes or more or what there is in a while; and whether more may follow.

    Small ones are put together; large ones stay what they are, to be sent without a copy.
    """
    parts: Parts = []
    small: Parts = []
    size = 0
    more = False
    deadline = time.monotonic() + STREAM_S
    for piece in pieces:
        size += len(piece)
        if len(piece) < LARGE_PIECE_BYTES:
            small.append(piece)
        else:
            if small:
                parts.append(b"".join(small))
                small = []
            parts.append(piece)
        if size >= enough or time.monotonic() > deadline:
            more = True
            break
    if small:
        parts.append(b"".join(small))
    return parts, more


def _close(body: Any, reading: Reading) -> None:
    try:
        close = getattr(body, "close", None)
        if close is not None:
            close()
    finally:
        reading.__exit__(None, None, None)


class Pooled:
    """The requests of one server process that are answered in this way."""

    def __init__(self, app: Application) -> None:
        self._app = app

    def begin(self, request: Request, plan: Plan, body: bytes, exchange: Exchange) -> None:
        """Let a thread answer a request. Raises PayloadTooLarge."""
        app = self._app
        app.limits.check_size(len(body))
        pool = app.pools.elsewhere if is_elsewhere(plan.instance.properties) else app.pools.heavy
        pool.submit(self._run, request, body, pool, exchange)
        app.metrics.running += 1

    def _run(self, request: Request, body: bytes, pool: Executor, exchange: Exchange) -> None:
        """In a thread."""
        try:
            outcome = Outcome(self._app.begun(request, body, None))
        except BaseException as error:
            outcome = Outcome(error=error)
        self._app.handover.land(exchange.loop, partial(self._finish, request, pool, exchange), outcome)

    def _finish(self, request: Request, pool: Executor, exchange: Exchange, outcome: Outcome) -> None:
        app = self._app
        app.metrics.running -= 1
        if outcome.error is not None:
            app.write_quick(request, answers.of_raised(outcome.error, request), exchange)
            return
        plan: Plan
        reply: Reply
        rest: Rest | None
        plan, reply, rest = outcome.result
        if isinstance(reply, Commit):
            app.submit_quick(request, plan, reply, exchange)
        elif rest is None:
            app.write_quick(request, reply, exchange)
        else:
            exchange.start(self._send(request, reply, rest, pool, exchange))

    async def _send(self, request: Request, answer: Answer, rest: Rest, pool: Executor, exchange: Exchange) -> None:
        """Send a long answer."""
        app = self._app
        sending = answers.Sending(exchange.send, request, app.headers, True)
        app.metrics.running += 1
        try:
            await stream(answer, rest, exchange.loop.run_in_executor, pool, sending)
        except FascicleError as error:
            await sending.error(error)
        except Exception:
            log.exception("%s %s failed", request.method, request.path)
            await sending.failure()
        finally:
            app.metrics.running -= 1
            app.account("node", request.segments[4], request, sending.status, sending.size)


async def stream(
    answer: Answer, rest: Rest, run_in: Callable[..., Any], pool: Executor, sending: answers.Sending
) -> None:
    """Send an answer that has begun; a thread makes the next pieces while nothing waits to be sent."""
    try:
        await sending.start(answer)
        await sending.parts(rest.first)
        more = True
        while more and not sending.headless:
            parts, more = await run_in(pool, rest.more)
            await sending.parts(parts)
        await sending.end()
    finally:
        await run_in(pool, rest.close)
