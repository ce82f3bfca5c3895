"""NIfTI, NRRD and TIFF: written by the libraries of these formats, in every layout that matters, read back equal."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fascicle.volumes import VolumeError, VolumeSource, open_volume

VOLUME = np.random.default_rng(7).integers(0, 60000, (11, 33, 50)).astype(np.uint16)


def check(source: VolumeSource, expected: np.ndarray = VOLUME) -> None:
    assert source.shape_zyx == expected.shape
    assert source.dtype == expected.dtype
    for start, stop in (((0, 0, 0), expected.shape), ((1, 2, 3), (5, 31, 48)), ((10, 32, 49), (11, 33, 50))):
        found = source.read(start, stop)
        assert np.array_equal(found, expected[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))])
        assert found.dtype == expected.dtype
        assert found.dtype.isnative
    source.close()


@pytest.mark.parametrize("name", ["v.nii", "v.nii.gz", "v.img"])
@pytest.mark.parametrize("unit", ["mm", "micron", None])
def test_nifti(name: str, unit: str | None, tmp_path: Path) -> None:
    nibabel = pytest.importorskip("nibabel")
    kind = nibabel.Nifti1Pair if name == "v.img" else nibabel.Nifti1Image
    image = kind(VOLUME.T, np.diag([0.25, 0.5, 2, 1]))
    if unit:
        image.header.set_xyzt_units(unit)
    nibabel.save(image, tmp_path / name)
    source = open_volume(str(tmp_path / name))
    factor = 1e3 if unit == "micron" else 1e6
    assert source.resolution_nm == pytest.approx((0.25 * factor, 0.5 * factor, 2 * factor))
    check(source)


def test_nifti_of_other_shapes_and_scaled_values(tmp_path: Path) -> None:
    nibabel = pytest.importorskip("nibabel")
    nibabel.save(nibabel.Nifti1Image(VOLUME.T[..., None], np.eye(4)), tmp_path / "one.nii")
    check(open_volume(str(tmp_path / "one.nii")))
    nibabel.save(nibabel.Nifti1Image(np.stack([VOLUME.T] * 2, -1), np.eye(4)), tmp_path / "two.nii")
    with pytest.raises(VolumeError, match="three dimensions"):
        open_volume(str(tmp_path / "two.nii"))
    image = nibabel.Nifti1Image(VOLUME.T.astype(np.float32) / 7, np.eye(4))
    image.set_data_dtype(np.int16)
    nibabel.save(image, tmp_path / "scaled.nii")
    source = open_volume(str(tmp_path / "scaled.nii"))
    assert source.dtype == np.float32
    assert np.abs(source.read((0, 0, 0), VOLUME.shape) - VOLUME / 7).max() < 0.2
    for data in (b"", b"not so" * 100, gzip.compress((tmp_path / "one.nii").read_bytes())[:500]):
        (tmp_path / "bad.nii.gz").write_bytes(data)
        with pytest.raises(VolumeError, match="cannot be read as NIfTI"):
            open_volume(str(tmp_path / "bad.nii.gz"))


@pytest.mark.parametrize("encoding", ["raw", "gzip", "bzip2", "ascii"])
@pytest.mark.parametrize("detached", [False, True])
def test_nrrd(encoding: str, detached: bool, tmp_path: Path) -> None:
    nrrd = pytest.importorskip("nrrd")
    header: dict[str, Any] = {
        "encoding": encoding, "spacings": [0.25, 0.5, 2.0], "units": ["um", "um", "um"],
    }  # fmt: skip
    nrrd.write(str(tmp_path / ("v.nhdr" if detached else "v.nrrd")), VOLUME.T, header, detached_header=detached)
    source = open_volume(str(tmp_path / ("v.nhdr" if detached else "v.nrrd")))
    assert source.resolution_nm == pytest.approx((250, 500, 2000))
    check(source)


def test_nrrd_of_other_forms(tmp_path: Path) -> None:
    nrrd = pytest.importorskip("nrrd")
    directions = np.array([[0.0, 0.25, 0], [0.3, 0, 0.4], [0, 0, 2]])
    header = {"space": "left-posterior-superior", "space directions": directions, "space units": ["mm"] * 3}
    nrrd.write(str(tmp_path / "a.nrrd"), VOLUME.T.astype(">u2"), header | {"endian": "big"})
    source = open_volume(str(tmp_path / "a.nrrd"))
    assert source.resolution_nm == pytest.approx((250_000, 500_000, 2_000_000))
    check(source)
    for channels, fits in ((1, True), (3, False)):
        array = np.stack([VOLUME.T] * channels)
        nrrd.write(str(tmp_path / "b.nrrd"), array, {"kinds": ["vector", "domain", "domain", "domain"]})
        if fits:
            check(open_volume(str(tmp_path / "b.nrrd")))
        else:
            with pytest.raises(VolumeError, match="one value per voxel"):
                open_volume(str(tmp_path / "b.nrrd"))
    whole = (tmp_path / "a.nrrd").read_bytes()
    for data in (b"", b"not so", whole[:200], whole[:-20]):
        (tmp_path / "bad.nrrd").write_bytes(data)
        with pytest.raises(VolumeError, match="cannot be read as NRRD"):
            open_volume(str(tmp_path / "bad.nrrd"))


@pytest.mark.parametrize(
    "options",
    [
        {}, {"contiguous": False, "rowsperstrip": 5}, {"compression": "zlib"}, {"tile": (16, 32)},
        {"tile": (16, 16), "compression": "zlib", "predictor": 2}, {"byteorder": ">"},
        {"imagej": True}, {"ome": True, "compression": "zlib"}, {"bigtiff": True, "tile": (64, 64)},
    ],
)  # fmt: skip
def test_tiff(options: dict[str, Any], tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    metadata: dict[str, Any] | None = None
    if "imagej" in options:
        options = options | {"resolution": (1 / 0.25, 1 / 0.5)}
        metadata = {"axes": "ZYX", "unit": "um", "spacing": 2.0}
    if "ome" in options:
        metadata = {"axes": "ZYX", "PhysicalSizeX": 0.25, "PhysicalSizeY": 0.5, "PhysicalSizeZ": 2.0}
    settings = {name: value for name, value in options.items() if name != "contiguous"}
    tifffile.imwrite(tmp_path / "v.tif", VOLUME, photometric="minisblack", metadata=metadata, **settings)
    source = open_volume(str(tmp_path / "v.tif"))
    if metadata:
        assert source.resolution_nm == pytest.approx((250, 500, 2000))
    if "tile" in options:
        assert source.chunk_zyx == (1, min(33, options["tile"][0]), min(50, options["tile"][1]))
    check(source)


def test_tiff_that_cannot_be_read(tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    tifffile.imwrite(tmp_path / "colour.tif", np.zeros((4, 8, 8, 3), np.uint8), photometric="rgb")
    with pytest.raises(VolumeError, match="not gray"):
        open_volume(str(tmp_path / "colour.tif"))
    with tifffile.TiffWriter(tmp_path / "sizes.tif") as file:
        file.write(VOLUME[0], compression="zlib")
        file.write(VOLUME[0, :20], compression="zlib")
    with pytest.raises(VolumeError, match=r"page 1 of .* another size"):
        open_volume(str(tmp_path / "sizes.tif")).read((0, 0, 0), (2, 33, 50))
    (tmp_path / "bad.tif").write_bytes(b"II*\0junk")
    with pytest.raises(VolumeError, match="cannot be read"):
        open_volume(str(tmp_path / "bad.tif"))
