from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fascicle.volumes import VolumeError, VolumeSource, open_volume

RNG = np.random.default_rng(5)
SHAPE = (6, 7, 9)


def labels(dtype: str, shape: tuple[int, ...] = SHAPE) -> np.ndarray[Any, Any]:
    return RNG.integers(0, 200, shape).astype(dtype)


def write_precomputed(folder: Path, volume: np.ndarray[Any, Any], encoding: str, suffix: str = "") -> None:
    """A precomputed volume of one scale with the offset -3, 0, 5 and chunks of 4 x 4 x 3 voxels."""
    import compressed_segmentation
    import simplejpeg

    depth, height, width = volume.shape
    scale = {
        "key": "8_8_30", "size": [width, height, depth], "voxel_offset": [-3, 0, 5], "resolution": [8, 8, 30],
        "chunk_sizes": [[4, 4, 3]], "encoding": encoding,
    }  # fmt: skip
    info = {"type": "image", "data_type": volume.dtype.name, "num_channels": 1, "scales": [scale]}
    (folder / "8_8_30").mkdir(parents=True)
    (folder / "info").write_text(json.dumps(info))
    for z in range(0, depth, 3):
        for y in range(0, height, 4):
            for x in range(0, width, 4):
                part = np.ascontiguousarray(volume[z : z + 3, y : y + 4, x : x + 4])
                if not part.any():
                    continue
                d, h, w = part.shape
                name = f"{x - 3}-{x - 3 + w}_{y}-{y + h}_{z + 5}-{z + 5 + d}"
                if encoding == "raw":
                    data = part.tobytes()
                elif encoding == "jpeg":
                    data = simplejpeg.encode_jpeg(part.reshape(d * h, w, 1), quality=100, colorspace="GRAY")
                else:
                    data = compressed_segmentation.compress(part.T, order="F")
                path = folder / "8_8_30" / (name + suffix)
                path.write_bytes(gzip.compress(data) if suffix else data)


def check(volume: VolumeSource, expected: np.ndarray[Any, Any], tolerance: int = 0) -> None:
    assert volume.shape_zyx == expected.shape
    assert volume.dtype == expected.dtype
    for start, stop in (((0, 0, 0), expected.shape), ((1, 2, 3), (5, 7, 8)), ((5, 6, 8), (6, 7, 9))):
        found = volume.read(start, stop)
        wanted = expected[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))]
        assert found.shape == wanted.shape
        assert found.dtype == wanted.dtype
        assert np.abs(found.astype(int) - wanted.astype(int)).max() <= tolerance


@pytest.mark.parametrize(("suffix", "dtype"), [("png", "u1"), ("png", "u2"), ("tif", "u1"), ("tiff", "u2")])
def test_image_stacks(tmp_path: Path, suffix: str, dtype: str) -> None:
    volume = labels(dtype, (12, 7, 9))
    for z, plane in enumerate(volume):
        Image.fromarray(plane).save(tmp_path / f"s.{z}.{suffix}")
    for source in (str(tmp_path), str(tmp_path / "*"), [str(p) for p in tmp_path.iterdir()]):
        with open_volume(source) as stack:
            check(stack, volume)
            assert stack.chunk_zyx == (1, 7, 9)


def test_image_stacks_of_different_images(tmp_path: Path) -> None:
    Image.fromarray(labels("u1", (7, 9))).save(tmp_path / "a.png")
    Image.fromarray(labels("u1", (7, 8))).save(tmp_path / "b.png")
    with pytest.raises(VolumeError, match=r"b\.png is 8 x 7 uint8, but a\.png is 9 x 7"):
        open_volume(str(tmp_path)).read((0, 0, 0), (2, 7, 8))
    Image.fromarray(labels("u1", (7, 9, 3))).save(tmp_path / "a.png")
    with pytest.raises(VolumeError, match="in colour"):
        open_volume(str(tmp_path))


def test_npy(tmp_path: Path) -> None:
    volume = labels("u4")
    np.save(tmp_path / "c.npy", volume)
    np.save(tmp_path / "f.npy", np.asfortranarray(volume.T))
    np.save(tmp_path / "big.npy", volume.astype(">u4"))
    for name in ("c.npy", "f.npy", "big.npy"):
        check(open_volume(str(tmp_path / name)), volume)
    np.save(tmp_path / "flat.npy", volume[0])
    with pytest.raises(VolumeError, match="2 dimensions instead of 3"):
        open_volume(str(tmp_path / "flat.npy"))


def test_crackle(tmp_path: Path) -> None:
    crackle = pytest.importorskip("crackle")
    volume = labels("u4")
    data = crackle.compress(np.asfortranarray(volume.T))
    (tmp_path / "v.npy.ckl.gz").write_bytes(gzip.compress(data))
    (tmp_path / "v.ckl").write_bytes(data)
    check(open_volume(str(tmp_path / "v.npy.ckl.gz")), volume)
    check(open_volume(str(tmp_path / "v.ckl")), volume)
    (tmp_path / "bad.ckl").write_bytes(b"not so")
    with pytest.raises(VolumeError, match="not a crackle stream"):
        open_volume(str(tmp_path / "bad.ckl"))


def test_hdf5(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    volume = labels("i4")
    with h5py.File(tmp_path / "v.h5", "w") as file:
        file["stack"] = volume
        file["transforms"] = np.array([[1, 2], [3, 2]], np.int64)
    (tmp_path / "v.h5.gz").write_bytes(gzip.compress((tmp_path / "v.h5").read_bytes()))
    for name in ("v.h5", "v.h5.gz"):
        with open_volume(str(tmp_path / name)) as source:
            check(source, volume)
            assert source.table("transforms").tolist() == [[1, 2], [3, 2]]  # type: ignore[attr-defined]
    with h5py.File(tmp_path / "v.h5", "a") as file:
        file["more"] = volume
    with pytest.raises(VolumeError, match="name one of the 3-D datasets"):
        open_volume(str(tmp_path / "v.h5"))
    check(open_volume(str(tmp_path / "v.h5"), dataset="more"), volume)
    for dataset in ("nothing", "transforms"):
        with pytest.raises(VolumeError, match=dataset):
            open_volume(str(tmp_path / "v.h5"), dataset=dataset)


def test_tiff(tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    volume = labels("u2")
    tifffile.imwrite(tmp_path / "v.tif", volume, photometric="minisblack")
    check(open_volume(str(tmp_path / "v.tif")), volume)


@pytest.mark.parametrize(
    ("encoding", "dtype", "suffix"),
    [
        ("raw", "u1", ""),
        ("raw", "u8", ".gz"),
        ("jpeg", "u1", ""),
        ("compressed_segmentation", "u4", ""),
        ("compressed_segmentation", "u8", ".gz"),
    ],
)
def test_precomputed_folders(tmp_path: Path, encoding: str, dtype: str, suffix: str) -> None:
    volume = labels(dtype)
    volume[:3, :4, :4] = 0
    write_precomputed(tmp_path / "v", volume, encoding, suffix)
    for address in (f"{tmp_path}/v", f"file://{tmp_path}/v", f"precomputed://file://{tmp_path}/v/"):
        with open_volume(address) as source:
            check(source, volume, 6 if encoding == "jpeg" else 0)
            assert source.offset_xyz == (-3, 0, 5)
            assert source.resolution_nm == (8, 8, 30)
            assert source.chunk_zyx == (3, 4, 4)


def test_precomputed_in_the_nested_layout(tmp_path: Path) -> None:
    volume = labels("u1")
    write_precomputed(tmp_path, volume, "raw")
    for path in list((tmp_path / "8_8_30").iterdir()):
        x, y, z = path.name.split("_")
        (tmp_path / "8_8_30" / x / y).mkdir(parents=True, exist_ok=True)
        path.rename(tmp_path / "8_8_30" / x / y / z)
    check(open_volume(str(tmp_path)), volume)


@pytest.fixture
def website(tmp_path: Path) -> Iterator[str]:
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_precomputed_over_http(tmp_path: Path, website: str) -> None:
    volume = labels("u1")
    volume[3:, 4:, :4] = 0
    write_precomputed(tmp_path / "v", volume, "raw")
    check(open_volume(f"precomputed://{website}/v"), volume)
    with pytest.raises(VolumeError, match="no file named info"):
        open_volume(f"{website}/nothing")


@pytest.mark.parametrize(
    ("change", "scale", "message"),
    [
        ({"num_channels": 3}, {}, "3 channels"),
        ({"scales": []}, {}, "0 scales"),
        ({}, {"sharding": {"@type": "x"}}, "sharding 'x'"),
        ({}, {"encoding": "jxl"}, "encoding 'jxl'"),
        ({"data_type": "uint16"}, {"encoding": "jpeg"}, "JPEG chunks cannot hold 1 channels of uint16"),
        ({}, {"size": None}, "has no precomputed volume"),
    ],
)
def test_precomputed_that_cannot_be_read(
    tmp_path: Path, change: dict[str, Any], scale: dict[str, Any], message: str
) -> None:
    plain = {"key": "s", "size": [4, 4, 4], "resolution": [1, 1, 1], "chunk_sizes": [[4, 4, 4]], "encoding": "raw"}
    info = {"type": "image", "data_type": "uint8", "num_channels": 1, "scales": [plain | scale]} | change
    (tmp_path / "info").write_text(json.dumps(info))
    with pytest.raises(VolumeError, match=message):
        open_volume(str(tmp_path))


def test_damaged_chunks_are_errors(tmp_path: Path) -> None:
    write_precomputed(tmp_path, labels("u1"), "raw")
    (tmp_path / "8_8_30" / "-3-1_0-4_5-8").write_bytes(b"short")
    with pytest.raises(VolumeError, match="cannot be decoded"):
        open_volume(str(tmp_path)).read((0, 0, 0), (1, 1, 1))
    chunk = tmp_path / "8_8_30" / "1-5_0-4_5-8"
    chunk.rename(chunk.with_name(chunk.name + ".br"))
    with pytest.raises(VolumeError, match="compression that cannot be read"):
        open_volume(str(tmp_path)).read((0, 0, 4), (1, 1, 5))


@pytest.mark.parametrize("name", ["nothing.h5", "nothing*.png", "text.txt", "empty"])
def test_what_is_no_volume(tmp_path: Path, name: str) -> None:
    (tmp_path / "text.txt").write_text("hello")
    (tmp_path / "empty").mkdir()
    with pytest.raises(VolumeError):
        open_volume(str(tmp_path / name))


@pytest.mark.reference_data
def test_real_volumes(shared: Path) -> None:
    with open_volume(str(shared / "data/fib25-medulla-250/grayscale")) as gray:
        assert gray.shape_zyx == (250, 250, 250)
        assert gray.read((249, 0, 0), (250, 250, 250)).any()
    with open_volume(str(shared / "data/fib25-medulla-250/groundtruth.h5.gz"), dataset="stack") as truth:
        assert truth.shape_zyx == (250, 250, 250)
        assert truth.table("transforms").shape[1] == 2  # type: ignore[attr-defined]
    with open_volume(str(shared / "data/pinky-512/connectomics.npy.ckl.gz")) as pinky:
        assert pinky.shape_zyx == (512, 512, 512)
        assert len(np.unique(pinky.read((0, 0, 0), (8, 512, 512)))) > 100
