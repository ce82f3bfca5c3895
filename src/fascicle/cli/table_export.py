"""`fascicle export synapses|rois|neuronjson`: synapses, regions and what is known of bodies, into tables."""

from __future__ import annotations

from pathlib import Path

import click

from fascicle.cli.table_import import bars, chosen
from fascicle.cli.target import connect, target_options

_file = click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
_dry_run = click.option("--dry-run", is_flag=True, help="Only say what would be written.")
_quiet = click.option("--quiet", is_flag=True, help="No progress bars.")


def _of_type(instances: dict[str, dict[str, dict[str, object]]], name: str, typename: str) -> None:
    from fascicle.pipeline.tables import TableError

    if name not in instances:
        raise TableError(f"there is no instance {name!r}")
    found = instances[name]["Base"]["TypeName"]
    if found != typename:
        raise TableError(f"instance {name!r} is of type {found}, not {typename}")


@click.command("synapses")
@_file
@target_options
@click.option("--instance", default="synapses", show_default=True, metavar="NAME", help="Annotation instance to read.")
@click.option(
    "--layout",
    type=click.Choice(["points", "partners"]),
    default="points",
    show_default=True,
    help="A row per element, from which all can be restored, or a row per connection.",
)
@click.option("--no-bodies", is_flag=True, help="Do not look up the body of each element.")
@_dry_run
@_quiet
def synapses(
    file: Path,
    data: Path | None,
    server: str | None,
    repo: str,
    uuid: str,
    instance: str,
    layout: str,
    no_bodies: bool,
    dry_run: bool,
    quiet: bool,
) -> None:
    """Write the elements of an annotation instance.

    \b
    fascicle export synapses synapses.csv --data db --repo medulla
    fascicle export synapses partners.parquet --layout partners --server http://127.0.0.1:8000 --uuid 28841c
    """
    from fascicle.pipeline.synapse_table import export_synapses
    from fascicle.pipeline.tables import kind_of

    kind_of(file)
    with connect(data, server) as connection, bars(quiet) as bar:
        version = chosen(connection, uuid, repo)
        _of_type(version.instances, instance, "annotation")
        followed = version.instances[instance]["Base"]["Syncs"] or []
        maps = [name for name in followed if version.instances[name]["Base"]["TypeName"] == "labelmap"]
        segmentation = maps[0] if maps and not no_bodies else ""
        if dry_run:
            bodies = f", with the bodies of {segmentation}" if segmentation else ""
            click.echo(f"the elements of {instance} of {version.node} would be written to {file}{bodies}")
            return
        with connection.another() as lookups:
            done = export_synapses(
                connection, lookups, version.node, instance, file, layout, segmentation, bar("writing")
            )
    click.echo(f"{done.elements} elements of {instance} of {version.node}: {done.rows} rows in {file}")


@click.command("rois")
@_file
@target_options
@click.option("--instance", "names", multiple=True, metavar="NAME", help="A region; may be given several times. [all]")
@_dry_run
@_quiet
def rois(
    file: Path,
    data: Path | None,
    server: str | None,
    repo: str,
    uuid: str,
    names: tuple[str, ...],
    dry_run: bool,
    quiet: bool,
) -> None:
    """Write regions, all of them unless some are named.

    \b
    fascicle export rois rois.parquet --data db --repo medulla
    """
    from fascicle.pipeline.roi_table import export_regions
    from fascicle.pipeline.tables import kind_of

    kind_of(file)
    with connect(data, server) as connection, bars(quiet) as bar:
        version = chosen(connection, uuid, repo)
        for name in names:
            _of_type(version.instances, name, "roi")
        there = version.instances
        regions = list(names) or sorted(name for name in there if there[name]["Base"]["TypeName"] == "roi")
        if dry_run:
            click.echo(f"{len(regions)} regions of {version.node} would be written to {file}: {', '.join(regions)}")
            return
        update = bar("writing")
        _, runs = export_regions(connection, version.node, regions, file, lambda done: update(done, len(regions)))
    click.echo(f"{len(regions)} regions of {version.node} with {runs} runs in {file}")


@click.command("neuronjson")
@_file
@target_options
@click.option(
    "--instance", default="segmentation_annotations", show_default=True, metavar="NAME", help="Instance to read."
)
@click.option("--history", is_flag=True, help="Also who changed each field, and when.")
@_dry_run
@_quiet
def neuronjson(
    file: Path,
    data: Path | None,
    server: str | None,
    repo: str,
    uuid: str,
    instance: str,
    history: bool,
    dry_run: bool,
    quiet: bool,
) -> None:
    """Write what is known of each body.

    \b
    fascicle export neuronjson neurons.csv --data db --repo medulla
    """
    from fascicle.pipeline.neuron_table import export_neurons
    from fascicle.pipeline.tables import kind_of

    kind_of(file)
    with connect(data, server) as connection, bars(quiet) as bar:
        version = chosen(connection, uuid, repo)
        _of_type(version.instances, instance, "neuronjson")
        if dry_run:
            click.echo(f"the bodies of {instance} of {version.node} would be written to {file}")
            return
        count = export_neurons(connection, version.node, instance, file, history, bar("writing"))
    click.echo(f"{count} bodies of {instance} of {version.node} in {file}")
