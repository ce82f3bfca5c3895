"""Instances that several tests use."""

from __future__ import annotations

import pytest
from image_instances import Images


@pytest.fixture
def tiny() -> Images:
    """Blocks of 2 x 2 x 2 voxels that hold a volume of 4 x 2 x 2, each voxel being z * 8 + y * 4 + x."""
    images = Images(BlockSize="2,2,2", Compression="lz4")
    images.post("raw/0_1_2/4_2_2/0_0_0", bytes(range(16)))
    return images
