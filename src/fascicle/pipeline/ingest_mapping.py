"""Tables that say which supervoxel belongs to which body, from files to the protobuf that servers take.

Message `MappingOps`: field 1, repeated `MappingOp` {1: mutation id, 2: body, 3: packed supervoxels}, all varints.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fascicle.pipeline.ingest_connections import IngestError
from fascicle.volumes import VolumeSource
from fascicle.volumes.adapted import AdaptedVolume
from fascicle.volumes.array_files import Hdf5Volume

ROWS_PER_MESSAGE = 1 << 20


def read_mapping(text: str, source: VolumeSource) -> NDArray[np.uint64]:
    """A table [row, 2] of supervoxel and body.

    `text` is a dataset of the source, if that is an HDF5 file, or else a file: `.npy`, or text with two numbers per
    line separated by comma, tab or blank, after an optional line of names.
    """
    path = Path(text)
    if isinstance(source, AdaptedVolume):
        source = source.source
    if isinstance(source, Hdf5Volume) and not path.exists():
        table = source.table(text)
    elif not path.is_file():
        raise IngestError(f"the mapping {text} is neither a file nor a dataset of the source")
    elif path.suffix == ".npy":
        table = np.load(path, allow_pickle=False)
    else:
        table = _read_text(path)
    if table.ndim != 2 or table.shape[1] != 2 or table.dtype.kind not in "iu":
        raise IngestError(f"the mapping {text} must have two columns of integers, supervoxel and body")
    if table.size and table.min() < 0:
        raise IngestError(f"the mapping {text} has negative ids")
    table = table.astype(np.uint64)
    if (table[:, 0] == 0).any() and (table[table[:, 0] == 0, 1] != 0).any():
        raise IngestError(f"the mapping {text} maps the background 0 to a body")
    order = np.argsort(table[:, 0], kind="stable")
    table = table[order]
    twice = table[1:, 0] == table[:-1, 0]
    if (twice & (table[1:, 1] != table[:-1, 1])).any():
        row = int(np.nonzero(twice & (table[1:, 1] != table[:-1, 1]))[0][0])
        raise IngestError(f"the mapping {text} gives supervoxel {table[row, 0]} to two bodies")
    keep = np.concatenate(([True], ~twice)) if len(table) else np.zeros(0, bool)
    result: NDArray[np.uint64] = table[keep]
    return result


def _read_text(path: Path) -> NDArray[np.int64] | NDArray[np.uint64]:
    rows = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        words = line.replace(",", " ").replace("\t", " ").split()
        if not words or words[0].startswith("#"):
            continue
        try:
            supervoxel, body = (int(word) for word in words)
        except ValueError:
            if number == 1:
                continue
            raise IngestError(f"line {number} of {path} has not two integers: {line[:80]}") from None
        rows.append((supervoxel, body))
    if any(value < 0 for row in rows for value in row):
        raise IngestError(f"the mapping {path} has negative ids")
    return np.array(rows, np.uint64).reshape(-1, 2)


def mapping_messages(table: NDArray[np.uint64]) -> Iterator[bytes]:
    """The entries of a table that change something, as messages of bounded size."""
    table = table[table[:, 0] != table[:, 1]]
    table = table[np.argsort(table[:, 1], kind="stable")]
    for start in range(0, len(table), ROWS_PER_MESSAGE):
        part = table[start : start + ROWS_PER_MESSAGE]
        bodies, first = np.unique(part[:, 1], return_index=True)
        message = bytearray()
        for body, members in zip(bodies.tolist(), np.split(part[:, 0], first[1:]), strict=True):
            packed = b"".join(map(_varint, members.tolist()))
            operation = b"\x08\x01\x10" + _varint(body) + b"\x1a" + _varint(len(packed)) + packed
            message += b"\x0a" + _varint(len(operation)) + operation
        yield bytes(message)


def bodies_of(table: NDArray[np.uint64], supervoxels: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The body of each supervoxel; itself where the table, sorted by supervoxel, says nothing."""
    if not len(table):
        return supervoxels
    at = np.minimum(np.searchsorted(table[:, 0], supervoxels), len(table) - 1)
    found: NDArray[np.uint64] = np.where(table[at, 0] == supervoxels, table[at, 1], supervoxels)
    return found


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
