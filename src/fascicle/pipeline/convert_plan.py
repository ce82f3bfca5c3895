"""What a conversion is to do: how the source is seen, the scales, and how their layers and bricks are cut."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from fascicle.errors import BadRequest
from fascicle.formats import precomputed_info
from fascicle.formats.precomputed_info import Scale, VolumeInfo
from fascicle.pipeline.scales import ScaleOptions, plan_scales
from fascicle.pipeline.voxel_boxes import Triple
from fascicle.volumes.adapted import TYPES, Adaptation, AdaptedVolume
from fascicle.volumes.base import Pyramid, VolumeError, VolumeSource

BRICK_BYTES = 16 << 20
"""Bricks are rows of chunks; longer ones are cut."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertOptions:
    """How to convert; what is empty or None is as the source says, or as usual."""

    kind: str = ""
    """image or segmentation."""
    source_scale: int = 0
    adaptation: Adaptation = field(default_factory=Adaptation)
    scales: ScaleOptions = field(default_factory=ScaleOptions)
    scaling: str = ""
    """How coarser scales are made: mean; labels (the most frequent one other than 0, of equally frequent ones the
    smallest), majority (the same, but 0 counts) or thin (the rarest one around, so that thin ones survive)."""
    gzip: bool = False
    """Gzip chunks that are files of their own: `.gz` names in folders, Content-Encoding in buckets."""
    nested: bool = False
    """Files of chunks in folders by x and y instead of in one folder."""
    all_chunks: bool = False
    """Write chunks of zeros as well."""
    memory_bytes: int = 1 << 30
    workers: int = 0
    """Threads; 0 for one per processor."""
    journal: str = ""
    scratch: str = ""
    """Folder for scratch files; by default beside the journal."""
    verify: bool = False
    """Read the source again and compare all voxels of all scales."""
    overwrite: bool = False
    """Also where a volume is already."""


@dataclass(frozen=True, slots=True)
class Level:
    """One scale of the plan."""

    index: int
    scale: Scale
    thickness: int
    """Planes of a layer."""
    rows: int
    """Rows of a brick."""
    columns: int
    """Columns of a brick."""
    halved: Triple
    """1 or 2 for z, y, x: how this becomes the next scale; of the last one (1, 1, 1)."""

    @property
    def shape_zyx(self) -> Triple:
        x, y, z = self.scale.size
        return z, y, x

    @property
    def layers(self) -> int:
        return -(-self.shape_zyx[0] // self.thickness)

    def planes(self, layer: int) -> range:
        """The planes of a layer."""
        return range(layer * self.thickness, min((layer + 1) * self.thickness, self.shape_zyx[0]))

    def bricks(self) -> list[tuple[int, int, int, int]]:
        """Rows and columns of each brick of a layer: first and last (exclusive)."""
        _, height, width = self.shape_zyx
        return [
            (y, min(y + self.rows, height), x, min(x + self.columns, width))
            for y in range(0, height, self.rows)
            for x in range(0, width, self.columns)
        ]


def plan_levels(info: VolumeInfo, source_chunk_zyx: Triple, is_read_in_boxes: bool) -> list[Level]:
    """How the layers and bricks of each scale are cut; depends on nothing else, so that any run cuts alike."""
    levels: list[Level] = []
    itemsize = info.dtype.itemsize
    for index, scale in enumerate(info.scales):
        (cx, cy, cz), (width, height, _) = scale.chunk_sizes[0], scale.size
        coarser = info.scales[index + 1] if index + 1 < len(info.scales) else scale
        fx, fy, fz = (round(b / a) for a, b in zip(scale.resolution, coarser.resolution, strict=True))
        thickness, rows, columns = math.lcm(cz, 2), math.lcm(cy, 2), math.lcm(cx, 2)
        if levels:
            thickness = math.lcm(thickness, levels[-1].thickness // levels[-1].halved[0])
        elif is_read_in_boxes:
            thickness, rows, columns = (
                joint if (joint := math.lcm(edge, own)) <= 4 * edge else edge
                for edge, own in zip((thickness, rows, columns), source_chunk_zyx, strict=True)
            )
        row_bytes = thickness * rows * itemsize
        step = columns
        columns = step * max(1, min(-(-width // step), BRICK_BYTES // (row_bytes * step)))
        if columns >= width:
            rows *= max(1, min(-(-height // rows), (BRICK_BYTES >> 3) // (row_bytes * width)))
        levels.append(Level(index, scale, thickness, rows, columns, (fz, fy, fx)))
    return levels


def adapted(pyramid: Pyramid, options: ConvertOptions) -> tuple[VolumeSource, str]:
    """The scale to read, seen as wanted, in a type that the encoding can hold; and image or segmentation."""
    if not 0 <= options.source_scale < len(pyramid.scales):
        raise VolumeError(f"{pyramid.name} has {len(pyramid.scales)} scales, so there is no {options.source_scale}")
    source = pyramid.scales[options.source_scale]
    source.check()
    kind = options.kind or pyramid.kind
    if kind not in precomputed_info.KINDS:
        raise BadRequest(f"the kind {kind!r} is neither image nor segmentation")
    wanted = options.adaptation
    encoding = options.scales.encoding
    dtype = wanted.dtype
    if not dtype and kind == "segmentation":
        if source.dtype.kind not in "iub":
            raise BadRequest(f"{source.name} has voxels of {source.dtype.name}, which cannot be labels")
        wide = source.dtype.itemsize == 8 or (wanted.remap is not None and _most(wanted.remap) >= 1 << 32)
        if encoding in ("", "compressed_segmentation") or source.dtype.name not in TYPES or source.dtype.kind == "i":
            dtype = "uint64" if wide else "uint32"
    elif not dtype and source.dtype.name not in TYPES:
        usual = {"bool": "uint8", "float16": "float32", "float64": "float32"}
        if source.dtype.name not in usual:
            raise BadRequest(f"images of {source.dtype.name} need a --dtype: one of {', '.join(TYPES)}")
        dtype = usual[source.dtype.name]
    if dtype == source.dtype.name:
        dtype = ""
    wanted = replace(wanted, dtype=dtype)
    return (source if wanted == Adaptation() else AdaptedVolume(source, wanted)), kind


def _most(table: NDArray[np.uint64]) -> int:
    return int(table.max()) if len(table) else 0


def planned(source: VolumeSource, kind: str, options: ConvertOptions) -> VolumeInfo:
    depth, height, width = source.shape_zyx
    resolution = source.resolution_nm or (8.0, 8.0, 8.0)
    if min(source.shape_zyx) < 1:
        raise BadRequest(f"{source.name} has no voxels")
    return plan_scales((width, height, depth), resolution, source.offset_xyz, kind, source.dtype.name, options.scales)
