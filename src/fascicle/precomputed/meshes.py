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
from fascicle.datatypes.labelmap import bodies
from fascicle.datatypes.labelmap.bodies import Body, Rows
from fascicle.datatypes.labelmap.mapping import mapping_at
from fascicle.errors import BadRequest, NotFound
from fascicle.formats import legacy_mesh, multires_mesh
from fascicle.formats.multires_mesh import MeshInfo
from fascicle.precomputed.builders import Form, Snapshot, resolution_nm
from fascicle.precomputed.derived import JSON, Directory, Served
from fascicle.precomputed.kept import body_state, kept_of
from fascicle.versions.model import Instance
from fascicle.versions.resolution import VersionedView

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
        return instance.typename == "labelmap" and bool(instance.properties.get("IndexedLabels", True))

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
        body = _body(view, label, form.supervoxels)
        storage = None if form.supervoxels else _storage(snapshot, instance)
        stored = None if storage is None else _stored(snapshot, instance, storage, body)

        def make() -> bytes:
            both = None
            if stored and storage is not None:
                both = _from_stored(values.get(snapshot.view(storage), _key(label)) or b"", instance)
            manifest, fragments = both or _made(snapshot, instance, label, _rows(view, body, label, form.supervoxels))
            return _LENGTH.pack(len(manifest)) + manifest + fragments

        kind = "supervoxel" if form.supervoxels else "body"
        voxel = ",".join(map(str, resolution_nm(instance.properties)))
        key = f"{instance.data_uuid} {_MADE} {kind} {label} {body_state(view, body)} {voxel} {stored}"
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


def _body(view: VersionedView, label: int, supervoxel: bool) -> Body:
    """The body, or that of a supervoxel. Raises NotFound."""
    owner = mapping_at(view).body(label)[0] if supervoxel else label
    body = bodies.read_body(view, owner) if owner else None
    if body is None:
        raise NotFound(f"there is no {'supervoxel' if supervoxel else 'body'} {label} at this version")
    return body


def _rows(view: VersionedView, body: Body, label: int, supervoxel: bool) -> Rows:
    """The rows of the index of a body, or of a supervoxel of it. Raises NotFound."""
    if not supervoxel:
        return bodies.read_rows(view, body)
    rows = bodies.rows_of_supervoxels(view, body, np.array([label], np.uint64))
    if not len(rows):
        raise NotFound(f"there is no supervoxel {label} at this version")
    return rows


def _storage(snapshot: Snapshot, labelmap: Instance) -> Instance | None:
    """The key-value with the meshes of a label map, or None."""
    name = labelmap.name + SUFFIX
    if not snapshot.catalog.has_instance(labelmap.repo_id, name):
        return None
    found = snapshot.catalog.instance(labelmap.repo_id, name)
    return found if found.typename == "keyvalue" else None


def _key(label: int) -> bytes:
    return text_keys.encoded(f"{label}.ngmesh")


def _stored(snapshot: Snapshot, labelmap: Instance, storage: Instance, body: Body) -> str:
    """A name for the stored value that is the mesh of the body as it is; empty if there is none."""
    view = snapshot.view(storage)
    key = text_keys.type_key(_key(body.label))
    handle = view.handle(text_keys.VALUES, key)
    stored = view.version_of(text_keys.VALUES, key)
    changed = bodies.body_version(snapshot.view(labelmap), body.label)
    if handle is None or stored is None or changed is None:
        return ""
    if stored == changed:
        right = body.last_mutid == 0
    else:
        right = snapshot.catalog.ancestry(stored).contains(changed)
    return blake2b(handle, digest_size=12).hexdigest() if right else ""
