"""Neuroglancer in a real browser against our server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from chromium import Chromium

from sample_repo import sample_repo

__all__ = ["sample_repo"]


@pytest.fixture(scope="session")
def browser() -> Iterator[Chromium]:
    """One for all tests: it starts once, and keeps the viewer's code. Pixels cost time, as the processor draws them."""
    with Chromium(800, 600) as running:
        yield running
