"""The Python package `neuroglancer` as people use it: its own server and page, our data from another origin."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from chromium import Chromium, program
from panels import GRAY_SHADER, PANEL, PIXELS_PER_VOXEL, voxels_seen

from sample_repo import SampleRepo

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(program() is None, reason="no Chromium: install one or set FASCICLE_CHROMIUM"),
]
POSITION = (60, 50, 40)


@pytest.fixture(scope="module")
def viewer() -> Iterator[Any]:
    import neuroglancer

    neuroglancer.set_server_bind_address("127.0.0.1")
    yield neuroglancer.Viewer()
    neuroglancer.server.stop()


def test_package_shows_our_sections(viewer: Any, sample_repo: SampleRepo, monkeypatch: pytest.MonkeyPatch) -> None:
    import neuroglancer

    monkeypatch.setenv("DVID_CREDENTIALS", f"{sample_repo.url}=none")  # it insists on a token for a server of this kind
    with viewer.txn() as state:
        state.dimensions = neuroglancer.CoordinateSpace(names=["x", "y", "z"], units="nm", scales=[8, 8, 8])
        state.position = [axis + 0.5 for axis in POSITION]
        state.cross_section_scale = 1 / PIXELS_PER_VOXEL
        state.layout = "xy"
        state.show_axis_lines = state.show_scale_bar = state.show_default_annotations = False
        source = f"dvid://{sample_repo.url}/{sample_repo.root}/"
        state.layers["grayscale"] = neuroglancer.ImageLayer(source=source + "grayscale", shader=GRAY_SHADER)
        state.layers["segmentation"] = neuroglancer.SegmentationLayer(source=source + "segmentation", selected_alpha=0)
    with Chromium() as browser:
        browser.open(viewer.get_viewer_url())
        browser.wait_for_viewer()
        picture = browser.screenshot(PANEL)
        ours = [status for url, status in browser.requests.values() if url.startswith(sample_repo.url)]
        assert set(ours) == {200}
    y, x, colours = voxels_seen(picture, POSITION, sample_repo.grayscale_zyx.shape)
    expected = sample_repo.grayscale_zyx[POSITION[2], y, x].astype(int)
    assert y.size > 2000
    assert np.abs(colours[..., 1].astype(int) - expected).mean() < 4
