"""Random edits of a labelmap: the request, and what it does to the model.

What the server chooses (ids, mutation numbers) is the outcome: a dictionary as the endpoints answer it. The record
in `/mutations` holds it as well, so that the effect of an edit whose answer was lost can be told.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

import lz4.block
import numpy as np

from proofreading import wire
from proofreading.model import State, World, box_of
from proofreading.queries import joined
from proofreading.wire import Block, Points, Volume
from serving import Client

Outcome = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Edit:
    """One request that changes an open version."""

    name: str
    uuid: str
    path: str
    body: bytes
    apply: Callable[[State, Outcome], State]
    status: int = 200
    recorded: bool = True
    """Leaves a record in `/mutations` that has the outcome."""
    needs_record: bool = False
    """The answer alone does not tell the outcome."""
    method: str = "POST"
    told_by: str = "/raw/"
    """How paths of questions begin that tell whether an edit without a record has happened."""

    def after(self, world: World, outcome: Outcome) -> World:
        return world if self.status != 200 else world.with_state(self.apply(world.versions[self.uuid], outcome))

    def __str__(self) -> str:
        shown = self.body[:200].decode() if self.body[:1] == b"[" else f"<{len(self.body)} bytes>"
        return f"{self.name} at {self.uuid[:6]}: {self.method} {self.path} {shown} -> {self.status}"


def perform(client: Client, edit: Edit, name: str = "seg") -> dict[str, Any]:
    """Send an edit of the instance `name`, which must be answered as it says; its outcome."""
    instance = f"/api/node/{edit.uuid}/{name}"
    reply = client.request(edit.method, instance + edit.path, edit.body)
    assert reply.status == edit.status, f"answered {reply.status}: {reply.body[:500]!r}"
    if edit.status != 200 or not edit.recorded:
        return {}
    outcome: dict[str, Any] = reply.json() if reply.body else {}
    if edit.needs_record:
        records = client.get(f"{instance}/mutations").expect().json()
        outcome = next(record for record in records if record["MutationID"] == outcome["MutationID"])
    return outcome


def refused(edit: Edit, name: str) -> Edit:
    """The edit as one that must be refused and change nothing."""
    return Edit(name, edit.uuid, edit.path, edit.body, lambda state, _: state, 400, False, method=edit.method)


def numbers(values: list[int]) -> bytes:
    return ("[" + ",".join(map(str, values)) + "]").encode()


# -- voxels ------------------------------------------------------------------------------------------------------


def blobs(random: Random, shape_zyx: tuple[int, int, int], labels: list[int]) -> Volume:
    """A volume of smooth regions of some labels with a little background and some stray voxels."""
    noise = np.random.default_rng(random.randrange(1 << 30))
    coarse = tuple(-(-side // 4) for side in shape_zyx)
    seeds = noise.random((len(labels), 3)) * coarse
    at = np.stack(np.meshgrid(*(np.arange(side) for side in coarse), indexing="ij"), -1)
    distance = ((at[..., None, :] - seeds) ** 2).sum(-1)
    nearest = np.array(labels, np.uint64)[distance.argmin(-1)]
    nearest[distance.min(-1) > random.choice([6.0, 30.0, 1e9])] = 0
    fine = nearest.repeat(4, 0).repeat(4, 1).repeat(4, 2)[: shape_zyx[0], : shape_zyx[1], : shape_zyx[2]]
    strays = noise.random(shape_zyx) < random.choice([0.0, 0.001, 0.02])
    fine[strays] = noise.choice(np.array([*labels, 0], np.uint64), int(strays.sum()))
    return np.ascontiguousarray(fine)


def paintable(random: Random, world: World, state: State, count: int) -> list[int]:
    """Supervoxels that may be written: live ones that are not retired, and ids that nobody used."""
    live = [supervoxel for supervoxel in state.supervoxel_sizes if state.body(supervoxel)]
    chosen = random.sample(live, min(len(live), count // 2))
    largest = world.largest_id
    while len(chosen) < count:
        largest += random.randrange(1, 6)
        chosen.append(largest)
    return chosen


def a_region(random: Random, grid: Block, most: int) -> tuple[Block, Block]:
    """First block and size in blocks of a region inside of a grid of blocks."""
    size = [random.randrange(1, min(most, side) + 1) for side in grid]
    low = [random.randrange(side - extent + 1) for side, extent in zip(grid, size, strict=True)]
    return (low[0], low[1], low[2]), (size[0], size[1], size[2])


def cut(array: Volume, first: Block, count: Block, edge: Block) -> dict[Block, Volume]:
    """The blocks of a volume that starts at block `first`."""
    return {
        (first[0] + x, first[1] + y, first[2] + z): array[
            z * edge[2] : (z + 1) * edge[2], y * edge[1] : (y + 1) * edge[1], x * edge[0] : (x + 1) * edge[0]
        ]
        for z in range(count[2])
        for y in range(count[1])
        for x in range(count[0])
    }


def painted(random: Random, world: World, state: State, first: Block, count: Block) -> Volume:
    """New content of a region of blocks: all new, or the old with something painted over."""
    edge = state.block_size
    size: Block = (count[0] * edge[0], count[1] * edge[1], count[2] * edge[2])
    offset: Block = (first[0] * edge[0], first[1] * edge[1], first[2] * edge[2])
    if random.random() < 0.1:
        return np.zeros(size[::-1], np.uint64)
    new = blobs(random, size[::-1], paintable(random, world, state, random.randrange(2, 12)))
    if random.random() < 0.5:
        return new
    old = state.box(offset, size, 0, True)
    retired = [label for label in np.unique(old).tolist() if label and not state.body(label)]
    keep = (np.random.default_rng(random.randrange(1 << 30)).random(size[::-1]) < 0.9) & ~np.isin(old, retired)
    return np.where(keep, old, new)


def post_raw(random: Random, world: World, state: State, grid: Block) -> Edit:
    first, count = a_region(random, grid, 3)
    array = painted(random, world, state, first, count)
    edge = state.block_size
    compression = random.choice(["", "lz4", "gzip"])
    data = array.astype("<u8").tobytes()
    body = {"": bytes, "lz4": lambda data: lz4.block.compress(data, store_size=False), "gzip": gzip.compress}[
        compression
    ](data)
    changed = cut(array, first, count, edge)
    size = joined(count[i] * edge[i] for i in range(3))
    offset = joined(first[i] * edge[i] for i in range(3))
    return Edit(
        "post raw",
        state.uuid,
        f"/raw/0_1_2/{size}/{offset}?compression={compression}" + "&mutate=true" * (random.random() < 0.5),
        body,  # type: ignore[arg-type]
        lambda state, _: state.with_blocks(changed, True),
        recorded=False,
    )


def post_blocks(random: Random, world: World, state: State, grid: Block) -> Edit:
    first, count = a_region(random, grid, 3)
    changed = cut(painted(random, world, state, first, count), first, count, state.block_size)
    if random.random() < 0.5:
        changed = dict(random.sample(list(changed.items()), max(1, len(changed) // 2)))
    downres = random.random() < 0.7
    return Edit(
        "post blocks",
        state.uuid,
        "/blocks?compression=blocks" + "&downres=true" * downres,
        wire.block_stream(changed),
        lambda state, _: state.with_blocks(changed, downres),
        recorded=False,
    )


# -- bodies ------------------------------------------------------------------------------------------------------


def merge(random: Random, world: World, state: State, grid: Block) -> Edit | None:
    bodies = list(state.index)
    if len(bodies) < 2:
        return None
    target, *others = random.sample(bodies, min(len(bodies), random.choice([2, 2, 3, 6])))
    listed = [target, *others, *(others if random.random() < 0.1 else [])]
    edit = Edit(
        "merge",
        state.uuid,
        "/merge?u=tester&app=proof",
        numbers(listed),
        lambda state, outcome: state.merged(target, others, outcome["MutationID"]),
    )
    if random.random() < 0.1:
        wrong = random.choice([[target], [target, *others, 0], [target, *others, target], [], [target, 1 << 60]])
        return refused(Edit("", state.uuid, "/merge", numbers(wrong), edit.apply), "bad merge")
    return edit


def cleave(random: Random, world: World, state: State, grid: Block) -> Edit | None:
    several = [body for body, supervoxels in state.supervoxels_of.items() if len(supervoxels) > 1]
    if not several:
        return None
    body = random.choice(several)
    supervoxels = state.supervoxels_of[body]
    chosen = random.sample(supervoxels, random.randrange(1, len(supervoxels)))
    edit = Edit(
        "cleave",
        state.uuid,
        f"/cleave/{body}?u=tester&app=proof",
        numbers(chosen),
        lambda state, outcome: state.cleaved(body, chosen, outcome["CleavedLabel"], outcome["MutationID"]),
    )
    if random.random() < 0.1:
        wrong = random.choice([supervoxels, [], [*chosen, 1 << 60]])
        return refused(Edit("", state.uuid, f"/cleave/{body}", numbers(wrong), edit.apply), "bad cleave")
    return edit


def renumber(random: Random, world: World, state: State, grid: Block) -> Edit | None:
    if not state.index:
        return None
    old = random.choice(list(state.index))
    free = [label for label in state.mapping if label not in state.index]
    new = random.choice(free) if free and random.random() < 0.4 else world.largest_id + random.randrange(1, 10)
    edit = Edit(
        "renumber",
        state.uuid,
        "/renumber?u=tester&app=proof",
        numbers([new, old]),
        lambda state, _: state.renumbered(new, old),
    )
    if random.random() < 0.1:
        wrong = random.choice([[old, old], [0, old], [new], [new, 1 << 60]])
        return refused(Edit("", state.uuid, "/renumber", numbers(wrong), edit.apply), "bad renumber")
    return edit


def part_of(random: Random, points: Points) -> Points:
    """Some but not all of at least two voxels: a half-space, a random choice, or all but one."""
    kind = random.random()
    if kind < 0.6:
        low, high = box_of(points)
        axis = random.randrange(3)
        chosen = points[:, 2 - axis] <= random.randrange(low[axis], high[axis] + 1)
    elif kind < 0.9:
        chosen = np.random.default_rng(random.randrange(1 << 30)).random(len(points)) < random.random()
    else:
        chosen = np.arange(len(points)) > 0
    if not chosen.any() or chosen.all():
        chosen = np.arange(len(points)) == 0
    return points[chosen]


def split_supervoxel(random: Random, world: World, state: State, grid: Block) -> Edit | None:
    large = [sv for sv, voxels in state.supervoxel_sizes.items() if voxels > 1 and state.body(sv)]
    if not large:
        return None
    supervoxel = random.choice(large)
    points = state.points(supervoxel, True)
    part = part_of(random, points)
    downres = random.random() < 0.8
    path = f"/split-supervoxel/{supervoxel}?u=tester&app=proof" + "&downres=false" * (not downres)
    if random.random() < 0.2:
        path += f"&split={world.largest_id + 3}&remain={world.largest_id + 2}"
    edit = Edit(
        "split supervoxel",
        state.uuid,
        path,
        wire.legacy_rles(part),
        lambda state, outcome: state.supervoxel_split(
            supervoxel,
            part,
            outcome["SplitSupervoxel"],
            outcome["RemainSupervoxel"],
            downres,
            outcome["MutationID"],
        ),
    )
    if random.random() < 0.1:
        body = random.choice(
            [wire.legacy_rles(points), wire.legacy_rles(points[:0]), wire.legacy_rles(part)[:-3], b"", b"\0\3"]
        )
        return refused(Edit("", state.uuid, path, body, edit.apply), "bad split of a supervoxel")
    return edit


def split_body(random: Random, world: World, state: State, grid: Block) -> Edit | None:
    large = [body for body in state.index if state.size(body) > 1]
    if not large:
        return None
    body = random.choice(large)
    part = part_of(random, state.points(body, False))

    def apply(state: State, outcome: Outcome) -> State:
        ids = {int(old): (pair["Split"], pair["Remain"]) for old, pair in outcome["SVSplits"].items()}
        return state.body_split(body, part, outcome["NewLabel"], ids, outcome["MutationID"])

    return Edit(
        "split body",
        state.uuid,
        f"/split/{body}?u=tester&app=proof",
        wire.legacy_rles(part),
        apply,
        needs_record=True,
    )


MAKERS: tuple[Callable[[Random, World, State, Block], Edit | None], ...] = (
    merge,
    merge,
    merge,
    cleave,
    cleave,
    split_supervoxel,
    split_supervoxel,
    renumber,
    post_raw,
    post_blocks,
    post_blocks,
    split_body,
)


def random_edit(random: Random, world: World, state: State, grid: Block) -> Edit:
    """An edit of an open version; something is written first."""
    if not state.index:
        return post_raw(random, world, state, grid)
    while (edit := random.choice(MAKERS)(random, world, state, grid)) is None:
        pass
    return edit
