"""The routes of `roi`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import msgspec
import numpy as np

from fascicle.datatypes.base import ANY_METHOD, Answer, Call, Commit, Datatype, Option, Reply, Route, Work
from fascicle.datatypes.roi import partitions, regions
from fascicle.datatypes.roi.regions import Region, block_size_of, region_at
from fascicle.datatypes.roi.spans import INT32_MAX, INT32_MIN, json_pieces, parse_rows, parse_spans
from fascicle.datatypes.voxel_requests import (
    Triple,
    VolumeRequest,
    check_payload,
    checked,
    parse_dims,
    parse_integer,
    parse_volume,
)
from fascicle.errors import BadRequest
from fascicle.versions.model import Instance
from fascicle.versions.resolution import VersionedView

_JSON = "application/json"
PIECE_BYTES = 4 << 20
"""About how much of a mask is made at once."""


def _region(call: Call) -> Region:
    return region_at(call.view, block_size_of(call.instance))


# -- spans


def _get(call: Call) -> Answer:
    return Answer(json_pieces(regions.spans_at(call.view)), _JSON)


def _post(call: Call) -> Commit:
    stored = regions.prepared(parse_spans(call.body))
    return Commit(lambda change: regions.replace(change.view, stored))


def _clear(call: Call) -> Commit:
    return Commit(lambda change: regions.replace(change.view, None))


def _nothing(call: Call) -> Answer:
    return Answer()


# -- what lies inside


def _mask(call: Call) -> Answer:
    if len(call.args) < 3 or not all(call.args[:3]):
        raise BadRequest('"mask" must be followed by shape/size/offset')
    shape, size, offset = call.args[:3]
    if parse_dims(shape) != "xyz":
        raise BadRequest("Currently only 3d masks ('0_1_2' shape) is supported")
    box = checked(parse_volume(size, offset))
    check_payload(box, 1)
    region = _region(call)
    return Answer.binary(
        region.mask(piece.offset_xyz, piece.size_xyz).data.cast("B") for piece in _pieces(box, region.block_size)
    )


def _pieces(box: VolumeRequest, block_size: Triple) -> Iterator[VolumeRequest]:
    """A box cut into pieces that follow each other in memory order, z slowest, of about `PIECE_BYTES` voxels."""
    (x, y, z), (sx, sy, sz) = box.offset_xyz, box.size_xyz
    layers = PIECE_BYTES // (sx * sy)
    if layers:
        if layers > block_size[2]:  # whole blocks
            layers -= layers % block_size[2]
        for at in range(0, sz, layers):
            yield VolumeRequest((sx, sy, min(layers, sz - at)), (x, y, z + at))
        return
    rows, columns = max(1, PIECE_BYTES // sx), min(sx, PIECE_BYTES)
    for layer in range(sz):
        for row in range(0, sy, rows):
            for column in range(0, sx, columns):
                size = (min(columns, sx - column), min(rows, sy - row), 1)
                yield VolumeRequest(size, (x + column, y + row, z + layer))


def _no_mask_method(call: Call) -> Reply:
    raise BadRequest("ROI mask only supports GET")


def _points(call: Call) -> Answer:
    points = parse_rows(call.body, 3, "points [x, y, z]")
    inside = _region(call).contains(points)
    return Answer(b"[" + b",".join(np.where(inside, b"true", b"false").tolist()) + b"]", _JSON)


def _no_points(call: Call) -> Reply:
    raise BadRequest("ptquery needs a POST of a JSON list of points [[x, y, z], ...]")


# -- partitions


def _partition(call: Call) -> Answer:
    text = call.query.get("batchsize", "")
    try:
        n = parse_integer(text)
    except BadRequest:
        raise BadRequest(f"Error reading batchsize query string: {text!r} is not an integer") from None
    if n < 1:
        raise BadRequest(f"Error reading batchsize query string: it must be at least 1, not {n}")
    region = _region(call)
    cut = partitions.optimized if call.query.get("optimized") in ("true", "on") else partitions.regular
    found = cut(region.spans, n).as_json(region.block_size)
    return Answer(msgspec.json.format(msgspec.json.encode(found), indent=4), _JSON)


def _no_partition_method(call: Call) -> Reply:
    raise BadRequest("partition only supports GET request")


class Roi(Datatype):
    """Sets of blocks as runs along x."""

    typename: ClassVar[str] = "roi"
    type_url: ClassVar[str] = "github.com/janelia-flyem/dvid/datatype/roi"
    summary: ClassVar[str] = "A region of interest: a set of blocks, kept as runs (spans) along x."
    versioned_classes: ClassVar[tuple[int, ...]] = (regions.HEAD, regions.SPANS)
    lacks: ClassVar[frozenset[str]] = frozenset({"sync"})
    routes: ClassVar[tuple[Route, ...]] = (
        Route(
            "roi",
            {"GET": _get, "HEAD": _nothing, "POST": _post, "DELETE": _clear, ANY_METHOD: _nothing},
            "The spans of this version as a JSON list of [z, y, x0, x1] in blocks, x1 inclusive; POST replaces them, "
            "DELETE removes them.",
            work=Work.HEAVY,
        ),
        Route(
            "mask",
            {"GET": _mask, "HEAD": _no_mask_method, ANY_METHOD: _no_mask_method},
            "A byte for each voxel of a box, x fastest: 1 inside, 0 outside.",
            path="0_1_2/<size>/<offset>",
            work=Work.HEAVY,
        ),
        Route(
            "ptquery",
            {"GET": _no_points, "HEAD": _nothing, "POST": _points, ANY_METHOD: _nothing},
            "Which voxels of a JSON list [[x, y, z], ...] lie inside, as a JSON list of booleans.",
            work=Work.HEAVY,
            reads_by_post=True,
        ),
        Route(
            "partition",
            {"GET": _partition, "HEAD": _no_partition_method, ANY_METHOD: _no_partition_method},
            "Boxes of blocks that cover the region, with the number of blocks inside of each.",
            options=(
                Option("batchsize", "blocks along each side of a box; required"),
                Option("optimized", "`true` or `on`: boxes of varying size that leave out gaps along x"),
            ),
            work=Work.HEAVY,
        ),
    )

    def create(self, settings: Mapping[str, str]) -> dict[str, Any]:
        text = settings.get("blocksize", "32,32,32")
        size = [parse_integer(part) for part in text.split(",")]
        if len(size) != 3 or min(size) < 1:
            raise BadRequest(f"BlockSize must be three positive integers separated by commas, not {text!r}")
        return {"BlockSize": size}

    def extended(self, instance: Instance, view: VersionedView) -> dict[str, Any]:
        _, count, least_z, greatest_z = regions.head(view)
        return {
            "BlockSize": instance.properties["BlockSize"],
            "MinZ": least_z if count else INT32_MAX,
            "MaxZ": greatest_z if count else INT32_MIN,
        }
