"""Pictures of sources as PNG files: a section drawn from voxels, or a view in three dimensions.

Views in three dimensions show meshes and skeletons as the viewer draws them if there is a Chromium on this machine;
else the surfaces of bodies are drawn from voxels.

Example: `shot([SourceSpec(address="out/gray"), SourceSpec(address="out/seg")], "picture.png", ShotOptions(plane="xz"))`
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec
from PIL import Image

from fascicle.errors import BadRequest
from fascicle.pipeline import shot_section, shot_surface
from fascicle.pipeline.chromium import BrowserError, Chromium, program
from fascicle.pipeline.sources import SourceSpec
from fascicle.pipeline.view import ViewOptions, link, view
from fascicle.pipeline.viewer_layers import sample, value_range
from fascicle.volumes.base import Pyramid, VolumeError
from fascicle.volumes.destinations import FileDestination
from fascicle.volumes.objects import is_remote, open_folder
from fascicle.volumes.precomputed import plain_address

PLANES = (*shot_section.PLANES, "3d")
RENDERERS = ("auto", "browser", "voxels")
PANEL = ".neuroglancer-rendered-data-panel"
_MOST_PIXELS = 1 << 26
_PLAIN = {"showAxisLines": False, "showScaleBar": False, "showDefaultAnnotations": False, "showSlices": False,
          "projectionOrientation": [0.34, -0.36, 0.12, 0.86]}  # fmt: skip
_TILTED_SCALE = 1.15
"""Seen from a corner a box is that much larger."""
_PATIENCE_S = 600.0
"""Meshes that are made when they are asked for take a while."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShotOptions:
    """What is drawn."""

    plane: str = "xy"
    """`xy`, `xz`, `yz` or `3d`."""
    position_xyz: tuple[float, float, float] | None = None
    """In voxels of the first source; its middle by default."""
    scale: float | None = None
    """Voxels per pixel, by the first source's smallest axis; by default the whole volume is seen. Sections only."""
    width: int = 1024
    height: int = 1024
    segments: tuple[int, ...] = ()
    """Bodies to draw; none: all in sections, the largest in three dimensions."""
    value_range: tuple[float, float] | None = None
    """The values shown as black and as white; found in the data by default."""
    alpha: float = 0.45
    """How much of an image labels cover."""
    renderer: str = "auto"
    """Of `3d`: `browser` (meshes and skeletons), `voxels` (no browser needed), or the first that works."""


@dataclass(frozen=True, slots=True)
class ShotResult:
    """A picture that was written."""

    path: str
    width: int
    height: int
    renderer: str
    """`voxels` or `browser`."""


def shot(sources: Sequence[SourceSpec], path: str, options: ShotOptions | None = None) -> ShotResult:
    """Draw sources, later ones over earlier ones, and write a PNG file.

    Raises BadRequest for options that make no sense, VolumeError for what cannot be read, BrowserError if a browser was
    asked for and there is none.
    """
    options = options or ShotOptions()
    _check(sources, options)
    if options.plane == "3d":
        return _three_dimensional(sources, path, options)
    with ExitStack() as stack:
        pyramids = [stack.enter_context(spec.open()) for spec in sources]
        picture = _section(pyramids, options)
    return _written(picture, path, "voxels")


def _check(sources: Sequence[SourceSpec], options: ShotOptions) -> None:
    if not sources:
        raise BadRequest("there is nothing to draw: name at least one source")
    if options.plane not in PLANES:
        raise BadRequest(f"the plane {options.plane!r} is none of {', '.join(PLANES)}")
    if options.renderer not in RENDERERS:
        raise BadRequest(f"the renderer {options.renderer!r} is none of {', '.join(RENDERERS)}")
    if options.width < 1 or options.height < 1 or options.width * options.height > _MOST_PIXELS:
        raise BadRequest(f"a picture of {options.width} x {options.height} pixels cannot be made")
    if options.scale is not None and not options.scale > 0:
        raise BadRequest(f"the scale {options.scale} must be larger than 0")


def _section(pyramids: Sequence[Pyramid], options: ShotOptions) -> shot_section.Picture:
    first = pyramids[0]
    unit = shot_section.resolution_of(first)
    low, high = shot_section.bounds_nm(first)
    middle = [(a + b) / 2 for a, b in zip(low, high, strict=True)]
    if options.position_xyz is not None:
        middle = [at * nm for at, nm in zip(options.position_xyz, unit, strict=True)]
    across, down, _ = shot_section.PLANES[options.plane]
    pixel = (options.scale or 0) * min(unit)
    if not pixel:
        pixel = max((high[across] - low[across]) / options.width, (high[down] - low[down]) / options.height)
    at = (middle[0], middle[1], middle[2])
    frame = shot_section.Frame(options.plane, at, pixel, options.width, options.height)
    picture = None
    for pyramid in pyramids:
        values, there = shot_section.section(pyramid, frame)
        if pyramid.kind == "image":
            shown = options.value_range or value_range(sample(pyramid))
            drawn = shot_section.gray(values, there, shown)
            picture = drawn if picture is None else _over(picture, drawn, there)
        else:
            alone = picture is None
            below = shot_section.gray(values * 0, there, (0, 1)) if picture is None else picture
            picture = shot_section.painted(below, values, 1.0 if alone else options.alpha, options.segments)
    assert picture is not None
    return picture


def _over(below: shot_section.Picture, above: shot_section.Picture, there: Any) -> shot_section.Picture:
    below = below.copy()
    below[there] = above[there]
    return below


# -- three dimensions


def _three_dimensional(sources: Sequence[SourceSpec], path: str, options: ShotOptions) -> ShotResult:
    if options.renderer != "voxels":
        has_browser = program() is not None
        if options.renderer == "browser" and not has_browser:
            raise BrowserError(
                "there is no Chromium on this machine (FASCICLE_CHROMIUM may name one); use --renderer voxels"
            )
        if options.renderer == "browser" or (has_browser and any(map(_has_shapes, sources))):
            return _by_browser(sources, path, options)
    for spec in reversed(sources):
        with spec.open() as pyramid:
            if pyramid.kind == "segmentation":
                picture = shot_surface.surface_picture(pyramid, options.segments, options.width, options.height)
                return _written(picture, path, "voxels")
    raise BadRequest("a view in three dimensions needs a segmentation, meshes or skeletons")


def _address(spec: SourceSpec) -> str:
    """Where a source's `info` is; empty for those of a store folder."""
    return spec.precomputed_address if spec.server else plain_address(spec.address)


def _has_shapes(spec: SourceSpec) -> bool:
    """Whether a source has meshes or skeletons, or is some."""
    if spec.data:
        return False
    try:
        info = msgspec.json.decode(open_folder(_address(spec)).get("info") or b"{}")
    except (VolumeError, msgspec.MsgspecError):
        return False
    if not isinstance(info, dict):
        return False
    kind = info.get("@type", "")
    return bool(info.get("mesh") or info.get("skeletons")) or kind.endswith(("_mesh", "_draco", "_skeletons", "_v1"))


def _by_browser(sources: Sequence[SourceSpec], path: str, options: ShotOptions) -> ShotResult:
    from fascicle.server.static_host import application, running
    from fascicle.server.viewer import PAGE_PATH

    if any(spec.data for spec in sources):
        raise BadRequest("a browser cannot read a store folder: run `fascicle serve` and name it with --server")
    if not any(map(_has_shapes, sources)):
        raise BadRequest("none of the sources has meshes or skeletons for a browser to show; use --renderer voxels")
    local = [Path(_address(spec).removeprefix("file://")).expanduser().resolve() for spec in sources if _is_local(spec)]
    root = Path(os.path.commonpath([folder.parent for folder in local])) if local else Path(__file__).parent
    segments = options.segments or _largest(sources)
    with running(application(root)) as base:

        def published(folder: str) -> str:
            return f"{base}/{quote(Path(folder).expanduser().resolve().relative_to(root).as_posix())}"

        wanted = ViewOptions(position_xyz=options.position_xyz, layout="3d", segments=segments, viewer=base + PAGE_PATH)
        found = view(sources, wanted, published)
        state = found.state | _PLAIN
        if "projectionScale" in state:
            state["projectionScale"] *= _TILTED_SCALE
        with Chromium(options.width, options.height) as browser:
            png = _photograph(browser, link(found.viewer, state), options.width, options.height)
    FileDestination(str(Path(path).absolute().parent), durable=False).put(Path(path).name, png)
    return ShotResult(path, options.width, options.height, "browser")


def _photograph(browser: Chromium, url: str, width: int, height: int) -> bytes:
    """The panel of the viewer in the size that is wanted: the window grows by what stands around the panel."""
    browser.open(url)
    browser.wait_for_viewer(_PATIENCE_S)
    box = browser.evaluate(
        f"(() => {{ const box = document.querySelector('{PANEL}').getBoundingClientRect();"
        " return [window.innerWidth - box.width, window.innerHeight - box.height]; })()"
    )
    browser.command(
        "Emulation.setDeviceMetricsOverride",
        width=round(width + box[0]),
        height=round(height + box[1]),
        deviceScaleFactor=1,
        mobile=False,
    )
    browser.evaluate(
        "void document.head.appendChild(document.createElement('style'))"
        f".append('{PANEL} > * {{ visibility: hidden }}')"
    )
    browser.wait_for_viewer(_PATIENCE_S)
    return browser.screenshot_png(PANEL)


def _is_local(spec: SourceSpec) -> bool:
    return not spec.server and not is_remote(_address(spec)) and "dvid://" not in spec.address


def _largest(sources: Sequence[SourceSpec]) -> tuple[int, ...]:
    """The largest bodies of the first segmentation among the sources that has voxels."""
    for spec in sources:
        try:
            with spec.open() as pyramid:
                if pyramid.kind == "segmentation":
                    return shot_surface.largest(sample(pyramid))
        except VolumeError:
            continue  # a folder of meshes alone
    return ()


def _written(picture: shot_section.Picture, path: str, renderer: str) -> ShotResult:
    height, width = picture.shape[:2]
    place = Path(path)
    if place.parent and not place.parent.is_dir():
        raise BadRequest(f"there is no folder {place.parent}")
    temporary = place.with_name(f".{place.name}.part")
    try:
        Image.fromarray(picture).save(temporary, "PNG", optimize=True)
        temporary.replace(place)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise BadRequest(f"{path} cannot be written: {error}") from None
    return ShotResult(path, width, height, renderer)
