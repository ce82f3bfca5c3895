"""Neuroglancer's sharded format: many values under u64 keys in few files, each found by byte ranges.

Source: https://github.com/google/neuroglancer/blob/master/src/datasource/precomputed/sharded.md
A key, shifted and hashed, names a shard (a file) and a minishard in it. A shard begins with an index, u64 start and end
of each minishard's own index, counted from the end of the shard index. A minishard index has three rows u64[3, n]:
keys, each less the one before; starts, each less the end of the value before; lengths. Values and minishard indexes may
each be gzipped.

No input or output here: readers ask for `index_span`, then `minishard_span`, then `MinishardIndex.find`.
"""

from __future__ import annotations

import io
import math
import operator
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, Literal

import msgspec
import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray

from fascicle.errors import BadRequest
from fascicle.formats.gzip_stream import gzipped
from fascicle.kernels.arrays import Buffer

Keys = NDArray[np.uint64]
Encoding = Literal["raw", "gzip"]
TYPE = "neuroglancer_uint64_sharded_v1"
MOST_MINISHARD_BITS = 32
"""More are not read: the index of one shard would take 64 GiB."""
MOST_INDEX_BYTES = 1 << 30
_U64 = (1 << 64) - 1
_U32 = (1 << 32) - 1
_ENTRY = 16
_GZIP_ERROR: Any = isal_zlib.error


class Sharding(msgspec.Struct, frozen=True, kw_only=True):
    """The member `sharding` of an info."""

    type: str = msgspec.field(name="@type", default=TYPE)
    preshift_bits: int
    hash: Literal["identity", "murmurhash3_x86_128"]
    minishard_bits: int
    shard_bits: int
    minishard_index_encoding: Encoding = "raw"
    data_encoding: Encoding = "raw"

    def problem(self) -> str:
        """What is wrong with the numbers; empty if nothing is."""
        if self.type != TYPE:
            return f"the kind of sharding {self.type!r} is not {TYPE}"
        if not 0 <= self.preshift_bits <= 64:
            return f"preshift_bits is {self.preshift_bits}, not between 0 and 64"
        if not 0 <= self.minishard_bits <= MOST_MINISHARD_BITS:
            return f"minishard_bits is {self.minishard_bits}, not between 0 and {MOST_MINISHARD_BITS}"
        if not 0 <= self.shard_bits <= 64 - self.minishard_bits:
            return f"shard_bits is {self.shard_bits}, not between 0 and 64 less minishard_bits"
        return ""

    @property
    def index_bytes(self) -> int:
        """Length of the index that a shard begins with."""
        return _ENTRY << self.minishard_bits

    def place(self, key: int) -> tuple[int, int]:
        """The numbers of a key's shard and minishard."""
        hashed = key >> self.preshift_bits
        if self.hash != "identity":
            hashed = int(murmurhash3_x86_128(np.array([hashed], np.uint64))[0])
        shard = hashed >> self.minishard_bits & ((1 << self.shard_bits) - 1)
        return shard, hashed & ((1 << self.minishard_bits) - 1)

    def places(self, keys: Keys) -> tuple[Keys, Keys]:
        """As `place`, of many keys."""
        hashed = _shifted(np.asarray(keys, np.uint64), self.preshift_bits)
        if self.hash != "identity":
            hashed = murmurhash3_x86_128(hashed)
        shards = _shifted(hashed, self.minishard_bits) & np.uint64((1 << self.shard_bits) - 1)
        return shards, hashed & np.uint64((1 << self.minishard_bits) - 1)

    def file_name(self, shard: int) -> str:
        """The name of a shard's file."""
        return f"{shard:0{-(-self.shard_bits // 4)}x}.shard"

    def index_span(self, minishard: int) -> tuple[int, int]:
        """The bytes of a shard file, start and stop, in which a minishard's entry of the shard index lies."""
        return _ENTRY * minishard, _ENTRY * (minishard + 1)

    def minishard_span(self, entry: Buffer) -> tuple[int, int] | None:
        """The bytes of a shard file in which a minishard's index lies, given its 16 bytes of the shard index.

        None if the minishard is empty; BadRequest if the entry makes no sense.
        """
        if len(entry) != _ENTRY:
            raise BadRequest(f"the entry of a shard index has {len(entry)} bytes instead of {_ENTRY}")
        start, stop = (int(value) for value in np.frombuffer(entry, "<u8"))
        if start == stop:
            return None
        if not start < stop < 1 << 62 or stop - start > MOST_INDEX_BYTES:
            raise BadRequest(f"a minishard index is said to lie in bytes {start} to {stop}")
        return self.index_bytes + start, self.index_bytes + stop

    def minishard_index(self, data: Buffer) -> MinishardIndex:
        """What a minishard has, from its index as it is stored."""
        raw = unpacked(data, self.minishard_index_encoding, MOST_INDEX_BYTES)
        if len(raw) % 24:
            raise BadRequest(f"a minishard index has {len(raw)} bytes, which is no multiple of 24")
        rows = np.frombuffer(raw, "<u8").astype(np.uint64).reshape(3, -1)
        keys = np.cumsum(rows[0], dtype=np.uint64)
        sizes = rows[2]
        stops = np.cumsum(rows[1] + sizes, dtype=np.uint64)
        starts = stops - sizes
        if len(keys) and (int(sizes.max()) >= 1 << 62 or int(stops.max()) >= 1 << 62 or (starts > stops).any()):
            raise BadRequest("a minishard index leads outside of its shard")
        if len(keys) > 1 and not (keys[1:] > keys[:-1]).all():
            order = np.argsort(keys, kind="stable")
            keys, starts, sizes = keys[order], starts[order], sizes[order]
        return MinishardIndex(keys, starts + np.uint64(self.index_bytes), sizes)

    def unpacked(self, value: Buffer, most_bytes: int) -> bytes:
        """A value from its stored bytes; BadRequest if it is damaged or longer than `most_bytes`."""
        return unpacked(value, self.data_encoding, most_bytes)


@dataclass(frozen=True, slots=True)
class MinishardIndex:
    """The values of one minishard: ascending keys u64[n]; first bytes in the shard file, and lengths, u64[n]."""

    keys: Keys
    starts: Keys
    sizes: Keys

    def find(self, key: int) -> tuple[int, int] | None:
        """The bytes of the shard file, start and stop, that hold a value; None if there is none."""
        at = int(np.searchsorted(self.keys, np.uint64(key)))
        if at == len(self.keys) or int(self.keys[at]) != key:
            return None
        start = int(self.starts[at])
        return start, start + int(self.sizes[at])

    @property
    def size_bytes(self) -> int:
        """Memory that this takes."""
        return self.keys.nbytes + self.starts.nbytes + self.sizes.nbytes


def packed(data: Buffer, encoding: Encoding) -> bytes:
    """A value or an index as it is stored. Equal input gives equal output."""
    return bytes(data) if encoding == "raw" else gzipped(data)


def unpacked(data: Buffer, encoding: Encoding, most_bytes: int) -> bytes:
    """The opposite of `packed`; BadRequest if it is damaged or holds more than `most_bytes`."""
    if encoding == "raw":
        plain = bytes(data)
    else:
        inflater = isal_zlib.decompressobj(31)
        try:
            plain = inflater.decompress(data, most_bytes + 1)
        except _GZIP_ERROR as error:
            raise BadRequest(f"{len(data)} bytes are not gzip: {error}") from None
        if not inflater.eof and len(plain) <= most_bytes:
            raise BadRequest(f"{len(data)} bytes of gzip end too soon")
    if len(plain) > most_bytes:
        raise BadRequest(f"a value has more than the {most_bytes} bytes that it may have")
    return plain


# -- writing


class ShardWriter:
    """Writes one shard: values as they come, then their indexes.

    `out` can seek and is at its start. The keys of each minishard must come in ascending order, since some readers do
    not look for a value before the one ahead of it; minishards may come mixed. Nothing is in `out` before `finish`.
    """

    def __init__(self, sharding: Sharding, shard: int, out: BinaryIO) -> None:
        self._sharding = sharding
        self._shard = shard
        self._out = out
        self._at = 0
        self._entries: dict[int, array[int]] = {}
        """Of each minishard key, place and length of one value after the other."""
        out.seek(sharding.index_bytes)

    def add(
        self, key: int, value: Buffer, is_packed: bool = False, leading: Buffer = b"", minishard: int | None = None
    ) -> None:
        """A value; `is_packed` says that it is in the sharding's `data_encoding` already.

        `minishard` is the one of the key, where it is known that it belongs to this shard.

        `leading` is stored as it is right before the encoded value, and no index speaks of it: the fragments of a
        mesh lie so ahead of their manifest.
        """
        data: Any = value if is_packed else packed(value, self._sharding.data_encoding)
        entries = self._minishard(key, minishard)
        lead: Any = leading
        if len(lead):
            self._out.write(lead)
        self._out.write(data)
        entries.extend((key, self._at + len(lead), len(data)))
        self._at += len(lead) + len(data)

    def adopt(self, key: int, size: int, minishard: int | None = None) -> None:
        """As `add`, of a packed value that lies in `out` already, behind those before it."""
        self._minishard(key, minishard).extend((key, self._at, size))
        self._at += size

    def _minishard(self, key: int, known: int | None) -> array[int]:
        """The entries of the minishard that a key, the next one to be added, belongs to."""
        if known is None:
            shard, known = self._sharding.place(key)
            if shard != self._shard:
                raise ValueError(f"key {key} belongs to shard {shard:x}, not to shard {self._shard:x}")
        entries = self._entries.get(known)
        if entries is None:
            entries = self._entries[known] = array("Q")
        elif entries[-3] >= key:
            raise ValueError(f"key {key} comes after key {entries[-3]}")
        return entries

    def finish(self) -> int:
        """Write the indexes; the number of values."""
        index = np.zeros((1 << self._sharding.minishard_bits, 2), "<u8")
        self._out.seek(self._sharding.index_bytes + self._at)
        for minishard in sorted(self._entries):
            rows = np.array(self._entries[minishard], np.uint64).reshape(-1, 3).T
            stops = rows[1] + rows[2]
            rows[1, 1:] -= stops[:-1]
            rows[0, 1:] -= rows[0, :-1].copy()
            data = packed(np.ascontiguousarray(rows, "<u8").tobytes(), self._sharding.minishard_index_encoding)
            self._out.write(data)
            index[minishard] = self._at, self._at + len(data)
            self._at += len(data)
        self._out.seek(0)
        self._out.write(index.tobytes())
        return sum(map(len, self._entries.values())) // 3


def build_shard(sharding: Sharding, shard: int, values: Iterable[tuple[int, Buffer]]) -> bytes:
    """A whole shard from keys and values in any order, laid out by minishard and key."""
    out = io.BytesIO()
    writer = ShardWriter(sharding, shard, out)
    for key, value in sorted(values, key=lambda item: (sharding.place(item[0])[1], item[0])):
        writer.add(key, value)
    writer.finish()
    return out.getvalue()


# -- hashing


def murmurhash3_x86_128(keys: Keys) -> Keys:
    """The low 64 bits of MurmurHash3 x86 128 bit, seed 0, of each key's 8 bytes."""
    low, high = (keys & np.uint64(_U32)).astype(np.uint32), (keys >> np.uint64(32)).astype(np.uint32)
    with np.errstate(over="ignore"):
        h1 = _rotated(low * np.uint32(0x239B961B), 15) * np.uint32(0xAB0E9789)
        h2 = _rotated(high * np.uint32(0xAB0E9789), 16) * np.uint32(0x38B34AE5)
        eight = np.uint32(8)
        h1, h2, h3 = h1 ^ eight, h2 ^ eight, np.full_like(low, 8)
        h1 = h1 + h2 + h3 + h3
        h2, h3 = h2 + h1, h3 + h1
        h1, h2, h3 = _mixed(h1), _mixed(h2), _mixed(h3)
        h1 = h1 + h2 + h3 + h3
        h2 = h2 + h1
    return h1.astype(np.uint64) | h2.astype(np.uint64) << np.uint64(32)


def _rotated(values: NDArray[np.uint32], bits: int) -> NDArray[np.uint32]:
    return values << np.uint32(bits) | values >> np.uint32(32 - bits)


def _mixed(values: NDArray[np.uint32]) -> NDArray[np.uint32]:
    values = (values ^ values >> np.uint32(16)) * np.uint32(0x85EBCA6B)
    values = (values ^ values >> np.uint32(13)) * np.uint32(0xC2B2AE35)
    return values ^ values >> np.uint32(16)


def _shifted(values: Keys, bits: int) -> Keys:
    return np.zeros_like(values) if bits >= 64 else values >> np.uint64(bits)


# -- keys of the cells of a grid


def morton_bits(grid: Sequence[int]) -> tuple[int, ...]:
    """How many bits each axis of a grid gives to the compressed Morton code."""
    return tuple((max(cells, 1) - 1).bit_length() for cells in grid)


def morton_axes(grid: Sequence[int]) -> list[int]:
    """The axis of each bit of the compressed Morton code, lowest first."""
    bits = morton_bits(grid)
    return [axis for i in range(max(bits, default=0)) for axis in range(len(bits)) if i < bits[axis]]


def morton_code(cell: Sequence[int], grid: Sequence[int]) -> int:
    """The key of a cell of a grid, both x, y, z, ... (any number of axes); BadRequest if it lies outside."""
    if not all(0 <= at < cells for at, cells in zip(cell, grid, strict=True)):
        raise BadRequest(f"the cell {tuple(cell)} lies outside of the grid {tuple(grid)}")
    code = 0
    seen = [0] * len(grid)
    for j, axis in enumerate(morton_axes(grid)):
        code |= (cell[axis] >> seen[axis] & 1) << j
        seen[axis] += 1
    return code


def morton_codes(cells: NDArray[np.int64], grid: Sequence[int]) -> Keys:
    """As `morton_code`, of many cells [n, axes] that lie inside of the grid."""
    codes = np.zeros(len(cells), np.uint64)
    columns = np.ascontiguousarray(cells.T.astype(np.uint64))
    seen = [0] * len(grid)
    for j, axis in enumerate(morton_axes(grid)):
        codes |= (columns[axis] >> np.uint64(seen[axis]) & np.uint64(1)) << np.uint64(j)
        seen[axis] += 1
    return codes


def morton_cell(code: int, grid: Sequence[int]) -> tuple[int, ...]:
    """The cell x, y, z, ... of a key. It may lie outside of a grid whose sides are no powers of two."""
    cell = [0] * len(grid)
    seen = [0] * len(grid)
    for j, axis in enumerate(morton_axes(grid)):
        cell[axis] |= (code >> j & 1) << seen[axis]
        seen[axis] += 1
    return tuple(cell)


def morton_cells(codes: Keys, grid: Sequence[int]) -> NDArray[np.int64]:
    """As `morton_cell`, of many keys: cells [n, axes]."""
    cells = np.zeros((len(codes), len(grid)), np.int64)
    seen = [0] * len(grid)
    for j, axis in enumerate(morton_axes(grid)):
        cells[:, axis] |= (codes >> np.uint64(j) & np.uint64(1)).astype(np.int64) << seen[axis]
        seen[axis] += 1
    return cells


# -- choosing parameters

SHARD_VOXELS = 512**3
FEWEST_CHUNKS = 64
"""Volumes of so few chunks stay unsharded."""
_MINISHARD_KEYS = 512
_HASHED_KEYS = 1365
_HASHED_MINISHARD_BITS = 9


def sharding_for_volume(
    size_xyz: Sequence[int],
    chunk_xyz: Sequence[int],
    encoding: str,
    shard_voxels: int = SHARD_VOXELS,
    fewest: int = FEWEST_CHUNKS,
) -> Sharding | None:
    """The sharding of one scale, so that each shard is a box of about `shard_voxels`; None for up to `fewest` chunks.

    No bit of the code is left over, so neighbouring chunks share a minishard (up to 512 of them), and these a shard.
    """
    grid = [-(-size // chunk) for size, chunk in zip(size_xyz, chunk_xyz, strict=True)]
    if math.prod(grid) <= fewest:
        return None
    total = sum(morton_bits(grid))
    wanted = max(0, round(math.log2(shard_voxels / math.prod(chunk_xyz))))
    within = min(total, wanted)
    preshift = min(within, _MINISHARD_KEYS.bit_length() - 1)
    return Sharding(
        preshift_bits=preshift,
        hash="identity",
        minishard_bits=within - preshift,
        shard_bits=total - within,
        minishard_index_encoding="gzip",
        data_encoding="raw" if encoding in ("jpeg", "png") else "gzip",
    )


def sharding_for_keys(count: int) -> Sharding | None:
    """The sharding of `count` values under scattered keys (meshes, skeletons, annotations); None if one needs none."""
    if count <= 1:
        return None
    minishard = max(0, math.ceil(math.log2(count / _HASHED_KEYS)))
    shard = 0
    if minishard > _HASHED_MINISHARD_BITS:
        shard, minishard = minishard - _HASHED_MINISHARD_BITS, _HASHED_MINISHARD_BITS
    return Sharding(
        preshift_bits=0,
        hash="murmurhash3_x86_128",
        minishard_bits=minishard,
        shard_bits=shard,
        minishard_index_encoding="gzip",
        data_encoding="gzip",
    )


def shard_cells(sharding: Sharding, grid: Sequence[int]) -> tuple[int, ...] | None:
    """How many cells per axis the box of one shard has; None if shards of this sharding are no boxes."""
    axes = morton_axes(grid)
    within = sharding.preshift_bits + sharding.minishard_bits
    if sharding.hash != "identity" or within + sharding.shard_bits < len(axes):
        return None
    below = axes[:within]
    return tuple(1 << operator.countOf(below, axis) for axis in range(len(grid)))


def read_sharding(value: Any) -> Sharding:
    """The member `sharding` of an info; BadRequest if it cannot be used."""
    kind = value.get("@type", TYPE) if isinstance(value, dict) else None
    if kind is not None and kind != TYPE:
        raise BadRequest(f"the kind of sharding {kind!r} is not {TYPE}")
    try:
        sharding = msgspec.convert(value, Sharding)
    except msgspec.ValidationError as error:
        raise BadRequest(f"the sharding makes no sense: {error}") from None
    if problem := sharding.problem():
        raise BadRequest(f"the sharding makes no sense: {problem}")
    return sharding
