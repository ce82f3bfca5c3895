"""Reading a key that was written at the root, at the end of a short and of a long chain of versions.

    python bench/bench_versions.py [--length 10000]

Prints the time to make versions, and the median time of a read in both chains, measured in turn; the long chain should
take no more than 1.2 times as long.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from serving import Client, RunningServer, new_instance, new_repo

READS = 3000
ROUNDS = 7


def chain(client: Client, length: int) -> str:
    """A repo with a chain of versions and a key at its root; the key's path at the last version."""
    uuid = new_repo(client, f"chain of {length}")
    client.post(new_instance(client, uuid, "keyvalue", "keys") + "/key/k", b"value" * 200).expect()
    began = time.perf_counter()
    for _ in range(length - 1):
        client.post(f"/api/node/{uuid}/commit", {"note": "next"}).expect()
        uuid = client.post(f"/api/node/{uuid}/newversion", {"note": "next"}).expect().json()["child"]
    taken_s = time.perf_counter() - began
    print(f"chain of {length}: made in {taken_s:.2f} s, {1e3 * taken_s / length:.2f} ms per commit and new version")
    return f"/api/node/{uuid}/keys/key/k"


def read_us(client: Client, path: str) -> float:
    """Median time of a read in us."""
    taken = []
    for _ in range(READS):
        began = time.perf_counter()
        reply = client.get(path)
        taken.append(time.perf_counter() - began)
        assert reply.status == 200
        assert len(reply.body) == 1000
    return 1e6 * statistics.median(taken)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--length", type=int, default=10_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fascicle-bench-") as folder:
        server = RunningServer(Path(folder) / "data").start()
        try:
            with server.client() as client:
                short, long = chain(client, 10), chain(client, arguments.length)
                pairs = [(read_us(client, short), read_us(client, long)) for _ in range(ROUNDS)]
        finally:
            server.kill9()
    ratio = statistics.median(b / a for a, b in pairs)
    print(f"read at 10 versions: {statistics.median(a for a, _ in pairs):.1f} us")
    print(f"read at {arguments.length} versions: {statistics.median(b for _, b in pairs):.1f} us")
    print(f"ratio {ratio:.3f} (target: at most 1.2)")
    sys.exit(ratio > 1.2)


if __name__ == "__main__":
    main()
