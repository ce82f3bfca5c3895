"""Kernels and formats on a real segmentation, or a generated one, beside the field's libraries.

    python bench/bench_kernels.py [--rounds 5] [--generated]

Uses `data/pinky-512` of the folder named by FASCICLE_SHARED if it is there: the first 192 of its 512 slices, in blocks
of 64^3.
One thread; CPU time; the best of the rounds.
"""

from __future__ import annotations

import argparse
import gzip
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

EDGE = 64


def segmentation(generated: bool) -> tuple[str, NDArray[np.uint64]]:
    """(what it is, labels u64[z,y,x])."""
    folder = Path(os.environ.get("FASCICLE_SHARED", Path(__file__).resolve().parents[2] / "shared"))
    stream = folder / "data/pinky-512/connectomics.npy.ckl.gz"
    if stream.exists() and not generated:
        import crackle

        volume = crackle.decompress(gzip.decompress(stream.read_bytes()))
        return "pinky-512", np.ascontiguousarray(volume.T[:192]).astype(np.uint64)
    from fascicle.pipeline.sample_brain import make_brain

    return "generated", np.ascontiguousarray(make_brain(1, (256, 256, 256)).supervoxels_zyx).astype(np.uint64)


class Table:
    """Runs calls and prints a line for each."""

    def __init__(self, rounds: int) -> None:
        self.rounds = rounds
        print(f"{'what':44s} {'us/block':>9s} {'GVoxel/s':>9s}  note")

    def run(
        self, what: str, call: Callable[[Any], Any], inputs: list[Any], note: Any = "", blocks: int = 0
    ) -> list[Any]:
        """Time `call` on each input; `blocks` is how many blocks all inputs together stand for, if not one each."""
        blocks = blocks or len(inputs)
        best = float("inf")
        outputs: list[Any] = []
        for _ in range(self.rounds):
            begin = time.process_time()
            outputs = [call(one) for one in inputs]
            best = min(best, time.process_time() - begin)
        note = note(outputs) if callable(note) else note
        print(f"{what:44s} {best / blocks * 1e6:9.1f} {blocks * EDGE**3 / best / 1e9:9.2f}  {note}", flush=True)
        return outputs

    def once(self, what: str, call: Callable[[], Any], note: str = "") -> None:
        """Time one call in milliseconds."""
        best = float("inf")
        for _ in range(self.rounds):
            begin = time.process_time()
            call()
            best = min(best, time.process_time() - begin)
        print(f"{what:44s} {best * 1e3:9.2f} ms        {note}", flush=True)


def mean_size(outputs: list[bytes]) -> str:
    size = sum(map(len, outputs)) / len(outputs)
    return f"{size / 1e3:.1f} kB, {8 * EDGE**3 / size:.0f}x"


def blocks_and_peers(table: Table, dense: list[NDArray[np.uint64]]) -> None:
    from isal import igzip_lib

    from fascicle.formats import compressed_segmentation, downres, label_block

    encoded = table.run("label block: encode", label_block.encode, dense, mean_size)
    out = np.empty((EDGE,) * 3, np.uint64)
    table.run("label block: decode", lambda e: label_block.decode_into(e, out), encoded)
    table.run("label block: admit (check, count)", lambda e: label_block.admit(e, (EDGE,) * 3), encoded)
    stored = table.run("stored form: split, counts given", lambda p: label_block.split(*p),
                       [(e, label_block.count(e)) for e in encoded], mean_size)  # fmt: skip
    opened = table.run("stored form: open (inflate)", lambda s: label_block.opened_stored(s, check=False), stored)
    table.run("stored form: gzip with another table", label_block.gzip_of, stored)
    table.run("  (gunzip, isal level 1 instead)",
              lambda s: igzip_lib.compress(igzip_lib.decompress(s, igzip_lib.DECOMP_GZIP), 1, igzip_lib.COMP_GZIP),
              [label_block.gzip_of(s) for s in stored])  # fmt: skip
    buffer = np.frombuffer(b"".join(stored), np.uint8)
    lengths = np.array([len(s) for s in stored])
    batch: Any = (buffer, np.cumsum(lengths) - lengths, lengths, 0)
    tables, starts = label_block.gather_tables(*batch)
    xyz = np.zeros((len(stored), 3), np.int32)
    table.run("batch: tables", lambda _: label_block.gather_tables(*batch), [0], blocks=len(stored))
    table.run("batch: /blocks answer with other tables",
              lambda _: label_block.block_stream(*batch, xyz, tables, starts), [0], blocks=len(stored))  # fmt: skip
    largest = [(b, np.arange(len(b.table)) == int(np.argmax(label_block.count(b)))) for b in opened]
    table.run("runs of the largest label", lambda p: label_block.runs(*p), largest,
              lambda o: f"{np.mean([len(r) for r in o]):.0f} runs")  # fmt: skip
    table.run("binary block of the largest label", lambda p: label_block.binary_block(*p), largest)
    xyz20 = np.random.default_rng(0).integers(0, EDGE, (20, 3))
    table.run("20 points", lambda b: label_block.points(b, xyz20), opened)
    half = np.empty((EDGE // 2,) * 3, np.uint64)
    table.run("half resolution, from the encoded block", lambda b: downres.halve_into(b, half), opened)
    table.run("compressed segmentation, transcoded", compressed_segmentation.from_label_block, opened, mean_size)
    segmented = table.run("compressed segmentation, from voxels", compressed_segmentation.encode, dense, mean_size)
    table.run("compressed segmentation, decode",
              lambda s: compressed_segmentation.decode(s, (EDGE,) * 3), segmented)  # fmt: skip
    peers(table, dense)


def peers(table: Table, dense: list[NDArray[np.uint64]]) -> None:
    """The libraries of the field on the same blocks."""
    try:
        import compressed_segmentation as library
    except ImportError:
        print("(compressed-segmentation is not installed)")
    else:
        transposed = [np.asfortranarray(block.T) for block in dense]
        theirs = table.run(
            "peer: compressed-segmentation, compress",
            lambda b: library.compress(b, block_size=(8, 8, 8), order="F"),
            transposed,
            mean_size,
        )
        table.run("peer: compressed-segmentation, decompress",
                  lambda s: library.decompress(s, (EDGE,) * 3, np.uint64, (8, 8, 8), "F"), theirs)  # fmt: skip
    try:
        import crackle
    except ImportError:
        print("(crackle-codec is not installed)")
    else:
        theirs = table.run("peer: crackle, compress", crackle.compress, dense, mean_size)
        table.run("peer: crackle, decompress", crackle.decompress, theirs)


def columns(table: Table) -> None:
    """Indices and mappings of 10^5 and 10^7 entries."""
    from fascicle.formats import label_index, mapping_ops
    from fascicle.formats.block_code import block_codes
    from fascicle.kernels import sorted_map

    rng = np.random.default_rng(0)
    blocks = np.sort(block_codes(rng.integers(0, 30, (100_000, 3))))
    supervoxels = (np.arange(1, 100_001) * 9973).astype(np.uint64)
    counts = rng.integers(1, 10**5, 100_000).astype(np.uint32)
    index = label_index.LabelIndex(7, supervoxels, blocks, counts)
    serialized = label_index.encode(index)
    table.once("label index, 10^5 supervoxels: encode", lambda: label_index.encode(index))
    table.once(
        "label index, 10^5 supervoxels: parse",
        lambda: label_index.decode(serialized),
        f"{len(serialized)} bytes",
    )
    shuffled = rng.permutation(100_000)
    mixed = label_index.LabelIndex(7, supervoxels[shuffled], blocks[shuffled], counts[shuffled])
    table.once("label index, rows in any order: encode", lambda: label_index.encode(mixed))
    operations = mapping_ops.encode((1, i, range(1000 * i + 10**8, 1000 * i + 10**8 + 1000)) for i in range(1, 1001))
    table.once("mapping operations, 10^6 pairs: parse", lambda: mapping_ops.decode(operations))

    keys = rng.integers(0, 2**40, 10**6).astype(np.uint64)
    table.once("sorted map, 10^6 pairs: build", lambda: sorted_map.sort_unique_last(keys, keys))
    sorted_keys, values = sorted_map.sort_unique_last(keys, keys)
    shift, starts = sorted_map.bucket_index(sorted_keys)
    queries = rng.choice(keys, 10**5)
    out, found = np.empty(10**5, np.uint64), np.empty(10**5, np.bool_)
    table.once("sorted map of 10^6: 10^5 look-ups",
               lambda: sorted_map.lookup(queries, sorted_keys, values, shift, starts, out, found))  # fmt: skip


def volumes(table: Table, volume: NDArray[np.uint64]) -> None:
    """Compressed answers of whole volumes."""
    from fascicle.formats import lz4_block

    slabs = [volume[z : z + EDGE] for z in range(0, len(volume), EDGE)]
    table.run("raw volume as one LZ4 block",
              lambda _: sum(map(len, lz4_block.compress_stream(slabs, volume.nbytes))), [0],
              lambda o: f"{volume.nbytes / o[0]:.0f}x", volume.size // EDGE**3)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--generated", action="store_true")
    options = parser.parse_args()
    from fascicle.kernels.warmup import warm_up

    print(f"kernels ready after {warm_up():.2f} s")
    name, volume = segmentation(options.generated)
    dense = blocks_of(volume)
    print(f"{name}: {len(dense)} blocks of {EDGE}^3")
    table = Table(options.rounds)
    blocks_and_peers(table, dense)
    volumes(table, volume)
    columns(table)


def blocks_of(volume: NDArray[np.uint64]) -> list[NDArray[np.uint64]]:
    """All whole blocks of a volume."""
    corners = np.ndindex(*(side // EDGE for side in volume.shape))
    return [
        np.ascontiguousarray(volume[EDGE * z : EDGE * z + EDGE, EDGE * y : EDGE * y + EDGE, EDGE * x : EDGE * x + EDGE])
        for z, y, x in corners
    ]


if __name__ == "__main__":
    main()
