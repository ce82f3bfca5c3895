"""Instances that several tests use."""

from __future__ import annotations

import pytest
from labelmap_instances import Labels


@pytest.fixture
def four() -> Labels:
    """Supervoxels 1 to 4 in blocks along x: supervoxel n has 100 n voxels in block n and one voxel in block 0."""
    labels = Labels(BlockSize="32,32,32")
    labels.ingest({(n, (b, 0, 0)): 100 * n if b else 1 for n in range(1, 5) for b in (0, n)})
    return labels
