"""Which value of a key is seen at a version: the rules, and a model that walks the graph."""

from __future__ import annotations

import pytest
from catalogs import Workbench
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from fascicle.errors import ConflictError
from fascicle.versions.model import Node
from fascicle.versions.resolution import VersionedView

DEAD = object()
CONFLICT = object()


def model_get(bench: Workbench, entries: dict[int, object], version: int) -> object:
    """The value seen at a version, by visiting all ancestors: what is first on some way up counts, unless something
    that descends from it is also seen; tombstones hide but are no values."""
    catalog = bench.catalog

    def above(start: int) -> set[int]:
        found: set[int] = set()
        todo = list(catalog.node(start).parents)
        while todo:
            number = todo.pop()
            if number not in found:
                found.add(number)
                todo += catalog.node(number).parents
        return found

    reachable = {number for number in above(version) | {version} if number in entries}
    first = {number for number in reachable if not any(number in above(other) for other in reachable)}
    live = [number for number in first if entries[number] is not DEAD]
    if len(live) > 1:
        return CONFLICT
    return entries[live[0]] if live else None


TABLE = [
    ("1a", b"a", b"a"),
    ("1a 2b", b"b", b"b"),
    ("1a 3c", b"c", b"c"),
    ("1a 2b 3c", CONFLICT, CONFLICT),
    ("1a 2b 3c 5e", CONFLICT, b"e"),
    ("1a 2-", None, None),
    ("2- 3c", b"c", b"c"),
    ("2b 3- 1a", b"b", b"b"),
    ("2b 4-", None, None),
    ("2b 4d", b"d", b"d"),
]


@pytest.mark.parametrize(("entries", "at_4", "at_5"), TABLE)
def test_table_of_values_deletions_and_conflicts(entries: str, at_4: object, at_5: object) -> None:
    bench = Workbench()
    one = bench.root(bench.repo())
    two = bench.child(one)
    three = bench.branch(one, "side")
    four = bench.merge(two, three)
    five = bench.child(four)
    nodes = {"1": one, "2": two, "3": three, "4": four, "5": five}
    instance = bench.instance(five)
    for entry in entries.split():
        _write(bench, instance.id, nodes[entry[0]], b"key", DEAD if entry[1] == "-" else entry[1].encode())
    assert _read(bench, instance.id, four, b"key") == at_4
    assert _read(bench, instance.id, five, b"key") == at_5


def _write(bench: Workbench, instance_id: int, node: Node, key: bytes, value: object) -> None:
    ancestry = bench.catalog.ancestry(node.id)

    def change(txn):  # type: ignore[no-untyped-def]
        view = VersionedView(txn, instance_id, ancestry)
        if isinstance(value, bytes):
            view.put(1, key, value)
        else:
            view.delete(1, key)

    bench.store.write(change)


def _read(bench: Workbench, instance_id: int, node: Node, key: bytes) -> object:
    with bench.store.read() as txn:
        try:
            return VersionedView(txn, instance_id, bench.catalog.ancestry(node.id)).get(1, key)
        except ConflictError:
            return CONFLICT


class Versions(RuleBasedStateMachine):
    """Versions, branches, merges, values and deletions in any order, against the model."""

    @initialize()
    def start(self) -> None:
        self.bench = Workbench()
        self.nodes = [self.bench.root(self.bench.repo())]
        self.instance = self.bench.instance(self.nodes[0])
        self.entries: dict[bytes, dict[int, object]] = {key: {} for key in KEYS}
        self.branches = 0

    @rule(at=st.integers(0, 99), key=st.sampled_from([b"a1", b"b2", b"c3"]), value=st.binary(max_size=3))
    def put(self, at: int, key: bytes, value: bytes) -> None:
        node = self.nodes[at % len(self.nodes)]
        _write(self.bench, self.instance.id, node, key, value)
        self.entries[key][node.id] = value

    @rule(at=st.integers(0, 99), key=st.sampled_from([b"a1", b"b2", b"c3"]))
    def delete(self, at: int, key: bytes) -> None:
        node = self.nodes[at % len(self.nodes)]
        _write(self.bench, self.instance.id, node, key, DEAD)
        self.entries[key][node.id] = DEAD

    @rule(at=st.integers(0, 99))
    def branch(self, at: int) -> None:
        self.branches += 1
        self.nodes.append(self.bench.branch(self.nodes[at % len(self.nodes)], f"b{self.branches}"))

    @rule(at=st.integers(0, 99))
    def child(self, at: int) -> None:
        node = self.bench.catalog.node(self.nodes[at % len(self.nodes)].id)
        if not any(self.bench.catalog.node(child).branch == node.branch for child in node.children):
            self.nodes.append(self.bench.child(node))

    @rule(first=st.integers(0, 99), second=st.integers(0, 99))
    def merge(self, first: int, second: int) -> None:
        one, two = self.nodes[first % len(self.nodes)], self.nodes[second % len(self.nodes)]
        catalog = self.bench.catalog
        taken = any(catalog.node(child).branch == one.branch for child in catalog.node(one.id).children)
        if one.id != two.id and not taken:
            self.nodes.append(self.bench.merge(one, two))

    @invariant()
    def every_version_sees_what_the_model_sees(self) -> None:
        if not hasattr(self, "nodes"):
            return
        for node in self.nodes[-4:]:
            expected = {key: model_get(self.bench, self.entries[key], node.id) for key in KEYS}
            for key in KEYS:
                assert _read(self.bench, self.instance.id, node, key) == expected[key]
            with self.bench.store.read() as txn:
                view = VersionedView(txn, self.instance.id, self.bench.catalog.ancestry(node.id))
                if CONFLICT in expected.values():
                    with pytest.raises(ConflictError):
                        list(view.scan(1))
                else:
                    seen = {key: view.load(handle) for key, _, handle in view.scan(1)}
                    assert seen == {key: value for key, value in expected.items() if value is not None}


KEYS = [b"a1", b"b2", b"c3"]
TestVersions = Versions.TestCase
TestVersions.settings = settings(
    max_examples=20, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
)
