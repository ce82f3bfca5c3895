"""Odd requests to every declared route: no 5xx, no hang, bounded memory, and a refusal changes nothing."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from random import Random
from urllib.parse import quote

import pytest

from fascicle.datatypes.registry import datatype
from fuzz.scene import ANSWER_LIMIT_S, MEMORY_LIMIT_BYTES, Scene, make_scene
from serving import TOKEN, RunningServer

FUZZ_S = float(os.environ.get("FASCICLE_FUZZ_S", "12"))
SEED = int(os.environ.get("FASCICLE_SEED", "1"))
REQUESTS_PER_SCENE = 150
METHODS = ("GET", "GET", "GET", "GET", "POST", "POST", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "ODD")
SERVER_ROUTES = (
    "/api/help",
    "/api/help/labelmap",
    "/api/load",
    "/api/heartbeat",
    "/api/user-latencies",
    "/api/storage",
    "/api/server/info",
    "/api/server/note",
    "/api/server/types",
    "/api/server/compiled-types",
    "/api/server/groupcache",
    "/api/server/blobstore",
    "/api/server/token",
    "/api/server/settings",
    "/api/repos",
    "/api/repos/info",
    "/metrics",
    "/interface",
)
REPO_ROUTES = ("info", "log", "branch-versions", "instance", "merge", "resolve", "odd")
NODE_ROUTES = ("note", "log", "status", "commit", "branch", "newversion", "tag", "blobstore", "odd")
WORDS = (
    "", "0", "1", "5", "-1", "abc", "a", "b", "~", "0_0_0", "64_64_64", "128_64_64", "10_10_10", "1_2", "xy",
    "0_1_2", "yz", "1e9", "1000000000", "18446744073709551615", "18446744073709551616",
    "99999999999999999999999999", "nan", "null", "true", "-64_-64_-64", "1000000000_1000000000_1000000000", "png",
    "jpg", "jpg:0", "jpg:101", "%", "\x00", "é", "a b", "..", "x" * 500, "1,2,3", "[]", "{}", "json", "seg",
    "keys", "gray", "master", "points", "region", "t1", "2", "xy/0/0_0_0", "PreSyn", "AllSyn", "seg,keys", "10_5_5",
    "70_5_5", "region,master", "schema", "2.drc", "1_1_1_1",
)  # fmt: skip
OPTIONS = (
    "scale", "supervoxels", "compression", "roi", "throttle", "format", "minx", "maxx", "miny", "maxz", "exact",
    "hash", "u", "app", "number", "start", "sizes", "json", "jsontar", "tar", "check", "noindexing", "downres",
    "mutate", "blocks", "replace", "metadata-only", "mutid", "ceiling", "split", "remain", "nolookup", "userid",
    "interactive", "imsure", "name", "prefetch", "relationships", "kafkalog", "inmemory", "byCoord", "keysOnly",
    "offset", "n", "batchsize", "optimized", "show", "fields", "conditional", "onlyid", "counts", "noblanks", "planes",
    "xrange", "zrange",
)  # fmt: skip
BODIES = (
    b"", b"", b"{}", b"[]", b"[1,2,3]", b"[1,4]", b"null", b"[[1,2,3]]", b'["a"]', b'{"a":1}', b"\x00" * 100,
    b"\xff" * 100, b"[" * 5000, b'{"sync":"keys"}', b'{"note":5}', b'{"log":"x"}', b'{"branch":"x"}',
    b'{"MinPoint":[1,2],"MaxPoint":null}', b'{"typename":"labelmap","dataname":"\xc3\xa9/x"}',
    b'{"typename":"keyvalue","dataname":5}', b"[1e400]", b"[-1]", b"\x1f\x8b\x08", b'{"uuid":"zz"}',
    b"[18446744073709551616]", b'{"MaxDownresLevel":"999"}', b'{"BlockSize":"1,2,3"}',
    b'{"bodyid":2,"type":"x"}', b'{"bodyid":5}', b'[{"Pos":[1,2,3],"Kind":"Note"}]', b'[{"Pos":[1,2]}]', b"[[0,0,0,5]]",
    b"[[0,0,5,0]]", b"[[2147483647,0,0,2147483647]]", b'{"0,0,0":[]}', b'{"0,0":[]}', b'{"1":"[]"}', b'{"1":"["}',
    b'{"type":"re/("}', b'{"type":"re/(a+)+$"}', b'{"type":["exists/1"]}', b'{"sync":"seg,points"}', b'{"Levels":{}}',
    b'{"Levels":{"0":{"Resolution":[1,1,1],"TileSize":[1,1,1]}}}', b'{"Extension":"obj"}', b'"2"', b"[2,5]",
)  # fmt: skip


def routes(scene: Scene) -> list[str]:
    """Paths of everything that answers, without arguments."""
    found = [*SERVER_ROUTES, *(f"/api/repo/{scene.uuid}/{name}" for name in REPO_ROUTES)]
    found += [f"/api/node/{scene.uuid}/{name}" for name in NODE_ROUTES]
    for typename, path in scene.instances:
        found += [f"{path}/{route.keyword}" for route in datatype(typename).routes]
        found += [f"{path}/{generic}" for generic in ("info", "help", "tags", "sync", "blobstore", "odd", "")]
    return found


def odd_request(random: Random, paths: list[str]) -> tuple[str, str, bytes]:
    """Method, path with query, and body."""
    path = random.choice(paths)
    for _ in range(random.choice([0, 0, 1, 1, 2, 2, 3, 4])):
        path += "/" + quote(random.choice(WORDS), safe="")
    options = [
        f"{random.choice(OPTIONS)}={quote(random.choice(WORDS), safe='')}" for _ in range(random.choice([0, 0, 1, 2]))
    ]
    if random.random() < 0.05:
        options.append(f"admintoken={TOKEN}")
    if random.random() < 0.05:
        options.append(random.choice(["=", "&&", "a", "%", "supervoxels=true&supervoxels=false"]))
    return random.choice(METHODS), path + ("?" + "&".join(options) if options else ""), random.choice(BODIES)


def play(server: RunningServer, seed: int, seconds: float, least: int = 0) -> int:
    """Odd requests for a while, and at `least` some; how many."""
    random = Random(seed)
    count = 0
    with server.client() as patient:  # what is compiled at first use is not what is tested here
        make_scene(patient).digest(patient)
    with server.client(ANSWER_LIMIT_S) as client, server.watch_memory() as memory:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline or count < least:
            scene = make_scene(client)
            paths = routes(scene)
            digest = scene.digest(client)
            for _ in range(REQUESTS_PER_SCENE):
                method, path, body = odd_request(random, paths)
                count += 1
                what = f"FASCICLE_SEED={seed}, request {count}: {method} {path} with {body[:100]!r}"
                try:
                    reply = client.request(method, path, body)
                except TimeoutError:
                    raise AssertionError(f"no answer within {ANSWER_LIMIT_S:g} s: {what}") from None
                assert reply.status < 500, f"{reply.status} {reply.body[:500]!r}: {what}"
                if method not in ("GET", "HEAD"):
                    after = scene.digest(client)
                    assert reply.status < 300 or after == digest, f"{reply.status}, yet the data changed: {what}"
                    digest = after
                if time.monotonic() > deadline and count >= least:
                    break
            assert scene.digest(client) == digest, f"reading changed the data: before request {count} of seed {seed}"
    assert memory.peak_anonymous_bytes < MEMORY_LIMIT_BYTES, f"{memory.peak_anonymous_bytes >> 20} MB"
    return count


def test_some_odd_requests(server: RunningServer) -> None:
    """A quick part of the below for every run of the tests."""
    assert play(server, SEED + 1000, 3, least=30) >= 30


@pytest.mark.slow
def test_odd_requests_to_all_routes(launch: Callable[..., RunningServer]) -> None:
    print(f"{play(launch(), SEED, FUZZ_S)} odd requests")
