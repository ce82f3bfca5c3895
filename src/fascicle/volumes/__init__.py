"""Where voxels come from: readers of files and folders behind one abstract base. They know nothing of our server."""

from fascicle.volumes.base import Pyramid, VolumeError, VolumeSource
from fascicle.volumes.opening import open_pyramid, open_volume

__all__ = ["Pyramid", "VolumeError", "VolumeSource", "open_pyramid", "open_volume"]
