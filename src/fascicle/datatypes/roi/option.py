"""The option `roi` of voxel requests: only blocks that have a voxel inside of a region are read or written.

Blocks are those of the volume that is asked. Where they are of another size than the region's, one belongs to the
region if any voxel of it does.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fascicle.datatypes.base import Call, Option
from fascicle.datatypes.roi.regions import Region, region_named
from fascicle.datatypes.voxel_requests import Triple

ROI = Option("roi", "an `roi` instance, `<name>` or `<name>,<uuid>`: only blocks with a voxel inside of it")


def region_of(call: Call) -> Region | None:
    """The region that a request is confined to. Raises BadRequest if its option names none."""
    text = call.query.get("roi")
    return region_named(call.catalog, call.txn, call.node, text) if text else None


def blank(
    voxels_zyx: NDArray[Any],
    offset_xyz: Triple,
    region: Region,
    block_size_xyz: Triple,
    background: int = 0,
    attenuation: int = 0,
) -> None:
    """Write `background` into the voxels [z, y, x(, channel)] whose blocks lie outside, or halve them some times."""
    sz, sy, sx = voxels_zyx.shape[:3]
    for part in region.outside(offset_xyz, (sx, sy, sz), block_size_xyz):
        if attenuation:
            voxels_zyx[part] = np.right_shift(voxels_zyx[part], attenuation)
        else:
            voxels_zyx[part] = background
