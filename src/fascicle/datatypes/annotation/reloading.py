"""Making the label and tag indexes anew from the blocks, in the background and in small steps.

A reload compares: it enters what is missing or different, then takes out what should not be there. So readers never
meet an index that was emptied, little is written where little is wrong, and any step may be done twice. Each step is
one transaction of bounded size; how far it has come is a row of the store (class 6), which also keeps `POST` out
meanwhile. The thread that does the steps holds a lock that ends with its process: whoever finds the row without the
lock goes on with the reload.

Elements that were posted into a block that they do not lie in belong to no index.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path

import msgspec
import numpy as np

from fascicle.datatypes.annotation import lists
from fascicle.datatypes.annotation.edits import settle_block_size
from fascicle.datatypes.annotation.elements import tags_of
from fascicle.datatypes.annotation.label_index import Reported, put_points, remove_points, segmentation_of
from fascicle.datatypes.annotation.layout import (
    BLOCK_BYTES,
    ELEMENT_HEAD,
    ELEMENTS,
    EMPTIED,
    LABELS,
    POSITION_BYTES,
    RELOADS,
    TAGS,
    Triple,
    block_of,
    blocks_of_keys,
    element_keys,
    index_value_of,
    kinds_of,
    labelmap_of_key,
    positions_of,
    supervoxels_of,
    tag_prefix,
    value_of,
)
from fascicle.datatypes.annotation.segmentation import Segmentation
from fascicle.datatypes.base import Call, Change
from fascicle.datatypes.change import StoreChange
from fascicle.errors import BadRequest, FascicleError, Unavailable
from fascicle.file_locks import try_lock
from fascicle.store.base import ReadTransaction, Store, WriteTransaction
from fascicle.versions import keys
from fascicle.versions.catalog import CatalogCache
from fascicle.versions.model import Instance, Node
from fascicle.versions.resolution import VersionedView

log = logging.getLogger(__name__)

STEP_ROWS = 2000
"""Rows that one transaction looks at."""
PATIENCE_S = 1.0
"""How long an answer waits for a reload to end: a small one is done when it is acknowledged."""

Row = tuple[bytes, bytes]


class State(msgspec.Struct, array_like=True):
    """How far a reload has come."""

    version: int
    check: bool
    """Lists of labels and tags that no element belongs to any more are left."""
    remove_misplaced: bool
    """Elements in a block that they do not lie in are removed."""
    phase: int = 0
    after: bytes = b""
    """The last key of the phase that was looked at."""


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(State).decode


# -- who is at it


def _row(instance_id: int) -> bytes:
    return keys.prefix(instance_id, RELOADS)


def state_of(txn: ReadTransaction, instance: Instance) -> State | None:
    row = txn.get(_row(instance.id))
    return None if row is None else _decode(row)


def refuse_while_reloading(change: Change) -> None:
    """POST waits for the end of a reload. Raises BadRequest."""
    if state_of(change.txn, change.instance) is not None:
        raise BadRequest(
            f'cannot run POST commands while "{change.instance.name}" instance is undergoing bulk update'
        )


_running: set[tuple[str, int]] = set()
_guard = threading.Lock()


def _place(store: Store, instance: Instance) -> tuple[str, int]:
    return (f"memory {id(store)}" if store.path is None else str(store.path)), instance.id


@contextlib.contextmanager
def _sole_worker(store: Store, instance: Instance) -> Iterator[bool]:
    """Whether nobody else, in this process or another one, is at the reload of an instance."""
    place = _place(store, instance)
    with _guard:
        free = place not in _running
        if free:
            _running.add(place)
    if not free:
        yield False
        return
    file = None
    try:
        if store.path is not None:
            path: Path = store.path / "locks" / f"reload-{instance.id}"
            path.parent.mkdir(exist_ok=True)
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            free = try_lock(file)
        yield free
    finally:
        if file is not None:
            os.close(file)
        with _guard:
            _running.discard(place)


def start(store: Store, instance: Instance, node: Node, patience_s: float = PATIENCE_S) -> None:
    """Go on with a reload in a thread of its own, unless somebody is at it; wait a while for its end."""

    def work() -> None:
        with _sole_worker(store, instance) as free:
            if not free:
                return
            try:
                run(store, instance, node)
            except Unavailable:
                pass  # The server ends; who asks next goes on.
            except FascicleError as error:
                log.error("the reload of %s cannot go on: %s", instance.name, error.message)
            except Exception:
                log.exception("the reload of %s failed", instance.name)

    thread = threading.Thread(target=work, name=f"reload {instance.name}", daemon=True)
    thread.start()
    thread.join(patience_s)


def resume_if_left(call: Call) -> None:
    """Go on with a reload that the end of a process left undone."""
    state = state_of(call.txn, call.instance)
    if state is not None and not call.settings.get("readonly") and _place(call.store, call.instance) not in _running:
        start(call.store, call.instance, call.catalog.node(state.version), 0)


def reload(call: Call, check: bool, streamed: bool) -> None:
    """Enter a reload at the call's version, and begin with it. Raises BadRequest while another one is at work."""
    resume_if_left(call)
    cache = CatalogCache(call.store)

    def begin(txn: WriteTransaction) -> None:
        change = StoreChange.on(txn, cache, call.instance, call.node)
        if change.node.locked and not call.node.locked and change.instance.versioned:
            raise BadRequest(f"Cannot do POST on endpoint \"reload\" of locked node {change.node.uuid}")
        refuse_while_reloading(change)
        txn.put(_row(change.instance.id), _encode(State(change.node.id, check and not streamed, streamed)))

    call.store.write(begin)
    start(call.store, call.instance, call.node)


# -- the steps


def run(store: Store, instance: Instance, node: Node) -> None:
    """Do the steps of a reload to its end."""
    cache = CatalogCache(store)
    done = False
    while not done:
        done = store.write(lambda txn: _step(StoreChange.on(txn, cache, instance, node)))


def _step(change: Change) -> bool:
    """One step in a transaction; whether the reload is done."""
    state = state_of(change.txn, change.instance)
    if state is None:
        return True
    step = _PHASES[state.phase]
    last = step(change, state)
    if last is not None:
        state.after = last
    else:
        state.phase, state.after = state.phase + 1, b""
    txn = change.txn
    if state.phase == len(_PHASES):
        txn.delete(_row(change.instance.id))
        return True
    txn.put(_row(change.instance.id), _encode(state))
    return False


def _next_rows(view: VersionedView, key_class: int, state: State) -> tuple[list[Row], bytes | None]:
    """The next rows of a class, and the last one's key if there may be more."""
    rows: list[Row] = []
    start = state.after + b"\x00" if state.after else b""
    for batch in view.scan_batches(key_class, start):
        rows += batch
        if len(rows) >= STEP_ROWS:
            return rows, rows[-1][0]
    return rows, None


def _enter_elements(change: Change, state: State) -> bytes | None:
    """Enter elements that the indexes lack or have otherwise."""
    view = change.view
    size = settle_block_size(change)
    rows, last = _next_rows(view, ELEMENTS, state)
    if not rows:
        return last
    xyz = positions_of([key for key, _ in rows])
    at_home = (block_of(xyz, size) == blocks_of_keys([key for key, _ in rows])).all(axis=1)
    if not at_home.all():
        strays = [row for row, home in zip(rows, at_home.tolist(), strict=True) if not home]
        log.warning("%d elements of %s lie in a block of another name", len(strays), change.instance.name)
        if state.remove_misplaced:
            _remove_strays(view, strays)
        rows = [row for row, home in zip(rows, at_home.tolist(), strict=True) if home]
        xyz = xyz[at_home]
    values = [value_of(view, handle) for _, handle in rows]
    index_values = [index_value_of(value) for value in values]
    tag_keys: list[bytes] = []
    tag_values: list[bytes] = []
    for (key, _), value, index_value in zip(rows, values, index_values, strict=True):
        for tag in dict.fromkeys(tags_of(value[ELEMENT_HEAD:])):
            tag_keys.append(tag_prefix(tag) + key[BLOCK_BYTES:])
            tag_values.append(index_value)
    for key, found, wanted in zip(tag_keys, view.handles(TAGS, tag_keys), tag_values, strict=True):
        if found is None or value_of(view, found) != wanted:
            view.put(TAGS, key, wanted)
    segmentation = segmentation_of(change)
    if segmentation is not None and rows:
        report = Reported.of(change)
        put_points(report, segmentation, segmentation.supervoxels(xyz), xyz, index_values)
        report.tell_followers()
    return last


def _remove_strays(view: VersionedView, strays: list[Row]) -> None:
    for key, _ in strays:
        view.delete(ELEMENTS, key)
    for block in {key[:BLOCK_BYTES] for key, _ in strays}:
        if next(view.scan(ELEMENTS, block, keys.after(block)), None) is None:
            view.put(EMPTIED, block, b"")


def _check_labels(change: Change, state: State) -> bytes | None:
    """Take label rows out whose element is gone, or lies somewhere else."""
    view = change.view
    rows, last = _next_rows(view, LABELS, state)
    segmentation = segmentation_of(change)
    size = settle_block_size(change)
    foreign = [row for row in rows if segmentation is None or labelmap_of_key(row[0]) != segmentation.id]
    if not state.check:
        for key, _ in foreign:
            view.delete(LABELS, key)
        if foreign:
            _uncount(change, foreign)
    if segmentation is None:
        return last
    own = [row for row in rows if labelmap_of_key(row[0]) == segmentation.id]
    stale = _stale_labels(view, segmentation, own, size)
    if stale and state.check:
        stale = _without_lone(view, segmentation, stale, size)
    if stale:
        report = Reported.of(change)
        type_keys = [key for key, _ in stale]
        remove_points(report, segmentation, supervoxels_of(type_keys), positions_of(type_keys))
        report.tell_followers()
    return last


def _uncount(change: Change, rows: list[Row]) -> None:
    """Label rows of other labelmaps were removed."""
    report = Reported.of(change)
    for labelmap_id, group in groupby(rows, lambda row: labelmap_of_key(row[0])):
        some = list(group)
        type_keys, kinds = [key for key, _ in some], kinds_of(change.view, [handle for _, handle in some])
        report.note(labelmap_id, supervoxels_of(type_keys), kinds, positions_of(type_keys), -1)
    report.tell_followers()


def _stale_labels(view: VersionedView, segmentation: Segmentation, rows: list[Row], size: Triple) -> list[Row]:
    """Label rows that no element backs."""
    if not rows:
        return []
    type_keys = [key for key, _ in rows]
    xyz = positions_of(type_keys)
    there = np.array([h is not None for h in view.handles(ELEMENTS, element_keys(xyz, size))], np.bool_)
    there[there] = segmentation.supervoxels(xyz[there]) == supervoxels_of(type_keys)[there]
    return [row for row, kept in zip(rows, there.tolist(), strict=True) if not kept]


def _without_lone(
    view: VersionedView, segmentation: Segmentation, stale: list[Row], size: Triple
) -> list[Row]:
    """Stale rows, less those of bodies that no element lies in."""
    owners = segmentation.bodies(supervoxels_of([key for key, _ in stale])).tolist()
    backed = {label: label != 0 and _is_backed(view, segmentation, label, size) for label in set(owners)}
    return [row for row, label in zip(stale, owners, strict=True) if backed[label]]


def _is_backed(view: VersionedView, segmentation: Segmentation, label: int, size: Triple) -> bool:
    """Whether the index has an element of a body that is really there."""
    found = segmentation.rows_of_body(view, label)
    return any(len(_stale_labels(view, segmentation, batch, size)) < len(batch) for batch in found)


def _check_tags(change: Change, state: State) -> bytes | None:
    """Take tag rows out whose element is gone, or does not have the tag."""
    view = change.view
    size = settle_block_size(change)
    rows, last = _next_rows(view, TAGS, state)
    stale = _stale_tags(view, rows, size)
    if stale and state.check:
        prefixes = {key[:-POSITION_BYTES] for key in stale}
        backed = {prefix for prefix in prefixes if _tag_is_backed(view, prefix, size)}
        stale = [key for key in stale if key[:-POSITION_BYTES] in backed]
    for key in stale:
        view.delete(TAGS, key)
    return last


def _stale_tags(view: VersionedView, rows: list[Row], size: Triple) -> list[bytes]:
    if not rows:
        return []
    handles = view.handles(ELEMENTS, element_keys(positions_of([key for key, _ in rows]), size))
    stale = []
    for (key, _), handle in zip(rows, handles, strict=True):
        tags = [] if handle is None else tags_of(value_of(view, handle)[ELEMENT_HEAD:])
        if key[:-POSITION_BYTES] not in [tag_prefix(tag) for tag in tags]:
            stale.append(key)
    return stale


def _tag_is_backed(view: VersionedView, prefix: bytes, size: Triple) -> bool:
    batches = view.scan_batches(TAGS, prefix, keys.after(prefix))
    return any(len(_stale_tags(view, batch, size)) < len(batch) for batch in batches)


def _drop_lists(change: Change, state: State) -> bytes | None:
    """Let the index speak for labels that have a posted list."""
    view = change.view
    segmentation = segmentation_of(change)
    size = settle_block_size(change)
    for label in lists.labels_posted(view):
        if not state.check or (segmentation is not None and _is_backed(view, segmentation, label, size)):
            lists.remove(view, label)
    return None


_PHASES: tuple[Callable[[Change, State], bytes | None], ...] = (
    _enter_elements,
    _check_labels,
    _check_tags,
    _drop_lists,
)
