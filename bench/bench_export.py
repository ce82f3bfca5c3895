"""Sharded writing beside TensorStore: a version exported from a store, and a dense array written as shards.

    python bench/bench_export.py VOLUME [--tiles 1,1] [--rounds 3] [--folder DIR]

VOLUME is a segmentation that `fascicle ingest` reads, for example pinky-512's connectomics.npy.ckl.gz. `--tiles 2,2`
puts copies with labels of their own side by side. All of them write 64^3 chunks of compressed segmentation, gzipped, in
shards of 512^3 voxels, each in a process of its own: CPU seconds and peak memory include starting it, and peaks also
what is mapped of the input. What they write is read back by TensorStore and compared. TensorStore and the array write
the finest scale only, an export all scales.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

CHUNK = 64
KEY = "8_8_8"


def with_tensorstore(array: str, out: str) -> None:
    """The usual way: one transaction for each shard, so that no shard is written twice."""
    import tensorstore as ts

    voxels = np.load(array, mmap_mode="r")
    store = ts.open(_spec(out, voxels.shape)).result()
    for z, y, x in _boxes(voxels.shape, 512):
        with ts.Transaction() as transaction:
            box = voxels[z : z + 512, y : y + 512, x : x + 512]
            part = store.with_transaction(transaction)
            depth, height, width = box.shape
            part[x : x + width, y : y + height, z : z + depth, 0] = box.transpose(2, 1, 0)


def with_one_transaction(array: str, out: str) -> None:
    """One transaction for everything."""
    import tensorstore as ts

    voxels = np.load(array, mmap_mode="r")
    store = ts.open(_spec(out, voxels.shape)).result()
    with ts.Transaction() as transaction:
        store.with_transaction(transaction)[..., 0] = voxels.transpose(2, 1, 0)


def _spec(out: str, shape_zyx: tuple[int, ...]) -> dict[str, Any]:
    return {
        "driver": "neuroglancer_precomputed",
        "kvstore": f"file://{out}/",
        "multiscale_metadata": {"type": "segmentation", "data_type": "uint64", "num_channels": 1},
        "scale_metadata": {
            "key": KEY, "size": list(shape_zyx[::-1]), "resolution": [8, 8, 8], "voxel_offset": [0, 0, 0],
            "chunk_size": [CHUNK] * 3, "encoding": "compressed_segmentation",
            "compressed_segmentation_block_size": [8, 8, 8], "sharding": _sharding(shape_zyx),
        },
        "create": True, "delete_existing": True,
    }  # fmt: skip


def _sharding(shape_zyx: tuple[int, ...]) -> Any:
    import msgspec

    from fascicle.formats.sharding import sharding_for_volume

    found = sharding_for_volume(shape_zyx[::-1], (CHUNK,) * 3, "compressed_segmentation")
    return msgspec.to_builtins(found)


def _boxes(shape: tuple[int, ...], edge: int) -> Iterator[tuple[int, int, int]]:
    z, y, x = (range(0, side, edge) for side in shape)
    yield from ((a, b, c) for a in z for b in y for c in x)


def with_shard_files(array: str, out: str) -> None:
    """Fascicle's parts on an array: chunks encoded one by one, in the order of their keys."""
    from fascicle.formats import precomputed_info, volume_chunks
    from fascicle.formats.precomputed_info import Scale, VolumeInfo
    from fascicle.formats.sharding import packed, read_sharding
    from fascicle.pipeline.export_volumes import _groups, cells_of
    from fascicle.volumes.destinations import open_destination
    from fascicle.volumes.shard_writing import ShardFiles

    voxels = np.load(array, mmap_mode="r")
    scale = Scale(
        key=KEY, size=voxels.shape[::-1], resolution=(8, 8, 8), chunk_sizes=((CHUNK,) * 3,),
        encoding="compressed_segmentation", compressed_segmentation_block_size=(8, 8, 8),
        sharding=read_sharding(_sharding(voxels.shape)),
    )  # fmt: skip
    assert scale.sharding is not None
    destination = open_destination(out, durable=False)
    files = ShardFiles(destination, KEY, scale.sharding, Path(out) / "scratch")

    def entries(shard: int) -> Iterator[tuple[int, bytes, bool]]:
        for key, cell in cells_of(scale, shard):
            (x0, y0, z0), (x1, y1, z1) = scale.chunk_span(cell)
            chunk = np.ascontiguousarray(voxels[z0:z1, y0:y1, x0:x1])
            data = volume_chunks.encode(chunk[None], scale.encoding)
            yield key, packed(data, "gzip"), True

    for shard in _groups(scale)[0]:
        files.write(shard, entries(shard))
    info = VolumeInfo(type="segmentation", data_type="uint64", scales=(scale,))
    destination.put("info", precomputed_info.encode(info))


def with_export(store: str, out: str, workers: str) -> None:
    """`fascicle export`."""
    from fascicle.pipeline.export import ExportOptions, export
    from fascicle.pipeline.sources import SourceSpec

    options = ExportOptions(workers=int(workers), verify=False)
    export(SourceSpec(data=store, repo="bench"), out, options)


def measured(work: Any, *arguments: str) -> tuple[float, float, float]:
    """Wall and CPU seconds, and the sum of the peaks in MB, of a process and those that it starts."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.perf_counter()
    context = multiprocessing.get_context("spawn")
    reports = context.Queue()
    process = context.Process(target=_measure, args=(work, arguments, reports))
    process.start()
    peak = reports.get(timeout=3600)
    process.join()
    wall = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if process.exitcode:
        raise SystemExit(f"{work.__name__} failed")
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, peak


def _measure(work: Any, arguments: tuple[str, ...], reports: Any) -> None:
    peaks: dict[int, float] = {}
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.1):
            for process in multiprocessing.active_children():
                peaks[process.pid or 0] = _peak_mb(process.pid or 0)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        work(*arguments)
    finally:
        ended.set()
        watcher.join()
        reports.put(_peak_mb(os.getpid()) + sum(peaks.values()))


def _peak_mb(pid: int) -> float:
    """What a process has had in memory at most, the shared pages of an open store included."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return max((int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("VmHWM")), default=0.0)


def prepared(volume: str, tiles: tuple[int, int], folder: Path) -> tuple[Path, Path]:
    """The labels as u64 in a file, and a committed version of a store."""
    from fascicle.pipeline.ingest import IngestOptions, ingest
    from fascicle.pipeline.ingest_connections import LocalConnection
    from fascicle.volumes import open_volume

    array, store = folder / "labels.npy", folder / "db"
    if not array.exists():
        with open_volume(volume) as source:
            labels = source.read((0, 0, 0), source.shape_zyx).astype(np.uint64)
        z, y, x = labels.shape
        down, across = tiles
        out = np.lib.format.open_memmap(array, "w+", np.uint64, (z, y * down, x * across))
        step = labels.max() + np.uint64(1)
        for row in range(down):
            for column in range(across):
                part = np.where(labels == 0, 0, labels + step * np.uint64(row * across + column))
                out[:, row * y : (row + 1) * y, column * x : (column + 1) * x] = part
        out.flush()
        del out
    if not (folder / "stored").exists():  # an ingest that was stopped goes on
        with LocalConnection(store) as connection, open_volume(str(array)) as source:
            options = IngestOptions(instance="segmentation", repo="bench", resolution_nm=(8, 8, 8))
            done = ingest(connection, source, options, folder / "journal", lambda *_: None)
            root = done.node.split(":")[0]
            connection.json("POST", f"/api/node/{root}/commit", {"note": "all"})
        (folder / "stored").touch()
    return array, store


def check(out: Path, array: Path) -> None:
    """TensorStore reads what was written."""
    import tensorstore as ts

    folder = out / "segmentation" if (out / "segmentation").exists() else out
    found = ts.open({"driver": "neuroglancer_precomputed", "kvstore": f"file://{folder}/"}, read=True).result()
    voxels = np.load(array, mmap_mode="r")
    for z in range(0, voxels.shape[0], 64):
        if not np.array_equal(np.asarray(found[..., z : z + 64, 0].read().result()).T, voxels[z : z + 64]):
            raise SystemExit(f"{out} differs from {array}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("volume")
    parser.add_argument("--tiles", default="1,1", help="copies along y and x")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", help="keep the array and the store here")
    options = parser.parse_args()
    down, across = (int(part) for part in options.tiles.split(","))
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(options.folder or temporary)
        folder.mkdir(exist_ok=True)
        array, store = prepared(options.volume, (down, across), folder)
        size = int(np.prod(np.load(array, mmap_mode="r").shape))
        works: list[tuple[str, Any, tuple[str, ...], float]] = [
            ("TensorStore, a transaction a shard", with_tensorstore, (str(array),), 1),
            ("TensorStore, one transaction", with_one_transaction, (str(array),), 1),
            ("Fascicle, array to shards", with_shard_files, (str(array),), 1),
            ("fascicle export, 1 process", with_export, (str(store),), 1),
            ("fascicle export, 2 workers", with_export, (str(store),), 1),
        ]
        rows: dict[str, list[tuple[float, float, float]]] = {name: [] for name, *_ in works}
        for round_number in range(options.rounds):
            for name, work, arguments, _ in works:
                out = Path(temporary) / "out"
                shutil.rmtree(out, ignore_errors=True)
                extra = (name.split(", ")[1][0],) if work is with_export else ()
                rows[name].append(measured(work, *arguments[:1], str(out), *extra))
                if round_number == 0:
                    check(out, array)
        print(f"{size / 1e6:.0f} MVoxel, {os.cpu_count()} processors, median of {options.rounds}")
        print(f"{'':38}{'wall s':>9}{'CPU s':>9}{'MVoxel/CPU s':>14}{'peak MB':>10}{'ratio CPU':>11}{'wall':>7}")
        first = [statistics.median(column) for column in zip(*rows[works[0][0]], strict=True)]
        for name, *_ in works:
            wall, cpu, peak = (statistics.median(column) for column in zip(*rows[name], strict=True))
            print(
                f"{name:38}{wall:9.2f}{cpu:9.2f}{size / 1e6 / cpu:14.1f}{peak:10.0f}"
                f"{first[1] / cpu:11.2f}{first[0] / wall:7.2f}"
            )


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    main()
