"""The datatype `neuronjson`: one JSON object per body, with who set each field and when, and queries over all."""

from fascicle.datatypes.neuronjson.neuronjson import Neuronjson

__all__ = ["Neuronjson"]
