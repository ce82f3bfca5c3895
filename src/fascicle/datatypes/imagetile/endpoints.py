"""The routes of `imagetile`."""

from __future__ import annotations

from typing import Any

import numpy as np

from fascicle.datatypes.base import Answer, Call, Commit
from fascicle.datatypes.imagetile import generation
from fascicle.datatypes.imagetile.levels import Levels, parse_metadata
from fascicle.datatypes.imagetile.tiles import (
    AXES,
    TILES,
    TileName,
    blank,
    encode_tile,
    opened,
    parse_name,
    placeholder,
    stored_row,
    unpacked,
)
from fascicle.datatypes.slice_images import encode_image, encode_png, parse_format, rescale_average
from fascicle.datatypes.voxel_requests import PICTURE_LIMIT_BYTES, SliceRequest, check_payload, parse_request
from fascicle.errors import BadRequest, NotFound
from fascicle.versions import keys

CONTENT_TYPES = {"lz4": "image/png", "png": "image/png", "jpg": "image/jpeg"}


def format_of(call: Call) -> str:
    found: str = call.instance.properties["Format"]
    return found


def levels_of(call: Call) -> Levels:
    found: Levels = call.instance.properties["Levels"]
    return found


# -- metadata


def get_metadata(call: Call) -> Answer:
    properties = call.instance.properties
    if not properties["Levels"]:
        raise BadRequest(f'tile metadata for imagetile "{call.instance.name}" was not set')
    return Answer.json({name: properties[name] for name in ("MinTileCoord", "MaxTileCoord", "Levels")})


def post_metadata(call: Call) -> Commit:
    properties = parse_metadata(call.body)
    return Commit(lambda change: change.update_instance(**properties), lambda _: Answer())


# -- tiles


def _size(call: Call, name: TileName) -> tuple[int, int]:
    """Width and height of a tile in pixels. Raises BadRequest if its scale is not known."""
    level = levels_of(call).get(str(name.scale))
    if level is None:
        raise BadRequest(f"Could not extract tiles for unspecified scale level {name.scale}")
    across, down, _ = AXES[name.plane]
    return level["TileSize"][across], level["TileSize"][down]


def get_tile(call: Call) -> Answer:
    name = parse_name(call.args)
    if not levels_of(call):
        raise BadRequest("Tile metadata has not been POSTed yet.  GET requests require metadata to be POST.")
    image_format = parse_format(call.args[3] if len(call.args) > 3 else "")
    width, height = _size(call, name)
    stored = call.view.get(TILES, name.key)
    if stored is None:
        if call.flag("noblanks"):
            raise NotFound("404 page not found")
        return Answer(blank(width, height, image_format), image_format.content_type)
    if format_of(call) == "lz4":
        stored = encode_png(unpacked(stored, width, height))
    return Answer(stored, CONTENT_TYPES[format_of(call)])


def post_tile(call: Call) -> Commit:
    """Store a tile as it is. Only one of the format lz4 is looked into, as it is sent back in another form."""
    name, data = parse_name(call.args), call.body
    if format_of(call) == "lz4":
        unpacked(data, *_size(call, name))
    return Commit(lambda change: change.view.put(TILES, name.key, data))


def get_tile_key(call: Call) -> Answer:
    key = keys.prefix(call.instance.id, TILES) + parse_name(call.args).key
    return Answer.json({"key": keys.with_version(key, call.ancestry.version).hex()})


# -- slices put together from tiles


def get_raw(call: Call) -> Answer:
    """An image of any size, from the tiles of scale 0."""
    request = parse_request(call.keyword, call.args)
    if not isinstance(request, SliceRequest):
        raise BadRequest("tiles are 2-D: the shape must be xy, xz or yz")
    image_format = parse_format(call.args[3] if len(call.args) > 3 else "")
    source_name = call.instance.properties["TilesOf"]
    if not source_name:
        raise BadRequest(f'imagetile "{call.instance.name}" was created without a Source, which this needs')
    call.catalog.instance(call.instance.repo_id, source_name)
    if not levels_of(call):
        raise BadRequest("Tile metadata has not been POSTed yet.  GET requests require metadata to be POST.")
    isotropic = call.keyword == "isotropic"
    source = request.isotropic_source(levels_of(call)["0"]["Resolution"]) if isotropic else request
    limit = PICTURE_LIMIT_BYTES if source == request else PICTURE_LIMIT_BYTES // 8  # averages are made of 64 bits
    for picture in (source, request):
        check_payload(picture, 3, limit)
    image = rescale_average(_stitched(call, source), request.width, request.height)
    return Answer(encode_image(image, image_format), image_format.content_type)


def _stitched(call: Call, request: SliceRequest) -> Any:
    """The pixels of a slice, uint8 [row, column], or [row, column, 3] if one of its tiles has colours."""
    across, down, normal = AXES[request.plane]
    size = levels_of(call)["0"]["TileSize"]
    width, height = size[across], size[down]
    left, top, position = (request.offset_xyz[axis] for axis in (across, down, normal))
    first, last = left // width, (left + request.width - 1) // width
    rows = range(top // height, (top + request.height - 1) // height + 1)
    if call.instance.properties["Placeholder"] and len(rows) * (last - first + 1) > 10_000:
        raise BadRequest(f"an image of {len(rows)} x {last - first + 1} tiles is too large for placeholders")
    image: Any = np.zeros((request.height, request.width), np.uint8)

    def paste(row: int, column: int, pixels: Any) -> None:
        nonlocal image
        if pixels.ndim == 3 and image.ndim == 2:
            image = np.repeat(image[:, :, None], 3, axis=2)
        if pixels.ndim == 2 and image.ndim == 3:
            pixels = pixels[:, :, None]
        y, x = row * height - top, column * width - left
        part = pixels[max(0, -y) : request.height - y, max(0, -x) : request.width - x]
        y, x = max(0, y), max(0, x)
        image[y : y + part.shape[0], x : x + part.shape[1]] = part

    for row in rows:
        missing = set(range(first, last + 1)) if call.instance.properties["Placeholder"] else set()
        for column, stored in stored_row(call.view, request.plane, 0, position, row, (first, last)):
            paste(row, column, opened(stored, format_of(call), width, height))
            missing.discard(column)
        for column in missing:
            at = [0, 0, 0]
            at[across], at[down], at[normal] = column, row, position
            name = TileName(request.plane, 0, (at[0], at[1], at[2]))
            paste(row, column, placeholder(width, height, str(name)))
    return image


# -- making tiles


def post_generate(call: Call) -> Answer:
    """Draw the tiles of the source, and set the metadata if there is none."""
    plan = generation.planned(call)
    return Answer.json({"Tiles": generation.run(call, plan, encode_tile)})
