"""Meshes of real neurites, beside zmesh and igneous.

    python bench/bench_meshes.py [--peers PYTHON] [--edge 256] [--error 40] [--rounds 2] [--accuracy]

The volume is the far corner of `data/pinky-512` in the folder named by FASCICLE_SHARED, as a precomputed volume of
64^3 chunks. Every program runs in a process of its own: CPU seconds, wall seconds and peak memory are those of that
process and its children, from start to end. Ours is `fascicle mesh`, with all levels of detail in Draco, sharded.
zmesh (marching cubes, simplification factor 100 and 40 nm, bytes of legacy meshes, no files) and igneous (`mesh forge
--sharded`, `mesh merge-sharded --nlod 2`) are only run if `--peers` names the Python of an environment outside of this
repo that has them. Ratios above 1 mean that ours takes less CPU time.

`--accuracy` also says how far meshes are from the surface of the voxels (distance of vertices of that surface from the
mesh, in nm), and what they enclose as a share of the voxels.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

RESOLUTION = (4.0, 4.0, 40.0)
_ZMESH = """
import json, sys
import numpy as np, zmesh
labels = np.load(sys.argv[1])
mesher = zmesh.Mesher((4, 4, 40))
mesher.mesh(np.ascontiguousarray(labels.T), close=True)
faces = size = 0
kept = {}
for label in mesher.ids():
    mesh = mesher.get(label, reduction_factor=100, max_error=float(sys.argv[2]))
    mesher.erase(label)
    faces += len(mesh.faces)
    size += len(mesh.to_precomputed())
    if len(sys.argv) > 3:
        kept[f"v{label}"], kept[f"f{label}"] = mesh.vertices, mesh.faces
if kept:
    np.savez(sys.argv[3], **kept)
print(json.dumps([faces, size]))
"""
_OURS = "import sys\nfrom fascicle.cli import group\ngroup.main(sys.argv[1:], standalone_mode=False)"


@dataclass
class Run:
    """What a process and its children took."""

    cpu_s: float
    wall_s: float
    peak_mb: float
    said: str


def corner(edge: int) -> np.ndarray:
    """Labels u32 [z, y, x]."""
    import crackle

    shared = Path(os.environ.get("FASCICLE_SHARED") or Path(__file__).resolve().parents[2] / "shared")
    data = (shared / "data" / "pinky-512" / "connectomics.npy.ckl.gz").read_bytes()
    labels = np.asarray(crackle.decompress(gzip.decompress(data))).T
    return np.ascontiguousarray(labels[512 - edge :, 512 - edge :, 512 - edge :])


def run(command: Sequence[str], folder: str) -> Run:
    """Run a process to its end; it must succeed."""
    began = time.perf_counter()
    with tempfile.TemporaryFile() as out:
        process = subprocess.Popen(command, cwd=folder, stdout=out, stderr=subprocess.STDOUT)
        peaks: list[float] = [0.0]
        ended = threading.Event()

        def watch() -> None:
            while not ended.wait(0.05):
                peaks[0] = max(peaks[0], _resident_mb(process.pid))

        watcher = threading.Thread(target=watch)
        watcher.start()
        _, status, usage = os.wait4(process.pid, 0)
        ended.set()
        watcher.join()
        out.seek(0)
        said = out.read().decode()
    if status:
        raise SystemExit(f"{' '.join(command)[:200]} failed:\n{said[-2000:]}")
    return Run(usage.ru_utime + usage.ru_stime, time.perf_counter() - began, peaks[0], said)


def _resident_mb(root: int) -> float:
    """The memory of a process and all below it."""
    import psutil

    try:
        process = psutil.Process(root)
        family = [process, *process.children(recursive=True)]
        return float(sum(one.memory_info().rss for one in family)) / 2**20
    except psutil.Error:
        return 0.0


def best(runs: Sequence[Run]) -> Run:
    """The one that took least CPU time."""
    return min(runs, key=lambda one: one.cpu_s)


def line(what: str, found: Run, voxels: int, faces: int, size: int, ratio: str = "") -> None:
    print(
        f"{what:34s} {found.cpu_s:8.1f} {found.wall_s:8.1f} {voxels / 1e6 / found.cpu_s:11.2f} {found.peak_mb:8.0f} "
        f"{faces / 1e6:8.2f} {size / 1e6:8.1f}  {ratio}",
        flush=True,
    )


def read_ours(folder: str, labels: Sequence[int]) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """The finest level of some meshes in a sharded directory, in nm."""
    from fascicle.formats import multires_mesh
    from fascicle.volumes.objects import FileFolder
    from fascicle.volumes.shards import ShardReader

    info = multires_mesh.read_info(Path(folder, "info").read_bytes())
    assert info.sharding is not None
    reader = ShardReader(FileFolder(folder), "", info.sharding)
    found = {}
    for label in labels:
        place = reader.find_place(label)
        assert place is not None
        name, start = place[:2]
        manifest = multires_mesh.read_manifest(reader.get(label, 1 << 30) or b"")
        with Path(folder, name).open("rb") as file:
            file.seek(start - manifest.data_size)
            data = file.read(manifest.data_size)
        parts = multires_mesh.decode(manifest, data, info)
        starts = np.cumsum([0, *(len(vertices) for vertices, _ in parts)]).tolist()
        triangles = [faces.astype(np.int64) + at for (_, faces), at in zip(parts, starts, strict=False)]
        found[label] = np.concatenate([vertices for vertices, _ in parts]), np.concatenate(triangles)
    return found


def accuracy(labels: np.ndarray, meshes: dict[int, tuple[np.ndarray, np.ndarray]], shift: Sequence[float]) -> str:
    """RMS, 99th percentile and maximum of the distances, and the share of the volume."""
    from fascicle.kernels import marching_cubes

    numbers, ids, counts = marching_cubes.number_labels(np.pad(labels, 1))
    first, vertices, _, _ = marching_cubes.surfaces(numbers, len(ids))
    half = np.array(RESOLUTION) / 2
    rng = np.random.default_rng(0)
    distances, enclosed, voxels = [], 0.0, 0
    for label, (places, triangles) in meshes.items():
        k = int(np.searchsorted(ids, label)) + 1
        surface = (vertices[first[k] : first[k + 1]] - 2) * half + np.array(shift)
        sample = surface[rng.permutation(len(surface))[:300]]
        a, b, c = (np.asarray(places, np.float64)[triangles[:, corner]] for corner in range(3))
        distances.append(_distances(sample, a, b, c))
        enclosed += abs(float(np.einsum("ij,ij->i", a, np.cross(b, c)).sum() / 6))
        voxels += int(counts[k - 1])
    found = np.concatenate(distances)
    return (
        f"off by {np.sqrt((found**2).mean()):.1f} nm (rms), {np.percentile(found, 99):.1f} (99 %), {found.max():.1f} "
        f"(most); {100 * enclosed / (voxels * float(np.prod(RESOLUTION))):.1f} % of the volume"
    )


def _distances(points: np.ndarray, a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """The distance of each point from the nearest triangle."""
    ab, ac = b - a, c - a
    normal = np.cross(ab, ac)
    area = np.maximum((normal**2).sum(axis=1), 1e-30)
    found = np.empty(len(points))
    for i, point in enumerate(points):
        ap = point - a
        height = (ap * normal).sum(axis=1)
        t = np.einsum("ij,ij->i", np.cross(ab, ap), normal) / area
        s = np.einsum("ij,ij->i", np.cross(ap, ac), normal) / area
        squared = np.where((s >= 0) & (t >= 0) & (s + t <= 1), height**2 / area, np.inf)
        for start, way in ((a, ab), (a, ac), (b, c - b)):
            length = np.maximum((way**2).sum(axis=1), 1e-30)
            share = np.clip(((point - start) * way).sum(axis=1) / length, 0, 1)
            squared = np.minimum(squared, ((point - start - share[:, None] * way) ** 2).sum(axis=1))
        found[i] = np.sqrt(squared.min())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", help="Python of an environment with zmesh and igneous, outside of this repo")
    parser.add_argument("--edge", type=int, default=256)
    parser.add_argument("--error", type=float, default=40.0, help="nm")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--accuracy", action="store_true")
    options = parser.parse_args()
    labels = corner(options.edge)
    with tempfile.TemporaryDirectory() as folder:
        _compare(labels, folder, options)


def _compare(labels: np.ndarray, folder: str, options: Any) -> None:
    import fascicle

    np.save(f"{folder}/labels.npy", labels)
    fascicle.convert(f"{folder}/labels.npy", f"{folder}/volume", kind="segmentation", resolution_nm=RESOLUTION)
    print(f"far corner, {options.edge}^3 voxels, {len(np.unique(labels))} labels, error {options.error:g} nm")
    print(f"{'':34s} {'CPU s':>8} {'wall s':>8} {'MVox/CPU s':>11} {'peak MB':>8} {'M faces':>8} {'MB':>8}")
    error = str(options.error)
    ours: list[Run] = []
    zmesh: list[Run] = []
    igneous: list[Run] = []
    arguments = ["mesh", "volume", "ours", "--error", error, "--sharded", "--workers", "1", "--quiet"]
    run([sys.executable, "-c", _OURS, *arguments], folder)  # compiles, if that was not done before
    bins = Path(options.peers).parent if options.peers else None
    for _ in range(options.rounds):
        ours.append(run([sys.executable, "-c", _OURS, *arguments], folder))
        if bins:
            kept = ["zmesh.npz"] if options.accuracy else []
            zmesh.append(run([options.peers, "-c", _ZMESH, "labels.npy", error, *kept], folder))
            igneous.append(_igneous(bins, folder))
    faces = int(ours[0].said.split("meshes of ")[1].split()[0])
    size = sum(path.stat().st_size for path in Path(folder, "ours").iterdir())
    mine = best(ours)
    line("fascicle mesh, Draco, all lods", mine, labels.size, faces, size)
    if bins:
        other = best(zmesh)
        faces, size = json.loads(other.said.splitlines()[-1])
        line("zmesh, simplified", other, labels.size, faces, size, f"{other.cpu_s / mine.cpu_s:.1f}x")
        other = best(igneous)
        size = sum(path.stat().st_size for path in Path(folder, "theirs").rglob("*.shard"))
        line("igneous forge, merge: Draco, 2 lods", other, labels.size, 0, size, f"{other.cpu_s / mine.cpu_s:.1f}x")
    if options.accuracy:
        some = np.unique(labels[labels > 0])[::12].tolist()
        print("fascicle:", accuracy(labels, read_ours(f"{folder}/ours", some), (0, 0, 0)))
        if bins:
            data = np.load(f"{folder}/zmesh.npz")
            theirs = {k: (data[f"v{k}"].astype(np.float64), data[f"f{k}"]) for k in some}
            # where it puts voxels is half a voxel further
            print("zmesh:   ", accuracy(labels, theirs, [edge / 2 for edge in RESOLUTION]))


def _igneous(bins: Path, folder: str) -> Run:
    """A volume as it makes it, then both of its steps."""
    import shutil

    shutil.rmtree(f"{folder}/theirs", ignore_errors=True)
    program, volume = str(bins / "igneous"), f"file://{folder}/theirs"
    resolution = ",".join(f"{edge:g}" for edge in RESOLUTION)
    made = ["image", "create", f"{folder}/theirs.npy", volume, "--resolution", resolution, "--encoding", "cseg"]
    np.save(f"{folder}/theirs.npy", np.asfortranarray(np.load(f"{folder}/labels.npy").T))
    run([program, *made, "--chunk-size", "64,64,64", "--compress", "gzip", "--seg"], folder)
    forge = run([program, "mesh", "forge", volume, "--shape", "256,256,256", "--sharded"], folder)
    merge = run([program, "mesh", "merge-sharded", volume, "--nlod", "2"], folder)
    return Run(forge.cpu_s + merge.cpu_s, forge.wall_s + merge.wall_s, max(forge.peak_mb, merge.peak_mb), "")


if __name__ == "__main__":
    main()
