"""Reading and encoding precomputed volumes, beside TensorStore and the package compressed-segmentation.

    python bench/bench_volumes.py [--rounds 5] [--generated] [--far]

The volume is `data/pinky-512` of the folder named by FASCICLE_SHARED (its first 192 slices), or a generated one.
TensorStore writes it in every form once, in chunks of 64^3; then both read the whole of it from files, in turn, with
caches of files warm. MB/s are of voxels, by wall time and by CPU time of the process; the best of the rounds. Ratios
above 1 mean that ours is better. `--far` adds reading over HTTP from a server in another process.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import http.server
import io
import multiprocessing
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parent))

from bench_kernels import segmentation

SHARDING = {
    "@type": "neuroglancer_uint64_sharded_v1", "preshift_bits": 6, "hash": "identity", "minishard_bits": 0,
    "shard_bits": 2, "minishard_index_encoding": "gzip", "data_encoding": "gzip",
}  # fmt: skip
FORMS = [
    ("raw", "uint8", False), ("raw", "uint64", False), ("raw", "uint64", True), ("jpeg", "uint8", False),
    ("jpeg", "uint8", True), ("png", "uint8", False), ("compressed_segmentation", "uint64", False),
    ("compressed_segmentation", "uint64", True), ("compressed_segmentation", "uint32", False),
]  # fmt: skip


def best(call: Callable[[], Any], size: int, rounds: int) -> tuple[float, float]:
    """MB/s by wall time and by CPU time."""
    wall = cpu = float("inf")
    for _ in range(rounds):
        begin, worked = time.perf_counter(), time.process_time()
        call()
        wall, cpu = min(wall, time.perf_counter() - begin), min(cpu, time.process_time() - worked)
    return size / wall / 1e6, size / max(cpu, 1e-9) / 1e6


def line(what: str, ours: tuple[float, float], theirs: tuple[float, float]) -> None:
    ratios = f"{ours[0] / theirs[0]:5.1f}x {ours[1] / theirs[1]:5.1f}x"
    print(f"{what:50s} {ours[0]:7.0f} {theirs[0]:7.0f}  {ours[1]:7.0f} {theirs[1]:7.0f}   {ratios}", flush=True)


def in_turn(ours: Callable[[], Any], theirs: Callable[[], Any], size: int, rounds: int) -> list[tuple[float, float]]:
    """The best of both, round by round, so that what else the machine does hits them alike."""
    found = [(0.0, 0.0), (0.0, 0.0)]
    for _ in range(rounds):
        for i, call in enumerate((ours, theirs)):
            wall, cpu = best(call, size, 1)
            found[i] = max(found[i][0], wall), max(found[i][1], cpu)
    return found


def write(folder: Path, volume: NDArray[Any], encoding: str, sharded: bool) -> None:
    import tensorstore

    labels = encoding == "compressed_segmentation"
    scale: dict[str, Any] = {
        "size": volume.shape[::-1], "resolution": [8, 8, 8], "chunk_size": [64, 64, 64], "encoding": encoding,
    }  # fmt: skip
    if labels:
        scale["compressed_segmentation_block_size"] = [8, 8, 8]
    if sharded:
        scale["sharding"] = SHARDING | ({"data_encoding": "raw"} if encoding == "jpeg" else {})
    kind = {"type": "segmentation" if labels else "image", "data_type": volume.dtype.name, "num_channels": 1}
    spec = {
        "driver": "neuroglancer_precomputed", "kvstore": f"file://{folder}/", "multiscale_metadata": kind,
        "scale_metadata": scale, "create": True,
    }  # fmt: skip
    tensorstore.open(spec).result().write(volume.T[..., None]).result()


def readers(address: str) -> tuple[Callable[[], Any], Callable[[], Any]]:
    import tensorstore

    from fascicle.volumes import open_volume

    source = open_volume(address)
    kvstore = address if "://" in address else f"file://{address}/"
    store = tensorstore.open({"driver": "neuroglancer_precomputed", "kvstore": kvstore}).result()
    return lambda: source.read((0, 0, 0), source.shape_zyx), lambda: store.read().result()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 1 << 20

    def send_head(self) -> Any:
        """With ranges, which the base class does not know."""
        wanted = self.headers.get("Range", "")
        path = self.translate_path(self.path)
        if not wanted or not os.path.isfile(path):
            return super().send_head()
        size = os.path.getsize(path)
        first, _, last = wanted.removeprefix("bytes=").partition("-")
        start, stop = int(first), min(int(last) + 1 if last else size, size)
        with open(path, "rb") as file:
            file.seek(start)
            data = file.read(stop - start)
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{size}")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        return io.BytesIO(data)

    def log_message(self, *_: object) -> None: ...


def _serve(folder: str, pipe: Any) -> None:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=folder))
    pipe.send(server.server_port)
    server.serve_forever()


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_serve, args=(str(folder), there), daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{here.recv()}"
    finally:
        process.terminate()
        process.join()


def codecs(labels: NDArray[np.uint64], rounds: int) -> None:
    """Compressed segmentation of chunks of 64^3 alone, in one thread."""
    import compressed_segmentation

    from fascicle.formats import volume_chunks

    chunks = [
        np.ascontiguousarray(labels[z : z + 64, y : y + 64, x : x + 64])
        for z in range(0, 128, 64) for y in range(0, 256, 64) for x in range(0, 256, 64)
    ]  # fmt: skip
    turned = [np.asfortranarray(chunk.T) for chunk in chunks]
    size = sum(chunk.nbytes for chunk in chunks)
    ours = [volume_chunks.encode(chunk[None], "compressed_segmentation") for chunk in chunks]
    theirs = [bytes(compressed_segmentation.compress(chunk, order="F")) for chunk in turned]
    assert ours == theirs
    shape, dtype = (1, 64, 64, 64), np.dtype("u8")
    pairs: list[tuple[str, Callable[[], Any], Callable[[], Any]]] = [
        ("encode u64, one thread (compressed-segmentation)",
         lambda: [volume_chunks.encode(chunk[None], "compressed_segmentation") for chunk in chunks],
         lambda: [compressed_segmentation.compress(chunk, order="F") for chunk in turned]),
        ("decode u64, one thread (compressed-segmentation)",
         lambda: [volume_chunks.decode(data, "compressed_segmentation", shape, dtype) for data in ours],
         lambda: [compressed_segmentation.decompress(data, (64, 64, 64), np.uint64, order="F") for data in ours]),
    ]  # fmt: skip
    for what, mine, other in pairs:
        line(what, *in_turn(mine, other, size, rounds))


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--generated", action="store_true")
    arguments.add_argument("--far", action="store_true")
    options = arguments.parse_args()
    name, labels = segmentation(options.generated)
    labels = np.ascontiguousarray(labels[:192])
    gray = ((labels * np.uint64(2654435761)) >> np.uint64(20)).astype(np.uint8) // 8
    gray += np.random.default_rng(0).integers(0, 8, gray.shape, np.uint8)
    print(f"{name}: {labels.shape[::-1]} voxels\n")
    heads = f"{'ours':>7s} {'theirs':>7s}  {'/CPU s':>7s} {'theirs':>7s}   {'wall':>6s} {'CPU':>6s}"
    print(f"{'MB/s of voxels':50s} {heads}")
    codecs(labels, options.rounds)
    with tempfile.TemporaryDirectory(prefix="bench-volumes-") as temporary:
        root = Path(temporary)
        for encoding, dtype, sharded in FORMS:
            volume = gray if dtype == "uint8" else labels.astype(dtype)
            form = f"{encoding} {dtype}{' sharded' if sharded else ''}"
            write(root / form.replace(" ", "-"), volume, encoding, sharded)
            mine, other = readers(str(root / form.replace(" ", "-")))
            if encoding != "jpeg":
                assert np.array_equal(mine(), other()[..., 0].T)
            line(f"read {form}", *in_turn(mine, other, volume.nbytes, options.rounds))
        if options.far:
            with served(root) as url:
                for encoding, dtype, sharded in FORMS:
                    form = f"{encoding} {dtype}{' sharded' if sharded else ''}"
                    size = labels.size * np.dtype(dtype).itemsize
                    mine, other = readers(f"{url}/{form.replace(' ', '-')}")
                    line(f"read {form}, http", *in_turn(mine, other, size, options.rounds))
    print(f"\npeak memory of this process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10} MB")


if __name__ == "__main__":
    main()
