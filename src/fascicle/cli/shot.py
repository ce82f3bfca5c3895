"""`fascicle shot`: a picture of a section, or of bodies in three dimensions."""

from __future__ import annotations

from typing import Any

import click

from fascicle.cli.ingest import Numbers
from fascicle.cli.source import source_options, source_spec
from fascicle.cli.view import Ids, Range


class Pixels(click.ParamType[Any]):
    """Width and height in pixels."""

    name = "width,height"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, tuple):
            return value
        parts = str(value).replace("x", ",").split(",")
        if len(parts) != 2 or not all(part.isascii() and part.isdigit() and int(part) for part in parts):
            self.fail(f"{value!r} must be a width and a height like 1200,800", param, ctx)
        return int(parts[0]), int(parts[1])


@click.command()
@click.argument("arguments", nargs=-1, required=True, metavar="[SOURCE]... PICTURE")
@source_options
@click.option("--plane", default="xy", show_default=True, help="Section to draw: xy, xz or yz; or 3d.")
@click.option("--position", "position_xyz", type=Numbers(float), help="Where, in voxels. [the middle]")
@click.option("--scale", type=float, help="Voxels per pixel of a section. [the whole volume is seen]")
@click.option("--size", type=Pixels(), default="1024,1024", show_default=True, help="Pixels of the picture.")
@click.option("--segments", type=Ids(), default=(), metavar="ID,ID", help="Bodies to draw. [all; in 3d the largest]")
@click.option("--range", "value_range", type=Range(), metavar="LOW,HIGH", help="Values of black and white. [found]")
@click.option("--alpha", type=click.FloatRange(0, 1), default=0.45, show_default=True, help="How much labels cover.")
@click.option("--renderer", default="auto", help="Of 3d: browser (shows meshes), voxels (needs no browser). [auto]")
def shot(arguments: tuple[str, ...], size: tuple[int, int], **options: Any) -> None:
    """Write PICTURE, a PNG file: a section through SOURCE, labels in the viewer's colours, or bodies in 3-D.

    Several sources are drawn one over the other, labels over images. An instance of a store or server is named by
    options and is drawn last. Chromium is used for meshes and skeletons in 3-D if it is installed.

    \b
    fascicle shot out/gray out/seg section.png --plane xz --position 500,500,200 --scale 1
    fascicle shot --data db --repo medulla --instance segmentation bodies.png --plane 3d --segments 17,23
    """
    from fascicle.pipeline.shot import ShotOptions
    from fascicle.pipeline.shot import shot as run_shot
    from fascicle.pipeline.sources import SourceSpec

    *addresses, picture = arguments
    named = [name for name in ("data", "server", "repo", "uuid", "instance") if options[name]]
    address = addresses.pop() if addresses and not named else ""
    shared = {"dataset": options["dataset"], "channel": options["channel"]}
    spec = source_spec(address, options)
    specs = [*(SourceSpec(address=other, **shared) for other in addresses), spec]
    width, height = size
    done = run_shot(specs, picture, ShotOptions(width=width, height=height, **options))
    click.echo(f"{done.path}: {done.width} x {done.height} pixels, drawn by {done.renderer}")
