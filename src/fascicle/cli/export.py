"""`fascicle export`: a version as static volumes, or tables of what it knows."""

from __future__ import annotations

import warnings
from typing import Any

import click

from fascicle.cli.jobs import job_options
from fascicle.cli.progress import stage_bars
from fascicle.cli.table_export import neuronjson, rois, synapses

_MOST_NAMES = 20


class _VersionFirst(click.Group):
    """`export VERSION DEST` means `export version VERSION DEST`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            args = ["version", *args]
        return super().parse_args(ctx, args)


@click.group("export", cls=_VersionFirst)
def export() -> None:
    """Write a version as static volumes, or tables of it: synapses, regions, notes on bodies.

    \b
    fascicle export medulla/master s3://bucket/medulla --data db
    fascicle export synapses synapses.csv --data db --repo medulla

    The first of these is short for `fascicle export version`. Tables are CSV, JSON or Parquet, by the ending of the
    file's name; one that is there is replaced when the new one is complete.
    """


for _command in (synapses, rois, neuronjson):
    export.add_command(_command)


@export.command("version")
@click.argument("version")
@click.argument("destination", metavar="DEST")
@click.option("--data", default="", metavar="DIR", help="Store to read from.")
@click.option("--server", default="", metavar="URL", help="Running server to read from instead.")
@click.option("--instance", "instances", multiple=True, metavar="NAME", help="Of these only. [all volumes]")
@click.option("--supervoxels", is_flag=True, help="Supervoxels of label maps instead of bodies.")
@click.option("--encoding", default="", metavar="NAME", help="raw, jpeg, png, compressed_segmentation. [what suits]")
@click.option("--unsharded", is_flag=True, help="Each chunk a file of its own.")
@click.option("--gzip", is_flag=True, help="Pack chunks that are files of their own.")
@click.option("--meshes/--no-meshes", default=None, help="Make meshes of all bodies, or write none. [those stored]")
@click.option("--skeletons/--no-skeletons", default=None, help="Make skeletons, or write none. [those stored]")
@click.option("--annotations/--no-annotations", default=None, help="Annotations. [those that there are]")
@click.option("--properties/--no-properties", default=None, help="What is known of bodies. [if anything is]")
@click.option("--since", default="", metavar="EXPORT", help="Write only what differs from an earlier export.")
@click.option("--provenance", default="", metavar="TEXT", help="Write a file provenance with this description.")
@click.option("--verify/--no-verify", default=True, help="Read everything back at the end and compare it. [yes]")
@job_options
def version(
    version: str,
    destination: str,
    data: str,
    server: str,
    unsharded: bool,
    workers: int | None,
    memory: int,
    quiet: bool,
    **rest: Any,
) -> None:
    """Write the volumes of a version, and what is known beside voxels, to a folder or a bucket.

    VERSION is <repo>/<version>, where <version> is a UUID, a branch or a tag, or the UUID alone. DEST is a folder, or
    an address that begins with s3, gs or vast; each instance becomes a directory in it.

    Scales of many chunks are sharded. An export that was stopped goes on when the same command is given again; no info
    is written before all is there.

    \b
    fascicle export medulla/master s3://bucket/medulla --data db
    fascicle export 28841c out --server http://127.0.0.1:8000 --instance segmentation --unsharded --gzip
    fascicle export medulla/master out --data db --unsharded --since out
    """
    from fascicle.pipeline.export import ExportOptions
    from fascicle.pipeline.export import export as run_export
    from fascicle.pipeline.sources import SourceSpec

    if bool(data) == bool(server):
        raise click.UsageError("name either a folder (--data) or a server (--server)")
    if rest["gzip"] and not unsharded:
        raise click.UsageError("--gzip is for chunks that are files of their own: give --unsharded as well")
    repo, _, name = version.rpartition("/")
    spec = SourceSpec(data=data, server=server, repo=repo, version=name)
    options = ExportOptions(sharded=not unsharded, workers=workers or 0, memory_bytes=memory, **rest)
    with warnings.catch_warnings(), stage_bars(quiet) as progress:
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = lambda message, *_: click.echo(f"fascicle: {message}", err=True)
        done = run_export(spec, destination, options, progress)
    for line in done.changed[:_MOST_NAMES]:
        click.echo(f"changed: {line}")
    if len(done.changed) > _MOST_NAMES:
        click.echo(f"changed: {len(done.changed) - _MOST_NAMES} more")
    since = f", {len(done.changed)} of them changed" if rest["since"] else ""
    checked = ", verified" if rest["verify"] else ""
    kind = "groups of files" if unsharded else "shards or groups of files"
    for line in done.left_out:
        click.echo(f"fascicle: left out: {line}", err=True)
    for name, count in done.directories.items():
        click.echo(f"{name}: {count}")
    click.echo(
        f"{', '.join(done.volumes) or 'no volumes'} of version {done.version} in {done.destination}: "
        f"{done.chunks} chunks in {done.objects} {kind}{since}, "
        f"{done.size_bytes / 1e6:.1f} MB in {done.seconds:.1f} s{checked}"
    )
