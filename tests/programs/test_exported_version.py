"""What `fascicle export` writes of a version, read by the programs of others from files and over HTTP."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import fascicle
from fascicle.server.static_host import application, running
from sample_repo import SampleRepo
from serving import RunningServer
from volume_readers import cloudvolume_reads, tensorstore_reads

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:version .* is open")]


@pytest.mark.parametrize("layout", ["sharded", "gzip"])
def test_a_version(server: RunningServer, sample_repo: SampleRepo, tmp_path: Path, layout: str) -> None:
    """Volumes with all scales. TensorStore finds no chunks that are named `.gz` in files."""
    pytest.importorskip("cloudvolume")
    fascicle.export(
        fascicle.source(str(server.folder), version=sample_repo.root),
        str(tmp_path),
        instances=("grayscale", "segmentation"),
        sharded=layout == "sharded",
        gzip=layout == "gzip",
        meshes=False,
        skeletons=False,
        annotations=False,
        workers=1,
    )
    live = f"{sample_repo.url}/precomputed/{sample_repo.root}/{sample_repo.root}"
    with running(application(tmp_path)) as base:
        for name in ("grayscale", "segmentation"):
            for address in (f"file://{tmp_path}/{name}", f"{base}/{name}"):
                for level in (0, 1) if name == "segmentation" else (0,):
                    expected = tensorstore_reads(f"{live}/{name}", level)
                    np.testing.assert_array_equal(cloudvolume_reads(address, level), expected)
                    if layout != "gzip" or address.startswith("http"):
                        np.testing.assert_array_equal(tensorstore_reads(address, level), expected)
