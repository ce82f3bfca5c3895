"""Pictures of sections and of bodies, compared with the arrays that they show."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from neuroglancer.segment_colors import hex_string_from_segment_id
from PIL import Image

from fascicle.errors import BadRequest, FascicleError, NotFound
from fascicle.formats.pseudocolor import viewer_colours
from fascicle.pipeline import shot as shots
from fascicle.pipeline.shot import ShotOptions, shot
from fascicle.pipeline.shot_surface import largest, surface
from fascicle.pipeline.sources import SourceSpec
from static_samples import gray_zyx, labels_zyx, write_volume


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shot")
    write_volume(folder / "gray", gray_zyx())
    write_volume(folder / "seg", labels_zyx(), "compressed_segmentation")
    return folder


def drawn(root: Path, names: tuple[str, ...], **options: object) -> np.ndarray:
    path = root / "picture.png"
    result = shot([SourceSpec(address=str(root / name)) for name in names], str(path), ShotOptions(**options))  # type: ignore[arg-type]
    picture = np.asarray(Image.open(path))
    assert picture.shape == (result.height, result.width, 3)
    return picture


def test_a_pixel_per_voxel(root: Path) -> None:
    gray = gray_zyx()
    picture = drawn(root, ("gray",), width=64, height=48, scale=1, position_xyz=(32, 24, 7.5), value_range=(0, 255))
    np.testing.assert_array_equal(picture, np.repeat(gray[7][..., None], 3, -1))
    # along z voxels are twice as large as across
    picture = drawn(
        root, ("gray",), width=64, height=80, scale=1, position_xyz=(32, 5.5, 20), value_range=(0, 255), plane="xz"
    )
    np.testing.assert_array_equal(picture[..., 0], gray[:, 5].repeat(2, 0))
    picture = drawn(
        root, ("gray",), width=48, height=80, scale=1, position_xyz=(9.5, 24, 20), value_range=(0, 255), plane="yz"
    )
    np.testing.assert_array_equal(picture[..., 1], gray[:, :, 9].repeat(2, 0))


def test_outside_is_black(root: Path) -> None:
    picture = drawn(root, ("gray",), width=20, height=20, scale=1, position_xyz=(0, 0, 0), value_range=(0, 255))
    assert not picture[:10].any()
    assert not picture[:, :10].any()
    np.testing.assert_array_equal(picture[10:, 10:, 0], gray_zyx()[0, :10, :10])
    assert not drawn(root, ("gray",), width=9, height=9, scale=1, position_xyz=(0, 0, 100)).any()


def test_the_whole_volume_with_its_own_range(root: Path) -> None:
    picture = drawn(root, ("gray",), width=128, height=128)
    assert not picture[:16].any()
    assert picture[20, 0, 0] < 20
    assert picture[100, 127, 0] > 240


def test_labels_over_gray(root: Path) -> None:
    options = {"width": 64, "height": 48, "scale": 1, "position_xyz": (32, 24, 30.5), "value_range": (0, 255)}
    gray, labels = gray_zyx()[30], labels_zyx()[30]
    colours = viewer_colours(labels)
    both = drawn(root, ("gray", "seg"), alpha=0.5, **options)
    expected = np.where(labels[..., None] != 0, (gray[..., None] + colours.astype(float)) / 2, gray[..., None])
    assert np.abs(both - expected).max() <= 1
    alone = drawn(root, ("seg",), **options)
    np.testing.assert_array_equal(alone, np.where(labels[..., None] != 0, colours, 0))
    some = drawn(root, ("seg",), segments=(5,), **options)
    np.testing.assert_array_equal(some.any(-1), labels == 5)


def test_colours_are_those_of_the_viewer() -> None:
    rng = np.random.default_rng(3)
    labels = np.concatenate([np.arange(1, 300), rng.integers(1, 2**63, 300)]).astype(np.uint64)
    for seed in (0, 123456):
        texts = [hex_string_from_segment_id(seed, int(label)) for label in labels]
        expected = np.array([[int(text[i : i + 2], 16) for i in (1, 3, 5)] for text in texts])
        assert np.abs(viewer_colours(labels, seed).astype(int) - expected).max() <= 1


def test_surfaces() -> None:
    labels = np.zeros((12, 12, 12), np.uint64)
    labels[3:9, 3:9, 3:9] = 4
    points, normals, ids = surface(labels)
    assert len(ids) == 6**3 - 4**3
    outward = (points - 6) * normals
    assert (outward.sum(1) > 0).all()
    assert largest(labels) == (4,)
    assert largest(np.array([1, 1, 0, 0, 0, 2, 2, 2]), 1) == (2,)


def test_bodies_without_a_browser(root: Path) -> None:
    picture = drawn(root, ("gray", "seg"), plane="3d", renderer="voxels", width=200, height=150)
    shown = picture.reshape(-1, 3)[picture.any(-1).ravel()]
    assert 0.2 < len(shown) / (200 * 150) < 0.95
    one = drawn(root, ("seg",), plane="3d", renderer="voxels", width=200, height=150, segments=(2**63 + 5,))
    hues = one[one.any(-1)].astype(float)
    colour = viewer_colours(np.array([2**63 + 5], np.uint64))[0].astype(float)
    lit = hues[hues.sum(1) > 150]
    angle = (lit @ colour) / np.linalg.norm(lit, axis=1) / np.linalg.norm(colour)
    assert np.median(angle) > 0.995


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"plane": "ab"}, "plane"),
        ({"width": 0}, "pixels"),
        ({"width": 10**9}, "pixels"),
        ({"scale": -1.0}, "scale"),
        ({"renderer": "magic"}, "renderer"),
    ],
)
def test_bad_options(root: Path, options: dict[str, object], text: str) -> None:
    with pytest.raises(BadRequest, match=text):
        drawn(root, ("gray",), **options)


def test_what_cannot_be_drawn(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FascicleError, match="none"):
        drawn(root, ("none",))
    with pytest.raises(NotFound, match="999"):
        drawn(root, ("seg",), plane="3d", renderer="voxels", segments=(999,))
    with pytest.raises(BadRequest, match="segmentation"):
        drawn(root, ("gray",), plane="3d", renderer="voxels")
    with pytest.raises(BadRequest, match="no folder"):
        shot([SourceSpec(address=str(root / "gray"))], str(root / "nowhere" / "a.png"))
    with pytest.raises(BadRequest, match="at least one"):
        shot([], str(root / "a.png"))
    monkeypatch.setattr(shots, "program", lambda: None)
    with pytest.raises(FascicleError, match="no Chromium"):
        drawn(root, ("seg",), plane="3d", renderer="browser")
