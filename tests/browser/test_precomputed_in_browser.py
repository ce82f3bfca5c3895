"""An unmodified Neuroglancer shows what the precomputed views hold."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from chromium import Chromium, program
from panels import section_state, show
from test_viewer_in_browser import _same_bodies, _same_gray

from sample_repo import SampleRepo

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(program() is None, reason="no Chromium: install one or set FASCICLE_CHROMIUM"),
]

POSITION = (60, 50, 40)


def _precomputed(sample: SampleRepo, path: str, **instances: Any) -> dict[str, Any]:
    """The state of a section whose one layer has a precomputed source."""
    state = section_state(sample.url, sample.root, POSITION, **instances)
    state["layers"][0]["source"] = f"precomputed://{sample.url}/precomputed/{sample.root}/master/{path}"
    return state


@pytest.mark.parametrize("path", ["grayscale", "grayscale/jpeg", "grayscale/raw"])
def test_grayscale(browser: Chromium, sample_repo: SampleRepo, path: str) -> None:
    picture = show(browser, sample_repo.url, _precomputed(sample_repo, path, grayscale="grayscale"))
    _same_gray(picture, POSITION, sample_repo.grayscale_zyx)


@pytest.mark.parametrize("path", ["segmentation", "segmentation/raw"])
def test_bodies(browser: Chromium, sample_repo: SampleRepo, path: str) -> None:
    picture = show(browser, sample_repo.url, _precomputed(sample_repo, path, segmentation="segmentation"))
    _same_bodies(picture, POSITION, sample_repo.bodies_zyx)


def test_supervoxels(browser: Chromium, sample_repo: SampleRepo) -> None:
    assert not np.array_equal(sample_repo.supervoxels_zyx, sample_repo.bodies_zyx)
    state = _precomputed(sample_repo, "segmentation/supervoxels", segmentation="segmentation")
    _same_bodies(show(browser, sample_repo.url, state), POSITION, sample_repo.supervoxels_zyx)


def test_meshes(browser: Chromium, sample_repo: SampleRepo) -> None:
    """Made on request: nothing stores meshes of supervoxels."""
    labels, counts = np.unique(sample_repo.supervoxels_zyx, return_counts=True)
    largest = int(labels[np.argsort(counts)[-2]])
    state = _precomputed(
        sample_repo,
        "segmentation/supervoxels",
        segmentation="segmentation",
        segments=[largest],
        projection_scale=200,
    ) | {"layout": "3d", "showSlices": False}
    picture = show(browser, sample_repo.url, state)
    assert np.mean(picture.max(-1).astype(int) - picture.min(-1) > 40) > 0.01
    state["layers"][0]["segments"] = []
    picture = show(browser, sample_repo.url, state)
    assert np.mean(picture.max(-1).astype(int) - picture.min(-1) > 40) < 0.005
