"""Layers of the viewer: what a source is, where it lies, and between which values its voxels are worth showing.

Sources: https://github.com/google/neuroglancer/blob/master/README.md (data sources),
https://neuroglancer-docs.web.app/json/api/index.html (layers), shaders:
https://github.com/google/neuroglancer/blob/master/src/sliceview/image_layer_rendering.md (`invlerp`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from fascicle.errors import BadRequest, NotFound
from fascicle.pipeline.sources import SourceSpec
from fascicle.volumes.base import Array, Pyramid, VolumeError, VolumeSource, Zyx
from fascicle.volumes.objects import is_remote, open_folder
from fascicle.volumes.opening import open_pyramid
from fascicle.volumes.precomputed import plain_address

SAMPLED_VOXELS = 2 << 20
"""So many voxels of a coarse scale, at most, tell the range of values."""
_KINDS = {
    "neuroglancer_multiscale_volume": "volume",
    "neuroglancer_annotations_v1": "annotation",
    "neuroglancer_legacy_mesh": "segmentation",
    "neuroglancer_multilod_draco": "segmentation",
    "neuroglancer_skeletons": "segmentation",
    "neuroglancer_segment_properties": "segmentation",
}
_DVID = re.compile(r"dvid://(https?://[^/]+)/([^/?#]+)/([^/?#]+)/?")
_ARRAYS = re.compile(r"(?:(zarr2|zarr3|zarr|n5)://(.*)|(.*)\|(zarr2|zarr3|zarr|n5):)")
_FLOATS = "f"

Published = Callable[[str], str]
"""From a folder on this machine to the URL under which a browser finds it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One layer. Triples are x, y, z."""

    name: str
    kind: str
    """`image`, `segmentation` or `annotation`."""
    source: str
    """As the viewer wants it, such as `precomputed://gs://bucket/volume`."""
    resolution_nm: tuple[float, float, float] | None = None
    """Size of a voxel of the finest scale."""
    low: tuple[float, float, float] | None = None
    high: tuple[float, float, float] | None = None
    """Its bounds in voxels of the finest scale, the end exclusive."""
    value_range: tuple[float, float] | None = None
    """The values shown as black and as white."""
    value_window: tuple[float, float] | None = None
    """The values between which a person may choose others."""
    relationships: tuple[str, ...] = ()
    """Of annotations: what relates them to bodies."""


def describe(spec: SourceSpec, published: Published | None = None) -> Layer:
    """The layer that shows a source; its voxels are sampled where it is an image.

    Raises BadRequest for what no viewer can read, VolumeError if it cannot be opened.
    """
    if spec.data:
        raise BadRequest(f"a browser cannot read the store {spec.data}: run `fascicle serve --data {spec.data}`, then "
                         "name it with --server")  # fmt: skip
    if spec.server:
        return _of_folder(spec.precomputed_address, spec.instance, spec.precomputed_address)
    dvid = _DVID.fullmatch(spec.address)
    if dvid is not None:
        return _of_dvid(spec.address.rstrip("/"), dvid[1], dvid[2], dvid[3])
    address, scheme = _address_and_scheme(spec.address)
    if spec.dataset:
        address = f"{address.rstrip('/')}/{spec.dataset.strip('/')}"
    where = _for_browsers(address, published)
    name = address.rstrip("/").rpartition("/")[2] or address
    if scheme == "precomputed":
        return _of_folder(address, name, where)
    with open_pyramid(spec.address, spec.dataset or None, channel=spec.channel) as pyramid:
        return _of_pyramid(pyramid, name, f"{scheme}://{where}")


def _address_and_scheme(address: str) -> tuple[str, str]:
    """An address without the words that say what is there, and the viewer's word for that."""
    arrays = _ARRAYS.fullmatch(address)
    if arrays is not None:
        word = arrays[1] or arrays[4]
        return arrays[2] or arrays[3], "n5" if word == "n5" else "zarr"
    plain = plain_address(address)
    if plain != address or is_remote(plain):
        return plain, "precomputed" if plain != address or _has_info(plain) else _kind_of_arrays(plain)
    folder = Path(plain.removeprefix("file://")).expanduser()
    if not folder.is_dir():
        raise BadRequest(f"{address} is no folder that a browser can read; `fascicle convert` makes one")
    if (folder / "info").is_file() or (folder / "info.gz").is_file():
        return str(folder), "precomputed"
    return str(folder), _kind_of_arrays(str(folder))


def _has_info(address: str) -> bool:
    try:
        return open_folder(address).get("info") is not None
    except VolumeError:
        return False


def _kind_of_arrays(address: str) -> str:
    folder = open_folder(address)
    for name, scheme in (("zarr.json", "zarr"), (".zattrs", "zarr"), (".zarray", "zarr"), ("attributes.json", "n5")):
        if folder.get(name) is not None:
            return scheme
    raise BadRequest(f"{address} is neither a precomputed folder (no file named info), nor zarr, nor N5")


def _for_browsers(address: str, published: Published | None) -> str:
    """An address that a viewer understands."""
    if address.startswith(("http://", "https://", "gs://", "s3://")):
        return address
    for word, protocol in (("vast+http://", "http://"), ("vast://", "https://")):
        if address.startswith(word):
            return protocol + address.removeprefix(word)
    if published is None:
        raise BadRequest(f"{address} is on this machine: say under which URL it is served")
    return published(address)


def _precomputed_source(where: str) -> str:
    """The old form has no room for a query, the new one is not known to old viewers."""
    return f"{where}|neuroglancer-precomputed:" if "?" in where else f"precomputed://{where}"


def _of_folder(address: str, name: str, where: str) -> Layer:
    """Of a folder with a file `info` of any kind."""
    data = open_folder(address).get("info")
    if data is None:
        raise NotFound(f"there is no precomputed folder at {address}: it has no file named info")
    try:
        document = msgspec.json.decode(data)
    except msgspec.MsgspecError as error:
        raise BadRequest(f"the info of {address} is not JSON: {error}") from None
    kind = document.get("@type", "neuroglancer_multiscale_volume") if isinstance(document, dict) else None
    if kind not in _KINDS:
        raise BadRequest(f"the info of {address} is of the type {kind!r}, which no viewer shows")
    source = _precomputed_source(where)
    if kind == "neuroglancer_annotations_v1":
        return _of_annotations(document, name, source)
    if _KINDS[kind] == "segmentation":
        return Layer(name=name, kind="segmentation", source=source)
    with open_pyramid(f"precomputed://{address}") as pyramid:
        return _of_pyramid(pyramid, name, source)


def _of_annotations(document: dict[str, Any], name: str, source: str) -> Layer:
    resolution = low = high = None
    try:
        axes = [document["dimensions"][axis] for axis in "xyz"]
        if all(unit == "m" for _, unit in axes):
            resolution = _triple([length * 1e9 for length, _ in axes])
            low, high = _triple(document["lower_bound"]), _triple(document["upper_bound"])
    except (KeyError, TypeError, ValueError):
        pass  # of other axes: it is shown, and others say where
    found = document.get("relationships")
    related = [one.get("id") for one in found if isinstance(one, dict)] if isinstance(found, list) else []
    return Layer(
        name=name,
        kind="annotation",
        source=source,
        resolution_nm=resolution,
        low=low,
        high=high,
        relationships=tuple(str(one) for one in related if one),
    )


def _of_pyramid(pyramid: Pyramid, name: str, source: str) -> Layer:
    finest = pyramid.scales[0]
    low = _triple(finest.offset_xyz)
    high = _triple([a + n for a, n in zip(low, finest.shape_zyx[::-1], strict=True)])
    shown = value_range(sample(pyramid)) if pyramid.kind == "image" else None
    window = None
    if shown is not None:
        window = shown
        if finest.dtype.kind in "iu" and finest.dtype.itemsize <= 2:
            limits = np.iinfo(finest.dtype)
            window = (float(limits.min), float(limits.max))
    return Layer(
        name=name,
        kind=pyramid.kind,
        source=source,
        resolution_nm=finest.resolution_nm,
        low=low,
        high=high,
        value_range=shown,
        value_window=window,
    )


def _of_dvid(source: str, server: str, uuid: str, instance: str) -> Layer:
    """Of an instance of a server that speaks DVID's dialect."""
    folder = open_folder(server)
    data = folder.get(f"api/node/{uuid}/{instance}/info")
    if data is None:
        raise NotFound(f"{server} has no instance {instance!r} at {uuid}")
    info = msgspec.json.decode(data)
    typename, extended = info["Base"]["TypeName"], info["Extended"]
    kinds = {"labelmap": "segmentation", "labelarray": "segmentation", "labelblk": "segmentation"}
    kind = kinds.get(typename, "image" if typename.endswith("blk") else "")
    if not kind:
        raise BadRequest(f"{source} is of the type {typename}, which viewers do not read")
    low = high = None
    if extended.get("MinPoint") is not None and extended.get("MaxPoint") is not None:
        low = _triple(extended["MinPoint"])
        high = _triple([at + 1 for at in extended["MaxPoint"]])
    shown = None
    if typename == "uint8blk" and low is not None and high is not None:
        middle = [int(a + b) // 2 // 64 * 64 for a, b in zip(low, high, strict=True)]
        voxels = folder.get(f"api/node/{uuid}/{instance}/raw/0_1_2/64_64_64/{'_'.join(map(str, middle))}")
        shown = value_range(np.frombuffer(voxels or b"\0", np.uint8))
    return Layer(
        name=instance,
        kind=kind,
        source=source,
        resolution_nm=_triple(extended["VoxelSize"]),
        low=low,
        high=high,
        value_range=shown,
        value_window=(0.0, 255.0) if shown is not None else None,
    )


# -- values


def sample(pyramid: Pyramid, most_voxels: int = SAMPLED_VOXELS) -> Array:
    """Voxels [z, y, x] of the finest scale that is small enough, or of the middle of the coarsest one.

    Scales that cannot be read are passed over; raises VolumeError if none can.
    """
    problem: VolumeError | None = None
    fitting = [scale for scale in pyramid.scales if math.prod(scale.shape_zyx) <= most_voxels]
    for scale in [*fitting, *reversed(pyramid.scales)]:
        try:
            return scale.read(*_middle(scale, most_voxels))
        except VolumeError as error:
            problem = error
    assert problem is not None
    raise problem


def _middle(scale: VolumeSource, most_voxels: int) -> tuple[Zyx, Zyx]:
    """A box around the middle with at most so many voxels."""
    shape = list(scale.shape_zyx)
    while math.prod(shape) > most_voxels:
        longest = shape.index(max(shape))
        shape[longest] = -(-shape[longest] // 2)
    start = [(n - edge) // 2 for n, edge in zip(scale.shape_zyx, shape, strict=True)]
    stop = [a + edge for a, edge in zip(start, shape, strict=True)]
    return (start[0], start[1], start[2]), (stop[0], stop[1], stop[2])


def value_range(voxels: Array) -> tuple[float, float]:
    """The values between which nearly all voxels lie: percentiles 0.5 and 99.5 of those that are not 0.

    Zeros are what is not stored, so they count only if there is nothing else.

    >>> value_range(np.array([0, 0, 10, 20, 30], np.uint8))
    (10.0, 30.0)
    """
    values = voxels[np.isfinite(voxels)] if voxels.dtype.kind == _FLOATS else voxels.ravel()
    stored = values[values != 0]
    if not stored.size:
        return (0.0, 1.0 if voxels.dtype.kind == _FLOATS else 255.0)
    low, high = (float(value) for value in np.percentile(stored, (0.5, 99.5), method="nearest"))
    return (low, high) if low < high else (min(0.0, low), max(1.0, high))


def unique_names(layers: Sequence[Layer]) -> list[str]:
    """Names of layers, each another one."""
    names: list[str] = []
    for layer in layers:
        name, number = layer.name, 2
        while name in names:
            name, number = f"{layer.name} {number}", number + 1
        names.append(name)
    return names


def _triple(numbers: Sequence[float]) -> tuple[float, float, float]:
    x, y, z = (float(number) for number in numbers)
    return x, y, z
