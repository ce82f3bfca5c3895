"""What an ingest is told, and how much memory that leaves for its voxels."""

from __future__ import annotations

from dataclasses import dataclass

from fascicle.datatypes.voxel_requests import Triple

UNIT_LIMIT_BYTES = 128 << 20
BASE_BYTES = 220 << 20
"""What the programs themselves take of the allowed memory."""
COPIES = 5
"""A unit is held so many times at once: as read, as posted and by the server."""
LAYER_SHARE = 4
"""Planes that several units share are kept if they take at most this part of the memory for voxels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestOptions:
    """What to ingest into which instance.

    `uuid` names a version; `repo` is an alias, whose repo is made if there is none. What is empty or None is as the
    source says, or as usual.
    """

    instance: str
    uuid: str = ""
    repo: str = ""
    typename: str = ""
    mapping: str = ""
    resolution_nm: tuple[float, float, float] | None = None
    offset_xyz: Triple | None = None
    block_size: int = 64
    compression: str = ""
    scales: int | None = None
    memory_bytes: int = 2 << 30
    workers: int = 1
    """Units that are posted at once."""
    keep_thin: bool = False
    """Make coarser scales of a labelmap so that thin neurites survive."""
    sample: bool = True
    """Read some of it back at the end and compare checksums."""

    @property
    def voxel_bytes(self) -> int:
        """Memory for voxels."""
        return max(self.memory_bytes - BASE_BYTES, self.memory_bytes // 8)

    @property
    def unit_bytes(self) -> int:
        """How large a unit may be."""
        copies = (COPIES + (COPIES - 2) * (self.workers - 1)) * LAYER_SHARE // (LAYER_SHARE - 1)
        return max(1, min(UNIT_LIMIT_BYTES, self.voxel_bytes // copies))
