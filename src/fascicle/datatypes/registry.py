"""The datatypes that this server has, by typename. Adding one is one line."""

from __future__ import annotations

from functools import cache
from importlib import import_module

from fascicle.datatypes.base import Datatype
from fascicle.errors import BadRequest

_PACKAGES = {
    "annotation": ("fascicle.datatypes.annotation", "Annotation"),
    "keyvalue": ("fascicle.datatypes.keyvalue", "Keyvalue"),
    "neuronjson": ("fascicle.datatypes.neuronjson", "Neuronjson"),
    "labelmap": ("fascicle.datatypes.labelmap", "Labelmap"),
    "labelsz": ("fascicle.datatypes.labelsz", "Labelsz"),
    "roi": ("fascicle.datatypes.roi", "Roi"),
    "uint8blk": ("fascicle.datatypes.image", "Uint8"),
    "uint16blk": ("fascicle.datatypes.image", "Uint16"),
    "uint32blk": ("fascicle.datatypes.image", "Uint32"),
    "uint64blk": ("fascicle.datatypes.image", "Uint64"),
    "float32blk": ("fascicle.datatypes.image", "Float32"),
    "rgba8blk": ("fascicle.datatypes.image", "Rgba8"),
    "imagetile": ("fascicle.datatypes.imagetile", "Imagetile"),
    "tarsupervoxels": ("fascicle.datatypes.tarsupervoxels", "Tarsupervoxels"),
}
RETIRED = {"labelblk": "labelmap", "labelarray": "labelmap", "labelvol": "labelmap"}


def typenames() -> list[str]:
    """All typenames, sorted."""
    return sorted(_PACKAGES)


@cache
def datatype(typename: str) -> Datatype:
    """The datatype of a name. Raises BadRequest for names this server does not know."""
    if typename in RETIRED:
        raise BadRequest(f'Data type "{typename}" is retired and not supported: use "{RETIRED[typename]}" instead')
    if typename not in _PACKAGES:
        raise BadRequest(f'Data type "{typename}" is not supported by current DVID server')
    module, name = _PACKAGES[typename]
    found: Datatype = getattr(import_module(module), name)()
    return found
