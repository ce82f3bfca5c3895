"""Fascicle: a versioned data service for connectomics.

What the command line does is here as functions, and `open` opens a version to be sliced as NumPy or Dask arrays:

    import fascicle
    with fascicle.open("http://localhost:8000", repo="medulla") as version:
        version["segmentation"][100:110, 0:512, 0:512]      # [z, y, x]

Importing this package is fast: each function is imported when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from fascicle.client.jobs import convert as convert
    from fascicle.client.jobs import export as export
    from fascicle.client.jobs import fix_names as fix_names
    from fascicle.client.jobs import ingest as ingest
    from fascicle.client.jobs import lookup as lookup
    from fascicle.client.jobs import lookup_table as lookup_table
    from fascicle.client.jobs import mesh as mesh
    from fascicle.client.jobs import mirror as mirror
    from fascicle.client.jobs import shot as shot
    from fascicle.client.jobs import skeletonize as skeletonize
    from fascicle.client.jobs import source as source
    from fascicle.client.jobs import view as view
    from fascicle.client.version import Version as Version
    from fascicle.client.version import open_version as open  # noqa: F401

_JOBS = "fascicle.client.jobs"
_LAZY = {
    "open": ("fascicle.client.version", "open_version"),
    "Version": ("fascicle.client.version", "Version"),
    "source": (_JOBS, "source"),
    "ingest": (_JOBS, "ingest"),
    "convert": (_JOBS, "convert"),
    "mesh": (_JOBS, "mesh"),
    "skeletonize": (_JOBS, "skeletonize"),
    "mirror": (_JOBS, "mirror"),
    "export": (_JOBS, "export"),
    "lookup": (_JOBS, "lookup"),
    "lookup_table": (_JOBS, "lookup_table"),
    "view": (_JOBS, "view"),
    "shot": (_JOBS, "shot"),
    "fix_names": (_JOBS, "fix_names"),
}
"""name -> (module, attribute)"""


def __getattr__(name: str) -> Any:
    place = _LAZY.get(name)
    if place is None:
        raise AttributeError(f"module 'fascicle' has no attribute {name!r}")
    return getattr(import_module(place[0]), place[1])


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
