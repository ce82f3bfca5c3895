"""What meshes and skeletons have in common where they are written: shards, objects that are read back, keys.

Everything is taken from spools, in the order of the bodies. What is not there in the end as it was written is an error
of the kind that the job raises.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import msgspec

from fascicle.errors import FascicleError
from fascicle.formats.sharding import Sharding, sharding_for_keys
from fascicle.pipeline.journal import Journal
from fascicle.volumes.destinations import Destination
from fascicle.volumes.shard_writing import ScatteredShards, ShardFiles

if TYPE_CHECKING:
    from fascicle.pipeline.ingest_connections import Connection

MANY = 256
"""So many values are sharded, unless that is said otherwise."""
_THREADS = 8
_PIECE = 8 << 20
Advance = Callable[[int], None]
"""Called with how many more are done."""


class UnfinishedError(FascicleError):
    """What is made of bodies is not complete at its destination; the message says what is missing."""


def sharding_of(count: int, sharded: bool | None) -> Sharding | None:
    """How so many values are sharded; None for each on its own."""
    many = count >= MANY if sharded is None else sharded
    return sharding_for_keys(max(2, count)) if many else None


def write_sharded(
    values: ScatteredShards,
    sharding: Sharding,
    target: Destination,
    scratch: Path,
    journal: Journal,
    advance: Advance,
    wrong: type[UnfinishedError],
) -> int:
    """All values in shards, without the info; how many shards. What the journal knows is not written again."""
    files = ShardFiles(target, "", sharding, scratch)
    written = {name: kept for name, kept in journal.done.items() if name.endswith(".shard")}
    done = frozenset(int(name.removesuffix(".shard"), 16) for name in written)
    for shard in values.write(files, done):
        written[shard.name] = [shard.size, shard.checksum, shard.values]
        journal.add(shard.name, written[shard.name])
        advance(shard.values)
    for name, (size, checksum, _) in written.items():
        if checksum_at(target, name, size) != checksum:
            raise wrong(f"{name} at {target.address} is not what was written; remove the journal to start over")
    return len(written)


def put_all(
    target: Destination,
    objects: Iterable[tuple[str, bytes]],
    advance: Advance,
    wrong: type[UnfinishedError],
    kind: str = "application/octet-stream",
) -> None:
    """Write objects and read each back."""

    def put(item: tuple[str, bytes]) -> None:
        name, data = item
        target.put(name, data, kind)
        if target.folder.get(name) != data:
            raise wrong(f"{name} at {target.address} is not what was written")

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


def checksum_at(target: Destination, name: str, size: int) -> str:
    """The checksum of an object that should have a size; empty if it has not."""
    measured = target.folder.measure(name)
    if measured is None or measured[0] != size:
        return ""
    digest = hashlib.blake2b(digest_size=16)
    for start in range(0, size, _PIECE):
        digest.update(target.folder.get_range(name, start, min(size, start + _PIECE)) or b"")
    return digest.hexdigest()


def put_keys(
    connection: Connection, uuid: str, name: str, kind: str, keys: Iterable[tuple[str, bytes]], advance: Advance
) -> None:
    """Keys in a key-value of an open version, which is made, with the tag `type=<kind>`, if it is not there."""
    path = f"/api/node/{uuid}/{quote(name)}"
    status, _ = connection.exchange("GET", f"{path}/info", b"")
    if status != 200:
        settings = {"typename": "keyvalue", "dataname": name, "Tags": f"type={kind}"}
        connection.request("POST", f"/api/repo/{uuid}/instance", msgspec.json.encode(settings))
    for key, value in keys:
        connection.request("POST", f"{path}/key/{key}", value)
        advance(1)
