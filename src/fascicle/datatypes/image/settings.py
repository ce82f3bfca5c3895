"""Settings of image instances: what creation accepts, what is kept, and how it is shown."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fascicle.datatypes.base import Change
from fascicle.datatypes.image.blocks import BlockLayout
from fascicle.datatypes.volume_settings import (
    USUAL_BLOCK,
    check_completed,
    check_coordinates,
    check_dtype,
    described,
    located_properties,
    looked_up,
)
from fascicle.datatypes.voxel_requests import Triple, VolumeRequest, parse_integer
from fascicle.errors import BadRequest
from fascicle.versions.model import Instance
from fascicle.versions.resolution import VersionedView

EXTENTS = 21
"""The key class of the extents: one key, whose value is minimum x, y, z and maximum x, y, z, int32 little-endian."""

BLOCK_BYTES_LIMIT = 256 << 20
_JPEG_ROWS_LIMIT = 65535
_EXTENTS = struct.Struct("<6i")
_COMPRESSIONS = ("none", "snappy", "lz4", "gzip", "jpeg")


@dataclass(frozen=True, slots=True)
class VoxelType:
    """What one voxel of a typename is."""

    typename: str
    dtype: str
    labels: tuple[str, ...]
    channel_type: str

    @property
    def values(self) -> list[dict[str, str]]:
        """The member `Values` of an instance's info."""
        return [{"DataType": self.channel_type, "Label": label} for label in self.labels]


VOXEL_TYPES = {
    kind.typename: kind
    for kind in (
        VoxelType("uint8blk", "<u1", ("uint8",), "uint8"),
        VoxelType("uint16blk", "<u2", ("uint16",), "uint16"),
        VoxelType("uint32blk", "<u4", ("uint32",), "uint32"),
        VoxelType("uint64blk", "<u8", ("uint64",), "uint64"),
        VoxelType("float32blk", "<f4", ("float32",), "float32"),
        VoxelType("rgba8blk", "<u1", ("red", "green", "blue", "alpha"), "uint8"),
    )
}


def properties_from(typename: str, settings: Mapping[str, str]) -> dict[str, Any]:
    """The properties of a new instance. Raises BadRequest for settings that make no sense."""
    voxel = VOXEL_TYPES[typename]
    block_size = _integers(settings, "BlockSize", (32, 32, 32))
    assert block_size is not None
    if min(block_size) <= 0:
        raise BadRequest(f"BlockSize must be three positive numbers, not {settings['blocksize']!r}")
    bytes_per_voxel = np.dtype(voxel.dtype).itemsize * len(voxel.labels)
    if block_size[0] * block_size[1] * block_size[2] * bytes_per_voxel > BLOCK_BYTES_LIMIT:
        raise BadRequest(f"BlockSize {settings['blocksize']!r} makes blocks of more than {BLOCK_BYTES_LIMIT} bytes")
    _check_compression(settings.get("compression", "lz4"), voxel, block_size)
    check_completed(settings)
    units = [unit.strip() for unit in settings.get("voxelunits", ",".join(["nanometers"] * 3)).split(",")]
    if len(units) != 3 or not all(units):
        raise BadRequest(f"VoxelUnits must be three names separated by commas, not {settings['voxelunits']!r}")
    properties: dict[str, Any] = {
        "BlockSize": list(block_size),
        "VoxelSize": _voxel_size(settings.get("voxelsize", "8,8,8")),
        "VoxelUnits": units,
        "MinPoint": _as_list(_integers(settings, "MinPoint", None)),
        "MaxPoint": _as_list(_integers(settings, "MaxPoint", None)),
        "Background": _byte(settings, "Background"),
        "GridStore": "",
        "ScaleLevel": _byte(settings, "ScaleLevel"),
    }
    return {**properties, **located_properties(settings, properties)}


def completed(typename: str, settings: Mapping[str, str], server: Mapping[str, Any]) -> dict[str, str]:
    """Settings that name a volume, with what the volume says of itself. Raises VolumeError if it cannot be read.

    Blocks are the volume's chunks if these are cubes, as clients want them, else cubes of 64; those of `Source` may be
    chosen. Chunks that are JPEGs of the size that viewers expect are shown as such.
    """
    elsewhere, address, level = looked_up(settings, server)
    voxel = VOXEL_TYPES[typename]
    scale = elsewhere.volume(address).scale(level)
    if len(voxel.labels) != 1:
        raise BadRequest(f"a {typename} cannot show a volume that lives elsewhere, which has one channel")
    check_dtype(scale, np.dtype(voxel.dtype), typename)
    check_coordinates(scale)
    x, y, z = scale.chunk_xyz
    cubes = x == y == z and scale.fits(scale.chunk_xyz)
    block = scale.chunk_xyz if cubes and 16 <= x <= 256 else USUAL_BLOCK
    if settings.get("source") and settings.get("blocksize"):
        block = _integers(settings, "BlockSize", None) or block
    full = {**settings, **described(scale, block)}
    if not settings.get("compression") and typename == "uint8blk":
        is_jpeg = scale.volume.encoding == "jpeg" and scale.fits(block) and block == USUAL_BLOCK
        full["compression"] = "jpeg" if is_jpeg else "lz4"
    return full


def layout_of(instance: Instance) -> BlockLayout:
    """How the blocks of an instance are laid out."""
    voxel = VOXEL_TYPES[instance.typename]
    x, y, z = instance.properties["BlockSize"]
    return BlockLayout(
        (x, y, z),
        np.dtype(voxel.dtype),
        len(voxel.labels),
        instance.properties["Background"],
        instance.compression,
    )


def extended(instance: Instance, view: VersionedView) -> dict[str, Any]:
    """The member `Extended` of the instance's info at a version."""
    properties = instance.properties
    low, high = points(instance, view)
    size = properties["BlockSize"]
    return {
        "Values": VOXEL_TYPES[instance.typename].values,
        "Interpolable": True,
        "BlockSize": size,
        "VoxelSize": properties["VoxelSize"],
        "VoxelUnits": properties["VoxelUnits"],
        "MinPoint": low,
        "MaxPoint": high,
        "MinIndex": None if low is None else [p // s for p, s in zip(low, size, strict=True)],
        "MaxIndex": None if high is None else [p // s for p, s in zip(high, size, strict=True)],
        "Background": properties["Background"],
        "GridStore": properties["GridStore"],
        "ScaleLevel": properties["ScaleLevel"],
        **({"Source": properties["Source"]} if properties.get("Source") else {}),
    }


def metadata(instance: Instance, view: VersionedView) -> dict[str, Any]:
    """The volume as a description of an n-dimensional array; sizes and offsets in voxels."""
    properties = extended(instance, view)
    low, high = properties["MinPoint"], properties["MaxPoint"]
    axes = [
        {
            "Label": label,
            "Resolution": properties["VoxelSize"][axis],
            "Units": properties["VoxelUnits"][axis],
            "Size": 0 if low is None or high is None else high[axis] - low[axis] + 1,
            "Offset": 0 if low is None else low[axis],
        }
        for axis, label in enumerate("XYZ")
    ]
    return {"Axes": axes, "Properties": properties}


# -- extents


def points(instance: Instance, view: VersionedView) -> tuple[list[int] | None, list[int] | None]:
    """The first and the last voxel (inclusive) x, y, z at a version; those of the instance if the version has none."""
    stored = view.get(EXTENTS, b"")
    if stored is None:
        return instance.properties["MinPoint"], instance.properties["MaxPoint"]
    numbers = _EXTENTS.unpack(stored)
    return list(numbers[:3]), list(numbers[3:])


def set_extents(change: Change, low: Sequence[int], high: Sequence[int]) -> None:
    """Store a version's extents; the instance shows them where a version has none."""
    change.view.put(EXTENTS, b"", _EXTENTS.pack(*low, *high))
    shown = change.instance.properties
    if shown["MinPoint"] != list(low) or shown["MaxPoint"] != list(high):
        change.update_instance(MinPoint=list(low), MaxPoint=list(high))


def grow_extents(change: Change, box: VolumeRequest) -> None:
    """Make a version's extents contain a box."""
    stored = change.view.get(EXTENTS, b"")
    low, high = box.offset_xyz, box.end_xyz
    if stored is not None:
        numbers = _EXTENTS.unpack(stored)
        low = _triple(map(min, low, numbers[:3]))
        high = _triple(map(max, high, numbers[3:]))
        if (*low, *high) == numbers:
            return
    set_extents(change, low, high)


def extents_from(document: Any) -> tuple[Triple, Triple]:
    """The points of a posted document; a missing one is 0, 0, 0, and the case of names does not matter."""
    if not isinstance(document, dict):
        raise BadRequest('extents must be an object like {"MinPoint": [0,0,0], "MaxPoint": [9,9,9]}')
    found = {name.lower(): value for name, value in document.items()}
    return _point(found, "MinPoint"), _point(found, "MaxPoint")


def voxel_size_from(document: Any) -> list[float]:
    """A posted voxel size: three positive numbers."""
    if (
        not isinstance(document, list)
        or len(document) != 3
        or not all(isinstance(value, int | float) and not isinstance(value, bool) for value in document)
    ):
        raise BadRequest(f"resolution must be three numbers like [8,8,8], not {document!r}")
    return [_resolution(value) for value in document]


# -- parts of settings


def _point(document: dict[str, Any], name: str) -> Triple:
    value = document.get(name.lower())
    if value is None:
        return (0, 0, 0)
    if (
        not isinstance(value, list)
        or len(value) != 3
        or not all(isinstance(v, int) and not isinstance(v, bool) and -(1 << 31) <= v < 1 << 31 for v in value)
    ):
        raise BadRequest(f"{name} must be three 32-bit integers, not {value!r}")
    return value[0], value[1], value[2]


def _integers(settings: Mapping[str, str], name: str, default: Triple | None) -> Triple | None:
    text = settings.get(name.lower())
    if text is None:
        return default
    values = [parse_integer(part) for part in text.split(",")]
    if len(values) != 3:
        raise BadRequest(f"{name} must be three integers separated by commas, not {text!r}")
    return values[0], values[1], values[2]


def _voxel_size(text: str) -> list[float]:
    parts = text.split(",")
    try:
        values = [float(part) for part in parts]
    except ValueError:
        raise BadRequest(f"VoxelSize must be three numbers separated by commas, not {text!r}") from None
    if len(values) != 3:
        raise BadRequest(f"VoxelSize must be three numbers separated by commas, not {text!r}")
    return [_resolution(value) for value in values]


MAX_RESOLUTION = 1 << 53
"""Beyond any unit's use, and where whole numbers are no longer exact; JSON may bring larger ones."""


def _resolution(value: float) -> float:
    """A positive length, in the shortest form that means the same as a 32-bit floating point number."""
    if not (0 < value < MAX_RESOLUTION and np.float32(value) > 0):
        raise BadRequest(f"a voxel size must be positive and below {MAX_RESOLUTION}, not {value!r}")
    short = float(str(np.float32(value)))
    return int(short) if short.is_integer() else short


def _byte(settings: Mapping[str, str], name: str) -> int:
    text = settings.get(name.lower(), "0").strip()
    if not (text.isascii() and text.isdigit() and int(text) <= 255):
        raise BadRequest(f"{name} must be a number from 0 to 255, not {text!r}")
    return int(text)


def _check_compression(text: str, voxel: VoxelType, block_size: Triple) -> None:
    method, colon, level = text.lower().partition(":")
    if method not in _COMPRESSIONS or (colon and method not in ("gzip", "jpeg")):
        raise BadRequest(f"Illegal compression specified: {text}")
    highest = 9 if method == "gzip" else 100
    if colon and not (level.isascii() and level.isdigit() and 1 <= int(level) <= highest):
        raise BadRequest(f"Illegal compression specified: {text} (the level must be from 1 to {highest})")
    if method == "jpeg":
        if voxel.typename != "uint8blk":
            raise BadRequest(f"jpeg compression is for uint8blk only, not for {voxel.typename}")
        if max(block_size[0], block_size[1] * block_size[2]) > _JPEG_ROWS_LIMIT:
            raise BadRequest(f"blocks of {block_size} voxels are too large for jpeg compression")


def _as_list(triple: Triple | None) -> list[int] | None:
    return None if triple is None else list(triple)


def _triple(values: Any) -> Triple:
    x, y, z = values
    return x, y, z
