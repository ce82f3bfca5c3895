"""The record of an export, the object `export.json` beside its volumes: of what version it is, and what was written.

It is written last, and holds a checksum for each shard and each group of chunks, so that a later export of another
version can tell what differs without reading everything.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from fascicle.errors import BadRequest
from fascicle.formats import precomputed_info
from fascicle.formats.precomputed_info import VolumeInfo
from fascicle.volumes.objects import ObjectFolder, open_folder

RECORD = "export.json"
_KIND = "fascicle_export"


class ScaleRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One scale."""

    key: str
    layout: dict[str, Any]
    """As in the info: what must be the same for chunks to have the same names and form."""
    parts: dict[str, str]
    """The checksum of each shard or group, by the name of its task; those without chunks are left out."""


class VolumeRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One volume."""

    name: str
    scales: tuple[ScaleRecord, ...]


class ExportRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One export."""

    kind: str = msgspec.field(name="@type", default=_KIND)
    repo: str
    version: str
    volumes: tuple[VolumeRecord, ...]
    directories: dict[str, dict[str, str]] = {}
    """What there is beside voxels: the checksums of shards by their names."""

    def encode(self) -> bytes:
        return msgspec.json.format(msgspec.json.encode(self), indent=1) + b"\n"

    def known(self, name: str, info: VolumeInfo) -> dict[str, str]:
        """The checksums of a volume by task, without those of scales whose chunks had other names or another form."""
        layouts = [layout_of(info, level) for level in range(len(info.scales))]
        known: dict[str, str] = {}
        for volume in self.volumes:
            for scale in volume.scales if volume.name == name else ():
                if _plain(scale.layout) in map(_plain, layouts):
                    known |= scale.parts
        return known


def layout_of(info: VolumeInfo, level: int) -> dict[str, Any]:
    """A scale as the info describes it."""
    layout: dict[str, Any] = msgspec.to_builtins(precomputed_info.document(info)["scales"][level])
    return layout


def _plain(layout: dict[str, Any]) -> bytes:
    """Equal if layouts are: as JSON, where 8 is 8.0 and lists are tuples."""
    numbers = {name: [float(n) for n in value] if name == "resolution" else value for name, value in layout.items()}
    return msgspec.json.encode(numbers, order="deterministic")


def earlier_export(place: str) -> tuple[str, ExportRecord]:
    """The address of an earlier export and its record, from its address or its journal.

    Raises BadRequest if there is none there.
    """
    address = place
    path = Path(place).expanduser()
    if "://" not in place and path.is_file():
        address = _address_in(path)
    folder = open_folder(address)
    return folder.address, read_record(folder)


def read_record(folder: ObjectFolder) -> ExportRecord:
    """The record in a folder. Raises BadRequest."""
    data = folder.get(RECORD)
    if data is None:
        raise BadRequest(f"there is no finished export in {folder.address}: it has no {RECORD}")
    try:
        return msgspec.json.decode(data, type=ExportRecord)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BadRequest(f"{folder.path(RECORD)} is not the record of an export: {error}") from None


def _address_in(journal: Path) -> str:
    """The destination that the first line of a journal names."""
    with journal.open("rb") as file:
        line = file.readline(1 << 20)
    try:
        header: Mapping[str, Any] = msgspec.json.decode(line, type=dict[str, Any])
        return str(header["destination"])
    except (msgspec.MsgspecError, KeyError):
        raise BadRequest(f"{journal} is neither an export nor the journal of one") from None
