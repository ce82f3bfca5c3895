"""The datatype imagetile, put together from its parts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fascicle.datatypes.base import Datatype, Option, Route, Work
from fascicle.datatypes.imagetile import endpoints
from fascicle.datatypes.imagetile.tiles import FORMATS, TILES
from fascicle.errors import BadRequest
from fascicle.versions.model import Instance
from fascicle.versions.resolution import VersionedView

_TILE = "<plane>/<scale>/<tile x_y_z>"


class Imagetile(Datatype):
    """Pictures of slices, cut into tiles at several scales."""

    typename = "imagetile"
    type_url = "github.com/janelia-flyem/dvid/datatype/imagetile"
    summary = "2-D tiles of an image volume in the planes xy, xz and yz, at several scales."
    versioned_classes = (TILES,)
    routes = (
        Route(
            "metadata",
            {"GET": endpoints.get_metadata, "POST": endpoints.post_metadata},
            "The scales and the extents in tiles: `MinTileCoord`, `MaxTileCoord`, and `Levels` with `Resolution` and "
            "`TileSize` of each scale.",
        ),
        Route(
            "tile",
            {"GET": endpoints.get_tile, "POST": endpoints.post_tile},
            "A tile as it was posted. Along the axis that is normal to the plane the coordinate is a voxel of the "
            "finest scale. A tile that is missing is black.",
            f"{_TILE}[/<format of a missing one>]",
            (Option("noblanks", "`true`: 404 for a tile that is missing"),),
            work=Work.HEAVY,
        ),
        Route("tilekey", {"GET": endpoints.get_tile_key}, "The key under which a tile is stored.", _TILE),
        Route(
            "raw",
            {"GET": endpoints.get_raw},
            "An image put together from tiles of the finest scale. Needs the setting Source.",
            "<plane>/<size>/<offset>[/<format>]",
            work=Work.HEAVY,
        ),
        Route(
            "isotropic",
            {"GET": endpoints.get_raw},
            "The same, rescaled so that its pixels are square.",
            "<plane>/<size>/<offset>[/<format>]",
            work=Work.HEAVY,
        ),
        Route(
            "generate",
            {"POST": endpoints.post_generate},
            "Draw tiles of the source, which is uint8blk, and answer with their number when they are stored. The body "
            "may be the levels of the metadata. What is drawn of a range of slices does not depend on others, so a "
            "large volume can be drawn by several requests.",
            options=(
                Option("planes", "some of `xy;xz;yz`, by default all"),
                Option("xrange", "first and last voxel like `0,99`; the rest is left black, or out"),
                Option("yrange", "the same along y"),
                Option("zrange", "the same along z"),
            ),
            work=Work.HEAVY,
        ),
    )

    def completed(self, settings: Mapping[str, str], server: Mapping[str, Any]) -> Mapping[str, str]:
        """The settings with the compression that their format means."""
        expected = "lz4" if _format(settings) == "lz4" else "none"
        given = settings.get("compression", "")
        if given and given.lower() != expected:
            raise BadRequest(
                f"Conflict between specified compression '{given}' and format '{_format(settings)}'.  "
                "Suggest not dictating compression."
            )
        return {**settings, "compression": expected}

    def create(self, settings: Mapping[str, str]) -> dict[str, Any]:
        placeholder = settings.get("placeholder", "false").lower()
        if placeholder not in ("true", "1", "t", "false", "0", "f", ""):
            raise BadRequest(f"Placeholder must be true or false, not {placeholder!r}")
        return {
            "TilesOf": settings.get("source", ""),
            "MinTileCoord": [0, 0, 0],
            "MaxTileCoord": [0, 0, 0],
            "Levels": {},
            "Placeholder": placeholder in ("true", "1", "t"),
            "Format": _format(settings),
            "Quality": 0,
        }

    def extended(self, instance: Instance, view: VersionedView) -> dict[str, Any]:
        properties = instance.properties
        return {
            "Source": properties["TilesOf"],
            "MinTileCoord": properties["MinTileCoord"],
            "MaxTileCoord": properties["MaxTileCoord"],
            "Levels": properties["Levels"],
            "Placeholder": properties["Placeholder"],
            "Encoding": FORMATS.index(properties["Format"]),
            "Quality": properties["Quality"],
        }


def _format(settings: Mapping[str, str]) -> str:
    text = settings.get("format") or "png"
    if text.lower() not in FORMATS:
        raise BadRequest(f"Unknown encoding specified: '{text}' (should be 'lz4', 'png', or 'jpg')")
    return text.lower()
