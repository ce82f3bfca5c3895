"""How near bodies come to each other, block by block."""

from __future__ import annotations

import math
from collections.abc import Iterator

import msgspec
import numpy as np
from numpy.typing import NDArray

from fascicle.datatypes.base import Answer, Call, Reply, Route, Work
from fascicle.datatypes.labelmap import blocks
from fascicle.datatypes.labelmap.bodies import read_body, read_rows
from fascicle.datatypes.labelmap.mapping import mapping_at
from fascicle.datatypes.labelmap.queries import THROTTLE
from fascicle.datatypes.labelmap.requests import number
from fascicle.errors import BadRequest
from fascicle.formats import label_block
from fascicle.formats.block_code import block_xyz
from fascicle.kernels import distance
from fascicle.kernels.arrays import frozen
from fascicle.versions.resolution import VersionedView

U64 = NDArray[np.uint64]

MOST_LABELS = 1000


def _labels(call: Call) -> list[int]:
    """The target and the labels it is compared with: `<target>,<label>,...`, or `<target>/<label>`."""
    what = "a target and at least one other label: <target>,<label>,..."
    texts = [text for arg in call.args[:2] for text in arg.split(",")]
    labels = [number(text, what) for text in texts]
    if len(labels) < 2 or 0 in labels or len(set(labels)) < len(labels) or len(labels) > MOST_LABELS:
        raise BadRequest(f"'proximity' must be followed by {what}, all different and none of them 0")
    return labels


def least_distances(
    view: VersionedView, target: int, others: list[int], codes: U64
) -> Iterator[tuple[int, int, float]]:
    """(block code, label, least distance in voxels) for each label in each of the blocks where the target is too."""
    table = mapping_at(view)
    places, handles = blocks.find_blocks(view, 0, codes)
    for begin in range(0, len(handles), blocks.BATCH_BLOCKS):
        batch = blocks.load_blocks(view, handles[begin : begin + blocks.BATCH_BLOCKS])
        for i, place in enumerate(places[begin : begin + blocks.BATCH_BLOCKS].tolist()):
            opened = label_block.opened_stored(batch.value(i))
            owners = table.bodies(opened.table)
            present = [label for label in others if (owners == np.uint64(label)).any()]
            if not present or not (owners == np.uint64(target)).any():
                continue
            bodies = label_block.decode(opened.with_table(owners))
            nearest = distance.squared_distances(frozen((bodies == np.uint64(target)).view(np.uint8)))
            for label in present:
                yield int(codes[place]), label, math.sqrt(int(nearest[bodies == np.uint64(label)].min()))


def get_proximity(call: Call) -> Reply:
    view, labels = call.view, _labels(call)
    found = [read_body(view, label) for label in labels]
    known = [body for body in found if body is not None]
    if len(known) < len(labels):
        return Answer(status=404)
    own = read_rows(view, known[0]).blocks()
    theirs = np.unique(np.concatenate([read_rows(view, body).blocks() for body in known[1:]]))
    shared = np.intersect1d(own, theirs)

    def pieces() -> Iterator[bytes]:
        lead = b"["
        for code, label, near in least_distances(view, labels[0], labels[1:], shared):
            item = {"Block": block_xyz(np.array([code], np.uint64))[0].tolist(), "Label": label, "Distance": near}
            if len(labels) == 2:
                del item["Label"]
            yield lead + msgspec.json.encode(item)
            lead = b","
        yield b"]" if lead == b"," else b"[]"

    return Answer(pieces(), "application/json")


ROUTES = (
    Route(
        "proximity",
        {"GET": get_proximity},
        "The least distance in voxels between a body and others, for each block that both have voxels in.",
        "<target>,<label>,...",
        (THROTTLE,),
        work=Work.HEAVY,
        throttled=True,
    ),
)
