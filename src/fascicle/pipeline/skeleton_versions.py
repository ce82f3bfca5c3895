"""What a store knows of the bodies of a version: which blocks they are in, who changed them last, which are others."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fascicle.datatypes.labelmap import blocks, bodies
from fascicle.datatypes.labelmap.mapping import mapping_at
from fascicle.errors import BadRequest
from fascicle.formats.block_code import block_xyz
from fascicle.pipeline.sources import OpenVersion, SourceSpec
from fascicle.versions.resolution import VersionedView

I64 = NDArray[np.int64]


@contextmanager
def _view(spec: SourceSpec) -> Iterator[tuple[OpenVersion, VersionedView]]:
    opened = OpenVersion(spec)
    try:
        if opened.instance.typename != "labelmap":
            raise BadRequest(f"data instance {opened.instance.name!r} is a {opened.instance.typename}, not a labelmap")
        with opened.snapshot() as snapshot:
            yield opened, snapshot.view(opened.instance)
    finally:
        opened.close()


def boxes_of(spec: SourceSpec, labels: Sequence[int], scale: int) -> I64:
    """The corners of the blocks of a scale that some bodies (or supervoxels) are in, and the corners behind them.

    Voxels x, y, z: i64[n, 2, 3].
    """
    with _view(spec) as (opened, view):
        codes = []
        for label in labels:
            owner = mapping_at(view).body(label)[0] if spec.supervoxels else label
            body = bodies.read_body(view, owner)
            if body is None:
                continue
            chosen = np.array([label], np.uint64)
            rows = bodies.rows_of_supervoxels(view, body, chosen) if spec.supervoxels else bodies.read_rows(view, body)
            codes.append(blocks.coarser(rows.blocks(), scale))
        if not codes:
            return np.zeros((0, 2, 3), np.int64)
        size = np.array(opened.instance.properties["BlockSize"], np.int64)
        corners = block_xyz(np.unique(np.concatenate(codes))).astype(np.int64) * size
        return np.stack((corners, corners + size), axis=1)


def last_mutations(spec: SourceSpec) -> dict[int, int]:
    """The mutation that each body was last changed by."""
    with _view(spec) as (_, view):
        found = {}
        for label, _ in bodies.list_bodies(view):
            body = bodies.read_body(view, label)
            if body is not None:
                found[label] = body.last_mutid
        return found


def changed_bodies(spec: SourceSpec, earlier: str) -> tuple[list[int], list[int]]:
    """The bodies that are not what they were at an earlier version (ascending), and those that are no more.

    Judged by their records: what they consist of and where it lies. Raises NotFound if there is no such version.
    """

    def records(version: str) -> dict[int, bytes]:
        with _view(replace(spec, version=version)) as (_, view):
            return {
                int.from_bytes(key, "big"): view.load(handle) for key, _, handle in view.scan(bodies.BODY, bytes(8))
            }

    before, now = records(earlier), records(spec.version)
    changed = sorted(label for label, record in now.items() if before.get(label) != record)
    return changed, sorted(before.keys() - now.keys())


def mutations_of_server(spec: SourceSpec) -> Callable[[int], int | None]:
    """Asks a server for the mutation that a body was last changed by."""
    from fascicle.pipeline.ingest_connections import ServerConnection

    connection = ServerConnection(spec.server)

    def ask(label: int) -> int | None:
        answer = connection.json("GET", f"/api/node/{spec.version}/{spec.instance}/lastmod/{label}")
        found = answer.get("mutation id") if isinstance(answer, dict) else None
        return found if isinstance(found, int) else None

    return ask
