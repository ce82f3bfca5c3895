"""`fascicle index`: what bodies and counts need of a segmentation that lives elsewhere."""

from __future__ import annotations

from pathlib import Path

import click

from fascicle.cli.table_import import bars, chosen
from fascicle.cli.target import connect, target_options


@click.command()
@click.argument("instance")
@target_options
@click.option("--quiet", is_flag=True, help="No progress bar.")
def index(instance: str, data: Path | None, server: str | None, repo: str, uuid: str, quiet: bool) -> None:
    """Read the volume of a labelmap INSTANCE that lives elsewhere once, and enter its bodies into the index.

    Sizes, sparse volumes and edits need the index; voxels can be read without it. A run that was stopped goes on where
    it was when it is started again.
    """
    from fascicle.pipeline.volume_index import make_index

    connection = connect(data, server)
    try:
        version = chosen(connection, uuid, repo)
        with bars(quiet) as bar:
            blocks = make_index(connection, version, instance, bar("blocks"))
    finally:
        connection.close()
    click.echo(f"{instance}: the index has {blocks} blocks")
