"""The endpoints of roi, and the option `roi` of volumes, over HTTP."""

from __future__ import annotations

import gzip
from urllib.parse import quote

import compressed_segmentation
import lz4.block
import numpy as np
import pytest

from serving import Client, Reply, RunningServer, new_instance, new_repo

SPANS = [[1, 0, 1, 3], [0, 0, 0, 2], [0, 1, 0, 2], [2, 3, 5, 5]]
KEPT = [[0, 0, 0, 2], [0, 1, 0, 2], [1, 0, 1, 3], [2, 3, 5, 5]]


@pytest.fixture
def uuid(client: Client) -> str:
    return new_repo(client)


@pytest.fixture
def region(client: Client, uuid: str) -> str:
    path = new_instance(client, uuid, "roi", "region")
    client.post(f"{path}/roi", SPANS).expect()
    return path


def child_of(client: Client, uuid: str) -> str:
    client.post(f"/api/node/{uuid}/commit", {"note": "done"}).expect()
    child: str = client.post(f"/api/node/{uuid}/newversion", {"note": "next"}).expect().json()["child"]
    return child


def extended(client: Client, path: str) -> dict[str, object]:
    found: dict[str, object] = client.get(f"{path}/info").expect().json()["Extended"]
    return found


def test_worked_examples(client: Client, uuid: str, region: str) -> None:
    reply = client.get(f"{region}/roi").expect()
    assert (reply.json(), reply.headers["content-type"]) == (KEPT, "application/json")
    assert reply.body == b"[[0,0,0,2],[0,1,0,2],[1,0,1,3],[2,3,5,5]]"
    assert extended(client, region) == {"BlockSize": [32, 32, 32], "MinZ": 0, "MaxZ": 2}
    points = [[95, 31, 0], [96, 0, 0], [96, 0, 32], [-1, 0, 0]]
    assert client.post(f"{region}/ptquery", points).expect().body == b"[true,false,true,false]"
    assert client.post(f"{region}/ptquery", []).expect().body == b"[]"
    assert client.get(f"{region}/mask/0_1_2/3_1_1/94_40_10").expect().body == b"\x01\x01\x00"
    partition = client.get(f"{region}/partition?batchsize=2").expect()
    assert partition.json()["NumTotalBlocks"] == 24
    assert partition.body.startswith(b'{\n    "NumTotalBlocks": 24,\n    "NumActiveBlocks": 10,\n')
    assert client.get(f"{region}/partition?batchsize=2&optimized=true").expect().json()["NumTotalBlocks"] == 25
    client.post(f"{region}/roi", [[0, 0, 5, 4]]).expect(400)
    assert client.get(f"{region}/roi").json() == KEPT
    child = child_of(client, uuid)
    below = region.replace(uuid, child)
    assert client.get(f"{below}/roi").json() == KEPT
    client.post(f"{below}/roi", [[9, 9, 9, 9]]).expect()
    assert client.get(f"{below}/roi").json() == [[9, 9, 9, 9]]
    assert client.get(f"{region}/roi").json() == KEPT
    assert extended(client, region)["MaxZ"] == 2
    assert extended(client, below)["MaxZ"] == 9
    assert client.post(f"{region}/ptquery", points).expect().json() == [True, False, True, False]
    assert client.post(f"{below}/ptquery", points).expect().json() == [False] * 4
    client.post(f"{region}/roi", []).expect(400)


def test_clearing(client: Client, region: str) -> None:
    client.delete(f"{region}/roi").expect()
    assert client.get(f"{region}/roi").body == b"[]"
    assert extended(client, region) == {"BlockSize": [32, 32, 32], "MinZ": (1 << 31) - 1, "MaxZ": -(1 << 31)}
    assert client.get(f"{region}/mask/0_1_2/2_2_2/0_0_0").expect().body == bytes(8)
    assert client.get(f"{region}/partition?batchsize=2").expect().json()["Subvolumes"] == []
    client.post(f"{region}/roi", SPANS).expect()
    client.post(f"{region}/roi", b"null").expect()
    assert client.get(f"{region}/roi").body == b"[]"
    client.delete(f"{region}/roi").expect()


def test_methods(client: Client, uuid: str, region: str) -> None:
    for method, keyword, status in [
        ("HEAD", "roi", 200),
        ("PUT", "roi", 200),
        ("GET", "ptquery", 400),
        ("PUT", "ptquery", 200),
        ("DELETE", "ptquery", 200),
        ("HEAD", "ptquery", 200),
        ("HEAD", "mask/0_1_2/1_1_1/0_0_0", 400),
        ("POST", "mask/0_1_2/1_1_1/0_0_0", 400),
        ("POST", "partition?batchsize=2", 400),
        ("HEAD", "partition?batchsize=2", 400),
        ("GET", "sync", 400),
        ("POST", "sync", 400),
    ]:
        reply = client.request(method, f"{region}/{keyword}", b"[]" if method in ("PUT", "POST") else b"")
        assert (method, keyword, reply.status) == (method, keyword, status)
    assert client.get(f"{region}/roi").json() == KEPT
    client.post(f"/api/node/{uuid}/commit", {"note": "done"}).expect()
    for method in ("POST", "PUT", "DELETE"):
        client.request(method, f"{region}/roi", b"[]").expect(400)
    client.request("DELETE", f"{region}/ptquery").expect(400)
    client.post(f"{region}/ptquery", [[0, 0, 0]]).expect()


@pytest.mark.parametrize("name", ["AB(L)", "a'L(R)"])
def test_names_with_signs(client: Client, uuid: str, name: str) -> None:
    path = new_instance(client, uuid, "roi", name)
    client.post(f"{path}/roi", [[1, 1, 1, 1]]).expect()
    for shown in (name, quote(name, safe=""), quote(name)):
        assert client.get(f"/api/node/{uuid}/{shown}/roi").expect().json() == [[1, 1, 1, 1]]


@pytest.mark.parametrize(
    "request_",
    [
        "mask",
        "mask/0_1_2/5_5_5",
        "mask/xy/5_5/1_1_1",
        "mask/nonsense/5_5_5/1_1_1",
        "mask/0_1_2/5_5/1_1_1",
        "mask/0_1_2/5_5_0/1_1_1",
        "mask/0_1_2/a_b_c/1_1_1",
        "mask/0_1_2/2000_2000_2000/0_0_0",
        "mask/0_1_2/5_5_5/2147483647_0_0",
        "partition",
        "partition?batchsize=x",
        "partition?batchsize=0",
        "partition?batchsize=-2",
        "partition?batchsize=1.5",
    ],
)
def test_bad_requests(client: Client, region: str, request_: str) -> None:
    client.get(f"{region}/{request_}").expect(400)


@pytest.mark.parametrize("size", ["a,b,c", "", "64", "0,1,1", "-1,1,1", "1,1,1,1"])
def test_bad_block_sizes(client: Client, uuid: str, size: str) -> None:
    settings = {"typename": "roi", "dataname": "bad", "BlockSize": size}
    client.post(f"/api/repo/{uuid}/instance", settings).expect(400)


def test_large_masks_are_streamed(server: RunningServer, client: Client, uuid: str) -> None:
    path = new_instance(client, uuid, "roi", "region", BlockSize="64,64,64")
    client.post(f"{path}/roi", [[z, y, 1, 2] for z in range(-1, 8) for y in range(-1, 8)]).expect()
    with server.watch_memory() as memory:
        before = memory.peak_anonymous_bytes
        body = client.get(f"{path}/mask/0_1_2/400_500_600/-10_-10_-10").expect().body
    mask = np.frombuffer(body, np.uint8).reshape(600, 500, 400)
    wanted = np.zeros_like(mask)
    wanted[: 8 * 64 + 10, :, 64 + 10 : 3 * 64 + 10] = 1
    assert np.array_equal(mask, wanted)
    assert memory.peak_anonymous_bytes - before < len(body) or not before
    flat = client.get(f"{path}/mask/0_1_2/3000_2000_1/60_0_0").expect().body
    wide = np.frombuffer(flat, np.uint8).reshape(2000, 3000)
    assert wide.sum() == 128 * 512
    assert np.array_equal(np.flatnonzero(wide[100]), np.arange(4, 132))


# -- the option `roi`


def ordered(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    return (np.arange(np.prod(shape)) % 251 + 1).astype(dtype).reshape(shape)


@pytest.mark.parametrize(("typename", "dtype"), [("labelmap", "<u8"), ("uint8blk", "u1"), ("uint16blk", "<u2")])
def test_volumes_confined_to_a_region(client: Client, uuid: str, typename: str, dtype: str) -> None:
    volume = new_instance(client, uuid, typename, "volume", BlockSize="32,32,32")
    region = new_instance(client, uuid, "roi", "A'(L)", BlockSize="32,32,32")
    client.post(f"{region}/roi", [[0, 0, 1, 1], [1, 1, 0, 0]]).expect()
    new_instance(client, uuid, "roi", "halves", BlockSize="16,16,16")
    client.post(f"/api/node/{uuid}/halves/roi", [[1, 0, 2, 2]]).expect()
    voxels = ordered((64, 64, 64), dtype)
    client.post(f"{volume}/raw/0_1_2/64_64_64/0_0_0", voxels.tobytes()).expect()
    inside = np.zeros((64, 64, 64), bool)
    inside[:32, :32, 32:] = inside[32:, 32:, :32] = True
    option = "roi=" + quote("A'(L)")
    for name in (option, f"{option},{uuid}"):
        shown = client.get(f"{volume}/raw/0_1_2/64_64_64/0_0_0?{name}").expect().body
        assert np.array_equal(np.frombuffer(shown, dtype).reshape(voxels.shape), np.where(inside, voxels, 0))
    part = client.get(f"{volume}/raw/0_1_2/40_30_50/20_31_10?{option}").expect().body
    wanted = np.where(inside, voxels, 0)[10:60, 31:61, 20:60]
    assert np.array_equal(np.frombuffer(part, dtype).reshape(wanted.shape), wanted)
    half = client.get(f"{volume}/raw/0_1_2/64_64_64/0_0_0?roi=halves").expect().body
    inside[32:, 32:, :32] = False
    assert np.array_equal(np.frombuffer(half, dtype).reshape(voxels.shape), np.where(inside, voxels, 0))
    client.get(f"{volume}/raw/xy/64_64/0_0_5?{option}").expect()
    other = new_instance(client, uuid, typename, "other", BlockSize="32,32,32")
    client.post(f"{other}/raw/0_1_2/64_64_64/0_0_0?roi=halves", voxels.tobytes()).expect()
    written = client.get(f"{other}/raw/0_1_2/64_64_64/0_0_0").expect().body
    assert np.array_equal(np.frombuffer(written, dtype).reshape(voxels.shape), np.where(inside, voxels, 0))
    client.post(f"{region}/roi", []).expect()
    client.post(f"{other}/raw/0_1_2/64_64_64/0_0_0?{option}", bytes(voxels.nbytes)).expect()
    assert client.get(f"{other}/raw/0_1_2/64_64_64/0_0_0").expect().body == written
    for wrong in ("nowhere", "A'(L),", "A'(L),0000", "A'(L),a,b", "volume"):
        reply = client.get(f"{volume}/raw/0_1_2/8_8_8/0_0_0?roi={quote(wrong)}").expect(400)
        assert wrong != "nowhere" or b"invalid data instance name" in reply.body


def test_labels_of_coarser_scales_have_no_region(client: Client, uuid: str, region: str) -> None:
    volume = new_instance(client, uuid, "labelmap", "volume")
    client.get(f"{volume}/raw/0_1_2/8_8_8/0_0_0?roi=region&scale=1").expect(400)
    client.get(f"{volume}/pseudocolor/xy/8_8/0_0_0?roi=region").expect()
    for compression in ("lz4", "gzip", "google", "googlegzip"):
        reply = client.get(f"{volume}/raw/0_1_2/64_64_64/0_0_0?roi=region&compression={compression}").expect()
        assert not unpacked(reply, compression, "64_64_64").any()


def unpacked(reply: Reply, compression: str, size: str) -> np.ndarray:
    """Labels u64 of an answer, without shape. Compressed segmentations of the same voxels may differ."""
    data = gzip.decompress(reply.body) if compression in ("gzip", "googlegzip") else reply.body
    x, y, z = (int(part) for part in size.split("_"))
    if compression.startswith("google"):
        return compressed_segmentation.decompress(data, (x, y, z), "uint64", (8, 8, 8), "F").ravel("F")
    if compression == "lz4":
        data = lz4.block.decompress(data, uncompressed_size=8 * x * y * z)
    return np.frombuffer(data, "<u8")


def test_labels_in_every_packing(client: Client, uuid: str) -> None:
    volume = new_instance(client, uuid, "labelmap", "volume")
    confined = new_instance(client, uuid, "labelmap", "confined")
    region = new_instance(client, uuid, "roi", "region", BlockSize="64,64,64")
    client.post(f"{region}/roi", [[0, 0, 1, 1]]).expect()
    voxels = ordered((64, 128, 128), "<u8")
    client.post(f"{volume}/raw/0_1_2/128_128_64/0_0_0", voxels.tobytes()).expect()
    client.post(f"{confined}/raw/0_1_2/128_128_64/0_0_0?roi=region", voxels.tobytes()).expect()
    for size, offset in (("128_128_64", "0_0_0"), ("64_64_64", "0_0_0"), ("64_64_64", "64_0_0"), ("80_80_16", "8_8_8")):
        for compression in ("none", "lz4", "gzip", "google", "googlegzip"):
            path = f"raw/0_1_2/{size}/{offset}?compression={compression}"
            replies = client.get(f"{volume}/{path}&roi=region").expect(), client.get(f"{confined}/{path}").expect()
            shown, wanted = (unpacked(reply, compression, size) for reply in replies)
            assert np.array_equal(shown, wanted), path
    for path in ("raw/xy/128_128/0_0_5", "isotropic/yz/100_50/70_8_8", "pseudocolor/xz/128_64/0_3_0"):
        assert client.get(f"{volume}/{path}?roi=region").body == client.get(f"{confined}/{path}").body


def test_images_may_be_darkened_outside(client: Client, uuid: str, region: str) -> None:
    image = new_instance(client, uuid, "uint8blk", "image", Background="9")
    voxels = ordered((32, 32, 192), "u1")
    client.post(f"{image}/raw/0_1_2/192_32_32/0_0_0", voxels.tobytes()).expect()
    box = f"{image}/raw/0_1_2/192_32_32/0_0_0?roi=region"
    inside = np.zeros(voxels.shape, bool)
    inside[:, :, :96] = True
    blanked, darkened = client.get(box).expect().body, client.get(f"{box}&attenuation=2").expect().body
    assert np.array_equal(np.frombuffer(blanked, "u1").reshape(voxels.shape), np.where(inside, voxels, 9))
    assert np.array_equal(np.frombuffer(darkened, "u1").reshape(voxels.shape), np.where(inside, voxels, voxels >> 2))
    slices = {client.get(f"{image}/raw/xy/192_32/0_0_0{more}").expect().body for more in ("", "?roi=region")}
    assert len(slices) == 2
    for wrong in ("0", "8", "x", "-1"):
        client.get(f"{box}&attenuation={wrong}").expect(400)
    wide = new_instance(client, uuid, "uint16blk", "wide")
    client.get(f"{wide}/raw/0_1_2/8_8_8/0_0_0?roi=region&attenuation=1").expect(400)
