"""The writer thread: runs submitted changes one after the other and commits all that is queued up together."""

from __future__ import annotations

import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from queue import Empty, SimpleQueue
from typing import Any

from fascicle.errors import Unavailable
from fascicle.store.base import LateValue, Outcome, ReadTransaction, WriteTransaction
from fascicle.store.overlay import OverlayTransaction

Change = Callable[[WriteTransaction], Any]
Done = Callable[[Outcome], None]
Submitted = tuple[Change, Done]
Pending = dict[bytes, "bytes | LateValue | None"]

log = logging.getLogger(__name__)

GROUP_CHANGES = 4096
"""Most changes in one commit."""
GROUP_BYTES = 64 << 20
"""A commit takes no further changes once the values it writes pass this."""
IDLE_S = 30.0
"""With nothing to write, housekeeping is done this often."""


class WriteGroup(ABC):
    """One commit of an engine: a view of the state, to which the results of changes are added."""

    view: ReadTransaction
    """The state that the next change starts from, with all that was added before."""

    @abstractmethod
    def add(self, pending: Pending) -> int:
        """Add the result of a change (None deletes); the bytes of the values in it."""

    @abstractmethod
    def commit(self) -> None:
        """Make all that was added durable and visible, or raise and keep nothing."""

    @abstractmethod
    def abort(self) -> None:
        """Forget everything; also after a failed commit."""


class GroupOutdated(Exception):
    """Raised by a group that had to let go of the write lock and found another writer's commit: run it again."""


class GroupWriter:
    """A thread that turns submitted changes into few durable commits."""

    def __init__(self, begin: Callable[[], WriteGroup], idle: Callable[[], None], name: str) -> None:
        """`begin` opens a group; `idle` is called now and then between groups."""
        self._begin = begin
        self._idle = idle
        self._queue: SimpleQueue[Submitted | None] = SimpleQueue()
        self._ending = False
        self._closed = False
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self.groups = 0
        self.changes = 0
        self._thread.start()

    def submit(self, change: Change, done: Done) -> None:
        with self._lock:  # else a change could slip in behind the sentinel and never be answered
            if self._closed:
                raise Unavailable("the store is closed")
            self._queue.put((change, done))

    @property
    def is_current_thread(self) -> bool:
        return threading.current_thread() is self._thread

    def close(self) -> None:
        """Finish what was submitted and end the thread."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._queue.put(None)
        if not self.is_current_thread:
            self._thread.join()

    def _run(self) -> None:
        while not self._ending:
            try:
                first = self._queue.get(timeout=IDLE_S)
            except Empty:
                first = None
            else:
                if first is None:
                    return
                self._run_group(self._queued(first))
                first = None  # nor should what it holds wait for the next one
            self._idle()

    def _queued(self, first: Submitted) -> Iterator[Submitted]:
        """The submitted changes that go into one commit, taken from the queue one by one."""
        yield first
        for _ in range(GROUP_CHANGES - 1):
            try:
                submitted = self._queue.get_nowait()
            except Empty:
                return
            if submitted is None:
                self._ending = True
                return
            yield submitted

    def _run_group(self, queued: Iterator[Submitted]) -> None:
        ran = [next(queued)]
        outcomes = [Outcome()]
        group: WriteGroup | None = None
        try:
            group = self._begin()
            size = self._apply(group, ran[0], outcomes[0])
            while size < GROUP_BYTES and (submitted := next(queued, None)) is not None:
                ran.append(submitted)
                outcomes.append(Outcome())
                size += self._apply(group, submitted, outcomes[-1])
            group.commit()
        except GroupOutdated:
            self._run_group(iter(ran))
            return
        except BaseException as error:
            if group is not None:
                group.abort()
            for outcome in outcomes:
                if outcome.error is None:
                    outcome.result, outcome.error = None, error
        self.groups += 1
        self.changes += len(ran)
        for (_, done), outcome in zip(ran, outcomes, strict=True):
            try:
                done(outcome)
            except Exception:
                log.exception("the receiver of a write's outcome failed")

    def _apply(self, group: WriteGroup, submitted: Submitted, outcome: Outcome) -> int:
        """Run a change and add its result to a group; the bytes of the values in it."""
        transaction = OverlayTransaction(group.view)
        try:
            outcome.result = submitted[0](transaction)
        except BaseException as error:
            outcome.error = error
            return 0
        return group.add(transaction.pending) if transaction.pending else 0
