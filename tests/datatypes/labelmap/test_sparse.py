"""Sparse volumes against masks."""

from __future__ import annotations

import gzip
import struct

import lz4.block
import numpy as np
import pytest
from dense_labels import EDGE, cells, halved, new_labels, post
from hypothesis import given, settings
from hypothesis import strategies as st
from labelmap_instances import Labels

from fascicle.errors import BadRequest, NoContent, NotFound
from fascicle.formats import sparse_volume

SHAPE = (32, 48, 64)
CORNER = (-16, 0, -16)
"""x, y, z of the first voxel."""


@pytest.fixture(scope="module")
def volume() -> tuple[Labels, np.ndarray]:
    """Supervoxels 1 to 40 in 15 bodies: 1 to 25 are merged into 10 of them."""
    labels = new_labels(1)
    dense = cells(SHAPE, 41, 21)
    post(labels, dense, CORNER)
    bodies = dense.copy()
    for target in range(1, 11):
        merged = list(range(target + 10, 41, 10))
        labels.post("merge", [target, *merged])
        bodies[np.isin(dense, merged)] = target
    return labels, np.stack([dense, bodies])


def voxels_of(runs: np.ndarray) -> set[tuple[int, int, int]]:
    """Voxels x, y, z; each must be in one run only."""
    listed = [(x + i, y, z) for x, y, z, n in runs.tolist() for i in range(n)]
    assert len(listed) == len(set(listed))
    return set(listed)


def expected(mask: np.ndarray, corner=CORNER) -> set[tuple[int, int, int]]:
    z, y, x = np.nonzero(mask)
    return set(zip((x + corner[0]).tolist(), (y + corner[1]).tolist(), (z + corner[2]).tolist(), strict=True))


@pytest.mark.parametrize("supervoxels", [False, True])
def test_all_formats_show_the_same_voxels(volume: tuple[Labels, np.ndarray], supervoxels: bool) -> None:
    labels, dense = volume
    option = f"supervoxels={str(supervoxels).lower()}"
    for label in (1, 7, 10) if not supervoxels else (1, 17, 40):
        mask = dense[0 if supervoxels else 1] == label
        body = labels.get(f"sparsevol/{label}?{option}")
        runs = sparse_volume.decode_rles(body)
        assert voxels_of(runs) == expected(mask)
        order = np.lexsort((runs[:, 0], runs[:, 1], runs[:, 2]))
        assert np.array_equal(np.sort(order), order) or len({z // EDGE for z in runs[:, 2]}) > 1
        ends = {(x + n, y, z) for x, y, z, n in runs.tolist()}
        assert not ends & {(x, y, z) for x, y, z, _ in runs.tolist()}, "runs touch"
        assert gzip.decompress(labels.get(f"sparsevol/{label}?{option}&compression=gzip")) == body
        packed = labels.get(f"sparsevol/{label}?{option}&compression=lz4")
        assert lz4.block.decompress(packed, uncompressed_size=len(body)) == body
        assert labels.get(f"sparsevol/{label}?{option}&format=srles") == body[12:]
        found, blocks = sparse_volume.decode_binary_blocks(labels.get(f"sparsevol/{label}?{option}&format=blocks"))
        assert found == label
        together = set()
        for (x, y, z), part in blocks:
            together |= expected(part, (x, y, z))
        assert together == expected(mask)


def test_coarser_scales(volume: tuple[Labels, np.ndarray]) -> None:
    labels, dense = volume
    supervoxels = halved(np.pad(dense[0], ((0, 0), (0, 16), (0, 0))))
    for label in (3, 8):
        merged = [label, *range(label + 10, 41, 10)]
        runs = sparse_volume.decode_rles(labels.get(f"sparsevol/{label}?scale=1"))
        assert voxels_of(runs) == expected(np.isin(supervoxels, merged), (-8, 0, -8))
        assert labels.get(f"sparsevol/{label}?scale=3") == b""


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_bounds(volume: tuple[Labels, np.ndarray], data: st.DataObject) -> None:
    labels, dense = volume
    label = data.draw(st.integers(1, 10))
    box = {}
    for axis, (low, high) in enumerate(((-20, 50), (-4, 50), (-20, 20))):
        for end in ("min", "max"):
            if data.draw(st.booleans()):
                box[end + "xyz"[axis]] = data.draw(st.integers(low, high))
    mask = dense[1] == label
    coarse = mask.copy()
    inside = np.ones(SHAPE, np.bool_)
    inside_blocks = np.ones(SHAPE, np.bool_)
    empty = False
    for axis in range(3):
        name = "xyz"[axis]
        low, high = box.get("min" + name, -(1 << 31)), box.get("max" + name, (1 << 31) - 1)
        empty |= low > high
        values = np.arange(SHAPE[2 - axis]) + CORNER[axis]
        shape = [1, 1, 1]
        shape[2 - axis] = -1
        inside &= ((values >= low) & (values <= high)).reshape(shape)
        inside_blocks &= ((values // EDGE >= low // EDGE) & (values // EDGE <= high // EDGE)).reshape(shape)
    coarse &= inside_blocks & (not empty)
    options = "&".join(f"{name}={value}" for name, value in box.items())
    if not coarse.any():
        for path in (f"sparsevol/{label}?{options}", f"sparsevol/{label}?exact=false&{options}"):
            with pytest.raises(NotFound):
                labels.get(path)
        with pytest.raises(NoContent):
            labels.call(f"sparsevol/{label}?{options}", "HEAD")
        assert sparse_volume.decode_rles(labels.get(f"sparsevol-coarse/{label}?{options}")).size == 0
        return
    assert labels.call(f"sparsevol/{label}?{options}", "HEAD").status == 200
    body = labels.get(f"sparsevol/{label}?{options}")
    clipped = expected(mask & inside)
    assert voxels_of(sparse_volume.decode_rles(body)) == clipped if clipped else body == b""
    body = labels.get(f"sparsevol/{label}?exact=false&{options}")
    assert voxels_of(sparse_volume.decode_rles(body)) == expected(coarse)
    blocks = voxels_of(sparse_volume.decode_rles(labels.get(f"sparsevol-coarse/{label}?{options}")))
    assert blocks == {(x // EDGE, y // EDGE, z // EDGE) for x, y, z in expected(coarse)}


def test_coarse_volumes_and_sizes(volume: tuple[Labels, np.ndarray]) -> None:
    labels, dense = volume
    found = dict(sparse_volume.decode_coarse_records(labels.get("sparsevols-coarse/2/9")))
    assert list(found) == list(range(2, 10))
    for label, runs in found.items():
        assert np.array_equal(runs, sparse_volume.decode_rles(labels.get(f"sparsevol-coarse/{label}")))
        voxels = np.array(sorted(expected(dense[1] == label)))
        blocks = voxels // EDGE
        assert labels.json(f"sparsevol-size/{label}") == {
            "voxels": len(voxels),
            "numblocks": len(np.unique(blocks, axis=0)),
            "minvoxel": (blocks.min(axis=0) * EDGE).tolist(),
            "maxvoxel": (blocks.max(axis=0) * EDGE + EDGE - 1).tolist(),
        }
    assert labels.get("sparsevol-size/1").startswith(b'{"voxels": ')


def test_by_point(volume: tuple[Labels, np.ndarray]) -> None:
    labels, dense = volume
    z, y, x = np.argwhere(dense[1] == 4)[0].tolist()
    point = f"{x + CORNER[0]}_{y + CORNER[1]}_{z + CORNER[2]}"
    assert labels.get(f"sparsevol-by-point/{point}") == labels.get("sparsevol/4")
    supervoxel = int(dense[0, z, y, x])
    expected_body = labels.get(f"sparsevol/{supervoxel}?supervoxels=true")
    assert labels.get(f"sparsevol-by-point/{point}?supervoxels=true") == expected_body


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("sparsevol/0", BadRequest),
        ("sparsevol/x", BadRequest),
        ("sparsevol", BadRequest),
        ("sparsevol/35", NotFound),
        ("sparsevol/999", NotFound),
        ("sparsevol/999?supervoxels=true", NotFound),
        ("sparsevol/1?compression=zip", BadRequest),
        ("sparsevol/1?minx=a", BadRequest),
        ("sparsevol-by-point/500_500_500", BadRequest),
        ("sparsevol-by-point/1_2", BadRequest),
        ("sparsevol-coarse/999", NotFound),
        ("sparsevol-size/999", NotFound),
        ("sparsevols-coarse/0/5", BadRequest),
        ("sparsevols-coarse/3", BadRequest),
    ],
)
def test_refusals(volume: tuple[Labels, np.ndarray], path: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        volume[0].get(path)


def test_header_of_binary_blocks(volume: tuple[Labels, np.ndarray]) -> None:
    body = volume[0].get("sparsevol/2?format=blocks")
    assert struct.unpack_from("<IIIQ", body) == (2, 2, 2, 2)


def test_index_grids(volume: tuple[Labels, np.ndarray]) -> None:
    labels, dense = volume
    grid = labels.get("fvdb/6?name=some")
    mask = dense[1] == 6
    assert struct.unpack_from("<Q", grid, 656)[0] == int(mask.sum()) + 1
    assert grid[40:45] == b"some\0"
    z, y, x = np.nonzero(mask)
    box = (x.min() - 16, y.min(), z.min() - 16, x.max() - 16, y.max(), z.max() - 16)
    assert struct.unpack_from("<6i", grid, 672 + 64) == box
    with pytest.raises(NotFound):
        labels.get("fvdb/999")
    with pytest.raises(BadRequest):
        labels.get("fvdb/6?scale=3")
    with pytest.raises(BadRequest):
        labels.get('fvdb/6?name=a"b')
