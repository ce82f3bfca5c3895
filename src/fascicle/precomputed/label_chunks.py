"""Label maps as segmentations: all scales, as bodies or as supervoxels.

A chunk that is one block is made from the block's own tables without expanding it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fascicle.datatypes.image.block_cache import cache_of
from fascicle.datatypes.labelmap import blocks
from fascicle.datatypes.labelmap.mapping import Mapping, mapping_at
from fascicle.datatypes.labelmap.settings import points
from fascicle.datatypes.labelmap.slabs import slabs
from fascicle.datatypes.labelmap.voxels import segmentation_of_block
from fascicle.datatypes.voxel_requests import VolumeRequest
from fascicle.errors import BadRequest, NotFound
from fascicle.formats import gzip_stream
from fascicle.formats.precomputed_info import VolumeInfo
from fascicle.formats.volume_chunks import SEGMENTATION
from fascicle.precomputed.builders import Snapshot, encoded, fills_block, make_scale, resolution_nm
from fascicle.versions.model import Instance
from fascicle.versions.resolution import VersionedView

ENCODINGS = (SEGMENTATION, "raw")


def described(snapshot: Snapshot, instance: Instance, encoding: str) -> VolumeInfo:
    """The volume of a label map. Raises BadRequest for an encoding that cannot hold labels, NotFound without voxels."""
    chosen = encoding or SEGMENTATION
    if chosen not in ENCODINGS:
        raise BadRequest(f"chunks of {instance.name!r}, which is a labelmap, cannot be of encoding {chosen}")
    low, high = points(instance, snapshot.view(instance))
    if low is None or high is None:
        raise NotFound(f"data instance {instance.name!r} has no voxels at version {snapshot.node.uuid}")
    x, y, z = resolution_nm(instance.properties)
    block = instance.properties["BlockSize"]
    scales = [
        make_scale(k, [a >> k for a in low], [b >> k for b in high], (x * 2**k, y * 2**k, z * 2**k), block, chosen)
        for k in range(instance.properties["MaxDownresLevel"] + 1)
    ]
    return VolumeInfo(type="segmentation", data_type="uint64", scales=tuple(scales))


def chunk(
    snapshot: Snapshot,
    instance: Instance,
    encoding: str,
    scale: int,
    box: VolumeRequest,
    supervoxels: bool,
    gzipped: bool = False,
) -> bytes | None:
    """The chunk of a box of voxels of a scale, in a gzip stream if `gzipped`; None if nothing is stored there."""
    view = snapshot.view(instance)
    x, y, z = instance.properties["BlockSize"]
    cache = cache_of(snapshot.store)
    if encoding == SEGMENTATION and fills_block(box, (x, y, z)):
        (at, _) = box.blocks((x, y, z))
        handle = blocks.find_block(view, scale, at)
        if handle is None:
            return None
        return segmentation_of_block(view, cache, handle, _mapping(view, supervoxels), gzipped)
    if not any(len(codes) for codes, _ in blocks.scan_box(view, scale, *box.blocks((x, y, z)))):
        return None
    found = encoded(voxels(snapshot, instance, scale, box, supervoxels), encoding)
    return gzip_stream.gzipped(found, 1) if gzipped else found


def voxels(
    snapshot: Snapshot, instance: Instance, scale: int, box: VolumeRequest, supervoxels: bool
) -> NDArray[np.uint64]:
    """The labels u64[z, y, x] of a box of a scale, 0 where nothing is stored."""
    view = snapshot.view(instance)
    labels = np.empty(box.shape_zyx, np.uint64)
    done = 0
    mapping, cache = _mapping(view, supervoxels), cache_of(snapshot.store)
    for slab in slabs(view, scale, box, instance.properties["BlockSize"], mapping, cache, whole_planes=True):
        labels[done : done + len(slab)] = slab
        done += len(slab)
    return labels


def background(encoding: str, box: VolumeRequest) -> bytes:
    """The chunk of a box of voxels none of which is stored."""
    return encoded(np.zeros(box.shape_zyx, np.uint64), encoding)


def _mapping(view: VersionedView, supervoxels: bool) -> Mapping | None:
    if supervoxels:
        return None
    mapping = mapping_at(view)
    return mapping if mapping.tiers else None
