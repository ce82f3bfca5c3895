"""A labelmap under versions, by brute force: arrays of supervoxels, a dictionary as mapping; all else is derived.

A `State` is one version of an instance and never changes: every edit makes a new one that shares what stayed. A `World`
holds the states of all versions. Voxel arrays are uint64 `[z, y, x]`; block coordinates and boxes are x, y, z.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from proofreading.wire import Block, Counts, Points, Volume, in_scan_order

NO_POINTS: Points = np.zeros((0, 3), np.int64)


class Voxels:
    """One stored block: its supervoxels as an array, and as a table with an index per voxel."""

    def __init__(self, array: Volume) -> None:
        self.array = array
        self.labels, inverse, counts = np.unique(array, return_inverse=True, return_counts=True)
        self.inverse = inverse.reshape(array.shape).astype(np.int32)
        self.counts = {
            label: count for label, count in zip(self.labels.tolist(), counts.tolist(), strict=True) if label
        }


def halve(array: Volume) -> Volume:
    """Half the size: of 2x2x2 voxels the most frequent non-zero label, of equals the smallest, 0 if there is none."""
    children = np.stack([array[z::2, y::2, x::2] for z in (0, 1) for y in (0, 1) for x in (0, 1)])
    votes = np.stack([(children == child).sum(0) for child in children])
    votes[children == 0] = 0
    most = votes.max(0)
    candidates = np.where((votes == most) & (children != 0), children, np.iinfo(np.uint64).max)
    return np.where(most > 0, candidates.min(0), 0).astype(np.uint64)


def box_of(points: Points) -> tuple[Block, Block]:
    """First and last voxel (x, y, z) of a set of voxels."""
    low, high = points.min(0)[::-1], points.max(0)[::-1]
    return (int(low[0]), int(low[1]), int(low[2])), (int(high[0]), int(high[1]), int(high[2]))


@dataclass(frozen=True)
class Split:
    """A supervoxel that became two."""

    mutation_id: int
    old: int
    remain: int
    split: int


@dataclass(frozen=True)
class State:
    """One version."""

    uuid: str
    block_size: Block
    scales: tuple[dict[Block, Voxels], ...]
    mapping: dict[int, int] = field(default_factory=dict)
    max_label: int | None = None
    edited_by: dict[int, int] = field(default_factory=dict)
    """The last mutation of bodies of which it is known."""
    splits: tuple[tuple[str, tuple[Split, ...]], ...] = ()
    """Splits of this version and its ancestors, nearest first; versions without any are left out."""
    actions: tuple[tuple[str, int | None], ...] = ()
    """Operations recorded at this version with their mutation ids, where they are known."""
    locked: bool = False
    elements: dict[Block, dict[str, Any]] = field(default_factory=dict)
    """Annotations by place, see `points.py`."""
    element_blocks: frozenset[Block] = frozenset()
    """Blocks that hold annotations, or did."""

    # -- derived -------------------------------------------------------------------------------------------------

    def body(self, supervoxel: int) -> int:
        return self.mapping.get(supervoxel, supervoxel)

    @cached_property
    def index(self) -> dict[int, Counts]:
        """Counts of every body."""
        bodies: dict[int, Counts] = {}
        for block, voxels in self.scales[0].items():
            for supervoxel, count in voxels.counts.items():
                body = self.body(supervoxel) or supervoxel
                bodies.setdefault(body, {}).setdefault(block, {})[supervoxel] = count
        return bodies

    @cached_property
    def supervoxel_sizes(self) -> dict[int, int]:
        sizes: dict[int, int] = {}
        for voxels in self.scales[0].values():
            for supervoxel, count in voxels.counts.items():
                sizes[supervoxel] = sizes.get(supervoxel, 0) + count
        return sizes

    @cached_property
    def supervoxels_of(self) -> dict[int, list[int]]:
        """Supervoxels of every body, ascending."""
        return {body: sorted({sv for block in counts.values() for sv in block}) for body, counts in self.index.items()}

    def size(self, body: int) -> int:
        return sum(self.supervoxel_sizes[supervoxel] for supervoxel in self.supervoxels_of.get(body, ()))

    def labels(self, voxels: Voxels, supervoxels: bool) -> Volume:
        """A block's array in supervoxels or bodies."""
        if supervoxels:
            return voxels.array
        table = np.array([self.body(label) for label in voxels.labels.tolist()], np.uint64)
        return table[voxels.inverse]

    def blocks_of(self, label: int, supervoxels: bool) -> list[Block]:
        """Scale-0 blocks of a body or supervoxel."""
        if not supervoxels:
            return list(self.index.get(label, ()))
        return [block for block, voxels in self.scales[0].items() if label in voxels.counts]

    def box(self, offset: Block, size: Block, scale: int, supervoxels: bool) -> Volume:
        """The voxels of a box; 0 where nothing is stored."""
        out = np.zeros(size[::-1], np.uint64)
        for block, voxels in self.scales[scale].items():
            low = [max(block[i] * self.block_size[i], offset[i]) for i in range(3)]
            high = [min((block[i] + 1) * self.block_size[i], offset[i] + size[i]) for i in range(3)]
            if all(low[i] < high[i] for i in range(3)):
                target = tuple(slice(low[i] - offset[i], high[i] - offset[i]) for i in (2, 1, 0))
                origin = [block[i] * self.block_size[i] for i in range(3)]
                source = tuple(slice(low[i] - origin[i], high[i] - origin[i]) for i in (2, 1, 0))
                out[target] = self.labels(voxels, supervoxels)[source]
        return out

    def label_at(self, point: Block, scale: int, supervoxels: bool) -> int:
        block = tuple(point[i] // self.block_size[i] for i in range(3))
        voxels = self.scales[scale].get(block)  # type: ignore[arg-type]
        if voxels is None:
            return 0
        x, y, z = (point[i] % self.block_size[i] for i in range(3))
        label = int(voxels.array[z, y, x])
        return label if supervoxels else self.body(label)

    def sparse_blocks(
        self, label: int, supervoxels: bool, scale: int, bounds: Iterable[tuple[int | None, int | None]]
    ) -> list[Block]:
        """Blocks at a scale in which the index sees a label, within bounds in voxels of that scale, in scan order."""
        limits = [
            (low if low is None else low // size, high if high is None else high // size)
            for (low, high), size in zip(bounds, self.block_size, strict=True)
        ]
        found = {(x >> scale, y >> scale, z >> scale) for x, y, z in self.blocks_of(label, supervoxels)}
        return sorted(
            (
                block
                for block in found
                if all(
                    (low is None or at >= low) and (high is None or at <= high)
                    for at, (low, high) in zip(block, limits, strict=True)
                )
            ),
            key=lambda block: block[::-1],
        )

    def points(self, label: int, supervoxels: bool, scale: int = 0, blocks: Iterable[Block] | None = None) -> Points:
        """Voxels of a body or supervoxel in some blocks (all that its index sees), sorted."""
        wanted = np.array([label] if supervoxels else self.supervoxels_of.get(label, []), np.uint64)
        if blocks is None:
            blocks = self.sparse_blocks(label, supervoxels, scale, ((None, None),) * 3)
        pieces = [NO_POINTS]
        for block in blocks:
            voxels = self.scales[scale].get(block)
            if voxels is not None:
                table = np.isin(voxels.labels, wanted)
                if table.any():
                    origin = [block[i] * self.block_size[i] for i in (2, 1, 0)]
                    pieces.append(np.argwhere(table[voxels.inverse]) + origin)
        points = np.concatenate(pieces)
        return in_scan_order(points)

    # -- edits ---------------------------------------------------------------------------------------------------

    def with_blocks(self, changed: dict[Block, Volume], downres: bool) -> State:
        """Blocks of supervoxels stored at scale 0, as by POST raw (`downres`) or POST blocks."""
        largest = max((int(array.max()) for array in changed.values()), default=0)
        return replace(
            self,
            scales=self._stored(changed, downres),
            max_label=max(self.max_label or 0, largest) or self.max_label,
            edited_by={},
        )

    def _stored(self, changed: dict[Block, Volume], downres: bool) -> tuple[dict[Block, Voxels], ...]:
        scales = [dict(blocks) for blocks in self.scales]
        scales[0] |= {block: Voxels(array) for block, array in changed.items()}
        if downres:
            wave = set(changed)
            for finer, coarser in pairwise(scales):
                parents: dict[Block, Volume] = {}
                for block in wave:
                    parent = (block[0] >> 1, block[1] >> 1, block[2] >> 1)
                    if parent not in parents:
                        stored = coarser.get(parent)
                        parents[parent] = (
                            np.zeros(self.block_size[::-1], np.uint64) if stored is None else stored.array.copy()
                        )
                    corner = tuple(
                        slice((block[i] & 1) * self.block_size[i] // 2, ((block[i] & 1) + 1) * self.block_size[i] // 2)
                        for i in (2, 1, 0)
                    )
                    parents[parent][corner] = halve(finer[block].array)
                coarser |= {parent: Voxels(array) for parent, array in parents.items()}
                wave = set(parents)
        return tuple(scales)

    def _edited(self, action: str, mutation_id: int | None, bodies: dict[int, int | None]) -> dict[str, object]:
        known = {body: edit for body, edit in self.edited_by.items() if body not in bodies}
        known |= {body: edit for body, edit in bodies.items() if edit is not None}
        return {"edited_by": known, "actions": (*self.actions, (action, mutation_id))}

    def merged(self, target: int, others: Iterable[int], mutation_id: int | None) -> State:
        moved = {supervoxel: target for body in others for supervoxel in self.supervoxels_of[body]}
        edited = self._edited("merge", mutation_id, dict.fromkeys(others) | {target: mutation_id})
        return replace(self, mapping=self.mapping | moved, **edited)  # type: ignore[arg-type]

    def cleaved(self, body: int, supervoxels: Iterable[int], new: int, mutation_id: int | None) -> State:
        moved = dict.fromkeys(supervoxels, new) | {new: 0}
        edited = self._edited("cleave", mutation_id, {body: mutation_id, new: mutation_id})
        return replace(  # type: ignore[arg-type]
            self, mapping=self.mapping | moved, max_label=max(self.max_label or 0, new), **edited
        )

    def renumbered(self, new: int, old: int) -> State:
        mapping = {new: 0} | self.mapping | dict.fromkeys(self.supervoxels_of[old], new)
        edited = self._edited("renumber", None, {old: None, new: None})
        return replace(  # type: ignore[arg-type]
            self, mapping=mapping, max_label=max(self.max_label or 0, new), **edited
        )

    def _repainted(self, points: Points, ids: dict[int, tuple[int, int]]) -> dict[Block, Volume]:
        """Blocks that hold a supervoxel of `ids`: under `points` it gets its first new id, elsewhere its second."""
        inside: dict[Block, list[npt.NDArray[np.int64]]] = {}
        size_zyx = np.array(self.block_size[::-1])
        codes = points // size_zyx
        for code in np.unique(codes, axis=0):
            block = (int(code[2]), int(code[1]), int(code[0]))
            inside[block] = [points[(codes == code).all(1)] - code * size_zyx]
        changed = {}
        for block, voxels in self.scales[0].items():
            if any(supervoxel in voxels.counts for supervoxel in ids):
                array = voxels.array.copy()
                chosen = np.zeros(array.shape, bool)
                for z, y, x in (piece.T for piece in inside.get(block, [])):
                    chosen[z, y, x] = True
                for supervoxel, (split, remain) in ids.items():
                    where = voxels.array == supervoxel
                    array[where & chosen] = split
                    array[where & ~chosen] = remain
                changed[block] = array
        return changed

    def _with_splits(self, splits: Iterable[Split]) -> tuple[tuple[str, tuple[Split, ...]], ...]:
        if self.splits and self.splits[0][0] == self.uuid:
            return ((self.uuid, (*self.splits[0][1], *splits)), *self.splits[1:])
        return ((self.uuid, tuple(splits)), *self.splits)

    def supervoxel_split(
        self, supervoxel: int, points: Points, split: int, remain: int, downres: bool, mutation_id: int
    ) -> State:
        body = self.body(supervoxel)
        edited = self._edited("split-supervoxel", mutation_id, {body: mutation_id})
        return replace(  # type: ignore[arg-type]
            self,
            scales=self._stored(self._repainted(points, {supervoxel: (split, remain)}), downres),
            mapping=self.mapping | {supervoxel: 0, split: body, remain: body},
            max_label=max(self.max_label or 0, split, remain),
            splits=self._with_splits([Split(mutation_id, supervoxel, remain, split)]),
            **edited,
        )

    def body_split(
        self, body: int, points: Points, new: int, ids: dict[int, tuple[int, int]], mutation_id: int
    ) -> State:
        """`ids` are the new ids (split, remain) of each supervoxel under `points`."""
        mapping = dict(self.mapping)
        for supervoxel, (split, remain) in ids.items():
            mapping |= {supervoxel: 0, split: new, remain: body}
        edited = self._edited("split", mutation_id, {body: mutation_id, new: mutation_id})
        return replace(  # type: ignore[arg-type]
            self,
            scales=self._stored(self._repainted(points, ids), True),
            mapping=mapping,
            max_label=max(self.max_label or 0, new, *(max(pair) for pair in ids.values())),
            splits=self._with_splits(Split(mutation_id, old, remain, split) for old, (split, remain) in ids.items()),
            **edited,
        )


@dataclass(frozen=True)
class World:
    """All versions of an instance by UUID, and the instance's counter."""

    versions: dict[str, State]
    largest_id: int = 0
    """The largest id that was posted or given out; the next is one more."""

    def with_state(self, state: State) -> World:
        return World(self.versions | {state.uuid: state}, max(self.largest_id, state.max_label or 0))

    def with_child(self, parent: str, child: str) -> World:
        state = replace(self.versions[parent], uuid=child, locked=False, actions=())
        return World(self.versions | {child: state}, self.largest_id)

    def with_commit(self, uuid: str) -> World:
        return World(self.versions | {uuid: replace(self.versions[uuid], locked=True)}, self.largest_id)

    def open_versions(self) -> Iterator[State]:
        return (state for state in self.versions.values() if not state.locked)


def empty_world(uuid: str, block_size: Block, scales: int) -> World:
    """An instance without data that has `scales` scales."""
    return World({uuid: State(uuid, block_size, tuple({} for _ in range(scales)))})
