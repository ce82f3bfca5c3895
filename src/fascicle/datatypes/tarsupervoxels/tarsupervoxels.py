"""The routes of `tarsupervoxels`."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import msgspec

from fascicle.datatypes import instance_settings
from fascicle.datatypes.base import ANY_METHOD, Answer, Call, Change, Commit, Datatype, Option, Reply, Route, Work
from fascicle.datatypes.change import StoreChange
from fascicle.datatypes.tarsupervoxels.archives import MAX_U64, Loading, body_archive
from fascicle.datatypes.tarsupervoxels.blobs import Blobs, extension_of, supervoxels_of
from fascicle.errors import NOT_JSON, BadRequest, NotFound
from fascicle.versions import graph
from fascicle.versions.model import Instance
from fascicle.versions.resolution import VersionedView

_ids = msgspec.json.Decoder(list[int] | None)


def _number(call: Call, what: str) -> int:
    text = call.args[0] if call.args else ""
    if not text:
        raise BadRequest(f"expect uint64 to follow /{call.keyword} endpoint")
    if not (text.isascii() and text.isdigit() and len(text) < 40 and int(text) <= MAX_U64):
        raise BadRequest(f"{what} must be an unsigned 64-bit integer, not {text!r}")
    if int(text) == 0:
        raise BadRequest(f"{what} 0 is protected background value and cannot be used")
    return int(text)


# -- single blobs


def _get(call: Call) -> Answer:
    supervoxel = _number(call, "Supervoxel")
    data = Blobs(call.txn, call.instance).get(supervoxel)
    if data is None:
        raise NotFound(f"Supervoxel {supervoxel} not found")
    return Answer.binary(data)


def _put(call: Call) -> Commit:
    supervoxel, data = _number(call, "Supervoxel"), call.body
    return Commit(lambda change: Blobs(change.txn, change.instance).put(supervoxel, data))


def _delete(call: Call) -> Commit:
    supervoxel = _number(call, "Supervoxel")
    return Commit(lambda change: Blobs(change.txn, change.instance).delete(supervoxel))


def _refuse(call: Call) -> Reply:
    raise BadRequest(f'{call.keyword} endpoint does not support "{call.method.lower()}" HTTP verb')


# -- bodies


def _tarfile(call: Call) -> Answer:
    label = _number(call, "Label")
    try:
        supervoxels = supervoxels_of(call, label)
    except BadRequest as error:
        raise BadRequest(f"can't send tarfile for label {label}: {error.message}") from None
    blobs = Blobs(call.txn, call.instance)
    return Answer(body_archive(blobs, supervoxels, extension_of(call.instance)), "application/tar")


def _is_complete(call: Call) -> Answer:
    label = _number(call, "Label")
    supervoxels = supervoxels_of(call, label)
    if not all(Blobs(call.txn, call.instance).present(supervoxels.tolist())):
        raise BadRequest(f"label {label} has supervoxels without data")
    return Answer()


def _missing(call: Call) -> Answer:
    label = _number(call, "Label")
    try:
        supervoxels = supervoxels_of(call, label).tolist()
    except BadRequest as error:
        raise BadRequest(f"can't get missing supervoxels: {error.message}") from None
    present = Blobs(call.txn, call.instance).present(supervoxels)
    return Answer.json([supervoxel for supervoxel, there in zip(supervoxels, present, strict=True) if not there])


# -- many blobs


def _exists(call: Call) -> Answer:
    expected = call.query.get("hash")
    if expected:
        actual = hashlib.md5(call.body, usedforsecurity=False).hexdigest()
        if actual != expected:
            raise BadRequest(f"content hash incorrect.  expected {expected}, got {actual}")
    try:
        supervoxels = _ids.decode(call.body) or []
    except NOT_JSON as error:
        raise BadRequest(f"the body must be a JSON list of supervoxels: {error}") from None
    if supervoxels and (min(supervoxels) < 0 or max(supervoxels) > MAX_U64):
        raise BadRequest("the body must be a JSON list of unsigned 64-bit integers")
    return Answer.json(list(Blobs(call.txn, call.instance).present(supervoxels)))


def _load(call: Call) -> Answer:
    Loading(call).run()
    return Answer()


# -- settings


def _extension(settings: Mapping[str, str]) -> str:
    """The extension that settings name, or an empty text. Raises BadRequest for one that no file name can have."""
    text = settings.get("extension", "")
    if text and (text.startswith(".") or len(text.encode()) > 100 or not text.isprintable() or "/" in text):
        raise BadRequest(f"Extension must be a text like drc, without a leading dot and '/', not {text!r}")
    return text


def _change_settings(call: Call) -> Commit:
    """Change settings of the instance, at all versions. Blobs under another extension are kept but not seen."""
    try:
        document = msgspec.json.decode(call.body, type=dict[str, Any])
    except NOT_JSON as error:
        raise BadRequest(f"settings must be a JSON object of texts: {error}") from None
    given = {name.lower(): text for name, text in instance_settings.as_texts(document).items()}
    extension = _extension(given)
    fields: dict[str, Any] = {
        "compression": instance_settings.compression(given.get("compression", "")),
        "checksum": instance_settings.checksum(given.get("checksum", "")),
        "tags": instance_settings.tags(given.get("tags", "")),
    }
    fields = {name: value for name, value in fields.items() if value}
    if "versioned" in given:
        fields["versioned"] = instance_settings.versioned(given["versioned"])

    def apply(change: Change) -> None:
        assert isinstance(change, StoreChange)
        if fields:
            graph.change_instance(change.editor, change.instance, **fields)
        if extension:
            change.update_instance(Extension=extension)

    told = " ".join(f"{name}:{value}" for name, value in given.items())
    text = f"Changed '{call.instance.name}' based on received configuration:\n{{map[{told}]}}\n"
    return Commit(apply, lambda _: Answer.text(text))


class Tarsupervoxels(Datatype):
    """A blob of any bytes for each supervoxel, and those of a body as one archive."""

    typename = "tarsupervoxels"
    type_url = "github.com/janelia-flyem/dvid/datatype/tarsupervoxels"
    summary = "A blob for each supervoxel of a labelmap, such as its mesh, and those of a body as one tar archive."
    routes = (
        Route(
            "info",
            {"POST": _change_settings},
            "POST changes settings, e.g. the extension, at all versions.",
        ),
        Route(
            "supervoxel",
            {"GET": _get, "POST": _put, "DELETE": _delete, ANY_METHOD: _refuse, "HEAD": _refuse},
            "The blob of a supervoxel, the same at all versions.",
            "<supervoxel>",
        ),
        Route(
            "tarfile",
            {"GET": _tarfile, "HEAD": _is_complete, ANY_METHOD: _refuse},
            "A tar archive of the blobs of a body's supervoxels: `<supervoxel>.<extension>`, or an empty file "
            "`<supervoxel>.missing`. HEAD: 200 if none is missing, else 400.",
            "<label>",
            work=Work.HEAVY,
        ),
        Route(
            "missing",
            {"GET": _missing, ANY_METHOD: _missing},
            "JSON list of the supervoxels of a body that have no blob.",
            "<label>",
            work=Work.HEAVY,
        ),
        Route(
            "exists",
            {"GET": _exists, ANY_METHOD: _refuse, "HEAD": _refuse},
            "For each supervoxel of a JSON list in the body whether it has a blob, as a JSON list of booleans.",
            options=(Option("hash", "MD5 of the body in hex, which is compared"),),
            work=Work.HEAVY,
        ),
        Route(
            "load",
            {"POST": _load, ANY_METHOD: _refuse},
            "Store the files of a tar archive, called `<supervoxel>.<extension>`. Files before one that is refused "
            "stay stored.",
            work=Work.HEAVY,
            streams_body=True,
        ),
    )

    def create(self, settings: Mapping[str, str]) -> dict[str, Any]:
        extension = _extension({name.lower(): value for name, value in settings.items()})
        if not extension:
            raise BadRequest("tarsupervoxels instances must have Extension set in the configuration")
        return {"Extension": extension}

    def extended(self, instance: Instance, view: VersionedView) -> dict[str, Any]:
        return {"Extension": extension_of(instance)}

    def syncable(self) -> bool:
        return True
