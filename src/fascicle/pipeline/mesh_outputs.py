"""Meshes as what they are wanted as: a precomputed directory, files, keys of an instance, blobs of supervoxels.

All of them are made from spools of encoded meshes, in the order of the bodies.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from typing import TYPE_CHECKING
from urllib.parse import quote

import msgspec

from fascicle.errors import BadRequest
from fascicle.formats import legacy_mesh, multires_mesh
from fascicle.formats.sharding import Sharding
from fascicle.pipeline.body_outputs import Advance, UnfinishedError, put_all, put_keys
from fascicle.pipeline.mesh_parts import DRACO, LEGACY, MULTIRES, NGMESH
from fascicle.volumes.destinations import Destination
from fascicle.volumes.objects import gunzipped
from fascicle.volumes.shard_writing import ScatteredShards

if TYPE_CHECKING:
    from fascicle.pipeline.ingest_connections import Connection

_TAR_BYTES = 32 << 20


class MeshError(UnfinishedError):
    """Meshes are not complete at their destination; the message says what is missing."""


def write_files(values: ScatteredShards, form: str, target: Destination, advance: Advance) -> None:
    """Meshes as objects of their own, without the info. Each is read back."""

    def objects() -> Iterator[tuple[str, bytes]]:
        for body, value, leading in values.values():
            advance(1)
            data = gunzipped(value)
            if form == MULTIRES:
                yield str(body), leading
                yield f"{body}.index", data
            elif form == LEGACY:
                yield legacy_mesh.fragment_name(body), data
                yield legacy_mesh.manifest_name(body), legacy_mesh.write_manifest([legacy_mesh.fragment_name(body)])
            else:
                yield f"{body}.{NGMESH}", data

    put_all(target, objects(), lambda _: None, MeshError)


def names_of(body: int, form: str) -> list[str]:
    """The objects of a body, if it is not in a shard; that by which readers find it first."""
    if form == MULTIRES:
        return [f"{body}.index", str(body)]
    if form == LEGACY:
        return [legacy_mesh.manifest_name(body), legacy_mesh.fragment_name(body)]
    return [f"{body}.{NGMESH}"]


def info_of(form: str, sharding: Sharding | None) -> bytes:
    """The info of a precomputed directory."""
    if form == LEGACY:
        return legacy_mesh.write_info()
    return multires_mesh.write_info(multires_mesh.MeshInfo(sharding=sharding))


# -- into instances


def keys_name(labels: str) -> str:
    """The key-value instance in which viewers look for the meshes of a label map."""
    return f"{labels}_meshes"


def write_keys(values: ScatteredShards, connection: Connection, uuid: str, labels: str, advance: Advance) -> str:
    """`<body>.ngmesh` in the key-value `<labels>_meshes` of an open version, which is made if it is not there."""
    name = keys_name(labels)
    keys = ((f"{body}.{NGMESH}", gunzipped(value)) for body, value, _ in values.values())
    put_keys(connection, uuid, name, "meshes", keys, advance)
    return name


def blob_form(connection: Connection, uuid: str, name: str) -> str:
    """What an instance of tarsupervoxels holds. BadRequest if it is none, or holds what cannot be made."""
    status, body = connection.exchange("GET", f"/api/node/{uuid}/{quote(name)}/info", b"")
    if status != 200:
        raise BadRequest(f"there is no data instance {name!r} to put blobs into")
    document = msgspec.json.decode(body)
    kind = document.get("Base", {}).get("TypeName")
    if kind != "tarsupervoxels":
        raise BadRequest(f"data instance {name!r} is a {kind}, not a tarsupervoxels")
    extension = str(document.get("Extended", {}).get("Extension", ""))
    if extension not in (DRACO, NGMESH):
        raise BadRequest(f"data instance {name!r} holds {extension!r}: meshes are made as {DRACO} or {NGMESH}")
    return extension


def write_blobs(
    values: ScatteredShards, connection: Connection, uuid: str, name: str, form: str, advance: Advance
) -> None:
    """`<supervoxel>.<extension>` in an instance of tarsupervoxels, in archives of bounded size."""
    path = f"/api/node/{uuid}/{quote(name)}/load"

    def send() -> None:
        tar.close()
        connection.request("POST", path, buffer.getvalue())

    buffer = io.BytesIO()
    tar = tarfile.open(fileobj=buffer, mode="w")  # noqa: SIM115 - closed in `send`
    held = 0
    for supervoxel, value, _ in values.values():
        data = gunzipped(value)
        entry = tarfile.TarInfo(f"{supervoxel}.{form}")
        entry.size = len(data)
        tar.addfile(entry, io.BytesIO(data))
        held += 1
        if buffer.tell() >= _TAR_BYTES:
            send()
            advance(held)
            buffer, held = io.BytesIO(), 0
            tar = tarfile.open(fileobj=buffer, mode="w")  # noqa: SIM115
    if held:
        send()
        advance(held)
