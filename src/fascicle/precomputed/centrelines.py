"""Skeletons from labels: the centrelines of one block, and one skeleton from those of all blocks.

Blocks overlap by one layer of voxels. Each piece of a label in that layer has one *contact*, a voxel that follows from
the layer alone; the centrelines of both blocks go through it, so they meet there. `joined` puts the pieces of a body
together, opens the loops that arise where a body crosses a face twice, and removes the short branches that only
were there for the sake of a contact.

Arrays are [z, y, x]; positions x, y, z.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fascicle.formats.skeleton import RADIUS, Skeleton
from fascicle.kernels import centrelines, skeleton_graph
from fascicle.kernels.arrays import frozen
from fascicle.kernels.distance import label_distances
from fascicle.kernels.label_components import label_components

Triple = tuple[int, int, int]
Voxels = NDArray[Any]
CLOSED = (False,) * 6
CELL_PART = 12
"""A cell is at most so small a part of the constant, if that is not said otherwise."""
MOST_CELL = 4
"""The most voxels of a cell along an axis."""
_SIX = ((0, 0), (0, -1), (1, 0), (1, -1), (2, 0), (2, -1))
"""Axis of [z, y, x] and index of each face: low z, high z, low y, high y, low x, high x."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Teasar:
    """How centrelines are found. A branch is one if it leaves the surroundings of the others: what is within `scale`
    times the radius plus `constant_nm` of a path.
    """

    scale: float = 1.5
    constant_nm: float = 300.0
    dust: int = 1000
    """Connected pieces of fewer voxels are left out."""
    soma_nm: float = 1000.0
    """A piece that has a greater radius than this somewhere is rooted there: branches leave the soma's centre."""
    detail_nm: float = 0.0
    """Voxels are put together to cells of at most this size; 0 for a twelfth of `constant_nm`."""

    def cell(self, resolution_nm: Sequence[float]) -> Triple:
        """Voxels of a cell, z, y, x, for a resolution x, y, z."""
        most = self.detail_nm or self.constant_nm / CELL_PART
        x, y, z = (min(MOST_CELL, 1 << max(0, math.floor(math.log2(most / edge)))) if most >= edge else 1
                   for edge in resolution_nm)  # fmt: skip
        return z, y, x


@dataclass(frozen=True, slots=True)
class Centrelines:
    """What was found in a block: pieces ordered by body, each a tree of vertices that follow each other."""

    bodies: NDArray[np.uint64]
    """Of each piece, ascending."""
    voxels: NDArray[np.int64]
    """Of each piece; those of the layer between two blocks count in the upper one."""
    starts: NDArray[np.int64]
    """The first vertex of each piece, and the number of vertices at the end: [pieces + 1]."""
    positions: NDArray[np.int64]
    """Voxels x, y, z [n, 3], counted from voxel 0."""
    radii: NDArray[np.float32]
    """In nm."""
    parents: NDArray[np.int64]
    """The vertex that each is joined to, or -1."""
    contacts: NDArray[np.bool_]
    """Which vertices are there because of a cut: those between two blocks, and ends right behind one."""

    def of(self, first: int, last: int) -> Centrelines:
        """Those of the bodies from `first` to `last`, both included."""
        a = int(np.searchsorted(self.bodies, np.uint64(first)))
        b = int(np.searchsorted(self.bodies, np.uint64(last), side="right"))
        i, j = int(self.starts[a]), int(self.starts[b])
        parents = self.parents[i:j]
        return Centrelines(
            self.bodies[a:b], self.voxels[a:b], self.starts[a : b + 1] - i, self.positions[i:j], self.radii[i:j],
            np.where(parents < 0, -1, parents - i), self.contacts[i:j],
        )  # fmt: skip


def in_block(
    labels: Voxels,
    corner_xyz: Sequence[int],
    resolution_nm: Sequence[float],
    parameters: Teasar,
    open_faces: Sequence[bool] = CLOSED,
    wanted: NDArray[np.uint64] | None = None,
) -> Centrelines:
    """The centrelines of all labels [z, y, x] (unsigned) of a block but 0, or of those `wanted` (ascending).

    `corner_xyz` is the block's first voxel. `open_faces` says behind which faces (low z, high z, low y, high y, low x,
    high x) another block goes on, which shares this one's last layer.
    """
    steps = np.asarray(resolution_nm, np.float64)[::-1].copy()
    chosen = np.zeros(0, np.uint64) if wanted is None else np.asarray(wanted, np.uint64)
    pieces = np.empty(labels.shape, np.int32)
    faces = np.asarray(open_faces, np.uint8)
    bodies, voxels = label_components(frozen(labels), frozen(chosen), parameters.dust, faces, pieces)
    count = len(bodies) - 1
    if not count:
        return _nothing()
    if any(open_faces):
        own = tuple(slice(-1 if is_open else None) for is_open in open_faces[1::2])
        voxels = np.bincount(pieces[own].reshape(-1), minlength=count + 1)
    depths = np.empty(labels.shape, np.float32)
    label_distances(pieces, steps, depths)
    cell = np.array(parameters.cell(resolution_nm), np.int64)
    first, owner, voxel, deep = centrelines.make_nodes(pieces, depths, cell)
    crossings, owners = _contacts(pieces, steps, open_faces)
    shape = np.array(labels.shape, np.int64)
    grid = -(-shape // cell)
    at = np.stack(np.unravel_index(crossings, labels.shape), axis=1) // cell
    targets = skeleton_graph.nodes_of(first, owner, (at[:, 0] * grid[1] + at[:, 1]) * grid[2] + at[:, 2], owners)
    target_starts = np.searchsorted(owners, np.arange(count + 2)).astype(np.int64)
    nodes, joined_to, numbers, tips = centrelines.trace(
        shape, cell, steps, first, owner, voxel, deep, count, targets, target_starts,
        float(parameters.scale), float(parameters.constant_nm), float(parameters.soma_nm),
    )  # fmt: skip
    # a contact that is not its node's voxel is a vertex of its own
    touched = numbers[targets].astype(np.int64)
    is_node = voxel[targets] == crossings
    contacts = np.zeros(len(nodes), np.bool_)
    contacts[touched[is_node]] = True
    contacts[tips] = True
    more = ~is_node
    places = np.concatenate((voxel[nodes], crossings[more]))
    radii = np.concatenate((deep[nodes], depths.reshape(-1)[crossings[more]]))
    parents = np.concatenate((joined_to, touched[more]))
    contacts = np.concatenate((contacts, np.ones(int(more.sum()), np.bool_)))
    piece = np.concatenate((owner[nodes], owners[more])).astype(np.int64)
    z, y, x = np.unravel_index(places, labels.shape)
    positions = np.stack((x, y, z), axis=1).astype(np.int64) + np.asarray(corner_xyz, np.int64)
    return _ordered(bodies, voxels, piece, positions, radii, parents, contacts)


def _contacts(
    pieces: NDArray[np.int32], steps: NDArray[np.float64], open_faces: Sequence[bool]
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """The contacts of the open faces, as flat indices, and the piece of each, by piece; each voxel once."""
    found: list[NDArray[np.int64]] = []
    indices = np.arange(pieces.size, dtype=np.int64).reshape(pieces.shape) if any(open_faces) else None
    for (axis, index), is_open in zip(_SIX, open_faces, strict=True):
        if not is_open or indices is None:
            continue
        plane = np.ascontiguousarray(np.take(pieces, index, axis))
        size = np.delete(steps, axis)
        parts = np.empty((1, *plane.shape), np.int32)
        labels = plane.astype(np.uint64)[None]
        known, _ = label_components(frozen(labels), frozen(np.zeros(0, np.uint64)), 1, np.zeros(6, np.uint8), parts)
        depths = np.empty(parts.shape, np.float32)
        label_distances(parts, np.array([1.0, *size]), depths)
        points = skeleton_graph.face_points(parts[0], depths[0], size, len(known) - 1)[1:]
        found.append(np.take(indices, index, axis)[points[:, 0], points[:, 1]])
    crossings = np.unique(np.concatenate(found)) if found else np.zeros(0, np.int64)
    owners = pieces.reshape(-1)[crossings]
    order = np.argsort(owners, kind="stable")
    return crossings[order], owners[order]


def _ordered(
    bodies: NDArray[np.uint64],
    voxels: NDArray[np.int64],
    piece: NDArray[np.int64],
    positions: NDArray[np.int64],
    radii: NDArray[np.float32],
    parents: NDArray[np.int64],
    contacts: NDArray[np.bool_],
) -> Centrelines:
    """The same by body; `bodies` and `voxels` are those of the pieces from 1 on."""
    ranks = np.argsort(bodies[1:], kind="stable")
    rank = np.empty(len(bodies), np.int64)
    rank[ranks + 1] = np.arange(len(ranks))
    order = np.argsort(rank[piece], kind="stable")
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    up = parents[order]
    starts = np.searchsorted(rank[piece][order], np.arange(len(ranks) + 1)).astype(np.int64)
    return Centrelines(
        bodies[1:][ranks], voxels[1:][ranks], starts, positions[order], radii[order],
        np.where(up < 0, -1, place[up]), contacts[order],
    )  # fmt: skip


def _nothing() -> Centrelines:
    none = np.zeros(0, np.int64)
    return Centrelines(
        np.zeros(0, np.uint64), none, np.zeros(1, np.int64), none.reshape(0, 3), np.zeros(0, np.float32), none,
        np.zeros(0, np.bool_),
    )  # fmt: skip


def joined(parts: Sequence[Centrelines], resolution_nm: Sequence[float], parameters: Teasar) -> Skeleton | None:
    """One skeleton, in nm, from the centrelines of one body in some blocks; None if they are dust.

    It has one tree for each connected piece, the largest first, rooted where it is thickest; every vertex comes
    after the one that it is joined to. Does not depend on the order of the parts.
    """
    positions = np.concatenate([part.positions for part in parts])
    if not len(positions):
        return None
    bases = np.cumsum([0, *(len(part.positions) for part in parts)])
    low = positions.min(axis=0)
    x, y, z = (positions - low).T
    spans = positions.max(axis=0) - low + 1
    codes = (z * spans[1] + y) * spans[0] + x
    kept, first, vertex = np.unique(codes, return_index=True, return_inverse=True)
    vertex = vertex.reshape(-1)
    positions = positions[first]
    count = len(kept)
    radii = np.full(count, np.inf, np.float32)
    np.minimum.at(radii, vertex, np.concatenate([part.radii for part in parts]))
    # what is a branch of its own in a sliver that lies in another block may be none of the whole
    loose = np.full(count, any(part.contacts.any() for part in parts))
    resolution = np.asarray(resolution_nm, np.float64)
    places = (positions + 0.5) * resolution

    up = np.concatenate([np.where(part.parents < 0, -1, part.parents + base)
                         for part, base in zip(parts, bases, strict=False)])  # fmt: skip
    edges = np.stack((vertex, vertex[up]), axis=1)[up >= 0]
    edges = np.unique(np.sort(edges[edges[:, 0] != edges[:, 1]], axis=1), axis=0)
    thin = np.minimum(radii[edges[:, 0]], radii[edges[:, 1]]).astype(np.float64)
    price = np.linalg.norm(places[edges[:, 0]] - places[edges[:, 1]], axis=1) / thin**2
    edges = edges[np.lexsort((edges[:, 1], edges[:, 0], price))]
    is_kept, tree = skeleton_graph.spanning_forest(edges, count)
    edges = edges[is_kept]

    totals = np.zeros(count, np.int64)
    for part, base in zip(parts, bases, strict=False):
        np.add.at(totals, tree[vertex[base + part.starts[:-1]]], part.voxels)
    starts, others = _neighbours(edges, count)
    reach = parameters.scale * radii.astype(np.float64) + parameters.constant_nm
    gone = skeleton_graph.prune(starts, others, places, reach, loose)
    gone |= totals[tree] < parameters.dust
    if gone.all():
        return None
    left = ~gone
    number = np.cumsum(left) - 1
    edges = number[edges[left[edges].all(axis=1)]].reshape(-1, 2)
    starts, others = _neighbours(edges, int(left.sum()))
    trees, sizes = tree[left], totals[tree[left]]
    roots = np.lexsort((np.arange(len(trees)), -radii[left], trees, -sizes))
    order, parents = skeleton_graph.depth_first(starts, others, roots)
    ends = np.stack((np.arange(len(order)), parents), axis=1)[parents >= 0]
    return Skeleton(places[left][order].astype(np.float32), ends.astype(np.uint32), {RADIUS.id: radii[left][order]})


def _neighbours(edges: NDArray[np.int64], count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where the neighbours of each vertex begin i64[n + 1], and these i64[2 m]."""
    both = np.concatenate((edges, edges[:, ::-1]))
    both = both[np.lexsort((both[:, 1], both[:, 0]))]
    return np.searchsorted(both[:, 0], np.arange(count + 1)).astype(np.int64), np.ascontiguousarray(both[:, 1])


def split_by_body(found: Centrelines) -> list[int]:
    """The bodies that centrelines were found of, ascending."""
    bodies: list[int] = np.unique(found.bodies).tolist()
    return bodies
