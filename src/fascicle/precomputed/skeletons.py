"""The directory `skeletons` of a label map at a version: stored ones where they are still right, else made on request.

Stored ones are SWC under `<body>_swc` in the key-value `<labelmap>_skeletons`, in voxels. One is right if it names, in
a comment, the mutation that changed the body last; or, without such a comment, if it was stored in a later version than
the body's last change, or in the same one if no mutation has ever changed the body. All others are made from the body's
voxels and kept under the body's state, so nothing that is shown is older than the body.
"""

from __future__ import annotations

import re

import numpy as np

from fascicle.datatypes.keyvalue import text_keys, values
from fascicle.datatypes.labelmap import bodies
from fascicle.datatypes.labelmap.bodies import Body, Rows
from fascicle.datatypes.labelmap.mapping import mapping_at
from fascicle.errors import BadRequest, NotFound
from fascicle.formats import skeleton, swc
from fascicle.formats.skeleton import RADIUS, Skeleton, SkeletonInfo
from fascicle.precomputed.body_centrelines import skeleton_of
from fascicle.precomputed.builders import Form, Snapshot, resolution_nm
from fascicle.precomputed.derived import JSON, Directory, Served
from fascicle.precomputed.kept import body_state, kept_of
from fascicle.versions.model import Instance
from fascicle.versions.resolution import VersionedView

SUFFIX = "_skeletons"
_MADE = "skeleton 1"
"""Another number where what is made becomes another thing."""
_LABEL = re.compile(r"[1-9]\d{0,19}", re.ASCII)
_INFO = skeleton.write_info(SkeletonInfo(vertex_attributes=(RADIUS,)))


class Skeletons(Directory):
    """Skeletons of bodies, or of supervoxels, with radii, in nm."""

    name = "skeletons"

    def exists(self, snapshot: Snapshot, instance: Instance, form: Form) -> bool:
        return instance.typename == "labelmap" and bool(instance.properties.get("IndexedLabels", True))

    def serve(self, snapshot: Snapshot, instance: Instance, form: Form, path: str) -> Served:
        if not self.exists(snapshot, instance, form):
            raise NotFound(f"{instance.name!r} has no index of labels, so no skeletons")
        if path == "info":
            return Served(_INFO, JSON)
        if _LABEL.fullmatch(path) is None or int(path) >= 1 << 64:
            raise NotFound(f"there is no skeleton {path!r}: they are named by their labels")
        label = int(path)
        view = snapshot.view(instance)
        body, rows = _found(view, label, form.supervoxels)
        storage = None if form.supervoxels else _storage(snapshot, instance)
        lasting = storage is None or storage.versioned
        if storage is not None and (stored := _stored(snapshot, instance, storage, body)) is not None:
            return Served(skeleton.encode(stored, [RADIUS]), lasting=lasting)

        def make() -> bytes:
            made = skeleton_of(snapshot, instance, label, rows, form.supervoxels)
            if made is None:
                raise NotFound(f"no voxels of {label} are in {instance.name!r} at version {snapshot.node.uuid}")
            return skeleton.encode(made, [RADIUS])

        kind = "supervoxel" if form.supervoxels else "body"
        key = f"{instance.data_uuid} {_MADE} {kind} {label} {body_state(view, body)} {_voxel(instance)}"
        return Served(kept_of(snapshot.store).get(key, make), lasting=lasting)


def _voxel(instance: Instance) -> str:
    """The size of a voxel, which may be changed at any time."""
    return ",".join(map(str, resolution_nm(instance.properties)))


def _found(view: VersionedView, label: int, supervoxel: bool) -> tuple[Body, Rows]:
    """The body, or that of a supervoxel, and the rows of the index. Raises NotFound."""
    owner = mapping_at(view).body(label)[0] if supervoxel else label
    body = bodies.read_body(view, owner) if owner else None
    if body is None:
        raise NotFound(f"there is no {'supervoxel' if supervoxel else 'body'} {label} at this version")
    if not supervoxel:
        return body, bodies.read_rows(view, body)
    rows = bodies.rows_of_supervoxels(view, body, np.array([label], np.uint64))
    if not len(rows):
        raise NotFound(f"there is no supervoxel {label} at this version")
    return body, rows


def _storage(snapshot: Snapshot, labelmap: Instance) -> Instance | None:
    """The key-value with the skeletons of a label map, or None."""
    name = labelmap.name + SUFFIX
    if not snapshot.catalog.has_instance(labelmap.repo_id, name):
        return None
    found = snapshot.catalog.instance(labelmap.repo_id, name)
    return found if found.typename == "keyvalue" else None


def _stored(snapshot: Snapshot, labelmap: Instance, storage: Instance, body: Body) -> Skeleton | None:
    """The stored skeleton of a body in nm, or None if there is none, or it may be older than the body."""
    view = snapshot.view(storage)
    key = text_keys.encoded(f"{body.label}_swc")
    data = values.get(view, key)
    if data is None:
        return None
    try:
        found, _, comments = swc.read(data)
    except BadRequest:
        return None  # somebody's key, but no SWC
    if not len(found.vertices) or not _is_right(snapshot, labelmap, view, key, body, swc.mutation_of(comments)):
        return None
    return swc.scaled(found, resolution_nm(labelmap.properties))


def _is_right(
    snapshot: Snapshot, labelmap: Instance, view: VersionedView, key: bytes, body: Body, mutation: int | None
) -> bool:
    """Whether a stored skeleton is of the body as it is."""
    if mutation is not None:
        return mutation == body.last_mutid
    stored = view.version_of(text_keys.VALUES, text_keys.type_key(key))
    changed = bodies.body_version(snapshot.view(labelmap), body.label)
    if stored is None or changed is None:
        return False
    if stored == changed:
        return body.last_mutid == 0
    return snapshot.catalog.ancestry(stored).contains(changed)
