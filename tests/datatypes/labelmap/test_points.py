"""Labels at points, against the volume."""

from __future__ import annotations

import hashlib

import msgspec
import numpy as np
import pytest
from dense_labels import cells, halved, new_labels, post

from fascicle.errors import BadRequest


def test_points_anywhere() -> None:
    labels = new_labels(1)
    dense = cells((32, 32, 48), 30, 31)
    post(labels, dense, (-16, 0, -16))
    labels.post("merge", [3, 4, 5])
    bodies = np.where((dense == 4) | (dense == 5), np.uint64(3), dense)
    lowered = halved(np.pad(dense, ((0, 0), (0, 0), (0, 16))))
    rng = np.random.default_rng(3)
    xyz = rng.integers((-20, -4, -20), (40, 40, 20), (500, 3))
    for options, volume, low in (
        ("", bodies, (-16, 0, -16)),
        ("?supervoxels=true", dense, (-16, 0, -16)),
        ("?supervoxels=true&scale=1", lowered, (-8, 0, -8)),
        ("?scale=2", np.zeros((1, 1, 1), np.uint64), (0, 0, 0)),
    ):
        x, y, z = (xyz - low).T
        inside = (
            (x >= 0) & (y >= 0) & (z >= 0) & (x < volume.shape[2]) & (y < volume.shape[1]) & (z < volume.shape[0])
        )
        expected = np.zeros(len(xyz), np.uint64)
        expected[inside] = volume[z[inside], y[inside], x[inside]]
        assert labels.json(f"labels{options}", xyz.tolist()) == expected.tolist()
        for i in range(20):
            point = "_".join(map(str, xyz[i].tolist()))
            assert labels.get(f"label/{point}{options}") == b'{"Label": %d}' % expected[i]
        before = labels.at_once
        near = xyz[np.abs(xyz).max(axis=1) < 16]
        assert labels.json(f"labels{options}", near.tolist()) == expected[np.abs(xyz).max(axis=1) < 16].tolist()
        assert labels.at_once == before + 1
    assert labels.json("labels", [[1 << 40, 0, 0], [0, -(1 << 62), 0]]) == [0, 0]


def test_forms_of_requests_and_answers() -> None:
    labels = new_labels(0)
    post(labels, np.full((16, 16, 16), (1 << 64) - 2, np.uint64))
    assert labels.get("labels", b"[]") == b"[]"
    assert labels.get("labels", b" [ [0,0, 0] ,[1,2,300]] ") == b"[18446744073709551614,0]"
    body = msgspec.json.encode([[1, 2, 3]])
    assert labels.get("labels?hash=" + hashlib.md5(body).hexdigest(), body) == b"[18446744073709551614]"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("label/1_2", b""),
        ("label/a_b_c", b""),
        ("label/1_2_3?scale=x", b""),
        ("label", b""),
        ("labels", b""),
        ("labels", b"[[1,2]]"),
        ("labels", b"[[1,2,3.5]]"),
        ("labels", b'{"a": 1}'),
        ("labels", b"[[1,2,99999999999999999999999]]"),
        ("labels?hash=00", b"[[1,2,3]]"),
        ("labels?scale=-1", b"[[1,2,3]]"),
    ],
)
def test_refusals(path: str, body: bytes) -> None:
    with pytest.raises(BadRequest):
        new_labels(0).get(path, body)
