"""`fascicle shot` in three dimensions, as the viewer draws it; and links of `fascicle view` in a real browser."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from chromium import Chromium
from PIL import Image

from fascicle.formats.pseudocolor import viewer_colours
from fascicle.pipeline.shot import ShotOptions, shot
from fascicle.pipeline.sources import SourceSpec
from fascicle.pipeline.view import ViewOptions, view
from fascicle.server.static_host import application, running
from fascicle.server.viewer import PAGE_PATH
from static_samples import gray_zyx, labels_zyx, write_mesh, write_volume

pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("browser") / "data"
    folder.mkdir()
    write_volume(folder / "gray", gray_zyx())
    write_volume(folder / "seg", labels_zyx(), "compressed_segmentation")
    write_mesh(folder / "seg", 3, (24.0, 216.0, 32.0), (256.0, 384.0, 320.0))
    return folder


def test_meshes_are_drawn(root: Path, tmp_path: Path) -> None:
    path = tmp_path / "mesh.png"
    result = shot(
        [SourceSpec(address=str(root / "seg"))],
        str(path),
        ShotOptions(plane="3d", segments=(3,), width=320, height=240),
    )
    assert (result.renderer, result.width, result.height) == ("browser", 320, 240)
    picture = np.asarray(Image.open(path).convert("RGB")).astype(float)
    assert picture.shape == (240, 320, 3)
    shown = picture[picture.sum(-1) > 60]
    assert 0.02 < len(shown) / (320 * 240) < 0.9
    colour = viewer_colours(np.array([3], np.uint64))[0].astype(float)
    alike = (shown @ colour) / np.linalg.norm(shown, axis=1) / np.linalg.norm(colour)
    assert (alike > 0.99).mean() > 0.95


def test_links_open(root: Path) -> None:
    """That of `fascicle view`, and those of the front page of `fascicle host`."""
    with running(application(root)) as base, Chromium(500, 400) as browser:
        found = view(
            [SourceSpec(address=str(root / "gray"))],
            ViewOptions(layout="xy", viewer=base + PAGE_PATH, value_range=(0, 255)),
            lambda folder: f"{base}/{Path(folder).name}",
        )
        browser.open(found.url)
        browser.wait_for_viewer()
        assert browser.evaluate("viewer.layerManager.managedLayers[0].name") == "gray"
        assert browser.evaluate("viewer.state.toJSON().position") == [32.5, 24.5, 20.5]
        panel = browser.screenshot(".neuroglancer-rendered-data-panel")
        row, column = panel.shape[0] // 2 + 40, panel.shape[1] // 2 + 40  # beside the lines of the axes
        away = 40 * found.state["crossSectionScale"]
        seen, expected = panel[row, column], gray_zyx()[20, int(24.5 + away), int(32.5 + away)]
        assert np.abs(seen.astype(int) - int(expected)).max() <= 6
        browser.open(f"{base}/")
        browser.wait_for("document.querySelectorAll('a.view').length === 2")
        assert browser.evaluate("[...document.querySelectorAll('li code')].map((one) => one.textContent)") == [
            "gray",
            "seg",
        ]
        link = browser.evaluate("document.querySelectorAll('a.view')[1].href")
        browser.open(link)
        browser.wait_for_viewer()
        assert browser.evaluate("viewer.layerManager.managedLayers[0].layer.constructor.type") == "segmentation"
