"""Random writes and reads at several versions against plain arrays."""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from image_instances import Images
from PIL import Image

BLOCK = (8, 4, 16)
"""x, y, z"""
LOW, HIGH = -2, 3
"""Blocks of the world on each axis, the last one excluded."""


class ImageModel(RuleBasedStateMachine):
    """The newest version is written to; every version can be read at any time."""

    @initialize(
        compression=st.sampled_from(["lz4", "none", "gzip", "snappy"]),
        kind=st.sampled_from([("uint8blk", "u1"), ("uint16blk", "u2"), ("float32blk", "f4")]),
        background=st.sampled_from([0, 7]),
    )
    def begin(self, compression: str, kind: tuple[str, str], background: int) -> None:
        typename, self.dtype = kind
        size = ",".join(map(str, BLOCK))
        self.images = Images(typename, BlockSize=size, Compression=compression, Background=str(background))
        x, y, z = (edge * (HIGH - LOW) for edge in BLOCK)
        self.worlds = [np.full((z, y, x), background, self.dtype)]
        self.written: list[set[tuple[int, int, int]]] = [set()]
        self.background = background

    @property
    def newest(self) -> int:
        return len(self.worlds)

    def part(self, version: int, low_xyz: list[int], size_xyz: list[int]) -> np.ndarray[Any, Any]:
        """The model's voxels, which may lie beyond its world."""
        world = self.worlds[version - 1]
        origin = [edge * LOW for edge in BLOCK]
        out = np.full(size_xyz[::-1], self.background, self.dtype)
        inner, outer = [], []
        for axis in (2, 1, 0):
            start = low_xyz[axis] - origin[axis]
            stop = start + size_xyz[axis]
            edge = world.shape[2 - axis]
            first, last = max(0, start), min(stop, edge)
            inner.append(slice(first, max(first, last)))
            outer.append(slice(first - start, max(first, last) - start))
        if all(s.stop > s.start for s in inner):
            out[tuple(outer)] = world[tuple(inner)]
        return out

    @precondition(lambda self: self.newest < 4)
    @rule()
    def new_version(self) -> None:
        self.worlds.append(self.worlds[-1].copy())
        self.written.append(set(self.written[-1]))

    @rule(
        low=st.tuples(*[st.integers(LOW, HIGH - 1)] * 3),
        size=st.tuples(*[st.integers(1, 3)] * 3),
        seed=st.integers(0, 1000),
        flat=st.booleans(),
        by_row=st.booleans(),
    )
    def write(self, low: Any, size: Any, seed: int, flat: bool, by_row: bool) -> None:
        size = [min(n, HIGH - a) for n, a in zip(size, low, strict=True)]
        if by_row:
            size[1] = size[2] = 1
        shape = [n * edge for n, edge in zip(size, BLOCK, strict=True)][::-1]
        volume = np.random.default_rng(seed).integers(0, 1 if flat else 250, shape).astype(self.dtype)
        start = [(a - LOW) * edge for a, edge in zip(low, BLOCK, strict=True)]
        region = tuple(slice(a, a + n) for a, n in zip(start[::-1], shape, strict=True))
        self.worlds[-1][region] = volume
        self.written[-1] |= {
            (low[0] + x, low[1] + y, low[2] + z) for x in range(size[0]) for y in range(size[1]) for z in range(size[2])
        }
        if by_row:
            x = BLOCK[0]
            body = b"".join(volume[:, :, i * x : (i + 1) * x].tobytes() for i in range(size[0]))
            self.images.post(f"blocks/{low[0]}_{low[1]}_{low[2]}/{size[0]}", body, self.newest)
        else:
            offset = tuple(a * edge for a, edge in zip(low, BLOCK, strict=True))
            self.images.put_volume(volume, offset, self.newest)  # type: ignore[arg-type]

    @rule(
        low=st.tuples(st.integers(-25, 30), st.integers(-12, 15), st.integers(-50, 60)),
        size=st.tuples(st.integers(1, 30), st.integers(1, 15), st.integers(1, 40)),
        version=st.integers(1, 4),
    )
    def read_box(self, low: Any, size: Any, version: int) -> None:
        version = min(version, self.newest)
        path = f"raw/0_1_2/{'_'.join(map(str, size))}/{'_'.join(map(str, low))}"
        assert self.images.get(path, version) == self.part(version, list(low), list(size)).tobytes()

    @rule(
        low=st.tuples(st.integers(-25, 30), st.integers(-12, 15), st.integers(-50, 60)),
        width=st.integers(1, 40),
        height=st.integers(1, 40),
        plane=st.sampled_from(["xy", "xz", "yz"]),
        version=st.integers(1, 4),
    )
    def read_slice(self, low: Any, width: int, height: int, plane: str, version: int) -> None:
        version = min(version, self.newest)
        axes = {"xy": (0, 1), "xz": (0, 2), "yz": (1, 2)}[plane]
        size = [1, 1, 1]
        size[axes[0]], size[axes[1]] = width, height
        expected = self.part(version, list(low), size).reshape(height, width)
        data = self.images.get(f"raw/{plane}/{width}_{height}/{'_'.join(map(str, low))}", version)
        shown = np.asarray(Image.open(io.BytesIO(data)))
        if self.dtype == "f4":
            shown = np.ascontiguousarray(shown).view("<f4")[:, :, 0]
        assert np.array_equal(shown, expected)

    @rule(
        low=st.tuples(*[st.integers(LOW - 1, HIGH)] * 3),
        size=st.tuples(*[st.integers(1, 4)] * 3),
        version=st.integers(1, 4),
        specific=st.booleans(),
    )
    def read_blocks(self, low: Any, size: Any, version: int, specific: bool) -> None:
        version = min(version, self.newest)
        asked = [
            (low[0] + x, low[1] + y, low[2] + z) for z in range(size[2]) for y in range(size[1]) for x in range(size[0])
        ]
        if specific:
            names = ",".join(f"{x},{y},{z}" for x, y, z in asked)
            data = self.images.get(f"specificblocks?blocks={names}&compression=uncompressed", version)
        else:
            sizes, offset = ("_".join(str(a * b) for a, b in zip(v, BLOCK, strict=True)) for v in (size, low))
            data = self.images.get(f"subvolblocks/{sizes}/{offset}?compression=uncompressed", version)
        found = {}
        while data:
            x, y, z, length = struct.unpack("<4i", data[:16])
            found[x, y, z] = data[16 : 16 + length]
            data = data[16 + length :]
        assert set(found) == self.written[version - 1] & set(asked)
        for block, voxels in found.items():
            corner = [a * edge for a, edge in zip(block, BLOCK, strict=True)]
            assert voxels == self.part(version, corner, list(BLOCK)).tobytes()


ImageModel.TestCase.settings = settings(max_examples=15, stateful_step_count=15, deadline=None)
TestImageModel = ImageModel.TestCase
