"""Synapses of a generated brain: T-bars just inside of one neurite, with densities in the neurites that it touches.

The same for the same seed. Points are z, y, x in voxels. Not for this module: what they are called in a store
(`fascicle.pipeline.sample_annotations`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_REACH = 28
"""How far, in voxels, the surface may be from a point that is tried."""
_CLEFT = 14
"""How far a density may be from its T-bar."""
_TRIES = 20
"""Directions in which densities of one T-bar are looked for."""
_APART = 3
"""Densities of one T-bar differ by at least so many voxels along some axis."""
_CELL = 14
"""At most one T-bar lies in each cube of this edge."""
_VOXELS_PER_TBAR = 24_000


@dataclass(frozen=True, slots=True)
class SampleSynapses:
    """T-bars and their densities; every T-bar has at least one, no two points are at the same place."""

    tbars_zyx: NDArray[np.int32]
    tbar_confidences: NDArray[np.float64]
    """From 0.5 to 1, in thousandths."""
    densities_zyx: NDArray[np.int32]
    density_confidences: NDArray[np.float64]
    tbar_of_density: NDArray[np.int64]
    """Index of the T-bar of each density, ascending."""


def make_synapses(bodies_zyx: NDArray[np.uint64], seed: int = 1) -> SampleSynapses:
    """Synapses of a volume of bodies (0 is outside of all): roughly one for every 24,000 voxels."""
    noise = np.random.default_rng(seed)
    wanted = bodies_zyx.size // _VOXELS_PER_TBAR + 4
    tbars, ways = _tbars(noise, bodies_zyx, wanted)
    densities, owners = _densities(noise, bodies_zyx, tbars, ways)
    kept, owners = np.unique(owners, return_inverse=True)
    tbars = tbars[kept]
    return SampleSynapses(
        tbars, _confidences(noise, len(tbars)), densities, _confidences(noise, len(densities)), owners.reshape(-1)
    )


def _confidences(noise: np.random.Generator, count: int) -> NDArray[np.float64]:
    return noise.integers(500, 1000, count) / 1000.0


def _unit(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    lengths: NDArray[np.float64] = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.maximum(lengths, 1e-9)


def _along(
    bodies_zyx: NDArray[np.uint64], starts: NDArray[np.float64], ways: NDArray[np.float64], steps: int
) -> tuple[NDArray[np.int32], NDArray[np.uint64]]:
    """Points i32[n, steps + 1, 3] on straight ways from the starts, and the bodies there; 0 outside of the volume."""
    shape = np.array(bodies_zyx.shape)
    points = np.floor(starts[:, None] + ways[:, None] * np.arange(steps + 1)[None, :, None]).astype(np.int32)
    inside = np.all((points >= 0) & (points < shape), axis=-1)
    z, y, x = np.moveaxis(np.clip(points, 0, shape - 1), -1, 0)
    return points, np.where(inside, bodies_zyx[z, y, x], np.uint64(0))


def _first(found: NDArray[np.bool_]) -> tuple[NDArray[Any], NDArray[Any]]:
    """The index of the first True of each row, and whether there is one."""
    return found.argmax(1), np.logical_or.reduce(found, axis=1)


def _tbars(
    noise: np.random.Generator, bodies_zyx: NDArray[np.uint64], wanted: int
) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """Places two voxels below a surface that touches another body, and the way out."""
    tries = 8 * wanted
    starts = noise.random((tries, 3)) * bodies_zyx.shape
    ways = _unit(noise.normal(size=(tries, 3)))
    points, bodies = _along(bodies_zyx, starts, ways, _REACH)
    own = bodies[:, :1]
    out, leaves = _first(bodies != own)
    rows = np.arange(tries)
    touched = np.zeros(tries, np.bool_)
    for step in range(3):  # a little extracellular space may lie between the two
        other = bodies[rows, np.minimum(out + step, _REACH)]
        touched |= (other != 0) & (other != own[:, 0])
    good = np.flatnonzero((own[:, 0] != 0) & leaves & touched & (out >= 4))
    places = points[good, out[good] - 3]
    taken: set[tuple[int, ...]] = set()
    chosen = []
    for i, cell in enumerate((places // _CELL).tolist()):
        if tuple(cell) not in taken:
            taken.add(tuple(cell))
            chosen.append(i)
            if len(chosen) == wanted:
                break
    return places[chosen], ways[good][chosen]


def _densities(
    noise: np.random.Generator, bodies_zyx: NDArray[np.uint64], tbars: NDArray[np.int32], ways: NDArray[np.float64]
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Places in the bodies across the cleft, and the indices of their T-bars."""
    count = len(tbars)
    spread = _unit(ways[:, None] + 0.75 * noise.normal(size=(count, _TRIES, 3))).reshape(-1, 3)
    points, bodies = _along(bodies_zyx, np.repeat(tbars + 0.5, _TRIES, axis=0), spread, _CLEFT)
    other, there = _first((bodies != bodies[:, :1]) & (bodies != 0))
    rows = np.arange(len(points))
    deeper = np.minimum(other + 2, _CLEFT)  # not on the membrane, if the body is thick enough
    at = np.where(bodies[rows, deeper] == bodies[rows, other], deeper, other)
    places = points[rows, at]
    limits = noise.integers(2, 8, count)
    used = {tuple(place) for place in tbars.tolist()}
    found: list[list[int]] = []
    owners = []
    for tbar in range(count):
        mine: list[list[int]] = []
        for row in range(tbar * _TRIES, (tbar + 1) * _TRIES):
            place = places[row].tolist()
            if not there[row] or tuple(place) in used:
                continue
            if any(max(abs(a - b) for a, b in zip(place, one, strict=True)) < _APART for one in mine):
                continue
            used.add(tuple(place))
            mine.append(place)
            if len(mine) == limits[tbar]:
                break
        found += mine
        owners += [tbar] * len(mine)
    return np.array(found, np.int32).reshape(-1, 3), np.array(owners, np.int64)
