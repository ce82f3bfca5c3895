"""`kill -9` of all of a server's processes during concurrent edits: nothing acknowledged is lost, nothing is half done.

Each round starts the server on the store that the rounds before left, checks everything against the model, edits with
several clients at once, and kills. An edit that was not answered may have happened or not, but wholly: its record in
`/mutations` says which, for block writes the voxels do, for edits of annotations their blocks: bodies, tags and counts
must then agree with that. FASCICLE_CRASH_ROUNDS says how many rounds (default 30), FASCICLE_SEED seeds them.
"""

from __future__ import annotations

import http.client
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import pytest

from proofreading import points, queries
from proofreading.edits import Edit, perform, random_edit
from proofreading.model import State, World, empty_world
from proofreading.queries import Query, difference
from serving import Client, RunningServer, new_instance, new_repo

ROUNDS = int(os.environ.get("FASCICLE_CRASH_ROUNDS", "30"))
SEED = int(os.environ.get("FASCICLE_SEED", "1"))
START_LIMIT_S = 20.0
FIRST_EDIT_LIMIT_S = 180.0
KEYS_PER_WRITER = 40
LIVES = 8
"""Rounds after which the labelmaps are given up for new ones, so that the model stays quick."""
NO_ANSWER = (OSError, http.client.HTTPException)


class Lost(AssertionError):
    """What a server must never do."""


@dataclass
class KeyWriter:
    """One client that puts and deletes keys of its own, and what every key must hold afterwards."""

    instance: str
    random: Random
    name: str
    stored: dict[str, bytes | None] = field(default_factory=dict)
    in_flight: tuple[str, bytes | None] | None = None
    acknowledged: int = 0

    def work(self, client: Client) -> None:
        while True:
            key = f"{self.name}-{self.random.randrange(KEYS_PER_WRITER)}"
            size = self.random.choice([0, 10, 1000, 5000, 200_000])
            value = None if self.random.random() < 0.15 else self.random.randbytes(size)
            self.in_flight = (key, value)
            path = f"{self.instance}/key/{key}"
            (client.delete(path) if value is None else client.post(path, value)).expect()
            self.stored[key] = value
            self.in_flight = None
            self.acknowledged += 1

    def settle(self, client: Client) -> None:
        """Compare every key with what was acknowledged; a put in flight may have happened."""
        for key, value in self.stored.items() | ({self.in_flight} if self.in_flight else set()):
            allowed = [self.stored.get(key)]
            if self.in_flight and self.in_flight[0] == key:
                allowed.append(self.in_flight[1])
            reply = client.get(f"{self.instance}/key/{key}")
            found = None if reply.status == 404 else reply.expect().body
            if found not in allowed:
                raise Lost(f"key {key} holds {found and len(found)} bytes instead of {value and len(value)}")
        for key in self.stored.keys() | ({self.in_flight[0]} if self.in_flight else set()):
            reply = client.get(f"{self.instance}/key/{key}")
            self.stored[key] = None if reply.status == 404 else reply.body
        self.in_flight = None
        listed = set(client.get(f"{self.instance}/keyrange/{self.name}-/{self.name}-~").expect().json())
        expected = {key for key, value in self.stored.items() if value is not None}
        if listed != expected:
            raise Lost(f"keys that are listed but not stored or the reverse: {sorted(listed ^ expected)}")


@dataclass
class Proofreader:
    """One client that edits a labelmap of its own, and annotations that follow it and are counted."""

    uuid: str
    random: Random
    name: str
    world: World
    grid: tuple[int, int, int] = (3, 2, 3)
    in_flight: Edit | None = None
    acknowledged: int = 0
    happened_unanswered: int = 0

    @property
    def instance(self) -> str:
        return f"/api/node/{self.uuid}/{self.name}"

    def work(self, client: Client) -> None:
        while True:
            state = self.world.versions[self.uuid]
            edit = None
            if state.index and self.random.random() < 0.5:
                edit = points.random_edit(self.random, self.world, state, self.grid)
            if edit is None:
                edit = random_edit(self.random, self.world, state, self.grid)
            self.in_flight = edit
            outcome = perform(client, edit, self.name)
            self.world = edit.after(self.world, outcome)
            self.in_flight = None
            self.acknowledged += 1

    def settle(self, client: Client) -> None:
        """Find out whether the edit in flight happened, then compare everything with the model."""
        edit, self.in_flight = self.in_flight, None
        if edit is not None and edit.status == 200:
            outcome = self._outcome(client, edit)
            if outcome is not None:
                self.happened_unanswered += 1
                self.world = edit.after(self.world, outcome)
        state = self.world.versions[self.uuid]
        for question in whole_state(state):
            answer, expected = question.ask(client, self.instance), question.expect(state)
            if answer != expected:
                raise Lost(f"in flight: {edit}; {difference(question, state, expected, answer)}")

    def _outcome(self, client: Client, edit: Edit) -> dict[str, Any] | None:
        """The outcome of an edit that was not answered, or None if it did not happen."""
        state = self.world.versions[self.uuid]
        if edit.recorded:
            records = client.get(f"{self.instance}/mutations").expect().json()
            if len(records) > len(state.actions) + 1:
                raise Lost(f"{len(records)} records after {len(state.actions)} edits and one in flight")
            return records[-1] if len(records) > len(state.actions) else None
        after = edit.apply(state, {})
        telling = [question for question in whole_state(after) if question.path.startswith(edit.told_by)]
        happened = all(question.ask(client, self.instance) == question.expect(after) for question in telling)
        return {} if happened else None


def whole_state(state: State) -> list[Query]:
    """All that is compared after a crash."""
    return [*queries.whole_state(state), *points.whole_state(state)]


class Rounds:
    """One store through all rounds."""

    def __init__(self, server: RunningServer, seed: int) -> None:
        self.server = server
        self.random = Random(seed)
        self.key_writers: list[KeyWriter] = []
        self.proofreaders: list[Proofreader] = []
        self.slowest_start_s = 0.0
        self.writes = self.edits = self.unanswered = 0

    def count(self) -> None:
        """Add up what was done to instances that are given up."""
        self.writes += sum(writer.acknowledged for writer in self.key_writers)
        self.edits += sum(proofreader.acknowledged for proofreader in self.proofreaders)
        self.unanswered += sum(proofreader.happened_unanswered for proofreader in self.proofreaders)

    def prepare(self, client: Client, at: int) -> None:
        """New instances: for the first round, and when the old ones have lived long enough."""
        self.count()
        uuid = new_repo(client, f"crash {at}")
        path = new_instance(client, uuid, "keyvalue", "keys")
        names = ["one", "two"]
        self.key_writers = [KeyWriter(path, Random(self.random.random()), name) for name in names]
        self.proofreaders = []
        for name in ("first", "second"):
            new_instance(client, uuid, "labelmap", name, BlockSize="32,32,32", MaxDownresLevel="1")
            points.new_followers(client, uuid, name)
            world = empty_world(uuid, (32, 32, 32), 2)
            self.proofreaders.append(Proofreader(uuid, Random(self.random.random()), name, world))

    def play(self, at: int) -> None:
        """Start, compare, edit, kill."""
        self.server.start()
        self.slowest_start_s = max(self.slowest_start_s, self.server.start_s)
        if self.server.start_s > START_LIMIT_S:
            raise Lost(f"the start took {self.server.start_s:.1f} s")
        with self.server.client() as client:
            for worker in self.key_writers + self.proofreaders:
                worker.settle(client)
            if at % LIVES == 0:
                self.prepare(client, at)
        problems: list[BaseException] = []

        def run(work: Callable[[Client], None]) -> None:
            with self.server.client() as client:
                try:
                    work(client)
                except NO_ANSWER:
                    pass
                except BaseException as error:
                    problems.append(error)

        threads = [
            threading.Thread(target=run, args=(worker.work,), daemon=True)
            for worker in self.key_writers + self.proofreaders
        ]
        for thread in threads:
            thread.start()
        if at == 0:  # the first edits of an installation wait for kernels to be compiled
            until = time.monotonic() + FIRST_EDIT_LIMIT_S
            while not any(one.acknowledged for one in self.proofreaders) and not problems and time.monotonic() < until:
                time.sleep(0.05)
        time.sleep(self.random.uniform(0.05, 1.2))
        self.server.kill9()
        for thread in threads:
            thread.join()
        if problems:
            raise Lost(f"an edit failed before the server was killed: {problems[0]!r}") from problems[0]

    def last_look(self) -> None:
        self.server.start()
        with self.server.client() as client:
            for worker in self.key_writers + self.proofreaders:
                worker.settle(client)
        assert self.server.stop() == 0


def rounds(server: RunningServer, count: int) -> None:
    playing = Rounds(server, SEED)
    for at in range(count):
        try:
            playing.play(at)
        except AssertionError as error:
            raise AssertionError(f"round {at} of FASCICLE_SEED={SEED}: {error}\n{server.log_text()[-2000:]}") from error
    playing.last_look()
    playing.count()
    assert playing.edits >= count / 2, "there was hardly anything to lose"
    print(
        f"{count} rounds, {playing.writes} keys written, {playing.edits} edits of labelmaps, {playing.unanswered} more "
        f"had happened without an answer, slowest start {playing.slowest_start_s:.2f} s"
    )


@pytest.mark.slow
def test_nothing_acknowledged_is_lost(tmp_path: Path) -> None:
    server = RunningServer(tmp_path / "data")
    try:
        rounds(server, ROUNDS)
    finally:
        server.kill9()


def test_one_killed_server(tmp_path: Path) -> None:
    """A quick part of the above for every run of the tests."""
    server = RunningServer(tmp_path / "data")
    try:
        rounds(server, 2)
    finally:
        server.kill9()
