"""Annotation instances as precomputed annotations: every index says the same, and edits are followed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import pytest

from fascicle.datatypes.annotation.layout import ELEMENTS, full_texts
from fascicle.formats import annotation_info
from fascicle.formats import annotations as an
from fascicle.formats.annotation_index import entries
from fascicle.formats.annotation_info import AnnotationsInfo
from fascicle.formats.annotations import Columns
from fascicle.pipeline.sample_annotations import synapse_elements
from fascicle.pipeline.sample_brain import make_brain
from fascicle.pipeline.sample_synapses import make_synapses
from fascicle.pipeline.sources import OpenNode, SourceSpec
from fascicle.precomputed.annotations import whole_set
from fascicle.precomputed.synapse_columns import ends_of_lines, ids_of, position_of, user_number
from serving import Client, RunningServer, new_instance, new_repo

SIZE = (64, 64, 128)
FAR = [3_000_000, 5, -7]


@dataclass
class Sample:
    url: str
    root: str
    elements: list[dict[str, Any]]
    bodies: dict[tuple[int, ...], int]
    """Where elements are -> the body there."""

    def body(self, place: Any) -> int:
        return self.bodies.get(tuple(place), 0)

    @property
    def pairs(self) -> set[tuple[tuple[int, ...], tuple[int, ...]]]:
        return {
            (tuple(element["Pos"]), tuple(relation["To"])) if relation["Rel"] == "PreSynTo"
            else (tuple(relation["To"]), tuple(element["Pos"]))
            for element in self.elements for relation in element["Rels"]
        }  # fmt: skip


@pytest.fixture(scope="module")
def sample(server: RunningServer) -> Sample:
    """The synapses of a small brain, committed, with an open child; and what else can be among elements."""
    brain = make_brain(seed=2, size_zyx=SIZE)
    elements = synapse_elements(make_synapses(brain.bodies_zyx, 2))
    other = next(one for one in elements if one["Kind"] == "PreSyn")["Pos"]
    density = next(one for one in elements if one["Kind"] == "PostSyn")
    tbar = next(one for one in elements if one["Kind"] == "PreSyn" and [one["Pos"]] != [density["Rels"][0]["To"]])
    density["Rels"].append({"Rel": "PostSynTo", "To": tbar["Pos"]})  # an end of two lines
    tbar["Rels"].append({"Rel": "PreSynTo", "To": density["Pos"]})
    one_sided = {"Pos": [1, 1, 1], "Kind": "PreSyn", "Tags": [], "Prop": {"conf": "nonsense"},
                 "Rels": [{"Rel": "PreSynTo", "To": [2, 2, 2]}]}  # fmt: skip
    note = {"Pos": [2, 2, 2], "Kind": "Note", "Tags": ["x"], "Prop": {"user": "somebody"}, "Rels": []}
    far = {"Pos": FAR, "Kind": "Unknown", "Tags": [], "Prop": {},
           "Rels": [{"Rel": "PostSynTo", "To": other}]}  # fmt: skip
    elements += [one_sided, note, far]
    with server.client() as client:
        root = new_repo(client, "live annotations")
        path = new_instance(client, root, "labelmap", "seg", VoxelSize="8,8,40")
        voxels = np.ascontiguousarray(brain.bodies_zyx).tobytes()
        client.post(f"{path}/raw/0_1_2/128_64_64/0_0_0", voxels).expect()
        path = new_instance(client, root, "annotation", "synapses")
        client.post(f"{path}/sync", {"sync": "seg"}).expect()
        client.post(f"{path}/elements", elements).expect()
        path = new_instance(client, root, "annotation", "loose")
        client.post(f"{path}/elements", [note]).expect()
        new_instance(client, root, "annotation", "empty")
        places = [element["Pos"] for element in elements if element["Pos"] != FAR]
        found = client.get(f"/api/node/{root}/seg/labels", places).expect().json()
        client.post(f"/api/node/{root}/commit", {}).expect()
        client.post(f"/api/node/{root}/newversion").expect()
    return Sample(server.url, root, elements, dict(zip(map(tuple, places), found, strict=True)))


View = Callable[..., Any]


@dataclass
class Reader:
    client: Client
    base: str

    @property
    def info(self) -> AnnotationsInfo:
        return annotation_info.decode(self.client.get(f"{self.base}/info").expect().body)

    def list(self, path: str) -> Columns:
        return an.decode_list(self.info, self.client.get(f"{self.base}/{path}").expect().body)

    def single(self, identifier: int) -> Columns:
        return an.decode_single(self.info, identifier, self.client.get(f"{self.base}/by_id/{identifier}").expect().body)

    def cells(self) -> Iterator[tuple[int, tuple[int, ...], Columns]]:
        for i, level in enumerate(self.info.spatial):
            for cell in np.ndindex(*level.grid_shape):
                yield i, cell, self.list(f"{level.key}/{'_'.join(map(str, cell))}")


@pytest.fixture
def point_view(client: Client, sample: Sample) -> Reader:
    return Reader(client, f"/precomputed/{sample.root}/{sample.root}/synapses")


@pytest.fixture
def line_view(client: Client, sample: Sample) -> Reader:
    return Reader(client, f"/precomputed/{sample.root}/{sample.root}/synapses/lines")


def ends(columns: Columns) -> list[tuple[tuple[int, ...], ...]]:
    """The voxels of each annotation."""
    assert not isinstance(columns.points, an.Lists)
    return [tuple(tuple(int(c) for c in np.floor(point)) for point in one) for one in columns.points.astype(np.float64)]


def test_info(point_view: Reader, line_view: Reader, sample: Sample) -> None:
    info = point_view.info
    assert info.annotation_type == "POINT"
    assert info.dimensions == {"x": (8e-9, "m"), "y": (8e-9, "m"), "z": (4e-8, "m")}
    assert [one.id for one in info.relationships] == ["body"]
    assert [one.id for one in info.properties] == ["confidence", "user", "kind"]
    assert "somebody" in (info.properties[1].enum_labels or ())
    assert float(user_number("somebody")) in (info.properties[1].enum_values or ())
    places = np.array([element["Pos"] for element in sample.elements])
    assert (info.lower_bound <= places.min(axis=0)).all()
    assert (info.upper_bound > places.max(axis=0)).all()
    info = line_view.info
    assert info.annotation_type == "LINE"
    assert [one.id for one in info.relationships] == ["presynaptic", "postsynaptic"]


def test_spatial_levels(point_view: Reader, sample: Sample) -> None:
    found = [(identifier, place) for _, _, columns in point_view.cells()
             for identifier, place in zip(columns.ids.tolist(), ends(columns), strict=True)]  # fmt: skip
    assert len({identifier for identifier, _ in found}) == len(found) == len(sample.elements)
    assert {place for _, (place,) in found} == {tuple(element["Pos"]) for element in sample.elements}


def test_spatial_levels_of_lines(line_view: Reader, sample: Sample) -> None:
    found = [pair for _, _, columns in line_view.cells() for pair in ends(columns)]
    assert set(found) == sample.pairs
    assert len(found) < 1.2 * len(sample.pairs)


def test_points_of_bodies(point_view: Reader, sample: Sample) -> None:
    by_body: dict[int, set[tuple[int, ...]]] = {}
    for place, body in sample.bodies.items():
        by_body.setdefault(body, set()).add(place)
    for body in sorted(by_body.keys() - {0})[:8]:
        columns = point_view.list(f"body/{body}")
        assert {place for (place,) in ends(columns)} == by_body[body]
        assert columns.ids.tolist() == ids_of(np.array([p for (p,) in ends(columns)])).tolist()
    assert len(point_view.list("body/987654321")) == 0


def test_lines_of_bodies(line_view: Reader, sample: Sample) -> None:
    for side, relationship in enumerate(("presynaptic", "postsynaptic")):
        by_body: dict[int, set[Any]] = {}
        for pair in sample.pairs:
            by_body.setdefault(sample.body(pair[side]), set()).add(pair)
        for body in sorted(by_body.keys() - {0})[:6]:
            columns = line_view.list(f"{relationship}/{body}")
            assert set(ends(columns)) == by_body[body]
            assert len(set(columns.ids.tolist())) == len(columns)


def test_single_points(point_view: Reader, sample: Sample) -> None:
    for element in sample.elements[:: len(sample.elements) // 12] + sample.elements[-3:]:
        identifier = int(ids_of(np.array([element["Pos"]]))[0])
        found = point_view.single(identifier)
        assert found.related[0].values.tolist() == [b for b in [sample.body(element["Pos"])] if b]
        kinds = point_view.info.properties[2].enum_labels or ()
        assert kinds[int(found.properties["kind"][0])] == element["Kind"]
        expected = element["Prop"].get("conf", "1")
        assert found.properties["confidence"][0] == np.float32(1 if expected == "nonsense" else expected)
        assert found.properties["user"][0] == (user_number(u) if (u := element["Prop"].get("user")) else 0)
        assert (position_of(identifier) or FAR) == (tuple(element["Pos"]) if element["Pos"] != FAR else FAR)
    assert point_view.client.get(f"{point_view.base}/by_id/{ids_of(np.array([[9, 9, 9]]))[0]}").status == 404


def test_single_lines(line_view: Reader, sample: Sample) -> None:
    hashed = 0
    for _, _, columns in line_view.cells():
        for identifier, pair in zip(columns.ids.tolist()[:20], ends(columns)[:20], strict=True):
            hashed += identifier >= 1 << 63
            found = line_view.single(identifier)
            assert ends(found) == [pair]
            assert [one.values.tolist() for one in found.related] == [[b] if b else [] for b in map(sample.body, pair)]
    every = np.concatenate([columns.ids for _, _, columns in line_view.cells()])
    assert len(np.unique(every[every >= np.uint64(1 << 63)])) >= 2  # one side only, second line of an end


def test_confidences_of_lines(line_view: Reader, sample: Sample) -> None:
    known = {tuple(e["Pos"]): e["Prop"].get("conf", "1") for e in sample.elements if e["Pos"] != [1, 1, 1]}
    for _, _, columns in line_view.cells():
        for i, pair in enumerate(ends(columns)):
            for side, place in zip(("pre", "post"), pair, strict=True):
                assert columns.properties[f"{side}_confidence"][i] == np.float32(known.get(place, 1))
        break


def test_edits_are_followed(client: Client, sample: Sample) -> None:
    master = Reader(client, f"/precomputed/{sample.root}/master/synapses")
    counts = sorted({body for body in sample.bodies.values() if body})
    first, second = counts[:2]
    before = {body: ends(master.list(f"body/{body}")) for body in (first, second)}
    node = f"/api/node/{sample.root}:master"
    client.post(f"{node}/seg/merge", [first, second]).expect()
    assert set(ends(master.list(f"body/{first}"))) == set(before[first]) | set(before[second])
    assert ends(master.list(f"body/{second}")) == []
    new = {"Pos": [40, 41, 42], "Kind": "Note", "Tags": [], "Prop": {"user": "new one"}, "Rels": []}
    client.post(f"{node}/synapses/elements", [new]).expect()
    assert sum(place == ((40, 41, 42),) for _, _, columns in master.cells() for place in ends(columns)) == 1
    client.delete(f"{node}/synapses/element/40_41_42").expect()
    assert not any(place == ((40, 41, 42),) for _, _, columns in master.cells() for place in ends(columns))
    committed = Reader(client, f"/precomputed/{sample.root}/{sample.root}/synapses")
    assert ends(committed.list(f"body/{second}")) == before[second]


def test_posted_lists(client: Client, sample: Sample) -> None:
    """What was posted for a label stands in for what the index says of it."""
    master = Reader(client, f"/precomputed/{sample.root}/master/synapses")
    place = sample.elements[0]["Pos"]
    posted = {"77777": json.dumps([{"Pos": place, "Kind": "Note"}])}
    client.post(f"/api/node/{sample.root}:master/synapses/labels", posted).expect()
    assert ends(master.list("body/77777")) == [(tuple(place),)]


def test_without_a_segmentation(client: Client, sample: Sample) -> None:
    loose = Reader(client, f"/precomputed/{sample.root}/{sample.root}/loose")
    assert loose.info.relationships == ()
    assert loose.info.dimensions["z"] == (4e-8, "m")  # of the repo's labelmap
    assert [ends(columns) for _, _, columns in loose.cells()] == [[((2, 2, 2),)]]
    assert len(loose.single(int(ids_of(np.array([[2, 2, 2]]))[0])).related) == 0
    for path in ("body/1", "lines/presynaptic/1"):
        assert b"by_id" in client.get(f"{loose.base}/{path}").expect(404).body
    empty = Reader(client, f"/precomputed/{sample.root}/{sample.root}/empty")
    for form in ("", "/lines"):
        view = Reader(client, empty.base + form)
        assert [len(columns) for _, _, columns in view.cells()] == [0]


@pytest.mark.parametrize(
    ("path", "word"),
    [
        ("", "spatial"),
        ("nothing", "spatial"),
        ("body", "by_id"),
        ("body/x", "'x'"),
        ("body/-1", "'-1'"),
        (f"body/{1 << 64}", "64 bits"),
        ("by_id/5", "no annotation 5"),
        ("by_id/05", "'05'"),
        (f"by_id/{(1 << 64) - 1}", "no annotation"),
        ("lines/body/1", "presynaptic"),
        ("lines/lines/info", "presynaptic"),
        ("spatial99/0_0_0", "no level"),
        ("spatial0/0_0", "no cell"),
        ("spatial0/1_0_0", "no cell"),
        ("spatial0/0_0_99999999999999999999", "no cell"),
        ("lines/spatial0/1_0_0", "no cell"),
    ],
)
def test_what_is_not_there(client: Client, sample: Sample, path: str, word: str) -> None:
    reply = client.get(f"/precomputed/{sample.root}/{sample.root}/synapses/{path}").expect(404)
    assert word.encode() in reply.body
    assert "immutable" not in reply.headers.get("cache-control", "")
    assert reply.headers["access-control-allow-origin"] == "*"


def test_http(client: Client, sample: Sample) -> None:
    path = f"/precomputed/{sample.root}/{sample.root}/synapses/spatial0/0_0_0"
    whole = client.get(path).expect()
    assert "immutable" in whole.headers["cache-control"]
    assert client.head(path).expect().headers["content-length"] == str(len(whole.body))
    part = client.request("GET", path, headers={"Range": "bytes=0-7", "Accept-Encoding": "gzip"}).expect(206)
    assert part.body == whole.body[:8]
    packed = client.request("GET", path, headers={"Accept-Encoding": "gzip"}).expect()
    assert packed.headers["content-encoding"] == "gzip"
    client.request("GET", path, headers={"If-None-Match": whole.headers["etag"]}).expect(304)
    client.request("GET", path, headers={"Range": "bytes=99999999-"}).expect(416)
    info = client.get(f"/precomputed/{sample.root}/{sample.root}/synapses/info").expect()
    assert "immutable" not in info.headers["cache-control"]
    opened = client.get(f"/precomputed/{sample.root}/master/synapses/spatial0/0_0_0").expect()
    assert "immutable" not in opened.headers["cache-control"]


@pytest.mark.parametrize("both", [False, True])
def test_many(client: Client, sample: Sample, both: bool) -> None:
    """More than are looked through for one cell: coarse levels are known from one look at all."""
    noise = np.random.default_rng(1)
    count = 24_000
    places = np.unique(noise.integers(0, 1000, (count, 3)), axis=0)
    others = places + np.array([0, 0, 2000])
    elements = [
        {"Pos": a, "Kind": "PreSyn", "Tags": [], "Prop": {}, "Rels": [{"Rel": "PreSynTo", "To": b}]}
        for a, b in zip(places.tolist(), others.tolist(), strict=True)
    ]
    pairs = len(elements)
    if both:
        elements += [
            {"Pos": b, "Kind": "PostSyn", "Tags": [], "Prop": {}, "Rels": [{"Rel": "PostSynTo", "To": a}]}
            for a, b in zip(places.tolist(), others.tolist(), strict=True)
        ]
    path = new_instance(client, f"{sample.root}:master", "annotation", f"many{both}")
    client.post(f"{path}/elements", elements).expect()
    base = f"/precomputed/{sample.root}/master/many{both}"
    for form in ("/lines",) if both else ("", "/lines"):
        view = Reader(client, base + form)
        assert len(view.info.spatial) > 1
        found = [(cell, columns) for level, cell, columns in view.cells()]
        every = np.concatenate([columns.ids for _, columns in found])
        assert len(np.unique(every)) == (pairs if form else len(elements))
        first = found[0][1]
        assert 1500 < len(first) < 2500
        assert not isinstance(first.points, an.Lists)
        middles = first.points[:, 0] % 2000
        assert np.abs(middles.mean(axis=0) - 500).max() < 40  # a fair sample, also of its first part
        assert np.abs(middles[:500].mean(axis=0) - 500).max() < 60


def test_a_whole_set_is_what_the_view_shows(server: RunningServer, client: Client, sample: Sample) -> None:
    """What is written elsewhere equals what is shown, and `ends_of_lines` what `lines` gives."""
    opened = OpenNode(SourceSpec(data=str(server.folder), repo=sample.root, version=sample.root))
    try:
        with opened.snapshot() as snapshot:
            instance = snapshot.catalog.instance(opened.repo.id, "synapses")
            sets = [whole_set(snapshot, instance, as_lines) for as_lines in (False, True)]
            empty = snapshot.catalog.instance(opened.repo.id, "empty")
            nothing = [list(entries(one.info, one.columns, one.cells))
                       for one in (whole_set(snapshot, empty, as_lines) for as_lines in (False, True))]  # fmt: skip
            texts = [text for rows in snapshot.view(instance).scan_batches(ELEMENTS)
                     for text in full_texts(snapshot.view(instance), [handle for _, handle in rows])]  # fmt: skip
    finally:
        opened.close()
    assert nothing == [[], []]
    for form, whole in zip(("", "/lines"), sets, strict=True):
        view = Reader(client, f"/precomputed/{sample.root}/{sample.root}/synapses{form}")
        assert msgspec.structs.replace(whole.info, spatial=()) == msgspec.structs.replace(view.info, spatial=())
        for entry in entries(whole.info, whole.columns, whole.cells):
            if entry.directory.startswith("spatial") and form:
                continue  # a cell between the ends of a line lists it too, if it is written
            if entry.directory == "by_id" and entry.key % 7:
                continue
            shown = client.get(f"{view.base}/{entry.directory}/{entry.name}").expect().body
            if shown != entry.data:  # a body does not know of lines of which its element does not know
                assert entry.directory in ("presynaptic", "postsynaptic")
                lists = [an.decode_list(whole.info, data).ids.tolist() for data in (entry.data, shown)]
                assert set(lists[0]) > set(lists[1])
                assert min(set(lists[0]) - set(lists[1])) >= 1 << 63
    ids, pre, post = ends_of_lines(texts)
    columns = sets[1].columns
    told = dict(zip(columns.ids.tolist(), ends(columns), strict=True))
    assert {i: (tuple(a), tuple(b)) for i, a, b in zip(ids.tolist(), pre.tolist(), post.tolist(), strict=True)} == told
