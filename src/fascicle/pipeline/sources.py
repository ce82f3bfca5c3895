"""What a job reads: a volume at an address, or an instance at a version of a store or server.

A `SourceSpec` is small and can be sent to worker processes, each of which opens it for itself. A version of a server
is read by its precomputed view, a version of a store folder directly, also while a server runs on it; so everything
that takes a source takes every version of everything.

Example: `with SourceSpec(data="db", repo="medulla", instance="segmentation").open() as labels: labels.scales[0]`
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from fascicle.errors import BadRequest
from fascicle.volumes.base import Array, Pyramid, VolumeError, VolumeSource, Zyx
from fascicle.volumes.opening import open_pyramid

if TYPE_CHECKING:  # what reads stores takes long to import, and files need none of it
    import numpy as np
    from numpy.typing import NDArray

    from fascicle.precomputed.builders import Snapshot
    from fascicle.precomputed.volumes import Volume
    from fascicle.versions.catalog import Catalog
    from fascicle.versions.model import Instance, Node, Repo


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceSpec:
    """Names a volume. Either `address` (as `open_pyramid` takes it), or `data` or `server` with the rest."""

    address: str = ""
    more: tuple[str, ...] = ()
    """Further image files of a stack."""
    dataset: str = ""
    """Array within a zarr, N5 or HDF5 file at an address."""
    channel: int | None = None
    data: str = ""
    """Folder of a store."""
    server: str = ""
    """URL of a server."""
    repo: str = ""
    """Alias or UUID of a repo. Not needed with a version that is a UUID."""
    version: str = ""
    """UUID, branch or tag; empty for the newest version of the master branch."""
    instance: str = ""
    supervoxels: bool = False

    def open(self) -> Pyramid:
        """All scales, finest first. Raises VolumeError, BadRequest or NotFound that names what cannot be opened."""
        if sum(bool(place) for place in (self.address, self.data, self.server)) != 1:
            raise BadRequest("name either an address, a store folder or a server")
        if self.address:
            address = [self.address, *self.more] if self.more else self.address
            return open_pyramid(address, self.dataset or None, channel=self.channel)
        self._check_version()
        if self.server:
            return open_pyramid(self.precomputed_address)
        return open_version(self)

    def _check_version(self) -> None:
        if not self.instance:
            raise BadRequest("name the instance to read")
        if not self.repo and not self.version:
            raise BadRequest("name the repo or the version to read")

    @property
    def precomputed_address(self) -> str:
        """Where the server shows this."""
        version = self.version or "master"
        parts = [self.repo or version, version, self.instance, *(["supervoxels"] if self.supervoxels else [])]
        return "/".join([self.server.rstrip("/"), "precomputed", *(quote(part, safe=":~") for part in parts)])

    def __str__(self) -> str:
        if self.address:
            return " ".join([self.address, *self.more])
        where = self.server or self.data
        form = " (supervoxels)" if self.supervoxels else ""
        return f"{self.instance}{form} at {self.version or 'master'} of {self.repo or 'its repo'} in {where}"


class OpenNode:
    """A version of a store folder that is open for reading, whatever the instance. Used by one thread at a time."""

    def __init__(self, spec: SourceSpec) -> None:
        from fascicle.pipeline.ingest_connections import store_open_here
        from fascicle.store import open_store
        from fascicle.versions.catalog import CatalogCache

        if not Path(spec.data).is_dir():
            raise VolumeError(f"there is no store in {spec.data}")
        shared = store_open_here(Path(spec.data))
        self._owned = shared is None
        self.store = open_store(Path(spec.data), readonly=True) if shared is None else shared
        try:
            self._settings = _settings_of(spec.data)
            self._catalogs = CatalogCache(self.store)
            with self.store.read() as txn:
                self._find(self._catalogs.at(txn), spec)
        except BaseException:
            self.close()
            raise

    def _find(self, catalog: Catalog, spec: SourceSpec) -> None:
        from fascicle.precomputed import addresses

        self.repo: Repo = addresses.find_repo(catalog, spec.repo or spec.version)
        self.node: Node = addresses.find_version(catalog, self.repo, spec.version or "master")[0]

    @contextmanager
    def snapshot(self) -> Iterator[Snapshot]:
        """The version as it is now, in a transaction of its own."""
        from fascicle.precomputed.builders import Snapshot

        with self.store.read() as txn:
            yield Snapshot(self.store, txn, self._catalogs.at(txn), self.node, self._settings)

    def close(self) -> None:
        if self._owned:
            self.store.close()


class OpenVersion(OpenNode):
    """An instance at a version of a store folder that is open for reading. Used by one thread at a time."""

    def _find(self, catalog: Catalog, spec: SourceSpec) -> None:
        from fascicle.precomputed import addresses

        super()._find(catalog, spec)
        self.instance: Instance = addresses.find_instance(catalog, self.repo, spec.instance)


def _settings_of(data: str) -> dict[str, Any]:
    """The settings that a call carries, of a server without a configuration."""
    from fascicle.config import Settings
    from fascicle.datatypes.elsewhere import SETTING, Elsewhere

    settings = Settings(data=Path(data))
    kept = settings.volume_cache.size << 20
    return {"readonly": True, SETTING: Elsewhere(settings.grid_stores, Path(data) / "chunks", kept)}


class VersionScale(VolumeSource):
    """One scale of an instance at a version."""

    def __init__(self, opened: OpenVersion, volume: Volume, level: int) -> None:
        scale = volume.info.scales[level]
        self._opened = opened
        self._volume = volume
        self._level = level
        self.name = f"{opened.instance.name} of version {opened.node.uuid}, scale {scale.key}"
        self.dtype = volume.info.dtype
        self.shape_zyx = (scale.size[2], scale.size[1], scale.size[0])
        chunk = scale.chunk_sizes[0]
        self.chunk_zyx = (chunk[2], chunk[1], chunk[0])
        self.offset_xyz = scale.voxel_offset
        self.resolution_nm = scale.resolution
        self.encoding = scale.encoding
        self.is_labelmap = opened.instance.typename == "labelmap"
        self._scale = scale
        self._lock = threading.Lock()

    def labels_at(self, points: NDArray[np.int64]) -> NDArray[np.uint64]:
        """The labels u64[n] of a label map at voxels i64[n, 3], x, y, z. Several threads may ask at once."""
        from fascicle.datatypes.image.block_cache import cache_of
        from fascicle.datatypes.labelmap.mapping import mapping_at
        from fascicle.datatypes.labelmap.points import labels_at

        with ExitStack() as stack:
            with self._lock:
                snapshot = stack.enter_context(self._opened.snapshot())
            instance = self._opened.instance
            view = snapshot.view(instance)
            mapping = None if self._volume.form.supervoxels else mapping_at(view)
            x, y, z = instance.properties["BlockSize"]
            cache = cache_of(snapshot.store)
            tiered = mapping if mapping is not None and mapping.tiers else None
            return labels_at(view, self._level, points, (x, y, z), tiered, cache)

    def chunk_bytes(self, cell_zyx: Zyx) -> bytes | None:
        self.chunk_box(cell_zyx)
        start, stop = self._scale.chunk_span((cell_zyx[2], cell_zyx[1], cell_zyx[0]))
        box = self._volume.box(self._level, self._scale.chunk_name(start, stop))
        with self._opened.snapshot() as snapshot:
            return self._volume.chunk(snapshot, self._level, box)

    def decode_chunk(self, data: bytes, cell_zyx: Zyx) -> Array:
        from fascicle.formats import volume_chunks

        start, stop = self.chunk_box(cell_zyx)
        z, y, x = (b - a for a, b in zip(start, stop, strict=True))
        channels = self._volume.info.num_channels
        shape = (channels, z, y, x)
        voxels: Array = volume_chunks.decode(data, self.encoding, shape, self.dtype, self._scale.block_xyz)[0]
        return voxels

    def read(self, start_zyx: Zyx, stop_zyx: Zyx) -> Array:
        from fascicle.datatypes.voxel_requests import VolumeRequest

        z, y, x = (b - a for a, b in zip(start_zyx, stop_zyx, strict=True))
        start = [a + b for a, b in zip(start_zyx[::-1], self.offset_xyz, strict=True)]
        box = VolumeRequest((x, y, z), (start[0], start[1], start[2]))
        with self._opened.snapshot() as snapshot:
            voxels: Array = self._volume.voxels(snapshot, self._level, box)
            return voxels

    def close(self) -> None:
        if self._level == 0:
            self._opened.close()


def open_version(spec: SourceSpec) -> Pyramid:
    """An instance at a version of a store folder, as `SourceSpec.open` opens it."""
    from fascicle.precomputed.builders import Form
    from fascicle.precomputed.volumes import describe

    opened = OpenVersion(spec)
    try:
        with opened.snapshot() as snapshot:
            volume = describe(snapshot, opened.instance, Form(spec.supervoxels))
    except BaseException:
        opened.close()
        raise
    info = volume.info
    scales = tuple(VersionScale(opened, volume, level) for level in range(len(info.scales)))
    return Pyramid(str(spec), info.type, scales)


def pinned(spec: SourceSpec) -> SourceSpec:
    """The same source with its version by UUID, so that a job reads one version even if its branch grows.

    Of an open version it reads what is there at each moment. Addresses are as they were.
    """
    if not spec.data:
        return spec
    opened = OpenVersion(spec)
    opened.close()
    return replace(spec, version=opened.node.uuid, repo=opened.repo.root_uuid)
