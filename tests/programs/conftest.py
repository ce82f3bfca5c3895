"""Programs of others, unmodified, against our server. `pip install '.[dev,programs]'` brings them."""

from sample_repo import sample_repo

__all__ = ["sample_repo"]
