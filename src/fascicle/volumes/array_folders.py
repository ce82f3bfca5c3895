"""Zarr 2 and 3, OME-Zarr and N5, in a folder, behind a web server or in a bucket. TensorStore reads the chunks.

Sources: https://zarr-specs.readthedocs.io, https://ngff.openmicroscopy.org (0.1 to 0.5), https://github.com/saalfeldlab/n5
and, for scales of N5, the attributes that N5 viewers write: `downsamplingFactors`, `scales`, `pixelResolution`,
`resolution`, `multiscales`.

Which axis is which is taken from the metadata. Without any, zarr arrays are [z, y, x] and N5 arrays x, y, z, as their
authors mean it. Chunks that are not stored are the array's fill value.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from fascicle.volumes.base import Array, Pyramid, VolumeError, VolumeSource, Zyx, need
from fascicle.volumes.objects import Access, Forbidden, ObjectFolder, is_remote, open_folder

NM_PER_UNIT = {
    "picometer": 1e-3, "pm": 1e-3, "angstrom": 0.1, "nanometer": 1.0, "nm": 1.0, "micrometer": 1e3, "um": 1e3,
    "µm": 1e3, "μm": 1e3, "micron": 1e3, "microns": 1e3, "millimeter": 1e6, "mm": 1e6, "centimeter": 1e7, "cm": 1e7,
    "meter": 1e9, "m": 1e9,
}  # fmt: skip
WAIT_S = 600.0
_DTYPES = frozenset(["u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f4", "f8"])


@dataclass(frozen=True, slots=True)
class _Dataset:
    """An array of a group. Lists have an item for each axis of the array, in its own order."""

    path: str
    axes: tuple[str, ...]
    scale: tuple[float, ...] | None = None
    """The size of a voxel in nm, if it is known."""
    translation: tuple[float, ...] | None = None
    """In nm."""


class ArrayFolderVolume(VolumeSource):
    """One array, whose axes other than x, y and z are at one index."""

    concurrent = True

    def __init__(self, name: str, store: Any, dataset: _Dataset, channel: int | None) -> None:
        self.name = name if channel is None else f"{name}, channel {channel}"
        axes = [axis.lower() for axis in dataset.axes]
        if len(axes) != store.rank or any(axes.count(axis) != 1 for axis in "zyx"):
            raise VolumeError(f"{name} has the axes {', '.join(axes)} and {store.rank} dimensions; z, y, x are needed")
        index: list[Any] = [slice(None)] * store.rank
        for i, axis in enumerate(axes):
            if axis not in "zyx":
                index[i] = _chosen(name, axis, store.shape[i], channel if axis == "c" else None)
        self._order = [axes.index(axis) for axis in "zyx"]
        view = store[tuple(index)]
        kept = [i for i, axis in enumerate(axes) if axis in "zyx"]
        self._view = view.transpose([kept.index(i) for i in self._order])
        self.dtype = np.dtype(store.dtype.numpy_dtype).newbyteorder("=")
        if self.dtype.str[1:] not in _DTYPES:
            raise VolumeError(f"{name} has voxels of {store.dtype.name}, which cannot be read")
        shape, chunks = store.shape, store.chunk_layout.read_chunk.shape or store.shape
        self.shape_zyx = _triple([shape[i] for i in self._order])
        self.chunk_zyx = _triple([max(1, chunks[i] or shape[i]) for i in self._order])
        if dataset.scale is not None:
            z, y, x = (dataset.scale[i] for i in self._order)
            self.resolution_nm = (float(x), float(y), float(z))
            if dataset.translation is not None:
                tz, ty, tx = (dataset.translation[i] for i in self._order)
                self.offset_xyz = round(tx / x), round(ty / y), round(tz / z)

    def read(self, start_zyx: Zyx, stop_zyx: Zyx) -> Array:
        box = tuple(slice(a, b) for a, b in zip(start_zyx, stop_zyx, strict=True))
        try:
            voxels = self._view[box].read(order="C").result(timeout=WAIT_S)
        except Exception as error:
            raise VolumeError(f"{self.name} cannot be read: {_reason(error)}") from None
        return np.ascontiguousarray(voxels, self.dtype)


def open_arrays(
    address: str, dataset: str | None = None, access: Access | None = None, channel: int | None = None
) -> Pyramid | None:
    """All scales of a zarr or N5 group, or an array as its only scale; None if there is neither at an address.

    `dataset` is a path below it. `channel` is needed if there are several; so are other axes than x, y and z refused.
    """
    place = "/".join(part.strip("/") for part in (address.rstrip("/"), dataset or "") if part)
    place = "/" + place if address.startswith("/") else place
    folder = open_folder(place, access)
    for find in (_zarr3, _zarr2, _n5):
        found = find(folder)
        if found is None:
            continue
        driver, datasets, is_labels = found
        volumes = tuple(_opened(place, driver, item, access or Access(), channel) for item in datasets)
        wide = all(volume.dtype.kind in "iu" and volume.dtype.itemsize >= 4 for volume in volumes)
        return Pyramid(address, "segmentation" if is_labels or wide else "image", volumes)
    return None


_Found = tuple[str, list[_Dataset], bool]
"""A driver, its arrays from fine to coarse, and whether they are said to be labels."""


# -- zarr


def _zarr3(folder: ObjectFolder) -> _Found | None:
    document = _json(folder, "zarr.json")
    if document is None:
        return None
    if document.get("node_type") == "array":
        names = document.get("dimension_names") or []
        return "zarr3", [_Dataset("", _named_axes(names, len(document.get("shape", ()))))], False
    attributes = document.get("attributes", {})
    ome = attributes.get("ome", attributes)
    if ome.get("bioformats2raw.layout"):
        return _below(folder, "0", _zarr3)
    return _ome(folder, "zarr3", ome)


def _zarr2(folder: ObjectFolder) -> _Found | None:
    attributes = _json(folder, ".zattrs")
    array = _json(folder, ".zarray")
    if array is not None:
        names = (attributes or {}).get("_ARRAY_DIMENSIONS") or []
        return "zarr", [_Dataset("", _named_axes(names, len(array.get("shape", ()))))], False
    if attributes is None:
        if _json(folder, ".zgroup") is not None:
            raise VolumeError(f"{folder.address} is a zarr group that names no scales; give the path of an array in it")
        return None
    if attributes.get("bioformats2raw.layout"):
        return _below(folder, "0", _zarr2)
    return _ome(folder, "zarr", attributes)


def _below(folder: ObjectFolder, part: str, find: Any) -> _Found | None:
    found = find(_Below(folder, part))
    if found is None:
        return None
    driver, datasets, is_labels = found
    return driver, [_moved(item, part) for item in datasets], is_labels


def _moved(item: _Dataset, part: str) -> _Dataset:
    return _Dataset(f"{part}/{item.path}" if item.path else part, item.axes, item.scale, item.translation)


class _Below:
    """A folder of a folder, as far as metadata is read from it."""

    def __init__(self, folder: ObjectFolder, part: str) -> None:
        self._folder, self._part = folder, part
        self.address = f"{folder.address}/{part}"

    def get(self, name: str) -> bytes | None:
        return self._folder.get(f"{self._part}/{name}")


def _ome(folder: ObjectFolder, driver: str, attributes: dict[str, Any]) -> _Found:
    images = attributes.get("multiscales")
    if not isinstance(images, list) or not images:
        raise VolumeError(f"{folder.address} is a zarr group that names no scales; give the path of an array in it")
    try:
        return driver, _ome_datasets(images[0]), "image-label" in attributes
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise VolumeError(f"the multiscales of {folder.address} make no sense: {error!r}") from None


def _ome_datasets(image: dict[str, Any]) -> list[_Dataset]:
    listed = image.get("axes") or list("tczyx")
    axes = tuple(str(axis if isinstance(axis, str) else axis["name"]) for axis in listed)
    units = [None if isinstance(axis, str) else axis.get("unit") for axis in listed]
    factors = [NM_PER_UNIT.get(str(unit).lower(), 1.0) for unit in units]
    known = any(str(unit).lower() in NM_PER_UNIT for unit in units)
    outer_scale, outer_shift = _transformed(image.get("coordinateTransformations"), len(axes))
    datasets = []
    for item in image["datasets"]:
        scale, shift = _transformed(item.get("coordinateTransformations"), len(axes))
        if not known or (scale is None and outer_scale is None):
            datasets.append(_Dataset(str(item["path"]), axes))
            continue
        inner, outer = scale or [1.0] * len(axes), outer_scale or [1.0] * len(axes)
        full = tuple(a * b * f for a, b, f in zip(inner, outer, factors, strict=True))
        if not all(edge > 0 for edge, axis in zip(full, axes, strict=True) if axis.lower() in "zyx"):
            raise ValueError(f"the scale {inner} is not above 0")
        moved = tuple((a * b + c) * f for a, b, c, f in zip(shift, outer, outer_shift, factors, strict=True))
        datasets.append(_Dataset(str(item["path"]), axes, full, moved))
    return datasets


def _transformed(transformations: Any, rank: int) -> tuple[list[float] | None, list[float]]:
    """Scale (None if there is none) and translation of a list of transformations."""
    scale: list[float] | None = None
    shift = [0.0] * rank
    for step in transformations or ():
        if step.get("type") == "scale":
            factor = [float(value) for value in step["scale"]]
            scale = [a * b for a, b in zip(scale or [1.0] * rank, factor, strict=True)]
            shift = [a * b for a, b in zip(shift, factor, strict=True)]
        elif step.get("type") == "translation":
            shift = [a + float(b) for a, b in zip(shift, step["translation"], strict=True)]
    return scale, shift


def _named_axes(names: Sequence[Any], rank: int) -> tuple[str, ...]:
    """The axes of an array on its own: as it names them, if these have x, y and z, else the last three are z, y, x."""
    named = [str(name).lower() for name in names]
    if len(named) == rank and all(named.count(axis) == 1 for axis in "zyx"):
        return tuple(named)
    return ("t", "c", "z", "y", "x")[-rank:] if 3 <= rank <= 5 else tuple(f"axis {i}" for i in range(rank))


# -- N5


def _n5(folder: ObjectFolder) -> _Found | None:
    attributes = _json(folder, "attributes.json")
    first = None if attributes is not None else _json(folder, "s0/attributes.json")
    if attributes is None and first is None:
        return None
    attributes = attributes or {}
    try:
        if "dimensions" in attributes:
            return "n5", [_n5_dataset("", attributes, attributes, attributes.get("downsamplingFactors"))], False
        if images := attributes.get("multiscales"):
            return "n5", [_n5_transformed(folder, item) for item in images[0]["datasets"]], False
        return "n5", _n5_scales(folder, attributes), False
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, ZeroDivisionError) as error:
        raise VolumeError(f"the attributes of {folder.address} make no sense: {error!r}") from None


def _n5_scales(folder: ObjectFolder, group: dict[str, Any]) -> list[_Dataset]:
    """The arrays s0, s1, ... of a group."""
    factors = group.get("downsamplingFactors") or group.get("scales")
    datasets: list[_Dataset] = []
    finest: dict[str, Any] = {}
    for k in range(len(factors) if factors else 64):
        own = _json(folder, f"s{k}/attributes.json")
        if own is None or "dimensions" not in own:
            break
        finest = finest or own
        factor = factors[k] if factors else own.get("downsamplingFactors")
        edges = _pixel_resolution(own)[0]
        if _pixel_resolution(group)[0] is None and edges != _pixel_resolution(finest)[0]:
            factor = None  # each array says the size of its own voxels, not that of the finest
        datasets.append(_n5_dataset(f"s{k}", own, group, factor))
    if not datasets:
        raise VolumeError(f"{folder.address} is an N5 group without scales s0, s1; give the path of an array in it")
    return datasets


def _n5_dataset(path: str, own: dict[str, Any], group: dict[str, Any], factor: list[float] | None) -> _Dataset:
    """An array whose voxels are `factor` (x, y, z) times as large as the group, or the array itself, says."""
    rank = len(own["dimensions"])
    axes = tuple(str(axis) for axis in own.get("axes") or group.get("axes") or ())
    if len(axes) != rank:
        axes = ("x", "y", "z", "c", "t")[:rank]
    said = group if _pixel_resolution(group)[0] is not None else own
    edges, unit = _pixel_resolution(said)
    if edges is None:
        return _Dataset(path, axes)
    nm = NM_PER_UNIT.get(unit.lower(), 1.0)
    pad = [1.0] * (rank - len(edges))
    scale = [float(a) * float(b) * nm for a, b in zip(edges, factor or [1.0] * len(edges), strict=True)] + pad
    if not all(edge > 0 for edge in scale):
        raise ValueError(f"the resolution {edges} is not above 0")
    shift = said.get("offset")
    if shift is None:
        return _Dataset(path, axes, tuple(scale))
    moved = [float(a) * nm for a in shift] + [0.0] * (rank - len(shift))
    return _Dataset(path, axes, tuple(scale), tuple(moved))


def _n5_transformed(folder: ObjectFolder, item: dict[str, Any]) -> _Dataset:
    """A scale whose entry has a transform. Its lists are in the order of its axes, which is often z, y, x."""
    path = str(item["path"])
    attributes = _json(folder, f"{path}/attributes.json") or {}
    rank = len(attributes["dimensions"])
    axes = ("x", "y", "z", "c", "t")[:rank]
    transform = item.get("transform") or attributes.get("transform")
    if transform is None:
        return _n5_dataset(path, attributes, attributes, None)
    named = [str(axis).lower() for axis in transform["axes"]]
    unit = dict(zip(named, transform.get("units") or [], strict=False))
    nm = {axis: NM_PER_UNIT.get(str(unit.get(axis, "nm")).lower(), 1.0) for axis in axes}
    scale = dict(zip(named, transform["scale"], strict=True))
    shift = dict(zip(named, transform.get("translate") or [0.0] * len(named), strict=True))
    return _Dataset(
        path,
        axes,
        tuple(float(scale.get(axis, 1.0)) * nm[axis] for axis in axes),
        tuple(float(shift.get(axis, 0.0)) * nm[axis] for axis in axes),
    )


def _pixel_resolution(attributes: dict[str, Any]) -> tuple[list[float] | None, str]:
    """The size of a voxel x, y, z and its unit."""
    value = attributes.get("pixelResolution") or attributes.get("resolution")
    if isinstance(value, dict):
        return value["dimensions"], str(value.get("unit") or "nm")
    units = attributes.get("units") or ["nm"]
    return value, str(units[0])


# -- TensorStore


def _opened(place: str, driver: str, dataset: _Dataset, access: Access, channel: int | None) -> ArrayFolderVolume:
    tensorstore = need("tensorstore", "tensorstore", "zarr and N5 volumes")
    path = "/".join(part for part in (place, dataset.path.strip("/")) if part)
    tries = {"max_retries": access.attempts}
    context = {
        "cache_pool": {"total_bytes_limit": 0},
        "http_request_retries": tries, "gcs_request_retries": tries, "s3_request_retries": tries,
    }  # fmt: skip
    spec = {"driver": driver, "kvstore": _kvstore(path, access), "context": context}
    try:
        store = tensorstore.open(spec, read=True, open=True).result(timeout=WAIT_S)
    except Exception as error:
        raise VolumeError(f"{path} cannot be opened: {_reason(error)}") from None
    return ArrayFolderVolume(path, store, dataset, channel)


def _kvstore(address: str, access: Access) -> dict[str, Any]:
    """Where TensorStore finds what is at an address."""
    if not is_remote(address):
        place = Path(address.removeprefix("file://")).expanduser().absolute()
        return {"driver": "file", "path": f"{place.as_posix()}/"}
    scheme, _, rest = address.partition("://")
    if scheme in ("http", "https"):
        base, _, query = address.partition("?")
        return {"driver": "http", "base_url": f"{base.rstrip('/')}/" + (f"?{query}" if query else "")}
    endpoint = access.endpoint
    if scheme.startswith("vast"):
        host, _, rest = rest.partition("/")
        endpoint = f"{'http' if scheme == 'vast+http' else 'https'}://{host}"
    bucket, _, path = rest.partition("/")
    where = {"bucket": bucket, "path": f"{path.strip('/')}/" if path.strip("/") else ""}
    if scheme == "gs":
        return {"driver": "gcs"} | where
    found: dict[str, Any] = {"driver": "s3"} | where
    if endpoint:
        found |= {"endpoint": endpoint, "aws_region": access.region or "us-east-1"}
    elif access.region:
        found["aws_region"] = access.region
    anonymous = not os.environ.get("AWS_ACCESS_KEY_ID") if access.anonymous is None else access.anonymous
    if anonymous:
        found["aws_credentials"] = {"type": "anonymous"}
    return found


def _chosen(name: str, axis: str, size: int, index: int | None) -> int:
    """The index of an axis that is none of space."""
    if index is None and size == 1:
        return 0
    what = {"c": "channels", "t": "points of time"}.get(axis, f"indices of its axis {axis!r}")
    if index is None:
        raise VolumeError(f"{name} has {size} {what}; one is needed")
    if not 0 <= index < size:
        raise VolumeError(f"{name} has {size} {what}, so there is no number {index}")
    return index


def _json(folder: Any, name: str) -> dict[str, Any] | None:
    try:
        data = folder.get(name)
    except Forbidden:
        data = None  # buckets that may not be listed say so of what is not there
    if data is None:
        return None
    try:
        return msgspec.json.decode(data, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise VolumeError(f"{folder.address}/{name} is not a JSON object: {error}") from None


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:300]


def _triple(values: Sequence[int]) -> Zyx:
    a, b, c = values
    return int(a), int(b), int(c)
