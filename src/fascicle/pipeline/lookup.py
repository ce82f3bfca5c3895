"""Labels at many points: of any volume that can be read, or of a version.

Points are sorted by chunk and each chunk is fetched once. Compressed segmentation is not decoded: a point costs one
header, one word and one entry of a table. Labels of a version come from its stored blocks, as the server's `/labels`
has them. Points outside of the volume have the label 0.

Example: `labels_at("mirror/segmentation", [[1000, 2000, 300]])`
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fascicle.errors import BadRequest
from fascicle.formats import volume_chunks
from fascicle.kernels.arrays import frozen
from fascicle.pipeline.point_tables import read_points, write_labels
from fascicle.pipeline.sources import SourceSpec, VersionScale
from fascicle.pipeline.tasks import Progress
from fascicle.volumes.base import Pyramid, VolumeSource
from fascicle.volumes.precomputed import PrecomputedVolume
from fascicle.volumes.threads import in_parallel

Unit = Literal["voxels", "nm"]
Points = NDArray[np.int64]
_FAR = 1 << 62
_STORE_BATCH = 1 << 17
"""Points of a version that are looked up at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LookupOptions:
    """Where the points are, and what is read there."""

    columns: tuple[str, str, str] = ("x", "y", "z")
    """Their names in the table."""
    unit: Unit = "voxels"
    """Voxels of the finest scale (with the volume's offset), or nanometres. Fractions are rounded down."""
    scale: int = 0
    """The scale that is read."""
    label_column: str = "label"
    """The name of the new column."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LookupResult:
    """What was looked up."""

    points: int
    outside: int
    """Points that do not lie within the volume."""
    background: int
    """Points within it whose label is 0."""
    seconds: float
    """Without reading and writing tables."""


def lookup(
    source: SourceSpec,
    points: str,
    destination: str,
    options: LookupOptions | None = None,
    progress: Progress | None = None,
) -> LookupResult:
    """Read a table of points (CSV, Parquet, npy), write it again with a column of labels; `-` is standard output.

    Raises TableError, BadRequest or VolumeError; nothing is written then.
    """
    options = options or LookupOptions()
    table = read_points(Path(points), options.columns, options.label_column)
    began = time.perf_counter()
    outside = np.zeros(1, np.int64)
    labels = labels_at(
        source, table.points, unit=options.unit, scale=options.scale, progress=progress, outside=outside
    )
    seconds = time.perf_counter() - began
    write_labels(table, labels, options.label_column, destination)
    background = int(len(labels) - np.count_nonzero(labels) - outside[0])
    return LookupResult(points=len(labels), outside=int(outside[0]), background=background, seconds=seconds)


def labels_at(
    source: SourceSpec | Pyramid | str,
    points: ArrayLike,
    *,
    unit: Unit = "voxels",
    scale: int = 0,
    progress: Progress | None = None,
    outside: NDArray[np.int64] | None = None,
) -> NDArray[Any]:
    """The labels [n] at points [n, (x, y, z)]: u64, or the volume's own type if that is no unsigned integer.

    Points are voxels of the finest scale or nanometres, rounded down; `scale` is the one that is read. 0 outside of the
    volume; `outside` i64[1] gets the number of such points. Raises BadRequest or VolumeError.

    >>> labels_at("gs://bucket/segmentation", [[1000, 2000, 300]])          # doctest: +SKIP
    array([5813031], dtype=uint64)
    """
    if isinstance(source, Pyramid):
        return _labels_of(source, points, unit, scale, progress, outside)
    spec = SourceSpec(address=source) if isinstance(source, str) else source
    with spec.open() as pyramid:
        return _labels_of(pyramid, points, unit, scale, progress, outside)


def _labels_of(
    pyramid: Pyramid,
    points: ArrayLike,
    unit: Unit,
    scale: int,
    progress: Progress | None,
    outside: NDArray[np.int64] | None,
) -> NDArray[Any]:
    if not 0 <= scale < len(pyramid.scales):
        raise BadRequest(f"{pyramid.name} has {len(pyramid.scales)} scales, so there is no scale {scale}")
    if unit not in ("voxels", "nm"):
        raise BadRequest(f"the unit {unit!r} is neither voxels nor nm")
    volume = pyramid.scales[scale]
    voxels = voxels_of(pyramid, points, unit, scale)
    kind = np.dtype(np.uint64) if volume.dtype.kind == "u" else volume.dtype
    out = np.zeros(len(voxels), kind)
    if not len(voxels):
        return out
    groups = Groups(volume, voxels)
    if outside is not None:
        outside[0] = len(voxels) - len(groups.order)
    if isinstance(volume, VersionScale) and volume.is_labelmap:
        _of_version(volume, voxels, groups, out, progress)
    elif isinstance(volume, PrecomputedVolume):
        _of_precomputed(volume, groups, out, progress)
    else:
        _of_chunks(volume, groups, out, progress)
    return out


def voxels_of(pyramid: Pyramid, points: ArrayLike, unit: Unit, scale: int) -> Points:
    """Points [n, (x, y, z)] as voxels i64[n, 3] of a scale."""
    array = np.asarray(points)
    if array.size == 0:
        return np.empty((0, 3), np.int64)
    if array.ndim != 2 or array.shape[1] != 3 or array.dtype.kind not in "iuf":
        raise BadRequest(f"points must be numbers [n, 3] (x, y, z), not {array.dtype.name} {list(array.shape)}")
    factors = _factors(pyramid, unit, scale)
    if factors == (1.0, 1.0, 1.0) and array.dtype.kind == "i":
        return np.ascontiguousarray(array, np.int64)
    if factors == (1.0, 1.0, 1.0) and array.dtype.kind == "u":
        near: Points = np.minimum(array, np.array(_FAR, np.uint64)).astype(np.int64)
        return near
    places = array.astype(np.float64)
    wrong = np.flatnonzero(~np.isfinite(places).all(axis=1))
    if len(wrong):
        raise BadRequest(f"point {wrong[0] + 1} is {array[wrong[0]].tolist()}, which is nowhere")
    # the noise of a division must not move 8 nm / 8 nm to voxel 0
    scaled = places * factors
    whole = np.rint(scaled)
    scaled = np.where(np.abs(scaled - whole) < 1e-9 * np.maximum(1.0, np.abs(scaled)), whole, np.floor(scaled))
    clipped: Points = np.clip(scaled, -float(_FAR), float(_FAR)).astype(np.int64)
    return clipped


def _factors(pyramid: Pyramid, unit: Unit, scale: int) -> tuple[float, float, float]:
    """By what coordinates are multiplied to be voxels of a scale."""
    finest, chosen = pyramid.scales[0].resolution_nm, pyramid.scales[scale].resolution_nm
    if unit == "voxels" and (scale == 0 or finest == chosen):
        return 1.0, 1.0, 1.0
    if finest is None or chosen is None:
        raise BadRequest(f"{pyramid.name} does not say how large its voxels are: give voxels of its finest scale")
    x, y, z = ((1.0 if unit == "nm" else a) / b for a, b in zip(finest, chosen, strict=True))
    return x, y, z


class Groups:
    """Points by chunk. Cells are numbered with x fastest."""

    def __init__(self, volume: VolumeSource, points: Points) -> None:
        from fascicle.kernels import chunk_points

        self.size = np.array(volume.shape_zyx[::-1], np.int64)
        self.chunk = np.array(volume.chunk_zyx[::-1], np.int64)
        self.offset = np.array(volume.offset_xyz, np.int64)
        self.grid = -(-self.size // self.chunk)
        if self.chunk.max() > chunk_points.MOST_EDGE:
            raise BadRequest(f"{volume.name} has chunks of {self.chunk.tolist()} voxels: too long for look-ups")
        cells = np.empty(len(points), np.int64)
        chunk_points.cells_of(points, self.offset, self.size, self.chunk, self.grid, cells)
        count = int(np.prod(self.grid, dtype=object))
        if count <= max(1 << 16, 4 * len(points)):
            order = np.empty(len(points), np.int64)
            starts = np.zeros(count + 1, np.int64)
            places = np.empty(len(points), np.int64)
            inside = chunk_points.grouped(cells, points, self.offset, self.chunk, starts, order, places)
            self.cells = np.flatnonzero(np.diff(starts))
            self.starts = np.append(starts[self.cells], inside)
            self.order, self.places = frozen(order[:inside]), frozen(places[:inside])
        else:
            order = np.argsort(cells)
            ordered = cells[order]
            first = int(np.searchsorted(ordered, 0))
            self.order, ordered = frozen(order[first:]), ordered[first:]
            places = np.empty(len(self.order), np.int64)
            chunk_points.places_of(points, self.offset, self.chunk, self.order, places)
            self.places = frozen(places)
            borders = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1])) if len(ordered) else ordered
            self.cells = ordered[borders]
            self.starts = np.append(borders, len(ordered))

    def __len__(self) -> int:
        return len(self.cells)

    def cell(self, number: int) -> tuple[int, int, int]:
        """x, y, z of the cell of a group."""
        cell, gx, gy = int(self.cells[number]), int(self.grid[0]), int(self.grid[1])
        return cell % gx, cell // gx % gy, cell // (gx * gy)

    def points(self, number: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Of the points of a group: their places in the chunk, as kernels want them, and their numbers."""
        span = slice(self.starts[number], self.starts[number + 1])
        return self.places[span], self.order[span]


class _Meter:
    """Points that are done, counted by several threads."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        self._total, self._done = total, 0
        self._progress = progress
        self._lock = threading.Lock()

    def add(self, points: int) -> None:
        if self._progress:
            with self._lock:
                self._done += points
                self._progress("points", self._done, self._total)


def _of_precomputed(volume: PrecomputedVolume, groups: Groups, out: NDArray[Any], progress: Progress | None) -> None:
    numbers = {groups.cell(number): number for number in range(len(groups))}
    meter = _Meter(len(groups.order), progress)
    read = _reader(volume, out)

    def see(cell: tuple[int, int, int], data: bytes) -> None:
        places, order = groups.points(numbers[cell])
        read(cell, data, places, order)
        meter.add(len(order))

    volume.visit(list(numbers), see)


def _reader(
    volume: PrecomputedVolume, out: NDArray[Any]
) -> Callable[[tuple[int, int, int], bytes, Points, Points], None]:
    """How the points of a chunk get their labels: from its cell, its bytes, their places and their numbers."""
    from fascicle.kernels import chunk_points

    def decoded(cell: tuple[int, int, int], data: bytes, places: Points, order: Points) -> None:
        chunk_points.raw_at(frozen(volume.decode_cell(data, cell)), places, order, out)

    if volume.scale.encoding != volume_chunks.SEGMENTATION or volume.dtype not in volume_chunks.LABELS:
        return decoded
    block = np.array(volume.scale.block_xyz, np.int64)
    wide = volume.dtype.itemsize == 8

    def without_decoding(cell: tuple[int, int, int], data: bytes, places: Points, order: Points) -> None:
        start, stop = volume.scale.chunk_span(cell)
        shape = np.array(stop, np.int64) - np.array(start, np.int64)
        with volume.naming(cell):
            words = volume_chunks.segmentation_channel(data, volume.channel, volume.info.num_channels)
            if not chunk_points.segmentation_at(words, block, shape, places, order, out, wide):
                raise BadRequest(f"{len(data)} bytes are not a compressed segmentation of {shape.tolist()} voxels")

    return without_decoding


def _of_chunks(volume: VolumeSource, groups: Groups, out: NDArray[Any], progress: Progress | None) -> None:
    from fascicle.kernels import chunk_points

    meter = _Meter(len(groups.order), progress)

    def look(number: int) -> None:
        cell = groups.cell(number)
        places, order = groups.points(number)
        voxels = volume.read(*volume.chunk_box((cell[2], cell[1], cell[0])))
        chunk_points.raw_at(frozen(voxels), places, order, out)
        meter.add(len(order))

    tasks = [_task(look, number) for number in range(len(groups))]
    if volume.concurrent:
        in_parallel(tasks, True)
    else:
        for task in tasks:
            task()


def _task(do: Callable[[int], None], number: int) -> Callable[[], None]:
    return lambda: do(number)


def _of_version(
    volume: VersionScale, points: Points, groups: Groups, out: NDArray[Any], progress: Progress | None
) -> None:
    """Batches of points of neighbouring chunks, in several threads, each with a transaction of its own."""
    meter = _Meter(len(groups.order), progress)
    cuts = [0]
    for number in range(len(groups)):
        if groups.starts[number + 1] - cuts[-1] >= _STORE_BATCH:
            cuts.append(int(groups.starts[number + 1]))
    if cuts[-1] < len(groups.order):
        cuts.append(len(groups.order))

    def look(batch: int) -> None:
        order = groups.order[cuts[batch] : cuts[batch + 1]]
        out[order] = volume.labels_at(points[order])
        meter.add(len(order))

    in_parallel([_task(look, batch) for batch in range(len(cuts) - 1)], False)


def check_columns(columns: Sequence[str]) -> tuple[str, str, str]:
    """Three names of columns. Raises BadRequest."""
    if len(columns) != 3 or len(set(columns)) != 3 or not all(columns):
        raise BadRequest(f"{','.join(columns)!r} must be three names of columns like x,y,z")
    return columns[0], columns[1], columns[2]


