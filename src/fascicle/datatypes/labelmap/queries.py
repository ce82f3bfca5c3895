"""What is known about bodies: their supervoxels, sizes and last edits, their label indices, and lists of bodies.

Questions about one body are answered in the event loop while the body is small; a large one is answered by a generator,
which the server runs in its pool.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from itertools import islice

import lz4.block
import msgspec
import numpy as np
from numpy.typing import NDArray

from fascicle.datatypes.base import ANY_METHOD, Answer, Call, Change, Commit, Option, Reply, Route, Work
from fascicle.datatypes.labelmap import bodies, counters
from fascicle.datatypes.labelmap.bodies import Body, Rows, Stamp, read_body, read_rows
from fascicle.datatypes.labelmap.index_rows import remembered_bytes
from fascicle.datatypes.labelmap.mapping import mapping_at
from fascicle.datatypes.labelmap.requests import (
    checked_hash,
    id_answer,
    id_array,
    id_list,
    label_argument,
    number,
)
from fascicle.errors import BadRequest
from fascicle.formats import label_index
from fascicle.kernels import decimal
from fascicle.versions import keys
from fascicle.versions.resolution import VersionedView

U64 = NDArray[np.uint64]

SMALL_ROWS = 2000
"""Index rows up to which a body is answered for at once."""
MOST_INDICES = 50_000
MOST_LISTED = 10_000_000
MOST_BYTES = 3 << 30
PIECE = 1 << 16
"""Bodies per piece of a streamed list."""

SUPERVOXELS = Option("supervoxels", "true: the label is a supervoxel, not a body")
HASH = Option("hash", "MD5 of the request's body in hex, to be checked")
THROTTLE = Option("throttle", "true or on: answer 503 while another throttled request runs")


def _missing() -> Answer:
    return Answer(status=404)


# -- finding


def rows_of_supervoxel(view: VersionedView, supervoxel: int) -> tuple[Body, Rows] | None:
    """The body of a supervoxel and the supervoxel's own index rows; None if it has none.

    Raises BadRequest for a supervoxel that was split or otherwise retired.
    """
    label, found = mapping_at(view).body(supervoxel)
    if found and label == 0:
        raise BadRequest(f"supervoxel {supervoxel} has been split and doesn't exist anymore")
    body = read_body(view, label)
    if body is None:
        return None
    rows = bodies.rows_of_supervoxels(view, body, np.array([supervoxel], np.uint64))
    return (body, rows) if len(rows) else None


def _answered(rows: int, make: Callable[[], bytes], content_type: str) -> Answer:
    """An answer made now if it is small, else by the pool."""
    if rows <= SMALL_ROWS:
        return Answer(make(), content_type)

    def pieces() -> Iterator[bytes]:
        yield make()

    return Answer(pieces(), content_type)


# -- one body


def get_supervoxels(call: Call) -> Reply:
    view = call.view
    body = read_body(view, label_argument(call))
    if body is None:
        return _missing()
    return _answered(
        body.rows,
        lambda: decimal.json_list(read_rows(view, body).supervoxels()[0]),
        "application/json",
    )


def get_supervoxel_sizes(call: Call) -> Reply:
    view = call.view
    body = read_body(view, label_argument(call))
    if body is None:
        return _missing()

    def make() -> bytes:
        supervoxels, voxels = read_rows(view, body).supervoxels()
        lists = decimal.json_list(supervoxels), decimal.json_list(voxels)
        return b'{\n  "supervoxels": %b,\n  "sizes": %b\n}' % lists

    return _answered(body.rows, make, "application/json")


def get_size(call: Call) -> Reply:
    label = label_argument(call)
    if call.flag("supervoxels"):
        found = rows_of_supervoxel(call.view, label)
        if found is None:
            return _missing()
        return Answer(b'{"voxels": %d}' % found[1].voxels, "application/json")
    body = read_body(call.view, label)
    if body is None:
        return _missing()
    return Answer(b'{"voxels": %d}' % body.voxels, "application/json")


def get_last_modified(call: Call) -> Reply:
    body = read_body(call.view, label_argument(call))
    if body is None:
        return _missing()
    text = msgspec.json.encode
    parts = body.last_mutid, text(body.last_mod_user), text(body.last_mod_app), text(body.last_mod_time)
    told = b'{"mutation id": %d, "last mod user": %b, "last mod app": %b, "last mod time": %b }' % parts
    return Answer(told, "application/json")


def index_version(view: VersionedView, label: int) -> int | None:
    """The version that last stored or removed the index of a body, or None if that never happened."""
    base = keys.prefix(view.instance_id, bodies.BODY) + label.to_bytes(8, "big")
    stored = view.txn.scan_keys(base, keys.with_version(base, view.ancestry.version) + b"\x00", reverse=True)
    versions = (keys.version_of(key) for key in stored)
    return bodies.body_version(view, label) or next((v for v in versions if view.ancestry.contains(v)), None)


def get_index_version(call: Call) -> Reply:
    version = index_version(call.view, label_argument(call))
    if version is None:
        return _missing()
    return Answer(call.catalog.node(version).uuid.encode(), "text/plain")


# -- sizes of many


def supervoxel_sizes(view: VersionedView, supervoxels: U64) -> U64:
    """Voxels u64[n] of supervoxels u64[n]; 0 for those that do not exist."""
    sizes = np.zeros(len(supervoxels), np.uint64)
    owners = mapping_at(view).bodies(supervoxels)
    order = np.argsort(owners, kind="stable")
    borders = np.flatnonzero(owners[order][1:] != owners[order][:-1]) + 1
    for places in np.split(order, borders) if len(order) else []:
        label = int(owners[places[0]])
        body = read_body(view, label) if label else None
        if body is None:
            continue
        wanted = supervoxels[places]
        known, voxels = bodies.rows_of_supervoxels(view, body, wanted).supervoxels()
        if len(known):
            at = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
            sizes[places] = np.where(known[at] == wanted, voxels[at], np.uint64(0))
    return sizes


def get_sizes(call: Call) -> Reply:
    checked_hash(call)
    if call.flag("supervoxels"):
        return id_answer(supervoxel_sizes(call.view, id_array(call.body, "sizes")))
    found = bodies.read_bodies(call.view, id_list(call.body, "sizes"))
    return Answer.json([0 if body is None else body.voxels for body in found])


# -- label indices


def encoded_index(view: VersionedView, body: Body) -> bytes:
    """A body as a protobuf LabelIndex; that of a large body is kept for those who ask again."""
    if body.rows > SMALL_ROWS:
        return remembered_bytes((body, "LabelIndex"), lambda: _encoded_index(view, body))
    return _encoded_index(view, body)


def _encoded_index(view: VersionedView, body: Body) -> bytes:
    rows = read_rows(view, body)
    return label_index.encode(
        label_index.LabelIndex(
            label=body.label,
            supervoxels=rows.sv,
            blocks=rows.block,
            counts=rows.count,
            surface_blocks=rows.surface_block,
            surface_mutids=rows.surface_mutid,
            last_mutid=body.last_mutid,
            last_mod_time=body.last_mod_time,
            last_mod_user=body.last_mod_user,
            last_mod_app=body.last_mod_app,
        )
    )


def get_index(call: Call) -> Reply:
    view, label = call.view, label_argument(call)
    body = read_body(view, label)
    if body is None or call.query.get("mutid"):
        # Snapshots from before a mutation are kept by a cache that is off by default, also at the reference.
        return _missing()
    if call.flag("metadata-only"):
        return Answer.json(
            {
                "num_voxels": body.voxels,
                "last_mutid": body.last_mutid,
                "last_mod_time": body.last_mod_time,
                "last_mod_user": body.last_mod_user,
                "last_mod_app": body.last_mod_app,
            }
        )
    return _answered(body.rows, lambda: encoded_index(view, body), "application/octet-stream")


def _store_index(change: Change, index: label_index.LabelIndex) -> None:
    rows = Rows.of(index.supervoxels, index.blocks, index.counts, index.surface_blocks, index.surface_mutids)
    stamp = Stamp(index.last_mutid, index.last_mod_time, index.last_mod_user, index.last_mod_app)
    bodies.write_rows(change.view, index.label, rows, stamp)


def _store_indices(change: Change, indices: list[label_index.LabelIndex]) -> None:
    for index in indices:
        _store_index(change, index)
    counters.raise_max_label(change, max(index.label for index in indices))


def post_index(call: Call) -> Reply:
    label = label_argument(call)
    index = label_index.decode(call.body)
    if index.label != label:
        raise BadRequest(f"serialized index was for label {index.label} yet was posted to label {label}")
    return Commit(lambda change: _store_indices(change, [index]))


def _listed_bodies(call: Call) -> list[int]:
    labels = id_list(call.body, "indices")
    if len(labels) > MOST_INDICES:
        raise BadRequest(f"at most {MOST_INDICES} indices can be asked for at once, not {len(labels)}")
    return labels


def get_indices(call: Call) -> Reply:
    view, parts, size = call.view, [], 0
    for label in _listed_bodies(call):
        body = read_body(view, label) if label else None
        one = encoded_index(view, body) if body else label_index.encode_empty(label)
        parts.append(label_index.as_member(one))
        size += len(one)
        if size > MOST_BYTES:
            raise BadRequest(f"these indices take more than {MOST_BYTES} bytes: ask for fewer at once")
    return Answer.binary(b"".join(parts))


def post_indices(call: Call) -> Reply:
    indices = label_index.decode_many(call.body)
    for i, index in enumerate(indices):
        if index.label == 0:
            raise BadRequest(f"index {i} had label 0, which is the background")
    if not indices:
        return Answer()
    return Commit(lambda change: _store_indices(change, indices))


def get_indices_compressed(call: Call) -> Reply:
    view, labels = call.view, _listed_bodies(call)

    def pieces() -> Iterator[bytes]:
        for label in labels:
            body = read_body(view, label) if label else None
            if body is None:
                yield struct.pack("<QQ", 0, label)
                continue
            plain = encoded_index(view, body)
            packed = lz4.block.compress(plain, store_size=False)
            yield struct.pack("<QQBI", len(packed) + 5, label, 0x80, len(plain)) + packed

    return Answer.binary(pieces())


# -- lists of bodies


def get_existing_labels(call: Call) -> Reply:
    view = call.view

    def pieces() -> Iterator[bytes]:
        labels = (label for label, _ in bodies.list_bodies(view))
        lead = b"["
        while some := list(islice(labels, PIECE)):
            yield lead + msgspec.json.encode(some)[1:-1]
            lead = b","
        yield b"]" if lead == b"," else b"[]"

    return Answer(pieces(), "application/json")


def get_list_labels(call: Call) -> Reply:
    view = call.view
    start = number(call.query.get("start") or "0", "option 'start'")
    most = min(number(call.query.get("number") or str(MOST_LISTED), "option 'number'"), MOST_LISTED)
    with_sizes = call.flag("sizes")

    def pieces() -> Iterator[bytes]:
        listed = islice(bodies.list_bodies(view, start), most)
        while some := list(islice(listed, PIECE)):
            table = np.array(some, "<u8")
            yield (table if with_sizes else np.ascontiguousarray(table[:, 0])).tobytes()

    return Answer.binary(pieces())


ROUTES = (
    Route(
        "supervoxels",
        {"GET": get_supervoxels, ANY_METHOD: get_supervoxels},
        "JSON list of the supervoxels of a body.",
        "<label>",
    ),
    Route(
        "supervoxel-sizes",
        {"GET": get_supervoxel_sizes, ANY_METHOD: get_supervoxel_sizes},
        "The supervoxels of a body and, in the same order, their sizes in voxels.",
        "<label>",
    ),
    Route("size", {"GET": get_size, ANY_METHOD: get_size}, "Voxels of a body.", "<label>", (SUPERVOXELS,)),
    Route(
        "sizes",
        {"GET": get_sizes},
        "Voxels of each of a JSON list of bodies in the request's body; 0 for those that do not exist.",
        options=(SUPERVOXELS, HASH),
        work=Work.HEAVY,
    ),
    Route(
        "lastmod",
        {"GET": get_last_modified, ANY_METHOD: get_last_modified},
        "The last mutation of a body, who made it, with what and when.",
        "<label>",
    ),
    Route(
        "index",
        {"GET": get_index, "POST": post_index},
        "The label index of a body as protobuf: voxels per block and supervoxel. POST replaces it.",
        "<label>",
        (Option("metadata-only", "true: totals and the last edit as JSON instead"), THROTTLE),
        throttled=True,
    ),
    Route(
        "indices",
        {"GET": get_indices, "POST": post_indices},
        "The label indices of a JSON list of bodies as one protobuf message. POST replaces or deletes such.",
        options=(THROTTLE,),
        work=Work.HEAVY,
        throttled=True,
    ),
    Route(
        "indices-compressed",
        {"GET": get_indices_compressed},
        "The label indices of a JSON list of bodies, each compressed with LZ4 behind its length and label.",
        options=(THROTTLE,),
        work=Work.HEAVY,
        throttled=True,
    ),
    Route(
        "index-version",
        {"GET": get_index_version},
        "The UUID of the version whose label index of a body is in effect.",
        "<label>",
        (THROTTLE,),
        throttled=True,
    ),
    Route("existing-labels", {"GET": get_existing_labels}, "JSON list of all bodies, ascending.", work=Work.HEAVY),
    Route(
        "listlabels",
        {"GET": get_list_labels},
        "Labels of bodies as a stream of u64, ascending.",
        options=(
            Option("start", "the least label to list (default 0)"),
            Option("number", f"how many to list at most (default and limit {MOST_LISTED})"),
            Option("sizes", "true: each label is followed by its number of voxels"),
        ),
        work=Work.HEAVY,
    ),
)
