"""What CloudVolume, neuroglancer-scripts and igneous write is read here: from files, and through `fascicle host`.

Defects of theirs that are stepped around, each named where it is:

* neuroglancer-scripts writes its shards' gzip parts as zlib streams, which nobody else reads: its shards are left out.
* igneous cannot make shards of meshes of bodies from 2^63 on, so the largest one here is smaller.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fascicle.formats import legacy_mesh, multires_mesh, skeleton
from fascicle.server.static_host import application, running
from fascicle.volumes.objects import ObjectFolder, open_folder
from fascicle.volumes.opening import open_pyramid
from fascicle.volumes.shards import ShardReader
from static_samples import RESOLUTION, labels_zyx

pytestmark = pytest.mark.slow

BODIES = (1, 5, 2**62 + 5)
OFFSET = (64, -32, 0)


def small_labels() -> np.ndarray:
    found = labels_zyx()
    found[found == 2**63 + 5] = 2**62 + 5
    return found


def labels() -> np.ndarray:
    return small_labels().repeat(2, 0).repeat(2, 1).repeat(2, 2)


def voxels_of(dtype: str, shape: tuple[int, ...] = (40, 50, 70)) -> np.ndarray:
    z, y, x = np.indices(shape)
    voxels = ((x // 6) * 7 + (y // 5) * 3 + z // 4).astype(dtype)
    voxels[:32, :32, :32] = 0
    return voxels


def read_all(address: str, level: int = 0) -> np.ndarray:
    with open_pyramid(address) as pyramid:
        scale = pyramid.scales[level]
        return scale.read((0, 0, 0), scale.shape_zyx)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("others")


@pytest.fixture(scope="module")
def url(root: Path) -> Iterator[str]:
    with running(application(root)) as base:
        yield base


def by_cloudvolume(folder: Path, voxels: np.ndarray, encoding: str, compress: Any, **more: Any) -> Any:
    cloudvolume = pytest.importorskip("cloudvolume")
    return cloudvolume.CloudVolume.from_numpy(
        np.asfortranarray(voxels.transpose(2, 1, 0)),
        vol_path=f"file://{folder}",
        resolution=RESOLUTION,
        chunk_size=(32, 32, 32),
        layer_type="segmentation" if encoding == "compressed_segmentation" else "image",
        encoding=encoding,
        compress=compress,
        progress=False,
        **more,
    )


@pytest.mark.parametrize("compress", [False, "gzip", "zstd", "br", "xz"])
def test_cloudvolume_s_compressions(root: Path, url: str, compress: Any) -> None:
    name = f"packed-{compress}"
    voxels = voxels_of("uint16")
    by_cloudvolume(root / name, voxels, "raw", compress, voxel_offset=OFFSET)
    np.testing.assert_array_equal(read_all(f"{url}/{name}"), voxels)
    if compress != "br":  # needs a package that the core does without; `fascicle host` finds the one of `ingest`
        np.testing.assert_array_equal(read_all(str(root / name)), voxels)


@pytest.mark.parametrize(
    ("encoding", "dtypes"),
    [
        ("raw", ("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "float32")),
        ("png", ("uint8",)),
        ("jpeg", ("uint8",)),
        ("compressed_segmentation", ("uint32", "uint64")),
    ],
)
def test_cloudvolume_s_encodings(root: Path, url: str, encoding: str, dtypes: tuple[str, ...]) -> None:
    for dtype in dtypes:
        name = f"cv-{encoding}-{dtype}"
        voxels = voxels_of(dtype)
        written = by_cloudvolume(root / name, voxels, encoding, None, voxel_offset=OFFSET)
        for address in (str(root / name), f"{url}/{name}"):
            found = read_all(address)
            assert found.dtype == voxels.dtype
            if encoding == "jpeg":
                theirs = np.asarray(written[:])[..., 0].transpose(2, 1, 0)
                assert np.abs(found.astype(int) - theirs.astype(int)).max() <= 2
            else:
                np.testing.assert_array_equal(found, voxels)


@pytest.mark.parametrize("layout", ["flat", "flat-gzip", "deep", "deep-gzip"])
def test_neuroglancer_scripts(root: Path, url: str, layout: str) -> None:
    """In folders its chunks are found by `fascicle host`, and after `fascicle host --fix-names`."""
    file_accessor = pytest.importorskip("neuroglancer_scripts.file_accessor")
    from neuroglancer_scripts.precomputed_io import get_IO_for_new_dataset

    from fascicle.pipeline.object_names import fix_names

    for encoding, dtype in (("raw", "uint16"), ("raw", "float32"), ("compressed_segmentation", "uint64")):
        name = f"ngs-{layout}-{encoding}-{dtype}"
        voxels = voxels_of(dtype)
        info = {
            "type": "segmentation" if encoding == "compressed_segmentation" else "image",
            "data_type": dtype,
            "num_channels": 1,
            "scales": [
                {
                    "key": "8nm",
                    "size": list(voxels.shape[::-1]),
                    "resolution": [8, 8, 8],
                    "voxel_offset": [0, 0, 0],
                    "chunk_sizes": [[64, 64, 64]],
                    "encoding": encoding,
                }
            ],
        }
        if encoding == "compressed_segmentation":
            info["scales"][0]["compressed_segmentation_block_size"] = [8, 8, 8]
        accessor = file_accessor.FileAccessor(root / name, flat="flat" in layout, gzip="gzip" in layout)
        volume = get_IO_for_new_dataset(info, accessor)
        for x0, x1 in ((0, 64), (64, 70)):
            volume.write_chunk(voxels[None, :, :, x0:x1], "8nm", (x0, x1, 0, 50, 0, 40))
        np.testing.assert_array_equal(read_all(f"{url}/{name}"), voxels)
        fix_names(str(root / name))
        np.testing.assert_array_equal(read_all(str(root / name)), voxels)


@pytest.fixture(scope="module")
def of_igneous(root: Path) -> Path:
    """Labels with a coarser scale, as chunks and shards; meshes of both kinds, and skeletons."""
    pytest.importorskip("igneous")
    import igneous.task_creation as creation
    from taskqueue import LocalTaskQueue

    def do(tasks: Iterable[Any]) -> None:
        with LocalTaskQueue(parallel=1, progress=False) as queue:
            queue.insert_all(tasks)

    folder = root / "igneous"
    by_cloudvolume(folder, labels(), "compressed_segmentation", "gzip")
    place = f"file://{folder}"
    do(creation.create_downsampling_tasks(place, num_mips=1, factor=(2, 2, 2)))
    do(creation.create_image_shard_transfer_tasks(place, f"{place}/sharded"))
    sizes = {"shape": (128, 128, 128), "simplification": False}
    do(creation.create_meshing_tasks(place, 0, mesh_dir="mesh", **sizes))
    do(creation.create_mesh_manifest_tasks(place, magnitude=1, mesh_dir="mesh"))
    teasar = {"scale": 1.5, "const": 50}
    do(creation.create_skeletonizing_tasks(place, 0, shape=(128, 128, 128), dust_threshold=10, teasar_params=teasar))
    do(creation.create_unsharded_skeleton_merge_tasks(place, magnitude=1, dust_threshold=10, tick_threshold=0))
    legacy = open_folder(str(folder))
    (folder / "legacy.info").write_bytes(legacy.get("mesh/info") or b"")
    do(creation.create_unsharded_multires_mesh_tasks(place, num_lod=1, magnitude=1, mesh_dir="mesh"))
    second = f"{place}/sharded"
    do(creation.create_meshing_tasks(second, 0, mesh_dir="mesh", sharded=True, **sizes))
    do(creation.create_sharded_multires_mesh_tasks(second, num_lod=1, mesh_dir="mesh", progress=False))
    return folder


def test_igneous_volumes(of_igneous: Path, url: str) -> None:
    for address in (str(of_igneous), f"{url}/igneous"):
        np.testing.assert_array_equal(read_all(address), labels())
        np.testing.assert_array_equal(read_all(f"{address}/sharded"), labels())
        coarse = read_all(address, 1)
        assert coarse.shape == small_labels().shape
        assert (coarse == small_labels()).mean() > 0.9


def checked(vertices: np.ndarray, triangles: np.ndarray, body: int) -> None:
    """A mesh of a body, in nm."""
    at = np.argwhere(labels() == body)[:, ::-1]
    low, high = at.min(0) * RESOLUTION, (at.max(0) + 1) * RESOLUTION
    assert len(triangles) > 100
    assert triangles.max() < len(vertices)
    assert np.abs(vertices.min(0) - low).max() <= 16  # its surfaces lie up to a voxel off
    assert np.abs(vertices.max(0) - high).max() <= 16


def test_igneous_meshes(of_igneous: Path, url: str) -> None:
    for folder in (open_folder(str(of_igneous)), open_folder(f"{url}/igneous")):
        assert legacy_mesh.read_info(folder.get("legacy.info") or b"")
        for body in BODIES:
            names = legacy_mesh.read_manifest(folder.get(f"mesh/{body}:0") or b"")
            parts = [legacy_mesh.decode(folder.get(f"mesh/{name}") or b"") for name in names]
            checked(*legacy_mesh.joined(parts), body)
            check_multires(folder, body)


def check_multires(folder: ObjectFolder, body: int) -> None:
    info = multires_mesh.read_info(folder.get("mesh/info") or b"")
    manifest = multires_mesh.read_manifest(folder.get(f"mesh/{body}.index") or b"")
    pieces = multires_mesh.decode(manifest, folder.get(f"mesh/{body}") or b"", info)
    checked(np.concatenate([vertices for vertices, _ in pieces]), pieces[0][1], body)


def test_igneous_skeletons(of_igneous: Path, url: str) -> None:
    for folder in (open_folder(str(of_igneous)), open_folder(f"{url}/igneous")):
        info = skeleton.read_info(folder.get("skeletons_mip_0/info") or b"")
        assert info.sharding is None
        for body in BODIES:
            found = skeleton.decode(folder.get(f"skeletons_mip_0/{body}") or b"", info.vertex_attributes)
            found = skeleton.transformed(found, info.transform)
            at = np.argwhere(labels() == body)[:, ::-1]
            assert (found.vertices >= (at.min(0) - 1) * RESOLUTION).all()
            assert (found.vertices <= (at.max(0) + 2) * RESOLUTION).all()
            assert len(found.edges) == len(found.vertices) - 1


def test_igneous_sharded_meshes(of_igneous: Path) -> None:
    folder = open_folder(str(of_igneous / "sharded" / "mesh"))
    info = multires_mesh.read_info(folder.get("info") or b"")
    assert info.sharding is not None
    reader = ShardReader(folder, "", info.sharding)
    for body in BODIES:
        place = reader.find_place(body)
        assert place is not None
        name, start, stop, _ = place
        stored = folder.get_range(name, start, stop)
        manifest = multires_mesh.read_manifest(info.sharding.unpacked(stored or b"", 1 << 20))
        data = folder.get_range(name, start - manifest.data_size, start)  # fragments lie before their manifest
        pieces = multires_mesh.decode(manifest, data or b"", info)
        checked(np.concatenate([vertices for vertices, _ in pieces]), pieces[0][1], body)
