"""`dvidtools`: people's scripts that fetch bodies, voxels, sizes and meshes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sample_repo import SampleRepo

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def dvid(sample_repo: SampleRepo) -> Any:
    module = pytest.importorskip("dvid", reason="dvidtools is not installed: pip install '.[programs]'")
    module.setup(server=sample_repo.url, node=sample_repo.root, user="tester")
    return module


@pytest.fixture(scope="module")
def body(sample_repo: SampleRepo) -> int:
    """A middling body."""
    labels, counts = np.unique(sample_repo.bodies_zyx, return_counts=True)
    order = np.argsort(counts[labels != 0])
    return int(labels[labels != 0][order[len(order) // 2]])


def test_projects(dvid: Any, sample_repo: SampleRepo) -> None:
    projects = dvid.list_projects()
    assert sample_repo.root in set(projects.Root)
    assert dvid.get_master_node(sample_repo.root) == sample_repo.root


def test_bodies_of_positions(dvid: Any, sample_repo: SampleRepo) -> None:
    shape_xyz = sample_repo.bodies_zyx.shape[::-1]
    positions = np.random.default_rng(1).integers(0, shape_xyz, (500, 3))
    x, y, z = positions.T
    found = dvid.locs_to_ids(positions, progress=False)
    np.testing.assert_array_equal(found, sample_repo.bodies_zyx[z, y, x])


def test_sizes(dvid: Any, sample_repo: SampleRepo) -> None:
    labels, counts = np.unique(sample_repo.bodies_zyx, return_counts=True)
    labels, counts = labels[labels != 0], counts[labels != 0]
    asked = [*labels.tolist(), 10**9]
    np.testing.assert_array_equal(dvid.get_sizes(asked, progress=False), [*counts.tolist(), 0])
    np.testing.assert_array_equal(dvid.ids_exist(asked, progress=False), [True] * len(labels) + [False])


def test_voxels_of_a_body(dvid: Any, sample_repo: SampleRepo, body: int) -> None:
    expected = np.argwhere(sample_repo.bodies_zyx == body)[:, ::-1]
    found = dvid.get_sparsevol(body, scale=0, ret_type="INDEX")
    assert {tuple(v) for v in np.asarray(found).tolist()} == {tuple(v) for v in expected.tolist()}
    coarse = dvid.get_sparsevol(body, scale="COARSE", ret_type="INDEX")
    assert {tuple(v) for v in np.asarray(coarse).tolist()} == {tuple(v) for v in (expected // 64).tolist()}


def test_voxels_in_a_box(dvid: Any, sample_repo: SampleRepo, body: int) -> None:
    expected = np.argwhere(sample_repo.bodies_zyx == body)[:, ::-1]
    x, y, z = expected[len(expected) // 2].tolist()
    low = np.array([x - 9, y - 9, z - 9]).clip(0)
    high = low + 18
    inside = expected[np.all((expected >= low) & (expected <= high), axis=1)]
    box = np.stack([low, high], 1).ravel().tolist()
    found = dvid.get_sparsevol(body, scale=0, ret_type="INDEX", bbox=box)
    assert {tuple(v) for v in np.asarray(found).tolist()} == {tuple(v) for v in inside.tolist()}


def test_sparse_volume_size(dvid: Any, sample_repo: SampleRepo, body: int) -> None:
    expected = np.argwhere(sample_repo.bodies_zyx == body)[:, ::-1]
    found = dvid.get_sparsevol_size(body)
    assert found["voxels"] == len(expected)
    assert found["minvoxel"] == (expected.min(0) // 64 * 64).tolist()
    assert found["maxvoxel"] == (expected.max(0) // 64 * 64 + 63).tolist()


def test_positions_snap_to_a_body(dvid: Any, sample_repo: SampleRepo, body: int) -> None:
    outside = np.argwhere(sample_repo.bodies_zyx != body)[::70001, ::-1]
    x, y, z = dvid.snap_to_body(body, outside.copy()).T
    assert np.all(sample_repo.bodies_zyx[z, y, x] == body)


def test_position_of_a_body(dvid: Any, sample_repo: SampleRepo, body: int) -> None:
    x, y, z = np.asarray(dvid.get_sparsevol(body, scale=0))[0]
    assert sample_repo.bodies_zyx[z, y, x] == body


def test_last_modification(dvid: Any, body: int) -> None:
    found = dvid.get_last_mod(body)
    assert {"mutation id", "last mod user", "last mod app", "last mod time"} <= set(found)


def test_mesh(dvid: Any, sample_repo: SampleRepo, body: int) -> None:
    mesh = dvid.get_meshes(body, output="trimesh", on_error="raise", progress=False)[0]
    where_nm = np.argwhere(sample_repo.bodies_zyx == body)[:, ::-1] * 8.0
    np.testing.assert_allclose(mesh.bounds[0], where_nm.min(0), atol=24)
    np.testing.assert_allclose(mesh.bounds[1], where_nm.max(0) + 8, atol=24)


def test_segmentation_info(dvid: Any) -> None:
    extended = dvid.get_segmentation_info()["Extended"]
    assert extended["BlockSize"] == [64, 64, 64]
    assert extended["VoxelSize"] == [8, 8, 8]
    assert extended["MaxDownresLevel"] >= 2
