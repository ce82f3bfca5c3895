"""Settings of instances whose voxels live elsewhere: what a creation request says, completed by the volume itself.

`Source` is an address (`volumes.open_pyramid`), `GridStore` the alias of a `[store.x]` of engine `ngprecomputed`,
`ScaleLevel` the index of the scale. Block size, voxel size and extents come from the volume.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from fascicle.datatypes.elsewhere import SETTING, Elsewhere, RemoteScale, elsewhere_of
from fascicle.datatypes.voxel_requests import Triple
from fascicle.errors import BadRequest
from fascicle.volumes import VolumeError

LOOKED_UP = "LookedUp"
"""Marks settings that were completed; no client can send it, for names of settings are in lower case."""
DESCRIBED = "Described"
"""The property that keeps what the volume said when its instance was made or refreshed."""
_OF_VOLUME = ("BlockSize", "VoxelSize", "VoxelUnits", "MinPoint", "MaxPoint", "MaxDownresLevel")
USUAL_BLOCK: Triple = (64, 64, 64)


def names_volume(settings: Mapping[str, str]) -> bool:
    """Whether settings (names in lower case) say that the voxels are elsewhere."""
    return bool(settings.get("source") or settings.get("gridstore"))


def check_may_name(settings: Mapping[str, str], server: Mapping[str, Any], admin: bool) -> None:
    """An address makes the server read what it names, so on a server with administrators only they may give one."""
    if settings.get("source") and server.get("admin_configured") and not admin:
        raise BadRequest("the setting 'Source' requires admin privileges (admintoken or DSG admin)")
    if settings.get("source") and settings.get("gridstore"):
        raise BadRequest("give either 'Source' or 'GridStore', not both")


def looked_up(settings: Mapping[str, str], server: Mapping[str, Any]) -> tuple[Elsewhere, str, int]:
    """(the process's volumes, the address, the index of the scale) that settings name."""
    if SETTING not in server:
        check_completed(settings)
    elsewhere = elsewhere_of(server)
    level = settings.get("scalelevel", "0").strip()
    if not (level.isascii() and level.isdigit() and int(level) <= 255):
        raise BadRequest(f"ScaleLevel must be a number from 0 to 255, not {level!r}")
    address = settings.get("source") or elsewhere.store(settings["gridstore"]).address
    return elsewhere, address, int(level)


def described(scale: RemoteScale, block_xyz: Triple) -> dict[str, str]:
    """What a scale says of an instance that shows it in blocks of a size."""
    found = {
        LOOKED_UP: "true",
        "blocksize": _text(block_xyz),
        "minpoint": _text(scale.offset_xyz),
        "maxpoint": _text(scale.end_xyz),
    }
    if scale.volume.resolution_nm is not None:
        found["voxelsize"] = ",".join(f"{edge:.9g}" for edge in scale.volume.resolution_nm)
        found["voxelunits"] = "nanometers,nanometers,nanometers"
    return found


def check_completed(settings: Mapping[str, str]) -> None:
    """Refuse to make an instance of settings that name a volume nobody has looked at."""
    if names_volume(settings) and settings.get(LOOKED_UP) != "true":
        alias = settings.get("gridstore") or settings["source"]
        raise BadRequest(f'bad store ({alias}) designated for GridStore: could not find store with alias "{alias}"')


def located_properties(settings: Mapping[str, str], properties: Mapping[str, Any]) -> dict[str, Any]:
    """What the properties of an instance say of where its voxels are; nothing for those that are stored here."""
    if not names_volume(settings):
        return {}
    found: dict[str, Any] = {DESCRIBED: {name: properties[name] for name in _OF_VOLUME if name in properties}}
    if settings.get("source"):
        found["Source"] = settings["source"]
    else:
        found["GridStore"] = settings["gridstore"]
    return found


def check_dtype(scale: RemoteScale, dtype: np.dtype[Any], typename: str) -> None:
    """Refuse voxels that a type cannot hold."""
    if not np.can_cast(scale.dtype, dtype, "safe"):
        raise VolumeError(f"{scale.volume.name} has voxels of {scale.dtype.name}, which do not fit into a {typename}")


def check_coordinates(scale: RemoteScale) -> None:
    """Refuse volumes that reach beyond 32-bit coordinates."""
    if min(scale.offset_xyz) < -(1 << 31) or max(scale.end_xyz) >= 1 << 31:
        raise VolumeError(f"{scale.volume.name} reaches beyond 32-bit voxel coordinates")


def _text(triple: Triple) -> str:
    return ",".join(map(str, triple))
