"""Trying again: what may pass, what is final, and what a refusal means."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import TypeVar

from fascicle.volumes.base import VolumeError

FIRST_PAUSE_S = 0.25
LONGEST_PAUSE_S = 10.0
_T = TypeVar("_T")


class Passing(Exception):
    """Something that another try may mend; `pause_s` is how long the server wants to be left alone."""

    def __init__(self, message: str, pause_s: float = 0.0) -> None:
        super().__init__(message)
        self.pause_s = pause_s


class Refused(Exception):
    """The server allows nobody, or not us; or it does not tell that from an object which is not there."""


def persistently(attempts: int, name: str, do: Callable[[], _T], done: str = "read") -> _T:
    """Do something up to `attempts` times, with growing pauses. VolumeError if it did not succeed."""
    for attempt in range(attempts):
        try:
            return do()
        except Passing as error:
            if attempt + 1 == attempts:
                raise VolumeError(f"{name} cannot be {done}: {error}") from None
            pause = max(error.pause_s, FIRST_PAUSE_S * 2**attempt * random.uniform(0.7, 1.3))
            time.sleep(min(LONGEST_PAUSE_S, pause))
    raise VolumeError(f"{name} cannot be {done}: no try was allowed")


class RefusalJudge:
    """Tells a refusal that means "not there" from one that means "not for you".

    Buckets that may not be listed answer 403 for both. So it means "not there" only while an object that could be read
    before can still be read; that is looked at again every few seconds.
    """

    TRUST_S = 10.0

    def __init__(self) -> None:
        self._readable = ""
        self._until = 0.0

    def saw(self, name: str) -> None:
        """An object was read."""
        if not self._readable:
            self._readable = name
        self._until = time.monotonic() + self.TRUST_S

    def is_absent(self, can_read: Callable[[str], bool]) -> bool:
        """Whether an object that was refused just now is not there."""
        if not self._readable:
            return False
        if time.monotonic() > self._until:
            if not can_read(self._readable):
                return False
            self._until = time.monotonic() + self.TRUST_S
        return True
