"""The index of bodies: which blocks each of their supervoxels lies in, with how many voxels, at every version.

A *page* is an immutable set of rows (supervoxel, block, count), sorted; it belongs to no version. A *body* at a version
is one small versioned record: totals, who changed it last, and *runs*. A run is a page, less the rows that an
*exclusion list* names (also immutable), and says which mutation last touched its blocks. The rows of a body are the
disjoint union of its runs.

    class 10: label u64                -> Body (versioned)
    class 11: page id (12 bytes)       -> Page
    class 12: exclusion id (12 bytes)  -> excluded supervoxels u64[n], blocks u64[n] (ALL_BLOCKS: every row of one)

So merging puts lists of runs together, cleaving writes an exclusion list and a page of what left, renumbering writes a
record: none of them rewrites a large body. Small runs are folded into larger ones, and a run is rewritten once a
quarter of it is excluded, so a body never has more than a dozen runs. Pages are never changed, hence cached by their id
alone, which holds for all versions, transactions and processes.

`surface_mutid` of the wire format (the mutation that last changed a body in a block) is kept per block in pages and,
for whole runs, in the record.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec
import numpy as np

from fascicle.datatypes.labelmap.index_rows import (
    NO_ROWS,
    NO_U32,
    NO_U64,
    U32,
    U64,
    Page,
    Rows,
    Run,
    ascending,
    excluding,
    exclusions,
    folded,
    forget_all,
    groups,
    is_small,
    kept_places,
    latest,
    merged_columns,
    page_of,
    put_page,
    rows_of_runs,
    without_supervoxels,
)
from fascicle.datatypes.labelmap.mapping import mapping_at
from fascicle.errors import BadRequest, NotFound
from fascicle.kernels import body_rows
from fascicle.kernels.arrays import frozen
from fascicle.versions.resolution import VersionedView

__all__ = [
    "NO_ROWS",
    "Body",
    "Rows",
    "Stamp",
    "apply_counts",
    "body_version",
    "cleave",
    "existing_body",
    "forget_all",
    "list_bodies",
    "merge",
    "read_bodies",
    "read_body",
    "read_rows",
    "remove_body",
    "rename",
    "replace_supervoxel",
    "rows_of_supervoxels",
    "write_rows",
]

BODY = 10


class Stamp(msgspec.Struct, frozen=True):
    """What a mutation leaves on the bodies that it changes."""

    mutation_id: int
    time: str
    """RFC 3339."""
    user: str
    app: str


class Body(msgspec.Struct, frozen=True, array_like=True):
    """The record of a body at a version."""

    label: int
    voxels: int
    last_mutid: int = 0
    last_mod_time: str = ""
    last_mod_user: str = ""
    last_mod_app: str = ""
    runs: tuple[Run, ...] = ()

    @property
    def rows(self) -> int:
        """About how many rows the index has (surface entries included)."""
        return sum(run.weight for run in self.runs)


_decode = msgspec.msgpack.Decoder(Body).decode
_encode = msgspec.msgpack.Encoder().encode


# -- reading ------------------------------------------------------------------------------------------------------


def _label_key(label: int) -> bytes:
    return label.to_bytes(8, "big")


def read_body(view: VersionedView, label: int) -> Body | None:
    """The record of a body, or None if it does not exist at this version."""
    value = view.get(BODY, _label_key(label))
    return None if value is None else _decode(value)


def read_bodies(view: VersionedView, labels: Iterable[int]) -> list[Body | None]:
    return [read_body(view, label) for label in labels]


def existing_body(view: VersionedView, label: int) -> Body:
    """The record of a body; NotFound if it does not exist."""
    body = read_body(view, label)
    if body is None:
        raise NotFound(f"body {label} does not exist")
    return body


def body_version(view: VersionedView, label: int) -> int | None:
    """The version whose record of a body is in effect, or None."""
    return view.version_of(BODY, _label_key(label))


def list_bodies(view: VersionedView, start: int = 0) -> Iterator[tuple[int, int]]:
    """(label, voxels) of all bodies from `start` on, ascending."""
    for type_key, _, handle in view.scan(BODY, _label_key(start)):
        yield int.from_bytes(type_key, "big"), _decode(view.load(handle)).voxels


def read_rows(view: VersionedView, body: Body) -> Rows:
    """All index rows of a body."""
    return rows_of_runs(view, body.runs)


def rows_of_supervoxels(view: VersionedView, body: Body, supervoxels: U64) -> Rows:
    """The index rows of some supervoxels of a body, without reading the rest of a large one into order."""
    wanted = frozen(ascending(np.asarray(supervoxels, np.uint64)))
    parts = []
    for run in body.runs:
        page = page_of(view.txn, view.instance_id, run.page)
        places = body_rows.ranges_of(frozen(page.sv), wanted)
        if len(places) and run.excluded:
            found = Page(page.sv[places], page.block[places], page.count[places])
            places = places[kept_places(found, *exclusions(view.txn, view.instance_id, run.excluded))]
        if len(places):
            parts.append((page.sv[places], page.block[places], page.count[places]))
    if not parts:
        return NO_ROWS
    return Rows(*merged_columns(parts))


# -- writing ------------------------------------------------------------------------------------------------------


def _put_body(view: VersionedView, body: Body) -> None:
    """Store a record; a body without voxels does not exist."""
    if body.voxels <= 0:
        remove_body(view, body.label)
    else:
        view.put(BODY, _label_key(body.label), _encode(body))


def _stamped(body: Body, stamp: Stamp, **changes: Any) -> Body:
    return msgspec.structs.replace(
        body,
        last_mutid=stamp.mutation_id,
        last_mod_time=stamp.time,
        last_mod_user=stamp.user,
        last_mod_app=stamp.app,
        **changes,
    )


def write_rows(view: VersionedView, label: int, rows: Rows, stamp: Stamp) -> None:
    """Replace a body's index, totals and stamp; no rows remove the body."""
    if not len(rows):
        remove_body(view, label)
        return
    blocks, mutids = rows.surface_block, rows.surface_mutid
    known = mutids > 0
    run = put_page(view, Page(rows.sv, rows.block, rows.count, blocks[known], mutids[known]))
    _put_body(view, _stamped(Body(label, rows.voxels), stamp, runs=(run,)))


def remove_body(view: VersionedView, label: int) -> None:
    view.delete(BODY, _label_key(label))


def merge(view: VersionedView, target: Body, merged: Sequence[Body], stamp: Stamp) -> Body:
    """Give the rows of bodies to a target and remove them; the target's new record.

    All are records as they are in this transaction. Their blocks count as touched by the mutation, also where the
    target was before.
    """
    runs, voxels = list(target.runs), target.voxels
    for other in merged:
        runs.extend(msgspec.structs.replace(run, touched=stamp.mutation_id) for run in other.runs)
        voxels += other.voxels
        remove_body(view, other.label)
    result = _stamped(target, stamp, voxels=voxels, runs=folded(view, runs))
    _put_body(view, result)
    return result


def cleave(view: VersionedView, body: Body, new_label: int, supervoxels: U64, stamp: Stamp) -> tuple[int, int]:
    """Move supervoxels of a body, as it is in this transaction, to a new one; (voxels moved, voxels left).

    Supervoxels without rows are passed over.
    """
    left_runs, moved = without_supervoxels(view, body.runs, ascending(np.asarray(supervoxels, np.uint64)))
    if not len(moved):
        return 0, body.voxels
    blocks = moved.blocks()
    touched = np.full(len(blocks), stamp.mutation_id, np.uint64)
    trace = put_page(view, Page(NO_U64, NO_U64, NO_U32, blocks, touched))
    left = body.voxels - moved.voxels
    _put_body(view, _stamped(body, stamp, voxels=left, runs=folded(view, [*left_runs, trace])))
    run = put_page(view, Page(moved.sv, moved.block, moved.count), stamp.mutation_id)
    _put_body(view, _stamped(Body(new_label, moved.voxels), stamp, runs=(run,)))
    return moved.voxels, left


def rename(view: VersionedView, body: Body, new: int, stamp: Stamp) -> None:
    """Give a body, as it is in this transaction, another label."""
    remove_body(view, body.label)
    _put_body(view, _stamped(body, stamp, label=new))


def replace_supervoxel(view: VersionedView, label: int, supervoxel: int, rows: Rows, stamp: Stamp) -> None:
    """Put the rows of other supervoxels in the place of one supervoxel's; `surface_mutid` stays as it is."""
    body = existing_body(view, label)
    runs, old = without_supervoxels(view, body.runs, np.array([supervoxel], np.uint64))
    if len(rows):
        # Blocks keep their surface mutation: what the old rows' runs said of them moves to the new rows' page.
        blocks, mutids = read_rows(view, body).surface_block, read_rows(view, body).surface_mutid
        there = np.isin(blocks, rows.block) & (mutids > 0)
        runs.append(put_page(view, Page(rows.sv, rows.block, rows.count, blocks[there], mutids[there])))
    voxels = body.voxels - old.voxels + rows.voxels
    _put_body(view, _stamped(body, stamp, voxels=voxels, runs=folded(view, runs)))


def apply_counts(view: VersionedView, supervoxels: U64, blocks: U64, counts: U32) -> None:
    """Set how many voxels supervoxels have in blocks: supervoxel u64[n], block code u64[n], count u32[n] (0: none).

    Every pair once. The body of each supervoxel is found by the mapping (its own where there is none); bodies come,
    grow, shrink and go accordingly. Stamps and surfaces stay: writing voxels is no mutation of a body. Supervoxel 0 is
    passed over. Voxels with the id of a retired supervoxel are read as background, so they count for no body.
    """
    live = supervoxels != 0
    supervoxels, blocks, counts = supervoxels[live], blocks[live], counts[live]
    if not len(supervoxels):
        return
    owners = mapping_at(view).bodies(supervoxels)
    retired = owners == 0
    # The index of the body with that id may still name it, where mappings were posted by themselves.
    owners, counts = np.where(retired, supervoxels, owners), np.where(retired, np.uint32(0), counts)
    order = np.lexsort((blocks, supervoxels, owners))
    columns = owners[order], supervoxels[order], blocks[order], counts[order].astype(np.uint32)
    starts, stops = groups(columns[0])
    simple: list[tuple[int, Body | None, int, int]] = []
    for label, a, b in zip(columns[0][starts].tolist(), starts.tolist(), stops.tolist(), strict=True):
        body = read_body(view, label)
        if body is None or _is_plain(body):
            simple.append((label, body, a, b))
        else:
            _set_counts(view, body, columns[1][a:b], columns[2][a:b], columns[3][a:b])
    if simple:
        _set_plain_counts(view, simple, columns)


def _is_plain(body: Body) -> bool:
    """Whether all rows lie inside of the record and no mutation ever touched a block."""
    if len(body.runs) != 1:
        return False
    run = body.runs[0]
    return is_small(run) and not run.touched and run.page[4:8] == b"\x00\x00\x00\x00"


def _set_plain_counts(
    view: VersionedView, simple: Sequence[tuple[int, Body | None, int, int]], columns: tuple[U64, U64, U64, U32]
) -> None:
    """`apply_counts` for all bodies at once whose rows lie in their records, as most do while a volume is loaded."""
    pages = [Page.decode(body.runs[0].page) for _, body, _, _ in simple if body is not None]
    old_owners = np.repeat(
        np.array([label for label, body, _, _ in simple if body is not None], np.uint64),
        [len(page.sv) for page in pages],
    )
    chosen = np.concatenate([np.arange(a, b) for _, _, a, b in simple])
    owners = np.concatenate((old_owners, columns[0][chosen]))
    sv = np.concatenate([*(page.sv for page in pages), columns[1][chosen]])
    block = np.concatenate([*(page.block for page in pages), columns[2][chosen]])
    count = np.concatenate([*(page.count for page in pages), columns[3][chosen]])
    order = np.lexsort((block, sv, owners))  # stable: what is there comes before what takes its place
    owners, sv, block, count = owners[order], sv[order], block[order], count[order]
    last = np.r_[(owners[1:] != owners[:-1]) | (sv[1:] != sv[:-1]) | (block[1:] != block[:-1]), True]
    voxels = {label: 0 for label, _, _, _ in simple}
    keep = last & (count > 0)
    owners, sv, block, count = owners[keep], sv[keep], block[keep], count[keep]
    known = {label: body for label, body, _, _ in simple}
    if len(owners):
        starts, stops = groups(owners)
        totals = np.add.reduceat(count.astype(np.uint64), starts).tolist()
        labels = owners[starts].tolist()
        for label, a, b, total in zip(labels, starts.tolist(), stops.tolist(), totals, strict=True):
            voxels[label] = total
            body = known[label] or Body(label, 0)
            run = put_page(view, Page(sv[a:b], block[a:b], count[a:b]))
            _put_body(view, msgspec.structs.replace(body, voxels=total, runs=(run,)))
    for label, total in voxels.items():
        if total == 0 and known[label] is not None:
            remove_body(view, label)


def _set_counts(view: VersionedView, body: Body, sv: U64, block: U64, count: U32) -> None:
    """`apply_counts` for one body, rows sorted by (sv, block)."""
    runs: list[Run] = []
    voxels = body.voxels
    traces: list[tuple[U64, int]] = []
    for run in body.runs:
        page = page_of(view.txn, view.instance_id, run.page)
        places = body_rows.find_rows(frozen(page.sv), frozen(page.block), frozen(sv), frozen(block))
        places = places[places >= 0]
        if len(places) and run.excluded:
            found = Page(page.sv[places], page.block[places], page.count[places])
            places = places[kept_places(found, *exclusions(view.txn, view.instance_id, run.excluded))]
        if not len(places):
            runs.append(run)
            continue
        voxels -= int(page.count[places].sum(dtype=np.uint64))
        if run.touched:
            traces.append((page.block[places], run.touched))
        rest = excluding(view, run, page.sv[places], page.block[places], len(places))
        if rest is not None:
            runs.append(rest)
    there = count > 0
    if there.any() or traces:
        voxels += int(count[there].sum(dtype=np.uint64))
        surface = latest(
            np.concatenate([NO_U64, *(blocks for blocks, _ in traces)]),
            np.concatenate([NO_U64, *(np.full(len(blocks), mutid, np.uint64) for blocks, mutid in traces)]),
        )
        runs.append(put_page(view, Page(sv[there], block[there], count[there], *surface)))
    if voxels < 0:
        raise BadRequest(f"index of body {body.label} has fewer voxels than are taken away")
    _put_body(view, msgspec.structs.replace(body, voxels=voxels, runs=folded(view, runs)))
