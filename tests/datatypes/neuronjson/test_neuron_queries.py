"""Queries and lists of everything, at many versions and after any edits, agree with a brute-force evaluator."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from fascicle.datatypes.keyvalue import messages
from fascicle.datatypes.neuronjson import storage, tables
from serving import RunningServer, new_instance, new_repo

sys.path.insert(0, str(Path(__file__).parents[2] / "server"))
sys.path.insert(0, str(Path(__file__).parent))
import oracle
from in_process import InProcess

FIELDS = ["type", "status", "group", "pos", "tags", "score", "free"]
WORDS = ["KC", "KCab", "MBON01", "", "é", 'a"b', "re/x", "line\nbreak", "exists", "\\d"]
PATTERNS = ["^K", "b$", ".", "", "é|O", "(", r"\d", r"\n", '"', r"(?i)^kc", "(?=a)", "[^K]b", r"\bab", "^$"]
NUMBERS = [0, 1, 2, 7, -3, 1 << 63, (1 << 64) - 1, -(1 << 63)]


def random_value(choose: random.Random) -> Any:
    """A value of any kind that fields may have."""
    return choose.choice(
        (
            lambda: choose.choice(WORDS),
            lambda: choose.choice(WORDS),
            lambda: choose.choice(NUMBERS),
            lambda: choose.choice([0.5, 2.0, -1.25, 7.0]),
            lambda: choose.sample(NUMBERS, choose.randrange(4)),
            lambda: choose.sample(WORDS, choose.randrange(4)),
            lambda: choose.choice([True, False, {}, {"a": [1, {"b": 2.5}]}, [1, "x"], [0.5, 1.5], [1, None], [[1]]]),
        )
    )()


def random_condition(choose: random.Random) -> Any:
    def text() -> str:
        return choose.choice(WORDS) if choose.random() < 0.6 else "re/" + choose.choice(PATTERNS)

    return choose.choice(
        (
            text,
            text,
            lambda: choose.choice(NUMBERS),
            lambda: choose.sample(NUMBERS, choose.randrange(4)),
            lambda: [text() for _ in range(choose.randrange(4))],
            lambda: choose.choice(["exists/0", "exists/1", "exists/x"]),
            lambda: choose.choice([0.5, [0.5, 2.5], [0.5, 2.0, 1], True, None, {}, [None], [1, "x"], 1 << 70]),
        )
    )()


def random_query(choose: random.Random) -> Any:
    def one() -> dict[str, Any]:
        names = choose.sample([*FIELDS, "type_user", "absent"], choose.choice((0, 1, 1, 1, 2, 3)))
        made = {name: random_condition(choose) for name in names}
        if choose.random() < 0.1 and names:
            made["bodyid"] = choose.sample(range(1, 30), 5)
        return made

    return one() if choose.random() < 0.6 else [one() for _ in range(choose.randrange(1, 4))]


Documents = dict[int, dict[str, Any]]


def check(ask: Callable[[str, Any], bytes], documents: Documents, choose: random.Random) -> None:
    """Compare answers at one version with its documents; `ask` takes the end of a path and a body."""
    query = random_query(choose)
    found = oracle.asked(query, documents)
    assert json.loads(ask("query?onlyid=true", oracle.text(query))) == found, query
    shown = json.loads(ask("query?show=all", oracle.text(query)))
    assert shown == [documents[body] for body in found], query
    fields = choose.sample(FIELDS, 2)
    plain = [
        {name: value for name, value in document.items() if name in fields or name == "bodyid"}
        for _, document in sorted(documents.items())
    ]
    listed = json.loads(ask(f"all?fields={','.join(fields)}", b""))
    assert listed == [document for document in plain if len(document) > 1]
    assert json.loads(ask("keys", b"")) == [str(body) for body in sorted(documents)]
    first, last = sorted(choose.sample(range(40), 2))
    within = {str(body): document for body, document in sorted(documents.items()) if first <= body <= last}
    assert json.loads(ask(f"keyrangevalues/{first}/{last}?json=true&show=all", b"")) == within
    everything = json.loads(ask("keyrangevalues/0/z?json=true&show=user", b""))
    assert everything == {
        str(body): {name: value for name, value in document.items() if not name.endswith("_time")}
        for body, document in sorted(documents.items())
    }
    counts: dict[str, int] = {}
    for document in documents.values():
        for name in document:
            counts[name] = counts.get(name, 0) + 1
    assert json.loads(ask("fields?counts=true", b"")) == counts
    assert sorted(json.loads(ask("fields", b""))) == sorted(counts)
    times = {
        name: max(document[f"{name}_time"] for document in documents.values() if f"{name}_time" in document)
        for name in FIELDS
        if f"{name}_time" in counts
    }
    assert json.loads(ask("fieldtimes", b"")) == times


class Annotations(RuleBasedStateMachine):
    """Edits at random versions of a growing graph; each version's answers are compared with its documents."""

    @initialize(seed=st.integers(0, 1 << 30), spare=st.sampled_from([-1_000_000, 500_000]))
    def begin(self, seed: int, spare: int) -> None:
        self.choose = random.Random(seed)
        self.app = InProcess()
        root = self.app.repo()
        self.app.instance(root, "n", "neuronjson")
        self.documents: dict[str, Documents] = {root: {}}
        self.open = [root]
        self.locked: list[str] = []
        self.kept = tables._SPARE_TEXTS
        tables._SPARE_TEXTS = spare  # below zero tables are given up again and again

    def teardown(self) -> None:
        if hasattr(self, "app"):
            self.app.close()
            tables._SPARE_TEXTS = self.kept

    def ask(self, uuid: str) -> Callable[[str, Any], bytes]:
        def answer(path: str, body: bytes) -> bytes:
            reply = self.app.get(f"/api/node/{uuid}/n/{path}", body)
            assert reply.status == 200, reply.text
            return reply.body

        return answer

    def refresh(self, uuid: str, body: int) -> None:
        """What is stored now; that it is right is tested with the rules of updates."""
        reply = self.app.get(f"/api/node/{uuid}/n/key/{body}?show=all")
        assert reply.status == 200, reply.text
        self.documents[uuid][body] = reply.json()

    @rule(body=st.integers(1, 30), many=st.booleans())
    def post(self, body: int, many: bool) -> None:
        if not self.open:
            return
        uuid = self.choose.choice(self.open)
        bodies = self.choose.sample(range(1, 30), 6) if many else [body]
        pairs = []
        for one in bodies:
            names = self.choose.sample(FIELDS, self.choose.randrange(5))
            document = {name: random_value(self.choose) for name in names}
            if self.choose.random() < 0.2:
                document[self.choose.choice(FIELDS)] = None
            pairs.append((str(one).encode(), oracle.text({"bodyid": one, **document})))
        options = f"u={self.choose.choice(['ann', 'bob'])}{self.choose.choice(['', '&replace=true'])}"
        self.app.made(f"/api/node/{uuid}/n/keyvalues?{options}", messages.key_values(pairs))
        for one in bodies:
            self.refresh(uuid, one)

    @rule(body=st.integers(1, 30))
    def delete(self, body: int) -> None:
        if self.open:
            uuid = self.choose.choice(self.open)
            assert self.app.ask("DELETE", f"/api/node/{uuid}/n/key/{body}").status == 200
            self.documents[uuid].pop(body, None)

    @rule()
    def new_version(self) -> None:
        if not self.open:
            return
        uuid = self.choose.choice(self.open)
        self.app.made(f"/api/node/{uuid}/commit", {})
        self.open.remove(uuid)
        self.locked.append(uuid)
        child = self.app.made(f"/api/node/{uuid}/newversion")["child"]
        self.documents[child] = dict(self.documents[uuid])
        self.open.append(child)

    @rule()
    def branch(self) -> None:
        if self.locked:
            uuid = self.choose.choice(self.locked)
            name = f"b{len(self.documents)}"
            child = self.app.made(f"/api/node/{uuid}/branch", {"branch": name})["child"]
            self.documents[child] = dict(self.documents[uuid])
            self.open.append(child)

    @rule()
    def ask_anywhere(self) -> None:
        uuid = self.choose.choice(list(self.documents))
        check(self.ask(uuid), self.documents[uuid], self.choose)

    @rule()
    def forget(self) -> None:
        tables._instances.clear()

    @invariant()
    def counted(self) -> None:
        if hasattr(self, "documents"):
            uuid = self.choose.choice(list(self.documents))
            shown = json.loads(self.ask(uuid)("query?onlyid=true", oracle.text({"absent": "exists/0"})))
            assert shown == sorted(self.documents[uuid])


TestAnnotations = Annotations.TestCase
TestAnnotations.settings = settings(
    max_examples=25, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)


def test_many_queries_on_many_annotations() -> None:
    choose = random.Random(5)
    app = InProcess()
    root = app.repo()
    app.instance(root, "n", "neuronjson")
    path = f"/api/node/{root}/n"
    pairs = [
        (str(body).encode(), oracle.text({"bodyid": body, **{name: random_value(choose) for name in FIELDS}}))
        for body in choose.sample(range(1, 1 << 40), 6000)
    ]
    app.made(f"{path}/keyvalues?u=ann", messages.key_values(pairs))
    documents = {document["bodyid"]: document for document in app.get(f"{path}/all?show=all").json()}
    assert len(documents) == len(pairs)
    for _ in range(60):
        query = random_query(choose)
        found = app.get(f"{path}/query?onlyid=true", oracle.text(query)).json()
        assert found == oracle.asked(query, documents), query
    app.close()


def test_changes_that_are_no_longer_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "KEPT_CHANGES", 4)
    monkeypatch.setattr(storage, "_TRIMMED_EVERY", 1)
    app = InProcess()
    root = app.repo()
    app.instance(root, "n", "neuronjson")
    path = f"/api/node/{root}/n"
    for step in range(1, 30):
        for body in range(1, 2 + step % 9):
            app.made(f"{path}/key/{body}?u=ann", {"bodyid": body, "step": step})
        expected = list(range(1, 2 + step % 9))
        assert app.get(f"{path}/query?onlyid=true", {"step": step}).json() == expected
    app.close()


def test_versions_merged_with_conflicts_resolved() -> None:
    app = InProcess()
    root = app.repo()
    app.instance(root, "n", "neuronjson")
    app.made(f"/api/node/{root}/n/key/1?u=ann", {"bodyid": 1, "type": "first"})
    left = app.child(root)
    right = app.made(f"/api/node/{root}/branch", {"branch": "side"})["child"]
    for uuid, body, text in ((left, 1, "left"), (right, 1, "right"), (right, 2, "right")):
        app.made(f"/api/node/{uuid}/n/key/{body}?u=ann", {"bodyid": body, "type": text})
        assert app.get(f"/api/node/{uuid}/n/query?onlyid=true", {"type": text}).json()[-1] == body
    for uuid in (left, right):
        app.made(f"/api/node/{uuid}/commit", {})
    merged = app.made(f"/api/repo/{root}/resolve", {"data": ["n"], "parents": [left, right]})["child"]
    found = app.get(f"/api/node/{merged}/n/query", {"type": ["left", "right"]}).json()
    assert [(one["bodyid"], one["type"]) for one in found] == [(1, "left"), (2, "right")]
    app.made(f"/api/node/{merged}/n/key/2?u=ann", {"bodyid": 2, "type": "left"})
    assert app.get(f"/api/node/{merged}/n/query?onlyid=true", {"type": "left"}).json() == [1, 2]
    app.made(f"/api/node/{merged}/commit", {})
    children = app.get(f"/api/repo/{root}/info").json()["DAG"]["Nodes"]
    for uuid in children:
        there = {one["bodyid"] for one in app.get(f"/api/node/{uuid}/n/all").json()}
        assert there == {int(key) for key in app.get(f"/api/node/{uuid}/n/keyrange/0/z").json()}
        for body in (1, 2):
            assert (app.get(f"/api/node/{uuid}/n/key/{body}").status == 200) == (body in there)
    app.close()


@pytest.mark.slow
def test_any_worker_sees_what_any_other_has_written(launch: Callable[..., RunningServer]) -> None:
    server = launch("--workers", "2")
    with server.client() as client:
        path = new_instance(client, new_repo(client), "neuronjson", "n")
    expected: dict[int, int] = {}
    for step in range(60):
        with server.client() as client:
            body = 1 + step % 13
            client.post(f"{path}/key/{body}?u=ann", {"bodyid": body, "step": step}).expect()
            expected[body] = step
        with server.client() as client:
            shown = client.request("POST", f"{path}/query", {"step": "exists/1"}).expect().json()
            assert {one["bodyid"]: one["step"] for one in shown} == expected
