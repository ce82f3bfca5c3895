"""The sparse volume that a split posts: its runs, block by block."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from fascicle.errors import BadRequest
from fascicle.formats import sparse_volume
from fascicle.formats.block_code import block_codes

Runs = NDArray[np.int32]
Triple = tuple[int, int, int]


class RunsByBlock:
    """Runs i32[n,4] (x, y, z, length; voxels of scale 0) cut at the borders of blocks."""

    def __init__(self, runs: Runs, size_xyz: Triple) -> None:
        width = size_xyz[0]
        first = runs[:, 0].astype(np.int64)
        length = runs[:, 3].astype(np.int64)
        parts = (first + length - 1) // width - first // width + 1
        of_run = np.repeat(np.arange(len(runs)), parts)
        nth = np.arange(len(of_run)) - np.repeat(np.cumsum(parts) - parts, parts)
        bx = first[of_run] // width + nth
        begin = np.maximum(first[of_run], bx * width)
        end = np.minimum((first + length)[of_run], (bx + 1) * width)
        y, z = runs[of_run, 1].astype(np.int64), runs[of_run, 2].astype(np.int64)
        codes = block_codes(np.stack((bx, y // size_xyz[1], z // size_xyz[2]), axis=1))
        order = np.argsort(codes, kind="stable")
        self._pieces: Runs = np.stack((begin, y, z, end - begin), axis=1)[order].astype(np.int32)
        self.codes, starts = np.unique(codes[order], return_index=True)
        """Blocks that the runs touch, ascending."""
        bounds = [*starts.tolist(), len(order)]
        self._places = dict(zip(self.codes.tolist(), pairwise(bounds), strict=True))
        self.voxels = int(length.sum())

    def of(self, code: int) -> Runs:
        """The pieces inside of a block, in the order of the runs."""
        begin, end = self._places.get(code, (0, 0))
        return self._pieces[begin:end]


def posted_runs(body: bytes, smaller_than: int, what: str) -> Runs:
    """The runs of a posted sparse volume, which must be a part, but not all, of something of a known size."""
    runs: Runs = sparse_volume.decode_rles(body)
    lengths = runs[:, 3].astype(np.int64)
    voxels = int(lengths.sum())
    if voxels == 0:
        raise BadRequest(f"bad split of {what}: the split volume has no voxels")
    if voxels >= smaller_than:
        raise BadRequest(f"bad split of {what}: {voxels} voxels were given, it has only {smaller_than}")
    return runs


def voxels_of(runs: Runs) -> NDArray[np.int64]:
    """All voxels i64[n,3] (x, y, z) of runs, in order."""
    lengths = runs[:, 3].astype(np.int64)
    of_run = np.repeat(np.arange(len(runs)), lengths)
    points: NDArray[np.int64] = runs[of_run, :3].astype(np.int64)
    points[:, 0] += np.arange(len(of_run)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return points
