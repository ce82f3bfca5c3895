"""The seam of what is made from an instance and shown in a directory of its own: meshes, skeletons, properties.

`/precomputed/<repo>/<version>/<instance>/mesh/...` is answered by the module for `mesh`, and so on. The volume's `info`
links to a directory only if `exists` says so.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from fascicle.precomputed.builders import Form, Snapshot
from fascicle.versions.model import Instance

BINARY = "application/octet-stream"
JSON = "application/json"


@dataclass(frozen=True, slots=True)
class Served:
    """An object of such a directory."""

    body: bytes
    kind: str = BINARY
    compressible: bool = True
    """Whether it may be sent in a gzip stream. What is read by ranges may not."""
    lasting: bool = True
    """Whether it is the same forever at a committed version."""


class Directory(ABC):
    """One kind of derived things of an instance at a version."""

    name: str
    """That of the directory, and of the link."""

    @abstractmethod
    def exists(self, snapshot: Snapshot, instance: Instance, form: Form) -> bool:
        """Whether an instance has such things at a version. Cheap: no voxels are read."""

    @abstractmethod
    def serve(self, snapshot: Snapshot, instance: Instance, form: Form, path: str) -> Served:
        """An object by its path in the directory, such as `info` or `1234:0`. Raises NotFound."""
