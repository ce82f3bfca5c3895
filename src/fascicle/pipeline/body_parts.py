"""What tasks of jobs that go block by block, then body by body, have in common (`body_jobs`).

What a block gives is kept in a file until all bodies that it touches are joined: a line of JSON with numbers that say
how long its columns are, then these, each at a multiple of 8 bytes.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from fascicle.pipeline.sources import SourceSpec
from fascicle.volumes.base import Pyramid, VolumeError, VolumeSource

_PADDED = 8
_RANGE_SIZE = 1 << 20
"""A range of bodies has about so many triangles or vertices, unless one body has more."""
Columns = Sequence[tuple[str, str]]
"""Names and dtypes of the columns of a file, in their order."""
Ranges = list[tuple[int, int, list[int], int]]
"""(first body, last body, numbers of the blocks that have some of them, size) of what is joined in one task."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BodySetting:
    """What every worker knows."""

    source: SourceSpec
    scale: int
    resolution_nm: tuple[float, float, float]
    folder: Path
    bodies: tuple[int, ...]
    """The only ones that count, ascending; none for all."""


S = TypeVar("S", bound=BodySetting)


class Workplace(Generic[S]):
    """One worker: the volume is opened when a block of it is read."""

    def __init__(self, setting: S) -> None:
        self.setting = setting
        self._pyramid: Pyramid | None = None
        self.wanted = np.array(setting.bodies, np.uint64) if setting.bodies else None

    @property
    def volume(self) -> VolumeSource:
        """The volume at the scale that is read."""
        if self._pyramid is None:
            self._pyramid = self.setting.source.open()
        return self._pyramid.scales[self.setting.scale]

    def read(self, start_zyx: Sequence[int], stop_zyx: Sequence[int]) -> NDArray[Any]:
        """The labels [z, y, x] of a box of the volume, u32 or u64."""
        start, stop = (start_zyx[0], start_zyx[1], start_zyx[2]), (stop_zyx[0], stop_zyx[1], stop_zyx[2])
        labels = self.volume.read(start, stop)
        return labels if labels.dtype in (np.uint32, np.uint64) else labels.astype(np.uint64)

    def close(self) -> None:
        if self._pyramid is not None:
            self._pyramid.close()


def block_file(folder: Path, number: int) -> Path:
    """Where that lies which was found in a block."""
    return folder / f"block-{number}"


def body_ranges(
    blocks: Sequence[int], sizes_in: Callable[[int], tuple[NDArray[np.uint64], NDArray[np.int64]]], most: int
) -> Ranges:
    """Ranges of bodies to be joined, each of a size of `most` at most, unless it is one body.

    `sizes_in(block)` are the bodies of a block, ascending, and the size of each there.
    """
    found = [sizes_in(number) for number in blocks]
    if not found:
        return []
    bodies, place = np.unique(np.concatenate([bodies for bodies, _ in found]), return_inverse=True)
    sizes = np.bincount(place.reshape(-1), np.concatenate([sizes for _, sizes in found])).astype(np.int64)
    result: Ranges = []
    begin = total = 0
    for i, size in enumerate(sizes.tolist()):
        if total and total + size > min(most, _RANGE_SIZE):
            result.append((int(bodies[begin]), int(bodies[i - 1]), [], total))
            begin, total = i, 0
        total += size
    result.append((int(bodies[begin]), int(bodies[-1]), [], total))
    for number, (own, _) in zip(blocks, found, strict=True):
        for first, last, members, _ in result:
            if np.searchsorted(own, np.uint64(first)) < np.searchsorted(own, np.uint64(last), side="right"):
                members.append(number)
    return result


def write_columns(path: Path, counts: Sequence[int], columns: Columns, found: object) -> None:
    """Keep the columns, which are attributes of `found`, in a file, which is on disk when this returns."""
    head = msgspec.json.encode(counts)
    temporary = path.with_name(path.name + ".part")
    with temporary.open("wb") as file:
        file.write(head + b" " * (-(len(head) + 1) % _PADDED) + b"\n")
        for name, kind in columns:
            data = np.ascontiguousarray(getattr(found, name), kind).tobytes()
            file.write(data + bytes(-len(data) % _PADDED))
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def read_columns(path: Path, columns: Columns, lengths: Callable[..., Iterable[int]]) -> list[NDArray[Any]]:
    """The columns in a file, one-dimensional; only what is used of them is read.

    `lengths(*counts)` are the lengths of all columns. Raises VolumeError if the file is gone.
    """
    try:
        with path.open("rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        raise VolumeError(f"{path}, which an earlier step wrote, cannot be read: {error}") from None
    at = data.find(b"\n") + 1
    found: list[NDArray[Any]] = []
    for (_, kind), length in zip(columns, lengths(*msgspec.json.decode(data[:at])), strict=True):
        column = np.frombuffer(data, kind, length, at)
        found.append(column)
        at += column.nbytes + -column.nbytes % _PADDED
    return found
