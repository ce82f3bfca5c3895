"""Slices to precomputed volumes with all scales: `fascicle convert` beside the programs that people use today.

    python bench/bench_convert.py [--size small|full|large] [--peers /elsewhere/bin/python] [--only labels,gray]

Labels are `data/pinky-512` of the folder named by FASCICLE_SHARED as deflated TIFF slices of uint32 (small: 512^3;
full: 1024 x 1024 x 512 and large: 2048 x 2048 x 1024 of tiles with labels of their own), gray values those of
`data/fib25-medulla-250`, mirrored to 512^3, as PNG slices. Without that folder both are generated. Chunks have 64^3
voxels; three coarser scales, all axes halved.

`--peers` names the Python of an environment of its own that has igneous-pipeline, cloud-volume, tifffile and
neuroglancer-scripts; what is not there is left out. TensorStore comes with our development packages. Every program runs
in processes of its own: wall time, CPU time of all of them with their start, and the peak of their memory together.
igneous has no reader for slices: its figures begin with an array in a file, and where a chain needs slices,
cloud-volume writes the finest scale.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import multiprocessing
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

CHUNK = 64
LEVELS = 3
SIZES = {"tiny": (1, 1, 1), "small": (1, 1, 1), "full": (2, 2, 1), "large": (4, 4, 2)}  # tiles x, y, z
LIMIT_S = 3600

TENSORSTORE = """
import sys, numpy as np, tensorstore as ts, tifffile
from pathlib import Path
files = sorted(Path(sys.argv[1]).glob("*.tif"))
height, width = tifffile.imread(files[0]).shape
scale = {"size": [width, height, len(files)], "resolution": [8, 8, 8], "chunk_size": [64] * 3,
         "encoding": "compressed_segmentation", "compressed_segmentation_block_size": [8, 8, 8]}
sharded = sys.argv[3] == "sharded"
if sharded:
    chunks = width * height * len(files) // 64**3
    scale["sharding"] = {"@type": "neuroglancer_uint64_sharded_v1", "preshift_bits": 9, "hash": "identity",
        "minishard_bits": 0, "shard_bits": max(0, (chunks - 1).bit_length() - 9), "minishard_index_encoding": "gzip",
        "data_encoding": "gzip"}
store = ts.open({"driver": "neuroglancer_precomputed", "kvstore": {"driver": "file", "path": sys.argv[2] + "/"},
    "multiscale_metadata": {"type": "segmentation", "data_type": "uint32", "num_channels": 1},
    "scale_metadata": scale}, create=True).result()
def slabs():
    for z in range(0, len(files), 64):
        yield z, np.stack([tifffile.imread(file) for file in files[z : z + 64]]).T
if sharded:
    with ts.Transaction() as transaction:
        for z, slab in slabs():
            store.with_transaction(transaction)[:, :, z : z + 64, 0] = slab
else:
    for z, slab in slabs():
        store[:, :, z : z + 64, 0].write(slab).result()
"""
CLOUDVOLUME = """
import sys, numpy as np, tifffile
from pathlib import Path
from cloudvolume import CloudVolume
files = sorted(Path(sys.argv[1]).glob("*.tif"))
height, width = tifffile.imread(files[0]).shape
info = CloudVolume.create_new_info(1, "segmentation", "uint32", "compressed_segmentation", [8, 8, 8], [0, 0, 0],
                                   [width, height, len(files)], chunk_size=[64] * 3)
volume = CloudVolume("file://" + sys.argv[2], info=info, progress=False)
volume.commit_info()
for z in range(0, len(files), 64):
    volume[:, :, z : z + 64] = np.stack([tifffile.imread(file) for file in files[z : z + 64]]).T
"""
STACKED = """
import sys, numpy as np
from pathlib import Path
from PIL import Image
files = sorted(Path(sys.argv[1]).glob("*.png"))
width, height = Image.open(files[0]).size
out = np.lib.format.open_memmap(sys.argv[2], "w+", np.uint8, (width, height, len(files)), fortran_order=True)
for z, file in enumerate(files):
    out[:, :, z] = np.asarray(Image.open(file)).T
out.flush()
"""


@dataclass
class Run:
    """What one command took; of several in a row the sums, and the highest peak."""

    wall_s: float = 0.0
    cpu_s: float = 0.0
    peak_mb: float = 0.0
    error: str = ""

    def then(self, other: Run) -> Run:
        return Run(self.wall_s + other.wall_s, self.cpu_s + other.cpu_s, max(self.peak_mb, other.peak_mb), other.error)


# -- measuring


def resident(root: int) -> int:
    """Resident bytes of a process and all its descendants."""
    parents: dict[int, int] = {}
    pages: dict[int, int] = {}
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            parents[int(entry)] = int(Path("/proc", entry, "stat").read_text().rsplit(")", 1)[1].split()[1])
            pages[int(entry)] = int(Path("/proc", entry, "statm").read_text().split()[1])
        except (OSError, IndexError):
            continue
    total, waiting = 0, [root]
    while waiting:
        process = waiting.pop()
        total += pages.get(process, 0)
        waiting += [child for child, parent in parents.items() if parent == process]
    return total * os.sysconf("SC_PAGESIZE")


def measured(command: list[str]) -> Run:
    """Run a command and see what it takes."""
    run = Run()
    with tempfile.TemporaryFile() as out:
        begin = time.perf_counter()
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, start_new_session=True)
        found, status, usage = 0, 0, None
        while not found:
            found, status, usage = os.wait4(process.pid, os.WNOHANG)
            if found:
                break
            run.peak_mb = max(run.peak_mb, resident(process.pid) / 1e6)
            if time.perf_counter() - begin > LIMIT_S:
                os.killpg(process.pid, signal.SIGKILL)
            time.sleep(0.03)
        run.wall_s = time.perf_counter() - begin
        assert usage is not None
        run.cpu_s = usage.ru_utime + usage.ru_stime
        run.peak_mb = max(run.peak_mb, usage.ru_maxrss * 1024 / 1e6)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            out.seek(0)
            run.error = " | ".join(out.read().decode(errors="replace").split("\n")[-4:])[-300:]
    return run


# -- data


def shared() -> Path | None:
    folder = Path(os.environ.get("FASCICLE_SHARED", Path(__file__).resolve().parents[2] / "shared"))
    return folder / "data" if (folder / "data").is_dir() else None


def tile_of_labels(side: int) -> NDArray[np.uint32]:
    """Labels [z, y, x]."""
    data = shared()
    if data is None:
        sys.path.insert(0, str(Path(__file__).resolve().parent))
        from bench_kernels import segmentation

        part = segmentation(side // 2).astype(np.uint32)
        return np.pad(part, [(0, side - n) for n in part.shape], mode="reflect")
    import crackle

    packed = (data / "pinky-512/connectomics.npy.ckl.gz").read_bytes()
    labels = crackle.decompress(gzip.decompress(packed)).reshape(512, 512, 512)
    return np.ascontiguousarray(labels.T.astype(np.uint32)[-side:, -side:, -side:])


def tile_of_gray(side: int) -> NDArray[np.uint8]:
    """Gray values [z, y, x]."""
    from PIL import Image

    data = shared()
    if data is None:
        rng = np.random.default_rng(1)
        smooth = np.kron(rng.integers(60, 200, (side // 8,) * 3), np.ones((8, 8, 8)))
        return np.clip(smooth + rng.normal(0, 12, smooth.shape), 0, 255).astype(np.uint8)
    files = sorted((data / "fib25-medulla-250/grayscale").glob("*.png"))
    gray = np.stack([np.asarray(Image.open(file)) for file in files])
    return np.pad(gray, [(0, max(0, 512 - n)) for n in gray.shape], mode="reflect")[:side, :side, :side]


def make_slices(work: Path, size: str) -> None:
    """TIFF and PNG slices, and an array for programs that want one, unless they are there."""
    import tifffile
    from PIL import Image

    side = 128 if size == "tiny" else 512
    nx, ny, nz = SIZES[size]
    if not (work / "ready").exists():
        shutil.rmtree(work, ignore_errors=True)
        (work / "labels").mkdir(parents=True)
        (work / "gray").mkdir()
        tile = tile_of_labels(side)
        for z in range(nz * side):
            plane = tile[z % side]
            rows = []
            for j in range(ny):
                number = np.uint32((z // side * ny + j) * nx)
                rows.append(np.hstack([np.where(plane > 0, plane + ((number + i) << 20), 0) for i in range(nx)]))
            whole = np.vstack(rows).astype(np.uint32)
            tifffile.imwrite(work / f"labels/{z:05}.tif", whole, compression="zlib")
        gray = tile_of_gray(side)
        for z, plane in enumerate(gray):
            Image.fromarray(plane).save(work / f"gray/{z:05}.png")
        np.save(work / "gray.npy", gray.T)  # x fastest, as those programs take arrays
        (work / "ready").touch()


# -- programs


def ours(*options: str) -> Callable[[Path, Path], list[list[str]]]:
    program = [sys.executable, "-c", "from fascicle.cli import main; main()", "convert"]
    fixed = ["--resolution", "8,8,8", "--scales", str(LEVELS), "--chunk", "64,64,64", "--quiet", "--overwrite"]
    return lambda source, target: [[*program, str(source), str(target), *fixed, *options]]


class Peers:
    """Commands of the programs in an environment of their own."""

    def __init__(self, python: str) -> None:
        self.python = python
        self.folder = Path(python).parent

    def cloudvolume(self, source: Path, target: Path) -> list[list[str]]:
        return [[self.python, "-c", CLOUDVOLUME, str(source), str(target)]]

    def downsample(self, target: Path, *more: str, compress: str = "gzip") -> list[str]:
        return [
            str(self.folder / "igneous"), "-p", "2", "image", "downsample", f"file://{target}", "--volumetric",
            "--num-mips", str(LEVELS), "--chunk-size", "64,64,64", "--compress", compress, *more,
        ]  # fmt: skip

    def labels(self, source: Path, target: Path) -> list[list[str]]:
        """Slices by cloud-volume, the pyramid by igneous: the fastest chain."""
        return [*self.cloudvolume(source, target), self.downsample(target)]

    def gray(self, source: Path, target: Path) -> list[list[str]]:
        create = [
            str(self.folder / "igneous"), "image", "create", str(source.with_name("gray.npy")), f"file://{target}",
            "--resolution", "8,8,8", "--encoding", "jpeg", "--chunk-size", "64,64,64", "--compress", "none",
        ]  # fmt: skip
        return [create, self.downsample(target, compress="none")]

    def gray_slices(self, source: Path, target: Path) -> list[list[str]]:
        array = str(source.with_name("gray.npy"))
        return [[self.python, "-c", STACKED, str(source), array], *self.gray(source, target)]

    def scripts(self, source: Path, target: Path, kind: str, method: str) -> list[list[str]]:
        """neuroglancer-scripts with its own pyramid."""
        files = sorted(source.iterdir())
        width, height = slice_size(files[0])
        info = source.with_name(f"{source.name}.info.json")
        encoding, dtype = ("compressed_segmentation", "uint32") if kind == "segmentation" else ("jpeg", "uint8")
        scale = {"size": [width, height, len(files)], "resolution": [8, 8, 8], "voxel_offset": [0, 0, 0]}
        scale |= {"chunk_sizes": [], "encoding": encoding, "key": ""}
        info.write_text(json.dumps({"type": kind, "data_type": dtype, "num_channels": 1, "scales": [scale]}))
        program = str(self.folder)
        return [
            [f"{program}/generate-scales-info", str(info), str(target), "--max-scales", str(LEVELS + 1)],
            [f"{program}/slices-to-precomputed", "--flat", str(source), str(target)],
            [f"{program}/compute-scales", "--flat", "--downscaling-method", method, str(target)],
        ]


def slice_size(path: Path) -> tuple[int, int]:
    from PIL import Image

    with Image.open(path) as picture:
        return picture.size


def tensorstore(kind: str) -> Callable[[Path, Path], list[list[str]]]:
    return lambda source, target: [[sys.executable, "-c", TENSORSTORE, str(source), str(target), kind]]


def rows_of(peers: Peers | None, slow: bool) -> list[tuple[str, str, str, Callable[[Path, Path], list[list[str]]]]]:
    """Group, whose work, which program, its commands. In each group the first row is ours, against which others go."""
    rows: list[tuple[str, str, str, Callable[[Path, Path], list[list[str]]]]] = [
        ("labels", "labels", "fascicle, unsharded", ours("--unsharded")),
        ("labels", "labels", "fascicle, unsharded, gzip", ours("--unsharded", "--gzip")),
        ("labels", "labels", "TensorStore, no pyramid, no gzip", tensorstore("unsharded")),
    ]
    if peers:
        rows.append(("labels", "labels", "cloud-volume, no pyramid", peers.cloudvolume))
        rows.append(("labels", "labels", "cloud-volume, then igneous", peers.labels))
        if slow:
            scripts = "neuroglancer-scripts, majority"
            rows.append(("labels", "labels", scripts, lambda a, b: peers.scripts(a, b, "segmentation", "majority")))
    rows += [
        ("sharded", "labels", "fascicle, sharded, --memory 256M", ours("--sharded", "--memory", "256M")),
        ("sharded", "labels", "fascicle, sharded, no pyramid", ours("--sharded", "--memory", "256M", "--scales", "0")),
        ("sharded", "labels", "TensorStore, one transaction, no pyramid", tensorstore("sharded")),
        ("gray", "gray", "fascicle, JPEG", ours("--encoding", "jpeg", "--unsharded")),
    ]
    if peers:
        rows.append(("gray", "gray", "slices by Pillow, then igneous, JPEG", peers.gray_slices))
        rows.append(("gray", "gray", "igneous from .npy without slices, JPEG", peers.gray))
        rows.append(
            ("gray", "gray", "neuroglancer-scripts, JPEG", lambda a, b: peers.scripts(a, b, "image", "average"))
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=tuple(SIZES), default="small")
    parser.add_argument("--peers", default="", help="Python of an environment with the programs of others")
    parser.add_argument("--only", default="", help="groups (labels, sharded, gray) or parts of the programs' names")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--slow", action="store_true", help="also neuroglancer-scripts on labels (minutes)")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir(), "bench-convert"))
    args = parser.parse_args()
    work = args.work.resolve() / args.size
    # elsewhere, since what is started from here counts our own peak as its first
    making = multiprocessing.get_context("spawn").Process(target=make_slices, args=(work, args.size))
    making.start()
    making.join()
    if making.exitcode:
        sys.exit(1)
    side = 128 if args.size == "tiny" else 512
    voxels = {"labels": math.prod(SIZES[args.size]) * side**3, "gray": side**3}
    first: dict[str, Run] = {}
    print(f"{'':44}{'wall s':>8}{'CPU s':>8}{'MVoxel/CPU s':>14}{'peak MB':>9}   ratio of CPU")
    wanted = [part for part in args.only.split(",") if part]
    for group, kind, name, commands in rows_of(Peers(args.peers) if args.peers else None, args.slow):
        if wanted and not any(part == group or part in name for part in wanted):
            continue
        runs = []
        for _ in range(args.runs):
            target = work / "out"
            for left in work.glob("out*"):
                shutil.rmtree(left) if left.is_dir() else left.unlink()
            total = Run()
            for command in commands(work / kind, target):
                if not total.error:
                    total = total.then(measured(command))
            runs.append(total)
            if total.error or sum(run.wall_s for run in runs) > 60:
                break
        wall, cpu = (statistics.median(getattr(run, what) for run in runs) for what in ("wall_s", "cpu_s"))
        best = Run(wall, cpu, max(run.peak_mb for run in runs), runs[-1].error)
        if best.error:
            print(f"{name:44}{best.error}", flush=True)
            continue
        first.setdefault(group, best)
        ratio = best.cpu_s / first[group].cpu_s
        rate = voxels[kind] / 1e6 / best.cpu_s
        print(f"{name:44}{wall:8.2f}{cpu:8.2f}{rate:14.1f}{best.peak_mb:9.0f}   {ratio:6.2f}x", flush=True)


if __name__ == "__main__":
    main()
