"""Start our server, put the recorded load on it, and print how it compares with the reference server.

    python bench/run.py                              # small, about a minute
    python bench/run.py --size full --json ours.json
    python bench/run.py --only blocks,raw
    python bench/run.py --table ours.json            # a stored run again, without running anything

The load (`speed/speed.py`) and the reference's figures (`speed/reference.md`) are found by FASCICLE_SHARED, by default
the folder `shared` beside the checkout. A ratio above 1 means that ours is better; CPU is what both servers spent for a
unit of work, which compares between machines of one kind, and wall time only on machines at rest.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from serving import TOKEN, command, free_port  # noqa: E402

OPERATIONS = (
    "ingest,blocks,specificblocks,raw,chunks,sparsevol,bodies,points,merge,cleave,keyvalue,keyvalues,image,mixed,"
    "annotation,restart_loaded,restart_mappings,mappings,versions"
)
"""All but `versions_deep`, which the reference was not measured with."""


@dataclass(frozen=True, slots=True)
class Target:
    """What an operation should reach: multiples of the reference in CPU per unit, wall time, latencies; or bounds."""

    pattern: str
    cpu: float | None = None
    wall: float | None = None
    p50: float | None = None
    p99: float | None = None
    p99_ms: float | None = None
    at_most_s: float | None = None
    memory_mb: float = 600.0


TARGETS = (
    Target("labelmap.ingest.cells", 1, 1),
    Target("labelmap.ingest.*", 3, 3),
    Target("labelmap.blocks.bodies.*", 25, 25),
    Target("labelmap.specificblocks.*", 25, 25),
    Target("labelmap.blocks.supervoxels.*", 0.8, 0.8),
    Target("labelmap.raw256.*", 3, 3),
    Target("labelmap.raw512.*", 3, 3),
    Target("labelmap.chunks.*", 10, 10),
    Target("labelmap.sparsevol.large.*", 4, 4),
    Target("labelmap.sparsevol.middling", 20, 20),
    Target("labelmap.sparsevol_coarse.large", 1, 1),
    Target("labelmap.labels.batches_of_1000*", 20, 20),
    Target("labelmap.labels.one_request", 2, 2),
    Target("labelmap.*.many_supervoxels", 10, 10),
    Target("labelmap.read_after_*", None, 10),
    Target("labelmap.cleave_merge.cycle", 5, 5),
    Target("labelmap.merge_cleave.two_large", 1.5, 1.5),
    Target("labelmap.merge.small_into_large", 1.5, 1.5),
    Target("labelmap.renumber", 1.5, 1.5),
    Target("labelmap.split_supervoxel", 15, 15),
    Target("labelmap.*", 1, 1),
    Target("keyvalue.get.*", 1.2, 1.2),
    Target("keyvalue.put.*", 0.9, 0.9),
    Target("keyvalues.*", 2, 2),
    Target("image.slices.*", 8, 8),
    Target("image.chunks.*", 8, 8),
    Target("image.*", 1, 1),
    Target("annotation.post.scattered", 20, 20),
    Target("annotation.*", 2, 2),
    Target("labelsz.*", 5, 5),
    Target("mixed.*", p50=3, p99=10),
    Target("restart.mappings.first_*", at_most_s=1.5),
    Target("mappings.post", 2, 2),
    Target("mappings.*", 1, 1),
    Target("versions.newversion.to_2000", 30, 30),
    Target("versions.key_get.after_2000", 5, 5),
)
EDITS = (
    Target("labelmap.cleave.many_supervoxels", None, 5, p99_ms=13),
    Target("labelmap.merge.many_supervoxels", None, 5, p99_ms=13),
)


def shared_folder() -> Path:
    folder = Path(os.environ.get("FASCICLE_SHARED", ROOT.parent / "shared"))
    if not (folder / "speed" / "speed.py").exists():
        sys.exit(f"no speed/speed.py in {folder}: set FASCICLE_SHARED to the folder that has it")
    return folder


def reference_figures(document: Path) -> dict[str, dict[str, Any]]:
    """The main table of the reference's document: value, unit, latencies in ms, CPU in us per unit, memory in MB."""
    figures = {}
    for row in document.read_text().splitlines():
        cells = [cell.strip().replace(",", "") for cell in row.strip().strip("|").split("|")]
        if len(cells) == 8 and re.fullmatch(r"[a-z_0-9A-Z.]+\.[a-z_0-9A-Z.]+", cells[0]):
            value, _, unit, p50, p99, cpu, memory = cells[1:]
            figures[cells[0]] = {
                "value": float(value),
                "unit": unit,
                **{
                    name: float(text) if text else None
                    for name, text in (("p50_ms", p50), ("p99_ms", p99), ("cpu_us", cpu), ("rss_mb", memory))
                },
            }
    return figures


def target_of(name: str) -> Target:
    """The first target whose pattern fits; edits of the large body come before the reads of it."""
    return next((target for target in (*EDITS, *TARGETS) if fnmatch(name, target.pattern)), Target("*"))


def cpu_us(result: dict[str, Any]) -> float | None:
    """The server's CPU per unit of work in us."""
    if result.get("cpu_us_per_unit") is not None:
        return float(result["cpu_us_per_unit"])
    if result.get("server_cpu_s") and result.get("count"):
        return 1e6 * float(result["server_cpu_s"]) / float(result["count"])
    return None


def number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def report(results: list[dict[str, Any]], reference: dict[str, dict[str, Any]]) -> int:
    """Print a table of all results and the list of targets that were missed; how many those are."""
    print("| operation | ours | unit | p99 ms | wall ratio | CPU us | CPU ratio | peak MB | target |  |")
    print("|---|---:|---|---:|---:|---:|---:|---:|---|---|")
    missed = 0
    for result in results:
        name, theirs, target = result["name"], reference.get(result["name"]), target_of(result["name"])
        if result.get("error"):
            print(f"| {name} | failed: {result['error'][:200]} | | | | | | | | **failed** |")
            missed += 1
            continue
        lower_is_better = result.get("better") == "lower"
        wall = cpu = None
        if theirs and result["value"] and theirs["value"]:
            wall = theirs["value"] / result["value"] if lower_is_better else result["value"] / theirs["value"]
        ours_us = cpu_us(result)
        if theirs and theirs["cpu_us"] and ours_us:
            cpu = theirs["cpu_us"] / ours_us
        wanted, reached = [], True
        for label, bound, ratio in (("CPU", target.cpu, cpu), ("wall", target.wall, wall)):
            if bound is not None and ratio is not None:
                wanted.append(f"{label} {bound:g}x")
                reached &= ratio >= bound
        for label, bound in (("p50", target.p50), ("p99", target.p99)):
            ours_ms, theirs_ms = result.get(f"{label}_ms"), theirs and theirs[f"{label}_ms"]
            if bound is not None and ours_ms and theirs_ms:
                wanted.append(f"{label} {bound:g}x")
                reached &= theirs_ms / ours_ms >= bound
        if target.p99_ms is not None and result.get("p99_ms") is not None:
            wanted.append(f"p99 {target.p99_ms:g} ms")
            reached &= result["p99_ms"] <= target.p99_ms
        if target.at_most_s is not None:
            wanted.append(f"{target.at_most_s:g} s")
            reached &= result["value"] <= target.at_most_s
        memory = result.get("peak_rss_mb")
        if memory is not None and memory > target.memory_mb:
            wanted.append(f"{target.memory_mb:g} MB")
            reached = False
        missed += not reached
        cells = [name, number(result["value"]), result["unit"], number(result.get("p99_ms")), number(wall)]
        cells += [number(ours_us), number(cpu), number(memory), ", ".join(wanted), "" if reached else "**missed**"]
        print("| " + " | ".join(cells) + " |")
    print(f"\n{missed} of {len(results)} targets missed")
    return missed


def measure(arguments: argparse.Namespace, shared: Path) -> list[dict[str, Any]]:
    """Run the load against a server of ours on an empty store, with compiled kernels as on any but the first start."""
    subprocess.run([sys.executable, "-m", "fascicle.kernels.warmup"], check=True)
    with tempfile.TemporaryDirectory(prefix="fascicle-bench-", dir=arguments.disk) as folder:
        port, out = free_port(), Path(folder) / "run.json"
        serve = [
            *command(),
            "serve",
            "--http",
            f"127.0.0.1:{port}",
            "--data",
            f"{folder}/data",
            "--allow-labelmap-split",
        ]
        if arguments.workers:
            serve += ["--workers", str(arguments.workers)]
        words = [sys.executable, str(shared / "speed" / "speed.py"), "--server", f"http://127.0.0.1:{port}"]
        words += [
            "--token",
            TOKEN,
            "--fresh",
            shlex.join(serve),
            "--start",
            shlex.join(serve),
            "--store",
            f"{folder}/data",
        ]
        words += ["--size", arguments.size, "--only", arguments.only, "--json", str(out), "--disk", folder]
        words += ["--rounds", str(arguments.rounds)]
        if arguments.no_calibration:
            words.append("--no-calibration")
        subprocess.run(words, env=os.environ | {"FASCICLE_ADMIN_TOKEN": TOKEN}, check=False)
        if not out.exists():
            sys.exit("the load broke off before it stored its figures")
        run = json.loads(out.read_text())
    if arguments.json:
        arguments.json.write_text(json.dumps(run, indent=1) + "\n")
    found: list[dict[str, Any]] = run["results"]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=("small", "full"), default="small")
    parser.add_argument("--only", default=OPERATIONS, help="operations, with commas between them")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--workers", type=int, help="processes of the server")
    parser.add_argument("--json", type=Path, help="store the run's figures here")
    parser.add_argument("--table", type=Path, help="compare a stored run instead of making one")
    parser.add_argument("--disk", type=Path, help="a folder on the disk to use")
    parser.add_argument("--no-calibration", action="store_true")
    arguments = parser.parse_args()
    shared = shared_folder()
    reference = reference_figures(shared / "speed" / "reference.md")
    results = json.loads(arguments.table.read_text())["results"] if arguments.table else measure(arguments, shared)
    report(results, reference)


if __name__ == "__main__":
    main()
