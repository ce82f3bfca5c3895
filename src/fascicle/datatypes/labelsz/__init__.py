"""Counts of annotation elements per body, and bodies ranked by them."""

from fascicle.datatypes.labelsz.labelsz import Labelsz

__all__ = ["Labelsz"]
