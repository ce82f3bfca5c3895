"""Volumes as the programs of others read them: [z, y, x], or [z, y, x, channel] if there are several."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorstore

Reader = Callable[[str, int], np.ndarray]


def tensorstore_reads(address: str, level: int = 0) -> np.ndarray:
    """A scale as TensorStore reads it; `address` is `file://...` or `http://...`."""
    spec = {
        "driver": "neuroglancer_precomputed",
        "kvstore": address,
        "scale_index": level,
        "recheck_cached_data": True,
        "recheck_cached_metadata": True,
    }
    return _squeezed(np.asarray(tensorstore.open(spec, read=True).result().read().result()))


def cloudvolume_reads(address: str, level: int = 0, *, fill_missing: bool = True) -> np.ndarray:
    """A scale as CloudVolume reads it. Chunks that are not there raise its error unless `fill_missing`."""
    from cloudvolume import CloudVolume

    logging.getLogger("urllib3").setLevel(logging.ERROR)
    place = address if address.startswith("file://") else f"precomputed://{address}"
    volume: Any = CloudVolume(place, mip=level, fill_missing=fill_missing, progress=False, cache=False)
    return _squeezed(np.asarray(volume[:]))


def neuroglancer_scripts_reads(address: str, level: int = 0) -> np.ndarray:
    """A scale as neuroglancer-scripts reads it, which reads single chunks: put together here."""
    from neuroglancer_scripts.accessor import DataAccessError, get_accessor_for_url
    from neuroglancer_scripts.precomputed_io import get_IO_for_existing_dataset

    options: dict[str, Any] = {"flat": True}
    volume = get_IO_for_existing_dataset(get_accessor_for_url(f"{address}/", options))
    scale = volume.info["scales"][level]
    size, offset, chunk = scale["size"], scale.get("voxel_offset", [0, 0, 0]), scale["chunk_sizes"][0]
    shape = (volume.info["num_channels"], *reversed(size))
    voxels = np.zeros(shape, volume.info["data_type"])
    for z in range(0, size[2], chunk[2]):
        for y in range(0, size[1], chunk[1]):
            for x in range(0, size[0], chunk[0]):
                start = (x, y, z)
                stop = tuple(min(a + edge, end) for a, edge, end in zip(start, chunk, size, strict=True))
                spans = [at + first for a, b, first in zip(start, stop, offset, strict=True) for at in (a, b)]
                try:
                    part = volume.read_chunk(scale["key"], tuple(spans))
                except DataAccessError:  # what is not stored is 0 for everyone else
                    continue
                voxels[:, z : stop[2], y : stop[1], x : stop[0]] = part
    return voxels[0] if shape[0] == 1 else np.moveaxis(voxels, 0, -1)


def _squeezed(voxels_xyzc: np.ndarray) -> np.ndarray:
    voxels = voxels_xyzc.transpose(2, 1, 0, 3)
    return voxels[..., 0] if voxels.shape[3] == 1 else voxels
