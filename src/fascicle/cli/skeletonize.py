"""`fascicle skeletonize`: centrelines of the bodies of a segmentation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from fascicle.cli.ingest import Numbers
from fascicle.cli.jobs import body_list, job_options, source_and_destination
from fascicle.cli.progress import stage_bars
from fascicle.cli.source import source_options, source_spec


@click.command()
@click.argument("places", nargs=-1, metavar="[SOURCE] [DEST]")
@source_options
@click.option(
    "--format",
    type=click.Choice(("precomputed", "swc", "archive")),
    default="precomputed",
    show_default=True,
    help="A directory for viewers, a folder of SWC files, or one tar of them with its table.",
)
@click.option("--keys", is_flag=True, help="Also put <body>_swc into <instance>_skeletons of the version.")
@click.option("--scale", type=click.IntRange(0), default=0, show_default=True, help="Scale that is read.")
@click.option("--scale-factor", type=float, default=1.5, show_default=True, help="A path covers so many radii,")
@click.option("--const", "constant", type=float, default=300.0, show_default=True, help="and so many nm around it.")
@click.option("--dust", type=click.IntRange(0), default=1000, show_default=True, help="Voxels a piece must have.")
@click.option("--soma", type=float, default=1000.0, show_default=True, help="Radius in nm from which on it is one.")
@click.option("--detail", type=float, default=0.0, metavar="NM", help="Finest distance that counts. [--const / 12]")
@click.option("--bodies", default="", metavar="LIST", help="Only these: 1,2,3, or a file with one in each line.")
@click.option("--neurons", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="bodyId,type,instance.")
@click.option("--since", default="", metavar="REF", help="Only bodies that changed since this version (with --data).")
@click.option("--sharded/--unsharded", default=None, help="[sharded from 256 skeletons on]")
@click.option("--units", type=click.Choice(("voxels", "nm")), default="voxels", show_default=True, help="Of SWC.")
@click.option("--block", "block_xyz", type=Numbers(int), help="Size of the blocks in voxels. [what fits]")
@job_options
def skeletonize(places: tuple[str, ...], **rest: Any) -> None:
    """Make skeletons with radii of the bodies of a segmentation.

    SOURCE is anything that `fascicle ingest` reads, or nothing with --data or --server. DEST is a folder or an address
    that begins with s3, gs or vast; for an archive the name of the file. A job that was stopped goes on when the same
    command is given again.

    \b
    fascicle skeletonize precomputed://gs://bucket/labels labels/skeletons
    fascicle skeletonize out --data db --repo medulla --instance segmentation --scale 1
    fascicle skeletonize neurons.tar --format archive --neurons traced-neurons.csv --data db --uuid v1 --instance labels
    fascicle skeletonize --keys --data db --repo medulla --instance segmentation
    """
    from fascicle.formats import swc
    from fascicle.pipeline.skeletonize import SkeletonizeOptions
    from fascicle.pipeline.skeletonize import skeletonize as run
    from fascicle.precomputed.centrelines import Teasar

    remote = bool(rest["data"] or rest["server"])
    address, destination = source_and_destination(places, remote)
    keys, quiet, units = rest.pop("keys"), rest.pop("quiet"), rest.pop("units")
    spec = source_spec(address, rest)
    if not destination and not keys:
        raise click.UsageError("name a DEST to write to" + (", or --keys" if remote else ""))
    parameters = Teasar(
        scale=rest.pop("scale_factor"),
        constant_nm=rest.pop("constant"),
        dust=rest.pop("dust"),
        soma_nm=rest.pop("soma"),
        detail_nm=rest.pop("detail"),
    )
    table: Path | None = rest.pop("neurons")
    options = SkeletonizeOptions(
        parameters=parameters,
        keys=keys,
        in_nm=units == "nm",
        bodies=body_list(rest.pop("bodies")),
        neurons=tuple(swc.read_table(table.read_bytes())) if table else (),
        workers=rest.pop("workers") or 0,
        memory_bytes=rest.pop("memory"),
        **rest,
    )
    with stage_bars(quiet) as progress:
        done = run(spec, destination, options, progress)
    where = [done.destination] if done.destination else []
    if keys:
        where.append(f"{spec.instance}_skeletons")
    shards = f" ({done.shards} shards)" if done.shards else ""
    removed = f", {done.removed} removed" if done.removed else ""
    click.echo(
        f"{done.skeletons} skeletons of {done.vertices} vertices{shards}{removed} in {' and '.join(where)}, "
        f"from {done.blocks} blocks, in {done.seconds:.1f} s"
    )
