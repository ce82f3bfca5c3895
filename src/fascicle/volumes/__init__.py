"""Where voxels come from: readers of files and folders behind one abstract base. They know nothing of our server."""

from fascicle.volumes.base import VolumeError, VolumeSource
from fascicle.volumes.opening import open_volume

__all__ = ["VolumeError", "VolumeSource", "open_volume"]
