"""NanoVDB index grids: which voxels of a sparse volume are on, and a running number for each.

A grid of build type OnIndex in one buffer: grid, tree, root, upper nodes (32^3 lower nodes), lower nodes (16^3 leaves),
leaves (8^3 voxels), in this order. Source: the data structures of NanoVDB 32.8 (`nanovdb/NanoVDB.h` of OpenVDB): inside
of a node x is the slowest axis, voxel numbers start at 1, and 0 stands for all that is off.

The tools of NanoVDB read such a buffer as it is; it needs no file header.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fascicle.errors import BadRequest

I64 = NDArray[np.int64]
Bytes = NDArray[np.uint8]

MAGIC = b"NanoVDB0"
VERSION = 32 << 21 | 8 << 10
NO_CHECKSUM = (1 << 64) - 1
HAS_BBOX, BREADTH_FIRST = 1 << 1, 1 << 5
INDEX_GRID, ON_INDEX = 8, 20
LEAF_HAS_BBOX = 2

GRID_BYTES, TREE_BYTES, ROOT_BYTES, TILE_BYTES = 672, 64, 96, 32
LEAF_BYTES = 96
NAME_BYTES = 256
_NODE_HEAD_BYTES = 32
_NODE_STATISTICS_BYTES = 32

LEAF_BITS, LOWER_BITS, UPPER_BITS = 3, 7, 12
"""A coordinate shifted right by so much names the leaf, lower or upper node that it lies in."""


@dataclass(frozen=True, slots=True)
class Level:
    """Nodes of one level, in the order in which they are stored."""

    node: I64
    """Coordinates x, y, z of the nodes [n,3], in units of the node's own size."""
    low: I64
    """Least voxel [n,3] that is on."""
    high: I64
    """Greatest voxel [n,3] that is on."""


def masks_of(dense_zyx: NDArray[np.bool_]) -> tuple[I64, Bytes]:
    """Leaves of a dense volume bool[z,y,x] whose sides are multiples of 8.

    Returns (first voxels x, y, z of the leaves that have any voxel, i64[n,3], their masks u8[n,64]).
    """
    z, y, x = (side // 8 for side in dense_zyx.shape)
    cells = dense_zyx.reshape(z, 8, y, 8, x, 8).transpose(4, 2, 0, 5, 3, 1).reshape(x * y * z, 512)
    masks = np.packbits(cells, axis=1, bitorder="little")
    some = np.flatnonzero(masks.any(axis=1))
    places = np.stack(np.unravel_index(some, (x, y, z)), axis=1).astype(np.int64)
    return places * 8, masks[some]


def encode_on_index(origins_xyz: I64, masks: Bytes, voxel_size_xyz: Sequence[float], name: str) -> list[bytes]:
    """The parts of a grid, to be put together.

    Leaves are given in any order by their first voxel [n,3] (multiples of 8) and their masks u8[n,64]: voxel (x, y, z)
    of a leaf is bit z + 8 y + 64 x, the least significant bit of a byte first. No leaf may be given twice, or be empty.
    """
    encoded_name = name.encode()
    if len(encoded_name) >= NAME_BYTES:
        raise BadRequest(f"the name of a grid must have less than {NAME_BYTES} bytes, not {len(encoded_name)}")
    if not len(origins_xyz):
        raise BadRequest("a grid needs at least one voxel")
    order = _stored_order(origins_xyz)
    origins, masks = origins_xyz[order], np.ascontiguousarray(masks[order])
    leaves, counts = _leaf_level(origins, masks)
    lower, lower_of_leaf = _level_above(leaves, LOWER_BITS - LEAF_BITS)
    upper, upper_of_lower = _level_above(lower, UPPER_BITS - LOWER_BITS)

    upper_bytes, lower_bytes = _node_bytes(5), _node_bytes(4)
    root_at = GRID_BYTES + TREE_BYTES
    root_bytes = ROOT_BYTES + TILE_BYTES * len(upper.node)
    upper_at = root_at + root_bytes
    lower_at = upper_at + upper_bytes * len(upper.node)
    leaf_at = lower_at + lower_bytes * len(lower.node)
    size = leaf_at + LEAF_BYTES * len(leaves.node)
    low, high, voxels = upper.low.min(axis=0), upper.high.max(axis=0), int(counts.sum())
    return [
        _grid(size, encoded_name, low, high, voxel_size_xyz, voxels),
        _tree([leaf_at, lower_at, upper_at, root_at], [leaves, lower, upper], voxels),
        _root(low, high, upper.node, root_bytes, upper_bytes),
        _nodes(upper, 5, lower.node, upper_of_lower, upper_at, lower_at, lower_bytes).tobytes(),
        _nodes(lower, 4, leaves.node, lower_of_leaf, lower_at, leaf_at, LEAF_BYTES).tobytes(),
        _leaf_nodes(leaves, masks, counts).tobytes(),
    ]


def _node_bytes(bits: int) -> int:
    """Size of an inner node of 2^bits children per axis."""
    children = 1 << 3 * bits
    return _NODE_HEAD_BYTES + 2 * children // 8 + _NODE_STATISTICS_BYTES + 8 * children


def _stored_order(origins: I64) -> I64:
    """The order of leaves in which the leaves of each node lie together, and the nodes of each node above."""
    keys = []
    for bits in (LEAF_BITS, LOWER_BITS, UPPER_BITS):
        node = origins >> bits
        keys += [node[:, 2], node[:, 1], node[:, 0]]
    order: I64 = np.lexsort(keys)
    return order


def _leaf_level(origins: I64, masks: Bytes) -> tuple[Level, I64]:
    """Leaves with the boxes of their voxels, and how many voxels each has."""
    bits = np.unpackbits(masks, axis=1, bitorder="little").reshape(-1, 8, 8, 8)
    low, high = np.empty_like(origins), np.empty_like(origins)
    for axis in range(3):
        others = tuple(other for other in (1, 2, 3) if other != axis + 1)
        some: NDArray[np.bool_] = np.any(bits, axis=others)
        low[:, axis] = origins[:, axis] + some.argmax(axis=1)
        high[:, axis] = origins[:, axis] + 7 - some[:, ::-1].argmax(axis=1)
    return Level(origins >> LEAF_BITS, low, high), bits.sum(axis=(1, 2, 3), dtype=np.int64)


def _level_above(below: Level, bits: int) -> tuple[Level, I64]:
    """The nodes of 2^bits children per axis above nodes, and for each node below its place among them."""
    parents = below.node >> bits
    first = np.append(True, (parents[1:] != parents[:-1]).any(axis=1))
    starts = np.flatnonzero(first)
    level = Level(parents[starts], np.minimum.reduceat(below.low, starts), np.maximum.reduceat(below.high, starts))
    return level, np.cumsum(first) - 1


def _grid(size: int, name: bytes, low: I64, high: I64, voxel_size: Sequence[float], voxels: int) -> bytes:
    sizes = [float(value) for value in voxel_size]
    diagonal = [sizes[0], 0, 0, 0, sizes[1], 0, 0, 0, sizes[2]]
    inverse = [1 / sizes[0], 0, 0, 0, 1 / sizes[1], 0, 0, 0, 1 / sizes[2]]
    transform = [*diagonal, *inverse, 0, 0, 0, 1]
    world = [*(low * sizes).tolist(), *((high + 1) * sizes).tolist()]
    flags = HAS_BBOX | BREADTH_FIRST
    data = b"".join(
        (
            MAGIC,
            struct.pack("<QIIIIQ", NO_CHECKSUM, VERSION, flags, 0, 1, size),
            name.ljust(NAME_BYTES, b"\0"),
            struct.pack("<22f22d", *transform, *transform),
            struct.pack("<6d3d", *world, *sizes),
            struct.pack("<IIqIIQQ", INDEX_GRID, ON_INDEX, 0, 0, 0, voxels + 1, 0),
        )
    )
    assert len(data) == GRID_BYTES
    return data


def _tree(offsets: list[int], levels: list[Level], voxels: int) -> bytes:
    from_tree = [offset - GRID_BYTES for offset in offsets]
    return struct.pack("<4q3I3IQ", *from_tree, *(len(level.node) for level in levels), 0, 0, 0, voxels)


def _root(low: I64, high: I64, uppers: I64, root_bytes: int, upper_bytes: int) -> bytes:
    head = struct.pack("<6iI4x5Q24x", *low.tolist(), *high.tolist(), len(uppers), 0, 0, 0, 0, 0)
    field = (1 << 32 - UPPER_BITS) - 1
    tiles = []
    for i, (x, y, z) in enumerate(uppers.tolist()):
        key = (x & field) << 42 | (y & field) << 21 | (z & field)
        tiles.append(struct.pack("<QqI4xQ", key, root_bytes + i * upper_bytes, 0, 0))
    return head + b"".join(tiles)


def _nodes(
    level: Level, bits: int, child_nodes: I64, parent: I64, at: int, children_at: int, child_bytes: int
) -> Bytes:
    """Inner nodes u8[n, size]: boxes, which children there are, and where."""
    count, children = len(level.node), 1 << 3 * bits
    size = _node_bytes(bits)
    out = np.zeros((count, size), np.uint8)
    out[:, :24] = np.concatenate([level.low, level.high], axis=1).astype("<i4").view(np.uint8)
    local = child_nodes & ((1 << bits) - 1)
    place = (local[:, 0] << 2 * bits) | (local[:, 1] << bits) | local[:, 2]
    child_mask = _NODE_HEAD_BYTES + children // 8
    np.bitwise_or.at(out, (parent, child_mask + (place >> 3)), (1 << (place & 7)).astype(np.uint8))
    table = np.zeros((count, children), "<i8")
    table[parent, place] = children_at + np.arange(len(child_nodes)) * child_bytes - (at + parent * size)
    out[:, size - 8 * children :] = table.view(np.uint8)
    return out


def _leaf_nodes(leaves: Level, masks: Bytes, counts: I64) -> Bytes:
    out = np.zeros((len(masks), LEAF_BYTES), np.uint8)
    out[:, :12] = leaves.low.astype("<i4").view(np.uint8)
    out[:, 12:15] = leaves.high - leaves.low
    out[:, 15] = LEAF_HAS_BBOX
    out[:, 16:80] = masks
    first = 1 + np.cumsum(counts) - counts
    words = np.unpackbits(masks, axis=1).reshape(-1, 8, 64).sum(axis=2, dtype=np.uint64)
    sums = np.cumsum(words, axis=1)[:, :7]
    packed = (sums << (9 * np.arange(7, dtype=np.uint64))).sum(axis=1, dtype=np.uint64)
    out[:, 80:88] = first.astype("<u8")[:, None].view(np.uint8)
    out[:, 88:96] = packed.astype("<u8")[:, None].view(np.uint8)
    return out
