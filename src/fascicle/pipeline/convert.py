"""Convert: from any source straight to a static precomputed volume with all its scales, in bounded memory.

A volume is taken in layers, as thick as the chunks of its finest scale. The bricks of a layer (rows of chunks) are
encoded by threads, and each gives its part to a layer of the next scale, which is taken apart in the same way when it
is full. So everything is read and encoded once. Layers lie in memory if they fit, else in scratch files; those of
coarser scales always have a file, so that a job that was killed goes on where it was.

What is written is noted with its checksum, read back at the end, and only then named in `info`.
"""

from __future__ import annotations

import hashlib
import math
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from fascicle.errors import BadRequest, FascicleError
from fascicle.formats import precomputed_info
from fascicle.formats.precomputed_info import Scale, VolumeInfo
from fascicle.pipeline.chunk_writing import ChunkWriter, FileWriter, Records, ShardedWriter, crc32
from fascicle.pipeline.convert_plan import ConvertOptions, Level, adapted, plan_levels, planned
from fascicle.pipeline.journal import Journal
from fascicle.pipeline.tasks import usual_workers
from fascicle.pipeline.voxel_boxes import LABELS, MAJORITY, MEAN, SCALINGS, THIN, Box, Room, Triple, coarsen
from fascicle.pipeline.voxel_layers import Layer, resident_bytes
from fascicle.volumes.adapted import Adaptation
from fascicle.volumes.base import Pyramid
from fascicle.volumes.destinations import JSON, Destination, open_destination

if TYPE_CHECKING:
    from fascicle.pipeline.sources import SourceSpec

Progress = Callable[[str, int, int], None]
"""Called with a stage, how many voxels of it are done, and how many there are."""
SAMPLED = 16
"""One chunk in so many is decoded at the end."""


class ConvertError(FascicleError):
    """There is something else where a volume should go."""


@dataclass(frozen=True, slots=True)
class ConvertResult:
    """What is at the destination."""

    destination: str
    info: VolumeInfo
    voxels: int
    """Of all scales."""
    chunks: int
    """That are not blank."""
    stored_bytes: int
    seconds: float
    verified: str
    """`checksums` or `all voxels`."""


def convert(
    source: SourceSpec, destination: str, options: ConvertOptions | None = None, progress: Progress | None = None
) -> ConvertResult:
    """Write a source as a precomputed volume, or what is still missing of it.

    Raises VolumeError and BadRequest for what cannot be read, written or wanted, Incomplete if the result is not whole.

    Example: `convert(SourceSpec(address="slices"), "out", ConvertOptions(kind="segmentation"))`
    """
    if source.data:
        from fascicle.pipeline.sources import pinned

        source = pinned(source)
    with source.open() as pyramid:
        job = _Conversion(pyramid, str(source), destination, options or ConvertOptions(), progress or _silent)
        try:
            return job.run()
        finally:
            job.close()


def _silent(stage: str, done: int, total: int) -> None:
    pass


class _Conversion:
    """One conversion while it runs."""

    _journal: Journal
    _records: Records

    def __init__(
        self, pyramid: Pyramid, name: str, destination: str, options: ConvertOptions, progress: Progress
    ) -> None:
        self._started = time.monotonic()
        self._options = options
        self._progress = progress
        self._name = name
        self._workers = options.workers or usual_workers()
        self._source, kind = adapted(pyramid, options)
        self.info = planned(self._source, kind, options)
        of_labels = MAJORITY if options.scales.as_neuroglancer_scripts else LABELS
        self._scaling = options.scaling or (of_labels if kind == "segmentation" else MEAN)
        if self._scaling not in SCALINGS:
            raise BadRequest(f"the scaling {self._scaling!r} is none of {', '.join(SCALINGS)}")
        if self._scaling != MEAN and self._source.dtype.kind not in "iu":
            raise BadRequest(f"scales of {self._source.dtype.name} can only be made with {MEAN}")
        if self._scaling == THIN and any(edge % 8 for scale in self.info.scales for edge in scale.chunk_sizes[0]):
            raise BadRequest(f"the scaling {THIN} needs chunks of multiples of 8 voxels: give them with --chunk")
        self._destination = open_destination(destination, durable=False)
        chunk, shape = self._source.chunk_zyx, self._source.shape_zyx
        self._in_boxes = chunk[1] < shape[1] or chunk[2] < shape[2]
        self.levels = plan_levels(self.info, chunk, self._in_boxes)
        self._reading = threading.Lock()
        self._noting = threading.Lock()
        self._scratch = Room()
        self._writers: list[ChunkWriter] = []
        self._layers: list[Layer] = []
        self._noted = [0] * len(self.levels)
        """Records of a scale before this byte of their file are those of shards that are written."""
        self._done = 0
        self._total = sum(math.prod(level.scale.size) for level in self.levels)
        self._pool = ThreadPoolExecutor(self._workers)
        self._open()

    # -- beginning and end

    def _open(self) -> None:
        """The journal, and what it says is there."""
        options = self._options
        path = Path(options.journal) if options.journal else journal_path(self._destination.address)
        self._folder = Path(options.scratch) / path.stem if options.scratch else path.with_suffix(".scratch")
        header = {
            "job": "convert",
            "source": self._name,
            "shape": list(self._source.shape_zyx),
            "destination": self._destination.address,
            "info": precomputed_info.document(self.info),
            "scaling": self._scaling,
            "adaptation": _digest(options.adaptation),
            "files": [options.gzip, options.nested, options.all_chunks],
            "boot": _boot(),
        }
        if not path.exists() or not self._goes_on(path, header):
            if not options.overwrite and self._destination.folder.exists("info"):
                raise ConvertError(f"{self._destination.address} has a volume already; replace it with --overwrite")
            path.unlink(missing_ok=True)
            shutil.rmtree(self._folder, ignore_errors=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._journal = Journal(path, header)
        if "finished" in self._journal.done:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        if "begun" not in self._journal.done:
            remove_volume(self._destination)
            self._journal.add("begun")
        for level in self.levels:
            self._destination.tidy(level.scale.key)
        self._records = Records(self._folder / "records", max(self._lengths(), default=0))
        separator = "/" if options.nested else "_"
        for level in self.levels:
            if level.scale.sharding is not None:
                self._writers.append(ShardedWriter(self._destination, level.scale, self._folder))
            else:
                gzip = options.gzip and level.scale.encoding not in ("jpeg", "png")
                self._writers.append(FileWriter(self._destination, level.scale, gzip, separator))

    def _goes_on(self, path: Path, header: dict[str, Any]) -> bool:
        """Whether a journal tells of what is still there. What was not on disk when the machine went down is not."""
        try:
            first = msgspec.json.decode(path.read_bytes().split(b"\n", 1)[0])
        except (msgspec.DecodeError, OSError):
            return False
        if not isinstance(first, dict) or first.get("boot") != header["boot"]:
            return False
        finished = b'\n{"step":"finished"' in path.read_bytes()
        if first == header:
            return self._destination.folder.exists("info") if finished else self._folder.is_dir()
        return not finished  # opening it says what differs

    def _lengths(self) -> list[int]:
        return [kept for step, kept in self._journal.done.items() if step.startswith("brick ")]

    def close(self) -> None:
        """Let go of files and threads."""
        self._pool.shutdown(cancel_futures=True)
        for writer in self._writers:
            writer.close()
        for layer in self._layers:
            layer.close()
        if hasattr(self, "_records"):
            self._records.close()
        self._journal.close()

    def run(self) -> ConvertResult:
        """All steps that are not done yet."""
        if "finished" in self._journal.done:
            return self._result(*self._journal.done["finished"])
        self._load_kernels()
        self._make_layers()
        self._progress("converting", 0, self._total)
        for layer in range(self.levels[0].layers):
            self._advance(0, layer)
        for kept in self._layers:
            kept.close()
        self._layers.clear()
        from fascicle.pipeline.convert_checks import check_written

        written = (self._destination, self.info, self._writers, self._records, self._shards())
        chunks, stored = check_written(*written, self._pool, self._progress)
        if self._options.verify:
            self._compare_all()
        self._destination.put("info", precomputed_info.encode(self.info), JSON, caching="no-cache")
        verified = "all voxels" if self._options.verify else "checksums"
        self._journal.add("finished", [chunks, stored, verified])
        shutil.rmtree(self._folder, ignore_errors=True)
        return self._result(chunks, stored, verified)

    def _result(self, chunks: int, stored: int, verified: str) -> ConvertResult:
        seconds = time.monotonic() - self._started
        return ConvertResult(self._destination.address, self.info, self._total, chunks, stored, seconds, verified)

    def _shards(self) -> dict[str, Any]:
        """What the journal knows of shards: name, bytes and checksum of each by its step."""
        return {step: kept for step, kept in self._journal.done.items() if step.startswith("shard ") and kept}

    # -- memory

    def _make_layers(self) -> None:
        """Room for a layer of each scale, in memory or in scratch files."""
        dtype = self._source.dtype
        shapes = [(min(level.thickness, level.shape_zyx[0]), *level.shape_zyx[1:]) for level in self.levels]
        sizes = [math.prod(shape) * dtype.itemsize for shape in shapes]
        if self._in_boxes:
            sizes[0] = self._workers * self.levels[0].rows * self.levels[0].columns * shapes[0][0] * dtype.itemsize
        free = self._options.memory_bytes - resident_bytes() - self._workers * (8 << 20)
        fits = sum(sizes[:2]) <= free
        if self._in_boxes:
            self._layers.append(Layer((0, 0, 0), dtype))
        else:
            self._layers.append(Layer(shapes[0], dtype, None if fits else self._folder / "layer-0", mapped=False))
        for index in range(1, len(self.levels)):
            self._layers.append(Layer(shapes[index], dtype, self._folder / f"layer-{index}", mapped=fits))

    def _relieve(self) -> None:
        """Give back the memory of layers that files keep."""
        for layer in self._layers:
            layer.release()

    # -- steps

    def _each(self, work: Callable[..., None], arguments: Sequence[tuple[Any, ...]]) -> None:
        """Do some work by all threads; the first failure ends it."""
        if len(arguments) == 1 or self._workers == 1:
            for one in arguments:
                work(*one)
            return
        futures: list[Future[None]] = [self._pool.submit(work, *one) for one in arguments]
        done, waiting = wait(futures, return_when=FIRST_EXCEPTION)
        for future in waiting:
            future.cancel()
        wait(waiting)
        for future in done:
            future.result()

    def _advance(self, index: int, layer: int) -> None:
        """Take a layer of a scale apart, then those of coarser scales that it fills."""
        level = self.levels[index]
        planes = level.planes(layer)
        bricks = [(i, brick) for i, brick in enumerate(level.bricks())]
        missing = [(level, layer, i, brick) for i, brick in bricks if _brick(index, layer, i) not in self._journal.done]
        if missing and index == 0 and not self._in_boxes:
            self._read_layer(planes)
        area = level.shape_zyx[1] * level.shape_zyx[2]
        self._count(len(planes) * (area - sum((b - a) * (d - c) for *_, (a, b, c, d) in missing)))
        self._each(self._do_brick, missing)
        self._relieve()
        self._finish_shards(level, planes.stop)
        if index + 1 < len(self.levels):
            coarser = self.levels[index + 1]
            filled = -(-planes.stop // level.halved[0])
            if filled % coarser.thickness == 0 or filled == coarser.shape_zyx[0]:
                self._advance(index + 1, (filled - 1) // coarser.thickness)

    def _count(self, voxels: int) -> None:
        self._done += voxels
        self._progress("converting", self._done, self._total)

    def _read_layer(self, planes: range) -> None:
        """Fill the finest layer from the source, plane by plane."""
        target = self._layers[0]
        step = self._source.chunk_zyx[0]
        if not self._source.concurrent:
            # one thread reads; groups let memory go in between
            step = max(step, 8)
        groups = []
        at = planes.start
        while at < planes.stop:
            end = min(planes.stop, (at // step + 1) * step)
            groups.append((at, end))
            at = end

        def read(start: int, stop: int) -> None:
            if target.voxels is not None:
                self._source.read_into((start, 0, 0), target.voxels[start - planes.start : stop - planes.start])
            else:
                voxels = self._scratch.voxels_for((stop - start, *target.shape_zyx[1:]), target.dtype)
                self._source.read_into((start, 0, 0), voxels)
                target.put((start - planes.start, 0, 0), voxels)

        if self._source.concurrent:
            self._each(read, groups)
        else:
            for group in groups:
                read(*group)

    def _voxels_of(self, level: Level, layer: int, brick: tuple[int, int, int, int]) -> Box:
        """The voxels of a brick, in its layer or in the room of this thread."""
        y0, y1, x0, x1 = brick
        planes = level.planes(layer)
        shape = (len(planes), y1 - y0, x1 - x0)
        kept = self._layers[level.index]
        if kept.voxels is not None and not (level.index == 0 and self._in_boxes):
            width, area = kept.shape_zyx[2], kept.shape_zyx[1] * kept.shape_zyx[2]
            return Box(kept.flat, y0 * width + x0, width, area, shape)
        else:
            voxels = self._scratch.voxels_for(shape, self._source.dtype)
            if level.index > 0 or not self._in_boxes:
                kept.get((0, y0, x0), voxels)
            elif self._source.concurrent:
                self._source.read_into((planes.start, y0, x0), voxels)
            else:
                with self._reading:
                    self._source.read_into((planes.start, y0, x0), voxels)
            return Box.whole(voxels)

    def _do_brick(self, level: Level, layer: int, number: int, brick: tuple[int, int, int, int]) -> None:
        """Encode the chunks of a brick, and give the next scale its part."""
        planes, (y0, _, x0, _) = level.planes(layer), brick
        box = self._voxels_of(level, layer, brick)
        if level.index + 1 < len(self.levels):
            self._coarsen(level, planes.start, y0, x0, box)
        rows = list(self._encode(level, (planes.start, y0, x0), box))
        with self._noting:
            self._journal.add(_brick(level.index, layer, number), self._records.add(rows))
            self._count(math.prod(box.shape_zyx))

    def _coarsen(self, level: Level, z: int, y: int, x: int, box: Box) -> None:
        thickness, target = self.levels[level.index + 1].thickness, self._layers[level.index + 1]
        start = tuple(at // f for at, f in zip((z, y, x), level.halved, strict=True))
        z0, y0, x0 = start[0] % thickness, start[1], start[2]
        if target.voxels is not None:
            height, width = target.shape_zyx[1:]
            place = (z0 * height + y0) * width + x0
            coarsen(box, level.halved, self._scaling, target.voxels.reshape(-1), place, width, height * width)
        else:
            shape = tuple(-(-n // f) for n, f in zip(box.shape_zyx, level.halved, strict=True))
            voxels = self._scratch.coarser_for((shape[0], shape[1], shape[2]), target.dtype)
            coarsen(box, level.halved, self._scaling, voxels.reshape(-1), 0, shape[2], shape[1] * shape[2])
            target.put((z0, y0, x0), voxels)

    def _encode(self, level: Level, corner: Triple, box: Box) -> list[tuple[Any, ...]]:
        """Encode and write the chunks of a box; their records."""
        from fascicle.kernels.chunk_labels import is_blank

        (cx, cy, cz), writer = level.scale.chunk_sizes[0], self._writers[level.index]
        nz, ny, nx = box.shape_zyx
        rows: list[tuple[Any, ...]] = []
        for z in range(0, nz, cz):
            for y in range(0, ny, cy):
                for x in range(0, nx, cx):
                    chunk = box.part((z, y, x), (min(cz, nz - z), min(cy, ny - y), min(cx, nx - x)))
                    if not self._options.all_chunks and is_blank(*chunk.arguments):
                        continue
                    data = self._encoded(chunk, level.scale)
                    cell = ((corner[2] + x) // cx, (corner[1] + y) // cy, (corner[0] + z) // cz)
                    crc = crc32(data)
                    sampled = crc % SAMPLED == 0 and level.scale.encoding != "jpeg"
                    written = writer.put(cell, data)
                    of_voxels = crc32(np.ascontiguousarray(chunk.array()).view(np.uint8).reshape(-1)) if sampled else 0
                    rows.append((level.index, sampled, crc, cell, len(data), written.place, of_voxels, written.size))
        return rows

    def _encoded(self, chunk: Box, scale: Scale) -> bytes:
        from fascicle.formats import volume_chunks
        from fascicle.kernels import chunk_labels

        whole = all(edge % 8 == 0 for edge in chunk.shape_zyx)
        if scale.encoding == "compressed_segmentation" and scale.block_xyz == (8, 8, 8) and whole:
            nz, ny, nx = (edge // 8 for edge in chunk.shape_zyx)
            out = self._scratch.words_for(1 + nz * ny * nx * chunk_labels.ROOM)
            out[0] = 1
            flat, first, row, plane = chunk.arguments[:4]
            words = chunk_labels.encode(flat, first, row, plane, nz, ny, nx, out[1:], flat.itemsize == 8)
            if words < 0:
                raise BadRequest(f"{chunk.shape_zyx} voxels (z, y, x) have too many labels for compressed segmentation")
            return out[: words + 1].tobytes()
        quality = scale.jpeg_quality if scale.encoding == "jpeg" else scale.png_level
        return volume_chunks.encode(chunk.array()[None], scale.encoding, scale.block_xyz, quality)

    def _finish_shards(self, level: Level, stop: int) -> None:
        """Write the shards for which all planes are there."""
        writer = self._writers[level.index]
        if not isinstance(writer, ShardedWriter):
            return
        thickness = writer.thickness * level.scale.chunk_sizes[0][2]
        depth = level.shape_zyx[0]
        ended = range(-(-depth // thickness)) if stop == depth else range(stop // thickness)
        for slab in ended:
            step = f"shards {level.index}.{slab}"
            if step in self._journal.done:
                continue
            low, high = slab * writer.thickness, (slab + 1) * writer.thickness
            found = [
                rows[(rows["cell"][:, 2] >= low) & (rows["cell"][:, 2] < high)]
                for rows in self._records.pieces(level.index, self._noted[level.index])
            ]
            shards = writer.shards_of(np.concatenate(found)) if found else {}
            missing = [
                (writer, level.index, shard, chunks)
                for shard, chunks in shards.items()
                if _shard(level.index, shard) not in self._journal.done
            ]
            self._each(self._write_shard, missing)
            self._journal.add(step)
            if stop == depth or stop % thickness == 0:
                writer.clear()
                self._noted[level.index] = self._records.length

    def _write_shard(self, writer: ShardedWriter, index: int, shard: int, chunks: list[tuple[int, int, int]]) -> None:
        written = writer.write(shard, chunks)
        with self._noting:
            kept = None if written is None else [written.name, written.size, written.checksum]
            self._journal.add(_shard(index, shard), kept)

    # -- verifying all

    def _compare_all(self) -> None:
        """Compare the finest scale with the source, which is read again, and each other one with the next finer one."""
        from fascicle.pipeline.convert_checks import compare, compare_coarser, volume_at

        scales = volume_at(self._destination, self.info)
        finest = self.levels[0]
        done = 0

        def count(voxels: int) -> None:
            nonlocal done
            with self._noting:
                done += voxels
                self._progress("comparing", done, self._total)

        def check(layer: int, brick: tuple[int, int, int, int]) -> None:
            box = self._voxels_of(finest, layer, brick)
            compare(scales[0], (finest.planes(layer).start, brick[0], brick[2]), box.array())
            count(math.prod(box.shape_zyx))

        self._make_layers()
        for layer in range(finest.layers):
            if not self._in_boxes:
                self._read_layer(finest.planes(layer))
            self._each(check, [(layer, brick) for brick in finest.bricks()])
        for kept in self._layers:
            kept.close()
        self._layers.clear()
        for level, finer in zip(self.levels[1:], self.levels, strict=False):
            compare_coarser(scales[level.index], scales[finer.index], finer, self._scaling, count)

    def _load_kernels(self) -> None:
        """Compile or load what the threads will need, once and here."""
        dtype = self._source.dtype
        flat = np.zeros(512, dtype)
        target = np.zeros(64, dtype)
        flat.flags.writeable = False
        box = Box(flat, 0, 8, 64, (8, 8, 8))
        for level in self.levels[:1]:
            self._encoded(box, level.scale)
        if len(self.levels) > 1:
            coarsen(box, (2, 2, 2), self._scaling, target, 0, 4, 16)
        from fascicle.kernels.chunk_labels import is_blank

        is_blank(*box.arguments)


# -- parts


def remove_volume(destination: Destination) -> None:
    """Remove a volume, its info first, so that nothing of it is taken for a part of what is written there next."""
    data = destination.folder.get("info")
    destination.delete("info")
    try:
        scales = precomputed_info.decode(data or b"").scales
    except BadRequest:
        return
    for scale in scales:
        for name in list(destination.folder.names(f"{scale.key}/")):
            destination.delete(name)


def journal_path(address: str) -> Path:
    """Where the journal of a conversion lies if nobody says: beside a folder, or here for a bucket."""
    if "://" in address and not address.startswith("file://"):
        digest = hashlib.sha256(address.encode()).hexdigest()[:8]
        return Path(f"{address.rstrip('/').rpartition('/')[2]}-{digest}.convert.jsonl")
    folder = Path(address.removeprefix("file://"))
    return folder.with_name(f"{folder.name}.convert.jsonl")


def _digest(adaptation: Adaptation) -> list[Any]:
    remap = adaptation.remap
    table = None if remap is None else hashlib.sha256(np.ascontiguousarray(remap).tobytes()).hexdigest()[:16]
    return [adaptation.axes, adaptation.dtype, table]


def _boot() -> str:
    """Changes when the machine starts anew, if it tells."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return ""


def _brick(level: int, layer: int, number: int) -> str:
    return f"brick {level}.{layer}.{number}"


def _shard(level: int, shard: int) -> str:
    return f"shard {level}.{shard:x}"


__all__ = ["ConvertError", "ConvertOptions", "ConvertResult", "Level", "convert", "plan_levels"]
