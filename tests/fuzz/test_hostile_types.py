"""Requests that would hurt careless annotations, regions, counts, notes, meshes and tiles: vast boxes, bombs, loops."""

from __future__ import annotations

import json
import struct
import time
import zlib
from collections.abc import Callable, Iterator

import pytest

from fascicle.formats import tar
from fuzz.scene import ANSWER_LIMIT_S, Scene, make_scene
from serving import Client, RunningServer

PEAK_GROWTH_BYTES = 600_000_000
FAR = 2**31 - 1


@pytest.fixture(scope="module")
def own_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    running = RunningServer(tmp_path_factory.mktemp("hostile-types") / "data").start()
    yield running
    running.kill9()


@pytest.fixture(scope="module")
def scene(own_server: RunningServer) -> Scene:
    with own_server.client() as patient:  # what is compiled at first use is not what is tested here
        made = make_scene(patient)
        made.digest(patient)
        return made


@pytest.fixture(scope="module")
def before(own_server: RunningServer, scene: Scene) -> str:
    """What the scene is while all requests are refused."""
    with own_server.client() as patient:
        return scene.digest(patient)


@pytest.fixture
def client(own_server: RunningServer) -> Iterator[Client]:
    with own_server.client(ANSWER_LIMIT_S) as connection:
        yield connection


def tar_claim(size: int) -> bytes:
    """The header of a file that claims to be large."""
    header = bytearray(tar.entry(b"7.drc", b"")[:512])
    header[124:136] = b"\x80" + size.to_bytes(11, "big")
    header[148:156] = b"        "
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


def png_bomb(width: int, height: int) -> bytes:
    """A small PNG of a great many black pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    packer = zlib.compressobj(9)
    row = bytes(width + 1)
    rows = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def element(**members: object) -> bytes:
    return json.dumps([{"Pos": [1, 2, 3], "Kind": "Note", **members}]).encode()


def refused() -> dict[str, tuple[str, str, str, Callable[[], bytes]]]:
    """Name -> the instance, method, path, and body of what must be a 4xx that changes nothing."""
    deep, large = (lambda: b"[" * 100_000), (lambda: b"[" + b"9" * 10_000 + b"]")
    return {
        "elements: deep JSON": ("points", "POST", "/elements", deep),
        "elements: large numbers": ("points", "POST", "/elements", lambda: element(Pos=[10**30, 0, 0])),
        "elements: beyond 32 bits": ("points", "POST", "/elements", lambda: element(Pos=[1 << 31, 0, 0])),
        "elements: an unknown kind": ("points", "POST", "/elements", lambda: element(Kind="Synapse")),
        "elements: an unknown relation": (
            "points", "POST", "/elements", lambda: element(Rels=[{"Rel": "Beside", "To": [1, 2, 3]}])),
        "elements: half an object": ("points", "POST", "/elements", lambda: element()[:-4]),
        "blocks: a bad name": ("points", "POST", "/blocks", lambda: b'{"0,0,0":[],"1;2;3":[]}'),
        "labels: no number": ("points", "POST", "/labels", lambda: b'{"x":"[]"}'),
        "labels: deep": ("points", "POST", "/labels", lambda: b'{"5":' + b"[" * 50_000),
        "a box of text": ("points", "GET", "/elements/a_b_c/0_0_0", bytes),
        "a box beyond 32 bits": ("points", "GET", "/elements/1_1_1/99999999999_0_0", bytes),
        "a move of nothing": ("points", "POST", "/move/1_1_1/2_2_2", bytes),
        "spans: deep JSON": ("region", "POST", "/roi", deep),
        "spans: x1 < x0": ("region", "POST", "/roi", lambda: b"[[0,0,0,1],[0,0,5,4]]"),
        "spans: fractions": ("region", "POST", "/roi", lambda: b"[[0,0,0,1.5]]"),
        "spans: large numbers": ("region", "POST", "/roi", large),
        "a mask of 10^27 voxels": ("region", "GET", "/mask/0_1_2/1000000000_1000000000_1000000000/0_0_0", bytes),
        "a mask of -5": ("region", "GET", "/mask/0_1_2/-5_5_5/0_0_0", bytes),
        "a partition of nothing": ("region", "GET", "/partition?batchsize=0", bytes),
        "points of text": ("region", "POST", "/ptquery", lambda: b'[["a",1,2]]'),
        "counts of text": ("counts", "GET", "/counts/PreSyn", lambda: b'["a"]'),
        "counts: deep JSON": ("counts", "GET", "/counts/PreSyn", deep),
        "counts of an unknown kind": ("counts", "GET", "/top/5/Synapse", bytes),
        "top -5": ("counts", "GET", "/top/-5/PreSyn", bytes),
        "a note: deep JSON": ("notes", "POST", "/key/7?u=x", lambda: b'{"bodyid":7,"a":' + deep()),
        "a note of another body": ("notes", "POST", "/key/7?u=x", lambda: b'{"bodyid":8}'),
        "a note of nobody": ("notes", "POST", "/key/7", lambda: b'{"bodyid":7}'),
        "notes: a cut off message": ("notes", "POST", "/keyvalues?u=x", lambda: b"\x0a\xff\xff\xff\x0f1"),
        "a query: deep JSON": ("notes", "POST", "/query", deep),
        "a file of 2^60 bytes": ("meshes", "POST", "/load", lambda: tar_claim(1 << 60)),
        "a file of 2^80 bytes": ("meshes", "POST", "/load", lambda: tar_claim(1 << 80) + bytes(10_000)),
        "a file that ends early": ("meshes", "POST", "/load", lambda: tar_claim(1 << 29) + bytes(10_000)),
        "an endless name": (
            "meshes", "POST", "/load", lambda: tar.entry(b"7" * 2_000_000 + b".drc", b"x")),
        "supervoxels of text": ("meshes", "GET", "/exists", lambda: b'["a"]'),
        "supervoxels: deep JSON": ("meshes", "GET", "/exists", deep),
        "a tile of 2^31 pixels": (
            "tiles", "POST", "/metadata",
            lambda: b'{"Levels":{"0":{"Resolution":[8,8,8],"TileSize":[65536,65536,65536]}}}'),
        "levels: deep JSON": ("tiles", "POST", "/metadata", deep),
        "a slice of 10^18 pixels": ("tiles", "GET", "/raw/xy/1000000000_1000000000/0_0_0", bytes),
        "a slice of many tiles": ("tiles", "GET", "/isotropic/xy/2147483647_2147483647/0_0_0", bytes),
        "tiles of one pixel": (
            "tiles", "POST", "/generate", lambda: b'{"0":{"Resolution":[8,8,8],"TileSize":[1,1,1]}}'),
    }  # fmt: skip


@pytest.mark.parametrize("name", list(refused()))
def test_hostile_requests_are_refused(
    own_server: RunningServer, client: Client, scene: Scene, before: str, name: str
) -> None:
    instance, method, path, make = refused()[name]
    body = make()
    began = time.monotonic()
    with own_server.watch_memory() as memory:
        start_bytes = memory.peak_anonymous_bytes
        reply = client.request(method, getattr(scene, instance) + path, body)
    assert 400 <= reply.status < 500, f"{reply.status} {reply.body[:300]!r}"
    assert reply.body.strip(), "a refusal without a reason"
    assert time.monotonic() - began < ANSWER_LIMIT_S
    assert memory.peak_anonymous_bytes - start_bytes < PEAK_GROWTH_BYTES
    assert scene.digest(client) == before


def allowed() -> dict[str, tuple[str, str, str, bytes]]:
    """Name -> the instance, method, path, and body of what makes sense, and must be answered soon."""
    vast = f"{FAR}_{FAR}_{FAR}/-1073741824_-1073741824_-1073741824"
    return {
        "elements of all space": ("points", "GET", f"/elements/{vast}", b""),
        "blocks of all space": ("points", "GET", f"/blocks/{vast}", b""),
        "elements far away": ("points", "GET", "/elements/10_10_10/2147483600_-2147483648_0", b""),
        "a far element": ("points", "POST", "/elements", element(Pos=[FAR, -FAR, -FAR - 1])),
        "a label that cannot be": ("points", "GET", "/label/18446744073709551615", b""),
        "a long tag": ("points", "GET", "/tag/" + "t" * 5000, b""),
        "a long property": ("points", "POST", "/elements", element(Prop={"p": "x" * 1_000_000})),
        "many elements at one place": (
            "points", "POST", "/elements", b"[" + b",".join([element()[1:-1]] * 20_000) + b"]"),
        "a span of 2^32 blocks": ("region", "POST", "/roi", b"[[5,5,-2147483648,2147483647]]"),
        "a mask of it": ("region", "GET", "/mask/0_1_2/64_64_64/1000000_160_160", b""),
        "points in it": ("region", "POST", "/ptquery", b"[[2147483647,165,165],[-2147483648,165,165]]"),
        "spans at the ends": (
            "region", "POST", "/roi", b"[[-2147483648,2147483647,5,5],[2147483647,-2147483648,2147483647,2147483647]]"),
        "a wide range of notes": ("notes", "GET", "/keyrange/0/18446744073709551615", b""),
        "half a pattern, which is a text": ("notes", "POST", "/query", b'{"type":"re/("}'),
        "notes with a slow pattern": ("notes", "POST", "/query", b'{"type":"re/^(a+)+$"}'),
        "a note for a slow pattern": (
            "notes", "POST", "/key/3?u=x", b'{"bodyid":3,"type":"' + b"a" * 40 + b'!"}'),
        "the slow pattern on it": ("notes", "POST", "/query", b'{"type":"re/^(a+)+$"}'),
        "the most counts": ("counts", "GET", "/top/1000000000/PreSyn", b""),
        "counts from far": ("counts", "GET", "/threshold/0/PreSyn?offset=1000000000&n=1000000000", b""),
        "a tile far away": ("tiles", "GET", "/tile/xy/0/2147483647_-2147483648_0", b""),
        "a wide slice": ("tiles", "GET", "/raw/xy/60000_100/0_0_0", b""),
        "a bomb as a tile": ("tiles", "POST", "/tile/xy/0/0_0_0", png_bomb(20_000, 20_000)),
    }  # fmt: skip


def test_vast_requests_are_answered_soon(own_server: RunningServer, client: Client, scene: Scene) -> None:
    for name, (instance, method, path, body) in allowed().items():
        began = time.monotonic()
        with own_server.watch_memory() as memory:
            start_bytes = memory.peak_anonymous_bytes
            reply = client.request(method, getattr(scene, instance) + path, body)
        assert reply.status == 200, f"{name}: {reply.status} {reply.body[:300]!r}"
        assert time.monotonic() - began < ANSWER_LIMIT_S / 2, name
        assert memory.peak_anonymous_bytes - start_bytes < PEAK_GROWTH_BYTES, name
    reply = client.get(f"{scene.tiles}/raw/xy/64_64/0_0_0")
    assert reply.status == 400, "a picture larger than a tile is not opened"


def test_schemas_cannot_hold_up_the_server(client: Client, scene: Scene) -> None:
    """Schemas that refer to themselves, to files and to other servers; then notes are posted."""
    for schema in (
        b'{"$ref":"#"}', b'{"$defs":{"a":{"$ref":"#/$defs/b"},"b":{"$ref":"#/$defs/a"}},"$ref":"#/$defs/a"}',
        b'{"$ref":"file:///etc/passwd"}', b'{"$ref":"http://127.0.0.1:1/x"}', b'{"$ref":5}', b"[]", b"5", b"{",
        b'{"properties":{"type":{"pattern":"^(a+)+$"}}}', b'{"type":"nonsense"}', b'{"allOf":' * 3000,
    ):  # fmt: skip
        assert client.post(f"{scene.notes}/json_schema", schema).status in (200, 400), schema[:100]
        note = b'{"bodyid":4,"type":"' + b"a" * 40 + b'!"}'
        began = time.monotonic()
        reply = client.post(f"{scene.notes}/key/4?u=x", note)
        assert reply.status in (200, 400), f"{reply.status} {reply.body[:300]!r} with {schema[:100]!r}"
        assert time.monotonic() - began < ANSWER_LIMIT_S / 2, schema[:100]
    client.delete(f"{scene.notes}/json_schema").expect()
