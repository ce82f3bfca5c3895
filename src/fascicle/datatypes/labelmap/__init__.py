"""Segmentations: voxels hold supervoxels, a versioned mapping gathers them into bodies that people edit."""

from typing import Any

__all__ = ["Labelmap"]


def __getattr__(name: str) -> Any:
    # Lazily: parts of the package are used without its endpoints.
    if name == "Labelmap":
        from fascicle.datatypes.labelmap.labelmap import Labelmap

        return Labelmap
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
