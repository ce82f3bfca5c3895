"""The seam of what is made from an instance and shown in a directory of its own: meshes, skeletons, properties.

`/precomputed/<repo>/<version>/<instance>/mesh/...` is answered by the module for `mesh`, and so on. The volume's `info`
links to a directory only if `exists` says so. Instances that are no volumes are directories themselves.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec

import msgspec

from fascicle.formats.precomputed_info import VolumeInfo
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


_PARTS = {
    "mesh": "fascicle.precomputed.meshes:Meshes",
    "skeletons": "fascicle.precomputed.skeletons:Skeletons",
    "properties": "fascicle.precomputed.properties:Properties",
}
"""Directories of a labelmap by their names: modules are imported when they are needed."""
_WHOLE = {
    "annotation": "fascicle.precomputed.annotations:Annotations",
    "neuronjson": "fascicle.precomputed.properties:NeuronProperties",
}
"""Instances that are such a directory, by their types."""
_LINKS = {"mesh": "mesh", "skeletons": "skeletons", "properties": "segment_properties"}
"""The members of a volume's `info` that name its directories."""


def part(name: str) -> Directory | None:
    """The directory of a labelmap that has a name; one for the whole process."""
    return _loaded(_PARTS[name]) if name in _PARTS else None


def whole(typename: str) -> Directory | None:
    """What instances of a type are shown as, if they are no volumes; one for the whole process."""
    return _loaded(_WHOLE[typename]) if typename in _WHOLE else None


@cache
def _loaded(place: str) -> Directory | None:
    module, _, name = place.partition(":")
    if find_spec(module) is None:
        return None
    found: Directory = getattr(import_module(module), name)()
    return found


def linked(snapshot: Snapshot, instance: Instance, form: Form, info: VolumeInfo) -> VolumeInfo:
    """The info of a volume with links to the directories that it has."""
    if info.type != "segmentation":
        return info
    links = {
        member: name
        for name, member in _LINKS.items()
        if (directory := part(name)) is not None and directory.exists(snapshot, instance, form)
    }
    return msgspec.structs.replace(info, **links)
