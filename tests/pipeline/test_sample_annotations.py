"""What is made up about the sample brain fits its voxels, and is the same each time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fascicle.pipeline.sample_annotations import (
    ROI_BLOCK,
    SampleAnnotations,
    annotate,
    make_regions,
    obj_text,
    region_labels,
    region_surfaces,
    spans_of,
    synapse_elements,
)
from fascicle.pipeline.sample_brain import SampleBrain, make_brain


@pytest.fixture(scope="module")
def brain() -> SampleBrain:
    return make_brain(seed=7, size_zyx=(72, 64, 80))


@pytest.fixture(scope="module")
def notes(brain: SampleBrain) -> SampleAnnotations:
    return annotate(brain, seed=7)


def _body_at(brain: SampleBrain, position_xyz: list[int]) -> int:
    x, y, z = position_xyz
    return int(brain.bodies_zyx[z, y, x])


def test_same_seed_same_notes(brain: SampleBrain, notes: SampleAnnotations) -> None:
    again = annotate(brain, seed=7)
    assert synapse_elements(again.synapses) == synapse_elements(notes.synapses)
    for name in ("neurons", "bookmarks", "todos", "assigned", "skeletons"):
        assert getattr(again, name) == getattr(notes, name)
    other = annotate(brain, seed=8)
    assert synapse_elements(other.synapses) != synapse_elements(notes.synapses)


def test_synapses_join_different_bodies_that_touch(brain: SampleBrain, notes: SampleAnnotations) -> None:
    found = notes.synapses
    bodies = brain.bodies_zyx
    pre, post = bodies[tuple(found.tbars_zyx.T)], bodies[tuple(found.densities_zyx.T)]
    assert len(pre) >= 10
    assert len(post) >= 2 * len(pre)
    assert np.all(pre != 0)
    assert np.all(post != 0)
    assert np.all(pre[found.tbar_of_density] != post)
    assert set(found.tbar_of_density.tolist()) == set(range(len(pre))), "every T-bar has a density"
    apart = np.linalg.norm(found.tbars_zyx[found.tbar_of_density] - found.densities_zyx, axis=1)
    assert apart.max() < 16
    everything = np.concatenate([found.tbars_zyx, found.densities_zyx])
    assert len(np.unique(everything, axis=0)) == len(everything)


def test_elements_are_related_both_ways(notes: SampleAnnotations) -> None:
    elements = {tuple(element["Pos"]): element for element in synapse_elements(notes.synapses)}
    kinds = {"PreSyn": ("PreSynTo", "PostSyn"), "PostSyn": ("PostSynTo", "PreSyn")}
    for position, element in elements.items():
        relation, other_kind = kinds[element["Kind"]]
        assert 0.5 <= float(element["Prop"]["conf"]) <= 1
        assert element["Rels"]
        for one in element["Rels"]:
            other: dict[str, Any] = elements[tuple(one["To"])]
            assert one["Rel"] == relation
            assert other["Kind"] == other_kind
            assert list(position) in [back["To"] for back in other["Rels"]]


def test_regions_do_not_overlap_and_their_names_are_hard() -> None:
    regions = make_regions((256, 256, 256))
    assert {"AB(L)", "a'L(R)"} <= {region.name for region in regions}
    blocks = np.concatenate([region.blocks_zyx for region in regions])
    assert len(np.unique(blocks, axis=0)) == len(blocks)
    assert blocks.min() >= 0
    assert blocks.max() < 8
    labels = region_labels(regions, (256, 256, 256))
    for number, region in enumerate(regions, start=1):
        covered = np.zeros((8, 8, 8), bool)
        for z, y, x0, x1 in region.spans():
            assert not covered[z, y, x0 : x1 + 1].any()
            covered[z, y, x0 : x1 + 1] = True
        np.testing.assert_array_equal(np.argwhere(covered), region.blocks_zyx)
        np.testing.assert_array_equal(labels[::ROI_BLOCK, ::ROI_BLOCK, ::ROI_BLOCK] == number, covered)
    assert np.unique(labels).tolist() == list(range(len(regions) + 1))


def test_small_volumes_have_regions_inside(notes: SampleAnnotations, brain: SampleBrain) -> None:
    assert notes.regions
    labels = region_labels(notes.regions, brain.supervoxels_zyx.shape)
    assert labels.shape == brain.supervoxels_zyx.shape
    assert labels.max() == len(notes.regions)


def test_spans_of_blocks_in_a_row() -> None:
    blocks = np.array([[0, 0, 1], [0, 0, 2], [0, 0, 4], [0, 1, 5], [1, 1, 6]])
    assert spans_of(blocks) == [[0, 0, 1, 2], [0, 0, 4, 4], [0, 1, 5, 5], [1, 1, 6, 6]]


def test_surfaces_of_regions_lie_round_their_blocks() -> None:
    regions = make_regions((256, 256, 256))
    for region, vertices, triangles in region_surfaces(regions, (8, 8, 8)):
        low = region.blocks_zyx.min(0)[::-1] * ROI_BLOCK * 8
        high = (region.blocks_zyx.max(0)[::-1] + 1) * ROI_BLOCK * 8
        assert np.all(vertices.min(0) > low - 64)
        assert np.all(vertices.max(0) < high + 64)
        lines = obj_text(vertices, triangles).decode().splitlines()
        assert sum(line.startswith("v ") for line in lines) == len(vertices)
        faces = [int(word) for line in lines if line.startswith("f ") for word in line.split()[1:]]
        assert min(faces) == 1
        assert max(faces) == len(vertices)


def test_every_body_is_described_once(brain: SampleBrain, notes: SampleAnnotations) -> None:
    assert sorted(neuron["bodyid"] for neuron in notes.neurons) == np.unique(brain.body_ids).tolist()
    assert notes.neurons[0]["status"] == "Traced"
    assert {"type", "instance", "class", "position"} <= set(notes.neurons[0])
    for neuron in notes.neurons:
        if "position" in neuron:
            assert _body_at(brain, neuron["position"]) == neuron["bodyid"]


def test_bookmarks_and_todos_are_in_bodies(brain: SampleBrain, notes: SampleAnnotations) -> None:
    assert notes.bookmarks
    assert notes.todos
    for bookmark in notes.bookmarks:
        assert _body_at(brain, bookmark["Pos"]) == int(bookmark["Prop"]["body ID"])
        assert all(isinstance(value, str) for value in bookmark["Prop"].values())
    for todo in notes.todos:
        assert _body_at(brain, todo["Pos"]) != 0
        assert todo["Tags"] == [f"action:{todo['Prop']['action']}"]


def test_skeletons_are_trees_along_their_bodies(brain: SampleBrain, notes: SampleAnnotations) -> None:
    assert set(notes.skeletons) == set(brain.body_ids.tolist())
    near = 0
    total = 0
    for body, text in notes.skeletons.items():
        rows = [line.split() for line in text.splitlines() if not line.startswith("#")]
        assert [int(row[0]) for row in rows] == list(range(1, len(rows) + 1))
        assert [int(row[6]) for row in rows].count(-1) == 1
        assert all(int(row[6]) < int(row[0]) for row in rows)
        for row in rows:
            position = [int(float(word)) for word in row[2:5]]
            if all(0 <= at < edge for at, edge in zip(position, (80, 64, 72), strict=True)):
                total += 1
                near += _body_at(brain, position) == body
    assert near > 0.9 * total
