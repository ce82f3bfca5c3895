"""Requests and answers of image instances; the examples are those of the interface's specification."""

from __future__ import annotations

import io
import json
import struct
from typing import Any

import lz4.block
import numpy as np
import pytest
from image_instances import Images
from PIL import Image

from fascicle.errors import BadRequest

RNG = np.random.default_rng(1)


def picture(data: bytes) -> np.ndarray[Any, Any]:
    return np.asarray(Image.open(io.BytesIO(data)))


def records(data: bytes) -> dict[tuple[int, int, int], bytes]:
    found = {}
    while data:
        x, y, z, size = struct.unpack("<4i", data[:16])
        assert (x, y, z) not in found
        found[x, y, z] = data[16 : 16 + size]
        data = data[16 + size :]
    return found


def textured(shape: tuple[int, ...], dtype: str = "u1") -> np.ndarray[Any, Any]:
    """Smooth but not compressible."""
    ramp = np.add.outer(np.add.outer(np.arange(shape[0]), np.arange(shape[1])), np.arange(shape[2]))
    return (ramp + RNG.integers(0, 30, shape)).astype(dtype)


def test_an_empty_instance() -> None:
    images = Images()
    assert images.extended()["MinPoint"] is images.extended()["MaxIndex"] is None
    assert images.get("raw/0_1_2/3_2_1/0_0_0") == bytes(6)
    assert images.get("blocks/0_0_0/2") == bytes(2 * 32**3)
    assert images.get("subvolblocks/64_64_64/0_0_0") == images.get("specificblocks?blocks=0,0,0") == b""
    assert json.loads(images.get("metadata"))["Axes"][0] == {
        "Label": "X", "Resolution": 8, "Units": "nanometers", "Size": 0, "Offset": 0,
    }  # fmt: skip


def test_volumes_and_slices(tiny: Images) -> None:
    assert tiny.get("raw/0_1_2/3_2_1/1_0_1").hex() == "090a0b0d0e0f"
    assert tiny.get("raw/0_1_2/2_1_1/3_1_1").hex() == "0f00"
    assert picture(tiny.get("raw/xz/4_2/0_1_0")).tolist() == [[4, 5, 6, 7], [12, 13, 14, 15]]
    assert picture(tiny.get("raw/yz/2_2/3_0_0")).tolist() == [[3, 7], [11, 15]]
    assert tiny.get("blocks/0_0_0/3").hex() == "0001040508090c0d020306070a0b0e0f" + "00" * 8


def test_extents(tiny: Images) -> None:
    extended = tiny.extended()
    assert (extended["MinPoint"], extended["MaxPoint"]) == ([0, 0, 0], [3, 1, 1])
    assert (extended["MinIndex"], extended["MaxIndex"]) == ([0, 0, 0], [1, 0, 0])
    assert [axis["Size"] for axis in json.loads(tiny.get("metadata"))["Axes"]] == [4, 2, 2]
    tiny.put_volume(np.zeros((2, 2, 2), np.uint8), (-2, 8, 0))
    assert tiny.extended()["MinPoint"] == [-2, 0, 0]
    assert tiny.extended()["MaxPoint"] == [3, 9, 1]
    tiny.post("extents", b'{"minpoint": [1, 2, 3], "MAXPOINT": [4, 5, 6]}')
    assert tiny.extended()["MinPoint"] == [1, 2, 3]
    tiny.post("extents", b'{"MaxPoint": [4, 5, 6]}')
    assert tiny.extended()["MinPoint"] == [0, 0, 0]


def test_extents_belong_to_versions(tiny: Images) -> None:
    tiny.put_volume(np.ones((2, 2, 2), np.uint8), (6, 0, 0), version=3)
    assert tiny.extended(version=3)["MaxPoint"] == [7, 1, 1]
    assert tiny.extended(version=2)["MaxPoint"] == [3, 1, 1]
    assert tiny.get("raw/0_1_2/2_1_1/6_0_0", version=3) == b"\1\1"
    assert tiny.get("raw/0_1_2/2_1_1/6_0_0", version=2) == b"\0\0"
    assert tiny.get("raw/0_1_2/2_1_1/0_0_0", version=3) == b"\0\1"


def test_framed_streams(tiny: Images) -> None:
    stream = tiny.get("specificblocks?blocks=0,0,0,5,5,5&compression=uncompressed")
    assert stream.hex() == "00" * 12 + "08000000" + "0001040508090c0d"
    stream = tiny.get("subvolblocks/2_2_2/0_0_0")
    assert stream.hex() == "00" * 12 + "0d000000" + "08000000" + "80" + "0001040508090c0d"
    jpeg = records(tiny.get("subvolblocks/2_2_2/0_0_0?compression=jpeg"))[0, 0, 0]
    assert Image.open(io.BytesIO(jpeg)).size == (2, 4)
    assert tiny.get("specificblocks?blocks=0,0,0&prefetch=on") == b""
    assert tiny.get("specificblocks?blocks=") == b""


@pytest.mark.parametrize("compression", ["lz4", "none", "gzip", "gzip:9", "snappy", "jpeg", "jpeg:95"])
def test_what_is_written_is_read(compression: str) -> None:
    images = Images(BlockSize="16,8,32", Compression=compression)
    volume = textured((32, 24, 48))
    volume[:, :8, :16] = 9  # compressible
    images.put_volume(volume, (-16, 8, 32))
    tolerance = 40 if "jpeg" in compression else 0

    def check(found: bytes, expected: np.ndarray[Any, Any]) -> None:
        array = np.frombuffer(found, np.uint8).reshape(expected.shape)
        assert np.abs(array.astype(int) - expected).max() <= tolerance

    check(images.get("raw/0_1_2/48_24_32/-16_8_32"), volume)
    check(images.get("raw/0_1_2/20_13_9/-10_11_35"), volume[3:12, 3:16, 6:26])
    check(images.get("raw/0_1_2/48_24_1/-16_8_40"), volume[8:9])
    assert np.abs(picture(images.get("raw/xy/30_20/-10_9_50")).astype(int) - volume[18, 1:21, 6:36]).max() <= tolerance
    assert np.abs(picture(images.get("raw/yz/20_30/20_9_33")).astype(int) - volume[1:31, 1:21, 36]).max() <= tolerance
    stored = records(images.get("subvolblocks/48_24_32/-16_8_32?compression=uncompressed"))
    assert len(stored) == 9
    check(stored[0, 1, 1], volume[:, :8, 16:32])
    as_stored = records(images.get("specificblocks?blocks=-1,1,1,0,2,1,8,8,8"))
    assert set(as_stored) == {(-1, 1, 1), (0, 2, 1)}
    for block, part in (((-1, 1, 1), volume[:, :8, :16]), ((0, 2, 1), volume[:, 8:16, 16:32])):
        payload = as_stored[block]
        if compression == "lz4":
            payload = lz4.block.decompress(payload)
        elif compression == "none":
            pass
        elif "gzip" in compression:
            import gzip

            payload = gzip.decompress(payload)
        elif compression == "snappy":
            assert payload[:5] == bytes((0x80, 0x20, 0xFC)) + struct.pack("<I", 4095)[:2]
            payload = payload[7:]
        else:
            assert Image.open(io.BytesIO(payload)).size == (16, 8 * 32)
            payload = picture(payload).tobytes()
        check(payload, part)


@pytest.mark.parametrize(
    ("typename", "dtype"),
    [("uint8blk", "u1"), ("uint16blk", "u2"), ("uint32blk", "u4"), ("uint64blk", "u8"), ("float32blk", "f4")],
)
def test_voxel_types(typename: str, dtype: str) -> None:
    images = Images(typename, BlockSize="8,8,8", Background="3")
    volume = textured((8, 8, 16), dtype)
    images.put_volume(volume, (0, 0, 0))
    found = np.frombuffer(images.get("raw/0_1_2/18_8_8/0_0_0"), dtype).reshape(8, 8, 18)
    assert np.array_equal(found[:, :, :16], volume)
    assert (found[:, :, 16:] == 3).all()
    span = np.frombuffer(images.get("blocks/0_0_0/3"), dtype).reshape(3, 8, 8, 8)
    assert np.array_equal(span[1], volume[:, :, 8:])
    assert (span[2] == 3).all()
    images.post("blocks/1_0_0/1", span[0].tobytes() + b"ignored")
    assert np.array_equal(np.frombuffer(images.get("raw/0_1_2/8_8_8/8_0_0"), dtype).reshape(8, 8, 8), span[0])
    assert images.extended()["Values"] == [{"DataType": volume.dtype.name, "Label": volume.dtype.name}]


def test_sixteen_bits() -> None:
    images = Images("uint16blk", BlockSize="1,1,1")
    images.put_volume(np.full((1, 1, 1), 258, np.uint16), (0, 0, 0))
    assert images.get("raw/0_1_2/1_1_1/0_0_0").hex() == "0201"
    assert picture(images.get("raw/xy/1_1/0_0_0")).tolist() == [[258]]


def test_colours() -> None:
    images = Images("rgba8blk", BlockSize="4,4,4")
    volume = RNG.integers(0, 256, (4, 4, 8, 4)).astype(np.uint8)
    images.put_volume(volume, (0, 0, 0))
    assert images.get("raw/0_1_2/8_4_4/0_0_0") == volume.tobytes()
    assert np.array_equal(picture(images.get("raw/xz/8_4/0_1_0")), volume[:, 1])
    assert np.array_equal(picture(images.get("arb/0_0_0/56_0_0/0_24_0/8")), volume[0])


def test_jpeg_volumes() -> None:
    images = Images(BlockSize="16,16,16")
    volume = textured((16, 16, 32))
    images.put_volume(volume, (0, 0, 0))
    for _ in range(2):
        answer = images.call("raw/0_1_2/16_16_16/16_0_0/jpeg")
        assert answer.content_type == "image/jpeg"
        seen = images.at_once
        assert images.get("raw/0_1_2/16_16_16/16_0_0/jpeg") == answer.body
        assert images.at_once == seen + 1
        shown = picture(answer.body)  # type: ignore[arg-type]
        assert shown.shape == (256, 16)
        assert np.abs(shown.reshape(16, 16, 16).astype(int) - volume[:, :, 16:]).mean() < 5
    assert picture(images.get("raw/0_1_2/20_5_4/3_0_0/jpg")).shape == (20, 20)
    assert images.get("raw/0_1_2/20_5_4/3_0_0/jpg:90") == images.get("raw/0_1_2/20_5_4/3_0_0")
    assert not picture(images.get("raw/0_1_2/16_16_16/64_0_0/jpeg")).any()


def test_a_stored_jpeg_is_not_encoded_again() -> None:
    images = Images(BlockSize="16,16,16", Compression="jpeg")
    images.put_volume(textured((16, 16, 16)), (0, 0, 0))
    payload = records(images.get("subvolblocks/16_16_16/0_0_0"))[0, 0, 0]
    assert images.get("raw/0_1_2/16_16_16/0_0_0/jpeg") == payload


def test_lz4_volumes() -> None:
    images = Images(BlockSize="16,16,16")
    volume = textured((16, 16, 16))
    images.post("raw/0_1_2/16_16_16/0_0_0?compression=lz4", lz4.block.compress(volume.tobytes(), store_size=False))
    packed = images.get("raw/0_1_2/16_16_16/0_0_0?compression=lz4")
    assert lz4.block.decompress(packed, uncompressed_size=16**3) == volume.tobytes()
    with pytest.raises(BadRequest, match="LZ4"):
        images.post("raw/0_1_2/16_16_16/0_0_0?compression=lz4", b"abc")


def test_isotropic_slices() -> None:
    images = Images(BlockSize="2,2,2", VoxelSize="8,8,16")
    images.post("raw/0_1_2/4_2_2/0_0_0", bytes(range(16)))
    shown = picture(images.get("isotropic/xz/4_4/0_0_0"))
    assert shown.tolist() == [[0, 1, 2, 3]] * 2 + [[8, 9, 10, 11]] * 2
    assert images.get("isotropic/0_1_2/4_2_2/0_0_0") == bytes(range(16))
    images.post("resolution", b"[8, 8, 8]")
    assert picture(images.get("isotropic/xz/4_2/0_0_0")).tolist() == [[0, 1, 2, 3], [8, 9, 10, 11]]


def test_oblique_slices() -> None:
    images = Images(BlockSize="4,4,4", VoxelSize="2,2,2", Background="200")
    volume = np.arange(64, dtype=np.uint8).reshape(4, 4, 4)
    images.put_volume(volume, (0, 0, 0))
    assert np.array_equal(picture(images.get("arb/0_0_0/6_0_0/0_6_0/2")), volume[0])
    assert np.array_equal(picture(images.get("arb/0_0_2/0_6_2/0_0_8/2"))[:3], volume[1:, :, 0])
    assert picture(images.get("arb/1_0_0/3_0_0/1_0_0/2")).tolist() == [[1, 2]]  # halves are rounded up
    assert picture(images.get("arb/0_0_20/2_0_20/0_0_20/2")).tolist() == [[200, 200]]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("raw", "must be followed by shape/size/offset"),
        ("isotropic/xy", '"isotropic" must be followed'),
        ("raw/0_1_2/8_8_8/0_0_0?roi=nowhere", "Can't get ROI with name"),
        ("raw/xy/8_8/0_0_0/gif", "Illegal image format"),
        ("raw/0_1_2/4000_4000_4000/0_0_0", "exceeds this DVID server's set limit"),
        ("raw/xy/30000_30000/0_0_0", "exceeds this DVID server's set limit"),
        ("raw/0_1_2/60000_60000_1/0_0_0/jpeg", "exceeds this DVID server's set limit"),
        ("raw/0_1_2/2_60000_2/0_0_0/jpeg", "at most 65535 rows"),
        ("arb/0_0_0/1_1_1/2_2_2", '"arb" must be followed by'),
        ("arb/0_0/1_1_1/2_2_2/1", "three numbers"),
        ("arb/a_0_0/1_1_1/2_2_2/1", "as a number"),
        ("arb/0_0_0/1_1_1/2_2_2/0", "must be positive"),
        ("arb/0_0_0/1e12_1_1/2_2_2/1", "exceeds|32-bit"),
        ("blocks/0_0_0", '"blocks" must be followed by'),
        ("blocks/0_0/1", "3 \\(not 2\\) dimensions"),
        ("blocks/0_0_0/-1", "not possible"),
        ("blocks/0_0_0/2000000000", "exceeds this DVID server's set limit"),
        ("subvolblocks/2_2_2", "must be followed by size/offset"),
        ("subvolblocks/2_2_2/1_0_0", r"cannot use labels.*\(1,0,0\) -> \(2,1,1\)"),
        ("subvolblocks/2_2_2/0_0_0?compression=zip", "don't understand 'compression'"),
        ("specificblocks?blocks=1,2", "three coordinates per block"),
        ("specificblocks?blocks=1,2,x", '"x"'),
        ("extents", "only supports POST"),
        ("resolution", "only supports POST"),
    ],
)
def test_refused_reads(tiny: Images, path: str, message: str) -> None:
    with pytest.raises(BadRequest, match=message):
        tiny.get(path)


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        ("raw/xy/2_2/0_0_0", bytes(4), "does not permit 2d mutations"),
        ("isotropic/0_1_2/2_2_2/0_0_0", bytes(8), "not 'isotropic'"),
        ("raw/0_1_2/2_2_2/0_0_0", bytes(7), "was 7 bytes, expected 8 bytes for 3d volume"),
        ("raw/0_1_2/2_2_2/0_0_0", bytes(9000), "was 9000 bytes"),
        ("raw/0_1_2/2_2_2/1_0_0", bytes(8), r"cannot store voxels.*\(1,0,0\) -> \(2,1,1\)"),
        ("raw/0_1_2/2_2_1/0_0_0", bytes(4), "non-block aligned"),
        ("raw/0_1_2/2_2_2/0_0_0?roi=r", bytes(8), "ROI"),
        ("blocks/0_0_0/2", bytes(15), "ceased before all block data read"),
        ("extents", b"[1]", "must be an object"),
        ("extents", b'{"MinPoint": [1, 2]}', "three 32-bit integers"),
        ("extents", b"{", "not valid JSON"),
        ("resolution", b"[8, 8]", "three numbers"),
        ("resolution", b"[8, 8, 0]", "positive"),
    ],
)
def test_refused_writes_change_nothing(tiny: Images, path: str, body: bytes, message: str) -> None:
    before = tiny.get("raw/0_1_2/8_8_8/-2_-2_-2"), tiny.extended()
    with pytest.raises(BadRequest, match=message):
        tiny.post(path, body)
    assert (tiny.get("raw/0_1_2/8_8_8/-2_-2_-2"), tiny.extended()) == before


def test_large_bodies_go_through_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fascicle.store.spool.MEMORY_BYTES", 5000)
    images = Images(BlockSize="8,8,8")
    volume = textured((16, 32, 32))
    images.put_volume(volume, (0, 0, 0))
    assert images.get("raw/0_1_2/32_32_16/0_0_0") == volume.tobytes()
    volume = textured((16, 32, 32))
    packed = lz4.block.compress(volume.tobytes(), store_size=False)
    images.post("raw/0_1_2/32_32_16/0_0_0?compression=lz4", packed)
    assert images.get("raw/0_1_2/32_32_16/0_0_0") == volume.tobytes()
    for wrong in (packed[:-10], packed + b"1234", b"\x00" * 6000):
        with pytest.raises(BadRequest):
            images.post("raw/0_1_2/32_32_16/0_0_0?compression=lz4", wrong)
    assert images.get("raw/0_1_2/32_32_16/0_0_0") == volume.tobytes()
    images.post("blocks/0_1_0/4", volume.tobytes()[: 4 * 512])
    assert images.get("blocks/0_1_0/4") == volume.tobytes()[: 4 * 512]


@pytest.mark.parametrize("slab_bytes", [500, 10_000, 30_000])
def test_streams_come_in_slabs(monkeypatch: pytest.MonkeyPatch, slab_bytes: int) -> None:
    images = Images(BlockSize="16,16,16")
    volume = textured((64, 32, 32))
    images.put_volume(volume, (0, 0, 0))
    monkeypatch.setattr("fascicle.datatypes.image.block_reader.SLAB_BYTES", slab_bytes)
    monkeypatch.setattr("fascicle.datatypes.image.block_reader.LAYER_BYTES", 20_000)
    monkeypatch.setattr("fascicle.datatypes.image.endpoints.SMALL_ANSWER_BYTES", 0)
    assert images.get("raw/0_1_2/32_30_50/0_1_5") == volume[5:55, 1:31].tobytes()
