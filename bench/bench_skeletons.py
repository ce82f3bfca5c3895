"""Skeletons of real neurites, beside kimimaro.

    python bench/bench_skeletons.py [--peers PYTHON] [--edge 256] [--corner far|near] [--rounds 2] [--job]

The volume is a corner of `data/pinky-512` in the folder named by FASCICLE_SHARED: `far` (many neurites) or `near` (one
soma fills most of it). Ours finds the centrelines in this process, once whole and once in blocks of half the edge that
are joined. `--job` also runs `fascicle skeletonize` on the corner as a precomputed volume, with its own peak memory.
kimimaro (GPL) is only run if `--peers` names the Python of an environment outside of this repo that has it; both get
the same labels in memory, scale 1.5, constant 300 nm, dust 1000, and seconds are those of the processor in one process,
without imports. Ratios above 1 mean that ours is faster.
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

RESOLUTION = (4.0, 4.0, 40.0)
SCALE, CONSTANT, DUST = 1.5, 300.0, 1000

_KIMIMARO = """
import json, sys, time
import numpy as np, kimimaro
labels = np.load(sys.argv[1]).T
began, wall = time.process_time(), time.perf_counter()
found = kimimaro.skeletonize(labels, teasar_params={"scale": %r, "const": %r}, dust_threshold=%r,
                             anisotropy=%r, progress=False, parallel=1)
times = time.process_time() - began, time.perf_counter() - wall
ends = sum(int((np.bincount(s.edges.ravel().astype(int)) == 1).sum()) for s in found.values() if len(s.edges))
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]
print(json.dumps([*times, len(found), sum(len(s.vertices) - len(s.edges) for s in found.values()), ends,
                  sum(float(s.cable_length()) for s in found.values()) / 1000,
                  int(peak) / 1024]))
"""

_COMMAND = """
import sys
from fascicle.cli import group
group.main(sys.argv[1:], standalone_mode=False)
sys.stderr.write(open("/proc/self/status").read())
"""


def corner(name: str, edge: int) -> np.ndarray:
    """Labels u32 [z, y, x]."""
    import crackle

    shared = Path(os.environ.get("FASCICLE_SHARED") or Path(__file__).resolve().parents[2] / "shared")
    data = (shared / "data" / "pinky-512" / "connectomics.npy.ckl.gz").read_bytes()
    labels = np.asarray(crackle.decompress(gzip.decompress(data))).T
    part = slice(0, edge) if name == "near" else slice(512 - edge, 512)
    return np.ascontiguousarray(labels[part, part, part])


def ours(labels: np.ndarray, blocks: int) -> dict[int, Any]:
    """All skeletons, from `blocks` blocks along each axis."""
    from fascicle.pipeline.body_jobs import block_boxes
    from fascicle.precomputed.centrelines import Teasar, in_block, joined, split_by_body

    parameters = Teasar(scale=SCALE, constant_nm=CONSTANT, dust=DUST)
    size = tuple(-(-n // blocks) for n in labels.shape)
    parts = []
    for start, stop, faces in block_boxes(labels.shape, (size[0], size[1], size[2])):
        z, y, x = (slice(a, b) for a, b in zip(start, stop, strict=True))
        parts.append(in_block(labels[z, y, x], start[::-1], RESOLUTION, parameters, faces))
    found = {}
    for body in sorted({body for part in parts for body in split_by_body(part)}):
        skeleton = joined([part.of(body, body) for part in parts], RESOLUTION, parameters)
        if skeleton is not None:
            found[body] = skeleton
    return found


def measured(call: Callable[[], dict[int, Any]], rounds: int) -> list[float]:
    """CPU seconds, wall seconds, skeletons, trees, ends, cable in micrometres, peak memory in MB."""
    best: list[float] = []
    for _ in range(rounds):
        began, wall = time.process_time(), time.perf_counter()
        found = list(call().values())
        times = [time.process_time() - began, time.perf_counter() - wall]
        if not best or times[0] < best[0]:
            trees = sum(len(one.vertices) - len(one.edges) for one in found)
            ends = sum(int((np.bincount(one.edges.ravel(), minlength=1) == 1).sum()) for one in found)
            cable = sum(one.length for one in found) / 1000
            best = [*times, len(found), trees, ends, cable, peak_mb(Path("/proc/self/status").read_text())]
    return best


def peak_mb(status: str) -> float:
    """The greatest memory in a text like /proc/self/status, which an ancestor's does not count in."""
    found = [text for text in status.splitlines() if text.startswith("VmHWM")]
    return int(found[0].split()[1]) / 1024 if found else float("nan")


def line(what: str, row: list[float], voxels: int, ratio: str = "") -> None:
    cpu, wall, count, trees, ends, cable, peak = row
    print(
        f"{what:32s} {cpu:8.2f} {wall:8.2f} {voxels / 1e6 / cpu:10.2f} {1000 * cpu / max(count, 1):10.1f} "
        f"{count:9.0f} {trees:6.0f} {ends:6.0f} {cable:9.0f} {peak:8.0f}  {ratio}",
        flush=True,
    )


def job(labels: np.ndarray) -> None:
    """The command, with processes of its own."""
    import fascicle

    with tempfile.TemporaryDirectory() as folder:
        np.save(f"{folder}/labels.npy", labels)
        fascicle.convert(f"{folder}/labels.npy", f"{folder}/volume", kind="segmentation", resolution_nm=RESOLUTION)
        for memory in ("512M", "2G"):
            command = [sys.executable, "-c", _COMMAND]
            arguments = ["skeletonize", f"{folder}/volume", f"{folder}/{memory}", "--memory", memory, "--workers", "1"]
            wall = time.perf_counter()
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            told = subprocess.run([*command, *arguments], check=True, capture_output=True, text=True)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            seconds, peak = time.perf_counter() - wall, peak_mb(told.stderr)
            print(f"--memory {memory}: {cpu:.1f} CPU s, {seconds:.1f} s, {peak:.0f} MB, {told.stdout.strip()}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", help="Python of an environment with kimimaro, outside of this repo")
    parser.add_argument("--edge", type=int, default=256)
    parser.add_argument("--corner", choices=("far", "near"), default="far")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--job", action="store_true")
    options = parser.parse_args()
    labels = corner(options.corner, options.edge)
    ours(labels[:40, :40, :40], 2)  # loads the kernels
    print(f"{options.corner} corner, {options.edge}^3 voxels, {len(np.unique(labels))} labels")
    titles = ("CPU s", "wall s", "MVox/CPU s", "ms each", "skeletons", "trees", "ends", "cable um", "peak MB")
    print(f"{'':32s} {titles[0]:>8} {titles[1]:>8} {titles[2]:>10} {titles[3]:>10} {titles[4]:>9} {titles[5]:>6} "
          f"{titles[6]:>6} {titles[7]:>9} {titles[8]:>8}")  # fmt: skip
    rows = {f"fascicle, {n} block{'s' * (n > 1)} an axis": n for n in (1, 2)}
    results = {name: measured(lambda n=n: ours(labels, n), options.rounds) for name, n in rows.items()}  # type: ignore[misc]
    theirs: list[float] | None = None
    if options.peers:
        with tempfile.TemporaryDirectory() as folder:
            np.save(f"{folder}/labels.npy", labels)
            code = _KIMIMARO % (SCALE, CONSTANT, DUST, RESOLUTION)
            told = subprocess.run(
                [options.peers, "-c", code, f"{folder}/labels.npy"], check=True, capture_output=True, text=True
            )
            theirs = json.loads(told.stdout.splitlines()[-1])
    for name, row in results.items():
        line(name, row, labels.size, f"{theirs[0] / row[0]:.1f}x" if theirs else "")
    if theirs:
        line("kimimaro", theirs, labels.size)
    if options.job:
        job(labels)


if __name__ == "__main__":
    main()
