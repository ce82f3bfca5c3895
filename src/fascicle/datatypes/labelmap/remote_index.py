"""The index of a segmentation that lives elsewhere, made once by reading it through.

Voxels can be shown as they are, but which blocks a body has, and how many voxels, is known only to an index. It is made
in steps, each a request that reads some blocks, enters what they hold and notes how far it came, in one transaction; so
it takes little memory, can be stopped at any time and goes on where it was. Until it is complete, whatever needs it
says so.

    class 23: (nothing), not versioned -> blocks that are entered u64, blocks in all u64

The rows belong to the version at which the instance was made, so all versions have them.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fascicle.datatypes.base import ANY_METHOD, Answer, Call, Change, Commit, Option, Reply, Route, Work
from fascicle.datatypes.elsewhere import is_elsewhere
from fascicle.datatypes.labelmap import blocks, counters
from fascicle.datatypes.labelmap.bodies import apply_counts
from fascicle.datatypes.labelmap.remote_labels import RemoteView
from fascicle.datatypes.labelmap.requests import indexed
from fascicle.datatypes.voxel_requests import Triple
from fascicle.errors import BadRequest, Unavailable
from fascicle.formats import label_block
from fascicle.formats.block_code import block_codes
from fascicle.store.base import ReadTransaction
from fascicle.versions import keys

U64 = NDArray[np.uint64]
U32 = NDArray[np.uint32]

PROGRESS = 23
_TWO = struct.Struct("<QQ")
STEP_BLOCKS = 512
MOST_STEP_BLOCKS = 4096
STEP_S = 20.0
"""A step ends after so long, however many blocks were asked for."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How much of a volume is in the index."""

    done: int = 0
    total: int = 0

    @property
    def complete(self) -> bool:
        return self.total > 0 and self.done >= self.total

    def as_json(self) -> dict[str, Any]:
        return {"blocks": self.total, "indexed": self.done, "complete": self.complete}


def read_progress(txn: ReadTransaction, instance_id: int) -> Progress:
    value = txn.get(keys.prefix(instance_id, PROGRESS))
    return Progress() if value is None else Progress(*_TWO.unpack(value))


# -- what needs an index


def check_index(call: Call) -> None:
    """Refuse what needs the index of a volume that has none yet."""
    if not is_elsewhere(call.instance.properties):
        return
    indexed(call)
    progress = read_progress(call.txn, call.instance.id)
    if progress.complete:
        return
    name = call.instance.name
    how = f'POST .../{name}/index-source, or "fascicle index", makes it'
    if not progress.done:
        raise BadRequest(
            f'data "{name}" shows a volume that lives elsewhere and has no index yet, '
            f'which "{call.keyword}" needs: {how}'
        )
    raise Unavailable(
        f'the index of data "{name}", which "{call.keyword}" needs, '
        f"has {progress.done} of {progress.total} blocks: {how}"
    )


Handler = Callable[[Call], Reply]


def _checked(handler: Handler, needed: Callable[[Call], bool]) -> Handler:
    def answer(call: Call) -> Reply:
        if "Described" in call.instance.properties and needed(call):
            check_index(call)
        return handler(call)

    return answer


def _guarded(
    routes: Iterable[Route], methods: Iterable[str], needed: Callable[[Call], bool]
) -> tuple[Route, ...]:
    wanted = frozenset(methods)
    return tuple(
        replace(
            route,
            handlers={
                method: _checked(handler, needed) if method in wanted else handler
                for method, handler in route.handlers.items()
            },
        )
        for route in routes
    )


def needing_index(routes: Iterable[Route]) -> tuple[Route, ...]:
    """Routes all of which need the index."""
    return _guarded(routes, ("GET", "HEAD", "POST", "PUT", "DELETE", ANY_METHOD), lambda call: True)


def where_bodies_are_found(routes: Iterable[Route]) -> tuple[Route, ...]:
    """Routes of the mapping: only to tell whether supervoxels exist takes the index."""
    return _guarded(
        routes, ("GET", "POST"), lambda call: call.keyword == "mapping" and not call.flag("nolookup")
    )


def where_voxels_change(routes: Iterable[Route]) -> tuple[Route, ...]:
    """Routes of voxels: to read them takes no index, but what is written changes it, so it must be there before."""
    return _guarded(routes, ("POST",), lambda call: bool(call.instance.properties.get("IndexedLabels", True)))


# -- making it


def _remote(call: Call) -> RemoteView:
    view = call.view
    if not isinstance(view, RemoteView):
        raise BadRequest(f'the voxels of data "{call.instance.name}" are stored here: their index is always there')
    indexed(call)
    return view


def get_progress(call: Call) -> Reply:
    """How much of the volume is in the index."""
    _remote(call)
    return Answer.json(read_progress(call.txn, call.instance.id).as_json())


def post_step(call: Call) -> Reply:
    """Enter the next blocks."""
    view = _remote(call)
    if call.settings.get("readonly"):
        raise BadRequest("this server is read-only")
    if call.instance.versioned and call.ancestry.version != call.instance.created_at_version:
        made_at = call.catalog.node(call.instance.created_at_version).uuid
        raise BadRequest(f"the index belongs to the version at which the instance was made: {made_at}")
    count = call.integer("blocks", STEP_BLOCKS)
    if not 1 <= count <= MOST_STEP_BLOCKS:
        raise BadRequest(f"the option 'blocks' must be from 1 to {MOST_STEP_BLOCKS}, not {count}")
    before = read_progress(call.txn, call.instance.id)
    within = view.remote.block_range(0)
    assert within is not None
    total = _count(within)
    if before.total not in (0, total):
        raise BadRequest(f"the volume has {total} blocks, but {before.total} when its index was begun")
    done, sv, block, voxels, greatest = _counted(view, within, before.done, min(count, total - before.done))

    def apply(change: Change) -> Progress:
        current = read_progress(change.txn, change.instance.id)
        if current != before:  # somebody else has taken this step
            return current
        apply_counts(change.view, sv, block, voxels)
        counters.raise_max_label(change, greatest)
        after = Progress(done, total)
        change.txn.put(keys.prefix(change.instance.id, PROGRESS), _TWO.pack(after.done, after.total))
        return after

    return Commit(apply, lambda progress: Answer.json(progress.as_json()))


def _count(within: tuple[Triple, Triple]) -> int:
    low, high = within
    x, y, z = (b - a + 1 for a, b in zip(low, high, strict=True))
    return x * y * z


def _blocks_from(within: tuple[Triple, Triple], first: int, count: int) -> Iterator[Triple]:
    """Blocks of a box by their number in the order z, y, x."""
    low, high = within
    width, height = high[0] - low[0] + 1, high[1] - low[1] + 1
    for number in range(first, first + count):
        rest, x = divmod(number, width)
        z, y = divmod(rest, height)
        yield low[0] + x, low[1] + y, low[2] + z


def _counted(
    view: RemoteView, within: tuple[Triple, Triple], first: int, count: int
) -> tuple[int, U64, U64, U32, int]:
    """(number of blocks that are done, supervoxels, blocks, voxels, greatest supervoxel) of the next blocks."""
    sv, block, voxels = [np.empty(0, np.uint64)], [np.empty(0, np.uint64)], [np.empty(0, np.uint32)]
    began = time.monotonic()
    done = first
    while done < first + count:
        part = list(_blocks_from(within, done, min(blocks.BATCH_BLOCKS, first + count - done)))
        codes = np.sort(block_codes(part))
        places, handles = blocks.find_blocks(view, 0, codes)
        batch = blocks.load_blocks(view, handles)
        if handles:
            tables, counts, starts = label_block.gather(batch.buffer, batch.offsets, batch.lengths, 0)
            present = tables != 0
            sv.append(tables[present])
            block.append(np.repeat(codes[places], np.diff(starts))[present])
            voxels.append(counts[present])
        done += len(part)
        if time.monotonic() - began > STEP_S:
            break
    together = np.concatenate(sv)
    greatest = int(together.max()) if len(together) else 0
    return done, together, np.concatenate(block), np.concatenate(voxels), greatest


ROUTES = (
    Route(
        "index-source",
        {"GET": get_progress, "POST": post_step},
        "For labels that live elsewhere: how many blocks of the volume are in the index. POST reads the next ones and "
        "enters them, at the version at which the instance was made; repeat it until `complete` is true.",
        options=(Option("blocks", f"POST, how many to enter at most, {STEP_BLOCKS} by default"),),
        work=Work.HEAVY,
        reads_by_post=True,
    ),
)
