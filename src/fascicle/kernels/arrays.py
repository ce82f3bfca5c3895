"""Arrays as kernels want them: contiguous, plain and read-only where they are inputs.

Numba compiles a kernel once per combination of argument types, and counts a read-only array as another type. Inputs
come from
`bytes`, memory maps and fresh arrays alike, so all of them are passed as read-only views: one compilation serves all.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Buffer: TypeAlias = bytes | bytearray | memoryview | NDArray[np.uint8]
"""What format functions take as encoded input."""


def frozen(array: NDArray[Any]) -> NDArray[Any]:
    """A C-contiguous, aligned, read-only view (a copy only if need be); the array itself stays writable."""
    flags = array.flags
    if type(array) is not np.ndarray or not flags.c_contiguous or not flags.aligned:
        array = np.ascontiguousarray(array).view(np.ndarray)
        if not array.flags.aligned:
            array = array.copy()
        flags = array.flags
    if flags.writeable:
        array = array.view()
        array.setflags(write=False)
    return array


def frozen_bytes(data: Buffer) -> NDArray[np.uint8]:
    """The bytes of any buffer as a read-only uint8 array, without a copy."""
    view: NDArray[np.uint8] = np.frombuffer(data, dtype=np.uint8)
    if view.flags.writeable:
        view.flags.writeable = False
    return view


def address_of(array: NDArray[Any]) -> int:
    """Where an array begins in memory, for kernels that look into many arrays. Whoever passes it keeps the array."""
    address: int = array.__array_interface__["data"][0]
    return address
