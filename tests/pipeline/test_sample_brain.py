"""The generated brain: the same for the same seed, bodies in one piece, and looking like tissue."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from fascicle.pipeline.sample_brain import SampleBrain, make_brain


@pytest.fixture(scope="module")
def brain() -> SampleBrain:
    return make_brain(seed=7, size_zyx=(72, 64, 80))


def _parts(volume_zyx: np.ndarray) -> Counter[int]:
    """How many 6-connected parts each label of a volume has (0 left out); a plain flood fill."""
    waiting = {tuple(point) for point in np.argwhere(volume_zyx != 0).tolist()}
    parts: Counter[int] = Counter()
    while waiting:
        start = waiting.pop()
        label = volume_zyx[start]
        parts[int(label)] += 1
        stack = [start]
        while stack:
            z, y, x = stack.pop()
            for near in ((z - 1, y, x), (z + 1, y, x), (z, y - 1, x), (z, y + 1, x), (z, y, x - 1), (z, y, x + 1)):
                if near in waiting and volume_zyx[near] == label:
                    waiting.discard(near)
                    stack.append(near)
    return parts


def test_same_seed_same_brain(brain: SampleBrain) -> None:
    again = make_brain(seed=7, size_zyx=(72, 64, 80))
    np.testing.assert_array_equal(again.grayscale_zyx, brain.grayscale_zyx)
    np.testing.assert_array_equal(again.supervoxels_zyx, brain.supervoxels_zyx)
    np.testing.assert_array_equal(again.body_ids, brain.body_ids)


def test_another_seed_another_brain(brain: SampleBrain) -> None:
    other = make_brain(seed=8, size_zyx=(72, 64, 80))
    assert np.mean(other.grayscale_zyx != brain.grayscale_zyx) > 0.5


def test_shapes_and_types(brain: SampleBrain) -> None:
    assert brain.grayscale_zyx.shape == brain.supervoxels_zyx.shape == (72, 64, 80)
    assert brain.grayscale_zyx.dtype == np.uint8
    assert brain.supervoxels_zyx.dtype == brain.supervoxel_ids.dtype == brain.body_ids.dtype == np.uint64
    assert brain.resolution_nm == (8, 8, 8)


def test_table_lists_exactly_the_supervoxels_there_are(brain: SampleBrain) -> None:
    found = np.unique(brain.supervoxels_zyx)
    np.testing.assert_array_equal(found[found != 0], brain.supervoxel_ids)
    assert brain.body_ids.size == brain.supervoxel_ids.size
    assert np.all(np.isin(brain.body_ids, brain.supervoxel_ids))
    named = np.isin(brain.supervoxel_ids, brain.body_ids)
    np.testing.assert_array_equal(brain.body_ids[named], brain.supervoxel_ids[named])


def test_every_body_hangs_together(brain: SampleBrain) -> None:
    parts = _parts(brain.bodies_zyx)
    assert set(parts) == set(brain.body_ids.tolist())
    assert max(parts.values()) == 1


def test_bodies_fill_the_volume_and_are_cut_into_pieces(brain: SampleBrain) -> None:
    bodies = brain.bodies_zyx
    assert np.mean(bodies != 0) > 0.9
    assert np.unique(brain.body_ids).size >= 5
    assert brain.supervoxel_ids.size >= 3 * np.unique(brain.body_ids).size


def test_membranes_are_dark(brain: SampleBrain) -> None:
    bodies = brain.bodies_zyx
    border = bodies[:, :, 1:] != bodies[:, :, :-1]
    gray = brain.grayscale_zyx[:, :, 1:]
    assert gray[border].mean() < gray[~border].mean() - 30
    assert 100 < brain.grayscale_zyx.mean() < 180


def test_too_small_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 32"):
        make_brain(size_zyx=(16, 64, 64))


@pytest.mark.slow
def test_full_size_has_thousands_of_supervoxels_and_hundreds_of_bodies() -> None:
    from fascicle.kernels.brain_growth import strays

    brain = make_brain()
    bodies = brain.bodies_zyx
    sizes = np.bincount(bodies.ravel().astype(np.int64))[np.unique(brain.body_ids).astype(np.int64)]
    assert bodies.shape == (256, 256, 256)
    assert 2000 <= brain.supervoxel_ids.size <= 20000
    assert 50 <= sizes.size <= 999
    assert sizes.min() >= 100
    assert sizes.max() < 0.2 * bodies.size
    assert strays(bodies.astype(np.int32)).size == 0
