"""`dvidtools` on what is known beside the voxels: synapses, connections, notes on bodies, regions, skeletons."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from sample_repo import SampleRepo

pytestmark = pytest.mark.slow

Pairs = Counter[tuple[int, int]]


@pytest.fixture(scope="module")
def dvid(sample_repo: SampleRepo) -> Any:
    module = pytest.importorskip("dvid", reason="dvidtools is not installed: pip install '.[programs]'")
    module.setup(server=sample_repo.url, node=sample_repo.root, user="tester")
    return module


def _body_at(repo: SampleRepo, points_zyx: np.ndarray) -> np.ndarray:
    return repo.bodies_zyx[tuple(points_zyx.T)].astype(np.int64)


@pytest.fixture(scope="module")
def pairs(sample_repo: SampleRepo) -> Pairs:
    """(body of the T-bar, body of the density) -> how many connections there are."""
    found = sample_repo.notes.synapses
    pre = _body_at(sample_repo, found.tbars_zyx)[found.tbar_of_density]
    return Counter(zip(pre.tolist(), _body_at(sample_repo, found.densities_zyx).tolist(), strict=True))


@pytest.fixture(scope="module")
def body(pairs: Pairs) -> int:
    """One with many connections both ways."""
    out, into = Counter[int](), Counter[int]()
    for (pre, post), count in pairs.items():
        out[pre] += count
        into[post] += count
    return max(out, key=lambda one: min(out[one], into[one]))


def test_numbers_of_synapses(dvid: Any, sample_repo: SampleRepo, body: int) -> None:
    found = sample_repo.notes.synapses
    pre = int(np.sum(_body_at(sample_repo, found.tbars_zyx) == body))
    post = int(np.sum(_body_at(sample_repo, found.densities_zyx) == body))
    assert pre > 1
    assert post > 1
    assert dvid.get_n_synapses(body) == {"pre": pre, "post": post}
    assert dvid.get_n_synapses(10**9) == {"pre": 0, "post": 0}


@pytest.mark.parametrize("details", [False, True])
def test_synapses_of_a_body(dvid: Any, sample_repo: SampleRepo, body: int, details: bool) -> None:
    table = dvid.get_synapses(body, with_details=details)
    found = sample_repo.notes.synapses
    for kind, points in (("PreSyn", found.tbars_zyx), ("PostSyn", found.densities_zyx)):
        expected = points[_body_at(sample_repo, points) == body][:, ::-1]
        shown = table[table.Kind == kind].Pos
        assert sorted(map(tuple, shown)) == sorted(map(tuple, expected.tolist()))
    assert ("Rels" in table.columns) == details
    assert all(0.5 <= float(properties["conf"]) <= 1 for properties in table.Prop)


def test_synapses_in_a_part(dvid: Any, body: int) -> None:
    whole = np.array(dvid.get_synapses(body).Pos.tolist())
    middle = np.median(whole[:, 0])
    part = dvid.get_synapses(body, pos_filter=lambda points: points[:, 0] < middle)
    assert len(part) == np.sum(whole[:, 0] < middle)


def test_partners_of_a_body(dvid: Any, pairs: Pairs, body: int) -> None:
    table = dvid.get_connectivity(body)
    down = {post: count for (pre, post), count in pairs.items() if pre == body}
    up = {pre: count for (pre, post), count in pairs.items() if post == body}
    for relation, expected in (("downstream", down), ("upstream", up)):
        rows = table[table.relation == relation]
        assert dict(zip(rows.bodyid.astype(int), rows.n_synapses.astype(int), strict=True)) == expected


def test_adjacency(dvid: Any, pairs: Pairs) -> None:
    pandas = pytest.importorskip("pandas")
    bodies = list(dict.fromkeys(body for pair, _ in pairs.most_common(6) for body in pair))
    with pandas.option_context("future.infer_string", False):  # it fills texts with 0, which strict columns refuse
        table = dvid.get_adjacency(bodies)
    for pre in bodies:
        for post in bodies:
            expected = pairs[(pre, post)] if pre != post else 0
            shown = table.loc[str(pre), str(post)]
            assert (0 if np.isnan(shown) else shown) == expected


def test_connections_between_two_bodies(dvid: Any, sample_repo: SampleRepo, pairs: Pairs) -> None:
    ((source, target), count) = pairs.most_common(1)[0]
    table = dvid.get_connections(source, target)
    assert len(table) == count
    for row in table.itertuples():
        assert _body_at(sample_repo, np.array([row.tbar_position[::-1]])) == source
        assert _body_at(sample_repo, np.array([row.psd_position[::-1]])) == target


def test_notes_on_a_body(dvid: Any, sample_repo: SampleRepo) -> None:
    known = sample_repo.notes.neurons[0]
    assert dvid.get_annotation(known["bodyid"]) == known
    dvid.edit_annotation(known["bodyid"], {**known, "comment": "seen"}, verbose=False)
    assert dvid.get_annotation(known["bodyid"]) == {**known, "comment": "seen"}
    assert dvid.get_annotation(10**9, verbose=False) == {}


def test_bookmarks(dvid: Any, sample_repo: SampleRepo) -> None:
    table = dvid.get_user_bookmarks(user="demo")
    expected = {tuple(bookmark["Pos"]): bookmark["Prop"]["comment"] for bookmark in sample_repo.notes.bookmarks}
    assert dict(zip(map(tuple, table.Pos), table.comment, strict=True)) == expected
    mine = sample_repo.notes.bookmarks[0] | {"Pos": [1, 2, 3], "Tags": ["user:tester"]}
    mine = {name: value for name, value in mine.items() if name != "Rels"}
    dvid.add_bookmarks([mine])
    assert [row["Pos"] for row in dvid.get_user_bookmarks(user="tester", return_dataframe=False)] == [[1, 2, 3]]


def test_places_to_work_on(dvid: Any, sample_repo: SampleRepo) -> None:
    table = dvid.get_labels_in_area([0, 0, 0], sample_repo.bodies_zyx.shape[::-1])
    assert sorted(map(tuple, table.Pos)) == sorted(tuple(todo["Pos"]) for todo in sample_repo.notes.todos)
    assert dvid.get_labels_in_area([10_000, 0, 0], [64, 64, 64]) is None


def test_assigned_places(dvid: Any, sample_repo: SampleRepo) -> None:
    for key, said in sample_repo.notes.assigned.items():
        assert dvid.get_assignment_status([int(axis) for axis in key.split("_")]) == said
    assert dvid.get_assignment_status([1, 1, 1]) is None


def test_regions(dvid: Any, sample_repo: SampleRepo) -> None:
    regions = {region.name: region for region in sample_repo.notes.regions}
    assert sorted(dvid.get_available_rois()) == sorted(regions)
    assert any("(" in name for name in regions)
    for name, region in regions.items():
        np.testing.assert_array_equal(dvid.get_roi(name, form="BLOCKS"), region.spans())
        blocks_xyz = sorted(map(tuple, region.blocks_zyx[:, ::-1].tolist()))
        assert sorted(map(tuple, dvid.get_roi(name, form="VOXELS").tolist())) == blocks_xyz
        mesh = dvid.get_roi(name)
        low = region.blocks_zyx.min(0)[::-1] * 32 * 8
        high = (region.blocks_zyx.max(0)[::-1] + 1) * 32 * 8
        assert np.all(mesh.bounds[0] > low - 64)
        assert np.all(mesh.bounds[1] < high + 64)


def test_skeletons(dvid: Any, sample_repo: SampleRepo, body: int) -> None:
    assert dvid.has_skeleton([body, 10**9], progress=False).tolist() == [True, False]
    (nodes,) = dvid.get_skeletons(body, output="swc", on_error="raise")
    rows = [line.split() for line in sample_repo.notes.skeletons[body].splitlines() if not line.startswith("#")]
    np.testing.assert_allclose(nodes[["x", "y", "z"]].to_numpy(), [[float(at) for at in row[2:5]] for row in rows])
