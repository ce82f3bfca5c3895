"""Label blocks beside each other, decoded together."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fascicle.formats import label_block
from fascicle.formats.label_layer import LabelLayer, labels_at


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
@given(seed=st.integers(0, 1 << 30), count=st.integers(1, 4))
def test_labels_at_voxels_of_many_blocks(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    shape = tuple(8 * int(n) for n in rng.integers(1, 4, 3))
    dense = [dense_block(rng, shape) for _ in range(count)]
    opened = [label_block.opened(label_block.encode(block)) for block in dense]
    voxels = [rng.integers(0, shape[::-1], (int(rng.integers(0, 50)), 3)) for _ in dense]
    voxels[0][:1] = np.array(shape[::-1]) - 1  # the last value of a block, behind which there is nothing
    found = labels_at(opened, np.cumsum([len(some) for some in voxels]), np.concatenate(voxels))
    expected = [block[some[:, 2], some[:, 1], some[:, 0]] for block, some in zip(dense, voxels, strict=True)]
    assert np.array_equal(found, np.concatenate(expected))


def test_voxels_that_are_in_no_block() -> None:
    block = label_block.opened(label_block.encode(np.arange(512, dtype=np.uint64).reshape(8, 8, 8)))
    assert labels_at([], np.empty(0, np.int64), np.empty((0, 3), np.int64)).tolist() == []
    assert labels_at([block], np.array([1]), np.array([[7, 0, 1]])).tolist() == [71]
    for voxel in ([8, 0, 0], [0, 0, -1]):
        with pytest.raises(ValueError, match="not inside"):
            labels_at([block], np.array([1]), np.array([voxel]))
    with pytest.raises(ValueError, match="not divided"):
        labels_at([block], np.array([2]), np.array([[0, 0, 0]]))
