"""What a cross section of Neuroglancer must look like, and what it does look like.

At `crossSectionScale` s a screen pixel is s voxels wide, and the middle of the panel is the state's position.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from chromium import Chromium

from fascicle.server.viewer import state_url, viewer_state

PANEL = ".neuroglancer-rendered-data-panel"
PIXELS_PER_VOXEL = 4
GRAY_SHADER = "void main() { emitGrayscale(toNormalized(getDataValue())); }"
_PLAIN = {"showAxisLines": False, "showScaleBar": False, "showDefaultAnnotations": False, "layout": "xy"}


def section_state(url: str, uuid: str, position_xyz: tuple[int, int, int], **instances: Any) -> dict[str, Any]:
    """One xy section through the middle of a voxel, `PIXELS_PER_VOXEL` to each; instances as for `viewer_state`."""
    state = viewer_state(
        url,
        uuid,
        position_xyz=[axis + 0.5 for axis in position_xyz],
        cross_section_scale=1 / PIXELS_PER_VOXEL,
        **instances,
        **_PLAIN,
    )
    for layer in state["layers"]:
        if layer["type"] == "image":
            layer["shader"] = GRAY_SHADER
        else:
            layer.update(selectedAlpha=1, saturation=1, hoverHighlight=False)
    return state


def show(browser: Chromium, url: str, state: dict[str, Any]) -> np.ndarray:
    """The panel of a state, when everything is loaded: u8 `[y, x, rgb]`."""
    browser.open(state_url(url, state))
    browser.wait_for_viewer()
    return browser.screenshot(PANEL)


def voxels_seen(
    picture: np.ndarray, position_xyz: tuple[int, int, int], shape_zyx: tuple[int, int, int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(y, x, colours): the voxels of the section that are wholly in the picture, and the pixel at the middle of each.

    Controls lie over the corners of a panel, so a margin of it is left out.
    """
    height, width = picture.shape[:2]
    x0, y0 = position_xyz[0] + 0.5, position_xyz[1] + 0.5
    margin = 44
    columns = np.arange(shape_zyx[2])
    rows = np.arange(shape_zyx[1])
    pixel_x = (columns + 0.5 - x0) * PIXELS_PER_VOXEL + width / 2
    pixel_y = (rows + 0.5 - y0) * PIXELS_PER_VOXEL + height / 2
    columns, pixel_x = (a[(pixel_x > margin) & (pixel_x < width - margin)] for a in (columns, pixel_x))
    rows, pixel_y = (a[(pixel_y > margin) & (pixel_y < height - margin)] for a in (rows, pixel_y))
    y, x = np.meshgrid(rows, columns, indexing="ij")
    colours = picture[pixel_y.astype(int)[:, None], pixel_x.astype(int)[None, :]]
    return y, x, colours
