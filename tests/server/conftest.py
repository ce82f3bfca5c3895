from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from in_process import InProcess


@pytest.fixture
def serve() -> Iterator[Callable[..., InProcess]]:
    """Makes applications that are closed behind the test."""
    made: list[InProcess] = []

    def make(**more: Any) -> InProcess:
        made.append(InProcess(**more))
        return made[-1]

    yield make
    for app in made:
        app.close()


@pytest.fixture
def app(serve: Callable[..., InProcess]) -> InProcess:
    """An application without a token, with default settings."""
    return serve()
