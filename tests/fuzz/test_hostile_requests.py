"""Particular requests that would hurt a careless server: claims of impossible sizes, bombs, broken HTTP."""

from __future__ import annotations

import gzip
import struct
import time
from collections.abc import Callable, Iterator

import pytest

from fuzz.scene import ANSWER_LIMIT_S, Scene, bomb, label_block, long_bomb, make_scene, record, talk
from serving import Client, RunningServer

PEAK_GROWTH_BYTES = 600_000_000


@pytest.fixture(scope="module")
def own_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    running = RunningServer(tmp_path_factory.mktemp("hostile") / "data").start()
    yield running
    running.kill9()


@pytest.fixture(scope="module")
def scene(own_server: RunningServer) -> Scene:
    with own_server.client() as client:
        return make_scene(client)


@pytest.fixture
def client(own_server: RunningServer) -> Iterator[Client]:
    with own_server.client(ANSWER_LIMIT_S) as connection:
        yield connection


HUGE = 1 << 31


def hostile_bodies() -> dict[str, tuple[str, Callable[[], bytes]]]:
    """Requests to the labelmap that must be refused: path and body."""
    rles = struct.pack("<4BII", 0, 3, 0, 0, 0, 1)
    return {
        "a block of 2^31 voxels": ("/blocks", lambda: record(label_block((160, 160, 160, 1), bytes(8)))),
        "a block of 2^96 voxels": ("/blocks", lambda: record(label_block((HUGE, HUGE, HUGE, 1), bytes(8)))),
        "a block of 2^31 voxels and 2 labels": ("/blocks", lambda: record(label_block((160, 160, 160, 2), bytes(999)))),
        "a block of 2^31 labels": ("/blocks", lambda: record(label_block((8, 8, 8, HUGE), bytes(100)))),
        "a block without labels": ("/blocks", lambda: record(label_block((8, 8, 8, 0), bytes(100)))),
        "a block of another size": ("/blocks", lambda: record(label_block((2, 2, 2, 1), bytes(8)))),
        "a block that ends early": ("/blocks", lambda: record(label_block((8, 8, 8, 5), bytes(100)))),
        "an index that points outside": (
            "/blocks",
            lambda: record(label_block((8, 8, 8, 2), bytes(16) + b"\1\0" * 512 + b"\xff\xff\0\0" * 512)),
        ),
        "sub-blocks of 65535 labels": (
            "/blocks",
            lambda: record(label_block((8, 8, 8, 2), bytes(16) + b"\xff" * 5000)),
        ),
        "a record of 4 GB": ("/blocks", lambda: record(label_block((8, 8, 8, 1), bytes(8)), size=0xFFFFFFFF)),
        "a record that ends early": ("/blocks", lambda: record(label_block((8, 8, 8, 1), bytes(8)))[:-5]),
        "half a header": ("/blocks", lambda: record(label_block((8, 8, 8, 1), bytes(8))) + bytes(9)),
        "a block at 2^31": (
            "/blocks",
            lambda: record(label_block((8, 8, 8, 1), bytes(8)), at=(2**31 - 1, 0, -(2**31))),
        ),
        "a bomb as a block": ("/blocks", lambda: struct.pack("<3iI", 0, 0, 0, len(b := long_bomb(1 << 30))) + b),
        "a bomb to ingest": ("/ingest-supervoxels", lambda: struct.pack("<3iI", 0, 0, 0, len(b := bomb(1 << 30))) + b),
        "a bomb as volume": ("/raw/0_1_2/64_64_64/0_0_0?compression=gzip", lambda: long_bomb(1 << 30)),
        "bombs one after another": ("/raw/0_1_2/64_64_64/0_0_0?compression=gzip", lambda: bomb(1 << 30)),
        "a volume of 10^27 voxels": ("/raw/0_1_2/1024000000_1024000000_1024000000/0_0_0", lambda: bytes(100)),
        "a volume of -64": ("/raw/0_1_2/-64_64_64/0_0_0", lambda: bytes(8 * 64**3)),
        "a volume of nothing": ("/raw/0_1_2/0_0_0/0_0_0", lambda: bytes(8 * 64**3)),
        "lz4 of nothing": ("/raw/0_1_2/640_640_640/0_0_0?compression=lz4", lambda: b"\xff" * 3000),
        "2^31 runs": ("/split-supervoxel/5", lambda: struct.pack("<4BII", 0, 3, 0, 0, 0, HUGE) + bytes(64)),
        "a run of 2^31 voxels": ("/split-supervoxel/5", lambda: rles + struct.pack("<4i", 0, 0, 0, 2**31 - 1)),
        "a run of -1 voxels": ("/split-supervoxel/5", lambda: rles + struct.pack("<4i", 20, 10, 12, -1)),
        "a run at the end of space": ("/split-supervoxel/5", lambda: rles + struct.pack("<4i", 2**31 - 1, 0, 0, 9)),
        "deep JSON": ("/merge", lambda: b"[" * 100_000),
        "JSON of 10^6 zeros": ("/merge", lambda: b"[1" + b",0" * 1_000_000 + b"]"),
        "JSON of large numbers": ("/merge", lambda: b"[1, 1" + b"0" * 10_000 + b"]"),
        "JSON of fractions": ("/merge", lambda: b"[1.5, 4]"),
        "an index that is no message": ("/index/5", lambda: b"\xff" * 100),
        "a message longer than its body": ("/indices", lambda: b"\x0a\xff\xff\xff\xff\x0f" + bytes(50)),
        "mappings that are no message": ("/mappings", lambda: b"\x0a\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80"),
        "all numbers there are": ("/nextlabel/18446744073709551615", lambda: b""),
        "more numbers than there are": ("/nextlabel/18446744073709551616", lambda: b""),
        "no numbers": ("/nextlabel/0", lambda: b""),
    }


@pytest.mark.parametrize("name", list(hostile_bodies()))
def test_hostile_bodies_are_refused(own_server: RunningServer, client: Client, scene: Scene, name: str) -> None:
    path, body = hostile_bodies()[name]
    data = body()
    before = scene.digest(client)
    began = time.monotonic()
    with own_server.watch_memory() as memory:
        start_bytes = memory.peak_anonymous_bytes
        reply = client.post(scene.seg + path, data)
    assert 400 <= reply.status < 500, f"{reply.status} {reply.body[:300]!r}"
    assert reply.body.strip(), "a refusal without a reason"
    assert time.monotonic() - began < ANSWER_LIMIT_S
    assert memory.peak_anonymous_bytes - start_bytes < PEAK_GROWTH_BYTES
    assert scene.digest(client) == before


@pytest.mark.parametrize(
    "path",
    [
        "/raw/0_1_2/1000000000_1000000000_1000000000/0_0_0",
        "/raw/0_1_2/-5_10_10/0_0_0",
        "/raw/0_1_2/10_10/0_0_0",
        "/raw/0_1_2/10_10_10/0_0",
        "/raw/0_1_2/10_10_10",
        "/raw/9_9_9/10_10_10/0_0_0",
        "/raw/xy/1000000000_1000000000/0_0_0",
        "/raw/xy/-1_5/0_0_0/png",
        "/raw/0_1_2/10_10_10/0_0_0?scale=x",
        "/raw/0_1_2/10_10_10/0_0_0?compression=zip",
        "/raw/0_1_2/10_10_10/99999999999999999999_0_0",
        "/isotropic/xy/1000000000_1000000000/0_0_0",
        "/pseudocolor/xy/100000_100000/0_0_0",
        "/blocks/-64_64_64/0_0_0",
        "/blocks/63_64_64/0_0_0",
        "/blocks/64_64_64/1_0_0",
        "/specificblocks?blocks=1,2",
        "/specificblocks?blocks=a,b,c",
        "/label/1_2",
        "/label/99999999999999999999_0_0",
        "/sparsevol/0",
        "/sparsevol/abc",
        "/sparsevol/-5",
        "/sparsevol/99999999999999999999999",
        "/sparsevol/5?minx=abc",
        "/sparsevol/5?scale=abc",
        "/sparsevol/5?compression=zip",
        "/sparsevol-by-point/1_1_1_1",
        "/sparsevols-coarse/0/5",
        "/index/",
        "/index",
        "/index-version",
        "/proximity",
        "/mutations-range",
        "/history/5",
        "/nosuch",
        "/size/0",
        "/size/",
    ],
)
def test_hostile_reads_are_refused(client: Client, scene: Scene, path: str) -> None:
    reply = client.get(scene.seg + path)
    assert reply.status in (400, 404), f"{reply.status} {reply.body[:300]!r}"


@pytest.mark.parametrize(
    "path",
    [
        "/blocks/1024000000_1024000000_1024000000/0_0_0?compression=blocks",
        "/blocks/1024000000_1024000000_1024000000/-512000000_-512000000_-512000000?scale=1&compression=blocks",
        "/specificblocks?blocks=2147483647,-2147483648,0",
        "/listlabels?number=18446744073709551615",
        "/sparsevol/5?minx=-2147483648&maxx=2147483647",
        "/sparsevol-coarse/5?minz=-2147483648&maxz=2147483647",
        "/sparsevols-coarse/1/18446744073709551614",
        "/raw/0_1_2/64_64_64/1000000000_1000000000_1000000000",
        "/label/1000000000_1000000000_1000000000",
    ],
)
def test_reads_of_vast_regions_are_quick(client: Client, scene: Scene, path: str) -> None:
    began = time.monotonic()
    client.get(scene.seg + path).expect()
    assert time.monotonic() - began < 3


def test_images_refuse_too(client: Client, scene: Scene) -> None:
    for path in (
        "/raw/0_1_2/1000000000_1000000000_1000000000/0_0_0",
        "/raw/xy/100000000_100000000/0_0_0/jpg",
        "/raw/xy/-5_5/0_0_0/png",
        "/raw/0_1_2/-64_64_64/0_0_0",
        "/isotropic/xy/100000000_100000000/0_0_0/png",
    ):
        reply = client.get(scene.gray + path)
        assert reply.status == 400, f"{path}: {reply.status} {reply.body[:300]!r}"
    for path, body in (
        ("/raw/0_1_2/64_64_64/0_0_0", bytes(10)),
        ("/raw/0_1_2/64_64_64/1_0_0", bytes(64**3)),
        ("/raw/0_1_2/1024000000_1024000000_1024000000/0_0_0", bytes(10)),
        ("/blocks/0_0_0/1000000000", bytes(10)),
    ):
        reply = client.post(scene.gray + path, body)
        assert reply.status == 400, f"{path}: {reply.status} {reply.body[:300]!r}"


def test_broken_http_is_survived(own_server: RunningServer, client: Client, scene: Scene) -> None:
    """None of these may be answered with a 5xx, hang without end, or stop the server for others."""
    head = f"POST {scene.keys}/key/x HTTP/1.1\r\nHost: x\r\n"
    before = scene.digest(client)
    for data in (
        b"",
        b"\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        (head + "Content-Length: 100\r\n\r\nshort").encode(),
        (head + "Content-Length: -5\r\n\r\n").encode(),
        (head + "Content-Length: x\r\n\r\n").encode(),
        (head + "Content-Length: 5\r\nContent-Length: 7\r\n\r\n12345").encode(),
        (head + "Transfer-Encoding: chunked\r\n\r\nZZ\r\n").encode(),
        (head + "Transfer-Encoding: chunked\r\n\r\n5\r\nab").encode(),
        (head + "Transfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFF\r\nab").encode(),
        f"GET {scene.keys}/keys HTTP/1.1\r\nX: {'y' * 200_000}\r\n\r\n".encode(),
        b"GET /" + b"a" * 300_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /%ff%fe%00/\xff HTTP/1.1\r\nHost: x\r\n\r\n",
        f"GET {scene.keys}/key/%ff%fe HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode(),
    ):
        answer = talk(own_server, data)
        assert not answer.startswith((b"HTTP/1.1 5", b"HTTP/1.0 5")), f"{answer[:200]!r} to {data[:100]!r}"
        assert client.get("/api/server/info").status == 200
    assert scene.digest(client) == before


def test_a_body_that_claims_a_terabyte_is_refused(own_server: RunningServer, client: Client, scene: Scene) -> None:
    head = f"POST {scene.keys}/key/x HTTP/1.1\r\nHost: x\r\nContent-Length: {1 << 40}\r\n\r\n"
    with own_server.watch_memory() as memory:
        answer = talk(own_server, head.encode() + bytes(100_000))
    assert not answer or answer.startswith(b"HTTP/1.1 4"), answer[:200]
    assert memory.peak_anonymous_bytes < 1_000_000_000
    assert client.get(f"{scene.keys}/key/x").status == 404


def test_a_stream_that_stops_changes_only_what_it_brought(
    own_server: RunningServer, client: Client, scene: Scene
) -> None:
    """A client that goes away in the middle of its block stream leaves a server that works."""
    stream = record(label_block((8, 8, 8, 1), struct.pack("<Q", 77)), at=(5, 5, 5))
    head = f"POST {scene.seg}/blocks HTTP/1.1\r\nHost: x\r\nContent-Length: {len(stream) + 100}\r\n\r\n"
    talk(own_server, head.encode() + stream + bytes(10))
    assert client.get(f"{scene.seg}/size/5").status == 200
    assert client.get(f"{scene.seg}/size/77").status in (200, 404)
    gzip_head = f"POST {scene.seg}/blocks HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\n"
    talk(own_server, gzip_head.encode() + gzip.compress(bytes(100)))
    assert client.get(f"{scene.seg}/size/5").status == 200
