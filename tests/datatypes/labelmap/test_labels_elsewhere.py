"""A labelmap that shows a segmentation elsewhere answers every read and edit as one that stores the same does."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lz4.block
import numpy as np
import pytest
from isal import igzip
from labelmap_instances import Labels

from fascicle.datatypes.elsewhere import SETTING, Elsewhere
from fascicle.errors import BadRequest, FascicleError, Unavailable
from fascicle.formats import label_block, sparse_volume
from remote_volumes import bucket, label_volume, write_precomputed

SHAPE = (70, 100, 130)
Triple = tuple[int, int, int]

READS = [
    "raw/0_1_2/64_64_64/64_0_0",
    "raw/0_1_2/30_40_20/50_60_55",
    "raw/0_1_2/200_150_120/-20_-30_-10",
    "raw/0_1_2/30_40_20/50_60_55?supervoxels=true",
    "raw/0_1_2/30_40_20/10_20_5?scale=1",
    "raw/0_1_2/80_70_60/-5_-5_-5?scale=1",
    "raw/0_1_2/16_16_16/0_0_0?scale=9",
    "raw/0_1_2/8_8_8/5000_0_0",
    "raw/xy/100_90/10_10_30",
    "raw/xz/100_60/10_10_3/tiff",
    "isotropic/yz/100_60/10_10_3",
    "pseudocolor/xy/100_90/10_10_30",
    "label/30_40_50",
    "label/-30_40_50",
    "label/3000_40_50",
    "label/30_20_10?scale=1&supervoxels=true",
]
STREAMS = [
    "blocks/192_128_128/0_0_0",
    "blocks/256_256_256/-64_-64_-64",
    "blocks/64_64_64/64_64_64?supervoxels=true",
    "blocks/128_128_64/0_0_0?scale=1",
    "specificblocks?blocks=0,0,0,1,1,1,2,0,0,2,1,1,40,40,40,-1,0,0,1,1,1",
    "specificblocks?blocks=0,0,0,1,0,0&scale=1",
]
OF_BODIES = [
    "sparsevol/{}", "sparsevol/{}?format=srles", "sparsevol/{}?format=blocks", "sparsevol/{}?scale=1",
    "sparsevol/{}?minx=20&maxx=90&minz=10&maxz=64", "sparsevol/{}?supervoxels=true", "sparsevol-coarse/{}",
    "sparsevol-size/{}", "size/{}", "size/{}?supervoxels=true", "supervoxels/{}", "supervoxel-sizes/{}",
    "sparsevols-coarse/{}/20",
]  # fmt: skip
OF_INDEX = ["existing-labels", "listlabels", "listlabels?sizes=true", "mappings", "maxlabel", "nextlabel"]


class Pair:
    """A segmentation elsewhere shown by one instance, and a copy of it stored by another."""

    def __init__(self, elsewhere: Elsewhere, shown: Labels, volume: np.ndarray[Any, Any], offset: Triple) -> None:
        self.shown = shown
        self.kept = Labels(MaxDownresLevel="1")
        self.volume = volume
        low = np.array(offset) // 64
        stop = -(-(np.array(offset) + volume.shape[::-1]) // 64)
        size, corner = (stop - low) * 64, low * 64
        whole = np.zeros(size[::-1], np.uint64)
        x, y, z = np.array(offset) - corner
        whole[z : z + volume.shape[0], y : y + volume.shape[1], x : x + volume.shape[2]] = volume.astype(np.uint64)
        self.kept.post("raw/0_1_2/{}_{}_{}/{}_{}_{}".format(*size, *corner), whole.tobytes())
        properties = shown.instance().properties
        ends = {name: properties[name] for name in ("MinPoint", "MaxPoint")}
        self.kept.post("extents", ends)
        self.kept.post("resolution", properties["VoxelSize"])

    def both(self, path: str, method: str = "GET", body: Any = b"") -> tuple[Any, Any]:
        said = []
        for labels in (self.shown, self.kept):
            try:
                answer = labels.call(path, method, body)
                said.append((answer.status, answer.content_type, answer.body))
            except FascicleError as error:
                said.append((error.status, "", error.message))
        return said[0], said[1]

    def agree(self, path: str, method: str = "GET", body: Any = b"") -> None:
        shown, kept = self.both(path, method, body)
        assert shown == kept, path

    def agree_on_everything(self) -> None:
        for path in READS:
            self.agree(path)
        described = self.shown.json("metadata"), self.kept.json("metadata")
        described[0]["Properties"].pop("Source")
        assert described[0] == described[1]
        for compression in ("none", "lz4", "gzip", "google", "googlegzip"):
            self.agree(f"raw/0_1_2/64_64_64/64_0_0?compression={compression}")
            self.agree(f"raw/0_1_2/64_40_24/50_60_40?compression={compression}")
        for path in STREAMS:
            for compression in ("blocks", "lz4", "gzip", "uncompressed"):
                whole = f"{path}{'&' if '?' in path else '?'}compression={compression}"
                (status, _, shown), (_, _, kept) = self.both(whole)
                assert status == 200
                assert records(shown, compression) == records(kept, compression), whole
        rng = np.random.default_rng(3)
        self.agree("labels", body=rng.integers(-20, 150, (300, 3)).tolist())
        self.agree("labels?supervoxels=true", body=rng.integers(-20, 150, (300, 3)).tolist())

    def agree_on_bodies(self) -> None:
        listed = [int(label) for label in np.unique(self.volume) if label]
        for path in OF_INDEX:
            self.agree(path)
        for label in [*listed[:6], listed[-1], 999]:
            for path in OF_BODIES:
                self.agree(path.format(label))
        self.agree("sizes", body=listed)
        self.agree("sizes?supervoxels=true", body=listed)
        self.agree("mapping", body=[*listed, 999])
        self.agree(f"proximity/{listed[0]},{listed[1]},{listed[2]}")
        self.agree("sparsevol-by-point/30_40_50")
        stamped = [self.shown.get(f"index/{listed[0]}"), self.kept.get(f"index/{listed[0]}")]
        shown, kept = (re.sub(rb"T\d\d:\d\d:\d\d", b"T", index) for index in stamped)  # edited one after the other
        assert shown == kept


def records(stream: bytes, compression: str) -> list[tuple[Triple, bytes]]:
    """Coordinates and labels of a stream of blocks."""
    unpack = {
        "lz4": lambda data: lz4.block.decompress(data, uncompressed_size=8 * 64**3),
        "gzip": igzip.decompress,
        "blocks": lambda data: label_block.decode(label_block.opened(igzip.decompress(data))).tobytes(),
        "uncompressed": bytes,
    }[compression]
    found, at = [], 0
    while at < len(stream):
        x, y, z, size = struct.unpack_from("<iiii", stream, at)
        found.append(((x, y, z), unpack(stream[at + 16 : at + 16 + size])))
        at += 16 + size
    return found


def show(elsewhere: Elsewhere, address: str, **settings: str) -> Labels:
    return Labels({SETTING: elsewhere}, Source=address, **settings)


def runs_of(mask_zyx: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Single voxels as runs i32[n, 4]: x, y, z, length."""
    z, y, x = np.nonzero(mask_zyx)
    return np.stack((x, y, z, np.ones_like(x)), 1).astype(np.int32)


def make_index(labels: Labels, blocks: int = 3) -> None:
    for _ in range(1000):
        if labels.post(f"index-source?blocks={blocks}")["complete"]:
            return
    raise AssertionError("the index is never complete")


@pytest.fixture
def elsewhere() -> Iterator[Elsewhere]:
    volumes = Elsewhere()
    yield volumes
    volumes.close()


@pytest.mark.parametrize(
    ("dtype", "encoding", "chunk", "offset"),
    [
        ("uint64", "compressed_segmentation", (64, 64, 64), (0, 0, 0)),
        ("uint32", "compressed_segmentation", (64, 64, 64), (0, 0, 0)),
        ("uint64", "raw", (64, 64, 64), (-64, 0, 64)),
        ("uint8", "raw", (30, 20, 128), (0, 0, 0)),
        ("uint16", "raw", (128, 128, 16), (-7, 3, 5)),
        ("uint32", "compressed_segmentation", (50, 64, 64), (1, 2, 3)),
    ],
)
def test_every_read_agrees(
    elsewhere: Elsewhere, tmp_path: Path, dtype: str, encoding: str, chunk: Triple, offset: Triple
) -> None:
    volume = label_volume(SHAPE, dtype)
    address = write_precomputed(tmp_path, [volume], encoding, chunk, "segmentation", offset, (8, 8, 20))
    pair = Pair(elsewhere, show(elsewhere, address), volume, offset)
    pair.agree_on_everything()
    make_index(pair.shown, 5)
    pair.agree_on_bodies()


def test_scales_of_the_volume(elsewhere: Elsewhere, tmp_path: Path) -> None:
    """What the volume has comes from it; scale 1 of a volume that has only 0 and 2 is made of scale 0."""
    volume = label_volume((64, 128, 128))
    half = volume[::2, ::2, ::2]
    quarter = half[::2, ::2, ::2].copy()
    quarter[0, 0, 0] = 12345
    address = write_precomputed(tmp_path, [volume, half, quarter], kind="segmentation")
    labels = show(elsewhere, address)
    assert labels.instance().properties["MaxDownresLevel"] == 2
    assert labels.get("raw/0_1_2/64_64_32/0_0_0?scale=1") == half.tobytes()
    assert labels.json("label/0_0_0?scale=2") == {"Label": 12345}
    gapped = write_precomputed(tmp_path / "gapped", [volume, half, quarter], kind="segmentation")
    described = json.loads((tmp_path / "gapped" / "info").read_text())
    del described["scales"][1]
    (tmp_path / "gapped" / "info").write_text(json.dumps(described))
    labels = show(elsewhere, gapped)
    assert labels.instance().properties["MaxDownresLevel"] == 2
    kept = Labels(MaxDownresLevel="2")
    kept.post("raw/0_1_2/128_128_64/0_0_0", volume.tobytes())
    path = "raw/0_1_2/64_64_32/0_0_0?scale=1"
    assert labels.get(path) == kept.get(path)
    assert labels.json("label/0_0_0?scale=2") == {"Label": 12345}
    assert not any(labels.get("raw/0_1_2/8_8_8/0_0_0?scale=3"))


def test_what_needs_an_index_says_so(elsewhere: Elsewhere, tmp_path: Path) -> None:
    volume = label_volume((64, 64, 128))
    address = write_precomputed(tmp_path, [volume], kind="segmentation")
    labels = show(elsewhere, address)
    label = int(volume.max())
    for path in [path.format(label) for path in OF_BODIES] + ["existing-labels", f"index/{label}", "proximity/1,2"]:
        with pytest.raises(BadRequest, match="no index yet"):
            labels.call(path)
    for path, body in [("merge", [1, 2]), ("cleave/1", [1]), ("renumber", [9, 1]), ("mapping", [1])]:
        with pytest.raises(BadRequest, match="no index yet"):
            labels.call(path, "POST", body)
    with pytest.raises(BadRequest, match="no index yet"):
        labels.call("raw/0_1_2/64_64_64/0_0_0", "POST", bytes(8 * 64**3))
    assert labels.json("mapping?nolookup=true", [1, 2]) == [1, 2]
    assert labels.json("index-source") == {"blocks": 0, "indexed": 0, "complete": False}
    assert labels.post("index-source?blocks=1") == {"blocks": 2, "indexed": 1, "complete": False}
    with pytest.raises(Unavailable, match="has 1 of 2 blocks"):
        labels.call("existing-labels")
    assert labels.post("index-source?blocks=1") == {"blocks": 2, "indexed": 2, "complete": True}
    before = labels.everything()
    assert labels.post("index-source") == {"blocks": 2, "indexed": 2, "complete": True}
    assert labels.everything() == before
    assert labels.json("existing-labels") == [int(label) for label in np.unique(volume) if label]


def test_the_index_is_made_where_the_instance_was(elsewhere: Elsewhere, tmp_path: Path) -> None:
    volume = label_volume((64, 64, 64))
    labels = show(elsewhere, write_precomputed(tmp_path, [volume], kind="segmentation"))
    child = labels.child(labels.root)
    with pytest.raises(BadRequest, match=labels.uuid(labels.root)):
        labels.call("index-source", "POST", version=child)
    make_index(labels)
    assert labels.json("existing-labels", version=child) == labels.json("existing-labels")
    with pytest.raises(BadRequest, match="from 1 to"):
        labels.call("index-source?blocks=0", "POST")
    stored = Labels()
    for method in ("GET", "POST"):
        with pytest.raises(BadRequest, match="stored here"):
            stored.call("index-source", method)


def test_edits_agree(elsewhere: Elsewhere, tmp_path: Path) -> None:
    """Bodies are edited and voxels written over a volume that stays as it is."""
    volume = label_volume(SHAPE, "uint32", count=20)
    address = write_precomputed(tmp_path, [volume], "compressed_segmentation", kind="segmentation")
    pair = Pair(elsewhere, show(elsewhere, address), volume, (0, 0, 0))
    make_index(pair.shown)
    pair.shown.write(lambda change: change.mutation_id())  # the copy has taken one when its voxels were posted
    a, b, c, d = (int(label) for label in np.unique(volume)[1:5])
    pair.agree("merge", "POST", [a, b, c])
    pair.agree("cleave/" + str(a), "POST", [c])
    pair.agree("renumber", "POST", [5000, d])
    body = sparse_volume.encode_rles(runs_of((volume == d) & (np.arange(SHAPE[2]) % 2 == 0)))
    pair.agree(f"split-supervoxel/{d}", "POST", body)
    pair.agree_on_everything()
    pair.agree_on_bodies()
    painted = np.full((64, 64, 64), 70_000, np.uint64)
    painted[:10] = a
    pair.agree("raw/0_1_2/64_64_64/64_0_0", "POST", painted.tobytes())
    pair.agree("raw/0_1_2/64_64_64/192_0_0", "POST", painted.tobytes())
    pair.agree_on_everything()
    pair.agree_on_bodies()
    for name in ("maxlabel", "sizes"):
        pair.agree(name, body=[a, b, c, 70_000, 5000])
    assert pair.shown.stored_blocks() < pair.kept.stored_blocks()


def test_a_chunk_is_fetched_once(elsewhere: Elsewhere, tmp_path: Path) -> None:
    volume = label_volume((64, 64, 192))
    write_precomputed(tmp_path, [volume], kind="segmentation")
    with bucket(tmp_path) as served:
        labels = show(elsewhere, served.url)
        for path in ("raw/0_1_2/192_64_64/0_0_0", "blocks/192_64_64/0_0_0", "label/5_5_5", "raw/xy/190_60/0_0_3"):
            labels.get(path)
        make_index(labels)
        chunks = [path for path in served.requests if not path.endswith("info")]
        assert sorted(chunks) == sorted(set(chunks))
        assert len(chunks) == 3


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"Source": "file:///nowhere"}, "neither a precomputed volume"),
        ({"GridStore": "em"}, 'alias "em"'),
        ({"Source": "FLOATS"}, "cannot be labels"),
        ({"Source": "LABELS", "ScaleLevel": "3"}, "no scale 3"),
        ({"Source": "LABELS", "BlockSize": "20,20,20"}, "multiples of 16"),
    ],
)
def test_refused_at_creation(elsewhere: Elsewhere, tmp_path: Path, settings: dict[str, str], told: str) -> None:
    addresses = {
        "FLOATS": write_precomputed(tmp_path / "floats", [np.ones((8, 8, 8), np.float32)]),
        "LABELS": write_precomputed(tmp_path / "labels", [np.ones((8, 8, 8), np.uint32)]),
    }
    with pytest.raises(BadRequest, match=told):
        Labels({SETTING: elsewhere}, **{name: addresses.get(value, value) for name, value in settings.items()})


def test_settings_that_stay(elsewhere: Elsewhere, tmp_path: Path) -> None:
    address = write_precomputed(tmp_path, [np.ones((8, 8, 8), np.uint32)], kind="segmentation")
    labels = show(elsewhere, address)
    for name, value in [("BlockSize", "32,32,32"), ("Source", "file:///x"), ("ScaleLevel", "1"), ("GridStore", "x")]:
        with pytest.raises(BadRequest, match=f"{name} is decided"):
            labels.call("info", "POST", {name: value})
    labels.call("info", "POST", {"MaxDownresLevel": "2", "BlockSize": "64,64,64"})
    extended = labels.extended()
    assert (extended["MaxDownresLevel"], extended["Source"]) == (2, address)
    assert extended["MaxPoint"] == [7, 7, 7]


def test_blocks_stored_here(elsewhere: Elsewhere, tmp_path: Path) -> None:
    """A row of the volume's blocks with stored ones before, between and behind them comes in order."""
    volume = label_volume((64, 64, 192))
    address = write_precomputed(tmp_path, [volume], kind="segmentation", omit={(1, 0, 0)})
    labels = show(elsewhere, address, IndexedLabels="false")
    for x in (-1, 0, 1, 5):
        labels.post(f"raw/0_1_2/64_64_64/{64 * x}_0_0", np.full((64, 64, 64), 100 + x + 1, np.uint64).tobytes())
    stream = labels.get("blocks/640_64_64/-128_0_0?compression=uncompressed")
    found = records(stream, "uncompressed")
    assert [xyz[0] for xyz, _ in found] == [-1, 0, 1, 2, 5]
    first = [int(np.frombuffer(data, "<u8")[0]) for _, data in found]
    assert first == [100, 101, 102, int(volume[0, 0, 128]), 106]
