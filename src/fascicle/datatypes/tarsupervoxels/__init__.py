"""The datatype `tarsupervoxels`: a blob for each supervoxel, e.g. its mesh, and those of a body as one tar archive."""

from fascicle.datatypes.tarsupervoxels.tarsupervoxels import Tarsupervoxels

__all__ = ["Tarsupervoxels"]
