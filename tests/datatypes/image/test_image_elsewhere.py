"""An instance that shows a volume elsewhere answers every read as one does that stores the same voxels."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lz4.block
import numpy as np
import pytest
from image_instances import Images
from isal import igzip
from PIL import Image as Picture

from fascicle.config import GridStore
from fascicle.datatypes.elsewhere import SETTING, Elsewhere
from fascicle.datatypes.slice_images import decode_jpeg
from fascicle.errors import BadRequest, FascicleError
from fascicle.volumes import open_pyramid
from remote_volumes import bucket, smooth_volume, write_precomputed

SHAPE = (70, 90, 100)
BLOCK = 32
TYPES = {name: f"{name}blk" for name in ("uint8", "uint16", "uint32", "uint64", "float32")}
Triple = tuple[int, int, int]

READS = [
    "raw/0_1_2/20_30_40/5_6_7",
    "raw/0_1_2/130_120_100/-10_-20_-15",
    "raw/0_1_2/32_32_32/32_32_32",
    "raw/0_1_2/8_8_8/5000_0_0",
    "raw/0_1_2/8_8_8/-2000000000_0_0",
    "raw/0_1_2/20_30_40/5_6_7?compression=lz4",
    "raw/0_1/50_60/10_20_30",
    "raw/xz/50_60/10_20_3/png",
    "raw/yz/50_60/90_20_30/tiff",
    "raw/xy/300_200/-20_-30_33/bmp",
    "raw/xy/64_64/0_0_33/jpg:90",
    "raw/0_1_2/20_30_40/5_6_7/jpg",
    "isotropic/0_1_2/20_30_40/5_6_7",
    "isotropic/xz/50_60/0_20_3",
    "isotropic/yz/50_60/7_20_3/tiff",
    "arb/20_30_40/500_40_70/30_400_90/8",
    "arb/-200_30_40/500_40_7000/30_400_90/31.5",
    "blocks/0_0_0/4",
    "blocks/-2_1_1/7",
    "blocks/0_0_50/2",
    "blocks/0_0_0/0",
]
FRAMED = [
    "subvolblocks/128_96_96/0_0_0",
    "subvolblocks/192_160_160/-32_-32_-32",
    "subvolblocks/32_32_32/64_32_32",
    "subvolblocks/64_32_32/3200_0_0",
    "specificblocks?blocks=0,0,0,2,1,1,-1,0,0,3,2,2,90,90,90,2,1,1",
    "specificblocks?blocks=",
    "specificblocks?blocks=0,0,0&prefetch=on",
]
FRAMINGS = ["", "uncompressed", "jpeg"]


def unpacked(data: bytes, framing: str, compression: str, block_bytes: int) -> bytes:
    """The voxels of a block's payload as a client takes them apart; a JPEG as its colours or gray levels."""
    if framing == "jpeg" or (not framing and compression == "jpeg"):
        return np.asarray(Picture.open(io.BytesIO(data))).tobytes()
    if framing == "uncompressed" or compression == "none":
        return data
    if compression == "lz4":
        assert struct.unpack_from("<I", data) == (block_bytes,)
        return bytes(lz4.block.decompress(data[4:], uncompressed_size=block_bytes))
    if compression == "gzip":
        return igzip.decompress(data)
    assert compression == "snappy"
    assert len(data) > block_bytes, "one literal behind a head"
    return data[-block_bytes:]


def records(stream: bytes, *how: Any) -> list[tuple[Triple, bytes]]:
    """Coordinates and voxels of a stream of blocks, in its order."""
    found, at = [], 0
    while at < len(stream):
        x, y, z, size = struct.unpack_from("<iiii", stream, at)
        found.append(((x, y, z), unpacked(stream[at + 16 : at + 16 + size], *how)))
        at += 16 + size
    return found


class Pair:
    """A volume elsewhere shown by one instance, and a copy of it stored by another."""

    def __init__(
        self, elsewhere: Elsewhere, address: str, typename: str, compression: str = "lz4", **more: str
    ) -> None:
        settings = {"BlockSize": f"{BLOCK},{BLOCK},{BLOCK}", "Compression": compression, **more}
        self.compression = compression
        self.shown = Images(typename, {SETTING: elsewhere}, Source=address, **settings)
        properties = self.shown.instance.properties
        self.kept = Images(typename, **settings)
        self.kept.post("resolution", str(properties["VoxelSize"]).encode())
        with open_pyramid(address) as pyramid:
            volume = pyramid.scales[0]
            voxels = volume.read((0, 0, 0), volume.shape_zyx)
            stored = {
                tuple((np.array(cell[::-1]) * volume.chunk_zyx[::-1] + volume.offset_xyz).tolist())
                for cell in np.ndindex(*(-(-n // c) for n, c in zip(volume.shape_zyx, volume.chunk_zyx, strict=True)))
                if volume.chunk(cell) is not None  # type: ignore[arg-type]
            }
        low = np.array(volume.offset_xyz)
        first, last = low // BLOCK, (low + voxels.shape[::-1] - 1) // BLOCK
        background = properties["Background"]
        for x, y, z in np.ndindex(*(last - first + 1)):
            corner = (first + np.array([x, y, z])) * BLOCK
            block = np.full((BLOCK,) * 3, background, self.dtype)
            start, stop = np.maximum(corner, low), np.minimum(corner + BLOCK, low + voxels.shape[::-1])
            ends = [np.array(at) + volume.chunk_zyx[::-1] for at in stored]
            touched = any(
                all(np.array(at) < corner + BLOCK) and all(end > corner) for at, end in zip(stored, ends, strict=True)
            )
            if not touched:
                continue
            inner = tuple(slice(a, b) for a, b in zip(start - corner, stop - corner, strict=True))[::-1]
            outer = tuple(slice(a, b) for a, b in zip(start - low, stop - low, strict=True))[::-1]
            block[inner] = voxels[outer]
            self.kept.put_volume(block, tuple(corner.tolist()))
        self.kept.post("extents", str({k: properties[k] for k in ("MinPoint", "MaxPoint")}).replace("'", '"').encode())

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype({name: kind for kind, name in TYPES.items()}[self.shown.instance.typename])

    def answers(self, path: str) -> tuple[Any, Any]:
        """What both say: content type and bytes, or the error."""
        said = []
        for images in (self.shown, self.kept):
            try:
                answer = images.call(path)
                said.append((answer.content_type, answer.body))
            except FascicleError as error:
                said.append((error.status, error.message))
        return said[0], said[1]

    def agree_on_streams(self, path: str, close: bool = False) -> None:
        for framing in FRAMINGS:
            whole = path + (f"{'&' if '?' in path else '?'}compression={framing}" if framing else "")
            (_, shown), (_, kept) = self.answers(whole)
            how = (framing, self.compression, BLOCK**3 * self.dtype.itemsize)
            got, wanted = records(shown, *how), records(kept, *how)
            assert [xyz for xyz, _ in got] == [xyz for xyz, _ in wanted], whole
            for (xyz, a), (_, b) in zip(got, wanted, strict=True):
                if close:
                    differences = np.abs(np.frombuffer(a, np.uint8).astype(int) - np.frombuffer(b, np.uint8))
                    assert differences.mean() < 4, (whole, xyz)
                else:
                    assert a == b, (whole, xyz)


@pytest.fixture
def elsewhere() -> Iterator[Elsewhere]:
    volumes = Elsewhere()
    yield volumes
    volumes.close()


SHIFTED = [("uint8", (-32, 64, 96)), ("uint8", (-5, 3, 1000)), ("uint16", (-5, 3, 1))]


@pytest.mark.parametrize(("dtype", "offset"), [*((dtype, (0, 0, 0)) for dtype in TYPES), *SHIFTED])
def test_every_read_agrees(elsewhere: Elsewhere, tmp_path: Path, dtype: str, offset: Triple) -> None:
    volume = smooth_volume(SHAPE, dtype)
    address = write_precomputed(tmp_path, [volume], "raw", (BLOCK,) * 3, offset_xyz=offset, resolution=(8, 8, 20))
    pair = Pair(elsewhere, address, TYPES[dtype])
    for path in READS:
        shown, kept = pair.answers(path)
        assert shown == kept, path
    for path in FRAMED:
        pair.agree_on_streams(path)
    assert pair.shown.call("metadata").content_type == pair.kept.call("metadata").content_type
    shown, kept = pair.shown.extended(), pair.kept.extended()
    assert shown.pop("Source") == address
    assert shown == kept


@pytest.mark.parametrize("compression", ["none", "snappy", "lz4", "gzip"])
def test_every_framing_agrees(elsewhere: Elsewhere, tmp_path: Path, compression: str) -> None:
    address = write_precomputed(tmp_path, [smooth_volume(SHAPE)], "raw", (BLOCK,) * 3)
    pair = Pair(elsewhere, address, "uint8blk", compression)
    for path in FRAMED:
        pair.agree_on_streams(path)


@pytest.mark.parametrize("compression", ["jpeg", "lz4"])
def test_jpeg_chunks(elsewhere: Elsewhere, tmp_path: Path, compression: str) -> None:
    """Reads of voxels agree exactly with the decoded chunks, framed JPEGs as closely as JPEG is."""
    address = write_precomputed(tmp_path, [smooth_volume(SHAPE)], "jpeg", (BLOCK,) * 3)
    pair = Pair(elsewhere, address, "uint8blk", "lz4")
    for path in READS:
        if not path.endswith(("jpg", "jpg:90")):
            shown, kept = pair.answers(path)
            assert shown == kept, path
    for path in FRAMED:
        pair.agree_on_streams(path, close=True)
    shown = Images(server={SETTING: elsewhere}, Source=address, BlockSize="32,32,32", Compression=compression)
    if compression == "jpeg":
        (record,) = records(shown.get("specificblocks?blocks=1,1,1"), "uncompressed", "", 0)
        key = tmp_path / "8_8_8" / "32-64_32-64_32-64"
        assert record[1] == key.read_bytes(), "a full chunk is passed on as it is"
        (edge,) = records(shown.get("specificblocks?blocks=3,2,2"), "uncompressed", "", 0)
        assert decode_jpeg(edge[1]).shape == (BLOCK * BLOCK, BLOCK)


@pytest.mark.parametrize("chunk", [(64, 64, 64), (20, 30, 7), (128, 128, 128), (100, 90, 1)])
def test_blocks_need_not_be_chunks(elsewhere: Elsewhere, tmp_path: Path, chunk: Triple) -> None:
    address = write_precomputed(tmp_path, [smooth_volume(SHAPE)], "raw", chunk, offset_xyz=(3, -70, 8))
    pair = Pair(elsewhere, address, "uint8blk", Background="7")
    for path in READS:
        shown, kept = pair.answers(path)
        assert shown == kept, path
    for path in FRAMED:
        pair.agree_on_streams(path)


def test_absent_chunks(elsewhere: Elsewhere, tmp_path: Path) -> None:
    """They are left out of streams, and background everywhere else."""
    omit = {(1, 1, 1), (0, 0, 0), (3, 2, 2)}
    address = write_precomputed(tmp_path, [smooth_volume(SHAPE)], "raw", (BLOCK,) * 3, omit=omit)
    pair = Pair(elsewhere, address, "uint8blk")
    for path in FRAMED:
        pair.agree_on_streams(path)
    present = [xyz for xyz, _ in records(pair.shown.get("subvolblocks/128_96_96/0_0_0"), "", "lz4", BLOCK**3)]
    assert len(present) == 4 * 3 * 3 - 3
    assert not omit & set(present)
    for path in READS:
        shown, kept = pair.answers(path)
        assert shown == kept, path


def test_what_creation_takes_from_the_volume(elsewhere: Elsewhere, tmp_path: Path) -> None:
    volumes = [smooth_volume((64, 64, 130)), smooth_volume((32, 32, 65))]
    address = write_precomputed(tmp_path, volumes, "jpeg", offset_xyz=(128, 0, -128), resolution=(4, 4, 40))
    images = Images(server={SETTING: elsewhere}, Source=address, ScaleLevel="1")
    assert images.instance.compression == "jpeg"
    described = images.instance.properties.pop("Described")
    assert described.items() <= images.instance.properties.items()
    assert images.instance.properties == {
        "BlockSize": [64, 64, 64], "VoxelSize": [8, 8, 80], "VoxelUnits": ["nanometers"] * 3,
        "MinPoint": [64, 0, -64], "MaxPoint": [128, 31, -33], "Background": 0, "GridStore": "", "ScaleLevel": 1,
        "Source": address,
    }  # fmt: skip
    elsewhere.stores["em"] = GridStore("em", address)
    images = Images(server={SETTING: elsewhere}, GridStore="EM", BlockSize="16,16,16")
    shown = images.extended()
    assert (shown["GridStore"], shown["ScaleLevel"], shown["BlockSize"]) == ("EM", 0, [64, 64, 64])
    assert (shown["MinIndex"], shown["MaxIndex"]) == ([2, 0, -2], [4, 0, -2])
    assert "Source" not in shown


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"GridStore": "nowhere"}, "could not find store with alias"),
        ({"Source": "file:///nowhere/at/all"}, "neither a precomputed volume"),
        ({"Source": "ADDRESS", "ScaleLevel": "5"}, "so there is no scale 5"),
        ({"Source": "ADDRESS", "ScaleLevel": "-1"}, "ScaleLevel must be"),
        ({"Source": "ADDRESS", "typename": "uint64blk"}, None),
        ({"Source": "ADDRESS", "typename": "rgba8blk"}, "one channel"),
        ({"Source": "WIDE", "typename": "uint8blk"}, "do not fit into a uint8blk"),
        ({"Source": "WIDE", "typename": "float32blk"}, None),
        ({"Source": "WIDE", "typename": "uint16blk", "Compression": "jpeg"}, "uint8blk only"),
    ],
)
def test_refused_at_creation(elsewhere: Elsewhere, tmp_path: Path, settings: dict[str, str], told: str | None) -> None:
    addresses = {
        "ADDRESS": write_precomputed(tmp_path / "gray", [smooth_volume((8, 8, 8))]),
        "WIDE": write_precomputed(tmp_path / "wide", [smooth_volume((8, 8, 8), "uint16")]),
    }
    given = {name: addresses.get(value, value) for name, value in settings.items()}
    typename = given.pop("typename", "uint8blk")
    if told is None:
        expected = smooth_volume((8, 8, 8), "uint16" if settings["Source"] == "WIDE" else "uint8")
        images = Images(typename, {SETTING: elsewhere}, **given)
        dtype = {name: kind for kind, name in TYPES.items()}[typename]
        assert images.get("raw/0_1_2/8_8_8/0_0_0") == expected.astype(dtype).tobytes()
    else:
        with pytest.raises(BadRequest, match=told):
            Images(typename, {SETTING: elsewhere}, **given)


@pytest.mark.parametrize("path", ["raw/0_1_2/64_64_64/0_0_0", "blocks/0_0_0/1"])
def test_voxels_cannot_be_written(elsewhere: Elsewhere, tmp_path: Path, path: str) -> None:
    images = Images(server={SETTING: elsewhere}, Source=write_precomputed(tmp_path, [smooth_volume((8, 8, 8))]))
    with pytest.raises(BadRequest, match="in a volume that lives elsewhere"):
        images.post(path, bytes(64**3))
    images.post("extents", b'{"MinPoint": [1, 2, 3], "MaxPoint": [4, 5, 6]}')
    images.post("resolution", b"[1, 2, 3]")
    shown = images.extended()
    assert (shown["MinPoint"], shown["MaxPoint"], shown["VoxelSize"]) == ([1, 2, 3], [4, 5, 6], [1, 2, 3])


def test_a_chunk_is_fetched_once(elsewhere: Elsewhere, tmp_path: Path) -> None:
    """However many requests need it."""
    write_precomputed(tmp_path, [smooth_volume((64, 64, 128))], "jpeg", (BLOCK,) * 3)
    with bucket(tmp_path) as served:
        images = Images(server={SETTING: elsewhere}, Source=served.url, BlockSize="32,32,32")
        for path in ("blocks/0_0_0/4", "raw/xy/128_64/0_0_3", "subvolblocks/128_64_64/0_0_0", "blocks/0_0_0/4"):
            images.get(path)
        chunks = [path for path in served.requests if not path.endswith("info")]
        assert sorted(chunks) == sorted(set(chunks))
        assert len(chunks) == 4 * 2 * 2


def test_chunks_are_fetched_side_by_side(elsewhere: Elsewhere, tmp_path: Path) -> None:
    import time

    write_precomputed(tmp_path, [smooth_volume((64, 64, 128))], "jpeg", (BLOCK,) * 3)
    with bucket(tmp_path) as served:
        images = Images(server={SETTING: elsewhere}, Source=served.url, BlockSize="32,32,32")
        images.get("blocks/0_0_0/1")
        served.delay_s = 0.2
        began = time.monotonic()
        images.get("subvolblocks/128_64_64/0_0_0")
        assert time.monotonic() - began < 16 * 0.2 / 2


def test_a_dead_bucket(
    elsewhere: Elsewhere, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error names the volume, comes at once the second time, and goes when the bucket is back."""
    write_precomputed(tmp_path, [smooth_volume((64, 64, 64))])
    with bucket(tmp_path) as served:
        elsewhere.stores["em"] = GridStore("em", served.url)
        images = Images(server={SETTING: elsewhere}, GridStore="em")
        (first,) = records(images.get("specificblocks?blocks=0,0,0"), "", "lz4", 64**3)
        assert first[0] == (0, 0, 0)
    hung = Elsewhere(elsewhere.stores, open_=_hanging)
    monkeypatch.setattr("fascicle.datatypes.elsewhere.PATIENCE_S", 0.3)
    images.server[SETTING] = hung
    for _ in range(2):
        with pytest.raises(BadRequest, match=r"127\.0\.0\.1.* did not answer within 0\.3 s"):
            images.get("raw/0_1_2/8_8_8/0_0_0")
    assert images.extended()["MaxPoint"] == [63, 63, 63]
    images.server[SETTING] = Elsewhere({})
    with pytest.raises(BadRequest, match='could not find store with alias "em"'):
        images.get("raw/0_1_2/8_8_8/0_0_0")


def _hanging(address: str, **_: Any) -> Any:
    import time

    time.sleep(1.0)
    raise OSError("gone")


def test_a_volume_that_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fascicle.datatypes.elsewhere.RETRY_S", 0.0)
    folder = tmp_path / "late"
    elsewhere = Elsewhere({"em": GridStore("em", f"file://{folder}")})
    images = Images()
    images.server = {SETTING: elsewhere}
    images.instance.properties.update(GridStore="em", BlockSize=[64, 64, 64])
    with pytest.raises(BadRequest, match="neither a precomputed volume"):
        images.get("blocks/0_0_0/1")
    write_precomputed(folder, [smooth_volume((64, 64, 64))])
    assert images.get("blocks/0_0_0/1") == smooth_volume((64, 64, 64)).tobytes()
    elsewhere.close()


def test_a_damaged_chunk_is_an_error(elsewhere: Elsewhere, tmp_path: Path) -> None:
    address = write_precomputed(tmp_path, [smooth_volume((64, 64, 128))])
    (tmp_path / "8_8_8" / "0-64_0-64_0-64").write_bytes(b"short")
    images = Images(server={SETTING: elsewhere}, Source=address)
    for path in ("raw/0_1_2/8_8_8/0_0_0", "specificblocks?blocks=0,0,0", "blocks/0_0_0/1", "raw/xy/8_8/0_0_0"):
        with pytest.raises(BadRequest, match="cannot be decoded"):
            images.get(path)
    assert len(images.get("raw/0_1_2/8_8_8/64_0_0")) == 512
