"""The decoders that judge the server are themselves right on the published examples, and undo the encoders."""

from __future__ import annotations

import numpy as np
import pytest

from proofreading import wire


def test_the_published_label_block_of_two_labels() -> None:
    """16^3 voxels of label 5 but for one of 9: 148 bytes, table in ascending order of sub-block labels."""
    volume = np.full((16, 16, 16), 5, np.uint64)
    volume[0, 0, 0] = 9
    data = wire.encode_label_block(volume)
    assert len(data) == 148
    assert (wire.decode_label_block(data) == volume).all()
    published = bytes.fromhex(
        "02000000 02000000 02000000 02000000 0500000000000000 0900000000000000"
        "0200010001000100010001000100010000000000 01000000" + "00000000" * 7 + "80" + "00" * 63
    )
    assert (wire.decode_label_block(published) == volume).all()


@pytest.mark.parametrize("labels", [1, 2, 3, 5, 9, 300, 100000])
def test_label_blocks_come_back(labels: int) -> None:
    volume = np.random.default_rng(labels).integers(0, labels, (16, 24, 32)).astype(np.uint64) << np.uint64(40)
    assert (wire.decode_label_block(wire.encode_label_block(volume)) == volume).all()


def test_runs_come_back() -> None:
    points = np.argwhere(np.random.default_rng(1).random((9, 10, 11)) < 0.6)
    assert np.array_equal(wire.points_of_legacy_rles(wire.legacy_rles(points)), points)
    with pytest.raises(AssertionError, match="twice"):
        wire.points_of_runs(wire.legacy_rles(points)[12:] * 2)


def test_the_published_sparse_volumes() -> None:
    runs = bytes.fromhex(
        "00030000 00000000 02000000 0a000000 14000000 1e000000 05000000 ffffffff 14000000 1f000000 02000000"
    )
    expected = [(30, 20, x) for x in range(10, 15)] + [(31, 20, -1), (31, 20, 0)]
    assert [tuple(point) for point in wire.points_of_legacy_rles(runs)] == expected
    blocks = bytes.fromhex(
        "02000000 02000000 02000000 0900000000000000 00000000 00000000 00000000 02 02 01" + "00" * 63 + "00" * 7
    )
    assert wire.points_of_binary_blocks(blocks, 9).tolist() == [[0, 0, 0]]


def test_the_published_label_index() -> None:
    data = bytes.fromhex(
        "0a13 0881808082808003 1209 0a05080510ac02 1009 1007 188194ebdc03 2214"
        "323032342d30312d30325430333a30343a30355a 2a0175 320161"
    )
    assert wire.decode_label_index(data) == (7, {(1, 2, 3): {5: 300}})
    assert wire.decode_block_index(4611701411595419649) == (-1, -2, -3)
