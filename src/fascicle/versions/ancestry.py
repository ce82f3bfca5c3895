"""What each version descends from, in constant time and little memory.

The graph is cut into chains: a version continues the chain of its only parent if it is the first child to do so. A
version descends from another one if that one lies on its own chain at or below its own position, or on another chain
at or below the last position that can be reached there. Versions of one chain share the table of reachable positions,
so a chain of 10,000 versions has one table, and looking up takes two dictionary reads whatever the length.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Iterator, MutableMapping
from typing import Any

from fascicle.versions.resolution import Ancestry


class Lineage:
    """Chains of all versions. `over` is one that stays as it is and that this one adds to."""

    def __init__(self, over: Lineage | None = None) -> None:
        self.places: MutableMapping[int, tuple[int, int]] = _table(None if over is None else over.places)
        """Chain (named by its first version) and position of each version."""
        self.reach: MutableMapping[int, dict[int, int]] = _table(None if over is None else over.reach)
        """For each chain, the last position reachable on each other chain."""
        self.merged: MutableMapping[int, bool] = _table(None if over is None else over.merged)
        """For each chain, whether a version with two parents lies on it or above it."""
        self.parents: MutableMapping[int, tuple[int, ...]] = _table(None if over is None else over.parents)
        self._lengths: MutableMapping[int, int] = _table(None if over is None else over._lengths)

    def add(self, version: int, parents: tuple[int, ...]) -> None:
        """Enter a version whose parents have been entered."""
        self.parents[version] = parents
        if len(parents) == 1:
            chain, position = self.places[parents[0]]
            if self._lengths[chain] == position + 1:
                self._lengths[chain] = position + 2
                self.places[version] = (chain, position + 1)
                return
        reach: dict[int, int] = {}
        for parent in parents:
            chain, position = self.places[parent]
            for other, last in (*self.reach[chain].items(), (chain, position)):
                if reach.get(other, -1) < last:
                    reach[other] = last
        self.reach[version] = reach
        self.merged[version] = len(parents) > 1 or any(self.merged[self.places[parent][0]] for parent in parents)
        self._lengths[version] = 1
        self.places[version] = (version, 0)

    def descends(self, version: int, ancestor: int) -> bool:
        """Whether `version` is `ancestor` or descends from it."""
        own_chain, own_position = self.places[version]
        chain, position = self.places[ancestor]
        if chain == own_chain:
            return position <= own_position
        return position <= self.reach[own_chain].get(chain, -1)

    def ancestry(self, version: int) -> Ancestry:
        return ChainAncestry(self, version)


class ChainAncestry(Ancestry):
    """A version seen through the chains."""

    __slots__ = ("_chain", "_lineage", "_places", "_position", "_reach", "linear", "version")

    def __init__(self, lineage: Lineage, version: int) -> None:
        self.version = version
        self._lineage = lineage
        self._places = lineage.places
        self._chain, self._position = lineage.places[version]
        self._reach = lineage.reach[self._chain]
        self.linear = not lineage.merged[self._chain]

    def contains(self, version: int) -> bool:
        if version == self.version:
            return True
        place = self._places.get(version)
        if place is None:
            return False
        chain, position = place
        if chain == self._chain:
            return position <= self._position
        return position <= self._reach.get(chain, -1)

    def descends(self, version: int, ancestor: int) -> bool:
        return version != ancestor and self._lineage.descends(version, ancestor)

    def first_parents(self) -> Iterator[int]:
        version = self.version
        while True:
            yield version
            parents = self._lineage.parents[version]
            if not parents:
                return
            version = parents[0]


def _table(over: Any) -> Any:
    return {} if over is None else ChainMap({}, over)
