"""How the length of a history tells: making versions, reading a key of the root, opening a store.

python bench/bench_versions.py [--versions 10000]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from fascicle.store import Store, open_store
from fascicle.versions import graph
from fascicle.versions.catalog import CatalogCache, CatalogEditor
from fascicle.versions.model import Node
from fascicle.versions.resolution import VersionedView

READS = 5_000
ROUNDS = 15
INSTANCE = 1_000_000


def chain(store: Store, length: int) -> tuple[CatalogCache, Node]:
    """A repo with a line of versions and a key at its root; the last version."""
    catalogs = CatalogCache(store)

    def grow(txn) -> Node:  # type: ignore[no-untyped-def]
        editor = CatalogEditor(txn, catalogs)
        repo = graph.create_repo(editor)
        node = editor.catalog.node(repo.root_version)
        VersionedView(txn, INSTANCE, editor.catalog.ancestry(node.id)).put(1, b"key", b"value")
        for _ in range(length - 1):
            node = graph.new_version(editor, graph.commit(editor, node))
        return node

    return catalogs, store.write(grow)


def read_us(store: Store, catalogs: CatalogCache, node: Node) -> float:
    """Microseconds per read of the root's key at a version."""
    with store.read() as txn:
        ancestry = catalogs.at(txn).ancestry(node.id)
        begin = time.process_time()
        for _ in range(READS):
            VersionedView(txn, INSTANCE, ancestry).get(1, b"key")
        return (time.process_time() - begin) / READS * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--versions", type=int, default=10_000)
    length = parser.parse_args().versions
    with tempfile.TemporaryDirectory() as folder:
        short, long = open_store(Path(folder) / "short"), open_store(Path(folder) / "long")
        short_chain, long_chain = chain(short, 10), chain(long, length)
        rounds = [(read_us(short, *short_chain), read_us(long, *long_chain)) for _ in range(ROUNDS)]
        few, many = min(first for first, _ in rounds), min(second for _, second in rounds)
        print(
            f"read a key of the root: {few:.2f} us after 10 versions, {many:.2f} us after {length}: {many / few:.2f}x"
        )
        for name, store, (catalogs, node) in (("10", short, short_chain), (str(length), long, long_chain)):
            begin = time.process_time()
            for _ in range(100):
                store.write(lambda txn: graph.commit(CatalogEditor(txn, catalogs), node))  # noqa: B023
                node = store.write(lambda txn: graph.new_version(CatalogEditor(txn, catalogs), node))  # noqa: B023
            print(f"commit and new version after {name}: {(time.process_time() - begin) / 100 * 1e6:.0f} us of CPU")
        begin = time.perf_counter()
        with long.read() as txn:
            CatalogCache(long).at(txn)
        print(f"reading the catalog of {length} versions: {(time.perf_counter() - begin) * 1e3:.0f} ms")
        short.close()
        long.close()


if __name__ == "__main__":
    main()
