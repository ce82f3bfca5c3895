"""Drawing the tiles of a volume: slices of its source are cut into tiles, and these reduced from scale to scale.

The work goes through the volume tile by tile of the coarsest scale, for some slices at a time, so memory does not grow
with the volume: each tile of a scale is made of those of the scale below that it covers, right after these were made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fascicle.datatypes.base import Call, Change
from fascicle.datatypes.image.block_reader import BlockReader
from fascicle.datatypes.imagetile.levels import Levels, checked_levels, factors, parse_levels
from fascicle.datatypes.imagetile.tiles import AXES, PLANES, TILES, tile_key
from fascicle.datatypes.voxel_requests import Triple, VolumeRequest, parse_integer
from fascicle.errors import BadRequest

Slices = NDArray[np.uint8]
Range = tuple[int, int]

TILE_SIDE = 512
"""Pixels along each side of a tile if nothing else is said."""
STACK_BYTES = 128 << 20
"""As many slices are worked on together as make about so much of one tile of every scale."""
TILE_SIDES = range(16, 4097)
MOST_TILES = 100_000
"""A request draws so many tiles at most."""
BATCH_BYTES = 4 << 20
"""So much of encoded tiles is stored in one transaction."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be drawn."""

    levels: Levels
    planes: tuple[str, ...]
    reader: BlockReader
    low: Triple
    """The first voxel of the source that is drawn, x, y, z."""
    high: Triple
    """The last one, inclusive."""
    extents: tuple[Triple, Triple]
    """First and last voxel of the source."""


def planned(call: Call) -> Plan:
    """What a request asks to be drawn. Raises BadRequest."""
    from fascicle.datatypes.image import settings as image_settings
    from fascicle.datatypes.image.endpoints import reader_of

    name = call.instance.properties["TilesOf"]
    if not name:
        raise BadRequest(f'imagetile "{call.instance.name}" was created without a Source, which this needs')
    source = call.catalog.instance(call.instance.repo_id, name)
    if source.typename != "uint8blk":
        raise BadRequest(f"tiles are drawn of uint8blk only, {name!r} is {source.typename}")
    version = call.node.id if source.versioned else call.catalog.repo(source.repo_id).root_version
    source_call = replace(call, instance=source, ancestry=call.catalog.ancestry(version))
    low, high = image_settings.points(source, source_call.view)
    if low is None or high is None:
        raise BadRequest(f"nothing can be drawn of {name!r}: it has no voxels at this version")
    extents = (low[0], low[1], low[2]), (high[0], high[1], high[2])
    first, last = _within(call, extents)
    levels = _levels(call, source.properties["VoxelSize"], extents)
    _check_tree(levels)
    return Plan(levels, _planes(call), reader_of(source_call), first, last, extents)


def _within(call: Call, extents: tuple[Triple, Triple]) -> tuple[Triple, Triple]:
    low, high = list(extents[0]), list(extents[1])
    for axis, letter in enumerate("xyz"):
        text = call.query.get(f"{letter}range")
        if text:
            parts = text.split(",")
            if len(parts) != 2:
                raise BadRequest(f"{letter}range must be the first and the last voxel like 0,99, not {text!r}")
            first, last = (parse_integer(part) for part in parts)
            low[axis], high[axis] = max(low[axis], first), min(high[axis], last)
        if low[axis] > high[axis]:
            raise BadRequest(f"{letter}range {text!r} has no voxels of the source")
    return (low[0], low[1], low[2]), (high[0], high[1], high[2])


def _levels(call: Call, voxel_size: list[float], extents: tuple[Triple, Triple]) -> Levels:
    """The levels of the body, or those that are set, or 2-fold ones up to where one tile shows everything."""
    if call.body.strip():
        return parse_levels(call.body)
    known: Levels = call.instance.properties["Levels"]
    if known:
        return known
    levels = {"0": {"Resolution": list(voxel_size), "TileSize": [TILE_SIDE] * 3}}
    side = TILE_SIDE
    # The grid of tiles begins at voxel 0, so what has to fit is all from there on.
    while any(a // side != b // side for a, b in zip(*extents, strict=True)) and len(levels) < 20:
        scale = len(levels)
        levels[str(scale)] = {
            "Resolution": [size * 2**scale for size in voxel_size],
            "TileSize": [TILE_SIDE] * 3,
        }
        side *= 2
    return checked_levels(levels)


def _planes(call: Call) -> tuple[str, ...]:
    text = call.query.get("planes", "xy;xz;yz")
    planes = tuple(dict.fromkeys(part.strip().lower() for part in text.replace(",", ";").split(";") if part.strip()))
    if not planes or any(plane not in PLANES for plane in planes):
        raise BadRequest(f"planes must be some of xy, xz and yz like xy;yz, not {text!r}")
    return planes


def _check_tree(levels: Levels) -> None:
    """Refuse levels whose tiles do not consist of whole tiles of the scale below."""
    for scale in range(len(levels)):
        size = levels[str(scale)]["TileSize"]
        if any(side not in TILE_SIDES for side in size):
            raise BadRequest(f"tiles are drawn with sides of {TILE_SIDES[0]} to {TILE_SIDES[-1]} pixels, not {size}")
        if scale == 0:
            continue
        if size != levels["0"]["TileSize"]:
            raise BadRequest(f"tiles can be drawn if all levels have one TileSize; that of level {scale} is {size}")
        steps = factors(levels, scale - 1, scale)
        if any(side % step for side, step in zip(size, steps, strict=True)):
            raise BadRequest(f"tiles of {size} pixels cannot be made of tiles {steps} times as fine")


class _Drawing:
    """Draws the tiles of one plane."""

    def __init__(self, plan: Plan, plane: str, put: Callable[[bytes, NDArray[np.uint8]], None]) -> None:
        self.plan = plan
        self.plane = plane
        self.put = put
        self.across, self.down, self.normal = AXES[plane]
        size = plan.levels["0"]["TileSize"]
        self.width, self.height = size[self.across], size[self.down]
        self.top = len(plan.levels) - 1
        """The coarsest scale."""
        self.grids = [self._grid(scale) for scale in range(len(plan.levels))]

    def _grid(self, scale: int) -> tuple[range, range]:
        """The rows and columns of the tiles of a scale that show something of what is drawn."""
        covered = factors(self.plan.levels, 0, scale)
        height, width = self.height * covered[self.down], self.width * covered[self.across]
        low, high = self.plan.low, self.plan.high
        rows = range(low[self.down] // height, high[self.down] // height + 1)
        return rows, range(low[self.across] // width, high[self.across] // width + 1)

    @property
    def tiles(self) -> int:
        """How many there are to draw."""
        slices = self.plan.high[self.normal] - self.plan.low[self.normal] + 1
        return slices * sum(len(rows) * len(columns) for rows, columns in self.grids)

    def run(self) -> None:
        rows, columns = self.grids[self.top]
        for stack in self._stacks():
            for row in rows:
                for column in columns:
                    self._tile(self.top, row, column, stack)

    def _stacks(self) -> Iterator[Range]:
        """First and last slices that are worked on together: layers of blocks, or less."""
        depth = self.plan.reader.layout.size_xyz[self.normal]
        depth = min(depth, max(1, STACK_BYTES // (self.width * self.height * (self.top + 1))))
        first, end = self.plan.low[self.normal], self.plan.high[self.normal]
        while first <= end:
            last = min(end, (first // depth + 1) * depth - 1)
            yield first, last
            first = last + 1

    def _tile(self, scale: int, row: int, column: int, stack: Range) -> Slices | None:
        """Draw a tile and all below it; its pixels [slice, row, column], or None outside of what is drawn."""
        rows, columns = self.grids[scale]
        if row not in rows or column not in columns:
            return None
        slices = stack[1] - stack[0] + 1
        pixels: Slices | None = None
        if scale == 0:
            pixels = self._read(row, column, stack)
        else:
            steps = factors(self.plan.levels, scale - 1, scale)
            right, down = steps[self.across], steps[self.down]
            height, width = self.height // down, self.width // right
            for i in range(down):
                for j in range(right):
                    part = self._tile(scale - 1, row * down + i, column * right + j, stack)
                    if part is not None:
                        if pixels is None:
                            pixels = np.zeros((slices, self.height, self.width), np.uint8)
                        reduced = _reduced(part, down, right)
                        pixels[:, i * height : (i + 1) * height, j * width : (j + 1) * width] = reduced
        if pixels is not None:
            for i in range(slices):
                self.put(tile_key(self.plane, scale, stack[0] + i, row, column), pixels[i])
        return pixels

    def _read(self, row: int, column: int, stack: Range) -> Slices:
        """A tile of the source [slice, row, column]; black outside of what is drawn."""
        start = [0, 0, 0]
        start[self.across], start[self.down], start[self.normal] = column * self.width, row * self.height, stack[0]
        size = [0, 0, 0]
        size[self.across], size[self.down], size[self.normal] = self.width, self.height, stack[1] - stack[0] + 1
        low = [max(a, b) for a, b in zip(start, self.plan.low, strict=True)]
        high = [min(a + s - 1, b) for a, s, b in zip(start, size, self.plan.high, strict=True)]
        extent = [b - a + 1 for a, b in zip(low, high, strict=True)]
        box = self.plan.reader.box(VolumeRequest((extent[0], extent[1], extent[2]), (low[0], low[1], low[2])))
        part = box.transpose(2 - self.normal, 2 - self.down, 2 - self.across)
        if tuple(extent) == tuple(size):
            return np.ascontiguousarray(part)
        pixels = np.zeros((size[self.normal], self.height, self.width), np.uint8)
        y, x = low[self.down] - start[self.down], low[self.across] - start[self.across]
        pixels[:, y : y + part.shape[1], x : x + part.shape[2]] = part
        return pixels


def _reduced(pixels: Slices, down: int, right: int) -> Slices:
    """Slices [slice, row, column] with each pixel the mean, rounded down, of `down` x `right` old ones."""
    if down == right == 1:
        return pixels
    slices, height, width = pixels.shape
    sums = np.zeros((slices, height // down, width // right), np.uint64 if down * right > 1 << 23 else np.uint32)
    for i in range(down):
        for j in range(right):
            sums += pixels[:, i::down, j::right]
    sums //= sums.dtype.type(down * right)
    return sums.astype(np.uint8)


def run(call: Call, plan: Plan, encode: Callable[[NDArray[np.uint8], str, int], bytes]) -> int:
    """Draw and store everything; how many tiles. What is stored before an error stays, and may be drawn again."""
    properties = call.instance.properties
    waiting: list[tuple[bytes, bytes]] = []
    waiting_bytes = count = 0

    def flush() -> None:
        nonlocal waiting, waiting_bytes
        batch = waiting

        def apply(change: Change) -> None:
            view = change.view
            for key, value in batch:
                view.put(TILES, key, value)

        if batch:
            call.commit(apply)
        waiting, waiting_bytes = [], 0

    def put(key: bytes, pixels: NDArray[np.uint8]) -> None:
        nonlocal waiting_bytes, count
        encoded = encode(pixels, properties["Format"], properties["Quality"])
        waiting.append((key, encoded))
        waiting_bytes += len(encoded)
        count += 1
        if waiting_bytes >= BATCH_BYTES:
            flush()

    drawings = [_Drawing(plan, plane, put) for plane in plan.planes]
    total = sum(drawing.tiles for drawing in drawings)
    if total > MOST_TILES:
        raise BadRequest(f"{total} tiles are more than the {MOST_TILES} of one request: draw ranges one after another")
    size = plan.levels["0"]["TileSize"]
    low, high = ([point[axis] // size[axis] for axis in range(3)] for point in plan.extents)
    call.commit(lambda change: change.update_instance(Levels=plan.levels, MinTileCoord=low, MaxTileCoord=high))
    for drawing in drawings:
        drawing.run()
    flush()
    return count
