"""Tiles over HTTP: metadata, tiles as posted, missing ones, slices put together, and tiles drawn of a volume."""

from __future__ import annotations

import io
import struct
from typing import Any

import lz4.block
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from fascicle.datatypes.slice_images import encode_jpeg, encode_png
from serving import Client, new_instance, new_repo

Gray = NDArray[np.uint8]


def picture(data: bytes) -> NDArray[Any]:
    return np.asarray(Image.open(io.BytesIO(data)))


def gray(seed: int, height: int = 64, width: int = 64) -> Gray:
    return np.random.default_rng(seed).integers(0, 256, (height, width), np.uint8)


def levels(count: int, side: int | list[int] = 64, resolution: float = 8) -> dict[str, Any]:
    size = [side] * 3 if isinstance(side, int) else side
    return {str(s): {"Resolution": [resolution * 2**s] * 3, "TileSize": size} for s in range(count)}


def metadata(count: int = 2, **more: Any) -> dict[str, Any]:
    return {"MinTileCoord": [0, 0, 0], "MaxTileCoord": [2, 2, 2], "Levels": levels(count, **more)}


@pytest.fixture
def uuid(client: Client) -> str:
    return new_repo(client)


def tiles_of(client: Client, uuid: str, name: str = "tiles", count: int = 2, **settings: str) -> str:
    path = new_instance(client, uuid, "imagetile", name, **settings)
    client.post(f"{path}/metadata", metadata(count)).expect()
    return path


def test_tiles_come_back_as_they_were_posted(client: Client, uuid: str) -> None:
    tiles = tiles_of(client, uuid)
    places = ["xy/0/1_0_37", "XZ/0/0_5_0", "1_2/0/9_0_1", "xy/1/0_0_33", "xy/0/-1_-2_-3"]
    for i, place in enumerate(places):
        client.get(f"{tiles}/tile/{place}?noblanks=true").expect(404)
        client.post(f"{tiles}/tile/{place}", encode_png(gray(i))).expect()
    for i, place in enumerate(places):
        reply = client.get(f"{tiles}/tile/{place}").expect()
        assert (reply.body, reply.headers["content-type"]) == (encode_png(gray(i)), "image/png")
        assert client.get(f"{tiles}/tile/{place}/jpg?noblanks=true").expect().body == reply.body
        head = client.head(f"{tiles}/tile/{place}").expect()
        assert (head.body, head.headers["content-length"]) == (b"", str(len(reply.body)))
    assert client.get(f"{tiles}/tile/xz/0/0_5_0").expect().body == encode_png(gray(1))
    client.post(f"{tiles}/tile/xy/1/0_0_33", b"no picture").expect()  # nothing is checked
    assert client.get(f"{tiles}/tile/xy/1/0_0_33").expect().body == b"no picture"
    keys = {client.get(f"{tiles}/tilekey/{place}").expect().json()["key"] for place in places}
    assert len(keys) == len(places)


def test_missing_tiles_are_black_or_not_found(client: Client, uuid: str) -> None:
    tiles = new_instance(client, uuid, "imagetile", "tiles")
    assert b"metadata has not been POSTed yet" in client.get(f"{tiles}/tile/xy/0/0_0_0").expect(400).body
    size = {"Resolution": [8, 8, 8], "TileSize": [20, 30, 40]}
    client.post(f"{tiles}/metadata", {"Levels": {"0": size}}).expect()
    for plane, shape in (("xy", (30, 20)), ("xz", (40, 20)), ("yz", (40, 30))):
        black = picture(client.get(f"{tiles}/tile/{plane}/0/5_5_-5").expect().body)
        assert (black.shape, black.dtype, black.max()) == (shape, np.uint8, 0)
        client.get(f"{tiles}/tile/{plane}/0/5_5_-5?noblanks=true").expect(404)
        client.get(f"{tiles}/tile/{plane}/0/5_5_-5?noblanks=false").expect()
    for name, kind in (("jpg", "image/jpeg"), ("jpg:50", "image/jpeg"), ("png", "image/png")):
        reply = client.get(f"{tiles}/tile/xy/0/0_0_0/{name}").expect()
        assert reply.headers["content-type"] == kind
        assert picture(reply.body).max() == 0
    assert b"unspecified scale level 1" in client.get(f"{tiles}/tile/xy/1/0_0_0").expect(400).body


def test_formats(client: Client, uuid: str) -> None:
    for i, name in enumerate(("jpg", "PNG", "lz4")):
        path = tiles_of(client, uuid, f"as{name}", Format=name)
        info = client.get(f"{path}/info").expect().json()
        assert info["Extended"]["Encoding"] == {"jpg": 2, "PNG": 1, "lz4": 0}[name]
        assert info["Base"]["Compression"].startswith("LZ4" if name == "lz4" else "No compression")
        raw = gray(i)
        data = {
            "jpg": encode_jpeg(raw),
            "PNG": encode_png(raw),
            "lz4": struct.pack("<I", raw.size) + lz4.block.compress(raw.tobytes(), store_size=False),
        }[name]
        client.post(f"{path}/tile/xy/0/0_0_0", data).expect()
        reply = client.get(f"{path}/tile/xy/0/0_0_0").expect()
        assert reply.headers["content-type"] == ("image/jpeg" if name == "jpg" else "image/png")
        if name == "lz4":
            assert np.array_equal(picture(reply.body), raw)
        else:
            assert reply.body == data
    for bad in (b"", data[:-20], struct.pack("<I", 1 << 31) + data[4:], struct.pack("<I", 64 * 64) + b"\xff" * 99):
        assert b"LZ4 block of 64 x 64" in client.post(f"{path}/tile/xy/0/0_0_1", bad).expect(400).body
    for settings in (
        {"Format": "jpeg"}, {"Format": "gif"}, {"Format": "png", "Compression": "gzip"}, {"Compression": "lz4"},
        {"Format": "lz4", "Compression": "none"}, {"Placeholder": "perhaps"},
    ):  # fmt: skip
        body = {"typename": "imagetile", "dataname": "bad", **settings}
        client.post(f"/api/repo/{uuid}/instance", body).expect(400)


def test_metadata(client: Client, uuid: str) -> None:
    tiles = new_instance(client, uuid, "imagetile", "tiles")
    assert b'tile metadata for imagetile "tiles" was not set' in client.get(f"{tiles}/metadata").expect(400).body
    posted = '{"MinTileCoord":[0,0.0,0],"mintilecoord":null,"maxTILEcoord":[5.0,5,4],"Levels":' + (
        '{"0":{"Resolution":[10.0,10.5,10],"TileSize":[512,512.0,512]},'
        '"1":{"Resolution":[20,21,10],"TileSize":[256,256,256]}}}'
    )
    client.post(f"{tiles}/metadata", posted).expect()
    expected = {
        "MinTileCoord": [0, 0, 0],
        "MaxTileCoord": [5, 5, 4],
        "Levels": {
            "0": {"Resolution": [10, 10.5, 10], "TileSize": [512, 512, 512]},
            "1": {"Resolution": [20, 21, 10], "TileSize": [256, 256, 256]},
        },
    }
    assert client.get(f"{tiles}/metadata").expect().json() == expected
    good = levels(1)["0"]
    for bad in (
        "", "{", "[]", "null", {}, {"Levels": {}}, {"Levels": {"1": good}}, {"Levels": {"0": good, "2": good}},
        {"Levels": {"zero": good}}, {"Levels": {"00": good}}, {"Levels": []}, {"Levels": {"0": 5}},
        {"Levels": {"0": {}}},
        {"Levels": {"0": good}, "MinTileCoord": [0, 0]}, {"Levels": {"0": good}, "MinTileCoord": [1.5, 0, 0]},
        {"Levels": {"0": good}, "MaxTileCoord": [1 << 31, 0, 0]}, {"Levels": {"0": {**good, "TileSize": [0, 1, 1]}}},
        {"Levels": {"0": {**good, "TileSize": [100_000] * 3}}}, {"Levels": {"0": {**good, "Resolution": [0, 1, 1]}}},
        {"Levels": {"0": {**good, "Resolution": ["1", 1, 1]}}}, {"Levels": {"9" * 5000: good}},
        {"Levels": {"0": good, "1": {**good, "Resolution": [4, 4, 4]}}},  # finer than the level before
        {"Levels": {"0": good, "1": {**good, "Resolution": [12, 12, 12]}}},  # one and a half times as coarse
        {"Levels": {str(s): good for s in range(300)}},
    ):  # fmt: skip
        client.post(f"{tiles}/metadata", bad).expect(400)
    assert client.get(f"{tiles}/metadata").expect().json() == expected


@pytest.mark.parametrize(
    "path",
    ["tile", "tile/xy", "tile/xy/0", "tile/xx/0/0_0_0", "tile/xyz/0/0_0_0", "tile/0_1_2/0/0_0_0", "tile/xy/x/0_0_0",
     "tile/xy/256/0_0_0", "tile/xy/-1/0_0_0", "tile/xy/0/a_b_c", "tile/xy/0/0_0", "tile/xy/0/0_0_0_0",
     "tile/xy/0/9999999999_0_0", "tile/xy/0/0_0_0/gif", "tile/xy/0/0_0_0/jpg:0", "tilekey/xy/0", "raw/xy/10_10/0_0_0",
     "nothing"],
)  # fmt: skip
def test_requests_that_are_refused(client: Client, uuid: str, path: str) -> None:
    tiles = tiles_of(client, uuid)
    assert client.get(f"{tiles}/{path}").status == 400
    assert client.delete(f"{tiles}/{path}").status == 400


def test_versions(client: Client, uuid: str) -> None:
    tiles = tiles_of(client, uuid)
    client.post(f"{tiles}/tile/xy/0/0_0_0", b"old").expect()
    client.post(f"{tiles}/tile/xy/0/1_0_0", b"stays").expect()
    client.post(f"/api/node/{uuid}/commit", {}).expect()
    child = client.post(f"/api/node/{uuid}/newversion", {}).expect().json()["child"]
    ours = f"/api/node/{child}/tiles"
    for path, body in (("tile/xy/0/0_0_0", b"x"), ("metadata", metadata()), ("generate", b"")):
        assert b"of locked node" in client.post(f"{tiles}/{path}", body).expect(400).body
    client.post(f"{ours}/tile/xy/0/0_0_0", b"new").expect()
    assert client.get(f"{tiles}/tile/xy/0/0_0_0").expect().body == b"old"
    assert client.get(f"{ours}/tile/xy/0/0_0_0").expect().body == b"new"
    assert client.get(f"{ours}/tile/xy/0/1_0_0").expect().body == b"stays"


# -- slices put together


def test_raw_shows_the_tiles_of_scale_0(client: Client, uuid: str) -> None:
    new_instance(client, uuid, "uint8blk", "gray")
    tiles = tiles_of(client, uuid, Source="gray")
    assert client.get(f"{tiles}/info").expect().json()["Extended"]["Source"] == "gray"
    expected = np.zeros((300, 300), np.uint8)
    for i, (column, row) in enumerate([(0, 0), (1, 0), (2, 1), (1, 3)]):
        expected[row * 64 : row * 64 + 64, column * 64 : column * 64 + 64] = gray(i)
        client.post(f"{tiles}/tile/xz/0/{column}_7_{row}", encode_png(gray(i))).expect()
    for width, height, x, z in ((64, 64, 0, 0), (200, 250, 0, 0), (70, 3, 60, 100), (1, 1, 130, 70)):
        shown = picture(client.get(f"{tiles}/raw/xz/{width}_{height}/{x}_7_{z}").expect().body)
        assert np.array_equal(shown, expected[z : z + height, x : x + width])
    beside = picture(client.get(f"{tiles}/raw/xz/30_20/-10_7_-5").expect().body)
    assert np.array_equal(beside[5:, 10:], expected[:15, :20])
    assert beside[:5].max() == beside[:, :10].max() == 0
    assert picture(client.get(f"{tiles}/raw/xz/64_64/0_8_0/jpg").expect().body).max() == 0
    half = picture(client.get(f"{tiles}/isotropic/xz/64_64/0_7_0").expect().body)
    assert np.array_equal(half, expected[:64, :64])
    for path in ("raw/0_1_2/5_5_5/0_0_0", "raw/xz/100000_100000/0_0_0", "raw/xz/0_5/0_0_0", "raw/xz/5_5"):
        client.get(f"{tiles}/{path}").expect(400)
    client.post(f"{tiles}/raw/xz/64_64/0_7_0", bytes(64 * 64)).expect(400)
    client.post(f"{tiles}/tile/xz/0/0_7_0", b"no picture").expect()
    assert b"is not a picture" in client.get(f"{tiles}/raw/xz/64_64/0_7_0").expect(400).body
    client.post(f"{tiles}/tile/xz/0/0_7_0", encode_png(gray(1, 65, 64))).expect()
    client.get(f"{tiles}/raw/xz/64_64/0_7_0").expect(400)


def test_isotropic_pixels_are_square(client: Client, uuid: str) -> None:
    new_instance(client, uuid, "uint8blk", "gray")
    tiles = new_instance(client, uuid, "imagetile", "tiles", Source="gray")
    client.post(f"{tiles}/metadata", {"Levels": {"0": {"Resolution": [8, 8, 16], "TileSize": [4, 4, 4]}}}).expect()
    rows = np.array([[0, 1, 2, 3], [8, 9, 10, 11], [0] * 4, [0] * 4], np.uint8)
    client.post(f"{tiles}/tile/xz/0/0_0_0", encode_png(rows)).expect()
    shown = picture(client.get(f"{tiles}/isotropic/xz/4_4/0_0_0").expect().body)
    assert shown.tolist() == [[0, 1, 2, 3]] * 2 + [[8, 9, 10, 11]] * 2


def test_colours_and_placeholders(client: Client, uuid: str) -> None:
    new_instance(client, uuid, "uint8blk", "gray")
    tiles = tiles_of(client, uuid, Source="gray", Placeholder="true")
    colours = np.random.default_rng(1).integers(0, 256, (64, 64, 3), np.uint8)
    client.post(f"{tiles}/tile/xy/0/0_0_0", encode_png(colours)).expect()
    client.post(f"{tiles}/tile/xy/0/1_0_0", encode_png(gray(3))).expect()
    shown = picture(client.get(f"{tiles}/raw/xy/192_64/0_0_0").expect().body)
    assert np.array_equal(shown[:, :64], colours)
    assert np.array_equal(shown[:, 64:128], np.repeat(gray(3)[:, :, None], 3, axis=2))
    assert len(np.unique(shown[:, 128:])) > 2  # a frame and a text
    assert picture(client.get(f"{tiles}/tile/xy/0/2_0_0").expect().body).max() == 0


# -- tiles drawn of a volume


def volume(depth: int, height: int, width: int) -> Gray:
    return np.random.default_rng(7).integers(1, 256, (depth, height, width), np.uint8)


def means(image: NDArray[Any], factor: int) -> Gray:
    """A slow twin of the reduction, scale by scale: means of 2 x 2 pixels, rounded down."""
    reduced = image.astype(np.int64)
    while factor > 1:
        height, width = reduced.shape
        reduced = reduced.reshape(height // 2, 2, width // 2, 2).sum(axis=(1, 3)) // 4
        factor //= 2
    return reduced.astype(np.uint8)


@pytest.mark.parametrize("offset", [(0, 0, 0), (32, 64, -32)])
def test_tiles_are_drawn_of_a_volume(client: Client, uuid: str, offset: tuple[int, int, int]) -> None:
    """Wherever the volume begins, a tile of any plane and scale is the means of the voxels that it covers."""
    source = new_instance(client, uuid, "uint8blk", "gray", VoxelSize="4,4,4")
    voxels = volume(64, 96, 160)
    x0, y0, z0 = offset
    client.post(f"{source}/raw/0_1_2/160_96_64/{x0}_{y0}_{z0}", voxels.tobytes()).expect()
    tiles = new_instance(client, uuid, "imagetile", "tiles", Source="gray")
    spec = levels(3, side=32, resolution=4)
    made = client.post(f"{tiles}/generate", spec).expect().json()["Tiles"]
    shown = client.get(f"{tiles}/metadata").expect().json()
    assert shown == {
        "MinTileCoord": [x0 // 32, y0 // 32, z0 // 32],
        "MaxTileCoord": [(x0 + 159) // 32, (y0 + 95) // 32, (z0 + 63) // 32],
        "Levels": spec,
    }
    low = (0, 0, -128)
    space = np.zeros((256, 256, 256), np.uint8)
    space[z0 + 128 : z0 + 192, y0 : y0 + 96, x0 : x0 + 160] = voxels
    count = 0
    for plane, (across, down, normal) in {"xy": (0, 1, 2), "xz": (0, 2, 1), "yz": (1, 2, 0)}.items():
        images = space.transpose(2 - normal, 2 - down, 2 - across)
        position = offset[normal] + 5
        image = images[position - low[normal]]
        for scale in range(3):
            side = 32 << scale
            for y in range(0, 256, side):
                for x in range(0, 256, side):
                    at = [0, 0, 0]
                    at[across], at[down], at[normal] = (low[across] + x) // side, (low[down] + y) // side, position
                    reply = client.get(f"{tiles}/tile/{plane}/{scale}/{'_'.join(map(str, at))}?noblanks=true")
                    covered = image[y : y + side, x : x + side]
                    if reply.status == 404:
                        assert not covered.any()
                    else:
                        assert np.array_equal(picture(reply.expect().body), means(covered, 2**scale))
                        count += 1
    slices = {"xy": 64, "xz": 96, "yz": 160}
    assert count == sum(made_at(voxels.shape, offset, plane, 3) for plane in slices)
    assert made == sum(number * made_at(voxels.shape, offset, plane, 3) for plane, number in slices.items())


def made_at(shape_zyx: tuple[int, ...], offset: tuple[int, int, int], plane: str, scales: int) -> int:
    """How many tiles of 32 pixels one slice of a plane has at all scales."""
    total = 0
    for scale in range(scales):
        side = 32 << scale
        spans = [(o + s - 1) // side - o // side + 1 for o, s in zip(offset, shape_zyx[::-1], strict=True)]
        total += {"xy": spans[0] * spans[1], "xz": spans[0] * spans[2], "yz": spans[1] * spans[2]}[plane]
    return total


def test_drawing_ranges_and_planes(client: Client, uuid: str) -> None:
    source = new_instance(client, uuid, "uint8blk", "gray")
    voxels = volume(32, 64, 64)
    client.post(f"{source}/raw/0_1_2/64_64_32/0_0_0", voxels.tobytes()).expect()
    tiles = new_instance(client, uuid, "imagetile", "tiles", Source="gray", Format="lz4")
    client.post(f"{tiles}/metadata", metadata(2, side=32)).expect()
    made = client.post(f"{tiles}/generate?planes=xy&zrange=3,4&xrange=10,40").expect().json()
    assert made == {"Tiles": 2 * (4 + 1)}
    kept = voxels[3].copy()
    kept[:, :10] = kept[:, 41:] = 0
    assert np.array_equal(picture(client.get(f"{tiles}/tile/xy/0/1_0_3").expect().body), kept[:32, 32:])
    assert np.array_equal(picture(client.get(f"{tiles}/tile/xy/1/0_0_3").expect().body), means(kept, 2))
    for absent in ("xy/0/0_0_5", "xz/0/0_0_0"):
        client.get(f"{tiles}/tile/{absent}?noblanks=true").expect(404)
    assert client.post(f"{tiles}/generate?planes=yz;xz&yrange=60,99").expect().json() == {"Tiles": 4 * 3 + 64 * 2}
    for bad in ("planes=zz", "planes=", "xrange=1", "xrange=a,b", "xrange=9,5", "zrange=100,200"):
        client.post(f"{tiles}/generate?{bad}").expect(400)
    for spec in (
        "[]", levels(2, side=[32, 32, 64]) | {"1": levels(2, side=16)["1"]}, levels(1, side=8), levels(1, side=8192),
        levels(1, side=[33, 33, 33]) | {"1": {"Resolution": [16] * 3, "TileSize": [33] * 3}},
    ):  # fmt: skip
        client.post(f"{tiles}/generate", spec).expect(400)


def test_drawing_with_default_levels(client: Client, uuid: str) -> None:
    """Scales are added until one tile shows everything along each axis."""
    source = new_instance(client, uuid, "uint8blk", "gray", VoxelSize="4,4,40")
    client.post(f"{source}/raw/0_1_2/1056_32_32/0_0_0", volume(32, 32, 1056).tobytes()).expect()
    tiles = new_instance(client, uuid, "imagetile", "tiles", Source="gray", Format="jpg")
    assert client.post(f"{tiles}/generate?planes=xy&zrange=0,0").expect().json() == {"Tiles": 3 + 2 + 1}
    drawn = client.get(f"{tiles}/metadata").expect().json()["Levels"]
    assert [level["Resolution"] for level in drawn.values()] == [[4, 4, 40], [8, 8, 80], [16, 16, 160]]
    assert all(level["TileSize"] == [512, 512, 512] for level in drawn.values())
    reply = client.get(f"{tiles}/tile/xy/2/0_0_0").expect()
    assert reply.headers["content-type"] == "image/jpeg"
    assert picture(reply.body).shape == (512, 512)


def test_what_cannot_be_drawn(client: Client, uuid: str) -> None:
    new_instance(client, uuid, "uint16blk", "deep")
    empty = new_instance(client, uuid, "uint8blk", "empty")
    for name, source in (("a", ""), ("b", "nothing"), ("c", "deep"), ("d", "empty")):
        tiles = new_instance(client, uuid, "imagetile", name, Source=source)
        client.post(f"{tiles}/generate").expect(400)
        client.get(f"{tiles}/metadata").expect(400)
    client.post(f"{empty}/extents", {"MinPoint": [0, 0, 0], "MaxPoint": [99_999, 99_999, 99_999]}).expect()
    assert b"more than the 100000 of one request" in client.post(f"{tiles}/generate").expect(400).body
    client.get(f"{tiles}/metadata").expect(400)
