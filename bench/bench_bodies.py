"""Edits of a body of 10^5 supervoxels: pages and records against one serialised index per body.

    python bench/bench_bodies.py [--supervoxels 100000] [--cycles 100]

Both sides make the same cleaves of 1 to 1,000 random supervoxels and merge them back, durably, in the same run on the
same kind of store. The serialised index is the obvious design: a protobuf message under the body's label, read, changed
and written for every edit. Prints medians in milliseconds and their ratios.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from fascicle.datatypes.labelmap import bodies
from fascicle.datatypes.labelmap.bodies import Rows, Stamp, existing_body
from fascicle.formats import label_index
from fascicle.formats.label_index import LabelIndex
from fascicle.store import WriteTransaction, open_store
from fascicle.versions.ancestry import Lineage
from fascicle.versions.resolution import VersionedView

BODY, CLEAVED = 1, 10_000_000


def timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return 1000 * (time.perf_counter() - start)


def with_pages(rows: Rows, picks: list[np.ndarray], folder: Path) -> dict[str, list[float]]:
    store = open_store(folder)
    lineage = Lineage()
    lineage.add(1, ())
    stamp = Stamp(1, "2026-01-01T00:00:00Z", "bench", "bench")

    def edit(change: Callable[[VersionedView], object]) -> None:
        store.write(lambda txn: change(VersionedView(txn, 1, lineage.ancestry(1))))

    def cleave(view: VersionedView, supervoxels: np.ndarray) -> None:
        bodies.cleave(view, existing_body(view, BODY), CLEAVED, supervoxels, stamp)

    def merge(view: VersionedView) -> None:
        bodies.merge(view, existing_body(view, BODY), [existing_body(view, CLEAVED)], stamp)

    def read_all() -> None:
        with store.read() as txn:
            view = VersionedView(txn, 1, lineage.ancestry(1))
            bodies.read_rows(view, existing_body(view, BODY)).supervoxels()

    edit(lambda view: bodies.write_rows(view, BODY, rows, stamp))
    times: dict[str, list[float]] = {"cleave": [], "merge": [], "read": []}
    for pick in picks:
        times["cleave"].append(timed(lambda p=pick: edit(lambda view: cleave(view, p))))
        times["read"].append(timed(read_all))
        times["merge"].append(timed(lambda: edit(merge)))
    store.close()
    return times


def with_messages(rows: Rows, picks: list[np.ndarray], folder: Path) -> dict[str, list[float]]:
    store = open_store(folder)

    def key(label: int) -> bytes:
        return b"body" + label.to_bytes(8, "big")

    def put(txn: WriteTransaction, label: int, kept: Rows) -> None:
        txn.put(key(label), label_index.encode(LabelIndex(label, kept.sv, kept.block, kept.count)))

    def get(txn: WriteTransaction, label: int) -> Rows:
        value = txn.get(key(label))
        assert value is not None
        index = label_index.decode(value)
        return Rows.of(index.supervoxels, index.blocks, index.counts)

    def cleave(txn: WriteTransaction, pick: np.ndarray) -> None:
        old = get(txn, BODY)
        leaves = np.isin(old.sv, pick)
        put(txn, BODY, Rows(old.sv[~leaves], old.block[~leaves], old.count[~leaves]))
        put(txn, CLEAVED, Rows(old.sv[leaves], old.block[leaves], old.count[leaves]))

    def merge(txn: WriteTransaction) -> None:
        a, b = get(txn, BODY), get(txn, CLEAVED)
        columns = ((a.sv, b.sv), (a.block, b.block), (a.count, b.count))
        put(txn, BODY, Rows.of(*(np.concatenate(pair) for pair in columns)))
        txn.delete(key(CLEAVED))

    def read_all() -> None:
        with store.read() as txn:
            get(txn, BODY).supervoxels()  # type: ignore[arg-type]

    store.write(lambda txn: put(txn, BODY, rows))
    times: dict[str, list[float]] = {"cleave": [], "merge": [], "read": []}
    for pick in picks:
        times["cleave"].append(timed(lambda p=pick: store.write(lambda txn: cleave(txn, p))))
        times["read"].append(timed(read_all))
        times["merge"].append(timed(lambda: store.write(merge)))
    store.close()
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--supervoxels", type=int, default=100_000)
    parser.add_argument("--cycles", type=int, default=100)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    supervoxels = np.arange(10, 10 + options.supervoxels, dtype=np.uint64)
    blocks = np.uint64(1 << 62) + rng.integers(0, options.supervoxels // 500 + 1, options.supervoxels).astype(np.uint64)
    rows = Rows.of(supervoxels, blocks, np.full(options.supervoxels, 512, np.uint32))
    picks = [rng.choice(supervoxels, int(rng.integers(1, 1000)), replace=False) for _ in range(options.cycles)]
    with tempfile.TemporaryDirectory() as folder:
        ours = with_pages(rows, picks, Path(folder, "pages"))
        plain = with_messages(rows, picks, Path(folder, "messages"))
    print(f"{'':8} {'pages p50':>10} {'p99':>8} {'messages p50':>13} {'p99':>8} {'ratio p50':>10}")
    for name in ours:
        a, b = np.percentile(ours[name], [50, 99]), np.percentile(plain[name], [50, 99])
        print(f"{name:8} {a[0]:10.2f} {a[1]:8.2f} {b[0]:13.2f} {b[1]:8.2f} {b[0] / a[0]:10.1f}")


if __name__ == "__main__":
    main()
