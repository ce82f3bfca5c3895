"""Regions and synapses of the demo in an unmodified Neuroglancer: at the places where the arrays have them."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from chromium import Chromium, program
from panels import PIXELS_PER_VOXEL, show, voxels_seen

from fascicle.pipeline.demo_repo import Server, link
from fascicle.pipeline.demo_view import demo_state, read_notes
from fascicle.pipeline.sample_annotations import region_labels
from sample_repo import SampleRepo
from serving import TOKEN

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(program() is None, reason="no Chromium: install one or set FASCICLE_CHROMIUM"),
]
_NAMES = """(() => {
  const layer = viewer.layerManager.managedLayers.find((one) => one.name === "segmentation").layer;
  const known = layer.displayState.segmentationGroupState.value.segmentPropertyMap.value.segmentPropertyMap;
  const { ids, properties } = known.inlineProperties;
  const labels = properties.find((one) => one.type === "label").values;
  return JSON.stringify(Object.fromEntries(Array.from(ids, (id, i) => [String(id), labels[i]])));
})()"""
"""What the viewer knows of bodies by name."""
_SECTION = {"showAxisLines": False, "showScaleBar": False, "showDefaultAnnotations": False, "layout": "xy"}


@pytest.fixture(scope="module")
def state(sample_repo: SampleRepo) -> dict[str, Any]:
    """What the demo's link shows of the sample repo, with all bodies selected."""
    connection = Server(sample_repo.url, TOKEN)
    repo = connection.json("GET", f"/api/repo/{sample_repo.root}/info")
    bodies = [int(body) for body in np.unique(sample_repo.bodies_zyx) if body]
    return demo_state(sample_repo.url, repo, bodies, read_notes(connection, sample_repo.root))


def _only(state: dict[str, Any], name: str, position_xyz: tuple[int, int, int], **changes: Any) -> dict[str, Any]:
    """One layer in one xy section through the middle of a voxel."""
    layers = [layer | changes for layer in state["layers"] if layer["name"] == name]
    assert len(layers) == 1
    if name == "synapses":  # the selection of bodies is that of the segmentation, which must be there but not seen
        hidden = next(layer for layer in state["layers"] if layer["name"] == "segmentation")
        layers.insert(0, hidden | {"selectedAlpha": 0, "notSelectedAlpha": 0})
    place = {"position": [axis + 0.5 for axis in position_xyz], "crossSectionScale": 1 / PIXELS_PER_VOXEL}
    return state | {"layers": layers} | place | _SECTION


def test_regions_are_where_their_blocks_are(
    browser: Chromium, sample_repo: SampleRepo, state: dict[str, Any]
) -> None:
    labels = region_labels(sample_repo.notes.regions, sample_repo.bodies_zyx.shape)
    position = (64, 48, 40)
    picture = show(
        browser, sample_repo.url, _only(state, "regions", position, selectedAlpha=1, hoverHighlight=False)
    )
    y, x, colours = voxels_seen(picture, position, labels.shape)
    seen = labels[position[2], y, x]
    assert len(np.unique(seen)) >= 3
    shades = {}
    for label in np.unique(seen).tolist():
        shade = np.unique(colours[seen == label].reshape(-1, 3), axis=0)
        assert len(shade) == 1, f"region {label} has {len(shade)} colours"
        shades[label] = tuple(shade[0].tolist())
    assert len(set(shades.values())) == len(shades)


def test_synapses_are_lines_between_their_points(
    browser: Chromium, sample_repo: SampleRepo, state: dict[str, Any]
) -> None:
    """Where T-bars lie in the section there is their colour, and none where no synapse is near."""
    found = sample_repo.notes.synapses
    z, counts = np.unique(found.tbars_zyx[:, 0], return_counts=True)
    middle = np.array([sample_repo.bodies_zyx.shape[2] // 2, sample_repo.bodies_zyx.shape[1] // 2])
    depth = int(z[counts.argmax()])
    position = (int(middle[0]), int(middle[1]), depth)
    picture = show(browser, sample_repo.url, _only(state, "synapses", position)).astype(int)
    yellow = (picture[..., 0] > 150) & (picture[..., 1] > 120) & (picture[..., 2] < 110)
    height, width = picture.shape[:2]
    seen = 0
    for _, tbar_y, tbar_x in found.tbars_zyx[found.tbars_zyx[:, 0] == depth].tolist():
        column = int((tbar_x - position[0]) * PIXELS_PER_VOXEL + width / 2)
        row = int((tbar_y - position[1]) * PIXELS_PER_VOXEL + height / 2)
        if 50 < column < width - 50 and 50 < row < height - 50:
            assert yellow[row - 3 : row + 4, column - 3 : column + 4].any(), (tbar_x, tbar_y)
            seen += 1
    assert seen >= 1
    assert 0 < yellow.mean() < 0.05


def test_only_synapses_of_selected_bodies_are_shown(
    browser: Chromium, sample_repo: SampleRepo, state: dict[str, Any]
) -> None:
    view = _only(state, "synapses", (64, 56, 48)) | {"layout": "3d", "projectionScale": 200}
    shown = []
    for layer in view["layers"]:
        layer["objectAlpha"] = 0
    for bodies in (view["layers"][0]["segments"], view["layers"][0]["segments"][:1]):
        view["layers"][0]["segments"] = bodies
        picture = show(browser, sample_repo.url, view).astype(int)
        shown.append(int(np.sum(picture.max(-1) - picture.min(-1) > 60)))
    assert shown[0] > 2 * shown[1] >= 0


def test_the_demos_link_opens_with_everything(browser: Chromium, sample_repo: SampleRepo) -> None:
    """The link names a state that lies in the repo."""
    connection = Server(sample_repo.url, TOKEN)
    repo = connection.json("GET", f"/api/repo/{sample_repo.root}/info")
    url = link(connection, repo)
    assert len(url) < 250
    browser.requests.clear()
    browser.open(url)
    browser.wait_for_viewer()
    names = browser.evaluate("window.viewer.layerManager.managedLayers.map((layer) => layer.name).join()")
    assert names == "grayscale,segmentation,regions,synapses,bookmarks,to do"
    assert [(found, status) for found, status in browser.requests.values() if status >= 400] == []
    known = json.loads(browser.evaluate(_NAMES))
    assert len(known) == len(sample_repo.notes.neurons)
    for neuron in sample_repo.notes.neurons:
        assert known[str(neuron["bodyid"])] == (neuron.get("instance") or neuron.get("type") or "")
    paths = " ".join(found for found, _ in browser.requests.values())
    for part in ("segmentation/properties", "synapses/lines", "segmentation/skeletons"):
        assert f"{part}/info" in paths
