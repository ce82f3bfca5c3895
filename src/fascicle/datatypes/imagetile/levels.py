"""The scales of a tiled volume, as clients post them and as they are kept: plain JSON values.

    {"MinTileCoord": [x,y,z], "MaxTileCoord": [x,y,z],
     "Levels": {"0": {"Resolution": [x,y,z], "TileSize": [x,y,z]}, "1": ...}}

Tile coordinates are those of scale 0, both ends inclusive. A tile of a plane has the extents of `TileSize` along its
two axes, in pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from fascicle.errors import NOT_JSON, BadRequest

Levels = dict[str, dict[str, list[Any]]]

LARGEST_TILE = 8192
"""Pixels along one side of a tile."""
MOST_LEVELS = 256
LARGEST_RESOLUTION = float(1 << 53)
_INT32 = range(-(1 << 31), 1 << 31)


def parse_metadata(data: bytes) -> dict[str, Any]:
    """The properties MinTileCoord, MaxTileCoord and Levels of a posted document. Raises BadRequest."""
    found = _members(_decoded(data), "tile metadata")
    low, high = (_coordinate(found.get(name.lower()), name) for name in ("MinTileCoord", "MaxTileCoord"))
    return {"MinTileCoord": low, "MaxTileCoord": high, "Levels": checked_levels(found.get("levels"))}


def parse_levels(data: bytes) -> Levels:
    """A document that is the levels alone. Raises BadRequest."""
    return checked_levels(_decoded(data))


def _decoded(data: bytes) -> Any:
    try:
        return msgspec.json.decode(data)
    except NOT_JSON as error:
        raise BadRequest(f"tile metadata must be JSON: {error}") from None


def checked_levels(document: Any) -> Levels:
    """Levels with scales 0, 1, 2, ... of which each is a whole number of times as coarse as the one before."""
    if not isinstance(document, dict) or not document:
        raise BadRequest('tile metadata must have "Levels", an object with one member for each scale, the first "0"')
    if len(document) > MOST_LEVELS:
        raise BadRequest(f"tile metadata can have {MOST_LEVELS} levels at most, not {len(document)}")
    for name in document:
        if not (name.isascii() and name.isdigit() and str(int(name[:9])) == name):
            raise BadRequest(f"Scaling {name!r} needs to be a number for the scale level.")
    levels: Levels = {}
    for scale in range(len(document)):
        if str(scale) not in document:
            raise BadRequest(f"Tile levels must be consecutive integers from [0,Max]: there is no level {scale}")
        given = _members(document[str(scale)], f"level {scale}")
        levels[str(scale)] = {
            "Resolution": _resolution(given.get("resolution"), scale),
            "TileSize": _tile_size(given.get("tilesize"), scale),
        }
        if scale:
            factors(levels, scale - 1, scale)
    return levels


def factors(levels: Levels, fine: int, coarse: int) -> list[int]:
    """How many times as coarse along x, y, z a scale is as a finer one. Raises BadRequest unless a whole number."""
    found = []
    for a, b in zip(levels[str(fine)]["Resolution"], levels[str(coarse)]["Resolution"], strict=True):
        ratio = b / a
        if not 0.999 <= ratio < 1 << 31 or abs(ratio - round(ratio)) > 0.001 * ratio:
            raise BadRequest(f"Resolutions between scale {fine} and {coarse} aren't integral magnifications!")
        found.append(round(ratio))
    return found


def _members(document: Any, what: str) -> Mapping[str, Any]:
    if not isinstance(document, dict):
        raise BadRequest(f"{what} must be a JSON object")
    return {name.lower(): value for name, value in document.items()}


def _triple(value: Any, what: str) -> list[Any]:
    numbers = isinstance(value, list) and all(isinstance(v, int | float) and not isinstance(v, bool) for v in value)
    if not numbers or len(value) != 3:
        raise BadRequest(f"{what} must be three numbers [x,y,z], not {value!r}")
    return [int(v) if isinstance(v, float) and v.is_integer() else v for v in value]


def _coordinate(value: Any, name: str) -> list[int]:
    if value is None:
        return [0, 0, 0]
    triple = _triple(value, name)
    if not all(isinstance(v, int) and v in _INT32 for v in triple):
        raise BadRequest(f"{name} must be three 32-bit integers, not {value!r}")
    return triple


def _tile_size(value: Any, scale: int) -> list[int]:
    triple = _triple(value, f"TileSize of level {scale}")
    if not all(isinstance(v, int) and 1 <= v <= LARGEST_TILE for v in triple):
        raise BadRequest(f"TileSize of level {scale} must be three integers from 1 to {LARGEST_TILE}, not {value!r}")
    return triple


def _resolution(value: Any, scale: int) -> list[Any]:
    triple = _triple(value, f"Resolution of level {scale}")
    if not all(0 < v < LARGEST_RESOLUTION for v in triple):
        raise BadRequest(f"Resolution of level {scale} must be three positive numbers, not {value!r}")
    return triple
