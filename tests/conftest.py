"""Fixtures that all tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


def shared_folder() -> Path | None:
    """The folder with real data and recorded conversations: FASCICLE_SHARED, or `shared` beside the checkout."""
    named = os.environ.get("FASCICLE_SHARED")
    folder = Path(named) if named else REPOSITORY.parent / "shared"
    return folder if folder.is_dir() else None


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real data and recordings; skips the test where they are absent."""
    folder = shared_folder()
    if folder is None:
        pytest.skip("no real data: set FASCICLE_SHARED to the folder that holds data/, conformance/ and speed/")
    return folder
