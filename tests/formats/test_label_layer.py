"""Label blocks beside each other, decoded together."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fascicle.formats import label_block
from fascicle.formats.block_code import LIMIT, block_codes
from fascicle.formats.label_layer import LabelLayer, VoxelsByBlock, labels_at, runs_of_layers


def dense_block(rng: np.random.Generator, shape_zyx: tuple[int, int, int]) -> np.ndarray:
    """Labels whose sub-blocks have from one label to 512 of them."""
    kinds = int(rng.choice([1, 2, 3, 7, 300, 5000]))
    coarse = rng.integers(0, kinds, [max(1, n // 4) for n in shape_zyx]).astype(np.uint64)
    fine = np.kron(coarse, np.ones((4, 4, 4), np.uint64))
    noisy = rng.random(shape_zyx) < rng.choice([0.0, 0.02, 1.0])
    return np.where(noisy, rng.integers(0, kinds, shape_zyx).astype(np.uint64), fine) * np.uint64(1 << 40)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_boxes_of_a_layer_are_those_of_its_blocks(data: st.DataObject) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 1 << 30)))
    gx, gy, gz = (data.draw(st.integers(1, 3)) for _ in range(3))
    columns, rows = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3))
    dense = np.zeros((8 * gz, 8 * gy * rows, 8 * gx * columns), np.uint64)
    blocks, places = [], []
    for row in range(rows):
        for column in range(columns):
            if data.draw(st.integers(0, 4)):
                part = dense[:, 8 * gy * row : 8 * gy * (row + 1), 8 * gx * column : 8 * gx * (column + 1)]
                part[...] = dense_block(rng, part.shape)
                blocks.append(label_block.opened(label_block.encode(np.ascontiguousarray(part))))
                places.append((column, row))
    layer = LabelLayer(blocks, places, (columns, rows), (gx, gy, gz))
    z = 0
    while z < 8 * gz:
        depth = data.draw(st.integers(1, 8 * gz - z))
        y, x = data.draw(st.integers(0, 8 * gy * rows - 1)), data.draw(st.integers(0, 8 * gx * columns - 1))
        height = data.draw(st.integers(1, 8 * gy * rows - y))
        width = data.draw(st.integers(1, 8 * gx * columns - x))
        out = np.full((depth, height, width), 77, np.uint64)
        layer.write(z, (y, x), out)
        assert np.array_equal(out, dense[z : z + depth, y : y + height, x : x + width])
        z += depth


def test_labels_of_another_table() -> None:
    dense = np.arange(512, dtype=np.uint64).reshape(8, 8, 8) % np.uint64(5)
    block = label_block.opened(label_block.encode(dense))
    layer = LabelLayer([block.with_table(block.table + np.uint64(10))], [(0, 0)], (1, 1), (1, 1, 1))
    out = np.empty((8, 8, 8), np.uint64)
    layer.write(0, (0, 0), out)
    assert np.array_equal(out, dense + np.uint64(10))


def test_boxes_that_cannot_be_written() -> None:
    block = label_block.opened(label_block.encode(np.arange(4096, dtype=np.uint64).reshape(16, 16, 16)))
    with pytest.raises(ValueError, match="not of the grid"):
        LabelLayer([block], [(0, 0)], (1, 1), (1, 1, 1))
    with pytest.raises(ValueError, match="not of the grid"):
        LabelLayer([block], [(1, 0)], (1, 1), (2, 2, 2))
    layer = LabelLayer([block], [(0, 0)], (1, 1), (2, 2, 2))
    for z, yx, shape in (
        (0, (0, 9), (1, 8, 8)),
        (9, (0, 0), (8, 8, 8)),
        (-1, (0, 0), (1, 8, 8)),
        (0, (9, 0), (1, 8, 8)),
    ):
        with pytest.raises(ValueError, match="not inside"):
            layer.write(z, yx, np.empty(shape, np.uint64))
    with pytest.raises(ValueError, match="contiguous"):
        layer.write(0, (0, 0), np.empty((1, 8, 16), np.uint64)[..., ::2])
    layer.write(8, (0, 0), np.empty((1, 8, 8), np.uint64))
    with pytest.raises(ValueError, match="passed by"):
        layer.write(0, (0, 0), np.empty((1, 8, 8), np.uint64))


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 1 << 30), spread=st.sampled_from([1, 3, 1 << 20]))
def test_labels_at_voxels_of_many_blocks(seed: int, spread: int) -> None:
    rng = np.random.default_rng(seed)
    gx, gy, gz = (int(n) for n in rng.integers(1, 4, 3))
    shape, size = (8 * gz, 8 * gy, 8 * gx), (8 * gx, 8 * gy, 8 * gz)
    xyz = rng.integers(-spread, spread + 1, (int(rng.integers(0, 150)), 3)) * size + rng.integers(0, size, (1, 3))
    xyz[:1] = np.array(size) - 1  # the last value of a block, behind which there is nothing
    voxels = VoxelsByBlock.of(xyz, size)
    corners = np.floor_divide(xyz, size)
    coded = np.flatnonzero((np.abs(corners) <= LIMIT).all(axis=1))
    codes = block_codes(corners[coded])
    order = coded[np.argsort(codes, kind="stable")]
    assert np.array_equal(voxels.places, order)
    assert np.array_equal(voxels.codes, np.unique(codes))
    assert np.array_equal(voxels.ends, np.cumsum(np.unique(codes, return_counts=True)[1]))
    assert np.array_equal(voxels.xyz, (xyz - corners * size)[order])

    dense = {int(code): dense_block(rng, shape) for code in voxels.codes if rng.random() < 0.7}
    opened = [
        label_block.opened(label_block.encode(dense[code])) if code in dense else None for code in voxels.codes.tolist()
    ]
    found, missing = np.full(len(xyz), 77, np.uint64), np.zeros(shape, np.uint64)
    labels_at(opened, voxels, found)
    expected = np.full(len(xyz), 77, np.uint64)
    for place, code in zip(coded.tolist(), codes.tolist(), strict=True):
        x, y, z = xyz[place] - corners[place] * size
        expected[place] = dense.get(code, missing)[z, y, x]
    assert np.array_equal(found, expected)


def test_voxels_of_some_of_the_blocks() -> None:
    voxels = VoxelsByBlock.of(np.array([[9, 0, 0], [1, 0, 0], [10, 0, 0], [2, 3, 17]]), (8, 8, 8))
    middle = voxels.part(1, 2)
    assert middle.places.tolist() == [0, 2]
    assert middle.ends.tolist() == [2]
    assert middle.xyz.tolist() == [[1, 0, 0], [2, 0, 0]]
    assert middle.codes.tolist() == block_codes([[1, 0, 0]]).tolist()


def test_voxels_that_are_in_no_block() -> None:
    block = label_block.opened(label_block.encode(np.arange(512, dtype=np.uint64).reshape(8, 8, 8)))
    out = np.zeros(1, np.uint64)
    labels_at([], VoxelsByBlock.of(np.empty((0, 3), np.int64), (8, 8, 8)), out)
    labels_at([block], VoxelsByBlock.of(np.array([[7, 0, 1]]), (8, 8, 8)), out)
    assert out.tolist() == [71]
    for voxel in ([8, 0, 0], [0, 0, -1]):
        inside = VoxelsByBlock(*(np.array(part) for part in ([1], [1], [0], [voxel])))
        with pytest.raises(ValueError, match="not inside"):
            labels_at([block], inside, out)
    with pytest.raises(ValueError, match="not those"):
        labels_at([block, None], VoxelsByBlock.of(np.array([[0, 0, 0]]), (8, 8, 8)), out)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 1 << 30), bounded=st.booleans(), wide=st.booleans())
def test_runs_reach_over_the_blocks_of_a_layer(seed: int, bounded: bool, wide: bool) -> None:
    rng = np.random.default_rng(seed)
    shape = (8, 16, 72 if wide else 8)
    corners = [
        (x * shape[2], y * shape[1] - 16, z * shape[0])
        for z, y, x in np.ndindex(2, 3, 4)
        if rng.random() < 0.8
    ]
    mixed = rng.random(len(corners)) < 0.5
    dense = [rng.integers(1, 4 if some else 2, shape).astype(np.uint64) for some in mixed]
    opened = [label_block.opened(label_block.encode(block)) for block in dense]
    wanted = [np.isin(block.table, [1, 2]) for block in opened]
    bounds = ((5, -14, 1), (60, 20, 11)) if bounded else None
    found, ends = runs_of_layers(opened, wanted, np.array(corners, np.int64).reshape(-1, 3), bounds)
    expected, expected_ends = [np.empty((0, 4), np.int32)], []
    for z in sorted({corner[2] for corner in corners}):
        each = [
            label_block.runs(block, mask, corner, bounds)
            for block, mask, corner in zip(opened, wanted, corners, strict=True)
            if corner[2] == z
        ]
        expected.append(label_block.join_runs(np.concatenate(each)))
        expected_ends.append(sum(map(len, expected)))
    assert np.array_equal(found, np.concatenate(expected))
    assert ends.tolist() == expected_ends


def test_runs_of_blocks_that_do_not_fit_together() -> None:
    cube, bar = (label_block.opened(label_block.encode(np.ones(shape, np.uint64))) for shape in [(8, 8, 8), (8, 8, 16)])
    corners, chosen = np.zeros((2, 3), np.int64), [np.ones(1, np.bool_)] * 2
    with pytest.raises(ValueError, match="one size"):
        runs_of_layers([cube, bar], chosen, corners)
    for masks in ([np.ones(2, np.bool_)] * 2, chosen[:1]):
        with pytest.raises(ValueError, match="masks"):
            runs_of_layers([cube, cube], masks, corners)
    assert len(runs_of_layers([cube, cube], [np.zeros(1, np.bool_)] * 2, corners)[0]) == 0
