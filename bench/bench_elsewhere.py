"""Chunks per second from images and label maps whose voxels live elsewhere, beside instances that store the same.

    python bench/bench_elsewhere.py [--edge 512] [--clients 4]

Each line has a server of its own. `cold`: every chunk for the first time; `warm`: again. Shown are requests per second
by wall time and, in brackets, the milliseconds of CPU time that the server takes for one.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from remote_volumes import bucket, label_volume, smooth_volume, write_precomputed
from serving import RunningServer, new_repo

EDGE = 64
TOKEN = "?admintoken=test-token"
BLOCKS, RAW = "subvolblocks/64_64_64/{}", "raw/0_1_2/64_64_64/{}"
VIEWER = "raw/0_1_2/64_64_64/{}?compression=googlegzip"


def cpu_seconds(server: RunningServer) -> float:
    """CPU time that a server process has taken."""
    fields = Path(f"/proc/{server.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rate(server: RunningServer, paths: list[str], clients: int) -> str:
    """Every path once, asked for by several clients."""
    waiting, lock = iter(paths), threading.Lock()

    def work() -> None:
        with server.client() as client:
            while True:
                with lock:
                    path = next(waiting, None)
                if path is None:
                    return
                client.get(path).expect()

    threads = [threading.Thread(target=work) for _ in range(clients)]
    began, before = time.perf_counter(), cpu_seconds(server)
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    per_second = len(paths) / (time.perf_counter() - began)
    return f"{per_second:5.0f} ({1000 * (cpu_seconds(server) - before) / len(paths):4.1f})"


def measure(folder: Path, name: str, typename: str, address: str, path: str, voxels: np.ndarray, clients: int) -> None:
    """A line: the same requests of an instance that shows a volume and of one that stores it."""
    edge = len(voxels)
    cells = ["_".join(map(str, cell)) for cell in itertools.product(range(0, edge, EDGE), repeat=3)]
    server = RunningServer(folder / f"data of {name}").start()
    try:
        with server.client() as client:
            uuid = new_repo(client)
            away = {"typename": typename, "dataname": "away", "Source": address}
            client.post(f"/api/repo/{uuid}/instance{TOKEN}", away).expect()
            shown = client.get(f"/api/node/{uuid}/away/info").expect().json()["Base"]["Compression"]
            here = {"typename": typename, "dataname": "here", "BlockSize": "64,64,64"}
            if "jpeg" in shown:
                here["Compression"] = "jpeg"
            client.post(f"/api/repo/{uuid}/instance", here).expect()
            client.post(f"/api/node/{uuid}/here/raw/0_1_2/{edge}_{edge}_{edge}/0_0_0", voxels.tobytes()).expect()
            client.get(f"/api/node/{uuid}/here/{path.format(cells[0])}").expect()  # so that kernels are there
        before = -1.0
        while (taken := cpu_seconds(server)) > before + 0.05:  # it loads its kernels in the background
            before = taken
            time.sleep(1)
        rates = []
        for instance in ("away", "away", "here", "here"):
            paths = [f"/api/node/{uuid}/{instance}/{path.format(cell)}" for cell in cells]
            rates.append(rate(server, paths, clients))
        print(f"{name:26} elsewhere cold {rates[0]} warm {rates[1]}   stored {rates[2]} again {rates[3]}", flush=True)
    finally:
        server.kill9()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--edge", type=int, default=512, help="a multiple of 128")
    parser.add_argument("--clients", type=int, default=4)
    options = parser.parse_args()
    repeated = (options.edge // 128,) * 3
    gray = np.tile(smooth_volume((128, 128, 128)), repeated)
    labels = np.tile(label_volume((128, 128, 128), count=60), repeated)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        jpeg = write_precomputed(folder / "jpeg", [gray], "jpeg")
        raw = write_precomputed(folder / "raw", [gray], "raw")
        seg = write_precomputed(folder / "seg", [labels], "compressed_segmentation", kind="segmentation")
        with bucket(folder) as served:
            measure(folder, "JPEG chunks as they are", "uint8blk", jpeg, BLOCKS, gray, options.clients)
            measure(folder, "the same over HTTP", "uint8blk", f"{served.url}/jpeg", BLOCKS, gray, options.clients)
            measure(folder, "voxels of JPEG chunks", "uint8blk", jpeg, RAW, gray, options.clients)
            measure(folder, "voxels of raw chunks", "uint8blk", raw, RAW, gray, options.clients)
            measure(folder, "labels for viewers", "labelmap", seg, VIEWER, labels, options.clients)


if __name__ == "__main__":
    main()
