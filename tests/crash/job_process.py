"""A process that has loaded everything, and runs each job in a child of its own that can be killed with all of its own.

`python -m job_process` reads lines of JSON: `{"job": name, "folder": path}`; it answers with the number of the child,
and with its exit status when it has ended. So a killed job costs no start.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np

from fascicle.datatypes.labelmap import block_writes
from fascicle.pipeline.export import ExportOptions, export
from fascicle.pipeline.ingest import IngestOptions
from fascicle.pipeline.ingest import ingest as run_ingest
from fascicle.pipeline.ingest_connections import LocalConnection
from fascicle.pipeline.sources import SourceSpec
from fascicle.volumes import open_volume

GRID = (9, 12, 17)
CUBE = 12
BODIES = 14


def make_sources(folder: Path) -> None:
    """Labels in a file, and a committed version of a store."""
    rng = np.random.default_rng(5)
    at = np.stack(np.indices(GRID), axis=-1)
    seeds = rng.integers(0, GRID, (BODIES, 3))
    nearest = ((at[..., None, :] - seeds) ** 2).sum(axis=-1).argmin(axis=-1)
    labels = np.kron(nearest, np.ones((CUBE,) * 3, np.int64)).astype(np.uint32)  # body 0 is background
    np.save(folder / "labels.npy", labels)
    with LocalConnection(folder / "db") as connection, open_volume(str(folder / "labels.npy")) as source:
        chosen = IngestOptions(instance="segmentation", repo="r", resolution_nm=(8, 8, 8), offset_xyz=(0, 64, 0))
        root = run_ingest(connection, source, chosen, folder / "made.jsonl", lambda *_: None).node
        connection.json("POST", f"/api/node/{root}/commit", {"note": "all"})
    options = ExportOptions(workers=1, shard_voxels=128**3, verify=False)
    export(SourceSpec(data=str(folder / "db"), repo="r"), str(folder / "static"), options)


def ingest(sources: Path, out: Path) -> None:
    """Labels into a store."""
    out.mkdir(exist_ok=True)
    with LocalConnection(out / "db") as connection, open_volume(str(sources / "labels.npy")) as source:
        options = IngestOptions(instance="segmentation", repo="r", memory_bytes=40 << 20)
        run_ingest(connection, source, options, out / "journal", lambda *_: None)


def export_shards(sources: Path, out: Path) -> None:
    """A version as shards, in this process."""
    options = ExportOptions(workers=1, shard_voxels=128**3)
    export(SourceSpec(data=str(sources / "db"), repo="r"), str(out / "volumes"), options)


def export_files(sources: Path, out: Path) -> None:
    """A version as single chunks."""
    options = ExportOptions(workers=1, sharded=False, gzip=True)
    export(SourceSpec(data=str(sources / "db"), repo="r"), str(out / "volumes"), options)


def convert_labels(sources: Path, out: Path) -> None:
    """A file straight to shards."""
    from fascicle.pipeline.convert import ConvertOptions, convert
    from fascicle.pipeline.scales import ScaleOptions

    options = ConvertOptions(
        kind="segmentation", scales=ScaleOptions(shard_voxels=128**3), memory_bytes=64 << 20, workers=1
    )
    convert(SourceSpec(address=str(sources / "labels.npy")), str(out / "volume"), options)


def mesh_bodies(sources: Path, out: Path) -> None:
    """Meshes of a version, in two levels of detail."""
    from fascicle.pipeline.mesh import MeshOptions, mesh

    spec = SourceSpec(data=str(sources / "db"), repo="r", instance="segmentation")
    mesh(spec, str(out / "mesh"), MeshOptions(workers=1, block_xyz=(64, 64, 64), error_nm=16, sharded=True))


def skeletonize_bodies(sources: Path, out: Path) -> None:
    """Skeletons of a version."""
    from fascicle.pipeline.skeletonize import SkeletonizeOptions, skeletonize

    spec = SourceSpec(data=str(sources / "db"), repo="r", instance="segmentation")
    options = SkeletonizeOptions(workers=1, block_xyz=(64, 64, 64), sharded=True)
    skeletonize(spec, str(out / "skeletons"), options)


def mirror_volume(sources: Path, out: Path) -> None:
    """A copy of a static volume."""
    from fascicle.pipeline.mirror import mirror

    mirror(str(sources / "static/segmentation"), str(out / "volume"))


JOBS: dict[str, Callable[[Path, Path], None]] = {
    "ingest": ingest,
    "export_shards": export_shards,
    "export_files": export_files,
    "convert": convert_labels,
    "mesh": mesh_bodies,
    "skeletonize": skeletonize_bodies,
    "mirror": mirror_volume,
}


def run(name: str, sources: Path, out: Path) -> int:
    """The exit status of a job that ran in this process."""
    out.mkdir(parents=True, exist_ok=True)
    try:
        JOBS[name](sources, out)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def main() -> None:
    sources = Path(sys.argv[1])
    warnings.simplefilter("ignore")
    for line in sys.stdin:
        asked = json.loads(line)
        out = Path(asked["out"])
        if asked.get("here"):
            # the first run of a job loads its kernels for all that follow
            print(run(asked["job"], sources, out), flush=True)
            continue
        child = os.fork()
        if not child:
            os.setsid()
            block_writes._pool.cache_clear()  # its threads have stayed behind
            status = run(asked["job"], sources, out)
            sys.stderr.flush()
            os._exit(status)
        print(child, flush=True)
        _, status = os.waitpid(child, 0)
        print(status, flush=True)


if __name__ == "__main__":
    make_sources(Path(sys.argv[1]))
    print("ready", flush=True)
    main()
