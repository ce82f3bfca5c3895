"""A store with a label map in which two bodies are merged, and what is in a folder: for tests of jobs on all bodies."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fascicle.pipeline.ingest import IngestOptions, ingest
from fascicle.pipeline.ingest_connections import LocalConnection
from fascicle.volumes import open_volume

RESOLUTION = (8.0, 8.0, 10.0)
OFFSET = (64, 0, -64)
BIG = (1 << 40) + 5
"""The label of a body that the body 6 is merged into."""


def only_bodies(labels: np.ndarray) -> np.ndarray:
    """The labels after the merge."""
    return np.where(labels == 6, np.uint64(BIG), labels)


def make_store(folder: Path, labels: np.ndarray, blobs: str = "") -> Path:
    """A store with the labels: a committed root where 6 is a body of its own, and an open child where it is merged.

    Labels are in the instance `seg` of the repo `r`. The file `root` in the folder has the UUID of the root. `blobs` is
    a tarsupervoxels of Draco meshes to be made.
    """
    np.save(folder / "labels.npy", labels)
    with LocalConnection(folder / "db") as connection:
        options = IngestOptions(instance="seg", repo="r", offset_xyz=OFFSET, resolution_nm=RESOLUTION)
        with open_volume(str(folder / "labels.npy")) as source:
            root = ingest(connection, source, options, folder / "journal.jsonl", lambda *_: None).node
        if blobs:
            settings = {"typename": "tarsupervoxels", "dataname": blobs, "Extension": "drc"}
            connection.json("POST", f"/api/repo/{root}/instance", settings)
            connection.request("POST", f"/api/node/{root}/{blobs}/sync", b'{"sync":"seg"}')
        connection.json("POST", f"/api/node/{root}/commit", {"note": "whole"})
        child = connection.json("POST", f"/api/node/{root}/newversion", {})["child"]
        connection.json("POST", f"/api/node/{child}/seg/merge", [BIG, 6])
    (folder / "root").write_text(root)
    return folder / "db"


def files(folder: Path) -> dict[str, bytes]:
    """All files below a folder by their paths."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
