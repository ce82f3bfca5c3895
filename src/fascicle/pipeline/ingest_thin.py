"""Coarser scales of a label map in which thin neurites survive, in place of those that it makes itself.

Each voxel of a coarser scale stands for eight: of their labels other than 0 the one with the fewest voxels in the block
of 8 x 8 x 8 around. Where labels are changed later, the label map makes coarser voxels by its own rule.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import numpy as np
from isal import igzip
from numpy.typing import NDArray

from fascicle.pipeline.ingest_connections import Connection
from fascicle.pipeline.ingest_plan import Box, box_between, halved, past, tiling

Labels = NDArray[np.uint64]
_RECORD = struct.Struct("<4i")


def thin_units(box: Box, scales: int, block: int, limit_bytes: int) -> Iterator[tuple[int, Box]]:
    """Each coarser scale and the boxes of blocks that are made of it at once, if `box` is that of the finest scale."""
    for scale in range(1, scales + 1):
        box = halved(box)
        for unit in tiling(box, block, 10 * 8, limit_bytes).units():
            yield scale, unit


def make_thin(connection: Connection, path: str, scale: int, unit: Box, block: int) -> None:
    """Replace the blocks of a box, in voxels of `scale`, by what is stored at the next finer scale.

    `path` is that of the instance. Raises IngestError if the server refuses.
    """
    (x, y, z), (ex, ey, ez) = unit.offset_xyz, past(unit)
    finer = box_between((2 * x, 2 * y, 2 * z), (2 * ex, 2 * ey, 2 * ez))
    size, at = ("_".join(map(str, values)) for values in (finer.size_xyz, finer.offset_xyz))
    data = connection.request("GET", f"{path}/raw/0_1_2/{size}/{at}?supervoxels=true&scale={scale - 1}")
    coarse = thin(np.frombuffer(data, "<u8").reshape(finer.shape_zyx))
    records = b"".join(_records(coarse, (x // block, y // block, z // block), block))
    connection.request("POST", f"{path}/blocks?scale={scale}&noindexing=true", records)


def thin(labels_zyx: Labels) -> Labels:
    """Labels at half the resolution on each axis."""
    from fascicle.kernels.arrays import frozen
    from fascicle.kernels.coarser_voxels import thin_labels

    depth, height, width = labels_zyx.shape
    out = np.empty([-(-side // 2) for side in labels_zyx.shape], np.uint64)
    flat, area = frozen(labels_zyx).reshape(-1), height * width
    pitch = (out.shape[2], out.shape[1] * out.shape[2])
    thin_labels(flat, 0, width, area, depth, height, width, 2, 2, 2, out.reshape(-1), 0, *pitch)
    return out


def _records(voxels: Labels, first: tuple[int, int, int], block: int) -> Iterator[bytes]:
    """The blocks of an array as a stream of label blocks; `first` is the block x, y, z at its corner."""
    from fascicle.formats import label_block

    for z in range(0, voxels.shape[0], block):
        for y in range(0, voxels.shape[1], block):
            for x in range(0, voxels.shape[2], block):
                part = np.ascontiguousarray(voxels[z : z + block, y : y + block, x : x + block])
                data = igzip.compress(label_block.encode(part), 1)
                place = (a + b // block for a, b in zip(first, (x, y, z), strict=True))
                yield _RECORD.pack(*place, len(data)) + data
