"""Small precomputed folders for tests of what shows them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import tensorstore

SIZE_ZYX = (40, 48, 64)
RESOLUTION = (8, 8, 16)


def gray_zyx() -> np.ndarray:
    z, y, x = np.indices(SIZE_ZYX)
    return (40 + 2 * x + y // 2 + z // 4).astype(np.uint8)


def labels_zyx() -> np.ndarray:
    """Cuboids 1 to 8 with background between them; the last one's label needs 64 bits."""
    z, y, x = np.indices(SIZE_ZYX)
    labels = (1 + x // 32 + 2 * (y // 24) + 4 * (z // 20)).astype(np.uint64)
    labels[(x % 32 < 3) | (y % 24 < 3) | (z % 20 < 2)] = 0
    labels[labels == 8] = 2**63 + 5
    return labels


def write_volume(
    folder: Path, voxels: np.ndarray, encoding: str = "raw", offset_xyz: tuple[int, ...] = (0, 0, 0)
) -> None:
    """A volume of one scale, written by TensorStore."""
    kind = "segmentation" if voxels.dtype == np.uint64 else "image"
    scale = {
        "size": list(voxels.shape[::-1]),
        "encoding": encoding,
        "resolution": list(RESOLUTION),
        "chunk_size": [32, 32, 32],
        "voxel_offset": list(offset_xyz),
    }
    if encoding == "compressed_segmentation":
        scale["compressed_segmentation_block_size"] = [8, 8, 8]
    spec = {
        "driver": "neuroglancer_precomputed",
        "kvstore": f"file://{folder}",
        "multiscale_metadata": {"type": kind, "data_type": voxels.dtype.name, "num_channels": 1},
        "scale_metadata": scale,
        "create": True,
    }
    tensorstore.open(spec).result()[..., 0].write(voxels.transpose(2, 1, 0)).result()


def write_mesh(folder: Path, label: int, low_nm: tuple[float, ...], high_nm: tuple[float, ...]) -> None:
    """A box as a legacy mesh, linked from the volume in `folder`."""
    corners = np.array([[x, y, z] for z in (0, 1) for y in (0, 1) for x in (0, 1)], "<f4")
    vertices = np.array(low_nm, "<f4") + corners * (np.array(high_nm, "<f4") - np.array(low_nm, "<f4"))
    quads = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    faces = np.array([triangle for a, b, c, d in quads for triangle in ((a, b, c), (a, c, d))], "<u4")
    mesh = folder / "mesh"
    mesh.mkdir(exist_ok=True)
    (mesh / "info").write_text('{"@type":"neuroglancer_legacy_mesh"}')
    (mesh / f"{label}:0").write_text(json.dumps({"fragments": [f"{label}.box"]}))
    (mesh / f"{label}.box").write_bytes(np.uint32(8).tobytes() + vertices.tobytes() + faces.tobytes())
    info = json.loads((folder / "info").read_text())
    (folder / "info").write_text(json.dumps(info | {"mesh": "mesh"}))
