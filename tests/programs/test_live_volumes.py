"""Instances at a version, read by the programs of others through `/precomputed/<repo>/<version>/<instance>`."""

from __future__ import annotations

import json
import urllib.request

import numpy as np
import pytest

from sample_repo import SampleRepo
from serving import RunningServer, new_instance, new_repo
from volume_readers import cloudvolume_reads, neuroglancer_scripts_reads, tensorstore_reads

pytestmark = pytest.mark.slow

READERS = {
    "cloudvolume": cloudvolume_reads,
    "tensorstore": tensorstore_reads,
    "neuroglancer_scripts": neuroglancer_scripts_reads,
}


@pytest.mark.parametrize("program", READERS)
def test_images_and_labels(sample_repo: SampleRepo, program: str) -> None:
    pytest.importorskip(program)
    read = READERS[program]
    base = f"{sample_repo.url}/precomputed/{sample_repo.root}/master"
    for form in ("", "/raw", "/compressed_segmentation"):
        for name, wanted in (("", sample_repo.bodies_zyx), ("/supervoxels", sample_repo.supervoxels_zyx)):
            found = read(f"{base}/segmentation{name}{form}", 0)
            assert found.dtype == np.uint64
            np.testing.assert_array_equal(found[tuple(slice(0, edge) for edge in wanted.shape)], wanted)
    for encoding in ("raw", "jpeg", "png"):
        if encoding == "png" and program == "neuroglancer_scripts":
            continue  # it does not know PNG
        found = read(f"{base}/grayscale/{encoding}", 0)
        wanted = sample_repo.grayscale_zyx
        found = found[tuple(slice(0, edge) for edge in wanted.shape)]
        if encoding == "jpeg":
            assert np.abs(found.astype(int) - wanted.astype(int)).mean() < 4
        else:
            np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("program", READERS)
def test_scales(sample_repo: SampleRepo, program: str) -> None:
    pytest.importorskip(program)
    base = f"{sample_repo.url}/precomputed/{sample_repo.root}/master/segmentation"
    with urllib.request.urlopen(f"{base}/info") as answer:
        count = len(json.load(answer)["scales"])
    assert count > 1
    for level in range(count):
        np.testing.assert_array_equal(READERS[program](base, level), tensorstore_reads(base, level))


def test_all_kinds_of_voxels(server: RunningServer) -> None:
    """With an offset that is no multiple of a chunk, negative in one axis; neuroglancer-scripts knows no offsets."""
    pytest.importorskip("cloudvolume")
    types = {"uint8blk": "u1", "uint16blk": "<u2", "uint32blk": "<u4", "uint64blk": "<u8", "float32blk": "<f4"}
    z, y, x = np.indices((64, 64, 128))
    with server.client() as client:
        root = new_repo(client, "live matrix")
        for typename, dtype in types.items():
            voxels = (x * 1000 + y * 7 + z).astype(dtype)
            path = new_instance(client, root, typename, typename)
            client.post(f"{path}/raw/0_1_2/128_64_64/64_-64_128", voxels.tobytes()).expect()
            address = f"{server.url}/precomputed/{root}/master/{typename}"
            for read in (cloudvolume_reads, tensorstore_reads):
                found = read(address, 0)
                assert found.dtype == voxels.dtype
                np.testing.assert_array_equal(found, voxels)
