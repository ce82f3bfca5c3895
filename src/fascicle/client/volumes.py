"""Images and labels of a version as arrays.

Index order is [z, y, x], in voxel coordinates of the scale: `volume[10:20, 0:100, 0:100]` are the voxels whose z is
from 10 to 19, wherever the volume begins. Outside of what is stored there is background (0), so an answer always has
the shape that was asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import lz4.block
import numpy as np
from numpy.typing import ArrayLike, NDArray

from fascicle.client.connections import Place, checked_label, path_of
from fascicle.errors import BadRequest

REQUEST_BYTES = 64 << 20
"""Larger boxes are asked for in several requests."""
LABEL_TYPES = frozenset(["labelmap", "labelarray", "labelblk"])
IMAGE_TYPES = {
    "uint8blk": "u1", "uint16blk": "<u2", "uint32blk": "<u4", "uint64blk": "<u8", "float32blk": "<f4", "rgba8blk": "u1",
}  # fmt: skip
_POINTS_AT_ONCE = 100_000


class VolumeArray:
    """An image instance at one version and scale, to be sliced like a NumPy array.

    >>> gray = version["grayscale"]                 # doctest: +SKIP
    >>> gray[100:110, 0:512, 0:512].shape           # doctest: +SKIP
    (10, 512, 512)
    """

    def __init__(self, place: Place, uuid: str, name: str, level: int = 0) -> None:
        self.place = place
        self.uuid = uuid
        self.name = name
        self.level = level
        self._read_info()

    def _instance(self) -> str:
        """The instance that has the voxels of this scale."""
        return f"{self.name}_{self.level}" if self.level else self.name

    def _read_info(self) -> None:
        info = self.place.json("GET", path_of(self.uuid, self._instance(), "info"))
        typename = info["Base"]["TypeName"]
        if typename not in IMAGE_TYPES:
            raise BadRequest(f"data instance {self.name!r} is of type {typename}, which is no image")
        self.dtype = np.dtype(IMAGE_TYPES[typename])
        self.channels = 4 if typename == "rgba8blk" else 1
        """Samples per voxel; several make a fourth axis."""
        self._set_extents(info["Extended"], 0)

    def _set_extents(self, extended: dict[str, Any], level: int) -> None:
        low, high = extended.get("MinPoint"), extended.get("MaxPoint")
        step = 1 << level
        self.low_zyx: tuple[int, int, int] = (0, 0, 0)
        """The first voxel, of this scale."""
        self.high_zyx: tuple[int, int, int] = (0, 0, 0)
        """Behind the last voxel."""
        if low is not None and high is not None:
            z, y, x = (at // step for at in reversed(low))
            self.low_zyx = (z, y, x)
            z, y, x = (at // step + 1 for at in reversed(high))
            self.high_zyx = (z, y, x)
        x_nm, y_nm, z_nm = (float(edge) * step for edge in extended["VoxelSize"])
        self.resolution_nm: tuple[float, float, float] = (x_nm, y_nm, z_nm)
        """The size of a voxel x, y, z in the instance's units, which are nm unless somebody set others."""
        block = extended.get("BlockSize") or (64, 64, 64)
        self.block_zyx: tuple[int, int, int] = (int(block[2]), int(block[1]), int(block[0]))
        """Boxes at multiples of it are read without reading anything twice."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The size of what is stored: [z, y, x], and the channels if there are several."""
        z, y, x = (b - a for a, b in zip(self.low_zyx, self.high_zyx, strict=True))
        return (z, y, x, self.channels) if self.channels > 1 else (z, y, x)

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def scale(self, level: int) -> VolumeArray:
        """The same at another scale, whose voxels are 2^level times as large. Raises NotFound or BadRequest.

        >>> version["grayscale"].scale(2).resolution_nm     # doctest: +SKIP
        (32.0, 32.0, 32.0)
        """
        return type(self)(self.place, self.uuid, self.name, level)

    def read(self, start_zyx: Sequence[int], stop_zyx: Sequence[int]) -> NDArray[Any]:
        """The voxels [z, y, x] from `start` up to `stop`, in voxel coordinates of this scale, of the type `dtype`."""
        start, stop = [int(at) for at in start_zyx], [int(at) for at in stop_zyx]
        size = [b - a for a, b in zip(start, stop, strict=True)]
        if len(size) != 3 or min(size) < 0:
            raise BadRequest(f"no box is from {tuple(start)} to {tuple(stop)} (z, y, x)")
        tail = (self.channels,) if self.channels > 1 else ()
        voxels = np.empty((*size, *tail), self.dtype)
        if not voxels.size:
            return voxels
        slice_bytes = max(1, voxels.nbytes // size[0])
        depth = max(1, REQUEST_BYTES // slice_bytes)
        z = start[0]
        while z < stop[0]:
            end = min(stop[0], z + depth)
            if depth > self.block_zyx[0]:
                end = min(stop[0], max(z + 1, end // self.block_zyx[0] * self.block_zyx[0]))
            part = self._fetch((z, start[1], start[2]), (end, stop[1], stop[2]))
            voxels[z - start[0] : end - start[0]] = part.reshape((end - z, *size[1:], *tail))
            z = end
        return voxels

    def _fetch(self, start: Sequence[int], stop: Sequence[int]) -> NDArray[Any]:
        path = path_of(self.uuid, self._instance(), "raw", "0_1_2", *_size_and_offset(start, stop))
        return np.frombuffer(self.place.request("GET", path), self.dtype)

    def __getitem__(self, index: Any) -> NDArray[Any]:
        start, stop, picked = self._box(index)
        voxels: NDArray[Any] = self.read(start, stop)[picked]
        return voxels

    def _box(self, index: Any) -> tuple[list[int], list[int], tuple[Any, ...]]:
        """The box that an index needs, and what to take of it."""
        parts = list(index) if isinstance(index, tuple) else [index]
        if Ellipsis in [part for part in parts if not isinstance(part, np.ndarray)]:
            at = next(i for i, part in enumerate(parts) if part is Ellipsis)
            parts[at : at + 1] = [slice(None)] * (self.ndim - len(parts) + 1)
        parts += [slice(None)] * (self.ndim - len(parts))
        if len(parts) != self.ndim:
            raise IndexError(f"{self.name} has {self.ndim} axes, [z, y, x], not {len(parts)}")
        start, stop, picked = [], [], []
        for part, low, high in zip(parts[:3], self.low_zyx, self.high_zyx, strict=True):
            if isinstance(part, slice):
                if part.step is not None and part.step < 1:
                    raise IndexError(f"steps must be 1 or more, not {part.step}")
                a = low if part.start is None else int(part.start)
                b = high if part.stop is None else int(part.stop)
                start.append(a)
                stop.append(max(a, b))
                picked.append(slice(None, None, part.step))
            else:
                try:
                    at = int(part)
                except (TypeError, ValueError):
                    raise IndexError(f"{part!r} is no coordinate; index with whole numbers and slices") from None
                start.append(at)
                stop.append(at + 1)
                picked.append(0)  # type: ignore[arg-type]
        return start, stop, (*picked, *parts[3:])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        voxels = self.read(self.low_zyx, self.high_zyx)
        return voxels if dtype is None else voxels.astype(dtype)

    def to_dask(self, chunks: Sequence[int] | int = 0) -> Any:
        """All of it as a Dask array [z, y, x] whose index 0 is the voxel `low_zyx`; read when it is needed.

        `chunks` are voxels per axis, by default blocks that make 8 to 64 MB. Needs `pip install 'fascicle[dask]'`.
        With `dask.distributed` the version must be one of a server.

        >>> version["grayscale"].scale(3).to_dask().mean().compute()    # doctest: +SKIP
        """
        try:
            import dask.array
        except ImportError:
            raise BadRequest("Dask arrays need the package dask: pip install 'fascicle[dask]'") from None
        wanted: Any = chunks or _usual_chunks(self.block_zyx, self.dtype.itemsize * self.channels)
        if not isinstance(wanted, int) and self.channels > 1 and len(wanted) == 3:
            wanted = (*wanted, self.channels)
        make: Any = dask.array.from_array
        return make(_FromZero(self), chunks=wanted, name=False, asarray=False)

    def __repr__(self) -> str:
        z, y, x = (f"{a}:{b}" for a, b in zip(self.low_zyx, self.high_zyx, strict=True))
        return f"<{type(self).__name__} {self.name}, scale {self.level}: [{z}, {y}, {x}] (z, y, x) of {self.dtype}>"


class LabelArray(VolumeArray):
    """A label map at one version and scale: bodies, or supervoxels.

    >>> bodies = version["segmentation"]                    # doctest: +SKIP
    >>> bodies.labels_at([[100, 200, 50]])                  # doctest: +SKIP
    array([17], dtype=uint64)
    """

    def __init__(self, place: Place, uuid: str, name: str, level: int = 0, supervoxels: bool = False) -> None:
        self.shows_supervoxels = supervoxels
        super().__init__(place, uuid, name, level)

    def _instance(self) -> str:
        return self.name

    def _read_info(self) -> None:
        info = self.place.json("GET", path_of(self.uuid, self.name, "info"))
        if info["Base"]["TypeName"] not in LABEL_TYPES:
            raise BadRequest(f"data instance {self.name!r} is of type {info['Base']['TypeName']}, which has no labels")
        coarsest = int(info["Extended"].get("MaxDownresLevel", 0))
        if not 0 <= self.level <= coarsest:
            raise BadRequest(f"{self.name} has scales 0 to {coarsest}, so there is no scale {self.level}")
        self.dtype = np.dtype("<u8")
        self.channels = 1
        self._set_extents(info["Extended"], self.level)

    def scale(self, level: int) -> LabelArray:
        """The same at another scale, whose voxels are 2^level times as large. Raises BadRequest."""
        return LabelArray(self.place, self.uuid, self.name, level, self.shows_supervoxels)

    @property
    def supervoxels(self) -> LabelArray:
        """The same with supervoxels in the place of bodies."""
        return LabelArray(self.place, self.uuid, self.name, self.level, True)

    def _fetch(self, start: Sequence[int], stop: Sequence[int]) -> NDArray[Any]:
        path = path_of(self.uuid, self.name, "raw", "0_1_2", *_size_and_offset(start, stop))
        data = self.place.request(
            "GET", path, compression="lz4", scale=self.level or None, supervoxels=self.shows_supervoxels
        )
        size = 8
        for a, b in zip(start, stop, strict=True):
            size *= b - a
        return np.frombuffer(lz4.block.decompress(data, uncompressed_size=size), self.dtype)

    # -- points and bodies

    def labels_at(self, points_xyz: ArrayLike) -> NDArray[np.uint64]:
        """The label u64[n] at each of n points [n, 3], which are x, y, z in voxels of this scale; 0 where nothing is.

        For very many points `fascicle.lookup` is faster.
        """
        points = np.asarray(points_xyz)
        if points.size == 0:
            return np.zeros(0, np.uint64)
        if points.ndim != 2 or points.shape[1] != 3:
            raise BadRequest(f"points must be an array [n, 3] of x, y, z, not of the shape {points.shape}")
        if points.dtype.kind == "f":
            points = np.floor(points)
        points = points.astype(np.int64)
        labels = np.empty(len(points), np.uint64)
        path = path_of(self.uuid, self.name, "labels")
        for first in range(0, len(points), _POINTS_AT_ONCE):
            part = points[first : first + _POINTS_AT_ONCE].tolist()
            found = self.place.json("GET", path, part, scale=self.level or None, supervoxels=self.shows_supervoxels)
            labels[first : first + len(part)] = np.array(found, np.uint64)
        return labels

    def bodies(self) -> NDArray[np.uint64]:
        """All bodies of the version u64[n], ascending."""
        return np.array(self.place.json("GET", path_of(self.uuid, self.name, "existing-labels")), np.uint64)

    def sizes(self, labels: Sequence[int]) -> NDArray[np.uint64]:
        """Voxels (of scale 0) u64[n] of each of n labels; 0 for those that do not exist."""
        wanted = [checked_label(label) for label in labels]
        path = path_of(self.uuid, self.name, "sizes")
        return np.array(self.place.json("GET", path, wanted, supervoxels=self.shows_supervoxels), np.uint64)

    def supervoxels_of(self, body: int) -> NDArray[np.uint64]:
        """The supervoxels u64[n] of a body. Raises NotFound or Refused if there is no such body."""
        path = path_of(self.uuid, self.name, "supervoxels", checked_label(body))
        return np.array(self.place.json("GET", path), np.uint64)

    def bodies_of(self, supervoxels: Sequence[int]) -> NDArray[np.uint64]:
        """The body u64[n] of each of n supervoxels; 0 for those that do not exist."""
        wanted = [checked_label(label) for label in supervoxels]
        return np.array(self.place.json("GET", path_of(self.uuid, self.name, "mapping"), wanted), np.uint64)

    # -- edits, at an open version

    def merge(self, target: int, bodies: Sequence[int]) -> int:
        """Merge bodies into `target`, which keeps its label; the id of the mutation. Raises Refused.

        >>> version["segmentation"].merge(17, [23, 42])     # doctest: +SKIP
        1000000001
        """
        labels = [checked_label(label) for label in (target, *bodies)]
        answer = self.place.json("POST", path_of(self.uuid, self.name, "merge"), labels)
        return int(answer["MutationID"])

    def cleave(self, body: int, supervoxels: Sequence[int]) -> int:
        """Make some supervoxels of a body a body of their own; its label. Raises Refused."""
        labels = [checked_label(label) for label in supervoxels]
        answer = self.place.json("POST", path_of(self.uuid, self.name, "cleave", checked_label(body)), labels)
        return int(answer["CleavedLabel"])


class _FromZero:
    """A volume whose index 0 is its first voxel, as Dask wants it."""

    def __init__(self, volume: VolumeArray) -> None:
        self._volume = volume
        self.shape = volume.shape
        self.ndim = volume.ndim
        self.dtype = volume.dtype

    def __getitem__(self, index: tuple[Any, ...]) -> NDArray[Any]:
        spans = [part.indices(size)[:2] for part, size in zip(index[:3], self.shape[:3], strict=True)]
        low = self._volume.low_zyx
        start = [a + first for (a, _), first in zip(spans, low, strict=True)]
        stop = [b + first for (_, b), first in zip(spans, low, strict=True)]
        steps = tuple(slice(None, None, part.step) for part in index[:3])
        voxels: NDArray[Any] = self._volume.read(start, stop)[(*steps, *index[3:])]
        return voxels


def _usual_chunks(block_zyx: tuple[int, int, int], voxel_bytes: int) -> tuple[int, int, int]:
    chunk = list(block_zyx)
    while chunk[0] * chunk[1] * chunk[2] * voxel_bytes < 8 << 20:
        chunk = [2 * edge for edge in chunk]
    return chunk[0], chunk[1], chunk[2]


def _size_and_offset(start: Sequence[int], stop: Sequence[int]) -> tuple[str, str]:
    size = [b - a for a, b in zip(start, stop, strict=True)]
    return "_".join(map(str, reversed(size))), "_".join(map(str, reversed(list(start))))
