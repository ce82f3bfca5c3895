"""What the live directories of meshes and of skeletons have in common: bodies by their labels, and stored values.

Stored values are in a key-value that is named after the label map. One is of the body as it is now if it was stored in
a later version than the body's last change, or in the same one if no mutation has ever changed the body.
"""

from __future__ import annotations

import numpy as np

from fascicle.datatypes.keyvalue import text_keys
from fascicle.datatypes.labelmap import bodies
from fascicle.datatypes.labelmap.bodies import Body, Rows
from fascicle.datatypes.labelmap.mapping import mapping_at
from fascicle.errors import NotFound
from fascicle.precomputed.builders import Snapshot, resolution_nm
from fascicle.precomputed.kept import body_state
from fascicle.versions.model import Instance
from fascicle.versions.resolution import VersionedView


def has_bodies(instance: Instance) -> bool:
    """Whether it is a label map with an index of labels."""
    return instance.typename == "labelmap" and bool(instance.properties.get("IndexedLabels", True))


def body_of(view: VersionedView, label: int, supervoxel: bool) -> Body:
    """The body, or that of a supervoxel. Raises NotFound."""
    owner = mapping_at(view).body(label)[0] if supervoxel else label
    body = bodies.read_body(view, owner) if owner else None
    if body is None:
        raise NotFound(f"there is no {'supervoxel' if supervoxel else 'body'} {label} at this version")
    return body


def rows_of(view: VersionedView, body: Body, label: int, supervoxel: bool) -> Rows:
    """The rows of the index of a body, or of a supervoxel of it. Raises NotFound."""
    if not supervoxel:
        return bodies.read_rows(view, body)
    rows = bodies.rows_of_supervoxels(view, body, np.array([label], np.uint64))
    if not len(rows):
        raise NotFound(f"there is no supervoxel {label} at this version")
    return rows


def kept_key(view: VersionedView, instance: Instance, made: str, label: int, body: Body, supervoxel: bool) -> str:
    """A name for what is made of a body as it is; `made` says what, and how."""
    kind = "supervoxel" if supervoxel else "body"
    voxel = ",".join(map(str, resolution_nm(instance.properties)))  # which may be changed at any time
    return f"{instance.data_uuid} {made} {kind} {label} {body_state(view, body)} {voxel}"


def storage_of(snapshot: Snapshot, labelmap: Instance, suffix: str) -> Instance | None:
    """The key-value with stored values of a label map, or None."""
    name = labelmap.name + suffix
    if not snapshot.catalog.has_instance(labelmap.repo_id, name):
        return None
    found = snapshot.catalog.instance(labelmap.repo_id, name)
    return found if found.typename == "keyvalue" else None


def is_newer(snapshot: Snapshot, labelmap: Instance, storage: Instance, key: bytes, body: Body) -> bool:
    """Whether the value of a key, as `text_keys.encoded` gives it, is of the body as it is, by their versions."""
    stored = snapshot.view(storage).version_of(text_keys.VALUES, text_keys.type_key(key))
    changed = bodies.body_version(snapshot.view(labelmap), body.label)
    if stored is None or changed is None:
        return False
    if stored == changed:
        return body.last_mutid == 0
    return snapshot.catalog.ancestry(stored).contains(changed)
