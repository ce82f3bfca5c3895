"""The directory `skeletons` of a label map at a version: stored ones where they are still right, else made on request.

Stored ones are SWC under `<body>_swc` in the key-value `<labelmap>_skeletons`, in voxels. One is right if it names, in
a comment, the mutation that changed the body last; or, without such a comment, if it was stored in a later version than
the body's last change, or in the same one if no mutation has ever changed the body. All others are made from the body's
voxels and kept under the body's state, so nothing that is shown is older than the body.
"""

from __future__ import annotations

import re

from fascicle.datatypes.keyvalue import text_keys, values
from fascicle.datatypes.labelmap.bodies import Body
from fascicle.errors import BadRequest, NotFound
from fascicle.formats import skeleton, swc
from fascicle.formats.skeleton import RADIUS, Skeleton, SkeletonInfo
from fascicle.precomputed.body_centrelines import skeleton_of
from fascicle.precomputed.builders import Form, Snapshot, resolution_nm
from fascicle.precomputed.derived import JSON, Directory, Served
from fascicle.precomputed.kept import kept_of
from fascicle.precomputed.stored_bodies import body_of, has_bodies, is_newer, kept_key, rows_of, storage_of
from fascicle.versions.model import Instance

SUFFIX = "_skeletons"
_MADE = "skeleton 1"
"""Another number where what is made becomes another thing."""
_LABEL = re.compile(r"[1-9]\d{0,19}", re.ASCII)
_INFO = skeleton.write_info(SkeletonInfo(vertex_attributes=(RADIUS,)))


class Skeletons(Directory):
    """Skeletons of bodies, or of supervoxels, with radii, in nm."""

    name = "skeletons"

    def exists(self, snapshot: Snapshot, instance: Instance, form: Form) -> bool:
        return has_bodies(instance)

    def serve(self, snapshot: Snapshot, instance: Instance, form: Form, path: str) -> Served:
        if not self.exists(snapshot, instance, form):
            raise NotFound(f"{instance.name!r} has no index of labels, so no skeletons")
        if path == "info":
            return Served(_INFO, JSON)
        if _LABEL.fullmatch(path) is None or int(path) >= 1 << 64:
            raise NotFound(f"there is no skeleton {path!r}: they are named by their labels")
        label = int(path)
        view = snapshot.view(instance)
        body = body_of(view, label, form.supervoxels)
        rows = rows_of(view, body, label, form.supervoxels)
        storage = None if form.supervoxels else storage_of(snapshot, instance, SUFFIX)
        lasting = storage is None or storage.versioned
        if storage is not None and (stored := _stored(snapshot, instance, storage, body)) is not None:
            return Served(skeleton.encode(stored, [RADIUS]), lasting=lasting)

        def make() -> bytes:
            made = skeleton_of(snapshot, instance, label, rows, form.supervoxels)
            if made is None:
                raise NotFound(f"no voxels of {label} are in {instance.name!r} at version {snapshot.node.uuid}")
            return skeleton.encode(made, [RADIUS])

        key = kept_key(view, instance, _MADE, label, body, form.supervoxels)
        return Served(kept_of(snapshot.store).get(key, make), lasting=lasting)


def _stored(snapshot: Snapshot, labelmap: Instance, storage: Instance, body: Body) -> Skeleton | None:
    """The stored skeleton of a body in nm, or None if there is none, or it may be older than the body."""
    key = text_keys.encoded(f"{body.label}_swc")
    data = values.get(snapshot.view(storage), key)
    if data is None:
        return None
    try:
        found, _, comments = swc.read(data)
    except BadRequest:
        return None  # somebody's key, but no SWC
    mutation = swc.mutation_of(comments)
    newest = is_newer(snapshot, labelmap, storage, key, body) if mutation is None else mutation == body.last_mutid
    if not newest or not len(found.vertices):
        return None
    return swc.scaled(found, resolution_nm(labelmap.properties))
