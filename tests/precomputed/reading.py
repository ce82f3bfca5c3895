"""Volumes on a server, read through its precomputed views."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorstore
from numpy.typing import NDArray


def opened(address: str, level: int = 0) -> Any:
    """A scale of a volume as TensorStore reads it, without a cache."""
    return tensorstore.open(
        {
            "driver": "neuroglancer_precomputed",
            "kvstore": address,
            "scale_index": level,
            "recheck_cached_data": True,
        },
        read=True,
    ).result()


def voxels(address: str, level: int = 0) -> NDArray[Any]:
    """All voxels of a scale: [z, y, x], or [z, y, x, channel] if there are several."""
    found = np.asarray(opened(address, level).read().result()).transpose(2, 1, 0, 3)
    return found[..., 0] if found.shape[3] == 1 else found
