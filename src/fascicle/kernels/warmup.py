"""Loading all kernels before the first request needs them.

The first call of a kernel compiles it (seconds) or loads it from Numba's cache (milliseconds). `warm_up` makes every
call that a server makes, on tiny inputs and through the functions that others use, so that the compiled argument
types are the right ones.

A new installation compiles for a minute or two of CPU time, most of it Python code that holds the interpreter's lock,
and takes half a gigabyte for it. So a server lets other processes of low priority do that (`python -m
fascicle.kernels.warmup GROUP`), and only loads what they put into the cache. A mark beside the cache tells that all of
it is there. Without a group the command fills the cache before any server needs it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fascicle.file_locks import try_lock

LOW_PRIORITY = 19
MOST_COMPILERS = 2
"""Processes that compile at the same time; each takes 200 to 300 MB."""
POLL_S = 0.1


def warm_up() -> float:
    """Compile or load all kernels of a server; the seconds that took. Safe to call in a background thread."""
    begin = time.perf_counter()
    for group in GROUPS.values():
        group()
    return time.perf_counter() - begin


def warm_up_beside(ending: Callable[[], bool]) -> float:
    """The same for a process that has other work: what is not in the cache is compiled by processes of their own.

    Of several servers that start together one lets compile. Gives up once `ending()` is true.
    """
    begin = time.perf_counter()
    mark = _mark()
    mark.parent.mkdir(parents=True, exist_ok=True)
    with mark.with_name("compiling").open("ab") as lock:
        while not mark.exists() and not ending():
            if try_lock(lock.fileno()):
                _compile_beside(ending)
                if not ending():
                    mark.touch()
                break
            time.sleep(POLL_S)
    if not ending():
        warm_up()
    return time.perf_counter() - begin


def _mark() -> Path:
    """The file that exists once all kernels, as they are now, have been compiled for this machine."""
    import llvmlite.binding
    import numba

    from fascicle.kernels import fnv

    known = [sys.version, numba.__version__, llvmlite.binding.get_host_cpu_name()]
    for source in sorted(Path(__file__).parent.glob("*.py")):
        state = source.stat()
        known.append(f"{source.name} {state.st_size} {state.st_mtime_ns}")
    digest = sha256("\n".join(known).encode()).hexdigest()
    return Path(str(fnv._hash.stats.cache_path)) / f"compiled-{digest[:32]}"


def _compile_beside(ending: Callable[[], bool]) -> None:
    """Fill the cache, group after group; a group is loaded as soon as it is there."""
    waiting = list(GROUPS)
    running: dict[str, subprocess.Popen[bytes]] = {}
    try:
        while (waiting or running) and not ending():
            while waiting and len(running) < min(MOST_COMPILERS, os.cpu_count() or 1):
                name = waiting.pop(0)
                running[name] = _compiler(name)
            for name, process in list(running.items()):
                if process.poll() is not None:
                    del running[name]
                    GROUPS[name]()
            time.sleep(POLL_S)
    finally:
        for process in running.values():
            process.kill()
            process.wait()


def _compiler(group: str) -> subprocess.Popen[bytes]:
    words = [sys.executable, "-m", "fascicle.kernels.warmup", group]
    return subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _labels() -> NDArray[np.uint64]:
    """Labels [16, 16, 16] of a small block."""
    return np.arange(4096, dtype=np.uint64).reshape(16, 16, 16) // np.uint64(9)


def _stored_block() -> bytes:
    """The block as it is stored, by the way that blocks take which a client sends."""
    from fascicle.formats import label_block

    encoded, _ = label_block.admit(label_block.encode(_labels()), (16, 16, 16))
    return label_block.split(encoded)


def _writes() -> None:
    """What a new volume needs: it comes first, since whoever starts on an empty store waits for it."""
    from fascicle.formats import downres, label_block

    stored = _stored_block()
    downres.halve_into(label_block.opened_stored(stored), np.empty((8, 8, 8), np.uint64))
    label_block.stored_counts(stored)


def _label_blocks() -> None:
    from fascicle.formats import compressed_segmentation, label_block, label_layer

    stored = _stored_block()
    block = label_block.opened_stored(stored)
    label_block.decode(block)
    layer = label_layer.LabelLayer([block], [(0, 0)], (1, 1), (2, 2, 2))
    layer.write(8, (0, 0), np.empty((1, 16, 16), np.uint64))
    voxels = label_layer.VoxelsByBlock.of(np.zeros((1, 3), np.int64), (64, 64, 64))
    label_layer.labels_at([block], voxels, np.empty(1, np.uint64))
    label_block.points(block, np.zeros((1, 3), np.int64))
    compressed_segmentation.from_label_block(block)
    compressed_segmentation.encode(_labels())
    label_block.gzip_of(stored)
    batch = (np.frombuffer(stored, np.uint8), np.zeros(1, np.int64), np.array([len(stored)], np.int64), 0)
    tables, starts = label_block.gather_tables(*batch)
    label_block.block_stream(*batch, np.zeros((1, 3), np.int32), tables, starts)


def _sparse_volumes() -> None:
    from fascicle.formats import label_block, label_layer, sub_blocks

    stored = _stored_block()
    block = label_block.opened_stored(stored)
    wanted = label_block.table(block) < np.uint64(200)
    found = label_block.runs(block, wanted, (0, 0, 0), ((0, 0, 0), (9, 9, 9)))
    label_block.join_runs(found)
    label_layer.runs_of_layers([block], [wanted], np.zeros((1, 3), np.int64))
    label_block.binary_block(block, wanted)
    label_block.replace_in_runs(block, 1, 1000, 1001, found, (0, 0, 0))
    counts = label_block.stored_counts(stored)
    mask = sub_blocks.mask_of_runs(found, block, (0, 0, 0))
    sub_blocks.split_label(block, 0, 1 << 60, 1 << 61, mask, counts)
    sub_blocks.follow(block, counts, {0: block, 1: block}, {1: sub_blocks.having(block, 0)})


def _streams() -> None:
    from fascicle.formats import lz4_block
    from fascicle.kernels import decimal, fnv, json_rows

    zeros = np.zeros(20, np.uint64)
    list(lz4_block.decompress_stream(b"".join(lz4_block.compress_stream([zeros], zeros.nbytes)), zeros.nbytes))
    fnv.fnv1_128(zeros.tobytes(), 0)
    decimal.parsed_list(decimal.json_list(zeros))
    json_rows.parsed_rows(b"[[1,-2]]", 2)


def _columns() -> None:
    from fascicle.formats import label_index, mapping_ops
    from fascicle.kernels import body_rows, protobuf, sorted_map
    from fascicle.kernels.arrays import frozen

    two = np.array([2, 1], np.uint64)
    index = label_index.LabelIndex(1, two, two, two.astype(np.uint32), two, two)
    label_index.decode_many(label_index.as_member(label_index.encode(index)))
    message = np.frombuffer(b"\x0a\x03\x0a\x01k", np.uint8)
    for fill in (False, True):
        protobuf.pairs(message, fill, np.empty((1, 4), np.int64))
        protobuf.texts(message, fill, np.empty((1, 2), np.int64))
    mapping_ops.decode(mapping_ops.encode([(1, 2, [3])]))

    keys, values = sorted_map.sort_unique_last(two, two)
    sorted_map.merge_sorted(keys, values, keys, values)
    shift, starts = sorted_map.bucket_index(keys)
    sorted_map.lookup(two, keys, values, shift, starts, np.empty(2, np.uint64), np.empty(2, np.bool_))
    sorted_map.value_index(values)

    rows, counts = frozen(keys), frozen(keys.astype(np.uint32))
    body_rows.merge_rows(rows, rows, counts, rows, rows, counts)
    body_rows.kept_rows(rows, rows, rows, rows)
    body_rows.find_rows(rows, rows, rows, rows)
    body_rows.ranges_of(rows, rows)


def _volume_chunks() -> None:
    from fascicle.formats import volume_chunks

    for dtype in (np.uint32, np.uint64):
        labels = np.arange(512, dtype=dtype).reshape(1, 8, 8, 8)
        encoded = volume_chunks.encode(labels, "compressed_segmentation")
        volume_chunks.decode(encoded, "compressed_segmentation", labels.shape, labels.dtype)
        volume_chunks.decode_into(encoded, "compressed_segmentation", np.empty((8, 8, 16), dtype)[..., :8], 0, 1)


def _meshes() -> None:
    from fascicle.formats import multires_mesh
    from fascicle.kernels import decimation, marching_cubes

    numbers = np.zeros((6, 6, 6), np.int32)
    numbers[1:5, 1:5, 1:5] = 1
    _, vertices, _, triangles = marching_cubes.surfaces(numbers, 1)
    free, far = np.zeros(len(vertices), np.bool_), np.full(3, np.inf)
    mesh = decimation.decimate(vertices * np.ones(3), triangles, free, 0.5, -far, far)
    multires_mesh.encode([mesh, mesh], [1.0, 2.0], depth=2)


def _skeletons() -> None:
    from fascicle.kernels import centrelines, skeleton_graph
    from fascicle.kernels.arrays import frozen
    from fascicle.kernels.distance import label_distances
    from fascicle.kernels.label_components import label_components

    labels = np.ones((4, 4, 4), np.uint64)
    pieces, depths = np.empty(labels.shape, np.int32), np.empty(labels.shape, np.float32)
    none, steps, cell = np.zeros(0, np.uint64), np.ones(3), np.ones(3, np.int64)
    label_components(frozen(labels), frozen(none), 1, np.zeros(6, np.uint8), pieces)
    label_distances(pieces, steps, depths)
    nodes = centrelines.make_nodes(pieces, depths, cell)
    skeleton_graph.face_points(pieces[0], depths[0], steps[:2], 1)
    targets = skeleton_graph.nodes_of(nodes[0], nodes[1], np.zeros(1, np.int64), np.ones(1, np.int32))
    centrelines.trace(np.array(labels.shape), cell, steps, *nodes, 1, targets, np.array([0, 0, 1]), 1.0, 1.0, 9.0)  # type: ignore[call-arg]
    edges, starts = np.array([[0, 1]]), np.arange(3)
    skeleton_graph.spanning_forest(edges, 2)
    skeleton_graph.prune(starts, np.array([1, 0]), np.zeros((2, 3)), np.ones(2), np.ones(2, np.bool_))
    skeleton_graph.depth_first(starts, np.array([1, 0]), np.zeros(1, np.int64))


def _annotations() -> None:
    from fascicle.kernels import decimal, json_members
    from fascicle.kernels.arrays import frozen, frozen_bytes

    def texts() -> tuple[NDArray[Any], ...]:
        return np.zeros(64, np.uint8), np.zeros(16, np.int64), np.zeros(16, np.uint8), np.zeros(16, np.int32)

    names, values = texts(), texts()
    data = frozen_bytes(b'{"a":["b"]}')
    at, size = frozen(np.zeros(1, np.int64)), frozen(np.array([len(data)], np.int64))
    json_members.take_apart(data, at, size, 0, np.zeros((4, 1), np.int32), *names, 0, *values, 0)  # type: ignore[call-arg]
    blob, starts, kinds, table = values
    json_members.add_text(*values, 1, data, 1, 4)  # type: ignore[call-arg]
    json_members.rehash(blob, starts, 2, np.zeros(16, np.int32))
    json_members.find_texts(blob, starts, table, data, frozen(np.array([3])), np.zeros(1, np.int64))
    lasting = (frozen(blob), frozen(starts))
    one = frozen(np.ones(1, np.int32))
    for size_bytes in (0, 99):
        matrix, ends = frozen(np.ones((1, 1), np.int32)), np.zeros(1, np.int64)
        out = np.empty(size_bytes, np.uint8)
        json_members.put_together(matrix, data, frozen(np.array([0, 4])), *lasting, True, ends, out)
    json_members.contain(*lasting, one, blob, starts, table, np.zeros(1, np.bool_))
    json_members.greatest(*lasting, one)
    states, classes = frozen(np.zeros(1, np.int32)), frozen(np.zeros(256, np.uint8))
    json_members.run_automaton(
        *lasting, frozen(kinds), one, states, classes, 1, frozen(np.zeros(1, np.uint8)), np.zeros(1, np.uint8)
    )
    decimal.joined(np.zeros(1, np.uint64), b",")


GROUPS: dict[str, Callable[[], None]] = {
    "writes": _writes,
    "columns": _columns,
    "label-blocks": _label_blocks,
    "sparse-volumes": _sparse_volumes,
    "streams": _streams,
    "annotations": _annotations,
    "volume-chunks": _volume_chunks,
    "meshes": _meshes,
    "skeletons": _skeletons,
}
"""What is called together, in the order in which a new server needs it."""

if __name__ == "__main__":
    if hasattr(os, "nice"):
        os.nice(LOW_PRIORITY)
    for name in sys.argv[1:]:
        GROUPS[name]()
    if not sys.argv[1:]:
        warm_up_beside(lambda: False)
