"""Request bodies: read whole, or handed on in pieces to a thread that works on them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from queue import SimpleQueue
from typing import Any

from fascicle.errors import BadRequest, PayloadTooLarge

Receive = Callable[[], Awaitable[dict[str, Any]]]

QUEUED_PIECES = 16
"""Pieces of up to 64 kB that wait for the thread before reading from the connection stops."""


class BodyLimits:
    """How large a body may be, in bytes, and how long a pause in it may last, in seconds."""

    __slots__ = ("pause_s", "size_bytes")

    def __init__(self, size_bytes: int, pause_s: float) -> None:
        self.size_bytes = size_bytes
        self.pause_s = pause_s

    async def next_piece(self, receive: Receive) -> tuple[bytes, bool]:
        """A piece and whether more follow. Raises BadRequest if the client is too slow or has gone."""
        try:
            async with asyncio.timeout(self.pause_s):
                message = await receive()
        except TimeoutError:
            raise BadRequest(f"nothing of the request's body arrived for {self.pause_s:g} s") from None
        if message["type"] != "http.request":
            raise BadRequest("the connection was closed before the request's body was complete")
        return message.get("body", b""), message.get("more_body", False)

    def check_size(self, size: int) -> None:
        if size > self.size_bytes:
            raise PayloadTooLarge(f"the request's body of {size} bytes is larger than the limit of {self.size_bytes}")

    async def read(self, receive: Receive, announced: int | None) -> bytes:
        """The whole body."""
        if announced is not None:
            self.check_size(announced)
        piece, more = await self.next_piece(receive)
        if not more:
            return piece
        pieces = [piece]
        size = len(piece)
        while more:
            piece, more = await self.next_piece(receive)
            pieces.append(piece)
            size += len(piece)
            self.check_size(size)
        return b"".join(pieces)


class BodyBridge:
    """Carries pieces from the event loop to one thread; neither runs far ahead of the other."""

    def __init__(self, limits: BodyLimits, receive: Receive) -> None:
        self._limits = limits
        self._receive = receive
        self._loop = asyncio.get_running_loop()
        self._queue: SimpleQueue[bytes | BaseException | None] = SimpleQueue()
        self._room = asyncio.Semaphore(QUEUED_PIECES)

    async def feed(self) -> None:
        """Read the body until its end; run as a task beside the thread."""
        try:
            more = True
            while more:
                await self._room.acquire()
                piece, more = await self._limits.next_piece(self._receive)
                if piece:
                    self._queue.put(piece)
                else:
                    self._room.release()
        except Exception as error:
            self._queue.put(error)
        finally:
            self._queue.put(None)

    def pieces(self) -> Iterator[bytes]:
        """The pieces, for the thread."""
        while (piece := self._queue.get()) is not None:
            if isinstance(piece, BaseException):
                raise piece
            self._loop.call_soon_threadsafe(self._room.release)
            yield piece
