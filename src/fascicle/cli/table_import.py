"""`fascicle import`: synapses, regions and what is known of bodies, from tables into a version."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fascicle.cli.target import connect, target_options

if TYPE_CHECKING:
    from fascicle.pipeline.ingest_connections import Connection
    from fascicle.pipeline.version_choice import ChosenVersion

_file = click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
_dry_run = click.option("--dry-run", is_flag=True, help="Only read the table and say what would be done.")
_quiet = click.option("--quiet", is_flag=True, help="No progress bars.")

Bar = Callable[[str], Callable[..., None]]


@contextmanager
def bars(quiet: bool) -> Iterator[Bar]:
    """Progress bars: `bars("reading")` gives a function to call with what is done, and perhaps how much there is."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description:<12}"), BarColumn(), TextColumn("{task.completed:,}"), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=quiet or not console.is_terminal) as progress:

        def bar(name: str) -> Callable[..., None]:
            task = progress.add_task(name, total=None)

            def update(done: int, total: int | None = None) -> None:
                progress.update(task, completed=done, total=total)

            return update

        yield bar


def chosen(connection: Connection, uuid: str, repo: str) -> ChosenVersion:
    """The version that was named, which must be there."""
    from fascicle.errors import FascicleError
    from fascicle.pipeline.version_choice import choose_version

    found = choose_version(connection, uuid, repo)
    if found is None:
        raise FascicleError(f"there is no repo with the alias {repo!r}")
    return found


@contextmanager
def _open_version(
    data: Path | None, server: str | None, uuid: str, repo: str
) -> Iterator[tuple[Connection, ChosenVersion]]:
    """A connection and a version that may be written to."""
    from fascicle.errors import FascicleError

    with connect(data, server) as connection:
        version = chosen(connection, uuid, repo)
        if connection.json("GET", f"/api/node/{version.node}/commit").get("Locked"):
            raise FascicleError(f"version {version.node} is committed: make a child of it, or name an open one")
        yield connection, version


@click.group("import")
def import_() -> None:
    """Bring tables into a version: synapses, regions, notes on bodies.

    Tables are CSV, JSON or Parquet, by the ending of their names. The whole table is read and checked before anything
    is written; the first mistake ends the command with the line it is on.
    """


@import_.command("synapses")
@_file
@target_options
@click.option("--instance", default="synapses", show_default=True, metavar="NAME", help="Made if it is not there.")
@click.option(
    "--partners",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="TABLE",
    help="A second table, pre_id and post_id, that joins the points of the first one by their ids.",
)
@click.option(
    "--follow", default="segmentation", show_default=True, metavar="NAME", help="Label map that a new instance follows."
)
@_dry_run
@_quiet
def synapses(
    file: Path,
    data: Path | None,
    server: str | None,
    repo: str,
    uuid: str,
    instance: str,
    partners: Path | None,
    follow: str,
    dry_run: bool,
    quiet: bool,
) -> None:
    """Add synapses, or any elements, to an annotation instance.

    An element at a position where there is one already replaces it as a whole.

    \b
    fascicle import synapses synapses.csv --data db --repo medulla
    fascicle import synapses points.parquet --partners partners.parquet --server http://127.0.0.1:8000 --uuid 28841c
    """
    from fascicle.pipeline.synapse_staging import Staging
    from fascicle.pipeline.synapse_table import make_instance, post_elements, stage

    with _open_version(data, server, uuid, repo) as (connection, version), Staging() as staged, bars(quiet) as bar:
        found = stage(file, partners, staged, bar("reading"))
        if not dry_run:
            make_instance(connection, version.node, instance, version.instances, follow)
            update = bar("writing")
            post_elements(
                connection, version.node, instance, staged.elements(), lambda done: update(done, found.elements)
            )
    if found.unused_columns:
        click.echo(f"columns that were not used: {', '.join(found.unused_columns)}", err=True)
    click.echo(
        f"{found.elements} elements from {found.rows} rows {_were(dry_run)} stored in {instance} of {version.node}"
    )


def _were(dry_run: bool) -> str:
    return "would be" if dry_run else "were"


@import_.command("rois")
@_file
@target_options
@click.option("--instance", default="", metavar="NAME", help="The region, for a table that does not name any.")
@click.option("--block-size", type=click.IntRange(1, 512), default=32, show_default=True, help="Voxels along a block.")
@_dry_run
@_quiet
def rois(
    file: Path,
    data: Path | None,
    server: str | None,
    repo: str,
    uuid: str,
    instance: str,
    block_size: int,
    dry_run: bool,
    quiet: bool,
) -> None:
    """Replace regions by those of a table; regions that it does not name stay as they are.

    \b
    fascicle import rois rois.csv --data db --repo medulla
    fascicle import rois spans.json --instance "AB(L)" --data db --repo medulla
    """
    from fascicle.pipeline.roi_table import Regions, post_regions, stage_regions

    with _open_version(data, server, uuid, repo) as (connection, version), Regions() as regions, bars(quiet) as bar:
        stage_regions(file, instance, regions, bar("reading"))
        if not dry_run:
            update = bar("writing")
            count = len(regions.names)
            post_regions(
                connection, version.node, regions, version.instances, block_size, lambda done: update(done, count)
            )
        text = f"{len(regions.names)} regions with {regions.rows} runs {_were(dry_run)} stored at {version.node}"
    click.echo(text)


@import_.command("neuronjson")
@_file
@target_options
@click.option(
    "--instance", default="segmentation_annotations", show_default=True, metavar="NAME", help="Made if it is not there."
)
@click.option("--user", default="", metavar="NAME", help="Who is noted as the author. [the name of your account]")
@click.option(
    "--text", "texts", multiple=True, metavar="FIELD", help="A field of a CSV that is text, whatever it looks like."
)
@click.option("--replace", is_flag=True, help="Remove the fields of a body that its row does not have.")
@_dry_run
@_quiet
def neuronjson(
    file: Path,
    data: Path | None,
    server: str | None,
    repo: str,
    uuid: str,
    instance: str,
    user: str,
    texts: tuple[str, ...],
    replace: bool,
    dry_run: bool,
    quiet: bool,
) -> None:
    """Add what is known of bodies: a row for each, a column for each field, and a column bodyid.

    \b
    fascicle import neuronjson neurons.csv --data db --repo medulla --user ann
    """
    import getpass

    from fascicle.pipeline.neuron_table import check_neurons, post_neurons, read_neurons
    from fascicle.pipeline.tables import TableError

    with _open_version(data, server, uuid, repo) as (connection, version), bars(quiet) as bar:
        count = check_neurons(file, texts, bar("reading"))
        there: dict[str, Any] = version.instances
        if instance in there and there[instance]["Base"]["TypeName"] != "neuronjson":
            raise TableError(f"instance {instance!r} is of type {there[instance]['Base']['TypeName']}, not neuronjson")
        if not dry_run:
            if instance not in there:
                asked = {"typename": "neuronjson", "dataname": instance}
                connection.json("POST", f"/api/repo/{version.node}/instance", asked)
            update = bar("writing")
            post_neurons(
                connection,
                version.node,
                instance,
                read_neurons(file, texts),
                user or getpass.getuser(),
                replace,
                lambda done: update(done, count),
            )
    click.echo(f"{count} bodies {_were(dry_run)} stored in {instance} of {version.node}")
