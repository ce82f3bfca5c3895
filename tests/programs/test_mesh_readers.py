"""Meshes that we write or make live, read by CloudVolume, and theirs read by us."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import fascicle
from fascicle.formats import legacy_mesh
from fascicle.pipeline.mesh import MeshOptions, mesh
from fascicle.pipeline.sources import SourceSpec
from fascicle.server.static_host import application, running
from sample_repo import SampleRepo
from surface_checks import is_closed, volume, welded

pytestmark = pytest.mark.slow

OPTIONS = {"error_nm": 8.0, "workers": 1, "block_xyz": (40, 40, 40)}
BIG = (1 << 41) + 1
FORMS = {"plain": {}, "sharded": {"sharded": True}, "legacy": {"format": "legacy"}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A volume, and a copy of it for each kind of meshes."""
    folder = tmp_path_factory.mktemp("meshes")
    labels = np.zeros((60, 60, 70), np.uint64)
    labels[10:18, 10:18, 3:67] = 5
    labels[10:18, 18:55, 30:38] = 5
    z, y, x = np.indices(labels.shape)
    labels[(z - 42) ** 2 + (y - 40) ** 2 + (x - 20) ** 2 < 200] = BIG
    np.save(folder / "labels.npy", labels)
    for name, options in FORMS.items():
        fascicle.convert(str(folder / "labels.npy"), folder / name, resolution_nm=(8, 8, 8), kind="segmentation")
        source = SourceSpec(address=str(folder / name))
        done = mesh(source, str(folder / name / "mesh"), MeshOptions(**OPTIONS, **options))
        assert done.linked
    return folder


@pytest.mark.parametrize("name", list(FORMS))
@pytest.mark.parametrize("transport", ["file", "http"])
def test_cloudvolume_reads_ours(folder: Path, name: str, transport: str) -> None:
    cloudvolume = pytest.importorskip("cloudvolume")
    labels = np.load(folder / "labels.npy")
    with running(application(folder)) as url:
        address = f"file://{folder}/{name}" if transport == "file" else f"{url}/{name}"
        theirs = cloudvolume.CloudVolume(f"precomputed://{address}", progress=False, use_https=True)
        for body in (5, BIG):
            found = theirs.mesh.get(body)
            found = found[body] if isinstance(found, dict) else found
            low = found.vertices.min(axis=0) - 16
            vertices, triangles = welded([(found.vertices - low, found.faces)], 0.02)
            assert is_closed(triangles, len(vertices))
            assert volume(vertices, triangles) == pytest.approx(int((labels == body).sum()) * 512, rel=0.1)
            if name == "legacy":
                ours, _ = legacy_mesh.decode((folder / f"legacy/mesh/{body}:0:0").read_bytes())
                assert len(ours) == len(found.vertices)


def test_live_ones(sample_repo: SampleRepo) -> None:
    cloudvolume = pytest.importorskip("cloudvolume")
    address = f"precomputed://{sample_repo.url}/precomputed/{sample_repo.root}/master/segmentation/supervoxels"
    theirs = cloudvolume.CloudVolume(address, progress=False, use_https=True)
    labels, counts = np.unique(sample_repo.supervoxels_zyx[sample_repo.supervoxels_zyx > 0], return_counts=True)
    label = int(labels[counts.argmax()])
    found = theirs.mesh.get(label)
    found = found[label] if isinstance(found, dict) else found
    where = np.argwhere(sample_repo.supervoxels_zyx == label)[:, ::-1]
    resolution = np.array(theirs.resolution)
    assert (found.vertices.min(axis=0) > (where.min(axis=0) - 3) * resolution).all()
    assert (found.vertices.max(axis=0) < (where.max(axis=0) + 4) * resolution).all()
    enclosed = volume(found.vertices.astype(np.float64), found.faces)
    assert enclosed == pytest.approx(counts.max() * float(np.prod(resolution)), rel=0.2)


def test_we_read_cloudvolumes_fragments(folder: Path) -> None:
    cloudvolume = pytest.importorskip("cloudvolume")
    vertices = np.array([[0, 0, 0], [8, 0, 0], [8, 8, 0], [0, 0, 9]], np.float32)
    faces = np.array([[0, 1, 2], [0, 3, 1]], np.uint32)
    data = cloudvolume.Mesh(vertices, faces, segid=7).to_precomputed()
    assert legacy_mesh.encode(vertices, faces) == data
    found, triangles = legacy_mesh.decode(data)
    np.testing.assert_array_equal(found, vertices)
    np.testing.assert_array_equal(triangles, faces)
