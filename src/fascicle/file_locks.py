"""Locks on open files between processes, which end with the process that holds them."""

from __future__ import annotations

import sys

if sys.platform == "win32":
    import msvcrt
    import time

    def try_lock(descriptor: int) -> bool:
        """Lock an open file for this process alone; false if another one holds it."""
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

    def lock(descriptor: int) -> None:
        """Lock an open file for this process alone; waits for it."""
        while not try_lock(descriptor):
            time.sleep(0.01)

else:
    import fcntl

    def try_lock(descriptor: int) -> bool:
        """Lock an open file for this process alone; false if another one holds it."""
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def lock(descriptor: int) -> None:
        """Lock an open file for this process alone; waits for it."""
        fcntl.flock(descriptor, fcntl.LOCK_EX)
