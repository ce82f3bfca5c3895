"""Fixtures of the client's tests."""

from sample_repo import sample_repo

__all__ = ["sample_repo"]
