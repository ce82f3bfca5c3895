"""The `neuroglancer` package's own state and links work with our viewer page."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import unquote

import pytest

from fascicle.server.viewer import PAGE_PATH, viewer_state
from sample_repo import SampleRepo

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def neuroglancer() -> Any:
    return pytest.importorskip("neuroglancer")


def test_state_made_by_the_package_opens_on_our_page(neuroglancer: Any, sample_repo: SampleRepo) -> None:
    state = neuroglancer.ViewerState()
    state.dimensions = neuroglancer.CoordinateSpace(names=["x", "y", "z"], units="nm", scales=[8, 8, 8])
    source = f"dvid://{sample_repo.url}/{sample_repo.root}/segmentation"
    state.layers["segmentation"] = neuroglancer.SegmentationLayer(source=source)
    url = neuroglancer.to_url(state, prefix=sample_repo.url + PAGE_PATH)
    assert url.startswith(sample_repo.url + "/neuroglancer/v/here/#!")
    assert json.loads(unquote(url.partition("#!")[2]))["layers"][0]["source"] in (source, [{"url": source}])


def test_our_state_is_read_by_the_package(neuroglancer: Any, sample_repo: SampleRepo) -> None:
    ours = viewer_state(
        sample_repo.url,
        sample_repo.root,
        "grayscale",
        "segmentation",
        position_xyz=(1.5, 2.5, 3.5),
        cross_section_scale=0.5,
        segments=(7, 2**63 + 9),
        layout="xy",
    )
    state = neuroglancer.ViewerState(ours)
    assert [layer.name for layer in state.layers] == ["grayscale", "segmentation"]
    assert set(state.layers["segmentation"].segments) == {7, 2**63 + 9}
    assert list(state.position) == [1.5, 2.5, 3.5]
    assert list(state.dimensions.scales) == [8e-9] * 3
    assert state.layout.type == "xy"
    assert state.cross_section_scale == 0.5
