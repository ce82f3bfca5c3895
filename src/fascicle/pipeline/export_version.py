"""What an export reads: the instances of one version of a store folder or a server, and the chunks of its volumes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fascicle.datatypes.image.block_cache import cache_of
from fascicle.datatypes.image.settings import VOXEL_TYPES
from fascicle.datatypes.voxel_requests import VolumeRequest
from fascicle.errors import BadRequest, NotFound
from fascicle.formats import gzip_stream, volume_chunks
from fascicle.formats.precomputed_info import Scale, VolumeInfo
from fascicle.pipeline.sources import OpenNode, SourceSpec
from fascicle.precomputed import addresses
from fascicle.precomputed.builders import Form, Snapshot, encoded
from fascicle.precomputed.volumes import Volume, describe
from fascicle.volumes.objects import ObjectFolder, gunzipped
from fascicle.volumes.precomputed import read_info

VOLUMES = (*VOXEL_TYPES, "labelmap")
Cell = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class ChosenVersion:
    """The version that is exported, found once."""

    spec: SourceSpec
    """With the UUIDs of repo and version."""
    locked: bool
    state: int
    """Of an open version: a number that differs when anything was written."""
    types: dict[str, str]
    """Names of all instances of the repo, and their types."""

    def volumes(self) -> list[str]:
        """Instances with voxels, but for those that hold coarser scales of another."""
        found = [name for name, kind in self.types.items() if kind in VOLUMES]
        return sorted(name for name in found if not self._is_coarser(name))

    def _is_coarser(self, name: str) -> bool:
        base, _, number = name.rpartition("_")
        return number.isdigit() and int(number) > 0 and self.types.get(base) == self.types[name] != "labelmap"


def choose(spec: SourceSpec) -> ChosenVersion:
    """Find a version of a store folder or server. Raises NotFound, BadRequest, VolumeError or IngestError."""
    if bool(spec.data) == bool(spec.server):
        raise BadRequest("name either a store folder or a server")
    if not spec.repo and not spec.version:
        raise BadRequest("name the version to export, as <repo>/<version> or by its UUID")
    return _of_server(spec) if spec.server else _of_folder(spec)


def _of_folder(spec: SourceSpec) -> ChosenVersion:
    opened = OpenNode(spec)
    try:
        with opened.snapshot() as snapshot:
            node, repo = opened.node, opened.repo
            types = {instance.name: instance.typename for instance in snapshot.catalog.instances(repo.id)}
            state = 0 if node.locked else snapshot.txn.number
    finally:
        opened.close()
    return ChosenVersion(replace(spec, repo=repo.root_uuid, version=node.uuid), node.locked, state, types)


def _of_server(spec: SourceSpec) -> ChosenVersion:
    from fascicle.pipeline.ingest_connections import ServerConnection

    with ServerConnection(spec.server, "") as connection:
        repos = connection.json("GET", "/api/repos/info")
    wanted = spec.repo or spec.version
    found = [repo for repo in repos.values() if repo["Alias"] == wanted]
    found = found or [repo for repo in repos.values() if any(uuid.startswith(wanted) for uuid in repo["DAG"]["Nodes"])]
    if len(found) != 1:
        raise NotFound(f"{spec.server} has {len(found)} repos with the alias or UUID {wanted!r}")
    (repo,) = found
    node = _node_of(repo["DAG"]["Nodes"], spec.version, repo["Root"])
    types = {name: instance["Base"]["TypeName"] for name, instance in repo["DataInstances"].items()}
    chosen = replace(spec, repo=repo["Root"], version=node["UUID"])
    return ChosenVersion(chosen, node["Locked"], 0, types)


def _node_of(nodes: dict[str, Any], name: str, root: str) -> Any:
    """A version by its UUID, the first characters of it, or a branch whose newest version it is."""
    if name in nodes:
        return nodes[name]
    branch = "" if name in ("", "master") else name
    members = [node for node in nodes.values() if node["Branch"] == branch]
    if members:
        return max(members, key=lambda node: node["VersionID"])
    found = [node for uuid, node in nodes.items() if uuid.startswith(name.lower())]
    if len(found) != 1:
        raise NotFound(f"repo {root} has {len(found)} versions or branches {name!r}")
    return found[0]


# -- chunks


class Chunks(ABC):
    """The chunks of a volume at a version. Used by one thread at a time."""

    info: VolumeInfo

    def __init__(self) -> None:
        self._zeros: dict[tuple[tuple[int, ...], bool], bytes] = {}

    def chunk(self, level: int, cell: Cell, gzipped: bool) -> bytes | None:
        """The chunk of a cell x, y, z, maybe in a gzip stream; None if all of its voxels are 0."""
        scale = self.info.scales[level]
        start, stop = scale.chunk_span(cell)
        data = self._made(level, start, stop, gzipped)
        return None if data is None or self._is_zero(scale, start, stop, data, gzipped) else data

    def zeros(self, level: int, cell: Cell) -> bytes:
        """The chunk of a cell as if all of its voxels were 0."""
        return self._zero(self.info.scales[level], *self.info.scales[level].chunk_span(cell), False)

    @abstractmethod
    def _made(self, level: int, start: Cell, stop: Cell, gzipped: bool) -> bytes | None:
        """The chunk between two corners that count from the volume's own; None if it is known to be zeros."""

    @abstractmethod
    def close(self) -> None:
        """Let go of what is open."""

    def _zero(self, scale: Scale, start: Cell, stop: Cell, gzipped: bool) -> bytes:
        shape = tuple(b - a for a, b in zip(start[::-1], stop[::-1], strict=True))
        known = self._zeros.get((shape, gzipped))
        if known is None:
            channels = self.info.num_channels
            voxels = np.zeros(shape if channels == 1 else (*shape, channels), self.info.dtype)
            known = encoded(voxels, scale.encoding)
            if gzipped:
                known = gzip_stream.gzipped(known, 1)
            self._zeros[shape, gzipped] = known
        return known

    def _is_zero(self, scale: Scale, start: Cell, stop: Cell, data: bytes, gzipped: bool) -> bool:
        """Zeros may have been encoded otherwise than here, but hardly at twice the size."""
        zero = self._zero(scale, start, stop, gzipped)
        if data == zero:
            return True
        if len(data) > 2 * len(zero) or (scale.encoding == "raw" and not gzipped):
            return False
        shape = (self.info.num_channels, *(b - a for a, b in zip(start[::-1], stop[::-1], strict=True)))
        plain = gunzipped(data) if gzipped else data
        return not volume_chunks.decode(plain, scale.encoding, shape, self.info.dtype, scale.block_xyz).any()


class VersionChunks(Chunks):
    """Those of an instance in a store folder, made by the builders of the live view."""

    def __init__(self, opened: OpenNode, name: str, form: Form, cache_bytes: int = 0) -> None:
        super().__init__()
        self._opened = opened
        with opened.snapshot() as snapshot:
            self._volume = described(snapshot, name, form)
        self.info = self._volume.info
        self._snapshot: Snapshot | None = None
        if cache_bytes:
            cache_of(opened.store).limit_bytes = cache_bytes

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Chunks that are asked for meanwhile come from one transaction."""
        with self._opened.snapshot() as snapshot:
            self._snapshot = snapshot
            try:
                yield
            finally:
                self._snapshot = None

    def _made(self, level: int, start: Cell, stop: Cell, gzipped: bool) -> bytes | None:
        if self._snapshot is None:
            with self.reading():
                return self._made(level, start, stop, gzipped)
        offset = self.info.scales[level].voxel_offset
        x, y, z = (a + b for a, b in zip(start, offset, strict=True))
        sx, sy, sz = (b - a for a, b in zip(start, stop, strict=True))
        return self._volume.chunk(self._snapshot, level, VolumeRequest((sx, sy, sz), (x, y, z)), gzipped)

    def close(self) -> None:
        """The store is closed by who opened it."""


def described(snapshot: Snapshot, name: str, form: Form) -> Volume:
    """The live volume of an instance. Raises NotFound, BadRequest."""
    repo = snapshot.catalog.repo(snapshot.node.repo_id)
    return describe(snapshot, addresses.find_instance(snapshot.catalog, repo, name), form)


class ServedChunks(Chunks):
    """Those of a precomputed volume that a server shows."""

    def __init__(self, spec: SourceSpec, form: Form) -> None:
        super().__init__()
        address = replace(spec, supervoxels=form.supervoxels).precomputed_address
        self._folder: ObjectFolder
        self._folder, self.info, _ = read_info(f"{address}/{form.encoding}" if form.encoding else address)

    @contextmanager
    def reading(self) -> Iterator[None]:
        """A server needs no preparation."""
        yield

    def _made(self, level: int, start: Cell, stop: Cell, gzipped: bool) -> bytes | None:
        scale = self.info.scales[level]
        data = self._folder.get(f"{scale.key}/{scale.chunk_name(start, stop)}")
        if data is None or not gzipped:
            return data
        return gzip_stream.gzipped(data, 1)

    def close(self) -> None:
        """Nothing is open."""
