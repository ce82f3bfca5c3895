"""Skeletons of shapes whose centrelines are known, whole and cut into blocks."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from fascicle.formats.skeleton import Skeleton
from fascicle.precomputed.centrelines import Centrelines, Teasar, in_block, joined, split_by_body

U64 = NDArray[np.uint64]
FINE = Teasar(scale=1.5, constant_nm=60.0, dust=0, detail_nm=1.0)
EIGHT = (8.0, 8.0, 8.0)


def blocks(shape: Sequence[int], edge: int) -> list[tuple[list[slice], list[bool]]]:
    """Boxes that share a layer, and their faces."""
    counts = [max(1, -(-(n - 1) // edge)) for n in shape]
    found = []
    for at in itertools.product(*map(range, counts)):
        box = [slice(i * edge, min((i + 1) * edge + 1, n)) for i, n in zip(at, shape, strict=True)]
        found.append((box, [face for i, count in zip(at, counts, strict=True) for face in (i > 0, i + 1 < count)]))
    return found


def made(
    labels: U64, resolution: Sequence[float] = EIGHT, parameters: Teasar = FINE, edge: int = 10**6
) -> dict[int, Skeleton]:
    parts: list[Centrelines] = []
    for (z, y, x), faces in blocks(labels.shape, edge):
        parts.append(in_block(labels[z, y, x], (x.start, y.start, z.start), resolution, parameters, faces))
    found = {}
    for body in sorted({body for part in parts for body in split_by_body(part)}):
        skeleton = joined([part.of(body, body) for part in parts], resolution, parameters)
        if skeleton is not None:
            found[body] = skeleton
            check(skeleton, body, labels, resolution)
            again = joined([part.of(body, body) for part in parts[::-1]], resolution, parameters)
            assert again is not None
            assert np.array_equal(again.vertices, skeleton.vertices)
            assert np.array_equal(again.edges, skeleton.edges)
    return found


def check(skeleton: Skeleton, body: int, labels: U64, resolution: Sequence[float]) -> None:
    """Every vertex lies inside, radii are above 0, parents come first."""
    x, y, z = np.floor(skeleton.vertices / np.array(resolution)).astype(int).T
    assert (labels[z, y, x] == body).all()
    assert (skeleton.radii > 0).all()
    assert (skeleton.edges[:, 1] < skeleton.edges[:, 0]).all()
    assert len(np.unique(skeleton.edges[:, 0])) == len(skeleton.edges)


def trees(skeleton: Skeleton) -> int:
    return len(skeleton.vertices) - len(skeleton.edges)


def degrees(skeleton: Skeleton) -> NDArray[np.int64]:
    return np.bincount(skeleton.edges.ravel(), minlength=len(skeleton.vertices))


def ball_along(
    shape: Sequence[int], points: NDArray[np.float64], radius: float, steps: Sequence[float]
) -> NDArray[np.bool_]:
    """Voxels [z, y, x] within `radius` (nm) of some points z, y, x (nm)."""
    places = np.stack(
        np.meshgrid(*[(np.arange(n) + 0.5) * s for n, s in zip(shape, steps, strict=True)], indexing="ij")
    )
    inside = np.zeros(shape, bool)
    for point in points:
        inside |= ((places - point[:, None, None, None]) ** 2).sum(0) <= radius**2
    return inside


def line(a: Sequence[float], b: Sequence[float], number: int = 60) -> NDArray[np.float64]:
    return np.linspace(a, b, number)


TUBE_SHAPE = (40, 40, 120)


@pytest.fixture(scope="module")
def tube() -> U64:
    points = line((160, 160, 80), (160, 160, 880))
    return ball_along(TUBE_SHAPE, points, 64, (8, 8, 8)).astype(np.uint64) * np.uint64(7)


@pytest.mark.parametrize("edge", [10**6, 50, 20])
def test_a_straight_tube(tube: U64, edge: int) -> None:
    (skeleton,) = made(tube, edge=edge).values()
    assert trees(skeleton) == 1
    assert (degrees(skeleton) == 1).sum() == 2
    # cut lengthwise as well, what ends within reach of a contact ends there
    assert skeleton.length == pytest.approx(800 + 2 * 64, rel=0.18 if edge == 20 else 0.12)
    middle = (skeleton.vertices[:, 0] > 200) & (skeleton.vertices[:, 0] < 760)
    assert np.abs(skeleton.vertices[middle, 1:] - 160).max() <= 8
    assert np.abs(skeleton.radii[middle] - 64).max() <= 8


def test_cells_of_several_voxels_give_nearly_the_same(tube: U64) -> None:
    coarse = Teasar(scale=1.5, constant_nm=60.0, dust=0, detail_nm=16.0)
    assert coarse.cell(EIGHT) == (2, 2, 2)
    (skeleton,), (other,) = made(tube).values(), made(tube, parameters=coarse).values()
    assert trees(other) == 1
    assert len(other.vertices) < 0.7 * len(skeleton.vertices)
    assert other.length == pytest.approx(skeleton.length, rel=0.1)


@pytest.mark.parametrize("edge", [10**6, 33])
def test_a_fork_has_three_ends(edge: int) -> None:
    centre = (160.0, 320.0, 320.0)
    ends = [(160.0, 320.0, 60.0), (160.0, 80.0, 560.0), (160.0, 560.0, 560.0)]
    points = np.concatenate([line(centre, end) for end in ends])
    fork = ball_along((40, 80, 80), points, 40, (8, 8, 8)).astype(np.uint64)
    (skeleton,) = made(fork, edge=edge).values()
    assert trees(skeleton) == 1
    assert (degrees(skeleton) == 1).sum() == 3
    branches = np.flatnonzero(degrees(skeleton) > 2)
    assert len(branches) == 1
    assert np.linalg.norm(skeleton.vertices[branches[0]] - np.array(centre)[::-1]) < 60


@pytest.mark.parametrize("edge", [10**6, 30])
def test_a_ring_is_opened_once(edge: int) -> None:
    angles = np.linspace(0, 2 * np.pi, 80)
    points = np.stack((np.full(80, 100.0), 320 + 200 * np.sin(angles), 320 + 200 * np.cos(angles)), axis=1)
    ring = ball_along((25, 80, 80), points, 36, (8, 8, 8)).astype(np.uint64)
    (skeleton,) = made(ring, edge=edge).values()
    assert trees(skeleton) == 1
    assert (degrees(skeleton) > 2).sum() <= 1  # the root is at no end
    assert 0.75 * 2 * np.pi * 200 < skeleton.length < 1.15 * 2 * np.pi * 200


def test_anisotropic_voxels() -> None:
    """A tube along z in voxels of 4 x 4 x 40 nm: lengths and radii are those in nm."""
    steps = (40.0, 4.0, 4.0)
    tube = ball_along((60, 40, 40), line((200, 80, 80), (2200, 80, 80), 100), 48, steps).astype(np.uint64)
    (skeleton,) = made(tube, (4.0, 4.0, 40.0)).values()
    assert trees(skeleton) == 1
    assert (degrees(skeleton) == 1).sum() == 2
    assert skeleton.length == pytest.approx(2000, rel=0.12)
    middle = (skeleton.vertices[:, 2] > 400) & (skeleton.vertices[:, 2] < 2000)
    assert np.abs(skeleton.vertices[middle, :2] - 80).max() <= 8
    assert np.abs(skeleton.radii[middle] - 48).max() <= 6


def test_a_soma_is_where_branches_come_from() -> None:
    points = [np.array([[320.0, 320.0, 320.0]])]
    body = ball_along((80, 80, 80), points[0], 200, (8, 8, 8))
    for end in ((320, 320, 20), (320, 320, 620), (20, 320, 320)):
        body |= ball_along((80, 80, 80), line((320, 320, 320), end), 24, (8, 8, 8))
    parameters = Teasar(scale=1.1, constant_nm=60.0, dust=0, soma_nm=150.0)
    (skeleton,) = made(body.astype(np.uint64), parameters=parameters).values()
    assert np.linalg.norm(skeleton.vertices[0] - 320) < 20
    assert skeleton.radii[0] == pytest.approx(200, abs=10)
    assert (degrees(skeleton) == 1).sum() == 3
    assert trees(skeleton) == 1


def test_pieces_of_one_body_and_dust() -> None:
    labels = np.zeros((20, 20, 40), np.uint64)
    labels[4:8, 4:8, 2:38] = 5
    labels[12:16, 12:16, 2:12] = 5
    labels[0, 0, 0:3] = 5
    labels[10, 1, 1] = 9
    found = made(labels)
    assert trees(found[5]) == 3
    assert found[5].vertices[0, 1] < 8 * 8  # the largest first
    assert len(found[9].vertices) == 1
    assert len(found[9].edges) == 0
    for edge in (10**6, 9):
        clean = made(labels, parameters=Teasar(constant_nm=60.0, dust=10), edge=edge)
        assert list(clean) == [5]
        assert trees(clean[5]) == 2


@pytest.mark.parametrize("edge", [8, 13])
@pytest.mark.parametrize("seed", range(3))
def test_one_tree_for_each_piece_however_it_is_cut(seed: int, edge: int) -> None:
    rough = np.random.default_rng(seed).integers(0, 3, (7, 8, 9)).astype(np.uint64)
    labels = np.kron(rough, np.ones((3, 4, 4), np.uint64))
    labels[np.random.default_rng(seed).random(labels.shape) < 0.2] = 0
    parameters = Teasar(constant_nm=40.0, dust=0)
    whole, cut = made(labels, parameters=parameters), made(labels, parameters=parameters, edge=edge)
    assert {body: trees(skeleton) for body, skeleton in whole.items()} == {
        body: trees(skeleton) for body, skeleton in cut.items()
    }


def test_real_neurites(shared) -> None:  # type: ignore[no-untyped-def]
    """A corner of pinky-512: as many trees as pieces, whole and in blocks, and about as much cable."""
    import gzip

    import crackle

    data = (shared / "data" / "pinky-512" / "connectomics.npy.ckl.gz").read_bytes()
    labels = crackle.decompress(gzip.decompress(data))[384:, 384:, 384:].T
    labels = np.ascontiguousarray(labels).astype(np.uint64)
    parameters, resolution = Teasar(dust=1000), (4.0, 4.0, 40.0)
    whole = made(labels, resolution, parameters)
    cut = made(labels, resolution, parameters, 64)
    assert len(whole) > 10
    assert {body: trees(found) for body, found in whole.items()} == {body: trees(found) for body, found in cut.items()}
    cable = [sum(skeleton.length for skeleton in found.values()) for found in (whole, cut)]
    assert cable[1] == pytest.approx(cable[0], rel=0.15)
