"""A data instance at a version as a precomputed volume: its info, and its chunks one by one.

Example: `volume = describe(snapshot, instance, Form()); volume.chunk(snapshot, 0, volume.box(0, "0-64_0-64_0-64"))`
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from fascicle.datatypes.image.settings import VOXEL_TYPES
from fascicle.datatypes.voxel_requests import VolumeRequest
from fascicle.errors import BadRequest, NotFound
from fascicle.formats import gzip_stream
from fascicle.formats.precomputed_info import Scale, VolumeInfo
from fascicle.precomputed import image_chunks, label_chunks
from fascicle.precomputed.builders import Form, Snapshot
from fascicle.versions.model import Instance

_NUMBER = r"(0|-?[1-9]\d{0,9})"
_NAME = re.compile("_".join([f"{_NUMBER}-{_NUMBER}"] * 3), re.ASCII)


@dataclass(frozen=True, slots=True)
class Volume:
    """What is shown of an instance at a version. Holds no transaction: chunks are made from a snapshot of it."""

    info: VolumeInfo
    instances: tuple[Instance, ...]
    """The instance that holds each scale."""
    form: Form

    def level(self, key: str) -> int:
        """The index of a scale by its key. Raises NotFound."""
        for level, scale in enumerate(self.info.scales):
            if scale.key == key:
                return level
        raise NotFound(f"there is no scale {key!r}, only {', '.join(scale.key for scale in self.info.scales)}")

    def box(self, level: int, name: str) -> VolumeRequest:
        """The voxels of the chunk with a name such as `0-64_0-64_64-100`. Raises NotFound if there is no such chunk."""
        scale = self.info.scales[level]
        match = _NAME.fullmatch(name)
        if match is None:
            raise NotFound(f"{name!r} is no chunk: chunks are named x0-x1_y0-y1_z0-z1")
        numbers = [int(part) for part in match.groups()]
        start, stop = numbers[0::2], numbers[1::2]
        problem = _misplaced(scale, start, stop)
        if problem:
            raise NotFound(f"there is no chunk {name} at scale {scale.key}: {problem}")
        size = [b - a for a, b in zip(start, stop, strict=True)]
        return VolumeRequest((size[0], size[1], size[2]), (start[0], start[1], start[2]))

    def chunk(
        self, snapshot: Snapshot, level: int, box: VolumeRequest, gzipped: bool = False
    ) -> bytes | None:
        """A chunk; None if nothing is stored there and the background is 0, so that a static volume would lack it.

        `gzipped`: in a gzip stream.
        """
        instance, encoding = self.instances[level], self.info.scales[level].encoding
        if self.info.type == "segmentation":
            return label_chunks.chunk(snapshot, instance, encoding, level, box, self.form.supervoxels, gzipped)
        found = image_chunks.chunk(snapshot, instance, encoding, box)
        return gzip_stream.gzipped(found, 1) if gzipped and found is not None else found

    def voxels(self, snapshot: Snapshot, level: int, box: VolumeRequest) -> NDArray[Any]:
        """The voxels [z, y, x] (or [z, y, x, channel]) of any box of a scale; what is not stored is background."""
        instance = self.instances[level]
        if self.info.type == "segmentation":
            return label_chunks.voxels(snapshot, instance, level, box, self.form.supervoxels)
        found: NDArray[Any] = image_chunks.voxels(snapshot, instance, box)
        return found

    @property
    def compressible(self) -> bool:
        """Whether chunks get smaller in a gzip stream."""
        return self.info.scales[0].encoding in ("raw", "compressed_segmentation")

    def background(self, level: int, box: VolumeRequest) -> bytes:
        """The chunk of a box of voxels none of which is stored."""
        instance, encoding = self.instances[level], self.info.scales[level].encoding
        if self.info.type == "image":
            return image_chunks.background(instance, encoding, box)
        return label_chunks.background(encoding, box)


def _misplaced(scale: Scale, start: list[int], stop: list[int]) -> str:
    """Why a box is no chunk of a scale; empty if it is one."""
    ends = [offset + size for offset, size in zip(scale.voxel_offset, scale.size, strict=True)]
    for axis, a, b, offset, end, edge in zip(
        "xyz", start, stop, scale.voxel_offset, ends, scale.chunk_sizes[0], strict=True
    ):
        if not offset <= a < end:
            return f"{axis} is from {offset} to {end}"
        if (a - offset) % edge or b != min(a + edge, end):
            first = a - (a - offset) % edge
            return f"the one at {axis} = {a} is {first}-{min(first + edge, end)}"
    return ""


def describe(snapshot: Snapshot, instance: Instance, form: Form) -> Volume:
    """The volume of an image instance or a label map at a version.

    Raises BadRequest if the instance has no voxels of its own or cannot be shown in this form, NotFound while it is
    empty.
    """
    if instance.typename == "labelmap":
        info = label_chunks.described(snapshot, instance, form.encoding)
        return Volume(info, (instance,) * len(info.scales), form)
    if instance.typename not in VOXEL_TYPES:
        raise BadRequest(f"data instance {instance.name!r} is of type {instance.typename}, which is no volume")
    if form.supervoxels:
        raise BadRequest(f"data instance {instance.name!r} is of type {instance.typename}, which has no supervoxels")
    info, members = image_chunks.described(snapshot, instance, form.encoding)
    return Volume(info, members, form)
