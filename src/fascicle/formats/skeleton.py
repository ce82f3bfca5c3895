"""Skeletons in Neuroglancer's precomputed form: the `info` of their directory, and one binary value per segment.

Source: https://github.com/google/neuroglancer/blob/master/src/datasource/precomputed/skeletons.md
A value is, little-endian and without padding: u32 vertices, u32 edges, f32[vertices, 3] positions x, y, z,
u32[edges, 2] vertices of each edge, then for each attribute, in the order of the info, its values
[vertices, components]. Positions are in the units that the info's `transform` takes to nanometres.

Viewers draw float32 attributes only, and refuse the whole layer for any other, or for `"sharding": null`: neither is
written. Directories of others are read with whatever attributes they have.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from fascicle.errors import BadRequest
from fascicle.formats.info_documents import IDENTITY, convert, read_object, split, transform_problem, write_object
from fascicle.formats.sharding import Sharding, read_sharding
from fascicle.kernels.arrays import Buffer

TYPE = "neuroglancer_skeletons"
DATA_TYPES = ("float32", "int8", "uint8", "int16", "uint16", "int32", "uint32")
MOST_COMPONENTS = 1024
_COUNTS = struct.Struct("<II")


class Attribute(msgspec.Struct, frozen=True, kw_only=True):
    """A number, or several, at every vertex."""

    id: str
    data_type: str = "float32"
    num_components: int = 1

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(self.data_type).newbyteorder("<")


RADIUS = Attribute(id="radius")
"""The distance from the vertex to the surface, in nm."""


class SkeletonInfo(msgspec.Struct, frozen=True, kw_only=True):
    """The info of a directory of skeletons."""

    transform: tuple[float, ...] = IDENTITY
    """3 x 4 numbers, row by row, which take a position (and 1) to nanometres."""
    vertex_attributes: tuple[Attribute, ...] = ()
    sharding: Sharding | None = None
    segment_properties: str | None = None
    others: dict[str, Any] = {}
    """Members that are not known here."""


@dataclass(frozen=True, slots=True, eq=False)
class Skeleton:
    """Vertices x, y, z f32[n, 3], edges u32[m, 2] between them, and attributes [n] or [n, components] by their ids."""

    vertices: NDArray[np.float32]
    edges: NDArray[np.uint32]
    attributes: dict[str, NDArray[Any]] = field(default_factory=dict)

    @property
    def radii(self) -> NDArray[np.float32]:
        """The attribute `radius` f32[n]; zeros if there is none."""
        radii = self.attributes.get(RADIUS.id)
        return np.zeros(len(self.vertices), np.float32) if radii is None else radii.astype(np.float32).reshape(-1)

    @property
    def length(self) -> float:
        """The sum of the lengths of all edges, in the units of the positions."""
        ends = self.vertices.astype(np.float64)[self.edges]
        return float(np.linalg.norm(ends[:, 0] - ends[:, 1], axis=1).sum())


# -- info


def read_info(data: bytes) -> SkeletonInfo:
    """Read an info. BadRequest says what is wrong with it."""
    document = read_object(data, "the info of the skeletons")
    kind = document.pop("@type", None)
    if kind != TYPE:
        raise BadRequest(f"the info is that of a {kind}, not of skeletons ({TYPE})")
    known, others = split(document, SkeletonInfo)
    if "sharding" in known:
        known["sharding"] = read_sharding(known["sharding"])
    info = convert(known | {"others": others}, SkeletonInfo, "the info of the skeletons")
    if problem := _problem(info):
        raise BadRequest(f"the info of the skeletons: {problem}")
    return info


def write_info(info: SkeletonInfo) -> bytes:
    """Write an info that viewers take. BadRequest if they would not."""
    problem = _problem(info)
    for attribute in info.vertex_attributes:
        if not problem and attribute.data_type != "float32":
            problem = f"the attribute {attribute.id!r} is {attribute.data_type}; viewers take float32 only"
    if problem:
        raise BadRequest(f"the info of the skeletons: {problem}")
    members: dict[str, Any] = {
        "@type": TYPE,
        "transform": [int(number) if number.is_integer() else number for number in map(float, info.transform)],
        "vertex_attributes": [msgspec.to_builtins(attribute) for attribute in info.vertex_attributes],
    }
    if info.sharding is not None:
        members["sharding"] = msgspec.to_builtins(info.sharding)
    if info.segment_properties is not None:
        members["segment_properties"] = info.segment_properties
    return write_object(members | info.others)


def _problem(info: SkeletonInfo) -> str:
    if problem := transform_problem(info.transform):
        return problem
    seen = set()
    for attribute in info.vertex_attributes:
        if not attribute.id:
            return "an attribute has no id"
        if attribute.id in seen:
            return f"two attributes are called {attribute.id!r}"
        seen.add(attribute.id)
        if attribute.data_type not in DATA_TYPES:
            return f"the attribute {attribute.id!r} is {attribute.data_type}, which is none of {', '.join(DATA_TYPES)}"
        if not 1 <= attribute.num_components <= MOST_COMPONENTS:
            return f"the attribute {attribute.id!r} has {attribute.num_components} components"
    return ""


# -- values


def encode(skeleton: Skeleton, attributes: Sequence[Attribute]) -> bytes:
    """The binary value of a skeleton with these attributes. BadRequest if it is none: an edge to a vertex that is not
    there, attributes of another length.
    """
    vertices = np.ascontiguousarray(skeleton.vertices, "<f4")
    edges = np.ascontiguousarray(skeleton.edges, "<u4")
    count = len(vertices)
    if vertices.shape != (count, 3) or edges.shape != (len(edges), 2):
        raise BadRequest(f"a skeleton has vertices of shape {vertices.shape} and edges of shape {edges.shape}")
    if len(edges) and int(edges.max()) >= count:
        raise BadRequest(f"an edge leads to vertex {int(edges.max())} of a skeleton of {count}")
    parts = [_COUNTS.pack(count, len(edges)), vertices.tobytes(), edges.tobytes()]
    for attribute in attributes:
        values = skeleton.attributes.get(attribute.id)
        if values is None or values.size != count * attribute.num_components:
            had = "none" if values is None else str(values.size)
            raise BadRequest(
                f"a skeleton of {count} vertices needs {count * attribute.num_components} values of "
                f"{attribute.id!r}; it has {had}"
            )
        parts.append(np.ascontiguousarray(values, attribute.dtype).tobytes())
    return b"".join(parts)


def decode(data: Buffer, attributes: Sequence[Attribute]) -> Skeleton:
    """The skeleton in a binary value. BadRequest if it is damaged."""
    size = len(data)
    if size < _COUNTS.size:
        raise BadRequest(f"a skeleton has {size} bytes, less than the {_COUNTS.size} of its counts")
    count, edge_count = _COUNTS.unpack(bytes(data[: _COUNTS.size]))
    widths = [attribute.dtype.itemsize * attribute.num_components for attribute in attributes]
    wanted = _COUNTS.size + 12 * count + 8 * edge_count + count * sum(widths)
    if size != wanted:
        raise BadRequest(f"a skeleton of {count} vertices and {edge_count} edges has {size} bytes instead of {wanted}")
    at = _COUNTS.size
    vertices = np.frombuffer(data, "<f4", 3 * count, at).reshape(-1, 3).astype(np.float32)
    at += 12 * count
    edges = np.frombuffer(data, "<u4", 2 * edge_count, at).reshape(-1, 2).astype(np.uint32)
    at += 8 * edge_count
    if edge_count and int(edges.max()) >= count:
        raise BadRequest(f"an edge leads to vertex {int(edges.max())} of a skeleton of {count}")
    values: dict[str, NDArray[Any]] = {}
    for attribute, width in zip(attributes, widths, strict=True):
        found = np.frombuffer(data, attribute.dtype, count * attribute.num_components, at)
        found = found.astype(attribute.dtype.newbyteorder("="))
        values[attribute.id] = found if attribute.num_components == 1 else found.reshape(count, -1)
        at += count * width
    return Skeleton(vertices, edges, values)


def transformed(skeleton: Skeleton, transform: Sequence[float]) -> Skeleton:
    """A skeleton in nanometres, from positions in the units of an info with this transform."""
    if tuple(transform) == IDENTITY:
        return skeleton
    matrix = np.asarray(transform, np.float64).reshape(3, 4)
    vertices = skeleton.vertices @ matrix[:, :3].T + matrix[:, 3]
    return Skeleton(vertices.astype(np.float32), skeleton.edges, skeleton.attributes)
