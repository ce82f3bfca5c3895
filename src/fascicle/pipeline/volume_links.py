"""Links from a volume to what is made of it: the members `mesh` and `skeletons` of its info.

Source: https://github.com/google/neuroglancer/blob/master/src/datasource/precomputed/volume.md
"""

from __future__ import annotations

from typing import Literal

import msgspec

from fascicle.errors import BadRequest, NotFound
from fascicle.formats import precomputed_info
from fascicle.volumes.base import VolumeError
from fascicle.volumes.destinations import JSON, open_destination


def link(destination: str, member: Literal["mesh", "skeletons"]) -> bool:
    """Note a directory in the info of the segmentation that it lies in, if there is one; whether there is."""
    parent, _, name = destination.rstrip("/").rpartition("/")
    if not parent or not name or parent.endswith(":/"):
        return False
    try:
        target = open_destination(parent)
        data = target.folder.get("info")
        info = None if data is None else precomputed_info.decode(data)
    except (BadRequest, NotFound, VolumeError):
        return False  # it is no volume
    if info is None or info.type != "segmentation":
        return False
    linked = msgspec.structs.replace(info, **{member: name})
    if linked != info:
        target.put("info", precomputed_info.encode(linked), JSON)
    return True
