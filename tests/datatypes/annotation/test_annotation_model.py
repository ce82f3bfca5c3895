"""Random edits of elements, bodies and voxels over branching versions agree with a dictionary of elements."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
from annotation_repo import EDGE, U64, Repo, element, without_relations
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

pytestmark = pytest.mark.slow

Position = tuple[int, int, int]
Elements = dict[Position, dict[str, Any]]

SHAPE_ZYX = (16, 32, 48)
CORNER_XYZ = (-16, 0, 0)
KINDS = ("Unknown", "PostSyn", "PreSyn", "Gap", "Note")
RELATIONS = ("UnknownRelationship", "PostSynTo", "PreSynTo", "ConvergentTo", "GroupedWith")
TAGS = ("a", "b", "c d", "ü:1")

# Few positions, so that elements meet; some lie outside of the volume.
XS, YS, ZS = (-16, -1, 0, 7, 15, 16, 31, 40), (0, 9, 16, 31), (0, 15)
positions = st.tuples(st.sampled_from(XS), st.sampled_from(YS), st.sampled_from(ZS))
relations = st.fixed_dictionaries({"Rel": st.sampled_from(RELATIONS), "To": positions.map(list)})
elements = st.fixed_dictionaries(
    {
        "Pos": positions.map(list),
        "Kind": st.sampled_from(KINDS),
        "Tags": st.lists(st.sampled_from(TAGS), unique=True, max_size=2),
        "Prop": st.dictionaries(st.sampled_from(("conf", "user")), st.sampled_from(("0.5", "ann", 'q"\\')), max_size=2),
        "Rels": st.lists(relations, max_size=2),
    }
)


def block_of(position: Position) -> Position:
    return position[0] // EDGE, position[1] // EDGE, position[2] // EDGE


def order(position: Position) -> tuple[Position, Position]:
    """How elements are sorted."""
    return block_of(position)[::-1], position[::-1]


def cells(seed: int, shape_zyx: tuple[int, int, int], low: int, high: int) -> U64:
    """Patches of labels, with a little background."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(low, high, [-(-n // 8) for n in shape_zyx], dtype=np.uint64)
    dense = coarse.repeat(8, 0).repeat(8, 1).repeat(8, 2)[: shape_zyx[0], : shape_zyx[1], : shape_zyx[2]]
    dense[rng.random(dense.shape) < 0.05] = 0
    return dense


class Annotations(RuleBasedStateMachine):
    """Elements of each version in a dictionary; bodies are taken from what the labelmap says of its voxels."""

    @initialize(seed=st.integers(0, 1000))
    def begin(self, seed: int) -> None:
        self.repo = Repo()
        self.states: dict[int, Elements] = {self.repo.root: {}}
        self.open = [self.repo.root]
        self.at = self.repo.root
        self.blocks: dict[int, set[Position]] = {self.at: set()}
        """Blocks that are listed, also while they are empty."""
        self.repo.write_voxels(cells(seed, SHAPE_ZYX, 1, 9), CORNER_XYZ)
        rng = np.random.default_rng(seed)
        corners = [(x, y, z) for x in XS for y in YS for z in ZS]
        self.post([element(corners[i], str(rng.choice(KINDS))) for i in rng.permutation(len(corners))[:24]])
        self.checked = True

    @property
    def here(self) -> Elements:
        return self.states[self.at]

    def bodies(self, options: str = "") -> U64:
        return self.repo.voxels(SHAPE_ZYX, CORNER_XYZ, self.at, options)

    def label_at(self, position: Position, volume: U64) -> int:
        x, y, z = (c - corner for c, corner in zip(position, CORNER_XYZ, strict=True))
        inside = 0 <= z < volume.shape[0] and 0 <= y < volume.shape[1] and 0 <= x < volume.shape[2]
        return int(volume[z, y, x]) if inside else 0

    # -- elements

    @rule(given=st.lists(elements, max_size=5))
    def post_elements(self, given: list[dict[str, Any]]) -> None:
        self.post(given)

    def post(self, given: list[dict[str, Any]]) -> None:
        self.repo.post("elements", given, self.at)
        for one in given:
            self.here[tuple(one["Pos"])] = copy.deepcopy(one)
            self.blocks[self.at].add(block_of(tuple(one["Pos"])))

    def drop_relations(self, blocks: set[Position], to: Position, moved: Position | None) -> None:
        for position, one in self.here.items():
            if block_of(position) in blocks:
                one["Rels"] = [
                    {**r, "To": list(moved)} if moved and tuple(r["To"]) == to else r
                    for r in one["Rels"]
                    if moved or tuple(r["To"]) != to
                ]

    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        if self.here:
            position = data.draw(st.sampled_from(sorted(self.here)))
            self.repo.call(f"element/{'_'.join(map(str, position))}", "DELETE", version=self.at)
            gone = self.here.pop(position)
            self.drop_relations({block_of(position), *(block_of(tuple(r["To"])) for r in gone["Rels"])}, position, None)

    @rule(data=st.data(), there=positions)
    def move(self, data: st.DataObject, there: Position) -> None:
        if self.here:
            position = data.draw(st.sampled_from(sorted(self.here)))
            path = "move/" + "/".join("_".join(map(str, place)) for place in (position, there))
            self.repo.post(path, version=self.at)
            if position == there:
                return
            moved = self.here.pop(position)
            blocks = {block_of(position), *(block_of(tuple(r["To"])) for r in moved["Rels"])}
            moved["Pos"] = list(there)
            moved["Rels"] = [{**r, "To": list(there)} if tuple(r["To"]) == position else r for r in moved["Rels"]]
            self.here[there] = moved
            self.blocks[self.at].add(block_of(there))
            self.drop_relations(blocks, position, there)

    @rule(given=st.lists(elements, max_size=4), check=st.booleans())
    def post_blocks(self, given: list[dict[str, Any]], check: bool) -> None:
        blocks: dict[Position, list[dict[str, Any]]] = {(0, 0, 0): []}
        for one in given:
            blocks.setdefault(block_of(tuple(one["Pos"])), []).append(one)
        body = {",".join(map(str, block)): listed for block, listed in blocks.items()}
        self.repo.post("blocks", body, self.at)
        self.repo.post("reload", version=self.at)
        for position in [p for p in self.here if block_of(p) in blocks]:
            del self.here[position]
        for listed in blocks.values():
            for one in listed:
                self.here[tuple(one["Pos"])] = copy.deepcopy(one)
        self.blocks[self.at] |= blocks.keys()
        if check:
            self.repo.post("reload?check=true", version=self.at)

    # -- bodies and voxels

    @rule(data=st.data())
    def merge(self, data: st.DataObject) -> None:
        labels = [int(n) for n in np.unique(self.bodies()) if n]
        if len(labels) > 2:
            chosen = data.draw(st.lists(st.sampled_from(labels), min_size=2, max_size=3, unique=True))
            self.repo.edit("merge", chosen, self.at)

    @rule(data=st.data())
    def cleave(self, data: st.DataObject) -> None:
        bodies, supervoxels = self.bodies(), self.bodies("supervoxels=true")
        label = data.draw(st.sampled_from([int(n) for n in np.unique(bodies) if n] or [0]))
        inside = [int(n) for n in np.unique(supervoxels[bodies == label])]
        if label and len(inside) > 1:
            leaving = data.draw(st.lists(st.sampled_from(inside), min_size=1, max_size=len(inside) - 1, unique=True))
            self.repo.edit(f"cleave/{label}", leaving, self.at)

    @rule(data=st.data())
    def renumber(self, data: st.DataObject) -> None:
        labels = [int(n) for n in np.unique(self.bodies()) if n]
        if labels:
            old = data.draw(st.sampled_from(labels))
            new = data.draw(st.integers(500, 520))
            if new not in labels:
                self.repo.edit("renumber", [new, old], self.at)

    @rule(data=st.data(), whole_body=st.booleans())
    def split(self, data: st.DataObject, whole_body: bool) -> None:
        """Split a supervoxel, or a body, at a plane of x."""
        volume = self.bodies("" if whole_body else "supervoxels=true")
        label = data.draw(st.sampled_from([int(n) for n in np.unique(volume) if n] or [0]))
        z, y, x = np.nonzero(volume == label)
        below = x <= np.median(x) if label else np.zeros(0, np.bool_)
        if not below.any() or below.all():
            return
        runs = np.stack((x[below] - 16, y[below], z[below], np.ones(int(below.sum()), np.int64)), axis=1)
        head = np.array([0x00000300, 0, len(runs)], "<u4").tobytes()
        body = head[:1] + b"\x03\x00\x00" + head[4:] + runs.astype("<i4").tobytes()
        self.repo.edit(f"{'split' if whole_body else 'split-supervoxel'}/{label}", body, self.at)

    @rule(seed=st.integers(0, 1000), block=st.sampled_from(((-1, 0, 0), (0, 0, 0), (0, 1, 0), (1, 1, 0))))
    def overwrite(self, seed: int, block: Position) -> None:
        corner = (block[0] * EDGE, block[1] * EDGE, block[2] * EDGE)
        # ids that nothing bears yet, and some that may be there
        fresh = 10_000 + 10 * seed
        self.repo.write_voxels(cells(seed, (EDGE, EDGE, EDGE), fresh, fresh + 4), corner, self.at)

    # -- versions

    @precondition(lambda self: len(self.states) < 6)
    @rule(branch=st.booleans())
    def new_version(self, branch: bool) -> None:
        child = self.repo.child(self.at, f"branch {len(self.states)}" if branch or self.at not in self.open else None)
        if self.at in self.open:
            self.open.remove(self.at)
        self.states[child] = copy.deepcopy(self.here)
        self.blocks[child] = set(self.blocks[self.at])
        self.open.append(child)
        self.at = child

    @rule(data=st.data())
    def go(self, data: st.DataObject) -> None:
        self.at = data.draw(st.sampled_from(self.open))

    # -- what must hold

    @invariant()
    def answers_agree(self) -> None:
        if not hasattr(self, "checked"):
            return
        self.check_version()

    @rule(data=st.data())
    def look_back(self, data: st.DataObject) -> None:
        """Older versions are what they were."""
        at, self.at = self.at, data.draw(st.sampled_from(sorted(self.states)))
        self.check_version()
        self.at = at

    def check_version(self) -> None:
        here = self.here
        sorted_here = [here[position] for position in sorted(here, key=order)]
        by_block: dict[str, list[dict[str, Any]]] = {}
        for block in sorted(self.blocks[self.at], key=lambda b: b[::-1]):
            by_block[",".join(map(str, block))] = []
        for one in sorted_here:
            by_block[",".join(map(str, block_of(tuple(one["Pos"]))))].append(one)
        found = self.repo.get("all-elements", self.at)
        assert found == by_block
        assert list(found) == list(by_block)
        assert (self.repo.get("elements/100_100_100/-50_-50_-50", self.at) or []) == sorted_here
        low, high = (-10, 5, 3), (20, 20, 15)
        inside = [e for e in sorted_here if all(a <= c <= b for a, c, b in zip(low, e["Pos"], high, strict=True))]
        assert (self.repo.get("elements/31_16_13/-10_5_3", self.at) or []) == inside

        kept, counted = self.repo.kinds_by_supervoxel(self.at)
        assert kept == counted

        volume = self.bodies()
        by_label: dict[int, list[dict[str, Any]]] = {int(label): [] for label in np.unique(volume) if label}
        for position, one in here.items():
            label = self.label_at(position, volume)
            if label:
                by_label[label].append(one)
        for label, listed in by_label.items():
            assert_same(self.repo.get(f"label/{label}", self.at), [without_relations(one) for one in listed])
            assert_same(self.repo.get(f"label/{label}?relationships=true", self.at), listed)
            for kind in ("PreSyn", "PostSyn", "Gap", "Note"):
                counted = self.repo.get(f"count/{label}/{kind}", self.at, "counts")
                assert counted == {"Label": label, kind: sum(one["Kind"] == kind for one in listed)}
        for tag in TAGS:
            tagged = [without_relations(one) for one in here.values() if tag in one["Tags"]]
            assert_same(self.repo.get(f"tag/{tag}", self.at), tagged)
            verbose = self.repo.get(f"tag/{tag}?relationships=verbose", self.at)
            assert_same(verbose, [self.with_partners(one) for one in here.values() if tag in one["Tags"]])

    def with_partners(self, one: dict[str, Any]) -> dict[str, Any]:
        related = []
        for relation in one["Rels"]:
            partner = self.here.get(tuple(relation["To"]), element((0, 0, 0), "Unknown"))
            told = {name: partner[name] for name in ("Tags", "Prop") if partner[name]}
            kind = {"Kind": partner["Kind"]} if partner["Kind"] != "Unknown" else {}
            related.append({**relation, **kind, **told})
        return {**one, "Rels": related}


def assert_same(found: list[dict[str, Any]], wanted: list[dict[str, Any]]) -> None:
    """Equal as sets of elements."""
    assert sorted(found, key=lambda e: e["Pos"]) == sorted(wanted, key=lambda e: e["Pos"])


TestAnnotations = Annotations.TestCase
TestAnnotations.settings = settings(
    max_examples=10, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
