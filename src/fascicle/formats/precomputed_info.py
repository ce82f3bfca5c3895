"""The file `info` of a Neuroglancer precomputed volume: what volume it is and how the chunks of each scale are stored.

Source: https://github.com/google/neuroglancer/blob/master/src/datasource/precomputed/volume.md
Whatever makes the whole volume meaningless is an error. A scale that only cannot be decoded (an unknown encoding or
sharding) stays in the list and says why in `Scale.problem`. Members that are not known here are kept.

Triples are x, y, z.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from fascicle.errors import BadRequest
from fascicle.formats.info_documents import convert, read_object, split, whole, write_object
from fascicle.formats.sharding import Sharding, read_sharding

Triple = tuple[int, int, int]
VOLUME = "neuroglancer_multiscale_volume"
DATA_TYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "float32")
KINDS = ("image", "segmentation")
ENCODINGS = ("raw", "jpeg", "png", "compressed_segmentation")
MOST_CHUNK_BYTES = 1 << 31
_FAR = 1 << 53


class Scale(msgspec.Struct, frozen=True, kw_only=True):
    """One scale of a volume. `resolution` is in nm; `voxel_offset` in voxels of this scale."""

    key: str
    size: Triple
    resolution: tuple[float, float, float]
    chunk_sizes: tuple[Triple, ...]
    encoding: str
    voxel_offset: Triple = (0, 0, 0)
    compressed_segmentation_block_size: Triple | None = None
    jpeg_quality: int | None = None
    png_level: int | None = None
    sharding: Sharding | None = None
    hidden: bool = False
    others: dict[str, Any] = {}
    """Members that are not known here."""
    problem: str = ""
    """Why chunks of this scale cannot be decoded; empty if they can."""

    @property
    def block_xyz(self) -> Triple:
        """The blocks of compressed segmentation."""
        return self.compressed_segmentation_block_size or (8, 8, 8)

    def grid(self, chunk_xyz: Triple | None = None) -> Triple:
        """How many chunks there are per axis."""
        x, y, z = (-(-size // edge) for size, edge in zip(self.size, chunk_xyz or self.chunk_sizes[0], strict=True))
        return x, y, z

    def chunk_span(self, cell: Triple, chunk_xyz: Triple | None = None) -> tuple[Triple, Triple]:
        """The voxels of a chunk, start and stop counted from the volume's own corner; BadRequest if there is none."""
        edges = chunk_xyz or self.chunk_sizes[0]
        start = [at * edge for at, edge in zip(cell, edges, strict=True)]
        stop = [min(a + edge, size) for a, edge, size in zip(start, edges, self.size, strict=True)]
        if not all(0 <= a < b for a, b in zip(start, stop, strict=True)):
            raise BadRequest(f"the cell {tuple(cell)} lies outside of the grid {self.grid(edges)}")
        return _triple(start), _triple(stop)

    def chunk_name(self, start: Triple, stop: Triple, separator: str = "_") -> str:
        """The file of a chunk in the directory `key`; start and stop are counted from the volume's own corner."""
        spans = zip(start, stop, self.voxel_offset, strict=True)
        return separator.join(f"{a + offset}-{b + offset}" for a, b, offset in spans)


class VolumeInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A volume; scales from fine to coarse."""

    type: str
    data_type: str
    num_channels: int = 1
    scales: tuple[Scale, ...]
    mesh: str | None = None
    skeletons: str | None = None
    segment_properties: str | None = None
    redirect: str | None = None
    others: dict[str, Any] = {}
    """Members that are not known here."""

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(self.data_type)


# -- reading


def decode(data: bytes) -> VolumeInfo:
    """Read an info. BadRequest says what is wrong with it."""
    return from_document(read_object(data))


def from_document(document: dict[str, Any]) -> VolumeInfo:
    """As `decode`, of JSON that is decoded already."""
    members = dict(document)
    kind = members.pop("@type", VOLUME)
    if kind != VOLUME:
        raise BadRequest(f"the info is that of a {kind}, not of a volume ({VOLUME})")
    scales = members.pop("scales", None)
    if not isinstance(scales, list) or not scales:
        raise BadRequest("the info lists 0 scales" if scales == [] else "the info has no list of scales")
    known, others = _split(members, VolumeInfo)
    for name in ("type", "data_type"):
        if isinstance(known.get(name), str):
            known[name] = known[name].lower()
    info = convert(known | {"scales": (), "others": others}, VolumeInfo, "the info")
    _check_volume(info)
    return msgspec.structs.replace(info, scales=tuple(_scale(i, scale, info) for i, scale in enumerate(scales)))


def _scale(index: int, document: Any, info: VolumeInfo) -> Scale:
    if not isinstance(document, dict):
        raise BadRequest(f"scale {index} of the info is not a JSON object")
    known, others = _split(document, Scale)
    problem, sharding = "", known.pop("sharding", None)
    if sharding is not None:
        try:
            known["sharding"] = read_sharding(sharding)
        except BadRequest as error:
            problem = error.message
            others["sharding"] = sharding
    name = f"scale {index} ({known.get('key', 'without a key')}) of the info"
    scale = convert(known | {"others": others}, Scale, name)
    if wrong := _wrong_scale(scale, info):
        raise BadRequest(f"{name}: {wrong}")
    return msgspec.structs.replace(scale, problem=problem or _undecodable(scale, info))


def _split(document: dict[str, Any], kind: type[msgspec.Struct]) -> tuple[dict[str, Any], dict[str, Any]]:
    known, others = split(document, kind)
    return {name: whole(value) for name, value in known.items()}, others


# -- writing


def encode(info: VolumeInfo) -> bytes:
    """Write an info that every reader takes: BadRequest if some would not.

    One scale that a reader does not know hides all of them, so an encoding that is unknown here is refused.
    """
    check_writable(info)
    return write_object(document(info))


def document(info: VolumeInfo) -> dict[str, Any]:
    """The info as a JSON object, unchecked."""
    members = {"@type": VOLUME} | _present(info)
    members["scales"] = [_present(scale) for scale in info.scales]
    return members


def check_writable(info: VolumeInfo) -> None:
    """BadRequest if some reader would refuse the info."""
    if not info.scales:
        raise BadRequest("the info lists 0 scales")
    _check_volume(info)
    if info.redirect is not None:
        raise BadRequest("an info that is a redirect has no volume to describe")
    for i, scale in enumerate(info.scales):
        name = f"scale {i} ({scale.key}) of the info"
        wrong = _wrong_scale(scale, info) or scale.problem or _undecodable(scale, info) or _unsafe(scale)
        if wrong:
            raise BadRequest(f"{name}: {wrong}")
        if any(other.key == scale.key for other in info.scales[:i]):
            raise BadRequest(f"{name}: an earlier scale has the same key")
    for name, value in (("mesh", info.mesh), ("skeletons", info.skeletons), ("properties", info.segment_properties)):
        if value is not None and info.type != "segmentation":
            raise BadRequest(f"the info names {name} {value!r}, but is of an {info.type}")


def _present(struct: Scale | VolumeInfo) -> dict[str, Any]:
    members: dict[str, Any] = {}
    for name in struct.__struct_fields__:
        value = getattr(struct, name)
        if name in ("others", "problem") or value is None or (name == "hidden" and not value):
            continue
        members[name] = whole(msgspec.to_builtins(value))
    return members | struct.others


# -- checking


def _check_volume(info: VolumeInfo) -> None:
    if info.type not in KINDS:
        raise BadRequest(f"the info has the type {info.type!r}, which is neither image nor segmentation")
    if info.data_type not in DATA_TYPES:
        raise BadRequest(f"the info has the data type {info.data_type!r}, which is none of {', '.join(DATA_TYPES)}")
    if not 1 <= info.num_channels <= 1 << 16:
        raise BadRequest(f"the info has {info.num_channels} channels")


def _wrong_scale(scale: Scale, info: VolumeInfo) -> str:
    """What makes a scale meaningless."""
    if not scale.chunk_sizes:
        return "chunk_sizes is empty"
    if not all(1 <= edge < _FAR for edge in scale.size):
        return f"size is {list(scale.size)}; each must be at least 1"
    if not all(math.isfinite(edge) and edge > 0 for edge in scale.resolution):
        return f"resolution is {list(scale.resolution)}; each must be above 0"
    if not all(-_FAR < edge < _FAR for edge in scale.voxel_offset):
        return f"voxel_offset is {list(scale.voxel_offset)}"
    for chunk in scale.chunk_sizes:
        if not all(edge >= 1 for edge in chunk):
            return f"chunk_sizes has {list(chunk)}; each must be at least 1"
        voxels = math.prod(min(edge, size) for edge, size in zip(chunk, scale.size, strict=True))
        if voxels * info.num_channels * info.dtype.itemsize > MOST_CHUNK_BYTES:
            return f"chunks of {list(chunk)} voxels have more than {MOST_CHUNK_BYTES >> 30} GiB"
    if scale.sharding is not None and len(scale.chunk_sizes) > 1:
        return f"a sharded scale has one chunk size, not {len(scale.chunk_sizes)}"
    return ""


def _undecodable(scale: Scale, info: VolumeInfo) -> str:
    """Why the chunks of a scale cannot be decoded."""
    encoding, dtype = scale.encoding, info.data_type
    block = scale.compressed_segmentation_block_size
    if encoding not in ENCODINGS:
        return f"the encoding {encoding!r} is none of {', '.join(ENCODINGS)}"
    if encoding == "jpeg" and (dtype != "uint8" or info.num_channels not in (1, 3)):
        return f"JPEG chunks cannot hold {info.num_channels} channels of {dtype}"
    if encoding == "png" and (dtype not in ("uint8", "uint16") or info.num_channels > 4):
        return f"PNG chunks cannot hold {info.num_channels} channels of {dtype}"
    if encoding == "compressed_segmentation":
        if dtype not in ("uint32", "uint64"):
            return f"compressed segmentation cannot hold {dtype}"
        if block is not None and not (all(1 <= edge <= 1024 for edge in block) and math.prod(block) <= 1 << 22):
            return f"compressed_segmentation_block_size is {list(block)}"
    return ""


def _unsafe(scale: Scale) -> str:
    """What some readers refuse, or read wrongly."""
    encoding = scale.encoding
    if not scale.key or scale.key.startswith("/"):
        return f"the key {scale.key!r} is no relative directory"
    block = scale.compressed_segmentation_block_size
    if (block is not None) != (encoding == "compressed_segmentation"):
        has = "lacks" if block is None else "must not have"
        return f"a scale of encoding {encoding} {has} compressed_segmentation_block_size"
    if block is not None and math.prod(block) > 1 << 16:
        return f"blocks of {list(block)} voxels may need 32 bits per voxel, which some readers get wrong"
    for name, value, owner, most in (
        ("jpeg_quality", scale.jpeg_quality, "jpeg", 100),
        ("png_level", scale.png_level, "png", 9),
    ):
        if value is not None and encoding != owner:
            return f"{name} belongs to the encoding {owner}, not to {encoding}"
        if value is not None and not 0 <= value <= most:
            return f"{name} is {value}, not between 0 and {most}"
    return ""


def _triple(values: Sequence[int]) -> Triple:
    x, y, z = values
    return x, y, z
