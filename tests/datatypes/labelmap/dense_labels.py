"""Small volumes of labels, and what a labelmap must answer about them, in plain NumPy."""

from __future__ import annotations

import numpy as np
from labelmap_instances import Labels
from numpy.typing import NDArray

U64 = NDArray[np.uint64]
EDGE = 16
"""Edge of a block in these tests."""


def cells(shape_zyx: tuple[int, int, int], labels: int, seed: int, low: int = 0) -> U64:
    """A volume of random patches of labels low to low + labels - 1, some of them tiny."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(low, low + labels, [-(-n // 5) for n in shape_zyx], dtype=np.uint64)
    dense = coarse.repeat(5, 0).repeat(5, 1).repeat(5, 2)[: shape_zyx[0], : shape_zyx[1], : shape_zyx[2]].copy()
    specks = rng.random(shape_zyx) < 0.01
    dense[specks] = rng.integers(low, low + labels, int(specks.sum()), dtype=np.uint64)
    return dense


def halved(dense: U64) -> U64:
    """Half the resolution: the most frequent label other than 0 of each 2x2x2, the smallest of equals."""
    z, y, x = (n // 2 for n in dense.shape)
    groups = dense.reshape(z, 2, y, 2, x, 2).transpose(0, 2, 4, 1, 3, 5).reshape(-1, 8)
    out = np.zeros(len(groups), np.uint64)
    for i, group in enumerate(groups):
        labels, counts = np.unique(group[group != 0], return_counts=True)
        if len(labels):
            out[i] = labels[np.argmax(counts)]
    return out.reshape(z, y, x)


def new_labels(scales: int = 2, **more: str) -> Labels:
    return Labels(BlockSize=f"{EDGE},{EDGE},{EDGE}", MaxDownresLevel=str(scales), **more)


def post(labels: Labels, dense: U64, offset_xyz: tuple[int, int, int] = (0, 0, 0), version: int | None = None) -> None:
    z, y, x = dense.shape
    corner = "_".join(map(str, offset_xyz))
    labels.post(f"raw/0_1_2/{x}_{y}_{z}/{corner}", dense.tobytes(), version)


def read(
    labels: Labels,
    shape_zyx: tuple[int, ...],
    offset_xyz: tuple[int, int, int] = (0, 0, 0),
    options: str = "supervoxels=true",
    version: int | None = None,
) -> U64:
    z, y, x = shape_zyx
    corner = "_".join(map(str, offset_xyz))
    body = labels.get(f"raw/0_1_2/{x}_{y}_{z}/{corner}?{options}", version=version)
    return np.frombuffer(body, "<u8").reshape(z, y, x)


def check_index(labels: Labels, dense: U64, version: int | None = None) -> None:
    """Sizes of all supervoxels are those of the volume (nothing merged)."""
    found, counts = np.unique(dense[dense != 0], return_counts=True)
    assert labels.json("existing-labels", version=version) == found.tolist()
    assert labels.json("sizes", found.tolist(), version=version) == counts.tolist()
