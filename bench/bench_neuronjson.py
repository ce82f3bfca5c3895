"""Queries over many annotations: latencies, what scanning the JSON costs instead, and memory.

    python bench/bench_neuronjson.py [--bodies 200000] [--rounds 30]

Starts a server on an empty folder, posts annotations like those of a whole brain (10 to 15 fields, each with its user
and time), and asks. `scan` is what decoding every document and comparing one member takes in one Python process, which
is what an answer without tables would cost at least. Memory is that of all of the server's processes, without mapped
files.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from fascicle.datatypes.keyvalue import messages
from serving import Client, RunningServer, new_instance, new_repo

_STEMS = ("KC", "MBON", "DNp", "LC", "Tm", "PEN", "FB", "AVLP")
_TYPES = [f"{stem}{number:02d}" for stem in _STEMS for number in range(90)]
_STATUS = ["Traced", "Roughly traced", "Anchor", "Leaves", "Orphan", "0.5assign"]
_USERS = ["ann", "bob", "cy", "dee", "eve", "fay"]


def annotation(random_: random.Random, body: int) -> dict[str, Any]:
    """An annotation of 10 to 15 fields."""
    kind = random_.choice(_TYPES)
    made: dict[str, Any] = {
        "bodyid": body,
        "status": random_.choice(_STATUS),
        "type": kind,
        "instance": f"{kind}({body % 9973})_{random_.choice('LR')}",
        "class": random_.choice(["intrinsic", "sensory", "descending", "ascending", ""]),
        "somaLocation": [random_.randrange(40000) for _ in range(3)],
        "somaRadius": round(random_.uniform(100, 600), 2),
        "group": body - body % 7,
        "synonyms": random_.sample(_TYPES, 2),
        "hemilineage": random_.choice([f"{number}{side}" for number in range(24) for side in "AB"]),
    }
    for name, value in (
        ("cropped", bool(body % 2)),
        ("notes", f"looked at by {random_.choice(_USERS)} on {body % 365}"),
        ("birthtime", random_.choice(["primary", "early secondary"])),
        ("entryNerve", random_.choice(["ADMN", "PDMN", "DProN", "VProN"])),
        ("position", [random_.randrange(40000) for _ in range(3)]),
    ):
        if random_.random() < 0.5:
            made[name] = value
    return made


def questions(random_: random.Random, bodies: list[int]) -> dict[str, Any]:
    """A query of each kind; those that are lists of two take another text each time."""
    return {
        "equal": lambda: {"type": random_.choice(_TYPES)},
        "equal, three columns": lambda: {"type": random_.choice(_TYPES), "status": "Traced", "class": "intrinsic"},
        "one of a list": lambda: {"type": random_.sample(_TYPES, 20)},
        "one of a list of integers": lambda: {"group": [body - body % 7 for body in random_.sample(bodies, 200)]},
        "in an array": lambda: {"synonyms": random_.choice(_TYPES)},
        "number in an array": lambda: {"somaLocation": random_.randrange(40000)},
        "pattern, 720 texts": lambda: {"type": f"re/^{random_.choice(['KC', 'MB', 'LC'])}.*{random_.randrange(10)}$"},
        "new pattern, 200000 texts": lambda: {"instance": f"re/^MBON.*{random_.randrange(9973)}.*_L$"},
        "same pattern, 200000 texts": lambda: {"instance": "re/^MBON3.*77.*_L$"},
        "exists": lambda: {"type": random_.choice(_TYPES), "notes": "exists/0", "cropped": "exists/1"},
        "alternatives": lambda: [{"type": random_.choice(_TYPES)}, {"hemilineage": "7B", "status": "Orphan"}],
        "100 bodies": lambda: {"bodyid": random_.sample(bodies, 100)},
        "by user": lambda: {"type_user": "eve", "type": random_.choice(_TYPES)},
    }


def percentiles(times: list[float]) -> str:
    ordered = sorted(times)
    p50, p99 = ordered[len(ordered) // 2], ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]
    return f"p50 {1e3 * p50:8.1f} ms   p99 {1e3 * p99:8.1f} ms"


def timed(client: Client, path: str, body: Any = b"", method: str = "GET") -> tuple[float, bytes]:
    begin = time.perf_counter()
    answer = client.request(method, path, body).expect().body
    return time.perf_counter() - begin, answer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bodies", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=30)
    options = parser.parse_args()
    random_ = random.Random(7)
    bodies = sorted(random_.sample(range(1, 10**10), options.bodies))
    with tempfile.TemporaryDirectory() as folder:
        server = RunningServer(Path(folder) / "data").start()
        try:
            with server.watch_memory() as memory, server.client(600) as client:
                measure(client, random_, bodies, options.rounds)
            print(f"\npeak memory {memory.peak_anonymous_bytes / 1e6:.0f} MB")
        finally:
            server.kill9()


def measure(client: Client, random_: random.Random, bodies: list[int], rounds: int) -> None:
    path = new_instance(client, new_repo(client), "neuronjson", "annotations")
    begin = time.perf_counter()
    for at in range(0, len(bodies), 1000):
        pairs = [
            (b"%d" % body, json.dumps(annotation(random_, body)).encode()) for body in bodies[at : at + 1000]
        ]
        client.post(f"{path}/keyvalues?u={random_.choice(_USERS)}", messages.key_values(pairs)).expect()
    print(f"{len(bodies)} bodies posted in {time.perf_counter() - begin:.1f} s")
    first, _ = timed(client, f"{path}/query?onlyid=true", {"type": "none"})
    print(f"first query, which loads the table: {first:.2f} s")

    seconds, everything = timed(client, f"{path}/all?show=all")
    print(f"all, {len(everything) / 1e6:.0f} MB with users and times: {seconds:.2f} s")
    for shown in ("", "?fields=type", "?fields=type,instance,status&show=user"):
        seconds, answer = timed(client, f"{path}/all{shown}")
        print(f"all{shown}: {seconds:.3f} s, {len(answer) / 1e6:.1f} MB")
    for name in ("keys", "fields?counts=true", "fieldtimes", "keyrangevalues/0/z?json=true"):
        print(f"{name}: {timed(client, f'{path}/{name}')[0]:.3f} s")
    begin = time.perf_counter()
    documents = msgspec.json.decode(everything, type=list[msgspec.Raw])
    begin = time.perf_counter()
    decode = msgspec.json.Decoder(dict[str, Any]).decode
    sum(decode(document).get("type") == "KC01" for document in documents)
    scan = time.perf_counter() - begin
    print(f"\nscan: {scan:.2f} s")
    for name, make in questions(random_, bodies).items():
        times, found = [], 0
        for _ in range(rounds):
            seconds, answer = timed(client, f"{path}/query", make())
            times.append(seconds)
            found = max(found, len(json.loads(answer)))
        median = sorted(times)[len(times) // 2]
        print(f"{name:28} {percentiles(times)}   {scan / median:6.0f} x a scan   up to {found} found")
    times = []
    for _ in range(rounds):
        body = random_.choice(bodies)
        client.post(f"{path}/key/{body}?u=gus", {"bodyid": body, "status": random_.choice(_STATUS)}).expect()
        times.append(timed(client, f"{path}/query", {"type": random_.choice(_TYPES)})[0])
    print(f"{'equal, after an edit':28} {percentiles(times)}   {scan / sorted(times)[len(times) // 2]:6.0f} x a scan")


if __name__ == "__main__":
    main()
