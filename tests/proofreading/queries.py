"""Every read endpoint of the labelmap as a question with the answer that the model gives.

A `Query` knows how to turn a server's reply into something comparable and what that should be for a state: a status
other than 200, or the decoded content. Makers draw a random question about a state.
"""

from __future__ import annotations

import gzip
import json
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from random import Random
from typing import Any

import lz4.block
import numpy as np

from proofreading import wire
from proofreading.model import State, World
from proofreading.wire import Block, Points, Volume
from serving import Client, Reply

Bound = tuple[int | None, int | None]


@dataclass(frozen=True, slots=True)
class Query:
    """One question. `path` follows the instance's name."""

    path: str
    expect: Callable[[State], Any]
    parse: Callable[[Reply], Any]
    body: bytes = b""
    method: str = "GET"

    def ask(self, client: Client, instance: str) -> Any:
        """What the server at `instance` (its path with the version) answers, in comparable form."""
        return self.content(client.request(self.method, instance + self.path, self.body))

    def content(self, reply: Reply) -> Any:
        return reply.status if reply.status != 200 else self.parse(reply)

    def __str__(self) -> str:
        return f"{self.method} {self.path}" + (f" {self.body[:300].decode(errors='replace')}" if self.body else "")


def difference(question: Query, state: State, expected: Any, answer: Any) -> str:
    """What a person needs to see of a wrong answer."""

    def shown(value: Any) -> str:
        text = repr(value)
        return text if len(text) < 1500 else text[:1500] + f"... ({len(text)} characters)"

    if isinstance(expected, list) and isinstance(answer, list):  # of long lists only what differs
        expected, answer = (
            [one for one in expected if one not in answer] or expected,
            [one for one in answer if one not in expected] or answer,
        )
    return f"at {state.uuid[:6]}: {question}\n  expected {shown(expected)}\n  answered {shown(answer)}"


# -- drawing -----------------------------------------------------------------------------------------------------


def a_body(random: Random, state: State) -> int:
    """Mostly a body, sometimes a supervoxel, a retired id or an unknown one."""
    if state.index and random.random() < 0.85:
        return random.choice(list(state.index))
    return an_id(random, state)


def an_id(random: Random, state: State) -> int:
    known = [*state.supervoxel_sizes, *state.mapping]
    if known and random.random() < 0.85:
        return random.choice(known)
    return random.randrange(1, (state.max_label or 0) + 1000)


def a_supervoxel(random: Random, state: State) -> int:
    if state.supervoxel_sizes and random.random() < 0.85:
        return random.choice(list(state.supervoxel_sizes))
    return an_id(random, state)


def extent(state: State, scale: int) -> Block:
    """Voxels (x, y, z) after which a scale is empty."""
    blocks = list(state.scales[scale]) or [(0, 0, 0)]
    x, y, z = (max(block[i] + 1 for block in blocks) * state.block_size[i] for i in range(3))
    return x, y, z


def a_box(random: Random, state: State, scale: int) -> tuple[Block, Block]:
    """Offset and size of a box that may stick out of the volume a little."""
    low, size = [], []
    for end in extent(state, scale):
        first = random.randrange(-8, end)
        low.append(first)
        size.append(random.randrange(1, min(80, end + 8 - first) + 1))
    return (low[0], low[1], low[2]), (size[0], size[1], size[2])


def some_blocks(random: Random, state: State, scale: int) -> tuple[Block, Block]:
    """Offset and size in voxels of a box of whole blocks."""
    low, size = [], []
    for end, edge in zip(extent(state, scale), state.block_size, strict=True):
        first = random.randrange(-1, end // edge + 1)
        low.append(first * edge)
        size.append(random.randrange(1, end // edge + 2 - first + 1) * edge)
    return (low[0], low[1], low[2]), (size[0], size[1], size[2])


def a_scale(random: Random, state: State) -> int:
    return random.choice([0, 0, *range(len(state.scales))])


def joined(values: Iterable[int]) -> str:
    return "_".join(map(str, values))


def some_bounds(random: Random, state: State, scale: int) -> tuple[list[Bound], str]:
    """Bounds in voxels of a scale, some of them open, and as a query."""
    bounds: list[Bound] = []
    words = []
    for axis, end in zip("xyz", extent(state, scale), strict=True):
        low = random.randrange(-10, end) if random.random() < 0.4 else None
        high = random.randrange(low or 0, end + 10) if random.random() < 0.4 else None
        bounds.append((low, high))
        words += [f"&min{axis}={low}"] if low is not None else []
        words += [f"&max{axis}={high}"] if high is not None else []
    return bounds, "".join(words)


def dense(array: Volume) -> tuple[tuple[int, ...], bytes]:
    return array.shape, array.astype("<u8").tobytes()


def voxels_of(points: Points) -> tuple[int, bytes]:
    return len(points), points.astype("<i8").tobytes()


# -- makers ------------------------------------------------------------------------------------------------------


def raw(random: Random, state: State) -> Query:
    scale, supervoxels = a_scale(random, state), random.random() < 0.5
    offset, size = a_box(random, state, scale)
    compression = random.choice(["", "", "lz4", "gzip"])
    size_bytes = 8 * size[0] * size[1] * size[2]

    def parse(reply: Reply) -> Any:
        data = reply.body
        if compression == "lz4":
            data = lz4.block.decompress(data, uncompressed_size=size_bytes)
        elif compression == "gzip":
            data = gzip.decompress(data)
        assert len(data) == size_bytes, f"{len(data)} bytes instead of {size_bytes}"
        return size[::-1], data

    path = f"/raw/0_1_2/{joined(size)}/{joined(offset)}?scale={scale}" + "&supervoxels=true" * supervoxels
    return Query(
        path + (f"&compression={compression}" if compression else ""),
        lambda state: dense(state.box(offset, size, scale, supervoxels)),
        parse,
    )


def decoded_blocks(reply: Reply, compression: str, size: Block, allow_repeats: bool = False) -> dict[Block, Any]:
    """The blocks of a stream as dense arrays."""
    found: dict[Block, Any] = {}
    shape = size[::-1]
    for block, payload in wire.split_stream(reply.body):
        if compression == "blocks":
            array = wire.decode_label_block(gzip.decompress(payload))
            assert array.shape == shape
        else:
            if compression == "lz4":
                payload = lz4.block.decompress(payload, uncompressed_size=8 * size[0] * size[1] * size[2])
            elif compression == "gzip":
                payload = gzip.decompress(payload)
            array = np.frombuffer(payload, "<u8").reshape(shape)
        assert allow_repeats or block not in found, f"block {block} comes twice"
        found[block] = dense(array)
    return found


def blocks(random: Random, state: State) -> Query:
    scale, supervoxels = a_scale(random, state), random.random() < 0.5
    offset, size = some_blocks(random, state, scale)
    compression = random.choice(["", "blocks", "blocks", "blocks", "lz4", "gzip", "uncompressed"])

    def expect(state: State) -> Any:
        edge = state.block_size
        return {
            block: dense(state.labels(voxels, supervoxels))
            for block, voxels in state.scales[scale].items()
            if all(offset[i] <= block[i] * edge[i] < offset[i] + size[i] for i in range(3))
        }

    path = f"/blocks/{joined(size)}/{joined(offset)}?scale={scale}" + "&supervoxels=true" * supervoxels
    block_size = state.block_size
    return Query(
        path + (f"&compression={compression}" if compression else ""),
        expect,
        lambda reply: decoded_blocks(reply, compression or "lz4", block_size),
    )


def specific_blocks(random: Random, state: State) -> Query:
    scale, supervoxels = a_scale(random, state), random.random() < 0.5
    known = list(state.scales[scale])
    wanted = [*({random.choice(known) for _ in range(4)} if known else ()), (99, 0, 3)]
    random.shuffle(wanted)
    numbers = ",".join(str(number) for block in wanted for number in block)
    block_size = state.block_size

    def expect(state: State) -> Any:
        stored = state.scales[scale]
        return {block: dense(state.labels(stored[block], supervoxels)) for block in wanted if block in stored}

    return Query(
        f"/specificblocks?blocks={numbers}&scale={scale}" + "&supervoxels=true" * supervoxels,
        expect,
        lambda reply: decoded_blocks(reply, "blocks", block_size),
    )


def labels(random: Random, state: State) -> Query:
    scale, supervoxels = a_scale(random, state), random.random() < 0.5
    end = extent(state, scale)
    points = [tuple(random.randrange(-3, side + 3) for side in end) for _ in range(random.randrange(30))]
    return Query(
        f"/labels?scale={scale}" + "&supervoxels=true" * supervoxels,
        lambda state: [state.label_at(point, scale, supervoxels) for point in points],  # type: ignore[arg-type]
        Reply.json,
        json.dumps(points).encode(),
    )


def label(random: Random, state: State) -> Query:
    scale, supervoxels = a_scale(random, state), random.random() < 0.5
    x, y, z = (random.randrange(side) for side in extent(state, scale))
    return Query(
        f"/label/{x}_{y}_{z}?scale={scale}" + "&supervoxels=true" * supervoxels,
        lambda state: {"Label": state.label_at((x, y, z), scale, supervoxels)},
        Reply.json,
    )


def supervoxel_status(state: State, supervoxel: int) -> int:
    """200, or how a question about a supervoxel fails: 400 if it is retired, 404 if it is not there."""
    if state.body(supervoxel) == 0:
        return 400
    return 200 if supervoxel in state.supervoxel_sizes else 404


def size(random: Random, state: State) -> Query:
    if random.random() < 0.5:
        body = a_body(random, state)
        return Query(
            f"/size/{body}",
            lambda state: {"voxels": state.size(body)} if body in state.index else 404,
            Reply.json,
        )
    supervoxel = a_supervoxel(random, state)

    def expect(state: State) -> Any:
        status = supervoxel_status(state, supervoxel)
        return {"voxels": state.supervoxel_sizes[supervoxel]} if status == 200 else status

    return Query(f"/size/{supervoxel}?supervoxels=true", expect, Reply.json)


def sizes(random: Random, state: State) -> Query:
    if random.random() < 0.5:
        bodies = [a_body(random, state) for _ in range(10)]
        return Query(
            "/sizes",
            lambda state: [state.size(body) for body in bodies],
            Reply.json,
            json.dumps(bodies).encode(),
        )
    ids = [a_supervoxel(random, state) for _ in range(10)]
    return Query(
        "/sizes?supervoxels=true",
        lambda state: [state.supervoxel_sizes.get(sv, 0) if state.body(sv) else 0 for sv in ids],
        Reply.json,
        json.dumps(ids).encode(),
    )


def supervoxels(random: Random, state: State) -> Query:
    body = a_body(random, state)
    return Query(
        f"/supervoxels/{body}",
        lambda state: state.supervoxels_of.get(body, 404),
        lambda reply: sorted(reply.json()),
    )


def supervoxel_sizes(random: Random, state: State) -> Query:
    body = a_body(random, state)

    def parse(reply: Reply) -> Any:
        answer = reply.json()
        return dict(zip(answer["supervoxels"], answer["sizes"], strict=True))

    return Query(
        f"/supervoxel-sizes/{body}",
        lambda state: (
            {sv: state.supervoxel_sizes[sv] for sv in state.supervoxels_of[body]} if body in state.index else 404
        ),
        parse,
    )


def index(random: Random, state: State) -> Query:
    body = a_body(random, state)
    return Query(
        f"/index/{body}",
        lambda state: (body, state.index[body]) if body in state.index else 404,
        lambda reply: wire.decode_label_index(reply.body),
    )


def indices(random: Random, state: State) -> Query:
    bodies = [a_body(random, state) for _ in range(5)]

    def parse(reply: Reply) -> Any:
        return [wire.decode_label_index(message) for _, message in wire.fields(reply.body)]  # type: ignore[arg-type]

    return Query(
        "/indices",
        lambda state: [(body, state.index.get(body, {})) for body in bodies],
        parse,
        json.dumps(bodies).encode(),
    )


def compressed_indices(random: Random, state: State) -> Query:
    bodies = [a_body(random, state) for _ in range(5)]

    def parse(reply: Reply) -> Any:
        found, at, data = [], 0, reply.body
        while at < len(data):
            length, body = struct.unpack_from("<2Q", data, at)
            at += 16
            value = data[at : at + length]
            at += length
            if length:
                assert value[0] == 0x80, f"an envelope {value[0]:#x}"
                value = lz4.block.decompress(value[5:], uncompressed_size=struct.unpack_from("<I", value, 1)[0])
                told, counts = wire.decode_label_index(value)
                assert told == body
                found.append((body, counts))
            else:
                found.append((body, {}))
        return found

    return Query(
        "/indices-compressed",
        lambda state: [(body, state.index.get(body, {})) for body in bodies],
        parse,
        json.dumps(bodies).encode(),
    )


def sparse_answer(state: State, label: int, supervoxels: bool, scale: int, bounds: list[Bound], exact: bool) -> Any:
    """What a sparse volume's endpoint should say."""
    if supervoxels and (status := supervoxel_status(state, label)) != 200:
        return status
    blocks = state.sparse_blocks(label, supervoxels, scale, bounds)
    if not blocks:
        return 404
    points = state.points(label, supervoxels, scale, blocks)
    if exact:
        for column, (low, high) in zip((2, 1, 0), bounds, strict=True):
            if low is not None:
                points = points[points[:, column] >= low]
            if high is not None:
                points = points[points[:, column] <= high]
    return voxels_of(points)


def sparse_volume(random: Random, state: State) -> Query:
    by_supervoxel = random.random() < 0.35
    label = a_supervoxel(random, state) if by_supervoxel else a_body(random, state)
    scale = a_scale(random, state)
    bounds, words = some_bounds(random, state, scale) if random.random() < 0.6 else ([(None, None)] * 3, "")
    form = random.choice(["rles", "rles", "srles", "blocks"])
    exact = random.random() < 0.7
    compression = random.choice(["", "", "lz4", "gzip"]) if form == "rles" else ""

    def parse(reply: Reply) -> Any:
        data = reply.body
        if compression == "gzip" and data:
            data = gzip.decompress(data)
        elif compression == "lz4" and data:
            data = lz4.block.decompress(data, uncompressed_size=255 * len(data) + 64)
        if form == "rles":
            return voxels_of(wire.points_of_legacy_rles(data))
        return voxels_of(wire.points_of_runs(data) if form == "srles" else wire.points_of_binary_blocks(data, label))

    path = f"/sparsevol/{label}?format={form}&scale={scale}" + "&supervoxels=true" * by_supervoxel + words
    path += ("" if exact else "&exact=false") + (f"&compression={compression}" if compression else "")
    clips = exact and form != "blocks"
    return Query(path, lambda state: sparse_answer(state, label, by_supervoxel, scale, bounds, clips), parse)


def sparse_volume_by_point(random: Random, state: State) -> Query:
    x, y, z = (random.randrange(side) for side in extent(state, 0))
    by_supervoxel = random.random() < 0.5

    def expect(state: State) -> Any:
        label = state.label_at((x, y, z), 0, by_supervoxel)
        return sparse_answer(state, label, by_supervoxel, 0, [(None, None)] * 3, True) if label else 400

    return Query(
        f"/sparsevol-by-point/{x}_{y}_{z}" + "?supervoxels=true" * by_supervoxel,
        expect,
        lambda reply: voxels_of(wire.points_of_legacy_rles(reply.body)),
    )


def sparse_volume_exists(random: Random, state: State) -> Query:
    body = a_body(random, state)
    bounds, words = some_bounds(random, state, 0)
    return Query(
        f"/sparsevol/{body}?app=test{words}",
        lambda state: "yes" if state.sparse_blocks(body, False, 0, bounds) else 204,
        lambda _: "yes",
        method="HEAD",
    )


def coarse(random: Random, state: State) -> Query:
    by_supervoxel = random.random() < 0.3
    label = a_supervoxel(random, state) if by_supervoxel else a_body(random, state)
    bounds, words = some_bounds(random, state, 0) if random.random() < 0.5 else ([(None, None)] * 3, "")

    def expect(state: State) -> Any:
        if by_supervoxel and (status := supervoxel_status(state, label)) != 200:
            return status
        if not state.blocks_of(label, by_supervoxel):
            return 404
        return [tuple(block) for block in state.sparse_blocks(label, by_supervoxel, 0, bounds)]

    def parse(reply: Reply) -> Any:
        assert len(reply.body) >= 12, "no header"
        return [tuple(point[::-1]) for point in wire.points_of_legacy_rles(reply.body).tolist()]

    return Query(f"/sparsevol-coarse/{label}?u=test" + "&supervoxels=true" * by_supervoxel + words, expect, parse)


def coarse_range(random: Random, state: State) -> Query:
    first = a_body(random, state)
    last = first + random.randrange(20)

    def expect(state: State) -> Any:
        return [
            (body, sorted(state.index[body], key=lambda block: block[::-1]))
            for body in sorted(state.index)
            if first <= body <= last
        ]

    def parse(reply: Reply) -> Any:
        found, at, data = [], 0, reply.body
        while at < len(data):
            body, runs = struct.unpack_from("<QI", data, at)
            at += 12
            points = wire.points_of_runs(data[at : at + 16 * runs])
            found.append((body, [tuple(point[::-1]) for point in points.tolist()]))
            at += 16 * runs
        return found

    return Query(f"/sparsevols-coarse/{first}/{last}", expect, parse)


def sparse_size(random: Random, state: State) -> Query:
    by_supervoxel = random.random() < 0.3
    label = a_supervoxel(random, state) if by_supervoxel else a_body(random, state)

    def expect(state: State) -> Any:
        if by_supervoxel and (status := supervoxel_status(state, label)) != 200:
            return status
        blocks = state.blocks_of(label, by_supervoxel)
        if not blocks:
            return 404
        edge = state.block_size
        low = [min(block[i] for block in blocks) * edge[i] for i in range(3)]
        high = [(max(block[i] for block in blocks) + 1) * edge[i] - 1 for i in range(3)]
        voxels = state.supervoxel_sizes[label] if by_supervoxel else state.size(label)
        return f'{{"voxels": {voxels}, "numblocks": {len(blocks)}, "minvoxel": {low}, "maxvoxel": {high}}}'

    return Query(
        f"/sparsevol-size/{label}" + "?supervoxels=true" * by_supervoxel,
        expect,
        lambda reply: reply.body.decode(),
    )


def mapping(random: Random, state: State) -> Query:
    ids = [an_id(random, state) for _ in range(20)]
    nolookup = random.random() < 0.3

    def expect(state: State) -> Any:
        return [state.mapping.get(sv, sv if nolookup or sv in state.supervoxel_sizes else 0) for sv in ids]

    return Query("/mapping" + "?nolookup=true" * nolookup, expect, Reply.json, json.dumps(ids).encode())


def mappings(random: Random, state: State) -> Query:
    binary = random.random() < 0.5

    def parse(reply: Reply) -> Any:
        if binary:
            pairs = np.frombuffer(reply.body, "<u8").reshape(-1, 2).tolist()
        else:
            pairs = [[int(word) for word in line.split()] for line in reply.body.decode().splitlines()]
        found = dict(map(tuple, pairs))
        assert len(found) == len(pairs), "an id that comes twice"
        return found

    return Query(
        "/mappings" + "?format=binary" * binary,
        lambda state: {sv: body for sv, body in state.mapping.items() if sv != body},
        parse,
    )


def list_labels(random: Random, state: State) -> Query:
    start = random.choice([0, a_body(random, state)])
    number = random.choice([None, None, 0, 1, 5])
    with_sizes = random.random() < 0.5

    def expect(state: State) -> Any:
        bodies = [body for body in sorted(state.index) if body >= start][:number]
        return [number for body in bodies for number in ((body, state.size(body)) if with_sizes else (body,))]

    path = f"/listlabels?start={start}" + ("" if number is None else f"&number={number}")
    return Query(path + "&sizes=true" * with_sizes, expect, lambda reply: np.frombuffer(reply.body, "<u8").tolist())


def existing_labels(random: Random, state: State) -> Query:
    return Query("/existing-labels", lambda state: sorted(state.index), Reply.json)


def max_label(random: Random, state: State) -> Query:
    return Query(
        "/maxlabel", lambda state: 400 if state.max_label is None else {"maxlabel": state.max_label}, Reply.json
    )


def last_modification(random: Random, state: State) -> Query:
    body = a_body(random, state)

    def expect(state: State) -> Any:
        return (Known(state.edited_by.get(body)), True) if body in state.index else 404

    def parse(reply: Reply) -> Any:
        answer = reply.json()
        names = {"mutation id", "last mod user", "last mod app", "last mod time"}
        return answer["mutation id"], set(answer) == names

    return Query(f"/lastmod/{body}", expect, parse)


@dataclass(frozen=True)
class Known:
    """Equal to its value, or to everything if it is not known."""

    value: int | None

    def __eq__(self, other: object) -> bool:
        return self.value is None or self.value == other

    def __hash__(self) -> int:
        return 0


def supervoxel_splits(random: Random, state: State) -> Query:
    def expect(state: State) -> Any:
        return [
            item
            for uuid, splits in state.splits
            for item in (uuid, sorted([split.mutation_id, split.old, split.remain, split.split] for split in splits))
        ]

    return Query(
        "/supervoxel-splits",
        expect,
        lambda reply: [sorted(item) if isinstance(item, list) else item for item in reply.json()],
    )


def mutations(random: Random, state: State) -> Query:
    return Query(
        "/mutations",
        lambda state: [(action, Known(mutation_id)) for action, mutation_id in state.actions],
        lambda reply: [(record["Action"].removesuffix("-complete"), record["MutationID"]) for record in reply.json()],
    )


MAKERS: tuple[Callable[[Random, State], Query], ...] = (
    raw,
    blocks,
    specific_blocks,
    labels,
    label,
    size,
    sizes,
    supervoxels,
    supervoxel_sizes,
    index,
    indices,
    compressed_indices,
    sparse_volume,
    sparse_volume,
    sparse_volume,
    sparse_volume_by_point,
    sparse_volume_exists,
    coarse,
    coarse_range,
    sparse_size,
    mapping,
    mappings,
    list_labels,
    existing_labels,
    max_label,
    last_modification,
    supervoxel_splits,
    mutations,
)


def next_label(world: World) -> Query:
    """The instance's next id, which is the same at all versions."""
    return Query("/nextlabel", lambda _: {"nextlabel": world.largest_id + 1}, Reply.json)


def whole_state(state: State) -> list[Query]:
    """Questions that together tell all of a state: voxels of every scale, index, mapping, splits and records."""
    random = Random(0)
    questions = []
    for scale in range(len(state.scales)):
        end = extent(state, scale)
        for words in ("", "&supervoxels=true"):
            questions.append(
                Query(
                    f"/raw/0_1_2/{joined(end)}/0_0_0?scale={scale}{words}",
                    lambda state, end=end, scale=scale, words=words: dense(  # type: ignore[misc]
                        state.box((0, 0, 0), end, scale, bool(words))
                    ),
                    lambda reply, end=end: (end[::-1], reply.body),  # type: ignore[misc]
                )
            )
    bodies = sorted(state.index)
    questions.append(
        Query(
            "/indices",
            lambda state: [(body, state.index.get(body, {})) for body in bodies],
            lambda reply: [wire.decode_label_index(message) for _, message in wire.fields(reply.body)],  # type: ignore[arg-type]
            json.dumps(bodies).encode(),
        )
    )
    questions.append(
        Query("/sizes", lambda state: [state.size(body) for body in bodies], Reply.json, json.dumps(bodies).encode())
    )
    questions += [
        maker(random, state) for maker in (existing_labels, mappings, max_label, supervoxel_splits, mutations)
    ]
    questions += [
        Query(
            f"/sparsevol/{body}",
            lambda state, body=body: sparse_answer(state, body, False, 0, [(None, None)] * 3, True),  # type: ignore[misc]
            lambda reply: voxels_of(wire.points_of_legacy_rles(reply.body)),
        )
        for body in bodies[:5]
    ]
    return questions
