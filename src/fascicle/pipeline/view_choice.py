"""Which instances of a server's version a viewer can show."""

from __future__ import annotations

import os
from typing import Any

from fascicle.errors import BadRequest
from fascicle.pipeline.ingest_connections import ServerConnection
from fascicle.pipeline.sources import SourceSpec
from fascicle.pipeline.version_choice import choose_version
from fascicle.volumes.objects import open_folder

_IMAGES = frozenset(["uint8blk", "uint16blk", "uint32blk", "uint64blk", "float32blk", "rgba8blk"])
_LABELS = "labelmap"
_POINTS = "annotation"


def viewable_instances(server: str, repo: str, version: str) -> list[str]:
    """Names of the images, label maps and annotations of a version, in this order, that have something to show.

    Coarser scales of an image (`name_1`, `name_2`, ...) are scales of its layer, not layers.
    """
    token = os.environ.get("FASCICLE_ADMIN_TOKEN") or ""
    with ServerConnection(server, token) as connection:
        chosen = choose_version(connection, "", repo) if repo else choose_version(connection, version, "")
    if chosen is None:
        raise BadRequest(f"{server} has no repo with the alias {repo!r}")
    names = sorted(chosen.instances, key=lambda name: (_order(chosen.instances[name]), name))
    found = []
    for name in names:
        points = chosen.instances[name]["Base"]["TypeName"] == _POINTS
        if _has_info(server, repo, version, name) if points else _has_voxels(chosen.instances, name):
            found.append(name)
    if not found:
        raise BadRequest(f"repo {repo or version} of {server} has nothing that a viewer shows")
    return found


def _order(instance: dict[str, Any]) -> int:
    typename = instance["Base"]["TypeName"]
    return 0 if typename in _IMAGES else 1 if typename == _LABELS else 2


def _has_voxels(instances: dict[str, Any], name: str) -> bool:
    typename = instances[name]["Base"]["TypeName"]
    if typename not in _IMAGES and typename != _LABELS:
        return False
    stem, _, level = name.rpartition("_")
    if typename in _IMAGES and level.isdigit() and stem in instances:
        return False
    extended = instances[name].get("Extended") or {}
    return extended.get("MinPoint") is not None


def _has_info(server: str, repo: str, version: str, name: str) -> bool:
    """Whether the server shows an instance as a precomputed folder."""
    spec = SourceSpec(server=server, repo=repo, version=version, instance=name)
    return open_folder(spec.precomputed_address).get("info") is not None
