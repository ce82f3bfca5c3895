"""What the volumes of all kinds of instances share: where they are read from, how scales lie, how chunks are encoded.

Source: https://github.com/google/neuroglancer/blob/master/src/datasource/precomputed/volume.md
Triples are x, y, z; arrays are [z, y, x] or [z, y, x, channel].
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fascicle.datatypes.base import view_of
from fascicle.datatypes.slice_images import DEFAULT_QUALITY
from fascicle.datatypes.voxel_requests import Triple, VolumeRequest
from fascicle.formats import volume_chunks
from fascicle.formats.precomputed_info import Scale
from fascicle.store.base import ReadTransaction, Store
from fascicle.versions.catalog import Catalog
from fascicle.versions.model import Instance, Node
from fascicle.versions.resolution import VersionedView

USUAL_EDGE = 64
"""Voxels per axis of a chunk, unless blocks say otherwise."""
LONGEST_EDGE = 128
"""Blocks up to this length are chunks; of longer ones a chunk shows a part."""
ENCODINGS = ("raw", "jpeg", "png", volume_chunks.SEGMENTATION)
SEGMENTATION_BLOCK: Triple = (8, 8, 8)

_NM = {
    "angstrom": 0.1, "angstroms": 0.1, "picometer": 1e-3, "picometers": 1e-3, "pm": 1e-3,
    "um": 1e3, "µm": 1e3, "μm": 1e3, "micron": 1e3, "microns": 1e3, "micrometer": 1e3, "micrometers": 1e3,
    "mm": 1e6, "millimeter": 1e6, "millimeters": 1e6, "m": 1e9, "meter": 1e9, "meters": 1e9,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Form:
    """How an instance is shown."""

    supervoxels: bool = False
    """Supervoxels instead of bodies."""
    encoding: str = ""
    """That of the chunks; empty for the one that suits the instance."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One version in one transaction, which volumes are read from. Used by one thread."""

    store: Store
    txn: ReadTransaction
    catalog: Catalog
    node: Node
    settings: Mapping[str, Any]
    """Those that a `Call` carries."""

    def view(self, instance: Instance) -> VersionedView:
        """The keys of an instance as seen at the version."""
        version = self.node.id if instance.versioned else self.catalog.repo(self.node.repo_id).root_version
        return view_of(self.txn, instance, self.catalog.ancestry(version), self.settings)


def resolution_nm(properties: Mapping[str, Any]) -> tuple[float, float, float]:
    """The size of a voxel in nm. Units of another name than those of lengths count as nm, as they do for viewers."""
    units = [_NM.get(unit.lower(), 1.0) for unit in properties["VoxelUnits"]]
    x, y, z = (_rounded(edge * unit) for edge, unit in zip(properties["VoxelSize"], units, strict=True))
    return x, y, z


def _rounded(length: float) -> float:
    """Without the noise of a multiplication: 0.008 um are 8 nm."""
    return float(f"{length:.12g}")


def chunk_of(block_xyz: Sequence[int]) -> Triple:
    """The size of chunks that are made of blocks of a size: one block each, or several, or a part of one."""

    def edge(size: int) -> int:
        if size > LONGEST_EDGE:
            return USUAL_EDGE
        return size * max(1, USUAL_EDGE // size)

    x, y, z = (edge(size) for size in block_xyz)
    return x, y, z


def make_scale(
    level: int,
    low_xyz: Sequence[int],
    high_xyz: Sequence[int],
    resolution: tuple[float, float, float],
    block_xyz: Sequence[int],
    encoding: str,
) -> Scale:
    """The scale that shows the voxels from `low_xyz` to `high_xyz`, both included and counted at this scale.

    It begins where a chunk begins, counted from voxel 0, so that chunks are blocks; it ends behind its last voxel. Its
    key is its number: resolutions may be changed, and a chunk that somebody keeps must not become another one's.
    """
    chunk = chunk_of(block_xyz)
    offset = [low // edge * edge for low, edge in zip(low_xyz, chunk, strict=True)]
    size = [high + 1 - start for high, start in zip(high_xyz, offset, strict=True)]
    return Scale(
        key=str(level),
        size=(size[0], size[1], size[2]),
        voxel_offset=(offset[0], offset[1], offset[2]),
        resolution=resolution,
        chunk_sizes=(chunk,),
        encoding=encoding,
        compressed_segmentation_block_size=(
            SEGMENTATION_BLOCK if encoding == volume_chunks.SEGMENTATION else None
        ),
        jpeg_quality=DEFAULT_QUALITY if encoding == "jpeg" else None,
    )


def encoded(voxels: NDArray[Any], encoding: str) -> bytes:
    """A chunk from voxels [z, y, x] or [z, y, x, channel]."""
    planar = np.moveaxis(voxels, -1, 0) if voxels.ndim == 4 else voxels[None]
    level = DEFAULT_QUALITY if encoding == "jpeg" else None
    return volume_chunks.encode(planar, encoding, SEGMENTATION_BLOCK, level)


def fills_block(box: VolumeRequest, block_xyz: Sequence[int]) -> bool:
    """Whether a chunk is exactly one block."""
    return box.size_xyz == tuple(block_xyz) and box.is_aligned(block_xyz)
