"""Labels at random points of a mirrored volume and of a version, beside TensorStore and, if it is there, cloud-volume.

    python bench/bench_lookup.py [--points 1000000] [--rounds 3] [--slices 512] [--generated] [--peers PYTHON]

The volume is `data/pinky-512` of the folder named by FASCICLE_SHARED, or a generated one, as uint32 in chunks of 64^3
of compressed segmentation that TensorStore writes, with and without shards; and the same labels in a store. Points are
uniform and random, in random order. Each program runs in a process of its own that has looked up a few points before;
files are in the page cache, nothing else is kept. Answers are compared. With csv, parquet or npy, reading the points
from such a table and writing it again with its labels are included. Thousands of points per second by wall and CPU
time, the best of the rounds; peak memory is that of the process. `--peers` names an interpreter that has cloud-volume,
which gets 100 times fewer points.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

FORMS = ("unsharded", "sharded")
OURS = ("ours", "ours, csv", "ours, parquet", "ours, npy")
FEWER = 100


def labels(slices: int, generated: bool) -> tuple[str, NDArray[np.uint32]]:
    """(what it is, labels u32[z,y,x])."""
    folder = Path(os.environ.get("FASCICLE_SHARED", Path(__file__).resolve().parents[2] / "shared"))
    stream = folder / "data/pinky-512/connectomics.npy.ckl.gz"
    if stream.exists() and not generated:
        import crackle

        volume = crackle.decompress(gzip.decompress(stream.read_bytes()))
        return "pinky-512", np.ascontiguousarray(volume.T[:slices])
    from fascicle.pipeline.sample_brain import make_brain

    return "generated", np.ascontiguousarray(make_brain(1, (256, 256, 256)).supervoxels_zyx).astype(np.uint32)


def prepare(root: Path, volume: NDArray[np.uint32], count: int) -> None:
    """Volumes, a store, points, and what is right."""
    from bench_volumes import write

    from fascicle.pipeline.ingest import IngestOptions, ingest
    from fascicle.pipeline.ingest_connections import LocalConnection
    from fascicle.volumes import open_volume

    for form in FORMS:
        write(root / form, volume, "compressed_segmentation", form == "sharded")
    rng = np.random.default_rng(0)
    points = np.stack([rng.integers(0, side, count) for side in volume.shape[::-1]], 1)
    np.save(root / "points.npy", points)
    import pyarrow as pa
    from pyarrow import csv, parquet

    table = pa.table(dict(zip("xyz", points.T, strict=True)))
    parquet.write_table(table, root / "points.parquet")
    csv.write_csv(table, root / "points.csv")
    np.save(root / "right.npy", volume[points[:, 2], points[:, 1], points[:, 0]])
    np.save(root / "volume.npy", volume)
    with LocalConnection(root / "db") as connection, open_volume(str(root / "volume.npy")) as source:
        options = IngestOptions(instance="labels", repo="r", scales=0)
        ingest(connection, source, options, root / "journal.jsonl", lambda *_: None)


# -- in processes of their own


def inside(program: str, root: Path, form: str, rounds: int) -> dict[str, Any]:
    points, right = np.load(root / "points.npy"), np.load(root / "right.npy")
    call: Callable[[NDArray[Any]], Any]
    if program == "cloud-volume":
        points, right = points[: len(points) // FEWER], right[: len(right) // FEWER]
        call = _cloudvolume(root / form)
    elif program == "TensorStore":
        call = _tensorstore(root / form)
    elif program == "ours":
        call = _ours(root, form)
    else:
        kind = program.partition(", ")[2]
        call = _table(root, form, kind)
    call(points[:100])
    wall = cpu = float("inf")
    for _ in range(rounds):
        began, worked = time.perf_counter(), time.process_time()
        found = call(points)
        wall, cpu = min(wall, time.perf_counter() - began), min(cpu, time.process_time() - worked)
    peak = _peak_mb()
    found = np.asarray(found() if callable(found) else found).reshape(-1)
    return {
        "right": bool((found == right).all()), "wall": len(points) / wall, "cpu": len(points) / cpu,
        "peak_mb": peak,
    }  # fmt: skip


def _peak_mb() -> int:
    status = Path("/proc/self/status")
    if status.exists():  # what getrusage says includes the process that this one was forked from
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) >> 10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


def _ours(root: Path, form: str) -> Callable[[NDArray[Any]], Any]:
    from fascicle.pipeline.lookup import labels_at
    from fascicle.pipeline.sources import SourceSpec

    if form == "store":
        spec = SourceSpec(data=str(root / "db"), repo="r", instance="labels")
    else:
        spec = SourceSpec(address=str(root / form))
    return lambda points: labels_at(spec, points)


def _table(root: Path, form: str, kind: str) -> Callable[[NDArray[Any]], Any]:
    from fascicle.pipeline.lookup import lookup
    from fascicle.pipeline.sources import SourceSpec

    out = root / f"out.{kind}"

    def call(points: NDArray[Any]) -> Any:
        lookup(SourceSpec(address=str(root / form)), str(root / f"points.{kind}"), str(out))
        return written

    def written() -> Any:
        if kind == "npy":
            return np.load(out)["label"]
        if kind == "parquet":
            import pyarrow.parquet

            return pyarrow.parquet.read_table(out).column("label").to_numpy()
        from pyarrow import csv

        return csv.read_csv(out).column("label").to_numpy()

    return call


def _tensorstore(folder: Path) -> Callable[[NDArray[Any]], Any]:
    import tensorstore

    spec = {"driver": "neuroglancer_precomputed", "kvstore": f"file://{folder}/"}

    def call(points: NDArray[Any]) -> Any:
        store = tensorstore.open(spec).result()[..., 0]
        x, y, z = points.T
        return store[x, y, z].read().result()

    return call


def _cloudvolume(folder: Path) -> Callable[[NDArray[Any]], Any]:
    from cloudvolume import CloudVolume

    volume = CloudVolume(f"file://{folder}", fill_missing=True, progress=False)

    def call(points: NDArray[Any]) -> Any:
        wanted = list(map(tuple, points.tolist()))
        found = volume.scattered_points(wanted)
        return np.array([found[point] for point in wanted])

    return call


def measured(python: str, program: str, root: Path, form: str, rounds: int) -> dict[str, Any]:
    command = [python, __file__, "--inside", program, "--root", str(root), "--form", form, "--rounds", str(rounds)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{program}, {form}: {done.stderr.strip().splitlines()[-1]}")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    if not found["right"]:
        raise SystemExit(f"{program}, {form}: answers are wrong")
    return found


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--points", type=int, default=1_000_000)
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--slices", type=int, default=512)
    arguments.add_argument("--generated", action="store_true")
    arguments.add_argument("--peers", default="")
    arguments.add_argument("--inside", default="", help=argparse.SUPPRESS)
    arguments.add_argument("--root", type=Path, help=argparse.SUPPRESS)
    arguments.add_argument("--form", default="", help=argparse.SUPPRESS)
    options = arguments.parse_args()
    if options.inside:
        print(json.dumps(inside(options.inside, options.root, options.form, options.rounds)))
        return
    sys.path.insert(0, str(Path(__file__).resolve().parent))
    name, volume = labels(options.slices, options.generated)
    print(f"{name}: {volume.shape[::-1]} voxels, {options.points} points\n")
    heads = f"{'wall':>8s} {'CPU':>8s} {'x wall':>7s} {'x CPU':>7s} {'peak MB':>8s}"
    print(f"{'thousands of points per second':34s} {heads}")
    with tempfile.TemporaryDirectory(prefix="bench-lookup-") as temporary:
        root = Path(temporary)
        prepare(root, volume, options.points)
        del volume
        for form in (*FORMS, "store"):
            volumes = "unsharded" if form == "store" else form
            theirs = measured(sys.executable, "TensorStore", root, volumes, options.rounds)
            rows = [("TensorStore", theirs)]
            for program in OURS if form != "store" else OURS[:1]:
                rows.append((program, measured(sys.executable, program, root, form, options.rounds)))
            if options.peers and form != "store":
                rows.append(("cloud-volume", measured(options.peers, "cloud-volume", root, form, 1)))
            for program, found in rows:
                ratios = f"{found['wall'] / theirs['wall']:6.2f}x {found['cpu'] / theirs['cpu']:6.2f}x"
                rates = f"{found['wall'] / 1e3:8.1f} {found['cpu'] / 1e3:8.1f}"
                print(f"{program + ', ' + form:34s} {rates} {ratios} {found['peak_mb']:8d}", flush=True)


if __name__ == "__main__":
    main()
