"""Images: volumes of voxels in blocks, one datatype for each kind of voxel.

One instance is one scale. Coarser scales are instances of their own, by convention `<name>_1`, `<name>_2` and so on,
each half as fine as the one before.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fascicle.datatypes.base import ANY_METHOD, Datatype, Option, Route, Work
from fascicle.datatypes.image import endpoints, settings
from fascicle.datatypes.roi.option import ROI
from fascicle.datatypes.volume_settings import names_volume
from fascicle.versions.model import Instance
from fascicle.versions.resolution import VersionedView

__all__ = ["Float32", "Image", "Rgba8", "Uint8", "Uint16", "Uint32", "Uint64"]

_ATTENUATION = Option("attenuation", "1 to 7, with `roi`: divide 8-bit voxels outside by 2 so many times instead")
_THROTTLE = Option("throttle", "`on` or `true`: refuse with 503 while the maximum of such requests runs")
_LZ4 = Option("compression", "`lz4`: the voxels of a volume as one LZ4 block without its size")
_FRAMING = Option(
    "compression", "absent: as the instance's compression says; `uncompressed`: plain voxels; `jpeg`: a JPEG per block"
)
_FORMATS = "2-D: png (default), jpg[:quality], tiff or bmp. 3-D: jpg for planes below each other, else plain voxels."

ROUTES = (
    Route("metadata", {ANY_METHOD: endpoints.get_metadata}, "The volume's axes and properties."),
    Route(
        "extents",
        {"POST": endpoints.post_extents, ANY_METHOD: endpoints.refuse_extents},
        'Sets the version\'s extents: {"MinPoint": [x,y,z], "MaxPoint": [x,y,z]}, both inclusive.',
    ),
    Route(
        "resolution",
        {"POST": endpoints.post_resolution, ANY_METHOD: endpoints.refuse_resolution},
        "Sets the voxel size of the instance: [x,y,z].",
    ),
    Route(
        "raw",
        {"GET": endpoints.get_raw, "POST": endpoints.post_raw},
        "A slice or a volume; POST replaces a block-aligned volume. " + _FORMATS,
        "<dims>/<size>/<offset>[/<format>]",
        (ROI, _ATTENUATION, _THROTTLE, _LZ4),
        work=Work.HEAVY,
        streams_body=True,
        throttled=True,
        at_once=endpoints.kept_raw,
    ),
    Route(
        "isotropic",
        {"GET": endpoints.get_isotropic, "POST": endpoints.post_raw},
        "Like raw; a slice is rescaled so that its pixels are square.",
        "<dims>/<size>/<offset>[/<format>]",
        (ROI, _ATTENUATION, _THROTTLE, _LZ4),
        work=Work.HEAVY,
        throttled=True,
    ),
    Route(
        "arb",
        {"GET": endpoints.get_arb},
        "An oblique slice; corners in physical units, x_y_z.",
        "<top left>/<top right>/<bottom left>/<res>[/<format>]",
        (_THROTTLE,),
        work=Work.HEAVY,
        throttled=True,
    ),
    Route(
        "blocks",
        {"GET": endpoints.get_blocks, "POST": endpoints.post_blocks},
        "Consecutive blocks along x, plain voxels without headers.",
        "<block x_y_z>/<span>",
        work=Work.HEAVY,
        streams_body=True,
    ),
    Route(
        "subvolblocks",
        {"GET": endpoints.get_subvolblocks},
        "The stored blocks of an aligned volume, each with its coordinate and size.",
        "<size>/<offset>",
        (_FRAMING, _THROTTLE),
        work=Work.HEAVY,
        throttled=True,
    ),
    Route(
        "specificblocks",
        {"GET": endpoints.get_specificblocks},
        "The stored blocks among those listed, each with its coordinate and size.",
        "",
        (
            Option("blocks", "block coordinates x,y,z,x,y,z,..."),
            _FRAMING,
            Option("prefetch", "`on` or `true`: only bring the blocks into memory"),
        ),
        work=Work.HEAVY,
    ),
)


class Image(Datatype):
    """What all kinds of voxels share."""

    routes = ROUTES
    shows_volumes = True

    def completed(self, settings_by_name: Mapping[str, str], server: Mapping[str, Any]) -> Mapping[str, str]:
        if not names_volume(settings_by_name):
            return settings_by_name
        return settings.completed(self.typename, settings_by_name, server)

    def create(self, settings_by_name: Mapping[str, str]) -> dict[str, Any]:
        return settings.properties_from(self.typename, settings_by_name)

    def extended(self, instance: Instance, view: VersionedView) -> dict[str, Any]:
        return settings.extended(instance, view)

    def extents(self, instance: Instance, view: VersionedView) -> dict[str, Any] | None:
        low, high = settings.points(instance, view)
        return {"MinPoint": low, "MaxPoint": high}


_TYPE_URL = "github.com/janelia-flyem/dvid/datatype/imageblk/"


class Uint8(Image):
    typename = "uint8blk"
    type_url = _TYPE_URL + "uint8.go"
    type_version = "0.2"
    summary = "gray images of 8 bits"


class Uint16(Image):
    typename = "uint16blk"
    type_url = _TYPE_URL + "uint16.go"
    summary = "gray images of 16 bits"


class Uint32(Image):
    typename = "uint32blk"
    type_url = _TYPE_URL + "uint32.go"
    summary = "images of 32-bit numbers"


class Uint64(Image):
    typename = "uint64blk"
    type_url = _TYPE_URL + "uint64.go"
    summary = "images of 64-bit numbers"


class Float32(Image):
    typename = "float32blk"
    type_url = _TYPE_URL + "float32.go"
    summary = "images of 32-bit floating point numbers"


class Rgba8(Image):
    typename = "rgba8blk"
    type_url = _TYPE_URL + "rgba8.go"
    type_version = "0.2"
    summary = "colour images, 8 bits each of red, green, blue and alpha"
