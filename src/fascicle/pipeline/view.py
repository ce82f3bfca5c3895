"""Links to Neuroglancer that show sources: their layers, where to look, and between which values.

The form of states: https://neuroglancer-docs.web.app/json/api/index.html; of links:
https://github.com/google/neuroglancer, `src/util/json.ts` (JSON with `'` for quotes and `_` for commas, so that little
of it has to be escaped), or `#!<URL of a state>`.

Example: `view([SourceSpec(address="gs://bucket/volume")], ViewOptions(segments=(17,))).url`
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit

from fascicle.errors import BadRequest
from fascicle.pipeline.demo_view import STATES
from fascicle.pipeline.ingest_connections import Connection
from fascicle.pipeline.sources import SourceSpec
from fascicle.pipeline.viewer_layers import Layer, Published, describe, unique_names
from fascicle.server.viewer import PAGE_PATH
from fascicle.volumes.destinations import JSON, open_destination

PUBLIC_VIEWER = "https://neuroglancer-demo.appspot.com/"
LAYOUTS = ("xy", "yz", "xz", "xy-3d", "yz-3d", "xz-3d", "4panel", "4panel-alt", "3d")
_SHADER = "#uicontrol invlerp normalized\nvoid main() {\n  emitGrayscale(normalized());\n}\n"
_PIXELS = 620
"""The edge of a section in which the whole volume should be seen."""
_SAFE = "~@$&()*!+=:;,.?/'"


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewOptions:
    """What is shown of the sources."""

    position_xyz: tuple[float, float, float] | None = None
    """In voxels of the first layer that has a size; its middle by default."""
    scale: float | None = None
    """Voxels per pixel of a section; by default the whole volume is seen."""
    layout: str = "4panel"
    segments: tuple[int, ...] = ()
    """Bodies that are selected in segmentations; none: sections show all."""
    value_range: tuple[float, float] | None = None
    """The values shown as black and as white; found in the data by default."""
    title: str = ""
    viewer: str = ""
    """URL of the viewer's page; by default that of the server that has a source, or a public one."""


@dataclass(frozen=True, slots=True)
class ViewResult:
    """A view."""

    url: str
    """A link that has all of the state in it."""
    state: dict[str, Any]
    viewer: str
    """The viewer's page."""

    def short_url(self, state_url: str) -> str:
        """The link that names a state which is at a URL."""
        return f"{self.viewer}#!{state_url}"


def view(
    sources: Sequence[SourceSpec], options: ViewOptions | None = None, published: Published | None = None
) -> ViewResult:
    """The view of sources, one layer each. `published` gives the URL of a folder on this machine.

    Raises BadRequest for what viewers cannot read, VolumeError for what cannot be opened.
    """
    options = options or ViewOptions()
    if not sources:
        raise BadRequest("there is nothing to show: name at least one source")
    if options.layout not in LAYOUTS:
        raise BadRequest(f"the layout {options.layout!r} is none of {', '.join(LAYOUTS)}")
    layers = [describe(spec, published) for spec in sources]
    state = state_of(layers, options)
    viewer = options.viewer or _own_viewer(sources) or PUBLIC_VIEWER
    return ViewResult(link(viewer, state), state, viewer)


def state_of(layers: Sequence[Layer], options: ViewOptions) -> dict[str, Any]:
    """The state of a viewer with some layers."""
    shown = [_layer(layer, name, options) for layer, name in zip(layers, unique_names(layers), strict=True)]
    segmentations = [layer["name"] for layer in shown if layer["type"] == "segmentation"]
    if segmentations:  # of several the first one: what people name first, or the server's instance of that name
        for layer, state_of_layer in zip(layers, shown, strict=True):
            if layer.relationships:
                state_of_layer["linkedSegmentationLayer"] = dict.fromkeys(layer.relationships, segmentations[0])
                if options.segments:
                    state_of_layer["filterBySegmentation"] = list(layer.relationships)
    state: dict[str, Any] = {"layers": shown, "layout": options.layout}
    if options.title:
        state["title"] = options.title
    first = next((layer for layer in layers if layer.resolution_nm and layer.low and layer.high), None)
    if first is None:
        if options.position_xyz is not None:
            state["position"] = list(options.position_xyz)
        if options.scale is not None:
            state["crossSectionScale"] = options.scale
        return state
    assert first.resolution_nm is not None
    assert first.low is not None
    assert first.high is not None
    unit = first.resolution_nm
    state["dimensions"] = {axis: [float(f"{nm * 1e-9:.12g}"), "m"] for axis, nm in zip("xyz", unit, strict=True)}
    middle = [int((a + b) / 2) + 0.5 for a, b in zip(first.low, first.high, strict=True)]
    state["position"] = list(options.position_xyz or middle)
    # both scales count voxels of the axis with the smallest ones
    extents = [(b - a) * nm / min(unit) for a, b, nm in zip(first.low, first.high, unit, strict=True)]
    state["crossSectionScale"] = options.scale or float(f"{max(max(extents[:2]) / _PIXELS, 1e-3):.4g}")
    state["projectionScale"] = float(f"{max(extents) * 1.3:.4g}")
    if options.segments:
        state["showSlices"] = False
    return state


def _layer(layer: Layer, name: str, options: ViewOptions) -> dict[str, Any]:
    found: dict[str, Any] = {"type": layer.kind, "name": name, "source": layer.source}
    if layer.kind == "segmentation":
        found |= {"selectedAlpha": 0.4, "segments": [str(segment) for segment in options.segments]}
        if not options.segments:
            found["notSelectedAlpha"] = 0.3
    if layer.kind == "image":
        shown = options.value_range or layer.value_range
        if shown is not None:
            controls: dict[str, Any] = {"range": [_number(value) for value in shown]}
            if layer.value_window is not None:
                window = (min(layer.value_window[0], shown[0]), max(layer.value_window[1], shown[1]))
                controls["window"] = [_number(value) for value in window]
            found |= {"shader": _SHADER, "shaderControls": {"normalized": controls}}
    return found


def _number(value: float) -> float | int:
    return int(value) if float(value).is_integer() else value


def _own_viewer(sources: Sequence[SourceSpec]) -> str:
    """The viewer of the first server of ours among the sources."""
    return next((f"{spec.server.rstrip('/')}{PAGE_PATH}" for spec in sources if spec.server), "")


def link(viewer: str, state: dict[str, Any]) -> str:
    """A link with all of a state in it.

    >>> link("http://localhost:8000/v/", {"layout": "xy", "position": [1, 2.5, 3]})
    "http://localhost:8000/v/#!%7B'layout':'xy'_'position':%5B1_2.5_3%5D%7D"
    """
    return f"{viewer}#!{quote(url_safe(json.dumps(state, separators=(',', ':'))), safe=_SAFE)}"


_STRING_OR_COMMA = re.compile(r'"((?:[^"\\]|\\.)*)"|,')


def url_safe(text: str) -> str:
    """JSON with `'` for `"` and `_` for commas, which links need not escape.

    >>> url_safe('{"a":["it\\'s",1,"x,y"]}')
    "{'a':['it\\\\u0027s'_1_'x,y']}"
    """

    def changed(match: re.Match[str]) -> str:
        inside = match[1]
        if inside is None:
            return "_"
        return "'" + inside.replace("'", "\\u0027") + "'"

    return _STRING_OR_COMMA.sub(changed, text)


# -- states that links name


def state_name(state: dict[str, Any]) -> str:
    """A name for a state, made of its content."""
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()[:12]


def store_state(connection: Connection, root: str, state: dict[str, Any]) -> str:
    """Keep a state in a repo, as a key-value without versions; the path of its URL."""
    if STATES not in connection.json("GET", f"/api/repo/{root}/info")["DataInstances"]:
        wanted = {"typename": "keyvalue", "dataname": STATES, "versioned": "false"}
        connection.json("POST", f"/api/repo/{root}/instance", wanted)
    path = f"/api/node/{root}/{STATES}/key/{state_name(state)}"
    connection.json("POST", path, state)
    return path


def save_state(address: str, state: dict[str, Any]) -> str:
    """Write a state to a file or an object of a bucket; the address that a link can name."""
    place, _, name = address.rpartition("/")
    if not name or (not place and "://" in address):
        raise BadRequest(f"{address!r} is no name of a file; it must look like folder/state.json")
    destination = open_destination(place or ".")
    destination.put(name, json.dumps(state, indent=2).encode(), JSON)
    return address


def is_web_address(address: str) -> bool:
    """Whether a viewer can read it."""
    return urlsplit(address).scheme in ("http", "https", "gs", "s3")
