"""NanoVDB grids read back voxel by voxel, the way its own accessors do."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from fascicle.errors import BadRequest
from fascicle.formats import nanovdb


class Grid:
    """Looks up voxels by following the offsets of a grid."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        magic, _, version, _, index, count, size = struct.unpack_from("<8sQIIIIQ", data)
        assert (magic, version >> 21, index, count, size) == (b"NanoVDB0", 32, 0, 1, len(data))
        self.name = data[40:296].rstrip(b"\0").decode()
        self.voxel_size = struct.unpack_from("<3d", data, 608)
        assert struct.unpack_from("<II", data, 632) == (8, 20)
        self.value_count = struct.unpack_from("<Q", data, 656)[0]
        offsets = struct.unpack_from("<4q", data, 672)
        self.leaf, self.lower, self.upper, self.root = (672 + offset for offset in offsets)
        self.counts = struct.unpack_from("<3I", data, 704)
        self.voxels = struct.unpack_from("<Q", data, 728)[0]
        assert all(offset % 32 == 0 for offset in offsets)

    def boxes(self) -> tuple[int, ...]:
        return struct.unpack_from("<6i", self.data, self.root)

    def value(self, x: int, y: int, z: int) -> int:
        """The index of a voxel; 0 if it is off."""
        data = self.data
        key = (((x & 0xFFFFFFFF) >> 12) << 42) | (((y & 0xFFFFFFFF) >> 12) << 21) | ((z & 0xFFFFFFFF) >> 12)
        for tile in range(struct.unpack_from("<I", data, self.root + 24)[0]):
            found, child = struct.unpack_from("<Qq", data, self.root + 96 + 32 * tile)
            if found == key:
                at = self.root + child
                break
        else:
            return 0
        for bits, below in ((5, 7), (4, 3)):
            local = [(v >> below) & ((1 << bits) - 1) for v in (x, y, z)]
            n = (local[0] << 2 * bits) | (local[1] << bits) | local[2]
            size = 1 << 3 * bits
            if not data[at + 32 + size // 8 + (n >> 3)] >> (n & 7) & 1:
                return 0
            at += struct.unpack_from("<q", data, at + 32 + size // 4 + 32 + 8 * n)[0]
        low = struct.unpack_from("<3i", data, at)
        dif = data[at + 12 : at + 15]
        i = (x & 7) << 6 | (y & 7) << 3 | (z & 7)
        words = struct.unpack_from("<8Q", data, at + 16)
        word, mask = words[i >> 6], 1 << (i & 63)
        if not word & mask:
            return 0
        assert all(a <= v <= a + d for a, d, v in zip(low, dif, (x, y, z), strict=True))
        offset, sums = struct.unpack_from("<QQ", data, at + 80)
        value = offset + (word & (mask - 1)).bit_count()
        if i >> 6:
            value += sums >> (9 * ((i >> 6) - 1)) & 511
        return value


def test_every_voxel_has_its_own_number() -> None:
    rng = np.random.default_rng(4)
    on: set[tuple[int, int, int]] = set()
    origins, masks = [], []
    for corner in ((0, 0, 0), (-64, 128, 4096), (4096, -4096, -8), (40, 0, 0)):
        dense = rng.random((16, 24, 32)) < 0.2
        dense[8:, :8, 8:16] = False
        z, y, x = np.nonzero(dense)
        on |= set(zip((x + corner[0]).tolist(), (y + corner[1]).tolist(), (z + corner[2]).tolist(), strict=True))
        places, part = nanovdb.masks_of(dense)
        origins.append(places + corner)
        masks.append(part)
    parts = nanovdb.encode_on_index(np.concatenate(origins), np.concatenate(masks), (8, 8, 10.5), "some")
    grid = Grid(b"".join(parts))
    assert (grid.name, grid.voxel_size) == ("some", (8, 8, 10.5))
    assert grid.voxels == len(on) == grid.value_count - 1
    assert sorted(grid.value(*xyz) for xyz in on) == list(range(1, len(on) + 1))
    for x, y, z in list(on)[::7]:
        for step in ((1, 0, 0), (0, -1, 0), (0, 0, 1)):
            near = (x + step[0], y + step[1], z + step[2])
            assert (grid.value(*near) > 0) == (near in on)
    assert grid.value(9000, 9000, 9000) == 0
    listed = np.array(sorted(on))
    assert grid.boxes() == (*listed.min(axis=0).tolist(), *listed.max(axis=0).tolist())


def test_refusals() -> None:
    origins, masks = nanovdb.masks_of(np.ones((8, 8, 8), np.bool_))
    with pytest.raises(BadRequest):
        nanovdb.encode_on_index(origins, masks, (1, 1, 1), "x" * 256)
    with pytest.raises(BadRequest):
        nanovdb.encode_on_index(origins[:0], masks[:0], (1, 1, 1), "x")
