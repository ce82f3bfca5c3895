"""`fascicle convert`: any volume straight to a static precomputed one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from fascicle.cli.ingest import Numbers, Size
from fascicle.cli.progress import stage_bars
from fascicle.cli.source import source_options, source_spec

if TYPE_CHECKING:
    from fascicle.pipeline.convert import ConvertOptions, ConvertResult

STYLE = "neuroglancer-scripts"


class Chunk(Numbers):
    """Three numbers x,y,z, or one."""

    name = "x,y,z|n"

    def __init__(self) -> None:
        super().__init__(int)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, str) and value.isdecimal():
            return int(value)
        return super().convert(value, param, ctx)


@click.command()
@click.argument("places", nargs=-1, required=True, metavar="[SOURCE]... DEST")
@source_options
@click.option("--source-scale", type=click.IntRange(0), default=0, help="Scale of a source that has several. [0]")
@click.option("--type", "kind", type=click.Choice(["image", "segmentation"]), help="What it is. [by the voxels' type]")
@click.option("--encoding", type=click.Choice(["raw", "jpeg", "png", "compressed_segmentation"]),
              help="[compressed_segmentation for labels, else raw]")  # fmt: skip
@click.option("--quality", type=click.IntRange(0, 100), help="Of JPEG (0 to 100), or effort for PNG (0 to 9).")
@click.option("--axes", default="", metavar="ORDER", help="What the source's axes are, slowest first. [zyx]")
@click.option("--resolution", type=Numbers(float), help="Size of a voxel in nm. [what the source says, else 8,8,8]")
@click.option("--offset", type=Numbers(int), help="Coordinate of the first voxel. [what the source says, else 0,0,0]")
@click.option("--dtype", default="", metavar="TYPE", help="uint8, uint32, ... [the source's, or the next that fits]")
@click.option("--remap", default="", metavar="TABLE", help="Label to other label: .npy, .csv or an HDF5 dataset.")
@click.option("--scales", type=click.IntRange(0, 20), help="Number of coarser scales. [until one chunk holds all]")
@click.option("--scaling", type=click.Choice(["mean", "labels", "majority", "thin"]),
              help="How voxels become coarser ones. [labels for labels, else mean]")  # fmt: skip
@click.option("--keep-thin", is_flag=True, help="The same as --scaling thin: thin neurites survive.")
@click.option("--chunk", type=Chunk(), help="Voxels of a chunk, or the edge of a cube of as many. [64]")
@click.option("--block", type=Numbers(int), default="8,8,8", help="Block of compressed segmentation. [8,8,8]")
@click.option("--sharded/--unsharded", default=None, help="[sharded where a scale has more than 64 chunks]")
@click.option("--shard-voxels", type=click.IntRange(1), help="Voxels of a shard, about. [512 x 512 x 512]")
@click.option("--gzip/--no-gzip", default=None, help="Gzip unsharded chunks, as .gz names in folders. [no]")
@click.option("--nested", is_flag=True, help="Unsharded chunks in folders by x and y.")
@click.option("--all-chunks", is_flag=True, help="Write chunks of zeros as well.")
@click.option("--style", type=click.Choice([STYLE]), help="Write the same files as that program does.")
@click.option("--memory", type=Size(), default="1G", show_default=True, help="So much memory may be used.")
@click.option("--workers", type=click.IntRange(1), help="Threads. [one per processor]")
@click.option("--journal", type=click.Path(dir_okay=False), default="", help="What is done. [beside DEST]")
@click.option("--scratch", type=click.Path(file_okay=False), default="", help="Scratch files. [beside the journal]")
@click.option("--verify", is_flag=True, help="Compare all voxels of all scales afterwards, not only checksums.")
@click.option("--overwrite", is_flag=True, help="Replace a volume that is there.")
@click.option("--quiet", is_flag=True, help="No progress bars.")
def convert(places: tuple[str, ...], quiet: bool, **rest: Any) -> None:
    """Write a volume as a static precomputed one, with all its scales.

    SOURCE is image files, a folder of them, .h5, .npy, .tif, .nii, .nrrd, or a precomputed volume, zarr or N5: a
    folder, or an address that begins with file, http, https, gs, s3 or vast; or a version of a store (--data) or server
    (--server). DEST is a folder, or an address that begins with file, gs, s3 or vast.

    A conversion that was stopped goes on when the same command is given again. What is there is checked at the end, and
    the file info is written last.

    \b
    fascicle convert slices/ labels --type segmentation --resolution 4,4,40
    fascicle convert --data db --repo medulla --instance grayscale gs://bucket/gray --encoding jpeg
    """
    from fascicle.pipeline.convert import convert as run_convert

    sources, destination = places[:-1], places[-1]
    spec = source_spec(sources, rest)
    options = _options(spec, rest)
    with stage_bars(quiet) as progress:
        result = run_convert(spec, destination, options, progress)
    click.echo(_said(result))


def _options(spec: Any, rest: dict[str, Any]) -> ConvertOptions:
    from fascicle.formats.sharding import SHARD_VOXELS
    from fascicle.pipeline.convert import ConvertOptions
    from fascicle.pipeline.scales import ScaleOptions
    from fascicle.volumes.adapted import Adaptation

    keep_thin, style = rest.pop("keep_thin"), rest.pop("style")
    scaling, gzip, sharded = rest.pop("scaling") or "", rest.pop("gzip"), rest.pop("sharded")
    if keep_thin and scaling not in ("", "thin"):
        raise click.UsageError(f"--keep-thin is --scaling thin, not --scaling {scaling}")
    if style:
        gzip, sharded, rest["all_chunks"] = gzip is not False, bool(sharded), True
    remap = rest.pop("remap")
    table = None
    if remap:
        from fascicle.pipeline.ingest_mapping import read_mapping

        with spec.open() as pyramid:
            table = read_mapping(remap, pyramid.scales[0])
    return ConvertOptions(
        kind=rest.pop("kind") or "",
        adaptation=Adaptation(
            axes=rest.pop("axes"),
            resolution_nm=rest.pop("resolution"),
            offset_xyz=rest.pop("offset"),
            dtype=rest.pop("dtype"),
            remap=table,
        ),
        scales=ScaleOptions(
            encoding=rest.pop("encoding") or "",
            chunk=rest.pop("chunk"),
            scales=rest.pop("scales"),
            sharded=sharded,
            shard_voxels=rest.pop("shard_voxels") or SHARD_VOXELS,
            quality=rest.pop("quality"),
            block=rest.pop("block"),
            as_neuroglancer_scripts=bool(style),
        ),
        scaling="thin" if keep_thin else scaling,
        gzip=bool(gzip),
        memory_bytes=rest.pop("memory"),
        workers=rest.pop("workers") or 0,
        **rest,
    )


def _said(result: ConvertResult) -> str:
    x, y, z = result.info.scales[0].size
    speed = result.voxels / 1e6 / max(result.seconds, 1e-9)
    return (
        f"{result.destination}: {x} x {y} x {z} voxels of {result.info.data_type} in {len(result.info.scales)} scales, "
        f"{result.chunks} chunks, {result.stored_bytes / 1e6:.1f} MB; {result.seconds:.1f} s ({speed:.1f} MVoxel/s), "
        f"{result.verified} verified"
    )
