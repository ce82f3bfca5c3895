"""The commands as functions: what they read, where they write, their options by name; small results come back.

A source is an address (`"stack/*.png"`, `"gs://bucket/volume"`), what `source` makes of an instance at a version, or a
volume of an open version (`version["segmentation"]`). Options are those of the command, under the names of the option
class that each function mentions; a wrong name is a TypeError, a wrong value a FascicleError that says what would be
right.

`progress` is called with a stage, how much of it is done, and how much there is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from numpy.typing import ArrayLike, NDArray

from fascicle.client.volumes import LabelArray, VolumeArray
from fascicle.errors import BadRequest
from fascicle.pipeline.sources import SourceSpec

if TYPE_CHECKING:
    from fascicle.client.version import Version
    from fascicle.pipeline.convert import ConvertResult
    from fascicle.pipeline.export import ExportResult
    from fascicle.pipeline.ingest import IngestSummary
    from fascicle.pipeline.lookup import LookupResult
    from fascicle.pipeline.mesh import MeshResult
    from fascicle.pipeline.mirror import MirrorResult
    from fascicle.pipeline.object_names import FixedNames
    from fascicle.pipeline.shot import ShotResult
    from fascicle.pipeline.skeletonize import SkeletonizeResult
    from fascicle.pipeline.view import ViewResult

Source = str | Sequence[str] | SourceSpec | VolumeArray
"""Several names are the image files of a stack."""
Progress = Callable[[str, int, int], None]


def _silent(stage: str, done: int, total: int) -> None:
    """Progress that nobody looks at."""


def source(
    address: str,
    *,
    repo: str = "",
    version: str = "",
    instance: str = "",
    supervoxels: bool = False,
    dataset: str = "",
    channel: int | None = None,
) -> SourceSpec:
    """Name a source: a volume at an address, or an instance at a version of a server or of a store folder.

    `address`      as `fascicle convert` takes it; with `repo` or `version` the URL of a server, or a store folder
    `repo`         alias of the repo; `version` its UUID, branch or tag, by default the newest of master
    `instance`     data instance; with `supervoxels` those instead of bodies
    `dataset`      array of a file or folder that has several; `channel` of one that has several

    >>> source("db", repo="medulla", instance="segmentation").data
    'db'
    """
    if not repo and not version:
        if instance or supervoxels:
            raise BadRequest("an instance needs the repo or the version that has it")
        return SourceSpec(address=address, dataset=dataset, channel=channel)
    if dataset or channel is not None:
        raise BadRequest("dataset and channel are of files and folders, not of instances")
    spec = SourceSpec(repo=repo, version=version, instance=instance, supervoxels=supervoxels)
    return _at(address, spec)


def _at(place: str, spec: SourceSpec) -> SourceSpec:
    """A source on a server, or in a store folder."""
    return replace(spec, server=place) if "://" in place else replace(spec, data=place)


def spec_of(source: Source) -> SourceSpec:
    """The source that something names."""
    if isinstance(source, SourceSpec):
        return source
    if isinstance(source, VolumeArray):
        shown = isinstance(source, LabelArray) and source.shows_supervoxels
        spec = SourceSpec(version=source.uuid, instance=source.name, supervoxels=shown)
        return _at(source.place.address, spec)
    if isinstance(source, str):
        return SourceSpec(address=source)
    first, *more = [str(name) for name in source] or [""]
    return SourceSpec(address=first, more=tuple(more))


def _taken(options: dict[str, Any], kind: type[Any], **renamed: str) -> Any:
    """An option class from those options that are its fields, which are taken out."""
    names = {field.name: field.name for field in fields(kind)} | renamed
    return kind(**{name: options.pop(given) for name, given in names.items() if given in options})


def ingest(
    source: str | Sequence[str],
    *,
    instance: str,
    data: str = "",
    server: str = "",
    token: str = "",
    dataset: str | None = None,
    source_scale: int = 0,
    channel: int | None = None,
    journal: str | Path | None = None,
    progress: Progress = _silent,
    **options: Any,
) -> IngestSummary:
    """Bring a volume (files, a folder, an address) into `instance` of a store folder (`data`) or a server.

    Options of `IngestOptions`: `repo` or `uuid`, `typename`, `mapping`, `resolution_nm` and `offset_xyz` (x, y, z),
    `block_size`, `compression`, `scales`, `memory_bytes`. Goes on where an interrupted call stopped.

    >>> fascicle.ingest("stack/*.png", instance="grayscale", data="db", repo="medulla",
    ...                 resolution_nm=(8, 8, 8)).scales                       # doctest: +SKIP
    3
    """
    from contextlib import ExitStack

    from fascicle.pipeline.ingest import IngestOptions, journal_name
    from fascicle.pipeline.ingest import ingest as run
    from fascicle.pipeline.ingest_connections import LocalConnection, ServerConnection
    from fascicle.volumes import open_volume

    if bool(data) == bool(server):
        raise BadRequest("name either a store folder (data=) or a server (server=)")
    names = (source,) if isinstance(source, str) else tuple(source)
    wanted = IngestOptions(instance=instance, **options)
    folder = Path(data) / "ingest" if data else Path()
    with ExitStack() as stack:
        volume = stack.enter_context(open_volume(names, dataset, source_scale, channel))
        connection = ServerConnection(server, token) if server else LocalConnection(Path(data))
        stack.enter_context(connection)
        folder.mkdir(exist_ok=True)
        path = Path(journal) if journal else folder / journal_name(names, server, wanted)
        return run(connection, volume, wanted, path, progress)


def convert(
    source: Source, destination: str | Path, *, progress: Progress | None = None, **options: Any
) -> ConvertResult:
    """Write any volume as a static precomputed one, with all its scales, in bounded memory.

    Options of `ConvertOptions` (`kind`, `source_scale`, `scaling`, `gzip`, `memory_bytes`, `workers`, `verify`,
    `overwrite`, ...), of `Adaptation` (`axes`, `resolution_nm` and `offset_xyz` (x, y, z), `dtype`, `remap`), and of
    `ScaleOptions` (`encoding`, `chunk`, `scales`, `sharded`, `quality`, ...), all side by side.

    >>> fascicle.convert("slices/*.tif", "out", kind="segmentation", resolution_nm=(4, 4, 40)).chunks  # doctest: +SKIP
    1873
    """
    from fascicle.pipeline.convert import ConvertOptions
    from fascicle.pipeline.convert import convert as run
    from fascicle.pipeline.scales import ScaleOptions
    from fascicle.volumes.adapted import Adaptation

    adaptation, scales = _taken(options, Adaptation), _taken(options, ScaleOptions)
    wanted = ConvertOptions(adaptation=adaptation, scales=scales, **options)
    return run(spec_of(source), str(destination), wanted, progress)


def mirror(source: str, destination: str | Path, *, progress: Progress | None = None, **options: Any) -> MirrorResult:
    """Copy a precomputed volume or a part of it, and what belongs to it, from an address to another one.

    Options of `MirrorOptions`: `scales` (indices), `box` and `unit`, `meshes`, `skeletons`, `properties`, `bodies`,
    `also`, `layout`, `gzip`, `workers`, `rate` (bytes per second), `verify`, `again`, `journal`.

    >>> fascicle.mirror("gs://bucket/em", "ssd/em", scales=(2,)).size_bytes       # doctest: +SKIP
    48103422
    """
    from fascicle.pipeline.mirror import MirrorOptions
    from fascicle.pipeline.mirror import mirror as run

    return run(str(source), str(destination), MirrorOptions(**options), progress)


def mesh(
    source: Source, destination: str | Path = "", *, progress: Progress | None = None, **options: Any
) -> MeshResult:
    """Make the meshes of all bodies of a segmentation, or of some: closed surfaces, joined across blocks, simplified.

    Options of `MeshOptions`: `format` (`multires`, `legacy`, `ngmesh`), `keys`, `blobs`, `scale` (of the volume),
    `error_nm`, `dust` (voxels), `lods`, `bodies`, `since`, `sharded`, `workers`, `memory_bytes`, ...

    >>> fascicle.mesh("out", "out/mesh", error_nm=16).triangles        # doctest: +SKIP
    120844
    """
    from fascicle.pipeline.mesh import MeshOptions
    from fascicle.pipeline.mesh import mesh as run

    return run(spec_of(source), str(destination), MeshOptions(**options), progress)


def skeletonize(
    source: Source, destination: str | Path = "", *, progress: Progress | None = None, **options: Any
) -> SkeletonizeResult:
    """Make the skeletons of all bodies of a segmentation, or of some, joined across blocks.

    Options of `SkeletonizeOptions`: `format` (`precomputed`, `swc`, `archive`), `keys`, `scale` (of the volume),
    `bodies`, `since`, `sharded`, `in_nm`, `workers`, `memory_bytes`, ...; and how centrelines are found:
    `scale_factor`, `constant_nm`, `dust` (voxels), `soma_nm`, `detail_nm`.

    >>> fascicle.skeletonize("out", "out/skeletons", dust=500).skeletons       # doctest: +SKIP
    214
    """
    from fascicle.pipeline.skeletonize import SkeletonizeOptions
    from fascicle.pipeline.skeletonize import skeletonize as run
    from fascicle.precomputed.centrelines import Teasar

    parameters = _taken(options, Teasar, scale="scale_factor")
    return run(spec_of(source), str(destination), SkeletonizeOptions(parameters=parameters, **options), progress)


def export(
    source: Source | Version, destination: str, *, progress: Progress | None = None, **options: Any
) -> ExportResult:
    """Write a version as static precomputed volumes to a folder or bucket, sharded and verified.

    Options of `ExportOptions`: `instances` (all volumes by default), `supervoxels`, `encoding`, `sharded`, `gzip`,
    `meshes`, `skeletons`, `annotations`, `properties` (what there is by default), `workers`, `scheduler`,
    `memory_bytes`, `journal`, `since`, `verify`, `provenance`, `shard_voxels`.

    >>> fascicle.export(fascicle.source("db", repo="medulla"), "s3://bucket/medulla").volumes     # doctest: +SKIP
    ('grayscale', 'segmentation')
    """
    from fascicle.client.version import Version
    from fascicle.pipeline.export import ExportOptions
    from fascicle.pipeline.export import export as run

    if isinstance(source, Version):
        spec = _at(source.place.address, SourceSpec(repo=source.root, version=source.uuid))
    else:
        spec = spec_of(source)
    return run(spec, destination, ExportOptions(**options), progress)


def lookup(
    source: Source,
    points_xyz: ArrayLike,
    *,
    unit: Literal["voxels", "nm"] = "voxels",
    scale: int = 0,
    progress: Progress | None = None,
) -> NDArray[Any]:
    """The labels [n] at points [n, 3] of x, y, z, each chunk fetched once: u64, or the volume's type if that is signed.

    Points are voxels of the finest scale with the volume's offset, or nanometres, rounded down; `scale` is the one that
    is read. Outside of the volume the label is 0.

    >>> fascicle.lookup("mirror/segmentation", [[1000, 2000, 300]])        # doctest: +SKIP
    array([5813031], dtype=uint64)
    """
    from fascicle.pipeline.lookup import labels_at

    return labels_at(spec_of(source), points_xyz, unit=unit, scale=scale, progress=progress)


def lookup_table(
    source: Source, points: str | Path, destination: str | Path, *, progress: Progress | None = None, **options: Any
) -> LookupResult:
    """Read a table of points (CSV, Parquet, npy) and write it again with a column of labels.

    Options of `LookupOptions`: `columns` (names of x, y and z), `unit`, `scale`, `label_column`.

    >>> fascicle.lookup_table("mirror/segmentation", "synapses.csv", "out.csv").background        # doctest: +SKIP
    3
    """
    from fascicle.pipeline.lookup import LookupOptions
    from fascicle.pipeline.lookup import lookup as run

    return run(spec_of(source), str(points), str(destination), LookupOptions(**options), progress)


def view(*sources: Source, **options: Any) -> ViewResult:
    """A link to Neuroglancer that shows sources, one layer each, later ones over earlier ones.

    Options of `ViewOptions`: `position_xyz` (voxels), `scale` (voxels per pixel), `layout`, `segments`, `value_range`,
    `title`, `viewer` (URL of its page). Folders on this machine need a server: `hosted` is a pair of a folder and the
    URL under which it is served (`fascicle host` does).

    >>> fascicle.view("gs://bucket/em", "gs://bucket/bodies", segments=(17,)).url                 # doctest: +SKIP
    >>> fascicle.view("out/em", hosted=("out", "http://localhost:8080")).state["layout"]          # doctest: +SKIP
    '4panel'
    """
    from urllib.parse import quote

    from fascicle.pipeline.view import ViewOptions
    from fascicle.pipeline.view import view as run

    hosted = options.pop("hosted", None)

    def published(folder: str) -> str:
        root, base = hosted
        try:
            below = Path(folder).expanduser().resolve().relative_to(Path(root).expanduser().resolve())
        except ValueError:
            raise BadRequest(f"{folder} is not in {root}, which is what {base} serves") from None
        return f"{base.rstrip('/')}/{quote(below.as_posix())}"

    specs = [spec_of(each) for each in sources]
    return run(specs, ViewOptions(**options), published if hosted else None)


def shot(*sources: Source, path: str | Path, **options: Any) -> ShotResult:
    """Write a PNG file: a section through sources, labels over images, or bodies in three dimensions.

    Options of `ShotOptions`: `plane` (`xy`, `xz`, `yz`, `3d`), `position_xyz` (voxels), `scale` (voxels per pixel),
    `width`, `height`, `segments`, `value_range`, `alpha`, `renderer`.

    >>> fascicle.shot(version["grayscale"], version["segmentation"], path="a.png", plane="xz")    # doctest: +SKIP
    ShotResult(path='a.png', width=1024, height=1024, renderer='voxels')
    """
    from fascicle.pipeline.shot import ShotOptions
    from fascicle.pipeline.shot import shot as run

    return run([spec_of(each) for each in sources], str(path), ShotOptions(**options))


def fix_names(address: str, *, dry_run: bool = False) -> FixedNames:
    """Give files of a folder or bucket the names that the precomputed format has for them.

    >>> fascicle.fix_names("out", dry_run=True).renamed       # doctest: +SKIP
    (('8_8_8/0-64_0-64_0-64.gz', '8_8_8/0-64_0-64_0-64'),)
    """
    from fascicle.pipeline.object_names import fix_names as run

    return run(address, dry_run=dry_run)
