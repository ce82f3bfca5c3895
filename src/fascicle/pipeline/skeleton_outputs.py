"""Skeletons as what they are wanted as: a precomputed directory, SWC files, an archive, keys of an instance.

All of them are made from the same spools of precomputed values, in the order of the bodies.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import msgspec

from fascicle.errors import FascicleError
from fascicle.formats import skeleton as skeletons
from fascicle.formats import swc
from fascicle.formats.sharding import sharding_for_keys
from fascicle.formats.skeleton import RADIUS, SkeletonInfo
from fascicle.formats.swc import Neuron
from fascicle.pipeline.journal import Journal
from fascicle.volumes.destinations import Destination
from fascicle.volumes.objects import gunzipped
from fascicle.volumes.shard_writing import ScatteredShards, ShardFiles, checksum_of

if TYPE_CHECKING:
    from fascicle.pipeline.ingest_connections import Connection

MANY = 256
"""So many skeletons are sharded, unless that is said otherwise."""
TEXT = "text/plain"
TAR = "application/x-tar"
_THREADS = 8
_PIECE = 8 << 20
Advance = Callable[[int], None]
"""Called with how many skeletons are done."""


class SkeletonError(FascicleError):
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
    bodies = made.values.keys()
    many = len(bodies) >= MANY if sharded is None else sharded
    sharding = sharding_for_keys(max(2, len(bodies))) if many else None
    if sharding is None:
        put_all(target, ((str(body), gunzipped(value)) for body, value, _ in made.values.values()), advance)
        return 0
    files = ShardFiles(target, "", sharding, scratch)
    written = {name: kept for name, kept in journal.done.items() if name.endswith(".shard")}
    done = frozenset(int(name.removesuffix(".shard"), 16) for name in written)
    for shard in made.values.write(files, done):
        written[shard.name] = [shard.size, shard.checksum, shard.values]
        journal.add(shard.name, written[shard.name])
        advance(shard.values)
    for name, (size, checksum, _) in written.items():
        if checksum_at(target, name, size, scratch) != checksum:
            raise SkeletonError(f"{name} at {target.address} is not what was written; remove the journal to start over")
    return len(written)


def info_of(made: Made, sharded: bool) -> bytes:
    """The info of a precomputed directory."""
    sharding = sharding_for_keys(max(2, len(made.values))) if sharded else None
    return skeletons.write_info(SkeletonInfo(vertex_attributes=(RADIUS,), sharding=sharding))


def write_swc(made: Made, target: Destination, advance: Advance) -> None:
    """`<body>.swc` for each."""
    put_all(target, ((f"{body}.swc", text) for body, text in made.texts()), advance, TEXT)


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
    if checksum_at(target, name, path.stat().st_size, scratch) != checksum_of(path):
        raise SkeletonError(f"{name} at {target.address} is not what was written")
    path.unlink()


def write_keys(made: Made, connection: Connection, uuid: str, labels: str, advance: Advance) -> str:
    """`<body>_swc` in the key-value `<labels>_skeletons` of an open version, which is made if it is not there."""
    name = f"{labels}_skeletons"
    path = f"/api/node/{uuid}/{quote(name)}"
    status, _ = connection.exchange("GET", f"{path}/info", b"")
    if status != 200:
        settings = {"typename": "keyvalue", "dataname": name, "Tags": "type=skeletons"}
        connection.request("POST", f"/api/repo/{uuid}/instance", msgspec.json.encode(settings))
    for body, text in made.texts():
        connection.request("POST", f"{path}/key/{body}_swc", text)
        advance(1)
    return name


def put_all(
    target: Destination, objects: Iterator[tuple[str, bytes]], advance: Advance, kind: str = "application/octet-stream"
) -> None:
    """Write objects and read each back."""

    def put(item: tuple[str, bytes]) -> None:
        name, data = item
        target.put(name, data, kind)
        if target.folder.get(name) != data:
            raise SkeletonError(f"{name} at {target.address} is not what was written")

    with ThreadPoolExecutor(_THREADS) as pool:
        batch: list[tuple[str, bytes]] = []
        for item in objects:
            batch.append(item)
            if len(batch) == 8 * _THREADS:
                list(pool.map(put, batch))
                advance(len(batch))
                batch = []
        list(pool.map(put, batch))
        advance(len(batch))


def checksum_at(target: Destination, name: str, size: int, scratch: Path) -> str:
    """The checksum of an object that should have a size; empty if it has not."""
    measured = target.folder.measure(name)
    if measured is None or measured[0] != size:
        return ""
    digest = hashlib.blake2b(digest_size=16)
    for start in range(0, size, _PIECE):
        digest.update(target.folder.get_range(name, start, min(size, start + _PIECE)) or b"")
    return digest.hexdigest()
