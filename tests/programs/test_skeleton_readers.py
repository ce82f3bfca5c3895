"""Skeletons that we write, read by CloudVolume and the Neuroglancer package, and theirs read by us."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import fascicle
from fascicle.formats import skeleton as skeletons
from fascicle.formats import swc
from fascicle.formats.precomputed_info import Scale, VolumeInfo, encode
from fascicle.formats.skeleton import RADIUS, Skeleton
from fascicle.pipeline.skeletonize import SkeletonizeOptions, skeletonize
from fascicle.pipeline.sources import SourceSpec
from fascicle.precomputed.centrelines import Teasar
from fascicle.server.static_host import application, running
from sample_repo import SampleRepo

pytestmark = pytest.mark.slow

OPTIONS = SkeletonizeOptions(parameters=Teasar(constant_nm=60, dust=0), workers=1, block_xyz=(40, 40, 40))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A volume with skeletons in three ways: files, shards, SWC."""
    folder = tmp_path_factory.mktemp("skeletons")
    labels = np.zeros((60, 60, 70), np.uint64)
    labels[10:18, 10:18, 3:67] = 5
    labels[10:18, 18:55, 30:38] = 5
    labels[40:48, 40:48, 3:67] = (1 << 41) + 1
    np.save(folder / "labels.npy", labels)
    fascicle.convert(str(folder / "labels.npy"), folder / "volume", resolution_nm=(8, 8, 8), kind="segmentation")
    source = SourceSpec(address=str(folder / "volume"))
    for name, options in (("plain", {}), ("sharded", {"sharded": True}), ("swc", {"format": "swc", "in_nm": True})):
        out = folder / "volume" / name
        skeletonize(source, str(out), SkeletonizeOptions(**{**_members(OPTIONS), **options}), None)
    return folder


def _members(options: SkeletonizeOptions) -> dict[str, object]:
    return {name: getattr(options, name) for name in options.__slots__}


@pytest.mark.parametrize("name", ["plain", "sharded"])
@pytest.mark.parametrize("transport", ["file", "http"])
def test_cloudvolume_reads_ours(folder: Path, name: str, transport: str) -> None:
    cloudvolume = pytest.importorskip("cloudvolume")
    info = folder / "volume" / "info"
    document = info.read_bytes().replace(b'"scales"', f'"skeletons": "{name}", "scales"'.encode(), 1)
    info.write_bytes(document)
    try:
        with running(application(folder)) as url:
            address = f"file://{folder}/volume" if transport == "file" else f"{url}/volume"
            volume = cloudvolume.CloudVolume(f"precomputed://{address}", progress=False, use_https=True)
            for body in (5, (1 << 41) + 1):
                found = volume.skeleton.get(body)
                data = (folder / "volume" / "plain" / str(body)).read_bytes()
                ours = skeletons.decode(data, [RADIUS])
                np.testing.assert_array_equal(found.vertices, ours.vertices)
                np.testing.assert_array_equal(found.edges, ours.edges)
                np.testing.assert_array_equal(found.radius, ours.radii)
                assert found.to_precomputed() == data
    finally:
        info.write_bytes(document.replace(f'"skeletons": "{name}", '.encode(), b""))


def test_swc_both_ways(folder: Path) -> None:
    cloudvolume = pytest.importorskip("cloudvolume")
    text = (folder / "volume" / "swc" / "5.swc").read_text()
    theirs = cloudvolume.Skeleton.from_swc(text)
    ours, _, _ = swc.read(text)
    np.testing.assert_allclose(theirs.vertices, ours.vertices)
    assert theirs.cable_length() == pytest.approx(ours.length, rel=1e-5)
    back, _, _ = swc.read(theirs.to_swc())
    assert back.length == pytest.approx(ours.length, rel=1e-4)


def test_live_ones(sample_repo: SampleRepo) -> None:
    cloudvolume = pytest.importorskip("cloudvolume")
    address = f"precomputed://{sample_repo.url}/precomputed/{sample_repo.root}/master/segmentation"
    volume = cloudvolume.CloudVolume(address, progress=False, use_https=True)
    body = int(np.bincount(sample_repo.bodies_zyx.ravel().astype(int))[1:].argmax()) + 1
    found = volume.skeleton.get(body)
    x, y, z = np.floor(found.vertices / volume.resolution).astype(int).T
    assert (sample_repo.bodies_zyx[z, y, x] == body).all()
    assert len(found.vertices) > 10
    assert (found.radius > 0).all()


def test_the_neuroglancer_package_writes_the_same_bytes(folder: Path) -> None:
    neuroglancer = pytest.importorskip("neuroglancer")
    from neuroglancer.skeleton import Skeleton as Theirs
    from neuroglancer.skeleton import VertexAttributeInfo

    assert neuroglancer
    data = (folder / "volume" / "plain" / "5").read_bytes()
    ours = skeletons.decode(data, [RADIUS])

    radius = VertexAttributeInfo(data_type=np.float32, num_components=1)
    theirs = Theirs(ours.vertices, ours.edges, {"radius": ours.radii})
    assert theirs.encode(SimpleNamespace(vertex_attributes={"radius": radius})) == data


def test_we_read_cloudvolumes(tmp_path: Path) -> None:
    cloudvolume = pytest.importorskip("cloudvolume")
    info = VolumeInfo(
        type="segmentation",
        data_type="uint64",
        scales=(Scale(key="8", size=(64, 64, 64), resolution=(8, 8, 8), chunk_sizes=((64, 64, 64),), encoding="raw"),),
        skeletons="skeletons",
    )
    (tmp_path / "info").write_bytes(encode(info))
    volume = cloudvolume.CloudVolume(f"file://{tmp_path}", progress=False)
    volume.skeleton.meta.commit_info()
    known = skeletons.read_info((tmp_path / "skeletons" / "info").read_bytes())
    assert [attribute.id for attribute in known.vertex_attributes][:1] == ["radius"]
    vertices = np.array([[0, 0, 0], [8, 0, 0], [8, 8, 0]], np.float32)
    theirs = cloudvolume.Skeleton(vertices, np.array([[0, 1], [1, 2]]), segid=7, extra_attributes=[
        {"id": attribute.id, "data_type": attribute.data_type, "num_components": attribute.num_components}
        for attribute in known.vertex_attributes
    ])  # fmt: skip
    for attribute in known.vertex_attributes:
        setattr(theirs, attribute.id, np.arange(3).astype(attribute.data_type))
    data = io.BytesIO(theirs.to_precomputed()).getvalue()
    ours: Skeleton = skeletons.decode(data, known.vertex_attributes)
    np.testing.assert_array_equal(ours.vertices, vertices)
    np.testing.assert_array_equal(ours.radii, [0, 1, 2])
    assert ours.length == 16
