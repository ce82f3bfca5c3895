"""The annotations of a server as an export reads them: a copy in a scratch store, whose bodies the server is asked for.

Only what every server of this API answers is asked: `info`, `all-elements` (as it comes, block by block) and `labels`.
The copy has what the spatial index depends on: the elements, in blocks of the same size, and the bounds and resolution
of the volume that they are in. Lists that were posted for labels (`POST labels`) cannot be told from others there.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec
import numpy as np

from fascicle.datatypes.annotation.layout import DEFAULT_BLOCK_SIZE, I64, U64
from fascicle.datatypes.annotation.segmentation import Segmentation
from fascicle.pipeline.ingest_connections import Connection, LocalConnection, ServerConnection
from fascicle.pipeline.sources import SourceSpec
from fascicle.pipeline.synapse_table import blocks_of, bodies_of
from fascicle.precomputed.annotation_overview import Source

REPO = "copy"
_ASKED = 10_000
_POSTED = 2000
_SHAPE = ("VoxelSize", "VoxelUnits", "MinPoint", "MaxPoint")


@dataclass(frozen=True, slots=True)
class ServedLabels:
    """Where bodies are asked for. Nothing of it where elements are in no segmentation."""

    server: str = ""
    node: str = ""
    instance: str = ""


@dataclass(frozen=True, slots=True)
class ServedSegmentation(Segmentation):
    """A label map whose voxels only a server has."""

    connection: Connection | None = None
    labels: ServedLabels = ServedLabels()

    def supervoxels(self, xyz: I64) -> U64:
        """Bodies at once: what a server says of a voxel."""
        assert self.connection is not None
        points = xyz.tolist()
        found: list[int] = []
        for at in range(0, len(points), _ASKED):
            some = points[at : at + _ASKED]
            found += bodies_of(self.connection, self.labels.node, self.labels.instance, some)
        return np.array(found, np.uint64)

    def bodies(self, supervoxels: U64) -> U64:
        """They are bodies already."""
        return supervoxels


def served(source: Source, labels: ServedLabels, connection: Connection) -> Source:
    """A source of a copy, with the bodies of the server."""
    known = source.segmentation
    if known is None:
        return source
    asked = ServedSegmentation(known.instance, known.view, known.cache, connection, labels)
    return replace(source, segmentation=asked)


def copy_annotations(spec: SourceSpec, name: str, folder: Path) -> list[Any]:
    """Copy an instance of a version of a server into a store in `folder`; the label map that bodies are asked of.

    Raises IngestError if the server refuses.
    """
    shutil.rmtree(folder, ignore_errors=True)
    node = spec.version
    with ServerConnection(spec.server, "") as server, LocalConnection(folder) as copy:
        followed, volume = _reference(server, node, name)
        given = blocks_of(server, node, name)
        first = list(islice(given, 16))
        size = _block_size(first, volume)
        repo = copy.json("POST", "/api/repos", {"alias": REPO})["root"]
        if volume:
            # the one that is followed, or the one that bounds and resolution are taken from
            shape = {key: _listed(volume[key]) for key in _SHAPE if volume.get(key)}
            settings = {"typename": "labelmap", "dataname": "volume", **shape, "BlockSize": _listed(size)}
            copy.json("POST", f"/api/repo/{repo}/instance", settings)
        copy.json("POST", f"/api/repo/{repo}/instance", {"typename": "annotation", "dataname": name})
        if followed:
            copy.json("POST", f"/api/node/{repo}/{quote(name)}/sync", {"sync": "volume"})
        elements = chain.from_iterable(part for _, part in chain(first, given))
        while some := list(islice(elements, _POSTED)):
            path = f"/api/node/{repo}/{quote(name)}/elements?kafkalog=off"
            copy.request("POST", path, msgspec.json.encode(some))
    return [followed]


def _reference(server: Connection, node: str, name: str) -> tuple[str, dict[str, Any]]:
    """The label map that an instance follows, and the properties of the volume that its elements are in."""
    instances = server.json("GET", f"/api/repo/{node}/info")["DataInstances"]
    kinds = {other: one["Base"]["TypeName"] for other, one in instances.items()}
    followed = next((one for one in instances[name]["Base"].get("Syncs") or () if kinds.get(one) == "labelmap"), "")
    volumes = [other for other, one in instances.items() if "VoxelSize" in (one.get("Extended") or {})]
    chosen = followed or min(volumes, key=lambda other: (kinds[other] != "labelmap", other), default="")
    if not chosen:
        return "", {}
    volume: dict[str, Any] = server.json("GET", f"/api/node/{node}/{quote(chosen)}/info")["Extended"]
    if kinds[chosen] != "labelmap":  # its bounds say nothing of elements
        volume = {key: value for key, value in volume.items() if key not in ("MinPoint", "MaxPoint")}
    return followed, volume


def _block_size(blocks: Sequence[tuple[str, list[Any]]], volume: dict[str, Any]) -> Sequence[int]:
    """The size x, y, z of the blocks that a server has elements in, as the names of some blocks show."""
    sizes = [volume.get("BlockSize") or DEFAULT_BLOCK_SIZE, *((edge,) * 3 for edge in (64, 32, 128, 16))]
    for size in sizes:
        if all(_named(element["Pos"], size) == block for block, elements in blocks for element in elements):
            return size
    return sizes[0]


def _named(position: Sequence[int], size: Sequence[int]) -> str:
    return ",".join(str(at // edge) for at, edge in zip(position, size, strict=True))


def _listed(values: Sequence[Any]) -> str:
    return ",".join(map(str, values))

