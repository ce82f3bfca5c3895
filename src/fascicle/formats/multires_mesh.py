"""Neuroglancer's multi-resolution meshes: the `info` of their directory, manifests, and octree fragments in Draco form.

Source: https://github.com/google/neuroglancer/blob/master/src/datasource/precomputed/meshes.md
A manifest lists the nodes of an octree per level of detail (lod): node (x, y, z) of lod l begins at
`grid_origin + (x, y, z) * chunk_shape * 2^l`. Each has a fragment, a Draco mesh with integer positions from 0 to
2^bits - 1 across the node. Fragments of all lods lie one after the other; the manifest says their sizes.

Triangles do not cross the sides of nodes, nor from lod 1 on their middle planes (position 2^(bits - 1)), since viewers
show octants of a node alone while others are not there yet. A parent is listed for every node, with size 0 if it is
empty.

Triples are x, y, z. Positions are in the units that the info's `transform` takes to nanometres.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from fascicle.errors import BadRequest
from fascicle.formats.info_documents import IDENTITY, convert, read_object, split, transform_problem, write_object
from fascicle.formats.sharding import Sharding, read_sharding
from fascicle.kernels.arrays import Buffer

TYPE = "neuroglancer_multilod_draco"
BITS = (10, 16)
MOST_LODS = 32
_DRACO_LEVEL = 3
_LEAST = struct.Struct("<3f3fI")
Floats = NDArray[np.float32]
Mesh = tuple[NDArray[np.float64], NDArray[np.int32]]
"""Vertices x, y, z f64[n, 3], and triangles i32[m, 3]."""


class MeshInfo(msgspec.Struct, frozen=True, kw_only=True):
    """The info of a directory of such meshes."""

    vertex_quantization_bits: int = 16
    transform: tuple[float, ...] = IDENTITY
    """3 x 4 numbers, row by row, which take a position (and 1) to nanometres."""
    lod_scale_multiplier: float = 1.0
    sharding: Sharding | None = None
    segment_properties: str | None = None
    others: dict[str, Any] = {}
    """Members that are not known here."""

    def to_nm(self, vertices: NDArray[Any]) -> NDArray[np.float64]:
        """Positions [n, 3] in nanometres, f64."""
        matrix = np.array(self.transform, np.float64).reshape(3, 4)
        places: NDArray[np.float64] = np.asarray(vertices, np.float64) @ matrix[:, :3].T + matrix[:, 3]
        return places


def read_info(data: bytes) -> MeshInfo:
    """Read an info. BadRequest says what is wrong with it."""
    document = read_object(data, "the info of the meshes")
    kind = document.pop("@type", None)
    if kind != TYPE:
        raise BadRequest(f"the info is that of a {kind}, not of multi-resolution meshes ({TYPE})")
    known, others = split(document, MeshInfo)
    if "vertex_quantization_bits" not in known:
        raise BadRequest("the info of the meshes has no vertex_quantization_bits")
    if "sharding" in known:
        known["sharding"] = read_sharding(known["sharding"])
    info = convert(known | {"others": others}, MeshInfo, "the info of the meshes")
    if problem := _problem(info):
        raise BadRequest(f"the info of the meshes: {problem}")
    return info


def write_info(info: MeshInfo) -> bytes:
    """Write an info that viewers take. BadRequest if they would not."""
    if problem := _problem(info):
        raise BadRequest(f"the info of the meshes: {problem}")
    members: dict[str, Any] = {
        "@type": TYPE,
        "vertex_quantization_bits": info.vertex_quantization_bits,
        "transform": [int(number) if float(number).is_integer() else number for number in info.transform],
        "lod_scale_multiplier": info.lod_scale_multiplier,
    }
    if info.sharding is not None:
        members["sharding"] = msgspec.to_builtins(info.sharding)
    if info.segment_properties is not None:
        members["segment_properties"] = info.segment_properties
    return write_object(members | info.others)


def _problem(info: MeshInfo) -> str:
    if info.vertex_quantization_bits not in BITS:
        return f"vertex_quantization_bits is {info.vertex_quantization_bits}, neither 10 nor 16"
    if problem := transform_problem(info.transform):
        return problem
    if not (math.isfinite(info.lod_scale_multiplier) and info.lod_scale_multiplier > 0):
        return f"lod_scale_multiplier is {info.lod_scale_multiplier}, not above 0"
    return ""


# -- manifests


@dataclass(frozen=True, slots=True, eq=False)
class Manifest:
    """The fragments of one mesh."""

    chunk_shape: Floats
    """f32[3], of the nodes of lod 0."""
    grid_origin: Floats
    lod_scales: Floats
    """f32[lods]: the size of what each lod leaves out."""
    vertex_offsets: Floats
    """f32[lods, 3]"""
    positions: tuple[NDArray[np.uint32], ...]
    """Of each lod, the nodes u32[n, 3] in Z order."""
    sizes: tuple[NDArray[np.uint32], ...]
    """Of each lod, the bytes u32[n] of the fragments; 0 for nodes without triangles."""

    @property
    def data_size(self) -> int:
        """The bytes of all fragments."""
        return sum(int(sizes.sum(dtype=np.uint64)) for sizes in self.sizes)


def write_manifest(manifest: Manifest) -> bytes:
    """BadRequest if viewers would not find all fragments."""
    if problem := _disorder(manifest):
        raise BadRequest(f"a manifest of a mesh: {problem}")
    counts = np.array([len(sizes) for sizes in manifest.sizes], "<u4")
    parts = [
        np.ascontiguousarray(manifest.chunk_shape, "<f4").tobytes(),
        np.ascontiguousarray(manifest.grid_origin, "<f4").tobytes(),
        struct.pack("<I", len(counts)),
        np.ascontiguousarray(manifest.lod_scales, "<f4").tobytes(),
        np.ascontiguousarray(manifest.vertex_offsets, "<f4").tobytes(),
        counts.tobytes(),
    ]
    for positions, sizes in zip(manifest.positions, manifest.sizes, strict=True):
        parts += [np.ascontiguousarray(positions.T, "<u4").tobytes(), np.ascontiguousarray(sizes, "<u4").tobytes()]
    return b"".join(parts)


def read_manifest(data: Buffer) -> Manifest:
    """BadRequest if it is damaged."""
    if len(data) < _LEAST.size:
        raise BadRequest(f"a manifest of a mesh has {len(data)} bytes")
    numbers = _LEAST.unpack(bytes(data[: _LEAST.size]))
    lods = numbers[6]
    if not 0 < lods <= MOST_LODS or len(data) < _LEAST.size + 20 * lods:
        raise BadRequest(f"a manifest of a mesh of {len(data)} bytes is said to have {lods} levels of detail")
    at = _LEAST.size
    scales = np.frombuffer(data, "<f4", lods, at).astype(np.float32)
    offsets = np.frombuffer(data, "<f4", 3 * lods, at + 4 * lods).reshape(-1, 3).astype(np.float32)
    counts = np.frombuffer(data, "<u4", lods, at + 16 * lods).tolist()
    at += 20 * lods
    if len(data) != at + 16 * sum(counts):
        raise BadRequest(f"a manifest of {sum(counts)} fragments has {len(data)} bytes, not {at + 16 * sum(counts)}")
    positions, sizes = [], []
    for count in counts:
        positions.append(np.frombuffer(data, "<u4", 3 * count, at).reshape(3, -1).T.astype(np.uint32))
        sizes.append(np.frombuffer(data, "<u4", count, at + 12 * count).astype(np.uint32))
        at += 16 * count
    shape, origin = np.array(numbers[:3], np.float32), np.array(numbers[3:6], np.float32)
    return Manifest(shape, origin, scales, offsets, tuple(positions), tuple(sizes))


def _disorder(manifest: Manifest) -> str:
    if not len(manifest.positions) == len(manifest.sizes) == len(manifest.lod_scales) == len(manifest.vertex_offsets):
        return "its lists are not equally long"
    if (np.diff(manifest.lod_scales) < 0).any():
        return "its lod_scales go down"
    for lod, (positions, sizes) in enumerate(zip(manifest.positions, manifest.sizes, strict=True)):
        codes = z_order(positions)
        if len(sizes) != len(codes) or (codes[1:] <= codes[:-1]).any():
            return f"the nodes of lod {lod} are not in Z order"
        if lod + 1 < len(manifest.positions):
            parents = z_order(manifest.positions[lod + 1])
            if not np.isin(codes >> np.uint64(3), parents).all():
                return f"a node of lod {lod} has no parent"
    return ""


def z_order(positions: NDArray[Any]) -> NDArray[np.uint64]:
    """The place u64[n] of nodes [n, 3] on the Z curve: bits of x, y, z in turn, x lowest. Up to 2^21 nodes per axis."""
    codes = np.zeros(len(positions), np.uint64)
    for axis in range(3):
        part = np.asarray(positions[:, axis], np.uint64)
        for bit in range(min(21, int(part.max(initial=0)).bit_length())):
            codes |= (part >> np.uint64(bit) & np.uint64(1)) << np.uint64(3 * bit + axis)
    return codes


def _node_of(codes: NDArray[np.uint64]) -> NDArray[np.uint32]:
    """The nodes u32[n, 3] at places of the Z curve."""
    nodes = np.zeros((len(codes), 3), np.uint32)
    bits = -(-int(codes.max(initial=0)).bit_length() // 3)
    for axis in range(3):
        for bit in range(bits):
            nodes[:, axis] |= (codes >> np.uint64(3 * bit + axis) & np.uint64(1)).astype(np.uint32) << np.uint32(bit)
    return nodes


# -- fragments


def encode_fragment(vertices: NDArray[Any], triangles: NDArray[Any]) -> bytes:
    """A fragment from positions u32[n, 3] within a node and triangles u32[m, 3]."""
    import DracoPy

    data: bytes = DracoPy.encode(
        np.ascontiguousarray(vertices, np.uint32),
        np.ascontiguousarray(triangles, np.uint32),
        compression_level=_DRACO_LEVEL,
    )
    return data


def decode_fragment(data: Buffer) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """Positions u32[n, 3] within a node and triangles u32[m, 3]. BadRequest if it is damaged."""
    import DracoPy

    try:
        mesh = DracoPy.decode(bytes(data))
        return np.asarray(mesh.points).astype(np.uint32), np.asarray(mesh.faces).astype(np.uint32).reshape(-1, 3)
    except Exception as error:  # the library raises various kinds
        raise BadRequest(f"{len(data)} bytes are no Draco mesh: {error}") from None


# -- meshes


def encode(
    levels: Sequence[Mesh], lod_scales: Sequence[float], depth: int = 1, bits: int = 16
) -> tuple[bytes, bytes]:
    """(manifest, fragments) of a mesh at several levels of detail, finest first.

    Positions may be anywhere; lods need not be of the same shape. `lod_scales` says for each how large what it leaves
    out is, ascending. The octree has 2^(`depth` - 1) nodes of lod 0 along the longest axis. BadRequest if there is
    nothing, or more than can be said in the format.
    """
    if not levels or not len(levels[0][0]) or len(levels) > MOST_LODS or bits not in BITS or not 1 <= depth <= 21:
        raise BadRequest("there is no mesh to write")
    low = np.min([vertices.min(axis=0) for vertices, _ in levels if len(vertices)], axis=0)
    high = np.max([vertices.max(axis=0) for vertices, _ in levels if len(vertices)], axis=0)
    origin = np.floor(low).astype(np.float32)
    origin = np.where(origin > low, np.nextafter(origin, np.float32(-np.inf)), origin)
    extent = float((high - origin).max())
    # a little more than needed, so that rounding never leads out of the grid
    edge = np.float32(max(extent, 1e-3) * (1 + 1e-6) / 2 ** (depth - 1))
    codes: list[NDArray[np.uint64]] = []
    parts: list[dict[int, bytes]] = []
    for lod, (vertices, triangles) in enumerate(levels):
        found = _fragments((vertices - origin) / (np.float64(edge) * 2**lod), triangles, lod, depth, bits)
        listed = {int(code) for code in found}
        if codes:
            listed |= {int(code) >> 3 for code in codes[-1]}
        codes.append(np.array(sorted(listed), np.uint64))
        parts.append(found)
    fragments = [
        [found.get(code, b"") for code in listed.tolist()] for listed, found in zip(codes, parts, strict=True)
    ]
    manifest = Manifest(
        np.full(3, edge, np.float32),
        origin.astype(np.float32),
        np.array(lod_scales, np.float32),
        np.zeros((len(levels), 3), np.float32),
        tuple(_node_of(at) for at in codes),
        tuple(np.array([len(part) for part in found], np.uint32) for found in fragments),
    )
    return write_manifest(manifest), b"".join(part for found in fragments for part in found)


def _fragments(
    vertices: NDArray[np.float64], triangles: NDArray[np.int32], lod: int, depth: int, bits: int
) -> dict[int, bytes]:
    """The fragments of a lod by their place on the Z curve; `vertices` are counted in its nodes."""
    from fascicle.kernels import mesh_cells

    count = max(1, -(-(2 ** (depth - 1)) // 2**lod))
    spacing = 1.0 if lod == 0 else 0.5
    if count * (1 / spacing) > 1:
        for axis in range(3):
            vertices, triangles = mesh_cells.cut(vertices, triangles, axis, spacing)
    nodes = mesh_cells.cells(vertices, triangles, np.full(3, count, np.int64))
    if count == 1:
        groups = [np.arange(len(triangles))]
        codes = np.zeros(1, np.uint64)
    else:
        places = z_order(nodes)
        order = np.argsort(places, kind="stable")
        codes, starts = np.unique(places[order], return_index=True)
        groups = np.split(order, starts[1:])
    number = np.full(len(vertices), -1, np.int32)
    found = {}
    for code, rows in zip(codes.tolist(), groups, strict=True):
        if len(rows):
            node = nodes[rows[0]]
            places_in_node, faces = mesh_cells.fragment(vertices, triangles, rows, number, node, (1 << bits) - 1)
            if len(faces):
                found[code] = encode_fragment(places_in_node, faces)
    return found


def decode(
    manifest: Manifest, data: Buffer, info: MeshInfo, lod: int = 0
) -> list[tuple[NDArray[np.float64], NDArray[np.uint32]]]:
    """The fragments of a lod: vertices f64[n, 3] in nanometres and triangles u32[m, 3] each. BadRequest if damaged.

    `data` are the fragments of all lods.
    """
    if len(data) != manifest.data_size:
        raise BadRequest(f"the fragments have {len(data)} bytes, but the manifest says {manifest.data_size}")
    if not 0 <= lod < len(manifest.sizes):
        raise BadRequest(f"there is no lod {lod}, only {len(manifest.sizes)}")
    at = sum(int(sizes.sum(dtype=np.uint64)) for sizes in manifest.sizes[:lod])
    shape = manifest.chunk_shape.astype(np.float64) * 2**lod
    origin = manifest.grid_origin.astype(np.float64) + manifest.vertex_offsets[lod]
    top = (1 << info.vertex_quantization_bits) - 1
    meshes = []
    for node, size in zip(manifest.positions[lod], manifest.sizes[lod].tolist(), strict=True):
        if size:
            places, triangles = decode_fragment(bytes(data[at : at + size]))
            meshes.append((info.to_nm(origin + shape * (node + places / top)), triangles))
            at += size
    return meshes
