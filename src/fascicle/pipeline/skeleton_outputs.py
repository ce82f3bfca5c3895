"""Skeletons as what they are wanted as: a precomputed directory, SWC files, an archive, keys of an instance.

All of them are made from the same spools of precomputed values, in the order of the bodies.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fascicle.formats import skeleton as skeletons
from fascicle.formats import swc
from fascicle.formats.skeleton import RADIUS, SkeletonInfo
from fascicle.formats.swc import Neuron
from fascicle.pipeline.body_outputs import (
    Advance,
    UnfinishedError,
    checksum_at,
    put_all,
    put_keys,
    sharding_of,
    write_sharded,
)
from fascicle.pipeline.journal import Journal
from fascicle.volumes.destinations import Destination
from fascicle.volumes.objects import gunzipped
from fascicle.volumes.shard_writing import ScatteredShards, checksum_of

if TYPE_CHECKING:
    from fascicle.pipeline.ingest_connections import Connection

TEXT = "text/plain"
TAR = "application/x-tar"


class SkeletonError(UnfinishedError):
    """Skeletons are not complete at their destination; the message says what is missing."""


@dataclass(frozen=True, slots=True)
class Made:
    """All skeletons, open for reading."""

    values: ScatteredShards
    resolution_nm: tuple[float, float, float]
    """Of the voxels that SWC counts in."""
    in_nm: bool
    """SWC in nanometres instead of voxels."""
    mutation_of: Callable[[int], int | None]
    """The mutation that a body was last changed by before its voxels were read, or None if that is not known."""

    def texts(self) -> Iterator[tuple[int, bytes]]:
        """Bodies, ascending, and their SWC."""
        x, y, z = self.resolution_nm
        factors = (1.0, 1.0, 1.0) if self.in_nm else (1 / x, 1 / y, 1 / z)
        for body, value, _ in self.values.values():
            skeleton = skeletons.decode(gunzipped(value), [RADIUS])
            mutation = self.mutation_of(body)
            comments = [] if mutation is None else [swc.made_from(mutation)]
            yield body, swc.write(swc.scaled(skeleton, factors), comments).encode()


def write_precomputed(
    made: Made, target: Destination, sharded: bool | None, scratch: Path, journal: Journal, advance: Advance
) -> int:
    """A precomputed directory without its info; the number of shards, 0 if it is not sharded."""
    sharding = sharding_of(len(made.values.keys()), sharded)
    if sharding is not None:
        return write_sharded(made.values, sharding, target, scratch, journal, advance, SkeletonError)
    objects = ((str(body), gunzipped(value)) for body, value, _ in made.values.values())
    put_all(target, objects, advance, SkeletonError)
    return 0


def info_of(made: Made, sharded: bool) -> bytes:
    """The info of a precomputed directory."""
    sharding = sharding_of(len(made.values), sharded)
    return skeletons.write_info(SkeletonInfo(vertex_attributes=(RADIUS,), sharding=sharding))


def write_swc(made: Made, target: Destination, advance: Advance) -> None:
    """`<body>.swc` for each."""
    put_all(target, ((f"{body}.swc", text) for body, text in made.texts()), advance, SkeletonError, TEXT)


def write_archive(
    made: Made, target: Destination, name: str, neurons: Sequence[Neuron], scratch: Path, advance: Advance
) -> None:
    """One tar with its table. `neurons` say what is known of some of them; all that have skeletons are listed."""
    known = {neuron.body: neuron for neuron in neurons}
    bodies = made.values.keys().tolist()

    def counted() -> Iterator[tuple[int, bytes]]:
        for body, text in made.texts():
            yield body, text
            advance(1)

    path = scratch / "archive.tar"
    with path.open("wb") as file:
        swc.write_archive(file, counted(), [known.get(body, Neuron(body)) for body in bodies])
        file.flush()
        os.fsync(file.fileno())
    target.put_file(name, path, TAR)
    if checksum_at(target, name, path.stat().st_size) != checksum_of(path):
        raise SkeletonError(f"{name} at {target.address} is not what was written")
    path.unlink()


def write_keys(made: Made, connection: Connection, uuid: str, labels: str, advance: Advance) -> str:
    """`<body>_swc` in the key-value `<labels>_skeletons` of an open version, which is made if it is not there."""
    name = f"{labels}_skeletons"
    put_keys(connection, uuid, name, "skeletons", ((f"{body}_swc", text) for body, text in made.texts()), advance)
    return name
