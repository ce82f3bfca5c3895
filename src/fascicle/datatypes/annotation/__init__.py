"""Point annotations: elements in space, by tag, and by the body that they lie in."""

from typing import Any

__all__ = ["Annotation"]


def __getattr__(name: str) -> Any:
    # Lazily: parts of the package are used without its endpoints.
    if name == "Annotation":
        from fascicle.datatypes.annotation.annotation import Annotation

        return Annotation
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
