"""`mirror.json`: what a mirror has from where, so that it can be brought up to date.

It lies at the destination, beside `info`: the options by which the mirror was made and, of each of its parts, how many
objects it has, their bytes, their checksum, and a hash of what their source said of them (ETag, or times and sizes).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import astuple
from typing import Any

import msgspec

from fascicle.errors import BadRequest
from fascicle.pipeline.mirror_transfer import Done
from fascicle.volumes.destinations import JSON, Destination
from fascicle.volumes.objects import ObjectFolder

RECORD = "mirror.json"
_PLACES = ("info", "destination", "update")
"""Of a journal's header what may be another one when a mirror is updated."""


class _Record(msgspec.Struct, kw_only=True):
    made: dict[str, Any]
    parts: dict[str, tuple[int, int, str, str]]


def write_record(destination: Destination, header: Mapping[str, Any], parts: Mapping[str, Done]) -> None:
    """Leave the record of a mirror that is complete."""
    record = _Record(made=_made(header), parts={name: astuple(done) for name, done in sorted(parts.items())})
    destination.put(RECORD, msgspec.json.encode(record), JSON)


def read_record(folder: ObjectFolder, header: Mapping[str, Any]) -> dict[str, Done]:
    """The parts of an earlier mirror; none if it left no record.

    Raises BadRequest if it is a mirror of something else, or of other parts.
    """
    data = folder.get(RECORD)
    if data is None:
        return {}
    try:
        record = msgspec.json.decode(data, type=_Record)
    except msgspec.MsgspecError as error:
        raise BadRequest(f"{folder.path(RECORD)} is no record of a mirror: {error}") from None
    wanted = _made(header)
    differing = sorted(name for name in wanted | record.made if wanted.get(name) != record.made.get(name))
    if differing:
        raise BadRequest(
            f"{folder.path(RECORD)} is that of another mirror (it differs in {', '.join(differing)}): give the same "
            "options again, or --again instead of --update"
        )
    return {name: Done(*kept) for name, kept in record.parts.items()}


def _made(header: Mapping[str, Any]) -> dict[str, Any]:
    made: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(dict(header)))
    return {name: value for name, value in made.items() if name not in _PLACES}
