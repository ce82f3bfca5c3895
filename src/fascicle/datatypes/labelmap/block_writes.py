"""Planning and storing writes of label blocks: what changes at every scale, and in the index.

A *plan* is made against a snapshot, outside of the write transaction and under the voxel lock, because decoding and
encoding take time. Storing it is a matter of puts. Should blocks have changed in between after all, the plan is made
again inside of the transaction.

However many blocks a write has, what it keeps of each in memory until its commit is a note of some hundred bytes: the
blocks themselves, those of the scales above and the changes of the index go through a spool.

Counts in the index change by true differences, from the voxels per label that each stored block carries, so that
writing over a block leaves the index right whatever was there.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from itertools import islice
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from fascicle.datatypes.base import Answer, Call, Change, Commit
from fascicle.datatypes.labelmap import blocks, counters
from fascicle.datatypes.labelmap.bodies import apply_counts
from fascicle.datatypes.labelmap.events import BlockChange
from fascicle.datatypes.labelmap.new_blocks import ChangedRows, Edited, KeptHandles, NewBlocks, Rows, StoredInOrder
from fascicle.datatypes.labelmap.remote_labels import RemoteView
from fascicle.datatypes.voxel_requests import Triple
from fascicle.formats import downres, label_block, sub_blocks
from fascicle.formats.block_code import block_codes, block_xyz
from fascicle.formats.label_block import LabelBlock
from fascicle.store.base import LateValue
from fascicle.store.spool import Spool
from fascicle.versions.resolution import VersionedView

U64 = NDArray[np.uint64]
U32 = NDArray[np.uint32]

MOST_REPLACED = 5
"""Octants up to which a block is changed in place; to encode it anew is quicker where more of them change."""

COMPARED_BLOCKS, COMPARED_BYTES = 1024, 8 << 20
"""Blocks whose labels are compared with what was there together, and bytes of new ones that are read for it."""

Item = TypeVar("Item")
Result = TypeVar("Result")


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max(1, (os.cpu_count() or 2)), "blocks")


def side_by_side(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Results in order, worked on by several threads; takes few items more than it has given results."""
    size = max(1, (os.cpu_count() or 2))
    if size == 1:
        yield from map(function, items)
        return
    source = iter(items)
    pool = _pool()
    running = [pool.submit(function, item) for item in islice(source, 2 * size)]
    while running:
        result = running.pop(0).result()
        for item in islice(source, 1):
            running.append(pool.submit(function, item))
        yield result


def stored_of(dense_zyx: U64, marks: U64 | None = None) -> tuple[bytes, LabelBlock]:
    """A dense block u64[z,y,x] in its stored form, with marks u64[8] if given, and taken apart."""
    opened = label_block.opened(label_block.encode(dense_zyx))
    return label_block.split(opened, marks=marks), opened


@dataclass(slots=True)
class Plan:
    """What a write stores."""

    mark: bytes
    """The count of voxel writes of the snapshot that the plan was made from."""
    levels: dict[int, NewBlocks]
    """By scale."""
    rows: ChangedRows | None = None
    codes: U64 = field(default_factory=lambda: np.empty(0, np.uint64))
    previous: Sequence[bytes | None] = ()
    """Handles of the blocks of scale 0 that `codes` names, as they were."""


# -- planning


def previous_handles(view: VersionedView, scale: int, codes: U64, spool: Spool) -> Sequence[bytes | None]:
    """The handle of each block, None where nothing is stored.

    Those of a volume that lives elsewhere contain the blocks, so that nobody fetches them inside of a transaction; they
    wait in the spool.
    """
    places, handles = blocks.find_blocks(view, scale, codes)
    found: list[bytes | None] = [None] * len(codes)
    for place, handle in zip(places.tolist(), handles, strict=True):
        found[place] = handle
    if not isinstance(view, RemoteView):
        return tuple(found)
    kept: list[bytes | LateValue | None] = []
    for begin in range(0, len(found), blocks.BATCH_BLOCKS):
        batch = view.inline(found[begin : begin + blocks.BATCH_BLOCKS])
        kept += [None if handle is None else spool.keep(handle) for handle in batch]
    return KeptHandles(kept)


def _columns(codes: U64, stored: Sequence[bytes | memoryview]) -> tuple[U64, U64, U32]:
    """(supervoxels, blocks, voxels) of stored blocks."""
    lengths = np.array([len(value) for value in stored], np.int64)
    offsets = np.cumsum(lengths) - lengths
    buffer = np.frombuffer(b"".join(stored), np.uint8)
    tables, counts, starts = label_block.gather(buffer, offsets, lengths, 0)
    return tables, np.repeat(codes, np.diff(starts)), counts


def _previous_columns(
    view: VersionedView, codes: U64, handles: Sequence[bytes | None]
) -> Iterator[tuple[U64, U64, U32]]:
    present = ((i, handle) for i, handle in enumerate(handles) if handle is not None)
    while part := list(islice(present, blocks.BATCH_BLOCKS)):
        batch = blocks.load_blocks(view, [handle for _, handle in part])
        tables, counts, starts = label_block.gather(batch.buffer, batch.offsets, batch.lengths, 0)
        yield tables, np.repeat(codes[[i for i, _ in part]], np.diff(starts)), counts


def changed_rows(
    view: VersionedView, codes: U64, previous: Sequence[bytes | None], new: NewBlocks
) -> ChangedRows:
    """What new blocks change in the index, compared with the blocks that were there."""
    changed = ChangedRows(new.spool)
    for begin in range(0, len(codes), COMPARED_BLOCKS):
        part = codes[begin : begin + COMPARED_BLOCKS]
        before = list(_previous_columns(view, part, previous[begin : begin + COMPARED_BLOCKS]))
        rows = _differences(before, list(_new_columns(part, new)))
        if len(rows):
            changed.add(rows)
    return changed


def _new_columns(codes: U64, new: NewBlocks) -> Iterator[tuple[U64, U64, U32]]:
    """(supervoxels, blocks, voxels) of new blocks."""
    waiting: list[bytes] = []
    size = 0
    listed = codes.tolist()
    for end, code in enumerate(listed, 1):
        waiting.append(new.stored(code))
        size += len(waiting[-1])
        if size >= COMPARED_BYTES or end == len(listed):
            yield _columns(codes[end - len(waiting) : end], waiting)
            waiting, size = [], 0


def _differences(old: list[tuple[U64, U64, U32]], new: list[tuple[U64, U64, U32]]) -> Rows:
    columns = old + new
    if not columns:
        empty, none = np.empty(0, np.uint64), np.empty(0, np.uint32)
        return Rows(empty, empty, none, none)
    sv = np.concatenate([c[0] for c in columns])
    block = np.concatenate([c[1] for c in columns])
    count = np.concatenate([c[2] for c in columns])
    is_new = np.zeros(len(sv), np.bool_)
    is_new[sum(len(c[0]) for c in old) :] = True
    order = np.lexsort((sv, block))
    sv, block, count, is_new = sv[order], block[order], count[order], is_new[order]
    starts = np.flatnonzero(np.append(True, (sv[1:] != sv[:-1]) | (block[1:] != block[:-1])))
    before = np.add.reduceat(np.where(is_new, np.uint32(0), count), starts, dtype=np.uint32)
    after = np.add.reduceat(np.where(is_new, count, np.uint32(0)), starts, dtype=np.uint32)
    keep = (before != after) & (sv[starts] != 0)
    return Rows(sv[starts][keep], block[starts][keep], before[keep], after[keep])


def coarser_blocks(
    view: VersionedView, scale: int, changed: NewBlocks, size_xyz: Triple
) -> NewBlocks:
    """The blocks of the next scale up that contain changed blocks of `scale`."""
    sx, sy, sz = size_xyz
    codes = changed.codes()
    xyz = block_xyz(codes)
    of_codes = block_codes(xyz >> 1)
    order = np.argsort(of_codes, kind="stable")
    parents, starts = np.unique(of_codes[order], return_index=True)
    codes, xyz = codes[order], xyz[order]
    octants = (xyz[:, 2] & 1) * 4 + (xyz[:, 1] & 1) * 2 + (xyz[:, 0] & 1)
    stops = np.append(starts[1:], len(codes))
    del of_codes, order, xyz

    def families() -> Iterator[tuple[int, list[tuple[int, int]], bytes | None]]:
        """Parents, their (octant, block), and what is stored in their place where something is left as it is."""
        for begin in range(0, len(parents), blocks.BATCH_BLOCKS):
            part = slice(begin, begin + blocks.BATCH_BLOCKS)
            partial = parents[part] if changed.edited else parents[part][stops[part] - starts[part] < 8]
            places, handles = blocks.find_blocks(view, scale + 1, partial)
            before: dict[int, bytes] = {}
            if handles:
                batch = blocks.load_blocks(view, handles)
                before = {int(partial[place]): bytes(batch.value(i)) for i, place in enumerate(places.tolist())}
            for parent, a, b in zip(parents[part].tolist(), starts[part].tolist(), stops[part].tolist(), strict=True):
                yield parent, list(zip(octants[a:b].tolist(), codes[a:b].tolist(), strict=True)), before.get(parent)

    def parent_block(item: tuple[int, list[tuple[int, int]], bytes | None]) -> tuple[int, bytes, LabelBlock]:
        code, members, before = item
        marks = np.zeros(8, np.uint64) if before is None else label_block.marks(before).copy()
        # An octant whose mark is that of the finer block as it was need not be made anew where that has not changed.
        # Others may lag behind, where blocks were written without their coarser scales, and are made anew as a whole.
        in_step = {
            octant: edited.places
            for octant, child in members
            if (edited := changed.edited.get(child)) is not None and edited.mark == int(marks[octant])
        }
        finer: dict[int, LabelBlock] = {}
        for octant, child in members:
            stored = changed.stored(child)
            marks[octant] = label_block.mark(stored)
            finer[octant] = changed.opened(child, stored)
        if len(members) - len(in_step) <= MOST_REPLACED:
            old = sub_blocks.solid(sx // 8, sy // 8, sz // 8)
            voxels = np.array([sx * sy * sz], np.uint32)
            if before is not None:
                old, voxels, mark = label_block.opened_to_edit(before)
            block, voxels, places = sub_blocks.follow(old, voxels, finer, in_step)
            if before is not None:
                above.edited[code] = Edited(places, mark)
                if not len(places):
                    return code, label_block.marked(before, marks), block
            return code, label_block.split(block, voxels, marks), block
        if before is not None:
            dense = label_block.decode(label_block.opened_stored(before, check=False))
        else:
            dense = (np.zeros if len(members) < 8 else np.empty)((sz, sy, sx), np.uint64)
        for octant, block in finer.items():
            z, y, x = (octant >> 2) * sz // 2, (octant >> 1 & 1) * sy // 2, (octant & 1) * sx // 2
            corner = dense[z : z + sz // 2, y : y + sy // 2, x : x + sx // 2]
            downres.halve_into(block, corner)
        return (code, *stored_of(dense, marks))

    above = NewBlocks(changed.spool)
    for made in side_by_side(parent_block, families()):
        above.add(*made)
    return above


def make_plan(
    view: VersionedView, new: NewBlocks, size_xyz: Triple, *, scale: int = 0, top_scale: int = 0, indexing: bool = True
) -> Plan:
    """What storing new blocks of a scale means.

    `top_scale` is the highest scale to compute from scale 0 (0: none); `indexing`: whether the index follows.
    """
    codes = new.codes()
    plan = Plan(blocks.voxel_writes(view), {scale: new}, codes=codes)
    if scale == 0:
        plan.previous = previous_handles(view, 0, codes, new.spool)
        if indexing:
            plan.rows = changed_rows(view, codes, plan.previous, new)
        level = new
        for lower in range(top_scale):
            finer, level = level, coarser_blocks(view, lower, level, size_xyz)
            finer.close()
            plan.levels[lower + 1] = level
        level.close()
    return plan


# -- storing


def store_plan(change: Change, plan: Plan) -> None:
    """Write a plan's blocks and index rows in a transaction."""
    view = change.view
    blocks.mark_voxel_write(change.txn, change.instance.id)
    for scale, level in plan.levels.items():
        listed = map(int, level.codes())
        view.put_spooled(blocks.BLOCKS, ((blocks.key_of_code(scale, code), level.kept[code]) for code in listed))
    for rows in plan.rows or ():
        apply_counts(view, rows.sv, rows.block, rows.after)


def commit_blocks(
    call: Call,
    new: NewBlocks,
    size_xyz: Triple,
    *,
    scale: int = 0,
    downres: bool = False,
    indexing: bool = True,
    plain: bool = False,
) -> Commit:
    """The commit that stores new blocks; at scale 0 followers hear of them and a mutation id is taken.

    With `plain` nothing else happens. Otherwise, at scale 0: extents and the greatest label grow, the index follows if
    the instance has one and `indexing`, the scales above follow with `downres`.
    """
    full = scale == 0 and not plain
    indexing = indexing and full and call.instance.properties.get("IndexedLabels", True)
    top_scale = int(call.instance.properties.get("MaxDownresLevel", 0)) if downres and full else 0

    def planned(view: VersionedView) -> Plan:
        return make_plan(view, new, size_xyz, scale=scale, top_scale=top_scale, indexing=indexing)

    xyz = block_xyz(new.codes())
    lock = blocks.voxel_lock(call.store, call.instance.id)
    lock.acquire()
    try:
        with call.store.read() as txn:
            plan = planned(call.view_in(txn))
    except BaseException:
        lock.release()
        raise

    def apply(change: Change) -> None:
        try:
            store(change)
        except BaseException:
            lock.release()
            raise

    def store(change: Change) -> None:
        current = plan
        if blocks.voxel_writes(change.view) != plan.mark:
            current = planned(change.view)
        store_plan(change, current)
        if scale or not len(xyz):
            return
        if full:
            low = (xyz.min(axis=0) * size_xyz).tolist()
            high = ((xyz.max(axis=0) + 1) * size_xyz - 1).tolist()
            blocks.grow_extents(change.view, low, high)
            counters.raise_max_label(change, new.greatest)
        stored = StoredInOrder(new, current.codes)
        change.emit(BlockChange(change.mutation_id(), current.codes, current.previous, stored))

    def answer(_: None) -> Answer:
        lock.release()
        return Answer()

    return Commit(apply, answer)
