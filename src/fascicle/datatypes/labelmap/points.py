"""Labels at points."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from fascicle.datatypes.base import Answer, Call, Option, Reply, Route, Work
from fascicle.datatypes.elsewhere import is_elsewhere
from fascicle.datatypes.image.block_cache import BlockCache, cache_of
from fascicle.datatypes.labelmap import blocks
from fascicle.datatypes.labelmap.mapping import Mapping, mapping_at
from fascicle.datatypes.labelmap.requests import checked_hash
from fascicle.datatypes.labelmap.voxels import SCALE, SUPERVOXELS, block_size, mapping_of, scale_of
from fascicle.datatypes.voxel_requests import Triple, parse_triple
from fascicle.errors import NOT_JSON, BadRequest
from fascicle.formats import label_block
from fascicle.formats.label_block import LabelBlock
from fascicle.formats.label_layer import VoxelsByBlock
from fascicle.formats.label_layer import labels_at as labels_of
from fascicle.kernels import decimal, json_rows
from fascicle.versions.resolution import VersionedView

U64 = NDArray[np.uint64]
I64 = NDArray[np.int64]

FEW_BYTES = 16 << 10
FEW_BLOCKS = 32
"""Points of a request of so many bytes in so many blocks at most are looked for in the event loop."""

_points = msgspec.json.Decoder(list[tuple[int, int, int]])
_INT64_MIN, _INT64_MAX = -(1 << 63), (1 << 63) - 1


def supervoxels_at(
    view: VersionedView, scale: int, xyz: I64, block_size_xyz: Triple, cache: BlockCache | None = None
) -> U64:
    """Supervoxels u64[n] at voxels i64[n,3] (x, y, z, of the scale); 0 where nothing is stored."""
    out = np.zeros(len(xyz), np.uint64)
    voxels = VoxelsByBlock.of(xyz, block_size_xyz)
    found, handles = blocks.find_blocks(view, scale, voxels.codes)
    for batch in range(0, len(handles), blocks.BATCH_BLOCKS):
        here = found[batch : batch + blocks.BATCH_BLOCKS].tolist()
        first, last = here[0], here[-1] + 1
        opened: list[LabelBlock | None] = [None] * (last - first)
        for place, block in zip(here, blocks.open_blocks(view, handles[batch : batch + len(here)], cache), strict=True):
            opened[place - first] = block
        labels_of(opened, voxels.part(first, last), out)
    return out


def kept_supervoxels_at(
    view: VersionedView, scale: int, xyz: I64, block_size_xyz: Triple, cache: BlockCache
) -> U64 | None:
    """The same, if the voxels lie in a few blocks only and all of these are in memory."""
    voxels = VoxelsByBlock.of(xyz, block_size_xyz)
    if len(voxels.codes) > FEW_BLOCKS:
        return None
    found, handles = blocks.find_blocks(view, scale, voxels.codes)
    opened: list[LabelBlock | None] = [None] * len(voxels.codes)
    for place, block in zip(found.tolist(), cache.get_all(handles), strict=True):
        if block is None:
            return None
        opened[place] = block
    out = np.zeros(len(xyz), np.uint64)
    labels_of(opened, voxels, out)
    return out


def labels_at(
    view: VersionedView, scale: int, xyz: I64, block_size_xyz: Triple, mapping: Mapping | None, cache: BlockCache | None
) -> U64:
    """Like `supervoxels_at`, with bodies where a mapping is given."""
    supervoxels = supervoxels_at(view, scale, xyz, block_size_xyz, cache)
    return supervoxels if mapping is None else mapping.bodies(supervoxels)


def body_at(call: Call, xyz: Triple, scale: int = 0) -> int:
    """The label at a voxel: a body, or a supervoxel if the request asks for those."""
    view = call.view
    bx, by, bz = block_size(call)
    x, y, z = xyz[0] // bx, xyz[1] // by, xyz[2] // bz
    handle = blocks.find_block(view, scale, (x, y, z))
    if handle is None:
        return 0
    (block,) = blocks.open_blocks(view, [handle], cache_of(call.store))
    local = np.array([[xyz[0] - x * bx, xyz[1] - y * by, xyz[2] - z * bz]], np.int64)
    supervoxel = int(label_block.points(block, local)[0])
    if call.flag("supervoxels"):
        return supervoxel
    return mapping_at(view).body(supervoxel)[0]


def get_label(call: Call) -> Reply:
    """The label at one voxel."""
    xyz = parse_triple(call.argument(0, "a coordinate x_y_z"))
    scale = scale_of(call)

    def text() -> bytes:
        return b'{"Label": %d}' % body_at(call, xyz, scale)

    if is_elsewhere(call.instance.properties):  # fetching a chunk takes time: not in the event loop
        return Answer((text() for _ in range(1)), "application/json")
    return Answer(text(), "application/json")


def parse_points(data: bytes) -> I64:
    """A JSON list of [x, y, z] as i64[n,3]."""
    quick = json_rows.parsed_rows(data, 3)
    if quick is not None:
        return quick
    try:
        listed: Any = _points.decode(data)
        return np.array(listed, np.int64).reshape(-1, 3)
    except NOT_JSON as error:
        raise BadRequest(f"points must be a JSON list of [x,y,z]: {error}") from None
    except OverflowError:
        raise BadRequest(f"coordinates must lie within {_INT64_MIN} to {_INT64_MAX}") from None


def get_labels(call: Call) -> Reply:
    """Labels at the voxels of a JSON list."""
    checked_hash(call)
    scale = scale_of(call)
    xyz = parse_points(call.body)
    view = call.view
    labels = labels_at(view, scale, xyz, block_size(call), mapping_of(call, view), cache_of(call.store))
    return Answer(decimal.json_list(labels), "application/json")


def get_few_labels(call: Call) -> Answer | None:
    """The same for a few points near each other, where blocks are in memory: done before a thread would have begun."""
    if len(call.body) > FEW_BYTES or "hash" in call.query:
        return None
    view, scale = call.view, scale_of(call)
    found = kept_supervoxels_at(view, scale, parse_points(call.body), block_size(call), cache_of(call.store))
    if found is None:
        return None
    mapping = mapping_of(call, view)
    return Answer(decimal.json_list(found if mapping is None else mapping.bodies(found)), "application/json")


ROUTES = (
    Route(
        "label",
        {"GET": get_label, "POST": get_label},
        "The label at a voxel.",
        "<x_y_z>",
        (SCALE, SUPERVOXELS),
        work=Work.SMALL,
        reads_by_post=True,
    ),
    Route(
        "labels",
        {"GET": get_labels},
        "Labels at the voxels [[x,y,z],...] of the body, in the same order.",
        "",
        (SCALE, SUPERVOXELS, Option("hash", "MD5 of the body in hex, which is compared")),
        work=Work.HEAVY,
        at_once=get_few_labels,
    ),
)
