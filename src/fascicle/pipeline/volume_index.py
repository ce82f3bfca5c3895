"""The index of a labelmap whose voxels live elsewhere: asked for step by step until it is complete."""

from __future__ import annotations

from collections.abc import Callable

from fascicle.pipeline.ingest_connections import Connection, IngestError
from fascicle.pipeline.version_choice import ChosenVersion

STEP_BLOCKS = 512


def make_index(
    connection: Connection, version: ChosenVersion, name: str, progress: Callable[[int, int], None]
) -> int:
    """Make what is missing of the index; the number of blocks that it has. Raises IngestError.

    `progress` is called with the number of blocks that are done, and how many there are.
    """
    if name not in version.instances:
        raise IngestError(f"there is no instance {name!r}")
    made_at = version.instances[name]["Base"]["RepoUUID"]
    path = f"/api/node/{made_at}/{name}/index-source"
    while True:
        state = connection.json("POST", f"{path}?blocks={STEP_BLOCKS}")
        progress(state["indexed"], state["blocks"])
        if state["complete"]:
            blocks: int = state["blocks"]
            return blocks
