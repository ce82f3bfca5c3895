"""`fascicle.open`: versions sliced as arrays, points, edits and notes, on a server and in a store folder."""

from __future__ import annotations

import dataclasses
import itertools
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fascicle
from fascicle.errors import BadRequest, FascicleError, NotFound
from sample_repo import SampleRepo
from serving import TOKEN, RunningServer, new_instance, new_repo


@pytest.fixture(scope="module")
def version(sample_repo: SampleRepo) -> fascicle.Version:
    return fascicle.open(sample_repo.url, version=sample_repo.root, token=TOKEN)


def test_slices_are_arrays_of_z_y_x(version: fascicle.Version, sample_repo: SampleRepo) -> None:
    gray, bodies = version["grayscale"], version["segmentation"]
    whole = sample_repo.grayscale_zyx
    assert gray.shape == bodies.shape == whole.shape
    assert (gray.dtype, bodies.dtype) == (np.uint8, np.uint64)
    np.testing.assert_array_equal(gray[10:20, 5:70, 3:99], whole[10:20, 5:70, 3:99])
    np.testing.assert_array_equal(gray[17], whole[17])
    np.testing.assert_array_equal(gray[..., 40], whole[..., 40])
    np.testing.assert_array_equal(gray[1:9:3, 7, ::5], whole[1:9:3, 7, ::5])
    assert gray[3, 4, 5] == whole[3, 4, 5]
    np.testing.assert_array_equal(bodies[30:60, :50], sample_repo.bodies_zyx[30:60, :50])
    np.testing.assert_array_equal(bodies.supervoxels[30:60, :50], sample_repo.supervoxels_zyx[30:60, :50])
    np.testing.assert_array_equal(np.asarray(gray), whole)


def test_indices_are_coordinates(version: fascicle.Version, sample_repo: SampleRepo) -> None:
    """What lies outside of the volume is background; nothing is counted from the end."""
    gray = version["grayscale"]
    box = gray[-8:8, 0:4, 120:140]
    assert box.shape == (16, 4, 20)
    assert not box[:8].any()
    assert not box[:, :, 8:].any()
    np.testing.assert_array_equal(box[8:, :, :8], sample_repo.grayscale_zyx[:8, :4, 120:])
    assert gray[5:5].shape == (0, *gray.shape[1:])
    for wrong in ((0, 0, 0, 0), (slice(0, 8, -1),), ("a",)):
        with pytest.raises(IndexError):
            gray[wrong]


def test_requests_are_bounded(
    version: fascicle.Version, sample_repo: SampleRepo, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr("fascicle.client.volumes.REQUEST_BYTES", 20 * 112 * 128)
    gray = version["grayscale"]
    fetch = gray._fetch
    monkeypatch.setattr(gray, "_fetch", lambda start, stop: asked.append((start[0], stop[0])) or fetch(start, stop))
    np.testing.assert_array_equal(gray[3:90], sample_repo.grayscale_zyx[3:90])
    assert asked[0][0] == 3
    assert asked[-1][1] == 90
    assert all(a[1] == b[0] and b[1] - b[0] <= 20 for a, b in itertools.pairwise(asked))


def test_scales(version: fascicle.Version) -> None:
    bodies = version["segmentation"]
    coarse = bodies.scale(1)
    assert coarse.resolution_nm == tuple(2 * edge for edge in bodies.resolution_nm)
    assert coarse.shape == tuple(edge // 2 for edge in bodies.shape)
    fine = bodies[:]
    found = coarse[:]
    corners = np.stack([fine[z::2, y::2, x::2] for z in (0, 1) for y in (0, 1) for x in (0, 1)])
    assert (corners == found).any(0).all()
    with pytest.raises(BadRequest, match="no scale 20"):
        bodies.scale(20)


def test_points(version: fascicle.Version, sample_repo: SampleRepo) -> None:
    rng = np.random.default_rng(5)
    points_zyx = rng.integers(0, sample_repo.bodies_zyx.shape, (500, 3))
    found = version["segmentation"].labels_at(points_zyx[:, ::-1])
    assert found.dtype == np.uint64
    np.testing.assert_array_equal(found, sample_repo.bodies_zyx[tuple(points_zyx.T)])
    found = version["segmentation"].supervoxels.labels_at(points_zyx[:9, ::-1] + 0.5)
    np.testing.assert_array_equal(found, sample_repo.supervoxels_zyx[tuple(points_zyx[:9].T)])
    assert version["segmentation"].labels_at([]).shape == (0,)
    with pytest.raises(BadRequest, match=r"\[n, 3\]"):
        version["segmentation"].labels_at([1, 2, 3])


def test_dask(version: fascicle.Version, sample_repo: SampleRepo) -> None:
    array = version["segmentation"].to_dask((64, 64, 64))
    assert array.chunks[0] == (64, 32)
    np.testing.assert_array_equal(array[40:80, ::7].compute(), sample_repo.bodies_zyx[40:80, ::7])
    assert int(version["grayscale"].to_dask().max().compute()) == sample_repo.grayscale_zyx.max()


def test_a_server_s_volumes_can_be_sent(version: fascicle.Version, sample_repo: SampleRepo) -> None:
    again = pickle.loads(pickle.dumps(version["grayscale"]))
    np.testing.assert_array_equal(again[4], sample_repo.grayscale_zyx[4])


def test_edits_and_notes(server: RunningServer) -> None:
    with server.client() as client:
        root = new_repo(client, "client's edits")
        path = new_instance(client, root, "labelmap", "seg")
        labels = np.arange(1, 65, dtype=np.uint64).reshape(4, 4, 4).repeat(16, 0).repeat(16, 1).repeat(16, 2)
        client.post(f"{path}/raw/0_1_2/64_64_64/0_0_0", labels.tobytes()).expect()
        for typename, name in (
            ("keyvalue", "kv"),
            ("neuronjson", "facts"),
            ("annotation", "points"),
            ("roi", "region"),
        ):
            new_instance(client, root, typename, name)
        client.post(f"/api/node/{root}/points/sync", {"sync": "seg"}).expect()
    with fascicle.open(server.url, repo="client's edits", token=TOKEN, user="ada") as version:
        assert (version.uuid, version.branch, version.locked) == (root, "master", False)
        assert version.instances["facts"] == "neuronjson"
        assert list(version.annotations) == ["points"]
        assert "seg" in version
        with pytest.raises(KeyError, match="nothing"):
            version["nothing"]
        seg = version["seg"]
        ids, sizes = np.unique(labels[labels != 0], return_counts=True)
        np.testing.assert_array_equal(seg.bodies(), ids)
        np.testing.assert_array_equal(seg.sizes(ids.tolist()), sizes)
        a, b, c = (int(label) for label in ids[:3])
        assert seg.merge(a, [b, c]) > 0
        assert sorted(seg.supervoxels_of(a).tolist()) == [a, b, c]
        assert seg.bodies_of([b, c]).tolist() == [a, a]
        new = seg.cleave(a, [c])
        assert new not in ids
        assert seg.bodies_of([c]).tolist() == [new]
        with pytest.raises(FascicleError, match=str(2**60)):
            seg.merge(a, [2**60])
        with pytest.raises(BadRequest, match="no label"):
            seg.merge(a, [-1])

        kv = version["kv"]
        kv.put("a b:ü", b"\0\1")
        kv.put("z", "text")
        assert kv.value("a b:ü") == b"\0\1"
        assert kv.value("none") is None
        assert list(kv) == ["a b:ü", "z"]
        assert kv.keys("b") == ["z"]
        assert kv.values(["z", "a b:ü"]) == {"z": b"text", "a b:ü": b"\0\1"}
        with pytest.raises(BadRequest, match="no key"):
            kv.put("a/b", b"")
        kv.delete("z")
        assert kv.keys() == ["a b:ü"]

        facts = version["facts"]
        facts.update(a, {"type": "Mi1", "soma": True})
        facts.update(a, {"soma": None})
        assert facts.note(a) == {"bodyid": a, "type": "Mi1"}
        assert facts.note(12345) is None
        assert facts.query({"type": "re/^M"}) == [{"bodyid": a, "type": "Mi1"}]
        assert facts.bodies() == [a]
        assert facts.all(["type"]) == [{"bodyid": a, "type": "Mi1"}]
        facts.delete(a)
        assert facts.all() == []

        z, y, x = (int(at) for at in np.argwhere(labels == a)[0])
        points = version.annotations["points"]
        points.put([{"Pos": [x, y, z], "Kind": "Note", "Tags": ["mine"], "Prop": {"comment": "here"}, "Rels": []}])
        assert [element["Pos"] for element in points.of_body(a)] == [[x, y, z]]
        assert points.in_box((x, y, z), (x + 1, y + 1, z + 1)) == points.all()
        assert points.tagged("mine", relationships=True)[0]["Prop"] == {"comment": "here"}
        points.move((x, y, z), (60, 61, 62))
        assert points.all()[0]["Pos"] == [60, 61, 62]
        points.delete((60, 61, 62))
        assert points.all() == []
        version["region"].post("roi", [[0, 0, 0, 0]])
        assert version["region"].get("roi") == b"[[0,0,0,0]]"

        version.commit("done")
        child = version.new_version()
        assert child.branch == "master"
        side = version.new_branch("side")
        assert version.at("side").uuid == side.uuid
        assert version.at("master").uuid == version.at("").uuid == child.uuid
        child["seg"].merge(a, [new])
        assert version["seg"].bodies_of([c]).tolist() == [new]
        assert child["seg"].bodies_of([c]).tolist() == [a]
        with pytest.raises(FascicleError):
            version["seg"].merge(a, [new])


@pytest.mark.filterwarnings("ignore:version .* is open")
def test_a_store_folder(tmp_path: Path) -> None:
    volume = (np.arange(40 * 50 * 60) % 251).astype(np.uint8).reshape(40, 50, 60)
    np.save(tmp_path / "gray.npy", volume)
    data = str(tmp_path / "db")
    done = fascicle.ingest(str(tmp_path / "gray.npy"), instance="em", data=data, repo="own", resolution_nm=(4, 4, 40))
    assert done.typename == "uint8blk"
    with fascicle.open(data) as version:
        assert repr(version).startswith("<Version")
        em = version["em"]
        assert em.resolution_nm == (4.0, 4.0, 40.0)
        np.testing.assert_array_equal(em[:], volume)
        shot = fascicle.shot(
            em, path=tmp_path / "a.png", width=60, height=50, scale=1, plane="xy", value_range=(0, 255)
        )
        assert shot.renderer == "voxels"
    spec = fascicle.source(data, repo="own", instance="em")
    with spec.open() as pyramid:
        np.testing.assert_array_equal(pyramid.scales[0].read((0, 0, 0), (40, 50, 60)), volume)
    exported = fascicle.export(fascicle.source(data, repo="own"), str(tmp_path / "out"))
    assert exported.volumes == ("em",)
    assert dataclasses.is_dataclass(exported)
    link = fascicle.view(str(tmp_path / "out" / "em"), hosted=(tmp_path / "out", "https://x.org/d"), layout="xz")
    assert link.state["layers"][0]["source"] == "precomputed://https://x.org/d/em"
    with pytest.raises(TypeError, match="nonsense"):
        fascicle.view(str(tmp_path / "out" / "em"), nonsense=1)


def test_what_is_not_there(server: RunningServer, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no store"):
        fascicle.open(str(tmp_path / "none"))
    with pytest.raises(NotFound, match="nobody"):
        fascicle.open(server.url, repo="nobody")
    with pytest.raises(BadRequest, match="repo or the version"):
        fascicle.source("db", instance="seg")
    with pytest.raises(FascicleError, match="no answer"):
        fascicle.open("http://127.0.0.1:9")
    with pytest.raises(AttributeError, match="nothing_like_it"):
        fascicle.nothing_like_it  # noqa: B018


def test_importing_the_package_imports_nothing() -> None:
    code = (
        "import sys, fascicle; dir(fascicle); print(sorted({'numpy', 'msgspec', 'numba', 'click'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
    code = "import fascicle; [getattr(fascicle, name) for name in fascicle._LAZY]; print('all')"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "all"


@pytest.mark.slow
def test_the_commands_as_functions(tmp_path: Path) -> None:
    """From an array to a volume with meshes and skeletons, a mirror of it, and labels at points."""
    labels = np.zeros((32, 40, 48), np.uint64)
    labels[4:28, 4:18, 4:44], labels[4:28, 22:36, 4:44] = 7, 2**63 + 1
    np.save(tmp_path / "labels.npy", labels)
    place = str(tmp_path / "seg")
    volume = fascicle.convert(
        str(tmp_path / "labels.npy"),
        place,
        kind="segmentation",
        resolution_nm=(8, 8, 16),
        offset_xyz=(100, 0, 0),
        scales=1,
    )
    assert [scale.resolution for scale in volume.info.scales] == [(8, 8, 16), (16, 16, 16)]
    assert fascicle.mesh(place, f"{place}/mesh", workers=1, bodies=(7,)).meshes == 1
    made = fascicle.skeletonize(place, f"{place}/skeletons", workers=1, dust=10, constant_nm=50, scale_factor=1)
    assert (made.skeletons, made.linked) == (2, True)
    copied = fascicle.mirror(place, tmp_path / "copy", scales=(1,))
    assert copied.scales == ("16_16_16",)
    found = fascicle.lookup(place, [[110, 10, 10], [110, 30, 10], [110, 20, 10], [0, 0, 0]])
    assert found.tolist() == [7, 2**63 + 1, 0, 0]
    (tmp_path / "points.csv").write_text("x,y,z\n110,10,10\n")
    assert fascicle.lookup_table(place, tmp_path / "points.csv", tmp_path / "out.csv").points == 1
    assert (tmp_path / "out.csv").read_text().split()[1].endswith(",7")
    with pytest.raises(TypeError, match="nonsense"):
        fascicle.convert(str(tmp_path / "labels.npy"), place, nonsense=1)
