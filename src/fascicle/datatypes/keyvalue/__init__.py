"""The datatype `keyvalue`: values of any bytes under keys that are text, versioned or not."""

from fascicle.datatypes.keyvalue.keyvalue import Keyvalue

__all__ = ["Keyvalue"]
