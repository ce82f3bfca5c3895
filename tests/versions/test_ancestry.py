"""What versions descend from, against walking the graph."""

from __future__ import annotations

import itertools
import time

from hypothesis import given
from hypothesis import strategies as st

from fascicle.versions.ancestry import Lineage


@st.composite
def graphs(draw: st.DrawFn) -> list[tuple[int, ...]]:
    """Parents of the versions 1, 2, 3 ...: one root, then children of one or more earlier versions."""
    size = draw(st.integers(1, 24))
    parents: list[tuple[int, ...]] = [()]
    for version in range(2, size + 1):
        count = draw(st.sampled_from([1, 1, 1, 2, 3]))
        chosen = draw(st.lists(st.integers(1, version - 1), min_size=1, max_size=count, unique=True))
        parents.append(tuple(chosen))
    return parents


def ancestors(parents: list[tuple[int, ...]], version: int) -> set[int]:
    """A version with all it descends from, by walking."""
    found, todo = set(), [version]
    while todo:
        version = todo.pop()
        if version not in found:
            found.add(version)
            todo += parents[version - 1]
    return found


@given(graphs(), st.integers(0, 30))
def test_lineage_agrees_with_walking(parents: list[tuple[int, ...]], split: int) -> None:
    lineage = Lineage()
    for version, above in enumerate(parents, 1):
        if version == split:
            lineage = Lineage(lineage)  # what a write transaction sees: the rest lies over the first part
        lineage.add(version, above)
    for version in range(1, len(parents) + 1):
        expected = ancestors(parents, version)
        ancestry = lineage.ancestry(version)
        assert {other for other in range(1, len(parents) + 5) if ancestry.contains(other)} == expected
        assert ancestry.linear == all(len(parents[other - 1]) < 2 for other in expected)
        for other in expected:
            below = {third for third in expected if ancestry.descends(other, third)}
            assert below == ancestors(parents, other) - {other}
        walk = list(ancestry.first_parents())
        assert walk[0] == version
        assert all(parents[above - 1][0] == below for above, below in itertools.pairwise(walk))
        assert parents[walk[-1] - 1] == ()


def test_a_long_chain_costs_no_more_than_a_short_one() -> None:
    lineage = Lineage()
    lineage.add(1, ())
    for version in range(2, 20_001):
        lineage.add(version, (version - 1,))
    assert len(lineage.reach) == 1
    ancestry = lineage.ancestry(20_000)
    started = time.perf_counter()
    for _ in range(1000):
        assert ancestry.contains(1)
    assert time.perf_counter() - started < 0.1
