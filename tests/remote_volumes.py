"""Volumes on disk, and an HTTP server before them, for tests of instances whose voxels live elsewhere."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
from numpy.typing import NDArray

Array = NDArray[Any]
Triple = tuple[int, int, int]


def smooth_volume(shape_zyx: Triple, dtype: str = "uint8", seed: int = 0) -> Array:
    """Voxels that change slowly, none of them 0, so that JPEG is close to them."""
    rng = np.random.default_rng(seed)
    z, y, x = np.ogrid[: shape_zyx[0], : shape_zyx[1], : shape_zyx[2]]
    phase = rng.uniform(0, 6, 3)
    waves = np.sin(z / 9 + phase[0]) + np.sin(y / 7 + phase[1]) + np.sin(x / 8 + phase[2])
    gray: Array = 128 + 40 * waves
    if dtype == "float32":
        return (gray / 3).astype(dtype)
    top = np.iinfo(dtype).max
    return (gray / 256 * float(top)).astype(dtype)


def label_volume(shape_zyx: Triple, dtype: str = "uint64", count: int = 30, seed: int = 0) -> Array:
    """Cells around random points: labels of `dtype`, among them one that needs all of its bits; some background."""
    rng = np.random.default_rng(seed)
    seeds = rng.uniform(0, 1, (count, 3)) * shape_zyx
    labels = rng.permutation(np.arange(1, count + 1)).astype(np.uint64)
    labels[0] = np.iinfo(dtype).max if np.dtype(dtype).kind == "u" else 77
    labels[1] = 0
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in shape_zyx), indexing="ij"), -1).reshape(-1, 1, 3)
    nearest = np.concatenate([((part - seeds) ** 2).sum(-1).argmin(1) for part in np.array_split(grid, 64)])
    return labels[nearest].reshape(shape_zyx).astype(dtype)


def write_precomputed(
    folder: Path,
    scales_zyx: list[Array],
    encoding: str = "raw",
    chunk_xyz: Triple = (64, 64, 64),
    kind: str = "image",
    offset_xyz: Triple = (0, 0, 0),
    resolution: tuple[float, float, float] = (8, 8, 8),
    omit: set[Triple] | None = None,
) -> str:
    """An unsharded volume of scales, each half as fine as the one before; its address.

    `omit` are cells x, y, z of the finest scale whose chunks are not written.
    """
    scales = []
    for level, volume in enumerate(scales_zyx):
        key = "_".join(f"{r * 2**level:g}" for r in resolution)
        offset = tuple(o // 2**level for o in offset_xyz)
        scale: dict[str, Any] = {
            "key": key, "size": list(volume.shape[::-1]), "voxel_offset": list(offset),
            "resolution": [r * 2**level for r in resolution], "chunk_sizes": [list(chunk_xyz)], "encoding": encoding,
        }  # fmt: skip
        if encoding == "compressed_segmentation":
            scale["compressed_segmentation_block_size"] = [8, 8, 8]
        scales.append(scale)
        (folder / key).mkdir(parents=True, exist_ok=True)
        cx, cy, cz = chunk_xyz
        for z in range(0, volume.shape[0], cz):
            for y in range(0, volume.shape[1], cy):
                for x in range(0, volume.shape[2], cx):
                    if level == 0 and omit and (x // cx, y // cy, z // cz) in omit:
                        continue
                    part = np.ascontiguousarray(volume[z : z + cz, y : y + cy, x : x + cx])
                    spans = [
                        f"{a + o}-{a + o + n}" for a, o, n in zip((x, y, z), offset, part.shape[::-1], strict=True)
                    ]
                    (folder / key / "_".join(spans)).write_bytes(_encoded(part, encoding))
    info = {
        "@type": "neuroglancer_multiscale_volume", "type": kind, "data_type": scales_zyx[0].dtype.name,
        "num_channels": 1, "scales": scales,
    }  # fmt: skip
    (folder / "info").write_text(json.dumps(info))
    return f"file://{folder}"


def _encoded(part: Array, encoding: str) -> bytes:
    depth, height, width = part.shape
    if encoding == "raw":
        return part.tobytes()
    if encoding == "jpeg":
        data = simplejpeg.encode_jpeg(part.reshape(depth * height, width, 1), quality=90, colorspace="GRAY")
        return bytes(data)
    import compressed_segmentation

    return bytes(compressed_segmentation.compress(part.T, order="F"))


class _Handler(SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        bucket: Bucket = self.server.bucket  # type: ignore[attr-defined]
        bucket.requests.append(self.path)
        if bucket.delay_s:
            time.sleep(bucket.delay_s)
        if bucket.broken:
            self.send_error(500)
            return
        span = self.headers.get("Range", "").removeprefix("bytes=")
        path = Path(self.translate_path(self.path))
        if not span or not path.is_file():
            super().do_GET()
            return
        data = path.read_bytes()
        first, _, last = span.partition("-")
        start = int(first) if first else max(0, len(data) - int(last))
        stop = min(len(data), int(last) + 1) if first and last else len(data)
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{len(data)}")
        self.send_header("Content-Length", str(stop - start))
        self.end_headers()
        self.wfile.write(data[start:stop])

    def log_message(self, *args: Any) -> None:
        pass


class Bucket:
    """A folder behind HTTP, which can be made slow or broken."""

    def __init__(self, folder: Path) -> None:
        self.requests: list[str] = []
        self.delay_s = 0.0
        self.broken = False
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, directory=str(folder)))
        self._server.daemon_threads = True
        self._server.bucket = self  # type: ignore[attr-defined]
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def bucket(folder: Path) -> Iterator[Bucket]:
    """Serve a folder."""
    served = Bucket(folder)
    try:
        yield served
    finally:
        served.close()
