"""What people and programs would have noted about a generated brain: synapses, regions, bodies, bookmarks, skeletons.

Everything in the forms that the data instances of a proofreading repo take; the same for the same seed. Coordinates in
JSON are x, y, z. Not for this module: loading it anywhere (`fascicle.pipeline.demo_annotations`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fascicle.pipeline.sample_brain import SampleBrain
from fascicle.pipeline.sample_synapses import SampleSynapses, make_synapses

ROI_BLOCK = 32
USER = "demo"
_TYPES = ("KC", "MBON", "PN", "LN", "APL", "DAN", "SMP", "LH")
_CLASSES = ("intrinsic", "output", "projection", "local", "intrinsic", "modulatory", "output", "local")

Element = dict[str, Any]
Inside = Callable[[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]], NDArray[np.bool_]]
"""Whether points of a box that reaches from -1 to 1 along each axis (x, y, z) are inside."""


def _ball(x0: float, y0: float, z0: float, rx: float, ry: float, rz: float) -> Inside:
    return lambda x, y, z: ((x - x0) / rx) ** 2 + ((y - y0) / ry) ** 2 + ((z - z0) / rz) ** 2 < 1


_SHAPES: dict[str, Inside] = {
    "EB": lambda x, y, z: (np.hypot(x, y) - 0.42) ** 2 / 0.06 + z**2 / 0.16 < 1,
    "AB(L)": _ball(-0.75, 0.1, 0.0, 0.3, 0.4, 0.7),
    "AB(R)": _ball(0.75, 0.1, 0.0, 0.3, 0.4, 0.7),
    "a'L(L)": _ball(-0.5, -0.75, 0.1, 0.45, 0.26, 0.55),
    "a'L(R)": _ball(0.5, -0.75, 0.1, 0.45, 0.26, 0.55),
    "FB": _ball(0.0, 0.85, 0.0, 0.8, 0.28, 0.6),
}
"""Regions, named as in a fly's brain but shaped by us; where they overlap the first one has the block."""


@dataclass(frozen=True, slots=True)
class Region:
    """A region of a brain: whole blocks of 32 voxels."""

    name: str
    blocks_zyx: NDArray[np.int64]
    """Block coordinates, in order."""

    def spans(self) -> list[list[int]]:
        """The blocks as `[z, y, x0, x1]` with x1 inside, sorted."""
        return spans_of(self.blocks_zyx)


@dataclass(frozen=True, slots=True)
class SampleAnnotations:
    """What is known of a brain beside its voxels."""

    synapses: SampleSynapses
    regions: list[Region]
    """Label n of the volume of regions is the n-th of these."""
    neurons: list[dict[str, Any]]
    """JSON of each body, for neuronjson."""
    bookmarks: list[Element]
    todos: list[Element]
    assigned: dict[str, dict[str, Any]]
    """Key `x_y_z` -> what is said of an assigned place."""
    skeletons: dict[int, str]
    """Body -> SWC in voxels."""


def annotate(brain: SampleBrain, seed: int = 1) -> SampleAnnotations:
    """Make it all up.

    >>> from fascicle.pipeline.sample_brain import make_brain
    >>> found = annotate(make_brain(seed=3, size_zyx=(64, 64, 64)))
    >>> [region.name for region in found.regions][:2]
    ['EB', 'AB(L)']
    """
    bodies = brain.bodies_zyx
    noise = np.random.default_rng([seed, 2])
    sizes = np.bincount(bodies.reshape(-1).astype(np.int64))
    ranked = [int(body) for body in np.argsort(-sizes, kind="stable") if body and sizes[body]]
    places = _places(brain)
    assigned = enumerate(_some(noise, ranked, places, 6))
    return SampleAnnotations(
        make_synapses(bodies, seed),
        make_regions(brain.supervoxels_zyx.shape),
        list(_neurons(noise, ranked, places, brain.supervoxels_zyx.shape[2])),
        [_bookmark(place, body, number) for number, (body, place) in enumerate(_some(noise, ranked[:40], places, 12))],
        [_todo(place, number) for number, (_, place) in enumerate(_some(noise, ranked[:80], places, 20))],
        {"_".join(map(str, place)): {"checked": number % 2 == 0} for number, (_, place) in assigned},
        dict(_skeletons(brain)),
    )


# -- synapses


def synapse_elements(synapses: SampleSynapses) -> list[Element]:
    """The elements of an annotation instance: each T-bar followed by its densities, related both ways."""
    tbars, densities = (points[:, ::-1].tolist() for points in (synapses.tbars_zyx, synapses.densities_zyx))
    groups: list[list[int]] = [[] for _ in tbars]
    for density, tbar in enumerate(synapses.tbar_of_density.tolist()):
        groups[tbar].append(density)
    elements = []
    for tbar, members in enumerate(groups):
        relations = [{"Rel": "PreSynTo", "To": densities[member]} for member in members]
        elements.append(_element(tbars[tbar], "PreSyn", synapses.tbar_confidences[tbar], relations))
        for member in members:
            back = [{"Rel": "PostSynTo", "To": tbars[tbar]}]
            elements.append(_element(densities[member], "PostSyn", synapses.density_confidences[member], back))
    return elements


def _element(position: list[int], kind: str, confidence: float, relations: list[dict[str, Any]]) -> Element:
    properties = {"conf": f"{confidence:g}", "user": USER}
    return {"Pos": position, "Kind": kind, "Tags": [], "Prop": properties, "Rels": relations}


# -- regions


def make_regions(shape_zyx: tuple[int, ...]) -> list[Region]:
    """The regions of a volume of this size in voxels; those that no block's middle is in are left out."""
    grid = tuple(-(-edge // ROI_BLOCK) for edge in shape_zyx)
    z, y, x = np.meshgrid(*((np.arange(edge) + 0.5) * (2 / edge) - 1 for edge in grid), indexing="ij")
    free = np.ones(grid, np.bool_)
    regions = []
    for name, inside in _SHAPES.items():
        blocks = np.argwhere(inside(x, y, z) & free)
        if len(blocks):
            free[tuple(blocks.T)] = False
            regions.append(Region(name, blocks))
    return regions


def spans_of(blocks_zyx: NDArray[np.int64]) -> list[list[int]]:
    """Blocks i64[n, 3], sorted by z, y, x, as runs `[z, y, x0, x1]`.

    >>> spans_of(np.array([[0, 0, 1], [0, 0, 2], [0, 1, 3]]))
    [[0, 0, 1, 2], [0, 1, 3, 3]]
    """
    spans: list[list[int]] = []
    for z, y, x in blocks_zyx.tolist():
        if spans and spans[-1][:2] == [z, y] and spans[-1][3] == x - 1:
            spans[-1][3] = x
        else:
            spans.append([z, y, x, x])
    return spans


def region_labels(regions: list[Region], shape_zyx: tuple[int, ...]) -> NDArray[np.uint64]:
    """A volume `[z, y, x]` in which each voxel has the number of its region, from 1 on."""
    grid = np.zeros(tuple(-(-edge // ROI_BLOCK) for edge in shape_zyx), np.uint64)
    for label, region in enumerate(regions, start=1):
        grid[tuple(region.blocks_zyx.T)] = label
    volume = grid.repeat(ROI_BLOCK, 0).repeat(ROI_BLOCK, 1).repeat(ROI_BLOCK, 2)
    return volume[: shape_zyx[0], : shape_zyx[1], : shape_zyx[2]]


def region_surfaces(
    regions: list[Region], resolution_nm: tuple[float, float, float]
) -> Iterator[tuple[Region, NDArray[np.float32], NDArray[np.uint32]]]:
    """(region, vertices f32[n, 3] in nm, triangles u32[m, 3]) of each region, smooth. x, y, z."""
    from fascicle.kernels.surfaces import label_boxes, smooth, surface

    if not regions:
        return
    fine = 4  # points per block, so that smoothing keeps thin regions
    size = np.max([region.blocks_zyx.max(0) for region in regions], axis=0) + 1
    grid = np.zeros(size, np.int32)
    for label, region in enumerate(regions, start=1):
        grid[tuple(region.blocks_zyx.T)] = label
    labels = grid.repeat(fine, 0).repeat(fine, 1).repeat(fine, 2)
    boxes = label_boxes(labels, len(regions))
    scale = np.array(resolution_nm, np.float32) * (ROI_BLOCK / fine)
    for label, region in enumerate(regions, start=1):
        vertices, triangles = surface(labels, label, boxes[label])
        smooth(vertices, triangles, 8)
        yield region, (vertices * scale).astype(np.float32), triangles


def obj_text(vertices: NDArray[np.float32], triangles: NDArray[np.uint32]) -> bytes:
    """A mesh in the Wavefront form (http://paulbourke.net/dataformats/obj/): `v` x y z, `f` with numbers from 1."""
    lines = [f"v {x:.1f} {y:.1f} {z:.1f}" for x, y, z in vertices.tolist()]
    lines += [f"f {a} {b} {c}" for a, b, c in (triangles.astype(np.int64) + 1).tolist()]
    return ("\n".join(lines) + "\n").encode()


# -- bodies


def _places(brain: SampleBrain) -> dict[int, list[list[int]]]:
    """Body -> nodes x, y, z that lie in its voxels."""
    shape = np.array(brain.supervoxels_zyx.shape)
    nodes = np.floor(brain.nodes_zyx).astype(np.int64)
    known = np.all((nodes >= 0) & (nodes < shape), axis=1) & (brain.node_bodies != 0)
    nodes, owners = nodes[known], brain.node_bodies[known]
    inside = brain.bodies_zyx[tuple(nodes.T)] == owners
    places: dict[int, list[list[int]]] = {}
    for body, place in zip(owners[inside].tolist(), nodes[inside][:, ::-1].tolist(), strict=True):
        places.setdefault(body, []).append(place)
    return places


def _some(
    noise: np.random.Generator, bodies: list[int], places: dict[int, list[list[int]]], count: int
) -> list[tuple[int, list[int]]]:
    """Different places inside of some of the bodies."""
    known = [body for body in bodies if body in places]
    found: dict[tuple[int, ...], int] = {}
    for draw in noise.integers(0, 1 << 62, (4 * count, 2)).tolist() if known else []:
        body = known[draw[0] % len(known)]
        place = places[body][draw[1] % len(places[body])]
        if len(found) < count:
            found.setdefault(tuple(place), body)
    return [(body, list(place)) for place, body in found.items()]


def _neurons(
    noise: np.random.Generator, ranked: list[int], places: dict[int, list[list[int]]], width: int
) -> Iterator[dict[str, Any]]:
    """What is known of each body, the largest first: much of large ones, little of small ones."""
    kinds = noise.integers(0, len(_TYPES), len(ranked)).tolist()
    numbers = noise.integers(1, 10, len(ranked)).tolist()
    for rank, body in enumerate(ranked):
        share = rank / len(ranked)
        known: dict[str, Any] = {"bodyid": body, "status": _status(share)}
        if body in places:
            known["position"] = places[body][len(places[body]) // 2]
        if share < 0.6:
            kind = f"{_TYPES[kinds[rank]]}{numbers[rank]:02}"
            side = "L" if body in places and known["position"][0] < width / 2 else "R"
            known |= {"type": kind, "instance": f"{kind}_{side}", "class": _CLASSES[kinds[rank]]}
        yield known


def _status(share: float) -> str:
    for limit, status in ((0.15, "Traced"), (0.35, "Roughly traced"), (0.6, "Prelim Roughly traced"), (0.85, "Anchor")):
        if share < limit:
            return status
    return "Orphan"


def _bookmark(position: list[int], body: int, number: int) -> Element:
    comments = ("branches here", "is this one neuron?", "many vesicles", "look again")
    properties = {
        "body ID": str(body),
        "comment": comments[number % len(comments)],
        "custom": "1",
        "status": "",
        "time": "",
        "type": ("Other", "False split", "False merge")[number % 3],
        "user": USER,
    }
    return {"Pos": position, "Kind": "Note", "Tags": [f"user:{USER}"], "Prop": properties, "Rels": []}


def _todo(position: list[int], number: int) -> Element:
    action = ("to merge", "to split", "to trace")[number % 3]
    properties = {"action": action, "checked": str(int(number % 5 == 0)), "comment": "", "user": USER}
    return {"Pos": position, "Kind": "Note", "Tags": [f"action:{action}"], "Prop": properties, "Rels": []}


def _skeletons(brain: SampleBrain) -> Iterator[tuple[int, str]]:
    """(body, SWC) of each: lines of number, type, x, y, z, radius, parent."""
    order = np.argsort(brain.node_bodies, kind="stable")
    bodies, starts = np.unique(brain.node_bodies[order], return_index=True)
    for body, members in zip(bodies.tolist(), np.split(order, starts[1:]), strict=True):
        if body == 0:
            continue
        number = {node: i for i, node in enumerate(members.tolist(), start=1)}
        rows = zip(
            members.tolist(),
            brain.nodes_zyx[members].tolist(),
            brain.node_radii[members].tolist(),
            brain.node_parents[members].tolist(),
            strict=True,
        )
        lines = [f"# body {body} of the sample brain, in voxels"]
        lines += [
            f"{number[node]} 0 {x:.1f} {y:.1f} {z:.1f} {radius:.2f} {number.get(parent, -1)}"
            for node, (z, y, x), radius, parent in rows
        ]
        yield body, "\n".join(lines) + "\n"
