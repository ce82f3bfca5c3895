"""The directory `mesh` of a label map at a version: stored meshes where they are still right, else made on request.

Meshes are shown with levels of detail, unsharded: `<id>.index` and `<id>`. Stored ones are the `.ngmesh` keys in the
key-value `<labelmap>_meshes`; one is right if it was stored in a later version than the body's last change, or in the
same one if no mutation has ever changed the body. All others are made from the body's voxels and kept under the body's
state, so nothing that is shown is older than the body.
"""

from __future__ import annotations

import re
import struct
from hashlib import blake2b

import numpy as np

from fascicle.datatypes.keyvalue import text_keys, values
from fascicle.datatypes.labelmap.bodies import Body, Rows
from fascicle.errors import BadRequest, NotFound
from fascicle.formats import legacy_mesh, multires_mesh
from fascicle.formats.multires_mesh import MeshInfo
from fascicle.precomputed.builders import Form, Snapshot, resolution_nm
from fascicle.precomputed.derived import JSON, Directory, Served
from fascicle.precomputed.kept import kept_of
from fascicle.precomputed.stored_bodies import body_of, has_bodies, is_newer, kept_key, rows_of, storage_of
from fascicle.versions.model import Instance

SUFFIX = "_meshes"
_MADE = "mesh 1"
"""Another number where what is made becomes another thing."""
_NAME = re.compile(r"([1-9]\d{0,19})(\.index)?", re.ASCII)
_INFO = multires_mesh.write_info(MeshInfo())
_LENGTH = struct.Struct("<Q")


class Meshes(Directory):
    """Meshes of bodies, or of supervoxels, in nm."""

    name = "mesh"

    def exists(self, snapshot: Snapshot, instance: Instance, form: Form) -> bool:
        return has_bodies(instance)

    def serve(self, snapshot: Snapshot, instance: Instance, form: Form, path: str) -> Served:
        if not self.exists(snapshot, instance, form):
            raise NotFound(f"{instance.name!r} has no index of labels, so no meshes")
        if path == "info":
            return Served(_INFO, JSON)
        match = _NAME.fullmatch(path)
        if match is None or int(match[1]) >= 1 << 64:
            raise NotFound(f"there is no mesh {path!r}: there are `<label>.index` and `<label>`")
        label = int(match[1])
        view = snapshot.view(instance)
        body = body_of(view, label, form.supervoxels)
        storage = None if form.supervoxels else storage_of(snapshot, instance, SUFFIX)
        stored = None if storage is None else _stored(snapshot, instance, storage, body)

        def make() -> bytes:
            both = None
            if stored and storage is not None:
                both = _from_stored(values.get(snapshot.view(storage), _key(label)) or b"", instance)
            manifest, fragments = both or _made(snapshot, instance, label, rows_of(view, body, label, form.supervoxels))
            return _LENGTH.pack(len(manifest)) + manifest + fragments

        key = f"{kept_key(view, instance, _MADE, label, body, form.supervoxels)} {stored}"
        both = memoryview(kept_of(snapshot.store).get(key, make))
        end = _LENGTH.size + _LENGTH.unpack(both[: _LENGTH.size])[0]
        data = bytes(both[_LENGTH.size : end] if match[2] else both[end:])
        return Served(data, compressible=False, lasting=storage is None or storage.versioned)


def _made(snapshot: Snapshot, instance: Instance, label: int, rows: Rows) -> tuple[bytes, bytes]:
    from fascicle.precomputed.body_surfaces import mesh_of  # needs the kernels
    from fascicle.precomputed.mesh_building import encode_multires

    mesh = mesh_of(snapshot, instance, rows)
    if mesh is None:
        raise NotFound(f"no voxels of {label} are in {instance.name!r} at version {snapshot.node.uuid}")
    return encode_multires(*mesh)


def _from_stored(data: bytes, instance: Instance) -> tuple[bytes, bytes] | None:
    """A stored mesh with levels of detail; None if it is somebody's key, but no mesh."""
    from fascicle.precomputed.mesh_building import encode_multires, usual_error

    try:
        vertices, triangles = legacy_mesh.decode(data)
    except BadRequest:
        return None
    if not len(triangles) or not np.isfinite(vertices).all():
        return None
    error = usual_error(resolution_nm(instance.properties))
    return encode_multires((vertices.astype(np.float64), triangles.astype(np.int32)), error)


def _key(label: int) -> bytes:
    return text_keys.encoded(f"{label}.ngmesh")


def _stored(snapshot: Snapshot, labelmap: Instance, storage: Instance, body: Body) -> str:
    """A name for the stored value that is the mesh of the body as it is; empty if there is none."""
    key = _key(body.label)
    handle = snapshot.view(storage).handle(text_keys.VALUES, text_keys.type_key(key))
    if handle is None or not is_newer(snapshot, labelmap, storage, key, body):
        return ""
    return blake2b(handle, digest_size=12).hexdigest()
