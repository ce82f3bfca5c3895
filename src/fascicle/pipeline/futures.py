"""Work handed to a pool a little ahead, and taken back as it ends."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import Any, TypeVar

_Item = TypeVar("_Item")


def ended_futures(
    items: Iterable[_Item],
    submit: Callable[[_Item], Future[Any]],
    ahead: int,
    goes_on: Callable[[], bool] | None = None,
) -> Generator[tuple[_Item, Future[Any]]]:
    """Each item with its future, in the order in which they end; `ahead` of them are running or wait.

    No more are submitted once `goes_on` says no. Those that wait are cancelled if nobody wants the rest.
    """
    waiting = iter(items)
    running: dict[Future[Any], _Item] = {}

    def hand_out(count: int) -> None:
        if goes_on is None or goes_on():
            for _, item in zip(range(count), waiting, strict=False):
                running[submit(item)] = item

    try:
        hand_out(ahead)
        while running:
            ended, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in ended:
                yield running.pop(future), future
            hand_out(len(ended))
    finally:
        for future in running:
            future.cancel()
