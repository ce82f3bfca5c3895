"""Segmentations: voxels hold supervoxels, a versioned mapping gathers them into bodies that people edit."""

from fascicle.datatypes.labelmap.labelmap import Labelmap

__all__ = ["Labelmap"]
