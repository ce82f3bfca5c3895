"""Annotations that follow the labelmap and counts that follow them, by brute force: what elements there are, where.

The elements of a version belong to its `State`; bodies, tags, blocks and counts are derived by looking at every one.
The annotation instance is called as the labelmap with `-points` behind it, the counts with `-counts`, those of what
lies in a region with `-inside`: paths of edits and questions here begin with that. Lists are compared as sets, since
the order within them means nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from random import Random
from typing import Any

from proofreading.edits import Edit, refused
from proofreading.model import State, World
from proofreading.queries import Query, a_body, joined
from proofreading.wire import Block
from serving import Client, Reply, new_instance

POINTS, COUNTS, INSIDE = "-points", "-counts", "-inside"
REGION_BLOCK = 16
"""Edge of the blocks of the region, which is a checkerboard: those with an even sum of x, y, z."""
REGION_SIDE = 6
"""How many blocks the region has along x, y and z."""
KINDS = ("Unknown", "PostSyn", "PreSyn", "Gap", "Note")
SYNAPTIC = ("PostSyn", "PreSyn", "Gap")
COUNTED = ("PostSyn", "PreSyn", "Gap", "Note", "AllSyn", "Voxels")
RELATIONS = ("UnknownRelationship", "PostSynTo", "PreSynTo", "ConvergentTo", "GroupedWith")
TAGS = ("t1", "t2", "user:ann", "to split", "é", "t")
PROPERTIES = ("conf", "note", "ü")
MOST_ELEMENTS = 80

Element = dict[str, Any]
"""`Kind`, `Tags`, `Prop`, and `Rels` as pairs (relation, place). Never changed once it is in a state."""
Elements = dict[Block, Element]


def new_followers(client: Client, uuid: str, name: str) -> None:
    """The instances that follow a labelmap."""
    edge = f"{REGION_BLOCK},{REGION_BLOCK},{REGION_BLOCK}"
    region = new_instance(client, uuid, "roi", name + "-region", BlockSize=edge)
    side = range(REGION_SIDE)
    spans = [[z, y, x, x] for z in side for y in side for x in side if (x + y + z) % 2 == 0]
    client.post(f"{region}/roi", spans).expect()
    for typename, suffix, followed, settings in (
        ("annotation", POINTS, name, {}),
        ("labelsz", COUNTS, name + POINTS, {}),
        ("labelsz", INSIDE, name + POINTS, {"ROI": f"{name}-region,{uuid}"}),
    ):
        path = new_instance(client, uuid, typename, name + suffix, **settings)
        client.post(f"{path}/sync", {"sync": followed}).expect()


# -- derived ------------------------------------------------------------------------------------------------------


def block_of(state: State, place: Block) -> Block:
    x, y, z = (at // edge for at, edge in zip(place, state.block_size, strict=True))
    return x, y, z


def in_body(state: State, body: int) -> list[Block]:
    return [place for place in state.elements if body and state.label_at(place, 0, False) == body]


def with_tag(state: State, tag: str) -> list[Block]:
    return [place for place, element in state.elements.items() if tag in element["Tags"]]


def in_region(place: Block) -> bool:
    block = [at // REGION_BLOCK for at in place]
    return all(0 <= at < REGION_SIDE for at in block) and sum(block) % 2 == 0


def counts(state: State, kind: str, suffix: str = COUNTS) -> dict[int, int]:
    """How many elements of a kind each body has, for those that have any: everywhere or in the region."""
    found: dict[int, int] = {}
    for place, element in state.elements.items():
        if suffix == INSIDE and not in_region(place):
            continue
        if element["Kind"] == kind or (kind == "AllSyn" and element["Kind"] in SYNAPTIC):
            body = state.label_at(place, 0, False)
            if body:
                found[body] = found.get(body, 0) + 1
    return found


def ranked(state: State, kind: str, suffix: str = COUNTS) -> list[dict[str, int]]:
    """Bodies by count, then by label."""
    return [
        {"Label": body, "Size": count}
        for body, count in sorted(counts(state, kind, suffix).items(), key=lambda item: (-item[1], item[0]))
    ]


# -- as they are shown --------------------------------------------------------------------------------------------


def plain(place: Block, element: Element) -> dict[str, Any]:
    return {"Pos": list(place), "Kind": element["Kind"], "Tags": element["Tags"], "Prop": element["Prop"]}


def whole(place: Block, element: Element) -> dict[str, Any]:
    return plain(place, element) | {"Rels": [{"Rel": name, "To": list(to)} for name, to in element["Rels"]]}


def verbose(state: State, place: Block, element: Element) -> dict[str, Any]:
    relations = []
    for name, to in element["Rels"]:
        told: dict[str, Any] = {"Rel": name, "To": list(to)}
        partner = state.elements.get(to)
        if partner is not None:
            if partner["Kind"] != "Unknown":
                told["Kind"] = partner["Kind"]
            told |= {member: partner[member] for member in ("Tags", "Prop") if partner[member]}
        relations.append(told)
    return plain(place, element) | {"Rels": relations}


def listed(state: State, places: Iterable[Block], form: str) -> list[dict[str, Any]]:
    """Elements in one of the three forms, by place."""
    shown: list[dict[str, Any]] = []
    for place in sorted(places):
        element = state.elements[place]
        if form == "verbose":
            shown.append(verbose(state, place, element))
        else:
            shown.append(whole(place, element) if form == "true" else plain(place, element))
    return shown


def by_place(elements: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(elements, key=lambda element: element["Pos"])


def by_block(state: State, wanted: Callable[[Block], bool]) -> list[tuple[str, list[dict[str, Any]]]]:
    """Blocks in order of z, y, x with their elements; also those that are empty again."""
    return [
        (
            ",".join(map(str, block)),
            listed(state, [place for place in state.elements if block_of(state, place) == block], "true"),
        )
        for block in sorted(state.element_blocks, key=lambda block: block[::-1])
        if wanted(block)
    ]


def parse_blocks(reply: Reply) -> list[tuple[str, list[dict[str, Any]]]]:
    return [(name, by_place(elements)) for name, elements in reply.json().items()]


# -- edits --------------------------------------------------------------------------------------------------------


def with_posted(state: State, posted: dict[Block, Element]) -> State:
    return replace(
        state,
        elements=state.elements | posted,
        element_blocks=state.element_blocks | {block_of(state, place) for place in posted},
    )


def redirected(state: State, elements: Elements, blocks: set[Block], place: Block, target: Block | None) -> Elements:
    """Relations to a place, of the elements in some blocks and of the one that moved, taken away or led to another."""
    changed: Elements = {}
    for at, element in elements.items():
        relations = element["Rels"]
        if (at == target or block_of(state, at) in blocks) and any(to == place for _, to in relations):
            if target is None:
                relations = [(name, to) for name, to in relations if to != place]
            else:
                relations = [(name, target if to == place else to) for name, to in relations]
            element = element | {"Rels": relations}
        changed[at] = element
    return changed


def related_blocks(state: State, place: Block) -> set[Block]:
    return {block_of(state, place), *(block_of(state, to) for _, to in state.elements[place]["Rels"])}


def without(state: State, place: Block) -> State:
    left = {at: element for at, element in state.elements.items() if at != place}
    return replace(state, elements=redirected(state, left, related_blocks(state, place), place, None))


def moved(state: State, place: Block, target: Block) -> State:
    if place == target:
        return state
    blocks = related_blocks(state, place)
    elements = {at: element for at, element in state.elements.items() if at != place}
    elements[target] = state.elements[place]
    return replace(
        state,
        elements=redirected(state, elements, blocks, place, target),
        element_blocks=state.element_blocks | {block_of(state, target)},
    )


def a_place(random: Random, state: State, grid: Block) -> Block:
    """A voxel: mostly in the volume, or beside another element, sometimes outside or at negative coordinates."""
    if state.elements and random.random() < 0.35:
        near = random.choice(list(state.elements))
        x, y, z = (at + random.randrange(-3, 4) for at in near)
        return x, y, z
    low = -40 if random.random() < 0.15 else 0
    x, y, z = (
        random.randrange(low, side * edge + (20 if low else 0))
        for side, edge in zip(grid, state.block_size, strict=True)
    )
    return x, y, z


def an_element(random: Random, state: State, place: Block, grid: Block) -> Element:
    others = [at for at in state.elements if at != place]
    relations = []
    for _ in range(random.choice([0, 0, 1, 1, 2])):
        to = random.choice(others) if others and random.random() < 0.8 else a_place(random, state, grid)
        if to != place:
            relations.append((random.choice(RELATIONS), to))
    return {
        "Kind": random.choice(KINDS),
        "Tags": random.sample(TAGS, random.choice([0, 0, 1, 2])),
        "Prop": {name: str(random.randrange(9)) for name in random.sample(PROPERTIES, random.choice([0, 1, 2]))},
        "Rels": relations,
    }


def post_elements(random: Random, world: World, state: State, grid: Block) -> Edit | None:
    if len(state.elements) > MOST_ELEMENTS:
        return None
    posted: dict[Block, Element] = {}
    for _ in range(random.choice([1, 2, 5, 12])):
        if state.elements and random.random() < 0.3:
            place = random.choice(list(state.elements))
        else:
            place = a_place(random, state, grid)
        posted[place] = an_element(random, state, place, grid)
    for _ in range(len(posted) // 2):  # partners that know of each other
        one, other = random.sample(list(posted), 2)
        posted[one]["Rels"].append(("PreSynTo", other))
        posted[other]["Rels"].append(("PostSynTo", one))
    body = []
    for place, element in posted.items():
        told = whole(place, element)
        if random.random() < 0.1:  # of two at one place the last one counts
            body.append(told | {"Kind": "Gap", "Tags": ["t2"], "Rels": []})
        body.append({name: value for name, value in told.items() if value or random.random() < 0.5})
    edit = Edit(
        "post elements",
        state.uuid,
        f"{POINTS}/elements?u=tester",
        json.dumps(body).encode(),
        lambda state, _: with_posted(state, posted),
        recorded=False,
        told_by=f"{POINTS}/all-elements",
    )
    if random.random() < 0.1:
        wrong = random.choice([{"Kind": "Synapse"}, {"Prop": {"conf": 1}}, {"Tags": [""]}, {"Pos": [1, 2, 1 << 31]}])
        bad = json.dumps([*body, {"Pos": [1, 2, 3]} | wrong]).encode()
        return refused(replace(edit, body=bad), "bad post of elements")
    return edit


def delete_element(random: Random, world: World, state: State, grid: Block) -> Edit | None:
    if not state.elements:
        return None
    place = random.choice(list(state.elements))
    edit = Edit(
        "delete element",
        state.uuid,
        f"{POINTS}/element/{joined(place)}",
        b"",
        lambda state, _: without(state, place),
        recorded=False,
        method="DELETE",
        told_by=f"{POINTS}/all-elements",
    )
    nobody = a_place(random, state, grid)
    if random.random() < 0.1 and nobody not in state.elements:
        return refused(replace(edit, path=f"{POINTS}/element/{joined(nobody)}"), "delete nothing")
    return edit


def move_element(random: Random, world: World, state: State, grid: Block) -> Edit | None:
    if not state.elements:
        return None
    place = random.choice(list(state.elements))
    kind = random.random()
    if kind < 0.15:
        target = random.choice(list(state.elements))
    elif kind < 0.5:
        x, y, z = (at + random.randrange(-2, 3) for at in place)
        target = (x, y, z)
    else:
        target = a_place(random, state, grid)
    edit = Edit(
        "move element",
        state.uuid,
        f"{POINTS}/move/{joined(place)}/{joined(target)}",
        b"",
        lambda state, _: moved(state, place, target),
        recorded=False,
        told_by=f"{POINTS}/all-elements",
    )
    nobody = a_place(random, state, grid)
    if random.random() < 0.1 and nobody not in state.elements:
        return refused(replace(edit, path=f"{POINTS}/move/{joined(nobody)}/{joined(target)}"), "move nothing")
    return edit


MAKERS: tuple[Callable[[Random, World, State, Block], Edit | None], ...] = (
    post_elements,
    post_elements,
    post_elements,
    delete_element,
    move_element,
    move_element,
)


def random_edit(random: Random, world: World, state: State, grid: Block) -> Edit | None:
    return random.choice(MAKERS)(random, world, state, grid)


# -- questions ----------------------------------------------------------------------------------------------------


def a_form(random: Random) -> str:
    return random.choice(["", "true", "verbose", "false"])


def form_words(form: str) -> str:
    return f"?relationships={form}" if form else ""


def some_body(random: Random, state: State) -> int:
    """Mostly a body that has elements."""
    if state.elements and random.random() < 0.8:
        body = state.label_at(random.choice(list(state.elements)), 0, False)
        if body:
            return body
    return a_body(random, state)


def label(random: Random, state: State) -> Query:
    body, form = some_body(random, state), a_form(random)
    return Query(
        f"{POINTS}/label/{body}{form_words(form)}",
        lambda state: listed(state, in_body(state, body), form),
        lambda reply: by_place(reply.json()),
    )


def tag(random: Random, state: State) -> Query:
    name, form = random.choice([*TAGS, "absent"]), a_form(random)
    escaped = name.replace(" ", "%20").replace("é", "%C3%A9")
    return Query(
        f"{POINTS}/tag/{escaped}{form_words(form)}",
        lambda state: listed(state, with_tag(state, name), form),
        lambda reply: by_place(reply.json()),
    )


def a_box_of_elements(random: Random, state: State) -> tuple[Block, Block]:
    """Offset and size of a box in which there may be elements."""
    edges = state.block_size
    x, y, z = (random.randrange(-edge - 8, 3 * edge) for edge in edges)
    sx, sy, sz = (random.randrange(1, 5 * edge) for edge in edges)
    return (x, y, z), (sx, sy, sz)


def elements(random: Random, state: State) -> Query:
    offset, size = a_box_of_elements(random, state)
    if random.random() < 0.05:
        size = (size[0], 0, size[2])

    def inside(place: Block) -> bool:
        return all(low <= at < low + extent for at, low, extent in zip(place, offset, size, strict=True))

    return Query(
        f"{POINTS}/elements/{joined(size)}/{joined(offset)}",
        lambda state: listed(state, filter(inside, state.elements), "true") or None,
        lambda reply: None if reply.body == b"null" else by_place(reply.json()),
    )


def blocks(random: Random, state: State) -> Query:
    offset, size = a_box_of_elements(random, state)

    def touched(block: Block) -> bool:
        return all(
            low // edge <= at <= (low + extent - 1) // edge
            for at, low, extent, edge in zip(block, offset, size, state.block_size, strict=True)
        )

    return Query(
        f"{POINTS}/blocks/{joined(size)}/{joined(offset)}", lambda state: by_block(state, touched), parse_blocks
    )


def all_elements(random: Random, state: State) -> Query:
    return Query(f"{POINTS}/all-elements", lambda state: by_block(state, lambda _: True), parse_blocks)


def count(random: Random, state: State) -> Query:
    body, kind, suffix = some_body(random, state), random.choice(COUNTED), random.choice((COUNTS, INSIDE))
    return Query(
        f"{suffix}/count/{body}/{kind}",
        lambda state: {"Label": body, kind: counts(state, kind, suffix).get(body, 0)},
        Reply.json,
    )


def several_counts(random: Random, state: State) -> Query:
    bodies, kind = [some_body(random, state) for _ in range(random.randrange(6))], random.choice(COUNTED)
    return Query(
        f"{COUNTS}/counts/{kind}",
        lambda state: [{"Label": body, kind: counts(state, kind).get(body, 0)} for body in bodies],
        Reply.json,
        json.dumps(bodies).encode(),
    )


def top(random: Random, state: State) -> Query:
    most, kind, suffix = random.choice([0, 1, 3, 1000]), random.choice(COUNTED), random.choice((COUNTS, INSIDE))
    return Query(f"{suffix}/top/{most}/{kind}", lambda state: ranked(state, kind, suffix)[:most], Reply.json)


def threshold(random: Random, state: State) -> Query:
    least, kind = random.randrange(4), random.choice(COUNTED)
    offset, most = random.choice([(0, 0), (0, 2), (1, 3), (5, 0)])

    def expect(state: State) -> list[dict[str, int]]:
        found = [entry for entry in ranked(state, kind) if entry["Size"] >= least][offset:]
        return found[:most] if most else found

    return Query(f"{COUNTS}/threshold/{least}/{kind}?offset={offset}&n={most}", expect, Reply.json)


QUESTIONS: tuple[Callable[[Random, State], Query], ...] = (
    label,
    label,
    label,
    tag,
    elements,
    blocks,
    all_elements,
    count,
    several_counts,
    top,
    threshold,
)


def whole_state(state: State) -> Iterator[Query]:
    """Questions that together tell all elements, all lists and all counts."""
    random = Random(0)
    yield all_elements(random, state)
    for kind, suffix in [*((kind, COUNTS) for kind in COUNTED), ("AllSyn", INSIDE), ("Note", INSIDE)]:
        yield Query(
            f"{suffix}/top/100000/{kind}",
            lambda state, kind=kind, suffix=suffix: ranked(state, kind, suffix),  # type: ignore[misc]
            Reply.json,
        )
    bodies = {state.label_at(place, 0, False) for place in state.elements} - {0}
    for body in sorted(bodies):
        yield Query(
            f"{POINTS}/label/{body}?relationships=true",
            lambda state, body=body: listed(state, in_body(state, body), "true"),  # type: ignore[misc]
            lambda reply: by_place(reply.json()),
        )
    others = [body for body in (*state.index, *state.mapping) if body not in bodies]
    for body in random.sample(others, min(5, len(others))):
        yield Query(f"{POINTS}/label/{body}", lambda _: [], Reply.json)
    for name in TAGS[:3]:
        yield Query(
            f"{POINTS}/tag/{name}?relationships=true",
            lambda state, name=name: listed(state, with_tag(state, name), "true"),  # type: ignore[misc]
            lambda reply: by_place(reply.json()),
        )
