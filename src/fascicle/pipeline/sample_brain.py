"""A small generated brain: neurites that wind and branch through a box, as an electron microscope would show them.

It is what `fascicle demo` shows and what tests use where no real data is at hand. One seed gives the same voxels on
every machine. Not for this module: loading it anywhere (`fascicle.cli.demo`).
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RESOLUTION_NM = (8, 8, 8)
_LIMIT = 2.6
"""Neurites swell to this multiple of their radius where nothing is in the way; the rest is extracellular space."""
_PIECE_NODES = 12
_SLAB = 16


@dataclass(frozen=True, slots=True)
class SampleBrain:
    """Voxels and tables of a generated brain."""

    grayscale_zyx: NDArray[np.uint8]
    supervoxels_zyx: NDArray[np.uint64]
    """0 is extracellular space."""
    supervoxel_ids: NDArray[np.uint64]
    """All supervoxels, ascending."""
    body_ids: NDArray[np.uint64]
    """The body of each supervoxel: the id of its first supervoxel. Same length as `supervoxel_ids`."""
    resolution_nm: tuple[int, int, int]
    """Edge lengths of a voxel, x, y, z."""
    nodes_zyx: NDArray[np.float32]
    """Points along the middle of the neurites, in voxels: those of one neurite one after the other."""
    node_radii: NDArray[np.float32]
    """How thick the neurites are meant to be there, in voxels."""
    node_parents: NDArray[np.int32]
    """The node before each, which is of the same neurite; -1 where a neurite begins."""
    node_bodies: NDArray[np.uint64]
    """The body of each node; 0 for neurites that got no voxels."""

    @property
    def bodies_zyx(self) -> NDArray[np.uint64]:
        """The volume with bodies in place of supervoxels."""
        table = np.zeros(int(self.supervoxel_ids[-1]) + 1, np.uint64)
        table[self.supervoxel_ids] = self.body_ids
        return table[self.supervoxels_zyx]


def make_brain(seed: int = 1, size_zyx: tuple[int, int, int] = (256, 256, 256)) -> SampleBrain:
    """Generate a brain of a size in voxels; every edge must be at least 32.

    >>> brain = make_brain(seed=3, size_zyx=(64, 64, 64))
    >>> brain.grayscale_zyx.shape, len(set(brain.body_ids.tolist())) < len(brain.supervoxel_ids)
    ((64, 64, 64), True)
    """
    from fascicle.kernels import brain_growth, brain_texture

    if min(size_zyx) < 32:
        raise ValueError(f"every edge of a sample brain must have at least 32 voxels, not {size_zyx}")
    voxels = int(np.prod(size_zyx))
    state = np.array([seed], np.uint64)
    noise = np.random.default_rng(seed)
    capacity = voxels // 100 + 4096
    points, widths = np.empty((capacity, 3), np.float32), np.empty(capacity, np.float32)
    numbers = np.empty((3, capacity), np.int32)
    thick = min(16.0, min(size_zyx) / 8)
    count, _ = brain_growth.grow_neurites(
        state, size_zyx, voxels // 1000, thick, min(3.2, thick), points, widths, *numbers
    )
    nodes_zyx, radii = points[:count], widths[:count]
    neurite, parent, branch = numbers[:, :count]

    depth, height, width = size_zyx
    half = (depth + 1) // 2, (height + 1) // 2, (width + 1) // 2
    coarse = brain_growth.fill_space(nodes_zyx, radii, half, _LIMIT)
    owner = np.empty(size_zyx, np.int32)
    membrane = np.empty(size_zyx, np.uint8)
    warp = 0.25 * _noise_cube(noise, 64, 2.0)
    slabs = [(z, min(z + _SLAB, size_zyx[0])) for z in range(0, size_zyx[0], _SLAB)]
    with ThreadPoolExecutor() as pool:
        list(
            pool.map(
                lambda slab: brain_growth.refine_slab(
                    coarse, nodes_zyx, radii, neurite, warp, slab[0], slab[1], owner, membrane
                ),
                slabs,
            )
        )
        body_of_voxel = np.where(owner < 0, 0, neurite[owner])
        _adopt_strays(owner, body_of_voxel, brain_growth.strays(body_of_voxel))
        overlay = np.zeros(size_zyx, np.int8)
        brain_texture.paint_mitochondria(
            overlay, body_of_voxel, *_mitochondria(noise, nodes_zyx, radii, neurite, branch)
        )
        brain_texture.paint_vesicles(overlay, body_of_voxel, membrane, *_vesicles(noise, nodes_zyx, radii, neurite))
        tone = noise.normal(158.0, 9.0, int(neurite[-1]) + 1).astype(np.float32)[neurite]
        fine, soft = _noise_cube(noise, 64, 0.8), _noise_cube(noise, 64, 4.0)
        grayscale = np.empty(size_zyx, np.uint8)
        list(
            pool.map(
                lambda slab: brain_texture.shade_slab(
                    owner, membrane, overlay, tone, fine, soft, slab[0], slab[1], grayscale
                ),
                slabs,
            )
        )
    piece_of_node = _pieces(parent, branch)
    supervoxels, supervoxel_ids, body_ids, node_bodies = _number(owner, piece_of_node, neurite)
    return SampleBrain(
        grayscale, supervoxels, supervoxel_ids, body_ids, RESOLUTION_NM, nodes_zyx, radii, parent, node_bodies
    )


def _noise_cube(noise: np.random.Generator, edge: int, sigma: float) -> NDArray[np.float32]:
    """A periodic cube of smooth noise, f32 with mean 0 and deviation 1; `sigma` is its grain in voxels."""
    white = noise.standard_normal((edge, edge, edge))
    frequency = np.fft.fftfreq(edge)
    blur = np.exp(-2.0 * (np.pi * sigma * frequency) ** 2)
    spectrum = np.fft.fftn(white) * blur[:, None, None] * blur[None, :, None] * blur[None, None, :]
    smooth = np.fft.ifftn(spectrum).real
    cube: NDArray[np.float32] = (smooth / smooth.std()).astype(np.float32)
    return cube


def _adopt_strays(owner: NDArray[np.int32], bodies: NDArray[np.int32], strays: NDArray[np.int32]) -> None:
    """Give voxels that are cut off from their body to the extracellular space, so that every body hangs together."""
    owner.reshape(-1)[strays] = -1
    bodies.reshape(-1)[strays] = 0


def _pieces(parent: NDArray[np.int32], branch: NDArray[np.int32]) -> NDArray[np.int64]:
    """The number of the piece (supervoxel to be) of each node: branches are cut into runs of nodes."""
    count = parent.size
    first_of_branch = np.zeros(count, np.int64)
    starts = np.flatnonzero(np.diff(branch, prepend=-1))
    first_of_branch[starts] = starts
    np.maximum.accumulate(first_of_branch, out=first_of_branch)
    run = (np.arange(count) - first_of_branch) // _PIECE_NODES
    _, piece = np.unique(branch.astype(np.int64) * (1 << 32) + run, return_inverse=True)
    return piece.reshape(-1)


def _number(
    owner: NDArray[np.int32], piece_of_node: NDArray[np.int64], neurite: NDArray[np.int32]
) -> tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.uint64], NDArray[np.uint64]]:
    """Supervoxel volume, ids, their bodies, and the bodies of nodes, from the node that owns each voxel."""
    present = np.zeros(neurite.size, np.bool_)
    present[owner[owner >= 0]] = True
    pieces = np.unique(piece_of_node[present])
    id_of_piece = np.zeros(int(piece_of_node.max()) + 1, np.uint64)
    id_of_piece[pieces] = np.arange(1, pieces.size + 1, dtype=np.uint64)
    id_of_node = np.append(id_of_piece[piece_of_node], np.uint64(0))
    supervoxels = id_of_node[owner]
    neurite_of_piece = np.zeros(id_of_piece.size, np.int64)
    neurite_of_piece[piece_of_node] = neurite
    neurites = neurite_of_piece[pieces]
    first = np.zeros(int(neurite.max()) + 1, np.uint64)
    supervoxel_ids = np.arange(1, pieces.size + 1, dtype=np.uint64)
    first[neurites[::-1]] = supervoxel_ids[::-1]
    return supervoxels, supervoxel_ids, first[neurites], first[neurite]


def _mitochondria(
    noise: np.random.Generator,
    nodes_zyx: NDArray[np.float32],
    radii: NDArray[np.float32],
    neurite: NDArray[np.int32],
    branch: NDArray[np.int32],
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.float32], NDArray[np.int32]]:
    """Paths, starts, radii and bodies as `paint_mitochondria` takes them: some stretches of the thicker neurites."""
    paths, starts, thickness, bodies = [], [0], [], []
    node = 0
    while node + 24 < radii.size:
        length = int(noise.integers(7, 22))
        stretch = slice(node, node + length)
        skip = int(noise.integers(8, 40))
        if branch[node] != branch[node + length - 1] or radii[stretch].min() < 5.0 or noise.random() < 0.25:
            node += 4
            continue
        shift = noise.normal(0.0, 0.18 * radii[node], 3)
        paths.append(nodes_zyx[stretch] + shift.astype(np.float32))
        starts.append(starts[-1] + length)
        thickness.append(min(13.0, max(4.0, float(radii[stretch].min()) * noise.uniform(0.5, 0.7))))
        bodies.append(neurite[node])
        node += length + skip
    joined = np.concatenate(paths) if paths else np.empty((0, 3), np.float32)
    return joined, np.array(starts, np.int64), np.array(thickness, np.float32), np.array(bodies, np.int32)


def _vesicles(
    noise: np.random.Generator, nodes_zyx: NDArray[np.float32], radii: NDArray[np.float32], neurite: NDArray[np.int32]
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int32]]:
    """Centres, radii and bodies of vesicles: swarms round some nodes, single ones elsewhere."""
    swarms = np.flatnonzero((noise.random(radii.size) < 0.02) & (radii > 4.5))
    members = np.concatenate([np.repeat(swarms, 45), np.flatnonzero(noise.random(radii.size) < 0.25)])
    centres = nodes_zyx[members] + noise.normal(0.0, 0.62, (members.size, 3)) * radii[members, None]
    sizes = noise.normal(2.5, 0.25, members.size)
    return centres.astype(np.float32), sizes.astype(np.float32), neurite[members]
