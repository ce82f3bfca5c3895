"""The file `info` of precomputed annotations: their geometry, properties, relationships and indexes.

Source: https://github.com/google/neuroglancer/blob/master/src/datasource/precomputed/annotations.md
Members that are not known here are kept. What is written is what every reader takes: the type in capitals, properties
in the order in which records have them, nothing null.

Not for this module: the bytes of annotations (`annotations`), and which cell lists which (`annotation_index`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Any, TypeVar

import msgspec
import numpy as np

from fascicle.errors import BadRequest
from fascicle.formats.info_documents import convert, read_object, split, whole, write_object
from fascicle.formats.sharding import Sharding, read_sharding

ANNOTATIONS = "neuroglancer_annotations_v1"
KINDS = ("POINT", "LINE", "AXIS_ALIGNED_BOUNDING_BOX", "ELLIPSOID", "POLYLINE")
NUMBERS = {
    "uint8": "u1", "int8": "i1", "uint16": "<u2", "int16": "<i2", "uint32": "<u4", "int32": "<i4", "float32": "<f4",
}  # fmt: skip
COLORS = {"rgb": 3, "rgba": 4}
READ_ONLY = {"bool": "u1"}
"""Known to the newest viewers only: read as numbers, not written."""
_NAME = re.compile(r"[a-z][a-zA-Z0-9_]*", re.ASCII)
_Kind = TypeVar("_Kind", bound=msgspec.Struct)


class Property(msgspec.Struct, frozen=True, kw_only=True):
    """A property of each annotation; numbers may have names (`enum_values` with `enum_labels`)."""

    id: str
    type: str
    description: str | None = None
    default: Any = None
    enum_values: tuple[float, ...] | None = None
    enum_labels: tuple[str, ...] | None = None
    others: dict[str, Any] = {}

    @property
    def alignment(self) -> int:
        """That of its place in a record, in bytes."""
        return 1 if self.type in COLORS else np.dtype(self.number).itemsize

    @property
    def number(self) -> str:
        """The dtype of the number, or of each of the channels of a color."""
        return "u1" if self.type in COLORS else (NUMBERS | READ_ONLY)[self.type]

    @property
    def channels(self) -> int:
        """How many numbers there are: 1, or those of a color."""
        return COLORS.get(self.type, 1)


class Index(msgspec.Struct, frozen=True, kw_only=True):
    """Where annotations by their own id, or by that of a related object, lie."""

    key: str
    id: str | None = None
    """The name of the relationship."""
    sharding: Sharding | None = None
    others: dict[str, Any] = {}


class Level(msgspec.Struct, frozen=True, kw_only=True):
    """One level of the spatial index: a grid from `lower_bound` on."""

    key: str
    grid_shape: tuple[int, ...]
    chunk_size: tuple[float, ...]
    limit: int
    sharding: Sharding | None = None
    others: dict[str, Any] = {}


class AnnotationsInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A set of annotations. Coordinates are in `dimensions`, in their order; levels from coarse to fine."""

    dimensions: dict[str, tuple[float, str]]
    lower_bound: tuple[float, ...]
    upper_bound: tuple[float, ...]
    annotation_type: str
    properties: tuple[Property, ...] = ()
    relationships: tuple[Index, ...] = ()
    by_id: Index
    spatial: tuple[Level, ...] = ()
    others: dict[str, Any] = {}
    """Members that are not known here."""

    @property
    def rank(self) -> int:
        return len(self.dimensions)


def in_record_order(properties: Iterable[Property]) -> tuple[Property, ...]:
    """Properties in the order in which a record has them: the strictest alignment first, else as they are."""
    return tuple(sorted(properties, key=lambda one: -one.alignment))


# -- reading


def decode(data: bytes) -> AnnotationsInfo:
    """Read an info. BadRequest says what is wrong with it."""
    return from_document(read_object(data))


def from_document(document: dict[str, Any]) -> AnnotationsInfo:
    """As `decode`, of JSON that is decoded already."""
    members = dict(document)
    kind = members.pop("@type", None)
    if kind != ANNOTATIONS:
        raise BadRequest(f"the info is that of a {kind}, not of annotations ({ANNOTATIONS})")
    parts: dict[str, Any] = {
        "properties": _list(members, "properties", Property),
        "relationships": _list(members, "relationships", Index),
        "spatial": _list(members, "spatial", Level),
        "by_id": _read(members.pop("by_id", None), Index, "by_id"),
    }
    if isinstance(members.get("annotation_type"), str):
        members["annotation_type"] = members["annotation_type"].upper()
    empty = {"by_id": {"key": "x"}, "properties": (), "relationships": (), "spatial": ()}
    info = msgspec.structs.replace(_read(members | empty, AnnotationsInfo, "members"), **parts)
    if wrong := _wrong(info):
        raise BadRequest(f"the info of annotations: {wrong}")
    return info


def _list(members: dict[str, Any], name: str, kind: type[_Kind]) -> tuple[_Kind, ...]:
    given = members.pop(name, None)
    if not isinstance(given, list) and (given is not None or name == "relationships"):
        raise BadRequest(f"the info of annotations has no list of {name}")
    return tuple(_read(one, kind, f"number {i} of {name}") for i, one in enumerate(given or ()))


def _read(document: Any, kind: type[_Kind], name: str) -> _Kind:
    """A struct from an object; nulls count as absent, members that it lacks go to `others`."""
    if not isinstance(document, dict):
        raise BadRequest(f"the info of annotations: {name} is not a JSON object")
    known, others = split(document, kind)
    members = {key: whole(value) for key, value in known.items()}
    if "sharding" in members:
        members["sharding"] = read_sharding(members["sharding"])
    return convert(members | {"others": others}, kind, f"the info of annotations: {name}")


# -- writing


def encode(info: AnnotationsInfo) -> bytes:
    """Write an info that every reader takes: BadRequest if some would not."""
    check_writable(info)
    return write_object(document(info))


def document(info: AnnotationsInfo) -> dict[str, Any]:
    """The info as a JSON object, unchecked."""
    members = {"@type": ANNOTATIONS} | _present(info)
    for name in ("properties", "relationships", "spatial"):
        members[name] = [_present(one) for one in getattr(info, name)]
    return members | {"by_id": _present(info.by_id)}


def check_writable(info: AnnotationsInfo) -> None:
    """BadRequest if some reader would refuse the info."""
    if wrong := _wrong(info) or _unsafe(info):
        raise BadRequest(f"the info of annotations: {wrong}")


def _present(struct: msgspec.Struct) -> dict[str, Any]:
    members = {
        name: whole(msgspec.to_builtins(value))
        for name in struct.__struct_fields__
        if name != "others" and (value := getattr(struct, name)) is not None
    }
    others: dict[str, Any] = struct.others  # type: ignore[attr-defined]
    return members | others


# -- checking


def _wrong(info: AnnotationsInfo) -> str:
    """What makes an info meaningless."""
    rank = info.rank
    if rank < 1:
        return "it has no dimensions"
    for name, (scale, unit) in info.dimensions.items():
        if not (name and math.isfinite(scale) and scale > 0):
            return f"the dimension {name!r} has the scale {scale} {unit}"
    for bound in ("lower_bound", "upper_bound"):
        values = getattr(info, bound)
        if len(values) != rank or not all(map(math.isfinite, values)):
            return f"{bound} is {list(values)}, not {rank} numbers"
    if info.annotation_type not in KINDS:
        return f"annotation_type is {info.annotation_type!r}, none of {', '.join(KINDS)}"
    for i, one in enumerate(info.properties):
        if wrong := _wrong_property(one):
            return f"property {one.id!r}: {wrong}"
        if any(other.id == one.id for other in info.properties[:i]):
            return f"there are two properties {one.id!r}"
    for i, relationship in enumerate(info.relationships):
        if not relationship.id:
            return f"relationship {i} has no id"
        if any(other.id == relationship.id for other in info.relationships[:i]):
            return f"there are two relationships {relationship.id!r}"
    for i, level in enumerate(info.spatial):
        if wrong := _wrong_level(level, rank):
            return f"level {i} of the spatial index: {wrong}"
    return ""


def _wrong_property(one: Property) -> str:
    if not _NAME.fullmatch(one.id):
        return "its id is not a small letter followed by letters, digits and _"
    if one.type not in NUMBERS | COLORS | READ_ONLY:
        return f"the type {one.type!r} is none of {', '.join(NUMBERS | COLORS)}"
    values, labels = one.enum_values, one.enum_labels
    if (values is None) != (labels is None) or len(values or ()) != len(labels or ()):
        return "enum_values and enum_labels must come together, as many of each"
    if values is not None and one.type in COLORS:
        return "colors have no names"
    return ""


def _wrong_level(level: Level, rank: int) -> str:
    if len(level.grid_shape) != rank or not all(1 <= cells < 1 << 53 for cells in level.grid_shape):
        return f"grid_shape is {list(level.grid_shape)}, not {rank} numbers from 1 on"
    if len(level.chunk_size) != rank or not all(math.isfinite(edge) and edge > 0 for edge in level.chunk_size):
        return f"chunk_size is {list(level.chunk_size)}, not {rank} numbers above 0"
    if level.limit < 1:
        return f"limit is {level.limit}, which is not at least 1"
    return ""


def _unsafe(info: AnnotationsInfo) -> str:
    """What some readers refuse, or read wrongly."""
    for one in info.properties:
        if one.type in READ_ONLY:
            return f"property {one.id!r} is of the type {one.type}, which older viewers do not know"
    if tuple(info.properties) != in_record_order(info.properties):
        names = ", ".join(one.id for one in in_record_order(info.properties))
        return f"some readers need the properties in the order of records: {names}"
    if not info.spatial:
        return "it has no spatial index, which viewers need"
    keys = [info.by_id.key, *(one.key for one in info.relationships), *(one.key for one in info.spatial)]
    for key in keys:
        if not _relative(key):
            return f"the key {key!r} is no relative directory"
        if keys.count(key) > 1:
            return f"several indexes have the key {key!r}"
    for i, level in enumerate(info.spatial):
        spans = zip(info.lower_bound, info.upper_bound, level.grid_shape, level.chunk_size, strict=True)
        if any(low + cells * edge < high - 1e-6 * abs(high - low) for low, high, cells, edge in spans):
            return f"level {i} of the spatial index does not reach the upper bound"
    return ""


def _relative(key: str) -> bool:
    parts = key.split("/")
    return bool(key) and all(part not in ("", ".", "..") for part in parts)
