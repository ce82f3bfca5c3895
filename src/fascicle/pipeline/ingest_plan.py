"""How a volume is cut into units of work: boxes of whole blocks, none of which is larger than memory allows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from fascicle.datatypes.voxel_requests import Triple, VolumeRequest

Box = VolumeRequest


def box_between(low_xyz: Triple, high_xyz: Triple) -> Box:
    """The box of voxels from `low` up to, but without, `high`."""
    (x0, y0, z0), (x1, y1, z1) = low_xyz, high_xyz
    return Box((x1 - x0, y1 - y0, z1 - z0), low_xyz)


def past(box: Box) -> Triple:
    """The first coordinate behind a box on each axis."""
    x, y, z = box.end_xyz
    return x + 1, y + 1, z + 1


def aligned(box: Box, block: int) -> Box:
    """The smallest box of whole blocks around a box."""
    low = [a // block * block for a in box.offset_xyz]
    high = [-(-b // block) * block for b in past(box)]
    return box_between((low[0], low[1], low[2]), (high[0], high[1], high[2]))


def clipped(box: Box, limits: Box) -> Box | None:
    """What two boxes share, or None."""
    low = [max(a, b) for a, b in zip(box.offset_xyz, limits.offset_xyz, strict=True)]
    high = [min(a, b) for a, b in zip(past(box), past(limits), strict=True)]
    if any(a >= b for a, b in zip(low, high, strict=True)):
        return None
    return box_between((low[0], low[1], low[2]), (high[0], high[1], high[2]))


def halved(box: Box) -> Box:
    """The voxels of the next coarser scale that a box touches."""
    low = [a // 2 for a in box.offset_xyz]
    high = [-(-b // 2) for b in past(box)]
    return box_between((low[0], low[1], low[2]), (high[0], high[1], high[2]))


def coarser_scales(box: Box, block: int) -> int:
    """How many coarser scales there should be: until the volume fits into a block, at least 1."""
    longest, scales = max(box.size_xyz), 1
    while longest > block << scales:
        scales += 1
    return scales


@dataclass(frozen=True, slots=True)
class Tiling:
    """Units of one shape (in voxels, multiples of a block), at multiples of it, that cover the aligned `box`."""

    box: Box
    unit_xyz: Triple

    def units(self) -> Iterator[Box]:
        """The units in the order z, y, x, cut off where the box ends."""
        ranges = [
            range(low // unit * unit, high, unit)
            for low, high, unit in zip(self.box.offset_xyz, past(self.box), self.unit_xyz, strict=True)
        ]
        ux, uy, uz = self.unit_xyz
        for z in ranges[2]:
            for y in ranges[1]:
                for x in ranges[0]:
                    unit = clipped(Box((ux, uy, uz), (x, y, z)), self.box)
                    assert unit is not None
                    yield unit

    def __len__(self) -> int:
        count = 1
        for low, high, unit in zip(self.box.offset_xyz, past(self.box), self.unit_xyz, strict=True):
            count *= -(-high // unit) - low // unit
        return count


def tiling(box: Box, block: int, bytes_per_voxel: int, limit_bytes: int) -> Tiling:
    """Units of at most `limit_bytes`, but of at least one block; as flat as possible, since planes are read whole.

    Only where a whole layer of blocks fits several times, units are 2, 4 or 8 blocks thick: then coarser scales of
    labels are made less often.
    """
    outer = aligned(box, block)
    unit = [*outer.size_xyz[:2], block]

    def size() -> int:
        return unit[0] * unit[1] * unit[2] * bytes_per_voxel

    for axis in (1, 0):
        while size() > limit_bytes and unit[axis] > block:
            unit[axis] = max(block, -(-unit[axis] // block) // 2 * block)
    while 2 * size() <= limit_bytes and unit[2] < 8 * block and unit[2] < outer.size_xyz[2]:
        unit[2] *= 2
    return Tiling(outer, (unit[0], unit[1], unit[2]))
