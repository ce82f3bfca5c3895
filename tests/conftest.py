"""Fixtures that all tests share."""

from __future__ import annotations

import os
from collections.abc import Generator
from pathlib import Path

import pytest
from hypothesis import settings

pytest_plugins = ["serving", "object_server"]

# The first call of a kernel compiles it, which no deadline should count.
settings.register_profile("fascicle", deadline=None)
settings.load_profile("fascicle")

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


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """With FASCICLE_NO_SKIPS=1, as in CI, a test that skips itself has failed: there is nothing that may be missing."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and os.environ.get("FASCICLE_NO_SKIPS") == "1":
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} may not be skipped here (FASCICLE_NO_SKIPS=1): {reason}"
    return report
