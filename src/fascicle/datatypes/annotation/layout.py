"""Rows of an annotation instance: keys, values, and arrays made from many of them at once.

    class 1: block z, y, x; position z, y, x -> kind u8, length of the NR part u32 (little-endian), JSON of the element
    class 2: labelmap u32, supervoxel u64, position z, y, x -> kind u8, JSON of the element without `Rels` (NR)
    class 3: tag (prefix-free), position z, y, x -> kind u8, JSON without `Rels`
    class 4: block z, y, x -> nothing: the block is listed even while no element is in it
    class 5: label u64 -> a list that was posted for a label, as JSON
    class 6: version u32, not versioned -> how far a reload has come
    class 7: labelmap u32, supervoxel u64 -> how many rows of class 2 it has, of each kind, u32[5] (little-endian)

Coordinates are u32, big-endian, biased by 2^31, so that keys sort like (z, y, x). Class 1 is the truth, also about the
block that an element was posted into; 2 and 3 are made from it. An element's JSON is stored ready to be sent: its NR
form is a slice of it and a brace.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from fascicle.versions import keys
from fascicle.versions.resolution import VersionedView

I64 = NDArray[np.int64]
U64 = NDArray[np.uint64]
U8 = NDArray[np.uint8]
Triple = tuple[int, int, int]

ELEMENTS, LABELS, TAGS, EMPTIED, LISTS, RELOADS, KIND_COUNTS = range(1, 8)

DEFAULT_BLOCK_SIZE: Triple = (64, 64, 64)
INT32_MIN, INT32_MAX = -(1 << 31), (1 << 31) - 1

_BIAS = 1 << 31
BLOCK_BYTES = 12
POSITION_BYTES = 12
ELEMENT_KEY_BYTES = BLOCK_BYTES + POSITION_BYTES
LABEL_KEY_BYTES = 4 + 8 + POSITION_BYTES
_LONGEST_TAG_BYTES = 380

ELEMENT_HEAD = 5
"""Bytes before the JSON in a row of class 1."""
INDEX_HEAD = 1
"""Bytes before the JSON in a row of class 2 or 3."""
_HANDLE_HEAD = 2
"""Bytes of a handle that contains its value before the value: what kind of handle it is, and the envelope."""


# -- keys


def _cut(columns: NDArray[np.uint32]) -> list[bytes]:
    """Rows of a matrix of numbers [n, k] as byte strings, big-endian."""
    data = columns.astype(">u4").tobytes()
    width = 4 * columns.shape[1]
    return [data[at : at + width] for at in range(0, len(data), width)]


def _biased(xyz: I64) -> NDArray[np.uint32]:
    return (xyz[:, ::-1] + _BIAS).astype(np.uint32)


def block_of(xyz: I64, size: Triple) -> I64:
    """Block coordinates i64[n, 3] (x, y, z) of positions i64[n, 3]."""
    return np.floor_divide(xyz, np.array(size, np.int64))


def block_key(x: int, y: int, z: int) -> bytes:
    return b"".join((c + _BIAS).to_bytes(4, "big") for c in (z, y, x))


position_key = block_key
"""Positions are written as blocks are."""


def z_key(z: int) -> bytes:
    """What follows the block in the keys of elements at z."""
    return (z + _BIAS).to_bytes(4, "big")


def element_key(position: Sequence[int], size: Triple) -> bytes:
    """The key of the element at x, y, z, in the block in which it lies."""
    x, y, z = position
    return block_key(x // size[0], y // size[1], z // size[2]) + position_key(x, y, z)


def element_keys(xyz: I64, size: Triple) -> list[bytes]:
    return _cut(np.concatenate((_biased(block_of(xyz, size)), _biased(xyz)), axis=1))


def block_keys(blocks_xyz: I64) -> list[bytes]:
    return _cut(_biased(blocks_xyz))


def position_keys(xyz: I64) -> list[bytes]:
    return _cut(_biased(xyz))


def label_prefix(labelmap_id: int, supervoxel: int) -> bytes:
    return labelmap_id.to_bytes(4, "big") + supervoxel.to_bytes(8, "big")


def label_prefixes(labelmap_id: int, supervoxels: U64) -> list[bytes]:
    """As `label_prefix`, of many supervoxels u64[n]."""
    return _cut(_label_columns(labelmap_id, supervoxels))


def label_keys(labelmap_id: int, supervoxels: U64, xyz: I64) -> list[bytes]:
    return _cut(np.concatenate((_label_columns(labelmap_id, supervoxels), _biased(xyz)), axis=1))


def _label_columns(labelmap_id: int, supervoxels: U64) -> NDArray[np.uint32]:
    head = np.empty((len(supervoxels), 3), np.uint32)
    head[:, 0] = labelmap_id
    head[:, 1] = supervoxels >> np.uint64(32)
    head[:, 2] = supervoxels & np.uint64(0xFFFFFFFF)
    return head


def tag_prefix(tag: str) -> bytes:
    """What the keys of a tag start with. Long tags are known by their hash; 0xff starts no UTF-8 text."""
    text = tag.encode("utf-8", "surrogatepass")
    if len(text) > _LONGEST_TAG_BYTES or len(found := keys.text_key(text)) > _LONGEST_TAG_BYTES:
        return b"\xff" + hashlib.sha256(text).digest()
    return found


def label_key(label: int) -> bytes:
    return label.to_bytes(8, "big")


# -- arrays from keys


def positions_of(type_keys: Iterable[bytes]) -> I64:
    """Positions i64[n, 3] (x, y, z), with which the keys of classes 1, 2 and 3 end."""
    data = b"".join([key[-POSITION_BYTES:] for key in type_keys])
    return np.frombuffer(data, ">u4").reshape(-1, 3)[:, ::-1].astype(np.int64) - _BIAS


def positions_of_entries(whole_keys: list[bytes]) -> I64:
    """Positions i64[n, 3] (x, y, z) of whole keys of class 1, prefix and version included."""
    matrix = np.frombuffer(b"".join(whole_keys), np.uint8).reshape(len(whole_keys), -1)
    end = matrix.shape[1] - keys.VERSION_BYTES
    coordinates = np.ascontiguousarray(matrix[:, end - POSITION_BYTES : end]).view(">u4")
    return coordinates[:, ::-1].astype(np.int64) - _BIAS


def blocks_of_keys(type_keys: Iterable[bytes]) -> I64:
    """Block coordinates i64[n, 3] (x, y, z), with which the keys of classes 1 and 4 begin."""
    data = b"".join([key[:BLOCK_BYTES] for key in type_keys])
    return np.frombuffer(data, ">u4").reshape(-1, 3)[:, ::-1].astype(np.int64) - _BIAS


def block_of_key(type_key: bytes) -> Triple:
    z, y, x = (int.from_bytes(type_key[at : at + 4], "big") - _BIAS for at in (0, 4, 8))
    return x, y, z


def supervoxels_of(type_keys: Iterable[bytes]) -> U64:
    """Supervoxels u64[n] of keys of class 2 or 7."""
    return numbers_after(4, type_keys)


def numbers_after(skip: int, type_keys: Iterable[bytes]) -> U64:
    """Numbers u64[n] (big-endian) that follow so many bytes of keys."""
    data = b"".join([key[skip : skip + 8] for key in type_keys])
    return np.frombuffer(data, ">u8").astype(np.uint64)


def labelmap_of_key(type_key: bytes) -> int:
    return int.from_bytes(type_key[:4], "big")


def kinds_of(view: VersionedView, handles: Iterable[bytes]) -> U8:
    """Numbers of the kinds u8[n] of rows of classes 1, 2 and 3."""
    return np.frombuffer(bytes([h[_HANDLE_HEAD] if not h[0] else view.load(h)[0] for h in handles]), np.uint8)


# -- values


def element_value(kind: int, text: bytes, cut: int) -> bytes:
    """A row of class 1 from the whole JSON, of which `,"Rels":` starts at `cut`."""
    return b"".join((bytes((kind,)), cut.to_bytes(4, "little"), text))


def index_value(kind: int, text: bytes, cut: int) -> bytes:
    """A row of class 2 or 3."""
    return b"".join((bytes((kind,)), text[:cut], b"}"))


def value_of(view: VersionedView, handle: bytes) -> bytes:
    """The value of any row."""
    return view.load(handle) if handle[0] else handle[_HANDLE_HEAD:]


def index_value_of(value: bytes) -> bytes:
    """The row of class 2 or 3 that belongs to a row of class 1."""
    return b"".join((value[:1], value[ELEMENT_HEAD : ELEMENT_HEAD + int.from_bytes(value[1:5], "little")], b"}"))


def full_texts(view: VersionedView, handles: Iterable[bytes]) -> list[bytes]:
    """The whole JSON of rows of class 1."""
    start = _HANDLE_HEAD + ELEMENT_HEAD
    return [h[start:] if not h[0] else view.load(h)[ELEMENT_HEAD:] for h in handles]


def nr_texts(view: VersionedView, handles: Iterable[bytes]) -> list[bytes]:
    """The JSON of rows of class 2 or 3."""
    start = _HANDLE_HEAD + INDEX_HEAD
    return [h[start:] if not h[0] else view.load(h)[INDEX_HEAD:] for h in handles]
