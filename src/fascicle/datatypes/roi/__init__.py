"""Regions of interest: sets of blocks, stored as runs along x. Other datatypes ask `regions`."""

from typing import Any


def __getattr__(name: str) -> Any:
    # Loaded when asked for: the other datatypes import only `regions`, and must not pull in the routes.
    if name == "Roi":
        from fascicle.datatypes.roi.roi import Roi

        return Roi
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
