"""Random proofreading against the model, with concurrent readers: every read endpoint agrees at every version.

FASCICLE_SEQUENCES says how many sequences (default 60), FASCICLE_SEED which is the first. A failure prints its seed and
the operations; `FASCICLE_SEED=N FASCICLE_SEQUENCES=1` plays that sequence alone.
"""

from __future__ import annotations

import http.client
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from random import Random
from typing import Any

import pytest

from proofreading import points, queries
from proofreading.edits import perform, random_edit
from proofreading.model import State, World, empty_world
from proofreading.queries import Query, difference
from proofreading.wire import Block
from serving import RunningServer, new_instance, new_repo

FIRST_SEED = int(os.environ.get("FASCICLE_SEED", "1"))
SEQUENCES = int(os.environ.get("FASCICLE_SEQUENCES", "60"))
SEQUENCES_PER_TEST = 10
READERS = 2
OPERATIONS = 18
QUESTIONS = 12
"""After every operation, at versions drawn at random."""

SHAPES: tuple[tuple[Block, Block], ...] = (
    ((32, 32, 32), (3, 3, 2)),
    ((32, 32, 32), (2, 3, 4)),
    ((16, 16, 16), (5, 4, 5)),
    ((64, 64, 64), (2, 2, 2)),
    ((32, 16, 48), (3, 4, 2)),
)
"""Block sizes, and volumes in blocks."""


class Sequence:
    """One instance and all that happens to it."""

    def __init__(self, server: RunningServer, seed: int) -> None:
        self.random = Random(seed)
        self.server = server
        self.client = server.client()
        self.block_size, self.grid = self.random.choice(SHAPES)
        self.scales = self.random.choice([1, 2, 3])
        root = new_repo(self.client, f"sequence {seed}")
        new_instance(
            self.client,
            root,
            "labelmap",
            "seg",
            BlockSize=",".join(map(str, self.block_size)),
            MaxDownresLevel=str(self.scales - 1),
        )
        points.new_followers(self.client, root, "seg")
        self.history: list[World] = [empty_world(root, self.block_size, self.scales)]
        """The states after 0, 1, 2, ... operations."""
        self.begun = 0
        self.operations: list[str] = [f"block size {self.block_size}, {self.grid} blocks, {self.scales} scales"]
        self.burnt_ids = False

    @property
    def world(self) -> World:
        return self.history[-1]

    def play(self) -> None:
        with self.readers():
            for _ in range(OPERATIONS):
                self.operate()
                self.check(QUESTIONS)
        for state in self.world.versions.values():
            for question in [*queries.whole_state(state), *points.whole_state(state)]:
                self.compare(question, state)

    def operate(self) -> None:
        """One edit, or one new version."""
        world = self.world
        open_versions = [state.uuid for state in world.open_versions()]
        filled = [uuid for uuid in open_versions if world.versions[uuid].index]
        if (self.random.random() < 0.15 and filled) or not open_versions:
            self.make_version(self.random.choice(filled) if filled else self.random.choice(list(world.versions)))
            return
        state = world.versions[self.random.choice(open_versions)]
        edit = None
        if state.index and self.random.random() < 0.45:
            edit = points.random_edit(self.random, world, state, self.grid)
        if edit is None:
            edit = random_edit(self.random, world, state, self.grid)
        self.operations.append(str(edit))
        self.begun += 1
        outcome = perform(self.client, edit)
        self.burnt_ids |= edit.status != 200 and not edit.path.startswith("-")
        self.history.append(edit.after(world, outcome))

    def make_version(self, uuid: str) -> None:
        """Commit a version and give it one or two children."""
        path = f"/api/node/{uuid}"
        self.operations.append(f"commit {uuid[:6]}")
        self.begun += 1
        self.client.post(f"{path}/commit", {"note": "done"}).expect()
        self.history.append(self.world.with_commit(uuid))
        self._add_child(uuid, f"{path}/newversion", {"note": "next"})
        if self.random.random() < 0.5:
            committed = [state.uuid for state in self.world.versions.values() if state.locked]
            parent = self.random.choice(committed)
            self._add_child(parent, f"/api/node/{parent}/branch", {"branch": f"branch-{len(self.history)}"})

    def _add_child(self, parent: str, path: str, settings: dict[str, str]) -> None:
        self.begun += 1
        child = self.client.post(path, settings).expect().json()["child"]
        self.operations.append(f"{path.rpartition('/')[2]} of {parent[:6]}: {child[:6]}")
        self.history.append(self.world.with_child(parent, child))

    # -- reading -------------------------------------------------------------------------------------------------

    def check(self, count: int) -> None:
        for _ in range(count):
            state = self.random.choice(list(self.world.versions.values()))
            makers = points.QUESTIONS if self.random.random() < 0.4 else queries.MAKERS
            self.compare(self.random.choice(makers)(self.random, state), state)
        if not self.burnt_ids:
            self.compare(queries.next_label(self.world), state)

    def compare(self, question: Query, state: State) -> None:
        answer = question.ask(self.client, f"/api/node/{state.uuid}/seg")
        expected = question.expect(state)
        assert answer == expected, difference(question, state, expected, answer)

    @contextmanager
    def readers(self) -> Iterator[None]:
        """Threads that ask while edits happen; their answers must be those of a moment between question and answer."""
        ended = threading.Event()
        asked: list[tuple[int, int, str, Query, Any]] = []
        problems: list[BaseException] = []
        seeds = [self.random.randrange(1 << 30) for _ in range(READERS)]

        def read(seed: int) -> None:
            random = Random(seed)
            try:
                with self.server.client() as client:
                    while not ended.is_set():
                        first = len(self.history) - 1
                        states = list(self.history[first].versions.values())
                        state = random.choice([state for state in states if not state.locked] or states)
                        makers = points.QUESTIONS if random.random() < 0.4 else queries.MAKERS
                        question = random.choice(makers)(random, state)
                        answer = question.ask(client, f"/api/node/{state.uuid}/seg")
                        asked.append((first, self.begun, state.uuid, question, answer))
                        ended.wait(0.02)
            except (AssertionError, OSError, http.client.HTTPException) as error:
                problems.append(error)

        threads = [threading.Thread(target=read, args=(seed,)) for seed in seeds]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            ended.set()
            for thread in threads:
                thread.join()
        assert not problems, f"a concurrent reader failed: {problems[0]!r}"
        for first, last, uuid, question, answer in asked:
            states = [world.versions[uuid] for world in self.history[first : last + 1]]
            moments = list({id(state): state for state in states}.values())
            assert any(question.expect(state) == answer for state in moments), (
                f"asked while operations {first} to {last} of {len(self.history) - 1} happened, the answer is none of "
                f"{len(moments)} states; " + difference(question, states[-1], question.expect(states[-1]), answer)
            )


@pytest.mark.slow
@pytest.mark.parametrize("group", range(-(-SEQUENCES // SEQUENCES_PER_TEST)))
def test_random_proofreading(server: RunningServer, group: int) -> None:
    first = FIRST_SEED + group * SEQUENCES_PER_TEST
    for seed in range(first, min(first + SEQUENCES_PER_TEST, FIRST_SEED + SEQUENCES)):
        sequence = Sequence(server, seed)
        try:
            sequence.play()
        except AssertionError as error:
            steps = "\n".join(f"  {at}. {operation}" for at, operation in enumerate(sequence.operations))
            raise AssertionError(f"FASCICLE_SEED={seed}: {error}\n{steps}") from error
        finally:
            sequence.client.close()


def test_one_short_sequence(server: RunningServer) -> None:
    """A quick part of the above for every run of the tests."""
    Sequence(server, 0).play()
