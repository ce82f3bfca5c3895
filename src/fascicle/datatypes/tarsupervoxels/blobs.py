"""Blobs of supervoxels, and which supervoxels a body has.

    class 1: supervoxel u64 | extension -> bytes        (not versioned)

There is one blob for a supervoxel and extension in the whole repo: supervoxels do not change, so a blob made at one
version is right at all. Splitting a supervoxel retires its id, and the new ids have no blobs; nothing has to be done
for that here, as bodies are looked up in the labelmap at the version that is asked for.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fascicle.datatypes.base import Call
from fascicle.errors import BadRequest
from fascicle.store.base import ReadTransaction, WriteTransaction
from fascicle.versions import keys
from fascicle.versions.model import Instance
from fascicle.versions.resolution import VersionedView

U64 = NDArray[np.uint64]

BLOBS = 1
_SUPERVOXEL = struct.Struct(">Q")


class Blobs:
    """The blobs of one instance under its current extension."""

    __slots__ = ("_prefix", "_suffix", "txn")

    def __init__(self, txn: ReadTransaction, instance: Instance) -> None:
        self.txn = txn
        self._prefix = keys.prefix(instance.id, BLOBS)
        self._suffix = extension_of(instance).encode()

    def _key(self, supervoxel: int) -> bytes:
        return self._prefix + _SUPERVOXEL.pack(supervoxel) + self._suffix

    def get(self, supervoxel: int) -> bytes | None:
        return self.txn.get(self._key(supervoxel))

    def present(self, supervoxels: Iterable[int]) -> Iterator[bool]:
        """For each supervoxel whether it has a blob; an empty one counts."""
        handle, key = self.txn.handle, self._key
        return (handle(key(supervoxel)) is not None for supervoxel in supervoxels)

    def put(self, supervoxel: int, data: bytes) -> None:
        assert isinstance(self.txn, WriteTransaction)
        self.txn.put(self._key(supervoxel), data)

    def delete(self, supervoxel: int) -> None:
        assert isinstance(self.txn, WriteTransaction)
        self.txn.delete(self._key(supervoxel))


def extension_of(instance: Instance) -> str:
    """The extension of the names of an instance's files, without a leading dot."""
    found: str = instance.properties["Extension"]
    return found


def labelmap_of(call: Call) -> Instance:
    """The labelmap that an instance follows. Raises BadRequest if there is none."""
    followed = set(call.instance.syncs)
    for other in call.catalog.instances(call.instance.repo_id):
        if other.data_uuid in followed and other.typename == "labelmap" and not other.deleted:
            return other
    raise BadRequest(f'data "{call.instance.name}" is not synced with any labelmap instance')


def supervoxels_of(call: Call, label: int) -> U64:
    """The supervoxels u64[n] of a body at the version of a request, ascending. Raises BadRequest if there is none."""
    from fascicle.datatypes.labelmap.bodies import read_body, read_rows
    from fascicle.datatypes.labelmap.remote_index import check_index

    labelmap = labelmap_of(call)
    check_index(replace(call, instance=labelmap))
    version = call.node.id if labelmap.versioned else call.catalog.repo(labelmap.repo_id).root_version
    view = VersionedView(call.txn, labelmap.id, call.catalog.ancestry(version))
    body = read_body(view, label)
    if body is None:
        raise BadRequest(f"label {label} has no supervoxels")
    return read_rows(view, body).supervoxels()[0]
