"""From supervoxels to bodies: looking up, listing and loading the mapping, and the list of supervoxels that were split.

    class 32: version u32, mutation id u64 -> old, remain, split u64[n, 3]: supervoxels that were split, and into what

Rows of class 32 belong to a version by their key and are never overwritten.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from fascicle.datatypes.base import Answer, Call, Change, Commit, Option, Reply, Route, Work
from fascicle.datatypes.labelmap import bodies, mapping
from fascicle.datatypes.labelmap.bodies import read_body
from fascicle.datatypes.labelmap.events import Remapped
from fascicle.datatypes.labelmap.mapping import add_mappings, mapping_at
from fascicle.datatypes.labelmap.queries import HASH, THROTTLE
from fascicle.datatypes.labelmap.requests import checked_hash, id_answer, id_array
from fascicle.errors import BadRequest
from fascicle.formats import mapping_ops
from fascicle.kernels import decimal
from fascicle.versions import keys
from fascicle.versions.resolution import VersionedView

U64 = NDArray[np.uint64]

SPLITS = 32
_SPLIT_KEY = struct.Struct(">IQ")


# -- looking up


def live_bodies(view: VersionedView, supervoxels: U64) -> U64:
    """The body of each supervoxel u64[n]; 0 for ids that are no supervoxel of any body at this version."""
    owners, found = mapping_at(view).find(supervoxels)
    if found.all():
        return owners
    unmapped = np.unique(supervoxels[~found])
    live = np.array([s for s in unmapped.tolist() if s and _holds_itself(view, s)], np.uint64)
    return np.where(found | np.isin(supervoxels, live), owners, np.uint64(0))


def _holds_itself(view: VersionedView, label: int) -> bool:
    """Whether the body of this label has a supervoxel of the same number."""
    body = read_body(view, label)
    return body is not None and len(bodies.rows_of_supervoxels(view, body, np.array([label], np.uint64))) > 0


def get_mapping(call: Call) -> Reply:
    checked_hash(call)
    supervoxels = id_array(call.body, "mapping")
    if call.flag("nolookup"):
        owners = mapping_at(call.view).bodies(supervoxels)
    else:
        owners = live_bodies(call.view, supervoxels)
    return id_answer(owners)


# -- the whole mapping


def get_mappings(call: Call) -> Reply:
    table = mapping_at(call.view)
    binary = call.query.get("format") == "binary"

    def pieces() -> Iterator[bytes]:
        for supervoxels, owners in table.entries_over():
            changed = supervoxels != owners
            pairs = np.empty((int(changed.sum()), 2), "<u8")
            pairs[:, 0], pairs[:, 1] = supervoxels[changed], owners[changed]
            if len(pairs):
                yield pairs.tobytes() if binary else decimal.joined(pairs.reshape(-1), b" \n")

    return Answer(pieces(), "application/octet-stream" if binary else "text/plain; charset=utf-8")


def post_mappings(call: Call) -> Reply:
    supervoxels, owners = mapping_ops.decode(call.body)
    if len(supervoxels) and not supervoxels.all():
        raise BadRequest("supervoxel 0 is the background and cannot be mapped")
    if not len(supervoxels):
        return Answer()

    def apply(change: Change) -> None:
        view, uuid = change.view, change.instance.data_uuid
        followed = any(uuid in other.syncs for other in change.catalog.instances(change.instance.repo_id))
        listed = np.unique(supervoxels) if followed else supervoxels
        before = mapping_at(view).bodies(listed) if followed else None
        add_mappings(view, supervoxels, owners)
        if before is not None:
            after = mapping_at(view).bodies(listed)
            moved = before != after
            if moved.any():
                change.emit(Remapped(listed[moved], before[moved], after[moved]))

    return Commit(apply)


def get_statistics(call: Call) -> Reply:
    """Figures on the mappings that this process has loaded, and on the one that was asked for."""
    mapping_at(call.view)
    loaded = mapping.loaded()
    told = {}
    for repo in call.catalog.repos():
        for instance in call.catalog.instances(repo.id):
            of_versions = loaded.get(instance.id)
            if of_versions:
                largest = max(of_versions.values(), key=len)
                told[instance.name] = {
                    "MapEntries": len(largest),
                    "MapSize": _readable(largest.size_bytes),
                    "NumVersions": len(of_versions),
                    "MaxVersion": max(of_versions),
                }
    return Answer.json(told)


def _readable(size_bytes: float) -> str:
    for unit in ("B", "kB", "MB"):
        if size_bytes < 1000:
            return f"{size_bytes:.0f} B" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1000
    return f"{size_bytes:.1f} GB"


# -- splits of supervoxels


def record_splits(change: Change, mutation_id: int, old: U64, remain: U64, split: U64) -> None:
    """Remember that supervoxels u64[n] were replaced by `remain` and `split`, u64[n] each."""
    key = keys.prefix(change.instance.id, SPLITS) + _SPLIT_KEY.pack(change.ancestry.version, mutation_id)
    change.txn.put(key, np.stack((old, remain, split), axis=1).astype("<u8").tobytes())


def splits_by_version(view: VersionedView) -> dict[int, list[list[int]]]:
    """For each version of the instance that has splits: rows of mutation id, old, remain, split, oldest first."""
    found: dict[int, list[list[int]]] = {}
    first = keys.prefix(view.instance_id, SPLITS)
    for key, value in view.txn.scan(first, keys.after(first)):
        version, mutation_id = _SPLIT_KEY.unpack(key[keys.PREFIX_BYTES :])
        if view.ancestry.contains(version):
            rows = np.frombuffer(value, "<u8").reshape(-1, 3).tolist()
            found.setdefault(version, []).extend([mutation_id, *row] for row in rows)
    return found


def get_supervoxel_splits(call: Call) -> Reply:
    found = splits_by_version(call.view)
    told: list[str | list[list[int]]] = []
    if found:
        for version in call.ancestry.first_parents():
            if version in found:
                told += [call.catalog.node(version).uuid, found[version]]
    return Answer.json(told)


ROUTES = (
    Route(
        "mapping",
        {"GET": get_mapping, "POST": get_mapping},
        "The body of each of a JSON list of supervoxels in the request's body; 0 for those that do not exist.",
        options=(HASH, Option("nolookup", "true: an id without entry is answered as it is, whether or not it exists")),
        work=Work.HEAVY,
        reads_by_post=True,
    ),
    Route(
        "mappings",
        {"GET": get_mappings, "POST": post_mappings},
        "All supervoxels that are mapped to another id than their own, as lines of text. POST loads a protobuf "
        "MappingOps.",
        options=(Option("format", "binary: pairs of u64 instead of text"), THROTTLE),
        work=Work.HEAVY,
        throttled=True,
    ),
    Route(
        "supervoxel-splits",
        {"GET": get_supervoxel_splits},
        "Splits of supervoxels from this version back to the first: a UUID, then a list of [mutation id, old, remain, "
        "split], and so on.",
        work=Work.HEAVY,
    ),
    Route(
        "map-stats",
        {"GET": get_statistics},
        "Entries and memory of the mappings that this server process has loaded.",
        work=Work.HEAVY,
    ),
)
