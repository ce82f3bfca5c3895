"""The memory of a server does not follow the size of what is posted."""

from __future__ import annotations

import gzip
import http.client
import struct
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest

from fascicle.formats import label_block
from serving import MemoryWatch, RunningServer, new_instance, new_repo

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc"),
]

MEMORY_BYTES = 8 << 20
PROGRAM = f"""
from fascicle.cli import main
from fascicle.datatypes.labelmap import new_blocks
from fascicle.store import spool

new_blocks.OPEN_BYTES = spool.MEMORY_BYTES = {MEMORY_BYTES}
main()
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server that keeps a few MB of an upload in memory, so that one need not be of GBs to show it."""
    folder = tmp_path_factory.mktemp("large") / "data"
    running = RunningServer(folder, ("--workers", "1"), program=[sys.executable, "-c", PROGRAM]).start()
    yield running
    running.kill9()


def post(server: RunningServer, path: str, pieces: Iterable[bytes]) -> None:
    """Send a body whose length is not said before."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=120)
    connection.request("POST", path, pieces, {"Transfer-Encoding": "chunked"}, encode_chunked=True)
    reply = connection.getresponse()
    assert reply.status == 200, reply.read()[:500]
    connection.close()


def label_blocks(count: int) -> Iterator[bytes]:
    """A stream of blocks that cannot be compressed: 130 kB each."""
    dense = np.random.default_rng(1).integers(1, 17, (64, 64, 64)).astype(np.uint64)
    payload = gzip.compress(label_block.encode(dense), 1)
    for i in range(count):
        yield struct.pack("<iiiI", i % 10, i // 10 % 10, i // 100, len(payload)) + payload


def planes(shape_xy: tuple[int, int], dtype: str, count: int) -> Iterator[bytes]:
    rng = np.random.default_rng(2)
    some = [rng.integers(1, 17 if dtype == "<u8" else 256, shape_xy).astype(dtype).tobytes() for _ in range(3)]
    for i in range(count):
        yield some[i % 3]


UPLOADS = {
    "seg/ingest-supervoxels?scale=0": (60, lambda: label_blocks(700)),
    "seg/blocks": (80, lambda: label_blocks(600)),
    "seg/raw/0_1_2/512_512_64/0_0_0": (50, lambda: planes((512, 512), "<u8", 64)),
    "img/raw/0_1_2/1024_1024_96/0_0_0": (40, lambda: planes((1024, 1024), "u1", 96)),
}
"""By path: MB by which the server may grow, and the body, which is much larger."""


def test_memory_while_large_bodies_are_posted(server: RunningServer) -> None:
    with server.client() as client:
        root = new_repo(client)
        new_instance(client, root, "labelmap", "seg", MaxDownresLevel="2")
        new_instance(client, root, "uint8blk", "img")
        post(server, f"/api/node/{root}/seg/blocks?downres=true", label_blocks(32))
        post(server, f"/api/node/{root}/img/raw/0_1_2/1024_1024_32/0_0_0", planes((1024, 1024), "u1", 32))
        for path, (allowed_mb, body) in UPLOADS.items():
            with MemoryWatch(server) as before:
                time.sleep(0.05)
            with MemoryWatch(server, 0.03) as during:
                post(server, f"/api/node/{root}/{path}", body())
            grown_mb = (during.peak_anonymous_bytes - before.peak_anonymous_bytes) / 1e6
            assert grown_mb < allowed_mb, f"{path}: {grown_mb:.0f} MB"
        plane = next(planes((1024, 1024), "u1", 1))
        assert client.get(f"/api/node/{root}/img/raw/0_1_2/1024_1024_1/0_0_93").expect().body == plane
        box = client.get(f"/api/node/{root}/seg/raw/0_1_2/512_512_1/0_0_0?supervoxels=true").expect().body
        assert box == next(planes((512, 512), "<u8", 1))
    assert list(server.folder.glob("tmp*")) == []
