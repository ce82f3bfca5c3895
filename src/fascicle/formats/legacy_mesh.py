"""Neuroglancer's single-resolution meshes: the `info` of their directory, a manifest per segment, and fragments.

Source: https://github.com/google/neuroglancer/blob/master/src/datasource/precomputed/meshes.md
`<id>:0` is a JSON manifest that names fragments; a fragment is, little-endian, u32 number of vertices, f32[n, 3]
vertices x, y, z in nanometres, u32[m, 3] triangles up to the end. The values of `<label>.ngmesh` keys, which the
viewer's `dvid://` source reads, are such fragments too.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from fascicle.errors import NOT_JSON, BadRequest
from fascicle.formats.info_documents import write_object
from fascicle.kernels.arrays import Buffer

TYPE = "neuroglancer_legacy_mesh"
Mesh = tuple[NDArray[np.float32], NDArray[np.uint32]]
"""Vertices x, y, z f32[n, 3] in nanometres, and triangles u32[m, 3]."""
_COUNT = struct.Struct("<I")


def write_info(segment_properties: str | None = None) -> bytes:
    """The info of a directory of such meshes."""
    members: dict[str, Any] = {"@type": TYPE}
    if segment_properties is not None:
        members["segment_properties"] = segment_properties
    return write_object(members)


def read_info(data: bytes) -> dict[str, Any]:
    """The members of an info other than its type. BadRequest if it is that of something else."""
    try:
        document = msgspec.json.decode(data)
    except NOT_JSON as error:
        raise BadRequest(f"the info of the meshes is not JSON: {error}") from None
    kind = document.pop("@type", None) if isinstance(document, dict) else None
    if kind != TYPE:
        raise BadRequest(f"the info is that of a {kind}, not of single-resolution meshes ({TYPE})")
    members: dict[str, Any] = document
    return members


def manifest_name(segment: int) -> str:
    """The name of a segment's manifest."""
    return f"{segment}:0"


def fragment_name(segment: int, number: int = 0) -> str:
    """A name for a fragment: readers look for them beside the manifest."""
    return f"{segment}:0:{number}"


def write_manifest(fragments: Sequence[str]) -> bytes:
    """A manifest. BadRequest for names that readers would not find."""
    for name in fragments:
        if not name or "/" in name:
            raise BadRequest(f"a fragment cannot be called {name!r}")
    return msgspec.json.encode({"fragments": list(fragments)})


def read_manifest(data: bytes) -> list[str]:
    """The names of a segment's fragments. BadRequest if this is no manifest."""
    try:
        document = msgspec.json.decode(data)
        names: list[str] = msgspec.convert(document["fragments"], list[str])
    except (*NOT_JSON, KeyError, TypeError) as error:
        raise BadRequest(f"this is no manifest of a mesh: {error}") from None
    return names


def encode(vertices: NDArray[Any], triangles: NDArray[Any]) -> bytes:
    """A fragment. BadRequest if a triangle names a vertex that is not there."""
    places = np.ascontiguousarray(vertices, "<f4")
    corners = np.ascontiguousarray(triangles, "<u4")
    if places.shape != (len(places), 3) or corners.shape != (len(corners), 3):
        raise BadRequest(f"a mesh has vertices of shape {places.shape} and triangles of shape {corners.shape}")
    if corners.size and int(corners.max()) >= len(places):
        raise BadRequest(f"a triangle has vertex {int(corners.max())} of a mesh of {len(places)}")
    return _COUNT.pack(len(places)) + places.tobytes() + corners.tobytes()


def decode(data: Buffer) -> Mesh:
    """The mesh in a fragment. BadRequest if it is damaged."""
    if len(data) < _COUNT.size:
        raise BadRequest(f"a mesh has {len(data)} bytes")
    (count,) = _COUNT.unpack(bytes(data[: _COUNT.size]))
    rest = len(data) - _COUNT.size - 12 * count
    if rest < 0 or rest % 12:
        raise BadRequest(f"a mesh of {count} vertices has {len(data)} bytes")
    vertices = np.frombuffer(data, "<f4", 3 * count, _COUNT.size).reshape(-1, 3).astype(np.float32)
    triangles = np.frombuffer(data, "<u4", rest // 4, _COUNT.size + 12 * count).reshape(-1, 3).astype(np.uint32)
    if triangles.size and int(triangles.max()) >= count:
        raise BadRequest(f"a triangle has vertex {int(triangles.max())} of a mesh of {count}")
    return vertices, triangles


def joined(meshes: Sequence[Mesh]) -> Mesh:
    """Several fragments as one mesh; vertices that they share stay apart."""
    if not meshes:
        return np.zeros((0, 3), np.float32), np.zeros((0, 3), np.uint32)
    starts = np.cumsum([0, *(len(vertices) for vertices, _ in meshes)])
    triangles = [part + np.uint32(start) for (_, part), start in zip(meshes, starts.tolist(), strict=False)]
    return np.concatenate([vertices for vertices, _ in meshes]), np.concatenate(triangles)
