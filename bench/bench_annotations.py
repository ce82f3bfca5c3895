"""Annotations on a real server: a million synapses loaded, read by body, ranked, and carried through merges.

    python bench/bench_annotations.py [--synapses 1000000] [--cycles 100]

Synapses lie at random in a segmentation of 1,024 supervoxels; two bodies of a tenth of them each are merged and cleaved
again and again, while counts per body follow; and then once more, with counts in a region of half of the blocks beside
them. At the end two branches that both changed bodies are merged. Prints each figure beside its target and, where the
reference server was measured at the same thing, as a multiple of it. Peak memory is that of all server processes
together, with what they have mapped of the store.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from serving import TOKEN, Client, command, free_port  # noqa: E402

SHAPE_ZYX = (128, 512, 512)
CELL = 32
BATCH = 1000
REFERENCE_LOAD = 26_488.0
"""Elements/s of the reference in batches of 1,000, 10^5 in all, on the machine of its figures."""
REFERENCE_READ = 436_185.0
"""Elements/s of the reference from a body of 10^4."""


def children(pid: int) -> list[int]:
    """A process and all that it started."""
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(each for child in listed for each in children(int(child)))]


def peak_mb(pid: int) -> float:
    total = 0
    for each in children(pid):
        for line in Path(f"/proc/{each}/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                total += int(line.split()[1])
    return total / 1024


def segmentation() -> np.ndarray:
    """u64[z, y, x]: cells of 32 voxels, numbered at random from 1 on."""
    shape = [n // CELL for n in SHAPE_ZYX]
    cells = np.random.default_rng(1).permutation(int(np.prod(shape))).astype(np.uint64).reshape(shape) + np.uint64(1)
    return cells.repeat(CELL, 0).repeat(CELL, 1).repeat(CELL, 2)


def synapses(count: int) -> tuple[list[bytes], np.ndarray]:
    """Bodies of POSTs, block by block, and all positions i64[n, 3] (x, y, z)."""
    rng = np.random.default_rng(2)
    flat = rng.choice(int(np.prod(SHAPE_ZYX)), count, replace=False)
    z, y, x = np.unravel_index(flat, SHAPE_ZYX)
    xyz = np.stack((x, y, z), axis=1)
    xyz = xyz[np.lexsort((xyz[:, 0] // 64, xyz[:, 1] // 64, xyz[:, 2] // 64))]
    places = xyz.tolist()
    elements = [
        {
            "Pos": place,
            "Kind": "PreSyn" if i % 2 == 0 else "PostSyn",
            "Tags": [],
            "Prop": {"conf": "0.93", "user": "bench"},
            "Rels": [{"Rel": "PreSynTo" if i % 2 == 0 else "PostSynTo", "To": places[min(i ^ 1, count - 1)]}],
        }
        for i, place in enumerate(places)
    ]
    return [msgspec.json.encode(elements[at : at + BATCH]) for at in range(0, count, BATCH)], xyz


def times_ms(work: Callable[[int], object], count: int) -> list[float]:
    found = []
    for i in range(count):
        start = time.perf_counter()
        work(i)
        found.append(1000 * (time.perf_counter() - start))
    return found


def p99(values: list[float]) -> float:
    return sorted(values)[min(len(values) - 1, int(0.99 * len(values)))]


def row(what: str, value: str, ratio: float | None, target: str, reached: bool) -> None:
    shown = "" if ratio is None else f"{ratio:.2f}x"
    print(f"| {what} | {value} | {shown} | {target} | {'' if reached else '**missed**'} |", flush=True)


def bench(client: Client, pid: int, arguments: argparse.Namespace) -> None:
    root = client.post(f"/api/repos?admintoken={TOKEN}", {"alias": "bench"}).expect().json()["root"]
    for name, typename, settings in (
        ("segmentation", "labelmap", {}),
        ("region", "roi", {"BlockSize": f"{CELL},{CELL},{CELL}"}),
        ("synapses", "annotation", {}),
        ("counts", "labelsz", {}),
    ):
        given = {"typename": typename, "dataname": name, **settings}
        client.post(f"/api/repo/{root}/instance", given).expect()
    node = f"/api/node/{root}"
    z, y, x = (range(n // CELL) for n in SHAPE_ZYX)
    client.post(f"{node}/region/roi", [[k, j, i, i] for k in z for j in y for i in x if (i + j + k) % 2]).expect()
    client.post(f"{node}/synapses/sync", {"sync": "segmentation"}).expect()
    client.post(f"{node}/counts/sync", {"sync": "synapses"}).expect()
    dense = segmentation()
    for z in range(0, SHAPE_ZYX[0], 64):
        path = f"{node}/segmentation/raw/0_1_2/{SHAPE_ZYX[2]}_{SHAPE_ZYX[1]}_64/0_0_{z}"
        client.post(path, np.ascontiguousarray(dense[z : z + 64]).tobytes()).expect()
    posts, xyz = synapses(arguments.synapses)

    print("| | ours | of the reference | target | |\n|---|---|---|---|---|")
    start = time.perf_counter()
    for body in posts:
        client.post(f"{node}/synapses/elements", body).expect()
    rate = len(xyz) / (time.perf_counter() - start)
    ratio = rate / REFERENCE_LOAD
    row(f"{len(xyz):,} synapses loaded, counted", f"{rate:,.0f} elements/s", ratio, "2x", ratio >= 2)

    owners = dense[xyz[:, 2], xyz[:, 1], xyz[:, 0]]
    labels, counts = np.unique(owners, return_counts=True)
    wanted = dict(zip(labels.tolist(), counts.tolist(), strict=True))
    chosen = np.random.default_rng(3).choice(labels, 200).tolist()
    read = times_ms(lambda i: client.get(f"{node}/synapses/label/{chosen[i]}").expect(), len(chosen))
    mean = statistics.mean(wanted[label] for label in chosen)
    p50 = statistics.median(read)
    ratio = 1000 * mean / p50 / REFERENCE_READ
    row(f"a body of about {mean:,.0f} synapses, p50", f"{p50:.2f} ms", ratio, "2x", ratio >= 2)

    share = len(labels) // 10
    one, other = labels[:share].tolist(), labels[share : 2 * share].tolist()
    for body in (one, other):
        client.post(f"{node}/segmentation/merge", body).expect()
    size = sum(wanted[label] for label in one)
    read = times_ms(lambda _: client.get(f"{node}/synapses/label/{one[0]}").expect(), 10)
    ratio = 1000 * size / statistics.median(read) / REFERENCE_READ
    row(f"a body of {size:,} synapses, p50", f"{statistics.median(read):.1f} ms", ratio, "2x", ratio >= 2)

    top = times_ms(lambda _: client.get(f"{node}/counts/top/100/PreSyn").expect(), 500)
    row("the first 100 of 1,000 bodies, p50", f"{statistics.median(top):.2f} ms", 1.0 / statistics.median(top), "5x",
        1.0 / statistics.median(top) >= 5)  # fmt: skip

    def cycle(target: int, what: str) -> int:
        """Merge and cleave again and again; the label of what was cleaved last."""
        merges, cleaves = [], []
        for _ in range(arguments.cycles):
            merges += times_ms(lambda _, t=target: client.post(f"{node}/segmentation/merge", [one[0], t]).expect(), 1)
            start = time.perf_counter()
            answer = client.post(f"{node}/segmentation/cleave/{one[0]}", other).expect().json()
            cleaves.append(1000 * (time.perf_counter() - start))
            target = answer["CleavedLabel"]
        row(f"{what}, p50", f"{statistics.median(merges):.2f} ms", None, "", True)
        row(f"{what}, p99", f"{p99(merges):.2f} ms", None, "15 ms", p99(merges) <= 15)
        row("cleave of as many, p50", f"{statistics.median(cleaves):.1f} ms", None, "", True)
        row("cleave of as many, p99", f"{p99(cleaves):.1f} ms", None, "", True)
        return target

    target = cycle(other[0], f"merge of two bodies of {size:,} synapses")
    row("peak memory until here", f"{peak_mb(pid):,.0f} MB", None, "600 MB", peak_mb(pid) <= 600)
    settings = {"typename": "labelsz", "dataname": "inside", "ROI": f"region,{root}"}
    client.post(f"/api/repo/{root}/instance", settings).expect()
    client.post(f"{node}/inside/sync", {"sync": "synapses"}).expect()
    client.post(f"{node}/inside/reload").expect()
    target = cycle(target, "the same merge with counts in a region")
    found = client.get(f"{node}/counts/count/{target}/AllSyn").expect().json()
    assert found["AllSyn"] == sum(wanted[label] for label in other), found
    found = client.get(f"{node}/inside/count/{target}/AllSyn").expect().json()
    cells = xyz[np.isin(owners, other)] // CELL
    assert found["AllSyn"] == int((cells.sum(axis=1) % 2).sum()), found

    took = times_ms(lambda _: client.post(f"{node}/counts/reload").expect(), 1)
    row("everything counted anew", f"{took[0]:.0f} ms", None, "", True)
    took = times_ms(lambda _: client.post(f"{node}/inside/reload").expect(), 1)
    row("the same in the region", f"{took[0]:.0f} ms", None, "", True)
    client.post(f"{node}/commit", {}).expect()
    left = client.post(f"{node}/newversion", {}).expect().json()["child"]
    right = client.post(f"{node}/branch", {"branch": "side"}).expect().json()["child"]
    client.post(f"/api/node/{left}/segmentation/merge", [one[0], target]).expect()
    some = posts[: len(posts) // 10]
    for body in some:  # every element once more, of another kind
        client.post(f"/api/node/{right}/synapses/elements", body.replace(b"PostSyn\"", b"Gap\"")).expect()
    for version in (left, right):
        client.post(f"/api/node/{version}/commit", {}).expect()
    merge = {"mergeType": "conflict-free", "parents": [left, right]}
    took = times_ms(lambda _: client.post(f"/api/repo/{root}/merge", merge).expect(), 1)
    row(f"two branches merged, one with {len(some) * BATCH:,} elements changed", f"{took[0]:.0f} ms", None, "", True)
    row("peak memory of all of it", f"{peak_mb(pid):,.0f} MB", None, "", True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--synapses", type=int, default=1_000_000)
    parser.add_argument("--cycles", type=int, default=100)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fascicle-bench-") as folder:
        port = free_port()
        words = [*command(), "serve", "--http", f"127.0.0.1:{port}", "--data", f"{folder}/data"]
        server = subprocess.Popen(words, env=os.environ | {"FASCICLE_ADMIN_TOKEN": TOKEN})
        try:
            deadline = time.monotonic() + 60
            while True:
                try:
                    client = Client(f"http://127.0.0.1:{port}", timeout_s=300)
                    client.get("/api/server/info").expect()
                    break
                except OSError:
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(0.1)
            bench(client, server.pid, arguments)
        finally:
            server.terminate()
            server.wait(30)


if __name__ == "__main__":
    main()
