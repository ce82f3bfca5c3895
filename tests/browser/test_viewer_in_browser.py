"""An unmodified Neuroglancer in a real browser shows what our arrays hold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from chromium import Chromium, program
from panels import section_state, show, voxels_seen
from rich.progress import Progress

from fascicle.pipeline.demo_repo import Server, link, load, read_folder
from sample_repo import SampleRepo
from serving import TOKEN, RunningServer

Medulla = tuple[str, np.ndarray, np.ndarray]
"""Root of the repo, grayscale and bodies `[z, y, x]`."""

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(program() is None, reason="no Chromium: install one or set FASCICLE_CHROMIUM"),
]


def _same_gray(picture: np.ndarray, position: tuple[int, int, int], gray_zyx: np.ndarray) -> None:
    y, x, colours = voxels_seen(picture, position, gray_zyx.shape)
    assert y.size > 2000
    assert np.all(colours.max(-1).astype(int) - colours.min(-1) <= 1), "the section is not gray"
    expected = gray_zyx[position[2], y, x].astype(int)
    difference = np.abs(colours[..., 0].astype(int) - expected)
    assert difference.mean() < 4, "JPEG changes a voxel by little"
    assert np.corrcoef(colours[..., 0].ravel(), expected.ravel())[0, 1] > 0.97
    moved = np.abs(colours[1:, :, 0].astype(int) - expected[:-1])
    assert difference.mean() < 0.6 * moved.mean(), "one voxel to the side fits as well, so the test sees nothing"


def _same_bodies(picture: np.ndarray, position: tuple[int, int, int], bodies_zyx: np.ndarray) -> None:
    """One colour for one body, another one for another."""
    y, x, colours = voxels_seen(picture, position, bodies_zyx.shape)
    bodies = bodies_zyx[position[2], y, x]
    colour_of: dict[int, tuple[int, ...]] = {}
    for body in np.unique(bodies).tolist():
        shades, counts = np.unique(colours[bodies == body].reshape(-1, 3), axis=0, return_counts=True)
        assert counts.max() == counts.sum(), f"body {body} has {len(shades)} colours"
        colour_of[body] = tuple(shades[0].tolist())
    assert len(colour_of) >= 10
    if 0 in colour_of:
        assert max(colour_of[0]) == min(colour_of[0]), "where there is no body there is no colour"
    assert len(set(colour_of.values())) >= 0.9 * len(colour_of)
    sideways = [(bodies[:, :-1], bodies[:, 1:]), (bodies[:-1], bodies[1:])]
    pairs = {pair for a, b in sideways for pair in zip(a[a != b].tolist(), b[a != b].tolist(), strict=True)}
    apart = [np.abs(np.subtract(colour_of[a], colour_of[b])).max() > 12 for a, b in pairs]
    assert np.mean(apart) > 0.9, "neighbours look alike"


def test_sample_grayscale(browser: Chromium, sample_repo: SampleRepo) -> None:
    position = (60, 50, 40)
    state = section_state(sample_repo.url, sample_repo.root, position, grayscale="grayscale")
    _same_gray(show(browser, sample_repo.url, state), position, sample_repo.grayscale_zyx)


def test_sample_segmentation(browser: Chromium, sample_repo: SampleRepo) -> None:
    position = (60, 50, 40)
    state = section_state(sample_repo.url, sample_repo.root, position, segmentation="segmentation")
    _same_bodies(show(browser, sample_repo.url, state), position, sample_repo.bodies_zyx)


def test_selected_body_has_a_mesh(browser: Chromium, sample_repo: SampleRepo) -> None:
    labels, counts = np.unique(sample_repo.bodies_zyx, return_counts=True)
    body = int(labels[np.argsort(counts)[-2]])
    state = section_state(
        sample_repo.url,
        sample_repo.root,
        (60, 50, 40),
        segmentation="segmentation",
        segments=[body],
        projection_scale=200,
    ) | {"layout": "3d", "showSlices": False}
    picture = show(browser, sample_repo.url, state)
    coloured = picture.max(-1).astype(int) - picture.min(-1) > 40
    assert coloured.mean() > 0.02
    state["layers"][0]["segments"] = []
    picture = show(browser, sample_repo.url, state)
    assert np.mean(picture.max(-1).astype(int) - picture.min(-1) > 40) < 0.01


@pytest.fixture(scope="module")
def medulla(shared: Path, server: RunningServer) -> Medulla:
    """The FIB-SEM cube of a fly's medulla, loaded as the demo does."""
    folder = shared / "data" / "fib25-medulla-250"
    with Progress(disable=True) as progress:
        repo = load(Server(server.url, TOKEN), folder.name, folder, progress)
    volume = read_folder(folder)
    whole = ((0, 0, 0), volume.supervoxels.shape_zyx)
    supervoxels = volume.supervoxels.read(*whole).astype(np.uint64)
    table = np.arange(int(supervoxels.max()) + 1, dtype=np.uint64)
    table[volume.supervoxel_ids] = volume.body_ids
    assert volume.grayscale is not None
    return repo["Root"], volume.grayscale.read(*whole), table[supervoxels]


@pytest.mark.reference_data
@pytest.mark.parametrize("position", [(125, 125, 100), (90, 140, 201)])
def test_medulla_grayscale(
    browser: Chromium,
    server: RunningServer,
    medulla: Medulla,
    position: tuple[int, int, int],
) -> None:
    root, grayscale, _ = medulla
    state = section_state(server.url, root, position, grayscale="grayscale", resolution_nm=(10, 10, 10))
    _same_gray(show(browser, server.url, state), position, grayscale)


@pytest.mark.reference_data
@pytest.mark.parametrize("position", [(125, 125, 100), (90, 140, 201)])
def test_medulla_segmentation(
    browser: Chromium,
    server: RunningServer,
    medulla: Medulla,
    position: tuple[int, int, int],
) -> None:
    root, _, bodies = medulla
    state = section_state(
        server.url, f"{root[:8]}:master", position, segmentation="segmentation", resolution_nm=(10, 10, 10)
    )
    _same_bodies(show(browser, server.url, state), position, bodies)


@pytest.mark.reference_data
def test_link_of_the_demo_opens(browser: Chromium, server: RunningServer, medulla: Medulla) -> None:
    connection = Server(server.url)
    repo = connection.json("GET", f"/api/repo/{medulla[0]}/info")
    browser.requests.clear()
    browser.open(link(connection, repo))
    # meshes of all bodies that it selects take long to make and to draw, and are looked at elsewhere
    browser.wait_for("window.viewer?.layerManager.managedLayers.length >= 2")
    browser.wait_for("viewer.layerManager.managedLayers.every((one) => one.isReady())")
    failed = [(url, status) for url, status in browser.requests.values() if status >= 400]
    assert failed == []
    assert any("segmentation/info" in url for url, _ in browser.requests.values())


def test_console_lists_the_repo(browser: Chromium, sample_repo: SampleRepo) -> None:
    browser.open(sample_repo.url + "/")
    browser.wait_for("document.querySelector('section a.button') !== null")
    text = browser.evaluate("document.body.innerText")
    assert "sample for programs" in text
    assert "segmentation" in text
    assert not [line for line in browser.console if line.startswith("uncaught")]
