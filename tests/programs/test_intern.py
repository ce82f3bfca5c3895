"""`intern`: cutouts, repos and logs through its DVID remote."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sample_repo import SampleRepo

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def remote(sample_repo: SampleRepo) -> Any:
    module = pytest.importorskip(
        "intern.remote.dvid", reason="intern is not installed: pip install '.[programs]'", exc_type=ImportError
    )
    return module.DVIDRemote({"protocol": "http", "host": sample_repo.url.removeprefix("http://")})


def test_cutouts(remote: Any, sample_repo: SampleRepo) -> None:
    for name, dtype, volume_zyx in (
        ("grayscale", "uint8", sample_repo.grayscale_zyx),
        ("segmentation", "uint64", sample_repo.bodies_zyx),
    ):
        instance = remote.get_instance(sample_repo.root, name, dtype)
        found = remote.get_cutout(instance, 0, [5, 100], [7, 77], [11, 60])
        np.testing.assert_array_equal(found, volume_zyx[11:60, 7:77, 5:100])


def test_cutout_goes_in_and_comes_out(remote: Any, sample_repo: SampleRepo) -> None:
    from intern.resource.dvid.resource import DataInstanceResource

    made = DataInstanceResource("images", sample_repo.root, "uint8blk", "intern", "made by a test", datatype="uint8")
    remote.create_project(made)
    volume = np.random.default_rng(2).integers(0, 255, (64, 64, 128), np.uint8)
    remote.create_cutout(made, 0, [0, 128], [0, 64], [0, 64], volume)
    np.testing.assert_array_equal(remote.get_cutout(made, 0, [0, 128], [0, 64], [0, 64]), volume)


def test_log(remote: Any, sample_repo: SampleRepo) -> None:
    remote.post_log(sample_repo.root, "looked at by intern")
    assert "looked at by intern" in str(remote.get_log(sample_repo.root))


def test_info_and_types(remote: Any, sample_repo: SampleRepo) -> None:
    assert "labelmap" in str(remote.get_server_types())
    assert sample_repo.root in str(remote.get_info(remote.get_instance(sample_repo.root, "segmentation")))


def test_extents(remote: Any, sample_repo: SampleRepo) -> None:
    depth, height, width = sample_repo.bodies_zyx.shape
    found = remote.get_extents(remote.get_instance(sample_repo.root, "segmentation"))
    assert [[int(low), int(high)] for low, high in found] == [[0, width - 1], [0, height - 1], [0, depth - 1]]
