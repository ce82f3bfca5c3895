"""Precomputed volumes in every form: what TensorStore writes we read equal, what we write it reads equal."""

from __future__ import annotations

import gzip
import itertools
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from folder_server import ObjectServer

from fascicle.formats import precomputed_info, volume_chunks
from fascicle.formats.sharding import Sharding, build_shard, morton_code
from fascicle.volumes import VolumeError, VolumeSource, open_pyramid, open_volume, persistence
from fascicle.volumes.chunk_cache import ChunkCache
from fascicle.volumes.objects import Access

tensorstore = pytest.importorskip("tensorstore")
SHAPE = (37, 50, 61)
CHUNK = (16, 8, 12)
OFFSET = (-5, 0, 33)
SHARDINGS = {
    "unsharded": None,
    "identity": Sharding(preshift_bits=2, hash="identity", minishard_bits=2, shard_bits=4,
                         minishard_index_encoding="gzip", data_encoding="gzip"),
    "murmur": Sharding(preshift_bits=1, hash="murmurhash3_x86_128", minishard_bits=3, shard_bits=1),
    "one shard": Sharding(preshift_bits=9, hash="identity", minishard_bits=0, shard_bits=0, data_encoding="gzip"),
}  # fmt: skip
FORMS = [
    ("raw", "uint8", 1), ("raw", "float32", 1), ("raw", "int16", 1), ("raw", "uint64", 1), ("raw", "uint8", 3),
    ("jpeg", "uint8", 1), ("jpeg", "uint8", 3), ("png", "uint8", 1), ("png", "uint16", 1), ("png", "uint8", 4),
    ("compressed_segmentation", "uint32", 1), ("compressed_segmentation", "uint64", 1),
    ("compressed_segmentation", "uint64", 2),
]  # fmt: skip


def voxels(dtype: str, channels: int = 1) -> np.ndarray:
    """Smooth along all axes [channel, z, y, x], with empty chunks."""
    c, z, y, x = np.ogrid[:channels, : SHAPE[0], : SHAPE[1], : SHAPE[2]]
    volume = (c * 20 + z * 2 + y // 3 + x // 4 + 1).astype(dtype)
    volume[:, 12:24, 8:16, :] = 0
    return volume


def info_of(encoding: str, dtype: str, channels: int, sharding: Sharding | None) -> precomputed_info.VolumeInfo:
    labels = encoding == "compressed_segmentation"
    scale = precomputed_info.Scale(
        key="4_4_40", size=SHAPE[::-1], resolution=(4, 4, 40), chunk_sizes=(CHUNK,), encoding=encoding,
        voxel_offset=OFFSET, compressed_segmentation_block_size=(8, 8, 8) if labels else None, sharding=sharding,
    )  # fmt: skip
    return precomputed_info.VolumeInfo(
        type="segmentation" if labels else "image", data_type=dtype, num_channels=channels, scales=(scale,)
    )


def theirs(folder: Path) -> Any:
    spec = {"driver": "neuroglancer_precomputed", "kvstore": {"driver": "file", "path": f"{folder}/"}}
    return tensorstore.open(spec).result()


def write_theirs(folder: Path, info: precomputed_info.VolumeInfo, volume: np.ndarray) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "info").write_bytes(precomputed_info.encode(info))
    theirs(folder).write(volume.transpose(3, 2, 1, 0)).result()


def write_ours(folder: Path, info: precomputed_info.VolumeInfo, volume: np.ndarray) -> None:
    scale = info.scales[0]
    (folder / scale.key).mkdir(parents=True, exist_ok=True)
    (folder / "info").write_bytes(precomputed_info.encode(info))
    shards: dict[int, list[tuple[int, bytes]]] = {}
    for cell in itertools.product(*map(range, scale.grid())):
        start, stop = scale.chunk_span(cell)
        part = volume[(slice(None), *(slice(a, b) for a, b in zip(start[::-1], stop[::-1], strict=True)))]
        if not part.any():
            continue
        data = volume_chunks.encode(part, scale.encoding, level=95 if scale.encoding == "jpeg" else None)
        if scale.sharding is None:
            (folder / scale.key / scale.chunk_name(start, stop)).write_bytes(data)
        else:
            key = morton_code(cell, scale.grid())
            shards.setdefault(scale.sharding.place(key)[0], []).append((key, data))
    for shard, values in shards.items():
        assert scale.sharding is not None
        (folder / scale.key / scale.sharding.file_name(shard)).write_bytes(build_shard(scale.sharding, shard, values))


def check(source: VolumeSource, expected: np.ndarray, lossy: bool) -> None:
    assert source.shape_zyx == SHAPE
    assert source.dtype == expected.dtype
    assert source.offset_xyz == OFFSET
    assert source.resolution_nm == (4, 4, 40)
    boxes = [((0, 0, 0), SHAPE), ((3, 7, 15), (13, 9, 33)), ((36, 49, 60), SHAPE), ((13, 9, 0), (14, 10, 61))]
    for start, stop in boxes:
        found = source.read(start, stop)
        wanted = expected[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))]
        assert found.shape == wanted.shape
        assert np.abs(found.astype(float) - wanted.astype(float)).max() <= (8 if lossy else 0)


@pytest.mark.parametrize("sharding", SHARDINGS)
@pytest.mark.parametrize(("encoding", "dtype", "channels"), FORMS)
def test_both_directions(encoding: str, dtype: str, channels: int, sharding: str, tmp_path: Path) -> None:
    volume = voxels(dtype, channels)
    info = info_of(encoding, dtype, channels, SHARDINGS[sharding])
    write_theirs(tmp_path / "theirs", info, volume)
    write_ours(tmp_path / "ours", info, volume)
    for name in ("theirs", "ours"):
        for channel in range(channels):
            with open_volume(str(tmp_path / name), channel=channel) as source:
                check(source, volume[channel], encoding == "jpeg")
                stored = [source.chunk_bytes(cell) for cell in ((0, 0, 0), (1, 1, 0))] if channels == 1 else []
                assert [data is None for data in stored] == [False, True][: len(stored)]
    read = theirs(tmp_path / "ours").read().result().transpose(3, 2, 1, 0)
    assert np.abs(read.astype(float) - volume.astype(float)).max() <= (8 if encoding == "jpeg" else 0)
    if encoding != "jpeg":
        # what one writes, the other reads as the same chunks
        ours = {path.name for path in (tmp_path / "ours" / "4_4_40").iterdir()}
        assert ours == {path.name for path in (tmp_path / "theirs" / "4_4_40").iterdir()}


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(persistence, "FIRST_PAUSE_S", 0.001)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID", raising=False)


def address_of(kind: str, server: ObjectServer) -> tuple[str, Access]:
    access = Access(attempts=8, timeout_s=5, endpoint=server.url if kind in ("s3", "gs") else "")
    plain = {"http": f"{server.url}/bucket/v", "vast": f"vast+http://{server.host}/bucket/v"}
    return plain.get(kind, f"{kind}://bucket/v"), access


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("kind", ["http", "s3", "gs", "vast"])
@pytest.mark.parametrize("sharding", ["unsharded", "identity", "murmur"])
def test_far_away_with_faults(kind: str, sharding: str, tmp_path: Path) -> None:
    """Errors and cut connections are met by trying again; missing chunks are zeros; several threads read at once."""
    volume = voxels("uint64")
    write_ours(tmp_path / "bucket/v", info_of("compressed_segmentation", "uint64", 1, SHARDINGS[sharding]), volume)

    def fault(name: str, number: int) -> int | str | None:
        return (500, "cut", 503)[hash(name) % 3] if number % 3 == 1 else None

    with ObjectServer(tmp_path, faults=fault, missing_status=403) as server:
        address, access = address_of(kind, server)
        with open_pyramid(address, access=access) as pyramid:
            (source,) = pyramid.scales
            assert source.concurrent
            check(source, volume[0], False)
            with ThreadPoolExecutor(4) as threads:
                for found in threads.map(lambda z: source.read((z, 0, 0), (z + 5, 50, 61)), range(0, 32, 5)):
                    assert found.shape == (5, 50, 61)
        server.faults = lambda name, number: 500 if "info" not in name else None
        access = Access(attempts=2, endpoint=access.endpoint)
        with pytest.raises(VolumeError, match=r"4_4_40/.* cannot be read"):
            open_pyramid(address, access=access).scales[0].read((0, 0, 0), SHAPE)


@pytest.mark.usefixtures("impatient")
def test_servers_without_ranges_and_with_content_encoding(tmp_path: Path) -> None:
    volume = voxels("uint8")
    for name in ("unsharded", "identity"):
        write_ours(tmp_path / name, info_of("raw", "uint8", 1, SHARDINGS[name]), volume)
    for settings in ({"ranges": False}, {"coding": True}, {"ranges": False, "coding": True}):
        with ObjectServer(tmp_path, **settings) as server:  # type: ignore[arg-type]
            for name in ("unsharded", "identity"):
                check(open_volume(f"precomputed://{server.url}/{name}"), volume[0], False)


def test_requests_of_a_cold_and_a_warm_reader(tmp_path: Path) -> None:
    volume = voxels("uint8")
    write_ours(tmp_path, info_of("raw", "uint8", 1, SHARDINGS["identity"]), volume)
    with ObjectServer(tmp_path) as server, open_volume(server.url) as source:
        source.chunk_bytes((0, 0, 0))
        assert [wanted.partition("=")[0] for _, _, wanted in server.requests] == ["", "bytes", "bytes", "bytes"]
        assert server.requests[1][2] == "bytes=0-63"
        source.chunk_bytes((0, 0, 1))
        assert len(server.requests) == 5


def test_files_that_are_packed(tmp_path: Path) -> None:
    """Chunks with `.gz`, and chunks copied out of a bucket with the gzip that its headers spoke of."""
    volume = voxels("uint8")
    for encoding in ("raw", "png"):
        folder = tmp_path / encoding
        write_ours(folder, info_of(encoding, "uint8", 1, None), volume)
        for i, path in enumerate(sorted((folder / "4_4_40").iterdir())):
            packed = gzip.compress(path.read_bytes())
            path.unlink()
            path.with_name(path.name + (".gz" if i % 2 else "")).write_bytes(packed)
        info = (folder / "info").read_bytes()
        (folder / "info").unlink()
        (folder / "info.gz").write_bytes(gzip.compress(info))
        check(open_volume(str(folder)), volume[0], False)


def test_raw_voxels_that_look_like_gzip(tmp_path: Path) -> None:
    volume = voxels("uint8")
    volume[:] = np.frombuffer(b"\x1f\x8b", "u1")[np.arange(SHAPE[2]) % 2]
    write_ours(tmp_path, info_of("raw", "uint8", 1, None), volume)
    check(open_volume(str(tmp_path)), volume[0], False)


def test_jpeg_chunks_of_any_width_and_height(tmp_path: Path) -> None:
    from PIL import Image

    volume = voxels("uint8")
    write_ours(tmp_path, info_of("jpeg", "uint8", 1, None), volume)
    for path in (tmp_path / "4_4_40").iterdir():
        with Image.open(path) as image:
            pixels = np.asarray(image)
        Image.fromarray(pixels.reshape(-1, pixels.size // pixels.shape[1])).save(path, "JPEG", quality=95)
        Image.fromarray(np.ascontiguousarray(pixels.reshape(1, -1))).save(path, "JPEG", quality=95)
    check(open_volume(str(tmp_path)), volume[0], True)


def test_one_scale_never_hides_the_others(tmp_path: Path) -> None:
    volume = voxels("uint8")
    write_ours(tmp_path, info_of("raw", "uint8", 1, None), volume)
    document = json.loads((tmp_path / "info").read_text())
    odd = document["scales"][0] | {"key": "8", "encoding": "jxl"}
    (tmp_path / "info").write_text(json.dumps(document | {"scales": [odd, document["scales"][0]]}))
    with open_pyramid(str(tmp_path)) as pyramid:
        check(pyramid.scales[1], volume[0], False)
        assert pyramid.scales[0].encoding == "jxl"
        for read in (lambda s: s.read((0, 0, 0), (1, 1, 1)), lambda s: s.chunk_bytes((0, 0, 0)), lambda s: s.check()):
            with pytest.raises(VolumeError, match="'jxl'"):
                read(pyramid.scales[0])


def test_a_shard_that_is_replaced_while_it_is_read(tmp_path: Path) -> None:
    first, second = voxels("uint64"), voxels("uint64") * np.uint64(7)
    info = info_of("raw", "uint64", 1, SHARDINGS["identity"])
    write_ours(tmp_path, info, first)
    with ObjectServer(tmp_path) as server:
        for address in (str(tmp_path), server.url):
            write_ours(tmp_path, info, first)
            with open_volume(address) as source:
                check(source, first[0], False)
                write_ours(tmp_path, info, second)
                check(source, second[0], False)


def test_damage_is_an_error(tmp_path: Path) -> None:
    info = info_of("raw", "uint64", 1, SHARDINGS["one shard"])
    write_ours(tmp_path, info, voxels("uint64"))
    path = tmp_path / "4_4_40" / "0.shard"
    whole = path.read_bytes()
    for damaged in (whole[:8], whole[: len(whole) // 2], bytes(16) + whole[16:], b"\xff" * 15 + whole[15:]):
        path.write_bytes(damaged)
        source = open_volume(str(tmp_path))
        if damaged[:16] == bytes(16):
            assert source.chunk_bytes((0, 0, 0)) is None  # an index of zeros says that there is nothing
            continue
        with pytest.raises(VolumeError, match=r"0\.shard"):
            source.read((0, 0, 0), SHAPE)
    path.write_bytes(whole[:16] + b"\0" * 200 + whole[216:])
    with pytest.raises(VolumeError, match=r"value 0 of .*0\.shard"):
        open_volume(str(tmp_path)).read((0, 0, 0), (1, 1, 1))


def test_redirects(tmp_path: Path) -> None:
    volume = voxels("uint8")
    write_ours(tmp_path / "c", info_of("raw", "uint8", 1, None), volume)
    for name, target in (("a", "b"), ("b", "c"), ("x", "y"), ("y", "x")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "info").write_text(json.dumps({"redirect": f"precomputed://file://{tmp_path}/{target}"}))
    check(open_volume(str(tmp_path / "a")), volume[0], False)
    with pytest.raises(VolumeError, match="in a circle"):
        open_volume(str(tmp_path / "x"))


def test_keys_that_climb_and_cells_outside(tmp_path: Path) -> None:
    volume = voxels("uint8")
    write_ours(tmp_path / "v", info_of("raw", "uint8", 1, None), volume)
    (tmp_path / "v/4_4_40").rename(tmp_path / "elsewhere")
    document = json.loads((tmp_path / "v/info").read_text())
    document["scales"][0]["key"] = "./../elsewhere/"
    (tmp_path / "v/info").write_text(json.dumps(document))
    with ObjectServer(tmp_path) as server:
        for address in (str(tmp_path / "v"), f"{server.url}/v"):
            check(open_volume(address), volume[0], False)
    source = open_volume(str(tmp_path / "v"))
    for cell in ((-1, 0, 0), (0, 0, 99)):
        with pytest.raises(VolumeError, match="has no chunk"):
            source.chunk_bytes(cell)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("sharding", ["unsharded", "identity"])
@pytest.mark.parametrize("kind", ["http", "s3"])
def test_the_cache_answers_without_the_server(kind: str, sharding: str, tmp_path: Path) -> None:
    volume = voxels("uint64")
    write_ours(tmp_path / "far/bucket/v", info_of("raw", "uint64", 1, SHARDINGS[sharding]), volume)
    cache = ChunkCache(tmp_path / "cache", 100 << 20)
    with ObjectServer(tmp_path / "far") as server:
        address, access = address_of(kind, server)
        for again in (False, True):
            server.requests.clear()
            with open_pyramid(address, cache=cache, access=access) as pyramid:
                check(pyramid.scales[0], volume[0], False)
            asked = {name.rpartition("/")[2] for name, wanted in [(r[1], r[2]) for r in server.requests] if name}
            if again:
                # only what says whether anything has changed: the info, and the beginnings of shards
                shards = [r for r in server.requests if r[1].endswith(".shard")]
                assert asked - {"info"} == {r[1].rpartition("/")[2] for r in shards}
                assert all(r[2] == "bytes=0-63" for r in shards)
        changed = volume * np.uint64(3)
        info = info_of("raw", "uint64", 1, SHARDINGS[sharding])
        info = msgspec.structs.replace(info, others={"edition": 2})
        write_ours(tmp_path / "far/bucket/v", info, changed)
        with open_pyramid(address, cache=cache, access=access) as pyramid:
            check(pyramid.scales[0], changed[0], False)
