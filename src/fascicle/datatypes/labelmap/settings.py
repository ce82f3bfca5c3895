"""Settings of a labelmap: what creation and `POST info` accept, what is kept, and how info and metadata show it.

The properties of an instance carry the names that its info shows: BlockSize, VoxelSize, VoxelUnits, MinPoint,
MaxPoint (all x, y, z; points inclusive), Background, GridStore, ScaleLevel, IndexedLabels, MaxDownresLevel. Extents
belong to versions (`blocks`); the points of the properties are those that creation gave, shown by versions that have
none of their own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import msgspec

from fascicle.datatypes.base import Answer, Call, Change, Commit, Reply, Route
from fascicle.datatypes.elsewhere import is_elsewhere
from fascicle.datatypes.labelmap import blocks, counters
from fascicle.datatypes.labelmap.remote_labels import scales_of, top_scale
from fascicle.datatypes.volume_settings import (
    USUAL_BLOCK,
    check_completed,
    check_coordinates,
    described,
    located_properties,
    looked_up,
)
from fascicle.errors import NOT_JSON, BadRequest
from fascicle.store.base import ReadTransaction
from fascicle.versions import keys
from fascicle.versions.model import Instance
from fascicle.versions.resolution import VersionedView

Triple = tuple[int, int, int]

MAX_BLOCK_SIDE = 1024
MOST_BLOCK_VOXELS = 1 << 24
"""Larger blocks could not be decoded within the memory that one request may take."""

# -- reading settings


def new_properties(settings: Mapping[str, str]) -> dict[str, Any]:
    """Properties of a new instance. Raises BadRequest for settings that make no sense."""
    properties: dict[str, Any] = {
        "BlockSize": [64, 64, 64],
        "VoxelSize": [8, 8, 8],
        "VoxelUnits": ["nanometers", "nanometers", "nanometers"],
        "MinPoint": None,
        "MaxPoint": None,
        "Background": 0,
        "GridStore": "",
        "ScaleLevel": 0,
        "IndexedLabels": True,
        "MaxDownresLevel": 0,
    }
    properties.update(changed_properties(settings))
    if "indexedlabels" in settings:
        properties["IndexedLabels"] = _boolean(settings, "IndexedLabels")
    _check_points(properties)
    check_completed(settings)
    return {**properties, **located_properties(settings, properties)}


def completed(settings: Mapping[str, str], server: Mapping[str, Any]) -> dict[str, str]:
    """Settings that name a volume, with what the volume says of itself. Raises VolumeError if it cannot be read."""
    elsewhere, address, level = looked_up(settings, server)
    volume = elsewhere.volume(address)
    scale = volume.scale(level)
    if scale.dtype.kind not in "iub":
        raise BadRequest(f"{address} has voxels of {scale.dtype.name}, which cannot be labels")
    check_coordinates(scale)
    block = _block_size(settings, "BlockSize") if settings.get("source") and settings.get("blocksize") else USUAL_BLOCK
    full = {**settings, **described(scale, (block[0], block[1], block[2]))}
    full.setdefault("maxdownreslevel", str(top_scale(scales_of(volume, level))))
    return full


def changed_properties(settings: Mapping[str, str]) -> dict[str, Any]:
    """The properties that settings (keys in lower case) give, of those that may be changed later."""
    return {name: reader(settings, name) for name, reader in _READERS.items() if name.lower() in settings}


def _integers(settings: Mapping[str, str], name: str) -> list[int]:
    text = settings[name.lower()]
    try:
        values = [int(part) for part in text.split(",")]
    except ValueError:
        values = []
    if len(values) != 3 or any(not -(1 << 31) <= value < 1 << 31 for value in values):
        raise BadRequest(f"{name} must be three 32-bit integers separated by commas, not {text!r}")
    return values


def _block_size(settings: Mapping[str, str], name: str) -> list[int]:
    values = _integers(settings, name)
    if any(value % 16 or not 0 < value <= MAX_BLOCK_SIDE for value in values) or math.prod(values) > MOST_BLOCK_VOXELS:
        raise BadRequest(
            f"BlockSize must be multiples of 16 from 16 to {MAX_BLOCK_SIDE} with at most {MOST_BLOCK_VOXELS} voxels, "
            f"not {settings[name.lower()]!r}"
        )
    return values


def _voxel_size(settings: Mapping[str, str], name: str) -> list[float]:
    text = settings[name.lower()]
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    return resolution(values, f"{name} must be three positive numbers separated by commas, not {text!r}")


def _units(settings: Mapping[str, str], name: str) -> list[str]:
    text = settings[name.lower()]
    units = [unit.strip() for unit in text.split(",")]
    if len(units) != 3 or not all(units):
        raise BadRequest(f"{name} must be three names separated by commas, not {text!r}")
    return units


def _byte(settings: Mapping[str, str], name: str) -> int:
    text = settings[name.lower()].strip()
    if not (text.isascii() and text.isdigit() and int(text) <= 255):
        raise BadRequest(f"{name} must be a number from 0 to 255, not {text!r}")
    return int(text)


def _boolean(settings: Mapping[str, str], name: str) -> bool:
    text = settings[name.lower()].strip().lower()
    if text not in ("true", "false", "1", "0"):
        raise BadRequest(f"{name} must be true, false, 1 or 0, not {text!r}")
    return text in ("true", "1")


_READERS: dict[str, Any] = {
    "BlockSize": _block_size,
    "VoxelSize": _voxel_size,
    "VoxelUnits": _units,
    "MinPoint": _integers,
    "MaxPoint": _integers,
    "Background": _byte,
    "ScaleLevel": _byte,
    "MaxDownresLevel": _byte,
}


def _check_points(properties: Mapping[str, Any]) -> None:
    low, high = properties["MinPoint"], properties["MaxPoint"]
    if low and high and any(a > b for a, b in zip(low, high, strict=True)):
        raise BadRequest(f"MinPoint {low} must not be beyond MaxPoint {high}")


MAX_RESOLUTION = 1 << 53
"""Beyond any unit's use, and where whole numbers are no longer exact; JSON may bring larger ones."""


def resolution(values: list[float], complaint: str) -> list[float]:
    """Three positive lengths, whole numbers as integers so that JSON shows them without a fraction."""
    if len(values) != 3 or not all(0 < value < MAX_RESOLUTION for value in values):
        raise BadRequest(complaint)
    return [int(value) if float(value).is_integer() else float(value) for value in values]


# -- showing them


def points(instance: Instance, view: VersionedView) -> tuple[list[int] | None, list[int] | None]:
    """The least and the greatest voxel x, y, z (inclusive) at a version, None where nothing is known."""
    stored = blocks.read_extents(view)
    if stored is None:
        return instance.properties["MinPoint"], instance.properties["MaxPoint"]
    return list(stored[0]), list(stored[1])


def shape_properties(instance: Instance, view: VersionedView) -> dict[str, Any]:
    """The properties that labels share with images."""
    properties = instance.properties
    low, high = points(instance, view)
    size = properties["BlockSize"]
    return {
        "Values": [{"DataType": "uint64", "Label": "labelmap"}],
        "Interpolable": False,
        "BlockSize": size,
        "VoxelSize": properties["VoxelSize"],
        "VoxelUnits": properties["VoxelUnits"],
        "MinPoint": low,
        "MaxPoint": high,
        "MinIndex": None if low is None else [p // s for p, s in zip(low, size, strict=True)],
        "MaxIndex": None if high is None else [p // s for p, s in zip(high, size, strict=True)],
        "Background": properties["Background"],
        "GridStore": properties["GridStore"],
        "ScaleLevel": properties["ScaleLevel"],
        **({"Source": properties["Source"]} if properties.get("Source") else {}),
    }


def extended(instance: Instance, view: VersionedView) -> dict[str, Any]:
    """The member `Extended` of the instance's info at a version."""
    repo = counters.repo_counters(view.txn, instance.id)
    return {
        **shape_properties(instance, view),
        "MaxLabel": {str(v): label for v, label in counters.max_labels(view.txn, instance.id).items()},
        "MaxRepoLabel": repo.max_repo_label,
        "NextLabel": repo.next_label,
        "IndexedLabels": instance.properties["IndexedLabels"],
        "MaxDownresLevel": instance.properties["MaxDownresLevel"],
    }


def extents(instance: Instance, view: VersionedView) -> dict[str, Any]:
    """The member `Extents` of the instance's info at a version."""
    low, high = points(instance, view)
    return {"MinPoint": low, "MaxPoint": high}


def metadata(instance: Instance, view: VersionedView) -> dict[str, Any]:
    """The volume as a description of an n-dimensional array; sizes and offsets in voxels."""
    properties = shape_properties(instance, view)
    low, high = properties["MinPoint"], properties["MaxPoint"]
    axes = [
        {
            "Label": label,
            "Resolution": properties["VoxelSize"][axis],
            "Units": properties["VoxelUnits"][axis],
            "Size": 0 if low is None or high is None else high[axis] - low[axis] + 1,
            "Offset": 0 if low is None else low[axis],
        }
        for axis, label in enumerate("XYZ")
    ]
    return {"Axes": axes, "Properties": properties}


# -- endpoints


def _document(call: Call, what: str) -> Any:
    try:
        return msgspec.json.decode(call.body)
    except NOT_JSON as error:
        raise BadRequest(f"{what} must be JSON: {error}") from None


def _as_text(value: Any) -> str:
    """A setting as text, also where the client sent a number, a boolean or a list."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return ",".join(_as_text(part) for part in value)
    return str(value)


def _has_blocks(txn: ReadTransaction, instance_id: int) -> bool:
    first = keys.prefix(instance_id, blocks.BLOCKS)
    return next(txn.scan_keys(first, keys.after(first)), None) is not None


def post_info(call: Call) -> Reply:
    """Change settings of the instance, at all versions."""
    document = _document(call, "settings")
    if not isinstance(document, dict):
        raise BadRequest('settings must be a JSON object like {"MaxDownresLevel": "5"}')
    given = {name.lower(): _as_text(value) for name, value in document.items()}
    changed = changed_properties(given)
    if "indexedlabels" in given and _boolean(given, "IndexedLabels") != call.instance.properties["IndexedLabels"]:
        raise BadRequest("IndexedLabels is decided when an instance is created")
    _refuse_moving(call, given)

    def apply(change: Change) -> None:
        before = change.instance.properties
        size = changed.get("BlockSize", before["BlockSize"])
        if size != before["BlockSize"] and _has_blocks(change.txn, change.instance.id):
            raise BadRequest(f"BlockSize cannot be changed from {before['BlockSize']} to {size}: blocks are stored")
        _check_points({**before, **changed})
        if changed:
            change.update_instance(**changed)
        _store_points(change, {**before, **changed} if "MinPoint" in changed or "MaxPoint" in changed else {})

    told = " ".join(f"{name}:{value}" for name, value in given.items())
    text = f"Changed '{call.instance.name}' based on received configuration:\n{{map[{told}]}}\n"
    return Commit(apply, lambda _: Answer.text(text))


def _refuse_moving(call: Call, given: Mapping[str, str]) -> None:
    """Where voxels are, and in what blocks, is decided when an instance is created."""
    shown = call.instance.properties
    names = ("GridStore", "Source", "ScaleLevel", "BlockSize") if is_elsewhere(shown) else ("GridStore", "Source")
    for name in names:
        before = shown.get(name, "")
        known = ",".join(map(str, before)) if isinstance(before, list) else str(before)
        if given.get(name.lower(), known).replace(" ", "") != known:
            raise BadRequest(f"{name} is decided when an instance is created")


def _store_points(change: Change, properties: Mapping[str, Any]) -> None:
    low, high = properties.get("MinPoint"), properties.get("MaxPoint")
    if low is not None and high is not None:
        blocks.write_extents(change.view, _triple(low), _triple(high))


def _triple(values: list[int]) -> Triple:
    x, y, z = values
    return x, y, z


def store_initial_points(change: Change) -> None:
    """The extents that creation gave become those of the version it happened at; those of a volume stay its own."""
    if is_elsewhere(change.instance.properties):
        return
    _store_points(change, change.instance.properties)


def get_metadata(call: Call) -> Reply:
    return Answer(msgspec.json.encode(metadata(call.instance, call.view)), "application/vnd.dvid-nd-data+json")


def _point(document: dict[str, Any], name: str) -> Triple:
    value = {key.lower(): member for key, member in document.items()}.get(name.lower())
    if (
        not isinstance(value, list)
        or len(value) != 3
        or not all(isinstance(v, int) and not isinstance(v, bool) and -(1 << 31) <= v < 1 << 31 for v in value)
    ):
        raise BadRequest(f"{name} must be three 32-bit integers, not {value!r}")
    return value[0], value[1], value[2]


def post_extents(call: Call) -> Reply:
    document = _document(call, "extents")
    if not isinstance(document, dict):
        raise BadRequest('extents must be an object like {"MinPoint": [0,0,0], "MaxPoint": [9,9,9]}')
    low, high = _point(document, "MinPoint"), _point(document, "MaxPoint")
    _check_points({"MinPoint": low, "MaxPoint": high})
    return Commit(lambda change: blocks.write_extents(change.view, low, high))


def post_resolution(call: Call) -> Reply:
    document = _document(call, "resolution")
    complaint = f"resolution must be three positive numbers like [8.0,8.0,8.0], not {document!r}"
    numbers = isinstance(document, list) and all(
        isinstance(value, int | float) and not isinstance(value, bool) for value in document
    )
    if not numbers:
        raise BadRequest(complaint)
    size = resolution(document, complaint)

    def apply(change: Change) -> None:
        change.update_instance(VoxelSize=size)

    return Commit(apply)


ROUTES = (
    Route(
        "info",
        {"POST": post_info},
        "POST changes settings, as texts: MaxDownresLevel, VoxelSize, VoxelUnits, Background, MinPoint, MaxPoint, and "
        "BlockSize while nothing is stored.",
    ),
    Route("metadata", {"GET": get_metadata}, "The volume as a description of an n-dimensional array."),
    Route("extents", {"POST": post_extents}, "Overwrite the extents of the version; MaxPoint is inclusive."),
    Route("resolution", {"POST": post_resolution}, "Set the voxel size of the instance from a list of three numbers."),
)
