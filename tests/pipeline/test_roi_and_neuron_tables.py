"""Regions and notes on bodies into a version and back, exactly, and with mistakes named."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from fascicle.cli.export import export
from fascicle.cli.table_import import import_
from fascicle.errors import FascicleError
from fascicle.pipeline.ingest_connections import LocalConnection
from fascicle.pipeline.neuron_table import cell_of, value_of
from fascicle.pipeline.version_choice import make_repo

TEXTS = st.text(st.characters(exclude_categories=("Cs",)), max_size=8)
VALUES = st.recursive(
    st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=5,
)


LIKE_JSON = ("12", "-1", "1e5", "true", "null", "NaN", "Infinity", '"', "[", "{}", "", " 1", "007")


@given(VALUES | st.sampled_from(LIKE_JSON))
def test_cells_mean_what_they_were(value: Any) -> None:
    cell = cell_of(value)
    assert cell
    found = value_of(cell)
    assert found == value
    assert type(found) is type(value)


class Store:
    """A store with one open version."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with LocalConnection(folder) as connection:
            self.root = make_repo(connection, "brain", "").root

    def run(self, command: Any, *words: object, status: int = 0) -> Result:
        done = CliRunner().invoke(
            command, [*map(str, words), "--data", str(self.folder), "--uuid", self.root, "--quiet"]
        )
        failed = 2 if isinstance(done.exception, FascicleError) else done.exit_code
        assert failed == status, (done.output, done.exception)
        return done

    def asked(self, path: str) -> Any:
        with LocalConnection(self.folder) as connection:
            return connection.json("GET", f"/api/{path.replace('ROOT', self.root)}")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("tables") / "db")


# -- regions

REGIONS = {"AB(L)": [[0, 0, 1, 2], [0, 1, -3, 3], [7, -1, 5, 5]], "a'L(R)": [[2, 2, 2, 2]], "EMPTY": []}


@pytest.mark.parametrize("ending", ["csv", "json", "parquet", "json.gz"])
def test_regions_come_back(store: Store, tmp_path: Path, ending: str) -> None:
    source, table = tmp_path / "source.json", tmp_path / f"regions.{ending}"
    source.write_text(json.dumps(REGIONS))
    assert "3 regions with 4 runs" in store.run(import_, "rois", source).output
    assert store.asked("node/ROOT/EMPTY/roi") == []
    store.run(export, "rois", table)
    emptied = tmp_path / "other.json"
    emptied.write_text(json.dumps({"AB(L)": [[9, 9, 9, 9]], "a'L(R)": [[8, 8, 8, 8]]}))
    store.run(import_, "rois", emptied)
    store.run(import_, "rois", table)
    for name in ("AB(L)", "a'L(R)"):
        assert store.asked(f"node/ROOT/{name}/roi") == REGIONS[name]
        assert store.asked(f"node/ROOT/{name}/info")["Extended"]["BlockSize"] == [32, 32, 32]


def test_one_region(store: Store, tmp_path: Path) -> None:
    spans, rows = tmp_path / "spans.json", tmp_path / "rows.csv"
    spans.write_text("[[1,2,3,4]]")
    rows.write_text("x1,x0,y,z\n4,3,2,1\n")
    for table, name in ((spans, "one"), (rows, "two")):
        store.run(import_, "rois", table, "--instance", name, "--block-size", 64)
        assert store.asked(f"node/ROOT/{name}/roi") == [[1, 2, 3, 4]]
    copy = tmp_path / "copy.csv"
    store.run(export, "rois", copy, "--instance", "two")
    assert copy.read_text() == "roi,z,y,x0,x1\ntwo,1,2,3,4\n"
    done = store.run(import_, "rois", spans, "--instance", "one", status=2)
    assert "blocks of [64, 64, 64] voxels, not of 32" in str(done.exception)


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("a.csv", "roi,z,y,x0,x1\nEB,0,0,0,1\nEB,0,0,5,4\n", "a.csv, line 3: x1 is 4, which is below x0, 5"),
        ("a.csv", "roi,z,y,x0,x1\nEB,0,0,a,1\n", "a.csv, line 2: x0 is 'a', not a whole number"),
        ("a.csv", "z,y,x0,x1\n0,0,0,1\n", "a.csv, line 2: no region is named"),
        ("a.csv", "roi,z,y,x0\n", "a.csv, line 1: no column x1"),
        ("a.json", "[[0,0,0,1]]", "a.json is the list of one region"),
        ("a.json", '{"EB": [[0,0,1]]}', "a.json: EB: .0, 0, 1. is not a run"),
        ("a.json", '{"EB": [[0,0,1,"x"]]}', "a.json: EB: .*x1 is 'x'"),
        ("a.json", '{"EB": 3}', "a.json: EB must be a list"),
        ("a.json", '{"EB":\n oops}', "a.json, line 2: not JSON"),
        ("a.json", "3", "a.json must be an object"),
        ("a.json.gz", "[]", "a.json.gz cannot be read"),
    ],
)
def test_bad_regions_change_nothing(store: Store, tmp_path: Path, name: str, content: str, problem: str) -> None:
    path = tmp_path / name
    path.write_text(content)
    done = store.run(import_, "rois", path, status=2)
    assert re.search(problem, str(done.exception)), str(done.exception)
    assert "EB" not in store.asked("repo/ROOT/info")["DataInstances"]


def test_dry_runs_of_regions(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("roi,z,y,x0,x1\nEB,0,0,0,1\n")
    assert "1 regions with 1 runs would be stored" in store.run(import_, "rois", path, "--dry-run").output
    assert "EB" not in store.asked("repo/ROOT/info")["DataInstances"]
    store.run(export, "rois", tmp_path / "b.csv", "--dry-run")
    assert not (tmp_path / "b.csv").exists()


# -- notes on bodies

NEURONS: list[dict[str, Any]] = [
    {"bodyid": 5, "type": "KC", "instance": "KC_L", "group": 12, "position": [1, 2, 3], "score": 0.5},
    {"bodyid": (1 << 63) + 7, "type": "12", "synonyms": ["a,b", 'c"'], "group": 1 << 63, "traced": True},
    {"bodyid": 6, "type": "", "mixed": {"a": [1, None]}, "score": 3.0, "note": "zwei\nZeilen"},
    {"bodyid": 7, "mixed": "text", "group": -3},
]


def _by_body(values: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(values, key=lambda value: int(value["bodyid"]))


@pytest.mark.parametrize("ending", ["csv", "json", "parquet", "csv.gz"])
@pytest.mark.parametrize("history", [True, False])
def test_bodies_come_back(store: Store, tmp_path: Path, ending: str, history: bool) -> None:
    source, table = tmp_path / "source.json", tmp_path / f"neurons.{ending}"
    source.write_text(json.dumps(NEURONS))
    name = f"notes_{ending.replace('.', '_')}_{history}"
    assert "4 bodies" in store.run(import_, "neuronjson", source, "--instance", name, "--user", "ann").output
    store.run(export, "neuronjson", table, "--instance", name, *(["--history"] if history else []))
    store.run(import_, "neuronjson", table, "--instance", name + "_again", "--user", "bob")
    query = "?show=all" if history else ""
    first = _by_body(store.asked(f"node/ROOT/{name}/all{query}"))
    again = _by_body(store.asked(f"node/ROOT/{name}_again/all{query}"))
    assert json.dumps(again) == json.dumps(first)
    if not history:
        assert again == _by_body(NEURONS)


def test_foreign_table_of_bodies(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "traced.csv"
    path.write_text("bodyId,instance,type,status\n9,DL5,007,Traced\n10,,KC,\n")
    store.run(import_, "neuronjson", path, "--instance", "foreign", "--text", "type", "--user", "ann")
    assert store.asked("node/ROOT/foreign/all") == [
        {"bodyid": 9, "instance": "DL5", "status": "Traced", "type": "007"},
        {"bodyid": 10, "type": "KC"},
    ]
    path.write_text("body,status\n9,Anchor\n")
    store.run(import_, "neuronjson", path, "--instance", "foreign", "--user", "bob")
    assert store.asked("node/ROOT/foreign/key/9?show=user") == {
        "bodyid": 9,
        "instance": "DL5",
        "instance_user": "ann",
        "status": "Anchor",
        "status_user": "bob",
        "type": "007",
        "type_user": "ann",
    }
    store.run(import_, "neuronjson", path, "--instance", "foreign", "--user", "bob", "--replace")
    assert store.asked("node/ROOT/foreign/key/9") == {"bodyid": 9, "status": "Anchor"}


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("bodyid,type\n1,a\nx,b\n", "line 3: bodyid is 'x', not a number of a body"),
        ("bodyid,type\n0,a\n", "line 2: bodyid is 0"),
        ("bodyid,type\n,a\n", "line 2: bodyid is missing"),
        ("type\na\n", "line 1: no column bodyid"),
        ("bodyid\n1\n2\n1\n", "body 1 comes 2 times"),
    ],
)
def test_bad_bodies_change_nothing(store: Store, tmp_path: Path, content: str, problem: str) -> None:
    path = tmp_path / "a.csv"
    path.write_text(content)
    done = store.run(import_, "neuronjson", path, "--instance", "never", status=2)
    assert problem in str(done.exception)
    assert str(path) in str(done.exception)
    assert "never" not in store.asked("repo/ROOT/info")["DataInstances"]


def test_dry_runs_of_bodies(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('[{"bodyid": 3}]')
    done = store.run(import_, "neuronjson", path, "--instance", "never", "--dry-run")
    assert "1 bodies would be stored" in done.output
    assert "never" not in store.asked("repo/ROOT/info")["DataInstances"]
