"""`fascicle mesh`: surfaces of the bodies of a segmentation."""

from __future__ import annotations

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
    type=click.Choice(("multires", "legacy", "ngmesh")),
    default="multires",
    show_default=True,
    help="Draco with levels of detail, one resolution for old viewers, or files <body>.ngmesh.",
)
@click.option("--keys", is_flag=True, help="Also put <body>.ngmesh into <instance>_meshes of the version.")
@click.option("--blobs", default="", metavar="NAME", help="Also put meshes of supervoxels into this tarsupervoxels.")
@click.option("--scale", type=click.IntRange(0), default=0, show_default=True, help="Scale that is read.")
@click.option("--error", "error_nm", type=float, default=0.0, metavar="NM", help="Of the mesh. [about two voxels]")
@click.option("--dust", type=click.IntRange(0), default=0, metavar="VOXELS", help="Smaller bodies get no mesh. [0]")
@click.option("--lods", type=click.IntRange(1, 8), default=8, help="Levels of detail at most. [as many as are of use]")
@click.option("--bodies", default="", metavar="LIST", help="Only these: 1,2,3, or a file with one in each line.")
@click.option("--since", default="", metavar="REF", help="Only bodies that changed since this version (with --data).")
@click.option("--sharded/--unsharded", default=None, help="[sharded from 256 meshes on]")
@click.option("--block", "block_xyz", type=Numbers(int), help="Size of the blocks in voxels. [what fits]")
@job_options
def mesh(places: tuple[str, ...], **rest: Any) -> None:
    """Make meshes of the bodies of a segmentation.

    SOURCE is anything that `fascicle ingest` reads, or nothing with --data or --server. DEST is a folder or an address
    that begins with s3, gs or vast; if it lies in a precomputed volume, the volume's info names it from then on. A job
    that was stopped goes on when the same command is given again.

    \b
    fascicle mesh labels labels/mesh --error 40 --dust 1000
    fascicle mesh out --data db --repo medulla --instance segmentation --scale 1
    fascicle mesh out --data db --repo medulla --instance segmentation --unsharded --since v1
    fascicle mesh --keys --data db --repo medulla --instance segmentation
    """
    from fascicle.pipeline.mesh import MeshOptions
    from fascicle.pipeline.mesh import mesh as run

    remote = bool(rest["data"] or rest["server"])
    address, destination = source_and_destination(places, remote)
    quiet = rest.pop("quiet")
    spec = source_spec(address, rest)
    inside = [f"{spec.instance}_meshes"] if rest["keys"] else [rest["blobs"]] if rest["blobs"] else []
    if not destination and not inside:
        raise click.UsageError("name a DEST to write to" + (", or --keys" if remote else ""))
    options = MeshOptions(
        bodies=body_list(rest.pop("bodies")),
        workers=rest.pop("workers") or 0,
        memory_bytes=rest.pop("memory"),
        **rest,
    )
    with stage_bars(quiet) as progress:
        done = run(spec, destination, options, progress)
    where = " and ".join([*([done.destination] if done.destination else []), *inside])
    shards = f" ({done.shards} shards)" if done.shards else ""
    removed = f", {done.removed} removed" if done.removed else ""
    linked = ", linked from its volume" if done.linked else ""
    click.echo(
        f"{done.meshes} meshes of {done.triangles} triangles within {done.error_nm:g} nm{shards}{removed} in {where}"
        f"{linked}, from {done.blocks} blocks, in {done.seconds:.1f} s"
    )
