"""How the elements of an annotation instance lie in space, and what follows from it: the info and the levels of cells.

The number of elements of each block is enough for that, so it takes one look at all keys (of lines, at all elements).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fascicle.datatypes.annotation.layout import ELEMENTS, I64, U64, blocks_of_keys, full_texts, positions_of
from fascicle.datatypes.annotation.segmentation import Segmentation, block_size_of, indexed_labelmap
from fascicle.datatypes.image.block_cache import cache_of
from fascicle.datatypes.labelmap import settings as labelmap_settings
from fascicle.formats.annotation_index import Plan, plan, priorities
from fascicle.formats.annotation_info import AnnotationsInfo, Index
from fascicle.precomputed.builders import Snapshot, resolution_nm
from fascicle.precomputed.synapse_columns import (
    POST_TO,
    PRE_TO,
    Elements,
    ends_of_lines,
    ids_of,
    in_parts,
    line_properties,
    point_properties,
    user_of,
)
from fascicle.versions.model import Instance
from fascicle.versions.resolution import VersionedView

I32 = NDArray[np.int32]
BODY = "body"
SIDES = {"presynaptic": PRE_TO, "postsynaptic": POST_TO}
"""The relationships of lines, and the relation that an element at that end has."""
LIMIT = 2000
"""About so many annotations are in the fullest cell of each level."""
SCANNED = 20_000
"""Levels of which a cell has more elements are listed from what the overview knows."""
_READ_USERS = 50_000
"""Of the first so many elements each one's user is looked at, of the next ones every second one's, and so on."""


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """An annotation instance at a version."""

    instance: Instance
    elements: Elements
    segmentation: Segmentation | None

    @property
    def view(self) -> VersionedView:
        return self.elements.view

    @classmethod
    def of(cls, snapshot: Snapshot, instance: Instance) -> Source:
        catalog = snapshot.catalog
        elements = Elements(snapshot.view(instance), block_size_of(catalog, instance))
        labelmap = indexed_labelmap(catalog, instance)
        if labelmap is None:
            return cls(instance, elements, None)
        return cls(instance, elements, Segmentation(labelmap, snapshot.view(labelmap), cache_of(snapshot.store)))


@dataclass(frozen=True, slots=True, eq=False)
class Overview:
    """What depends on all elements (or lines) of an instance at a version."""

    info: AnnotationsInfo
    plan: Plan
    known: Mapping[int, tuple[I32, I32]]
    """Of levels with large cells: the positions of what they list i32[n, 3], of lines of both ends."""


def overview_of(snapshot: Snapshot, instance: Instance, as_lines: bool = False) -> Overview:
    """What the levels of the spatial index are, and the info that says so."""
    source = Source.of(snapshot, instance)
    survey = Survey.of(source, as_lines)
    low, high, resolution = _reference(snapshot, source)
    if survey.low is not None and survey.high is not None:
        low = survey.low if low is None else np.minimum(low, survey.low)
        high = survey.high if high is None else np.maximum(high, survey.high)
    if low is None or high is None:
        low, high = np.zeros(3, np.int64), np.ones(3, np.int64)
    middles = (survey.blocks + 0.5) * source.elements.block_size
    levels = plan(low.tolist(), high.tolist(), middles, survey.counts, scales=resolution, limit=LIMIT)
    info = AnnotationsInfo(
        dimensions={axis: (float(f"{edge * 1e-9:.12g}"), "m") for axis, edge in zip("xyz", resolution, strict=True)},
        lower_bound=tuple(low.tolist()),
        upper_bound=tuple(high.tolist()),
        annotation_type="LINE" if as_lines else "POINT",
        properties=line_properties() if as_lines else point_properties(survey.users),
        relationships=relationships_of(source, as_lines),
        by_id=Index(key="by_id"),
        spatial=levels.described(),
    )
    return Overview(info, levels, _known_of_coarse(source, levels, survey, middles, as_lines))


def relationships_of(source: Source, as_lines: bool) -> tuple[Index, ...]:
    """Those with bodies, if elements are in a segmentation."""
    names = () if source.segmentation is None else tuple(SIDES) if as_lines else (BODY,)
    return tuple(Index(key=name, id=name) for name in names)


def _reference(snapshot: Snapshot, source: Source) -> tuple[Any, Any, tuple[float, float, float]]:
    """(first voxel, the one behind the last, size of a voxel in nm) of the volume that elements are in.

    That is the labelmap that is followed, else the first labelmap of the repo, else its first image.
    """
    volume = source.segmentation.instance if source.segmentation is not None else None
    if volume is None:
        volumes = [one for one in snapshot.catalog.instances(source.instance.repo_id) if "VoxelSize" in one.properties]
        volume = min(volumes, key=lambda one: (one.typename != "labelmap", one.name), default=None)
    if volume is None:
        return None, None, (1.0, 1.0, 1.0)
    low = high = None
    if volume.typename == "labelmap":
        low, high = labelmap_settings.points(volume, snapshot.view(volume))
    if low is None or high is None:
        return None, None, resolution_nm(volume.properties)
    return np.array(low, np.int64), np.array(high, np.int64) + 1, resolution_nm(volume.properties)


@dataclass(frozen=True, slots=True, eq=False)
class Survey:
    """How many elements, or lines that begin there, blocks have."""

    blocks: I64
    """i64[n, 3]"""
    counts: I64
    """i64[n]"""
    low: I64 | None
    high: I64 | None
    """The corners of a box around all elements, the second one behind it; None if there are none."""
    users: frozenset[str]

    @classmethod
    def of(cls, source: Source, as_lines: bool) -> Survey:
        view = source.view
        blocks_found: list[I64] = []
        counts_found: list[I64] = []
        low = high = None
        users: set[str] = set()
        seen = 0
        for rows in in_parts(view.scan_batches(ELEMENTS)):
            xyz = positions_of([key for key, _ in rows])
            first, beyond = xyz.min(axis=0), xyz.max(axis=0) + 1
            low = first if low is None else np.minimum(low, first)
            high = beyond if high is None else np.maximum(high, beyond)
            handles = [handle for _, handle in rows]
            if as_lines:
                texts = full_texts(view, handles)
                weights = np.array([[text.count(one) for one in _RELATIONS] for text in texts], np.int64)
            else:
                some = handles[:: 1 + seen // _READ_USERS]
                users.update(map(user_of, full_texts(view, some)))
                seen += len(some)
                weights = np.ones((len(rows), 1), np.int64)
            blocks, counts = _summed(blocks_of_keys([key for key, _ in rows]), weights)
            blocks_found.append(blocks)
            counts_found.append(counts)
        if not blocks_found:
            return cls(np.empty((0, 3), np.int64), np.empty(0, np.int64), None, None, frozenset())
        blocks, counts = _summed(np.concatenate(blocks_found), np.concatenate(counts_found))
        chosen = counts[:, int(np.argmax(counts.sum(axis=0)))]  # some data have relations on one side only
        there = chosen > 0
        return cls(blocks[there], chosen[there], low, high, frozenset(users - {""}))


_RELATIONS = (b'"Rel":"%b"' % PRE_TO.encode(), b'"Rel":"%b"' % POST_TO.encode())


def _summed(blocks: I64, weights: I64) -> tuple[I64, I64]:
    """Blocks i64[n, 3], of which equal ones lie together, each once; and the sums of their weights i64[n, k]."""
    new = np.ones(len(blocks), np.bool_)
    new[1:] = (blocks[1:] != blocks[:-1]).any(axis=1)
    begins = np.flatnonzero(new)
    return blocks[begins], np.add.reduceat(weights, begins, axis=0)


def _known_of_coarse(
    source: Source, levels: Plan, survey: Survey, middles: Any, as_lines: bool
) -> dict[int, tuple[I32, I32]]:
    """The positions of what coarse levels list, all found in one go."""
    coarse = 0
    for grid in levels.grids if len(middles) else ():
        owners = np.unique(grid.numbers(grid.cells(middles)), return_inverse=True)[1].reshape(-1)
        if np.bincount(owners, survey.counts).max() <= SCANNED:
            break
        coarse += 1
    if not coarse:
        return {}
    found: list[tuple[I64, I32, I32]] = []

    def keep(ids: U64, first: I32, second: I32) -> None:
        at = levels.levels_of(priorities(ids))
        kept = at < coarse
        found.append((at[kept], first[kept], second[kept]))

    if as_lines:
        texts = (text for handles in source.view.scan_handles(ELEMENTS) for text in full_texts(source.view, handles))
        keep(*ends_of_lines(texts, lambda ids: levels.levels_of(priorities(ids)) < coarse))
    else:
        for rows in in_parts(source.view.scan_batches(ELEMENTS)):
            xyz = positions_of([key for key, _ in rows])
            keep(ids_of(xyz), xyz.astype(np.int32), np.empty((len(xyz), 0), np.int32))
    at, first, second = (np.concatenate([part[i] for part in found]) for i in range(3))
    firsts = [first[at == level] for level in range(coarse)]
    return {level: (one, second[at == level] if as_lines else one) for level, one in enumerate(firsts)}
