"""Counts and ranks against counting points one by one, at versions and branches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest
from counted_versions import Counted, Point, check, points
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from fascicle.datatypes.annotation.events import Points
from fascicle.datatypes.annotation.kind_counts import summed
from fascicle.datatypes.labelsz import counting, tallies
from fascicle.errors import ConflictError
from fascicle.store.base import WriteTransaction

LABELS = [1, 2, 3, 7, (1 << 64) - 1]
some_points = st.lists(st.tuples(st.sampled_from(LABELS), st.integers(0, 4)), max_size=8)


class CountsFollow(RuleBasedStateMachine):
    """Points come, go and change their bodies at open versions; every version is asked for everything."""

    @initialize()
    def begin(self) -> None:
        self.counted = Counted()
        self.held: dict[int, Counter[Point]] = {self.counted.root: Counter()}
        self.open = [self.counted.root]
        self.changed = self.counted.root

    @rule(data=st.data(), added=some_points)
    def change(self, data: st.DataObject, added: list[Point]) -> None:
        version = data.draw(st.sampled_from(self.open))
        held = self.held[version]
        there = sorted(held.elements())
        places = data.draw(st.sets(st.integers(0, len(there) - 1), max_size=8)) if there else set()
        removed = [there[place] for place in places]
        self.counted.change(version, removed, added)
        held.subtract(removed)
        held.update(added)
        self.changed = version

    @rule(data=st.data(), chosen=st.lists(st.sampled_from(LABELS), min_size=2, max_size=4, unique=True))
    def join(self, data: st.DataObject, chosen: list[int]) -> None:
        version = data.draw(st.sampled_from(self.open))
        target, *merged = chosen
        self.counted.join(version, target, *merged)
        moved: Counter[Point] = Counter()
        for (label, kind), count in self.held[version].items():
            moved[target if label in merged else label, kind] += count
        self.held[version] = moved
        self.changed = version

    @rule(data=st.data())
    def empty(self, data: st.DataObject) -> None:
        version = data.draw(st.sampled_from(self.open))
        self.counted.empty(version)
        self.held[version] = Counter()
        assert self.counted.rows(version)["live"] == 0
        self.changed = version

    @rule(data=st.data(), as_branch=st.booleans())
    def new_version(self, data: st.DataObject, as_branch: bool) -> None:
        parent = data.draw(st.sampled_from(sorted(self.held)))
        child = self.counted.child(parent, f"branch {len(self.held)}")
        self.open = [version for version in self.open if version != parent] + [child]
        self.held[child] = Counter(self.held[parent])
        self.changed = child

    @invariant()
    def the_version_is_right(self) -> None:
        check(self.counted, self.changed, self.held[self.changed], LABELS)

    @invariant()
    def tombstones_hide_something(self) -> None:
        if self.changed == self.counted.root:
            assert self.counted.rows(self.changed)["dead"] == 0

    def teardown(self) -> None:
        for version, held in getattr(self, "held", {}).items():
            check(self.counted, version, held, LABELS)


CountsFollow.TestCase.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
TestCountsFollow = CountsFollow.TestCase


def test_counts_that_come_back_leave_nothing_behind() -> None:
    counted = Counted()
    counted.change(counted.root, added=[(5, 1)] * 10)
    child = counted.child(counted.root)
    for _ in range(50):
        counted.change(child, added=[(5, 1), (6, 2)])
    assert counted.rows(child) == {"dead": 2, "live": 4}
    assert counted.ranking(child, "PostSyn") == [(5, 60)]
    for _ in range(50):
        counted.change(child, removed=[(5, 1), (6, 2)])
    assert counted.rows(child) == {}
    assert counted.ranking(child, "PostSyn") == counted.ranking(counted.root, "PostSyn") == [(5, 10)]


def test_what_adds_up_to_nothing_writes_nothing() -> None:
    counted = Counted()
    counted.change(counted.root, added=[(5, 1)])
    with counted.store.read() as txn:
        before = list(txn.scan(b"", b"\xff"))
    counted.change(counted.root, removed=[(5, 1), (6, 2)], added=[(6, 2), (5, 1)])
    counted.join(counted.root, 5, 9)
    with counted.store.read() as txn:
        assert list(txn.scan(b"", b"\xff")) == before


def test_no_count_falls_below_zero() -> None:
    counted = Counted()
    counted.change(counted.root, added=[(5, 1)])
    counted.change(counted.root, removed=[(5, 1), (5, 1), (6, 3)], added=[(5, 2)])
    check(counted, counted.root, Counter([(5, 2)]), [5, 6])


@given(some_points, some_points)
def test_summing(added: list[Point], removed: list[Point]) -> None:
    given_points = points(added + removed)
    signs = np.array([1] * len(added) + [-1] * len(removed), np.int64)
    labels, changes = summed(given_points.labels, given_points.kinds, signs)
    truth = Counter(added)
    truth.subtract(removed)
    assert labels.tolist() == sorted({label for label, _ in added + removed})
    assert {(label, kind): changes[i, kind] for i, label in enumerate(labels.tolist()) for kind in range(5)} == {
        (label, kind): truth[label, kind] for label in labels.tolist() for kind in range(5)
    }


# -- merged versions


@pytest.fixture
def torn() -> tuple[Counted, int]:
    """A merged version whose parents disagree about label 1, and agree about the others."""
    counted = Counted()
    counted.change(counted.root, added=[(label, 1) for label in (1, 1, 2, 2, 3, 3)])
    left, right = counted.child(counted.root, "left"), counted.child(counted.root, "right")
    counted.change(left, added=[(1, 1), (2, 2)])
    counted.change(right, added=[(1, 2)], removed=[(3, 1)])
    return counted, counted.merged(left, right)


def test_a_change_on_one_side_is_seen(torn: tuple[Counted, int]) -> None:
    counted, merged = torn
    assert [counted.count(merged, 2, index) for index in ("PostSyn", "PreSyn", "AllSyn")] == [2, 1, 3]
    assert counted.count(merged, 3, "PostSyn") == 1
    assert (3, 2) not in counted.ranking(merged, "PostSyn")
    with pytest.raises(ConflictError):
        counted.count(merged, 1, "PostSyn")


def test_edits_go_on_until_a_reload_decides(torn: tuple[Counted, int]) -> None:
    counted, merged = torn
    held = Counter([(1, 1), (1, 1), (1, 1), (1, 2), (2, 1), (2, 1), (2, 2), (3, 1)])
    counted.change(merged, added=[(1, 3), (2, 3), (7, 1)])
    held.update([(1, 3), (2, 3), (7, 1)])
    assert counted.count(merged, 2, "Gap") == 1
    reload_with(counted, merged, held)
    check(counted, merged, held, LABELS)
    for added in ([(1, 1), (1, 2)], [(1, 1)], [(2, 1), (3, 1)]):
        counted.change(merged, added=added)
        held.update(added)
        check(counted, merged, held, LABELS)
    for removed in ([(1, 1), (1, 1)], [(1, 1)], [(1, 2), (1, 2), (2, 1)], [(1, 1)]):
        counted.change(merged, removed=removed)
        held.subtract(removed)
        check(counted, merged, held, LABELS)
    child = counted.child(merged)
    counted.join(child, 7, 1)
    below = Counter({((7 if label == 1 else label), kind): 0 for label, kind in held})
    for (label, kind), count in held.items():
        below[7 if label == 1 else label, kind] += count
    check(counted, child, below, LABELS)
    check(counted, merged, held, LABELS)
    counted.empty(child)
    check(counted, child, Counter(), LABELS)


def test_a_torn_label_may_be_emptied(torn: tuple[Counted, int]) -> None:
    counted, merged = torn
    counted.empty(merged)
    check(counted, merged, Counter(), LABELS)


# -- reload


def reload_with(counted: Counted, version: int, held: Counter[Point]) -> None:
    """What a reload does, with the points that an annotation would give."""
    given_points = points(held.elements())
    labels, counts = summed(given_points.labels, given_points.kinds)
    with counted.store.read() as txn:
        parts = list(counting._differences(counted.view(txn, version), labels, counts))

    def correct(txn: WriteTransaction) -> None:
        view = counted.view(txn, version)
        for labels, changes, torn_labels, right in parts:
            tallies.settle(view, torn_labels, right)
            tallies.add(view, labels, changes)

    counted.store.write(correct)


@settings(max_examples=40)
@given(some_points, some_points, some_points)
def test_a_reload_makes_counts_right(first: list[Point], second: list[Point], truth: list[Point]) -> None:
    counted = Counted()
    counted.change(counted.root, added=first)
    child = counted.child(counted.root)
    counted.change(child, added=second)
    reload_with(counted, child, Counter(truth))
    check(counted, child, Counter(truth), LABELS)
    check(counted, counted.root, Counter(first), LABELS)


def test_a_reload_of_right_counts_finds_nothing_to_do() -> None:
    counted = Counted()
    counted.change(counted.root, added=[(5, 1), (6, 2)])
    given_points = points([(5, 1), (6, 2)])
    with counted.store.read() as txn:
        view = counted.view(txn, counted.root)
        assert not list(counting._differences(view, *summed(given_points.labels, given_points.kinds)))


def test_points_are_summed_in_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(3)
    labels = generator.integers(1, 3000, 20_000).astype(np.uint64)
    kinds = generator.integers(0, 5, 20_000).astype(np.uint8)

    def pieces(*_: object) -> Iterator[Points]:
        for at in range(0, len(labels), 700):
            part = slice(at, at + 700)
            yield Points(labels[part], kinds[part], np.zeros((len(labels[part]), 3), np.int32))

    monkeypatch.setattr(counting, "counted_points", pieces)
    monkeypatch.setattr(counting, "_SUMMED_CELLS", 1000)
    found = counting.recounted(None, None, [None], None, counting.Everywhere())  # type: ignore[arg-type,list-item]
    wanted = summed(labels, kinds)
    assert np.array_equal(found[0], wanted[0])
    assert np.array_equal(found[1], wanted[1])
