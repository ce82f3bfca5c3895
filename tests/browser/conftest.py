"""Neuroglancer in a real browser against our server."""

from sample_repo import sample_repo

__all__ = ["sample_repo"]
