"""What a browser gets outside of /api: the console page, and Neuroglancer from its Python package.

The viewer is the prebuilt client inside of the `neuroglancer` wheel, found at run time and never imported. Its files
are served as they are; only the page round them is ours, since that build expects a Python process beside it (see
`web/neuroglancer_page.js`). The form of viewer states and links is documented at
https://neuroglancer-docs.web.app and https://github.com/google/neuroglancer/blob/master/README.md.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import cache
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import quote

from fascicle.datatypes.base import Answer

VIEWER_PATH = "/neuroglancer/"
PAGE_PATH = "/neuroglancer/v/here/"
"""The client takes a token from its path, whatever follows `/v/`; ours means nothing."""

_TYPES = {
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".wasm": "application/wasm",
    ".html": "text/html; charset=utf-8",
    ".map": "application/json",
    ".svg": "image/svg+xml",
    ".png": "image/png",
}
_HASHED = re.compile(r"[.-]?[0-9a-f]{16}\.")
_FOREVER = ("Cache-Control", "public, max-age=31536000, immutable")
_ASK_AGAIN = ("Cache-Control", "no-cache")


def respond(path: str) -> Answer | None:
    """The answer to GET of a decoded path outside of /api, or None if nothing is there.

    >>> respond("/neuroglancer/").status
    302
    """
    if path == "/":
        return _page(_own_file("console.html"))
    if path == "/favicon.ico":
        return Answer(_own_file("icon.svg"), _TYPES[".svg"], headers=[("Cache-Control", "public, max-age=86400")])
    if not (path + "/").startswith(VIEWER_PATH):
        return None
    parts = path.removeprefix(VIEWER_PATH.rstrip("/")).strip("/").split("/")
    if parts == [""]:
        return Answer(status=302, headers=[("Location", PAGE_PATH), _ASK_AGAIN])
    if parts[0] != "v" or len(parts) not in (2, 3) or not parts[1]:
        return None
    if len(parts) == 3:
        return _client_file(parts[2])
    if not path.endswith("/"):
        return Answer(status=302, headers=[("Location", quote(path) + "/"), _ASK_AGAIN])
    if _client_folder() is None:
        return Answer.text("The viewer is not installed: pip install neuroglancer", 404)
    return _page(_viewer_page())


def viewer_state(
    base_url: str,
    uuid: str,
    grayscale: str | None = None,
    segmentation: str | None = None,
    *,
    resolution_nm: Sequence[float] = (8, 8, 8),
    position_xyz: Sequence[float] | None = None,
    cross_section_scale: float | None = None,
    projection_scale: float | None = None,
    segments: Sequence[int] = (),
    layout: str = "4panel",
    **more: Any,
) -> dict[str, Any]:
    """The state of a viewer that shows one version: an image instance below a labelmap, either may be None.

    `base_url` is that of the data server, without a path (`http://127.0.0.1:8000`); `uuid` any reference to a version;
    `resolution_nm` and `position_xyz` (voxels) are x, y, z; `cross_section_scale` is voxels per screen pixel,
    `projection_scale` voxels per height of the 3-D panel. `segments` are the bodies selected: none means that the
    sections show all. Further keywords go into the state as they are.
    """
    base = base_url.rstrip("/")
    layers: list[dict[str, Any]] = []
    if grayscale is not None:
        layers.append({"type": "image", "name": grayscale, "source": f"dvid://{base}/{uuid}/{grayscale}"})
    if segmentation is not None:
        layers.append(
            {
                "type": "segmentation",
                "name": segmentation,
                "source": f"dvid://{base}/{uuid}/{segmentation}",
                "selectedAlpha": 0.45,
                "notSelectedAlpha": 0.2,
                "segments": [str(segment) for segment in segments],
            }
        )
    state: dict[str, Any] = {
        "dimensions": {axis: [size * 1e-9, "m"] for axis, size in zip("xyz", resolution_nm, strict=True)},
        "layers": layers,
        "layout": layout,
    }
    if position_xyz is not None:
        state["position"] = list(position_xyz)
    if cross_section_scale is not None:
        state["crossSectionScale"] = cross_section_scale
    if projection_scale is not None:
        state["projectionScale"] = projection_scale
    return state | more


def viewer_url(
    base_url: str, uuid: str, grayscale: str | None = None, segmentation: str | None = None, **of: Any
) -> str:
    """A link to the viewer on this server with a state of `viewer_state`, whose keywords it takes.

    >>> viewer_url("http://localhost:8000", "3f2", "grayscale").partition("#!")[0]
    'http://localhost:8000/neuroglancer/v/here/'
    """
    return state_url(base_url, viewer_state(base_url, uuid, grayscale, segmentation, **of))


def state_url(base_url: str, state: dict[str, Any]) -> str:
    """A link to the viewer on this server with any state."""
    return f"{base_url.rstrip('/')}{PAGE_PATH}#!{quote(json.dumps(state, separators=(',', ':')), safe='')}"


def _page(body: bytes) -> Answer:
    return Answer(body, _TYPES[".html"], headers=[_ASK_AGAIN])


@cache
def _own_file(name: str) -> bytes:
    return resources.files("fascicle").joinpath("web", name).read_bytes()


@cache
def _client_folder() -> Path | None:
    """The folder of the prebuilt client, found without running any code of the package."""
    package = find_spec("neuroglancer")
    for location in (package.submodule_search_locations or []) if package else []:
        folder = Path(location) / "static" / "client"
        if (folder / "index.html").is_file():
            return folder
    return None


@cache
def _client_names() -> frozenset[str]:
    folder = _client_folder()
    return frozenset(entry.name for entry in folder.iterdir() if entry.is_file()) if folder else frozenset()


@cache
def _viewer_page() -> bytes:
    """The client's own page with our script before its first one."""
    folder = _client_folder()
    assert folder is not None
    page = (folder / "index.html").read_bytes()
    script = b"<script>\n" + _own_file("neuroglancer_page.js") + b"</script>"
    head, mark, rest = page.partition(b"<script")
    return head + script + mark + rest


def _client_file(name: str) -> Answer | None:
    folder = _client_folder()
    if folder is None or name not in _client_names():
        return None
    if name == "index.html":
        return _page(_viewer_page())
    kind = _TYPES.get(Path(name).suffix, "application/octet-stream")
    return Answer((folder / name).read_bytes(), kind, headers=[_FOREVER if _HASHED.search(name) else _ASK_AGAIN])
