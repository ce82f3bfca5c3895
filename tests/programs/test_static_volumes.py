"""What `fascicle convert` writes, read by CloudVolume, TensorStore and neuroglancer-scripts: every encoding and type of
voxels, as single chunks, packed ones and shards, from files and over HTTP from `fascicle host`.

Defects of theirs that are stepped around, each named where it is:

* TensorStore does not find chunks that are named `.gz` in files, and reads zeros.
* CloudVolume decodes PNG of 16 bits as twice as many values of 8 bits.
* neuroglancer-scripts takes a chunk that is not there for an error (`volume_readers` fills in zeros).
* neuroglancer-scripts knows neither PNG, nor signed integers, nor volumes with an offset; and of shards
  it takes what is gzipped for zlib streams, so it reads nobody's.
* JPEG libraries differ by one gray level or two: what they decode is compared with what ours decodes of the same bytes.
"""

from __future__ import annotations

import shutil
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

import fascicle
from fascicle.server.static_host import application, running
from fascicle.volumes.opening import open_pyramid
from volume_readers import Reader, cloudvolume_reads, neuroglancer_scripts_reads, tensorstore_reads

pytestmark = pytest.mark.slow

SIZE_ZYX = (41, 50, 70)
OFFSET = (64, -32, 96)


@dataclass(frozen=True)
class Case:
    dtype: str
    encoding: str
    layout: str
    """`chunks`, `gzip` or `shards`."""

    @property
    def name(self) -> str:
        return f"{self.dtype}-{self.encoding}-{self.layout}"

    @property
    def offset_xyz(self) -> tuple[int, int, int]:
        """Not 0 for about half of them."""
        return OFFSET if self.encoding == "png" or self.dtype in ("int8", "int16", "int32", "uint32") else (0, 0, 0)


TYPES = {
    "raw": ("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "float32"),
    "jpeg": ("uint8",),
    "png": ("uint8", "uint16"),
    "compressed_segmentation": ("uint32", "uint64"),
}
CASES = [
    Case(dtype, encoding, layout)
    for encoding, dtypes in TYPES.items()
    for dtype in dtypes
    for layout in (("chunks", "shards") if encoding in ("jpeg", "png") else ("chunks", "gzip", "shards"))
]


def voxels_of(dtype: str) -> np.ndarray:
    """Voxels [z, y, x] with blank chunks, smooth parts, and values at the ends of the type."""
    z, y, x = np.indices(SIZE_ZYX)
    kind = np.dtype(dtype)
    if kind.kind == "f":
        voxels = (np.sin(x / 9) * 1e3 + z).astype(kind)
    else:
        voxels = ((x // 6) * 7 + (y // 5) * 3 + z // 4).astype(kind)
        voxels[-1, -1, -5:] = np.iinfo(kind).max
        voxels[-1, -2, -5:] = np.iinfo(kind).min
    voxels[:32, :32, :32] = 0
    return voxels


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("matrix")
    for dtype in TYPES["raw"]:
        np.save(folder / f"{dtype}.npy", voxels_of(dtype))
    for case in CASES:
        fascicle.convert(
            str(folder / f"{case.dtype}.npy"),
            folder / case.name,
            kind="segmentation" if case.encoding == "compressed_segmentation" else "image",
            encoding=case.encoding,
            sharded=case.layout == "shards",
            gzip=case.layout == "gzip",
            chunk=32,
            scales=1,
            offset_xyz=case.offset_xyz,
            resolution_nm=(8, 8, 20) if any(case.offset_xyz) else (8, 8, 8),
            workers=1,
        )
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def url(root: Path) -> Iterator[str]:
    with running(application(root)) as base:
        yield base


def expected(root: Path, case: Case, level: int) -> np.ndarray:
    with open_pyramid(str(root / case.name)) as pyramid:
        scale = pyramid.scales[level]
        found = scale.read((0, 0, 0), scale.shape_zyx)
    if level == 0 and case.encoding != "jpeg":
        np.testing.assert_array_equal(found, voxels_of(case.dtype))
    return found


def check(root: Path, case: Case, read: Reader, address: str) -> None:
    for level in (0, 1) if address.startswith("http") else (0,):
        found, wanted = read(address, level), expected(root, case, level)
        assert found.dtype == wanted.dtype
        assert found.shape == wanted.shape
        if case.encoding == "jpeg":
            assert np.abs(found.astype(int) - wanted.astype(int)).max() <= 2
        else:
            np.testing.assert_array_equal(found, wanted)


def test_cloudvolume(root: Path, url: str) -> None:
    pytest.importorskip("cloudvolume")
    for case in CASES:
        if (case.encoding, case.dtype) == ("png", "uint16"):
            continue  # it takes each value for two
        for address in (f"file://{root / case.name}", f"{url}/{case.name}"):
            check(root, case, cloudvolume_reads, address)


def test_tensorstore(root: Path, url: str) -> None:
    for case in CASES:
        check(root, case, tensorstore_reads, f"{url}/{case.name}")
        if case.layout == "gzip":  # files named `.gz` are not there for it, and what is not there is 0
            assert not tensorstore_reads(f"file://{root / case.name}", 0).any()
        else:
            check(root, case, tensorstore_reads, f"file://{root / case.name}")


def test_neuroglancer_scripts(root: Path, url: str) -> None:
    pytest.importorskip("neuroglancer_scripts")
    for case in CASES:
        if case.encoding == "png" or case.dtype.startswith("int") or any(case.offset_xyz):
            continue  # it knows none of these
        for address in (f"file://{root / case.name}", f"{url}/{case.name}"):
            if case.layout == "shards":
                with pytest.raises(zlib.error):
                    neuroglancer_scripts_reads(address)
            else:
                check(root, case, neuroglancer_scripts_reads, address)
