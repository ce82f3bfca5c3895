"""Label blocks at half resolution, by DVID's rule (`datatype/labelmap/downres.go`).

Eight voxels become one: of their labels other than 0 the most frequent, of equally frequent ones the smallest; 0 if
there is no other. A parent block at the next scale is made of eight such halves, one per octant.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fascicle.formats.label_block import Block, opened
from fascicle.kernels import downsample


def halve_into(block: Block, out_zyx: NDArray[np.uint64]) -> None:
    """Write a label block at half resolution into `out_zyx`, u64[z,y,x] of half the block's sides, any strides."""
    parts = opened(block)
    depth, height, width = parts.shape_zyx
    if out_zyx.shape != (depth // 2, height // 2, width // 2) or out_zyx.dtype != np.uint64:
        raise ValueError(f"half of a block of {parts.shape_zyx} voxels does not fit {out_zyx.dtype}{out_zyx.shape}")
    target = out_zyx if out_zyx.strides[2] == 8 and out_zyx.flags.aligned else np.empty(out_zyx.shape, np.uint64)
    downsample.halve(
        parts.data,
        parts.start,
        parts.table,
        parts.gx,
        parts.gy,
        parts.gz,
        target.ctypes.data,
        target.strides[0],
        target.strides[1],
    )
    if target is not out_zyx:
        out_zyx[...] = target


def parent_of(children: Sequence[Block | None], parent_zyx: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """A dense parent block u64[z,y,x] after its children changed; `parent_zyx` is its old state and is changed.

    `children` has eight places, that of octant (z & 1) * 4 + (y & 1) * 2 + (x & 1) of a child's block coordinate; the
    voxels of octants without a changed child (None) stay.
    """
    depth, height, width = (n // 2 for n in parent_zyx.shape)
    for octant, child in enumerate(children):
        if child is not None:
            z, y, x = (octant >> 2) * depth, (octant >> 1 & 1) * height, (octant & 1) * width
            halve_into(child, parent_zyx[z : z + depth, y : y + height, x : x + width])
    return parent_zyx
