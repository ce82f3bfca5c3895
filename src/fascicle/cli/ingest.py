"""`fascicle ingest`: images or labels from files into a versioned volume."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from fascicle.pipeline.ingest import IngestOptions
    from fascicle.pipeline.ingest_connections import Connection
    from fascicle.volumes import VolumeSource

_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


class Numbers(click.ParamType[Any]):
    """Three numbers x,y,z."""

    name = "x,y,z"

    def __init__(self, kind: type[int] | type[float]) -> None:
        self.kind = kind

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, tuple):
            return value
        try:
            numbers = tuple(self.kind(part) for part in str(value).split(","))
        except ValueError:
            numbers = ()
        if len(numbers) != 3:
            self.fail(f"{value!r} must be three numbers like 8,8,8", param, ctx)
        return numbers


class Size(click.ParamType[Any]):
    """A number of bytes, as 512M or 4G."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, int):
            return value
        text = str(value).lower().removesuffix("ib").removesuffix("b")
        number, unit = (text[:-1], text[-1]) if text[-1:] in ("k", "m", "g", "t") else (text, "")
        try:
            size = int(float(number) * _UNITS[unit])
        except ValueError:
            size = 0
        if size <= 0:
            self.fail(f"{value!r} must be a size like 512M or 4G", param, ctx)
        return size


@click.command()
@click.argument("source", nargs=-1, required=True)
@click.option("--data", type=click.Path(path_type=Path, file_okay=False), help="Store to write to directly.")
@click.option("--server", metavar="URL", help="Running server to write to instead.")
@click.option("--repo", default="", metavar="ALIAS", help="Repo to write to; made if there is none of this alias.")
@click.option("--uuid", default="", metavar="REF", help="Version to write to, instead of --repo.")
@click.option("--instance", required=True, metavar="NAME", help="Instance to write to; made if it is not there.")
@click.option("--type", "typename", default="", metavar="TYPE", help="uint8blk, labelmap, ... [by the voxels' type]")
@click.option("--dataset", metavar="PATH", help="Dataset of an HDF5 file, if it has several; array in zarr or N5.")
@click.option("--source-scale", type=click.IntRange(0), default=0, help="Scale of a source that has several. [0]")
@click.option("--channel", type=click.IntRange(0), help="Channel of a source that has several.")
@click.option("--mapping", default="", metavar="TABLE", help="Supervoxel to body: .npy, .csv or an HDF5 dataset.")
@click.option("--resolution", type=Numbers(float), help="Size of a voxel in nm. [what the source says, else 8,8,8]")
@click.option("--offset", type=Numbers(int), help="Coordinate of the first voxel. [what the source says, else 0,0,0]")
@click.option("--axes", default="", metavar="ORDER", help="What the source's axes are, slowest first. [zyx]")
@click.option(
    "--dtype", default="", metavar="TYPE", help="uint8, uint64, ... of the voxels; they must fit. [as they are]"
)
@click.option("--remap", default="", metavar="TABLE", help="Label to other label, as --mapping, but for good.")
@click.option("--block-size", type=click.IntRange(16, 512), default=64, show_default=True, help="Edge of new blocks.")
@click.option("--compression", default="", metavar="NAME", help="Of a new instance: lz4, jpeg, jpeg:90, gzip, none.")
@click.option("--scales", type=click.IntRange(0, 20), help="Number of coarser scales. [until one block holds all]")
@click.option("--memory", type=Size(), default="2G", show_default=True, help="So much memory may be used.")
@click.option(
    "--workers", type=click.IntRange(1, 64), default=1, show_default=True, help="Boxes that are sent at once."
)
@click.option("--keep-thin", is_flag=True, help="Coarser scales of labels in which thin neurites survive.")
@click.option("--journal", type=click.Path(path_type=Path, dir_okay=False), help="File that remembers what is done.")
@click.option(
    "--verify", is_flag=True, help="Compare all of it with the source afterwards, not only checksums of some."
)
@click.option("--quiet", is_flag=True, help="No progress bars.")
def ingest(
    source: tuple[str, ...],
    data: Path | None,
    server: str | None,
    dataset: str | None,
    source_scale: int,
    channel: int | None,
    resolution: tuple[float, float, float] | None,
    offset: tuple[int, int, int] | None,
    axes: str,
    dtype: str,
    remap: str,
    memory: int,
    journal: Path | None,
    verify: bool,
    quiet: bool,
    **rest: Any,
) -> None:
    """Bring a volume into a store or a server.

    SOURCE is image files, a folder of them, .h5, .npy, .npy.ckl.gz, .tif, .nii, .nrrd, or a precomputed volume, zarr
    or N5: a folder, or an address that begins with file, http, https, gs, s3 or vast.

    Coarser scales are made as well. An ingest that was stopped goes on when the same command is given again.

    \b
    fascicle ingest 'slices/*.png' --data db --repo medulla --instance grayscale --resolution 10,10,10
    fascicle ingest labels.h5 --dataset stack --mapping transforms --data db --repo medulla --instance segmentation
    """
    from fascicle.pipeline.ingest import IngestOptions, journal_name
    from fascicle.pipeline.ingest_connections import LocalConnection, ServerConnection
    from fascicle.pipeline.ingest_mapping import read_mapping
    from fascicle.volumes import open_volume
    from fascicle.volumes.adapted import Adaptation, AdaptedVolume

    if (data is None) == (server is None):
        raise click.UsageError("name either a folder (--data) or a server (--server)")
    options = IngestOptions(
        resolution_nm=resolution, offset_xyz=offset, memory_bytes=memory,
        **rest,
    )  # fmt: skip
    with ExitStack() as stack:
        volume = stack.enter_context(open_volume(source, dataset, source_scale, channel))
        if axes or dtype or remap:
            table = read_mapping(remap, volume) if remap else None
            volume = AdaptedVolume(volume, Adaptation(axes=axes, dtype=dtype, remap=table))
        token = os.environ.get("FASCICLE_ADMIN_TOKEN") or os.environ.get("DVID_ADMIN_TOKEN") or ""
        connection: Connection
        if server is not None:
            connection = stack.enter_context(ServerConnection(server, token))
            folder = Path()
        else:
            assert data is not None
            connection = stack.enter_context(LocalConnection(data))
            folder = data / "ingest"
            folder.mkdir(exist_ok=True)
        path = journal or folder / journal_name(source, server or "", options)
        _run(connection, volume, options, path, verify, quiet)


def _run(
    connection: Connection, volume: VolumeSource, options: IngestOptions, journal: Path, check: bool, quiet: bool
) -> None:
    from rich.console import Console

    from fascicle.cli.progress import stage_bars
    from fascicle.pipeline.ingest import ingest as run_ingest
    from fascicle.pipeline.ingest import verify as run_verify

    Console(stderr=True, quiet=quiet).print(str(volume), highlight=False, markup=False)
    wrong: list[str] = []
    with stage_bars(quiet) as progress:
        summary = run_ingest(connection, volume, options, journal, progress)
        if check:
            wrong = run_verify(connection, volume, options, summary.node, progress)
    for line in wrong[:20]:
        click.echo(line, err=True)
    if wrong:
        raise click.ClickException(f"{len(wrong)} things differ from the source")
    speed = summary.posted_voxels / 1e6 / max(summary.seconds, 1e-9)
    click.echo(
        f"{summary.instance} ({summary.typename}) of version {summary.node}: {summary.box}, "
        f"{summary.scales} coarser scales; "
        f"{summary.posted_voxels / 1e6:.1f} MVoxel in {summary.seconds:.1f} s ({speed:.1f} MVoxel/s)"
        + (", verified" if check else "")
    )
