"""Chunks per second of precomputed views, beside the same chunks by DVID's API.

    python bench/bench_precomputed.py VOLUME [--clients 4] [--workers 1] [--pause 6]

VOLUME is a segmentation that `fascicle ingest` reads, for example pinky-512's connectomics.npy.ckl.gz. Shown are
requests per second by wall time (with the clients on the same cores) and, in brackets, the milliseconds of CPU time
that the server's processes take for one. `cold`: every chunk for the first time since the server was started; `warm`:
again; `304`: again, with the ETag of what was sent before.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from fascicle.volumes import open_volume
from serving import RunningServer, new_instance, new_repo

EDGE = 64
LOADING = 16
"""Chunks that are asked for first, so that the server has loaded what it needs."""


def cpu_seconds(server: RunningServer) -> float:
    """CPU time that the processes of a server have taken."""
    total = 0.0
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == server.pid:
            total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total


def rate(server: RunningServer, paths: list[str], clients: int, tags: dict[str, str], known: bool = False) -> str:
    """Every path once, asked for by several clients."""
    waiting, lock = iter(paths), threading.Lock()

    def work() -> None:
        with server.client() as client:
            while True:
                with lock:
                    path = next(waiting, None)
                if path is None:
                    return
                headers = {"Accept-Encoding": "gzip", **({"If-None-Match": tags[path]} if known else {})}
                reply = client.request("GET", path, headers=headers).expect(304 if known else 200)
                tags[path] = reply.headers.get("etag", "")

    threads = [threading.Thread(target=work) for _ in range(clients)]
    began, before = time.perf_counter(), cpu_seconds(server)
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    per_second = len(paths) / (time.perf_counter() - began)
    return f"{per_second:6.0f} ({1000 * (cpu_seconds(server) - before) / len(paths):5.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("volume")
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--workers", default="1")
    parser.add_argument("--pause", type=float, default=6.0, help="seconds that a server may load its kernels")
    options = parser.parse_args()
    with open_volume(options.volume) as volume:
        depth, height, width = (side // EDGE * EDGE for side in volume.shape_zyx)
        labels = np.ascontiguousarray(volume.read((0, 0, 0), (depth, height, width)), np.uint64)
    corners = [
        (x, y, z) for z in range(0, depth, EDGE) for y in range(0, height, EDGE) for x in range(0, width, EDGE)
    ]
    names = ["_".join(f"{a}-{a + EDGE}" for a in corner) for corner in corners]
    views = {"compressed_segmentation": "", "supervoxels": "supervoxels/", "raw": "raw/"}
    with tempfile.TemporaryDirectory() as folder:
        server = RunningServer(Path(folder) / "data", ("--workers", options.workers)).start()
        try:
            with server.client() as client:
                root = new_repo(client)
                path = new_instance(client, root, "labelmap", "seg")
                client.post(f"{path}/raw/0_1_2/{width}_{height}_{depth}/0_0_0", labels.tobytes()).expect()
                first, second = np.unique(labels)[1:3].tolist()
                client.post(f"{path}/merge", [first, second]).expect()
                client.post(f"/api/node/{root}/commit", {}).expect()
            asked = {
                name: [f"/precomputed/{root}/{root}/seg/{form}0/{chunk}" for chunk in names]
                for name, form in views.items()
            }
            asked["raw?compression=googlegzip"] = [
                f"/api/node/{root}/seg/raw/0_1_2/64_64_64/{x}_{y}_{z}?compression=googlegzip" for x, y, z in corners
            ]
            print(f"{len(names)} chunks of {EDGE}^3, {options.clients} clients, {options.workers} workers")
            print(f"{'':28}{'cold':>16}{'warm':>16}{'304':>16}")
            for name, paths in asked.items():
                server.restart()
                tags: dict[str, str] = {}
                time.sleep(options.pause)
                rate(server, paths[:LOADING], 1, tags)
                figures = [
                    rate(server, paths[LOADING:], options.clients, tags),
                    rate(server, paths * 3, options.clients, tags),
                ]
                if tags[paths[0]]:
                    figures.append(rate(server, paths * 3, options.clients, tags, known=True))
                print(f"{name:28}" + "".join(f"{figure:>16}" for figure in figures), flush=True)
        finally:
            server.kill9()


if __name__ == "__main__":
    main()
