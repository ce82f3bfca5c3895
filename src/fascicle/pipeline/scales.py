"""Which scales a volume gets: factors, sizes, chunks, keys and sharding. All from its size and resolution.

Finer axes are halved first, until the voxels are as near to cubes as halving brings them; from then on all axes are.
Where that is still to come, chunks are longer along the finer axes, so that they are near to cubes themselves. Scales
begin at the volume's own corner, as the programs that read them expect: the offset of a scale is that of the finest one
divided and rounded down.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from fascicle.errors import BadRequest
from fascicle.formats.precomputed_info import ENCODINGS, Scale, VolumeInfo, check_writable
from fascicle.formats.sharding import FEWEST_CHUNKS, SHARD_VOXELS, Sharding, sharding_for_volume

Triple = tuple[int, int, int]
Reals = tuple[float, float, float]
CHUNK = 64
SEGMENTATION = "compressed_segmentation"
_UNITS = (("km", 1e12), ("m", 1e9), ("mm", 1e6), ("um", 1e3), ("nm", 1.0), ("pm", 1e-3))


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleOptions:
    """What is not as usual about the scales of a volume. Triples are x, y, z."""

    encoding: str = ""
    """raw, jpeg, png or compressed_segmentation; empty: compressed_segmentation for labels, else raw."""
    chunk: Triple | int | None = None
    """Voxels of a chunk at all scales, or the edge of the cube that chunks are as large as; None for 64."""
    scales: int | None = None
    """How many coarser ones; None: until one chunk holds all."""
    sharded: bool | None = None
    """None: where a scale has more than 64 chunks."""
    shard_voxels: int = SHARD_VOXELS
    quality: int | None = None
    """Quality of JPEG (0 to 100) or effort for PNG (0 to 9)."""
    block: Triple = (8, 8, 8)
    """Of compressed segmentation."""
    as_neuroglancer_scripts: bool = False
    """Name scales by their finest edge (`8nm`), make as many as that program does, and count 0 among labels."""


def delays(resolution: Reals) -> Triple:
    """After how many halvings of the finest axis each axis x, y, z joins."""
    finest = min(resolution)
    x, y, z = (round(math.log2(edge / finest)) for edge in resolution)
    return x, y, z


def factors_at(resolution: Reals, level: int) -> Triple:
    """By how much scale `level` is coarser than the finest one, x, y, z."""
    x, y, z = (1 << max(0, level - delay) for delay in delays(resolution))
    return x, y, z


def chunk_at(resolution: Reals, level: int, edge: int = CHUNK) -> Triple:
    """A chunk of about `edge`^3 voxels, a power of two, that is near to a cube in space."""
    exponent = max(0, edge.bit_length() - 1)
    ahead = [max(0, max(delays(resolution)) - delay - level) for delay in delays(resolution)]
    while sum(ahead) > 3 * exponent:
        ahead = [max(0, steps - 1) for steps in ahead]
    base = exponent - (sum(ahead) + 1) // 3
    x, y, z = (1 << base + steps for steps in ahead)
    return x, y, z


def coarser_count(size: Triple, resolution: Reals, chunk: Triple | int | None) -> int:
    """How many coarser scales there are until one chunk holds the whole volume."""
    for level in range(64):
        edges = chunk if isinstance(chunk, tuple) else chunk_at(resolution, level, chunk or CHUNK)
        factors = factors_at(resolution, level)
        if all(-(-n // f) <= edge for n, f, edge in zip(size, factors, edges, strict=True)):
            return level
    return 63


def _count_of_scripts(size: Triple, resolution: Reals, chunk: Triple | int | None) -> int:
    """As neuroglancer-scripts chooses: until the volume fits into about two cubes an axis."""
    edge = chunk if isinstance(chunk, int) else CHUNK
    levels = (math.ceil(math.log2(n / edge)) - delay for n, delay in zip(size, delays(resolution), strict=True))
    return max(0, max(levels) - 1)


def plan_scales(
    size: Triple, resolution: Reals, offset: Triple, kind: str, data_type: str, options: ScaleOptions
) -> VolumeInfo:
    """The info of a volume with all its scales. BadRequest says which option does not fit."""
    encoding = options.encoding or (SEGMENTATION if kind == "segmentation" else "raw")
    if encoding not in ENCODINGS:
        raise BadRequest(f"the encoding {encoding!r} is none of {', '.join(ENCODINGS)}")
    if not all(math.isfinite(edge) and edge > 0 for edge in resolution):
        raise BadRequest(f"the resolution {resolution} must be above 0")
    if isinstance(options.chunk, int) and (options.chunk < 1 or options.chunk & (options.chunk - 1)):
        raise BadRequest(f"chunks as large as a cube of {options.chunk} voxels: the edge must be a power of two")
    if options.quality is not None and encoding not in ("jpeg", "png"):
        raise BadRequest(f"a quality belongs to jpeg and png, not to {encoding}")
    count = options.scales
    if count is None and options.as_neuroglancer_scripts:
        count = _count_of_scripts(size, resolution, options.chunk)
    elif count is None:
        count = coarser_count(size, resolution, options.chunk)
    scales = tuple(_scale(size, resolution, offset, encoding, level, options) for level in range(count + 1))
    if len({scale.key for scale in scales}) < len(scales):
        raise BadRequest(f"{count} coarser scales of {resolution} nm have no names of their own")
    info = VolumeInfo(type=kind, data_type=data_type, scales=scales)
    check_writable(info)
    return info


def _scale(size: Triple, resolution: Reals, offset: Triple, encoding: str, level: int, options: ScaleOptions) -> Scale:
    factors = factors_at(resolution, level)
    own_size = _triple(-(-n // f) for n, f in zip(size, factors, strict=True))
    x, y, z = (edge * f for edge, f in zip(resolution, factors, strict=True))
    chunk = options.chunk if isinstance(options.chunk, tuple) else chunk_at(resolution, level, options.chunk or CHUNK)
    if not all(edge >= 1 for edge in chunk):
        raise BadRequest(f"chunks of {chunk} voxels make no sense")
    sharding: Sharding | None = None
    if options.sharded is not False:
        fewest = 0 if options.sharded else FEWEST_CHUNKS
        sharding = sharding_for_volume(own_size, chunk, encoding, options.shard_voxels, fewest)
    return Scale(
        key=_length(min(resolution), min(x, y, z)) if options.as_neuroglancer_scripts else f"{x:g}_{y:g}_{z:g}",
        size=own_size,
        resolution=(x, y, z),
        chunk_sizes=(chunk,),
        encoding=encoding,
        voxel_offset=_triple(at // f for at, f in zip(offset, factors, strict=True)),
        compressed_segmentation_block_size=options.block if encoding == SEGMENTATION else None,
        jpeg_quality=options.quality if encoding == "jpeg" else None,
        png_level=options.quality if encoding == "png" else None,
        sharding=sharding,
    )


def _length(finest_nm: float, edge_nm: float) -> str:
    """A length in whole units, of the coarsest unit in which that of the finest scale differs from its double."""
    for unit, nm in _UNITS:
        if round(finest_nm / nm) and round(finest_nm / nm) != round(2 * finest_nm / nm):
            return f"{round(edge_nm / nm)}{unit}"
    return f"{edge_nm:g}nm"


def _triple(values: Iterable[int]) -> Triple:
    x, y, z = values
    return x, y, z
