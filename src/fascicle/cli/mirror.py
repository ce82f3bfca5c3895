"""`fascicle mirror`: a precomputed volume, or a part of it, to where it is near."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click

from fascicle.cli.ingest import Size
from fascicle.cli.progress import stage_bars


class ScaleList(click.ParamType[Any]):
    """Numbers of scales, as 0,2 or 1-3."""

    name = "scales"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, tuple):
            return value
        found: set[int] = set()
        for part in str(value).split(","):
            match = re.fullmatch(r"(\d{1,3})(?:-(\d{1,3}))?", part.strip())
            if match is None:
                self.fail(f"{value!r} must be numbers of scales like 0,2 or 1-3", param, ctx)
            found.update(range(int(match[1]), int(match[2] or match[1]) + 1))
        return tuple(sorted(found))


class BoxRanges(click.ParamType[Any]):
    """Three ranges, as 0:512,0:512,100:200."""

    name = "x0:x1,y0:y1,z0:z1"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, tuple):
            return value
        try:
            ends = [[float(end) for end in part.split(":")] for part in str(value).split(",")]
            low, high = zip(*((a, b) for a, b in ends), strict=True)
        except ValueError:
            low, high = (), ()
        if len(low) != 3:
            self.fail(f"{value!r} must be three ranges like 0:512,0:512,100:200 (x, y, z)", param, ctx)
        return low, high


@click.command()
@click.argument("source")
@click.argument("destination")
@click.option("--scales", type=ScaleList(), help="Scales to take, as 0,2 or 1-3; 0 is the finest. [all]")
@click.option("--box", type=BoxRanges(), help="Part to take, widened to whole chunks. [all]")
@click.option("--unit", type=click.Choice(["voxels", "nm"]), default="voxels", show_default=True,
              help="Of --box: voxels of the finest scale, or nanometres.")
@click.option("--meshes/--no-meshes", default=None, help="Take meshes. [if the volume is taken whole]")
@click.option("--skeletons/--no-skeletons", default=None, help="Take skeletons. [if the volume is taken whole]")
@click.option("--properties/--no-properties", default=True, help="Take segment properties. [yes]")
@click.option("--bodies", default="", metavar="IDS|FILE", help="Take meshes and skeletons of these only.")
@click.option("--also", multiple=True, metavar="PATH", help="Directory below SOURCE to take too, as annotations.")
@click.option("--layout", type=click.Choice(["keep", "sharded", "unsharded"]), default="keep", show_default=True,
              help="keep: whole scales as they are, parts of sharded ones in new shards.")
@click.option("--gzip", is_flag=True, help="Pack unsharded objects that are not compressed.")
@click.option("--workers", type=click.IntRange(1, 256), default=16, show_default=True, help="Requests at once.")
@click.option("--rate", type=Size(), help="Fetch so many bytes per second at most, as 50M. [no limit]")
@click.option("--verify/--no-verify", default=True, help="Read everything back in the end. [yes]")
@click.option("--again", is_flag=True, help="Fetch everything anew although the mirror is complete.")
@click.option("--update", is_flag=True, help="Fetch only what has changed at SOURCE since the mirror was complete.")
@click.option("--journal", type=click.Path(path_type=Path, dir_okay=False), help="File that remembers what is done.")
@click.option("--quiet", is_flag=True, help="No progress bars.")
def mirror(
    source: str, destination: str, scales: tuple[int, ...] | None, bodies: str, rate: int | None, quiet: bool,
    **rest: Any,
) -> None:  # fmt: skip
    """Copy a precomputed volume, or a part of it, with what belongs to it.

    SOURCE is a precomputed volume, or a directory of meshes, skeletons, annotations or properties: a folder, or an
    address that begins with file, http, https, gs, s3 or vast. DESTINATION is a folder, or an address that begins with
    file, gs, s3 or vast. Anything else that holds voxels is copied by `fascicle convert`.

    A mirror that was stopped goes on when the same command is given again.

    \b
    fascicle mirror https://example.org/segmentation labels --scales 1 --box 0:4096,0:4096,0:1024 --rate 50M
    fascicle mirror gs://bucket/segmentation s3://mine/segmentation --meshes
    """
    from fascicle.pipeline.mirror import MirrorOptions
    from fascicle.pipeline.mirror import mirror as run_mirror

    options = MirrorOptions(scales=scales or (), bodies=_bodies(bodies), rate=float(rate or 0), **rest)
    with stage_bars(quiet, "chunk") as progress:
        result = run_mirror(source, destination, options, progress)
    for line in result.left_out:
        click.echo(f"left out: {line}", err=True)
    what = ", ".join([*(f"scale {key}" for key in result.scales), *result.directories]) or "directory"
    if result.was_finished:
        state = "nothing has changed at the source" if rest["update"] else "--again fetches it anew"
        click.echo(f"{result.destination} is a complete mirror already: {what}; {state}")
        return
    click.echo(
        f"{result.destination}: {what}; {result.objects} objects, {result.size_bytes / 1e6:.1f} MB; "
        f"fetched {result.fetched_bytes / 1e6:.1f} MB in {result.seconds:.1f} s"
    )


def _bodies(text: str) -> tuple[int, ...]:
    """Ids from a list, or from a file with one in each line (of a table, the first column)."""
    if not text:
        return ()
    parts = text.split(",")
    if not all(part.strip().isdecimal() for part in parts):
        path = Path(text)
        if not path.is_file():
            raise click.UsageError(f"--bodies: {text} is neither a list of ids like 17,23 nor a file")
        parts = [re.split(r"[,\s]", line.strip())[0] for line in path.read_text().splitlines() if line.strip()]
        if parts and not parts[0].isdecimal():
            parts = parts[1:]  # a heading
    wrong = [part for part in parts if not part.strip().isdecimal() or int(part) >= 1 << 64]
    if wrong:
        raise click.UsageError(f"--bodies: {wrong[0]!r} is no id")
    return tuple(sorted({int(part) for part in parts}))
