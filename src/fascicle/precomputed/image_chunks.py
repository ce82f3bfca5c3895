"""Image instances as scales of a volume: `<name>`, `<name>_1`, `<name>_2` and so on, as viewers expect them."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from fascicle.datatypes.elsewhere import elsewhere_of, is_elsewhere
from fascicle.datatypes.image.block_cache import cache_of
from fascicle.datatypes.image.block_reader import BlockReader
from fascicle.datatypes.image.block_source import BlockSource, RemoteBlocks, StoredBlocks
from fascicle.datatypes.image.blocks import JPEG
from fascicle.datatypes.image.settings import layout_of, points
from fascicle.datatypes.voxel_requests import VolumeRequest
from fascicle.errors import BadRequest, NotFound
from fascicle.formats.precomputed_info import Scale, VolumeInfo
from fascicle.precomputed.builders import Snapshot, encoded, fills_block, make_scale, resolution_nm
from fascicle.versions.model import Instance

ENCODINGS = ("raw", "jpeg", "png")


def described(snapshot: Snapshot, instance: Instance, encoding: str) -> tuple[VolumeInfo, tuple[Instance, ...]]:
    """The volume of an instance and of those that hold its coarser scales; and the instance of each scale.

    Without `encoding` it is jpeg if voxels are stored so, else raw. Raises BadRequest for one that cannot hold them,
    NotFound where there are no voxels.
    """
    layout = layout_of(instance)
    chosen = encoding or ("jpeg" if instance.compression.startswith("jpeg") else "raw")
    _check(instance, chosen, layout.dtype.name, layout.channels)
    members = [instance]
    while snapshot.catalog.has_instance(instance.repo_id, name := f"{instance.name}_{len(members)}"):
        coarser = snapshot.catalog.instance(instance.repo_id, name)
        if coarser.typename != instance.typename:
            break
        members.append(coarser)
    scales: list[Scale] = []
    for level, member in enumerate(members):
        low, high = points(member, snapshot.view(member))
        if low is None or high is None or any(a > b for a, b in zip(low, high, strict=True)):
            break
        resolution = _resolution(instance, member, level)
        scales.append(make_scale(level, low, high, resolution, member.properties["BlockSize"], chosen))
    if not scales:
        raise NotFound(f"data instance {instance.name!r} has no voxels at version {snapshot.node.uuid}")
    info = VolumeInfo(
        type="image", data_type=layout.dtype.name, num_channels=layout.channels, scales=tuple(scales)
    )
    return info, tuple(members[: len(scales)])


def _check(instance: Instance, encoding: str, dtype: str, channels: int) -> None:
    possible = encoding in ENCODINGS
    if encoding == "jpeg":
        possible = dtype == "uint8" and channels == 1
    elif encoding == "png":
        possible = dtype in ("uint8", "uint16")
    if not possible:
        raise BadRequest(f"chunks of {instance.name!r}, which is {instance.typename}, cannot be of encoding {encoding}")


def _resolution(finest: Instance, member: Instance, level: int) -> tuple[float, float, float]:
    """Of a coarser scale its own one if that is coarser, else the finest one's doubled for each level."""
    first = resolution_nm(finest.properties)
    own = resolution_nm(member.properties)
    if level == 0 or (own != first and all(a >= b for a, b in zip(own, first, strict=True))):
        return own
    x, y, z = (edge * 2**level for edge in first)
    return x, y, z


def chunk(snapshot: Snapshot, instance: Instance, encoding: str, box: VolumeRequest) -> bytes | None:
    """The chunk of a box of voxels; None if nothing is stored there and the background is 0."""
    layout = layout_of(instance)
    reader = BlockReader(_source(snapshot, instance), layout, cache_of(snapshot.store))
    blocks = reader.within(box)
    if not blocks and not layout.background:
        return None
    if encoding == "jpeg" and len(blocks) == 1 and fills_block(box, layout.size_xyz):
        stored = memoryview(reader.source.load(blocks[0][1]))
        if stored[0] == JPEG:
            return bytes(stored[1:])
    return encoded(reader.box(box, blocks), encoding)


def voxels(snapshot: Snapshot, instance: Instance, box: VolumeRequest) -> NDArray[Any]:
    """The voxels [z, y, x] or [z, y, x, channel] of a box, the background where nothing is stored."""
    layout = layout_of(instance)
    reader = BlockReader(_source(snapshot, instance), layout, cache_of(snapshot.store))
    found: NDArray[Any] = reader.box(box, reader.within(box))
    return found


def background(instance: Instance, encoding: str, box: VolumeRequest) -> bytes:
    """The chunk of a box of voxels none of which is stored."""
    return encoded(layout_of(instance).background_array(box.shape_zyx), encoding)


def _source(snapshot: Snapshot, instance: Instance) -> BlockSource:
    layout = layout_of(instance)
    if is_elsewhere(instance.properties):
        return RemoteBlocks(elsewhere_of(snapshot.settings).scale(instance.properties), layout, instance.id)
    return StoredBlocks(snapshot.view(instance), layout)
