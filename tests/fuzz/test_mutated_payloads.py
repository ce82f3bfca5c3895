"""Bodies that were right once, damaged at random: no 5xx, no hang, bounded memory, and a refusal changes nothing."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from random import Random

import pytest

from fuzz.scene import ANSWER_LIMIT_S, KEEPS_PARTS, MEMORY_LIMIT_BYTES, make_scene, mutated, valid_payloads
from serving import RunningServer

FUZZ_S = float(os.environ.get("FASCICLE_FUZZ_S", "20"))
SEED = int(os.environ.get("FASCICLE_SEED", "1"))
REQUESTS_PER_SCENE = 80


def play(server: RunningServer, seed: int, seconds: float, least: int = 0) -> int:
    """Damaged requests for a while, and at `least` some; how many."""
    random = Random(seed)
    count = 0
    with server.client() as patient:  # what is compiled at first use is not what is tested here
        make_scene(patient).digest(patient)
    with server.client(ANSWER_LIMIT_S) as client, server.watch_memory() as memory:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline or count < least:
            scene = make_scene(client)
            payloads = valid_payloads(scene)
            digest = scene.digest(client)
            for _ in range(REQUESTS_PER_SCENE):
                method, path, body = random.choice(payloads)
                damaged = mutated(random, body)
                count += 1
                what = f"FASCICLE_SEED={seed}, request {count}: {method} {path} with {damaged[:300]!r}"
                try:
                    reply = client.request(method, path, damaged)
                except TimeoutError:
                    raise AssertionError(f"no answer within {ANSWER_LIMIT_S:g} s: {what}") from None
                assert reply.status < 500, f"{reply.status} {reply.body[:500]!r}: {what}"
                after = scene.digest(client)
                kept = reply.status == 200 or path.endswith(KEEPS_PARTS) or after == digest
                assert kept, f"{reply.status}, yet the data changed: {what}"
                digest = after
                if time.monotonic() > deadline and count >= least:
                    break
    assert memory.peak_anonymous_bytes < MEMORY_LIMIT_BYTES, f"{memory.peak_anonymous_bytes >> 20} MB"
    return count


def test_valid_payloads_are_valid(server: RunningServer) -> None:
    """What is damaged below is answered with 200 when it is not, if not after the others then on data of its own."""
    with server.client() as client:
        scene = make_scene(client)
        for at in range(len(valid_payloads(scene))):
            for _ in range(2):
                method, path, body = valid_payloads(scene)[at]
                reply = client.request(method, path, body)
                expected = 400 if path.endswith("/merge") and "/repo/" in path else 200
                if reply.status == expected:
                    break
                scene = make_scene(client)
            assert reply.status == expected, f"{method} {path}: {reply.status} {reply.body[:300]!r}"


def test_some_damaged_requests(server: RunningServer) -> None:
    """A quick part of the below for every run of the tests."""
    assert play(server, SEED + 1000, 4, least=20) >= 20


@pytest.mark.slow
def test_damaged_requests(launch: Callable[..., RunningServer]) -> None:
    print(f"{play(launch(), SEED, FUZZ_S)} damaged requests")
