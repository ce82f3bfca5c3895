"""Zarr, OME-Zarr and N5: written by TensorStore with the metadata that writers put around it, read back equal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from folder_server import ObjectServer

from fascicle.volumes import VolumeError, open_pyramid, open_volume

tensorstore = pytest.importorskip("tensorstore")
RNG = np.random.default_rng(3)
VOLUME = RNG.integers(0, 250, (11, 13, 17)).astype(np.uint8)


def write(path: Path, driver: str, array: np.ndarray, chunks: tuple[int, ...], **metadata: Any) -> None:
    """An array whose axes are in the order of the driver's metadata."""
    kvstore = {"driver": "file", "path": f"{path}/"}
    if driver == "zarr3":
        grid = {"name": "regular", "configuration": {"chunk_shape": chunks}}
        metadata |= {"shape": array.shape, "data_type": array.dtype.name, "chunk_grid": grid}
    elif driver == "zarr":
        metadata |= {"shape": array.shape, "dtype": array.dtype.str, "chunks": chunks}
    else:
        metadata |= {"dimensions": array.shape, "dataType": array.dtype.name, "blockSize": chunks}
        metadata.setdefault("compression", {"type": "gzip"})
    spec = {"driver": driver, "kvstore": kvstore, "metadata": metadata, "create": True}
    tensorstore.open(spec).result().write(array).result()


def attributes(path: Path, name: str, **members: Any) -> None:
    found = json.loads((path / name).read_text()) if (path / name).is_file() else {}
    path.mkdir(parents=True, exist_ok=True)
    (path / name).write_text(json.dumps(found | members))


def multiscales(scales: int, axes: str = "zyx", **members: Any) -> list[dict[str, Any]]:
    units = {axis: {"unit": "micrometer", "type": "space"} if axis in "zyx" else {"type": "channel"} for axis in axes}
    base = {"z": 0.04, "y": 0.008, "x": 0.004}
    shift = {"z": 0.4, "y": 0.08, "x": -0.04}
    datasets = [
        {"path": str(k), "coordinateTransformations": [
            {"type": "scale", "scale": [base.get(axis, 1) * 2**k for axis in axes]},
            {"type": "translation", "translation": [shift.get(axis, 0) for axis in axes]},
        ]} for k in range(scales)
    ]  # fmt: skip
    return [{"axes": [{"name": axis} | units[axis] for axis in axes], "datasets": datasets} | members]


@pytest.mark.parametrize("driver", ["zarr", "zarr3"])
def test_arrays_on_their_own(driver: str, tmp_path: Path) -> None:
    write(tmp_path / "a", driver, VOLUME, (4, 5, 6))
    with open_volume(str(tmp_path / "a")) as source:
        assert source.chunk_zyx == (4, 5, 6)
        assert source.concurrent
        assert np.array_equal(source.read((0, 0, 0), VOLUME.shape), VOLUME)
        part = source.read((1, 2, 3), (8, 9, 10))
        assert np.array_equal(part, VOLUME[1:8, 2:9, 3:10])
        assert part.flags.c_contiguous
    with open_volume(str(tmp_path), dataset="a") as source:
        assert source.shape_zyx == VOLUME.shape


def test_axes_that_arrays_name(tmp_path: Path) -> None:
    write(tmp_path / "a", "zarr3", VOLUME.transpose(2, 0, 1), (6, 4, 5), dimension_names=["x", "z", "y"])
    write(tmp_path / "b", "zarr", VOLUME[None].transpose(3, 0, 2, 1), (6, 1, 5, 4))
    attributes(tmp_path / "b", ".zattrs", _ARRAY_DIMENSIONS=["x", "c", "y", "z"])
    write(tmp_path / "c", "zarr3", VOLUME[None], (1, 4, 5, 6))
    for name in "abc":
        with open_volume(str(tmp_path / name)) as source:
            assert source.chunk_zyx == (4, 5, 6)
            assert np.array_equal(source.read((0, 0, 0), VOLUME.shape), VOLUME)


@pytest.mark.parametrize("kind", ["zarr", "zarr3", "bioformats2raw"])
def test_ome_zarr(kind: str, tmp_path: Path) -> None:
    driver = "zarr3" if kind == "zarr3" else "zarr"
    folder = tmp_path / "0" if kind == "bioformats2raw" else tmp_path
    write(folder / "0", driver, VOLUME, (4, 5, 6))
    write(folder / "1", driver, VOLUME[::2, ::2, ::2], (4, 5, 6))
    if driver == "zarr3":
        attributes(folder, "zarr.json", zarr_format=3, node_type="group",
                   attributes={"ome": {"version": "0.5", "multiscales": multiscales(2)}})  # fmt: skip
    else:
        attributes(folder, ".zgroup", zarr_format=2)
        attributes(folder, ".zattrs", multiscales=multiscales(2))
    if kind == "bioformats2raw":
        attributes(tmp_path, ".zattrs", **{"bioformats2raw.layout": 3})
    for address in (f"{tmp_path}", f"zarr://file://{tmp_path}", f"file://{tmp_path}|zarr:"):
        with open_pyramid(address) as pyramid:
            assert (pyramid.kind, len(pyramid.scales)) == ("image", 2)
            fine, coarse = pyramid.scales
            assert fine.resolution_nm == pytest.approx((4, 8, 40))
            assert coarse.resolution_nm == pytest.approx((8, 16, 80))
            assert (fine.offset_xyz, coarse.offset_xyz) == ((-10, 10, 10), (-5, 5, 5))
            assert np.array_equal(fine.read((0, 0, 0), VOLUME.shape), VOLUME)
            assert np.array_equal(coarse.read((0, 0, 0), coarse.shape_zyx), VOLUME[::2, ::2, ::2])
    with open_volume(str(tmp_path), scale=1) as source:
        assert source.shape_zyx == (6, 7, 9)


def test_labels_channels_and_outer_transformations(tmp_path: Path) -> None:
    both = np.stack([VOLUME, VOLUME + 1]).astype(np.uint16)
    write(tmp_path / "0", "zarr", both, (1, 4, 5, 6))
    outer = [{"type": "scale", "scale": [1, 10, 10, 10]}]
    images = multiscales(1, "czyx", coordinateTransformations=outer)
    attributes(tmp_path, ".zattrs", **{"image-label": {}}, multiscales=images)
    with pytest.raises(VolumeError, match="2 channels; one is needed"):
        open_pyramid(str(tmp_path))
    with pytest.raises(VolumeError, match="no number 2"):
        open_pyramid(str(tmp_path), channel=2)
    with open_pyramid(str(tmp_path), channel=1) as pyramid:
        assert pyramid.kind == "segmentation"
        assert pyramid.scales[0].resolution_nm == pytest.approx((40, 80, 400))
        assert pyramid.scales[0].offset_xyz == (-10, 10, 10)
        assert np.array_equal(pyramid.scales[0].read((0, 0, 0), VOLUME.shape), both[1])


def test_metadata_without_sizes(tmp_path: Path) -> None:
    """Versions before 0.4 have no transformations, and the first ones no axes."""
    write(tmp_path / "0", "zarr", VOLUME[None, None], (1, 1, 4, 5, 6))
    attributes(tmp_path, ".zattrs", multiscales=[{"datasets": [{"path": "0"}]}])
    source = open_pyramid(str(tmp_path)).scales[0]
    assert source.resolution_nm is None
    assert source.shape_zyx == VOLUME.shape


@pytest.mark.parametrize("style", ["group", "group and unit", "own", "own sizes", "scales", "transform"])
def test_n5(style: str, tmp_path: Path) -> None:
    labels = VOLUME.astype(np.uint64)
    write(tmp_path / "s0", "n5", labels.T, (6, 5, 4))
    write(tmp_path / "s1", "n5", labels[::2, ::2, ::2].T, (6, 5, 4))
    name, factors = "attributes.json", [[1, 1, 1], [2, 2, 2]]
    if style == "group":
        attributes(tmp_path, name, n5="2.5.1", downsamplingFactors=factors, pixelResolution=[4, 8, 40])
    elif style == "group and unit":
        micro = {"dimensions": [0.004, 0.008, 0.04], "unit": "um"}
        attributes(tmp_path, name, downsamplingFactors=factors, pixelResolution=micro)
    elif style == "scales":
        attributes(tmp_path, name, scales=factors, resolution=[4, 8, 40])
    elif style == "transform":
        transform = {"axes": ["z", "y", "x"], "units": ["nm"] * 3, "translate": [80, 0, 0]}
        scales = [[40, 8, 4], [80, 16, 8]]
        datasets = [{"path": f"s{k}", "transform": transform | {"scale": scales[k]}} for k in (0, 1)]
        attributes(tmp_path, name, multiscales=[{"datasets": datasets}])
    elif style == "own":
        attributes(tmp_path / "s0", name, pixelResolution={"dimensions": [4, 8, 40], "unit": "nm"})
        attributes(tmp_path / "s1", name, downsamplingFactors=[2, 2, 2], pixelResolution=[4, 8, 40])
    else:
        attributes(tmp_path, name, downsamplingFactors=factors)
        attributes(tmp_path / "s0", name, resolution=[4, 8, 40])
        attributes(tmp_path / "s1", name, resolution=[8, 16, 80])
    with open_pyramid(str(tmp_path)) as pyramid:
        assert (pyramid.kind, len(pyramid.scales)) == ("segmentation", 2)
        fine, coarse = pyramid.scales
        assert fine.chunk_zyx == (4, 5, 6)
        assert fine.resolution_nm == pytest.approx((4, 8, 40))
        assert coarse.resolution_nm == pytest.approx((8, 16, 80))
        assert np.array_equal(fine.read((0, 0, 0), labels.shape), labels)
        assert np.array_equal(coarse.read((1, 1, 1), (4, 4, 4)), labels[2:8:2, 2:8:2, 2:8:2])
        assert fine.offset_xyz == ((0, 0, 2) if style == "transform" else (0, 0, 0))
    with open_volume(f"n5://{tmp_path}/s1") as source:
        assert source.shape_zyx == coarse.shape_zyx


@pytest.mark.parametrize("kind", ["http", "s3", "vast"])
@pytest.mark.parametrize("status", [404, 403])
def test_far_away(kind: str, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fascicle.volumes.objects import Access

    monkeypatch.delenv("AWS_ACCESS_KEY_ID", raising=False)
    folder = tmp_path / "bucket" / "v.zarr"
    write(folder / "0", "zarr", VOLUME, (4, 5, 6))
    attributes(folder, ".zattrs", multiscales=multiscales(1))
    with ObjectServer(tmp_path, missing_status=status) as server:
        address = {"http": f"{server.url}/bucket/v.zarr", "vast": f"vast+http://{server.host}/bucket/v.zarr"}
        access = Access(endpoint=server.url if kind == "s3" else "", attempts=2)
        with open_pyramid(address.get(kind, "s3://bucket/v.zarr"), access=access) as pyramid:
            assert np.array_equal(pyramid.scales[0].read((0, 0, 0), VOLUME.shape), VOLUME)
        with pytest.raises(VolumeError):
            open_pyramid(f"{server.url}/bucket/nothing", access=access)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({".zgroup": {"zarr_format": 2}}, "names no scales"),
        ({"zarr.json": {"node_type": "group", "attributes": {}}}, "names no scales"),
        ({".zattrs": {"multiscales": [{"axes": [3], "datasets": []}]}}, "make no sense"),
        ({".zattrs": {"multiscales": [{"axes": ["z"], "datasets": [{"path": "0"}]}]}}, "cannot be opened"),
        ({"attributes.json": {"n5": "2.5.1"}}, "without scales"),
        ({"attributes.json": {"dimensions": [3, 3, 3]}}, "cannot be opened"),
    ],
)
def test_what_is_no_volume(files: dict[str, Any], message: str, tmp_path: Path) -> None:
    for name, content in files.items():
        attributes(tmp_path, name, **content)
    with pytest.raises(VolumeError, match=message):
        open_pyramid(str(tmp_path))


def test_broken_arrays(tmp_path: Path) -> None:
    write(tmp_path, "zarr", VOLUME, (4, 5, 6))
    (tmp_path / "0.0.0").write_bytes(b"x")
    with open_volume(str(tmp_path)) as source, pytest.raises(VolumeError, match="cannot be read"):
        source.read((0, 0, 0), (1, 1, 1))
    (tmp_path / ".zarray").write_text("{")
    with pytest.raises(VolumeError, match="not a JSON object"):
        open_volume(str(tmp_path))
    write(tmp_path / "flat", "zarr", VOLUME[0], (5, 6))
    with pytest.raises(VolumeError, match="z, y, x are needed"):
        open_volume(str(tmp_path / "flat"))
