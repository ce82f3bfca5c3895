"""Synapses into a version and back: exactly, from the field's own forms, and with mistakes named."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st

from fascicle.cli.export import export
from fascicle.cli.table_import import import_
from fascicle.errors import FascicleError
from fascicle.pipeline.ingest_connections import Connection, LocalConnection
from fascicle.pipeline.synapse_rows import KINDS, POINT_COLUMNS, RELATIONS, point_element, point_row, point_schema
from fascicle.pipeline.synapse_staging import Staging
from fascicle.pipeline.tables import TableWriter, arrow, read_rows
from fascicle.pipeline.version_choice import make_repo

TEXTS = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=8)
POINTS = st.tuples(*[st.integers(-(1 << 31), (1 << 31) - 1)] * 3).map(list)
CONFIDENCES = st.sampled_from(["0.9", "1", "0", "0.930", "1e-3", "nan", "high", "", " 0.5", "-0", "1_0", "007"])
ELEMENTS = st.fixed_dictionaries(
    {
        "Pos": POINTS,
        "Kind": st.sampled_from(KINDS),
        "Tags": st.lists(TEXTS.filter(bool), max_size=3),
        "Prop": st.dictionaries(TEXTS | st.sampled_from(["user", "body ID"]), TEXTS, max_size=3)
        | st.fixed_dictionaries({"conf": CONFIDENCES, "user": TEXTS}),
        "Rels": st.lists(st.fixed_dictionaries({"Rel": st.sampled_from(RELATIONS), "To": POINTS}), max_size=3),
    }
)


@settings(max_examples=80)
@given(elements=st.lists(ELEMENTS, max_size=5))
@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_every_element_comes_back_from_its_row(
    tmp_path_factory: pytest.TempPathFactory, kind: str, elements: list[dict[str, Any]]
) -> None:
    path = tmp_path_factory.getbasetemp() / f"elements.{kind}"
    with TableWriter(path, POINT_COLUMNS, point_schema(arrow())) as writer:
        for element in elements:
            writer.write(point_row(element, 7, kind))
    assert [point_element(row) for _, row in read_rows(path)] == elements


@settings(max_examples=30)
@given(st.lists(ELEMENTS, max_size=12, unique_by=lambda element: tuple(element["Pos"])))
def test_staging_gives_back_what_it_got_block_by_block(elements: list[dict[str, Any]]) -> None:
    with Staging() as staged:
        for line, element in enumerate(elements):
            staged.add(element, line)
        assert staged.finish() == (len(elements), None)
        found = list(staged.elements())

    def block(element: dict[str, Any]) -> list[int]:
        return [axis // 64 for axis in reversed(element["Pos"])]

    assert found == sorted(elements, key=block)


# -- through a store


class Brain:
    """A store with a segmentation in cubes of 32 voxels, and a version to write to."""

    def __init__(self, folder: Path, connection: Connection) -> None:
        self.folder = folder
        self.root = make_repo(connection, "brain", "").root
        settings = {"typename": "labelmap", "dataname": "segmentation", "MaxDownresLevel": "1"}
        connection.json("POST", f"/api/repo/{self.root}/instance", settings)
        z, y, x = np.indices((128, 128, 128)) // 32
        labels = (1 + x + 4 * y + 16 * z).astype("<u8")
        connection.request("POST", f"/api/node/{self.root}/segmentation/raw/0_1_2/128_128_128/0_0_0", labels.tobytes())

    def run(self, command: Any, *words: object, status: int = 0) -> Result:
        done = CliRunner().invoke(
            command, [*map(str, words), "--data", str(self.folder), "--uuid", self.root, "--quiet"]
        )
        failed = 2 if isinstance(done.exception, FascicleError) else done.exit_code
        assert failed == status, (done.output, done.exception)
        return done

    def all_elements(self, instance: str) -> dict[str, Any]:
        with LocalConnection(self.folder) as connection:
            found: dict[str, Any] = connection.json("GET", f"/api/node/{self.root}/{instance}/all-elements")
        return found

    def asked(self, path: str) -> Any:
        with LocalConnection(self.folder) as connection:
            return connection.json("GET", f"/api/node/{self.root}/{path}")


@pytest.fixture(scope="module")
def brain(tmp_path_factory: pytest.TempPathFactory) -> Brain:
    folder = tmp_path_factory.mktemp("tables") / "db"
    with LocalConnection(folder) as connection:
        return Brain(folder, connection)


def _elements(count: int = 60) -> Iterator[dict[str, Any]]:
    """T-bars with densities, and some elements with everything that is hard to write."""
    dice = random.Random(4)
    places = dice.sample(range(128**3), 4 * count)
    points = [[place % 128, place // 128 % 128, place // 128**2] for place in places]
    for i in range(count):
        pre, *post = points[4 * i : 4 * i + 4]
        hard = {"conf": "0.930", "note": 'a "b", c\n;', "time": ""} if i % 5 == 0 else {"conf": "0.93", "user": "$fpl"}
        tags = ["user:a,b", "ä;ö", '],"1,2,3":['] if i % 7 == 0 else []
        yield {
            "Pos": pre,
            "Kind": "PreSyn",
            "Tags": tags,
            "Prop": hard,
            "Rels": [{"Rel": "PreSynTo", "To": point} for point in post],
        }
        for point in post:
            yield {
                "Pos": point,
                "Kind": "PostSyn",
                "Tags": [],
                "Prop": {"conf": "0.5"},
                "Rels": [{"Rel": "PostSynTo", "To": pre}],
            }
    yield {"Pos": [-5, -70, -1], "Kind": "Note", "Tags": ["x"], "Prop": {"body ID": "1"}, "Rels": []}
    yield {"Pos": [2**31 - 1, 0, -(2**31)], "Kind": "Unknown", "Tags": [], "Prop": {}, "Rels": []}


@pytest.mark.parametrize("ending", ["csv", "json", "parquet", "csv.gz", "json.gz"])
def test_round_trip_is_exact(brain: Brain, tmp_path: Path, ending: str) -> None:
    source = tmp_path / "source.json"
    source.write_text(json.dumps(list(_elements())))
    name = f"trip_{ending.replace('.', '_')}"
    brain.run(import_, "synapses", source, "--instance", name)
    table = tmp_path / f"table.{ending}"
    done = brain.run(export, "synapses", table, "--instance", name)
    assert "242 elements" in done.output
    brain.run(import_, "synapses", table, "--instance", name + "_again")
    first, again = brain.all_elements(name), brain.all_elements(name + "_again")
    assert sum(map(len, first.values())) == 242
    assert again == first
    copy = tmp_path / f"copy.{ending}"
    brain.run(export, "synapses", copy, "--instance", name + "_again")
    if not ending.endswith(".gz"):
        assert copy.read_bytes() == table.read_bytes()
    assert brain.asked(f"{name}_again/label/1") == brain.asked(f"{name}/label/1") != []


def test_bodies_are_those_of_the_voxels(brain: Brain, tmp_path: Path) -> None:
    source, table = tmp_path / "source.json", tmp_path / "table.csv"
    source.write_text(json.dumps([element for element in _elements(20) if min(element["Pos"]) >= 0]))
    brain.run(import_, "synapses", source, "--instance", "bodies")
    brain.run(export, "synapses", table, "--instance", "bodies")
    for _, row in read_rows(table):
        x, y, z = (int(row[axis]) // 32 for axis in "xyz")
        assert int(row["body"]) == 1 + x + 4 * y + 16 * z
    brain.run(export, "synapses", table, "--instance", "bodies", "--no-bodies")
    assert all("body" not in row for _, row in read_rows(table))


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_partners(brain: Brain, tmp_path: Path, ending: str) -> None:
    """A row per connection, also where the two points lie in different batches; read again it gives the same pairs."""
    source, table = tmp_path / "source.json", tmp_path / f"partners.{ending}"
    elements = [element for element in _elements(30) if element["Kind"] in ("PreSyn", "PostSyn")]
    source.write_text(json.dumps(elements))
    name = f"partners_{ending}"
    brain.run(import_, "synapses", source, "--instance", name)
    brain.run(export, "synapses", table, "--instance", name, "--layout", "partners")
    rows = [row for _, row in read_rows(table)]
    assert len(rows) == 90
    wanted = {(*e["Pos"], *rel["To"]) for e in elements if e["Kind"] == "PreSyn" for rel in e["Rels"]}
    columns = ("x_pre", "y_pre", "z_pre", "x_post", "y_post", "z_post")
    assert {tuple(int(row[column]) for column in columns) for row in rows} == wanted
    assert {float(row["conf_pre"]) for row in rows} == {0.93}
    brain.run(import_, "synapses", table, "--instance", name + "_again")

    def pairs(instance: str) -> set[tuple[Any, ...]]:
        blocks = brain.all_elements(instance).values()
        return {
            (e["Kind"], *e["Pos"], rel["Rel"], *rel["To"]) for block in blocks for e in block for rel in e["Rels"]
        }

    assert pairs(name + "_again") == pairs(name)


def _write(path: Path, header: list[str], rows: list[list[object]]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def _stored(brain: Brain, instance: str) -> dict[tuple[int, ...], dict[str, Any]]:
    blocks = brain.all_elements(instance).values()
    return {tuple(element["Pos"]): element for block in blocks for element in block}


def test_neuclease_table(brain: Brain, tmp_path: Path) -> None:
    rows: list[list[object]] = [[5, 6, 7, "PreSyn", 0.9, "$fpl", 3, 4], [15, 6, 7, "PostSyn", 0.75, "", 3, 4]]
    table = _write(tmp_path / "neuclease.csv", ["x", "y", "z", "kind", "conf", "user", "body", "sv"], rows)
    done = brain.run(import_, "synapses", table, "--instance", "neuclease")
    assert "columns that were not used: sv" in done.output
    found = _stored(brain, "neuclease")
    assert found[(5, 6, 7)] == {
        "Pos": [5, 6, 7],
        "Kind": "PreSyn",
        "Tags": [],
        "Prop": {"conf": "0.9", "user": "$fpl"},
        "Rels": [],
    }
    assert found[(15, 6, 7)]["Prop"] == {"conf": "0.75"}


def test_points_with_ids_and_a_table_of_partners(brain: Brain, tmp_path: Path) -> None:
    points = _write(
        tmp_path / "points.csv",
        ["point_id", "z", "y", "x", "kind", "conf"],
        [[12, 7, 6, 15, "PostSyn", 0.5], [11, 7, 6, 5, "PreSyn", 0.9], [13, 7, 6, 25, "PostSyn", 0.6]],
    )
    partners = _write(tmp_path / "partners.csv", ["post_id", "pre_id"], [[12, 11], [13, 11]])
    brain.run(import_, "synapses", points, "--partners", partners, "--instance", "with_ids")
    found = _stored(brain, "with_ids")
    assert found[(5, 6, 7)]["Rels"] == [
        {"Rel": "PreSynTo", "To": [15, 6, 7]},
        {"Rel": "PreSynTo", "To": [25, 6, 7]},
    ]
    assert found[(25, 6, 7)]["Rels"] == [{"Rel": "PostSynTo", "To": [5, 6, 7]}]


def test_neuprint_tables(brain: Brain, tmp_path: Path) -> None:
    points = _write(
        tmp_path / "Neuprint_Synapses.csv",
        [":ID(Syn-ID)", "type:string", "confidence:float", "location:point{srid:9157}", ":Label", "EB:boolean"],
        [[1, "pre", 0.9, "{x:5, y:6, z:7}", "Synapse", ""], [2, "post", 0.5, "{x:15, y:6, z:7}", "Synapse", "true"]],
    )
    partners = _write(tmp_path / "connections.csv", [":START_ID(Syn-ID)", ":END_ID(Syn-ID)"], [[1, 2]])
    brain.run(import_, "synapses", points, "--partners", partners, "--instance", "neuprint")
    found = _stored(brain, "neuprint")
    assert found[(5, 6, 7)]["Kind"] == "PreSyn"
    assert found[(5, 6, 7)]["Rels"] == [{"Rel": "PreSynTo", "To": [15, 6, 7]}]
    assert found[(15, 6, 7)]["Prop"] == {"conf": "0.5"}


def test_pre_id_beside_each_density(brain: Brain, tmp_path: Path) -> None:
    header = ["id", "x", "y", "z", "type", "confidence", "pre_id"]
    rows: list[list[object]] = [["d", 1, 1, 1, "post", 0.5, "t"], ["t", 2, 2, 2, "pre", 0.9, ""]]
    brain.run(import_, "synapses", _write(tmp_path / "a.csv", header, rows), "--instance", "pre_ids")
    found = _stored(brain, "pre_ids")
    assert found[(2, 2, 2)]["Rels"] == [{"Rel": "PreSynTo", "To": [1, 1, 1]}]
    assert found[(1, 1, 1)]["Rels"] == [{"Rel": "PostSynTo", "To": [2, 2, 2]}]


@pytest.mark.parametrize(
    ("header", "last", "problem"),
    [
        ("x,y,z,kind", "1,2,zwei,PreSyn", "line 3: z is 'zwei', not a whole number"),
        ("x,y,z,kind", "1,2,,PreSyn", "line 3: z is missing"),
        ("x,y,z,kind", "1,2,3.5,PreSyn", "line 3: z is '3.5'"),
        ("x,y,z,kind", "1,2,99999999999,PreSyn", "line 3: z is 99999999999, which is no coordinate"),
        ("x,y,z,kind", "1,2,3,Synapse", "line 3: kind is 'Synapse'"),
        ("x,y,z,kind", "9,9,9,PreSyn", "line 3: a point at 9,9,9 is there already, from 2"),
        ("x,y,z,conf", "1,2,3,sure", "line 3: conf is 'sure', not a number"),
        ("x,y,z,tags", "1,2,3,[1]", "line 3: tags: 1 is not a text"),
        ("x,y,z,props", "1,2,3,x", "line 3: props is 'x', not JSON"),
        ("x,y,z,rels", "1,2,3,NextTo 1 2 3", "line 3: rels: .* is not like"),
        ("x,y,z,pre_id", "1,2,3,7", "line 3: pre_id without an id"),
        ("x_pre,y_pre,z_pre,x_post,y_post,z_post", "1,2,3,1,2,3", "line 3: both sides are at 1,2,3"),
        ("a,b", "1,2", "line 1: no columns x, y and z"),
        ("location", "here", "line 3: location is 'here'"),
    ],
)
def test_mistakes_are_named_and_change_nothing(
    brain: Brain, tmp_path: Path, header: str, last: str, problem: str
) -> None:
    first = {"x_pre": "9,9,9,8,8,8", "a,b": "1,2", "location": '"{x:1, y:2, z:3}"'}
    good = next((row for start, row in first.items() if header.startswith(start)), "9,9,9,")
    good = "9,9,9,PreSyn" if header.endswith("kind") else good
    path = tmp_path / "bad.csv"
    path.write_text(f"{header}\n{good}\n{last}\n")
    done = brain.run(import_, "synapses", path, "--instance", "never", status=2)
    assert done.exception is not None
    import re

    assert re.search(problem, str(done.exception)), str(done.exception)
    assert str(path) in str(done.exception)
    with LocalConnection(brain.folder) as connection:
        assert "never" not in connection.json("GET", f"/api/repo/{brain.root}/info")["DataInstances"]


def test_other_refusals(brain: Brain, tmp_path: Path) -> None:
    good = _write(tmp_path / "a.csv", ["x", "y", "z"], [[1, 2, 3]])
    ids = _write(tmp_path / "ids.csv", ["pre_id", "post_id"], [[1, 2]])
    for words, problem in (
        ((good, "--instance", "segmentation"), "is of type labelmap, not annotation"),
        ((good, "--instance", "never", "--follow", "nothing"), "no label map 'nothing'"),
        ((good, "--instance", "never", "--partners", ids), "ids.csv, line 2: there is no point with the id 1"),
        ((good, "--instance", "never", "--partners", good), "no columns pre_id and post_id"),
    ):
        done = brain.run(import_, "synapses", *words, status=2)
        assert problem in str(done.exception)
    for words, problem in (
        ((tmp_path / "b.csv", "--instance", "nothing"), "no instance 'nothing'"),
        ((tmp_path / "b.csv", "--instance", "segmentation"), "is of type labelmap"),
        ((tmp_path / "b.txt",), "tables end with"),
    ):
        done = brain.run(export, "synapses", *words, status=2)
        assert problem in str(done.exception)
    assert not (tmp_path / "b.csv").exists()


def test_dry_run_reads_all_and_changes_nothing(brain: Brain, tmp_path: Path) -> None:
    good = _write(tmp_path / "a.csv", ["x", "y", "z"], [[1, 2, 3], [4, 5, 6]])
    done = brain.run(import_, "synapses", good, "--instance", "never", "--dry-run")
    assert "2 elements from 2 rows would be stored" in done.output
    with LocalConnection(brain.folder) as connection:
        assert "never" not in connection.json("GET", f"/api/repo/{brain.root}/info")["DataInstances"]


def test_committed_versions_are_refused_before_reading(tmp_path: Path) -> None:
    with LocalConnection(tmp_path / "db") as connection:
        root = make_repo(connection, "old", "").root
        connection.json("POST", f"/api/node/{root}/commit", {"note": "done"})
    table = _write(tmp_path / "a.csv", ["x", "y", "z"], [[1, 2, 3]])
    words = ["synapses", str(table), "--data", str(tmp_path / "db"), "--uuid", root, "--quiet"]
    done = CliRunner().invoke(import_, words)
    assert "is committed" in str(done.exception)
