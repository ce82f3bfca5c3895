"""The model follows the published rules on cases small enough to check by eye."""

from __future__ import annotations

import numpy as np

from proofreading.model import State, empty_world, halve

SIZE = (16, 16, 16)


def four_labels() -> State:
    """Labels 1 to 4 as slabs of 4 voxels along z in one block, with one more scale."""
    state = empty_world("a", SIZE, 2).versions["a"]
    array = np.repeat(np.arange(1, 5, dtype=np.uint64), 4 * 256).reshape(16, 16, 16)
    return state.with_blocks({(0, 0, 0): array}, True)


def test_down_sampling_counts_only_labels_and_prefers_small_ones() -> None:
    cell = np.zeros((2, 2, 2), np.uint64)
    assert halve(cell).item() == 0
    cell[1, 1, 1] = 9
    assert halve(cell).item() == 9
    cell[0, 0, 0] = 3
    assert halve(cell).item() == 3
    cell[0, 0, 1] = 9
    assert halve(cell).item() == 9


def test_merge_then_cleave() -> None:
    state = four_labels()
    merged = state.merged(4, [3], 1)
    assert (merged.body(3), merged.size(4), 3 in merged.index) == (4, 2048, False)
    assert state.size(4) == 1024
    cleaved = merged.cleaved(4, [3], 5, 2)
    assert [cleaved.body(3), cleaved.body(5), cleaved.max_label] == [5, 0, 5]
    assert cleaved.edited_by == {4: 2, 5: 2}


def test_renumber_keeps_the_mapping_of_a_supervoxel() -> None:
    state = four_labels().merged(1, [3], 1).renumbered(3, 2)
    assert [state.body(label) for label in (1, 2, 3)] == [1, 3, 1]


def test_split_retires_the_supervoxel_and_shows_at_the_next_scale() -> None:
    state = four_labels()
    split = state.supervoxel_split(4, state.points(4, True)[:512], 5, 6, True, 7)
    assert [split.body(label) for label in (4, 5, 6)] == [0, 4, 4]
    assert split.supervoxels_of[4] == [5, 6]
    assert split.scales[1][(0, 0, 0)].array[6, 0, 0] == 5
    assert split.scales[1][(0, 0, 0)].array[7, 0, 0] == 6
    assert len(split.points(4, False, 1)) == 8 * 8 * 2
