"""The datatype `imagetile`: 2-D tiles of an image volume in three planes and at several scales, drawn beforehand."""

from typing import Any

__all__ = ["Imagetile"]


def __getattr__(name: str) -> Any:
    # Lazily: what reads and draws images is not needed to list the datatypes.
    if name == "Imagetile":
        from fascicle.datatypes.imagetile.imagetile import Imagetile

        return Imagetile
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
