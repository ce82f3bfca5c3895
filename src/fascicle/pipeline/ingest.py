"""Ingest: a volume from files into an instance, in bounded memory, resumable, with its coarser scales.

A volume is cut into units of whole blocks. Each is read, posted as dense voxels, and noted in a journal once the server
has it, so an ingest that was stopped goes on where it was; a unit that was posted but not noted is posted again, which
changes nothing. Coarser scales of images are made from what was stored, unit by unit, as instances `<name>_1`,
`<name>_2`, ...; label maps make theirs themselves.
"""

from __future__ import annotations

import hashlib
import queue
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lz4.block
import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray

from fascicle.pipeline.ingest_connections import Body, Connection, IngestError
from fascicle.pipeline.ingest_mapping import bodies_of, mapping_messages, read_mapping
from fascicle.pipeline.ingest_options import LAYER_SHARE, IngestOptions
from fascicle.pipeline.ingest_plan import Box, aligned, box_between, clipped, coarser_scales, halved, past, tiling
from fascicle.pipeline.ingest_thin import make_thin, thin_units
from fascicle.pipeline.journal import Journal
from fascicle.pipeline.version_choice import choose_version, make_repo
from fascicle.volumes import VolumeSource

Voxels = NDArray[Any]
Progress = Callable[[str, int, int], None]
"""Called with a stage, how many voxels of it (of a mapping: messages) are done, and how many there are."""

IMAGE_DTYPES: dict[str, np.dtype[Any]] = {
    "uint8blk": np.dtype("u1"),
    "uint16blk": np.dtype("<u2"),
    "uint32blk": np.dtype("<u4"),
    "uint64blk": np.dtype("<u8"),
    "float32blk": np.dtype("<f4"),
}
LABELS = "labelmap"
TYPENAMES = (LABELS, *IMAGE_DTYPES)
SAMPLED = 8
"""One unit of so many, and the last one, is read back at the end."""


@dataclass(frozen=True, slots=True)
class IngestSummary:
    """What was done."""

    node: str
    instance: str
    typename: str
    box: Box
    scales: int
    posted_voxels: int
    seconds: float
    repo_root: str


def ingest(
    connection: Connection, source: VolumeSource, options: IngestOptions, journal_path: Path, progress: Progress
) -> IngestSummary:
    """Bring a volume into an instance, or what is still missing of it. Raises IngestError or VolumeError."""
    started = time.monotonic()
    work = _Ingest(connection, source, options, progress)
    work.begin(journal_path)
    try:
        work.run()
    finally:
        work.journal.close()
    return IngestSummary(
        work.node,
        options.instance,
        work.typename,
        work.box,
        work.scales,
        work.posted,
        time.monotonic() - started,
        work.root,
    )


class _Ingest:
    """One ingest while it runs."""

    journal: Journal

    def __init__(
        self, connection: Connection, source: VolumeSource, options: IngestOptions, progress: Progress
    ) -> None:
        self.connection = connection
        self.source = source
        self.options = options
        self.progress = progress
        self.posted = 0
        self._layer: tuple[Box, Voxels] | None = None
        self.typename = options.typename or _typename_for(source.dtype)
        if self.typename not in TYPENAMES:
            raise IngestError(f"the type {self.typename!r} is none of {', '.join(TYPENAMES)}")
        self.dtype = _target_dtype(self.typename, source)
        if options.keep_thin and self.typename != LABELS:
            raise IngestError(f"thin neurites are kept in a labelmap, not in a {self.typename}")
        if options.mapping and self.typename != LABELS:
            raise IngestError(f"a mapping belongs to a labelmap, not to a {self.typename}")
        self.table = read_mapping(options.mapping, source) if options.mapping else np.zeros((0, 2), np.uint64)
        offset = options.offset_xyz or source.offset_xyz
        depth, height, width = source.shape_zyx
        self.box = Box((width, height, depth), offset)

    # -- beginning

    def begin(self, journal_path: Path) -> None:
        """Find or make repo and instance, and open the journal."""
        options, connection = self.options, self.connection
        self.node, self.root = _find_node(connection, options)
        if connection.json("GET", f"/api/node/{self.node}/status").get("Locked"):
            raise IngestError(f"version {self.node} is committed and cannot be changed: ingest into a child of it")
        info = self._instance_info(options.instance)
        self.block = options.block_size if info is None else _cube(info, options.instance)
        wanted = coarser_scales(self.box, self.block) if options.scales is None else options.scales
        self.scales = wanted if info is None or self.typename != LABELS else info["Extended"]["MaxDownresLevel"]
        if self.typename == LABELS:
            self.scales = max(1, self.scales)
        limit = options.unit_bytes
        self.tiling = tiling(self.box, self.block, max(self.dtype.itemsize, self.source.dtype.itemsize), limit)
        self.limit_bytes = limit
        header = {
            "source": self.source.name,
            "shape": list(self.source.shape_zyx),
            "type": self.typename,
            "node": self.node,
            "instance": options.instance,
            "offset": list(self.box.offset_xyz),
            "block": self.block,
            "unit": list(self.tiling.unit_xyz),
            "scales": self.scales,
            "mapping": options.mapping,
            **({"keep_thin": True} if options.keep_thin else {}),
        }
        self.journal = Journal(journal_path, header)

    def _instance_info(self, name: str) -> dict[str, Any] | None:
        repo = self.connection.json("GET", f"/api/repo/{self.node}/info")
        if name not in repo["DataInstances"]:
            return None
        info: dict[str, Any] = self.connection.json("GET", f"/api/node/{self.node}/{name}/info")
        found = info["Base"]["TypeName"]
        if found != self.typename:
            raise IngestError(f"instance {name!r} exists and is a {found}, not a {self.typename}")
        return info

    def _instance(self, scale: int) -> tuple[str, dict[str, Any]]:
        """The name of the instance of a scale, which is made if need be, and what was there before this ingest."""
        name = self.options.instance + (f"_{scale}" if scale else "")
        step = f"instance {name}"
        if step not in self.journal.done:
            info = self._instance_info(name)
            if info is None:
                self.connection.request("POST", f"/api/repo/{self.node}/instance", self._settings(name, scale))
                before: dict[str, Any] = {"fresh": True}
            else:
                if _cube(info, name) != self.block:
                    raise IngestError(f"instance {name!r} has blocks of another size than {self.block}")
                before = {"fresh": False, "extents": info["Extents"]}
            self.journal.add(step, before)
        return name, self.journal.done[step]

    def _settings(self, name: str, scale: int) -> bytes:
        import msgspec

        resolution = self.options.resolution_nm or self.source.resolution_nm or (8, 8, 8)
        block = str(self.block)
        settings = {
            "typename": self.typename,
            "dataname": name,
            "BlockSize": ",".join((block, block, block)),
            "VoxelSize": ",".join(f"{edge * 2**scale:g}" for edge in resolution),
            "VoxelUnits": "nanometers,nanometers,nanometers",
        }
        if self.options.compression:
            settings["Compression"] = self.options.compression
        if self.typename == LABELS:
            settings["MaxDownresLevel"] = str(self.scales)
        return msgspec.json.encode(settings)

    # -- steps

    def run(self) -> None:
        """All steps that are not done yet."""
        name, before = self._instance(0)
        if len(self.table) and "mapping" not in self.journal.done:
            self._post_mapping(name)
        self._post_units(name, before)
        self._post_extents(name, before, self.box)
        if self.typename != LABELS:
            box = self.box
            for scale in range(1, self.scales + 1):
                box = self._make_scale(scale, box)
        elif self.options.keep_thin:
            self._thin_scales(name)
        if self.options.sample:
            self._check_sample(name)

    def _post_mapping(self, name: str) -> None:
        """The table goes first: then every body has its voxels as soon as they are written."""
        messages = list(mapping_messages(self.table))
        for i, message in enumerate(messages):
            self.connection.request("POST", f"/api/node/{self.node}/{name}/mappings", message)
            self.progress("mapping", i + 1, len(messages))
        largest = int(self.table.max())
        path = self.connection.privileged(f"/api/node/{self.node}/{name}/maxlabel/{largest}")
        self.connection.request("POST", path)
        self.journal.add("mapping")

    def _post_units(self, name: str, before: dict[str, Any]) -> None:
        units = list(self.tiling.units())
        missing = deque(unit for unit in units if _step(0, unit) not in self.journal.done)
        total = sum(unit.voxels for unit in units)
        done = total - sum(unit.voxels for unit in missing)
        self.progress(name, done, total)
        with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(self.options.workers) as posters, ExitStack() as stack:
            lines: queue.SimpleQueue[Connection] = queue.SimpleQueue()
            lines.put(self.connection)
            for _ in range(self.options.workers - 1):
                lines.put(stack.enter_context(closing(self.connection.another())))

            def post(unit: Box, part: Box, voxels: Voxels) -> tuple[Box, Box, int]:
                line = lines.get()
                try:
                    self._write(line, name, before, unit, part, voxels)
                finally:
                    lines.put(line)
                return unit, part, _crc(voxels)

            ahead = reader.submit(self._read, missing[0]) if missing else None
            running: set[Future[tuple[Box, Box, int]]] = set()
            while ahead is not None or running:
                if ahead is not None and len(running) < self.options.workers:
                    part, voxels = ahead.result()
                    running.add(posters.submit(post, missing.popleft(), part, voxels))
                    del voxels
                    ahead = reader.submit(self._read, missing[0]) if missing else None
                    if ahead is not None and len(running) < self.options.workers:
                        continue
                ended, running = wait(running, return_when=FIRST_COMPLETED)
                for future in ended:
                    unit, part, crc = future.result()
                    self.posted += part.voxels
                    self.journal.add(_step(0, unit), crc)
                    done += unit.voxels
                    self.progress(name, done, total)

    def _thin_scales(self, name: str) -> None:
        """Put coarser voxels that keep thin neurites in place of those that the label map has made."""
        units = list(thin_units(self.box, self.scales, self.block, self.limit_bytes))
        done, total = 0, sum(unit.voxels for _, unit in units)
        for scale, unit in units:
            step = f"thin {_step(scale, unit)}"
            if step not in self.journal.done:
                make_thin(self.connection, f"/api/node/{self.node}/{name}", scale, unit, self.block)
                self.journal.add(step)
            done += unit.voxels
            self.progress("thin scales", done, total)

    def _check_sample(self, name: str) -> None:
        """Read some units back and compare their checksums with those of what was posted."""
        if self.options.compression.startswith("jpeg") or "checked" in self.journal.done:
            return
        units = list(self.tiling.units())
        chosen = [unit for i, unit in enumerate(units) if i % SAMPLED == 0 or i == len(units) - 1]
        info = self.connection.json("GET", f"/api/node/{self.node}/{name}/info")
        if info["Base"]["Compression"].startswith("jpeg"):
            return
        done, total = 0, sum(unit.voxels for unit in chosen)
        for unit in chosen:
            part, expected = clipped(unit, self.box), self.journal.done[_step(0, unit)]
            assert part is not None
            if expected is not None and _crc(self.stored(name, part)) != expected:
                raise IngestError(f"the server has other voxels than were posted in the {part}")
            done += unit.voxels
            self.progress("checking", done, total)
        self.journal.add("checked")

    def _read(self, unit: Box) -> tuple[Box, Voxels]:
        """The source's voxels in a unit, and the box they fill."""
        part = clipped(unit, self.box)
        assert part is not None
        layer = box_between((*self.box.offset_xyz[:2], part.offset_xyz[2]), (*past(self.box)[:2], past(part)[2]))
        layer_bytes = layer.voxels * self.source.dtype.itemsize
        if layer.voxels > part.voxels and layer_bytes <= self.options.voxel_bytes // LAYER_SHARE:
            # units beside each other share planes, and most sources can only decode whole ones
            if self._layer is None or self._layer[0] != layer:
                self._layer = None
                self._layer = layer, read_source(self.source, self.box, layer)
            voxels = self._layer[1][_slices(part, layer)]
        else:
            voxels = read_source(self.source, self.box, part)
        return part, _converted(voxels, self.dtype, self.source.name)

    def _write(
        self, connection: Connection, name: str, before: dict[str, Any], unit: Box, part: Box, voxels: Voxels
    ) -> None:
        """Post a unit; what `part` leaves free keeps the voxels of an instance that was there before."""
        if part != unit:
            if before["fresh"]:
                whole = np.zeros(unit.shape_zyx, self.dtype)
            else:
                whole = self.stored(name, unit, connection).copy()
            whole[_slices(part, unit)] = voxels
            voxels = whole
        body: Body = np.ascontiguousarray(voxels).data.cast("B")
        path = f"{_raw_path(self.node, name, unit)}?mutate=true"
        if self.typename == LABELS:
            body, path = lz4.block.compress(body, store_size=False), f"{path}&compression=lz4"
        connection.request("POST", path, body)

    def stored(self, name: str, box: Box, connection: Connection | None = None) -> Voxels:
        """What the server has in a box, supervoxels for labels: [z, y, x]."""
        option = "?supervoxels=true" if self.typename == LABELS else ""
        data = (connection or self.connection).request("GET", _raw_path(self.node, name, box) + option)
        return np.frombuffer(data, self.dtype).reshape(box.shape_zyx)

    def _post_extents(self, name: str, before: dict[str, Any], box: Box) -> None:
        """The server has grown the extents to whole blocks; they should end where the volume ends."""
        step = f"extents {name}"
        if step in self.journal.done:
            return
        low, high = list(box.offset_xyz), list(box.end_xyz)
        extents = before.get("extents")
        if extents and extents["MinPoint"] is not None and extents["MaxPoint"] is not None:
            low = [min(a, b) for a, b in zip(low, extents["MinPoint"], strict=True)]
            high = [max(a, b) for a, b in zip(high, extents["MaxPoint"], strict=True)]
        self.connection.json("POST", f"/api/node/{self.node}/{name}/extents", {"MinPoint": low, "MaxPoint": high})
        self.journal.add(step)

    def is_alone(self) -> bool:
        """Whether the instance's extents are those of this volume."""
        extents = self.connection.json("GET", f"/api/node/{self.node}/{self.options.instance}/info")["Extents"]
        found = extents["MinPoint"], extents["MaxPoint"]
        return found == (list(self.box.offset_xyz), list(self.box.end_xyz))

    # -- coarser scales of images

    def _make_scale(self, scale: int, finer: Box) -> Box:
        """Fill the instance of a scale from the next finer one, which has the voxels of `finer`; its own box."""
        finer_name = self.options.instance + (f"_{scale - 1}" if scale > 1 else "")
        name, before = self._instance(scale)
        box = halved(finer)
        units = list(tiling(box, self.block, 8 * self.dtype.itemsize, self.limit_bytes).units())
        done, total = 0, sum(unit.voxels for unit in units)
        for unit in units:
            step = _step(scale, unit)
            if step not in self.journal.done:
                part = clipped(unit, box)
                assert part is not None
                self._write(self.connection, name, before, unit, part, self._averaged(finer_name, finer, part))
                self.journal.add(step)
            done += unit.voxels
            self.progress(name, done, total)
        self._post_extents(name, before, box)
        return box

    def _averaged(self, finer_name: str, finer: Box, part: Box) -> Voxels:
        """The voxels of a box from those of the next finer scale. Where only some of the eight exist, these count."""
        (x, y, z), (ex, ey, ez) = part.offset_xyz, past(part)
        wanted = box_between((2 * x, 2 * y, 2 * z), (2 * ex, 2 * ey, 2 * ez))
        there = clipped(wanted, finer)
        assert there is not None
        voxels = self.stored(finer_name, there)
        margins = [
            (a - b, d - c)
            for a, b, c, d in zip(
                there.offset_xyz[::-1], wanted.offset_xyz[::-1], past(there)[::-1], past(wanted)[::-1], strict=True
            )
        ]
        return average_of_eight(np.pad(voxels, margins, mode="edge"))


def average_of_eight(voxels_zyx: Voxels) -> Voxels:
    """Half the size on each axis, which must be even: means of 2 x 2 x 2 voxels, of integers rounded with halves up."""
    depth, height, width = voxels_zyx.shape
    eight = voxels_zyx.reshape(depth // 2, 2, height // 2, 2, width // 2, 2)
    corners = [eight[:, dz, :, dy, :, dx] for dz in (0, 1) for dy in (0, 1) for dx in (0, 1)]
    kind = voxels_zyx.dtype.type
    if voxels_zyx.dtype.kind == "f":
        return np.asarray(np.mean(corners, axis=0, dtype=np.float64), voxels_zyx.dtype)
    # eighths and remainders are summed apart, so that the voxels' own type is wide enough
    eighths = np.zeros(corners[0].shape, voxels_zyx.dtype)
    rests = np.full(corners[0].shape, 4, voxels_zyx.dtype)
    for corner in corners:
        eighths += corner >> kind(3)
        rests += corner & kind(7)
    eighths += rests >> kind(3)
    return eighths


def read_source(source: VolumeSource, box: Box, part: Box) -> Voxels:
    """The voxels [z, y, x] of `part`, if the source's array fills `box`."""
    start = [a - b for a, b in zip(part.offset_xyz, box.offset_xyz, strict=True)]
    stop = [a + b for a, b in zip(start, part.size_xyz, strict=True)]
    return source.read((start[2], start[1], start[0]), (stop[2], stop[1], stop[0]))


# -- verifying


def verify(
    connection: Connection, source: VolumeSource, options: IngestOptions, node: str, progress: Progress
) -> list[str]:
    """Read everything back and compare it with the source: a line for each difference.

    All voxels of the finest scale are compared, and the size of every body if the instance holds nothing else.
    """
    work = _Ingest(connection, source, options, progress)
    work.node = node
    info = connection.json("GET", f"/api/node/{node}/{options.instance}/info")
    if info["Base"]["Compression"].startswith("jpeg"):
        raise IngestError(f"instance {options.instance!r} stores JPEGs, whose voxels differ a little from the source")
    wrong: list[str] = []
    counts: list[tuple[NDArray[np.uint64], NDArray[np.int64]]] = []
    limit = options.unit_bytes
    units = list(tiling(work.box, options.block_size, max(work.dtype.itemsize, source.dtype.itemsize), limit).units())
    done, total = 0, sum(unit.voxels for unit in units)
    for unit in units:
        part, voxels = work._read(unit)
        stored = work.stored(options.instance, part)
        different = int(np.count_nonzero(stored != voxels))
        if different:
            wrong.append(f"{different} voxels differ in the {part}")
        if work.typename == LABELS:
            supervoxels, number = np.unique(voxels, return_counts=True)
            counts.append((bodies_of(work.table, supervoxels.astype(np.uint64)), number))
        done += unit.voxels
        progress("verifying", done, total)
    if work.typename == LABELS and work.is_alone():
        wrong += _wrong_sizes(work, counts)
    return wrong


def _wrong_sizes(work: _Ingest, counts: list[tuple[NDArray[np.uint64], NDArray[np.int64]]]) -> Iterator[str]:
    every = np.concatenate([bodies for bodies, _ in counts])
    bodies, which = np.unique(every, return_inverse=True)
    sizes = np.bincount(which, np.concatenate([number for _, number in counts]), len(bodies)).astype(np.int64)
    sizes, bodies = sizes[bodies != 0], bodies[bodies != 0]
    for start in range(0, len(bodies), 10_000):
        asked, expected = bodies[start : start + 10_000].tolist(), sizes[start : start + 10_000].tolist()
        found = work.connection.json("GET", f"/api/node/{work.node}/{work.options.instance}/sizes", asked)
        for body, size, other in zip(asked, expected, found, strict=True):
            if size != other:
                yield f"body {body} has {other} voxels instead of {size}"


# -- parts


def _find_node(connection: Connection, options: IngestOptions) -> tuple[str, str]:
    """The reference of the version to write to, and the root of its repo."""
    found = choose_version(connection, options.uuid, options.repo)
    if found is None:
        found = make_repo(connection, options.repo, f"made by an ingest of {options.instance}")
    return found.node, found.root


def _typename_for(dtype: np.dtype[Any]) -> str:
    """Bytes, 16-bit numbers and floating point numbers are images; wider integers are labels."""
    names = {"uint8": "uint8blk", "uint16": "uint16blk", "float32": "float32blk"}
    if dtype.kind in "iu" and dtype.itemsize >= 4:
        return LABELS
    if dtype.name not in names:
        raise IngestError(f"voxels of {dtype.name} need a --type: one of {', '.join(TYPENAMES)}")
    return names[dtype.name]


def _target_dtype(typename: str, source: VolumeSource) -> np.dtype[Any]:
    if typename == LABELS:
        if source.dtype.kind not in "iu":
            raise IngestError(f"{source.name} has voxels of {source.dtype.name}, which cannot be labels")
        return np.dtype("<u8")
    target = IMAGE_DTYPES[typename]
    if not np.can_cast(source.dtype, target, "safe"):
        raise IngestError(f"{source.name} has voxels of {source.dtype.name}, which do not fit into a {typename}")
    return target


def _converted(voxels: Voxels, dtype: np.dtype[Any], name: str) -> Voxels:
    if voxels.dtype.kind == "i" and dtype.kind == "u" and voxels.size and voxels.min() < 0:
        raise IngestError(f"{name} has the negative label {voxels.min()}")
    return voxels.astype(dtype, copy=False)


def _cube(info: dict[str, Any], name: str) -> int:
    x, y, z = info["Extended"]["BlockSize"]
    if not x == y == z:
        raise IngestError(f"instance {name!r} has blocks of {x} x {y} x {z} voxels; they must be cubes")
    return int(x)


def _crc(voxels: Voxels) -> int:
    """The CRC-32 of the voxels' bytes in C order."""
    value: int = isal_zlib.crc32(np.ascontiguousarray(voxels).data.cast("B"))
    return value


def _step(scale: int, unit: Box) -> str:
    return f"scale {scale} box {' '.join(map(str, (*unit.offset_xyz, *unit.size_xyz)))}"


def _raw_path(node: str, name: str, box: Box) -> str:
    return f"/api/node/{node}/{name}/raw/0_1_2/{'_'.join(map(str, box.size_xyz))}/{'_'.join(map(str, box.offset_xyz))}"


def _slices(part: Box, whole: Box) -> tuple[slice, slice, slice]:
    """Where a part lies in the array [z, y, x] of the whole."""
    z, y, x = (a - b for a, b in zip(part.offset_zyx, whole.offset_zyx, strict=True))
    dz, dy, dx = part.shape_zyx
    return slice(z, z + dz), slice(y, y + dy), slice(x, x + dx)


__all__ = [
    "IngestOptions",
    "IngestSummary",
    "Progress",
    "aligned",
    "average_of_eight",
    "ingest",
    "read_source",
    "verify",
]


def journal_name(source: tuple[str, ...], server: str, options: IngestOptions) -> str:
    """A file name for the journal of an ingest, another one for each source and target."""
    places = [str(Path(name).absolute()) if "://" not in name else name for name in source]
    parts = [*sorted(places), server, options.uuid, options.repo, options.instance]
    digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]
    return f"ingest-{options.instance}-{digest}.jsonl"
