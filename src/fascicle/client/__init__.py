"""A client for people: open a version, slice its volumes, look up points, read and write what is noted.

`fascicle.open` is its entrance; the jobs of the command line are functions in `fascicle.client.jobs`.
"""

from __future__ import annotations

from fascicle.client.version import Version, open_version

__all__ = ["Version", "open_version"]
