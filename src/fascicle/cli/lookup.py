"""`fascicle lookup`: labels at the points of a table."""

from __future__ import annotations

from typing import Any

import click

from fascicle.cli.progress import stage_bars
from fascicle.cli.source import source_options, source_spec


@click.command()
@click.argument("points")
@click.argument("source", default="")
@source_options
@click.option("--output", "-o", default="-", metavar="FILE", help="Table to write. [standard output]")
@click.option("--columns", default="x,y,z", show_default=True, metavar="X,Y,Z", help="Names of the coordinates.")
@click.option("--unit", type=click.Choice(["voxels", "nm"]), default="voxels", show_default=True,
              help="Of the coordinates: voxels of the finest scale, or nanometres.")
@click.option("--scale", type=click.IntRange(0), default=0, show_default=True, help="Scale that is read.")
@click.option("--label-column", default="label", show_default=True, metavar="NAME", help="Name of the new column.")
@click.option("--quiet", is_flag=True, help="No progress bars, no summary.")
def lookup(points: str, source: str, output: str, columns: str, quiet: bool, **options: Any) -> None:  # fmt: skip
    """Write a table of points again, with the label at each.

    POINTS is a table (.csv, .csv.gz, .parquet, .npy) with columns x, y, z; what is written is of the same kind. SOURCE
    is any volume that can be read, as a mirror; or name a version with --data or --server. Points outside of the volume
    have label 0.

    \b
    fascicle lookup synapses.csv labels -o labelled.csv
    fascicle lookup synapses.parquet --data db --repo medulla --instance segmentation -o bodies.parquet
    """
    spec = source_spec(source, options)

    from fascicle.pipeline.lookup import LookupOptions, check_columns
    from fascicle.pipeline.lookup import lookup as run_lookup

    chosen = LookupOptions(columns=check_columns(columns.split(",")), **options)
    with stage_bars(quiet, "point") as progress:
        result = run_lookup(spec, points, output, chosen, progress)
    if not quiet:
        rate = result.points / max(result.seconds, 1e-9)
        click.echo(
            f"{result.points} points in {result.seconds:.2f} s ({rate / 1e6:.2f} M/s): {result.outside} outside of the "
            f"volume, {result.background} in the background",
            err=True,
        )
