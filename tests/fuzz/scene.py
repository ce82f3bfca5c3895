"""What the fuzzers aim at: a repo with several types of data, its digest, and ways to talk to its server badly."""

from __future__ import annotations

import atexit
import gzip
import hashlib
import shutil
import socket
import struct
import tempfile
import time
import zlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random

import numpy as np

from fascicle.datatypes.slice_images import encode_png
from fascicle.formats import tar
from proofreading import wire
from remote_volumes import write_precomputed
from serving import TOKEN, Client, RunningServer, new_instance, new_repo

ANSWER_LIMIT_S = 10.0
KEEPS_PARTS = ("/load",)
"""Ends of paths whose refusals may have stored something: files of an archive before one that is refused stay."""
MEMORY_LIMIT_BYTES = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Scene:
    """A version with an instance of every datatype that holds some data. Paths end without a slash."""

    uuid: str
    keys: str
    seg: str
    gray: str
    points: str
    """Annotations that follow `seg`."""
    counts: str
    """Of `points`."""
    region: str
    notes: str
    """Of bodies, a neuronjson instance."""
    meshes: str
    """Blobs of the supervoxels of `seg`."""
    tiles: str
    """Drawn of `gray`."""
    far_seg: str
    """The voxels of `seg`, in a volume that lives elsewhere."""
    far_gray: str
    """Those of `gray`."""

    @property
    def instances(self) -> list[tuple[str, str]]:
        """Typenames and paths."""
        return [
            ("keyvalue", self.keys),
            ("labelmap", self.seg),
            ("uint8blk", self.gray),
            ("annotation", self.points),
            ("labelsz", self.counts),
            ("roi", self.region),
            ("neuronjson", self.notes),
            ("tarsupervoxels", self.meshes),
            ("imagetile", self.tiles),
            ("labelmap", self.far_seg),
            ("uint8blk", self.far_gray),
        ]

    def digest(self, client: Client) -> str:
        """A fingerprint of all that a request might have changed."""
        total = hashlib.sha256()
        questions = [
            ("GET", f"/api/repo/{self.uuid}/info", b""),
            ("GET", f"/api/node/{self.uuid}/log", b""),
            ("GET", f"/api/node/{self.uuid}/note", b""),
            ("GET", f"{self.keys}/keyrangevalues/0/~?json=true", b""),
            ("GET", f"{self.keys}/keys", b""),
            ("GET", f"{self.keys}/tags", b""),
            ("GET", f"{self.seg}/raw/0_1_2/128_64_64/0_0_0?supervoxels=true", b""),
            ("GET", f"{self.seg}/raw/0_1_2/64_32_32/0_0_0?scale=1", b""),
            ("GET", f"{self.seg}/listlabels?sizes=true", b""),
            ("GET", f"{self.seg}/index/1", b""),
            ("GET", f"{self.seg}/index/2", b""),
            ("GET", f"{self.seg}/mappings", b""),
            ("GET", f"{self.seg}/maxlabel", b""),
            ("GET", f"{self.seg}/mutations", b""),
            ("GET", f"{self.seg}/info", b""),
            ("GET", f"{self.gray}/raw/0_1_2/128_64_64/0_0_0", b""),
            ("GET", f"{self.gray}/info", b""),
            ("GET", f"{self.points}/all-elements", b""),
            *(("GET", f"{self.points}/label/{label}", b"") for label in range(1, 7)),
            *(("GET", f"{self.points}/tag/{tag}", b"") for tag in ("t1", "t2")),
            ("GET", f"{self.counts}/top/100/AllSyn", b""),
            ("GET", f"{self.counts}/top/100/Note", b""),
            ("GET", f"{self.region}/roi", b""),
            ("GET", f"{self.region}/info", b""),
            ("GET", f"{self.notes}/all?show=all", b""),
            ("GET", f"{self.notes}/fields", b""),
            *(("GET", f"{self.notes}/{name}", b"") for name in ("json_schema", "schema", "schema_batch")),
            ("GET", f"{self.meshes}/exists", b"[1,2,3,4,5,6,7,8]"),
            *(("GET", f"{self.meshes}/supervoxel/{supervoxel}", b"") for supervoxel in (1, 2, 5)),
            *(("GET", f"{self.tiles}/tile/{name}", b"") for name in TILES),
            ("GET", f"{self.far_seg}/raw/0_1_2/128_64_64/0_0_0?supervoxels=true", b""),
            ("GET", f"{self.far_seg}/mappings", b""),
            ("GET", f"{self.far_seg}/mutations", b""),
            ("GET", f"{self.far_seg}/maxlabel", b""),
            ("GET", f"{self.far_gray}/raw/0_1_2/128_64_64/0_0_0", b""),
        ]
        for method, path, body in questions:
            reply = client.request(method, path, body)
            total.update(f"{path} {reply.status} {len(reply.body)} ".encode() + reply.body)
        return total.hexdigest()


TILES = ("xy/0/0_0_0", "xy/0/1_0_0", "xz/0/0_5_0", "xy/1/0_0_0")
LEVELS = (
    b'{"0": {"Resolution": [8,8,8], "TileSize": [64,64,64]}, "1": {"Resolution": [16,16,16], "TileSize": [64,64,64]}}'
)
ELEMENTS = (
    b'[{"Pos":[10,5,5],"Kind":"PreSyn","Tags":["t1"],"Prop":{"conf":"0.9"},"Rels":[{"Rel":"PreSynTo","To":[70,5,5]}]},'
    b'{"Pos":[70,5,5],"Kind":"PostSyn","Rels":[{"Rel":"PostSynTo","To":[10,5,5]}]},'
    b'{"Pos":[40,20,20],"Kind":"Note","Tags":["t1","t2"]}]'
)
NOTE = b'{"bodyid":2,"type":"KC","status":"Traced","position":[1,2,3]}'
SPANS = b"[[0,0,0,2],[0,1,0,1],[1,0,1,3]]"


def archive(files: dict[str, bytes]) -> bytes:
    return b"".join(tar.entry(name.encode(), data) for name, data in files.items()) + tar.END


def segmentation() -> np.ndarray:
    """128 x 64 x 64 voxels of labels 1 to 6 in slabs and a box."""
    labels = np.zeros((64, 64, 128), np.uint64)
    labels[:] = (np.arange(128) // 32 + 1).astype(np.uint64)
    labels[10:30, 5:50, 20:90] = 5
    labels[40:50, 40:50, :] = 6
    labels[60:] = 0
    return labels


@cache
def volumes() -> tuple[str, str]:
    """Addresses of the segmentation and of the image as precomputed volumes; they stay while the tests run."""
    folder = Path(tempfile.mkdtemp(prefix="fascicle-fuzz-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    labels = segmentation()
    gray = (labels * 30).astype(np.uint8)
    return (
        write_precomputed(folder / "seg", [labels], kind="segmentation", encoding="compressed_segmentation"),
        write_precomputed(folder / "gray", [gray], encoding="jpeg"),
    )


def _elsewhere(client: Client, uuid: str, name: str, address: str) -> str:
    typename = "labelmap" if name == "fseg" else "uint8blk"
    settings = {"typename": typename, "dataname": name, "Source": address}
    client.post(f"/api/repo/{uuid}/instance?admintoken={TOKEN}", settings).expect()
    return f"/api/node/{uuid}/{name}"


def make_scene(client: Client) -> Scene:
    """A new repo with data."""
    uuid = new_repo(client, "fuzz")
    scene = Scene(
        uuid,
        new_instance(client, uuid, "keyvalue", "keys"),
        new_instance(client, uuid, "labelmap", "seg", MaxDownresLevel="2"),
        new_instance(client, uuid, "uint8blk", "gray", BlockSize="64,64,64"),
        new_instance(client, uuid, "annotation", "points"),
        new_instance(client, uuid, "labelsz", "counts"),
        new_instance(client, uuid, "roi", "region"),
        new_instance(client, uuid, "neuronjson", "notes"),
        new_instance(client, uuid, "tarsupervoxels", "meshes", Extension="drc"),
        new_instance(client, uuid, "imagetile", "tiles", Source="gray"),
        *(_elsewhere(client, uuid, name, address) for name, address in zip(("fseg", "fgray"), volumes(), strict=True)),
    )
    for name in ("a", "b", "c"):
        client.post(f"{scene.keys}/key/{name}", name.encode() * 50).expect()
    labels = segmentation()
    client.post(f"{scene.seg}/raw/0_1_2/128_64_64/0_0_0", labels.astype("<u8").tobytes()).expect()
    client.post(f"{scene.seg}/merge", [2, 3]).expect()
    client.post(f"{scene.gray}/raw/0_1_2/128_64_64/0_0_0", (labels * 30).astype(np.uint8).tobytes()).expect()
    for path, names in ((scene.points, "seg"), (scene.counts, "points"), (scene.meshes, "seg")):
        client.post(f"{path}/sync", {"sync": names}).expect()
    while not client.post(f"{scene.far_seg}/index-source").expect().json()["complete"]:
        pass
    client.post(f"{scene.points}/elements", ELEMENTS).expect()
    client.post(f"{scene.region}/roi", SPANS).expect()
    client.post(f"{scene.notes}/key/2?u=ann", NOTE).expect()
    client.post(f"{scene.notes}/key/5?u=bob", b'{"bodyid":5,"type":"","soma":[1,2]}').expect()
    client.post(f"{scene.notes}/schema", b'{"type":"object"}').expect()
    client.post(f"{scene.meshes}/load", archive({"1.drc": b"one", "2.drc": b"two" * 500, "5.drc": b""})).expect()
    client.post(f"{scene.tiles}/metadata", b'{"Levels":' + LEVELS + b"}").expect()
    client.post(f"{scene.tiles}/tile/xy/0/0_0_0", encode_png(np.full((64, 64), 7, np.uint8))).expect()
    return scene


def talk(server: RunningServer, data: bytes, half_close: bool = True) -> bytes:
    """Send raw bytes on a connection of their own; what comes back until the server closes it or time is up.

    An AssertionError if the server neither answers nor closes.
    """
    with socket.create_connection(("127.0.0.1", server.port), timeout=ANSWER_LIMIT_S) as connection:
        deadline = time.monotonic() + ANSWER_LIMIT_S
        answer = b""
        try:
            connection.sendall(data)
            if half_close:
                connection.shutdown(socket.SHUT_WR)
            while time.monotonic() < deadline:
                piece = connection.recv(1 << 16)
                if not piece:
                    return answer
                answer += piece
        except (ConnectionResetError, BrokenPipeError):
            return answer
        except TimeoutError:
            pass
        assert answer, f"neither an answer nor an end within {ANSWER_LIMIT_S:g} s to {data[:100]!r}"
        return answer


def label_block(header: tuple[int, int, int, int], rest: bytes = b"") -> bytes:
    """A label block that claims what it likes: sub-blocks along x, y, z, labels."""
    return struct.pack("<4I", *header) + rest


def record(block: bytes, at: tuple[int, int, int] = (0, 0, 0), size: int | None = None) -> bytes:
    """A record of a block stream around a label block, gzipped."""
    payload = gzip.compress(block, 6, mtime=0)
    return struct.pack("<3iI", *at, len(payload) if size is None else size) + payload


def bomb(size_bytes: int) -> bytes:
    """A small gzip stream of a great many zeros."""
    piece = gzip.compress(bytes(1 << 24), 9, mtime=0)
    return piece * (size_bytes >> 24)


def long_bomb(size_bytes: int) -> bytes:
    """The same as a single gzip member."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    zeros = bytes(1 << 20)
    return b"".join(packer.compress(zeros) for _ in range(size_bytes >> 20)) + packer.flush()


# -- protobuf ----------------------------------------------------------------------------------------------------


def varint(value: int) -> bytes:
    out = bytearray()
    while True:
        byte, value = value & 127, value >> 7
        out.append(byte | (128 if value else 0))
        if not value:
            return bytes(out)


def field(number: int, value: int | bytes) -> bytes:
    """A protobuf field: a varint or bytes."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def label_index(label: int, counts: dict[tuple[int, int, int], dict[int, int]]) -> bytes:
    """A LabelIndex message."""
    message = b""
    for (x, y, z), inner in counts.items():
        pairs = b"".join(field(1, field(1, supervoxel) + field(2, count)) for supervoxel, count in inner.items())
        message += field(1, field(1, z << 42 | y << 21 | x) + field(2, pairs))
    return message + field(2, label)


def valid_payloads(scene: Scene) -> list[tuple[str, str, bytes]]:
    """Method, path and body of requests that are right, as material for mutation."""
    labels = segmentation()
    stream = wire.block_stream({(0, 0, 0): labels[:, :, :64], (1, 0, 0): labels[:, :, 64:]})
    points = np.argwhere(labels == 5)
    rles = wire.legacy_rles(points[: len(points) // 2])
    index = label_index(5, {(0, 0, 0): {5: 100, 7: 9}, (1, 2, 3): {5: 1}})
    ops = field(1, field(1, 1) + field(2, 10) + field(3, varint(10) + varint(300)))
    pairs = b"".join(field(1, field(1, name) + field(2, name * 9)) for name in (b"k1", b"k2"))
    seg, keys, gray = scene.seg, scene.keys, scene.gray
    points, counts, region, notes = scene.points, scene.counts, scene.region, scene.notes
    meshes, tiles = scene.meshes, scene.tiles
    two_notes = b"".join(
        field(1, field(1, b"%d" % body) + field(2, b'{"bodyid":%d,"type":"PN"}' % body)) for body in (2, 9)
    )
    query = b'[{"type":["KC","re/^P"]},{"position":[1],"status":"exists/1"}]'
    return [
        ("POST", f"{seg}/blocks?downres=true", stream),
        ("POST", f"{seg}/blocks?noindexing=true&scale=1", stream),
        ("POST", f"{seg}/ingest-supervoxels?scale=0", stream),
        ("POST", f"{seg}/raw/0_1_2/64_64_64/64_0_0?compression=gzip", gzip.compress(labels[:, :, 64:].tobytes(), 1)),
        ("POST", f"{seg}/raw/0_1_2/64_64_64/64_0_0", labels[:, :, 64:].tobytes()),
        ("POST", f"{seg}/split-supervoxel/5", rles),
        ("POST", f"{seg}/split/5", rles),
        ("POST", f"{seg}/index/5", index),
        ("POST", f"{seg}/indices", field(1, index)),
        ("POST", f"{seg}/mappings", ops),
        ("POST", f"{seg}/merge", b"[1, 4]"),
        ("POST", f"{seg}/cleave/2", b"[3]"),
        ("POST", f"{seg}/renumber", b"[100, 6]"),
        ("POST", f"{seg}/nextlabel/3", b""),
        ("POST", f"{seg}/extents", b'{"MinPoint":[0,0,0],"MaxPoint":[127,63,63]}'),
        ("POST", f"{seg}/resolution", b"[8,8,8]"),
        ("POST", f"{seg}/tags", b'{"a":"b"}'),
        ("POST", f"{seg}/sync", b'{"sync":""}'),
        ("POST", f"{seg}/info", b'{"MaxDownresLevel":"2"}'),
        ("GET", f"{seg}/labels", b"[[1,2,3],[70,10,10]]"),
        ("GET", f"{seg}/sizes", b"[1,2,99]"),
        ("GET", f"{seg}/mapping", b"[1,2,3,99]"),
        ("GET", f"{seg}/indices", b"[1,2,99]"),
        ("GET", f"{seg}/indices-compressed", b"[1,2,99]"),
        ("POST", f"{keys}/key/a", b"value"),
        ("POST", f"{keys}/keyvalues", pairs),
        ("GET", f"{keys}/keyvalues?json=true", b'["a","b"]'),
        ("GET", f"{keys}/keyvalues?jsontar=true", b'["a","b"]'),
        ("GET", f"{keys}/keyvalues", field(1, b"a") + field(1, b"b")),
        ("POST", f"{gray}/raw/0_1_2/64_64_64/64_0_0", bytes(64**3)),
        ("POST", f"{gray}/blocks/0_0_0/2", bytes(2 * 64**3)),
        ("POST", f"{gray}/extents", b'{"MinPoint":[0,0,0],"MaxPoint":[127,63,63]}'),
        ("POST", f"{gray}/resolution", b"[8,8,8]"),
        ("POST", f"{points}/elements", ELEMENTS),
        ("POST", f"{points}/elements", ELEMENTS.replace(b"70", b"71")),
        ("POST", f"{points}/blocks", b'{"0,0,0":' + ELEMENTS + b',"1,0,0":[]}'),
        ("POST", f"{points}/labels", b'{"23":"[]","45":"[{\\"Pos\\":[1,2,3],\\"Kind\\":\\"Note\\"}]"}'),
        ("POST", f"{points}/move/70_5_5/100_5_5", b""),
        ("POST", f"{points}/reload", b""),
        ("POST", f"{points}/sync?replace=true", b'{"sync":"seg"}'),
        ("POST", f"{counts}/reload", b""),
        ("GET", f"{counts}/counts/PreSyn", b"[1,2,99]"),
        ("POST", f"{region}/roi", SPANS),
        ("POST", f"{region}/ptquery", b"[[0,0,0],[95,31,0],[-1,5,7]]"),
        ("POST", f"{notes}/key/2?u=ann", NOTE),
        ("POST", f"{notes}/key/2?u=ann&replace=true", NOTE),
        ("POST", f"{notes}/keyvalues?u=ann", two_notes),
        ("GET", f"{notes}/keyvalues?json=true", b"[2,5,7]"),
        ("GET", f"{notes}/keyvalues", field(1, b"2") + field(1, b"5")),
        ("POST", f"{notes}/query", query),
        ("GET", f"{notes}/query?onlyid=true", query),
        ("POST", f"{notes}/schema", b'{"properties":{"type":{"enum":["KC","PN"]}}}'),
        ("POST", f"{notes}/json_schema", b'{"type":"object","properties":{"type":{"type":"string"}}}'),
        ("POST", f"{notes}/schema_batch", b'{"a":[1]}'),
        ("POST", f"{meshes}/load", archive({"1.drc": b"new", "6.drc": b"six" * 300})),
        ("POST", f"{meshes}/supervoxel/5", b"five"),
        ("GET", f"{meshes}/exists", b"[1,2,99]"),
        ("POST", f"{meshes}/info", b'{"Extension":"drc","Tags":"a=b","Compression":"lz4"}'),
        ("POST", f"{tiles}/metadata", b'{"MinTileCoord":[0,0,0],"MaxTileCoord":[1,0,63],"Levels":' + LEVELS + b"}"),
        ("POST", f"{tiles}/tile/xy/0/1_0_0", encode_png(np.zeros((64, 64), np.uint8))),
        ("POST", f"{tiles}/generate?planes=xy&zrange=0,3", LEVELS),
        ("POST", f"{scene.far_seg}/index-source", b""),
        ("POST", f"{scene.far_seg}/merge", b"[1, 4]"),
        ("GET", f"{scene.far_seg}/labels", b"[[1,2,3],[70,10,10]]"),
        ("GET", f"{scene.far_seg}/mapping", b"[1,2,3,99]"),
        ("POST", f"{scene.far_seg}/tags", b'{"a":"b"}'),
        ("POST", f"{scene.far_gray}/tags", b'{"a":"b"}'),
        ("POST", f"/api/repo/{scene.uuid}/instance", b'{"typename":"labelmap","dataname":"x","BlockSize":"64,64,64"}'),
        ("POST", f"/api/repo/{scene.uuid}/info", b'{"alias":"a","description":"b"}'),
        ("POST", f"/api/repo/{scene.uuid}/log", b'{"log":["one"]}'),
        ("POST", f"/api/node/{scene.uuid}/note", b'{"note":"one"}'),
        ("POST", f"/api/node/{scene.uuid}/log", b'{"log":["one"]}'),
        ("POST", f"/api/repo/{scene.uuid}/merge", b'{"mergeType":"conflict-free","parents":["a","b"]}'),
    ]


def mutated(random: Random, body: bytes) -> bytes:
    """A body with something wrong: bits, lengths, pieces, numbers; inside of gzipped records too."""
    data = bytearray(body)
    for _ in range(random.choice([1, 1, 1, 2, 5])):
        kind = random.randrange(9)
        at = random.randrange(len(data) + 1)
        if kind == 0 and data:
            data[at % len(data)] ^= 1 << random.randrange(8)
        elif kind == 1:
            del data[at:]
        elif kind == 2:
            data[at:at] = random.randbytes(random.choice([1, 3, 16, 500]))
        elif kind == 3:
            data[at:at] = data[at // 2 : at]
        elif kind == 4:
            word = random.choice([0xFFFFFFFF, 0x7FFFFFFF, 0x80000000, 0, 1, 1 << 20])
            at = random.choice([at, random.randrange(64)])
            data[at : at + 4] = struct.pack("<I", word)
        elif kind == 5:
            del data[at : at + random.choice([1, 4, 100])]
        elif kind == 6:
            number = random.choice(
                [b"-1", b"1e9", b"18446744073709551616", b"1.5", b'"x"', b"null", b"[]", b"{}", b"0"]
            )
            data[at:at] = number
        elif kind == 7 and body[16:18] == b"\x1f\x8b":
            inner = mutated(random, gzip.decompress(body[16 : 16 + struct.unpack_from("<I", body, 12)[0]]))
            data = bytearray(record(inner, struct.unpack_from("<3i", body)))
        elif kind == 8:
            data *= random.choice([2, 3])
    return bytes(data)
