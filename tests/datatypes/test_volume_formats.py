"""Every format and encoding of volumes that live elsewhere, as an image or label instance: what a writer has written is
what reads of voxels answer. The writers are those of TensorStore.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorstore

from fascicle.datatypes import registry
from fascicle.datatypes.base import Answer, Call
from fascicle.datatypes.elsewhere import SETTING, Elsewhere
from fascicle.store.memory import MemoryStore
from fascicle.versions import graph
from fascicle.versions.catalog import CatalogCache, CatalogEditor
from fascicle.versions.model import Instance
from remote_volumes import bucket, label_volume, smooth_volume

SHAPE = (70, 90, 100)
SHARDING = {
    "@type": "neuroglancer_uint64_sharded_v1", "preshift_bits": 1, "minishard_bits": 2, "shard_bits": 1,
    "hash": "murmurhash3_x86_128", "minishard_index_encoding": "gzip", "data_encoding": "gzip",
}  # fmt: skip


class Shown:
    """An instance that shows a volume."""

    def __init__(self, elsewhere: Elsewhere, typename: str, address: str) -> None:
        self.store, self.server = MemoryStore(), {SETTING: elsewhere}
        self.cache = CatalogCache(self.store)
        datatype = registry.datatype(typename)
        settings = datatype.completed({"source": address}, self.server)
        self.routes = {route.keyword: route for route in datatype.routes}

        def create(txn: Any) -> Instance:
            editor = CatalogEditor(txn, self.cache)
            node = editor.catalog.node(graph.create_repo(editor).root_version)
            fields = {"typename": typename, "compression": settings.get("compression", datatype.default_compression)}
            return graph.create_instance(editor, node, name="it", properties=datatype.create(settings), **fields)

        self.instance = self.store.write(create)

    def get(self, path: str) -> bytes:
        keyword, *args = path.partition("?")[0].split("/")
        query = dict(option.split("=", 1) for option in path.partition("?")[2].split("&") if option)
        with self.store.read() as txn:
            catalog = self.cache.at(txn)
            node = catalog.node(self.instance.created_at_version)
            ancestry = catalog.ancestry(node.id)
            call = Call(
                "GET", keyword, args, query, {}, path, self.store, txn, catalog, self.instance, node, ancestry,
                settings=self.server,
            )  # fmt: skip
            answer = self.routes[keyword].handlers["GET"](call)
            assert isinstance(answer, Answer)
            body = answer.body
            return bytes(body) if isinstance(body, bytes | memoryview) else b"".join(bytes(piece) for piece in body)


def write(spec: dict[str, Any], volume: np.ndarray[Any, Any]) -> None:
    store = tensorstore.open(spec, create=True, open=False).result()
    store.write(volume).result()


def precomputed(folder: Path, volume: np.ndarray[Any, Any], encoding: str, sharded: bool, kind: str) -> None:
    scale: dict[str, Any] = {
        "key": "s0", "encoding": encoding, "chunk_size": [64, 64, 64], "size": list(volume.shape[::-1]),
        "resolution": [8, 8, 8], "voxel_offset": [64, 0, -64],
    }  # fmt: skip
    if encoding == "compressed_segmentation":
        scale["compressed_segmentation_block_size"] = [8, 8, 8]
    if encoding == "jpeg":
        scale["jpeg_quality"] = 100
    if sharded:
        scale["sharding"] = SHARDING
    spec = {
        "driver": "neuroglancer_precomputed",
        "kvstore": f"file://{folder}",
        "multiscale_metadata": {"type": kind, "data_type": volume.dtype.name, "num_channels": 1},
        "scale_metadata": scale,
    }
    write(spec, volume.transpose(2, 1, 0)[..., None])


def zarr2(folder: Path, volume: np.ndarray[Any, Any]) -> None:
    metadata = {
        "shape": list(volume.shape), "chunks": [32, 40, 50], "dtype": volume.dtype.str,
        "compressor": {"id": "zlib", "level": 3}, "dimension_separator": "/",
    }  # fmt: skip
    write({"driver": "zarr", "kvstore": f"file://{folder}", "metadata": metadata}, volume)


def zarr3(folder: Path, volume: np.ndarray[Any, Any]) -> None:
    metadata = {
        "shape": list(volume.shape), "data_type": volume.dtype.name,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [64, 64, 64]}},
        "codecs": [
            {
                "name": "sharding_indexed",
                "configuration": {
                    "chunk_shape": [32, 32, 32],
                    "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "zstd"}],
                },
            }
        ],
    }  # fmt: skip
    write({"driver": "zarr3", "kvstore": f"file://{folder}", "metadata": metadata}, volume)


def n5(folder: Path, volume: np.ndarray[Any, Any]) -> None:
    metadata = {
        "dimensions": list(volume.shape[::-1]), "blockSize": [50, 30, 20], "dataType": volume.dtype.name,
        "compression": {"type": "gzip"},
    }  # fmt: skip
    write({"driver": "n5", "kvstore": f"file://{folder}", "metadata": metadata}, volume.transpose(2, 1, 0))


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Elsewhere]:
    volumes = Elsewhere(cache_folder=tmp_path / "kept", cache_bytes=64 << 20)
    yield volumes
    volumes.close()


IMAGES = [
    ("uint8", "raw"), ("uint8", "jpeg"), ("uint8", "png"), ("uint16", "raw"), ("uint16", "png"), ("float32", "raw"),
]  # fmt: skip
COMPRESSED = "compressed_segmentation"
LABELS = [("uint64", "raw"), ("uint64", COMPRESSED), ("uint32", COMPRESSED), ("uint8", "png")]


def check_boxes(shown: Shown, volume: np.ndarray[Any, Any], offset: tuple[int, int, int], near: int = 0) -> None:
    """Whole, and a part that cuts chunks, with voxels outside."""
    for start, size in [((0, 0, 0), volume.shape[::-1]), ((30, -5, 20), (60, 50, 60))]:
        low = [a + b for a, b in zip(start, offset, strict=True)]
        body = shown.get(f"raw/0_1_2/{'_'.join(map(str, size))}/{'_'.join(map(str, low))}")
        got = np.frombuffer(body, volume.dtype).reshape(size[::-1])
        wanted = np.zeros(size[::-1], volume.dtype)
        begin, end = np.maximum(start, 0), np.minimum(np.add(start, size), volume.shape[::-1])
        inner = tuple(slice(a - s, b - s) for a, b, s in zip(begin, end, start, strict=True))[::-1]
        outer = tuple(slice(a, b) for a, b in zip(begin, end, strict=True))[::-1]
        wanted[inner] = volume[outer]
        difference = got.astype(float) - wanted.astype(float)
        assert np.abs(difference).max() <= near if near else (got == wanted).all()


@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.parametrize(("dtype", "encoding"), IMAGES)
def test_precomputed_images(elsewhere: Elsewhere, tmp_path: Path, dtype: str, encoding: str, sharded: bool) -> None:
    volume = smooth_volume(SHAPE, dtype)
    precomputed(tmp_path / "em", volume, encoding, sharded, "image")
    near = 3 if encoding == "jpeg" else 0
    check_boxes(Shown(elsewhere, f"{dtype}blk", f"file://{tmp_path}/em"), volume, (64, 0, -64), near)
    with bucket(tmp_path) as served:
        check_boxes(Shown(elsewhere, f"{dtype}blk", f"precomputed://{served.url}/em"), volume, (64, 0, -64), near)


@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.parametrize(("dtype", "encoding"), LABELS)
def test_precomputed_labels(elsewhere: Elsewhere, tmp_path: Path, dtype: str, encoding: str, sharded: bool) -> None:
    volume = label_volume(SHAPE, dtype)
    precomputed(tmp_path / "seg", volume, encoding, sharded, "segmentation")
    check_boxes(Shown(elsewhere, "labelmap", f"file://{tmp_path}/seg"), volume.astype(np.uint64), (64, 0, -64))
    with bucket(tmp_path) as served:
        check_boxes(Shown(elsewhere, "labelmap", f"{served.url}/seg"), volume.astype(np.uint64), (64, 0, -64))


@pytest.mark.parametrize("remote", [False, True])
@pytest.mark.parametrize("writer", [zarr2, zarr3, n5])
def test_arrays(elsewhere: Elsewhere, tmp_path: Path, writer: Any, remote: bool) -> None:
    kind = writer.__name__.rstrip("23")
    gray, labels = smooth_volume(SHAPE), label_volume(SHAPE, "uint64")
    writer(tmp_path / "gray", gray)
    writer(tmp_path / "labels", labels)
    with bucket(tmp_path) as served:
        root = served.url if remote else f"file://{tmp_path}"
        check_boxes(Shown(elsewhere, "uint8blk", f"{kind}://{root}/gray"), gray, (0, 0, 0))
        check_boxes(Shown(elsewhere, "labelmap", f"{kind}://{root}/labels"), labels, (0, 0, 0))
